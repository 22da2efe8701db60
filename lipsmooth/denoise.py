"""Denoise, then classify: a diffusion model in front of a classifier.

The noise comes first, from whoever smooths; the denoiser and the classifier are one
base classifier together. A certificate speaks about that composite, so a denoiser that
does badly costs accuracy and never soundness.
"""

import importlib
import math
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from lipsmooth.models import weights_digest

if TYPE_CHECKING:
    from diffusers import UNet2DModel

ARCH, WIDTH = "diffusion", 16
"""What a denoiser's checkpoint has in the place of a classifier's architecture, and the
channels of a denoiser for digits."""

SCHEDULE = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2"}
"""The noise schedule, for ``diffusers.DDPMScheduler``."""


class Denoiser(NamedTuple):
    """A diffusion model: a network that predicts noise, and its schedule.

    Attributes
    ----------
    network : nn.Module
        From images at a timestep, pixels about [−1, 1], and the timestep to the
        standard normal noise in them; channels beyond the image's are ignored.
    alphas_cumprod : Tensor, shape (timesteps,)
        Decreasing, in (0, 1): the share of the image in the variance at a timestep.
    """

    network: nn.Module
    alphas_cumprod: Tensor


def noise_levels(alphas_cumprod: Tensor) -> Tensor:
    """Return the standard deviation of the noise, relative to the image's scale.

    Parameters
    ----------
    alphas_cumprod : Tensor, shape (timesteps,)
        ``x_t = sqrt(alphas_cumprod[t]) * x_0 + sqrt(1 - alphas_cumprod[t]) * noise``.

    Returns
    -------
    Tensor, shape (timesteps,)
        ``sqrt((1 - alphas_cumprod) / alphas_cumprod)``, in units in which pixels
        span [−1, 1]: twice the σ of pixels in [0, 1].
    """
    return ((1 - alphas_cumprod) / alphas_cumprod).sqrt()


def matching_timestep(alphas_cumprod: Tensor, *, sigma: float) -> int:
    """Return the timestep whose noise is nearest to that of smoothing.

    Parameters
    ----------
    alphas_cumprod : Tensor, shape (timesteps,)
        See `noise_levels`.
    sigma : float
        Of the noise on pixels in [0, 1].

    Raises
    ------
    ValueError
        If no timestep has so little or so much noise.
    """
    levels = noise_levels(alphas_cumprod.double()) / 2
    low, high = levels.min().item(), levels.max().item()
    if not low <= sigma <= high:
        raise ValueError(f"sigma must lie in [{low:.3g}, {high:.3g}], got {sigma}")
    return int((levels - sigma).abs().argmin())


