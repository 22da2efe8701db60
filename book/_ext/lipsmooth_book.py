"""Sphinx extension: pages from executed notebooks, and the scorecard.

The page of `notebooks/NN_name` is made from what papermill computed under the preset
named by `LIPSMOOTH_PRESET`, with a box that says how; the scorecard collects the claims
of all chapters. `jupyter-book build .` works like `make book`: whatever has not been
executed yet is executed first.
"""

import copy
import os
import re
import sys
from pathlib import Path

import nbformat
from sphinx.errors import ExtensionError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import finish
from build import Book
from execution import BuildError
from slides import make_decks

CLAIMS = "application/vnd.lipsmooth.claims+json"
SCORECARD = "book/scorecard"
PLACEHOLDER = "% scorecard"
VERDICTS = ("reproduced", "differs", "not testable here")
NUMPY_SCALAR = re.compile(r"^np\.(?:float|int|uint)\d+\((.*)\)$")
RELATIONS = {"=": "", ">=": "≥ ", "<=": "≤ "}


def prepare(app):
    """Make sure that every notebook has been executed, and load the results."""
    try:
        book = Book(
            os.environ.get("LIPSMOOTH_ROOT", app.srcdir),
            os.environ.get("LIPSMOOTH_PRESET", "book"),
            os.environ.get("LIPSMOOTH_EDITION", "instructor"),
        )
        book.exercises()
        book.execute()
    except BuildError as error:
        raise ExtensionError(str(error)) from error
    app.lipsmooth_chapters = book.executed()


def substitute(app, docname, source):
    """Replace a notebook by its executed form and the placeholder by the scorecard."""
    if docname in app.lipsmooth_chapters:
        executed = copy.deepcopy(app.lipsmooth_chapters[docname])
        source[0] = nbformat.writes(page(docname, executed))
    elif docname == SCORECARD:
        source[0] = source[0].replace(PLACEHOLDER, scorecard(app.lipsmooth_chapters))


def page(docname, executed):
    """Return the notebook as the page shows it."""
    cells = []
    for cell in executed.cells:
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags:
            continue
        for output in cell.get("outputs", []):
            show_plainly(output)
        cells.append(cell)
        if "parameters" in tags:
            box = nbformat.v4.new_markdown_cell(computed_box(docname, executed))
            box["id"] = "computed"
            cells.append(box)
    return nbformat.v4.new_notebook(
        cells=cells, metadata={"kernelspec": executed.metadata.kernelspec}
    )


def show_plainly(output):
    """Leave in an output what the page can show."""
    data = output.get("data", {})
    data.pop(CLAIMS, None)  # the table beside it is shown
    # A glued NumPy scalar is written np.float64(…), which no format such as :.3f reads.
    if "scrapbook" in output.get("metadata", {}):
        for mime in data:
            if mime.endswith("text/plain"):
                data[mime] = NUMPY_SCALAR.sub(r"\1", data[mime])


def computed_box(docname, executed):
    """Return the box that says how the page was computed."""
    record = executed.metadata["lipsmooth"]
    parameters = ", ".join(f"`{k} = {v!r}`" for k, v in record["parameters"].items())
    versions = ", ".join(f"{name} {v}" for name, v in record["versions"].items())
    commit = f"`{record['commit']}`" if record["commit"] else "none: no checkout"
    dirty = " (and changes since)" if commit.endswith("+`") else ""
    started = record["started"][:16].replace("T", " at ")
    outputs = f"{'../' * docname.count('/')}_sources/{docname}.ipynb"
    return "\n".join(
        [
            "```{admonition} How this page was computed",
            ":class: dropdown computed",
            f"- Preset `{record['preset']}`, seed `{record['seed']}`, on "
            f"`{record['device']}`",
            f"- Started on {started} UTC; it took {record['seconds']:.0f} s",
            f"- Commit: {commit}{dirty}",
            f"- Parameters: {parameters}",
            f"- Versions: {versions}",
            f'- The notebook: <a href="{outputs}" download>with its outputs</a>, '
            f"{{download}}`without </{docname}.ipynb>`",
            "```",
        ]
    )


def chapter_claims(executed):
    """Return the claims in the outputs of an executed notebook."""
    outputs = [o for c in executed.cells for o in c.get("outputs", [])]
    return [claim for o in outputs for claim in o.get("data", {}).get(CLAIMS, [])]


def chapter_title(executed):
    """Return the text of the first heading."""
    for cell in executed.cells:
        heading = re.search(r"^# (.+)$", cell.source, re.MULTILINE)
        if cell.cell_type == "markdown" and heading:
            return heading[1].strip()
    raise ExtensionError("a notebook has no title: its first heading must be '# …'")


