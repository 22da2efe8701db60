"""Assignments with a checker, for otter-grader, from the sources in `book/exercises/`.

A source is a notebook in MyST whose cells are tagged. `solution` marks a cell that
defines one function, its answer between `# BEGIN SOLUTION` and `# END SOLUTION`; the
cells tagged `check` after it hold one function each, which otter calls with what the
student has defined, and those tagged `hidden` are the same and stay with the grader.
From these `build` writes, under `_build/exercises/`:

    student/NN_name.ipynb      what a student gets: starter code and the checks
    solution/NN_name.ipynb     the same with the answers
    autograder/NN_name.zip     what `otter run`, `otter grade` and Gradescope want
"""

import ast
import shutil
import tempfile
from pathlib import Path

import jupytext
import nbformat
import yaml
from execution import BuildError, digest_files

KINDS = ("student", "solution", "autograder")
# The checkers and the answers need no more than these; a grader installs them.
REQUIRED = ("numpy", "scipy")


class Assignment:
    """One source and what follows from it."""

    def __init__(self, source):
        self.source = Path(source)
        self.stem = self.source.stem
        self.node = jupytext.read(self.source)

    def questions(self):
        """Return, by the name of the function asked for, its solution and checks."""
        found = {}
        for cell in self.node.cells:
            tag = role(cell)
            if tag == "solution":
                name = function_name(cell)
                found[name] = {"solution": cell, "check": [], "hidden": []}
            elif tag:
                if not found:
                    raise BuildError(f"{self.stem}: a check before any solution")
                found[name][tag].append(cell)
        for name, question in found.items():
            if not question["check"]:
                raise BuildError(f"{self.stem}: nothing checks {name}")
        if not found:
            raise BuildError(f"{self.stem}: no cell is tagged `solution`")
        return found

    def master(self, pins):
        """Return the notebook in the form that `otter assign` takes."""
        settings = {
            "name": self.stem,
            "export_cell": False,
            "tests": {"ok_format": False},
            "requirements": pins,
        }
        questions = self.questions()
        cells = [marker("ASSIGNMENT CONFIG", settings)]
        for cell in self.node.cells:
            if role(cell) == "solution":
                name = function_name(cell)
                question = questions[name]
                cells += [marker("BEGIN QUESTION", {"name": name})]
                cells += [marker("BEGIN SOLUTION"), plain(cell), marker("END SOLUTION")]
                cells += [marker("BEGIN TESTS")]
                cells += [test(check, hidden=False) for check in question["check"]]
                cells += [test(check, hidden=True) for check in question["hidden"]]
                cells += [marker("END TESTS"), marker("END QUESTION")]
            elif role(cell) is None:
                cells.append(plain(cell))
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def role(cell):
    """Return what a cell is for: solution, check, hidden or None."""
    tags = cell.metadata.get("tags", [])
    return next((tag for tag in ("solution", "check", "hidden") if tag in tags), None)


def function_name(cell):
    """Return the name of the one function that a cell defines."""
    names = [s.name for s in ast.parse(cell.source).body if hasattr(s, "args")]
    if len(names) != 1:
        raise BuildError(f"one function to a cell, found {names}: {cell.source[:60]!r}")
    return names[0]


def marker(text, settings=None):
    """Return the raw cell by which otter knows where something begins or ends."""
    return nbformat.v4.new_raw_cell(f"# {text}\n" + yaml.safe_dump(settings or {}))


def plain(cell):
    """Return a cell without the tags that only the sources need."""
    make = {"code": "new_code_cell", "markdown": "new_markdown_cell"}[cell.cell_type]
    return getattr(nbformat.v4, make)(cell.source)


def test(cell, *, hidden):
    """Return a check with the heading that tells otter whether students see it."""
    head = f'""" # BEGIN TEST CONFIG\nhidden: {str(hidden).lower()}\n'
    return nbformat.v4.new_code_cell(head + '""" # END TEST CONFIG\n' + cell.source)


def sources(root):
    """Return the assignments of a checkout, in the order of the chapters."""
    folder = root / "book" / "exercises"
    return [Assignment(path) for path in sorted(folder.glob("[0-9][0-9]_*.md"))]


def build(root):
    """Write all assignments anew, unless nothing that goes into them has changed."""
    output = root / "_build" / "exercises"
    files = [*(root / "book" / "exercises").glob("*.md"), root / "requirements.txt"]
    key = digest_files(root, [*files, root / "book" / "assignments.py"])
    stamp = output / "key"
    if stamp.exists() and stamp.read_text() == key:
        return output
    shutil.rmtree(output, ignore_errors=True)
    for kind in KINDS:
        (output / kind).mkdir(parents=True)
    lines = (root / "requirements.txt").read_text().splitlines()
    pins = [line for line in lines if line.split("==")[0] in REQUIRED]
    for assignment in sources(root):
        assign(assignment, pins, output)
    stamp.write_text(key)
    return output


def assign(assignment, pins, output):
    """Run `otter assign` on one source and collect what it makes."""
    import otter.assign  # takes a second to load, and most builds do not need it

    name = f"{assignment.stem}.ipynb"
    with tempfile.TemporaryDirectory() as folder:
        master, made = Path(folder, name), Path(folder, "made")
        nbformat.write(with_ids(assignment.master(pins)), master)
        otter.assign.main(str(master), str(made), no_run_tests=True)
        for kind, view in {"student": "student", "solution": "autograder"}.items():
            node = with_ids(nbformat.read(made / view / name, as_version=4))
            nbformat.write(node, output / kind / name)
        (archive,) = (made / "autograder").glob("*.zip")
        shutil.copy(archive, output / "autograder" / f"{assignment.stem}.zip")


def with_ids(node):
    """Return a notebook whose cells are numbered: same source, same bytes."""
    for number, cell in enumerate(node.cells, 1):
        cell["id"] = f"cell-{number:03d}"
    return node
