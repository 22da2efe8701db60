import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from lipsmooth import temperatures
from lipsmooth.data import load_dataset
from lipsmooth.moments import sample_moments, score_moments, score_samples
from lipsmooth.noise import NoiseStream
from lipsmooth.sampling import count_votes
from lipsmooth.scorelogs import SimplexMap, read_score_log
from lipsmooth.simplex import apply
from lipsmooth.temperatures import Total, grid_moments, sparsemax_thresholds

INVERSE = [1.0, *np.linspace(0.1, 50, 100), 1e7]
PUBLISHED = [SimplexMap(m, 1 / t) for m in ("sparsemax", "softmax") for t in INVERSE]
MAPS = ["softmax:1", "sparsemax:0.5", "hardmax", "softmax:0.05", "sparsemax:3"]


def reference(logits, maps):
    """Moments in float64, one map after the other."""
    scores = [apply(SimplexMap.parse(m), logits.double()) for m in maps]
    mean = torch.stack([p.mean(dim=0) for p in scores])
    return mean.numpy(), torch.stack([p.std(dim=0) for p in scores]).numpy()


def hard_logits(rows, classes, how):
    generator = torch.Generator().manual_seed(classes)
    z = torch.randn(rows, classes, generator=generator)
    if how == "sure":  # scores near 1 that hardly vary
        z[:, 3] += 12
    elif how == "outlier":  # the first row is unlike all others
        z[:, 1] += 9
        z[0, 1] -= 30
    elif how == "steep":
        z *= 200
    elif how == "flat":
        z *= 1e-3
    elif how == "tied":
        z = z.round()
    elif how == "shifted":
        z += 1000
    return z


@pytest.mark.parametrize(
    "how", ["plain", "sure", "outlier", "steep", "flat", "tied", "shifted"]
)
@pytest.mark.parametrize("classes", [10, 100, 1000])
def test_published_grid_against_float64(classes, how):
    z = hard_logits(400, classes, how)
    maps = [*PUBLISHED, SimplexMap("hardmax")]
    mean, squares = grid_moments(z, maps).numpy()
    expected, deviation = reference(z, maps)
    np.testing.assert_allclose(mean, expected, rtol=0, atol=2e-6)
    found = np.sqrt(np.maximum(squares, 0) / (len(z) - 1))
    np.testing.assert_allclose(found, deviation, rtol=0, atol=1e-6)


def test_temperatures_beyond_float32():
    z = hard_logits(50, 5, "plain")
    for name in ("softmax", "sparsemax"):
        maps = [SimplexMap(name, t) for t in (1e-60, 1e60)]
        mean, squares = grid_moments(z, [*maps, SimplexMap("hardmax")])
        torch.testing.assert_close(mean[0], mean[2])
        torch.testing.assert_close(mean[1], torch.full((5,), 0.2, dtype=mean.dtype))
        assert squares.isfinite().all()


def test_uncentred_sums_would_fail():
    # Negative control: what is gained by taking deviations before squaring.
    z = hard_logits(400, 10, "sure")
    p = torch.softmax(z, dim=1)
    naive = (p.square().mean(dim=0) - p.mean(dim=0).square()).clamp(min=0).sqrt()
    assert np.abs(naive.numpy() - p.double().std(dim=0).numpy()).max() > 1e-5


@pytest.mark.parametrize("classes", [2, 10, 200])
def test_thresholds_from_one_sort(classes):
    z = torch.randn(50, classes, dtype=torch.float64)
    z -= z.amax(dim=1, keepdim=True)
    grid = torch.tensor([5.0, 0.01, 1.0], dtype=z.dtype)
    ranked = z.sort(dim=1, descending=True).values
    theta, support = sparsemax_thresholds(ranked, grid)
    for t, level, count in zip(grid, theta, support, strict=True):
        p = (z - level[:, None]).clamp(min=0) / t
        expected = apply(SimplexMap("sparsemax", float(t)), z)
        torch.testing.assert_close(p, expected)
        assert torch.equal(count, (expected > 0).sum(dim=1))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # PyTorch's own
def test_compiled_is_the_same():
    maps = PUBLISHED[::17]
    z = hard_logits(300, 10, "plain")
    plain, fused = grid_moments(z, maps), grid_moments(z, maps, compiled=True)
    torch.testing.assert_close(fused[0], plain[0], rtol=0, atol=1e-7)
    deviations = [(m[1].clamp(min=0) / 299).sqrt() for m in (fused, plain)]
    torch.testing.assert_close(*deviations, rtol=0, atol=1e-6)


