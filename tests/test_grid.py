"""Noise on a grid: drawn exactly, added exactly, worth as much as normal noise."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp
from scipy.stats import chisquare, norm

from lipsmooth import grid as grids
from lipsmooth.certify import certify_counts
from lipsmooth.cli import main
from lipsmooth.data import Images, load_dataset
from lipsmooth.grid import BITS, Grid, enclose, shifted_lower
from lipsmooth.logs import read_log
from lipsmooth.moments import score_moments
from lipsmooth.noise import CHUNK, GridStream, NoiseStream
from lipsmooth.pursuit import sample_decisions
from lipsmooth.sampling import count_votes, sample_log
from lipsmooth.train import trained_classifier

SMALL = Grid(sigma=0.25, levels=4)
"""Noise of one step: few values, so that each is tested."""


def generator(seed=0):
    return np.random.Generator(np.random.SFC64(seed))


def drawn(grid, size, seed=0):
    out = np.empty(size, dtype=np.float32)
    grid.draw(generator(seed), out)
    return out


def counted(grid, values):
    found = np.bincount((values + grid.reach).astype(int), minlength=2 * grid.reach + 1)
    near = grid.pmf * len(values) >= 20
    seen, due = found[near], grid.pmf[near] * len(values)
    rest = [found[~near].sum()], [(grid.pmf[~near]).sum() * len(values)]
    return np.r_[seen, rest[0]], np.r_[due, rest[1]]


class TestDistribution:
    @pytest.mark.parametrize(
        ("sigma", "levels"), [(0.25, 4), (0.25, 255), (1.0, 255), (0.12, 256), (3, 1)]
    )
    def test_probabilities_are_those_of_rounded_normal_noise(self, sigma, levels):
        grid = Grid(sigma=sigma, levels=levels)
        z = np.arange(-grid.reach, grid.reach + 1)
        edges = np.r_[-np.inf, z[1:] - 0.5, np.inf] / (sigma * levels)
        np.testing.assert_allclose(grid.pmf, np.diff(norm.cdf(edges)), atol=1e-15)
        np.testing.assert_array_equal(grid.pmf, grid.pmf[::-1])
        assert abs(grid.pmf.sum() - 1) < 1e-14

    def test_the_enclosures_hold_the_distribution_function(self):
        low, high = SMALL.enclosures
        with mp.workdps(60):
            for k, z in enumerate(range(1 - SMALL.reach, SMALL.reach + 1)):
                exact = mp.erfc(-(mp.mpf(2 * z - 1) / 2) / mp.sqrt(2)) / 2 * 2**BITS
                assert low[k] < exact < high[k]
                assert high[k] - low[k] == 3
                first, last = enclose(z, SMALL.scale_exactly, 200)
                assert first < exact * 2 ** (200 - BITS) < last

    def test_the_table_never_decides_what_is_open(self):
        grid = Grid(sigma=0.25, levels=255)
        low, high = grid.enclosures
        width = BITS - 16
        cells = np.concatenate([low >> width, high >> width])
        cells = cells[(cells >= 0) & (cells < 2**16)]
        assert np.all(np.isnan(grid.table[cells]))
        assert np.isnan(grid.table).mean() < 0.01
        # Where it does decide, both ends of the cell lead to the same noise.
        sure = np.flatnonzero(~np.isnan(grid.table))
        for number in (sure << width, (sure << width) + 2**width - 1):
            found = grid.settle(number, generator())
            np.testing.assert_array_equal(found, grid.table[sure])

    @pytest.mark.statistical
    def test_noise_has_that_distribution(self):
        for grid in (SMALL, Grid(sigma=0.25, levels=255)):
            seen, due = counted(grid, drawn(grid, 400_000))
            assert chisquare(seen, due).pvalue > 1e-4
            wrong = Grid(sigma=1.02 * grid.sigma, levels=grid.levels)
            seen, due = counted(grid, drawn(wrong, 400_000))
            assert chisquare(seen, due).pvalue < 1e-4  # 2 % more noise is noticed

    @pytest.mark.statistical
    def test_numbers_between_two_enclosures_get_more_bits(self, monkeypatch):
        """With few bits many numbers are open; the distribution must not change."""
        monkeypatch.setattr(grids, "BITS", 17)  # the enclosures are 3 wide
        grid = Grid(sigma=0.25, levels=4)
        low, high = grid.enclosures
        numbers = generator(1).integers(0, 2**17, size=200_000)
        inside = (np.searchsorted(low, numbers, "right")
                  != np.searchsorted(high, numbers, "right"))  # fmt: skip
        assert inside.sum() > 10
        found = grid.settle(numbers, generator(2))
        seen, due = counted(grid, found)
        assert chisquare(seen, due).pvalue > 1e-4
        # An open number alone is decided between its two neighbours, both ways.
        centre = np.full(3000, low[grid.reach] + 1)
        ends = set(grid.settle(centre, generator(3)).tolist())
        exact = float(mp.mpf(norm.cdf(0.5)) * 2**17) - (low[grid.reach] + 1)
        share = (grid.settle(centre, generator(3)) == 1).mean()
        assert ends == {0.0, 1.0}
        assert abs(share - (1 - exact)) < 0.05

    def test_wide_noise_and_bad_grids(self):
        with pytest.raises(ValueError, match="too wide for a grid of 255 levels"):
            Grid(sigma=20.0, levels=255)
        for levels in (0, -1, 2.5, True, None):
            with pytest.raises(ValueError, match="levels must be a whole number"):
                Grid(sigma=1.0, levels=levels)
        with pytest.raises(ValueError, match="sigma must be positive"):
            Grid(sigma=0.0, levels=255)


class TestAddition:
    @settings(deadline=None, max_examples=50)
    @given(
        st.sampled_from([4, 16, 255, 256]),
        st.floats(0.01, 2.0),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32),
    )
    def test_sums_are_exact(self, levels, sigma, index, seed):
        rng = np.random.default_rng(seed)
        pixels = rng.integers(0, levels + 1, size=12)
        x = torch.from_numpy((pixels / levels).astype(np.float32))
        stream = GridStream((12,), sigma=sigma, levels=levels, seed=seed, index=index)
        noise = stream.take(0, 5).numpy().astype(np.int64)
        out, room = torch.empty(5, 12), torch.empty(5, 12)
        stream.perturb(x, out, room, start=0, sigma=sigma)
        edge = stream.grid.margin
        whole = np.clip(pixels + noise, -edge, levels + edge)
        np.testing.assert_array_equal(out.numpy(), (whole / levels).astype(np.float32))
        # Different sums stay different numbers: nothing about x is lost or shown.
        assert len(np.unique(out)) == len(np.unique(whole))

    def test_the_control_ordinary_sums_are_rounded(self):
        x, z = torch.full((20_000,), 100 / 255), NoiseStream((20_000,), seed=0)
        noise = 0.25 * z.take(0, 1)[0]
        exact = x.double() + noise.double()
        assert ((x + noise).double() != exact).float().mean() > 0.5

    @pytest.mark.parametrize(
        "value", [0.5, -1 / 255, 256 / 255, np.nextafter(np.float32(1 / 255), 1)]
    )
    def test_pixels_off_the_grid(self, value):
        x = torch.tensor([0.0, float(value)])
        with pytest.raises(ValueError, match=r"multiples of 1/255 in \[0, 1\], got"):
            count_votes(lambda z: z, x, sigma=0.25, n=3, seed=0, levels=255)

    def test_every_byte_is_on_the_grid(self):
        byte = torch.arange(256, dtype=torch.uint8)
        grid = Grid(sigma=0.25, levels=255)
        np.testing.assert_array_equal(grid.steps((byte.float() / 255).numpy()), byte)

    def test_another_sigma(self):
        stream = GridStream((2,), sigma=0.5, levels=16, seed=0)
        room = torch.empty(3, 2)
        with pytest.raises(ValueError, match=r"sigma is 0\.5 for this noise, not 0\.2"):
            stream.perturb(torch.zeros(2), room.clone(), room, start=0, sigma=0.2)


class TestStream:
    def test_samples_do_not_depend_on_how_they_are_asked_for(self):
        def stream():
            return GridStream((3, 4), sigma=0.25, levels=255, seed=5, index=2)

        whole = stream().take(0, 3 * CHUNK)
        for start, stop in ((0, 1), (100, 600), (CHUNK, 2 * CHUNK), (749, 750)):
            torch.testing.assert_close(stream().take(start, stop), whole[start:stop])
        others = {
            tuple(GridStream((3,), sigma=0.25, levels=n, seed=s, index=i).take(0, 1)[0])
            for n, s, i in ((255, 5, 2), (255, 6, 2), (255, 5, 3), (256, 5, 2))
        }
        assert len({tuple(map(float, other)) for other in others}) == 4

    def test_values_the_votes_depend_on(self):
        found = GridStream((4,), sigma=0.25, levels=255, seed=1, index=7).take(0, 2)
        assert found.tolist() == FIRST, "logs on disk cannot be resumed any more"

    @pytest.mark.gpu
    @pytest.mark.statistical
    def test_on_a_gpu(self):
        stream = GridStream((8,), sigma=0.25, levels=4, seed=1, device="cuda")
        seen, due = counted(SMALL, stream.take(0, 50_000).cpu().numpy().ravel())
        assert chisquare(seen, due).pvalue > 1e-4

    def test_the_way_of_other_devices_draws_the_same_law(self, monkeypatch):
        """What a GPU does, done on the CPU: words, and then two look-ups."""
        stream = GridStream((8,), sigma=0.25, levels=4, seed=1)
        stream.device = type("Other", (), {"type": "other"})()
        monkeypatch.setattr(
            stream, "_generator",
            lambda *key, device=None: generator(key) if device
            else torch.Generator().manual_seed(key[0]),
        )  # fmt: skip
        out = torch.empty(20_000, 8)
        stream._draw((3, out))
        seen, due = counted(SMALL, out.numpy().ravel())
        assert chisquare(seen, due).pvalue > 1e-4


class TestNeymanPearson:
    """The listed worst case against the theorem: rounding can only help."""

    @pytest.mark.parametrize(
        "shift", [(1,), (3,), (4,), (1, 1), (3, -2), (5, 5), (1, 1, 1), (2, 1, 0)]
    )
    @pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
    def test_never_below_normal_noise(self, shift, scale):
        pmf = self.trimmed(scale, len(shift))
        p = np.linspace(0.01, 0.99, 400)
        distance = np.linalg.norm(shift) / scale
        normal = norm.cdf(norm.ppf(p) - distance)
        gained = shifted_lower(p, shift, pmf=pmf) - normal
        assert gained.min() > -1e-9
        assert (gained / normal).max() > 1e-3

    @staticmethod
    def trimmed(scale, dimensions):
        pmf = Grid(sigma=scale / 8, levels=8).pmf
        half = len(pmf) // 2
        keep = min(half, int(np.ceil((9 if dimensions < 3 else 6.5) * scale)))
        return pmf[half - keep : half + keep + 1]

    @pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
    def test_equal_where_half_spaces_of_the_grid_are(self, scale):
        """At p = Φ((k + 1/2) / s) the worst case is that of normal noise."""
        cut = (np.arange(1, 4) + 0.5) / scale
        for move in (1, 2):
            found = shifted_lower(
                norm.cdf(cut), move, pmf=Grid(sigma=scale / 8, levels=8).pmf
            )
            np.testing.assert_allclose(found, norm.cdf(cut - move / scale), rtol=1e-9)

    def test_the_control_another_discrete_noise_falls_below(self):
        """Probabilities ∝ exp(−z²/2s²) are no rounded normal, and the radius fails."""
        z = np.arange(-12, 13)
        weight = np.exp(-(z**2) / (2 * 0.5**2))
        p = np.linspace(0.5, 0.999, 400)
        found = shifted_lower(p, 1, pmf=weight / weight.sum())
        assert (found - norm.cdf(norm.ppf(p) - 2)).min() < -0.02

    def test_classifiers_drawn_at_random_stay_above(self):
        rng, grid = np.random.default_rng(0), Grid(sigma=0.25, levels=4)
        here, there = np.r_[grid.pmf, 0, 0], np.r_[0, 0, grid.pmf]
        answers = rng.random((500, len(here))) < rng.random((500, 1))
        found = shifted_lower(answers @ here, 2, pmf=grid.pmf)
        inner = np.abs(answers @ here - 0.5) < 0.4999
        assert inner.sum() > 300
        assert np.all((answers @ there >= found - 1e-12)[inner])

    def test_bad_input(self):
        with pytest.raises(ValueError, match="whole numbers of grid steps"):
            shifted_lower(0.9, 0.5, pmf=SMALL.pmf)
        with pytest.raises(ValueError, match="too many outcomes"):
            shifted_lower(0.9, (1,) * 6, pmf=Grid(sigma=0.25, levels=255).pmf)
        with pytest.raises(ValueError, match="p_a"):
            shifted_lower(1.5, 1, pmf=SMALL.pmf)


DRAWN = {"sigma": 0.25, "n": 1000, "seed": 0}


def adversary(target):
    """Class 0 where some pixel cannot be a rounded sum of the target's and noise."""

    def scores(y):
        centre = y - target
        up, down = (torch.nextafter(centre, torch.full((), s)) for s in (9.0, -9.0))
        reached = [target + w == y for w in (centre, up, down)]
        seen = ~torch.stack(reached).any(dim=0)
        other = seen.flatten(1).any(dim=1).float()
        return torch.stack([other, 1 - other], dim=1)

    return scores


