"""Build the book: generate the notebooks, execute what changed, render the pages.

    python book/build.py [build|generate|execute|render|adopt] [--preset book]
    python book/build.py build --edition student
    python book/build.py exercises|slides|pdf|check
    python book/build.py notebook 02_neyman_pearson -p alpha 0.05

`notebooks/NN_name.md` is the source. `generate` writes its sibling `.ipynb`, `execute`
runs every notebook of `_toc.yml` through papermill under the parameters of a preset and
keeps the result under `_build/executed/`, and `render` makes the pages from those.
Whatever has not changed is not done again. `adopt` goes the other way, after a
formatter has been over the code of the `.ipynb`.

The student edition is rendered from a copy of the sources that has no solutions in it,
so that none can reach a page, a download or the search index. `exercises` writes the
assignments that come with a checker to `_build/exercises/`.

The pages come with a deck of slides for each part, in the folder `slides` beside them;
`pdf` prints all pages as one document; `check` opens every page in a browser and
reports broken links, faults of accessibility, and pages that load too much.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import finish
import nbformat
import solutions
import yaml
from execution import (
    PRESETS,
    BuildError,
    Notebook,
    Workshop,
    available_cpus,
    digest_files,
    run_notebooks,
)
from filelock import FileLock
from presets import preset_for, read_assignments

ROOT = Path(__file__).resolve().parents[1]
EDITIONS = ("instructor", "student")
# What the student edition is rendered from, besides its notebooks.
COPIED = (
    "_config.yml", "_toc.yml", "genindex.md", "requirements.txt", "constraints.txt",
    "book",
)  # fmt: skip


class Book:
    """The book of one checkout under one preset, in one edition."""

    def __init__(self, root=ROOT, preset="book", edition="instructor"):
        if preset not in PRESETS:
            raise BuildError(f"preset must be one of {PRESETS}, got {preset!r}")
        if edition not in EDITIONS:
            raise BuildError(f"edition must be one of {EDITIONS}, got {edition!r}")
        self.root = Path(root)
        self.preset = preset
        self.edition = edition
        self.build_dir = self.root / "_build"
        self.executed_dir = self.build_dir / "executed" / preset
        # jupyter-book adds `_build` to whatever output folder it is given.
        folders = [preset] * (preset != "book") + [edition] * (edition == "student")
        folder = self.build_dir / "-".join(folders) if folders else self.root
        self.output_dir = folder / "_build"
        self.html_dir = self.output_dir / "html"

    def notebooks(self):
        """Return the notebooks that `_toc.yml` lists, in reading order."""
        toc = yaml.safe_load((self.root / "_toc.yml").read_text())
        chapters = [c for part in toc.get("parts", []) for c in part["chapters"]]
        files = [self.root / chapter["file"] for chapter in chapters]
        return [
            Notebook(file.with_suffix(".md"))
            for file in files
            if file.suffix == ".ipynb"
        ]

    def generate(self):
        """Write the `.ipynb` of every source that has none or an outdated one."""
        sources = sorted((self.root / "notebooks").glob("[0-9][0-9]_*.md"))
        changed = [n for n in map(Notebook, sources) if not n.pair_agrees()]
        for notebook in changed:
            notebook.pair.write_text(notebook.as_json(), encoding="utf-8")
            print(f"generated {notebook.pair.relative_to(self.root)}")
        return changed

    def adopt(self):
        """Take the code of every `.ipynb` back into its source, after a formatter."""
        for notebook in self.notebooks():
            text = notebook.source.read_text(encoding="utf-8")
            node = nbformat.read(notebook.pair, as_version=4)
            for before, after in zip(notebook.node.cells, node.cells, strict=True):
                text = text.replace(before.source, after.source)
            notebook.source.write_text(text, encoding="utf-8")

    def chosen(self):
        """Return {notebook: {parameter: value}} of the preset, names checked."""
        path = self.root / "notebooks" / "params" / f"{self.preset}.yml"
        return preset_for([notebook.stem for notebook in self.notebooks()], path)

    def parameters(self):
        """Return each notebook with its parameters under the preset."""
        chosen = self.chosen()
        return [(n, n.parameters(chosen[n.stem])) for n in self.notebooks()]

    def stale(self):
        """Return the tasks whose results are missing or computed from other inputs."""
        shop = Workshop(self.root, self.preset)
        tasks = [
            shop.task(notebook, values, self.executed_path(notebook))
            for notebook, values in self.parameters()
        ]
        return [task for task in tasks if not task.is_fresh()]

    def execute(self, jobs=None):
        """Execute what is stale; return the names of those notebooks."""
        self.executed_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(self.executed_dir.with_suffix(".lock")):
            stale = self.stale()
            run_notebooks(stale, jobs or available_cpus())
        return [task.stem for task in stale]

    def executed_path(self, notebook):
        """Return where the executed form of a notebook is kept."""
        return self.executed_dir / f"{notebook.stem}.ipynb"

    def exercises(self):
        """Write the assignments that come with a checker, unless they are there."""
        import assignments  # needs otter-grader, which the other steps do not

        self.build_dir.mkdir(exist_ok=True)
        with FileLock(self.build_dir / "exercises.lock"):
            return assignments.build(self.root)

    def executed(self):
        """Return the executed notebooks of this edition by the names of their pages."""
        paths = {n.stem: self.executed_path(n) for n in self.notebooks()}
        nodes = {k: nbformat.read(p, as_version=4) for k, p in paths.items()}
        if self.edition == "student":
            nodes = {k: solutions.without(node) for k, node in nodes.items()}
        return {f"notebooks/{stem}": node for stem, node in nodes.items()}

    def sources(self):
        """Return the folder to render from; a student's has no solutions in it."""
        if self.edition == "instructor":
            return self.root
        folder = self.output_dir.parent / "sources"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "notebooks").mkdir(parents=True)
        masters = shutil.ignore_patterns("exercises", "__pycache__")
        for name in COPIED:
            path = self.root / name
            if path.is_dir():
                shutil.copytree(path, folder / name, ignore=masters)
            else:
                shutil.copy(path, folder / name)
        for notebook in self.notebooks():
            text = nbformat.writes(solutions.without(notebook.node)) + "\n"
            (folder / "notebooks" / notebook.pair.name).write_text(text, "utf-8")
        for page in (folder / "book").glob("*.md"):
            text = page.read_text(encoding="utf-8")
            page.write_text(solutions.page_without(text), encoding="utf-8")
        student = self.exercises() / "student"
        shutil.copytree(student, folder / student.relative_to(self.root))
        return folder

    def render(self):
        """Render the pages, unless nothing that goes into them has changed."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(self.output_dir / "render.lock"):
            return self._render()

    def _render(self):
        stamp = self.output_dir / "rendered.json"
        key = self._render_key()
        index = self.html_dir / "index.html"
        if index.exists() and stamp.exists() and json.loads(stamp.read_text()) == key:
            print(f"up to date: {index}")
            return False
        stamp.unlink(missing_ok=True)
        shutil.rmtree(self.html_dir, ignore_errors=True)  # no page of a former book
        tool = str(Path(sys.executable).with_name("jupyter-book"))
        command = [tool, "build", ".", "--all"]
        command += ["-W", "-n", "--keep-going", "-q"]
        command += ["--path-output", str(self.output_dir.parent)]
        chosen = {"PRESET": self.preset, "EDITION": self.edition, "ROOT": self.root}
        environment = {f"LIPSMOOTH_{k}": str(v) for k, v in chosen.items()}
        environment = {**os.environ, **environment}
        folder = self.sources()
        done = subprocess.run(command, cwd=folder, env=environment, check=False)
        if done.returncode or not index.exists():
            raise BuildError(f"jupyter-book failed with exit status {done.returncode}")
        stamp.write_text(json.dumps(key))
        print(f"rendered: {index}")
        return True

    def _render_key(self):
        """Digest everything that the pages are made from."""
        patterns = ["_config.yml", "_toc.yml", "genindex.md", "requirements.txt"]
        patterns += ["constraints.txt", "book/**/*", "lipsmooth/*.py"]
        patterns += ["notebooks/*.ipynb"]
        files = [path for pattern in patterns for path in self.root.glob(pattern)]
        files += map(self.executed_path, self.notebooks())
        return digest_files(self.root, files)

    def build(self, jobs=None):
        """Generate, execute and render."""
        self.generate()
        self.exercises()
        self.execute(jobs)
        self.render()

    def slides(self):
        """Build the pages, the decks among them, and say where they are."""
        self.build()
        print(f"slides: {self.html_dir / 'slides' / 'index.html'}")

    def pdf(self):
        """Build the pages and print them as one PDF."""
        from browse import chromium  # which the pages do not need
        from pdf import make_pdf

        self.build()
        edition = f"Version {version('lipsmooth')}, preset {self.preset}"
        parts = finish.reading_order(self.root)
        output = self.output_dir / "pdf" / "lipsmooth.pdf"
        with chromium() as browser:
            make_pdf(browser, self.html_dir, parts, output, edition=edition)
        print(f"printed: {output}")

    def check(self):
        """Build the pages and raise `BuildError` with every fault that they have."""
        from browse import chromium  # which the pages do not need
        from check import check_book

        self.build()
        with chromium() as browser:
            faults = check_book(browser, self.html_dir)
        if faults:
            raise BuildError("\n".join([f"{len(faults)} faults", *faults]))
        print(f"no fault: {self.html_dir}")


def run_one(book, name, assignments):
    """Execute one notebook under given parameters, beside the book's own results."""
    found = {notebook.stem: notebook for notebook in book.notebooks()}
    stem = Path(name).stem
    if stem not in found:
        raise BuildError(f"no notebook named {stem!r}; there are {', '.join(found)}")
    chosen = {**book.chosen()[stem], **read_assignments(assignments)}
    output = book.build_dir / "notebooks" / f"{stem}.ipynb"
    output.parent.mkdir(parents=True, exist_ok=True)
    shop = Workshop(book.root, book.preset)
    task = shop.task(found[stem], found[stem].parameters(chosen), output)
    run_notebooks([task], jobs=1)
    print(f"executed: {output}")


