import copy

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp, rel_entr, softmax
from scipy.stats import entropy, norm
from torch import nn

from lipsmooth import losses
from lipsmooth.adversarial import (
    adversarial_images,
    closest_adversarial_images,
    warmed,
)
from lipsmooth.data import load_dataset
from lipsmooth.losses import LOSSES, gaussian
from lipsmooth.models import build_model, weights_digest
from lipsmooth.train import train_classifier

SIGMA, CLASSES = 0.4, 3


def generator(seed=7):
    return torch.Generator().manual_seed(seed)


class Linear(nn.Module):
    """Logits W z of images with two pixels; W is known and can be differentiated."""

    def __init__(self, weights):
        super().__init__()
        self.weights = nn.Parameter(torch.as_tensor(weights, dtype=torch.float64))

    def forward(self, x):
        return x.flatten(1) @ self.weights.T


@pytest.fixture
def batch():
    rng = np.random.default_rng(3)
    x = torch.from_numpy(rng.uniform(size=(5, 1, 1, 2)))
    return Linear(rng.normal(size=(CLASSES, 2))), x, torch.tensor([0, 1, 2, 0, 1])


def by_hand(model, x, copies, seed=7):
    """Return logits (copies, images, classes) of the noise that the loss will draw."""
    noise = torch.randn((copies, *x.shape), generator=generator(seed), dtype=x.dtype)
    inputs = (x + SIGMA * noise).flatten(2).numpy()
    return inputs @ model.weights.detach().numpy().T


def loss_of(name, batch, **options):
    model, x, y = batch
    found = LOSSES[name](model, x, y, sigma=SIGMA, generator=generator(), **options)
    return found.value.item(), found.hits.item()


class TestByHand:
    @pytest.mark.parametrize("copies", [1, 4])
    def test_gaussian(self, batch, copies):
        z, y = by_hand(*batch[:2], copies), batch[2].numpy()
        expected = np.mean(
            [-log_softmax(z[i, j])[y[j]] for i in range(copies) for j in range(5)]
        )
        value, hits = loss_of("gaussian", batch, copies=copies)
        assert value == pytest.approx(expected, rel=1e-12)
        assert hits == pytest.approx((z.argmax(-1) == y).sum() / copies)

    def test_consistency(self, batch):
        z, y = by_hand(*batch[:2], 3), batch[2].numpy()
        total = 0.0
        for j in range(5):
            scores = softmax(z[:, j], axis=-1)
            mean = scores.mean(axis=0)
            total += np.mean([-np.log(s[y[j]]) for s in scores])
            total += 7 * np.mean([rel_entr(mean, s).sum() for s in scores])
            total += 0.3 * entropy(mean)
        value, _ = loss_of("consistency", batch, copies=3, weight=7, entropy=0.3)
        assert value == pytest.approx(total / 5, rel=1e-12)

    def test_macer(self, batch):
        z, y = by_hand(*batch[:2], 6), batch[2].numpy()
        beta, gamma, weight = 2.0, 0.57, 5.0
        total, hinges = 0.0, []
        for j in range(5):
            total -= np.log(softmax(z[:, j], axis=-1).mean(axis=0)[y[j]])
            soft = softmax(beta * z[:, j], axis=-1).mean(axis=0)
            if soft.argmax() == y[j]:
                second, best = np.sort(soft)[-2:]
                gap = norm.ppf(best) - norm.ppf(second)
                hinges.append(max(gamma - gap, 0))
        assert 0 < sum(h > 0 for h in hinges) < len(hinges) < 5  # all three cases
        total += weight * SIGMA / 2 * sum(hinges)
        options = {"inverse_temperature": beta, "margin": gamma, "weight": weight}
        value, _ = loss_of("macer", batch, copies=6, **options)
        assert value == pytest.approx(total / 5, rel=1e-10)

    def test_smoothadv(self, batch):
        # One step along the normalised gradient of -log mean softmax, by formula.
        model, x, y = batch
        inside = torch.full_like(x, 0.5)
        z, w = by_hand(model, inside, 4), model.weights.detach().numpy()
        scores, moved = softmax(z, axis=-1), []
        for j in range(5):
            own = scores[:, j, y[j]]
            slope = own[:, None] * (w[y[j]] - scores[:, j] @ w)
            gradient = -slope.mean(axis=0) / own.mean()
            moved.append(0.2 * gradient / np.linalg.norm(gradient))
        attacked = inside + torch.tensor(np.array(moved)).reshape(x.shape)
        z = by_hand(model, attacked, 4)
        expected = -np.mean([log_softmax(z[:, j], axis=-1)[:, y[j]] for j in range(5)])
        options = {"copies": 4, "radius": 0.2, "steps": 1}
        value, _ = loss_of("smoothadv", (model, inside, y), **options)
        assert value == pytest.approx(expected, rel=1e-6)  # renorm adds 1e-7
        other, _ = loss_of("gaussian", (model, inside, y), copies=4)
        assert value > other + 0.01  # the attack costs something


