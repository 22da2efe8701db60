"""The book as one PDF: its rendered pages in one document, printed by Chromium.

The pages are the ones of the book itself, so that every number, caption and reference
is the same; ids get the name of their page before them, links follow. Printing is done
twice, because the table of contents needs the page numbers of the first time.
"""

import os
import re
from ctypes import c_long, create_string_buffer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pypdfium2
import pypdfium2.raw as raw
from bs4 import BeautifulSoup
from execution import BuildError
from finish import parse
from pypdf import PdfWriter

# What a page shows for the screen alone.
SCREEN_ONLY = ".headerlink, .copybtn, script, button, details.above-input"
TITLE = "Lipschitz randomized smoothing"
SUBTITLE = "A reproducibility book"
# Inside the margins of book/_static/print.css, in CSS pixels.
COLUMN = round((210 - 2 * 18) / 25.4 * 96)
OUTLINE = "contents-part", "contents-chapter", "contents-section"
HEADINGS = ["h1", "h2", "h3", "h4", "h5", "h6"]


def make_pdf(browser, html_dir, parts, output, *, edition=""):
    """Print pages of a built book.

    Parameters
    ----------
    browser : playwright.sync_api.Browser
        As `browse.chromium` starts it.
    html_dir : Path
        The built book.
    parts : list of (str, list of str)
        As `finish.reading_order` returns them, or a selection.
    output : Path
        The PDF; beside it its HTML is kept.
    edition : str
        What the title page says below the title.

    Raises
    ------
    BuildError
        If a reference inside the PDF leads nowhere, or something does not fit its page.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    soup = compose(html_dir, parts, output.parent, edition)
    source = output.with_suffix(".html")
    source.write_text(str(soup), encoding="utf-8")
    print_pages(browser, source, output)
    number_contents(soup, output)
    source.write_text(str(soup), encoding="utf-8")
    print_pages(browser, source, output)
    add_bookmarks(soup, output)
    return output


def compose(html_dir, parts, folder, edition=""):
    """Return the document that is printed: title, contents, then every page."""
    names = [name for _, pages in parts for name in pages]
    soup = BeautifulSoup(FRAME, "html.parser")
    for link in soup.select("link, script[src]"):
        attribute = "href" if link.name == "link" else "src"
        link[attribute] = _relative(html_dir / link[attribute], folder)
    soup.find(id="edition").string = edition
    rules, contents = [], soup.find(id="contents")
    for number, (caption, pages) in enumerate(parts):
        if caption:
            # The caption stands over the first page of the part, not on one of its own.
            contents.append(_new(soup, "h3", caption, "contents-part"))
        for position, name in enumerate(pages):
            chapter = chapter_of(html_dir, name, names, folder)
            chapter["class"] = "chapter"
            if caption and not position:
                heading = _new(soup, "h1", caption, "part", id=f"part-{number}")
                chapter.insert(0, heading)
            soup.body.append(chapter)
            contents.append(contents_list(soup, chapter))
            title = chapter.find("h2").get_text().strip().replace('"', "”")
            style = f"chapter-{len(rules)}"
            chapter["style"] = f"page: {style}"
            rules.append(f'@page {style} {{ @top-left {{ content: "{title}" }} }}')
    soup.find("style").string = "\n".join(rules)
    known = {tag["id"] for tag in soup.find_all(id=True)}
    lost = [
        a["href"] for a in soup.select("a[href^='#']") if a["href"][1:] not in known
    ]
    if lost:
        raise BuildError(f"the PDF would have unresolved references: {', '.join(lost)}")
    return soup


def chapter_of(html_dir, name, names, folder):
    """Return the article of one page, made ready to stand beside others."""
    page = html_dir / f"{name}.html"
    article = parse(page).find("article")
    article.name = "section"
    for tag in article.select(SCREEN_ONLY):
        tag.decompose()
    for tag in article.find_all("noscript"):
        tag.unwrap()
    for tag in article.find_all("details"):
        tag["open"] = ""
    for tag in article.find_all(HEADINGS[:5]):
        tag.name = f"h{int(tag.name[1]) + 1}"  # below the part
    key = name.rpartition("/")[2]
    article["id"] = f"{key}--"
    for tag in article.find_all(id=True):
        tag["id"] = f"{key}--{tag['id']}"
    for tag in article.find_all("style"):
        tag.string = re.sub(r"#(T_\w+)", rf"#{key}--\1", tag.string or "")
    for image in article.select("img[src]"):
        image["src"] = _relative(page.parent / unquote(image["src"]), folder)
    for link in article.select("a[href]"):
        target = printed_target(html_dir, page, link["href"], names)
        if target:
            link["href"] = target
        else:
            link.name = "span"
            del link["href"]
    return article


def printed_target(html_dir, page, address, names):
    """Return the address of a link in print, or None if it leads to no page of it."""
    url = urlsplit(address)
    if url.scheme:
        return address
    target = (page.parent / unquote(url.path)).resolve() if url.path else page.resolve()
    name = target.with_suffix("").relative_to(html_dir.resolve()).as_posix()
    if target.suffix != ".html" or name not in names:
        return None
    return f"#{name.rpartition('/')[2]}--{unquote(url.fragment)}"


def contents_list(soup, chapter):
    """Return the lines of the table of contents for one chapter and its sections."""
    lines = soup.new_tag("ol")
    for heading in chapter.find_all(["h2", "h3"]):
        level = "contents-chapter" if heading.name == "h2" else "contents-section"
        section = heading.find_parent("section", id=True)
        line = soup.new_tag("li", attrs={"class": level})
        link = soup.new_tag("a", href=f"#{section['id']}")
        for child in heading.contents:
            link.append(BeautifulSoup(str(child), "html.parser"))
        line.append(link)
        line.append(soup.new_tag("span", attrs={"class": "contents-page"}))
        lines.append(line)
    return lines


def destinations(document):
    """Return the page of every id of a printed document that a link leads to."""
    found, size = {}, c_long()
    for number in range(raw.FPDF_CountNamedDests(document)):
        raw.FPDF_GetNamedDest(document, number, None, size)
        name = create_string_buffer(size.value)
        target = raw.FPDF_GetNamedDest(document, number, name, size)
        page = raw.FPDFDest_GetDestPageIndex(document, target) + 1
        found[name.raw.decode("utf-16-le").rstrip("\0")] = page
    return found


def number_contents(soup, printed):
    """Write the page numbers of a first printing into the table of contents."""
    with pypdfium2.PdfDocument(printed) as document:
        pages = destinations(document)
    for line in soup.select("#contents li"):
        target = line.find("a")["href"][1:]
        line.find(class_="contents-page").string = str(pages[target])


def add_bookmarks(soup, printed):
    """Give a printed document an outline of parts, chapters and sections."""
    with pypdfium2.PdfDocument(printed) as document:
        pages = destinations(document)
    writer, above = PdfWriter(clone_from=printed), [None]
    for line in soup.select("#contents .contents-part, #contents li"):
        depth = OUTLINE.index(line["class"][0])
        target = line.find("a") or line.find_next("a")
        text = (line if line.name == "h3" else target).get_text().strip()
        text = re.sub(r"\\[()]", "", text).replace(r"\sigma", "σ")  # formulas
        page = pages[target["href"][1:]] - 1
        del above[depth + 1 :]
        above += [above[-1]] * (depth + 1 - len(above))  # no part above a chapter
        item = writer.add_outline_item(
            title=text, page_number=page, parent=above[-1], is_open=depth < 1
        )
        above.append(item)
    writer.page_mode = "/UseOutlines"
    writer.add_metadata({"/Title": TITLE})
    writer.write(printed)


def print_pages(browser, source, output):
    """Print a document; raise `BuildError` if something reaches over the margin."""
    page = browser.new_page(viewport={"width": COLUMN, "height": 1000})
    page.set_default_timeout(600_000)
    page.emulate_media(media="print", color_scheme="light")
    page.goto(source.as_uri(), wait_until="load")
    page.evaluate("window.MathJax.startup?.promise")
    formulas = page.locator(".math").count() - page.locator("mjx-container").count()
    if formulas > 0:
        raise BuildError(f"{formulas} formulas of the PDF are not set")
    page.evaluate(FIT)
    wide = page.evaluate(TOO_WIDE)
    if wide:
        raise BuildError("wider than the printed page:\n" + "\n".join(wide))
    options = {"prefer_css_page_size": True, "print_background": True}
    # With an outline or tags, Chromium does not come to an end for the whole book.
    page.pdf(path=str(output), outline=False, tagged=False, **options)
    page.close()


def _relative(path, folder):
    return Path(os.path.relpath(path, folder)).as_posix()


def _new(soup, name, text, style, **attributes):
    tag = soup.new_tag(name, attrs={"class": style, **attributes})
    tag.string = text
    return tag


FRAME = f"""<!DOCTYPE html>
<html lang="en" data-theme="light">
<head>
<meta charset="utf-8"/>
<title>{TITLE}</title>
<link rel="stylesheet" href="_static/pygments.css"/>
<link rel="stylesheet" href="_static/print.css"/>
<style></style>
<script>window.MathJax = {{
  loader: {{ load: ["input/tex", "output/chtml", "a11y/assistive-mml"] }},
  options: {{ processHtmlClass: "math", ignoreHtmlClass: "mathjax_ignore" }}
}};</script>
<script defer src="_static/mathjax/startup.js"></script>
</head>
<body>
<header id="title"><p class="title">{TITLE}</p><p class="subtitle">{SUBTITLE}</p>
<p id="edition"></p></header>
<nav id="contents"><h2>Contents</h2></nav>
</body>
</html>
"""

# Formulas and tables that are wider than the column become smaller.
FIT = """() => {
  const column = document.body.clientWidth;
  for (const item of document.querySelectorAll("mjx-container, table")) {
    const box = item.parentElement.closest("td, th") ? null : item.parentElement;
    if (!box) continue;
    const room = Math.min(box.clientWidth || column, column);
    const width = Math.max(item.scrollWidth, item.getBoundingClientRect().width);
    const inner = item.querySelector("mjx-math")?.getBoundingClientRect().width ?? 0;
    const ratio = room / Math.max(width, inner);
    if (ratio < 1) item.style.zoom = Math.max(0.5, 0.99 * ratio);
  }
}"""

# What of the text, the figures and the formulas lies outside the column.
TOO_WIDE = """() => {
  const column = document.body.clientWidth, found = [];
  const items = "p, li, pre, img, svg, table, figure, mjx-math, h1, h2, h3, h4, td";
  for (const item of document.querySelectorAll(items)) {
    if (item.closest("mjx-assistive-mml")) continue;
    const box = item.getBoundingClientRect();
    if (box.width && (box.right > column + 1 || box.left < -1)) {
      const text = (item.textContent || item.src || "").trim().slice(0, 60);
      found.push(`${item.tagName} (${Math.round(box.right)} px of ${column}): ${text}`);
    }
  }
  return found.slice(0, 20);
}"""
