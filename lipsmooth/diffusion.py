"""Training small diffusion models, the denoisers of `lipsmooth.denoise`."""

import hashlib
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn
from tqdm import tqdm

from lipsmooth import data, denoise, models
from lipsmooth.data import Images, Pathlike, cache_folder, load_dataset
from lipsmooth.denoise import SCHEDULE, WIDTH, build_denoiser, require
from lipsmooth.models import read_checkpoint, save_checkpoint

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
    device : str
        Where to train; the network is moved there.
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
        "schedule": SCHEDULE,
    }  # fmt: skip
    _check_settings(epochs, batch_size, learning_rate, seed)
    alphas_cumprod = require("diffusers").DDPMScheduler(**SCHEDULE).alphas_cumprod
    network.to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate)
    steps = epochs * -(-len(dataset) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=max(steps, 2), pct_start=0.1
    )
    parts = {"optimizer": optimizer, "schedule": schedule}
    history: list[dict] = []
    if checkpoint is not None and Path(checkpoint).exists():
        history = _resume(checkpoint, network, parts, settings)
    bar = tqdm(
        total=epochs, initial=len(history), unit="epoch", disable=not progress,
        desc="training denoiser",
    )  # fmt: skip
    with bar:
        for epoch in range(len(history), epochs):
            began = time.perf_counter()
            loss = _train_epoch(
                network, dataset, optimizer, schedule, alphas_cumprod.to(device),
                batch_size=batch_size, key=(seed, epoch),
            )  # fmt: skip
            seconds = round(time.perf_counter() - began, 6)
            history.append({"epoch": epoch + 1, "loss": loss, "seconds": seconds})
            if checkpoint is not None:
                state = {name: part.state_dict() for name, part in parts.items()}
                save_checkpoint(
                    checkpoint, network, **settings, epoch=epoch + 1, history=history,
                    training=None if epoch + 1 == epochs else state,
                )  # fmt: skip
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()
    network.eval()
    return history


def _train_epoch(
    network: nn.Module,
    dataset: Images,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    alphas_cumprod: Tensor,
    *,
    batch_size: int,
    key: tuple[int, int],
) -> float:
    device = alphas_cumprod.device
    # Each epoch draws from its own streams, and all else that is random from one of
    # them, so that a resumed run needs no state of a generator.
    words = np.random.SeedSequence(key[0], spawn_key=key[1:]).generate_state(3)
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
            loss = (network(noisy, t).sample - noise).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach() * len(rows)
    mean = total.item() / len(dataset)
    if not math.isfinite(mean):
        raise ValueError(f"the training loss became {mean} in epoch {key[1] + 1}")
    return mean


def _resume(
    checkpoint: Pathlike, network: nn.Module, parts: dict, settings: dict
) -> list[dict]:
    content = read_checkpoint(checkpoint)
    metadata = content["metadata"]
    for name, value in {**settings, **getattr(network, "spec", {})}.items():
        if metadata.get(name) != value:
            raise ValueError(
                f"checkpoint {checkpoint} was trained with {name} = "
                f"{metadata.get(name)!r}, not {value!r}"
            )
    network.load_state_dict(content["weights"])
    for name, part in parts.items():
        if content["training"] is not None:
            part.load_state_dict(content["training"][name])
    return metadata["history"]


def trained_denoiser(
    dataset_name: Pathlike,
    *,
    width: int = WIDTH,
    epochs: int = EPOCHS,
    batch_size: int = BATCH_SIZE,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
    device: str = "cpu",
    cache_dir: Pathlike | None = None,
    progress: bool = False,
) -> Path:
    """Return a finished denoiser, training it only if it is not in the cache.

    Parameters
    ----------
    dataset_name : str or path
        For `lipsmooth.data.load_dataset`.
    width : int
        For `lipsmooth.denoise.build_denoiser`; ``seed`` also sets the first weights.
    epochs, batch_size, learning_rate, seed, device, progress
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
    _check_settings(epochs, batch_size, learning_rate, seed)
    dataset = load_dataset(dataset_name, "train")
    settings = {
        "epochs": epochs, "batch_size": batch_size, "seed": seed,
        "learning_rate": float(learning_rate),
    }  # fmt: skip
    key = {
        **settings, "width": width, "dataset": dataset.digest(),
        "code": _code_digest(), "device": torch.device(device).type,
        "torch": str(torch.__version__), "diffusers": require("diffusers").__version__,
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache_folder(cache_dir) / "models"
    path = folder / f"{dataset.name}-denoiser-{digest}.pt"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if path.exists():
            return path
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build_denoiser(dataset.shape, width=width)
        unfinished = path.with_suffix(".part")
        train_denoiser(
            network, dataset, **settings, device=device, checkpoint=unfinished,
            progress=progress,
        )  # fmt: skip
        unfinished.replace(path)
    return path


def _code_digest() -> str:
    sources = (*(part.__file__ for part in (data, denoise, models)), __file__)
    return hashlib.sha256(b"".join(Path(f).read_bytes() for f in sources)).hexdigest()


def _check_settings(
    epochs: int, batch_size: int, learning_rate: float, seed: int
) -> None:
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not (np.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(f"learning_rate must be positive, got {learning_rate}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
