"""The interactive figures: their arithmetic against the module's, and their manners."""

import json
import math
import re

import numpy as np
import pytest
from bs4 import BeautifulSoup
from conftest import ROOT
from lipsmooth_widgets import (
    SHARED,
    START,
    STRATEGIES,
    TABLES,
    buckets_of,
    certify,
    depart_widget,
    visit_widget,
)
from scipy.special import ndtr, ndtri
from test_book import CONTRAST, WIDTHS, Visit

from lipsmooth.certify import certify_counts
from lipsmooth.evaluate import round_down
from lipsmooth.intervals import clopper_pearson_lower, clopper_pearson_upper
from lipsmooth.radii import radius_mono, radius_mono_exact, radius_mono_lipschitz

STATIC = ROOT / "book" / "_static"
SCRIPTS = sorted((STATIC / "widgets").glob("*.js"))
TOLERANCE = 1e-9

pytestmark = pytest.mark.xdist_group("book")


# The page with all four, as the book has them


class Body:
    """What a translator is to the figures: a place for their HTML."""

    def __init__(self):
        self.body = []


def figure(name):
    """Return the HTML of one figure."""
    page = Body()
    visit_widget(page, {"widget": name})
    page.body.append("<p>What it shows.</p>")
    depart_widget(page, None)
    return "".join(page.body)


def write_page(path, names=tuple(START), theme="light"):
    """Write a page with these figures, beside the book's scripts and style."""
    address = (STATIC / "widgets").as_uri()
    scripts = "".join(
        f'<script defer src="{address}/{name}.js"></script>' for name in SHARED + names
    )
    ground = {"light": "#fff", "dark": "#14181e"}[theme]
    path.write_text(
        f'<!doctype html><html lang="en" data-theme="{theme}"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>Figures</title>'
        f"<style>:root {{ --pst-color-border: #c9c9c9 }} body {{ margin: 0 1rem;"
        f" background: {ground}; font: 16px sans-serif }}</style>"
        f'<link rel="stylesheet" href="{address}/widgets.css">{scripts}'
        f'<body><main class="bd-article">{"".join(map(figure, names))}</main></html>',
        encoding="utf-8",
    )
    return path


@pytest.fixture(scope="module")
def page_path(tmp_path_factory):
    return write_page(tmp_path_factory.mktemp("widgets") / "page.html")


@pytest.fixture(scope="module")
def visit(browser, page_path):
    """Return the page opened once, for tests that only compute."""
    with Visit(browser, page_path) as opened:
        yield opened


@pytest.fixture
def fresh(browser, page_path):
    """Return the page opened anew, for tests that use it; no error may occur."""
    with Visit(browser, page_path) as opened:
        yield opened.page
        assert opened.errors == []
        assert opened.foreign() == []


def within(page, name):
    return page.locator(f"figure[data-widget={name}]")


# Arithmetic


def random_image(rng, i):
    """Return votes, a noise level and a level; extremes and ties are frequent."""
    classes = int(rng.choice([2, 3, 4, 10, 100]))
    n0, n = (int(np.round(10 ** rng.uniform(0, top))) for top in (2, 6))
    weights = rng.dirichlet(np.full(classes, 0.3))
    weights[rng.integers(classes)] += 10 ** rng.uniform(-2, 5)
    weights /= weights.sum()
    selection, estimation = rng.multinomial(n0, weights), rng.multinomial(n, weights)
    if i % 10 == 0:  # all votes for one class
        estimation = np.eye(classes, dtype=int)[rng.integers(classes)] * n
    if i % 10 == 1:  # ties
        selection[:] = rng.integers(1, 3)
        estimation[:] = n // classes + 1
    alpha = 10 ** rng.uniform(-12, math.log10(0.5))
    sigma = 10 ** rng.uniform(-2, 1)
    return {
        "selection": selection.tolist(),
        "estimation": estimation.tolist(),
        "options": {"sigma": sigma, "alpha": alpha, "strategy": STRATEGIES[i % 4]},
    }


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(7)
    return [random_image(rng, i) for i in range(10_000)]


@pytest.fixture(scope="module")
def certificates(images):
    """Return the module's (prediction, p_a_lower, p_b_upper, radius / sigma)."""
    rows = []
    for image in images:
        votes = [image["selection"]], [image["estimation"]]
        c = certify_counts(*votes, **image["options"])
        radius = c.radius[0] / image["options"]["sigma"]
        rows.append([c.prediction[0], c.p_a_lower[0], c.p_b_upper[0], radius])
    return np.array(rows)


