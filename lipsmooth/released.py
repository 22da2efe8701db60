"""Networks whose weights others have published, and the files they come in.

Cohen et al. 2019
    ``{"arch": …, "state_dict": …}`` with names that begin with ``1.``, the place of the
    network after its normalisation; the latter has no weights, its constants are in
    the code. Those of ImageNet were trained in parallel and have a ``module.`` more.
Zhai et al. 2020 (MACER)
    ``{"net": …, "epoch": …}``, the CIFAR network alone: nothing is normalised.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet50

from lipsmooth.normalize import CIFAR10, IMAGENET, Normalize
from lipsmooth.resnet import ResNet
from lipsmooth.weightfiles import check_tensors

SHAPES = {
    "cifar_resnet20": (3, 32, 32),
    "cifar_resnet110": (3, 32, 32),
    "resnet50": (3, 224, 224),
}
"""Images of the published architectures, by the names that their authors gave them."""


def cifar_resnet(
    shape: tuple[int, int, int], num_classes: int, *, depth: int
) -> nn.Sequential:
    """Return the CIFAR network of Cohen et al.: CIFAR-10's constants, then a ResNet."""
    _check_shape(f"cifar_resnet{depth}", shape)
    return nn.Sequential(Normalize(*CIFAR10), ResNet(depth, num_classes=num_classes))


def imagenet_resnet(shape: tuple[int, int, int], num_classes: int) -> nn.Sequential:
    """Return torchvision's ResNet-50 after ImageNet's constants."""
    _check_shape("resnet50", shape)
    return nn.Sequential(Normalize(*IMAGENET), resnet50(num_classes=num_classes))


PUBLISHED = {
    "cifar_resnet20": partial(cifar_resnet, depth=20),
    "cifar_resnet110": partial(cifar_resnet, depth=110),
    "resnet50": imagenet_resnet,
}


def _check_shape(arch: str, shape: tuple[int, int, int]) -> None:
    if tuple(shape) != SHAPES[arch]:
        raise ValueError(f"{arch} takes images of shape {SHAPES[arch]}, got {shape}")


def is_released(content: Mapping[str, Any]) -> bool:
    """Say whether a file's content has the layout of a published checkpoint."""
    return "net" in content or {"arch", "state_dict"} <= content.keys()


def convert(content: Mapping[str, Any]) -> tuple[dict, dict[str, Tensor]]:
    """Return what a published checkpoint holds, in the names used here.

    Parameters
    ----------
    content : mapping
        Of one of the layouts above. A ``module`` in a name, left by training in
        parallel, is dropped wherever it stands.

    Returns
    -------
    spec : dict
        ``arch``, ``shape`` and ``num_classes`` for `lipsmooth.models.build_model`.
    weights : dict of Tensor
        Constants of the normalisation included.

    Raises
    ------
    ValueError
        If the architecture is unknown, or a name is not of the layout.
    """
    if "net" in content:
        weights = _plain(content["net"], "net", prefix="1.")
        arch = f"cifar_resnet{6 * _blocks(weights) + 2}"
        mean, std = [0.0] * 3, [1.0] * 3
    else:
        weights, arch = _plain(content["state_dict"], "state_dict"), content["arch"]
        mean, std = IMAGENET if arch == "resnet50" else CIFAR10
    if not isinstance(arch, str) or arch not in PUBLISHED:
        known = ", ".join(PUBLISHED)
        raise ValueError(f"arch must be one of {known} to be loaded; got {arch!r}")
    for name in weights:
        if not name.startswith("1."):
            raise ValueError(f"{name!r} is no name of a network after a normalisation")
    if "1.fc.weight" not in weights or weights["1.fc.weight"].ndim != 2:
        raise ValueError("'1.fc.weight' is missing, which tells the number of classes")
    for name, value in (("0.mean", mean), ("0.std", std)):
        weights[name] = torch.tensor(value)[:, None, None]
    classes = len(weights["1.fc.weight"])
    spec = {"arch": arch, "shape": list(SHAPES[arch]), "num_classes": classes}
    return spec, weights


def _plain(state: object, key: str, prefix: str = "") -> dict[str, Tensor]:
    if not isinstance(state, Mapping) or not state:
        raise ValueError(f"{key!r} must hold tensors by name")
    weights = {}
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{key}[{str(name)[:60]!r}] must be a tensor")
    check_tensors(state)
    for name, tensor in state.items():
        parts = [part for part in name.split(".") if part != "module"]
        weights[prefix + ".".join(parts)] = tensor
    return weights


def _blocks(weights: Mapping[str, Tensor]) -> int:
    """Return how many blocks the first of the three stages has."""
    split = [name.split(".") for name in weights if name.startswith("1.layer1.")]
    return len({parts[2] for parts in split if len(parts) > 2})
