"""Published checkpoints: files written here in exactly their layouts, random weights.

What the networks must compute is restated with functions alone, from the names.
"""

import math
import os
from collections import OrderedDict

import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.models import resnet50

from lipsmooth.cli import main
from lipsmooth.logs import read_log
from lipsmooth.models import build_model, load_checkpoint, weights_digest
from lipsmooth.normalize import CIFAR10, IMAGENET, Normalize
from lipsmooth.pretrained import load_base
from lipsmooth.released import convert


def shapes(depth, classes=10):
    """Names and shapes of the CIFAR network in the published code."""
    found = {"conv1.weight": (16, 3, 3, 3), **norm("bn1", 16)}
    before = 16
    for stage, after in enumerate((16, 32, 64), start=1):
        for block in range((depth - 2) // 6):
            name = f"layer{stage}.{block}"
            found[f"{name}.conv1.weight"] = (after, before, 3, 3)
            found |= norm(f"{name}.bn1", after)
            found[f"{name}.conv2.weight"] = (after, after, 3, 3)
            found |= norm(f"{name}.bn2", after)
            if before != after:
                found[f"{name}.downsample.0.weight"] = (after, before, 1, 1)
                found |= norm(f"{name}.downsample.1", after)
            before = after
    return found | {"fc.weight": (classes, 64), "fc.bias": (classes,)}


def norm(name, channels):
    parts = "weight", "bias", "running_mean", "running_var"
    return {
        **{f"{name}.{part}": (channels,) for part in parts},
        f"{name}.num_batches_tracked": (),
    }


def random_weights(depth, classes=10, prefix=""):
    torch.manual_seed(0)
    weights = OrderedDict()
    for name, shape in shapes(depth, classes).items():
        if not shape:
            tensor = torch.tensor(7)
        elif name.endswith("running_var"):
            tensor = 0.5 + torch.rand(shape)
        elif len(shape) == 1:
            tensor = 0.8 + 0.2 * torch.randn(shape)
        else:
            tensor = torch.randn(shape) * (2 / math.prod(shape[1:])) ** 0.5
        weights[prefix + name] = tensor
    return weights


def published_forward(weights, x):
    """The network in functions, with the pooling window that the code has."""

    def convolve(name, x, stride=1):
        kernel = weights[f"{name}.weight"]
        return F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    def normalise(name, x):
        parts = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(weights[f"{name}.{part}"] for part in parts))

    x = F.relu(normalise("bn1", convolve("conv1", x)))
    for stage in (1, 2, 3):
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in weights:
            name, stride = f"layer{stage}.{block}", 1 + (stage > 1 and block == 0)
            y = F.relu(normalise(f"{name}.bn1", convolve(f"{name}.conv1", x, stride)))
            y = normalise(f"{name}.bn2", convolve(f"{name}.conv2", y))
            if f"{name}.downsample.0.weight" in weights:
                x = convolve(f"{name}.downsample.0", x, stride)
                x = normalise(f"{name}.downsample.1", x)
            x, block = F.relu(x + y), block + 1
    x = F.avg_pool2d(x, 8).flatten(1)
    return F.linear(x, weights["fc.weight"], weights["fc.bias"])


def scaled(x, constants):
    mean, std = (torch.tensor(part).reshape(3, 1, 1) for part in constants)
    return (x - mean) / std