class TestAdversary:
    """A false certificate by ordinary sampling, and none by the sound one."""

    x = torch.full((3, 24, 24), 40 / 255)
    near = torch.full((3, 24, 24), 41 / 255)

    def certified(self, **levels):
        base = adversary(self.near)
        select, estimate = (
            count_votes(base, self.x, **DRAWN, **levels, start=s) for s in (0, 1000)
        )
        found = certify_counts(
            select[None], estimate[None], sigma=0.25, alpha=0.001, strategy="mono"
        )
        there = count_votes(base, self.near, **DRAWN, **levels)
        return int(found.prediction[0]), float(found.radius[0]), there

    def test_ordinary_sampling_certifies_a_falsehood(self):
        distance = float((self.near - self.x).norm())
        prediction, radius, there = self.certified()
        assert (prediction, int(there.argmax())) == (0, 1)
        assert radius > 2 * distance
        assert there[0] == 0

    def test_sound_sampling_certifies_the_truth(self):
        prediction, radius, there = self.certified(levels=255)
        assert radius > float((self.near - self.x).norm())
        assert int(there.argmax()) == prediction


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return trained_classifier("digits", sigma=0.25, epochs=4, cache_dir=folder)


COMMON = {"sigma": 0.25, "n0": 20, "n": 300, "seed": 3, "progress": False}


