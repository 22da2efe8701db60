"""Attacks into a log: the right distances, resumable, and only what was judged."""

import numpy as np
import pytest
import torch
from torch import nn

from lipsmooth.attacking import sample_attacks
from lipsmooth.attacklogs import AttackWriter, read_attack_log
from lipsmooth.cli import main
from lipsmooth.data import Images, load_dataset
from lipsmooth.models import load_checkpoint
from lipsmooth.records import encode
from lipsmooth.train import trained_classifier

SETTINGS = {"sigma": 0.25, "seed": 1, "n": 2000, "steps": 6, "progress": False}


class HalfSpace(nn.Module):
    """Class 1 where the first pixel exceeds one half: distances are known."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(20.0))

    def forward(self, x):
        margin = self.slope * (x[:, 0, 0, 0] - 0.5)
        return torch.stack([-margin, margin], dim=1)


@pytest.fixture
def line():
    at = torch.tensor([0.6, 0.8, 1.0, 0.0, 0.3])
    pixels = torch.zeros(5, 1, 8, 8)
    pixels[:, 0, 0, 0] = at
    return Images("line", "test", ["low", "high"], pixels.numpy(), (at > 0.5).long())


def test_images_break_at_the_first_radius_beyond_their_distance(line, tmp_path):
    radii = [0.0, 0.05, 0.15, 0.25, 0.35, 0.45, 0.55]
    log = sample_attacks(
        HalfSpace(), line, tmp_path / "a.jsonl", radii=radii, **SETTINGS
    )
    # Distances .1, .3, .5, .5, .2; a judge with 2,000 votes sees what lies .05 beyond.
    np.testing.assert_array_equal(log.broken, [0.15, 0.35, 0.55, 0.55, 0.25])
    found = read_attack_log(tmp_path / "a.jsonl")
    np.testing.assert_array_equal(found.broken, log.broken)


def test_what_no_attack_breaks_is_infinitely_far(line, tmp_path):
    log = sample_attacks(
        HalfSpace(), line, tmp_path / "a.jsonl", radii=[0.0, 0.2], **SETTINGS
    )
    np.testing.assert_array_equal(log.broken, [0.2, *[np.inf] * 4])


def test_a_run_cut_short_ends_as_an_uninterrupted_one(line, tmp_path):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    rule = {**SETTINGS, "radii": [0.0, 0.25]}
    full = sample_attacks(HalfSpace(), line, whole, **rule)
    sample_attacks(HalfSpace(), line, cut, **rule, indices=[4, 2])
    cut.write_bytes(cut.read_bytes()[:-9])
    with pytest.warns(UserWarning, match="cut short"):
        again = sample_attacks(HalfSpace(), line, cut, **rule)
    np.testing.assert_array_equal(again.broken, full.broken)
    np.testing.assert_array_equal(again.index, full.index)
    with pytest.raises(ValueError, match="sampled with steps = 6, not 7"):
        sample_attacks(HalfSpace(), line, cut, **{**rule, "steps": 7})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"radii": [0.5, 0.25]}, "radii must increase"),
        ({"alpha": 1.5}, "alpha must lie in"),
        ({"steps": 0}, "steps must be a whole number, at least 1"),
        ({"sigma": 0.0}, "sigma must be positive"),
        ({"indices": [7]}, "image 7"),
    ],
)
def test_settings_out_of_range(setting, message, line, tmp_path):
    with pytest.raises(ValueError, match=message):
        sample_attacks(HalfSpace(), line, tmp_path / "a", **{**SETTINGS, **setting})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"index": 0, "label": 0}, "no row of an attack log"),
        ({"index": 0.5, "label": 0, "broken": None, "seconds": 1.0}, "index is"),
        ({"index": 0, "label": 0, "broken": 0.1, "seconds": 1.0}, "none of the radii"),
        ({"index": 0, "label": 0, "broken": None, "seconds": "1"}, "seconds is"),
    ],
)
def test_rows_that_no_attack_writes(row, message, tmp_path):
    path = tmp_path / "a.jsonl"
    config = {
        "num_classes": 2, "sigma": 0.1, "seed": 0, "radii": [0.5], "alpha": 0.1,
    }  # fmt: skip
    with AttackWriter(path, config, {}) as log:
        log.append(3, 1, np.inf, 0.1)
    with open(path, "ab") as file:
        file.write(encode(row))
    with pytest.raises(ValueError, match=message):
        read_attack_log(path)


def test_command_line(tmp_path, capsys):
    checkpoint = trained_classifier("digits", sigma=0.25, epochs=2, cache_dir=tmp_path)
    path = tmp_path / "attacks.jsonl"
    few = ["--images", "3", "--steps", "2", "-n", "100", "--quiet"]
    few += ["--radii", "0", "3"]
    assert main(["attack", str(checkpoint), str(path), *few]) == 0
    assert "withstand every attack up to 3" in capsys.readouterr().out
    log = read_attack_log(path)
    assert len(log) == 3
    model, digits = load_checkpoint(checkpoint)[0], load_dataset("digits", "test")
    again = sample_attacks(
        model, digits, path, sigma=0.25, radii=[0.0, 3.0], n=100, steps=2, seed=0,
        indices=log.index, progress=False,
    )  # fmt: skip
    np.testing.assert_array_equal(again.broken, log.broken)
    wrong = ["attack", str(checkpoint), str(tmp_path / "b"), "--radii", "1", "0.5"]
    assert main([*wrong, "--images", "2", "--quiet"]) == 2
    assert "radii must increase" in capsys.readouterr().err