# As text, for the driver would convert every number by itself.
CERTIFY = """([images, factor]) => JSON.stringify(
  JSON.parse(images).map(({selection, estimation, options}) => {
    const c = lipsmooth.certify(selection, estimation,
      {...options, alpha: factor * options.alpha});
    return [c.prediction, c.pA, c.pB, c.radius / options.sigma];
  }))"""


def in_the_browser(visit, images, factor=1):
    text = visit.page.evaluate(CERTIFY, [json.dumps(images), factor])
    return np.array(json.loads(text))


@pytest.mark.browser
def test_ten_thousand_certificates_equal_the_modules(visit, images, certificates):
    computed = in_the_browser(visit, images)
    assert np.abs(computed[:, 1:] - certificates[:, 1:]).max() < TOLERANCE
    # At a radius of 0, rounding decides whether to abstain; nowhere else.
    other = computed[:, 0] != certificates[:, 0]
    assert np.all(certificates[other, 3] < TOLERANCE)
    assert other.sum() < 10
    # The inputs reach what is hard.
    assert 1000 < (certificates[:, 0] == -1).sum() < 9000
    assert (certificates[:, 1] == 0).sum() > 10
    assert (certificates[:, 2] == 1).sum() > 10
    assert certificates[:, 3].max() > 4


@pytest.mark.browser
def test_half_the_level_would_be_noticed(visit, images, certificates):
    images, certificates = images[:1000], certificates[:1000]
    computed = in_the_browser(visit, images, factor=0.5)
    wrong = np.abs(computed - certificates).max(axis=1) > TOLERANCE
    bounded = (certificates[:, 1] > 0) | (certificates[:, 2] < 1)
    assert wrong[bounded].mean() > 0.95


@pytest.mark.browser
def test_bounds_hold_up_at_the_ends_of_their_range(visit):
    counts = [(k, n) for n in (1, 2, 17, 1000, 10**6, 10**7)
              for k in {0, 1, 2, n // 2, n - 2, n - 1, n} if 0 <= k <= n]  # fmt: skip
    cases = [(k, n, a) for k, n in counts for a in (1e-15, 1e-12, 1e-3, 0.5, 0.999)]
    k, n, alpha = np.array(cases).T
    computed = np.array(visit.page.evaluate(
        """cases => cases.map(
             c => [lipsmooth.lowerBound(...c), lipsmooth.upperBound(...c)])""",
        cases,
    )).T  # fmt: skip
    for values, function in zip(
        computed, (clopper_pearson_lower, clopper_pearson_upper), strict=True
    ):
        expected = function(k, n, alpha=alpha)
        assert np.all(np.abs(values - expected) <= 1e-10 * expected)


@pytest.mark.browser
def test_the_normal_distribution_and_its_inverse_keep_their_digits(visit):
    x = np.linspace(-37, 8, 2000)
    p = np.r_[np.geomspace(1e-300, 0.5, 1000), 1 - np.geomspace(1e-15, 0.5, 1000)]
    phi = visit.page.evaluate("x => x.map(lipsmooth.normal)", x.tolist())
    z = visit.page.evaluate("p => p.map(lipsmooth.quantile)", p.tolist())
    assert np.abs(phi / ndtr(x) - 1).max() < 1e-12
    assert np.abs(np.array(z) - ndtri(p)).max() < 1e-12
    ends = "[0, 0.5, 1].map(lipsmooth.quantile).map(String)"
    assert visit.page.evaluate(ends) == ["-Infinity", "0", "Infinity"]


@pytest.mark.browser
@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("radiusExact", radius_mono_exact),
        ("radiusPublished", radius_mono_lipschitz),
        ("radiusMono", lambda p, *, sigma, lipschitz: radius_mono(p, sigma=sigma)),
    ],
)
def test_radii_equal_the_modules_over_a_grid(visit, name, function):
    p = np.r_[np.linspace(0.01, 0.99, 25), 0.999, 0.9999, 1 - 1e-6, 1 - 1e-9]
    grid = np.meshgrid(p, [0.05, 0.25, 1.0, 2.0], np.geomspace(0.01, 100, 25))
    p, sigma, lipschitz = (axis.ravel() for axis in grid)
    cases = np.column_stack([p, sigma, lipschitz]).tolist()
    code = f"cases => cases.map(c => lipsmooth.{name}(...c))"
    computed = np.array(visit.page.evaluate(code, cases))
    expected = function(p, sigma=sigma, lipschitz=lipschitz)
    assert np.abs(computed - expected).max() < TOLERANCE
    assert np.abs(np.roll(computed, 1) - expected).max() > 1


