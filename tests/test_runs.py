"""Settings of a run, and a network that is compiled before it is sampled."""

import shutil

import numpy as np
import pytest
import torch
from torch import nn

from lipsmooth.data import load_dataset
from lipsmooth.logs import read_log
from lipsmooth.moments import sample_moments
from lipsmooth.pursuit import sample_decisions
from lipsmooth.runs import prepare
from lipsmooth.sampling import sample_log

SETTINGS = {
    "indices": [0, 100, 200], "sigma": 0.5, "n0": 20, "n": 60, "seed": 1,
    "batch_size": 100,
}  # fmt: skip
needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler here"
)

# PyTorch's own compiler uses what PyTorch has deprecated.
torchs_own = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", "test")


@pytest.fixture
def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(144, 10)).eval()


@needs_compiler
@torchs_own
def test_a_compiled_network_is_sampled_and_told_apart(digits, network, tmp_path):
    def sample(name, **options):
        settings = {**SETTINGS, **options, "progress": False}
        return sample_log(network, digits, tmp_path / name, **settings)

    plain, fused = sample("plain"), sample("fused", compiled=True)
    assert fused.config == {**plain.config, "compiled": True}
    moved = np.abs(fused.counts_estimation - plain.counts_estimation).sum()
    assert moved <= 2, "rounding may move a vote, not more"
    assert plain.counts_estimation.max() < 60, "the votes are not all alike"
    with pytest.raises(ValueError, match="compiled"):
        sample("fused")
    with pytest.raises(ValueError, match="compiled"):
        sample("plain", compiled=True)
    assert len(read_log(tmp_path / "fused")) == 3


@needs_compiler
@torchs_own
def test_every_sampler_records_that_it_compiled(digits, network, tmp_path):
    settings = {**SETTINGS, "indices": [0], "progress": False, "compiled": True}
    aim = {"target_radius": 0.3, "alpha": 0.05}
    decided = sample_decisions(network, digits, tmp_path / "d", **aim, **settings)
    scores = sample_moments(
        network, digits, tmp_path / "s", maps=["softmax:1"], **settings
    )
    assert decided.config["compiled"] is scores.config["compiled"] is True


def preparing(network, digits, **options):
    fixed = {"device": "cpu", "precision": "float32", "fast": True, "compiled": True}
    return prepare(network, digits, **{**SETTINGS, **fixed, **options})


def test_what_cannot_be_compiled(digits, network, monkeypatch):
    needs = "compiled=True needs a module and fast=True"
    with pytest.raises(ValueError, match=needs):
        preparing(network, digits, fast=False)
    with pytest.raises(ValueError, match=needs):
        preparing(lambda x: x.flatten(1)[:, :10], digits)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler"):
        preparing(network, digits)
    assert "compiled" not in preparing(network, digits, compiled=False).config


def test_a_run_fills_a_log_image_by_image(digits, network):
    run = preparing(network, digits, compiled=False, indices=[7, 3, 7, 5])
    assert run.remaining({3}) == [7, 5]
    for batch_size, calls in ((80, [2, 2]), (160, [4]), (10, [2, 2])):
        seen, rows = [], []

        def measure(segments, seen=seen):
            seen.append(len(segments))
            return [(s.stream.index, s.start, s.stop) for s in segments]

        run.fill({3}, measure, lambda *row, rows=rows: rows.append(row),
                 batch_size=batch_size, progress=False)  # fmt: skip
        assert seen == calls
        labels = digits.labels[[7, 5]].tolist()
        assert [row[:4] for row in rows] == [
            (7, labels[0], (7, 0, 20), (7, 20, 80)),
            (5, labels[1], (5, 0, 20), (5, 20, 80)),
        ]
