"""The benchmarks' harness: that it runs and compares like with like. No timings."""

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from lipsmooth.certify import certify_counts

# One process makes what the tests look at.
pytestmark = pytest.mark.xdist_group("benchmarks")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmarks")
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "--quick"]
    done = subprocess.run(
        [*command, "--out", str(folder)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((folder / "results.json").read_text()), folder


def test_one_command_writes_results_and_a_report(results):
    found, folder = results
    parts = {"networks", "sound", "certifying", "stopping", "scores"}
    assert found.keys() == {"machine", *parts}
    assert {"processor", "cores", "threads", "torch"} < found["machine"].keys()
    report = (folder / "report.md").read_text()
    for table in report.split("\n\n"):
        rows = [line for line in table.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1
    assert sum(line.startswith("| ---") for line in report.splitlines()) == 5
    (row,) = found["sound"]
    assert min(row["noise"], row["votes"]) > 0
    for case in found["networks"]:
        assert case["ratios"].keys() == {"default", "tuned"}
        assert all(v > 0 for r in case["ratios"].values() for v in r.values())


def test_loops_over_rows_certify_what_the_module_certifies(results):
    for row in results[0]["certifying"]:
        assert row["largest difference of radii"] < 1e-9, row["strategy"]


def test_stopping_lies_between_the_limit_and_fixed_n(results):
    for row in results[0]["stopping"]:
        assert row["limit"] < row["sequential"] < row["fixed n"]
        assert 0 <= row["undecided, fixed n"] < row["undecided"] < 1


def test_moments_at_once_are_those_of_the_loop(results):
    ways = {row["way"] for row in results[0]["scores"]}
    assert ways == {"loop", "at once"}
    for row in results[0]["scores"]:
        assert row["error of means"] < 2e-6
        assert row["error of deviations"] < 1e-6


def test_the_committed_results_are_of_the_full_size():
    found = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    archs = {(case["arch"], case["batch"]) for case in found["networks"]}
    assert {("resnet20", 1000), ("resnet110", 1000), ("cnn", 1000)} <= archs
    assert {row["classes"] for row in found["certifying"]} == {10, 1000}


def test_the_committed_report_is_rendered_from_the_committed_results(
    tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import run

    def rendered(results):
        (tmp_path / "results.json").write_text(results)
        command = ["run.py", "--report-only", "--out", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", command)
        run.main()
        assert (tmp_path / "results.json").read_text() == results
        return (tmp_path / "report.md").read_text().splitlines()

    text = (ROOT / "benchmarks" / "results.json").read_text()
    committed = (ROOT / "benchmarks" / "report.md").read_text().splitlines()
    assert rendered(text) == committed
    # The control: a number that is changed in the results changes in the report.
    found = json.loads(text)
    found["sound"][0]["votes"] += 1
    pairs = zip(committed, rendered(json.dumps(found)), strict=True)
    assert sum(before != after for before, after in pairs) == 1


def test_the_committed_ratios_follow_from_the_committed_times(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import run

    found = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    for case in found["networks"]:
        assert run.network_ratios(case["seconds"]) == case["ratios"]


def test_a_wrong_loop_would_be_noticed(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import counts

    rng = np.random.default_rng(0)
    votes = rng.multinomial(1000, [0.8, 0.15, 0.05], size=4)
    right = certify_counts(votes, votes, sigma=1.0, alpha=0.001, strategy="mono")
    loop = counts.by_row("mono", votes, votes, 0.001)
    np.testing.assert_allclose(loop, right.radius, rtol=1e-12)
    assert np.all(counts.by_row("mono", votes, votes, 0.01) > right.radius)


def test_the_published_loop_counts_as_sampling_does(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import forward
    import torch

    def half_space(x):
        return torch.nn.functional.pad(-x.flatten(1)[:, :2], (0, 8), value=-9)

    counts = forward.published_loop(half_space, torch.zeros(1, 8, 8), 450, 100)
    assert counts.sum() == 450
    assert counts[:2].min() > 150
    assert counts[2:].sum() == 0


def run_script(name, *arguments):
    command = [sys.executable, str(ROOT / "benchmarks" / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_gpu_is_measured_by_one_command_that_runs_without_one(tmp_path):
    done = run_script("gpu.py", "--device", "cpu", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["machine"]["device"] == "cpu, a dry run"
    (row,) = found["networks"]
    assert row["operations per sample"] > 1e6
    rates = row["samples per second"]
    assert {"forward", "sampling", "log", "published loop", "noise"} <= rates.keys()
    assert rates["noise"] > rates["sampling"]
    assert "resnet9-16" in (tmp_path / "gpu.md").read_text()


def test_without_a_gpu_nothing_is_claimed(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    done = run_script("gpu.py", "--out", str(tmp_path))
    assert done.returncode == 1
    assert "no CUDA device: nothing measured" in done.stdout
    assert not list(tmp_path.iterdir())


def test_the_committed_workers_counted_the_same_votes():
    found = json.loads((ROOT / "benchmarks" / "scaling.json").read_text())
    workers = {row["workers"] for row in found["runs"]}
    assert {1, 2} <= workers
    for row in found["runs"]:
        assert row["same votes"]
        assert row["cpu"] > 2 * row["start"] > 0  # it is sampling that was measured