GAUSSIAN_LIMITS = {
    "gaussian": {"copies": 1},
    "consistency": {"copies": 1, "weight": 10.0, "entropy": 0.0},
    "macer": {"copies": 1, "weight": 0.0},
    "smoothadv": {"copies": 1, "radius": 0.0},
    "smoothadv-ddn": {"copies": 1, "radius": 0.0},
}


class TestLimits:
    @pytest.mark.parametrize("name", LOSSES)
    def test_each_loss_contains_gaussian_augmentation(self, batch, name):
        model, x, y = batch
        noise = torch.randn(x.shape, generator=generator(), dtype=x.dtype)
        plain = nn.functional.cross_entropy(model(x + SIGMA * noise), y).item()
        value, _ = loss_of(name, batch, **GAUSSIAN_LIMITS[name])
        assert value == pytest.approx(plain, rel=1e-14)

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("consistency", {"weight": 0.0, "entropy": 0.0}),
            ("smoothadv", {"radius": 0.0, "steps": 5}),
            ("smoothadv-ddn", {"radius": 0.0, "steps": 5}),
            ("smoothadv-ddn", {"radius": 0.5, "steps": 1}),  # sees the image only
        ],
    )
    def test_more_copies(self, batch, name, options):
        assert loss_of(name, batch, copies=6, **options) == loss_of(
            "gaussian", batch, copies=6
        )

    @pytest.mark.parametrize("name", ["consistency", "smoothadv"])
    def test_a_training_in_the_limit_is_gaussian_augmentation(self, name):
        digits = load_dataset("digits", "train")

        def train(**settings):
            torch.manual_seed(0)
            model = build_model("cnn", shape=(1, 8, 8), num_classes=10)
            train_classifier(
                model, digits, sigma=0.25, epochs=1, progress=False, **settings
            )
            return weights_digest(model)

        limit = {**GAUSSIAN_LIMITS[name], "copies": 2}
        limit |= {"weight": 0.0} if name == "consistency" else {}
        plain = train(copies=2)
        assert train(loss=name, **limit) == plain
        changed = {"weight": 1.0} if name == "consistency" else {"radius": 0.1}
        assert train(loss=name, **{**limit, **changed}) != plain

    def test_without_noise_all_copies_agree(self, batch):
        model, x, y = batch
        plain = nn.functional.cross_entropy(model(x), y).item()
        for name, options in {
            "gaussian": {"copies": 3},
            "consistency": {"copies": 3, "weight": 100.0, "entropy": 0.0},
            "macer": {"copies": 3, "weight": 100.0},
        }.items():
            found = LOSSES[name](model, x, y, sigma=0, generator=generator(), **options)
            assert found.value.item() == pytest.approx(plain, rel=1e-12)