class TestVotes:
    def test_batches_order_and_resuming_leave_no_trace(self, checkpoint, tmp_path):
        from lipsmooth.models import load_checkpoint

        model, digits = load_checkpoint(checkpoint)[0], load_dataset("digits", "test")
        for name, parts, size in (("a", [[0, 1, 40]], 1000), ("b", [[40], [1, 0]], 70)):
            for part in parts:
                log = sample_log(
                    model, digits, tmp_path / name, **COMMON, indices=part,
                    batch_size=size, levels=256,
                )  # fmt: skip
        logs = [read_log(tmp_path / name) for name in "ab"]
        np.testing.assert_array_equal(*(log.counts_estimation for log in logs))
        assert log.config["levels"] == 256
        x, _ = digits[40]
        alone = count_votes(
            model, x, sigma=0.25, n=300, start=20, seed=3, index=40, levels=256
        )
        np.testing.assert_array_equal(logs[0].counts_estimation[2], alone)
        with pytest.raises(ValueError, match="was sampled with levels = 256, not None"):
            sample_log(model, digits, tmp_path / "a", **COMMON, indices=[0])

    def test_moments_and_decisions_use_the_same_noise(self, checkpoint, tmp_path):
        from lipsmooth.models import load_checkpoint

        model, digits = load_checkpoint(checkpoint)[0], load_dataset("digits", "test")
        one = {"sigma": 0.25, "n": 300, "seed": 3, "index": 40, "levels": 256}
        votes = count_votes(model, digits[40][0], **one)
        moments = score_moments(model, digits[40][0], maps=["hardmax"], **one)
        np.testing.assert_allclose(moments.mean[0] * 300, votes, atol=1e-3)
        log = sample_decisions(
            model, digits, tmp_path / "d", **COMMON, indices=[40], target_radius=0.2,
            alpha=0.01, levels=256,
        )  # fmt: skip
        used = int(log.counts_estimation.sum())
        again = count_votes(model, digits[40][0], **{**one, "n": used}, start=20)
        np.testing.assert_array_equal(log.counts_estimation[0], again)

    def test_half_precision_images_stay_on_the_grid(self):
        """The network's own rounding is a function of the whole number it gets."""
        x = (torch.arange(5) / 4).half()
        counts = count_votes(
            lambda y: y.float()[:, :2], x, sigma=0.25, n=50, seed=0, levels=4
        )
        assert counts.sum() == 50

    def test_from_the_command_line(self, checkpoint, tmp_path, capsys):
        log = tmp_path / "votes.jsonl"
        command = ["sample", str(checkpoint), str(log), "--n", "50", "--images", "3"]
        assert main([*command, "--sound", "256", "--quiet"]) == 0
        assert json.loads(log.read_text().splitlines()[0])["config"]["levels"] == 256
        assert main([*command, "--quiet"]) == 2
        assert "levels = 256" in capsys.readouterr().err
        assert main([*command[:2], str(tmp_path / "w"), "--sound", "--quiet"]) == 2
        assert "multiples of 1/255" in capsys.readouterr().err

    def test_images_of_bytes_take_the_default(self):
        pixels = np.random.default_rng(0).integers(0, 256, (2, 1, 8, 8), np.uint8)
        images = Images("bytes", "test", ["a", "b"], pixels, [0, 1])
        x, _ = images[1]
        counts = count_votes(
            lambda y: y.flatten(1)[:, :2], x, sigma=0.5, n=40, seed=0, levels=255
        )
        assert counts.sum() == 40


FIRST = [[-73, -111, -27, 19], [39, -36, 84, -70]]
