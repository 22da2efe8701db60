"""Checkpoints as safetensors: the same network, and nothing half-read."""

import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from lipsmooth.cli import main
from lipsmooth.data import load_dataset
from lipsmooth.denoise import build_denoiser
from lipsmooth.diffusion import train_denoiser
from lipsmooth.logs import read_log
from lipsmooth.models import (
    build_model,
    export_checkpoint,
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
    weights_digest,
)
from lipsmooth.pretrained import load_denoiser
from lipsmooth.train import train_classifier
from lipsmooth.weightfiles import write_content


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model("cnn", shape=(1, 8, 8), num_classes=10).eval()


@pytest.fixture
def exported(model, tmp_path):
    save_checkpoint(tmp_path / "m.pt", model, sigma=0.1, history=[{"loss": 1 / 3}])
    export_checkpoint(tmp_path / "m.pt", tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def test_the_same_network_and_metadata(model, exported):
    loaded, metadata = load_checkpoint(exported)
    assert not loaded.training
    assert weights_digest(loaded) == weights_digest(model)
    assert metadata == load_checkpoint(exported.with_suffix(".pt"))[1]
    assert metadata["history"] == [{"loss": 1 / 3}]
    assert metadata["provenance"]["torch"]
    x = torch.rand(4, 1, 8, 8)
    with torch.inference_mode():
        assert torch.equal(loaded(x), model(x))


def test_there_and_back(exported, tmp_path):
    export_checkpoint(exported, tmp_path / "new" / "back.pt")
    first, last = (read_checkpoint(tmp_path / name) for name in ("m.pt", "new/back.pt"))
    assert first["metadata"] == last["metadata"]
    assert first["weights"].keys() == last["weights"].keys()
    assert all(torch.equal(v, last["weights"][k]) for k, v in first["weights"].items())


def test_the_same_bytes_each_time(exported, tmp_path):
    export_checkpoint(tmp_path / "m.pt", tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == exported.read_bytes()


def test_other_programs_read_it(model, exported):
    weights = load_file(exported)
    assert torch.equal(weights["1.weight"], model.state_dict()["1.weight"])


def test_weights_with_channels_last(model, tmp_path):
    expected = weights_digest(model)
    model.to(memory_format=torch.channels_last)
    save_checkpoint(tmp_path / "m.safetensors", model)
    assert weights_digest(load_checkpoint(tmp_path / "m.safetensors")[0]) == expected


@pytest.mark.parametrize(
    ("arch", "shape", "least", "most"),
    [
        ("resnet9-16", (3, 32, 32), 1, 2),
        ("resnet110", (3, 32, 32), 6, 8),
        ("lipschitz", (1, 8, 8), 0.1, 1),
    ],
)
def test_size_and_round_trip(tmp_path, arch, shape, least, most):
    network = build_model(arch, shape=shape, num_classes=10)
    save_checkpoint(tmp_path / "m.safetensors", network)
    assert least < (tmp_path / "m.safetensors").stat().st_size / 1e6 < most
    loaded, _ = load_checkpoint(tmp_path / "m.safetensors")
    assert weights_digest(loaded) == weights_digest(network)


def test_sampled_by_command_it_gives_the_same_votes(exported, tmp_path, capsys):
    logs = []
    for name in ("m.pt", "m.safetensors"):
        logs.append(tmp_path / f"{name}.jsonl")
        command = ["sample", str(tmp_path / name), str(logs[-1]), "--dataset", "digits"]
        assert main([*command, "--n", "50", "--images", "3", "--quiet"]) == 0
    first, second = map(read_log, logs)
    assert first.config == second.config
    assert (first.counts_estimation == second.counts_estimation).all()
    assert first.counts_estimation.sum() == 150


def test_export_by_command(exported, tmp_path, capsys):
    target = tmp_path / "c.safetensors"
    assert main(["export", str(tmp_path / "m.pt"), str(target)]) == 0
    assert "c.safetensors: 0.2 MB" in capsys.readouterr().out
    assert target.read_bytes() == exported.read_bytes()
    assert main(["export", str(tmp_path / "none.pt"), str(target)]) == 2
    assert "none.pt does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 100, 5000, 0.5, -1])
def test_truncated(exported, keep):
    content = exported.read_bytes()
    exported.write_bytes(content[: int(keep * len(content)) if 0 < keep < 1 else keep])
    with pytest.raises(
        ValueError, match=r"m\.safetensors is truncated or not"
    ) as error:
        load_checkpoint(exported)
    assert "\n" not in str(error.value)


def test_corrupt(exported):
    content = exported.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = content[8 : 8 + length]
    for damaged in (
        struct.pack("<Q", 2**60) + content[8:],
        content[:8] + header.replace(b"F32", b"Q32") + content[8 + length :],
        content[:8] + header.replace(b'{"', b"{{", 1) + content[8 + length :],
        content + b"more",
    ):
        exported.write_bytes(damaged)
        with pytest.raises(ValueError, match="is truncated or not a checkpoint"):
            load_checkpoint(exported)


def test_safetensors_of_others(tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="is truncated or not a checkpoint"):
        load_checkpoint(tmp_path / "x.safetensors")


def test_a_tensor_too_few(exported, model):
    content = read_checkpoint(exported)
    del content["weights"]["1.weight"]
    write_content(exported, content)
    with pytest.raises(ValueError, match=r"fit 'cnn': '1\.weight' is missing"):
        load_checkpoint(exported)


def test_metadata_must_be_plain(model, tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_checkpoint(tmp_path / "m.safetensors", model, thing=object())
    assert not list(tmp_path.iterdir())


def test_no_state_of_training(model, tmp_path):
    path = tmp_path / "m.safetensors"
    with pytest.raises(ValueError, match="cannot hold a state of training"):
        save_checkpoint(path, model, training={"optimizer": {}})
    digits = load_dataset("digits", "train")
    with pytest.raises(ValueError, match=r"go on from .*m\.safetensors; name a \.pt"):
        train_classifier(model, digits, sigma=0.1, checkpoint=path, progress=False)
    assert not path.exists()


def test_a_header_is_json(exported):
    content = exported.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    about = json.loads(content[8 : 8 + length])["__metadata__"]
    assert json.loads(about["lipsmooth-checkpoint"])["sigma"] == 0.1


def test_a_denoiser_is_exported_too(tmp_path, capsys):
    torch.manual_seed(0)
    digits = load_dataset("digits", "train")
    network, trained = build_denoiser(digits.shape, light=True), tmp_path / "d.pt"
    train_denoiser(network, digits, epochs=1, checkpoint=trained, progress=False)
    written = tmp_path / "d.safetensors"
    assert main(["export", str(trained), str(written)]) == 0
    ours, theirs = (load_denoiser(path) for path in (written, trained))
    noisy = torch.rand(2, 1, 8, 8)
    with torch.inference_mode():
        assert torch.equal(
            ours.network(noisy, 3).sample, theirs.network(noisy, 3).sample
        )
    assert written.stat().st_size < trained.stat().st_size
