"""Loading denoisers and classifiers: every format, and nothing executed."""

import pickle

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from test_improved_diffusion import original_shapes
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from lipsmooth.cli import main
from lipsmooth.data import load_dataset
from lipsmooth.denoise import DenoisedClassifier, matching_timestep
from lipsmooth.improved_diffusion import CIFAR10, SCHEDULE, from_improved_diffusion
from lipsmooth.logs import read_log
from lipsmooth.models import build_model, save_checkpoint, weights_digest
from lipsmooth.pretrained import load_base, load_denoiser, load_vit
from lipsmooth.scorelogs import read_score_log

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse",
           "ship", "truck")  # fmt: skip
TINY = {
    "sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1,
    "block_out_channels": (8, 8), "norm_num_groups": 4, "attention_head_dim": 4,
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
}  # fmt: skip


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file like OpenAI's, of the same size, with random weights."""
    path = tmp_path_factory.mktemp("openai") / "cifar10_uncond_50M_500K.pt"
    torch.manual_seed(0)
    shapes = original_shapes(CIFAR10)
    torch.save({name: torch.randn(shape) / 30 for name, shape in shapes.items()}, path)
    return path


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A folder like that of a ViT tuned on CIFAR-10, but small and random."""
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, image_size=64, patch_size=16,
        id2label=dict(enumerate(CLASSES)),
        label2id={label: number for number, label in enumerate(CLASSES)},
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    processor = ViTImageProcessor(
        size={"height": 64, "width": 64}, image_mean=[0.5, 0.4, 0.3],
        image_std=[0.5, 0.25, 0.2],
    )  # fmt: skip
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    UNet2DModel(**TINY).save_pretrained(tmp_path / "d")
    DDPMScheduler(beta_schedule="linear").save_pretrained(tmp_path / "d")
    return tmp_path / "d"


def test_the_published_pair(published, vit):
    classifier = load_vit(vit, classes=CLASSES)
    network, alphas_cumprod = load_denoiser(published)
    assert len(alphas_cumprod) == 4000
    composite = DenoisedClassifier(
        network, classifier, alphas_cumprod=alphas_cumprod, sigma=0.25,
        size=classifier.size,
    )  # fmt: skip
    x = torch.rand(1, 3, 32, 32)
    noisy = x + 0.25 * torch.randn(x.shape)
    with torch.inference_mode():
        scores = composite.eval()(noisy)
        denoised = composite.denoise(noisy)
        # Step by step: its own scheduler, resize, normalise, classify.
        t = matching_timestep(alphas_cumprod, sigma=0.25)
        scheduler = DDPMScheduler(**SCHEDULE, variance_type="learned_range")
        scaled = alphas_cumprod[t].sqrt() * (2 * noisy - 1)
        output = network(scaled, t).sample
        assert output.shape == (1, 6, 32, 32)
        clean = scheduler.step(output, t, scaled).pred_original_sample
        resize = torch.nn.functional.interpolate
        large = resize((clean + 1) / 2, (64, 64), mode="bicubic", antialias=True)
        mean = torch.tensor([0.5, 0.4, 0.3]).reshape(3, 1, 1)
        std = torch.tensor([0.5, 0.25, 0.2]).reshape(3, 1, 1)
        expected = classifier[1]((large - mean) / std).logits
    assert torch.allclose(2 * denoised - 1, clean, atol=1e-5)
    assert scores.shape == (1, 10)
    assert torch.allclose(scores, expected, atol=1e-5)


def test_by_name(published, vit):
    composite, metadata = load_base(vit, denoiser=published, sigma=0.5)
    assert metadata == {}
    assert composite.size == (64, 64)
    weights = torch.load(published, weights_only=True)
    expected = weights_digest(from_improved_diffusion(weights))
    assert composite.parts()["denoiser"] == expected


def test_the_classes_of_a_vit_are_checked(vit):
    load_vit(vit, classes=[label.title() for label in CLASSES])
    with pytest.raises(ValueError, match="has classes"):
        load_vit(vit, classes=CLASSES[::-1])


def test_a_folder_of_diffusers(folder):
    network, alphas_cumprod = load_denoiser(folder)
    assert not network.training
    torch.manual_seed(0)
    assert weights_digest(network) == weights_digest(UNet2DModel(**TINY))
    expected = DDPMScheduler(beta_schedule="linear").alphas_cumprod
    assert torch.equal(alphas_cumprod, expected)


def test_a_model_that_predicts_something_else_is_refused(folder):
    DDPMScheduler(prediction_type="v_prediction").save_pretrained(folder)
    with pytest.raises(ValueError, match="predicts 'v_prediction'"):
        load_denoiser(folder)


def test_files_that_are_no_denoisers(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"checkpoint .*missing\.pt does not exist"):
        load_denoiser(tmp_path / "missing.pt")
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(ValueError, match=r"text\.pt is truncated or not a checkpoint"):
        load_denoiser(tmp_path / "text.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"list\.pt is not a checkpoint but a list"):
        load_denoiser(tmp_path / "list.pt")
    torch.manual_seed(0)
    model = build_model("cnn", shape=(1, 8, 8), num_classes=10)
    save_checkpoint(tmp_path / "cnn.pt", model)
    with pytest.raises(ValueError, match=r"cnn\.pt is not a denoiser"):
        load_denoiser(tmp_path / "cnn.pt")


class Trap:
    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


def test_nothing_in_a_file_is_executed(tmp_path):
    for name, content in {
        "a": Trap(),
        "b": {"input_blocks.0.0.weight": Trap()},
    }.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(ValueError, match=r"not a checkpoint \(UnpicklingError"):
            load_denoiser(tmp_path / name)
    with pytest.raises(SystemExit, match="executed"):  # control: the trap works
        pickle.loads(pickle.dumps(Trap()))


def test_the_command_line(tmp_path, capsys):
    model, denoiser = str(tmp_path / "m.pt"), str(tmp_path / "d.pt")
    quiet = ["--quiet", "--batch-size", "512"]
    assert main(["train", model, "--sigma", "0", "--epochs", "2", *quiet]) == 0
    tiny = ["train-denoiser", denoiser, "--epochs", "1", "--width", "8", *quiet]
    assert main(tiny) == 0
    assert "of the noise's variance not predicted" in capsys.readouterr().out
    sample = [
        "sample",
        model,
        "--images",
        "3",
        "--n",
        "20",
        "--sigma",
        "0.5",
        "--quiet",
    ]
    for name, extra in {"plain": [], "denoised": ["--denoiser", denoiser]}.items():
        log = str(tmp_path / name)
        assert main([*sample[:2], log, *sample[2:], *extra]) == 0
    logs = {name: read_log(tmp_path / name) for name in ("plain", "denoised")}
    assert logs["denoised"].config["classifier"] == logs["plain"].config["model"]
    assert logs["denoised"].config["timesteps"] == [
        matching_timestep(load_denoiser(denoiser).alphas_cumprod, sigma=0.5)
    ]
    assert (
        main(["certify", str(tmp_path / "denoised"), "--out", str(tmp_path / "c")]) == 0
    )
    scores = [*sample[:2], str(tmp_path / "scores"), *sample[2:], "--maps", "softmax:1"]
    assert main([*scores, "--denoiser", denoiser]) == 0
    config = read_score_log(tmp_path / "scores").config
    assert config["denoiser"] == logs["denoised"].config["denoiser"]
    # Without --sigma: that of training, which has no timestep.
    assert main([*sample[:2], str(tmp_path / "x"), "--denoiser", denoiser]) == 2
    assert "sigma must lie in" in capsys.readouterr().err


def test_a_denoiser_for_colour_images_is_trained_by_the_same_command(
    tmp_path, monkeypatch
):
    """The dry run of CIFAR-10 from scratch: its shape, few images, a narrow network."""
    import numpy as np

    from lipsmooth.data import Images

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8, 3, 32, 32), dtype=np.uint8)
    tiny = Images("cifar10", "train", list(CLASSES), pixels, np.arange(8))
    monkeypatch.setattr("lipsmooth.commands.load_dataset", lambda *_, **__: tiny)
    path = str(tmp_path / "d.pt")
    command = ["train-denoiser", path, "--dataset", "cifar10", "--width", "8"]
    assert main([*command, "--epochs", "1", "--batch-size", "4", "--quiet"]) == 0
    network, _ = load_denoiser(path)
    kinds = network.config["down_block_types"]
    assert list(kinds) == ["DownBlock2D", *["AttnDownBlock2D"] * 2, "DownBlock2D"]
    assert main([*command, "--epochs", "1", "--batch-size", "4", "--quiet"]) == 0


@pytest.mark.gpu
def test_on_a_gpu(tmp_path):
    path = tmp_path / "d.pt"
    command = ["train-denoiser", str(path), "--epochs", "1", "--device", "cuda"]
    assert main([*command, "--quiet"]) == 0
    torch.manual_seed(0)
    model = build_model("cnn", shape=(1, 8, 8), num_classes=10)
    save_checkpoint(tmp_path / "m.pt", model, sigma=0.0)
    x, _ = load_dataset("digits", "test").tensors(range(8))
    settings = {"denoiser": path, "sigma": 0.25}
    on_gpu, _ = load_base(tmp_path / "m.pt", "cuda", **settings)
    on_cpu, _ = load_base(tmp_path / "m.pt", **settings)
    with torch.inference_mode():
        scores = on_gpu(x.cuda()).cpu()
        assert torch.allclose(scores, on_cpu(x), atol=1e-2)
