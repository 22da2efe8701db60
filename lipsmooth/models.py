"""Base classifiers for images in [0, 1], and their checkpoints."""

import platform
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lipsmooth import __version__
from lipsmooth.lipnets import lipschitz_network
from lipsmooth.logchecks import is_number
from lipsmooth.normalize import Normalize
from lipsmooth.released import PUBLISHED, convert, is_released
from lipsmooth.resnet import ResNet, resnet9
from lipsmooth.weightfiles import (
    FORMAT,
    Pathlike,
    misfit,
    read_content,
    stored_bytes,
    tensors_digest,
    write_content,
)


def small_cnn(shape: tuple[int, int, int], num_classes: int) -> nn.Sequential:
    """Return a small convolutional network: 49,000 parameters for digits.

    After the first layer the resolution is halved, with 64 to 128 channels, until
    less than 8 pixels remain on the shorter side.
    """
    channels, height, width = shape
    layers = [Normalize(), *_block(channels, 16)]
    before, side = 16, min(height, width)
    for after in (64, *[128] * 10):
        layers += [*_block(before, after, stride=2), *_block(after, after)]
        before, side = after, (side + 1) // 2
        if side < 8:
            break
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * before, num_classes)]
    return nn.Sequential(*layers, *head)


def _block(before: int, after: int, stride: int = 1) -> tuple[nn.Module, ...]:
    # The normalisation has its own bias.
    convolution = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True)


def residual(
    shape: tuple[int, int, int], num_classes: int, *, depth: int
) -> nn.Sequential:
    """Return a normalised `lipsmooth.resnet.ResNet`, made for CIFAR's 32 × 32."""
    return nn.Sequential(
        Normalize(), ResNet(depth, channels=shape[0], num_classes=num_classes)
    )


def fast_residual(
    shape: tuple[int, int, int], num_classes: int, *, width: int
) -> nn.Sequential:
    """Return a normalised `lipsmooth.resnet.resnet9`."""
    body = resnet9(channels=shape[0], num_classes=num_classes, width=width)
    return nn.Sequential(Normalize(), *body)


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "cnn": small_cnn,
    "resnet9": partial(fast_residual, width=64),
    "resnet9-16": partial(fast_residual, width=16),
    "resnet20": partial(residual, depth=20),
    "resnet110": partial(residual, depth=110),
    "lipschitz": lipschitz_network,
    "lipschitz-256": partial(lipschitz_network, width=256, hidden=3),
    **PUBLISHED,
}
"""Functions ``(shape, num_classes) -> nn.Module`` by name; add your own."""


