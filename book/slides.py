"""One deck of slides for each part, made from the rendered pages of its chapters.

A slide shows a figure with its caption, a theorem or an exercise exactly as its page
does, so that nothing on it is typed twice. `book/slides.yml` says which; a chapter
that it does not name shows all its figures and theorems.
"""

import copy
import os
import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from execution import BuildError
from finish import parse

HERE = Path(__file__).resolve().parent
CHOICE = HERE / "slides.yml"
ASSETS = HERE / "_slides"
# A proof has no title, and is not shown.
ALL = "figure[id], div.proof.admonition[id]:has(> .admonition-title)"


def slug(caption):
    """Return the name of a part as the name of a file."""
    return re.sub(r"[^a-z0-9]+", "-", caption.lower()).strip("-")


def make_decks(html_dir, parts, choice=None):
    """Write the decks of a built book into its folder `slides`; return their paths.

    Parameters
    ----------
    html_dir : Path
        The built and finished book.
    parts : list of (str, list of str)
        Captions and pages, as `finish.reading_order` returns them.
    choice : dict, optional
        {chapter: anchors in the order of the slides}; by default `slides.yml`.

    Raises
    ------
    BuildError
        If the choice names an anchor that its chapter has not.
    """
    choice = yaml.safe_load(CHOICE.read_text()) if choice is None else choice
    chapters = {
        caption: [name for name in pages if name.startswith("notebooks/")]
        for caption, pages in parts
    }
    folder = html_dir / "slides"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ASSETS, folder)
    decks = {}
    for caption, names in chapters.items():
        if names:
            slides = [opening(caption)]
            for name in names:
                stem = name.rpartition("/")[2]
                slides += chapter_slides(html_dir, name, choice.get(stem))
            path = folder / f"{slug(caption)}.html"
            path.write_text(deck(caption, slides), encoding="utf-8")
            decks[caption] = path
    (folder / "index.html").write_text(overview(decks), encoding="utf-8")
    return list(decks.values())


def chapter_slides(html_dir, name, anchors=None):
    """Return the slides of one chapter: its question, what was chosen, its claims."""
    path = html_dir / f"{name}.html"
    article = parse(path).find("article")
    for tag in article.select(".headerlink, script, style"):
        tag.decompose()
    for tag in article.select("a[href]"):
        tag["href"] = _from_slides(html_dir, path, tag["href"])
        tag["target"] = "_blank"
    for tag in article.select("img[src]"):
        tag["src"] = _from_slides(html_dir, path, tag["src"])
    if anchors is None:
        chosen = article.select(ALL)
    else:
        chosen = [article.find(id=anchor) for anchor in anchors]
        missing = [a for a, tag in zip(anchors, chosen, strict=True) if tag is None]
        if missing:
            raise BuildError(f"slides.yml: {name} has no {', '.join(missing)}")
    link = _from_slides(html_dir, path, path.name)
    slides = [question(article, link), *map(slide, chosen)]
    verdicts = [tag.get_text() for tag in article.select("table.claims .verdict")]
    return [*slides, closing(verdicts, link)] if verdicts else slides


def question(article, link):
    """Return a chapter's first slide: its title and how it opens."""
    title = _inner(article.find("h1"))
    first = article.find("h1").find_next_sibling("p")
    text = f'<p class="question">{_inner(first)}</p>' if first else ""
    more = f'<p class="more"><a href="{link}" target="_blank">The chapter</a></p>'
    return _section(f"<h1>{title}</h1>{text}{more}", "chapter")


def slide(tag):
    """Return the slide of one figure, theorem or exercise of a page."""
    heading = tag.find_parent("section").find(re.compile("^h[1-6]$"))
    body = copy.copy(tag)
    for element in [body, *body.find_all(id=True)]:
        del element["id"]  # a deck repeats none, and none is a target
    for element in body.find_all("section"):
        element.name = "div"  # a section within a slide would be a slide
    if "admonition" in tag.get("class", []):
        title = _inner(body.find(class_="admonition-title").extract())
        return _section(f"<h2>{title}</h2>{body}", "statement")
    return _section(f"<h2>{_inner(heading)}</h2>{body}", "picture")


def closing(verdicts, link):
    """Return a chapter's last slide: what became of the claims that it tested."""
    counts = "".join(
        f"<li><strong>{verdicts.count(verdict)}</strong> {verdict}</li>"
        for verdict in dict.fromkeys(verdicts)
    )
    link = (
        f'<a href="{link}#claims-checked-on-this-page" target="_blank">The claims</a>'
    )
    text = f"<h2>Claims checked by machine</h2><ul>{counts}</ul><p>{link}</p>"
    return _section(text, "text")


def opening(caption):
    """Return the first slide of a deck."""
    return _section(f"<h1>{caption}</h1><p>Lipschitz randomized smoothing</p>", "part")


def deck(caption, slides):
    """Return the document of one deck."""
    return FRAME.replace("CAPTION", caption).replace("SLIDES", "\n".join(slides))


def overview(decks):
    """Return the page that leads to all decks."""
    lines = "".join(
        f'<li><a href="{path.name}">{caption}</a></li>'
        for caption, path in decks.items()
    )
    return OVERVIEW.replace("LINES", lines)


def _section(text, style):
    return f'<section class="{style}"><div class="body">{text}</div></section>'


def _inner(tag):
    tag = copy.copy(tag)
    for element in tag.find_all(id=True):
        del element["id"]
    return tag.decode_contents().strip()


def _from_slides(html_dir, page, address):
    url = urlsplit(address)
    if url.scheme:
        return address
    target = page.parent / url.path if url.path else page
    relative = Path(os.path.relpath(target, html_dir / "slides")).as_posix()
    return f"{relative}#{url.fragment}" if url.fragment else relative


FRAME = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>CAPTION — slides — Lipschitz randomized smoothing</title>
<link rel="stylesheet" href="reveal/reset.css"/>
<link rel="stylesheet" href="reveal/reveal.css"/>
<link rel="stylesheet" href="slides.css"/>
<link rel="icon" href="../_static/favicon.svg"/>
<script>window.MathJax = {
  loader: { load: ["input/tex", "output/chtml", "a11y/assistive-mml"] },
  options: { processHtmlClass: "math", ignoreHtmlClass: "reveal" },
  startup: { pageReady: () => MathJax.startup.defaultPageReady().then(present) }
};</script>
<script src="reveal/reveal.js"></script>
<script src="slides.js"></script>
<script defer src="../_static/mathjax/startup.js"></script>
</head>
<body>
<main><div class="reveal" aria-label="CAPTION"><div class="slides">
SLIDES
</div></div></main>
</body>
</html>
"""

OVERVIEW = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>Slides — Lipschitz randomized smoothing</title>
<link rel="stylesheet" href="slides.css"/>
<link rel="icon" href="../_static/favicon.svg"/>
</head>
<body class="overview">
<main>
<h1>Slides</h1>
<p>One deck for each part of <a href="../book/index.html">the book</a>, made from its
pages. The arrow keys and the space bar turn slides, <kbd>O</kbd> shows all of them,
<kbd>?</kbd> the other keys.</p>
<ul>LINES</ul>
</main>
</body>
</html>
"""