@pytest.mark.browser
def test_buckets_equal_the_modules_ties_and_empty_classes_included(visit):
    rng = np.random.default_rng(3)
    votes = [[100, 0, 0, 0, 0], [20] * 5, [50, 25, 15, 10, 0], [0, 0, 0, 3, 97], [7, 7]]
    for _ in range(500):
        p = rng.dirichlet(np.full(rng.integers(2, 30), 0.5))
        votes.append(rng.multinomial(rng.integers(1, 60), p).tolist())
    computed = visit.page.evaluate("votes => votes.map(lipsmooth.partition)", votes)
    assert computed == [buckets_of(v) for v in votes]
    assert {2, 3, 4, 5, 6} <= set(map(len, computed))


@pytest.mark.browser
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"selection": [1, 2, 3]}, "selection votes for 3 classes, .* for 2"),
        ({"selection": [0, 0]}, "selection votes: there are none"),
        ({"estimation": [3]}, "estimation votes: at least two classes"),
        ({"estimation": [1.5, 2]}, "estimation votes must be whole numbers"),
        ({"estimation": [-1, 2]}, "estimation votes must be whole numbers"),
        ({"alpha": 0}, "α must lie between 0 and 1"),
        ({"alpha": 1}, "α must lie between 0 and 1"),
        ({"sigma": -0.1}, "σ must be positive"),
    ],
)
def test_bad_input_is_named(visit, change, message):
    values = {"selection": [5, 1], "estimation": [50, 9], "sigma": 0.5, "alpha": 0.01}
    code = """v => { try { lipsmooth.certify(v.selection, v.estimation,
      {...v, strategy: "mono"}); return "" } catch (error) { return String(error) } }"""
    assert visit.page.evaluate(code, values) == ""
    raised = visit.page.evaluate(code, values | change)
    assert re.match(f"RangeError: {message}", raised)


@pytest.mark.browser
def test_numbers_are_rounded_as_the_module_does(visit):
    rng = np.random.default_rng(0)
    values = [0.29, 0.1, 1.0, 0.0, 0.00004999, *rng.uniform(0, 3, 500).round(4)]
    values += [*rng.uniform(0, 3, 500), *-rng.uniform(0, 1, 50)]
    code = """([values, way]) => values.map(
      v => Number(lipsmooth.ui.decimals(v, 4, way).replace("−", "-")))"""
    plain = list(map(float, values))
    assert visit.page.evaluate(code, [plain, "down"]) == round_down(plain, 4).tolist()
    above = visit.page.evaluate(code, [plain, "up"])
    assert above == (-round_down([-v for v in plain], 4)).tolist()


# Without scripts


def test_the_tables_are_the_modules():
    cells = {name: cells_of(figure(name)) for name in START}
    first = START["calculator"]["images"][0]
    c = certify(first, "max-upper", sigma=0.25, alpha=0.001)
    assert cells["calculator"][4][3] == f"{round_down(c.radius, 4)[0]:.4f}"
    assert ["0.500 σ", f"{ndtr(ndtri(0.8) - 0.5):.4f}"] in cells["halfspace"]
    assert [row[1] for row in cells["halfspace"]].count("0.5000") == 1
    radius = radius_mono_exact(0.99, sigma=0.5, lipschitz=0.5)
    assert ["0.99", "0.5", f"{round_down(radius, 4):.4f}"] in [
        row[:3] for row in cells["lipschitz"]
    ]
    assert len(cells["partition"]) > 5


def cells_of(html):
    """Return the rows of the only table in a piece of HTML."""
    (table,) = BeautifulSoup(html, "html.parser").select("table")
    return [[c.get_text() for c in row.select("th, td")] for row in table.select("tr")]


@pytest.mark.browser
def test_without_scripts_the_tables_stay(browser, page_path):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_path.as_uri())
    assert page.locator(".widget-numbers table:visible").count() == len(START)
    assert page.locator("figure.widget :is(input, button, details)").count() == 0
    context.close()


