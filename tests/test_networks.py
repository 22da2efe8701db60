"""The notes on the networks behind logs, and the page that reads them."""

import json

import networks
import pytest
import torch

from lipsmooth.data import load_dataset
from lipsmooth.models import load_checkpoint, weights_digest
from lipsmooth.train import trained_classifier


@pytest.fixture(scope="module")
def checkpoints():
    return [
        trained_classifier("digits", arch="cnn", sigma=sigma, epochs=2, seed=0)
        for sigma in (0.25, 0.5)
    ]


def test_the_notes_name_a_network_as_its_logs_do(checkpoints, tmp_path):
    out = tmp_path / "notes.json"
    networks.main([*map(str, checkpoints), "--out", str(out)])
    notes = json.loads(out.read_text())
    for path, sigma in zip(checkpoints, (0.25, 0.5), strict=True):
        model, _ = load_checkpoint(path)
        known = notes[weights_digest(model)]
        assert (known["arch"], known["sigma"], known["epochs"]) == ("cnn", sigma, 2)
        assert known["parameters"] == sum(p.numel() for p in model.parameters())
        assert known["images"] == len(load_dataset("digits", "train"))
        course = known["course"]
        assert len(course["loss"]) == len(course["seconds"]) == 2
        assert course["loss"][1] < course["loss"][0]
    with torch.no_grad():
        next(model.parameters())[0] += 1
    assert weights_digest(model) not in notes


def test_notes_are_added_to_and_replaced(checkpoints, tmp_path):
    out = tmp_path / "new" / "notes.json"
    for chosen in (checkpoints[:1], checkpoints, checkpoints[1:]):
        networks.main([*map(str, chosen), "--out", str(out)])
    assert len(json.loads(out.read_text())) == 2
    assert len(out.read_text().splitlines()) == 4  # one line each, between braces
