"""The exercises: their checkers, the solutions in the chapters, and both editions."""

import ast
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import warnings
import zipfile
from types import FunctionType

import assignments
import jupytext
import nbformat
import numpy as np
import pytest
import solutions
import torch
import yaml
from build import Book
from conftest import ROOT
from execution import BuildError, Notebook
from scipy.stats import binom, binomtest

from lipsmooth.budget import least_votes
from lipsmooth.certify import certify_counts
from lipsmooth.denoise import matching_timestep
from lipsmooth.empirical import outvoted
from lipsmooth.grid import Grid
from lipsmooth.intervals import clopper_pearson_lower, empirical_bernstein
from lipsmooth.lattice import counts_behind
from lipsmooth.radii import max_radius, radius_mono_exact
from lipsmooth.ramp import smoothed_lipschitz
from lipsmooth.strategies import bucket_sizes, max_upper

with warnings.catch_warnings():  # ipylab declares its traits as traitlets 4 did
    warnings.simplefilter("ignore")
    from otter.test_files import ExceptionTestFile

ASSIGNMENTS = assignments.sources(ROOT)
SOURCES = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.md"))
CHAPTERS = [Notebook(source) for source in SOURCES]

each_assignment = pytest.mark.parametrize(
    "assignment", ASSIGNMENTS, ids=lambda a: a.stem
)
each_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.stem)


def wrong_answers(stem):
    """Return the functions with a docstring, which is what the checker must say."""
    found = runpy.run_path(str(ROOT / "tests" / "wrong_answers" / f"{stem}.py"))
    functions = [f for f in found.values() if isinstance(f, FunctionType)]
    return [f for f in functions if f.__module__ == "<run_path>" and f.__doc__]


def asked_for(assignment, mistake):
    """Return the function that a wrong answer stands for: it has its arguments."""

    def arguments(code):
        return code.co_varnames[: code.co_argcount]

    found = []
    for name, question in assignment.questions().items():
        environment = {}
        exec(question["solution"].source, environment)
        if arguments(environment[name].__code__) == arguments(mistake.__code__):
            found.append(name)
    (name,) = found
    return name


MISTAKES = [
    pytest.param(assignment, mistake, id=f"{assignment.stem}-{mistake.__name__}")
    for assignment in ASSIGNMENTS
    for mistake in wrong_answers(assignment.stem)
]


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Return the folder of all assignments, built in a checkout of nothing else."""
    root = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "book" / "exercises", root / "book" / "exercises")
    for name in ("requirements.txt", "book/assignments.py"):
        shutil.copy(ROOT / name, root / name)
    return assignments.build(root)


def defined(path):
    """Return what the cells of a notebook define, those of otter left out."""
    environment = {}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and "grader" not in cell.source:
            exec(cell.source, environment)
    return environment


def judge(source, environment):
    """Run the checks in a text; return whether all passed, and the report."""
    checks = ExceptionTestFile.from_string(source)
    checks.run(environment)
    return checks.passed_all, checks.summary()


def check(path, name, environment):
    """Let the checks in a notebook judge, as `grader.check` does there."""
    metadata = nbformat.read(path, as_version=4).metadata
    return judge(metadata["otter"]["tests"][name], environment)


def grade(archive, name, environment):
    """Let the grader's checks judge, hidden ones included."""
    with zipfile.ZipFile(archive) as file:
        return judge(file.read(f"tests/{name}.py").decode(), environment)


# The checkers


@each_assignment
def test_the_solution_passes_its_checks(made, assignment):
    solved = defined(made / "solution" / f"{assignment.stem}.ipynb")
    for name in assignment.questions():
        notebook = made / "student" / f"{assignment.stem}.ipynb"
        archive = made / "autograder" / f"{assignment.stem}.zip"
        for passed, report in (
            check(notebook, name, solved),
            grade(archive, name, solved),
        ):
            assert passed, report