def build_model(
    arch: str, *, shape: tuple[int, int, int], num_classes: int
) -> nn.Module:
    """Return a freshly initialised base classifier.

    Parameters
    ----------
    arch : str
        A key of `ARCHITECTURES`.
    shape : tuple of int
        Image shape (C, H, W), at least 8 × 8 pixels.
    num_classes : int
        At least 2.

    Returns
    -------
    nn.Module
        From images (batch, C, H, W) in [0, 1], noise added, to scores
        (batch, num_classes). Its ``spec`` holds the three arguments.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    if arch not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"arch must be one of {known}; got {arch!r}")
    if len(shape) != 3 or shape[0] < 1 or min(shape[1:]) < 8:
        raise ValueError(f"shape must be (C, H, W) with H, W at least 8, got {shape}")
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    model = ARCHITECTURES[arch](tuple(shape), num_classes)
    model.spec = {"arch": arch, "shape": list(shape), "num_classes": num_classes}
    return model


def save_checkpoint(
    path: Pathlike, model: nn.Module, *, training: dict | None = None, **metadata
) -> None:
    """Write a model made by `build_model`, so that a crash leaves the old file.

    Parameters
    ----------
    path : path
        Its folder is made if need be.
    model : nn.Module
        With the ``spec`` that `build_model` gives it.
    training : dict, optional
        State from which training can go on; tensors and plain values.
    **metadata
        Plain values to keep beside the weights, such as ``sigma``.

    Raises
    ------
    ValueError
        If the model has no ``spec``.
    """
    if not hasattr(model, "spec"):
        raise ValueError(f"{type(model).__name__} was not made by build_model")
    place = next((tensor.device for tensor in model.parameters()), "cpu")
    write_content(
        path,
        {
            "format": FORMAT,
            "metadata": {**model.spec, **metadata, "provenance": provenance(place)},
            "weights": model.state_dict(),
            "training": training,
        },
    )


def export_checkpoint(source: Pathlike, target: Pathlike) -> None:
    """Write a network again, in the format that the name of the target asks for.

    Parameters
    ----------
    source : path
        For `load_checkpoint`, or a denoiser that was trained here.
    target : path
        ``….safetensors``, or a PyTorch file. Metadata stay as they are, the provenance
        of the training among them; its state is left out.

    Raises
    ------
    ValueError
        As for `load_checkpoint`.
    """
    content = read_content(source)
    known = content["metadata"] if content.get("format") == FORMAT else {}
    if known.get("arch") != "diffusion":
        model, known = load_checkpoint(source)
        content = {"format": FORMAT, "metadata": known, "weights": model.state_dict()}
    write_content(target, {**content, "training": None})


def read_checkpoint(path: Pathlike, device: str = "cpu") -> dict:
    """Return the content of a checkpoint: metadata, weights, training state.

    Raises
    ------
    ValueError
        If the file is missing, truncated or not a checkpoint.
    """
    content = read_content(path, device)
    if content.get("format") != FORMAT:
        raise ValueError(f"{path} is not a checkpoint of lipsmooth")
    return content


def load_checkpoint(path: Pathlike, device: str = "cpu") -> tuple[nn.Module, dict]:
    """Load a base classifier.

    Parameters
    ----------
    path : path
        Written by `save_checkpoint`, as a PyTorch file or, named ``….safetensors``, as
        safetensors; or published, in a layout that `lipsmooth.released` knows.
        Nothing in the file is executed.
    device : str
        Where the model goes.

    Returns
    -------
    model : nn.Module
        In evaluation mode, with the ``spec`` that `build_model` gives it.
    metadata : dict
        ``arch``, ``shape``, ``num_classes``, ``provenance`` and what was saved; the
        first three alone if the file was published by others.

    Raises
    ------
    ValueError
        If the file is missing, truncated or not a checkpoint, or its weights do
        not fit its architecture.
    """
    content = read_content(path, device)
    if is_released(content):
        try:
            metadata, weights = convert(content)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    else:
        if content.get("format") != FORMAT:
            raise ValueError(f"{path} is not a checkpoint of lipsmooth")
        metadata, weights = content["metadata"], content["weights"]
    try:
        model = _matching(metadata, weights)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path}: {error}") from None
    return model.to(device).eval(), metadata


def _matching(metadata: dict, weights: dict[str, Tensor]) -> nn.Module:
    """Return the model that metadata ask for, with these weights."""
    if "num_classes" not in metadata:
        raise ValueError(f"it has no classifier but a {metadata.get('arch')} model")
    spec = {key: metadata.get(key) for key in ("arch", "shape", "num_classes")}
    whole = isinstance(spec["shape"], list | tuple) and isinstance(spec["arch"], str)
    if not whole or {type(k) for k in (*spec["shape"], spec["num_classes"])} != {int}:
        raise ValueError(f"arch, shape and num_classes are {str(spec)[:200]}")
    named = isinstance(metadata.get("dataset", ""), str)
    if not named or not is_number(metadata.get("sigma", 0)):
        raise ValueError("sigma must be a number, and dataset a name")
    if _least_size(spec) > stored_bytes(weights):
        raise ValueError(f"the weights do not fit {spec['arch']!r}: they are too few")
    model = build_model(**spec)
    if problem := misfit(model.state_dict(), weights):
        raise ValueError(f"the weights do not fit {spec['arch']!r}: {problem}")
    model.load_state_dict(weights)
    return model


def _least_size(spec: dict) -> int:
    """Return how many numbers a model has, or fewer, without making it."""
    with torch.device("meta"):
        state = build_model(**spec).state_dict()
    return sum(tensor.numel() for tensor in state.values())


def provenance(device: str | torch.device) -> dict:
    """Return where a result comes from: versions, device, commit and time."""
    device = torch.device(device)
    name = platform.processor() or platform.machine()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {
        "lipsmooth": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": name,
        "commit": _commit(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def _commit() -> str | None:
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():  # installed, perhaps inside another repository
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def weights_digest(model: nn.Module) -> str:
    """Return a SHA-256 of all weights and buffers, the same on every device."""
    return tensors_digest(model.state_dict())
