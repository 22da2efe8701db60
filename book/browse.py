"""Open built pages in the system's Chromium and say what is wrong with them."""

import contextlib
import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

from axe_playwright_python.sync_playwright import Axe

WIDTHS = {"phone": 390, "desk": 1440}
PATIENCE = 120_000  # milliseconds, on a machine that does other work
BUDGET = 3_000_000  # bytes that a page may load, itself included
STANDARD = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@contextlib.contextmanager
def chromium():
    """Start a browser that asks nothing of any network."""
    from playwright.sync_api import sync_playwright

    quiet = ["gpu", "quic", "background-networking", "component-update", "sync"]
    arguments = ["--no-sandbox", "--no-first-run", *(f"--disable-{x}" for x in quiet)]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=arguments
        )
        yield browser
        browser.close()


class Visit:
    """A page opened in the browser, and what went wrong meanwhile."""

    def __init__(self, browser, path, width=WIDTHS["desk"], dark=False, query=""):
        scheme = "dark" if dark else "light"
        viewport = {"width": width, "height": 900}
        self.name = Path(path).stem
        self.page = browser.new_page(viewport=viewport, color_scheme=scheme)
        self.page.set_default_timeout(PATIENCE)
        self.errors, self.requests = [], []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", lambda r: self.errors.append(f"failed: {r.url}"))
        self.page.goto(Path(path).as_uri() + query, wait_until="load")
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

    def loaded_bytes(self):
        """Return the size of the page and of every file that it loaded."""
        paths = {unquote(urlsplit(u).path) for u in self.requests if u[:5] == "file:"}
        files = [Path(path) for path in paths if Path(path).is_file()]
        return sum(file.stat().st_size for file in files)

    def scrolls_sideways(self):
        """Return by how many pixels the page is wider than its window."""
        return self.page.evaluate(
            """document.scrollingElement.scrollWidth
               - document.documentElement.clientWidth"""
        )

    def resize(self, width):
        """Show the page in a window of another width."""
        self.page.set_viewport_size({"width": width, "height": 900})

    def unfold(self):
        """Open whatever is folded away, so that it is looked at too."""
        self.page.evaluate(
            """() => {
              document.querySelectorAll("details").forEach(d => { d.open = true; });
              document.querySelectorAll(".toggle-hidden")
                .forEach(e => e.classList.remove("toggle-hidden"));
            }"""
        )

    def darken(self):
        """Change to the dark theme at once; the page's own switch takes a while."""
        self.page.evaluate(
            """() => {
              const still = document.createElement("style");
              still.textContent = "* { transition: none !important }";
              document.head.append(still);
              document.documentElement.dataset.mode = "dark";
              document.documentElement.dataset.theme = "dark";
            }"""
        )


def reading_faults(visit, soup):
    """Return what keeps an open page from being read: width, formulas, images."""
    faults = [f"{visit.name}: {error}" for error in visit.errors]
    faults += [f"{visit.name}: request {url}" for url in visit.foreign()]
    for width in WIDTHS.values():
        visit.resize(width)
        if visit.scrolls_sideways() > 0:
            sideways = visit.scrolls_sideways()
            faults.append(f"{visit.name} scrolls by {sideways} px at {width} px")
    formulas = len(soup.select("article .math"))
    shown = visit.page.locator("article mjx-container").count()
    if shown < formulas:
        faults.append(f"{visit.name}: {formulas - shown} formulas are not rendered")
    wrong = visit.page.locator("[data-mml-node=merror], mjx-merror").count()
    faults += [f"{visit.name}: {wrong} formulas with an error"] * bool(wrong)
    faults += [f"{visit.name}: {image} is not shown" for image in unshown(visit.page)]
    return faults


def unshown(page):
    """Return the images in the text that did not load."""
    return page.evaluate(
        """[...document.querySelectorAll("article img, .slides img")]
           .filter(image => !(image.complete && image.naturalWidth))
           .map(image => image.src)"""
    )


def weight_faults(visit):
    """Return the page if it loads more than its budget."""
    weight = visit.loaded_bytes()
    excess = f"{visit.name} loads {weight:,} bytes, more than {BUDGET:,}"
    return [excess] if weight > BUDGET else []


def access_faults(visit):
    """Return what keeps a reader from the page, in the light and in the dark.

    Everything is unfolded first. In the dark only contrasts are looked at again, for
    nothing else depends on the colours. MathJax's formulas are left out: they have the
    colour of the text around them, and carry MathML for assistive technology. Of the
    words of code, which are coloured by their kind, one of each kind is looked at.
    """
    visit.unfold()
    visit.page.evaluate(REPEATED)
    only = {"type": "tag", "values": STANDARD}
    faults = axe_faults(visit, "light", only)
    visit.darken()
    only = {"type": "rule", "values": ["color-contrast"]}
    return faults + axe_faults(visit, "dark", only)


REPEATED = """() => {
  const seen = new Set();
  for (const word of document.querySelectorAll(".highlight pre span")) {
    if (seen.has(word.className)) word.dataset.repeated = "";
    seen.add(word.className);
  }
}"""


def axe_faults(visit, theme, only):
    """Return the violations that axe-core finds, one line for every element."""
    options = {"runOnly": only, "resultTypes": ["violations"], "preload": False}
    context = {"exclude": [["mjx-container"], ["[data-repeated]"]]}
    found = Axe().run(visit.page, context=context, options=options)
    return [
        f"{visit.name} ({theme}): {violation['id']}: {node['html'][:160]} "
        f"[{' '.join(map(str, node['target']))}] {_message(node)}"
        for violation in found.response["violations"]
        for node in violation["nodes"]
    ]


def _message(node):
    checks = [*node["any"], *node["all"], *node["none"]]
    return re.sub(r"\s+", " ", "; ".join(check["message"] for check in checks))[:200]


def keyboard_faults(visit, most=3000):
    """Return the element at which the tabulator key stops getting on, if any.

    From the start of the page the key is pressed until the focus has left the last
    element, and comes to the first again or to none. An element that gets the focus a
    second time before that holds it captive; what a key's events put off to a timer is
    waited for, or a trap set by one would be seen or not as the machine is busy.
    """
    page = visit.page
    page.evaluate(
        """() => {
          document.activeElement?.blur();
          window.focused = [];
          document.addEventListener("focusin", e => window.focused.push(e.target));
        }"""
    )
    for _ in range(most):
        before = page.evaluate("window.focused.length")
        page.keyboard.press("Tab")
        state = page.evaluate(
            """async before => {
              await new Promise(done => setTimeout(done, 2));
              const seen = window.focused, last = seen.at(-1);
              if (seen.length === before) return document.activeElement
                === document.body ? "end" : "stuck";
              const first = seen.indexOf(last);
              if (first === seen.length - 1) return "on";
              return first === 0 ? "end" : "stuck";
            }""",
            before,
        )
        if state == "end":
            return []
        if state == "stuck":
            break
    held = page.evaluate("document.activeElement.outerHTML.slice(0, 160)")
    return [f"{visit.name}: the tabulator key does not leave {held}"]
