"""The classifier that remembers never contradicts what it certified."""

from fractions import Fraction
from threading import Barrier, Thread
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipsmooth.certify import ABSTAIN
from lipsmooth.memory import Answer, MemoryClassifier

NUDGES = (0, 1e-16, -1e-16, 3e-16, -3e-16, 5e-10, 2e-9, -2e-9, 1e-7, -0.01, -0.5)


def careless(rng, scale):
    """Certify anything: a random class with a random radius, sometimes nothing."""

    def certify(x):
        x += 1  # and spoil what it was given
        size = rng.choice([0, 1e-12, 0.1, 1, 1, 3, 1e6])
        return int(rng.integers(-1, 3)), float(scale * size * rng.uniform())

    return certify


def hostile(rng, answers, dim, scale):
    """Ask on and beside the surfaces of balls, between them, again, or anywhere."""
    balls = [(x, a.radius) for x, a in answers if a.radius > 0]
    way = rng.integers(6)
    if way == 0 or not balls:
        return scale * rng.uniform(-1, 1, dim) * 10.0 ** rng.integers(-20, 1, dim)
    centre, radius = balls[rng.integers(len(balls))]
    if way == 1:
        return centre.copy()
    if way == 2 and len(balls) > 1:  # where two balls may touch
        direction = balls[rng.integers(len(balls))][0] - centre
    elif way == 3:  # along an axis, where distances are not rounded
        direction = np.eye(dim)[rng.integers(dim)] * rng.choice([-1, 1])
    else:
        direction = rng.standard_normal(dim)
    length = np.linalg.norm(direction / scale) * scale or 1.0
    return centre + radius * (1 + rng.choice(NUDGES)) * direction / length


def is_inside(x, y, radius):
    """Whether y is in the open ball around x: in whole numbers where it is close."""
    gap = np.linalg.norm((x - y) / radius)
    if abs(gap - 1) > 1e-6:
        return gap < 1
    exact = (Fraction(a) - Fraction(b) for a, b in zip(x, y, strict=True))
    return sum(gap**2 for gap in exact) < Fraction(radius) ** 2


def contradictions(answers):
    """Count ordered pairs: a ball, and a later answer in it that differs."""
    found = 0
    for number, (x, old) in enumerate(answers):
        for y, new in answers[number + 1 :] if old.radius > 0 else ():
            if old.prediction != new.prediction:
                found += is_inside(x, y, old.radius)
    return found


def ask(kind, seed, dim, scale=1.0, queries=60):
    """Ask a memory of some kind hostile questions; return inputs and answers."""
    rng = np.random.default_rng([seed, dim])
    memory, answers = kind(careless(rng, scale)), []
    asked = np.empty(dim)
    for _ in range(queries):
        asked[:] = hostile(rng, answers, dim, scale)  # the same array again and again
        answers.append((asked.copy(), memory(asked)))
    return memory, answers


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.integers(1, 50),
    scale=st.sampled_from([1e-130, 1e-6, 1.0, 1e6, 1e140]),
)
def test_whatever_is_asked_every_later_answer_in_a_ball_is_its_class(seed, dim, scale):
    memory, answers = ask(MemoryClassifier, seed, dim, scale)
    assert contradictions(answers) == 0, "abstaining is none of the exceptions"
    # Issued balls of different classes do not meet at all.
    issued = [(x, a) for x, a in answers if a.radius > 0 and not a.recalled]
    assert len(issued) == len(memory) == len(memory.radii)
    for i, (x, a) in enumerate(issued):
        for y, b in issued[:i]:
            if a.prediction != b.prediction:
                assert not is_inside(x, y, a.radius + b.radius)


# Mistakes on purpose


class Forgetful(MemoryClassifier):
    """Answers as it certifies, whatever it said before."""

    def _recall(self, point):
        return None

    def _free(self, point):
        return np.full(len(self), np.inf)


class Uncut(MemoryClassifier):
    """Lets balls of different classes overlap."""

    def _free(self, point):
        return np.full(len(self), np.inf)


class CutAtTheCentre(MemoryClassifier):
    """Lets a new ball reach to the centre of an old one."""

    def _free(self, point):
        return self._distances(point)


class Undiminished(MemoryClassifier):
    """Promises the old radius around another input."""

    def _recall(self, point):
        answer = super()._recall(point)
        if answer is None or answer.radius == 0:
            return answer
        depth = self.radii - self._distances(point)
        return answer._replace(radius=float(self.radii[np.argmax(depth)]))


class LookedUpWithoutRoom(MemoryClassifier):
    """Looks balls up with the very radius that was promised."""

    def _recall(self, point):
        inside = np.any(self._distances(point) < self.radii)
        return super()._recall(point) if inside else None


class WithoutSlack(MemoryClassifier):
    """Takes rounded distances for exact."""

    def __call__(self, x):
        with patch("lipsmooth.memory._SLACK", 0.0):
            return super().__call__(x)


class FirstBall(MemoryClassifier):
    """Answers from the first ball that contains the input, not from the deepest."""

    def _recall(self, point):
        answer = super()._recall(point)
        if answer is None:
            return None
        depth = self.radii * (1 - 1e-9) - self._distances(point)
        first = np.flatnonzero(depth > -2e-9 * self.radii)[0]
        return Answer(self._classes[first], max(0.0, float(depth[first])), True)


