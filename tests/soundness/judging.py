"""What a trial is, and how it is judged: an exact test of how often it was wrong."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from lipsmooth.certify import ABSTAIN, Certificates


@dataclass(frozen=True)
class Setting:
    """A classifier of the panel, numbers of samples and a level."""

    classifier: str
    n0: int
    n: int
    alpha: float


@dataclass(frozen=True)
class Trial:
    """A procedure under one setting; ``run(images, rng)`` tells what was false.

    One image takes as long as ``slow`` images of other trials.
    """

    procedure: str
    setting: Setting
    run: Callable
    slow: int = 1


@dataclass(frozen=True)
class Outcome:
    """How often a procedure was wrong, and how surprising that is at its level."""

    procedure: str
    classifier: str
    n0: int
    n: int
    alpha: float
    certifications: int
    failures: int
    certified: int
    p_value: float

    @property
    def rate(self) -> float:
        """Share of false certificates among all certifications."""
        return self.failures / self.certifications


def carry_out(trial: Trial, images: int, seed: int) -> Outcome:
    """Run a trial and judge it: the chance of so many failures at its level."""
    tag = f"{trial.procedure}|{trial.setting}".encode()
    wrong, certified = trial.run(images, np.random.default_rng([seed, *tag]))
    failures, s = int(np.sum(wrong)), trial.setting
    p_value = binomtest(failures, len(wrong), s.alpha, alternative="greater").pvalue
    return Outcome(
        trial.procedure, s.classifier, s.n0, s.n, s.alpha, len(wrong), failures,
        int(np.sum(certified)), float(p_value),
    )  # fmt: skip


def is_false(found: Certificates, truth) -> tuple[np.ndarray, np.ndarray]:
    """Return which certificates are false, and which are no abstentions."""
    certified = found.prediction != ABSTAIN
    return certified & (found.radius > truth.radii[found.prediction]), certified
