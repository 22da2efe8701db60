import multiprocessing
import warnings

import pytest
import torch

from lipsmooth import epochs, train
from lipsmooth.data import load_dataset
from lipsmooth.models import (
    build_model,
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
    weights_digest,
)
from lipsmooth.train import train_classifier, trained_classifier


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", "train")


def fresh(seed=0):
    torch.manual_seed(seed)
    return build_model("cnn", shape=(1, 8, 8), num_classes=10)


QUICK = {"sigma": 0.25, "epochs": 3, "batch_size": 256, "progress": False}


def noisy_accuracy(model, sigma):
    x, y = load_dataset("digits", "test").tensors()
    noise = torch.randn((8, *x.shape), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        predicted = model((x + sigma * noise).flatten(0, 1)).argmax(dim=1)
    return (predicted == y.repeat(8)).double().mean().item()


def test_a_quarter_of_the_default_epochs_learns_digits_under_noise(digits):
    model = fresh()
    untrained = noisy_accuracy(model.eval(), 0.25)
    history = train_classifier(model, digits, sigma=0.25, epochs=15, progress=False)
    assert untrained < 0.3
    assert noisy_accuracy(model, 0.25) > 0.92
    assert not model.training
    assert [entry["epoch"] for entry in history] == list(range(1, 16))
    assert history[-1]["loss"] < history[0]["loss"]
    assert 0.9 < history[-1]["accuracy"] <= 1


def test_the_seed_alone_decides_the_result(digits):
    digests = []
    for seed in (0, 0, 1):
        model = fresh()
        torch.manual_seed(len(digests))  # the global generator must not matter
        train_classifier(model, digits, seed=seed, **{**QUICK, "epochs": 1})
        digests.append(weights_digest(model))
    assert digests[0] == digests[1] != digests[2]


class Interrupted(Exception):
    pass


def test_an_interrupted_training_ends_as_an_uninterrupted_one(
    digits, tmp_path, monkeypatch
):
    whole = fresh()
    reference = train_classifier(whole, digits, **QUICK)
    path = tmp_path / "model.pt"
    once = train._train_epoch

    def stop_in_epoch_2(*args, epoch, **kwargs):
        if epoch == 2:
            raise Interrupted
        return once(*args, epoch=epoch, **kwargs)

    monkeypatch.setattr(train, "_train_epoch", stop_in_epoch_2)
    with pytest.raises(Interrupted):
        train_classifier(fresh(), digits, checkpoint=path, **QUICK)
    monkeypatch.undo()
    assert read_checkpoint(path)["metadata"]["epoch"] == 2

    resumed = fresh(seed=99)  # its weights must come from the checkpoint
    history = train_classifier(resumed, digits, checkpoint=path, **QUICK)
    assert weights_digest(resumed) == weights_digest(whole)
    assert weights_digest(load_checkpoint(path)[0]) == weights_digest(whole)
    losses = [[entry["loss"] for entry in run] for run in (reference, history)]
    assert losses[0] == losses[1]
    assert read_checkpoint(path)["training"] is None

    again = fresh(seed=98)  # finished: nothing left but to load it
    assert train_classifier(again, digits, checkpoint=path, **QUICK) == history
    assert weights_digest(again) == weights_digest(whole)


def test_a_checkpoint_of_other_settings_is_refused(digits, tmp_path):
    path = tmp_path / "model.pt"
    settings = {**QUICK, "epochs": 1}
    train_classifier(fresh(), digits, checkpoint=path, **settings)
    content = path.read_bytes()
    for name, value in {"sigma": 0.5, "epochs": 2, "seed": 1}.items():
        with pytest.raises(ValueError, match=rf"{name} = .*, not {value}"):
            train_classifier(
                fresh(), digits, checkpoint=path, **{**settings, name: value}
            )
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sigma", -0.1),
        ("sigma", float("nan")),
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("seed", -1),
    ],
)
def test_bad_settings(digits, name, value):
    with pytest.raises(ValueError, match=rf"{name} must be .*got {value}"):
        train_classifier(fresh(), digits, **{**QUICK, name: value})


def test_a_dataset_that_does_not_fit(digits):
    model = build_model("cnn", shape=(3, 8, 8), num_classes=10)
    with pytest.raises(
        ValueError, match=r"shape = \[3, 8, 8\], digits has \[1, 8, 8\]"
    ):
        train_classifier(model, digits, **QUICK)


def test_a_loss_that_is_not_finite(digits):
    with pytest.raises(ValueError, match=r"loss became nan"):
        train_classifier(fresh(), digits, **{**QUICK, "learning_rate": 1e30})


class TestCache:
    def test_trains_once(self, tmp_path, monkeypatch):
        state = torch.random.get_rng_state()
        settings = {"sigma": 0.25, "epochs": 1, "cache_dir": tmp_path}
        path = trained_classifier("digits", **settings)
        assert torch.equal(torch.random.get_rng_state(), state)
        _, metadata = load_checkpoint(path)
        assert metadata["sigma"] == 0.25
        assert metadata["epoch"] == metadata["epochs"] == 1

        monkeypatch.setattr(train, "train_classifier", None)
        assert trained_classifier("digits", **settings) == path
        with pytest.raises(TypeError, match="NoneType"):
            trained_classifier("digits", **{**settings, "seed": 1})

    def test_an_unfinished_training_is_resumed(self, tmp_path, monkeypatch):
        settings = {"sigma": 0.25, "epochs": 2}
        expected = trained_classifier("digits", **settings, cache_dir=tmp_path / "a")

        def stop_after_one(path, model, *, epoch, **kwargs):
            save_checkpoint(path, model, epoch=epoch, **kwargs)
            raise Interrupted

        monkeypatch.setattr(epochs, "save_checkpoint", stop_after_one)
        with pytest.raises(Interrupted):
            trained_classifier("digits", **settings, cache_dir=tmp_path / "b")
        monkeypatch.undo()
        path = trained_classifier("digits", **settings, cache_dir=tmp_path / "b")
        digests = {weights_digest(load_checkpoint(p)[0]) for p in (path, expected)}
        assert len(digests) == 1
        assert path.name == expected.name

    def test_two_processes_share_the_work(self, tmp_path):
        context = multiprocessing.get_context("spawn")
        with context.Pool(2) as pool:
            found = pool.map(_train_in_process, [tmp_path, tmp_path])
        assert found[0] == found[1]
        assert len(list((tmp_path / "models").glob("*.pt"))) == 1


def _train_in_process(folder):
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    return trained_classifier("digits", sigma=0.5, epochs=1, cache_dir=folder)