def test_the_mean_loss_is_above_the_loss_of_the_mean(batch):
    """Jensen: E −log F ≥ −log E F, with equality for one copy only."""
    gaps = [
        loss_of("gaussian", batch, copies=m)[0]
        - loss_of("macer", batch, copies=m, weight=0)[0]
        for m in (1, 2, 50)
    ]
    assert gaps[0] == pytest.approx(0, abs=1e-14)
    assert min(gaps[1:]) > 0.01


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_agree_with_finite_differences(batch, name):
    model, x, y = batch
    # The attack is no part of the gradient: the attacked image is a constant.
    options = {"radius": 0.0} if name.startswith("smoothadv") else {}
    options |= {"inverse_temperature": 2.0} if name == "macer" else {}

    def value(weights):
        def scores(z):
            return z.flatten(1) @ weights.T

        loss = LOSSES[name](
            scores, x, y, sigma=SIGMA, generator=generator(), copies=3, **options
        )
        return loss.value

    assert torch.autograd.gradcheck(value, model.weights)


class TestMacer:
    def test_the_hinge_sees_the_certified_radius(self):
        """Two classes, linear: the smoothed radius is the distance to the boundary."""
        model = Linear([[1.0, 0.0], [-1.0, 0.0]])
        distance = 0.3
        x = torch.tensor([distance, 0.5], dtype=torch.float64).reshape(1, 1, 1, 2)
        settings = {"sigma": SIGMA, "copies": 200_000, "inverse_temperature": 1e4}

        def value(weight, label=0):
            loss = losses.macer(
                model, x, torch.tensor([label]), generator=generator(),
                weight=weight, margin=8.0, **settings,
            )  # fmt: skip
            return loss.value.item()

        radius = SIGMA * 8 / 2 - (value(1.0) - value(0.0))
        assert radius == pytest.approx(distance, abs=0.003)
        assert value(1.0, label=1) == value(0.0, label=1)  # wrong: nothing to enlarge

    @pytest.mark.parametrize("logit", [0.0, 5.0, 50.0, 1e4])
    def test_saturated_scores_keep_finite_gradients(self, logit):
        scores = torch.tensor([[logit, 0.0, -1.0]], requires_grad=True)
        loss = losses.macer(
            lambda z: scores.expand(len(z), 3), torch.zeros(1, 1, 1, 2),
            torch.tensor([0]), sigma=1.0, generator=generator(), margin=50.0,
        )  # fmt: skip
        loss.value.backward()
        assert torch.isfinite(loss.value)
        assert torch.isfinite(scores.grad).all()

    def test_steps_on_it_enlarge_the_radii_of_what_was_right(self, attackable):
        """On fixed images and fixed noise, against as many steps on the likelihood."""
        model, x, y, _ = attackable

        def xi_after(weight):
            trainee = copy.deepcopy(model)
            optimizer = torch.optim.SGD(trainee.parameters(), lr=0.02)

            def loss(weight, margin=8.0):
                return losses.macer(
                    trainee, x, y, sigma=0.25, generator=generator(), copies=8,
                    weight=weight, margin=margin, inverse_temperature=4.0,
                ).value  # fmt: skip

            for _ in range(30):
                optimizer.zero_grad()
                loss(weight).backward()
                optimizer.step()
            # With a margin beyond all of them the hinge is linear in the radii.
            return 20 - (loss(8.0, margin=20.0) - loss(0.0)).item()

        assert xi_after(8.0) > xi_after(0.0) + 0.2

    def test_the_textbook_form_would_not(self):
        score = torch.tensor([50.0, 0.0], requires_grad=True)
        best, second = score.softmax(0)
        gap = torch.special.ndtri(best) - torch.special.ndtri(second)
        (8 - gap).clamp(min=0).backward()
        assert not torch.isfinite(gap) or not torch.isfinite(score.grad).all()

    def test_a_score_near_one_keeps_its_digits(self):
        scores = torch.tensor([[24.0, 0.0]])
        expected = 2 * norm.isf(np.exp(-24 - np.log1p(np.exp(-24))))
        found = losses.macer(
            lambda z: scores.expand(len(z), 2), torch.zeros(1, 1, 1, 2),
            torch.tensor([0]), sigma=2.0, generator=generator(), copies=1,
            inverse_temperature=1.0, margin=20.0, weight=1.0,
        )  # fmt: skip
        assert 20 - found.value.item() == pytest.approx(expected, rel=1e-6)
        assert norm.ppf(float(scores.softmax(1)[0, 0])) == np.inf  # what it avoids


