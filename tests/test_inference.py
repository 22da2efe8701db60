"""Inference copies: the same function, and nothing folded that must not be."""

import copy

import pytest
import torch
from torch import nn

from lipsmooth import inference
from lipsmooth.inference import optimized
from lipsmooth.models import build_model

SHAPES = {"cnn": (1, 8, 8), "resnet20": (3, 32, 32)}


@pytest.fixture(params=SHAPES)
def model(request):
    """A network whose normalisations have seen data and have biases of their own."""
    torch.manual_seed(0)
    model = build_model(request.param, shape=SHAPES[request.param], num_classes=10)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.weight.data.uniform_(0.5, 1.5)
            part.bias.data.uniform_(-0.5, 0.5)
            part.running_mean.uniform_(-0.5, 0.5)
            part.running_var.uniform_(0.5, 2)
    return model.eval()


bfloat16 = pytest.mark.skipif(
    not inference._has_bfloat16(torch.device("cpu")), reason="no bfloat16 on this CPU"
)


def scores(model, x):
    with torch.inference_mode():
        return model(x)


def norms(model):
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def test_scores_stay_and_every_normalisation_goes(model):
    x = torch.randn(70, *model.spec["shape"])  # more than a slice
    fast = optimized(model)
    before = scores(model, x)
    torch.testing.assert_close(scores(fast, x), before, rtol=1e-4, atol=1e-4)
    assert torch.equal(scores(fast, x).argmax(1), before.argmax(1))
    assert norms(model)
    assert not norms(fast)
    assert fast(x).is_contiguous()
    assert not any(part.requires_grad for part in fast.parameters())


def test_folding_without_the_normalisation_would_be_noticed(model, monkeypatch):
    monkeypatch.setattr(inference, "fuse_conv_bn_eval", lambda first, _: first)
    x = torch.randn(8, *model.spec["shape"])
    gap = (scores(optimized(model), x) - scores(model, x)).abs().max()
    assert gap > 0.1


def test_the_original_is_untouched(model):
    model.train()
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(3, *model.spec["shape"])
    scores(optimized(model), x)
    assert model.training
    assert all(part.training for part in model.modules())
    assert all(part.requires_grad for part in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_derivatives_by_the_image_stay(model):
    x = torch.randn(3, *model.spec["shape"])
    slopes = []
    for network in (model, optimized(model)):
        image = x.clone().requires_grad_()
        network(image).square().sum().backward()
        slopes.append(image.grad)
    assert slopes[0].abs().max() > 0
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-3, atol=1e-4)


def test_slices_do_not_depend_on_the_batch(model):
    x = torch.randn(200, *model.spec["shape"])
    fast = optimized(model)
    parts = torch.cat([scores(fast, part) for part in x.split(37)])
    torch.testing.assert_close(scores(fast, x), parts, rtol=1e-5, atol=1e-5)


@bfloat16
def test_bfloat16_is_near_and_not_equal(model):
    x = torch.randn(64, *model.spec["shape"])
    before, after = scores(model, x), scores(optimized(model, precision="bfloat16"), x)
    assert after.dtype == torch.float32
    assert 0 < (after - before).abs().max() < 0.1 * before.abs().max()
    assert (after.argmax(1) == before.argmax(1)).float().mean() > 0.9


class Branch(nn.Module):
    """Where folding is wrong: the convolution's output is used twice."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.first(x)
        return (y + self.norm(y)).mean(dim=(2, 3))


class Twice(Branch):
    """Where folding is wrong: the convolution has a second caller."""

    def forward(self, x):
        return (self.norm(self.first(x)) + self.first(x)).mean(dim=(2, 3))


class Loop(nn.Module):
    """What cannot be traced: the program depends on the data."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, x):
        y = self.body(x)
        return (y if y.sum() > 0 else -y).mean(dim=(2, 3))


def shared():
    norm = nn.BatchNorm2d(4)
    layers = nn.Conv2d(1, 4, 3), norm, nn.Conv2d(4, 4, 3), norm
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(
    ("make", "left"), [(Branch, 1), (Twice, 1), (Loop, 0), (shared, 2)]
)
def test_only_what_may_be_folded_is(make, left):
    torch.manual_seed(0)
    model = make().eval()
    for norm in norms(model):
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.3, 3)
    x = torch.randn(5, 1, 8, 8)
    fast = optimized(model)
    torch.testing.assert_close(scores(fast, x), scores(model, x), rtol=1e-4, atol=1e-4)
    remaining = [m for m in fast.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(remaining) == min(left, 1)


def test_randomness_in_the_model_survives():
    class Noisy(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :2] + torch.randn(2)

    fast, x = optimized(Noisy()), torch.zeros(1, 1, 2, 2)
    assert not torch.equal(scores(fast, x), scores(fast, x))


def test_unknown_or_missing_precision(monkeypatch):
    with pytest.raises(ValueError, match="float32 or bfloat16, got 'float16'"):
        optimized(nn.Linear(2, 2), precision="float16")
    monkeypatch.setattr(inference, "_has_bfloat16", lambda _: False)
    with pytest.raises(ValueError, match="cpu has no bfloat16 arithmetic"):
        optimized(nn.Linear(2, 2), precision="bfloat16")