@pytest.mark.browser
def test_if_a_script_fails_the_tables_stay(browser, page_path):
    page = browser.new_page()
    page.add_init_script("delete window.ResizeObserver")
    page.goto(page_path.as_uri())
    assert page.locator(".widget-numbers table:visible").count() == len(START)
    assert page.locator("figure.widget[data-ready]").count() == 0
    page.close()


# With them


@pytest.mark.browser
def test_figures_start_with_the_numbers_of_the_module(fresh):
    shown = {}
    within(fresh, "partition").get_by_role("button", name="Next").evaluate(
        "button => { for (let i = 0; i < 20; i++) button.click() }"
    )
    for name in ("calculator", "partition"):
        html = within(fresh, name).locator(".widget-table").inner_html()
        shown[name] = cells_of(html)
        assert [row[1:] for row in shown[name]] == [
            row[1:] for row in cells_of(figure(name))
        ]
    radii = cells_of(within(fresh, "lipschitz").locator(".widget-table").inner_html())
    exact, published, cohen = (row[1] for row in radii[1:])
    assert ["0.99", "0.5", exact, published, cohen] in cells_of(figure("lipschitz"))
    words = within(fresh, "halfspace").locator(".widget-result").inner_text()
    assert f"keeps {ndtr(ndtri(0.8) - 0.5):.4f} of the votes" in words


@pytest.mark.browser
def test_scripts_add_one_name_to_the_page(visit, browser, tmp_path):
    names = "Object.getOwnPropertyNames(window)"
    (tmp_path / "blank.html").write_text("<!doctype html>")
    with Visit(browser, tmp_path / "blank.html") as blank:
        usual = blank.page.evaluate(names)
    extra = set(visit.page.evaluate(names)) - set(usual)
    assert extra == {"lipsmooth"}
    assert visit.page.locator("figure[data-ready]").count() == len(START)


def test_scripts_are_small_and_each_figure_has_one():
    assert {path.stem for path in SCRIPTS} == {*SHARED, *START} == {*SHARED, *TABLES}
    assert sum(path.stat().st_size for path in SCRIPTS) < 55_000


def test_scripts_load_nothing():
    for path in SCRIPTS:
        addresses = re.findall(r"https?://[^\"]*", path.read_text(encoding="utf-8"))
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}


@pytest.mark.browser
def test_the_calculator_follows_its_inputs(fresh):
    calculator = within(fresh, "calculator")
    verdict = calculator.locator(".widget-verdict")
    calculator.get_by_label("estimation votes").fill("9900, 60; 40")
    calculator.get_by_label("selection votes").fill("[98 1 1]")
    calculator.get_by_label("number of classes").fill("3")
    calculator.get_by_label("noise level").fill("0.5")
    calculator.get_by_label("failure probability").fill("0.01")
    for strategy in STRATEGIES:
        calculator.get_by_label("strategy").select_option(strategy)
        c = certify_counts([[98, 1, 1]], [[9900, 60, 40]], sigma=0.5, alpha=0.01,
                           strategy=strategy)  # fmt: skip
        radius = f"{round_down(c.radius, 4)[0]:.4f}"
        assert verdict.inner_text() == f"Class 0, certified radius {radius}"
        assert calculator.locator("tr.current th").inner_text() == strategy
    code = calculator.locator("pre").text_content()
    again = eval(code, {"certify_counts": certify_counts, "np": np})
    assert again.radius == c.radius


@pytest.mark.browser
def test_the_calculators_line_of_python_fills_in_absent_classes(fresh):
    calculator = within(fresh, "calculator")
    calculator.get_by_label("example").select_option("a thousand classes")
    c = eval(calculator.locator("pre").text_content(), vars(np) | {
        "certify_counts": certify_counts, "np": np})  # fmt: skip
    radius = f"{round_down(c.radius, 4)[0]:.4f}"
    assert radius in calculator.locator(".widget-verdict").inner_text()


@pytest.mark.browser
def test_the_calculator_abstains_and_says_so(fresh):
    calculator = within(fresh, "calculator")
    for example in ("a tie", "too close to call"):
        calculator.get_by_label("example").select_option(example)
        assert calculator.locator(".widget-verdict").inner_text() == "Abstain"
    fresh.wait_for_function(
        """document.querySelector("[data-widget=calculator] [role=status]")
             .textContent.startsWith("Abstain. Class 0 was selected")"""
    )


