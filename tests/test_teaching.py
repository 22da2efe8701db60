"""The boxes at the heads of the chapters, the teaching guide, the glossary."""

import re
from types import SimpleNamespace

import nbformat
import pytest
from conftest import ROOT
from lipsmooth_course import (
    PLACEHOLDER,
    before,
    from_anywhere,
    index_words_only,
    objectives,
    substitute,
)

SOURCES = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.md"))
GUIDE = (ROOT / "book" / "teaching.md").read_text(encoding="utf-8")
GLOSSARY = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8")
NOTATION = (ROOT / "book" / "notation.md").read_text(encoding="utf-8")
# What can be seen to be done. "Understand" and "know" cannot.
VERBS = {
    "attack", "bound", "break", "certify", "check", "choose", "compare", "compute",
    "construct", "convert", "decide", "derive", "design", "detect", "estimate",
    "explain", "find", "judge", "measure", "name", "plan", "prove", "read", "recover",
    "restate", "run", "say", "show", "state", "take", "tell",
}  # fmt: skip

BOX = """\
# A chapter

```{admonition} Before you read
:class: before

**You need** {doc}`02_neyman_pearson` and
patience.

**Afterwards you can**

- prove a thing that takes
  two lines;
- explain it.

Unknown words are in the {doc}`glossary <../book/glossary>`.
```

```{code-cell} ipython3
```
"""

each_source = pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.stem)


@each_source
def test_every_chapter_says_what_it_needs_and_what_it_is_for(source):
    text = source.read_text(encoding="utf-8")
    found = before(text)
    assert found is not None, "one box 'Before you read' belongs at the head"
    needs, items = found
    assert needs.endswith(".")
    assert 3 <= len(items) <= 4
    assert {item.split()[0] for item in items} <= VERBS
    head = text[: text.index("```{code-cell}")]
    assert ":class: before" in head
    assert "{doc}`glossary <../book/glossary>`" in head
    assert "{doc}`notation <../book/notation>`" in head
    assert "Prerequisites:" not in head, "the box says it"


def test_a_box_is_read_and_its_absence_noticed():
    needs, items = before(BOX)
    assert needs == "{doc}`02_neyman_pearson` and patience."
    assert items == ["prove a thing that takes two lines", "explain it"]
    assert before(BOX.replace(":class: before", ":class: tip")) is None
    assert before(BOX + BOX) is None
    assert before(BOX.replace("**You need**", "You need")) is None


def test_the_guide_is_filled_from_the_notebooks_that_are_rendered():
    new = nbformat.v4
    head, _, _ = BOX.partition("```{code-cell}")
    cells = [new.new_markdown_cell(head), new.new_code_cell("- prove nothing")]
    chapters = {"notebooks/01_a": new.new_notebook(cells=cells)}
    app, page = SimpleNamespace(lipsmooth_chapters=chapters), [f"A\n\n{PLACEHOLDER}\n"]
    substitute(app, "book/teaching", page)
    assert "- prove a thing that takes two lines\n- explain it\n" in page[0]
    assert PLACEHOLDER not in page[0]
    assert "nothing" not in page[0]
    other = [PLACEHOLDER]
    substitute(app, "book/glossary", other)
    assert other == [PLACEHOLDER]


def test_the_guide_lists_the_objectives_of_the_chapters():
    texts = {f"notebooks/{s.stem}": s.read_text(encoding="utf-8") for s in SOURCES}
    told = objectives(texts)
    for name, text in texts.items():
        needs, items = before(text)
        assert f"### {{doc}}`/{name}`" in told
        assert f"*Needs* {from_anywhere(needs)}\n" in told
        assert all(f"- {from_anywhere(item)}\n" in told for item in items)
    assert not re.search(r"\{doc\}`(?:[^`<]*<)?\d\d_", told), "a link that breaks there"
    assert "explain it" not in told
    assert "explain it" in objectives({"notebooks/01_a": BOX})
    assert GUIDE.count(PLACEHOLDER) == 1


def minutes(table):
    return [int(m) for m in re.findall(r"^\| (\d+) \|", table, re.M)]


@pytest.mark.parametrize(("plan", "count"), [("Six sessions", 6), ("Two sessions", 2)])
def test_the_sessions_last_ninety_minutes(plan, count):
    sessions = GUIDE.split(f"## {plan}")[1].split("\n## ")[0].split("\n### ")[1:]
    assert [sum(minutes(session)) for session in sessions] == [90] * count


def test_the_points_of_each_question_add_up():
    rows = GUIDE.split(":class: assessment")[1].split("```")[0].split("\n* - ")[2:]
    assert len(rows) == 6
    for row in rows:
        answer, points = row.split("\n  - ")[1:]
        assert sum(map(int, re.findall(r"\((\d)\)", answer))) == int(points)


def entries():
    """Return the text of each entry of the glossary by its first term."""
    body = GLOSSARY.split("```{glossary}\n:sorted:\n\n")[1].rsplit("```", 1)[0]
    blocks = [block.split("\n  ") for block in body.strip().split("\n\n")]
    return {term: " ".join(text) for term, *text in blocks}


def test_the_glossary_explains_and_leads_to_the_book():
    told = entries()
    assert len(told) >= 60
    for term, text in told.items():
        assert 20 < len(text) < 420, term
        assert text.endswith("."), term
    linked = [
        t for t, text in told.items() if re.search(r"\{(doc|prf:ref|term)\}", text)
    ]
    assert len(linked) >= 0.85 * len(told)


def test_the_index_is_one_of_words():
    entries = {"book/api": ["radius_mono()"], "notebooks/01_why": ["certificate"]}
    env = SimpleNamespace(get_domain=lambda name: SimpleNamespace(entries=entries))
    index_words_only(None, env)
    assert list(entries) == ["notebooks/01_why"]
    index_words_only(None, env)
    marked = [s.stem for s in SOURCES if "```{index} " in s.read_text(encoding="utf-8")]
    assert len(marked) >= 16


def names_in_code():
    rows = [line for line in NOTATION.splitlines() if line.startswith("| $")]
    cells = [row.replace("\\|", "").split(" | ")[2:3] for row in rows]
    return {n for cell in cells for n in re.findall(r"`([\w.]+)`", "".join(cell))}


def test_the_names_of_the_notation_are_those_of_the_module():
    module = "\n".join(p.read_text() for p in (ROOT / "lipsmooth").glob("*.py"))
    own = {name for name in names_in_code() if not name.startswith("scipy")}
    assert len(own) > 20
    assert {name for name in own if not re.search(rf"\b{name}\b", module)} == set()
    assert not re.search(r"\bradius_of_nobody\b", module)
