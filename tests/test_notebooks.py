"""The notebooks: pairs, form, parameters, execution and its cache."""

import ast
import os
import shutil
import subprocess
import sys

import nbformat
import pytest
import yaml
from build import Book, run_one
from conftest import ROOT
from execution import PRESETS, BuildError, Notebook, Workshop

SOURCES = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.md"))
NOTEBOOKS = [Notebook(source) for source in SOURCES]

each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda n: n.stem)


def code_cells(notebook):
    return [cell for cell in notebook.node.cells if cell.cell_type == "code"]


def tagged(notebook, tag):
    return [c for c in code_cells(notebook) if tag in c.metadata.get("tags", [])]


# Form


@each_notebook
def test_the_pair_agrees(notebook):
    assert notebook.pair_agrees(), "run: python book/build.py generate"


def test_every_notebook_has_a_source_and_a_place_in_the_book():
    pairs = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert pairs == {n.stem for n in NOTEBOOKS} == {n.stem for n in Book().notebooks()}


@each_notebook
def test_nothing_computed_is_committed(notebook):
    node = nbformat.read(notebook.pair, as_version=4)
    assert not [c for c in node.cells if c.get("outputs") or c.get("execution_count")]
    assert set(node.metadata) == {"kernelspec", "language_info"}


@each_notebook
def test_one_cell_of_literals_holds_the_parameters(notebook):
    (cell,) = tagged(notebook, "parameters")
    for statement in ast.parse(cell.source).body:
        assert isinstance(statement, ast.Assign)
        ast.literal_eval(statement.value)
    lines = [line for line in cell.source.splitlines() if "=" in line]
    assert all("#" in line for line in lines), "say what each parameter means"
    assert {"seed", "device", "alpha", "n"} <= notebook.parameters({}).keys()


@each_notebook
def test_cells_and_their_functions_are_short(notebook):
    for cell in code_cells(notebook):
        if "parameters" in cell.metadata.get("tags", []):
            continue  # a table rather than code
        tree = ast.parse(cell.source)
        imports = [s for s in tree.body if isinstance(s, ast.Import | ast.ImportFrom)]
        skipped = {n for s in imports for n in range(s.lineno, s.end_lineno + 1)}
        lines = [
            line
            for number, line in enumerate(cell.source.splitlines(), 1)
            if number not in skipped and line.strip() and line.strip()[0] != "#"
        ]
        plots = "mystnb" in cell.metadata or "plt." in cell.source
        assert len(lines) <= (25 if plots else 15), cell.source
        for part in ast.walk(tree):
            if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
                body = cell.source.splitlines()[
                    part.body[0].lineno - 1 : part.end_lineno
                ]
                assert len(list(filter(str.strip, body))) <= 5, cell.source


@each_notebook
def test_the_chapter_ends_with_its_claims(notebook):
    last = code_cells(notebook)[-1]
    assert last.source.splitlines()[-1] == "ledger"
    headings = [
        line
        for cell in notebook.node.cells
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
        if line.startswith("## ")
    ]
    assert headings[-1] == "## Claims checked on this page"


# Parameters


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_name_only_what_exists(preset):
    assert [n.stem for n, _ in Book(preset=preset).parameters()]


def test_smoke_is_the_smallest_preset():
    smoke, book, paper = (dict(_by_stem(preset)) for preset in PRESETS)
    for stem in book:
        assert smoke[stem]["n"] <= book[stem]["n"] <= paper[stem]["n"]


def _by_stem(preset):
    return [(n.stem, values) for n, values in Book(preset=preset).parameters()]


