"""What a training run consists of: checked before it starts, kept in its checkpoint."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from lipsmooth.augment import AUGMENTATIONS
from lipsmooth.epochs import check_run, is_finite
from lipsmooth.inference import PRECISIONS
from lipsmooth.losses import LOSSES, Loss

EPOCHS, BATCH_SIZE, LEARNING_RATE = 60, 128, 3e-3

# Least value, whether it is attained, whether only whole numbers will do.
_RANGES = {
    "copies": (1, True, True),
    "steps": (1, True, True),
    "warmup": (0, True, True),
    "weight": (0, True, False),
    "entropy": (0, True, False),
    "radius": (0, True, False),
    "margin": (0, True, False),
    "inverse_temperature": (0, False, False),
}
OPTIONS = tuple(_RANGES)
"""Names of all options that some loss has."""


@dataclass(frozen=True)
class Recipe:
    """The settings of a training run.

    Attributes
    ----------
    sigma, epochs, batch_size, learning_rate, seed, loss, precision, channels_last, \
augmentation
        As for `lipsmooth.train.train_classifier`.
    options : dict
        Of the loss; defaults are filled in.

    Raises
    ------
    ValueError
        If a setting is out of range, or the loss or an option of it unknown.
    """

    sigma: float
    epochs: int = EPOCHS
    batch_size: int = BATCH_SIZE
    learning_rate: float = LEARNING_RATE
    seed: int = 0
    loss: str = "gaussian"
    precision: str = "float32"
    channels_last: bool = False
    augmentation: str = "none"
    options: dict[str, int | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check everything, and fill in the options of the loss."""
        if not (is_finite(self.sigma) and self.sigma >= 0):
            got = str(self.sigma)[:60]
            raise ValueError(f"sigma must be finite and at least 0, got {got}")
        check_run(
            epochs=self.epochs, batch_size=self.batch_size,
            learning_rate=self.learning_rate, seed=self.seed,
        )  # fmt: skip
        if self.precision not in tuple(PRECISIONS):
            known = " or ".join(PRECISIONS)
            raise ValueError(f"precision must be {known}, got {self.precision!r}")
        if self.augmentation not in tuple(AUGMENTATIONS):
            known = " or ".join(AUGMENTATIONS)
            raise ValueError(f"augmentation must be {known}, got {self.augmentation!r}")
        options = loss_options(self.loss, self.options)
        object.__setattr__(self, "options", options)

    def settings(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, in plain values."""
        return {
            "sigma": float(self.sigma), "epochs": self.epochs,
            "batch_size": self.batch_size, "learning_rate": float(self.learning_rate),
            "seed": self.seed, "loss": self.loss, "loss_options": self.options,
            "precision": self.precision, "channels_last": bool(self.channels_last),
            "augmentation": self.augmentation,
        }  # fmt: skip

    def objective(
        self,
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        generator: torch.Generator,
        *,
        epoch: int,
    ) -> Loss:
        """Return the loss of one batch of clean images, in an epoch counted from 0."""
        x = AUGMENTATIONS[self.augmentation](x, generator)
        loss = partial(LOSSES[self.loss], sigma=self.sigma, **self.options)
        if "warmup" in self.options:
            loss = partial(loss, epoch=epoch)
        return loss(network, x, y, generator=generator)

    def before(self) -> dict[str, Any]:
        """Return `BEFORE`, of the options only those that the loss has."""
        known = BEFORE["loss_options"]
        options = {k: known[k] for k in self.options if k in known}
        return {**BEFORE, "loss_options": options}


BEFORE: dict[str, Any] = {
    "loss": "gaussian",
    "loss_options": {"copies": 1, "warmup": 0},
    "precision": "float32",
    "channels_last": False,
    "augmentation": "none",
}
"""What a checkpoint means that was written before these could be chosen."""


class Network(nn.Module):
    """A model as training runs it: images laid out and computed with as asked.

    Parameters
    ----------
    model : nn.Module
        Its weights stay float32, and the optimiser's state with them: under bfloat16
        only what autocast deems safe is computed in it.
    precision : str
        Of `lipsmooth.inference.PRECISIONS`.
    channels_last : bool
        Memory layout of the images; that of the weights is the caller's business.
    """

    def __init__(self, model: nn.Module, precision: str, channels_last: bool) -> None:
        super().__init__()
        self.model, self.precision = model, precision
        self.layout = layout(channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits in float32."""
        x = x.contiguous(memory_format=self.layout)
        half = self.precision == "bfloat16"
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=half):
            return self.model(x).float()


def layout(channels_last: bool) -> torch.memory_format:
    """Return the memory format of images and convolutions."""
    return torch.channels_last if channels_last else torch.contiguous_format


def loss_options(loss: str, options: Mapping[str, Any]) -> dict[str, int | float]:
    """Return all options of a loss, defaults filled in.

    Parameters
    ----------
    loss : str
        A key of `lipsmooth.losses.LOSSES`.
    options : mapping
        Those that differ from the defaults.

    Returns
    -------
    dict
        In the order of the function's arguments, as plain numbers.

    Raises
    ------
    ValueError
        If the loss or an option is unknown, or a value out of range.
    """
    if loss not in tuple(LOSSES):
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}; got {loss!r}")
    parameters = inspect.signature(LOSSES[loss]).parameters
    defaults = {k: p.default for k, p in parameters.items() if k in _RANGES}
    if not isinstance(options, Mapping):
        raise ValueError(f"options must be values by name, got {str(options)[:60]}")
    for name in options:
        if name not in defaults:
            known = ", ".join(defaults)
            raise ValueError(f"loss {loss!r} has no option {name!r}; it has {known}")
    return {k: _checked(k, options.get(k, value)) for k, value in defaults.items()}


def _checked(name: str, value: Any) -> int | float:
    least, attained, whole = _RANGES[name]
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    fits = number >= least if attained else number > least
    if isfinite(number) and fits and not (whole and number != int(number)):
        return int(number) if whole else number
    kind = "a whole number" if whole else "a finite number"
    bound = f"at least {least}" if attained else f"greater than {least}"
    raise ValueError(f"{name} must be {kind}, {bound}; got {value!r}")
