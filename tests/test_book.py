"""The built pages, as files and as a reader's browser shows them, without a network."""

import re
from itertools import pairwise

import nbformat
import pytest
from browse import (
    BUDGET,
    WIDTHS,
    Visit,
    access_faults,
    keyboard_faults,
    reading_faults,
    weight_faults,
)
from check import broken_links, file_faults, foreign_resources, foreign_styles
from finish import html_pages, parse, reading_order
from lipsmooth_book import CLAIMS, page, scorecard
from sphinx.errors import ExtensionError

pytestmark = pytest.mark.xdist_group("book")


@pytest.fixture(scope="session")
def pages(smoke_book):
    return {p: parse(p) for p in html_pages(smoke_book.html_dir)}


# What the extension makes of executed notebooks

CLAIM = {
    "name": "a-claim",
    "statement": "p_A * 2 is $1",
    "source": "cohen2019",
    "relation": ">=",
    "published": 1.0,
    "measured": 1.5,
    "tolerance": 0.0,
    "verdict": "reproduced",
    "note": "",
}


def executed(*claims):
    """Return an executed notebook of two cells that makes some claims."""
    new = nbformat.v4
    outputs = [
        new.new_output("display_data", {CLAIMS: list(claims), "text/html": "<p>"}),
        new.new_output(
            "display_data",
            {"application/papermill.record/text/plain": "np.float64(0.25)"},
            metadata={"scrapbook": {"name": "a"}},
        ),
    ]
    cells = [
        new.new_markdown_cell("# Title"),
        new.new_code_cell("n = 1", metadata={"tags": ["parameters"]}),
        new.new_code_cell("n = 2", metadata={"tags": ["injected-parameters"]}),
        new.new_code_cell("ledger", outputs=outputs),
    ]
    record = {"preset": "smoke", "parameters": {"n": 2}, "versions": {}}
    record |= {"started": "2026-01-02T03:04:05+00:00", "seconds": 1.0, "seed": 7}
    record |= {"device": "cpu", "commit": None}
    kernel = {"name": "python3", "display_name": "Python 3"}
    metadata = {"lipsmooth": record, "kernelspec": kernel}
    return new.new_notebook(cells=cells, metadata=metadata)


def test_a_page_shows_a_box_in_place_of_the_injected_parameters():
    shown = page("notebooks/01_a", executed(CLAIM))
    sources = [cell.source for cell in shown.cells]
    assert "`n = 2`" in sources.pop(2)
    assert sources == ["# Title", "n = 1", "ledger"]
    table, glued = shown.cells[-1].outputs
    assert set(table.data) == {"text/html"}
    assert list(glued.data.values()) == ["0.25"]


def test_the_scorecard_is_text_that_says_what_the_claim_says():
    text = scorecard({"notebooks/01_a": executed(CLAIM)})
    assert r"p\_A \* 2 is \$1</a>" in text
    assert 'href="../notebooks/01_a.html#claim-a-claim"' in text
    assert "{cite}`cohen2019`" in text
    assert "≥ 1" in text


def test_claims_of_the_same_name_stop_the_build():
    chapters = {"notebooks/01_a": executed(CLAIM), "notebooks/02_b": executed(CLAIM)}
    with pytest.raises(ExtensionError, match="same name: a-claim"):
        scorecard(chapters)


# As files


def test_the_files_of_the_book_have_no_fault(smoke_book):
    """Links, anchors, resources, alternative texts, ids and descriptions."""
    assert file_faults(smoke_book.html_dir) == []


@pytest.mark.parametrize(
    ("snippet", "check"),
    [
        ('<a href="nowhere.html">x</a>', broken_links),
        ('<a href="#nothing">x</a>', broken_links),
        ('<img src="gone.png">', broken_links),
        ('<script src="https://cdn.example/x.js"></script>', foreign_resources),
        ('<link rel="stylesheet" href="//cdn.example/x.css">', foreign_resources),
    ],
)
def test_a_bad_reference_would_be_found(tmp_path, snippet, check):
    page = tmp_path / "page.html"
    page.write_text('<p id="here"><a href="page.html#here">fine</a></p>')
    assert check({page: parse(page)}) == []
    page.write_text(snippet)
    assert len(check({page: parse(page)})) == 1


def test_a_style_from_elsewhere_would_be_found(tmp_path):
    (tmp_path / "a.css").write_text("@import 'b.css'; i { background: url(c.png); }")
    assert foreign_styles(tmp_path) == []
    (tmp_path / "a.css").write_text("i { background: url(//cdn.example/c.png); }")
    assert len(foreign_styles(tmp_path)) == 1


