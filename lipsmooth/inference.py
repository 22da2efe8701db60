"""A base classifier made ready to be sampled: the same function, faster.

Sampling is nearly all forward passes. In evaluation mode a batch normalisation is
an affine map that the convolution before it can carry, and convolutions run faster
with the channels last in memory.
"""

import copy
from collections import Counter
from itertools import pairwise

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lipsmooth.fusion import fused

PRECISIONS = ("float32", "bfloat16")
"""What a base classifier may compute in. The votes, and so the smoothed classifier
that is certified, are those of the network in that precision."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


SLICE = 384 * 1024
"""Bytes of images that one processor core takes at a time. Activations then stay in its
cache, and in memory that the allocator keeps rather than returns: a page returned costs
a fault when it is next needed."""


class Inference(nn.Module):
    """A network that computes in a precision of its own, a slice at a time on CPUs.

    Parameters
    ----------
    network : nn.Module
        From images to scores, each row for itself.
    dtype : torch.dtype
        Of weights and arithmetic.
    padded : bool
        Fill smaller batches up to the largest so far. What is compiled for one size
        would be compiled again for the next.
    fusing : bool
        Run the network fused. `network` keeps the parts that it was built of.
    """

    def __init__(
        self,
        network: nn.Module,
        dtype: torch.dtype,
        *,
        padded: bool = False,
        fusing: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.dtype, self.padded = network.to(dtype), dtype, padded
        self.runs = fused(self.network) if fusing else self.network
        self._largest = 0

    def forward(self, x: Tensor) -> Tensor:
        """Return scores in float32."""
        if not self.padded:
            return self._scores(x)
        self._largest = max(self._largest, len(x))
        missing = x.new_zeros((self._largest - len(x), *x.shape[1:]))
        return self._scores(torch.cat([x, missing]) if len(missing) else x)[: len(x)]

    def _scores(self, x: Tensor) -> Tensor:
        rows = len(x)
        if x.device.type == "cpu":
            cores = min(torch.get_num_threads(), 4)
            size = x[0].numel() * self.dtype.itemsize
            rows = max(8, cores * SLICE // max(size, 1))
        # Fused operations have no derivatives.
        network = self.network if x.requires_grad else self.runs
        parts = [network(part.to(self.dtype)).float() for part in x.split(rows)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def optimized(
    model: nn.Module, *, precision: str = "float32", compiled: bool = False
) -> nn.Module:
    """Return a copy of a base classifier for inference only.

    Batch normalisations are folded into the convolutions that feed them, weights that
    are computed from others (orthogonal ones, say) are computed once, all are laid out
    channels-last (on a CPU not with group normalisation), gradients are off, and a CPU
    takes a batch in slices that fit its cache (`SLICE`) and lets convolutions do what
    follows them (`lipsmooth.fusion`).

    Parameters
    ----------
    model : nn.Module
        From images to scores; left as it is. The copy stays on its device.
    precision : {"float32", "bfloat16"}
        bfloat16 halves the time on devices made for it and changes a fraction of a
        percent of the votes: what is certified is then the bfloat16 network.
    compiled : bool
        Pass the copy through ``torch.compile``: tens of seconds at first, worth it
        on a GPU.

    Returns
    -------
    nn.Module
        From the same images to the same scores, in float32, up to rounding in the
        chosen precision; in evaluation mode.

    Raises
    ------
    ValueError
        If the precision is unknown, or the model's device has no arithmetic for it.

    Notes
    -----
    Which normalisations can be folded is read off a symbolic trace. A model that cannot
    be traced is folded within its ``nn.Sequential`` parts, and nothing in it is fused.
    """
    check_precision(precision, _device_of(model))
    network = copy.deepcopy(model).eval()
    _fix_parametrizations(network)
    network.requires_grad_(False)
    for convolution, norm in _foldable(network):
        parts = (network.get_submodule(name) for name in (convolution, norm))
        network.set_submodule(convolution, fuse_conv_bn_eval(*parts))
        network.set_submodule(norm, nn.Identity())
    if not _slow_with_channels_last(network):
        network = network.to(memory_format=torch.channels_last)
    if compiled:
        network = torch.compile(network)
    fusing = not compiled and _device_of(network).type == "cpu"
    dtype = getattr(torch, precision)
    return Inference(network, dtype, padded=compiled, fusing=fusing).eval()


def _fix_parametrizations(network: nn.Module) -> None:
    # Not by remove_parametrizations: it edits the class, which a deep copy shares.
    for part in list(network.modules()):
        if parametrize.is_parametrized(part):
            weights = {name: getattr(part, name) for name in part.parametrizations}
            part.__class__ = parametrize.type_before_parametrizations(part)
            del part.parametrizations
            for name, weight in weights.items():
                part.register_parameter(name, nn.Parameter(weight.detach()))


def check_precision(precision: str, device: torch.device) -> None:
    """Raise ValueError unless the device computes in this precision."""
    if precision not in PRECISIONS:
        known = " or ".join(PRECISIONS)
        raise ValueError(f"precision must be {known}, got {precision!r}")
    if precision == "bfloat16" and not _has_bfloat16(device):
        raise ValueError(f"{device.type} has no bfloat16 arithmetic on this machine")


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _slow_with_channels_last(network: nn.Module) -> bool:
    # Group normalisation halves the rate of a small U-Net on a CPU.
    grouped = any(isinstance(part, nn.GroupNorm) for part in network.modules())
    return grouped and _device_of(network).type == "cpu"


def _device_of(model: nn.Module) -> torch.device:
    return next((part.device for part in model.parameters()), torch.device("cpu"))


def _foldable(network: nn.Module) -> list[tuple[str, str]]:
    """Return the names of convolutions and of the norms that alone use them."""
    modules = dict(network.named_modules())

    def fits(convolution: str, norm: str) -> bool:
        first, second = modules[convolution], modules[norm]
        known = isinstance(first, _CONVOLUTIONS) and isinstance(second, _NORMS)
        return known and second.running_mean is not None

    try:
        graph = fx.Tracer().trace(network)
    except Exception:  # tracing runs the model's own code on symbols: anything goes
        return [pair for pair in _neighbours(modules) if fits(*pair)]
    calls = [node for node in graph.nodes if node.op == "call_module"]
    used = Counter(node.target for node in calls)
    pairs = []
    for node in calls:
        before = node.args[0] if node.args else None
        if isinstance(before, fx.Node) and before.op == "call_module":
            pair = before.target, node.target
            once = len(before.users) == used[pair[0]] == used[pair[1]] == 1
            if once and fits(*pair):
                pairs.append(pair)
    return pairs


def _neighbours(modules: dict[str, nn.Module]) -> list[tuple[str, str]]:
    """Return the names of what follows upon what inside ``nn.Sequential``."""
    pairs = []
    shared = Counter(part for m in modules.values() for part in m.children())
    for name, module in modules.items():
        if type(module) is nn.Sequential:
            parts = [f"{name}.{key}".lstrip(".") for key, _ in module.named_children()]
            pairs += pairwise(parts)
    return [pair for pair in pairs if all(shared[modules[part]] == 1 for part in pair)]
