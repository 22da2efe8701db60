import multiprocessing
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from lipsmooth import data, epochs, train
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

    again = fresh(seed=98)  # finished: nothing left but to load it
    assert train_classifier(again, digits, checkpoint=path, **QUICK) == history
    assert weights_digest(again) == weights_digest(whole)


def shapes_in_folders(folder):
    """Bright squares on the left or on the right, by class, as files."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("left", "right")):
        (folder / "train" / name).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, 60, (10, 12, 3), dtype=np.uint8)
            pixels[2:8, 6 * label : 6 * label + 6] += 150
            path = folder / "train" / name / f"{number:02}.png"
            Image.fromarray(pixels).save(path)
    return load_dataset(folder, "train")


def small_residual(seed=0):
    torch.manual_seed(seed)
    return build_model("resnet9-16", shape=(3, 10, 12), num_classes=2)


AUGMENTED = {
    "sigma": 0.1, "epochs": 3, "batch_size": 8, "progress": False, "seed": 3,
    "augmentation": "crop-flip", "channels_last": True,
}  # fmt: skip


def test_augmented_images_are_the_same_after_an_interruption(tmp_path, monkeypatch):
    dataset = shapes_in_folders(tmp_path)
    whole, path = small_residual(), tmp_path / "m.pt"
    train_classifier(whole, dataset, **AUGMENTED)
    once = train._train_epoch

    def stop_in_epoch_1(*args, epoch, **kwargs):
        if epoch == 1:
            raise Interrupted
        return once(*args, epoch=epoch, **kwargs)

    monkeypatch.setattr(train, "_train_epoch", stop_in_epoch_1)
    with pytest.raises(Interrupted):
        train_classifier(small_residual(), dataset, checkpoint=path, **AUGMENTED)
    monkeypatch.undo()
    resumed = small_residual(seed=9)
    train_classifier(resumed, dataset, checkpoint=path, **AUGMENTED)
    assert weights_digest(resumed) == weights_digest(whole)
    metadata = load_checkpoint(path)[1]
    assert metadata["augmentation"] == "crop-flip"
    other = {**AUGMENTED, "augmentation": "none"}
    with pytest.raises(ValueError, match="augmentation = 'crop-flip', not 'none'"):
        train_classifier(small_residual(), dataset, checkpoint=path, **other)
    plain = small_residual()
    train_classifier(plain, dataset, **other)
    assert weights_digest(plain) != weights_digest(whole)


def test_images_in_memory_train_as_images_on_the_disk(tmp_path, monkeypatch):
    dataset, digests = shapes_in_folders(tmp_path), []
    for limit in (0, data.RESIDENT_BYTES):
        monkeypatch.setattr(data, "RESIDENT_BYTES", limit)
        assert (dataset.resident() is dataset) == (limit == 0)
        model = small_residual()
        train_classifier(model, dataset, **AUGMENTED)
        digests.append(weights_digest(model))
    assert digests[0] == digests[1]


def test_scaled_images_are_named_in_the_checkpoint(tmp_path):
    shapes_in_folders(tmp_path)
    dataset, path = load_dataset(tmp_path, "train", size=8), tmp_path / "m.pt"
    settings = {**AUGMENTED, "epochs": 1, "checkpoint": path}
    torch.manual_seed(0)
    model = build_model("cnn", shape=(3, 8, 8), num_classes=2)
    train_classifier(model, dataset, **settings)
    assert load_checkpoint(path)[1]["preparation"] == {"resize": 9, "crop": 8}
    assert read_checkpoint(path)["training"] is None


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
