"""The built pages, as files and as a reader's browser shows them, without a network."""

import re
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from bs4 import BeautifulSoup
from lipsmooth_book import CLAIMS, page, scorecard
from sphinx.errors import ExtensionError

WIDTHS = {"phone": 390, "desk": 1440}

pytestmark = pytest.mark.xdist_group("book")


def parse(path):
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def html_pages(folder):
    """Return the pages of a built book, without the theme's own fragments."""
    paths = sorted(folder.rglob("*.html"))
    return [p for p in paths if "_static" not in p.relative_to(folder).parts]


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


def references(soup):
    """Yield every address that a page refers to."""
    for tag in soup.find_all(True):
        for attribute in ("href", "src"):
            if tag.get(attribute):
                yield tag[attribute]


def broken_links(folder):
    """Return 'page: address' for every local file or anchor that is not there."""
    soups = {p.resolve(): parse(p) for p in html_pages(folder)}
    anchors = {
        path: {tag["id"] for tag in soup.find_all(id=True)}
        for path, soup in soups.items()
    }
    broken = []
    for path, soup in soups.items():
        for reference in references(soup):
            url = urlsplit(reference)
            if url.scheme:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            known = anchors.get(target, set())
            wanted = unquote(url.fragment)
            if not target.exists() or (wanted and wanted not in known):
                broken.append(f"{path.name}: {reference}")
    return broken


def foreign_resources(folder):
    """Return everything that a page would load from elsewhere."""
    found = []
    for path in html_pages(folder):
        soup = parse(path)
        loaded = soup.select("script[src], img[src], iframe[src], source[src]")
        loaded += soup.select("link[rel=stylesheet], link[rel=preload], link[rel=icon]")
        addresses = [tag.get("src") or tag.get("href") for tag in loaded]
        found += [a for a in addresses if re.match(r"(https?:)?//", a)]
        found += [s.string for s in soup.find_all("script") if _names_a_host(s)]
    for path in folder.rglob("*.css"):
        found += re.findall(r"(?:url\(|@import )['\"]?(?:https?:)?//[^)]*", _text(path))
    return found


def _names_a_host(script):
    return "https://" in (script.string or "")


def _text(path):
    return path.read_text(encoding="utf-8", errors="replace")


def test_every_internal_link_and_anchor_resolves(smoke_book):
    assert broken_links(smoke_book.html_dir) == []


def test_nothing_is_loaded_from_elsewhere(smoke_book):
    assert foreign_resources(smoke_book.html_dir) == []


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
    assert check(tmp_path) == []
    page.write_text(snippet)
    assert len(check(tmp_path)) == 1


def test_every_image_has_an_alternative_text(pages):
    bare = [
        f"{path.name}: {image['src']}"
        for path, soup in pages.items()
        for image in soup.select("article img")
        if len(image.get("alt", "")) < 10 or image["alt"].startswith(("../", "_images"))
    ]
    assert bare == []


def test_every_chapter_says_how_it_was_computed(smoke_book, pages):
    for notebook in smoke_book.notebooks():
        soup = pages[smoke_book.html_dir / "notebooks" / f"{notebook.stem}.html"]
        (box,) = soup.select(".admonition.computed")
        text = box.get_text()
        assert "smoke" in text
        assert "alpha = " in text
        assert "torch" in text
        assert box.select(f'a[href$="{notebook.stem}.ipynb"]')
        assert "# Parameters\n" not in soup.get_text(), "papermill's own cell is shown"


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


class Visit:
    """A page opened in the browser, and what went wrong meanwhile."""

    def __init__(self, browser, path, width=1440, dark=False, query=""):
        scheme = "dark" if dark else "light"
        viewport = {"width": width, "height": 900}
        self.page = browser.new_page(viewport=viewport, color_scheme=scheme)
        self.errors, self.requests = [], []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", lambda r: self.errors.append(f"failed: {r.url}"))
        self.page.goto(path.as_uri() + query, wait_until="load")
        self.page.evaluate("window.MathJax?.startup?.promise")

    def _console(self, message):
        if message.type == "error":
            self.errors.append(message.text)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.page.close()

    def foreign(self):
        """Return the requests that left the disk."""
        return [u for u in self.requests if not u.startswith(("file:", "data:"))]

    def scrolls_sideways(self):
        """Return by how many pixels the page is wider than its window."""
        return self.page.evaluate(
            """document.scrollingElement.scrollWidth
               - document.documentElement.clientWidth"""
        )


@pytest.mark.browser
@pytest.mark.parametrize("device", WIDTHS)
def test_pages_read_well(smoke_book, pages, browser, device):
    faults = []
    for path, soup in pages.items():
        if path.parent == smoke_book.html_dir and path.name == "index.html":
            continue  # forwards to book/index.html
        with Visit(browser, path, WIDTHS[device]) as visit:
            name = path.stem
            faults += [f"{name}: {error}" for error in visit.errors]
            faults += [f"{name}: request {url}" for url in visit.foreign()]
            if visit.scrolls_sideways() > 0:
                faults.append(f"{name} scrolls by {visit.scrolls_sideways()} px")
            formulas = len(soup.select("article .math"))
            if visit.page.locator("mjx-container").count() < formulas:
                faults.append(f"{name}: a formula of {formulas} is not rendered")
            wrong = visit.page.locator("[data-mml-node=merror], mjx-merror").count()
            faults += [f"{name}: {wrong} formulas with an error"] * bool(wrong)
            faults += [f"{name}: {image} is not shown" for image in unshown(visit.page)]
    assert faults == []


def unshown(page):
    """Return the images in the text that did not load."""
    return page.evaluate(
        """[...document.querySelectorAll("article img")]
           .filter(image => !(image.complete && image.naturalWidth))
           .map(image => image.src)"""
    )


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
        visit.page.wait_for_selector("#search-results li a", timeout=10_000)
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