@pytest.mark.browser
def test_the_calculator_warns_of_votes_used_twice(fresh):
    calculator = within(fresh, "calculator")
    warning = calculator.locator(".widget-warning")
    assert not warning.is_visible()
    calculator.get_by_label("the same votes").check()
    assert warning.is_visible()
    assert calculator.get_by_label("selection votes").is_disabled()


@pytest.mark.browser
@pytest.mark.parametrize(
    ("label", "value", "message"),
    [
        ("estimation votes", "12 x", "estimation votes must be whole numbers"),
        ("estimation votes", "", "estimation votes: there are none"),
        ("selection votes", "0 0 0", "selection votes: there are none"),
        ("number of classes", "1", "number of classes must be whole, at least"),
        ("noise level", "-1", "σ must be positive"),
        ("noise level", "", "σ must be positive"),
        ("failure probability", "1.5", "α must lie between 0 and 1"),
        ("estimation votes", "20000000 1", "estimation votes: at most"),
    ],
)
def test_the_calculator_names_a_wrong_input(fresh, label, value, message):
    calculator = within(fresh, "calculator")
    field = calculator.get_by_label(label)
    assert field.get_attribute("aria-invalid") == "false"
    field.fill(value)
    assert calculator.locator(".widget-verdict").inner_text() == "No certificate"
    assert message in calculator.locator(".widget-result").inner_text()
    assert calculator.locator("[aria-invalid=true]").count() == 1
    assert field.get_attribute("aria-invalid") == "true"
    calculator.get_by_label("example").select_option("a plurality")
    calculator.get_by_label("noise level").fill("0.25")
    calculator.get_by_label("failure probability").fill("0.1")
    assert calculator.locator("[aria-invalid=true]").count() == 0


@pytest.mark.browser
def test_the_half_space_is_moved_by_keys_and_by_dragging(fresh):
    panel = within(fresh, "halfspace")
    words = panel.locator(".widget-result")
    attack = panel.get_by_role("slider", name="attack")
    attack.focus()
    for _ in range(3):
        fresh.keyboard.press("ArrowRight")
    assert "0.530 σ" in words.inner_text()
    assert f"keeps {ndtr(ndtri(0.8) - 0.53):.4f}" in words.inner_text()
    assert attack.get_attribute("aria-valuetext") == "0.530 σ"
    panel.get_by_role("button", name="Move to the radius").click()
    assert "keeps 0.5000 of the votes: exactly one half" in words.inner_text()
    for number in (0, 1):
        svg = panel.locator("svg.draggable").nth(number)
        svg.scroll_into_view_if_needed()
        box = svg.bounding_box()
        height = box["y"] + box["height"] / 3
        fresh.mouse.move(box["x"] + 0.5 * box["width"], height)
        fresh.mouse.down()
        fresh.mouse.move(box["x"] + 0.9 * box["width"], height)
        far = words.inner_text()
        fresh.mouse.move(box["x"] - 50, height)
        near = words.inner_text()
        fresh.mouse.up()
        fresh.mouse.move(box["x"] + 0.9 * box["width"], height)
        assert "no longer a majority" in far
        assert "0.000 σ" in near
        assert words.inner_text() == near
    panel.get_by_role("button", name="Reset").click()
    assert "0.500 σ" in words.inner_text()


@pytest.mark.browser
def test_the_grip_is_where_the_pointer_is(fresh):
    panel = within(fresh, "halfspace")
    for number in (0, 1):
        svg = panel.locator("svg.draggable").nth(number)
        svg.scroll_into_view_if_needed()
        box = svg.bounding_box()
        x = box["x"] + 0.7 * box["width"]
        fresh.mouse.click(x, box["y"] + box["height"] / 3)
        grip = svg.locator(".grip").bounding_box()
        assert grip["x"] + grip["width"] / 2 == pytest.approx(x, abs=1)