class TestTotal:
    N = 2501

    def total(self, z, sizes):
        total = Total(self.N, tuple(map(SimplexMap.parse, MAPS)), compiled=False)
        for part in z.split(sizes):
            total.add(part)
        return total.result()

    @pytest.mark.parametrize("how", ["plain", "sure", "outlier"])
    def test_how_samples_are_cut_leaves_no_trace(self, how):
        z = hard_logits(self.N, 10, how)
        whole = self.total(z, self.N)
        for size in (1, 7, 1000, 2500):  # the last batch of three of them is of size 1
            for found, expected in zip(self.total(z, size), whole, strict=True):
                np.testing.assert_array_equal(found, expected)
        mean, deviation = reference(z, MAPS)
        np.testing.assert_allclose(whole[0], mean, rtol=0, atol=2e-6)
        np.testing.assert_allclose(np.sqrt(whole[1]), deviation, rtol=0, atol=1e-6)

    def test_variances_averaged_over_batches_would_be_noticed(self):
        # Negative control: the published average, and its NaN for a batch of size 1.
        z = hard_logits(self.N, 10, "plain")
        p = torch.softmax(z, dim=1)
        parts = p.split(1000)
        average = sum(part.var(dim=0) * len(part) for part in parts) / self.N
        right = self.total(z, 1000)[1][0]
        assert np.abs(average.sqrt().numpy() - np.sqrt(right)).max() > 1e-6
        with pytest.warns(UserWarning, match="degrees of freedom"):
            assert p.split(2500)[-1].var(dim=0).isnan().all()

    def test_blocks_are_merged_over_all_samples(self, monkeypatch):
        z = hard_logits(self.N, 10, "outlier")
        whole = self.total(z, self.N)
        for size in (3, 500, 5000):
            monkeypatch.setattr(temperatures, "BLOCK", size)
            for found, expected in zip(self.total(z, 100), whole, strict=True):
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)


def linear(x):
    """Two logits, 4 x_0 and 0: the scores of the first class are known functions."""
    return torch.stack([4 * x.flatten(1)[:, 0], torch.zeros(len(x))], dim=1)


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", "test")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, 10))


