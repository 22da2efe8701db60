"""The classifier that remembers never contradicts what it certified."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipsmooth.certify import ABSTAIN
from lipsmooth.memory import MemoryClassifier


def careless(seed, classes=3, reach=1.0):
    """Certify anything: a random class with a random radius, sometimes nothing."""
    rng = np.random.default_rng(seed)

    def certify(x):
        return int(rng.integers(-1, classes)), float(rng.uniform(0, reach))

    return certify


def contradictions(answers):
    """Count ordered pairs: a ball, and a later certified answer in it that differs."""
    found = 0
    for number, (x, old) in enumerate(answers):
        for y, new in answers[number + 1 :]:
            if old.radius > 0 and np.linalg.norm(x - y) < old.radius:
                found += old.prediction != new.prediction
    return found


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.integers(1, 4),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_whatever_is_asked_no_answer_contradicts_an_earlier_ball(seed, dim, scale):
    rng = np.random.default_rng(seed)
    points = scale * rng.uniform(-1, 1, (60, dim))
    points[30:45] = points[:15] + 0.1 * scale * rng.normal(size=(15, dim))
    points[50:] = points[:10]  # asked again
    memory = MemoryClassifier(careless(seed, reach=scale))
    answers = [(x, memory(x)) for x in points]
    assert contradictions(answers) == 0
    # Issued balls of different classes do not meet at all.
    issued = [(x, a) for x, a in answers if a.radius > 0 and not a.recalled]
    assert len(issued) == len(memory) == len(memory.radii)
    for i, (x, a) in enumerate(issued):
        for y, b in issued[:i]:
            if a.prediction != b.prediction:
                assert np.linalg.norm(x - y) >= a.radius + b.radius


def test_without_a_memory_there_are_contradictions():
    rng = np.random.default_rng(0)
    certify = careless(0)
    from lipsmooth.memory import Answer

    answers = [(x, Answer(*certify(x), False)) for x in rng.uniform(-1, 1, (60, 2))]
    assert contradictions(answers) > 50


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
    assert memory([1.0, 0.0]) == (ABSTAIN, 0.0, False)
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
    with pytest.raises(ValueError, match="x must be finite"):
        memory([np.nan])
    memory([0.0, 0.0])
    with pytest.raises(ValueError, match=r"shape \(1,\), the inputs before \(2,\)"):
        memory([5.0])
    for radius in (np.inf, -1.0, np.nan):
        with pytest.raises(ValueError, match="finite radius"):
            MemoryClassifier(lambda x, r=radius: (0, r))([0.0])
