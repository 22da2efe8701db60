"""The converted U-Net computes what the original does.

Two witnesses. `original` below restates the architecture plainly, from a state dict and
nothing else. `FROZEN` was made once with the public code itself: the class `UNetModel`
of openai/improved-diffusion (improved_diffusion/unet.py and nn.py), built as
`cifar10_uncond_50M_500K.pt` needs it, with the weights of `random_weights`, on the
inputs of `test_the_published_code`, in evaluation mode and float32, timesteps rescaled
as its diffusion does. Neither file is part of this repository.
"""

import math
import zlib

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lipsmooth.improved_diffusion import (
    CIFAR10,
    SCHEDULE,
    TIMESTEP_SCALE,
    from_improved_diffusion,
)

FROZEN = [
    0.037285, -0.587199, 0.217195, -0.339002, 0.471039, -0.288674, -0.437584,
    0.239016, -0.443646, 0.928182, 1.034798, -0.453109, 0.297216, 0.315484,
    0.35121, -0.618229, 0.202686, -0.668577, -0.883162, 0.234644, 0.073871,
    0.930606, -1.337233, -0.784247, 0.890437,
]  # fmt: skip
"""Every 251st of the 6 × 32 × 32 outputs."""

SMALL = {
    **CIFAR10,
    "sample_size": 16,
    "in_channels": 2,
    "out_channels": 3,
    "layers_per_block": 2,
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 16,
    "attn_norm_num_groups": 32,
}


def convolution(name, before, after, size=3):
    # A 1 × 1 convolution along a line of positions has three axes, on images four.
    kernel = {3: (3, 3), 1: (1, 1), 0: (1,), -1: ()}[size]
    return {f"{name}.weight": (after, before, *kernel), f"{name}.bias": (after,)}


def norm(name, channels):
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def residual(name, before, after, time):
    shapes = norm(f"{name}.in_layers.0", before)
    shapes |= convolution(f"{name}.in_layers.2", before, after)
    shapes |= convolution(f"{name}.emb_layers.1", time, 2 * after, -1)
    shapes |= norm(f"{name}.out_layers.0", after)
    shapes |= convolution(f"{name}.out_layers.3", after, after)
    if before != after:
        shapes |= convolution(f"{name}.skip_connection", before, after, 1)
    return shapes


def attention(name, channels):
    shapes = norm(f"{name}.norm", channels)
    shapes |= convolution(f"{name}.qkv", channels, 3 * channels, 0)
    return shapes | convolution(f"{name}.proj_out", channels, channels, 0)


def original_shapes(config):
    """Return the names and shapes of the original's weights."""
    widths, blocks = config["block_out_channels"], config["layers_per_block"]
    attends = [kind.startswith("Attn") for kind in config["down_block_types"]]
    width, time = widths[0], 4 * widths[0]
    shapes = convolution("time_embed.0", width, time, -1)
    shapes |= convolution("time_embed.2", time, time, -1)
    shapes |= convolution("input_blocks.0.0", config["in_channels"], width)
    kept, number = [width], 1
    for level, after in enumerate(widths):
        for _ in range(blocks):
            shapes |= residual(f"input_blocks.{number}.0", width, after, time)
            if attends[level]:
                shapes |= attention(f"input_blocks.{number}.1", after)
            width = after
            kept.append(width)
            number += 1
        if level < len(widths) - 1:
            shapes |= convolution(f"input_blocks.{number}.0.op", width, width)
            kept.append(width)
            number += 1
    for number in (0, 2):
        shapes |= residual(f"middle_block.{number}", width, width, time)
    shapes |= attention("middle_block.1", width)
    number = 0
    for level in reversed(range(len(widths))):
        for block in range(blocks + 1):
            name, after = f"output_blocks.{number}", widths[level]
            shapes |= residual(f"{name}.0", width + kept.pop(), after, time)
            if attends[level]:
                shapes |= attention(f"{name}.1", after)
            if level and block == blocks:
                shapes |= convolution(f"{name}.{1 + attends[level]}.conv", after, after)
            width = after
            number += 1
    shapes |= norm("out.0", width)
    return shapes | convolution("out.2", width, config["out_channels"])


def random_weights(shapes):
    """Fill by a recipe that any reader can repeat: one NumPy stream per name."""
    weights = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        w = rng.standard_normal(shape, dtype=np.float32)
        if len(shape) > 1:
            w = w / np.sqrt(np.prod(shape[1:]))
        else:
            w = w / 10 + name.endswith("weight")
        weights[name] = torch.from_numpy(w.astype(np.float32))
    return weights


