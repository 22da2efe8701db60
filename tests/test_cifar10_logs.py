"""The committed logs of CIFAR-10: whole, consistent, and certified in seconds."""

import os
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from execution import Notebook, Workshop
from PIL import Image

from lipsmooth.attacklogs import ATTACKS, read_attack_log
from lipsmooth.decisions import certify_log
from lipsmooth.logs import VOTES, read_log
from lipsmooth.marginlogs import MARGINS, read_margin_log
from lipsmooth.scorelogs import SCORES, read_score_log

FOLDER = ROOT / "notebooks" / "logs" / "cifar10"
CHAPTER = ROOT / "notebooks" / "17_cifar10.md"
LOGS = sorted(FOLDER.glob("*.jsonl"))
READERS = {
    VOTES: read_log, SCORES: read_score_log, ATTACKS: read_attack_log,
    MARGINS: read_margin_log,
}  # fmt: skip

each_log = pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)


def read(path):
    first = path.read_bytes()[:200]
    (kind,) = [kind for kind in READERS if kind.begins(first)]
    return READERS[kind](path)


@each_log
def test_a_log_is_whole_and_is_what_its_name_says(path):
    log = read(path)  # warnings are errors, so that a damaged line fails
    named = re.search(r"-(\d\.\d\d)(?:-r(\d\.\d\d))?$", path.stem)
    if not path.stem.startswith("margins"):  # its network's noise, not its own
        assert log.config["sigma"] == float(named[1])
    if named[2]:
        assert log.config["target_radius"] == float(named[2])
    assert log.config["num_classes"] == 10
    assert (log.config["dataset"], log.config["split"]) == ("cifar10-jpeg", "test")
    assert {"torch", "numpy", "commit", "started"} <= log.provenance.keys()
    step = 10_000 // len(log)
    np.testing.assert_array_equal(log.index, np.arange(0, 10_000, step))
    # A folder of classes is read class by class, a thousand images each.
    np.testing.assert_array_equal(log.label, log.index // 1000)


def test_all_logs_are_of_the_same_images():
    assert len({read(path).config["data"] for path in LOGS}) == 1


@pytest.mark.parametrize("path", sorted(FOLDER.glob("decisions-*")), ids=str)
def test_the_logs_of_a_noise_level_are_of_one_network(path):
    votes, decisions = read(FOLDER / f"votes-{path.stem[10:14]}.jsonl"), read(path)
    assert len(votes) == len(decisions) == 500
    for key in ("model", "precision", "seed", "n0", "rng", "chunk", "folded"):
        assert votes.config[key] == decisions.config[key], key
    # The same noise named the classes.
    np.testing.assert_array_equal(votes.counts_selection, decisions.counts_selection)
    assert decisions.config["n"] >= votes.config["n"]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("moments-*")), ids=str)
def test_scores_and_votes_agree_on_the_noise_that_they_share(path):
    scores, votes = read(path), read(FOLDER / f"votes-{path.stem[-4:]}.jsonl")
    votes = votes.select(scores.index)
    hard = [each.name for each in scores.maps].index("hardmax")
    first = np.rint(scores.mean_selection[:, hard] * scores.n0)
    np.testing.assert_array_equal(first, votes.counts_selection)
    counts = np.rint(scores.mean[:, hard] * scores.n)
    assert np.all(counts <= votes.counts_estimation)


def test_certifying_takes_seconds():
    began = time.process_time()
    for path in LOGS:
        log = read(path)
        if hasattr(log, "counts_estimation"):
            certify_log(log, alpha=0.001)
    assert time.process_time() - began < 10


def test_a_damaged_log_would_be_noticed(tmp_path):
    text = LOGS[0].read_bytes().replace(b'"label": 3', b'"label": 4', 1)
    (tmp_path / "log.jsonl").write_bytes(text)
    with pytest.warns(UserWarning, match="damaged"):
        read(tmp_path / "log.jsonl")


@pytest.mark.xdist_group("book")
def test_the_chapter_samples_anew_where_a_dataset_is_given(tmp_path):
    rng = np.random.default_rng(0)
    for split, label in (("train", "a"), ("train", "b"), ("test", "a"), ("test", "b")):
        folder = tmp_path / "tiny" / split / label
        folder.mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            pixels[..., "ab".index(label)] //= 8
            Image.fromarray(pixels).save(folder / f"{number}.png")
    values = {
        "dataset": tmp_path / "tiny", "logs_dir": tmp_path / "logs", "images": 4,
        "n": 60, "n_max": 120, "n_scores": 40, "epochs": 1, "precision": "float32",
        "few": 2, "n_few": 30, "epochs_denoiser": 1,
    }  # fmt: skip
    shutil.copy(Notebook(CHAPTER).pair, tmp_path / "chapter.ipynb")
    command = [sys.executable, "-m", "papermill", str(tmp_path / "chapter.ipynb")]
    command += [str(tmp_path / "out.ipynb"), "--cwd", str(ROOT)]
    for key, value in values.items():
        command += ["-p", key, str(value)]
    environment = {**Workshop(ROOT, "smoke").environment, **os.environ}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    log = read_log(tmp_path / "logs" / "votes-0.25.jsonl")
    assert (log.config["dataset"], log.config["n"], len(log)) == ("tiny", 60, 4)
    made = {path.name for path in (tmp_path / "logs").glob("*.jsonl")}
    assert {path.name for path in LOGS} <= made, "a committed log cannot be remade"
    assert "tiny" in (tmp_path / "out.ipynb").read_text()