@pytest.fixture(scope="module")
def attackable():
    torch.manual_seed(0)
    model = build_model("cnn", shape=(1, 8, 8), num_classes=10)
    train_classifier(
        model, load_dataset("digits", "train"), sigma=0.25, epochs=3, progress=False
    )
    x, y = load_dataset("digits", "test").tensors(range(64))
    noise = 0.25 * torch.randn((4, *x.shape), generator=generator())
    return model, x, y, noise


def soft_loss(model, x, y, noise):
    """Return -log of the mean softmax score of the label, per image."""
    with torch.no_grad():
        scores = model((x + noise).flatten(0, 1)).unflatten(0, noise.shape[:2])
    scores = scores.double().log_softmax(-1).numpy()[..., np.arange(len(y)), y]
    return -(logsumexp(scores, axis=0) - np.log(len(noise)))


class TestAttack:
    @pytest.mark.parametrize("radius", [0.1, 0.5, 2.0])
    def test_stays_in_the_ball_and_in_the_cube_and_hurts(self, attackable, radius):
        model, x, y, noise = attackable
        attacked = adversarial_images(model, x, y, noise, radius=radius, steps=4)
        moved = (attacked - x).flatten(1).norm(dim=1)
        assert moved.max() <= radius * (1 + 1e-5)
        assert attacked.min() >= -1e-6
        assert attacked.max() <= 1 + 1e-6
        shift = torch.randn(x.shape, generator=generator(1))
        shift *= (moved / shift.flatten(1).norm(dim=1))[:, None, None, None]
        clean, random, found = (
            soft_loss(model, z, y, noise) for z in (x, x + shift, attacked)
        )
        assert np.mean(found > clean) > 0.98
        assert found.mean() - clean.mean() > 3 * abs(random.mean() - clean.mean())

    def test_an_image_is_attacked_alone(self, attackable):
        model, x, y, noise = attackable
        together = adversarial_images(model, x, y, noise, radius=0.5, steps=3)
        alone = adversarial_images(
            model, x[5:6], y[5:6], noise[:, 5:6], radius=0.5, steps=3
        )
        torch.testing.assert_close(alone, together[5:6], rtol=0, atol=1e-4)

    def test_two_linear_classes_are_attacked_along_the_normal(self):
        model = Linear([[3.0, 4.0], [-3.0, -4.0]])
        x = torch.full((1, 1, 1, 2), 0.5, dtype=torch.float64)
        noise = torch.randn((7, *x.shape), generator=generator(), dtype=x.dtype)
        for steps in (1, 2, 5):
            found = adversarial_images(
                model, x, torch.tensor([0]), noise, radius=0.25, steps=steps
            )
            expected = x - 0.25 * torch.tensor([0.6, 0.8]).double().reshape(x.shape)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)

    @pytest.mark.parametrize("attack", [adversarial_images, closest_adversarial_images])
    def test_leaves_statistics_mode_and_weights_alone(self, attackable, attack):
        model, x, y, noise = attackable
        model.train()
        try:
            before = weights_digest(model)
            model.zero_grad()
            attack(model, x, y, noise, radius=0.5, steps=2)
            assert weights_digest(model) == before
            assert model.training
            assert all(part.grad is None for part in model.parameters())
            wrong = y[:3]
            with pytest.raises(ValueError, match="batch_size"):
                attack(model, x, wrong, noise, radius=0.5, steps=2)
            assert model.training
        finally:
            model.eval()

    def test_a_vanishing_gradient_moves_nothing(self):
        model = Linear(np.zeros((2, 2)))
        x = torch.full((1, 1, 1, 2), 0.5, dtype=torch.float64)
        found = adversarial_images(
            model, x, torch.tensor([0]), torch.zeros(1, *x.shape), radius=1.0, steps=3
        )
        assert torch.equal(found, x)

    def test_training_uses_the_noise_of_the_attack(self, attackable):
        model, x, y, _ = attackable
        drawn = 0.25 * torch.randn((3, *x.shape), generator=generator())
        attacked = adversarial_images(model, x, y, drawn, radius=0.5, steps=2)
        options = {"copies": 3, "radius": 0.5, "steps": 2}
        found = losses.smoothadv(
            model, x, y, sigma=0.25, generator=generator(), **options
        ).value

        def expected(noise):
            scores = model((attacked + noise).flatten(0, 1))
            return nn.functional.cross_entropy(scores, y.repeat(3))

        other = 0.25 * torch.randn((3, *x.shape), generator=generator(8))
        assert found.item() == pytest.approx(expected(drawn).item(), rel=1e-5)
        assert found.item() != pytest.approx(expected(other).item(), rel=1e-3)


