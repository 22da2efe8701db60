"""Denoised classifiers: the right scale, the right noise, the right formula."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn

from lipsmooth.data import load_dataset
from lipsmooth.denoise import (
    SCHEDULE,
    DenoisedClassifier,
    build_denoiser,
    matching_timestep,
    noise_levels,
    require,
)
from lipsmooth.inference import optimized
from lipsmooth.models import build_model, weights_digest
from lipsmooth.sampling import count_votes, sample_log

ALPHAS = DDPMScheduler(**SCHEDULE).alphas_cumprod


class Fixed(nn.Module):
    """Predict what it was told; keep what it was asked."""

    def __init__(self, noise=0.0):
        super().__init__()
        self.noise, self.asked = noise, []

    def forward(self, x, timestep):
        self.asked.append((x.clone(), timestep))
        return torch.zeros_like(x) + self.noise


class Mean(nn.Module):
    """Two classes: darker or lighter than the middle."""

    def forward(self, x):
        mean = x.flatten(1).mean(dim=1)
        return torch.stack([0.5 - mean, mean - 0.5], dim=1)


@pytest.fixture
def composite():
    torch.manual_seed(0)
    network = build_denoiser((1, 8, 8)).eval()
    classifier = build_model("cnn", shape=(1, 8, 8), num_classes=10).eval()
    return DenoisedClassifier(network, classifier, alphas_cumprod=ALPHAS, sigma=0.25)


@pytest.mark.parametrize("sigma", [0.12, 0.25, 0.5, 1.0])
def test_the_timestep_is_the_nearest(sigma):
    t = matching_timestep(ALPHAS, sigma=sigma)
    levels = noise_levels(ALPHAS)
    gap = (levels - 2 * sigma).abs()
    assert gap[t] == gap.min()
    assert gap[t] < 0.01 * sigma
    assert (levels.diff() > 0).all()


@pytest.mark.parametrize("sigma", [0.0, 1e-4, 1e6, float("nan")])
def test_noise_that_the_schedule_lacks(sigma):
    with pytest.raises(ValueError, match=r"sigma must lie in \[.*\], got"):
        matching_timestep(ALPHAS, sigma=sigma)


@pytest.mark.parametrize("sigma", [0.25, 0.5])
def test_the_noise_that_reaches_the_model_has_the_deviation_of_smoothing(sigma):
    denoiser = Fixed()
    model = DenoisedClassifier(denoiser, Mean(), alphas_cumprod=ALPHAS, sigma=sigma)
    x = torch.linspace(0, 1, 64).reshape(1, 8, 8)
    count_votes(model, x, sigma=sigma, n=60_000, seed=0)
    t = matching_timestep(ALPHAS, sigma=sigma)
    assert {asked for _, asked in denoiser.asked} == {t}
    seen = torch.cat([noisy for noisy, _ in denoiser.asked]).double()
    # Back in the units of pixels in [0, 1], the image taken away.
    noise = (seen / ALPHAS[t].sqrt() + 1) / 2 - x
    assert len(noise) == 60_000
    assert noise.std().item() == pytest.approx(sigma, rel=5e-4)
    assert noise.mean().abs() < 5e-4
    assert (x + noise).min() < -2 * sigma  # nothing was clipped on the way


@pytest.mark.parametrize("sigma", [0.25, 0.5])
def test_one_step_is_the_schedulers_own_prediction(composite, sigma):
    model = DenoisedClassifier(
        composite.denoiser, composite.classifier, alphas_cumprod=ALPHAS, sigma=sigma
    )
    x, _ = load_dataset("digits", "test").tensors(range(40))
    noisy = x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    t = matching_timestep(ALPHAS, sigma=sigma)
    scheduler = DDPMScheduler(**SCHEDULE, clip_sample=True)
    with torch.inference_mode():
        scaled = ALPHAS[t].sqrt() * (2 * noisy - 1)
        output = model.denoiser(scaled, t).sample
        expected = scheduler.step(output, t, scaled).pred_original_sample
        denoised = model.denoise(noisy)
    assert torch.allclose(2 * denoised - 1, expected, atol=1e-5)
    assert denoised.min() >= 0
    assert denoised.max() <= 1
    other = scheduler.step(output, t - 1, scaled).pred_original_sample
    assert not torch.allclose(2 * denoised - 1, other, atol=1e-5)


def test_a_learned_variance_is_ignored(composite):
    class Wide(nn.Module):
        def forward(self, x, timestep):
            return torch.cat([0.3 * x, 1e6 + x], dim=1)

    scheduler = DDPMScheduler(**SCHEDULE, variance_type="learned_range")
    model = DenoisedClassifier(Wide(), Mean(), alphas_cumprod=ALPHAS, timestep=300)
    noisy = torch.rand(5, 1, 8, 8)
    scaled = ALPHAS[300].sqrt() * (2 * noisy - 1)
    step = scheduler.step(Wide()(scaled, 300), 300, scaled)
    assert torch.allclose(
        2 * model.denoise(noisy) - 1, step.pred_original_sample, atol=1e-5
    )


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_perfect_denoiser_returns_the_image_after_any_number_of_steps(steps):
    x = torch.rand(4, 1, 8, 8)
    noise = 2 * 0.4 * torch.randn(x.shape)

    class Perfect(nn.Module):
        def forward(self, noisy, timestep):
            alpha = ALPHAS[timestep]
            return (noisy - alpha.sqrt() * (2 * x - 1)) / (1 - alpha).sqrt()

    model = DenoisedClassifier(
        Perfect(), Mean(), alphas_cumprod=ALPHAS, sigma=0.4, steps=steps
    )
    assert len(set(model.timesteps)) == steps
    assert model.timesteps == sorted(model.timesteps, reverse=True)
    assert torch.allclose(model.denoise(x + noise / 2), x, atol=1e-4)


def test_later_steps_ask_about_less_noise():
    denoiser = Fixed()
    model = DenoisedClassifier(
        denoiser, Mean(), alphas_cumprod=ALPHAS, timestep=600, steps=3
    )
    model(torch.rand(1, 1, 8, 8))
    assert [t for _, t in denoiser.asked] == [600, 400, 200]


def test_resizing_and_logits():
    class Transformer(nn.Module):
        def forward(self, images):
            self.shape = images.shape
            return type("Output", (), {"logits": Mean()(images)})

    classifier = Transformer()
    model = DenoisedClassifier(
        Fixed(), classifier, alphas_cumprod=ALPHAS, sigma=0.25, size=(24, 16)
    )
    assert model(torch.rand(3, 1, 8, 8)).shape == (3, 2)
    assert classifier.shape == (3, 1, 24, 16)


def test_rows_do_not_know_of_each_other(composite):
    x = torch.rand(6, 1, 8, 8)
    with torch.inference_mode():
        together = composite.eval()(x)
        alone = torch.cat([composite(row[None]) for row in x])
        again = composite(x)
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.equal(together, again)  # no noise of its own


def test_the_inference_copy_computes_the_same(composite):
    x = torch.rand(40, 1, 8, 8)
    for part in composite.classifier:
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
    fast = optimized(composite)
    norms = [m for m in fast.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not norms  # they were folded
    with torch.inference_mode():
        assert torch.allclose(fast(x), composite.eval()(x), atol=1e-4)


def test_a_log_identifies_both_networks(composite, tmp_path):
    digits = load_dataset("digits", "test")
    settings = {"sigma": 0.25, "n0": 5, "n": 10, "seed": 0, "indices": [3]}
    log = sample_log(composite, digits, tmp_path / "a", **settings, progress=False)
    assert log.config["denoiser"] == weights_digest(composite.denoiser)
    assert log.config["classifier"] == weights_digest(composite.classifier)
    assert log.config["timesteps"] == [matching_timestep(ALPHAS, sigma=0.25)]
    assert log.counts_estimation.sum() == 10
    # The same networks, another timestep: another classifier, another log.
    other = DenoisedClassifier(
        composite.denoiser, composite.classifier, alphas_cumprod=ALPHAS, sigma=0.5
    )
    with pytest.raises(ValueError, match=r"model|timesteps"):
        sample_log(other, digits, tmp_path / "a", **settings, progress=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "either sigma or timestep"),
        ({"sigma": 0.25, "timestep": 3}, "either sigma or timestep"),
        ({"timestep": 1000}, r"timestep must lie in \[0, 1000\), got 1000"),
        ({"timestep": 3, "steps": 5}, r"steps must lie in \[1, 4\], got 5"),
        ({"sigma": 0.25, "steps": 0}, r"steps must lie in .* got 0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        DenoisedClassifier(Fixed(), Mean(), alphas_cumprod=ALPHAS, **settings)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 16, 24)])
def test_networks_fit_images(shape):
    network = build_denoiser(shape)
    assert network(torch.rand(2, *shape), 3).sample.shape == (2, *shape)


@pytest.mark.parametrize(
    ("shape", "width", "message"),
    [
        ((1, 7, 8), 16, "halve"),
        ((1, 3, 3), 16, "halve"),
        ((1, 8, 8), 20, "width must be .* got 20"),
        ((1, 8, 8), 0, "width must be .* got 0"),
    ],
)
def test_networks_that_do_not_fit(shape, width, message):
    with pytest.raises(ValueError, match=message):
        build_denoiser(shape, width=width)


def test_a_missing_package_is_named():
    with pytest.raises(ModuleNotFoundError, match=r"no_such_package: pip install"):
        require("no_such_package")


def test_importing_needs_no_diffusers():
    code = "import sys, lipsmooth.sampling, lipsmooth.diffusion; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert not loaded & {"diffusers", "transformers"}
    assert "torch" in loaded


def test_half_a_step_of_the_schedule_is_all_that_separates_the_levels():
    # What the published code does instead: the first timestep with at least 2 σ.
    levels = noise_levels(ALPHAS.double()).numpy() / 2
    for sigma in (0.25, 0.5):
        resampled = levels[np.argmax(levels >= sigma)]
        assert sigma <= resampled < 1.01 * sigma
