"""Lipschitz constants of networks, in the L2 norm: bounds from above and from below."""

import copy
from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lipsmooth.hooks import reject_hooks
from lipsmooth.inference import Inference
from lipsmooth.lipnets import MaxMin, Scale
from lipsmooth.normalize import Normalize
from lipsmooth.resnet import Block, ResNet
from lipsmooth.spectral import CONVOLUTIONS, POOLINGS, Shape, spectral_norm_upper

Norm = Callable[[nn.Module, Shape], float]

_CONSTANTS = {
    **dict.fromkeys((nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout2d, MaxMin), 1.0),
    **dict.fromkeys((nn.ReLU, nn.ReLU6, nn.Tanh, nn.Hardtanh), 1.0),
    nn.Sigmoid: 0.25,
}
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_MAXIMA = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
_SHAPING = (nn.Linear, *CONVOLUTIONS, *POOLINGS, *_MAXIMA, nn.Flatten)


def product_upper_bound(
    module: nn.Module, input_shape: Shape, *, norm: Norm = spectral_norm_upper
) -> float:
    """Return a Lipschitz constant of a network, from those of its layers.

    Constants of layers in sequence multiply; a residual block has the sum of those of
    its two ways.

    Parameters
    ----------
    module : nn.Module
        ``nn.Sequential``, `lipsmooth.resnet.ResNet` or a layer: linear, convolution,
        batch normalisation, pooling, common activations, and those of this package.
    input_shape : tuple of int
        Of one input, without the batch.
    norm : callable
        The constant of a linear layer, convolution or average pooling, from the layer
        and the shape of its input. With `lipsmooth.spectral.spectral_norm` the result
        is sharper and an estimate.

    Returns
    -------
    float
        ``L`` with ``‖f(x) − f(y)‖ ≤ L ‖x − y‖`` for all inputs, where f is the network
        in evaluation mode and the norm of scores is that of the whole vector.

    Raises
    ------
    ValueError
        If a layer is unknown, has hooks or computes in half precision; it is named.

    Notes
    -----
    Guarantee: with the default ``norm``, a true constant of the network in exact
    arithmetic; see `lipsmooth.spectral.spectral_norm_upper` about rounding. A layer
    that nobody has thought about is an error, not a factor of 1.

    References
    ----------
    Szegedy et al. (2014), *Intriguing properties of neural networks*, Section 4.3.
    """
    return _bound(module, tuple(input_shape), norm)[0]


def _bound(module: nn.Module, shape: Shape, norm: Norm) -> tuple[float, Shape]:
    """Return a Lipschitz constant and the shape of the output."""
    kind = parametrize.type_before_parametrizations(module)  # exactly: no subclasses
    reject_hooks(module)
    for part in module.parameters(recurse=False):
        if part.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"{kind.__name__} computes in {part.dtype}, which is coarse"
            )
    if kind is nn.Sequential:
        return _chain(module, shape, norm)
    if kind is Inference:
        return _bound(module.network, shape, norm)
    if kind is ResNet:
        body = module.layer1, module.layer2, module.layer3, module.avgpool
        stem = module.conv1, module.bn1, module.relu
        return _chain((*stem, *body, nn.Flatten(), module.fc), shape, norm)
    if kind is Block:
        way = module.conv1, module.bn1, module.relu, module.conv2, module.bn2
        short = nn.Identity() if module.downsample is None else module.downsample
        long, after = _chain(way, shape, norm)
        return long + _bound(short, shape, norm)[0], after
    return _layer(module, kind, shape, norm), _shape_after(module, kind, shape)


def _chain(
    layers: Iterable[nn.Module], shape: Shape, norm: Norm
) -> tuple[float, Shape]:
    total = 1.0
    for layer in layers:
        factor, shape = _bound(layer, shape, norm)
        total *= factor
    return total, shape


def _layer(module: nn.Module, kind: type, shape: Shape, norm: Norm) -> float:
    if kind is nn.Linear or kind in (*CONVOLUTIONS, *POOLINGS):
        return norm(module, shape)
    if kind in _CONSTANTS:
        return _CONSTANTS[kind]
    if kind is nn.LeakyReLU:
        return max(1.0, abs(module.negative_slope))
    if kind is Scale:
        return abs(module.factor)
    if kind is Normalize:
        return _upwards(1 / module.std.double().abs().min())
    if kind in _NORMS and module.running_var is not None:
        scale = (module.running_var.double() + module.eps).rsqrt()
        if module.weight is not None:
            scale = scale * module.weight.detach().double()
        return _upwards(scale.abs().max())
    if kind in _MAXIMA:
        return _max_pooling(module)
    raise ValueError(f"no Lipschitz constant is known for {kind.__name__}")