@each_assignment
def test_the_starter_code_does_not(made, assignment):
    path = made / "student" / f"{assignment.stem}.ipynb"
    for name in assignment.questions():
        passed, report = check(path, name, defined(path))
        assert not passed
        assert "returned" in report


# What NumPy warns of, a student has to notice by himself.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("assignment", "mistake"), MISTAKES)
def test_a_likely_mistake_is_named(made, assignment, mistake):
    environment = defined(made / "solution" / f"{assignment.stem}.ipynb")
    name = asked_for(assignment, mistake)
    environment[name] = mistake
    path = made / "student" / f"{assignment.stem}.ipynb"
    passed, report = check(path, name, environment)
    assert not passed
    assert mistake.__doc__ in report


@each_assignment
def test_three_mistakes_are_known_and_students_do_not_get_them(made, assignment):
    mistakes = wrong_answers(assignment.stem)
    names = [asked_for(assignment, mistake) for mistake in mistakes]
    assert all(names.count(name) >= 3 for name in assignment.questions())
    text = (made / "student" / f"{assignment.stem}.ipynb").read_text()
    assert not [m.__name__ for m in mistakes if f"def {m.__name__}" in text]


@each_assignment
def test_a_student_gets_neither_the_answer_nor_the_hidden_checks(made, assignment):
    student = (made / "student" / f"{assignment.stem}.ipynb").read_text()
    solution = (made / "solution" / f"{assignment.stem}.ipynb").read_text()
    assert "BEGIN SOLUTION" not in student
    assert "BEGIN SOLUTION" in solution
    for question in assignment.questions().values():
        names = [assignments.function_name(cell) for cell in question["hidden"]]
        assert names
        assert not [name for name in names if name in student]


@each_assignment
def test_sources_keep_to_the_style(assignment):
    for cell in assignment.node.cells:
        if cell.cell_type == "code":
            assert max(map(len, cell.source.splitlines())) <= 88


def test_assignments_are_made_once_and_always_the_same(made, tmp_path):
    paths = sorted(made.glob("*/*.ipynb"))
    before = [path.stat().st_mtime_ns for path in paths]
    root = made.parents[1]
    assert assignments.build(root) == made
    assert [path.stat().st_mtime_ns for path in paths] == before
    shutil.copytree(root / "book", tmp_path / "book")
    shutil.copy(root / "requirements.txt", tmp_path)
    again = assignments.build(tmp_path)
    texts = [(again / p.relative_to(made)).read_bytes() for p in paths]
    assert texts == [path.read_bytes() for path in paths]


def test_a_course_can_grade_with_them(made, tmp_path):
    """As a teacher would, on the command line: one right answer and one wrong."""
    right = made / "solution" / "04_lower_bound.ipynb"
    wrong = tmp_path / "04_lower_bound.ipynb"
    text = right.read_text().replace("ppf(alpha,", "ppf(alpha / 2,")
    wrong.write_text(text)
    archive = str(made / "autograder" / "04_lower_bound.zip")
    command = [sys.executable, "-m", "otter", "run", "-a", archive, "-o", str(tmp_path)]
    scores = []
    for path in (right, wrong):
        done = subprocess.run([*command, str(path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        results = json.loads((tmp_path / "results.json").read_text())
        scores.append([t["score"] for t in results["tests"] if "score" in t])
    assert sum(scores[0]) == 1
    assert 0 < sum(scores[1]) < 1


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (["check"], "a check before any solution"),
        (["solution"], "nothing checks f"),
        ([], "no cell is tagged `solution`"),
    ],
)
def test_an_incomplete_assignment_is_rejected(tmp_path, tags, message):
    path = tmp_path / "01_a.md"
    node = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("def f(): ...", metadata={"tags": tags})]
    )
    jupytext.write(node, path, fmt="md:myst")
    with pytest.raises(BuildError, match=message):
        assignments.Assignment(path).questions()


# Solutions against the module, which was derived and tested on its own


