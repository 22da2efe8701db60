"""Sphinx extension: objectives in the teaching guide, and an index of words.

Each chapter states its objectives once, in the box *Before you read* at its head. The
guide takes them from there, so that the two cannot disagree. The index holds the words
of the book; the hundreds of names of the module have a page of their own.
"""

import re

GUIDE = "book/teaching"
MODULE = "book/api"
PLACEHOLDER = "% objectives"
BOX = re.compile(
    r"^```\{admonition\} Before you read\n:class: before\n(.*?)^```$", re.M | re.S
)
NEEDS = re.compile(r"^\*\*You need\*\* (.*?)\n\n", re.M | re.S)
ITEM = re.compile(r"^- (.*?)[;.](?=\n- |\n\n)", re.M | re.S)


def before(text):
    """Return what a chapter needs and its objectives, or None without one such box."""
    boxes = BOX.findall(text)
    needs = NEEDS.search(boxes[0]) if len(boxes) == 1 else None
    if needs is None:
        return None
    items = ITEM.findall(boxes[0])
    return " ".join(needs[1].split()), [" ".join(item.split()) for item in items]


def objectives(texts):
    """Return the part of the guide that lists the box of every chapter that has one.

    `texts` holds the sources by document name, such as ``notebooks/01_why``.
    """
    lines = []
    for name, text in texts.items():
        needs, items = before(text) or ("", [])
        if items:
            lines += [f"### {{doc}}`/{name}`", "", f"*Needs* {from_anywhere(needs)}"]
            lines += ["", *(f"- {from_anywhere(item)}" for item in items), ""]
    return "\n".join(lines)


def from_anywhere(text):
    """Return text with links between chapters such that they hold on any page."""
    return re.sub(r"(\{doc\}`(?:[^`<]*<)?)(\d\d_)", r"\1/notebooks/\2", text)


def substitute(app, docname, source):
    """Replace the placeholder in the guide by what `lipsmooth_book` has loaded."""
    if docname == GUIDE:
        texts = {name: prose(node) for name, node in app.lipsmooth_chapters.items()}
        source[0] = source[0].replace(PLACEHOLDER, objectives(texts))


def prose(node):
    """Return the text of a notebook without its code."""
    cells = [cell.source for cell in node.cells if cell.cell_type == "markdown"]
    return "\n\n".join([*cells, ""])


def index_words_only(app, env):
    """Leave the names of the module out of the index."""
    env.get_domain("index").entries.pop(MODULE, None)


def setup(app):
    """Connect the hooks."""
    app.connect("source-read", substitute)
    app.connect("env-updated", index_words_only)
    return {"parallel_read_safe": True}
