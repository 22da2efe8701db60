"""Denoisers and classifiers from files, folders and the hub; nothing is executed."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from lipsmooth.data import Pathlike
from lipsmooth.denoise import ARCH, DenoisedClassifier, Denoiser, require
from lipsmooth.improved_diffusion import SCHEDULE, from_improved_diffusion
from lipsmooth.models import load_checkpoint
from lipsmooth.normalize import Normalize
from lipsmooth.weightfiles import FORMAT, check_tensors, misfit, read_content

HUB = "hub:"
"""In front of the name of a model that is to be downloaded."""


def load_base(
    checkpoint: Pathlike,
    device: str = "cpu",
    *,
    denoiser: Pathlike | None = None,
    sigma: float | None = None,
    steps: int = 1,
) -> tuple[nn.Module, dict]:
    """Load a base classifier, with a denoiser in front of it if one is named.

    Parameters
    ----------
    checkpoint : path or str
        For `lipsmooth.models.load_checkpoint`; a folder, or ``"hub:NAME"``, for
        `load_vit`.
    device : str
        Where the classifier goes.
    denoiser : path or str, optional
        For `load_denoiser`.
    sigma : float, optional
        Of the noise that the denoiser is to remove. By default that of the
        checkpoint's training.
    steps : int
        For `lipsmooth.denoise.DenoisedClassifier`.

    Returns
    -------
    classifier : nn.Module
        In evaluation mode.
    metadata : dict
        As `lipsmooth.models.load_checkpoint` returns it; empty for a folder.

    Raises
    ------
    ValueError
        As for the loaders, or if no timestep of the denoiser fits ``sigma``.
    """
    if str(checkpoint).startswith(HUB) or Path(checkpoint).is_dir():
        classifier, metadata = load_vit(checkpoint), {}
    else:
        classifier, metadata = load_checkpoint(checkpoint)
    if denoiser is not None:
        network, alphas_cumprod = load_denoiser(denoiser)
        classifier = DenoisedClassifier(
            network, classifier, alphas_cumprod=alphas_cumprod, steps=steps,
            sigma=metadata.get("sigma", 0) if sigma is None else sigma,
            size=getattr(classifier, "size", None),
        )  # fmt: skip
    return classifier.to(device).eval(), metadata


def load_denoiser(source: Pathlike) -> Denoiser:
    """Load a diffusion model. Nothing in a file is executed.

    Parameters
    ----------
    source : path or str
        a file
            a checkpoint of `lipsmooth.diffusion.train_denoiser`, or OpenAI's
            ``cifar10_uncond_50M_500K.pt``, which is converted;
        a folder
            as diffusers saves a ``UNet2DModel`` and its scheduler, weights as
            safetensors;
        ``"hub:NAME"``
            the same from the Hugging Face hub, such as ``hub:google/ddpm-cifar10-32``.

    Returns
    -------
    Denoiser
        On the CPU, in evaluation mode.

    Raises
    ------
    ValueError
        If the file is missing or is no denoiser, or the model predicts something
        other than noise.
    """
    diffusers = require("diffusers")
    name = str(source)
    if name.startswith(HUB) or Path(source).is_dir():
        name = name.removeprefix(HUB)
        network = diffusers.UNet2DModel.from_pretrained(name, use_safetensors=True)
        scheduler = diffusers.DDPMScheduler.from_pretrained(name)
        if scheduler.config.prediction_type != "epsilon":
            kind = scheduler.config.prediction_type
            raise ValueError(f"{name} predicts {kind!r}; a noise prediction is needed")
        return Denoiser(network.eval(), scheduler.alphas_cumprod)
    content = read_content(source)
    try:
        if "input_blocks.0.0.weight" in content:
            check_tensors(content)
            schedule = diffusers.DDPMScheduler(**SCHEDULE).alphas_cumprod
            return Denoiser(from_improved_diffusion(content), schedule)
        return _made_here(content)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # diffusers raises many kinds
        raise ValueError(f"{source} is not a denoiser: {error}") from None


def _made_here(content: dict) -> Denoiser:
    """Return what a checkpoint of `lipsmooth.diffusion.train_denoiser` holds."""
    metadata = content.get("metadata", {})
    if content.get("format") != FORMAT or metadata.get("arch") != ARCH:
        raise ValueError(f"it has no {FORMAT} of it")
    config, schedule = metadata["config"], metadata["schedule"]
    blocks, layers = config["block_out_channels"], config["layers_per_block"]
    if len(blocks) > 10 or layers > 10 or schedule["num_train_timesteps"] > 100_000:
        raise ValueError("it is larger than any that was made here")
    diffusers = require("diffusers")
    with torch.device("meta"):  # nothing is made before it is known to fit
        state = diffusers.UNet2DModel(**config).state_dict()
    if problem := misfit(state, content["weights"]):
        raise ValueError(f"the weights do not fit: {problem}")
    network = diffusers.UNet2DModel(**config)
    network.load_state_dict(content["weights"])
    scheduler = diffusers.DDPMScheduler(**schedule)
    return Denoiser(network.eval(), scheduler.alphas_cumprod)


def load_vit(source: Pathlike, *, classes: Sequence[str] | None = None) -> nn.Module:
    """Load an image classifier of transformers, such as a ViT tuned on CIFAR-10.

    Parameters
    ----------
    source : path or str
        A folder as ``save_pretrained`` writes it, or ``"hub:NAME"``.
    classes : sequence of str, optional
        The dataset's class names, which the model's must then be, in this order.

    Returns
    -------
    nn.Module
        From images in [0, 1] of its ``size`` (height, width) to an output with
        ``logits``; normalisation is part of it. In evaluation mode.

    Raises
    ------
    ValueError
        If the classes differ.
    """
    transformers = require("transformers")
    name = str(source).removeprefix(HUB)
    auto = transformers.AutoModelForImageClassification
    safe = {"weights_only": True, "trust_remote_code": False}
    model = auto.from_pretrained(name, **safe)
    found = [model.config.id2label[k].lower() for k in range(model.config.num_labels)]
    if classes is not None and found != [label.lower() for label in classes]:
        raise ValueError(f"{name} has classes {found}, not {list(classes)}")
    processor = transformers.AutoImageProcessor.from_pretrained(name)
    constants = Normalize(processor.image_mean, processor.image_std)
    classifier = nn.Sequential(constants, model).eval()
    classifier.size = (processor.size["height"], processor.size["width"])
    return classifier
