"""Training under Gaussian noise, resumable and cached."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lipsmooth import (
    adversarial,
    augment,
    data,
    lipnets,
    losses,
    models,
    normalize,
    recipe,
    released,
    resnet,
    weightfiles,
)
from lipsmooth.data import Images, Pathlike, load_dataset
from lipsmooth.epochs import cached, run_epochs
from lipsmooth.inference import check_precision
from lipsmooth.models import build_model
from lipsmooth.recipe import (
    BATCH_SIZE,
    EPOCHS,
    LEARNING_RATE,
    Network,
    Recipe,
    layout,
)


def train_classifier(
    model: nn.Module,
    dataset: Images,
    *,
    sigma: float,
    epochs: int = EPOCHS,
    batch_size: int = BATCH_SIZE,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
    loss: str = "gaussian",
    precision: str = "float32",
    channels_last: bool = False,
    augmentation: str = "none",
    compiled: bool = False,
    device: str = "cpu",
    checkpoint: Pathlike | None = None,
    progress: bool = True,
    **options: float,
) -> list[dict]:
    """Train a base classifier on noisy images, in place.

    AdamW with a cosine schedule; every image gets fresh noise whenever it is
    seen. Noise is added to pixels in [0, 1] and not clipped, exactly as it will
    be when the classifier is smoothed.

    Parameters
    ----------
    model : nn.Module
        Made by `lipsmooth.models.build_model` if it is to be saved.
    dataset : Images
        Training images.
    sigma : float
        Standard deviation of the noise, 0 for none.
    epochs, batch_size : int
        At least 1.
    learning_rate : float
        At the start of the schedule, positive.
    seed : int
        Of order and noise, at least 0. The initial weights are the model's own.
    loss : {"gaussian", "consistency", "macer", "smoothadv", "smoothadv-ddn"}
        What is minimised, see `lipsmooth.losses`.
    precision : {"float32", "bfloat16"}
        Of the network, by autocast. Weights, loss and optimiser remain in float32.
    channels_last : bool
        Lay images and convolutions out with the channels last, which is faster for
        convolutions, on GPUs in bfloat16 above all. The result differs in rounding.
    augmentation : {"none", "crop-flip"}
        What is done to the clean images, see `lipsmooth.augment`.
    compiled : bool
        Pass the network through ``torch.compile``, for GPUs: half a minute at first.
    device : str
        Where to train; the model is moved there, and the dataset if it is small
        enough (`lipsmooth.data.RESIDENT_BYTES`).
    checkpoint : path, optional
        Saved after every epoch. If it exists and has the same settings, training
        goes on from there; on a CPU, with as many threads, the result is that of an
        uninterrupted run.
    progress : bool
        Show a progress bar on standard error.
    **options
        Of the loss: the keyword arguments that follow ``generator`` there, without
        ``epoch``. Those not given keep their defaults; all are kept in the checkpoint.

    Returns
    -------
    list of dict
        Per epoch: ``epoch``, ``loss``, ``accuracy`` (on the noisy training
        images, attacked if the loss attacks, while learning), ``seconds``. The
        model is in evaluation mode.

    Raises
    ------
    ValueError
        If a setting is out of range, the dataset does not fit the model, the loss
        becomes non-finite, or the checkpoint is of another run.
    """
    run = Recipe(
        sigma=sigma, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate,
        seed=seed, loss=loss, precision=precision, channels_last=channels_last,
        augmentation=augmentation, options=options,
    )  # fmt: skip
    settings = {"dataset": dataset.name, "images": len(dataset), **run.settings()}
    if dataset.preparation:
        settings["preparation"] = dataset.preparation
    check_precision(precision, torch.device(device))
    _check_fit(model, dataset)
    model.to(device, memory_format=layout(channels_last))
    network = Network(model, precision, channels_last)
    if compiled:
        network = torch.compile(network)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    steps = -(-len(dataset) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    train_epoch = partial(
        _train_epoch, network, dataset.resident(device), optimizer, schedule, run=run,
        device=device,
    )  # fmt: skip
    history = run_epochs(
        model, train_epoch, epochs=epochs, settings=settings,
        parts={"optimizer": optimizer, "schedule": schedule}, checkpoint=checkpoint,
        name=f"training σ={sigma:g}", progress=progress, before=run.before(),
    )  # fmt: skip
    model.to(memory_format=torch.contiguous_format).eval()
    return history


def _train_epoch(
    network: Network,
    dataset: Images,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    *,
    epoch: int,
    run: Recipe,
    device: str,
) -> dict:
    # Each epoch draws from its own stream, so that a resumed run needs no state
    # of a generator and sees the same order and the same noise.
    words = np.random.SeedSequence(run.seed, spawn_key=(epoch,)).generate_state(2)
    order_rng = torch.Generator().manual_seed(int(words[0]))
    noise_rng = torch.Generator(device).manual_seed(int(words[1]))
    order = torch.randperm(len(dataset), generator=order_rng)
    total = torch.zeros(2, dtype=torch.float64, device=device)
    network.train()
    for rows in order.split(run.batch_size):
        x, y = (part.to(device) for part in dataset.tensors(rows))
        loss, hits = run.objective(network, x, y, noise_rng, epoch=epoch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += torch.stack([loss.detach() * len(rows), hits])
    loss, accuracy = (total / len(dataset)).tolist()
    return {"loss": loss, "accuracy": accuracy}


def trained_classifier(
    dataset_name: Pathlike,
    *,
    arch: str = "cnn",
    sigma: float,
    epochs: int = EPOCHS,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    learning_rate: float = LEARNING_RATE,
    loss: str = "gaussian",
    precision: str = "float32",
    channels_last: bool = False,
    augmentation: str = "none",
    compiled: bool = False,
    device: str = "cpu",
    cache_dir: Pathlike | None = None,
    progress: bool = False,
    **options: float,
) -> Path:
    """Return a finished checkpoint, training it only if it is not in the cache.

    Parameters
    ----------
    dataset_name : str or path
        For `lipsmooth.data.load_dataset`.
    arch : str
        For `lipsmooth.models.build_model`; ``seed`` also sets the first weights.
    sigma, epochs, seed, batch_size, learning_rate, loss, precision, channels_last, \
