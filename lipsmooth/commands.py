"""The commands that run networks: train, train-denoiser, sample, margins, attack."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lipsmooth.attacking import sample_attacks
from lipsmooth.data import Images, evenly_spaced, load_dataset
from lipsmooth.decisions import predict_log
from lipsmooth.denoise import build_denoiser
from lipsmooth.diffusion import train_denoiser
from lipsmooth.empirical import empirical_accuracy
from lipsmooth.evaluate import certified_accuracy, round_down
from lipsmooth.logs import VoteLog
from lipsmooth.margins import sample_margins
from lipsmooth.models import build_model, export_checkpoint
from lipsmooth.moments import sample_moments
from lipsmooth.noise_level import PRESETS
from lipsmooth.pretrained import load_base
from lipsmooth.pursuit import sample_decisions
from lipsmooth.recipe import OPTIONS
from lipsmooth.sampling import sample_log
from lipsmooth.searching import sample_searched
from lipsmooth.shards import shard_path, worker
from lipsmooth.train import train_classifier


def _train(options: argparse.Namespace) -> None:
    _check_device(options.device)
    dataset = _dataset(options.dataset, "train", options)
    torch.manual_seed(options.seed)
    model = build_model(
        options.arch, shape=dataset.shape, num_classes=len(dataset.classes)
    )
    given = {name: getattr(options, name) for name in OPTIONS}
    chosen = {name: value for name, value in given.items() if value is not None}
    history = train_classifier(
        model, dataset, sigma=options.sigma, epochs=options.epochs,
        batch_size=options.batch_size, learning_rate=options.learning_rate,
        seed=options.seed, device=options.device, checkpoint=options.checkpoint,
        progress=not options.quiet, loss=options.loss, precision=options.precision,
        channels_last=options.channels_last, augmentation=options.augmentation,
        compiled=options.compile, **chosen,
    )  # fmt: skip
    right = f"{100 * history[-1]['accuracy']:.1f} % of noisy training images right"
    print(f"{options.checkpoint}: {len(history)} epochs, {right}")


def _train_denoiser(options: argparse.Namespace) -> None:
    _check_device(options.device)
    dataset = _dataset(options.dataset, "train", options)
    torch.manual_seed(options.seed)
    history = train_denoiser(
        build_denoiser(dataset.shape, width=options.width, light=options.light),
        dataset, epochs=options.epochs, batch_size=options.batch_size,
        seed=options.seed, learning_rate=options.learning_rate,
        device=options.device, precision=options.precision,
        checkpoint=options.checkpoint, progress=not options.quiet,
    )  # fmt: skip
    left = f"{100 * history[-1]['loss']:.1f} % of the noise's variance not predicted"
    print(f"{options.checkpoint}: {len(history)} epochs, {left}")


def _base(options: argparse.Namespace) -> tuple[nn.Module, Images, float]:
    _check_device(options.device)
    model, metadata = load_base(
        options.checkpoint, options.device, denoiser=options.denoiser,
        sigma=options.sigma,
    )  # fmt: skip
    sigma = metadata.get("sigma") if options.sigma is None else options.sigma
    if sigma is None:
        raise ValueError(f"{options.checkpoint} names no sigma; give --sigma")
    return model, _images(metadata, options), sigma


def _images(metadata: dict, options: argparse.Namespace) -> Images:
    name = options.dataset or metadata.get("dataset")
    if name is None:
        raise ValueError(f"{options.checkpoint} names no dataset; give --dataset")
    dataset = _dataset(name, options.split, options)
    wanted, found = (list(s) for s in (metadata.get("shape", ()), dataset.shape))
    if wanted and wanted != found:
        raise ValueError(
            f"{options.checkpoint} takes images of shape {wanted}, {name} has {found}"
        )
    return dataset


def _dataset(name: str, split: str, options: argparse.Namespace) -> Images:
    return load_dataset(name, split, root=options.root, size=options.size)


def _export(options: argparse.Namespace) -> None:
    export_checkpoint(options.checkpoint, options.target)
    print(f"{options.target}: {Path(options.target).stat().st_size / 1e6:.1f} MB")


def _sample(options: argparse.Namespace) -> None:
    rank, world = worker()
    if options.device == "cuda" and world > 1:
        options.device = f"cuda:{os.environ.get('LOCAL_RANK', rank)}"
    model, dataset, sigma = _base(options)
    if options.skip < 1:
        raise ValueError(f"--skip must be at least 1, got {options.skip}")
    indices = evenly_spaced(len(dataset), options.images)[: options.max : options.skip]
    if len(indices) < world:
        raise ValueError(f"{world} workers for {len(indices)} images; start fewer")
    path = shard_path(options.log, rank, world)
    n = 10_000 if options.target_radius is None else 100_000
    n = n if options.n is None else options.n
    settings = {
        "sigma": sigma, "n0": options.n0, "n": n, "seed": options.seed,
        "indices": indices[rank::world], "batch_size": options.batch_size,
        "device": options.device, "progress": not options.quiet and rank == 0,
        "precision": options.precision, "fast": not options.plain,
        "compiled": options.compile, "levels": options.sound,
    }  # fmt: skip
    if options.search is not None:
        log = _sample_searched(model, dataset, path, options, settings)
        votes = f"{options.n0} + {n} votes each, σ found for each"
    elif options.maps is not None:
        if options.target_radius is not None or options.alpha is not None:
            raise ValueError("--maps goes without --target-radius and --alpha")
        log = sample_moments(model, dataset, path, maps=options.maps, **settings)
        votes = f"{len(log.maps)} maps, {options.n0} + {n} samples each"
    elif options.target_radius is None:
        if options.alpha is not None:
            raise ValueError("sample takes --alpha with --target-radius only")
        log = sample_log(model, dataset, path, **settings)
        votes = f"{options.n0} + {n} votes each"
    else:
        alpha = 0.001 if options.alpha is None else options.alpha
        log = sample_decisions(
            model, dataset, path, target_radius=options.target_radius, alpha=alpha,
            **settings,
        )  # fmt: skip
        votes = _told(log)
    print(f"{path}: {len(log)} images, {votes}")


def _sample_searched(
    model: nn.Module,
    dataset: Images,
    path: str,
    options: argparse.Namespace,
    settings: dict,
) -> VoteLog:
    if any(v is not None for v in (options.maps, options.target_radius, options.alpha)):
        raise ValueError("--search goes without --maps, --target-radius and --alpha")
    if settings.pop("levels") is not None:
        raise ValueError("--search goes without --sound")
    if options.search not in PRESETS:
        known = ", ".join(PRESETS)
        raise ValueError(f"--search must be one of {known}; got {options.search!r}")
    search = PRESETS[options.search]
    if settings.pop("sigma") != search.sigma:
        raise ValueError(f"--search {options.search} starts from σ = {search.sigma:g}")
    return sample_searched(model, dataset, path, search=search, **settings)


def _margins(options: argparse.Namespace) -> None:
    _check_device(options.device)
    model, metadata = load_base(options.checkpoint, options.device)
    dataset = _images(metadata, options)
    log = sample_margins(
        model, dataset, options.log, lipschitz=options.lipschitz,
        indices=evenly_spaced(len(dataset), options.images),
        batch_size=options.batch_size, precision=options.precision,
        device=options.device, progress=not options.quiet,
    )  # fmt: skip
    found = log.certificates()
    right = np.mean(predict_log(log, alpha=0) == log.label)
    constant = f"Lipschitz constant {log.lipschitz:.6g} ({log.config['bound']})"
    covered = "not covered" if log.config["rounding"] is None else "covered"
    print(f"{options.log}: {len(log)} images, {constant}, rounding {covered}")
    print(f"  {100 * right:5.1f} % right")
    at = certified_accuracy(log.label, found.prediction, found.radius, options.radii)
    for radius, share in zip(options.radii, 100 * at, strict=True):
        print(f"  {round_down(share, 1):5.1f} % certified within {radius:g}")


def _attack(options: argparse.Namespace) -> None:
    model, dataset, sigma = _base(options)
    log = sample_attacks(
        model, dataset, options.log, sigma=sigma, radii=options.radii,
        alpha=options.alpha, n=options.n, seed=options.seed, steps=options.steps,
        noise_samples=options.noise_samples, batch_size=options.batch_size,
        indices=evenly_spaced(len(dataset), options.images), device=options.device,
        progress=not options.quiet,
    )  # fmt: skip
    print(f"{options.log}: {len(log)} images, {options.steps} steps")
    for radius in log.config["radii"]:
        left = 100 * empirical_accuracy(log.broken, radius)
        print(f"  {left:5.1f} % withstand every attack up to {radius:g}")


def _told(log: VoteLog) -> str:
    reached, short, open_ = ((log.decision == d).sum() for d in (1, -1, 0))
    radius, mean = log.config["target_radius"], log.counts_estimation.sum(axis=1).mean()
    shares = f"R >= {radius:g}: {reached}, R < {radius:g}: {short}, undecided: {open_}"
    return f"{shares}; {log.config['n0']} + {mean:.0f} votes on average"


def _check_device(name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device {name!r} is not available: {reason}") from None


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "train": _train,
    "train-denoiser": _train_denoiser,
    "export": _export,
    "sample": _sample,
    "margins": _margins,
    "attack": _attack,
}
"""What carries out which command, given its options."""
