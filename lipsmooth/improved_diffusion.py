"""OpenAI's improved-diffusion U-Nets as diffusers models, converted key by key.

The published denoiser for CIFAR-10, ``cifar10_uncond_50M_500K.pt``, is a bare state
dict of another code base. The architectures are the same up to names, except that
queries, keys and values of an attention layer are stored as one matrix, head by head.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lipsmooth.denoise import require

if TYPE_CHECKING:
    from diffusers import UNet2DModel

CIFAR10 = {
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 6,  # the noise, and the variance of a reverse step
    "layers_per_block": 3,
    "block_out_channels": (128, 256, 256, 256),
    "down_block_types": (
        "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "DownBlock2D",
    ),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "dropout": 0.3,
    "attention_head_dim": 64,  # four heads
    "attn_norm_num_groups": 32,
    "resnet_time_scale_shift": "scale_shift",
}  # fmt: skip
"""The diffusers configuration of ``cifar10_uncond_50M_500K.pt``."""

SCHEDULE = {"num_train_timesteps": 4000, "beta_schedule": "squaredcos_cap_v2"}
"""Its noise schedule, for ``diffusers.DDPMScheduler``."""

TIMESTEP_SCALE = 0.25
"""The network was trained with its 4,000 timesteps rescaled to [0, 1000)."""

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_ATTENTION = {"norm": "group_norm", "proj_out": "to_out.0", "qkv": "to_{}"}
_OUTSIDE = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}


def from_improved_diffusion(
    weights: Mapping[str, Tensor], config: Mapping[str, Any] = CIFAR10
) -> "UNet2DModel":
    """Return a diffusers model that computes what the original network does.

    Parameters
    ----------
    weights : mapping
        State dict of an unconditional ``UNetModel`` of improved-diffusion with
        scale-shift normalisation.
    config : mapping
        The same architecture as a configuration of ``diffusers.UNet2DModel``.

    Returns
    -------
    UNet2DModel
        In evaluation mode. Its timesteps are those of `SCHEDULE`; it rescales them by
        `TIMESTEP_SCALE` itself.

    Raises
    ------
    ValueError
        If a weight is missing, left over, or of another shape.

    References
    ----------
    Nichol and Dhariwal (2021), *Improved denoising diffusion probabilistic models*.
    """
    model = require("diffusers").UNet2DModel(**config)
    wanted, converted, used = model.state_dict(), {}, set()
    for old, new, kind in _modules(config):
        parts = _RESNET if kind == "resnet" else _ATTENTION
        for before, after in parts.items() if kind else [("", "")]:
            for leaf in ("weight", "bias"):
                source = ".".join(filter(None, (old, before, leaf)))
                if source not in weights:
                    if before == "skip_connection":  # only where channels change
                        continue
                    raise ValueError(f"the weights lack {source}")
                used.add(source)
                target = ".".join(filter(None, (new, after, leaf)))
                if before == "qkv":
                    heads = wanted[target.format("q")].shape[0]
                    heads //= config["attention_head_dim"]
                    converted |= _split_heads(target, weights[source], heads)
                else:
                    converted[target] = weights[source]
    left = sorted(weights.keys() - used)
    if left:
        raise ValueError(f"the weights have {left[0]}, which the architecture lacks")
    for name, tensor in wanted.items():
        # A 1 × 1 convolution over positions is a linear map.
        found = converted.get(name)
        shape = None if found is None else tuple(found.shape)
        if shape not in (tuple(tensor.shape), (*tensor.shape, 1)):
            raise ValueError(
                f"{name} should have shape {tuple(tensor.shape)}, got {shape}"
            )
        converted[name] = found.reshape(tensor.shape)
    model.load_state_dict(converted)
    model.time_proj.scale = TIMESTEP_SCALE
    return model.eval()


def _split_heads(target: str, qkv: Tensor, heads: int) -> dict[str, Tensor]:
    # The original's rows: head by head, and within a head queries, keys, values.
    parts = qkv.reshape(heads, 3, -1, *qkv.shape[1:])
    return {
        target.format(name): parts[:, number].flatten(0, 1)
        for number, name in enumerate("qkv")
    }


def _modules(config: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield (original name, diffusers name, kind) of modules that carry weights."""
    for old, new in _OUTSIDE.items():
        yield old, new, ""
    blocks, levels = config["layers_per_block"], len(config["block_out_channels"])
    number = 1
    for level, kind in enumerate(config["down_block_types"]):
        place = f"down_blocks.{level}"
        for block in range(blocks):
            yield f"input_blocks.{number}.0", f"{place}.resnets.{block}", "resnet"
            if kind.startswith("Attn"):
                name = f"input_blocks.{number}.1"
                yield name, f"{place}.attentions.{block}", "attention"
            number += 1
        if level < levels - 1:
            yield f"input_blocks.{number}.0.op", f"{place}.downsamplers.0.conv", ""
            number += 1
    for number, block in enumerate(("resnets.0", "attentions.0", "resnets.1")):
        yield f"middle_block.{number}", f"mid_block.{block}", block[:-3]
    number = 0
    for level, kind in enumerate(config["up_block_types"]):
        place, attends = f"up_blocks.{level}", kind.startswith("Attn")
        for block in range(blocks + 1):
            name = f"output_blocks.{number}"
            yield f"{name}.0", f"{place}.resnets.{block}", "resnet"
            if attends:
                yield f"{name}.1", f"{place}.attentions.{block}", "attention"
            number += 1
        if level < levels - 1:
            name += ".2.conv" if attends else ".1.conv"
            yield name, f"{place}.upsamplers.0.conv", ""
