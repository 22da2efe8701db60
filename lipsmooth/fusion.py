"""Convolutions that also add and rectify, so that their results pass memory once.

On a CPU the products of a small convolution are over so soon that reading their sums
back, to add a shortcut and to cut off what is negative, takes a part of the time: a
twentieth of a residual network's in float32, more in bfloat16. oneDNN, the library
behind PyTorch's convolutions, can do both before it writes.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from lipsmooth.hooks import has_hooks

_RECTIFIED = {functional.relu, torch.relu, torch.relu_, "relu", "relu_"}
_ADDED = {operator.add, operator.iadd, torch.add, "add", "add_"}
_OVERWRITING = {operator.iadd, "add_"}


class FusedConvolution(nn.Module):
    """A convolution, then a sum with another tensor if there is one, then a ReLU.

    Parameters
    ----------
    convolution : nn.Conv2d
        Padded with zeros, by numbers. Its weights are shared.
    rectified : bool
        Cut off negative results.
    overwrites : bool
        Write the result over the other tensor, which nobody reads again.
    """

    def __init__(
        self, convolution: nn.Conv2d, *, rectified: bool, overwrites: bool = False
    ) -> None:
        super().__init__()
        self.convolution, self.rectified = convolution, rectified
        self.overwrites = overwrites

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Return what the separate operations would, rounded once instead of thrice."""
        part = self.convolution
        numbers = part.padding, part.stride, part.dilation, part.groups
        last = "relu" if self.rectified else "none"
        operations = torch.ops.mkldnn
        if other is None:
            alone = part.weight, part.bias, *numbers, last, [], ""
            return operations._convolution_pointwise(x, *alone)
        # A sum that broadcasts, or one of two precisions.
        if other.shape != self._shape(x) or other.dtype != x.dtype:
            y = part(x) + other
            return y.relu() if self.rectified else y
        last = last if self.rectified else None
        sums = part.weight, part.bias, *numbers, "add", 1.0, last, [], ""
        if self.overwrites:
            return operations._convolution_pointwise_.binary(other, x, *sums)
        return operations._convolution_pointwise.binary(x, other, *sums)

    def _shape(self, x: Tensor) -> tuple[int, ...]:
        part = self.convolution
        sides = zip(
            x.shape[2:], part.kernel_size, part.padding, part.stride, part.dilation,
            strict=True,
        )  # fmt: skip
        reach = [(s + 2 * p - d * (k - 1) - 1) // t + 1 for s, k, p, t, d in sides]
        return (len(x), part.out_channels, *reach)


class _Proxy(fx.Proxy):
    """A symbol that remembers being overwritten; the usual one takes += for +."""


def _overwriting(operation: Callable[..., Any]) -> Callable[..., fx.Proxy]:
    def record(self: _Proxy, other: object) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operation, (self, other), {})

    return record


for _name in ("iadd", "isub", "imul", "itruediv", "ipow", "imod", "ifloordiv"):
    setattr(_Proxy, f"__{_name}__", _overwriting(getattr(operator, _name)))


class _Tracer(fx.Tracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


def fused(network: nn.Module) -> nn.Module:
    """Let the convolutions of a network do the sums and ReLUs that follow them.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode, on a CPU. Its parts are shared with the result.

    Returns
    -------
    nn.Module
        The same function up to rounding; the network itself if nothing can be fused:
        it cannot be traced, makes tensors of its own, has hooks, or this build of
        PyTorch lacks the operation.

    Notes
    -----
    What is fused stands directly one after the other in the symbolic trace, and
    nothing else reads what lies between: nothing can change in the meantime.
    """
    known = hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    if not known or any(map(has_hooks, network.modules())):
        return network
    try:
        graph = _Tracer().trace(network)
    except Exception:  # tracing runs the model's own code on symbols: anything goes
        return network
    # A tensor made in the forward pass, random perhaps, is a constant in the trace.
    if any("_tensor_constant" in str(node.target) for node in graph.nodes):
        return network
    traced = fx.GraphModule(network, graph)
    parts, convolutions = dict(traced.named_modules()), []
    # A module that is given its input by name is left as it is.
    calls = [n for n in graph.nodes if n.op == "call_module" and len(n.args) == 1]
    for node in calls:
        if isinstance(parts[node.target], nn.Identity):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif _fusable(parts[node.target]):
            convolutions.append(node)
    found = sum(_fuse(traced, node) for node in convolutions)
    graph.lint()
    traced.recompile()
    return traced.eval() if found else network


def _fusable(part: nn.Module) -> bool:
    plain = type(part) is nn.Conv2d and part.padding_mode == "zeros"
    return plain and not isinstance(part.padding, str)


def _fuse(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Fuse one convolution with what follows it, if anything does."""
    chain, inputs = [node], [node.args[0]]
    added = _reader(node)
    if added is not None and _adds(traced, added, node):
        chain.append(added)
        inputs += [part for part in added.args if part is not node]
    rectified = _reader(chain[-1])
    if rectified is not None and _rectifies(traced, rectified):
        chain.append(rectified)
    else:
        rectified = None
    if len(chain) == 1:
        return False
    whole = FusedConvolution(
        traced.get_submodule(node.target),
        rectified=rectified is not None,
        overwrites=len(inputs) == 2 and _done_with(traced, inputs[1], chain),
    )
    name = f"fused_{node.name}"
    traced.add_submodule(name, whole)
    with traced.graph.inserting_after(chain[-1]):
        result = traced.graph.call_module(name, tuple(inputs))
    chain[-1].replace_all_uses_with(result)
    for done in reversed(chain):
        traced.graph.erase_node(done)
    return True


def _reader(node: fx.Node) -> fx.Node | None:
    """Return what reads a node, if that is one node and the next to be computed."""
    return node.next if list(node.users) == [node.next] else None


def _adds(traced: fx.GraphModule, node: fx.Node, term: fx.Node) -> bool:
    """Say whether a node is the sum of a convolution's result and another tensor."""
    known = node.target in _ADDED and len(node.args) == 2 and not node.kwargs
    if not known or not all(isinstance(part, fx.Node) for part in node.args):
        return False
    first, second = node.args
    if first is second:
        return False
    # A sum that overwrites its first term is one like others if that is fresh.
    fresh = first is term or (_convolves(traced, first) and len(first.users) == 1)
    return fresh or node.target not in _OVERWRITING


def _done_with(traced: fx.GraphModule, node: fx.Node, chain: list[fx.Node]) -> bool:
    """Say whether only the sum of a chain still reads a convolution's result."""
    order = {other: place for place, other in enumerate(traced.graph.nodes)}
    # What others than convolutions make of it, such as a view, may share its memory.
    done = all(
        user is chain[1] or (_convolves(traced, user) and order[user] < order[chain[0]])
        for user in node.users
    )
    return _convolves(traced, node) and done


def _convolves(traced: fx.GraphModule, node: fx.Node) -> bool:
    kinds = nn.Conv2d | FusedConvolution
    return node.op == "call_module" and isinstance(
        traced.get_submodule(node.target), kinds
    )


def _rectifies(traced: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return type(traced.get_submodule(node.target)) is nn.ReLU
    return node.target in _RECTIFIED