def test_a_warm_up_ends_at_the_radius():
    """By the formula of the source: least of ρ and (epoch + 1) ρ / warmup."""
    for warmup in (1, 2, 7):
        for epoch in range(9):
            expected = min(0.3, (epoch + 1) * 0.3 / warmup)
            assert warmed(0.3, warmup, epoch) == pytest.approx(expected, rel=1e-15)
        assert warmed(0.3, warmup, warmup - 1) == 0.3
    assert warmed(0.3, 0, 0) == 0.3


class Watched(Linear):
    """Remembers at which images it was evaluated."""

    def __init__(self, weights):
        super().__init__(weights)
        self.seen = []

    def forward(self, x):
        self.seen.append(x.detach().numpy().copy())
        return super().forward(x)


def ddn_by_hand(w, x, *, radius, steps):
    """Two classes ±w·(z − ½), noise-free, label 0: all images evaluated, in NumPy."""
    shift, norm, path = np.zeros(2), radius, []
    for k in range(steps):
        path.append(x + shift)
        wrong = (x + shift - 0.5) @ w < 0
        rate = 0.01 + 0.99 * (1 + np.cos(np.pi * k / steps)) / 2
        shift = shift - rate * w / np.linalg.norm(w)  # the slope of two linear classes
        norm *= 0.95 if wrong else 1.05
        norm = min(norm, np.linalg.norm(np.maximum(x, 1 - x)))
        shift *= norm / np.linalg.norm(shift)
        shift = np.clip(x + shift, 0, 1) - x
    return path


def pixels(*values):
    return torch.tensor(values, dtype=torch.float64).reshape(-1, 1, 1, 2)


class Centred(Watched):
    """Two classes, divided by a line through the middle of the square."""

    def forward(self, x):
        return super().forward(x - 0.5)


