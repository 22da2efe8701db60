import math

import numpy as np
import pytest
import torch
from scipy.optimize import LinearConstraint, minimize
from torch.autograd import gradcheck

from lipsmooth.scorelogs import SimplexMap
from lipsmooth.simplex import MAPS, apply, hardmax, softmax, sparsemax

RNG = np.random.default_rng(0)


def projection(y):
    """Project onto the simplex by bisection on the multiplier: no sort, no sums."""
    low, high = y.min() - 1, y.max()
    for _ in range(200):
        middle = (low + high) / 2
        if np.maximum(y - middle, 0).sum() > 1:
            low = middle
        else:
            high = middle
    return np.maximum(y - high, 0)


def quadratic_program(y):
    """Project onto the simplex by a solver that knows nothing of it."""
    start = np.full(len(y), 1 / len(y))
    found = minimize(
        lambda p: ((p - y) ** 2).sum(), start, jac=lambda p: 2 * (p - y),
        method="SLSQP", bounds=[(0, None)] * len(y),
        constraints=[LinearConstraint(np.ones((1, len(y))), 1, 1)],
        options={"ftol": 1e-14, "maxiter": 500},
    )  # fmt: skip
    return found.x


class TestSparsemax:
    @pytest.mark.parametrize("temperature", [0.05, 0.5, 1.0, 7.0])
    @pytest.mark.parametrize("classes", [2, 3, 5, 10])
    def test_it_is_the_quadratic_programs_solution(self, classes, temperature):
        for _ in range(10):
            z = RNG.normal(size=classes) * RNG.choice([0.3, 3])
            found = sparsemax(torch.tensor(z), temperature).numpy()
            np.testing.assert_allclose(
                found, quadratic_program(z / temperature), atol=1e-6
            )

    @pytest.mark.parametrize("classes", [2, 10, 1000])
    def test_it_is_the_projection_by_bisection(self, classes):
        for temperature in (1e-3, 0.1, 1.0, 30.0):
            z = RNG.normal(size=(20, classes)) * 2
            expected = np.array([projection(row / temperature) for row in z])
            found = sparsemax(torch.tensor(z), temperature).numpy()
            np.testing.assert_allclose(found, expected, atol=1e-12)
            single = sparsemax(torch.tensor(z).float(), temperature)
            exact = sparsemax(torch.tensor(z).float().double(), temperature)
            np.testing.assert_allclose(single, exact, atol=1e-6)

    def test_another_map_would_be_noticed(self):
        z = RNG.normal(size=5)
        away = np.abs(softmax(torch.tensor(z), 1.0).numpy() - quadratic_program(z))
        assert away.max() > 0.01

    def test_optimality_conditions(self):
        z = torch.randn(50, 7, dtype=torch.float64) * 2
        p = sparsemax(z, 0.7)
        slack = z / 0.7 - p  # θ on the support, at most θ off it
        theta = torch.where(p > 0, slack, -math.inf).amax(dim=1, keepdim=True)
        torch.testing.assert_close(p.sum(dim=1), torch.ones(50, dtype=p.dtype))
        assert (slack <= theta + 1e-12).all()
        assert ((slack - theta).abs()[p > 0] < 1e-12).all()

    def test_gradients(self):
        z = torch.randn(8, 6, dtype=torch.float64, requires_grad=True)
        for temperature in (0.3, 1.0, 5.0):
            assert gradcheck(lambda z, t=temperature: sparsemax(z, t), z)
        p = sparsemax(z, 1.0)[0]
        jacobian = torch.autograd.functional.jacobian(
            lambda row: sparsemax(row, 1.0), z[0].detach()
        )
        # Proposition 2: the projection orthogonal to ones on the support.
        s = (p > 0).double()
        torch.testing.assert_close(jacobian, torch.diag(s) - s.outer(s) / s.sum())

    def test_huge_and_tiny(self):
        z = torch.tensor([[3e38, 0.0, -3e37], [1e-38, 0.0, 0.0]])
        for temperature in (1e-60, 1e-30, 1.0, 1e30, 1e60):
            for name in MAPS:
                p = MAPS[name](z, temperature)
                assert p.isfinite().all()
                torch.testing.assert_close(p.sum(dim=1), torch.ones(2))


