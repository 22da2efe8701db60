"""Certificates without noise: exact distances, sound logs, and no attack inside."""

import copy
import json
import zlib

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from lipsmooth.certify import ABSTAIN
from lipsmooth.cli import main
from lipsmooth.data import Images, load_dataset
from lipsmooth.decisions import certify_log, predict_log
from lipsmooth.logs import LogWriter
from lipsmooth.marginlogs import MarginWriter, certify_margins, read_margin_log
from lipsmooth.margins import sample_margins
from lipsmooth.models import load_checkpoint
from lipsmooth.records import encode
from lipsmooth.shards import read_shards, shard_path
from lipsmooth.train import trained_classifier

AT = np.array([0.6, 0.8, 1.0, 0.0, 0.3, 0.5])
CONFIG = {"num_classes": 2, "lipschitz": 2.0, "rounding": None}


@pytest.fixture
def line():
    """Images that differ in their first pixel; the last lies on the boundary."""
    pixels = torch.zeros(len(AT), 1, 8, 8)
    pixels[:, 0, 0, 0] = torch.tensor(AT)
    return Images("line", "test", ["low", "high"], pixels.numpy(), AT > 0.5)


def half_space():
    """Class 1 where the first pixel exceeds one half."""
    layer = nn.Linear(64, 2)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:, 0] = torch.tensor([-20.0, 20.0])
        layer.bias.copy_(torch.tensor([10.0, -10.0]))
    return nn.Sequential(nn.Flatten(), layer)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return trained_classifier(
        "digits", arch="lipschitz", sigma=0.0, epochs=4,
        cache_dir=tmp_path_factory.mktemp("cache"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def digits(checkpoint):
    return load_checkpoint(checkpoint)[0], load_dataset("digits", "test")


def run(model, images, path, **settings):
    return sample_margins(model, images, path, progress=False, **settings)


def farthest(model, x, prediction, radii, steps=8):
    """Climb along the exact gradient in a ball; say where another class was found."""
    model, sure = copy.deepcopy(model).double(), prediction != ABSTAIN
    x, reach = x[sure].double(), torch.as_tensor(radii[sure])[:, None, None, None]
    top = torch.as_tensor(prediction[sure])[:, None]
    away, found = torch.zeros_like(x), torch.zeros(len(x), dtype=torch.bool)
    for _ in range(steps):
        moved = (x + away).requires_grad_()
        scores = model(moved)
        rest = scores.scatter(1, top, -torch.inf).amax(dim=1)
        gap = rest - scores.gather(1, top)[:, 0]
        found |= gap.detach() > 0
        (turn,) = torch.autograd.grad(gap.sum(), moved)
        away = away + reach * turn / turn.flatten(1).norm(dim=1)[:, None, None, None]
        length = away.flatten(1).norm(dim=1)[:, None, None, None]
        away = away * (reach / length).clamp(max=1)
    return found.numpy()


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("lipschitz", [None, 800**0.5])
def test_the_radius_is_the_distance_to_the_boundary(
    precision, lipschitz, line, tmp_path
):
    log = run(
        half_space(), line, tmp_path / "m", precision=precision, lipschitz=lipschitz
    )
    found, truth = log.certificates(), np.abs(np.float32(AT) - 0.5)
    np.testing.assert_array_equal(found.prediction, [1, 1, 1, 0, 0, ABSTAIN])
    assert found.radius[-1] == 0
    assert np.all(found.radius <= truth)
    np.testing.assert_allclose(found.radius, truth, atol=2e-5)
    assert log.config["bound"] == ("product" if lipschitz is None else "given")
    assert log.lipschitz == pytest.approx(800**0.5, rel=2e-6)
    np.testing.assert_array_equal(predict_log(log, alpha=0), found.prediction)


def test_no_gradient_leaves_a_certified_ball(digits, tmp_path):
    model, images = digits
    log = run(model, images, tmp_path / "m", batch_size=100, indices=range(100))
    found, (x, _) = log.certificates(), images.tensors(range(100))
    assert np.mean((found.prediction == log.label) & (found.radius > 0.1)) > 0.7
    assert not farthest(model, x, found.prediction, found.radius).any()
    # Controls: a constant that is too small certifies what the same climb breaks.
    wrong = run(model, images, tmp_path / "w", lipschitz=1.0, indices=range(100))
    false = wrong.certificates()
    assert farthest(model, x, false.prediction, false.radius).mean() > 0.5


def test_ties_and_rounding_abstain():
    scores = [[1.0, 1.0, 0.0], [3.0, 1.0, 0.0], [1.0, 3.0, 2.9]]
    plain = certify_margins(scores, lipschitz=2.0)
    np.testing.assert_array_equal(plain.prediction, [ABSTAIN, 0, 1])
    np.testing.assert_allclose(plain.radius, np.array([0, 2, 0.1]) / 8**0.5)
    covered = certify_margins(
        scores, lipschitz=2.0, rounding=(0.01, 0.02), norm=[1.0, 1.0, 2.0]
    )
    np.testing.assert_array_equal(covered.prediction, [ABSTAIN, 0, ABSTAIN])
    np.testing.assert_allclose(covered.radius[1], (2**0.5 - 0.06) / 2.02)
    for wrong in ([[1.0]], [1.0, 2.0], [[1.0, np.nan]]):
        with pytest.raises(ValueError, match="scores must be finite"):
            certify_margins(wrong, lipschitz=1.0)
    with pytest.raises(ValueError, match="lipschitz must be positive"):
        certify_margins(scores, lipschitz=0.0)
    with pytest.raises(ValueError, match="norm must be 3 lengths"):
        certify_margins(scores, lipschitz=1.0, rounding=(0, 0), norm=[1.0])


def test_a_run_cut_short_ends_as_an_uninterrupted_one(line, tmp_path):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    full = run(half_space(), line, whole)
    run(half_space(), line, cut, indices=[4, 2])
    cut.write_bytes(cut.read_bytes()[:-9])
    with pytest.warns(UserWarning, match="cut short"):
        assert len(read_margin_log(cut)) == 1
    with pytest.warns(UserWarning, match="cut short"):
        again = run(half_space(), line, cut, batch_size=2)
    np.testing.assert_array_equal(again.scores, full.scores)
    np.testing.assert_array_equal(again.index, full.index)
    with pytest.raises(ValueError, match="sampled with bound = 'product', not 'given'"):
        run(half_space(), line, cut, lipschitz=50.0)
    run(half_space(), line, tmp_path / "given", lipschitz=50.0)
    with pytest.raises(ValueError, match="sampled with lipschitz = 50"):
        run(half_space(), line, tmp_path / "given", lipschitz=60.0)
    with pytest.raises(ValueError, match="sampled with precision = "):
        run(half_space(), line, cut, precision="float32")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"lipschitz": 0.0}, "lipschitz must be positive and finite, got 0"),
        ({"lipschitz": np.inf}, "lipschitz must be positive and finite, got inf"),
        ({"precision": "bfloat16"}, "precision must be float32 or float64"),
        ({"batch_size": 0}, "batch_size must be a whole number, at least 1"),
        ({"indices": [7]}, "image 7"),
    ],
)
def test_settings_out_of_range(setting, message, line, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(half_space(), line, tmp_path / "m", **setting)


def test_coarse_products_of_matrices_are_not_covered(line, tmp_path):
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        logs = {
            name: run(half_space(), line, tmp_path / name, precision=name)
            for name in ("float32", "float64")
        }
    finally:
        torch.set_float32_matmul_precision(before)
    assert logs["float32"].config["rounding"] is None
    assert min(logs["float64"].config["rounding"]) > 0


def test_networks_that_cannot_be_bounded(line, tmp_path):
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 2), nn.Softplus())
    with pytest.raises(ValueError, match="no Lipschitz constant is known for Softplus"):
        run(flat, line, tmp_path / "a")
    log = run(flat, line, tmp_path / "b", lipschitz=3.0)
    assert log.config["rounding"] is None
    broken = half_space()
    broken[1].bias.data[0] = torch.inf
    with pytest.raises(ValueError, match=r"image 0: .*not a finite number"):
        run(broken, line, tmp_path / "c", lipschitz=3.0)
    three = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(ValueError, match="scores must be 2 numbers, got 3"):
        run(three, line, tmp_path / "d")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": None}, "scores must be 2 numbers"),
        ({"scores": [1.0]}, "scores must be 2 numbers, got 1"),
        ({"scores": [1.0, 10**400]}, "is not a finite number"),
        ({"scores": [1.0, "2"]}, "'2' is not a finite number"),
        ({"norm": -1.0}, "norm is -1"),
        ({"index": 0.5}, "index is '0.5'"),
        ({"seconds": True}, "seconds is 'True'"),
    ],
)
def test_rows_that_no_run_writes(change, message, tmp_path):
    path = tmp_path / "m.jsonl"
    row = {"index": 0, "label": 0, "scores": [1.0, 2.0], "norm": 1.0, "seconds": 1.0}
    with MarginWriter(path, CONFIG, {}) as log:
        log.append(3, 1, [0.1, 0.2], 1.0, 0.1)
        with pytest.raises(ValueError, match=message):
            log.write({**row, **change})
    bad = json.dumps({**row, **change}).encode()
    line = bad[:-1] + b', "crc32": "%08x"}\n' % zlib.crc32(bad)
    with open(path, "ab") as file:
        file.write(line)
    with pytest.raises(ValueError, match=message):
        read_margin_log(path)


