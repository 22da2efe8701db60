"""The PDF and the slides, made from pages of the rendered book."""

import re

import pypdfium2
import pytest
import yaml
from browse import Visit
from bs4 import BeautifulSoup
from check import deck_faults, foreign_resources, foreign_styles
from execution import BuildError
from finish import bind, lighten, mark_up, parse, reading_order, repository, share
from pdf import compose, make_pdf
from pypdfium2.raw import FPDF_PAGEOBJ_FORM, FPDF_PAGEOBJ_IMAGE
from slides import CHOICE, make_decks

pytestmark = pytest.mark.xdist_group("book")

CHAPTER = "notebooks/05_bonferroni"
POINT = 1 / 72  # inch
A4 = (210 / 25.4 / POINT, 297 / 25.4 / POINT)


# Finishing a page

PAGE = """<html><head><title>2. A title — A book</title>
<script src="_static/scripts/fontawesome.js?v=1"></script>
<script src="_static/searchtools.js"></script>
<script src="_static/keep.js"></script>
<meta name="description" content="What it says">
<meta property="og:url" content="a.html"></head><body>
<table><thead><tr><th></th><th>n</th></tr></thead>
<tbody><tr><th>first</th><td>1</td></tr></tbody></table>
<p id="twice"></p><p id="twice"></p></body></html>"""


def test_a_page_loads_only_what_it_uses():
    soup = BeautifulSoup(PAGE, "html.parser")
    lighten(soup)
    assert [tag["src"] for tag in soup.select("script")] == ["_static/keep.js"]
    soup = BeautifulSoup(PAGE, "html.parser")
    lighten(soup, searches=True)
    assert len(soup.select("script")) == 2


def test_tables_get_headings_and_ids_become_unique():
    soup = BeautifulSoup(PAGE, "html.parser")
    mark_up(soup)
    assert [(h.get_text(), h["scope"]) for h in soup.select("th")] == [
        ("n", "col"),
        ("first", "row"),
    ]
    assert len(soup.select("#twice")) == 1


def test_numbers_and_their_signs_stay_on_one_line():
    text = "<p>5 % of <span>98</span> %, a % b</p><pre>5 % 3</pre><code>7 % 2</code>"
    soup = BeautifulSoup(text, "html.parser")
    bind(soup)
    bound = text.replace("5 % of", "5\xa0% of").replace("</span> %", "</span>\xa0%")
    assert str(soup) == bound


@pytest.mark.parametrize("root", ["../", "https://book.example/"])
def test_a_page_says_what_it_is_without_inventing_an_address(root):
    soup = BeautifulSoup(PAGE, "html.parser")
    share(soup, root)
    said = {tag.get("property"): tag["content"] for tag in soup.select("meta")}
    assert "og:url" not in said
    assert said["og:title"] == "2. A title"
    assert said["og:description"] == "What it says"
    assert said["og:image"] == f"{root}_static/card.png"


@pytest.mark.parametrize(
    ("origin", "address"),
    [
        ("https://github.com/a-b/c.d.git", "https://github.com/a-b/c.d"),
        ("git@gitlab.com:a/b.git", "https://gitlab.com/a/b"),
        ("/srv/books/here", None),
        ("https://intranet.example/a/b", None),
        ("", None),
    ],
)
def test_launch_buttons_lead_to_a_public_repository_or_nowhere(
    monkeypatch, tmp_path, origin, address
):
    monkeypatch.setenv("LIPSMOOTH_REPOSITORY", origin)
    assert repository(tmp_path) == address


# Slides


@pytest.fixture(scope="session")
def decks(smoke_book):
    return sorted((smoke_book.html_dir / "slides").glob("[!i]*.html"))


def test_every_part_with_chapters_has_a_deck(smoke_book, decks):
    parts = reading_order(smoke_book.root)
    taught = [c for c, names in parts if any("notebooks/" in name for name in names)]
    assert len(decks) == len(taught) > 3
    titles = {parse(path).find("h1").get_text() for path in decks}
    assert titles == set(taught)


def test_the_choice_names_chapters_of_the_book(smoke_book):
    chosen = yaml.safe_load(CHOICE.read_text())
    assert chosen.keys() <= {notebook.stem for notebook in smoke_book.notebooks()}


def test_slides_say_what_the_pages_say(smoke_book):
    """Every caption and statement of a slide stands, number by number, on its page."""
    path = smoke_book.html_dir / "slides" / "from-votes-to-certificates.html"
    slides = parse(path).select("figcaption p, .admonition > div > p")
    pages = "".join(
        parse(page).find("article").get_text()
        for page in (smoke_book.html_dir / "notebooks").glob("*.html")
    )
    assert len(slides) > 30
    for slide in slides:
        assert slide.get_text().strip() in pages


def test_decks_load_nothing_from_elsewhere_and_miss_nothing(smoke_book, decks):
    soups = {path: parse(path) for path in decks}
    assert foreign_resources(soups) == []
    assert foreign_styles(smoke_book.html_dir / "slides") == []
    images = [(path, i["src"]) for path in decks for i in soups[path].select("img")]
    assert all((path.parent / source).exists() for path, source in images)
    assert len(images) > 30