@pytest.mark.parametrize(
    ("snippet", "fault"),
    [
        ('<article><img src="a.png" alt="../_images/a.png"></article>', "alternative"),
        ("<p id=x></p><p id=x></p>", "the id x twice"),
        ('<main id="main-content"></main>', "no og:image"),
    ],
)
def test_a_page_that_lacks_something_would_be_found(tmp_path, snippet, fault):
    (tmp_path / "a.png").touch()
    (tmp_path / "page.html").write_text(snippet)
    assert any(fault in found for found in file_faults(tmp_path))


def test_every_chapter_says_how_it_was_computed(smoke_book, pages):
    for notebook in smoke_book.notebooks():
        path = smoke_book.html_dir / "notebooks" / f"{notebook.stem}.html"
        soup = pages[path]
        (box,) = soup.select(".admonition.computed")
        text = box.get_text()
        assert "smoke" in text
        assert "alpha = " in text
        assert "torch" in text
        for fact in ("seed", "UTC", "Commit"):
            assert fact in text
        outputs, source = box.select(f'a[href$="{notebook.stem}.ipynb"]')
        assert has_outputs(path.parent / outputs["href"])
        assert not has_outputs(path.parent / source["href"])
        top = soup.select_one(".dropdown-download-buttons a")
        assert (path.parent / top["href"]).samefile(path.parent / outputs["href"])
        assert "# Parameters\n" not in soup.get_text(), "papermill's own cell is shown"


def has_outputs(path):
    cells = nbformat.read(path, as_version=4).cells
    return any(cell.get("outputs") for cell in cells)


def test_previous_and_next_follow_the_table_of_contents(smoke_book, pages):
    """The argument goes from chapter to chapter, and neither way skips one."""
    order = [name for _, names in reading_order(smoke_book.root) for name in names]
    order.remove("genindex")  # Sphinx writes it, and gives it neither
    for here, there in pairwise(order):
        before, after = (smoke_book.html_dir / f"{n}.html" for n in (here, there))
        forth = pages[before].select_one("a.right-next")["href"]
        back = pages[after].select_one("a.left-prev")["href"]
        assert (before.parent / forth).resolve() == after.resolve()
        assert (after.parent / back).resolve() == before.resolve()


def all_claims(book):
    """Return (notebook, claim) for every claim in the executed notebooks."""
    return [
        (notebook, claim)
        for notebook in book.notebooks()
        for cell in nbformat.read(book.executed_path(notebook), as_version=4).cells
        for output in cell.get("outputs", [])
        for claim in output.get("data", {}).get(CLAIMS, [])
    ]


def test_the_scorecard_lists_every_claim_with_a_link(smoke_book, pages):
    claims = all_claims(smoke_book)
    assert {notebook.stem for notebook, _ in claims} == {
        notebook.stem for notebook in smoke_book.notebooks()
    }
    soup = pages[smoke_book.html_dir / "book" / "scorecard.html"]
    links = {link["href"]: link for link in soup.select("table.claims a")}
    for notebook, claim in claims:
        href = f"../notebooks/{notebook.stem}.html#claim-{claim['name']}"
        row = links[href].find_parent("tr")
        assert squeeze(claim["statement"]) in squeeze(links[href].get_text())
        assert row.select_one(".verdict").get_text() == claim["verdict"]
        assert squeeze(claim["note"]) in squeeze(row.get_text())


def test_the_scorecard_counts_verdicts(smoke_book, pages):
    verdicts = [claim["verdict"] for _, claim in all_claims(smoke_book)]
    soup = pages[smoke_book.html_dir / "book" / "scorecard.html"]
    header, *_, last = soup.select("table.claim-counts tr")
    names = [cell.get_text().strip() for cell in header.select("th")][1:]
    counts = [int(cell.get_text()) for cell in last.select("td")[1:]]
    assert dict(zip(names, counts, strict=True)) == {
        name: verdicts.count(name) for name in names
    }
    assert sum(counts) == len(verdicts) > 0


def squeeze(text):
    """Return text without what typography changes: white space, quotes, dashes."""
    return re.sub(r"[^\w.,=<>≤≥]", "", text)


# In a browser


# All the others are looked at by `make check-book`.
SOME = ["book/index.html", "notebooks/13_denoising.html", "book/references.html"]


@pytest.mark.browser
@pytest.mark.parametrize("name", [*SOME, "notebooks/05_bonferroni.html", "search.html"])
def test_pages_read_well(smoke_book, pages, browser, name):
    path = smoke_book.html_dir / name
    with Visit(browser, path) as visit:
        assert reading_faults(visit, pages[path]) + weight_faults(visit) == []


@pytest.mark.browser
@pytest.mark.parametrize("name", SOME)
def test_pages_are_open_to_every_reader(smoke_book, browser, name):
    with Visit(browser, smoke_book.html_dir / name) as visit:
        assert keyboard_faults(visit) + access_faults(visit) == []


ACCESSIBLE = """<!doctype html><html lang="en"><head><title>A page</title></head><body>
<main><h1>A heading</h1><p><a href="#a">One</a> <a href="#b">Two</a></p>%s</main>"""


