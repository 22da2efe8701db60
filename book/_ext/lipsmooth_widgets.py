"""Sphinx extension: the interactive figures.

    ```{widget} halfspace
    What the figure shows.
    ```

makes a figure that needs no script: a table of values, computed by the module while the
page is built, over the caption. Where scripts run, `book/_static/widgets/halfspace.js`
puts the interactive figure before the table. Both start from the same values, `START`.
A page loads the scripts of the figures that it has, and no others.
"""

import json
import re
from html import escape

import numpy as np
from docutils import nodes
from docutils.parsers.rst import Directive
from scipy.special import ndtr, ndtri

from lipsmooth.certify import ABSTAIN, certify_counts
from lipsmooth.evaluate import round_down
from lipsmooth.intervals import clopper_pearson_lower, clopper_pearson_upper
from lipsmooth.radii import radius_mono, radius_mono_exact, radius_mono_lipschitz
from lipsmooth.strategies import bucket_sizes

SHARED = ("numerics", "interface")
STRATEGIES = ("mono", "bonferroni", "cpm", "max-upper")


def image(name, selection, estimation, **more):
    """Return the votes of an image that a reader can choose."""
    return {"name": name, "selection": selection, "estimation": estimation, **more}


START = {
    "calculator": {
        "sigma": 0.25,
        "alpha": 0.001,
        "strategy": "max-upper",
        "images": [
            image(
                "a fair majority",
                [62, 21, 9, 5, 3, 0, 0, 0, 0, 0],
                [6120, 2203, 871, 512, 294, 0, 0, 0, 0, 0],
            ),
            image("all votes for one", [0, 100, 0, 0], [0, 100_000, 0, 0]),
            image("a plurality", [46, 18, 19, 17], [4590, 1830, 1800, 1780]),
            image("too close to call", [51, 49], [5030, 4970]),
            image("a tie", [50, 50, 0], [5000, 5000, 0]),
            image(
                "a thousand classes",
                [77, 5, 4],
                [78_123, 4031, 2986, 2504, 1860, 1496],
                classes=1000,
            ),
        ],
    },
    "halfspace": {"share": 0.8, "move": 0.5, "sigma": 0.25},
    "partition": {
        "alpha": 0.001,
        "sigma": 0.25,
        "images": [
            image(
                "spread over many classes",
                [6, 14, 3, 40, 9, 12, 8, 8],
                [633, 1388, 301, 4103, 922, 1164, 745, 744],
            ),
            image("a clear winner", [2, 3, 91, 0, 4, 0], [161, 322, 9141, 0, 376, 0]),
            image("two candidates", [44, 2, 50, 4], [4401, 196, 5011, 392]),
            image("all tied", [20, 20, 20, 20, 20], [2000, 2000, 2000, 2000, 2000]),
        ],
    },
    "lipschitz": {"score": 0.99, "sigma": 0.5, "lipschitz": 0.5},
}  # fmt: skip


class Widget(nodes.General, nodes.Element):
    """An interactive figure; its children are the caption."""


class WidgetDirective(Directive):
    """Place an interactive figure by its name; the content is its caption."""

    required_arguments = 1
    has_content = True

    def run(self):
        """Return the figure, with its caption parsed."""
        (name,) = self.arguments
        if name not in START:
            raise self.error(f"no widget {name!r}; there are {', '.join(START)}")
        figure = Widget(widget=name)
        self.state.nested_parse(self.content, self.content_offset, figure)
        return [figure]


def visit_widget(translator, node):
    """Begin the figure: values in a table, then the caption."""
    name = node["widget"]
    translator.body.append(
        f'<figure class="widget" data-widget="{name}" '
        f'data-start="{escape(json.dumps(START[name]))}">'
        f'<div class="widget-numbers">{TABLES[name](**START[name])}</div>'
        "<figcaption>"
    )


def depart_widget(translator, node):
    """End the figure."""
    translator.body.append("</figcaption></figure>")


def load_scripts(app, pagename, templatename, context, doctree):
    """Add to a page the scripts and the style of the figures that it has."""
    found = {node["widget"] for node in doctree.findall(Widget)} if doctree else set()
    if found:
        app.add_css_file("widgets/widgets.css")
        for name in (*SHARED, *sorted(found)):
            app.add_js_file(f"widgets/{name}.js", loading_method="defer")


# The tables, which say in a few numbers what the figures let one explore


def table(caption, head, rows):
    """Return a table in HTML; the first cell of each row is its heading."""
    top = "".join(f'<th scope="col">{symbols(cell)}</th>' for cell in head)
    body = ""
    for first, *rest in rows:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        body += f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>'
    return (
        f"<table><caption>{escape(caption)}</caption>"
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    )