def test_other_files(tmp_path):
    path = tmp_path / "m.jsonl"
    with MarginWriter(path, CONFIG, {}) as log:
        log.append(3, 1, [0.1, 0.2], 1.0, 0.1)
    with open(path, "ab") as file:
        file.write(encode({"index": 4}))
    with pytest.raises(ValueError, match="line 3 is no row of a margin log"):
        read_margin_log(path)
    with pytest.raises(ValueError, match="needs \\['rounding'\\]"):
        MarginWriter(tmp_path / "n", {"num_classes": 2, "lipschitz": 1.0}, {})
    config = {"num_classes": 2, "sigma": 0.5, "n0": 4, "n": 20, "seed": 7}
    with LogWriter(tmp_path / "v", config, {}) as votes:
        votes.append(0, 1, [3, 1], [15, 5], 0.1)
    with pytest.raises(ValueError, match="is not a margin log"):
        read_margin_log(tmp_path / "v")


def test_shards_are_read_together(line, tmp_path):
    base = tmp_path / "m.jsonl"
    whole = run(half_space(), line, tmp_path / "whole")
    for rank in range(2):
        path = shard_path(base, rank, 2)
        run(half_space(), line, path, indices=range(rank, len(line), 2))
    found = read_shards(base)
    np.testing.assert_array_equal(found.scores, whole.scores)
    np.testing.assert_array_equal(found.select([4, 2]).label, whole.label[[4, 2]])
    with pytest.raises(ValueError, match="no scores for image 9"):
        found.select([9])


