"""Sphinx extension: the learning objectives of all chapters, in the teaching guide.

Each chapter states them once, in the box *Before you read* at its head. The guide takes
them from there, so that the two cannot disagree.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from build import Book

GUIDE = "book/teaching"
PLACEHOLDER = "% objectives"
BOX = re.compile(
    r"^```\{admonition\} Before you read\n:class: before\n(.*?)^```$", re.M | re.S
)


def before(text):
    """Return what a chapter needs and its objectives, or None without such a box.

    Two strings come back: a paragraph of prerequisites, and a list of objectives.
    """
    boxes = BOX.findall(text)
    if len(boxes) != 1:
        return None
    needs = re.search(r"^\*\*You need\*\* (.*?)\n\n", boxes[0], re.M | re.S)
    items = re.findall(r"^- (.*?)(?=\n- |\n\n|\Z)", boxes[0], re.M | re.S)
    if not needs or not items:
        return None
    return " ".join(needs[1].split()), [" ".join(item.split()) for item in items]


def objectives(root, sources):
    """Return the section of the guide that lists every chapter's box."""
    lines = []
    for source in sources:
        found = before(source.read_text(encoding="utf-8"))
        if found is None:
            continue
        name = f"/{source.relative_to(root).with_suffix('').as_posix()}"
        needs, items = (_absolute(part) for part in found)
        lines += [f"### {{doc}}`{name}`", "", f"*Needs* {needs}", ""]
        lines += [*(f"- {item}" for item in items), ""]
    return "\n".join(lines)


def _absolute(part):
    """Return links between chapters such that they hold from any page."""
    if isinstance(part, list):
        return [_absolute(item) for item in part]
    return re.sub(r"(\{doc\}`(?:[^`<]*<)?)(\d\d_)", r"\1/notebooks/\2", part)


def substitute(app, docname, source):
    """Replace the placeholder in the guide by the objectives."""
    if docname == GUIDE:
        chapters = [notebook.source for notebook in Book(app.srcdir).notebooks()]
        told = objectives(Path(app.srcdir), chapters)
        source[0] = source[0].replace(PLACEHOLDER, told)


def setup(app):
    """Connect the hook."""
    app.connect("source-read", substitute)
    return {"parallel_read_safe": True}
