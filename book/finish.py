"""Finish the rendered pages: lighter, open to every reader, complete when passed on.

Sphinx and the theme write pages for a web server and a fast line. Here they lose what
they load without need, get the marks that assistive technology needs and the theme
leaves out, a description that can be shared, and the notebooks with their outputs.
"""

import os
import re
import subprocess
from collections import Counter
from pathlib import Path, PurePosixPath

import nbformat
import yaml
from bs4 import BeautifulSoup

CARD = "_static/card.png"
CARD_TEXT = "From noise to a certificate: add noise, count votes, certify a ball"
# Icons come from the theme's font; search is needed where one searches.
NEEDLESS = ["fontawesome.js"]
SEARCHING = ["searchtools.js", "language_data.js", "searchindex.js"]
DESIGN = ["sphinx-design.min.css", "design-tabs.js"]
PER_CENT = re.compile(r"(^|\d) %")  # a number of its own element may stand before
HOSTS = re.compile(
    r"(?:https://|ssh://git@|git@)(github\.com|gitlab\.com)[:/]"
    r"([\w.-]+/[\w.-]+?)(?:\.git)?/?"
)


def reading_order(root):
    """Return [(caption of the part, [page without suffix, …]), …] of `_toc.yml`."""
    toc = yaml.safe_load((Path(root) / "_toc.yml").read_text())
    parts = [("", [toc["root"]])]
    for part in toc["parts"]:
        files = [PurePosixPath(chapter["file"]) for chapter in part["chapters"]]
        names = [f.with_suffix("") if f.suffix == ".ipynb" else f for f in files]
        parts.append((part["caption"], [str(name) for name in names]))
    return parts


def html_pages(folder):
    """Return the pages of a built book, without the theme's own fragments."""
    paths = sorted(folder.rglob("*.html"))
    return [p for p in paths if "_static" not in p.relative_to(folder).parts]


def parse(path):
    """Return a page as a tree."""
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def finish(folder, site=""):
    """Finish every page of a built book and drop the files that none needs."""
    for path in html_pages(folder):
        soup = parse(path)
        if soup.find("main"):
            upward = "../" * (len(path.relative_to(folder).parts) - 1)
            lighten(soup, searches=path.name == "search.html")
            mark_up(soup)
            bind(soup)
            share(soup, site or upward)
            path.write_text(str(soup), encoding="utf-8")
    for pattern in ("*.map", "fontawesome.js*"):
        for path in (folder / "_static").rglob(pattern):
            path.unlink()


def lighten(soup, searches=False):
    """Take out the scripts and styles that a page loads and does not use."""
    needless = [*NEEDLESS, *([] if searches else SEARCHING)]
    if not soup.select_one("[class^=sd-], [class*=' sd-']"):
        needless += DESIGN
    for tag in soup.select("script[src], link[rel=stylesheet]"):
        address = tag.get("src") or tag.get("href")
        if address.split("?")[0].rpartition("/")[2] in needless:
            tag.decompose()
    for tag in soup.select(
        "#ethical-ad-placement, meta[name=viewport] ~ [name=viewport]"
    ):
        tag.decompose()


def mark_up(soup):
    """Add the marks that assistive technology needs and take away wrong ones."""
    for logo in soup.select(".sidebar-primary-item:has(.navbar-brand)"):
        logo["role"], logo["aria-label"] = "region", "Title of the book"
    for head in soup.select("table th"):
        in_head = head.find_parent("thead")
        if in_head and not head.get_text(strip=True) and not head.find("img"):
            head.name = "td"  # a corner heads nothing
        else:
            head["scope"] = "col" if in_head else "row"
    known = Counter()
    for tag in soup.find_all(id=True):
        known[tag["id"]] += 1
        if known[tag["id"]] > 1:
            del tag["id"]  # links lead to the first of that name all the same
    # Roles that docutils writes and the standard has given up.
    for entry in soup.select("[role=doc-biblioentry], .citation-list[role=list]"):
        del entry["role"]


def bind(soup):
    """Keep numbers and their per cent signs on one line, but for code."""
    for text in soup.find_all(string=PER_CENT):
        if not text.find_parent(["pre", "code", "script", "style"]):
            text.replace_with(PER_CENT.sub("\\1\N{NO-BREAK SPACE}%", text))


def share(soup, root):
    """Complete what a page says of itself when its address is passed on."""
    for tag in soup.select('meta[property="og:url"]'):
        if not tag["content"].startswith("http"):
            tag.decompose()  # without a site an address would be a guess
    title = soup.title.get_text().split(" — ")[0].strip()
    if not soup.find("meta", attrs={"name": "description"}):
        text = f"{title}: a page of a book that computes every number it shows."
        soup.head.append(soup.new_tag("meta", attrs={"name": "description"}))
        soup.head.find("meta", attrs={"name": "description"})["content"] = text
    described = soup.find("meta", attrs={"name": "description"})["content"]
    wanted = {
        "og:title": title,
        "og:description": described,
        "og:image": root + CARD,
        "og:image:alt": CARD_TEXT,
    }
    for name, content in wanted.items():
        if not soup.find("meta", property=name):
            attributes = {"property": name, "content": content}
            soup.head.append(soup.new_tag("meta", attrs=attributes))


def put_outputs(folder, chapters):
    """Put the executed notebooks where the pages' download buttons point."""
    for docname, executed in chapters.items():
        path = folder / "_sources" / f"{docname}.ipynb"
        if path.exists():
            path.write_text(nbformat.writes(executed) + "\n", encoding="utf-8")


def repository(root):
    """Return the public address of the checkout's origin, or None if it has none.

    `LIPSMOOTH_REPOSITORY` goes before what git says. Launch buttons need an address
    that Colab and Binder can reach; where there is none the pages have no buttons.
    """
    named = os.environ.get("LIPSMOOTH_REPOSITORY")
    if named is None:
        git = ["git", "-C", str(root), "remote", "get-url", "origin"]
        named = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    found = HOSTS.fullmatch(named)
    return f"https://{found[1]}/{found[2]}" if found else None
