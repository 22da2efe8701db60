"""Pins, layers and promises that hold for the repository as a whole."""

import re
import shutil
import subprocess
import sys
import tomllib
from hashlib import sha256
from importlib.metadata import version

import grimp
import pytest
import yaml
from conftest import ROOT
from execution import AFTER_VOTES

import lipsmooth

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONTRACTS = {c["type"]: c for c in PROJECT["tool"]["importlinter"]["contracts"]}
CORE = CONTRACTS["forbidden"]["source_modules"]
MODULES = sorted(p.stem for p in (ROOT / "lipsmooth").glob("[!_]*.py"))


def pins(lines):
    """Return {name: version} of the pinned lines, names in lower case."""
    matches = [re.fullmatch(r"([\w.-]+)==(\S+)", line.strip()) for line in lines]
    return {match[1].lower(): match[2] for match in matches if match}


def requirements():
    return pins((ROOT / "requirements.txt").read_text().splitlines())


def test_every_requirement_is_pinned_exactly():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    assert len(requirements()) == len(wanted) > 20


def test_conda_environment_repeats_the_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    listed = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    reading = {"jupyterlab", "jupyterlab-myst"}
    assert {k: v for k, v in pins(listed).items() if k not in reading} == requirements()
    assert reading < pins(listed).keys()
    assert f"python={sys.version_info[0]}" in environment["dependencies"][0]


def test_constraints_contain_the_pins_and_no_cuda_wheels():
    locked = pins((ROOT / "constraints.txt").read_text().splitlines())
    assert requirements().items() <= locked.items()
    assert not [name for name in locked if re.match(r"nvidia|cuda|triton", name)]


def test_the_environment_is_the_pinned_one():
    installed = {name: version(name) for name in requirements()}
    # A wheel may carry a local label such as +cpu.
    installed = {name: v.split("+")[0] for name, v in installed.items()}
    assert installed == requirements()


def test_versions_agree():
    assert lipsmooth.__version__ == PROJECT["project"]["version"]
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_citation_names_this_version_and_its_authors():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == lipsmooth.__version__
    assert citation["license"] == PROJECT["project"]["license"]
    names = [author["name"] for author in citation["authors"]]
    assert names == [author["name"] for author in PROJECT["project"]["authors"]]


VENDORED = ["book/_extra/_static/mathjax", "book/_slides/reveal"]


def vendored_faults(folder):
    """Return the files of a vendored package that differ from its list."""
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    listed = {name: digest for digest, name in map(str.split, lines)}
    found = {
        path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("SHA256SUMS", "README.txt")
    }
    return sorted({name for name, _ in listed.items() ^ found.items()})


@pytest.mark.parametrize("folder", VENDORED)
def test_vendored_files_are_the_listed_ones(folder):
    assert vendored_faults(ROOT / folder) == []
    assert (ROOT / folder / "LICENSE").exists()


def test_a_vendored_file_that_was_edited_would_be_noticed(tmp_path):
    shutil.copytree(ROOT / VENDORED[1], tmp_path / "copy")
    with (tmp_path / "copy" / "reveal.css").open("a") as file:
        file.write("/* mine */")
    (tmp_path / "copy" / "more.js").write_text("")
    assert vendored_faults(tmp_path / "copy") == ["more.js", "reveal.css"]


def first_with_torch(modules):
    """Return the first of these modules after whose import PyTorch is there."""
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    if 'torch' in sys.modules: sys.exit(print(name))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *modules],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_the_statistical_core_never_loads_torch():
    assert len(CORE) > 20
    assert first_with_torch(CORE) == ""


def test_no_notebook_loads_a_progress_bar_made_of_widgets():
    """It would warn that there are none, in the middle of a page."""
    code = "import sys, lipsmooth.sampling, lipsmooth.published; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "tqdm" in loaded
    assert "tqdm.auto" not in loaded


def test_loading_torch_would_be_noticed():
    modules = ["lipsmooth.radii", "lipsmooth.sampling", "lipsmooth.train"]
    assert first_with_torch(modules) == "lipsmooth.sampling"


def test_the_contracts_name_every_module():
    layers = " ".join(CONTRACTS["layers"]["layers"])
    assert set(re.findall(r"\w+", layers)) == {*MODULES, "__main__"}
    core = {name.removeprefix("lipsmooth.") for name in CORE}
    assert {"intervals", "radii", "certify", "logs", "evaluate", "plots"} < core


def test_cached_votes_depend_on_no_module_left_out_of_their_digest():
    graph = grimp.build_graph("lipsmooth", cache_dir=None)
    upstream = graph.find_upstream_modules("lipsmooth.sampling")
    used = {name.removeprefix("lipsmooth.") for name in upstream}
    assert {"models", "data"} <= used
    assert not used & AFTER_VOTES
    assert {*MODULES, "__main__"} >= AFTER_VOTES


@pytest.mark.parametrize("module", MODULES)
def test_modules_stay_thin(module):
    lines = (ROOT / "lipsmooth" / f"{module}.py").read_text().count("\n")
    assert lines <= 300


def test_continuous_integration_runs_the_tests_and_the_book():
    script = (ROOT / ".ci" / "run").read_text()
    assert script.index("\nmake test") < script.index("\nmake book")
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
