import numpy as np
import pytest
import torch
from torch import nn

from lipsmooth import losses, models, train
from lipsmooth.cli import main
from lipsmooth.data import Images, load_dataset
from lipsmooth.inference import check_precision
from lipsmooth.losses import LOSSES
from lipsmooth.models import (
    build_model,
    load_checkpoint,
    read_checkpoint,
    weights_digest,
)
from lipsmooth.options import LOSS_OPTIONS
from lipsmooth.recipe import BEFORE, OPTIONS, Network, Recipe, loss_options
from lipsmooth.train import train_classifier, trained_classifier


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", "train")


def fresh(arch="cnn"):
    torch.manual_seed(0)
    return build_model(arch, shape=(1, 8, 8), num_classes=10)


QUICK = {"sigma": 0.25, "epochs": 1, "batch_size": 256, "progress": False}
SMALL = {
    "gaussian": {"copies": 2},
    "consistency": {"copies": 2, "weight": 5.0},
    "macer": {"copies": 2, "weight": 2.0},
    "smoothadv": {"copies": 1, "radius": 0.25, "steps": 1},
    "smoothadv-ddn": {"copies": 1, "radius": 0.25, "steps": 2, "warmup": 2},
}


ATTACKS = {
    "smoothadv": "adversarial_images",
    "smoothadv-ddn": "closest_adversarial_images",
}