def answer(made, stem, name):
    return defined(made / "solution" / f"{stem}.ipynb")[name]


def test_bounds_are_those_of_the_module(made):
    bound = answer(made, "04_lower_bound", "lower_bound")
    for k, n, alpha in ((0, 5, 0.1), (7, 9, 0.05), (990, 1000, 0.001), (10, 10, 1e-6)):
        assert bound(k, n, alpha) == pytest.approx(
            clopper_pearson_lower(k, n, alpha=alpha)
        )
    scores = np.random.default_rng(1).beta(5, 2, size=300)
    mean, variance = scores.mean(), scores.var(ddof=1)
    expected = empirical_bernstein(mean, variance, 300, alpha=0.01).lower
    bernstein = answer(made, "12_bernstein", "bernstein_lower")
    assert bernstein(scores, 0.01) == pytest.approx(expected)


def test_certificates_are_those_of_the_module(made):
    certify = answer(made, "03_certify", "certify")
    two_bounds = answer(made, "05_two_bounds", "two_bounds")
    rng = np.random.default_rng(2)
    for p in rng.dirichlet([3, 1, 1, 1], size=20):
        votes = rng.multinomial(50, p), rng.multinomial(2000, p)
        rows = tuple(part[np.newaxis] for part in votes)
        found = certify_counts(*rows, sigma=0.5, alpha=0.01, strategy="mono")
        label, radius = certify(*votes, 0.5, 0.01)
        assert (label, radius) == (found.prediction[0], pytest.approx(found.radius[0]))
        top = np.array([votes[0].argmax()])
        expected = [part[0] for part in max_upper(rows[0], top, rows[1], 0.01)]
        assert two_bounds(*votes, 0.01) == pytest.approx(expected)


def test_buckets_are_those_of_the_module(made):
    buckets = answer(made, "06_buckets", "buckets")
    votes = np.random.default_rng(3).multinomial(60, [0.4, *[0.06] * 10], size=50)
    for row, alone in zip(votes, bucket_sizes(votes), strict=True):
        found = buckets(list(row))
        assert len(found) == alone + (alone < len(row))
        assert all(len(bucket) == 1 for bucket in found[:alone])


def test_lipschitz_answers_are_those_of_the_module(made):
    constant = answer(made, "10_smoothed_constant", "smoothed_constant")
    radius = answer(made, "11_exact_radius", "exact_radius")
    for s, lip in ((0.1, 0.5), (0.5, 3.0), (2.0, 0.1)):
        expected = smoothed_lipschitz(sigma=s, lipschitz=lip, score_range=2.0)
        assert constant(s, lip, 2.0) == pytest.approx(expected)
        for p in (0.51, 0.9, 0.999):
            expected = radius_mono_exact(p, sigma=s, lipschitz=lip)
            assert radius(p, s, lip) == pytest.approx(expected, rel=1e-6)
    assert constant(0.5, np.inf) == pytest.approx(smoothed_lipschitz(sigma=0.5))


def test_timesteps_and_verdicts_are_those_of_the_module(made):
    timestep = answer(made, "13_timestep", "timestep")
    schedule = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    for s in (0.12, 0.25, 0.5, 1.0):
        expected = matching_timestep(torch.tensor(schedule), sigma=s)
        assert timestep(s, schedule) == expected
    broken = answer(made, "16_outvoted", "outvoted")
    for own, rival in ((0, 0), (0, 5), (30, 50), (48, 52), (40, 64)):
        assert broken(own, rival, 0.02) == outvoted([[own, rival]], [0], alpha=0.02)[0]