def test_rules_for_noise_are_refused(line, tmp_path):
    log = run(half_space(), line, tmp_path / "m")
    for rule, message in (
        ({"strategy": "mono"}, "takes 'margin' alone"),
        ({"randomize_seed": 1}, "no noise: drop the seed"),
        ({"map": "softmax:1"}, "no noise: drop the map"),
    ):
        with pytest.raises(ValueError, match=message):
            certify_log(log, alpha=0.001, **rule)
    same = certify_log(log, alpha=0.5, strategy="margin")
    np.testing.assert_array_equal(same.radius, log.certificates().radius)


def test_command_line(checkpoint, digits, tmp_path, capsys):
    path, out = str(tmp_path / "m.jsonl"), tmp_path / "c.csv"
    few = ["--images", "50", "--quiet", "--radii", "0", "0.25"]
    assert main(["margins", str(checkpoint), path, *few]) == 0
    text = capsys.readouterr().out
    assert "50 images, Lipschitz constant 4.0000" in text
    assert "rounding covered" in text
    assert "% certified within 0.25" in text
    log = read_margin_log(path)
    expected = run(*digits, tmp_path / "again", indices=log.index)
    np.testing.assert_array_equal(log.scores, expected.scores)

    assert main(["certify", path, "--out", str(out)]) == 0
    frame = pd.read_csv(out)
    np.testing.assert_array_equal(frame["radius"], log.certificates().radius)
    assert set(frame["alpha"]) == {0.0}
    assert set(frame["strategy"]) == {"margin"}
    assert set(frame["lipschitz"]) == {log.lipschitz}
    assert f"{100 * frame['correct'].mean():.1f} % certified within 0\n" in text
    assert main(["predict", path, "--out", str(tmp_path / "p.csv")]) == 0
    right = pd.read_csv(tmp_path / "p.csv")["correct"].mean()
    assert f"{100 * right:.1f} % right" in text
    capsys.readouterr()
    files = [f"log={path}", f"table={out}"]
    assert main(["analyze", *files, "--format", "csv", "--radii", "0.25"]) == 0
    _, *rows = capsys.readouterr().out.split()
    first, second = (row.partition(",")[2] for row in rows)
    assert first == second
    assert main(["certify", path, "--strategy", "cpm"]) == 2
    assert "takes 'margin' alone" in capsys.readouterr().err
    wrong = ["margins", str(checkpoint), str(tmp_path / "x"), "--lipschitz", "-1"]
    assert main(wrong) == 2
    assert "lipschitz must be positive" in capsys.readouterr().err