def interrupt(monkeypatch, digits, path, **settings):
    """Train a network for one epoch and leave the checkpoint."""
    once = train._train_epoch

    def stop(*args, epoch, **kwargs):
        if epoch == 1:
            raise KeyboardInterrupt
        return once(*args, epoch=epoch, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(train, "_train_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            train_classifier(fresh(), digits, checkpoint=path, **settings)


class TestOptions:
    def test_defaults_are_filled_in(self):
        assert loss_options("gaussian", {}) == {"copies": 1}
        assert loss_options("macer", {"copies": 4.0}) == {
            "copies": 4, "weight": 12.0, "inverse_temperature": 16.0, "margin": 8.0,
        }  # fmt: skip

    def test_the_published_defaults(self):
        """Jeong and Shin: m = 2, λ = 10, η = 0.5; Zhai et al.: 16, 12, 16, 8."""
        assert list(loss_options("consistency", {}).values()) == [2, 10.0, 0.5]
        assert list(loss_options("macer", {}).values()) == [16, 12.0, 16.0, 8.0]

    def test_every_option_belongs_to_a_loss_and_to_the_command_line(self):
        used = {name for loss in LOSSES for name in loss_options(loss, {})}
        assert used == set(OPTIONS)
        assert {name.replace("-", "_") for name, *_ in LOSS_OPTIONS} == used

    @pytest.mark.parametrize(
        ("loss", "options", "message"),
        [
            ("trades", {}, r"loss must be one of gaussian, .*; got 'trades'"),
            (
                "gaussian",
                {"radius": 1},
                r"'gaussian' has no option 'radius'; .* copies",
            ),
            ("macer", {"lambda": 1}, r"no option 'lambda'; it has copies, weight"),
            (
                "macer",
                {"copies": 0},
                r"copies must be a whole number, at least 1; got 0",
            ),
            ("macer", {"copies": 1.5}, r"copies must be a whole number, .* got 1\.5"),
            ("macer", {"weight": -1}, r"weight must be .* at least 0; got -1"),
            ("macer", {"margin": float("nan")}, r"margin must be .* got nan"),
            (
                "macer",
                {"inverse_temperature": 0},
                r"inverse_temperature must be .* greater than 0; got 0",
            ),
            ("consistency", {"entropy": "much"}, r"entropy must be .* got 'much'"),
            ("smoothadv", {"steps": 0}, r"steps must be a whole number, .* got 0"),
            ("smoothadv", {"radius": float("inf")}, r"radius must be .* got inf"),
            ("smoothadv", {"warmup": 1.5}, r"warmup must be a whole .* got 1\.5"),
            ("smoothadv-ddn", {"warmup": -1}, r"warmup must be .* at least 0; got -1"),
            ("smoothadv-ddn", {"epoch": 3}, r"has no option 'epoch'; .* warmup"),
            ("macer", {"warmup": 2}, r"'macer' has no option 'warmup'"),
        ],
    )
    def test_bad_options_are_refused_before_anything_happens(
        self, digits, loss, options, message
    ):
        model = fresh()
        before = weights_digest(model)
        with pytest.raises(ValueError, match=message):
            train_classifier(model, digits, loss=loss, **QUICK, **options)
        with pytest.raises(ValueError, match=message):
            trained_classifier("no such data", sigma=0.25, loss=loss, **options)
        assert weights_digest(model) == before


class TestCheckpoint:
    @pytest.mark.parametrize("loss", LOSSES)
    def test_keeps_the_loss_and_refuses_another(self, digits, tmp_path, loss):
        path = tmp_path / "m.pt"
        settings = {**QUICK, "loss": loss, **SMALL[loss]}
        history = train_classifier(fresh(), digits, checkpoint=path, **settings)
        _, metadata = load_checkpoint(path)
        assert metadata["loss"] == loss
        assert metadata["loss_options"] == loss_options(loss, SMALL[loss])
        assert train_classifier(fresh(), digits, checkpoint=path, **settings) == history
        other = "gaussian" if loss != "gaussian" else "consistency"
        with pytest.raises(ValueError, match=r"trained with loss"):
            train_classifier(fresh(), digits, checkpoint=path, loss=other, **QUICK)
        changed = {**settings, "copies": 3}
        with pytest.raises(ValueError, match=r"loss_options = .*, not .*'copies': 3"):
            train_classifier(fresh(), digits, checkpoint=path, **changed)

    @pytest.mark.parametrize("loss", ["macer", "smoothadv", "smoothadv-ddn"])
    def test_an_interrupted_training_ends_as_an_uninterrupted_one(
        self, digits, tmp_path, monkeypatch, loss
    ):
        settings = {**QUICK, "epochs": 2, "loss": loss, **SMALL[loss]}
        whole, path = fresh(), tmp_path / "m.pt"
        train_classifier(whole, digits, **settings)
        interrupt(monkeypatch, digits, path, **settings)
        resumed = fresh()
        train_classifier(resumed, digits, checkpoint=path, **settings)
        assert weights_digest(resumed) == weights_digest(whole)
        if "warmup" in SMALL[loss]:
            settings["warmup"] = 0  # the second epoch is the same, the first is not
            train_classifier(plain := fresh(), digits, **settings)
            assert weights_digest(plain) != weights_digest(whole)

    @pytest.mark.parametrize("loss", list(ATTACKS))
    def test_the_radius_grows_epoch_by_epoch_also_if_interrupted(
        self, digits, tmp_path, monkeypatch, loss
    ):
        attack, radii = getattr(losses, ATTACKS[loss]), []

        def note(*args, radius, **kwargs):
            radii.append(radius)
            return attack(*args, radius=radius, **kwargs)

        monkeypatch.setattr(losses, ATTACKS[loss], note)
        few = Images(
            "few", "train", digits.classes, *map(np.asarray, digits.tensors(range(64)))
        )
        settings = {**QUICK, **SMALL[loss], "loss": loss, "radius": 0.75}
        for warmup, expected in (
            (3, [0.25, 0.5, 0.75, 0.75]),
            (1, [0.75] * 4),  # as in the source, where 1 means none
            (0, [0.75] * 4),
        ):
            settings |= {"epochs": 4, "warmup": warmup}  # of a single batch
            train_classifier(fresh(), few, **settings)
            assert radii == pytest.approx(expected)
            radii.clear()
        settings["warmup"], path = 3, tmp_path / "m.pt"
        interrupt(monkeypatch, few, path, **settings)
        assert radii == pytest.approx([0.25])
        train_classifier(fresh(), few, checkpoint=path, **settings)
        assert radii == pytest.approx([0.25, 0.5, 0.75, 0.75])

    def test_one_from_before_losses_is_gaussian(self, digits, tmp_path):
        path = tmp_path / "m.pt"
        history = train_classifier(fresh(), digits, checkpoint=path, **QUICK)
        content = read_checkpoint(path)
        for key in BEFORE:
            del content["metadata"][key]
        torch.save(content, path)
        assert train_classifier(fresh(), digits, checkpoint=path, **QUICK) == history
        with pytest.raises(ValueError, match=r"loss = 'gaussian', not 'macer'"):
            train_classifier(fresh(), digits, checkpoint=path, loss="macer", **QUICK)

    def test_one_from_before_warm_ups_has_none(self, digits, tmp_path, monkeypatch):
        settings = {**QUICK, "epochs": 2, "loss": "smoothadv", **SMALL["smoothadv"]}
        whole, resumed, path = fresh(), fresh(), tmp_path / "m.pt"
        train_classifier(whole, digits, **settings)
        interrupt(monkeypatch, digits, path, **settings)
        content = read_checkpoint(path)
        assert content["metadata"]["loss_options"].pop("warmup") == 0
        torch.save(content, path)
        with pytest.raises(ValueError, match=r"'warmup': 0, .*, not .*'warmup': 3}"):
            train_classifier(fresh(), digits, checkpoint=path, warmup=3, **settings)
        train_classifier(resumed, digits, checkpoint=path, **settings)
        assert weights_digest(resumed) == weights_digest(whole)

    def test_the_cache_tells_losses_options_and_precisions_apart(
        self, tmp_path, monkeypatch
    ):
        asked = []

        def note(model, dataset, *, checkpoint, **settings):
            asked.append(settings)
            models.save_checkpoint(checkpoint, model)

        monkeypatch.setattr(train, "train_classifier", note)
        runs = [
            {}, {"copies": 2}, {"loss": "macer"}, {"loss": "macer", "margin": 4.0},
            {"loss": "consistency"}, {"channels_last": True}, {"precision": "bfloat16"},
        ]  # fmt: skip
        paths = [
            trained_classifier("digits", sigma=0.25, cache_dir=tmp_path, **run)
            for run in runs
        ]
        assert len(set(paths)) == len(runs) == len(asked)
        assert asked[3]["margin"] == 4.0
        again = trained_classifier(
            "digits", sigma=0.25, cache_dir=tmp_path, loss="macer", margin=8
        )
        assert again == paths[2]  # a default, spelt out


def test_gaussian_augmentation_is_the_plain_loop_it_always_was(digits):
    """Written out: the trainer adds nothing to it, to the last bit."""
    reference = fresh().train()
    optimizer = torch.optim.AdamW(reference.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
    words = np.random.SeedSequence(5, spawn_key=(0,)).generate_state(2)
    order = torch.randperm(
        len(digits), generator=torch.Generator().manual_seed(int(words[0]))
    )
    noise = torch.Generator().manual_seed(int(words[1]))
    for rows in order.split(256):
        x, y = digits.tensors(rows)
        noisy = x + 0.25 * torch.empty_like(x).normal_(generator=noise)
        optimizer.zero_grad()
        nn.functional.cross_entropy(reference(noisy), y).backward()
        optimizer.step()
        schedule.step()
    model = fresh()
    train_classifier(model, digits, seed=5, **QUICK)
    assert weights_digest(model) == weights_digest(reference)


def has_bfloat16():
    try:
        check_precision("bfloat16", torch.device("cpu"))
    except ValueError:
        return False
    return True


class TestLayoutAndPrecision:
    @staticmethod
    def watch(model, digits, **settings):
        seen = {}

        def note(layer, inputs, output):
            seen["dtype"] = output.dtype
            seen["last"] = output.is_contiguous(memory_format=torch.channels_last)
            seen["weights"] = layer.weight.dtype

        layer = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
        handle = layer.register_forward_hook(note)
        history = train_classifier(model, digits, **{**QUICK, **settings})
        handle.remove()
        return seen, history[-1]["loss"]

    def test_channels_last_is_the_same_training(self, digits, tmp_path):
        plain, loss = self.watch(fresh(), digits)
        assert not plain["last"]
        model, path = fresh(), tmp_path / "m.pt"
        seen, other = self.watch(model, digits, channels_last=True, checkpoint=path)
        assert seen["last"]
        assert other == pytest.approx(loss, rel=1e-3)
        assert all(part.is_contiguous() for part in model.parameters())
        loaded, metadata = load_checkpoint(path)
        assert metadata["channels_last"] is True
        assert weights_digest(loaded) == weights_digest(model)
        with pytest.raises(ValueError, match=r"channels_last = True, not False"):
            train_classifier(fresh(), digits, checkpoint=path, **QUICK)

    @pytest.mark.skipif(not has_bfloat16(), reason="no bfloat16 on this CPU")
    @pytest.mark.parametrize("loss", LOSSES)
    def test_bfloat16_is_nearly_the_same_training(self, digits, tmp_path, loss):
        settings = {"loss": loss, **SMALL[loss]}
        _, expected = self.watch(fresh(), digits, **settings)
        path = tmp_path / "m.pt"
        settings |= {"precision": "bfloat16", "channels_last": True}
        seen, found = self.watch(fresh(), digits, checkpoint=path, **settings)
        assert seen["dtype"] == torch.bfloat16
        assert seen["weights"] == torch.float32
        assert found != expected
        assert found == pytest.approx(expected, rel=0.05)
        content = read_checkpoint(path)
        assert content["metadata"]["precision"] == "bfloat16"
        assert content["weights"]["1.weight"].dtype == torch.float32

    @pytest.mark.skipif(not has_bfloat16(), reason="no bfloat16 on this CPU")
    def test_orthogonal_layers_take_bfloat16(self, digits):
        model = fresh("lipschitz")
        history = train_classifier(model, digits, precision="bfloat16", **QUICK)
        assert history[-1]["loss"] < 2.3

    @pytest.mark.gpu
    @pytest.mark.parametrize("loss", LOSSES)
    def test_a_gpu_trains_in_bfloat16(self, digits, loss):
        settings = {"loss": loss, "channels_last": True, **SMALL[loss]}
        history = train_classifier(
            fresh(), digits, precision="bfloat16", device="cuda",
            **{**QUICK, "epochs": 3, **settings},
        )  # fmt: skip
        assert history[-1]["accuracy"] > history[0]["accuracy"]

    def test_scores_leave_the_network_in_float32(self):
        model = nn.Conv2d(1, 2, 3)
        for precision in ("float32", "bfloat16"):
            out = Network(model, precision, True)(torch.zeros(1, 1, 8, 8))
            assert out.dtype == torch.float32

    def test_bad_precision(self, digits):
        message = r"precision must be float32 or bfloat16, got 'half'"
        with pytest.raises(ValueError, match=message):
            Recipe(sigma=0.25, precision="half")

    def test_a_device_without_bfloat16(self, digits, monkeypatch):
        monkeypatch.setattr("lipsmooth.inference._has_bfloat16", lambda device: False)
        with pytest.raises(ValueError, match=r"cpu has no bfloat16 arithmetic"):
            train_classifier(fresh(), digits, precision="bfloat16", **QUICK)


class TestCommand:
    def test_trains_with_a_loss(self, tmp_path, capsys):
        path = str(tmp_path / "m.pt")
        command = [
            "train", path, "--sigma", "0.25", "--epochs", "1", "--quiet",
            "--loss", "smoothadv", "--copies", "1", "--radius", "0.25",
            "--warmup", "3", "--channels-last",
        ]  # fmt: skip
        assert main(command) == 0
        _, metadata = load_checkpoint(path)
        expected = {"copies": 1, "radius": 0.25, "steps": 2, "warmup": 3}
        assert metadata["loss_options"] == expected
        assert metadata["channels_last"] is True

    def test_says_what_is_wrong(self, tmp_path, capsys):
        command = ["train", str(tmp_path / "m.pt"), "--sigma", "0.25", "--quiet"]
        assert main([*command, "--margin", "4"]) == 2
        assert "'gaussian' has no option 'margin'" in capsys.readouterr().err
        assert main([*command, "--loss", "trades"]) == 2
        assert "loss must be one of" in capsys.readouterr().err
        assert not (tmp_path / "m.pt").exists()