class TestAll:
    @pytest.mark.parametrize("name", MAPS)
    def test_they_map_to_the_simplex_and_keep_the_order(self, name):
        z = torch.randn(4, 5, 6)
        p = MAPS[name](z, 0.7)
        assert p.shape == z.shape
        assert (p >= 0).all()
        torch.testing.assert_close(p.sum(dim=-1), torch.ones(4, 5))
        order = z.argsort(dim=-1)
        assert (p.gather(-1, order).diff(dim=-1) >= 0).all()

    def test_softmax_is_softmax_and_its_gradients(self):
        z = torch.randn(8, 6, dtype=torch.float64, requires_grad=True)
        torch.testing.assert_close(softmax(z, 0.3), torch.softmax(z / 0.3, dim=-1))
        assert gradcheck(lambda z: softmax(z, 0.3), z)

    def test_small_temperatures_give_the_vote(self):
        z = torch.randn(30, 6)
        for name in ("softmax", "sparsemax"):
            assert torch.equal(MAPS[name](z, 1e-9), hardmax(z))
            assert not torch.equal(MAPS[name](z, 1.0), hardmax(z))

    def test_hardmax_ties_go_to_the_first(self):
        assert hardmax(torch.tensor([1.0, 2.0, 2.0])).tolist() == [0, 1, 0]

    def test_hardmax_is_a_constant_to_automatic_differentiation(self):
        z = torch.randn(3, requires_grad=True)
        assert not hardmax(z).requires_grad

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
    def test_types_are_kept(self, dtype):
        for name in MAPS:
            assert MAPS[name](torch.randn(2, 3).to(dtype), 1.0).dtype == dtype

    def test_apply(self):
        z = torch.randn(2, 3)
        expected = sparsemax(z, 0.5)
        assert torch.equal(apply(SimplexMap.parse("sparsemax:0.5"), z), expected)

    @pytest.mark.parametrize("temperature", [0.2, 1.0, 4.0])
    def test_lipschitz_constants(self, temperature):
        z = torch.randn(3000, 3, dtype=torch.float64)
        step = 1e-4 * torch.randn(3000, 3, dtype=torch.float64)
        # The worst point of the softmax: two classes alike, and moving apart.
        z[0], step[0] = torch.tensor([[9.0, 9, -900], [1e-4, -1e-4, 0]])
        length = step.norm(dim=1)
        for name, vector, score in (
            ("softmax", 0.5, math.sqrt(2) / 4),
            ("sparsemax", 1.0, 1.0),
        ):
            moved = MAPS[name](z + step, temperature) - MAPS[name](z, temperature)
            slopes = moved.norm(dim=1) / length
            assert slopes.amax() <= vector / temperature * (1 + 1e-6)
            assert slopes.amax() > 0.99 * vector / temperature
            each = (moved.abs() / length[:, None]).amax()
            assert each <= score / temperature * (1 + 1e-6)

    @pytest.mark.parametrize("temperature", [0, -1, math.nan, math.inf])
    def test_bad_temperatures(self, temperature):
        for name in MAPS:
            with pytest.raises(ValueError, match=rf"finite, got {temperature}$"):
                MAPS[name](torch.randn(2, 3), temperature)

    @pytest.mark.parametrize(
        ("logits", "message"),
        [
            (torch.tensor([1, 2]), "floating point, got torch.int64"),
            (torch.tensor([1.0, math.nan]), "must be finite"),
            (torch.tensor([[1.0, 2.0], [math.inf, 0.0]]), "must be finite"),
            (torch.empty(3, 0), "classes"),
            (torch.tensor(1.0), "classes"),
        ],
    )
    def test_bad_logits(self, logits, message):
        for name in MAPS:
            with pytest.raises(ValueError, match=message):
                MAPS[name](logits, 1.0)
