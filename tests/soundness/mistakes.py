"""What a mutant is, and how a function is exchanged while its trial runs."""

from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from unittest.mock import patch

from judging import Trial

from lipsmooth import intervals

CAUGHT = 1e-9
"""A mutant is caught if its failures are less probable than this at its level."""


@dataclass(frozen=True)
class Mutant:
    """A procedure with a mistake, and the trial that should find it."""

    mistake: str
    trial: Trial

    @property
    def name(self) -> str:
        """The procedure and the mistake."""
        return f"{self.trial.procedure}: {self.mistake}"


@contextmanager
def exchanged(**names: Callable):
    """Let functions stand in for others, by ``module__function``."""
    with ExitStack() as stack:
        for name, stand_in in names.items():
            module, function = name.split("__")
            stack.enter_context(patch(f"lipsmooth.{module}.{function}", stand_in))
        yield


def under(names: dict, run: Callable) -> Callable:
    """Return the trial that runs with functions exchanged."""

    def mutated(images, rng):
        with exchanged(**names):
            return run(images, rng)

    return mutated


def at_level(bound: Callable, alpha: float) -> Callable:
    """Return a bound that is deaf to the level it is asked for."""
    return lambda *args, alpha=None, _level=alpha: bound(*args, alpha=_level)


def deaf(alpha: float) -> dict:
    """Exchange the bounds of votes for ones at a level of their own."""
    return {
        "strategies__clopper_pearson_lower":
            at_level(intervals.clopper_pearson_lower, alpha),
        "strategies__clopper_pearson_upper":
            at_level(intervals.clopper_pearson_upper, alpha),
    }  # fmt: skip
