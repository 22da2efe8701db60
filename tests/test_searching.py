"""A noise level searched for each image, and the votes drawn there."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from lipsmooth.cli import main
from lipsmooth.data import load_dataset
from lipsmooth.inference import optimized
from lipsmooth.logs import read_log
from lipsmooth.models import load_checkpoint
from lipsmooth.noise_level import PRESETS, certify_noise_level, search_noise_level
from lipsmooth.sampling import count_votes
from lipsmooth.searching import sample_searched
from lipsmooth.tables import certificate_table
from lipsmooth.train import trained_classifier

SEARCH = replace(PRESETS["cifar10-0.25"], n=60)
SETTINGS = {"search": SEARCH, "n0": 20, "n": 200, "seed": 3, "progress": False}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return trained_classifier("digits", sigma=0.25, epochs=4, cache_dir=folder)


@pytest.fixture(scope="module")
def model(checkpoint):
    return load_checkpoint(checkpoint)[0]


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", "test")


@pytest.fixture(scope="module")
def log(model, digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("log") / "v.jsonl"
    return sample_searched(model, digits, path, **SETTINGS, indices=range(6))


def test_each_image_is_certified_where_its_own_search_ended(log, model, digits):
    table = certificate_table(log, alpha=0.01)
    fast = optimized(model)
    for row in table.itertuples():
        draw = partial(count_votes, fast, digits[row.idx][0], seed=3, index=row.idx)
        found = search_noise_level(draw, SEARCH)
        rule = {"start": found.start, "n0": 20, "n": 200, "alpha": 0.01}
        alone = certify_noise_level(draw, found.sigma, **rule)
        assert (row.sigma, row.predict, row.radius) == (
            found.sigma, alone.prediction, alone.radius,
        )  # fmt: skip
    assert len(set(log.best_sigma)) > 1  # else the test above says little
    assert "search" in log.config


def test_a_run_cut_short_ends_as_an_uninterrupted_one(log, model, digits, tmp_path):
    path = tmp_path / "v.jsonl"
    sample_searched(model, digits, path, **SETTINGS, indices=[3, 1])
    torn = path.read_bytes()[:-20]
    path.write_bytes(torn)
    with pytest.warns(UserWarning, match="cut short"):
        again = sample_searched(model, digits, path, **SETTINGS, indices=range(6))
    for name in ("index", "counts_selection", "counts_estimation", "best_sigma"):
        np.testing.assert_array_equal(getattr(again, name), getattr(log, name))


def test_the_search_belongs_to_the_configuration(log, model, digits, tmp_path):
    path = tmp_path / "v.jsonl"
    sample_searched(model, digits, path, **SETTINGS, indices=[0])
    other = {**SETTINGS, "search": replace(SEARCH, tolerance=0.2)}
    with pytest.raises(ValueError, match="sampled with search"):
        sample_searched(model, digits, path, **other, indices=[0, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"best_sigma": -0.5}, "best_sigma must be positive, got -0.5"),
        ({"best_sigma": "x"}, "best_sigma must be a number"),
        ({}, "best_sigma must be a number"),
    ],
)
def test_rows_without_a_noise_level_are_refused(
    change, message, model, digits, tmp_path
):
    from lipsmooth.records import decode, encode

    path = tmp_path / "v.jsonl"
    sample_searched(model, digits, path, **SETTINGS, indices=[0])
    first, second = path.read_bytes().splitlines()
    row = decode(second)
    del row["best_sigma"], row["crc32" if "crc32" in row else "seconds"]
    row = {**row, "seconds": 0.5, **change}
    path.write_bytes(first + b"\n" + encode(row))
    with pytest.raises(ValueError, match=message):
        read_log(path)


def test_command_line(checkpoint, tmp_path, capsys):
    path, table = tmp_path / "v.jsonl", tmp_path / "c.csv"
    few = ["-n", "100", "--n0", "10", "--images", "2", "--quiet"]
    searched = ["sample", str(checkpoint), str(path), "--search", "cifar10-0.25", *few]
    assert main(searched) == 0
    assert "σ found for each" in capsys.readouterr().out
    config = json.loads(path.read_text().splitlines()[0])["config"]
    assert config["search"]["low"] == PRESETS["cifar10-0.25"].low
    assert main(["certify", str(path), "--out", str(table)]) == 0
    assert "sigma" in table.read_text().splitlines()[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--search", "svhn"], "--search must be one of cifar10-0.25"),
        (["--search", "cifar10-0.50"], "starts from σ = 0.5"),
        (["--search", "cifar10-0.25", "--alpha", "0.1"], "goes without"),
    ],
)
def test_mistakes_on_the_command_line(options, message, checkpoint, tmp_path, capsys):
    assert main(["sample", str(checkpoint), str(tmp_path / "v"), *options]) == 2
    assert message in capsys.readouterr().err
