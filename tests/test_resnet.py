import pytest
import torch

from lipsmooth.inference import optimized
from lipsmooth.models import build_model, load_checkpoint, save_checkpoint
from lipsmooth.resnet import Residual, ResNet, resnet9


@pytest.mark.parametrize(
    ("arch", "million", "layers"), [("resnet20", 0.27, 20), ("resnet110", 1.73, 110)]
)
def test_sizes_are_the_published_ones(arch, million, layers):
    model = build_model(arch, shape=(3, 32, 32), num_classes=10)
    count = sum(part.numel() for part in model.parameters())
    assert round(count / 1e6, 2) == million
    weighted = [n for n, p in model.named_parameters() if p.ndim > 1]
    assert len([n for n in weighted if "downsample" not in n]) == layers


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (2, 33, 47)])
@pytest.mark.parametrize("num_classes", [2, 100])
def test_shapes(shape, num_classes):
    model = build_model("resnet20", shape=shape, num_classes=num_classes).eval()
    with torch.inference_mode():
        assert model(torch.rand(3, *shape)).shape == (3, num_classes)


def test_names_are_those_of_published_checkpoints():
    names = set(build_model("resnet20", shape=(3, 32, 32), num_classes=10).state_dict())
    assert names >= {
        "1.conv1.weight", "1.bn1.running_var", "1.layer1.0.conv2.weight",
        "1.layer2.0.downsample.0.weight", "1.layer3.2.bn2.bias", "1.fc.weight",
    }  # fmt: skip


def test_stages_halve_the_resolution():
    network, sizes = ResNet(20), []
    for stage in (network.layer1, network.layer2, network.layer3):
        stage.register_forward_hook(lambda *a: sizes.append(tuple(a[2].shape[1:])))
    network(torch.rand(2, 3, 32, 32))
    assert sizes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


def test_round_trip(tmp_path):
    torch.manual_seed(0)
    model = build_model("resnet20", shape=(3, 32, 32), num_classes=10).eval()
    save_checkpoint(tmp_path / "m.pt", model)
    loaded, metadata = load_checkpoint(tmp_path / "m.pt")
    x = torch.rand(2, 3, 32, 32)
    assert metadata["arch"] == "resnet20"
    assert torch.equal(loaded(x), model(x))


@pytest.mark.parametrize("depth", [2, 18, 21])
def test_bad_depth(depth):
    with pytest.raises(ValueError, match=f"depth must be .* got {depth}"):
        ResNet(depth)


class TestResnet9:
    @pytest.mark.parametrize(
        ("arch", "million"), [("resnet9", 6.6), ("resnet9-16", 0.4)]
    )
    def test_sizes_are_those_documented(self, arch, million):
        model = build_model(arch, shape=(3, 32, 32), num_classes=10)
        count = sum(part.numel() for part in model.parameters())
        assert round(count / 1e6, 1) == million
        weighted = [part for part in model.parameters() if part.ndim > 1]
        assert len(weighted) == 9

    @pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (2, 33, 47)])
    def test_shapes(self, shape):
        model = build_model("resnet9-16", shape=shape, num_classes=7).eval()
        with torch.inference_mode():
            assert model(torch.rand(3, *shape)).shape == (3, 7)

    def test_the_last_layer_has_eight_times_the_channels(self):
        network, sizes = resnet9(width=3), []
        for part in network:
            if isinstance(part, Residual):
                part.register_forward_hook(lambda *a: sizes.append(a[2].shape[1:]))
        network(torch.rand(2, 3, 32, 32))
        assert sizes == [(6, 16, 16), (24, 4, 4)]

    def test_a_residual_adds_to_what_it_is_given(self):
        part = Residual(4).eval()
        x = torch.rand(2, 4, 8, 8)
        assert torch.equal(part(x), x + part.layers(x))
        torch.nn.init.zeros_(part.layers[4].weight)  # the last normalisation
        assert torch.equal(part(x), x)

    def test_every_normalisation_is_folded(self):
        torch.manual_seed(0)
        model = build_model("resnet9-16", shape=(3, 32, 32), num_classes=10)
        x = torch.rand(4, 3, 32, 32)
        model(x)  # statistics that are not those of a fresh network
        fast = optimized(model)
        kinds = [type(part) for part in fast.modules()]
        assert torch.nn.BatchNorm2d not in kinds
        torch.testing.assert_close(fast(x), model.eval()(x), rtol=1e-4, atol=1e-5)

    def test_width(self):
        with pytest.raises(ValueError, match="width must be at least 1, got 0"):
            resnet9(width=0)