def _upwards(value: Tensor) -> float:
    # Covers a few roundings here and that of one multiplication in the chain; the
    # bounds of linear layers bring a larger allowance of their own.
    if not value.isfinite():
        raise ValueError(f"a normalisation has the scale {value}")
    return float(value) * (1 + 1e-14)


def _max_pooling(module: nn.Module) -> float:
    # A maximum moves by at most the norm of the change in its window; summed in
    # squares, every position counts as often as there are windows that it lies in.
    settings = module.kernel_size, module.stride, module.dilation
    axes = int(type(module).__name__[-2])  # of "MaxPool2d"
    kernels, strides, dilations = (np.broadcast_to(value, axes) for value in settings)
    overlap = np.ceil(kernels / (strides // np.gcd(strides, dilations)))
    return float(np.sqrt(overlap.prod())) * (1 + 1e-14)


def _shape_after(module: nn.Module, kind: type, shape: Shape) -> Shape:
    if kind not in _SHAPING:
        return shape
    weight = next(module.parameters(), torch.empty(0))
    with torch.no_grad():
        return tuple(module(weight.new_zeros(1, *shape)).shape[1:])


def local_lower_bound(
    model: nn.Module,
    x: Tensor,
    *,
    reach: float,
    steps: int = 100,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Return how steep a network is found to be near given inputs.

    Around each input, pairs of points are sought by gradient ascent whose scores differ
    as much as possible for their distance. The distance shrinks from half the reach to
    a five-hundredth of it: wide pairs see where to go, close ones are the steepest.

    Parameters
    ----------
    model : nn.Module
        From inputs (batch, ...) to scores (batch, classes), differentiable; used in
        evaluation mode and double precision.
    x : Tensor, shape (images, ...)
        Centres.
    reach : float
        Radius of the ball around each centre in which both points stay.
    steps : int
        Of the ascent.
    seed : int
        Of the first directions.

    Returns
    -------
    ndarray, shape (images,)
        The largest ``‖f(a) − f(b)‖ / ‖a − b‖`` met: every Lipschitz constant that holds
        within that ball is at least this.

    Raises
    ------
    ValueError
        If ``reach`` is not positive and finite or ``steps`` is below 1.
    """
    if not (np.isfinite(reach) and reach > 0):
        raise ValueError(f"reach must be positive and finite, got {reach}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    network = copy.deepcopy(model).cpu().double().eval().requires_grad_(False)
    start = x.detach().cpu().double()
    rng = torch.Generator().manual_seed(seed)
    way = _unit(torch.randn(start.shape, generator=rng, dtype=torch.float64))
    # Off the very centre, where a symmetry might hide which way is up.
    aside = _unit(torch.randn(start.shape, generator=rng, dtype=torch.float64))
    centre, best = start + reach / 1000 * aside, start.new_zeros(len(start))
    for step in range(steps):
        share = step / max(steps - 1, 1)
        half = reach / 4 * (1 / 250) ** share  # half the distance of the pair
        centre.requires_grad_(), way.requires_grad_()
        points = torch.cat([centre + half * way, centre - half * way])
        rise = network(points).view(2, len(start), -1).diff(dim=0)[0].norm(dim=1)
        gap = points.detach().view(2, len(start), -1).diff(dim=0)[0].norm(dim=1)
        best = torch.maximum(best, rise.detach() / gap)
        where, turn = torch.autograd.grad(rise.sum(), (centre, way))
        with torch.no_grad():
            way = _unit(turn)  # a power iteration, were the network linear
            moved = centre + reach / 10 * (1 - share) * _unit(where) - start
            length = moved.flatten(1).norm(dim=1).clamp(min=1e-300)
            shrink = ((reach - half) / length).clamp(max=1)
            centre = start + moved * shrink.view(-1, *[1] * (start.ndim - 1))
    return best.numpy()


def _unit(x: Tensor) -> Tensor:
    length = x.flatten(1).norm(dim=1).clamp(min=1e-300)
    return x / length.view(-1, *[1] * (x.ndim - 1))