@pytest.mark.parametrize(
    "kind",
    [Forgetful, Uncut, CutAtTheCentre, Undiminished, LookedUpWithoutRoom, WithoutSlack],
)
def test_a_mistake_in_the_memory_is_noticed(kind):
    assert any(contradictions(ask(kind, seed, 1 + seed % 50)[1]) for seed in range(40))


def test_the_first_ball_would_do_but_promises_less():
    shorter = 0
    for seed in range(40):
        memory, answers = ask(FirstBall, seed, 1 + seed % 5)
        assert contradictions(answers) == 0
        for x, _ in answers:
            first, deepest = memory._recall(x), MemoryClassifier._recall(memory, x)
            if first is not None:
                assert first.prediction == deepest.prediction
                assert first.radius <= deepest.radius + 1e-9
                shorter += first.radius < 0.9 * deepest.radius
    assert shorter > 20


# What it answers


def test_inside_a_ball_the_answer_is_recalled_and_nothing_is_certified():
    asked = []

    def certify(x):
        asked.append(float(x[0]))
        return int(x[0] > 0.5), 0.4

    memory = MemoryClassifier(certify)
    first = memory([0.0])
    assert (first.prediction, first.radius, first.recalled) == (0, 0.4, False)
    inside = memory([0.3])
    assert (inside.prediction, inside.recalled) == (0, True)
    assert inside.radius == pytest.approx(0.1)
    near = memory([0.7])  # its own ball would reach to 0.3
    assert (near.prediction, near.recalled) == (1, False)
    assert near.radius == pytest.approx(0.3)
    assert near.radius < 0.3
    far = memory([2.0])
    assert (far.prediction, far.radius) == (1, 0.4)
    assert asked == [0.0, 0.7, 2.0]
    assert len(memory) == 3


def test_balls_of_one_class_may_overlap():
    memory = MemoryClassifier(lambda x: (1, 1.0))
    memory([0.0])
    assert memory([1.5]).radius == 1.0
    # 1.0 lies on the first surface, deep in the second ball.
    assert memory([1.0]).radius == pytest.approx(0.5)


def test_on_a_foreign_surface_nothing_is_left():
    answers = iter([(0, 1.0), (1, 1.0)])
    memory = MemoryClassifier(lambda x: next(answers))
    memory([0.0, 0.0])
    # The surface itself belongs to the ball, beside it there is no room.
    assert memory([1.0, 0.0]) == (0, 0.0, True)
    assert memory([1.0 + 3e-9, 0.0]) == (ABSTAIN, 0.0, False)
    assert len(memory) == 1


def test_abstentions_leave_no_trace():
    memory = MemoryClassifier(lambda x: (ABSTAIN, 0.0))
    assert memory([0.0]) == (ABSTAIN, 0.0, False)
    assert len(memory) == 0


def test_the_answer_depends_on_what_was_asked_before():
    def certify(x):
        return int(x[0] > 0), 0.6

    fresh, used = MemoryClassifier(certify), MemoryClassifier(certify)
    used([-0.1])
    assert fresh([0.1]).prediction == 1
    assert used([0.1]).prediction == 0


def test_bad_input_is_refused():
    memory = MemoryClassifier(lambda x: (0, 1.0))
    for bad in (np.nan, np.inf, -1e151):
        with pytest.raises(ValueError, match=r"x must be finite and at most 1e\+150"):
            memory([bad])
    memory([0.0, 0.0])
    with pytest.raises(ValueError, match=r"shape \(1,\), the inputs before \(2,\)"):
        memory([5.0])
    for radius in (np.inf, -1.0, np.nan):
        with pytest.raises(ValueError, match="finite radius"):
            MemoryClassifier(lambda x, r=radius: (0, r))([0.0])
    with pytest.raises(ValueError, match="cannot convert float NaN"):
        MemoryClassifier(lambda x: (np.nan, 1.0))([0.0])


# What others may do meanwhile


def test_an_input_that_changes_afterwards_moves_no_ball():
    answers = iter([(0, 1.0), (1, 1.0)])
    memory, asked = MemoryClassifier(lambda x: next(answers)), np.zeros(2)
    assert memory(asked).prediction == 0
    asked += 10
    assert memory(asked) == (1, 1.0, False)
    assert memory(np.array([0.5, 0.0])) == (0, pytest.approx(0.5), True)


def test_a_ball_too_small_to_be_looked_up_is_not_issued():
    answers = iter([(0, 1e-160), (0, 1e-139)])
    memory = MemoryClassifier(lambda x: next(answers))
    assert memory([0.0]) == (ABSTAIN, 0.0, False)
    assert memory([0.0]) == (0, 1e-139, False)


def test_a_certifier_that_asks_the_memory_itself_is_told_what_holds():
    def certify(x):
        if x[0] == 0:
            assert memory([0.5]).prediction == 1
            return 0, 1.0
        return 1, 0.8

    memory = MemoryClassifier(certify)
    assert memory([0.0]) == (1, pytest.approx(0.3), True)
    assert len(memory) == 1


def test_two_threads_cannot_issue_balls_that_contradict_each_other():
    together, got = Barrier(2, timeout=10), {}

    def certify(x):
        together.wait()  # both have found the memory empty
        return int(x[0] > 0), 1.0

    memory = MemoryClassifier(certify)
    threads = [
        Thread(target=lambda at=at: got.update({at: memory([at])}))
        for at in (-0.25, 0.25)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got[-0.25].prediction == got[0.25].prediction
    assert sorted(answer.recalled for answer in got.values()) == [False, True]
