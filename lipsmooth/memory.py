"""A classifier that remembers what it certified, and never contradicts it.

Whoever chooses the noise level by looking at the input promises something about one
smoothed classifier per input. Two of these promises can contradict each other: balls
of different classes that overlap. A memory of the balls issued so far removes the
contradiction, for an input inside an old ball is answered from that ball.
"""

from collections.abc import Callable
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lipsmooth.certify import ABSTAIN

_SLACK = 1e-9
"""Share of every distance that rounding may be wrong by, and by far is not: balls are
looked up so much larger than they were promised, and kept apart more than that."""

_LARGEST, _LEAST = 1e150, 1e-140
"""Beyond these squares of coordinates and of radii are no longer numbers to rely on."""


class Answer(NamedTuple):
    """A prediction, the radius within which later answers agree, and where from.

    ``recalled`` is true if an older ball contained the input.
    """

    prediction: int
    radius: float
    recalled: bool


class MemoryClassifier:
    """Certify inputs one after the other, keeping balls of different classes apart.

    Parameters
    ----------
    certify : callable
        From an input to ``(prediction, radius)``, `ABSTAIN` if nothing is certified:
        any certificate, per input or not. Not called for inputs inside an old ball. It
        gets a copy of the input.

    Notes
    -----
    Guarantee: whatever is asked in whatever order, if an answer was ``(k, R)`` with
    ``R > 0``, then every later input within distance ``R`` is answered with ``k``. This
    is certain, for the classifier looks it up, with room for rounding, and threads may
    ask at the same time; no probability and no property of ``certify`` enters.
    ``certify`` is what gives the answers their *worth*: without it a memory could
    promise a ball around any guess.

    The price: the answer depends on what was asked before and by whom. An input near a
    boundary belongs to whoever came first, radii shrink as the memory fills, all
    copies of the classifier must share one memory, and a look-up costs time
    proportional to it. Nothing is promised about inputs that were asked *before* a
    ball was issued and lie in it, except that they were not certified for another
    class.

    References
    ----------
    Alfarra, Bibi, Torr and Ghanem (2022) for the idea; Súkeník, Kuvshinov and Günnemann
    (2022) for why something of the kind is needed.
    """

    def __init__(self, certify: Callable[[NDArray], tuple[int, float]]) -> None:
        self._certify = certify
        self._points: list[NDArray] = []
        self._classes: list[int] = []
        self._radii: list[float] = []
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._radii)

    @property
    def radii(self) -> NDArray[np.float64]:
        """The radii of the balls issued so far, in that order."""
        return np.array(self._radii)

    def __call__(self, x: ArrayLike) -> Answer:
        """Answer one input.

        Parameters
        ----------
        x : array_like
            Of the same shape in every call.

        Returns
        -------
        Answer
            From an old ball: its class, and the distance that is left to its surface.
            Otherwise what ``certify`` says, with the radius cut so that the ball meets
            none of another class; `ABSTAIN` if nothing is left of it.

        Raises
        ------
        ValueError
            If ``x`` is not finite, beyond 1e150 or of another shape than before, or
            ``certify`` returns a radius that is negative, infinite or NaN.
        """
        point = np.array(x, dtype=float)  # a copy: the caller may go on to change x
        if not np.all(np.abs(point) <= _LARGEST):
            raise ValueError(f"x must be finite and at most {_LARGEST:g}, got {x}")
        with self._lock:
            answer = self._recall(point)
        if answer is not None:
            return answer
        prediction, radius = self._certify(point.copy())
        prediction, radius = int(prediction), float(radius)
        if not (np.isfinite(radius) and radius >= 0):
            raise ValueError(f"certify must return a finite radius, got {radius}")
        with self._lock:  # meanwhile a ball may have been issued to somebody else
            answer = self._recall(point)
            return self._issue(point, prediction, radius) if answer is None else answer

    def _recall(self, point: NDArray) -> Answer | None:
        """Answer from an old ball, if one contains the input."""
        if not self._points:
            return None
        if point.shape != (shape := self._points[0].shape):
            raise ValueError(f"x has shape {point.shape}, the inputs before {shape}")
        # All balls around this input have one class; the deepest leaves most.
        margin = _SLACK * self.radii
        depth = self.radii - self._distances(point)
        inside = np.flatnonzero(depth > -margin)
        if not len(inside):
            return None
        left = (depth - margin)[inside]
        deepest = inside[np.argmax(left)]
        return Answer(self._classes[deepest], max(0.0, float(left.max())), True)

    def _issue(self, point: NDArray, prediction: int, radius: float) -> Answer:
        """Keep a new ball, cut so that it meets none of another class."""
        rivals = np.array(self._classes, dtype=int) != prediction
        radius = min([radius, *self._free(point)[rivals]])
        if prediction == ABSTAIN or radius < _LEAST:
            return Answer(ABSTAIN, 0.0, False)
        self._points.append(point)
        self._classes.append(prediction)
        self._radii.append(float(radius))
        return Answer(prediction, float(radius), False)

    def _free(self, point: NDArray) -> NDArray[np.float64]:
        """Return the largest radius of a ball here that meets none of the old ones."""
        far, radii = self._distances(point), self.radii
        return far - radii - 3 * _SLACK * (far + radii)

    def _distances(self, point: NDArray) -> NDArray[np.float64]:
        """Return the distances to the centres of all balls."""
        if not self._points:
            return np.empty(0)
        gaps = np.stack(self._points) - point
        return np.sqrt(np.sum(gaps.reshape(len(gaps), -1) ** 2, axis=1))
