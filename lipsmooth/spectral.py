"""Spectral norms of linear layers: estimates from below, certified bounds from above.

A layer that is linear apart from a bias stretches a difference of inputs by at most the
largest singular value of its matrix. The matrix of a convolution is far too large to be
written down, but it need only be applied, or taken apart into frequencies.
"""

import copy
from collections.abc import Iterator
from math import ceil, gcd, pi, prod

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, svds
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lipsmooth.hooks import reject_hooks

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
POOLINGS = (
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
)  # fmt: skip
Shape = tuple[int, ...]

DENSE = 256
"""Inputs or outputs of a layer up to which its matrix is written down."""
CHUNK = 2**23
"""Complex numbers that frequencies may take up in memory at a time, roughly."""
TIGHT = 1e-6
"""Relative gap at which Gram iteration stops."""


def spectral_norm(module: nn.Module, input_shape: Shape) -> float:
    """Return the largest singular value of a layer, found by iteration.

    The layer itself and its adjoint are applied, without the bias and in double
    precision, so that strides, paddings and groups are those that the network uses.

    Parameters
    ----------
    module : nn.Module
        ``Linear``, ``Conv1d`` … ``Conv3d`` with any settings, or average pooling.
    input_shape : tuple of int
        Of one input, without the batch: (features,) or (C, H, W).

    Returns
    -------
    float
        Usually right to 1e-6. Lanczos iteration approaches the norm from below, so
        this is an estimate; `spectral_norm_upper` is the bound.

    Raises
    ------
    ValueError
        If the layer is of another kind, its weights are not finite or the shape does
        not fit.
    """
    kind = _kind(module)
    if kind is nn.Linear:
        return float(torch.linalg.matrix_norm(_weight(module), 2))
    with torch.enable_grad():
        if kind in POOLINGS:  # every channel alike
            input_shape = (1, *input_shape[1:])
        layer = _linear_part(module)
        x = torch.zeros(1, *input_shape, dtype=torch.float64, requires_grad=True)
        y = _apply(layer, x, input_shape)

        def adjoint(v: np.ndarray) -> np.ndarray:
            cotangent = torch.from_numpy(np.array(v)).reshape(y.shape)
            (out,) = torch.autograd.grad(y, x, cotangent, retain_graph=True)
            return out.numpy().ravel()

        def forward(v: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return layer(torch.from_numpy(np.array(v)).reshape(x.shape)).ravel()

        if min(x.numel(), y.numel()) <= DENSE:
            apply, size = min(
                (forward, x.numel()), (adjoint, y.numel()), key=lambda side: side[1]
            )
            return float(np.linalg.norm([apply(row) for row in np.eye(size)], 2))
        matrix = LinearOperator(
            (y.numel(), x.numel()), matvec=forward, rmatvec=adjoint, dtype=np.float64
        )
        start = np.random.default_rng(0).standard_normal(min(matrix.shape))
        values = svds(matrix, k=1, tol=1e-7, v0=start, return_singular_vectors=False)
    return float(values[0])


def spectral_norm_upper(module: nn.Module, input_shape: Shape) -> float:
    """Return a number that the spectral norm of a layer does not exceed.

    Parameters
    ----------
    module, input_shape
        As for `spectral_norm`.

    Returns
    -------
    float
        At most 1e-6 above the norm for ``Linear``, for circular convolutions whose
        stride divides the size, and for pooling without overlap. For zero padding it
        is the norm of a circular convolution on a slightly larger torus, typically
        within a few per cent; other paddings and strides are bounded more coarsely.

    Raises
    ------
    ValueError
        As for `spectral_norm`.

    Notes
    -----
    Guarantee: an upper bound for the layer in exact arithmetic with the weights as
    stored. Rounding within the computation is covered by an allowance that exceeds the
    standard worst-case error of its sums, products and square roots; that of the
    layer's own forward pass in single precision is not part of the bound.

    A circular convolution is block-diagonal over frequencies. A zero-padded one is the
    same on a torus large enough for its edges not to meet, with zeros put in and
    outputs left out, neither of which adds to the norm. A stride folds frequencies
    that it cannot tell apart into one wide block. Blocks are bounded by Gram iteration.

    References
    ----------
    Delattre, Barthélemy, Araujo and Allauzen (2023), *Efficient bound of Lipschitz
    constant for convolutional layers by Gram iteration*. Sedghi, Gupta and Long (2019),
    *The singular values of convolutional layers*.
    """
    kind = _kind(module)
    _apply(_linear_part(module), torch.zeros(1, *input_shape).double(), input_shape)
    if kind is nn.Linear:
        return gram_bound(_weight(module))
    if kind in POOLINGS:
        return _nonnegative_bound(module, input_shape)
    sides, strides, copies = _torus(module, input_shape)
    blocks = _frequency_blocks(module, sides, strides)
    terms = prod(module.kernel_size)
    return max(gram_bound(part, terms=terms) for part in blocks) * copies**0.5


def gram_bound(matrices: Tensor, *, terms: int = 1) -> float:
    """Bound the largest spectral norm of a batch of matrices by Gram iteration.

    Parameters
    ----------
    matrices : Tensor, shape (..., m, k)
        Real or complex, double precision.
    terms : int
        Numbers that were summed for each entry, for the rounding allowance.

    Returns
    -------
    float
        At least every spectral norm, at most 1e-6 above the largest, relatively.

    Notes
    -----
    With ``G = M Mᴴ`` the norm of M is at most ``‖G^(2^t)‖_F`` to the power
    ``1 / 2^(t+1)``, and at least that divided by ``min(m, k)`` to half that power.
    Each step squares that power of G and takes the root of this gap; matrices whose
    upper bound is below another's lower bound are left out.
    """
    matrices = matrices.reshape(-1, *matrices.shape[-2:])
    m, k = matrices.shape[1:]
    if k < m:
        matrices = matrices.mH
    size = min(m, k)
    largest = matrices.abs().amax()
    if largest == 0:
        return 0.0
    # The allowance: sums of length N err by N eps relative to Frobenius norms, which
    # exceed spectral ones by up to the root of the size; 64 covers constants and steps.
    eps = torch.finfo(torch.float64).eps
    allowance = 64 * eps * (max(m, k) + terms) * size
    gram = (matrices / largest) @ (matrices / largest).mH
    logs, power = torch.zeros(len(gram), dtype=torch.float64), 1.0
    while True:
        norms = torch.linalg.matrix_norm(gram).clamp(min=1e-300)
        logs = logs + torch.log(norms) / power  # of the bound on the largest eigenvalue
        gap = np.log(size) / (2 * power)
        keep = logs >= logs.max() - gap
        if gap <= TIGHT:
            break
        logs, gram = logs[keep], gram[keep] / norms[keep, None, None]
        gram, power = gram @ gram.mH, 2 * power
    bound = float(largest * torch.exp(logs.max() / 2))
    return bound * (1 + allowance)


def _kind(module: nn.Module) -> type:
    """Return the class of a linear layer; raise ValueError for any other."""
    kind = parametrize.type_before_parametrizations(module)
    if kind is not nn.Linear and kind not in (*CONVOLUTIONS, *POOLINGS):
        raise ValueError(f"no spectral norm is known for {type(module).__name__}")
    reject_hooks(module)
    return kind


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight.detach().to("cpu", torch.float64)
    if not weight.isfinite().all():
        raise ValueError(f"{type(module).__name__} has weights that are not finite")
    return weight


def _linear_part(module: nn.Module) -> nn.Module:
    """Return the layer in double precision, with its weight fixed and no bias."""
    layer = copy.deepcopy(module).to("cpu", torch.float64).requires_grad_(False)
    if isinstance(layer, CONVOLUTIONS):
        weight = _weight(module)
        layer.__class__ = _kind(module)  # the weight is a number from here on
        if hasattr(layer, "parametrizations"):
            del layer.parametrizations
        layer.register_parameter("weight", nn.Parameter(weight, requires_grad=False))
        layer.register_parameter("bias", None)
    return layer


def _apply(layer: nn.Module, x: Tensor, input_shape: Shape) -> Tensor:
    try:
        return layer(x)
    except RuntimeError as error:
        raise ValueError(
            f"{type(layer).__name__} cannot take input of shape {input_shape}: {error}"
        ) from None


def _nonnegative_bound(pooling: nn.Module, input_shape: Shape) -> float:
    # Schur's test: a matrix without negative entries has a norm of at most the root of
    # its largest row sum times its largest column sum.
    with torch.enable_grad():
        x = torch.ones(1, 1, *input_shape[1:], dtype=torch.float64, requires_grad=True)
        rows = pooling(x)
        (columns,) = torch.autograd.grad(rows.sum(), x)
    return float((rows.detach().max() * columns.max()).sqrt()) * (1 + 1e-12)


def _torus(module: nn.Module, input_shape: Shape) -> tuple[list, list, int]:
    """Return the sides and strides of a circular convolution that contains the layer.

    And how many outputs of the layer may be copies of one of its outputs, times how
    many of its inputs may be copies of one pixel.
    """
    pads = module._reversed_padding_repeated_twice  # a pair per axis, last axis first
    pads = list(zip(pads[::2], pads[1::2], strict=True))[::-1]
    settings = pads, module.kernel_size, module.stride, module.dilation
    sides, strides, copies = [], [], 1
    for n, (left, right), kernel, stride, dilation in zip(
        input_shape[1:], *settings, strict=True
    ):
        reach = dilation * (kernel - 1)
        outputs = (n + left + right - reach - 1) // stride + 1
        if module.padding_mode == "zeros":
            # Whatever is read outside the image must be read where zeros are.
            beyond = (outputs - 1) * stride + reach - left - (n - 1)
            side = n + max(left, beyond, 0)
        elif module.padding_mode == "circular":
            side, copies = n, copies * ceil(outputs / (n // gcd(n, stride)))
            stride = stride if n % stride == 0 else 1  # more outputs: no less
        else:  # "reflect", "replicate": a layer without padding after one that copies
            side = n + left + right
            index = torch.arange(n, dtype=torch.float64).reshape(1, 1, n)
            padded = nn.functional.pad(index, (left, right), mode=module.padding_mode)
            copies *= int(padded.long().flatten().bincount().max())
        sides.append(ceil(side / stride) * stride)
        strides.append(stride)
    return sides, strides, copies


def _frequency_blocks(
    module: nn.Module, sides: list[int], strides: list[int]
) -> Iterator[Tensor]:
    """Yield the blocks of a circular convolution, (blocks, C_out, C_in) by group.

    C_in counts the frequencies that a stride folds into one. Of two conjugate blocks
    one is left out: their norms agree.
    """
    weight, groups = _weight(module), module.groups
    folded = [side // stride for side, stride in zip(sides, strides, strict=True)]
    entries = prod(weight.shape[:2]) * prod(sides) // folded[0]
    for part in torch.arange(folded[0] // 2 + 1).split(max(1, CHUNK // entries)):
        kernel = weight.to(torch.complex128)
        for axis, side in enumerate(sides):
            coarse = part if axis == 0 else torch.arange(folded[axis])
            fine = torch.arange(strides[axis])[:, None] * folded[axis] + coarse
            place = torch.arange(module.kernel_size[axis]) * module.dilation[axis]
            # Whole turns are taken off before the angle is rounded.
            turns = (fine.reshape(-1, 1) * place % side).double() / side
            wave = torch.polar(torch.ones_like(turns), -2 * pi * turns)
            kernel = torch.tensordot(kernel, wave, dims=([2], [1]))
        pairs = zip(strides, [len(part), *folded[1:]], strict=True)
        shape = [n for pair in pairs for n in pair]
        out, inner = weight.shape[0] // groups, weight.shape[1]
        kernel = kernel.reshape(groups, out, inner, *shape)
        axes = range(3, 3 + len(shape))
        kernel = kernel.permute(*axes[1::2], 0, 1, *axes[::2], 2)
        yield kernel.reshape(-1, out, inner * prod(strides)) / prod(strides) ** 0.5
