"""Training denoisers: they learn, they resume, they are cached."""

import pytest
import torch

from lipsmooth import diffusion
from lipsmooth.data import load_dataset
from lipsmooth.denoise import build_denoiser
from lipsmooth.diffusion import train_denoiser, trained_denoiser
from lipsmooth.models import load_checkpoint, weights_digest
from lipsmooth.pretrained import load_base, load_denoiser
from lipsmooth.sampling import sample_votes
from lipsmooth.train import trained_classifier

QUICK = {"epochs": 2, "batch_size": 256, "progress": False}


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", "train")


@pytest.fixture(scope="module")
def trained():
    return trained_denoiser("digits", epochs=12)


def fresh(seed=0):
    torch.manual_seed(seed)
    return build_denoiser((1, 8, 8), width=8)


def accuracy(model, sigma):
    x, y = load_dataset("digits", "test").tensors()
    noise = torch.randn((2, *x.shape), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        predicted = model((x + sigma * noise).flatten(0, 1)).argmax(dim=1)
    return (predicted == y.repeat(2)).double().mean().item()


def test_a_third_of_the_default_epochs_helps_a_clean_trained_classifier(
    trained,
):
    clean = trained_classifier("digits", sigma=0.0, epochs=20)
    x, _ = load_dataset("digits", "test").tensors()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    for sigma, gain in ((0.25, 0.01), (0.5, 0.15)):
        with_denoiser, _ = load_base(clean, denoiser=trained, sigma=sigma)
        without, _ = load_base(clean)
        assert accuracy(with_denoiser, sigma) > accuracy(without, sigma) + gain
        with torch.inference_mode():
            left = (with_denoiser.denoise(x + sigma * noise) - x).square().mean()
        assert left < 0.3 * sigma**2
        # Control: weights that were never trained do not denoise.
        with_denoiser.denoiser.load_state_dict(build_denoiser((1, 8, 8)).state_dict())
        with torch.inference_mode():
            left = (with_denoiser.denoise(x + sigma * noise) - x).square().mean()
        assert left > 0.3 * sigma**2


def test_the_seed_alone_decides_the_result(digits):
    digests = []
    for seed in (0, 0, 1):
        network = fresh()
        torch.manual_seed(len(digests))  # the global generator must not matter
        train_denoiser(network, digits, seed=seed, **{**QUICK, "epochs": 1})
        digests.append(weights_digest(network))
        assert not network.training
    assert digests[0] == digests[1] != digests[2]


class Interrupted(Exception):
    pass


def test_an_interrupted_training_ends_as_an_uninterrupted_one(
    digits, tmp_path, monkeypatch
):
    whole = fresh()
    reference = train_denoiser(whole, digits, **QUICK)
    path = tmp_path / "denoiser.pt"
    once = diffusion._train_epoch

    def stop(*args, epoch, **settings):
        if epoch == 1:
            raise Interrupted
        return once(*args, epoch=epoch, **settings)

    monkeypatch.setattr(diffusion, "_train_epoch", stop)
    with pytest.raises(Interrupted):
        train_denoiser(fresh(), digits, **QUICK, checkpoint=path)
    monkeypatch.setattr(diffusion, "_train_epoch", once)
    history = train_denoiser(fresh(seed=7), digits, **QUICK, checkpoint=path)
    assert [row["loss"] for row in history] == [row["loss"] for row in reference]
    network, alphas_cumprod = load_denoiser(path)
    assert weights_digest(network) == weights_digest(whole)
    assert len(alphas_cumprod) == 1000
    with pytest.raises(ValueError, match=r"trained with seed = 0, not 1"):
        train_denoiser(fresh(), digits, **QUICK, seed=1, checkpoint=path)


def test_dropout_is_part_of_what_the_seed_decides(digits):
    losses = []
    for number in (0, 1):
        torch.manual_seed(0)
        network = build_denoiser((1, 8, 8), width=8)
        for part in network.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.3
        torch.manual_seed(number)
        losses += train_denoiser(network, digits, **{**QUICK, "epochs": 1})
    assert losses[0]["loss"] == losses[1]["loss"]


def test_the_cache_knows_the_settings(tmp_path):
    settings = {"epochs": 1, "batch_size": 512, "width": 8, "cache_dir": tmp_path}
    first = trained_denoiser("digits", **settings)
    before = first.stat().st_mtime_ns
    assert trained_denoiser("digits", **settings) == first
    assert first.stat().st_mtime_ns == before
    assert trained_denoiser("digits", **settings, seed=1) != first


def test_a_denoiser_is_no_classifier(trained):
    with pytest.raises(ValueError, match="no classifier but a diffusion model"):
        load_checkpoint(trained)


def test_votes_of_the_composite_are_cached_apart(trained):
    clean = trained_classifier("digits", sigma=0.0, epochs=20)
    settings = {"sigma": 0.5, "n0": 10, "n": 100, "seed": 0, "images": 10}
    log = sample_votes(clean, "digits", **settings, denoiser=trained)
    without = sample_votes(clean, "digits", **settings)
    assert log.config["classifier"] == without.config["model"]
    assert log.config["denoiser"] == weights_digest(load_denoiser(trained).network)
    right = [votes.counts_estimation[range(10), votes.label].sum() for votes in
             (log, without)]  # fmt: skip
    assert right[0] > right[1]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"learning_rate": 1e30, "epochs": 3}, "the training loss became"),
    ],
)
def test_bad_settings(digits, bad, message):
    with pytest.raises(ValueError, match=message):
        train_denoiser(fresh(), digits, **{**QUICK, **bad})