@pytest.mark.browser
@pytest.mark.parametrize("number", range(len(START["partition"]["images"])))
def test_the_partition_proceeds_step_by_step(fresh, number):
    panel, votes = within(fresh, "partition"), START["partition"]["images"][number]
    panel.get_by_role("combobox").select_option(votes["name"])
    back, forward, reset = (
        panel.get_by_role("button", name=name) for name in ("Previous", "Next", "Reset")
    )
    count, words = panel.locator(".widget-count"), panel.locator(".widget-result")
    buckets = buckets_of(votes["selection"])
    single = sum(len(bucket) == 1 for bucket in buckets)
    steps = 4 + sum("Take its largest" in text for text in walk(fresh, forward, words))
    assert count.inner_text() == f"Step {steps} of {steps}"
    assert steps - 4 == len(buckets) - 3 or single == len(votes["selection"])
    c = certify(votes, "cpm", sigma=0.25, alpha=0.001)
    assert f"at least {round_down(c.p_a_lower, 4)[0]:.4f}" in words.inner_text()
    assert f"at most {-round_down(-c.p_b_upper, 4)[0]:.4f}" in words.inner_text()
    if c.prediction[0] >= 0:
        radius = f"{round_down(c.radius, 4)[0]:.4f}"
        assert f"partitioning certifies the radius {radius}" in words.inner_text()
    else:
        assert "partitioning abstains" in words.inner_text()
    assert panel.locator(".widget-table tbody tr").count() == len(buckets)
    assert forward.get_attribute("aria-disabled") == "true"
    back.click()
    assert count.inner_text() == f"Step {steps - 1} of {steps}"
    reset.click()
    assert count.inner_text() == f"Step 1 of {steps}"
    assert back.get_attribute("aria-disabled") == "true"


def walk(page, forward, words):
    """Press the button by the keyboard until the end, and return what was said."""
    said = [words.inner_text()]
    forward.focus()
    for _ in range(20):
        page.keyboard.press("Enter")
        said.append(words.inner_text())
        if forward.get_attribute("aria-disabled") == "true":
            return said
    raise AssertionError("the steps do not end")


@pytest.mark.browser
def test_the_radii_follow_their_sliders(fresh):
    panel = within(fresh, "lipschitz")
    for label, key in (
        ("mean score", "PageUp"),
        ("Lipschitz", "PageDown"),
        ("noise", "ArrowRight"),
    ):
        panel.get_by_role("slider", name=label).focus()
        fresh.keyboard.press(key)
    texts = [panel.get_by_role("slider").nth(i).get_attribute("aria-valuetext")
             for i in range(3)]  # fmt: skip
    p, lipschitz, sigma = map(float, texts)
    assert p > 0.99
    assert lipschitz < 0.5 < sigma
    rows = cells_of(panel.locator(".widget-table").inner_html())
    expected = [
        radius_mono_exact(p, sigma=sigma, lipschitz=lipschitz),
        radius_mono_lipschitz(p, sigma=sigma, lipschitz=lipschitz),
        radius_mono(p, sigma=sigma),
    ]
    assert [row[1] for row in rows[1:]] == [f"{round_down(r, 4):.4f}" for r in expected]


# For everybody


@pytest.mark.browser
def test_every_input_has_a_name_and_shows_its_focus(fresh):
    inputs = fresh.locator("figure.widget :is(input, select)")
    assert inputs.count() == 15
    nameless = inputs.evaluate_all(
        "all => all.filter(e => !e.labels.length || !e.labels[0].innerText.trim())"
    )
    assert nameless == []
    outlines = fresh.locator("figure.widget :is(input, select, button, summary)")
    fresh.keyboard.press("Tab")  # what follows is then focus by the keyboard
    plain = outlines.evaluate_all(
        """all => all.filter(e => { e.focus();
             const s = getComputedStyle(e);
             return s.outlineStyle !== "solid" || parseFloat(s.outlineWidth) < 2 })
           .map(e => e.outerHTML)"""
    )
    assert plain == []


@pytest.mark.browser
def test_the_tab_key_passes_through(fresh):
    """Every figure can be left again by the key that entered it."""
    stops = fresh.locator("figure.widget :is(input, select, button, summary)").count()
    visited = []
    for _ in range(stops + 1):
        fresh.keyboard.press("Tab")
        visited.append(fresh.evaluate(
            "document.activeElement.closest('figure')?.dataset.widget"))  # fmt: skip
    order = [name for i, name in enumerate(visited) if name != visited[i - 1]]
    assert order[:4] == list(START)


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_figures_can_be_read(browser, tmp_path, theme):
    with Visit(browser, write_page(tmp_path / "page.html", theme=theme)) as visit:
        visit.page.locator("details").evaluate_all("a => a.forEach(d => d.open = true)")
        visit.page.get_by_label("the same votes").check()
        parts = "p, label, output, small, th, td, button, summary, select, pre"
        parts += ", input:not([type=range], [type=checkbox])"
        texts = visit.page.evaluate(CONTRAST, [f"figure.widget :is({parts})"])
        colors = visit.page.evaluate(
            """() => { const style = getComputedStyle(document.documentElement);
                 return Object.fromEntries(["ground", "ink", "muted", "blue", "green",
                   "vermilion", "edge"].map(n => [n,
                     style.getPropertyValue("--widget-" + n).trim()])) }"""
        )
    assert len(texts) > 50
    assert min(texts) >= 4.5
    ground = colors.pop("ground")
    for name, color in colors.items():
        least = 4.5 if name in ("ink", "muted") else 3
        assert contrast(color, ground) >= least, name