def test_chances_and_differences_are_those_of_the_module_and_of_scipy(made):
    chance = answer(made, "17_three_points", "chance")
    for p, n, r, s in ((0.9, 100, 0.2, 0.25), (0.99, 1000, 0.5, 0.25), (1, 9, 1, 0.5)):
        fewest = least_votes(r, n, sigma=s, alpha=0.01)
        expected = binom.sf(fewest - 1, n, p)
        assert chance(p, n, r, s, 0.01) == pytest.approx(expected)
    p_value = answer(made, "17_three_points", "p_value")
    first, second = np.random.default_rng(4).random((2, 60)) < [[0.7], [0.5]]
    wins, losses = np.sum(first > second), np.sum(first < second)
    expected = binomtest(int(wins), int(wins + losses)).pvalue
    assert p_value(first, second) == pytest.approx(expected)


def test_judge_and_slab_are_those_of_scipy_and_of_the_suite(made, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests" / "soundness")
    from known import Layers

    unsound = answer(made, "23_judge_and_slab", "unsound")
    for k in range(50, 100):
        p_value = binomtest(k, 1000, 0.05, alternative="greater").pvalue
        assert unsound(k, 1000, 0.05, 20, 0.01) == (p_value < 0.01 / 20)
    radius = answer(made, "23_judge_and_slab", "true_radius")
    for left, right, sigma in ((0.5, 0.9, 0.5), (0.4, 0.4, 0.4), (3, 0.7, 0.6)):
        slab = Layers([-left, right], [[1, 0], [0, 1], [1, 0]], sigma)
        assert radius(left, right, sigma) == pytest.approx(slab.radii[1], abs=1e-9)


def test_votes_behind_a_print_are_those_of_the_module(made):
    behind = answer(made, "18_reading_a_row", "votes_behind")
    for radius in (0.25, 0.5, 0.9, 0.955, 0.978):
        found = counts_behind(radius, sigma=0.25, n=100_000, alpha=0.01)
        assert behind(radius, 0.001, 0.25, 100_000, 0.01) == tuple(found)


def test_noise_on_the_grid_is_that_of_the_module(made):
    probability = answer(made, "20_grid_and_precision", "noise_probability")
    grid = Grid(sigma=0.25, levels=16)
    k = (np.arange(len(grid.pmf)) - len(grid.pmf) // 2)[1:-1]  # the ends hold tails
    found = [probability(step, 0.25, 16) for step in k]
    np.testing.assert_allclose(found, grid.pmf[1:-1], rtol=1e-9)


@pytest.mark.statistical
def test_the_error_of_looks_is_that_of_simulated_looks(made):
    error = answer(made, "21_units_and_looks", "total_error")
    votes = np.random.default_rng(5).binomial(50, 0.5, size=(20_000, 6)).cumsum(axis=1)
    n = 50 * np.arange(1, 7)
    stopped = (clopper_pearson_lower(votes, n, alpha=0.05) > 0.5).any(axis=1).sum()
    assert binomtest(int(stopped), 20_000, error(6, 50, 0.05)).pvalue > 1e-3
    assert binomtest(int(stopped), 20_000, error(5, 50, 0.05)).pvalue < 1e-3


def test_impossible_entries_are_those_beyond_the_module(made):
    impossible = answer(made, "22_proofreading", "impossible")
    sigmas, radii = np.array([0.12, 0.5]), np.array([0.3, 0.38, 0.39, 1.5, 1.7])
    beyond = radii > max_radius(10_000, sigma=sigmas, alpha=0.001)[:, np.newaxis]
    found = impossible(np.full((2, 5), 0.1), sigmas, radii, 10_000, 0.001)
    assert np.array_equal(found, beyond)


# The chapters


def labels(chapter, kind):
    text = chapter.source.read_text(encoding="utf-8")
    found = re.findall(rf"\{{{kind}\}}(.*)\n(?::label: (\S+))?", text)
    return [name or title.strip() for title, name in found]


@each_chapter
def test_a_chapter_has_four_exercises_and_solves_them_all(chapter):
    asked, solved = (
        labels(chapter, "exercise"),
        re.findall(r"\{solution\} (\S+)", chapter.source.read_text(encoding="utf-8")),
    )
    assert len(asked) >= 4
    assert solved == asked


def test_the_five_discussion_questions_of_the_lecture_are_asked():
    said = "(A discussion question of the lecture {cite:p}`lecture-cs6820`.)"
    texts = [c.source.read_text(encoding="utf-8") for c in CHAPTERS]
    assert sum(text.count(said) for text in texts) == 5


@each_assignment
def test_its_chapter_links_to_an_assignment(assignment):
    (chapter,) = [c for c in CHAPTERS if c.stem[:2] == assignment.stem[:2]]
    link = f"</_build/exercises/student/{assignment.stem}.ipynb>"
    assert chapter.source.read_text(encoding="utf-8").count(link) == 1


def test_every_chapter_has_an_assignment():
    numbers = [assignment.stem[:2] for assignment in ASSIGNMENTS]
    assert numbers == [chapter.stem[:2] for chapter in CHAPTERS]


def test_the_chapters_on_evidence_and_pitfalls_ask_two_questions():
    last = [a for a in ASSIGNMENTS if a.stem[:2] >= "17"]
    assert all(len(assignment.questions()) >= 2 for assignment in last)


# Code that solutions only show

SHOWN = """\
````{{solution}} ex-a
:class: dropdown

```python
{code}
```
````
"""


def run_shown(code):
    """Run the cells that a solution with this code would add to its chapter."""
    cell = nbformat.v4.new_markdown_cell(SHOWN.format(code=code))
    environment = {}
    for added in solutions.cells(nbformat.v4.new_notebook(cells=[cell])):
        exec(added.source, environment)
    return environment


@pytest.mark.parametrize(
    "code",
    [
        "2 / 3  # 0.67",
        "2 / 3  # 0.6666…",
        "x = 2e5 + 0.5  # 200,000.5: about",
        "import numpy as np\nnp.array([1.25, 7])  # 1.25, and more",
        "1e34  # 1e34 votes",
        "1  # class 2 is no value",
    ],
)
def test_values_in_comments_are_compared(code):
    assert "agree" in run_shown(code)


@pytest.mark.parametrize("code", ["2 / 3  # 0.66", "2 / 3  # 0.668…", "x = 3  # 4: no"])
def test_a_wrong_value_is_noticed(code):
    with pytest.raises(AssertionError, match="the solution says"):
        run_shown(code)


def test_code_of_exercises_and_of_other_text_is_not_run():
    text = "```python\n1 / 0\n```\n\n````{exercise} A\n```python\n1 / 0\n```\n````\n"
    node = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    assert solutions.cells(node) == []


TINY = """\
---
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# Tiny

```{code-cell} ipython3
:tags: [parameters]

seed = 0  # of nothing
device = "cpu"  # unused
alpha = 0.001  # unused
n = 3  # what is halved
```

## Exercises

````{exercise} Twins
:label: ex-tiny

Halve it, unmistakably.
````

````{solution} ex-tiny
:class: dropdown

Behold the quokka, in prose.

```python
quokka_shown = n / 2
quokka_shown  # HALF
```
````

```{code-cell} ipython3
quokka_cell = n / 2
print(f"quokka {quokka_cell}")
```

## Claims checked on this page

Nothing more.
"""


def tiny_book(folder, edition="instructor", half="1.5"):
    """Return a book of one chapter with one exercise, with the real book's tools."""
    shutil.copytree(
        ROOT / "book",
        folder / "book",
        ignore=shutil.ignore_patterns("__pycache__", "*.md"),
    )
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    files = {
        "_config.yml": yaml.safe_dump(config),
        "_toc.yml": "format: jb-book\nroot: book/index\n"
        "parts: [{caption: A, chapters: [{file: notebooks/01_tiny.ipynb}]}]",
        "book/index.md": "# Start\n",
        "genindex.md": "",
        "notebooks/01_tiny.md": TINY.replace("HALF", half),
        "notebooks/params/smoke.yml": "",
        "lipsmooth/__init__.py": "",
        "requirements.txt": "",
        "constraints.txt": "",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return Book(folder, "smoke", edition)


def test_what_solutions_show_runs_with_the_chapter_and_leaves_no_trace(tmp_path):
    book = tiny_book(tmp_path)
    book.execute()
    text = book.executed_path(book.notebooks()[0]).read_text()
    assert "quokka 1.5" in text
    assert solutions.RUN not in text
    path = tmp_path / "notebooks" / "01_tiny.md"
    path.write_text(path.read_text().replace("# 1.5", "# 1.6"))
    with pytest.raises(BuildError, match=r"the solution says 1\.6, and it is 1\.5"):
        book.execute()


# Editions


@each_chapter
def test_without_solutions_the_exercises_and_the_rest_remain(chapter):
    plain = solutions.without(chapter.node)
    text = nbformat.writes(plain)
    assert "{solution}" not in text
    assert len(solutions.texts(chapter.node)) >= len(labels(chapter, "exercise"))
    for label in labels(chapter, "exercise"):
        assert f":label: {label}" in text
    gone = [c for c in chapter.node.cells if c.id not in {k.id for k in plain.cells}]
    assert not [c for c in gone if "ledger" in c.source]


@each_chapter
def test_what_remains_uses_nothing_that_only_a_solution_defines(chapter):
    plain = solutions.without(chapter.node)
    kept = {cell.id for cell in plain.cells}

    def walk(cells):
        sources = [cell.source for cell in cells if cell.cell_type == "code"]
        return [node for text in sources for node in ast.walk(ast.parse(text))]

    def made_and_used(cells):
        names = [node for node in walk(cells) if isinstance(node, ast.Name)]
        used = {name.id for name in names if isinstance(name.ctx, ast.Load)}
        made = {name.id for name in names if isinstance(name.ctx, ast.Store)}
        for node in walk(cells):  # arguments, functions and imports have names, too
            made.add(getattr(node, "arg", getattr(node, "name", None)))
        return made, used

    gone = [cell for cell in chapter.node.cells if cell.id not in kept]
    made, used = made_and_used(plain.cells)
    assert not (made_and_used(gone)[0] - made) & used


def test_the_examination_is_not_for_students():
    text = (ROOT / "book" / "teaching.md").read_text(encoding="utf-8")
    assert "A good answer contains" in text
    plain = solutions.page_without(text)
    assert "A good answer contains" not in plain
    assert "## Grading with the exercise notebooks" in plain


def everything(folder):
    """Return the text of every file of a built book."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {p: p.read_bytes().decode("utf-8", "replace") for p in files}


@pytest.mark.parametrize("edition", ["instructor", "student"])
def test_the_student_edition_has_no_solution_in_any_file(tmp_path, edition):
    book = tiny_book(tmp_path, edition)
    book.build()
    written = everything(book.html_dir)
    assert len(written) > 20
    page = written[book.html_dir / "notebooks" / "01_tiny.html"]
    assert "Halve it, unmistakably" in page
    with_solution = {path.suffix for path, text in written.items() if "quokka" in text}
    if edition == "student":
        assert with_solution == set()
    else:  # the control: they would be found in pages, downloads and the index
        assert {".html", ".ipynb", ".js"} <= with_solution


def test_editions_and_presets_are_kept_apart(tmp_path):
    pairs = [(p, e) for p in ("book", "smoke") for e in ("instructor", "student")]
    assert len({Book(tmp_path, *pair).html_dir for pair in pairs}) == 4
    assert len({Book(tmp_path, *pair).executed_dir for pair in pairs}) == 2


def test_an_unknown_edition_is_an_error_through_make():
    command = ["make", "-o", ".venv/.installed", "book", "EDITION=teacher"]
    command += [f"BIN={os.path.dirname(sys.executable)}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert (
        "edition must be one of ('instructor', 'student'), got 'teacher'" in done.stderr
    )