def symbols(text):
    """Return text as HTML in which p_A and p_B are set as symbols."""
    return re.sub("p_([AB])", r"<i>p</i><sub>\1</sub>", escape(text))


def down(value, digits=4):
    """Return a number as text, rounded down."""
    return f"{round_down(value, digits):.{digits}f}"


def up(value, digits=4):
    """Return a number as text, rounded up."""
    return f"{-round_down(-value, digits):.{digits}f}"


def certify(votes, strategy, *, sigma, alpha):
    """Return the certificate of one image."""
    counts = [[votes[key]] for key in ("selection", "estimation")]
    return certify_counts(*counts, sigma=sigma, alpha=alpha, strategy=strategy)


def calculator_table(*, images, sigma, alpha, strategy):
    """Return the certificates of the first image by every strategy."""
    rows = []
    for name in STRATEGIES:
        c = certify(images[0], name, sigma=sigma, alpha=alpha)
        radius = down(c.radius[0]) if c.prediction[0] != ABSTAIN else "abstain"
        rows.append([name, down(c.p_a_lower[0], 5), up(c.p_b_upper[0], 5), radius])
    votes = ", ".join(map(str, images[0]["estimation"]))
    caption = f"Votes {votes}, at σ = {sigma:g} and α = {alpha:g}"
    return table(caption, ["strategy", "p_A ≥", "p_B ≤", "radius"], rows)


def halfspace_table(*, share, move, sigma):
    """Return the share left to the winner in a half-space, for some attacks."""
    edge = ndtri(share)
    moves = [0, 0.25, move, 0.75, edge, 1, 1.5, 2]
    rows = [[f"{r:.3f} σ", f"{ndtr(edge - r):.4f}"] for r in sorted(set(moves))]
    radius = down(radius_mono(share, sigma=sigma))
    caption = (
        f"Vote share of A in a half-space that has {share:g} of the votes at x. It "
        f"reaches one half at Φ⁻¹({share:g}) σ, for σ = {sigma:g} the radius {radius}."
    )
    return table(caption, ["attack r", "share left"], rows)


def buckets_of(selection):
    """Return the buckets of class partitioning, lists of classes."""
    votes = np.asarray(selection)
    order = np.argsort(-votes, kind="stable").tolist()
    single = int(bucket_sizes(votes[np.newaxis])[0])
    rest = [order[single:]] if single < len(order) else []
    return [[c] for c in order[:single]] + rest


def partition_table(*, images, sigma, alpha):
    """Return the buckets of the first image and their bounds."""
    votes = images[0]
    selection, estimation = map(np.array, (votes["selection"], votes["estimation"]))
    buckets = buckets_of(selection)
    rows = []
    for i, bucket in enumerate(buckets):
        k, level = estimation[bucket].sum(), alpha / len(buckets)
        bound = clopper_pearson_upper if i else clopper_pearson_lower
        value = bound(k, estimation.sum(), alpha=level)
        shown = f"p ≤ {up(value)}" if i else f"p ≥ {down(value)}"
        names = ", ".join(map(str, bucket))
        rows.append([names, str(selection[bucket].sum()), f"{k:,}", shown])
    c = certify(votes, "cpm", sigma=sigma, alpha=alpha)
    caption = (
        f"Buckets of the selection votes {', '.join(map(str, selection))}, and bounds "
        f"at the level α / {len(buckets)} for α = {alpha:g}. Radius at σ = {sigma:g}: "
        f"{down(c.radius[0])}"
    )
    return table(caption, ["bucket", "selection", "estimation", "bound"], rows)


def lipschitz_table(*, score, sigma, lipschitz):
    """Return three radii for some mean scores and Lipschitz constants."""
    rows = []
    for constant in (lipschitz / 2, lipschitz, 4 * lipschitz):
        known = {"sigma": sigma, "lipschitz": constant}
        for p in sorted({0.8, score, 0.999}):
            radii = (
                radius_mono_exact(p, **known),
                radius_mono_lipschitz(p, **known),
                radius_mono(p, sigma=sigma),
            )
            rows.append([f"{p:g}", f"{constant:g}", *map(down, radii)])
    head = ["p", "L", "exact", "published", "Cohen"]
    return table(f"Radius at σ = {sigma:g}, for a mean score p of A", head, rows)


TABLES = {
    "calculator": calculator_table,
    "halfspace": halfspace_table,
    "partition": partition_table,
    "lipschitz": lipschitz_table,
}


def setup(app):
    """Connect the directive, the figure and its scripts."""
    app.add_node(Widget, html=(visit_widget, depart_widget))
    app.add_directive("widget", WidgetDirective)
    app.connect("html-page-context", load_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
