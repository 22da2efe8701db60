"""Training small diffusion models, the denoisers of `lipsmooth.denoise`."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lipsmooth import data, denoise, models
from lipsmooth.data import Images, Pathlike, load_dataset
from lipsmooth.denoise import SCHEDULE, WIDTH, build_denoiser, require
from lipsmooth.epochs import cached, check_run, run_epochs
from lipsmooth.inference import check_precision

EPOCHS, BATCH_SIZE, LEARNING_RATE = 40, 64, 8e-3
"""For digits: about half a minute on a CPU. A start for CIFAR-10 on a GPU, not tuned
here: 500 epochs, batches of 256, a learning rate of 3e-4 and a width of 128."""


def train_denoiser(
    network: nn.Module,
    dataset: Images,
    *,
    epochs: int = EPOCHS,
    batch_size: int = BATCH_SIZE,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
    precision: str = "float32",
    device: str = "cpu",
    checkpoint: Pathlike | None = None,
    progress: bool = True,
) -> list[dict]:
    """Teach a network to predict the noise in images at every timestep, in place.

    AdamW with a one-cycle schedule; timesteps are drawn uniformly, and labels are not
    used.

    Parameters
    ----------
    network : nn.Module
        Made by `lipsmooth.denoise.build_denoiser` if it is to be saved.
    dataset : Images
        Training images.
    epochs, batch_size : int
        At least 1.
    learning_rate : float
        At the peak of the schedule, positive.
    seed : int
        Of order, timesteps and noise. The initial weights are the network's own.
    precision : {"float32", "bfloat16"}
        Of the network, by autocast; weights, loss and optimiser remain in float32.
    device : str
        Where to train; the network is moved there, and the dataset if it is small
        enough (`lipsmooth.data.RESIDENT_BYTES`).
    checkpoint : path, optional
        Saved after every epoch. If it exists and has the same settings, training goes
        on from there, and ends as an uninterrupted run would have.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    list of dict
        Per epoch: ``epoch``, ``loss`` (mean squared error of the noise, 1 for a
        network that predicts none), ``seconds``. The network is in evaluation mode.

    Raises
    ------
    ValueError
        If a setting is out of range, the loss becomes non-finite, or the checkpoint
        is of another run.
    """
    settings = {
        "dataset": dataset.name, "images": len(dataset), "epochs": epochs,
        "batch_size": batch_size, "learning_rate": float(learning_rate), "seed": seed,
        "schedule": SCHEDULE, "precision": precision,
    }  # fmt: skip
    check_precision(precision, torch.device(device))
    check_run(
        epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, seed=seed
    )
    alphas_cumprod = require("diffusers").DDPMScheduler(**SCHEDULE).alphas_cumprod
    network.to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate)
    steps = epochs * -(-len(dataset) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=max(steps, 2), pct_start=0.1
    )
    train_epoch = partial(
        _train_epoch, network, dataset.resident(device), optimizer, schedule,
        alphas_cumprod.to(device), batch_size=batch_size, seed=seed,
        half=precision == "bfloat16",
    )  # fmt: skip
    history = run_epochs(
        network, train_epoch, epochs=epochs, settings=settings,
        parts={"optimizer": optimizer, "schedule": schedule}, checkpoint=checkpoint,
        name="training denoiser", progress=progress, before={"precision": "float32"},
    )  # fmt: skip
    network.eval()
    return history


def _train_epoch(
    network: nn.Module,
    dataset: Images,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    alphas_cumprod: Tensor,
    *,
    epoch: int,
    batch_size: int,
    seed: int,
    half: bool,
) -> dict:
    device = alphas_cumprod.device
    # Each epoch draws from its own streams, and all else that is random from one of
    # them, so that a resumed run needs no state of a generator.
    words = np.random.SeedSequence(seed, spawn_key=(epoch,)).generate_state(3)
    order_rng = torch.Generator().manual_seed(int(words[0]))
    rng = torch.Generator(device).manual_seed(int(words[1]))
    order = torch.randperm(len(dataset), generator=order_rng)
    total = torch.zeros((), dtype=torch.float64, device=device)
    network.train()
    cards = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cards):
        torch.manual_seed(int(words[2]))  # dropout
        for rows in order.split(batch_size):
            x = 2 * dataset.tensors(rows)[0].to(device) - 1
            t = torch.randint(
                len(alphas_cumprod), (len(x),), generator=rng, device=device
            )
            noise = torch.empty_like(x).normal_(generator=rng)
            share = alphas_cumprod[t].view(-1, 1, 1, 1)
            noisy = share.sqrt() * x + (1 - share).sqrt() * noise
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
                predicted = network(noisy, t).sample.float()
            loss = (predicted - noise).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach() * len(rows)
    return {"loss": total.item() / len(dataset)}


def trained_denoiser(
    dataset_name: Pathlike,
    *,
    width: int = WIDTH,
    light: bool = False,
    epochs: int = EPOCHS,
    batch_size: int = BATCH_SIZE,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
    precision: str = "float32",
    device: str = "cpu",
    cache_dir: Pathlike | None = None,
    progress: bool = False,
) -> Path:
    """Return a finished denoiser, training it only if it is not in the cache.

    Parameters
    ----------
    dataset_name : str or path
        For `lipsmooth.data.load_dataset`.
    width, light : int, bool
        For `lipsmooth.denoise.build_denoiser`; ``seed`` also sets the first weights.
    epochs, batch_size, learning_rate, seed, precision, device, progress
        As for `train_denoiser`.
    cache_dir : path, optional
        By default `lipsmooth.data.cache_folder`.

    Returns
    -------
    Path
        For `lipsmooth.pretrained.load_denoiser`. The file's name is a digest of the
        settings, of the data, and of this code. Processes that ask for the same one
        wait for the first.

    Raises
    ------
    ValueError
        As for `train_denoiser`.
    """
    check_run(
        epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, seed=seed
    )
    dataset = load_dataset(dataset_name, "train")
    settings = {
        "epochs": epochs, "batch_size": batch_size, "seed": seed,
        "learning_rate": float(learning_rate), "precision": precision,
    }  # fmt: skip
    key = {
        **settings, "width": width, "light": light, "dataset": dataset.digest(),
        "device": torch.device(device).type, "torch": str(torch.__version__),
        "diffusers": require("diffusers").__version__,
    }  # fmt: skip

    def train(unfinished: Path) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build_denoiser(dataset.shape, width=width, light=light)
        train_denoiser(
            network, dataset, **settings, device=device, checkpoint=unfinished,
            progress=progress,
        )  # fmt: skip

    code = [*(part.__file__ for part in (data, denoise, models)), __file__]
    return cached(f"{dataset.name}-denoiser", key, code, train, cache_dir=cache_dir)