def original(weights, x, t, heads):
    """Compute the original network, reading the architecture off the names."""

    def get(name):
        return weights[f"{name}.weight"], weights[f"{name}.bias"]

    def group_norm(name, x):
        return F.group_norm(x, 32, *get(name))

    def apply(name, x):
        if f"{name}.in_layers.0.weight" in weights:
            h = F.silu(group_norm(f"{name}.in_layers.0", x))
            h = F.conv2d(h, *get(f"{name}.in_layers.2"), padding=1)
            change = F.linear(F.silu(emb), *get(f"{name}.emb_layers.1"))
            scale, shift = change[:, :, None, None].chunk(2, dim=1)
            h = group_norm(f"{name}.out_layers.0", h) * (1 + scale) + shift
            h = F.conv2d(F.silu(h), *get(f"{name}.out_layers.3"), padding=1)
            if f"{name}.skip_connection.weight" in weights:
                x = F.conv2d(x, *get(f"{name}.skip_connection"))
            return x + h
        if f"{name}.qkv.weight" in weights:
            flat = x.flatten(2)
            qkv = F.conv1d(group_norm(f"{name}.norm", flat), *get(f"{name}.qkv"))
            results = []
            for part in qkv.chunk(heads, dim=1):
                q, k, v = part.chunk(3, dim=1)  # each head has its own three
                looks = q.transpose(1, 2) @ k / math.sqrt(len(q[0]))
                results.append(v @ looks.softmax(dim=2).transpose(1, 2))
            h = F.conv1d(torch.cat(results, dim=1), *get(f"{name}.proj_out"))
            return x + h.reshape(x.shape)
        if f"{name}.op.weight" in weights:
            return F.conv2d(x, *get(f"{name}.op"), stride=2, padding=1)
        if f"{name}.conv.weight" in weights:
            x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            return F.conv2d(x, *get(f"{name}.conv"), padding=1)
        return F.conv2d(x, *get(name), padding=1)

    def run(block, x):
        inside = {
            name.split(".")[2] for name in weights if name.startswith(f"{block}.")
        }
        for number in sorted(inside):
            x = apply(f"{block}.{number}", x)
        return x

    def count(kind):
        return len({n.split(".")[1] for n in weights if n.startswith(f"{kind}.")})

    half = weights["time_embed.0.weight"].shape[1] // 2
    angles = t[:, None] * 10_000.0 ** (-torch.arange(half) / half)
    emb = torch.cat([angles.cos(), angles.sin()], dim=1)
    emb = F.linear(F.silu(F.linear(emb, *get("time_embed.0"))), *get("time_embed.2"))
    kept = []
    for number in range(count("input_blocks")):
        x = run(f"input_blocks.{number}", x)
        kept.append(x)
    for number in range(3):
        x = apply(f"middle_block.{number}", x)
    for number in range(count("output_blocks")):
        x = run(f"output_blocks.{number}", torch.cat([x, kept.pop()], dim=1))
    return F.conv2d(F.silu(group_norm("out.0", x)), *get("out.2"), padding=1)


@pytest.fixture(scope="module")
def small():
    weights = random_weights(original_shapes(SMALL))
    x = torch.randn(3, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 700, 3999])
    with torch.inference_mode():
        expected = original(weights, x, TIMESTEP_SCALE * t, heads=4)
    return weights, x, t, expected


def converted(weights, x, t, scale=None):
    network = from_improved_diffusion(weights, SMALL)
    network.time_proj.scale = scale or network.time_proj.scale
    with torch.inference_mode():
        return network(x, t).sample


def test_the_conversion_computes_the_original_architecture(small):
    weights, x, t, expected = small
    assert expected.std() > 0.3
    assert torch.allclose(converted(weights, x, t), expected, atol=1e-5)


def test_timesteps_are_rescaled(small):
    weights, x, t, expected = small
    assert (converted(weights, x, t, scale=1) - expected).abs().max() > 0.1


def test_the_order_of_queries_keys_and_values_matters(small):
    weights, x, t, expected = small
    swapped = dict(weights)  # all queries, then all keys, as later code bases have it
    for name in weights:
        if ".qkv." in name:
            w = weights[name]
            swapped[name] = w.unflatten(0, (4, 3, -1)).transpose(0, 1).flatten(0, 2)
    assert (converted(swapped, x, t) - expected).abs().max() > 0.01


def test_the_published_code():
    weights = random_weights(original_shapes(CIFAR10))
    assert sum(tensor.numel() for tensor in weights.values()) == 52_546_438
    network = from_improved_diffusion(weights)
    assert not network.training  # dropout is off
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((1, 3, 32, 32), dtype=np.float32))
    with torch.inference_mode():
        result = network(x, 1200).sample
    assert result.shape == (1, 6, 32, 32)
    assert torch.allclose(result.flatten()[::251], torch.tensor(FROZEN), atol=1e-4)


def test_the_schedule():
    # Nichol and Dhariwal, equation 17, in double precision.
    diffusers = pytest.importorskip("diffusers")
    found = diffusers.DDPMScheduler(**SCHEDULE).alphas_cumprod.double()
    t = np.arange(1, 4001) / 4000
    f = np.cos((np.r_[0, t] + 0.008) / 1.008 * np.pi / 2) ** 2
    exact = np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], 0.999))
    assert np.allclose(found, exact, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("out.2.bias"), "the weights lack out.2.bias"),
        (lambda w: w.update(label_emb=w["out.0.bias"]), "have label_emb, which"),
        (lambda w: w.update({"out.0.bias": torch.ones(3)}), r"conv_norm_out.bias .*3"),
        (
            lambda w: w.pop("output_blocks.0.0.skip_connection.bias"),
            "up_blocks.0.resnets.0.conv_shortcut.bias .* got None",
        ),
    ],
)
def test_other_weights_are_refused(small, change, message):
    weights = dict(small[0])
    change(weights)
    with pytest.raises(ValueError, match=message):
        from_improved_diffusion(weights, SMALL)