def scorecard(chapters):
    """Return the scorecard: counts of verdicts, then the claims of every chapter."""
    claims = {docname: chapter_claims(node) for docname, node in chapters.items()}
    flat = [claim for group in claims.values() for claim in group]
    names = [claim["name"] for claim in flat]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ExtensionError(f"claims with the same name: {', '.join(twice)}")
    lines = [*count_table(claims, chapters), ""]
    for docname, group in claims.items():
        if group:
            title = chapter_title(chapters[docname])
            count = f"{len(group)} claim{'s' * (len(group) > 1)}"
            lines += [f"## {title}", "", f"{count}, from {{doc}}`/{docname}`.", ""]
            lines += [*claim_table(docname, group), ""]
    return "\n".join(lines)


def list_table(rows, classes):
    """Return a MyST table, the first row its head."""
    lines = ["````{list-table}", ":header-rows: 1", f":class: {classes}", ""]
    for row in rows:
        lines += [f"{'*' if i == 0 else ' '} - {cell}" for i, cell in enumerate(row)]
    return [*lines, "````"]


def count_table(claims, chapters):
    """Return the table of how many claims of each chapter had which verdict."""
    rows = [["Chapter", *map(badge, VERDICTS)]]
    total = dict.fromkeys(VERDICTS, 0)
    for docname, group in claims.items():
        counts = [sum(c["verdict"] == verdict for c in group) for verdict in VERDICTS]
        total = {v: total[v] + n for v, n in zip(VERDICTS, counts, strict=True)}
        rows.append([f"{{doc}}`/{docname}`", *map(str, counts)])
    rows.append(["**All chapters**", *(f"**{n}**" for n in total.values())])
    return list_table(rows, "claim-counts")


def claim_table(docname, claims):
    """Return the table of one chapter's claims, each linked to its row there."""
    rows = [["Verdict", "Claim", "Source", "Published", "Measured"]]
    for claim in claims:
        link = f"../{docname}.html#claim-{claim['name']}"
        statement = f'<a href="{link}">{plain(claim["statement"])}</a>'
        if claim["note"]:
            statement += f' <span class="claim-note">{plain(claim["note"])}</span>'
        known = re.fullmatch(r"[a-z-]+\d+\w*", claim["source"])
        source = f"{{cite}}`{claim['source']}`" if known else plain(claim["source"])
        published = number(claim["published"], RELATIONS[claim["relation"]])
        row = [badge(claim["verdict"]), statement, source, published]
        rows.append([*row, number(claim["measured"])])
    return list_table(rows, "claims")


def badge(verdict):
    """Return a verdict as the coloured badge of custom.css."""
    return f'<span class="verdict verdict-{verdict.replace(" ", "-")}">{verdict}</span>'


def number(value, sign=""):
    """Return a number of a claim, or a dash when there is none."""
    return "–" if value is None else f"{sign}{value:.6g}"


def plain(text):
    """Return text such that MyST shows it as it is."""
    return re.sub(r"([\\`*_{}\[\]()#+!|$<>&~^:@-])", r"\\\1", text)


def skip_aliases(app, what, name, member, skip, options):
    """Leave out the fields of named tuples, of which Python says nothing."""
    text = getattr(member, "__doc__", None) or ""
    return True if text.startswith("Alias for field number") else skip


def without_thebe(app, config):
    """Keep out Thebe, which would put an address of a CDN on every page."""
    for listeners in app.events.listeners.values():
        for listener in list(listeners):
            name = getattr(listener.handler, "__name__", "")
            if name in ("init_thebe_core", "update_thebe_context"):
                app.disconnect(listener.id)


def with_repository(app, config):
    """Give the launch buttons the address of the repository, where it has one."""
    address = finish.repository(app.srcdir)
    if address and not config.html_theme_options.get("repository_url"):
        config.html_theme_options["repository_url"] = address


def complete(app, exception):
    """Finish the pages, once all of them are written."""
    if exception is None and app.builder.name == "html":
        folder = Path(app.outdir)
        finish.put_outputs(folder, app.lipsmooth_chapters)
        finish.finish(folder, app.config.ogp_site_url)
        make_decks(folder, finish.reading_order(app.srcdir))


def setup(app):
    """Connect the hooks."""
    app.connect("config-inited", without_thebe)
    app.connect("config-inited", with_repository)
    app.connect("build-finished", complete)
    app.connect("autodoc-skip-member", skip_aliases)
    app.connect("builder-inited", prepare)
    app.connect("source-read", substitute)
    return {"parallel_read_safe": True}
