"""Look at every page of a built book, as a file and in a browser, for faults."""

import re
from collections import Counter
from urllib.parse import unquote, urlsplit

from browse import (
    Visit,
    access_faults,
    keyboard_faults,
    reading_faults,
    weight_faults,
)
from finish import html_pages, parse
from tqdm import tqdm


def file_faults(folder):
    """Return what is wrong with the pages as files."""
    soups = {path: parse(path) for path in html_pages(folder)}
    faults = [f"broken link: {link}" for link in broken_links(soups)]
    faults += [f"loaded from elsewhere: {item}" for item in foreign_resources(soups)]
    faults += [f"loaded from elsewhere: {item}" for item in foreign_styles(folder)]
    for path, soup in soups.items():
        if not forwards(path):
            faults += [f"{path.name}: {fault}" for fault in page_faults(path, soup)]
    return faults


def page_faults(path, soup):
    """Return what one page lacks or has twice."""
    faults = [
        f"no alternative text: {image.get('src')}"
        for image in soup.select("article img, .slides img")
        if len(image.get("alt", "")) < 10 or re.match(r"\.\./|_images", image["alt"])
    ]
    ids = Counter(tag["id"] for tag in soup.find_all(id=True))
    faults += [f"the id {name} twice" for name, n in ids.items() if n > 1]
    if soup.find(id="main-content"):
        faults += [f"no {name}" for name in lacking(soup, path)]
    return faults


def lacking(soup, path):
    """Return what a page does not say of itself to whoever passes its address on."""
    said = {
        tag.get("property") or tag.get("name"): tag["content"]
        for tag in soup.select("meta[content]")
    }
    wanted = ["description", "og:title", "og:description", "og:image", "og:image:alt"]
    missing = [name for name in wanted if not said.get(name)]
    image = said.get("og:image", "")
    if image and not urlsplit(image).scheme and not (path.parent / image).exists():
        missing.append(f"file {image}")
    return missing


def references(soup):
    """Yield every address that a page refers to."""
    for tag in soup.find_all(True):
        for attribute in ("href", "src"):
            if tag.get(attribute):
                yield tag[attribute]


def broken_links(soups):
    """Return 'page: address' for every local file or anchor that is not there."""
    anchors = {
        path.resolve(): {tag["id"] for tag in soup.find_all(id=True)}
        for path, soup in soups.items()
    }
    broken = []
    for path, soup in soups.items():
        for reference in references(soup):
            url = urlsplit(reference)
            if url.scheme:
                continue
            target = (path.parent / unquote(url.path) if url.path else path).resolve()
            known = anchors.get(target, set())
            wanted = unquote(url.fragment)
            if not target.exists() or (wanted and wanted not in known):
                broken.append(f"{path.name}: {reference}")
    return broken


def foreign_resources(soups):
    """Return everything that the pages would load from elsewhere."""
    found = []
    for soup in soups.values():
        loaded = soup.select("script[src], img[src], iframe[src], source[src]")
        loaded += soup.select("link[rel=stylesheet], link[rel=preload], link[rel=icon]")
        addresses = [tag.get("src") or tag.get("href") for tag in loaded]
        found += [a for a in addresses if re.match(r"(https?:)?//", a)]
        found += [s.string for s in soup.find_all("script") if _names_a_host(s)]
    return found


def foreign_styles(folder):
    """Return everything that the styles would load from elsewhere."""
    found = []
    for path in folder.rglob("*.css"):
        found += re.findall(r"(?:url\(|@import )['\"]?(?:https?:)?//[^)]*", _text(path))
    return found


def _names_a_host(script):
    return "https://" in (script.string or "")


def _text(path):
    return path.read_text(encoding="utf-8", errors="replace")


def forwards(path):
    """Return whether a page only leads to another."""
    return 'http-equiv="Refresh"' in path.read_text(encoding="utf-8")[:500]


def browser_faults(browser, path):
    """Return what is wrong with one page as a reader's browser shows it."""
    soup = parse(path)
    with Visit(browser, path) as visit:
        if soup.select_one(".reveal"):
            return deck_faults(visit)
        faults = reading_faults(visit, soup) + weight_faults(visit)
        visit.resize(1440)
        return faults + keyboard_faults(visit) + access_faults(visit)


def deck_faults(visit):
    """Return what is wrong with a deck: its slides must fit, and the keys turn them."""
    faults = [f"{visit.name}: {error}" for error in [*visit.errors, *visit.foreign()]]
    faults += weight_faults(visit)
    page = visit.page
    page.set_viewport_size({"width": 1280, "height": 720})
    page.wait_for_function("window.Reveal && Reveal.isReady()")
    for number in range(page.evaluate("Reveal.getTotalSlides()")):
        here = f"{visit.name}, slide {number + 1}"
        state = page.evaluate(SLIDE)
        if state["number"] != number:
            return [*faults, f"{here}: the arrow key does not lead here"]
        if state["over"] > 0:
            faults.append(f"{here} is larger than its frame by {state['over']} px")
        faults += [f"{here}: {image} is not shown" for image in state["unshown"]]
        faults += [f"{here}: a formula with an error"] * state["wrong"]
        page.keyboard.press("ArrowRight")
    page.evaluate("Reveal.slide(0)")
    return faults + access_faults(visit)


SLIDE = """() => {
  const slide = Reveal.getCurrentSlide(), body = slide.querySelector(".body");
  const images = [...slide.querySelectorAll("img")];
  return {
    number: Reveal.getIndices().h,
    over: Math.max(body.scrollHeight - 720, body.scrollWidth - 1280, 0),
    unshown: images.filter(i => !(i.complete && i.naturalWidth)).map(i => i.src),
    wrong: slide.querySelectorAll("[data-mml-node=merror], mjx-merror").length,
  };
}"""


def check_book(browser, folder):
    """Return the faults of all pages of a built book."""
    faults = file_faults(folder)
    paths = [path for path in html_pages(folder) if not forwards(path)]
    for path in tqdm(paths, desc="pages", unit=""):
        faults += browser_faults(browser, path)
    return faults
