"""Execute notebooks through papermill, in parallel, and only when something changed.

Jupyter Book's own cache looks at the cells alone and serves stale numbers when the
module behind them changes; here the key of a result covers everything it depends on.
"""

import ast
import concurrent.futures
import datetime
import hashlib
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import jupytext
import nbformat
import papermill
import solutions
from papermill.exceptions import strip_color
from tqdm import tqdm

PRESETS = ("smoke", "book", "paper")
# Trains the networks and draws the votes that the chapters after it read.
LONGEST = ("03_monte_carlo",)
# What comes after the votes: a change here leaves cached votes valid.
AFTER_VOTES = {
    "__main__", "attack", "attacking", "attacklogs", "budget", "certify", "claims",
    "cli", "commands", "coverage", "ddrs", "decisions", "empirical", "evaluate",
    "facts", "lattice", "levels", "lipschitz", "memory", "noise_level", "options",
    "perinput", "plots", "published", "pursuit", "radii", "randomized", "scorebounds",
    "scores", "searching", "sequential", "shards", "spectral", "strategies", "tables",
    "timing", "twoclass",
}  # fmt: skip
RECORDED = ("numpy", "scipy", "pandas", "matplotlib", "scikit-learn", "torch")


class BuildError(Exception):
    """The book cannot be built, for a reason that the message gives."""