class TestScoreMoments:
    SETTINGS = {"sigma": 0.5, "n": 2001, "seed": 3, "index": 4, "start": 70}  # noqa: RUF012

    def test_moments_are_those_of_the_samples(self, network, digits):
        x, _ = digits[0]
        found = score_moments(network, x, maps=MAPS, **self.SETTINGS)
        assert found.mean.shape == found.variance.shape == (len(MAPS), 10)
        for k, name in enumerate(MAPS):
            p = score_samples(network, x, map=name, **self.SETTINGS)
            assert p.shape == (2001, 10)
            assert p.dtype == np.float32
            np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
            p = p.astype(float)
            np.testing.assert_allclose(found.mean[k], p.mean(axis=0), atol=2e-6)
            deviation = np.sqrt(found.variance[k])
            np.testing.assert_allclose(deviation, p.std(axis=0, ddof=1), atol=1e-6)

    def test_votes_are_scores_of_the_hardmax(self, network, digits):
        x, _ = digits[0]
        found = score_moments(network, x, maps=["hardmax"], **self.SETTINGS)
        counts = count_votes(network, x, **self.SETTINGS)
        np.testing.assert_allclose(found.mean[0], counts / 2001, rtol=1e-12)

    @pytest.mark.parametrize("batch_size", [1, 999, 1000, 2000, 9999])
    def test_the_batch_size_leaves_no_trace(self, digits, batch_size):
        x, _ = digits[0]
        settings = {**self.SETTINGS, "maps": MAPS}  # a linear map: equal logits
        expected = score_moments(linear, x, **settings, batch_size=100)
        found = score_moments(linear, x, **settings, batch_size=batch_size)
        np.testing.assert_array_equal(found.mean, expected.mean)
        np.testing.assert_array_equal(found.variance, expected.variance)

    def test_a_networks_own_rounding_is_all_that_is_left(self, network, digits):
        x, _ = digits[0]
        found = [
            score_moments(network, x, maps=MAPS[:2], **self.SETTINGS, batch_size=b)
            for b in (1, 1000)
        ]
        for pair in zip(*found, strict=True):
            np.testing.assert_allclose(*pair, atol=1e-6)

    def test_an_input_passed_through_is_not_overwritten(self):
        settings = {"sigma": 1.0, "n": 1200, "seed": 0, "maps": ["softmax"]}
        x = torch.zeros(3)
        views = [score_moments(lambda x: x, x, **settings, batch_size=b)
                 for b in (100, 1200)]  # fmt: skip
        np.testing.assert_array_equal(views[0].mean, views[1].mean)

    @pytest.mark.statistical
    def test_known_expectations(self):
        n = 200_000
        x = torch.tensor([0.1, 0.0])
        found = score_moments(
            linear, x, maps=["hardmax", "sparsemax:8", "sparsemax:1"],
            sigma=0.5, n=n, seed=1, batch_size=10_000,
        )  # fmt: skip
        # sparsemax of two logits is the ramp clip(1/2 + (z_1 - z_2) / (2 t), 0, 1).
        grid = np.linspace(-8, 8, 400_001)
        weight = norm.pdf(grid)
        weight /= weight.sum()
        for k, t in ((1, 8), (2, 1)):
            ramp = np.clip(0.5 + 4 * (0.1 + 0.5 * grid) / (2 * t), 0, 1)
            mean = weight @ ramp
            variance = weight @ (ramp - mean) ** 2
            assert abs(found.mean[k, 0] - mean) < 4.5 * np.sqrt(variance / n)
            assert found.variance[k, 0] == pytest.approx(variance, rel=0.02)
        p = norm.cdf(0.2)
        assert abs(found.mean[0, 0] - p) < 4.5 * np.sqrt(p * (1 - p) / n)
        assert abs(found.mean[1, 0] - p) > 0.01  # one map is not another

    def test_what_can_go_wrong(self, network, digits):
        x, _ = digits[0]
        settings = {"maps": MAPS, "sigma": 0.5, "n": 10, "seed": 0}
        for changes, message in (
            ({"n": 1}, "n must be a whole number, at least 2; got 1"),
            ({"sigma": 0.0}, "sigma must be positive"),
            ({"batch_size": 0}, "batch_size must be"),
            ({"num_classes": 3}, r"shape \(10, 3\), got \(10, 10\)"),
            ({"maps": []}, "at least one map"),
            ({"maps": ["softmin:1"]}, "got 'softmin:1'"),
            ({"maps": ["softmax:0"]}, "positive and finite, .* got 'softmax:0'"),
            ({"maps": ["softmax:1", "softmax"]}, r"name softmax:1\.0 twice"),
        ):
            with pytest.raises(ValueError, match=message):
                score_moments(network, x, **{**settings, **changes})
        bad = torch.full_like(x, float("nan"))
        for image, classifier, message in (
            (bad, network, "x must be finite; image 6"),
            (x, lambda x: network(x) / 0, "scores must be finite; image 6"),
        ):
            with pytest.raises(ValueError, match=message):
                score_moments(classifier, image, **settings, index=6)
            with pytest.raises(ValueError, match=message):
                score_samples(classifier, image, map="softmax", sigma=0.5, n=10,
                              seed=0, index=6)  # fmt: skip