def contrast(*colors):
    """Return the contrast ratio of WCAG of two colours in hexadecimal."""
    light = []
    for color in colors:
        digits = color.lstrip("#")
        digits = digits if len(digits) == 6 else "".join(2 * d for d in digits)
        rgb = np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)]) / 255
        linear = np.where(rgb <= 0.03928, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        light.append(linear @ [0.2126, 0.7152, 0.0722] + 0.05)
    return max(light) / min(light)


def test_too_little_contrast_would_be_noticed():
    assert contrast("#fff", "#000") == pytest.approx(21)
    assert contrast("#e69f00", "#fff") < 3


@pytest.mark.browser
@pytest.mark.parametrize("device", WIDTHS)
def test_figures_fit_the_screen(browser, page_path, device):
    with Visit(browser, page_path, width=WIDTHS[device]) as visit:
        visit.page.locator("details").evaluate_all("a => a.forEach(d => d.open = true)")
        visit.page.locator("[data-widget=partition] button").nth(1).evaluate(
            "button => { for (let i = 0; i < 20; i++) button.click() }"
        )
        assert visit.scrolls_sideways() <= 0
        cut = visit.page.evaluate(
            """[...document.querySelectorAll("svg text")].filter(t => {
                 const a = t.getBoundingClientRect();
                 const b = t.closest("figure").getBoundingClientRect();
                 return a.width && (a.left < b.left || a.right > b.right);
               }).map(t => t.textContent)"""
        )
        assert cut == []
        tables = visit.page.locator(".widget-table, .widget-numbers")
        wide = tables.evaluate_all("a => a.map(t => t.scrollWidth - t.clientWidth)")
        assert max(wide) <= 0


# In Sphinx

ONE = """\
# One

```{toctree}
two
```

```{widget} halfspace
Has *a* caption.
```
"""
PAGES = {"index.md": ONE, "two.md": "# Two\n\nNo figure.\n"}


def build(folder, pages):
    """Build a book of a few pages; return it and its warnings."""
    import io

    from sphinx.application import Sphinx

    (folder / "source").mkdir()
    for name, text in pages.items():
        (folder / "source" / name).write_text(text)
    warnings = io.StringIO()
    options = {"extensions": ["myst_parser", "lipsmooth_widgets"],
               "html_static_path": [str(STATIC)]}  # fmt: skip
    out = folder / "html"
    Sphinx(
        folder / "source", None, out, folder / "doctrees", "html",
        confoverrides=options, status=None, warning=warnings,
    ).build()  # fmt: skip
    return out, warnings.getvalue()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_a_page_loads_the_scripts_of_its_own_figures(tmp_path):
    out, warnings = build(tmp_path, PAGES)
    assert warnings == ""
    one, two = (
        BeautifulSoup((out / f"{name}.html").read_text(), "html.parser")
        for name in ("index", "two")
    )
    sources = [s["src"].split("?")[0] for s in one.select("script[src*=widgets]")]
    assert sources == [f"_static/widgets/{n}.js" for n in (*SHARED, "halfspace")]
    assert all((out / source).exists() for source in sources)
    assert one.select("link[href*='widgets.css']")
    assert one.select_one("figure.widget figcaption em").get_text() == "a"
    assert json.loads(one.select_one("figure")["data-start"]) == START["halfspace"]
    assert not two.select("script[src*=widgets], link[href*='widgets.css']")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_an_unknown_figure_is_an_error(tmp_path):
    _, warnings = build(tmp_path, {"index.md": "# One\n\n```{widget} spheres\n```\n"})
    assert "no widget 'spheres'; there are calculator, halfspace" in warnings