augmentation
        As for `train_classifier`, like ``compiled``, ``device``, ``progress`` and
        ``**options``.
    cache_dir : path, optional
        By default `lipsmooth.data.cache_folder`.

    Returns
    -------
    Path
        The file's name is a digest of the settings, of the data, and of this
        code. Processes that ask for the same one wait for the first.

    Raises
    ------
    ValueError
        As for `train_classifier`.
    """
    run = Recipe(
        sigma=sigma, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate,
        seed=seed, loss=loss, precision=precision, channels_last=channels_last,
        augmentation=augmentation, options=options,
    )  # fmt: skip
    dataset = load_dataset(dataset_name, "train")
    key = {
        **run.settings(), "arch": arch, "dataset": dataset.digest(),
        "device": torch.device(device).type, "torch": str(torch.__version__),
    }  # fmt: skip

    def train(unfinished: Path) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build_model(
                arch, shape=dataset.shape, num_classes=len(dataset.classes)
            )
        train_classifier(
            model, dataset, sigma=sigma, epochs=epochs, batch_size=batch_size,
            learning_rate=learning_rate, seed=seed, loss=loss, precision=precision,
            channels_last=channels_last, augmentation=augmentation, compiled=compiled,
            device=device, checkpoint=unfinished, progress=progress, **run.options,
        )  # fmt: skip

    code = (
        adversarial, augment, data, lipnets, losses, models, normalize, recipe,
        released, resnet, weightfiles,
    )  # fmt: skip
    return cached(
        f"{dataset.name}-{arch}-{sigma:g}", key,
        [*(part.__file__ for part in code), __file__], train, cache_dir=cache_dir,
    )  # fmt: skip


def _check_fit(model: nn.Module, dataset: Images) -> None:
    spec = getattr(model, "spec", None)
    found = {"shape": list(dataset.shape), "num_classes": len(dataset.classes)}
    for key, value in found.items():
        if spec is not None and spec[key] != value:
            raise ValueError(
                f"the model has {key} = {spec[key]}, {dataset.name} has {value}"
            )