class TestClosestAttack:
    NORMAL = np.array([0.6, 0.8])
    WEIGHTS = 5 * np.stack([NORMAL, -NORMAL])

    def far(self, x):
        return float((x.flatten().numpy() - 0.5) @ self.NORMAL)

    @pytest.mark.parametrize(
        "radius", [0.1, 0.4, 1.4]
    )  # all right, some, from a corner
    def test_steps_by_hand(self, radius):
        model, x = Centred(self.WEIGHTS), pixels(0.7, 0.6)
        closest_adversarial_images(
            model,
            x,
            torch.tensor([0]),
            torch.zeros(1, *x.shape),
            radius=radius,
            steps=7,
        )
        seen = np.array([z.reshape(2) + 0.5 for z in model.seen])
        path = ddn_by_hand(self.NORMAL, x.flatten().numpy(), radius=radius, steps=7)
        np.testing.assert_allclose(seen, path, atol=1e-9)
        norms = np.linalg.norm(seen - seen[0], axis=1)
        wrong = (seen - 0.5) @ self.NORMAL < 0
        assert wrong.any() == (radius > 0.1)
        if radius < 1:  # else the cube cuts the shift, and its norm with it
            assert norms[1] == pytest.approx(1.05 * radius)  # the clean image was right
            assert ((norms[2:] > norms[1:-1]) == ~wrong[1:-1]).all()

    def test_finds_the_distance_of_a_hyperplane(self):
        """Also with noise, if it is symmetric: there the mean scores are equal."""
        model, x = Centred(self.WEIGHTS), pixels(0.7, 0.6)
        half = 0.3 * torch.randn((3, *x.shape), generator=generator(), dtype=x.dtype)
        for noise in (torch.zeros(1, *x.shape), torch.cat([half, -half])):
            found = closest_adversarial_images(
                model, x, torch.tensor([0]), noise, radius=1.0, steps=100
            )
            distance = (found - x).norm().item()
            assert 1 < distance / self.far(x) < 1.01
            assert self.far(found) < 0
            few = closest_adversarial_images(
                model, x, torch.tensor([0]), noise, radius=1.0, steps=10
            )
            assert (few - x).norm().item() > 1.1 * self.far(x)  # not by luck

    def test_a_distance_beyond_the_cap_is_cut(self):
        model, x = Centred(self.WEIGHTS), pixels(0.7, 0.6)
        label, noise = torch.tensor([0]), torch.zeros(1, *x.shape)
        distance = self.far(x)
        grown = 1.1 * 1.05 * 0.95 * 0.95
        for share, moved in ((0.5, 0.0), (0.97, 0.97), (0.9, 0.9), (1.1, grown)):
            found = closest_adversarial_images(
                model, x, label, noise, radius=share * distance, steps=4
            )
            shift = (x - found).flatten().numpy()
            expected = moved * distance * self.NORMAL
            np.testing.assert_allclose(shift, expected, atol=1e-6)

    def test_wrong_images_and_vanishing_gradients_stay(self):
        x = pixels(0.7, 0.6)
        for weights, label in ((self.WEIGHTS, 1), (0 * self.WEIGHTS, 0)):
            found = closest_adversarial_images(
                Centred(weights), x, torch.tensor([label]),
                torch.zeros(1, *x.shape), radius=1.0, steps=5,
            )  # fmt: skip
            assert torch.equal(found, x)

    @pytest.mark.parametrize("radius", [0.1, 0.5, 2.0])
    def test_stays_in_the_ball_and_in_the_cube_and_defeats(self, attackable, radius):
        model, x, y, noise = attackable
        found = closest_adversarial_images(model, x, y, noise, radius=radius, steps=6)
        moved = (found - x).flatten(1).norm(dim=1)
        assert moved.max() <= radius * (1 + 1e-5)
        assert found.min() >= -1e-6
        assert found.max() <= 1 + 1e-6
        clean, after = (answers(model, z, noise) == y for z in (x, found))
        assert (moved[~clean] == 0).all()
        short = (moved > 0) & (moved < radius * (1 - 1e-5))
        assert not after[short].any()  # the others were cut, or not found
        before, with_attack = (soft_loss(model, z, y, noise) for z in (x, found))
        assert (with_attack > before)[(moved > 0).numpy()].all()
        assert (moved > 0).any() or radius < 0.2

    def test_is_closer_than_projected_gradient(self, attackable):
        model, x, y, noise = attackable
        settings = {"radius": 2.0, "steps": 25}
        pgd = adversarial_images(model, x, y, noise, **settings)
        ddn = closest_adversarial_images(model, x, y, noise, **settings)
        right = answers(model, x, noise) == y
        assert not (answers(model, ddn, noise) == y)[right].any()
        far, near = ((z - x).flatten(1).norm(dim=1)[right] for z in (pgd, ddn))
        assert (near < far).all()
        assert near.mean() < 0.7 * far.mean()

    def test_an_image_is_attacked_alone(self, attackable):
        model, x, y, noise = attackable
        settings = {"radius": 0.5, "steps": 5}
        together = closest_adversarial_images(model, x, y, noise, **settings)
        moved = (together - x).flatten(1).norm(dim=1)
        one = int(moved.argmax())
        alone = closest_adversarial_images(
            model, x[one, None], y[one, None], noise[:, one, None], **settings
        )
        assert moved[one] > 0.1
        torch.testing.assert_close(alone[0], together[one], rtol=0, atol=1e-4)

    @pytest.mark.parametrize("change", [0.0, 1.0, -0.1, float("nan")])
    def test_bad_change(self, batch, change):
        model, x, y = batch
        with pytest.raises(ValueError, match=r"change must lie in \(0, 1\), got"):
            closest_adversarial_images(
                model,
                x,
                y,
                torch.zeros(1, *x.shape),
                radius=1.0,
                steps=1,
                change=change,
            )

    def test_training_uses_the_noise_of_the_attack(self, attackable):
        model, x, y, _ = attackable
        drawn = 0.25 * torch.randn((3, *x.shape), generator=generator())
        attacked = closest_adversarial_images(model, x, y, drawn, radius=0.5, steps=4)
        scores = model((attacked + drawn).flatten(0, 1))
        expected = nn.functional.cross_entropy(scores, y.repeat(3)).item()
        settings = {"sigma": 0.25, "copies": 3}
        value = losses.smoothadv_ddn(
            model, x, y, generator=generator(), radius=0.5, **settings
        ).value.item()
        assert value == pytest.approx(expected, rel=1e-5)
        plain = losses.gaussian(model, x, y, generator=generator(), **settings)
        assert value > plain.value.item() + 0.01


