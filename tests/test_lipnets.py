"""Lipschitz networks: the constant holds, and everything around a network works."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import orthogonal

from lipsmooth import inference
from lipsmooth.data import load_dataset
from lipsmooth.inference import optimized
from lipsmooth.lipnets import SCALE, Cayley, MaxMin, Scale, lipschitz_network
from lipsmooth.models import (
    build_model,
    load_checkpoint,
    save_checkpoint,
    weights_digest,
)
from lipsmooth.train import train_classifier, trained_classifier


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model("lipschitz", shape=(1, 8, 8), num_classes=10)


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    model = build_model("lipschitz", shape=(1, 8, 8), num_classes=10)
    digits = load_dataset("digits", "train")
    train_classifier(model, digits, sigma=0.25, epochs=12, progress=False)
    return model


def slopes(model, x, step):
    with torch.inference_mode():
        return (model(x + step) - model(x)).norm(dim=1) / step.flatten(1).norm(dim=1)


def test_no_pair_of_images_is_steeper_than_the_scale(trained):
    x, _ = load_dataset("digits", "test").tensors(range(200))
    step = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    for size in (0.01, 0.3, 3):
        assert slopes(trained, x, size * step).max() < SCALE * (1 + 1e-4)
    plain = nn.Sequential(*[nn.Linear(64, 10), Scale(SCALE)])
    plain[0].weight.data.normal_()  # control: without orthogonality it is exceeded
    assert slopes(plain, x.flatten(1), step.flatten(1)).max() > SCALE


def test_no_hidden_layer_shrinks_gradients(trained):
    hidden = nn.Sequential(*list(trained)[:-2])
    for x in torch.rand(5, 1, 1, 8, 8):
        jacobian = torch.autograd.functional.jacobian(hidden, x).reshape(128, 64)
        singular = torch.linalg.svdvals(jacobian)
        assert torch.allclose(singular, torch.ones(64), atol=1e-4)


def test_it_learns_the_digits_with_margins(trained):
    x, y = load_dataset("digits", "test").tensors()
    with torch.inference_mode():
        scores = trained(x)
    top = scores.topk(2, dim=1).values
    radius = (top[:, 0] - top[:, 1]) / (2**0.5 * SCALE)
    right = scores.argmax(dim=1) == y
    assert right.float().mean() > 0.95
    assert (right & (radius > 0.25)).float().mean() > 0.7


@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (5, 5), (128, 64), (64, 300)])
@pytest.mark.parametrize("spread", [0.01, 0.3, 3.0])
def test_cayley_is_the_map_of_pytorch(shape, spread):
    raw = spread * torch.randn(shape, dtype=torch.float64)
    ours, k = Cayley()(raw), min(shape)
    tall = ours if shape[0] >= shape[1] else ours.T
    assert torch.allclose(tall.T @ tall, torch.eye(k, dtype=raw.dtype), atol=1e-9)
    # PyTorch's is Cayley(A/2) of the skew A that it fills from the lower triangle.
    layer = nn.Linear(shape[1], shape[0], bias=False).double()
    theirs = orthogonal(layer, orthogonal_map="cayley", use_trivialization=False)
    theirs.parametrizations.weight.original.data = 2 * raw
    upper = (raw if shape[0] >= shape[1] else raw.T).clone()
    upper[:k] = upper[:k].tril()
    same = Cayley()(-upper if shape[0] >= shape[1] else -upper.T)
    assert torch.allclose(theirs.weight, same, atol=1e-9)


def test_low_precision_leaves_the_matrices_orthogonal(model):
    with torch.autocast("cpu", torch.bfloat16):
        scores, weight = model(torch.rand(4, 1, 8, 8)), model[1].weight
    assert scores.dtype is torch.bfloat16, "control: the network is computed in it"
    assert torch.allclose(weight.T @ weight, torch.eye(64), atol=1e-5)


def test_a_checkpoint_for_images_in_colour_is_read_again(tmp_path):
    large = build_model("lipschitz", shape=(3, 32, 32), num_classes=10)
    save_checkpoint(tmp_path / "large.pt", large)
    again, _ = load_checkpoint(tmp_path / "large.pt")
    assert weights_digest(again) == weights_digest(large)


def test_maxmin_sorts_pairs():
    x = torch.tensor([[1.0, 5, 3, 2]])
    assert MaxMin()(x).tolist() == [[3, 5, 1, 2]]
    with pytest.raises(ValueError, match="even number of features"):
        MaxMin()(torch.zeros(2, 3))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 12, 9)])
def test_other_shapes(shape):
    model = build_model("lipschitz", shape=shape, num_classes=3)
    assert model(torch.rand(2, *shape)).shape == (2, 3)


@pytest.mark.parametrize(
    ("bad", "message"),
    [({"width": 5}, "width .* got 5"), ({"scale": 0.0}, "scale .* got 0.0")],
)
def test_bad_arguments(bad, message):
    with pytest.raises(ValueError, match=message):
        lipschitz_network((1, 8, 8), 10, **bad)


def test_checkpoints_and_copies(trained, tmp_path):
    save_checkpoint(tmp_path / "model.pt", trained)
    loaded, metadata = load_checkpoint(tmp_path / "model.pt")
    assert metadata["arch"] == "lipschitz"
    assert weights_digest(loaded) == weights_digest(trained)
    x = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(loaded(x), trained(x))
        twin = copy.deepcopy(trained)
        assert torch.equal(twin(x), trained(x))
        twin[1].parametrizations.weight.original.add_(0.01)
        assert not torch.equal(twin(x), trained(x))


def test_the_inference_copy_computes_its_matrices_once(trained):
    fast = optimized(trained)
    assert not any(parametrize.is_parametrized(part) for part in fast.modules())
    assert not any(part.requires_grad for part in fast.parameters())
    assert parametrize.is_parametrized(trained[1])  # the original keeps them
    assert all(part.requires_grad for part in trained.parameters())
    x = torch.randn(2000, 1, 8, 8)
    with torch.inference_mode():
        assert torch.allclose(fast(x), trained(x), atol=1e-5)


@pytest.mark.skipif(
    not inference._has_bfloat16(torch.device("cpu")), reason="no bfloat16 on this CPU"
)
def test_bfloat16(trained):
    x = torch.randn(500, 1, 8, 8)
    with torch.inference_mode():
        before, after = trained(x), optimized(trained, precision="bfloat16")(x)
    assert 0 < (after - before).abs().max() < 0.3
    assert (after.argmax(1) == before.argmax(1)).float().mean() > 0.95


def test_training_resumes(model, tmp_path):
    digits = load_dataset("digits", "train")
    settings = {"sigma": 0.0, "epochs": 2, "progress": False}
    whole = copy.deepcopy(model)
    train_classifier(whole, digits, **settings)
    path = tmp_path / "model.pt"
    train_classifier(model, digits, **settings, checkpoint=path)
    assert weights_digest(load_checkpoint(path)[0]) == weights_digest(whole)


def test_by_name(tmp_path):
    path = trained_classifier(
        "digits", arch="lipschitz", sigma=0.0, epochs=1, cache_dir=tmp_path
    )
    assert load_checkpoint(path)[1]["arch"] == "lipschitz"