def test_a_misspelt_parameter_fails_through_make():
    command = ["make", "-o", ".venv/.installed", "notebook"]
    command += [f"BIN={os.path.dirname(sys.executable)}"]
    command += [f"NOTEBOOK={NOTEBOOKS[0].stem}", "P=-p alhpa 0.05"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"{NOTEBOOKS[0].stem} has no parameter 'alhpa'; it has " in done.stderr
    assert "alpha" in done.stderr


# Execution of the book's own notebooks


@pytest.mark.xdist_group("book")
@each_notebook
def test_the_smoke_preset_executes(notebook, smoke_book):
    node = nbformat.read(smoke_book.executed_path(notebook), as_version=4)
    outputs = [o for cell in node.cells for o in cell.get("outputs", [])]
    assert outputs
    # A warning or a progress bar has no place on a page.
    assert not [o.text for o in outputs if o.get("name") == "stderr"]
    record = node.metadata["lipsmooth"]
    values = dict(_by_stem("smoke"))[notebook.stem]
    assert record["parameters"] == values
    assert (record["seed"], record["device"]) == (values["seed"], values["device"])
    assert {"key", "preset", "commit", "started", "seconds"} < record.keys()
    assert {"python", "numpy", "scipy", "torch"} < record["versions"].keys()


def papermill(notebook, tmp_path, folder):
    """Run papermill as a reader would, at α = 0.05 and otherwise smoke's size."""
    values = dict(_by_stem("smoke"))[notebook.stem]
    (tmp_path / "smoke.yml").write_text(yaml.safe_dump(values))
    shop = Workshop(ROOT, "smoke")
    source = os.path.relpath(notebook.pair, folder)
    command = [sys.executable, "-m", "papermill", source, str(tmp_path / "out.ipynb")]
    command += ["-f", str(tmp_path / "smoke.yml"), "-p", "alpha", "0.05"]
    environment = {**os.environ, **shop.environment}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert '"alpha": 0.05' in (tmp_path / "out.ipynb").read_text()


@pytest.mark.xdist_group("book")
@each_notebook
def test_another_alpha_works_from_the_root(notebook, smoke_book, tmp_path):
    papermill(notebook, tmp_path, ROOT)


@pytest.mark.xdist_group("book")
def test_another_alpha_works_from_the_notebooks_folder(smoke_book, tmp_path):
    papermill(NOTEBOOKS[0], tmp_path, ROOT / "notebooks")


# The machinery, on a book of one page

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
n = 3  # what is printed
```

```{code-cell} ipython3
print(1 / n)
```
"""


def tiny_book(folder):
    """Return a book of one page in a folder of its own."""
    files = {
        "_toc.yml": "root: i\nparts: [{chapters: [{file: notebooks/01_tiny.ipynb}]}]",
        "notebooks/01_tiny.md": TINY,
        "notebooks/params/smoke.yml": "",
        "notebooks/logs/votes.csv": "1,2",
        "notebooks/data/facts.csv": "1,2",
        "benchmarks/results.json": "[1]",
        "tests/soundness/known.py": "",
        "lipsmooth/__init__.py": "",
        "requirements.txt": "",
        "constraints.txt": "",
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name in (
        "build.py",
        "execution.py",
        "finish.py",
        "presets.py",
        "solutions.py",
    ):
        (folder / "book").mkdir(exist_ok=True)
        shutil.copy(ROOT / "book" / name, folder / "book" / name)
    return Book(folder, "smoke")


@pytest.fixture
def tiny(tmp_path):
    return tiny_book(tmp_path)


@pytest.fixture(scope="module")
def executed_tiny(tmp_path_factory):
    book = tiny_book(tmp_path_factory.mktemp("tiny"))
    book.execute()
    return book


def test_execution_happens_once(tiny):
    assert tiny.execute() == ["01_tiny"]
    assert tiny.execute() == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("notebooks/01_tiny.md", TINY.replace("1 / n", "2 / n")),
        ("notebooks/params/smoke.yml", "01_tiny: {n: 4}"),
        ("notebooks/logs/votes.csv", "1,3"),
        ("notebooks/data/facts.csv", "1,3"),
        ("benchmarks/results.json", "[2]"),
        ("tests/soundness/known.py", "new = True"),
        ("lipsmooth/__init__.py", "new = True"),
        ("requirements.txt", "numpy==0"),
        ("constraints.txt", "numpy==0"),
    ],
)
def test_whatever_a_result_depends_on_makes_it_stale(executed_tiny, name, text):
    path = executed_tiny.root / name
    before = path.read_text()
    path.write_text(text)
    assert [task.stem for task in executed_tiny.stale()] == ["01_tiny"]
    path.write_text(before)
    assert executed_tiny.stale() == []


def test_presets_are_kept_apart(tiny):
    (tiny.root / "notebooks/params/paper.yml").write_text("01_tiny: {n: 4}")
    tiny.execute()
    paper = Book(tiny.root, "paper")
    paper.execute()
    texts = [b.executed_path(b.notebooks()[0]).read_text() for b in (tiny, paper)]
    assert "0.3333333333333333" in texts[0]
    assert "0.25" in texts[1]


def test_generation_is_deterministic_and_happens_once(tiny):
    (notebook,) = tiny.generate()
    first = notebook.pair.read_text()
    assert tiny.generate() == []
    notebook.pair.unlink()
    (again,) = tiny.generate()
    assert again.pair.read_text() == first
    assert '"id": "cell-002"' in first


def test_formatted_code_goes_back_into_the_source(tiny):
    (notebook,) = tiny.generate()
    text = notebook.pair.read_text().replace("print(1 / n)", "print(1 /  n)")
    notebook.pair.write_text(text)
    assert not notebook.pair_agrees()
    tiny.adopt()
    assert "print(1 /  n)" in notebook.source.read_text()
    assert Notebook(notebook.source).pair_agrees()


def test_an_outdated_pair_is_noticed(tiny):
    (notebook,) = tiny.generate()
    notebook.source.write_text(TINY.replace("1 / n", "2 / n"))
    assert not Notebook(notebook.source).pair_agrees()


def test_one_notebook_takes_the_preset_and_what_is_given(tiny, capsys):
    tiny.generate()
    (tiny.root / "notebooks/params/smoke.yml").write_text("01_tiny: {n: 4, alpha: 0.1}")
    run_one(tiny, "01_tiny", [("alpha", "0.05")])
    node = nbformat.read(tiny.build_dir / "notebooks/01_tiny.ipynb", as_version=4)
    parameters = node.metadata["lipsmooth"]["parameters"]
    assert (parameters["n"], parameters["alpha"], parameters["seed"]) == (4, 0.05, 0)
    assert [o.text for c in node.cells for o in c.get("outputs", [])] == ["0.25\n"]
    assert "01_tiny" in capsys.readouterr().out
    with pytest.raises(BuildError, match="no notebook named '02_huge'; there are 01_t"):
        run_one(tiny, "notebooks/02_huge.md", [])


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        ("01_tiny: {m: 4}", "01_tiny has no parameter 'm'; it has seed, device"),
        ("02_huge: {n: 4}", "no notebook named 02_huge; _toc.yml has 01_tiny"),
    ],
)
def test_a_preset_that_names_what_is_not_there_is_rejected(tiny, preset, message):
    (tiny.root / "notebooks/params/smoke.yml").write_text(preset)
    with pytest.raises(BuildError, match=message):
        tiny.execute()


def test_parameters_must_be_literals(tiny):
    path = tiny.root / "notebooks/01_tiny.md"
    path.write_text(TINY.replace("n = 3 ", "n = 3 * seed "))
    with pytest.raises(BuildError, match="01_tiny: parameters must be literals"):
        tiny.execute()


def test_an_unknown_preset_is_rejected():
    with pytest.raises(BuildError, match=r"preset must be one of .* got 'smoky'"):
        Book(preset="smoky")


def test_a_missing_source_is_named(tiny):
    (tiny.root / "notebooks/01_tiny.md").unlink()
    with pytest.raises(BuildError, match=r"01_tiny\.md is in _toc\.yml and does not"):
        tiny.execute()


def test_a_cell_that_raises_stops_the_build_and_leaves_no_result(tiny):
    (tiny.root / "notebooks/params/smoke.yml").write_text("01_tiny: {n: 0}")
    command = [sys.executable, "book/build.py", "execute", "--preset", "smoke"]
    done = subprocess.run(command, cwd=tiny.root, capture_output=True, text=True)
    assert done.returncode == 1
    assert "01_tiny, cell 4, raised ZeroDivisionError" in done.stderr
    assert "print(1 / n)" in done.stderr
    assert "division by zero" in done.stderr
    assert "FAILED 01_tiny" in done.stdout
    assert not list(tiny.executed_dir.glob("*"))


def test_an_interrupted_run_leaves_the_old_result(tiny):
    tiny.execute()
    path = tiny.executed_path(tiny.notebooks()[0])
    before = path.read_text()
    (tiny.root / "notebooks/params/smoke.yml").write_text("01_tiny: {n: 0}")
    with pytest.raises(BuildError):
        tiny.execute()
    assert path.read_text() == before