def answers(model, x, noise):
    """Return the class of the largest mean softmax score, per image."""
    with torch.no_grad():
        scores = model((x + noise).flatten(0, 1)).unflatten(0, noise.shape[:2])
    return scores.double().softmax(dim=-1).mean(dim=0).argmax(dim=-1)


@pytest.fixture(scope="module")
def trained():
    digits = load_dataset("digits", "train")

    def train(loss, **options):
        torch.manual_seed(0)
        model = build_model("cnn", shape=(1, 8, 8), num_classes=10)
        train_classifier(
            model, digits, sigma=0.5, epochs=4, loss=loss, progress=False, **options
        )
        return model

    return {
        "gaussian": train("gaussian", copies=2),
        "consistency": train("consistency", copies=2, weight=5.0),
        "smoothadv": train("smoothadv", copies=2, radius=0.5),
    }


@pytest.fixture(scope="module")
def found(trained):
    """Return softmax scores (copies, images, classes) by loss, and the labels."""
    x, y = load_dataset("digits", "test").tensors()
    noise = 0.5 * torch.randn((16, *x.shape), generator=generator())
    out = {}
    for name, model in trained.items():
        with torch.inference_mode():
            z = model((x + noise).flatten(0, 1)).unflatten(0, (16, len(x)))
        out[name] = softmax(z.double().numpy(), axis=-1)
    return out, y.numpy()


class TestEffect:
    """A short training moves what the loss is about, and the digits are learnt."""

    def test_all_learn(self, found):
        scores, y = found
        for name, s in scores.items():
            assert (s.mean(axis=0).argmax(axis=-1) == y).mean() > 0.6, name

    def test_consistency_agrees_with_itself(self, found):
        divergence = {
            name: rel_entr(s.mean(axis=0), s).sum(axis=-1).mean()
            for name, s in found[0].items()
        }
        assert divergence["consistency"] < 0.7 * divergence["gaussian"]

    def test_smoothadv_loses_less_to_an_attack(self, trained):
        x, y = load_dataset("digits", "test").tensors()
        noise = 0.5 * torch.randn((4, *x.shape), generator=generator())
        lost = {}
        for name in ("gaussian", "smoothadv"):
            model = trained[name]
            attacked = adversarial_images(model, x, y, noise, radius=0.5, steps=4)
            before, after = (
                soft_loss(model, z, y, noise).mean() for z in (x, attacked)
            )
            lost[name] = after - before
        assert lost["smoothadv"] < 0.9 * lost["gaussian"]


def test_the_default_of_gaussian_is_one_copy(batch):
    model, x, y = batch
    plain = gaussian(model, x, y, sigma=SIGMA, generator=generator())
    assert plain.value.item() == loss_of("gaussian", batch, copies=1)[0]