@pytest.mark.browser
@pytest.mark.parametrize(
    ("snippet", "fault"),
    [
        ("<p style='color: #999'>pale</p>", "color-contrast"),
        ("<img src='data:image/gif;base64,R0lGODlhAQABAAAAACw='>", "image-alt"),
        ("<details><p style='color: #999'>pale</p></details>", "color-contrast"),
        ("<input>", "label"),
        (
            "<div class=highlight><pre><span class=k>if</span> <span class=n"
            " style='color: #999'>radius</span> <span class=k>else</span></pre></div>",
            "color-contrast",
        ),
    ],
)
def test_a_page_that_shuts_readers_out_would_be_noticed(
    tmp_path, browser, snippet, fault
):
    path = tmp_path / "page.html"
    for body, wanted in (("", set()), (snippet, {fault})):
        path.write_text(ACCESSIBLE % body)
        with Visit(browser, path) as visit:
            found = access_faults(visit)
        assert {text.split(": ")[1] for text in found} == wanted


@pytest.mark.browser
@pytest.mark.parametrize(
    ("trap", "held"),
    [("", False), ("onkeydown='event.preventDefault()'", True),
     ("onblur='setTimeout(() => this.focus())'", True)],
)  # fmt: skip
def test_a_keyboard_trap_would_be_noticed(tmp_path, browser, trap, held):
    path = tmp_path / "page.html"
    path.write_text(ACCESSIBLE % f"<button {trap}>x</button><button>y</button>")
    with Visit(browser, path) as visit:
        assert bool(keyboard_faults(visit)) == held


@pytest.mark.browser
def test_a_page_that_is_too_heavy_would_be_noticed(tmp_path, browser):
    (tmp_path / "heavy.js").write_text(" " * BUDGET)
    path = tmp_path / "page.html"
    path.write_text(ACCESSIBLE % "<script src='heavy.js'></script>")
    with Visit(browser, path) as visit:
        assert len(weight_faults(visit)) == 1


@pytest.mark.browser
@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<script src="https://cdn.invalid/x.js"></script>', "foreign"),
        ("<script>undefinedFunction()</script>", "errors"),
        ('<img src="gone.png">', "errors"),
        ('<div style="width: 500px">wide</div>', "scroll"),
    ],
)
def test_a_faulty_page_would_be_noticed(tmp_path, browser, body, fault):
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><body style='margin: 0'>{body}")
    with Visit(browser, page, WIDTHS["phone"]) as visit:
        found = {
            "foreign": visit.foreign(),
            "errors": visit.errors,
            "scroll": visit.scrolls_sideways(),
        }
    assert found[fault]


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
def test_verdicts_and_text_can_be_read(smoke_book, browser, dark):
    path = smoke_book.html_dir / "book" / "scorecard.html"
    with Visit(browser, path, dark=dark) as visit:
        assert visit.errors == []
        ratios = visit.page.evaluate(CONTRAST, [".verdict", "article p", "table a"])
        ground = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert len(ratios) > 5
    assert min(ratios) >= 4.5
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 200) == dark


# WCAG's contrast of every element's text with the first opaque ground behind it.
CONTRAST = """selectors => {
  const parse = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const light = c => c.slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = element => {
    for (; element; element = element.parentElement) {
      const c = parse(getComputedStyle(element).backgroundColor);
      if (c.length === 3 || c[3] === 1) return c;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll(selectors.join())].map(element => {
    const both = [parse(getComputedStyle(element).color), ground(element)];
    const [a, b] = both.map(light).sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  });
}"""


@pytest.mark.browser
def test_figures_keep_a_light_ground_in_the_dark(smoke_book, browser):
    path = smoke_book.html_dir / "notebooks" / f"{smoke_book.notebooks()[0].stem}.html"
    with Visit(browser, path, dark=True) as visit:
        style = visit.page.locator("article figure img").first.evaluate(
            "image => [getComputedStyle(image).backgroundColor, image.clientWidth]"
        )
    assert style[0] == "rgb(255, 255, 255)"
    assert style[1] > 200


@pytest.mark.browser
def test_search_finds_a_word(smoke_book, browser):
    path = smoke_book.html_dir / "search.html"
    with Visit(browser, path, query="?q=Clopper") as visit:
        visit.page.wait_for_selector("#search-results li a")
        hits = visit.page.locator("#search-results li a").all_text_contents()
        assert visit.errors == []
        assert visit.foreign() == []
    assert hits


@pytest.mark.browser
def test_the_first_page_leads_to_the_book(smoke_book, browser):
    page = browser.new_page()
    page.goto((smoke_book.html_dir / "index.html").as_uri())
    page.wait_for_url("**/book/index.html")
    assert page.locator("article h1").count() == 1
    page.close()