def cohen(depth, prefix="1.", **changes):
    # SGD's state is kept beside the weights; it must neither be needed nor in the way.
    state = {"momentum_buffer": torch.zeros(3)}
    optimizer = {"state": {0: state}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    return {
        "epoch": 90, "arch": f"cifar_resnet{depth}",
        "state_dict": random_weights(depth, prefix=prefix), "optimizer": optimizer,
        **changes,
    }  # fmt: skip


def macer(depth=110, prefix=""):
    return {"net": random_weights(depth, prefix=prefix), "epoch": 440}


@pytest.mark.parametrize("depth", [20, 110])
@pytest.mark.parametrize("zipped", [True, False])  # until PyTorch 1.6 files were not
def test_cohen_on_cifar(tmp_path, depth, zipped):
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(cohen(depth), path, _use_new_zipfile_serialization=zipped)
    model, metadata = load_checkpoint(path)
    assert metadata == {
        "arch": f"cifar_resnet{depth}", "shape": [3, 32, 32], "num_classes": 10,
    }  # fmt: skip
    assert not model.training
    x = torch.rand(4, 3, 32, 32)
    expected = published_forward(random_weights(depth), scaled(x, CIFAR10))
    assert expected.std() > 0.01
    with torch.inference_mode():
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
        other = published_forward(random_weights(depth), x)
        assert not torch.allclose(model(x), other, rtol=1e-2)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("depth", [20, 110])
def test_macer_normalises_nothing(tmp_path, prefix, depth):
    torch.save(macer(depth, prefix), tmp_path / "440.pth")
    model, metadata = load_checkpoint(tmp_path / "440.pth")
    assert metadata["arch"] == f"cifar_resnet{depth}"
    x = torch.rand(4, 3, 32, 32)
    expected = published_forward(random_weights(depth), x)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    torch.manual_seed(0)
    network = resnet50(num_classes=1000).eval()
    state = {f"1.module.{name}": part for name, part in network.state_dict().items()}
    path = tmp_path_factory.mktemp("imagenet") / "checkpoint.pth.tar"
    torch.save({"epoch": 90, "arch": "resnet50", "state_dict": state}, path)
    return path, network


def test_cohen_on_imagenet(imagenet):
    path, network = imagenet
    model, metadata = load_checkpoint(path)
    assert metadata == {
        "arch": "resnet50", "shape": [3, 224, 224], "num_classes": 1000,
    }  # fmt: skip
    x = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        expected = network(scaled(x, IMAGENET))
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


def test_the_constants_are_part_of_the_identity(tmp_path):
    for name, content in (("a", cohen(20)), ("b", macer(20)), ("c", cohen(20))):
        torch.save(content, tmp_path / name)
    digests = [weights_digest(load_checkpoint(tmp_path / name)[0]) for name in "abc"]
    assert digests[0] == digests[2] != digests[1]


def test_it_is_sampled_by_command(tmp_path, capsys):
    torch.manual_seed(1)
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        pixels = (255 * torch.rand(32, 32, 3)).byte().numpy()
        Image.fromarray(pixels).save(tmp_path / "data" / name / "0.png")
    weights = random_weights(20, classes=2, prefix="1.")
    path, log = tmp_path / "checkpoint.pth.tar", tmp_path / "votes.jsonl"
    torch.save(cohen(20, state_dict=weights), path)
    command = ["sample", str(path), str(log), "--n0", "5", "--n", "20", "--quiet"]
    assert main([*command, "--dataset", str(tmp_path / "data")]) == 2
    assert "names no sigma; give --sigma" in capsys.readouterr().err
    command += ["--sigma", "0.25", "--dataset"]
    assert main([*command, "digits"]) == 2
    assert "takes images of shape [3, 32, 32]" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "data")]) == 0
    votes = read_log(log)
    assert votes.counts_estimation.sum(axis=1).tolist() == [20, 20]
    model, metadata = load_base(path)
    assert metadata["num_classes"] == 2
    assert votes.config["model"] == weights_digest(model)


def rejected(tmp_path, content, match):
    torch.save(content, tmp_path / "x.pth.tar")
    with pytest.raises(ValueError, match=match) as caught:
        load_checkpoint(tmp_path / "x.pth.tar")
    assert "\n" not in str(caught.value)


def without(weights, name):
    return {key: part for key, part in weights.items() if key != name}


def test_what_does_not_fit_is_named(tmp_path):
    state = random_weights(20, prefix="1.")
    lacking = without(state, "1.layer3.2.bn1.bias")
    rejected(tmp_path, cohen(20, state_dict=lacking), "'1.layer3.2.bn1.bias' is missi")
    extra = {**state, "1.layer3.3.conv1.weight": torch.zeros(64, 64, 3, 3)}
    rejected(tmp_path, cohen(20, state_dict=extra), "'1.layer3.3.conv1.weight' has no")
    wide = {**state, "1.conv1.weight": torch.zeros(32, 3, 3, 3)}
    rejected(tmp_path, cohen(20, state_dict=wide), r"'1.conv1.weight' has shape \(32,")
    rejected(tmp_path, cohen(20, prefix=""), "'conv1.weight' is no name")
    headless = without(state, "1.fc.weight")
    rejected(tmp_path, cohen(20, state_dict=headless), "'1.fc.weight' is missing")
    rejected(
        tmp_path, cohen(20, arch="cifar_resnet110"), "do not fit 'cifar_resnet110'"
    )


def test_other_architectures_are_refused_by_name(tmp_path):
    rejected(tmp_path, cohen(20, arch="cifar_wrn_40"), "got 'cifar_wrn_40'")
    rejected(tmp_path, cohen(20, arch=[1]), r"got \[1\]")
    rejected(tmp_path, macer(56), "got 'cifar_resnet56'")
    lenet = {"conv1.weight": torch.zeros(20, 1, 5, 5)}
    rejected(tmp_path, {"net": lenet, "epoch": 1}, "got 'cifar_resnet2'")


@pytest.mark.parametrize("state", [{}, 3, None, [torch.zeros(2)]])
def test_a_state_without_tensors(tmp_path, state):
    rejected(tmp_path, {"net": state}, "'net' must hold tensors")
    rejected(tmp_path, cohen(20, state_dict=state), "'state_dict' must hold tensors")


def test_an_entry_that_is_no_tensor(tmp_path):
    rejected(tmp_path, {"net": {"conv1.weight": 3}}, r"net\['conv1.weight'\] must be a")


def test_nothing_is_executed(tmp_path):
    class Intruder:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "intruded"),)

    rejected(tmp_path, {**cohen(20), "epoch": Intruder()}, "UnpicklingError")
    assert not (tmp_path / "intruded").exists()


@pytest.mark.parametrize("arch", ["cifar_resnet20", "resnet50"])
def test_published_networks_have_one_image_shape(arch):
    with pytest.raises(ValueError, match=f"{arch} takes images of shape .* got"):
        build_model(arch, shape=(3, 64, 64), num_classes=10)


def test_constants_by_channel():
    x = torch.rand(2, 3, 5, 4)
    torch.testing.assert_close(Normalize(*CIFAR10)(x), scaled(x, CIFAR10))
    assert convert(macer(20))[1]["0.mean"].flatten().tolist() == [0, 0, 0]