SOURCE = """<main id="main-content"><article><section id="t"><h1>A title</h1>
<p>A question?</p><figure id="fig-a"><img alt="A dot on white" src="a.gif">
<figcaption><p>Fig. 1 It is a dot.</p></figcaption></figure>
<div class="proof theorem admonition" id="thm-a"><p class="admonition-title">T 1</p>
<section id="proof-content"><p>It holds.</p></section></div></section></article>
</main>"""


@pytest.fixture
def little_book(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_a.html").write_text(SOURCE)
    return tmp_path, [("A part", ["notebooks/01_a"])]


def test_a_chapter_without_a_choice_shows_everything(little_book):
    (deck,) = make_decks(*little_book, choice={})
    titles = [s.find(["h1", "h2"]).get_text() for s in parse(deck).select("section")]
    assert titles == ["A part", "A title", "A title", "T 1"]
    (deck,) = make_decks(*little_book, choice={"01_a": ["thm-a"]})
    titles = [s.find(["h1", "h2"]).get_text() for s in parse(deck).select("section")]
    assert titles == ["A part", "A title", "T 1"]


def test_a_slide_of_something_that_is_gone_stops_the_build(little_book):
    with pytest.raises(BuildError, match="01_a has no fig-gone"):
        make_decks(*little_book, choice={"01_a": ["fig-gone"]})


@pytest.mark.browser
def test_slides_fit_their_frame_and_the_keys_turn_them(smoke_book, browser):
    with Visit(browser, smoke_book.html_dir / "slides" / "the-guarantee.html") as visit:
        assert deck_faults(visit) == []


# The PDF


@pytest.fixture(scope="session")
def printed(smoke_book, browser, tmp_path_factory):
    parts = [("", ["book/index"]), ("A part", [CHAPTER])]
    output = tmp_path_factory.mktemp("pdf") / "two.pdf"
    make_pdf(browser, smoke_book.html_dir, parts, output, edition="Two chapters")
    with pypdfium2.PdfDocument(output) as document:
        yield document


@pytest.mark.browser
def test_the_pdf_has_the_text_and_no_unresolved_reference(printed, smoke_book):
    text = "\n".join(page.get_textpage().get_text_range() for page in printed)
    assert 10 < len(printed) < 40
    assert "Two chapters" in text
    assert "How this page was computed" in text  # folded on the screen
    assert "Solution to" in text or smoke_book.edition == "student"
    assert "Hide code cell source" not in text
    assert not re.search(r"\?\?|Unknown interpreted|undefined reference", text)


@pytest.mark.browser
def test_the_contents_of_the_pdf_name_the_right_pages(printed):
    contents = printed[1].get_textpage().get_text_range()
    lines = re.findall(r"^(\d+\.[\d.]* .+) (\d+)\r?$", contents, re.MULTILINE)
    assert len(lines) > 5
    for title, page in lines:
        assert title in printed[int(page) - 1].get_textpage().get_text_range()


@pytest.mark.browser
def test_the_bookmarks_of_the_pdf_lead_to_their_headings(printed):
    marks = list(printed.get_toc())
    assert {mark.level for mark in marks} == {0, 1, 2}
    parts = [mark.get_title() for mark in marks if mark.level == 0]
    assert "A part" in parts
    for mark in marks:
        page = printed[mark.get_dest().get_index()]
        text = page.get_textpage().get_text_range()
        # Print hyphenates, and sets the captions of parts in capitals.
        letters = [re.sub(r"[^a-z]", "", t.lower()) for t in (mark.get_title(), text)]
        assert letters[0] in letters[1]


@pytest.mark.browser
def test_nothing_in_the_pdf_leaves_its_page(printed):
    images = 0
    for page in printed:
        assert page.get_size() == pytest.approx(A4, abs=1)
        # Forms, one level down, hold what MathJax stretches beyond and clips.
        for item in page.get_objects(max_depth=1):
            if item.type == FPDF_PAGEOBJ_FORM:
                continue
            left, _, right, top = item.get_bounds()
            if item.type == FPDF_PAGEOBJ_IMAGE:
                images += 1
                assert right - left < A4[0] - 2 * 18 / 25.4 / POINT + 1
            assert left > -1
            assert right < A4[0] + 1
            assert top < A4[1] + 1
    assert images > 4


@pytest.mark.browser
def test_what_does_not_fit_a_page_stops_the_printing(little_book, browser):
    folder, parts = little_book
    page = folder / "notebooks" / "01_a.html"
    page.write_text(SOURCE.replace("A question?", "<img style='min-width:99em'>"))
    with pytest.raises(BuildError, match="wider than the printed page"):
        make_pdf(browser, folder, parts, folder / "pdf" / "a.pdf")


def test_a_reference_that_leads_nowhere_stops_the_printing(little_book):
    folder, parts = little_book
    (folder / "pdf").mkdir()
    assert compose(folder, parts, folder / "pdf").select("a[href]")
    page = folder / "notebooks" / "01_a.html"
    page.write_text(SOURCE.replace("A question?", '<a href="#gone">A question?</a>'))
    with pytest.raises(BuildError, match="unresolved references: #01_a--gone"):
        compose(folder, parts, folder / "pdf")