class TestSampleMoments:
    SETTINGS = {  # noqa: RUF012
        "maps": MAPS, "sigma": 0.5, "n0": 20, "n": 300, "seed": 2, "progress": False,
        "fast": False,
    }  # fmt: skip

    def test_a_log_holds_each_images_moments(self, network, digits, tmp_path):
        path = tmp_path / "s.jsonl"
        log = sample_moments(network, digits, path, indices=[7, 2], **self.SETTINGS)
        assert log.index.tolist() == [7, 2]
        assert (log.n0, log.n) == (20, 300)
        assert log.maps == tuple(map(SimplexMap.parse, MAPS))
        for row, index in enumerate(log.index):
            x, label = digits[int(index)]
            assert log.label[row] == label
            common = {"maps": MAPS, "sigma": 0.5, "seed": 2, "index": int(index)}
            first = score_moments(network, x, **common, n=20)
            then = score_moments(network, x, **common, n=300, start=20)
            for found, expected in (
                (log.mean_selection, first.mean),
                (log.variance_selection, first.variance),
                (log.mean, then.mean),
                (log.variance, then.variance),
            ):
                np.testing.assert_allclose(found[row], expected, atol=1e-7)

    def test_images_that_share_batches(self, digits, tmp_path):
        logs = [
            sample_moments(linear_ten, digits, tmp_path / f"{size}", indices=range(9),
                           batch_size=size, **self.SETTINGS)
            for size in (50, 320, 1000, 5000)
        ]  # fmt: skip
        for log in logs[1:]:
            np.testing.assert_array_equal(log.mean, logs[0].mean)
            np.testing.assert_array_equal(log.variance, logs[0].variance)

    def test_resuming(self, network, digits, tmp_path):
        path = tmp_path / "s.jsonl"
        settings = {**self.SETTINGS, "indices": range(5)}
        whole = sample_moments(network, digits, path, **settings)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * 2 // 3])
        with pytest.warns(UserWarning, match="cut short"):
            again = sample_moments(network, digits, path, **settings)
        np.testing.assert_array_equal(again.mean, whole.mean)
        with pytest.raises(ValueError, match=r"maps = \['softmax:1.0'.*not \['soft"):
            sample_moments(network, digits, path, **{**settings, "maps": MAPS[:1]})

    def test_killed_and_started_again(self, digits, tmp_path):
        path = tmp_path / "s.jsonl"
        code = (
            "import sys, time, torch\n"
            "from lipsmooth.data import load_dataset\n"
            "from lipsmooth.moments import sample_moments\n"
            "def slow(x):\n"
            "    time.sleep(0.2)\n"
            "    return x.flatten(1)[:, :10]\n"
            f"sample_moments(slow, load_dataset('digits', 'test'), {str(path)!r},\n"
            f"    indices=range(50), batch_size=320, **{self.SETTINGS})\n"
        )
        process = subprocess.Popen([sys.executable, "-c", code])
        deadline = time.monotonic() + 120
        while not (path.exists() and path.read_bytes().count(b"\n") > 3):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        held = read_score_log(path)
        assert 2 <= len(held) < 50
        log = sample_moments(
            linear_ten, digits, path, indices=range(50), **self.SETTINGS
        )
        fresh = sample_moments(
            linear_ten, digits, tmp_path / "f", indices=range(50), **self.SETTINGS
        )
        np.testing.assert_array_equal(log.mean, fresh.mean)

    def test_too_few_samples(self, network, digits, tmp_path):
        for name in ("n0", "n"):
            with pytest.raises(ValueError, match=f"{name} must be .* at least 2"):
                sample_moments(
                    network, digits, tmp_path / "s", **{**self.SETTINGS, name: 1}
                )
        assert not (tmp_path / "s").exists()

    def test_a_log_is_lines_of_json(self, network, digits, tmp_path):
        path = tmp_path / "s.jsonl"
        log = sample_moments(network, digits, path, indices=[3], **self.SETTINGS)
        header, row = map(json.loads, path.read_text().splitlines())
        assert header["format"] == "lipsmooth-scores"
        assert header["config"]["maps"][1] == "sparsemax:0.5"
        assert row["mean"] == log.mean[0].tolist()


def linear_ten(x):
    return x.flatten(1)[:, :10]


@pytest.mark.gpu
def test_on_a_gpu(network, digits):
    x, _ = digits[0]
    settings = {"maps": PUBLISHED, "sigma": 0.5, "n": 3001, "seed": 0}
    model = network.cuda()
    try:
        found = score_moments(model, x, **settings)
        stream = NoiseStream(x.shape, seed=0, device="cuda")
        with torch.inference_mode():
            logits = model(x.cuda() + 0.5 * stream.take(0, 3001)).cpu()
        mean, deviation = reference(logits, PUBLISHED)
        np.testing.assert_allclose(found.mean, mean, atol=5e-6)
        np.testing.assert_allclose(np.sqrt(found.variance), deviation, atol=5e-6)
        many = torch.randn(500, 1000)
        mean, deviation = reference(many, PUBLISHED)
        moments = grid_moments(many.cuda(), PUBLISHED).cpu().numpy()
        np.testing.assert_allclose(moments[0], mean, atol=2e-6)
        np.testing.assert_allclose(
            np.sqrt(np.maximum(moments[1], 0) / 499), deviation, atol=1e-6
        )
    finally:
        network.cpu()