def available_cpus():
    """Return the number of CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def digest_files(root, files):
    """Return one SHA-256 over the names and contents of files, in a fixed order."""
    digest = hashlib.sha256()
    for path in sorted(set(files)):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


class Notebook:
    """A chapter: its MyST source and what follows from it."""

    def __init__(self, source):
        self.source = Path(source)
        self.stem = self.source.stem
        self.pair = self.source.with_suffix(".ipynb")

    @cached_property
    def node(self):
        """The notebook as the source defines it: same source, same bytes."""
        if not self.source.exists():
            raise BuildError(f"{self.source} is in _toc.yml and does not exist")
        node = jupytext.read(self.source)
        node.metadata = nbformat.from_dict(
            {
                "kernelspec": {
                    "display_name": "Python 3",
                    "language": "python",
                    "name": "python3",
                },
                "language_info": {"name": "python"},
            }
        )
        node.nbformat, node.nbformat_minor = 4, 5
        for number, cell in enumerate(node.cells, 1):
            cell["id"] = f"cell-{number:03d}"
        nbformat.validate(node)
        return node

    def as_json(self):
        """Return the text of the `.ipynb`."""
        return nbformat.writes(self.node) + "\n"

    def pair_agrees(self):
        """Return whether the `.ipynb` on disk is the one the source defines."""
        text = self.pair.read_text(encoding="utf-8") if self.pair.exists() else None
        return text == self.as_json()

    def parameters(self, chosen):
        """Return the default parameters with `chosen` put in; unknown names raise."""
        known = papermill.inspect_notebook(self.node)
        for name in chosen:
            if name not in known:
                raise BuildError(
                    f"{self.stem} has no parameter {name!r}; it has {', '.join(known)}"
                )
        try:
            defaults = {k: ast.literal_eval(p["default"]) for k, p in known.items()}
        except (SyntaxError, ValueError) as error:
            raise BuildError(
                f"{self.stem}: parameters must be literals: {error}"
            ) from error
        return {**defaults, **chosen}


@dataclass(frozen=True)
class Task:
    """One notebook to execute, in a form that can be sent to another process."""

    stem: str
    notebook: str
    output: Path
    parameters: dict
    environment: dict
    record: dict
    root: Path

    def is_fresh(self):
        """Return whether the output was computed from exactly these inputs."""
        if not self.output.exists():
            return False
        metadata = json.loads(self.output.read_text(encoding="utf-8"))["metadata"]
        return metadata["lipsmooth"]["key"] == self.record["key"]


class Workshop:
    """What all notebooks of one execution have in common."""

    def __init__(self, root, preset):
        self.root = root
        self.preset = preset
        self.commit = commit(root)
        pins = [root / "requirements.txt", root / "constraints.txt"]
        module = list((root / "lipsmooth").glob("*.py"))
        logs = [*(root / "notebooks" / "logs").glob("**/*")]
        facts = (root / "notebooks" / "data").glob("**/*")
        measured = (root / "benchmarks").glob("*.json")
        suite = (root / "tests" / "soundness").glob("*.py")
        read = [*module, *logs, *facts, *pins, *measured, *suite]
        self.inputs = digest_files(root, read)
        voting = [path for path in module if path.stem not in AFTER_VOTES]
        self.environment = {
            "LIPSMOOTH_CACHE": str(
                root / "_build" / "cache" / digest_files(root, [*voting, *pins])[:16]
            ),
            "PYTHONHASHSEED": "0",
            # Whatever the reader's terminal prefers, figures go into the page.
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            # PyTorch asks tqdm for widgets; pages have none, and need not say so.
            "PYTHONWARNINGS": "ignore:IProgress not found",
            # A reader's own start-up files have no part in the book.
            "IPYTHONDIR": str(root / "_build" / "ipython"),
            "JUPYTER_PLATFORM_DIRS": "1",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }

    def task(self, notebook, parameters, output):
        """Return the task of executing a notebook, with its content key."""
        ingredients = [
            notebook.as_json(),
            parameters,
            self.inputs,
            platform.python_version(),
        ]
        text = json.dumps(ingredients, sort_keys=True)
        record = {
            "key": hashlib.sha256(text.encode()).hexdigest(),
            "preset": self.preset,
            "parameters": parameters,
            "seed": parameters.get("seed"),
            "device": parameters.get("device"),
            "commit": self.commit,
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in RECORDED},
        }
        return Task(
            notebook.stem, notebook.as_json(), output, parameters,
            self.environment, record, self.root,
        )  # fmt: skip


def commit(root):
    """Return the short hash of the commit, `+` when the tree has changed since."""
    git = ["git", "-C", str(root)]
    head = subprocess.run(
        [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    )
    if head.returncode:
        return None
    status = subprocess.run([*git, "status", "--porcelain"], capture_output=True)
    return head.stdout.strip() + ("+" if status.stdout else "")


def run_notebooks(tasks, jobs):
    """Execute tasks in parallel; raise `BuildError` with every failure's traceback."""
    if not tasks:
        return
    tasks = sorted(tasks, key=lambda task: task.stem not in LONGEST)
    jobs = max(1, min(jobs, len(tasks)))
    threads = str(max(1, available_cpus() // jobs))
    environment = {**tasks[0].environment, "OMP_NUM_THREADS": threads}
    Path(environment["IPYTHONDIR"]).mkdir(parents=True, exist_ok=True)
    bars = sys.stderr.isatty()
    # A fresh interpreter per worker: forking one that has loaded PyTorch is unsafe.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(
        jobs, context, _prepare_worker, (environment, context.RLock())
    )
    failures = []
    with pool:
        running = [
            pool.submit(_execute, task, position if bars else None)
            for position, task in enumerate(tasks)
        ]
        for future in concurrent.futures.as_completed(running):
            stem, seconds, failure = future.result()
            failures += [failure] if failure else []
            if not bars:
                print(
                    f"{'FAILED' if failure else 'executed'} {stem} in {seconds:.1f} s"
                )
    if failures:
        raise BuildError("\n\n".join(failures))


def _prepare_worker(environment, lock):
    os.environ.update(environment)
    tqdm.set_lock(lock)


def _execute(task, position):
    """Execute one notebook; return its stem, the seconds taken and any failure."""
    bar = {"position": position, "desc": task.stem} if position is not None else False
    if not bar:
        print(f"executing {task.stem} …", flush=True)
    # Under another name until complete, so that an interrupted run leaves no result.
    partial = task.output.with_suffix(".partial")
    started = datetime.datetime.now(datetime.UTC)
    clock = time.perf_counter()
    failure = None
    try:
        node = nbformat.reads(task.notebook, as_version=4)
        node.cells += solutions.cells(node)
        node = papermill.execute_notebook(
            node,
            None,
            parameters=task.parameters,
            cwd=task.root,
            progress_bar=bar,
            # What kernels say about their start and end is no news; cells' errors come
            # back as such.
            extra_arguments=["--log-level=CRITICAL"],
        )
    except papermill.PapermillExecutionError as error:
        lines = [f"{task.stem}, cell {error.cell_index + 1}, raised {error.ename}:"]
        lines += ["", error.source, "", *error.traceback]
        failure = strip_color("\n".join(lines))
    except Exception:  # a dead kernel, a full disk: the other notebooks go on
        failure = f"{task.stem} could not be executed:\n{traceback.format_exc()}"
    seconds = time.perf_counter() - clock
    if failure is None:
        node = solutions.without_runs(node)
        del node.metadata["papermill"]
        node.metadata["lipsmooth"] = {
            **task.record,
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(seconds, 1),
        }
        partial.write_text(nbformat.writes(node) + "\n", encoding="utf-8")
        partial.replace(task.output)
    return task.stem, seconds, failure