class DenoisedClassifier(nn.Module):
    """Denoise images that are noisy already, then classify them.

    Parameters
    ----------
    denoiser : nn.Module
        See `Denoiser`. Returns a tensor, or an output of diffusers with ``sample``.
    classifier : nn.Module
        From images in [0, 1] to scores, or to an output of transformers with
        ``logits``.
    alphas_cumprod : Tensor, shape (timesteps,)
        The denoiser's schedule.
    sigma : float, optional
        Of the noise that images will have; the denoiser is used at the
        `matching_timestep`.
    timestep : int, optional
        Instead of ``sigma``: at this timestep.
    size : tuple of int, optional
        Denoised images are resized to (height, width), as the classifier was trained;
        bicubic, with antialiasing. By default they stay as they are.
    steps : int
        Network evaluations per image: 1 predicts the clean image at once; more go
        down evenly spaced timesteps by DDIM, which draws no noise of its own.

    Raises
    ------
    ValueError
        If not exactly one of ``sigma`` and ``timestep`` is given, or an argument is
        out of range.

    Notes
    -----
    Guarantee: a deterministic function of its input, row by row in evaluation mode.
    Its noise must come from outside and be that of smoothing, ``ε ~ N(0, σ² I)`` on
    pixels in [0, 1], not clipped. Then every certificate of this package that uses no
    Lipschitz constant holds for the smoothed composite, whatever the denoiser returns;
    one that does needs the composite's constant.

    References
    ----------
    Salman et al. (2020), *Denoised smoothing*; Carlini et al. (2023), *(Certified!!)
    adversarial robustness for free!*; Song et al. (2021) for DDIM.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        classifier: nn.Module,
        *,
        alphas_cumprod: Tensor,
        sigma: float | None = None,
        timestep: int | None = None,
        size: tuple[int, int] | None = None,
        steps: int = 1,
    ) -> None:
        super().__init__()
        if (sigma is None) == (timestep is None):
            raise ValueError("give either sigma or timestep")
        if timestep is None:
            timestep = matching_timestep(alphas_cumprod, sigma=sigma)
        if not 0 <= timestep < len(alphas_cumprod):
            raise ValueError(
                f"timestep must lie in [0, {len(alphas_cumprod)}), got {timestep}"
            )
        if not 1 <= steps <= timestep + 1:
            raise ValueError(f"steps must lie in [1, {timestep + 1}], got {steps}")
        self.denoiser, self.classifier = denoiser, classifier
        self.size = None if size is None else tuple(size)
        down = torch.linspace(timestep, 0, steps + 1, dtype=torch.float64)[:-1]
        self.timesteps = down.round().long().tolist()
        self.shares = alphas_cumprod[self.timesteps].double().tolist()
        # Buffers: what the scores depend on is then part of the weights' digest.
        self.register_buffer("alphas", torch.tensor(self.shares))
        plan = [*self.timesteps, *(self.size or (0, 0))]
        self.register_buffer("plan", torch.tensor(plan))

    def forward(self, noisy: Tensor) -> Tensor:
        """Return scores of images (batch, C, H, W), pixels in [0, 1] plus noise."""
        images = self.denoise(noisy)
        if self.size is not None and images.shape[-2:] != self.size:
            images = interpolate(images, self.size, mode="bicubic", antialias=True)
        scores = self.classifier(images)
        return getattr(scores, "logits", scores)

    def denoise(self, noisy: Tensor) -> Tensor:
        """Return the denoised images, clipped to [0, 1], in the same shape."""
        clean = 2 * noisy - 1
        noise = torch.zeros_like(noisy)
        for timestep, share in zip(self.timesteps, self.shares, strict=True):
            signal, spread = math.sqrt(share), math.sqrt(1 - share)
            # At first the noisy image itself, scaled; it brings its noise along.
            x = signal * clean + spread * noise
            predicted = self.denoiser(x, timestep)
            noise = getattr(predicted, "sample", predicted)[:, : noisy.shape[1]]
            clean = ((x - spread * noise) / signal).clamp(-1, 1)
            noise = (x - signal * clean) / spread
        return (clean + 1) / 2

    def parts(self) -> dict:
        """Return what identifies the composite in a log: both networks, and how."""
        return {
            "classifier": weights_digest(self.classifier),
            "denoiser": weights_digest(self.denoiser),
            "timesteps": self.timesteps,
        }


def build_denoiser(
    shape: tuple[int, int, int], *, width: int = WIDTH, light: bool = False
) -> "UNet2DModel":
    """Return a freshly initialised U-Net that predicts noise.

    Parameters
    ----------
    shape : tuple of int
        Image shape (C, H, W). Resolutions are halved down to 4 pixels, at most three
        times, and H and W must allow that. From 16 pixels on there is attention.
    width : int
        Channels at full resolution, a multiple of 8; at lower resolutions of larger
        images there are twice as many.
    light : bool
        For large images: at most two halvings, half the layers, and no attention. A
        sixth of the time on a CPU, and a coarser model of the images.

    Raises
    ------
    ValueError
        If shape or width does not fit.
    """
    channels, height, width_px = shape
    halvings = min(3, int(math.log2(max(min(height, width_px), 1) / 4)))
    if halvings < 1 or height % 2**halvings or width_px % 2**halvings:
        raise ValueError(f"images must halve down to 4 pixels or so, got {shape}")
    if width < 8 or width % 8:
        raise ValueError(f"width must be a positive multiple of 8, got {width}")
    wide = halvings > 1
    halvings = min(halvings, 2) if light else halvings
    large = wide and not light
    sides = [min(height, width_px) // 2**level for level in range(halvings + 1)]
    attends = ["Attn" if large and side in (8, 16) else "" for side in sides]
    config = {
        "sample_size": [height, width_px],
        "in_channels": channels,
        "out_channels": channels,
        "layers_per_block": 2 if large else 1,
        "block_out_channels": [width, *[width * (1 + wide)] * halvings],
        "down_block_types": [f"{kind}DownBlock2D" for kind in attends],
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(attends)],
        "attention_head_dim": min(width, 64),
        "add_attention": large,
        "norm_num_groups": math.gcd(width, 64) // (2 if large else 4),
        "attn_norm_num_groups": math.gcd(width, 64) // (2 if large else 4),
        "resnet_time_scale_shift": "scale_shift",
        "dropout": 0.1 if large else 0.0,
    }
    network = require("diffusers").UNet2DModel(**config)
    network.spec = {"arch": ARCH, "shape": list(shape), "config": config}
    return network


def require(name: str) -> ModuleType:
    """Import an optional package; the error says how to get it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        hint = f"denoisers need {error.name}: pip install 'lipsmooth[diffusion]'"
        raise ModuleNotFoundError(hint, name=error.name) from None