def main(arguments=None):
    """Run the command line; a failure the reader can act on ends with exit status 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    steps = ["build", "generate", "execute", "render", "exercises", "notebook", "adopt"]
    steps += ["slides", "pdf", "check"]
    parser.add_argument("step", nargs="?", default="build", choices=steps)
    parser.add_argument("name", nargs="?", help="with `notebook`: which one")
    parser.add_argument("--preset", default="book", help=" | ".join(PRESETS))
    parser.add_argument("--edition", default="instructor", help=" | ".join(EDITIONS))
    parser.add_argument("--jobs", type=int, help="notebooks at a time (default: CPUs)")
    parser.add_argument(
        "-p", dest="assignments", nargs=2, metavar=("NAME", "VALUE"), action="append"
    )
    options = parser.parse_args(arguments)
    if (options.step == "notebook") != bool(options.name):
        parser.error("`notebook` takes the name of one; the other steps take none")
    if options.assignments and options.step != "notebook":
        parser.error("-p goes with `notebook`")
    try:
        book = Book(preset=options.preset, edition=options.edition)
        if options.step == "notebook":
            run_one(book, options.name, options.assignments or [])
        else:
            given = [options.jobs] if options.step in ("build", "execute") else []
            getattr(book, options.step)(*given)
    except BuildError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
