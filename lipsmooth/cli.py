"""The command line: train, sample, certify, predict, analyze."""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lipsmooth.options import parser

if TYPE_CHECKING:
    import pandas as pd

    from lipsmooth.logs import VoteLog


# A module is imported by the command that needs it: logs are certified without torch.
def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; ``sys.argv[1:]`` by default.

    Returns
    -------
    int
        0, or 2 after a mistake that the user can mend, told in one line on
        standard error, or 130 when interrupted.
    """
    options = parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_: _tell("warning", message)
        try:
            _COMMANDS[options.command](options)
        except (ValueError, OSError) as error:
            _tell("error", error)
            return 2
        except ModuleNotFoundError as error:
            _tell("error", f"{options.command} needs {error.name}: not installed")
            return 2
        except KeyboardInterrupt:
            _tell("error", "interrupted; the same command resumes sampling or training")
            return 130
    return 0


def _tell(kind: str, message: object) -> None:
    print(f"lipsmooth: {kind}: {' '.join(str(message).split())}", file=sys.stderr)


def _train(options: argparse.Namespace) -> None:
    import torch

    from lipsmooth.data import load_dataset
    from lipsmooth.models import build_model
    from lipsmooth.recipe import OPTIONS
    from lipsmooth.train import train_classifier

    _check_device(options.device)
    dataset = load_dataset(options.dataset, "train", root=options.root)
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
    import torch

    from lipsmooth.data import load_dataset
    from lipsmooth.denoise import build_denoiser
    from lipsmooth.diffusion import train_denoiser

    _check_device(options.device)
    dataset = load_dataset(options.dataset, "train", root=options.root)
    torch.manual_seed(options.seed)
    history = train_denoiser(
        build_denoiser(dataset.shape, width=options.width), dataset,
        epochs=options.epochs, batch_size=options.batch_size, seed=options.seed,
        learning_rate=options.learning_rate, device=options.device,
        checkpoint=options.checkpoint, progress=not options.quiet,
    )  # fmt: skip
    left = f"{100 * history[-1]['loss']:.1f} % of the noise's variance not predicted"
    print(f"{options.checkpoint}: {len(history)} epochs, {left}")


def _sample(options: argparse.Namespace) -> None:
    from lipsmooth.data import evenly_spaced, load_dataset
    from lipsmooth.pretrained import load_base
    from lipsmooth.pursuit import sample_decisions
    from lipsmooth.sampling import sample_log
    from lipsmooth.shards import shard_path, worker

    rank, world = worker()
    device = options.device
    if device == "cuda" and world > 1:
        device = f"cuda:{os.environ.get('LOCAL_RANK', rank)}"
    _check_device(device)
    model, metadata = load_base(
        options.checkpoint, device, denoiser=options.denoiser, sigma=options.sigma
    )
    sigma = metadata.get("sigma") if options.sigma is None else options.sigma
    name = options.dataset or metadata.get("dataset")
    if sigma is None or name is None:
        raise ValueError(
            f"{options.checkpoint} names no default; give --sigma/--dataset"
        )
    dataset = load_dataset(name, options.split, root=options.root)
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
        "device": device, "progress": not options.quiet and rank == 0,
        "precision": options.precision, "fast": not options.plain,
        "compiled": options.compile,
    }  # fmt: skip
    if options.maps is not None:
        from lipsmooth.moments import sample_moments

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


def _told(log: "VoteLog") -> str:
    reached, short, open_ = ((log.decision == d).sum() for d in (1, -1, 0))
    radius, mean = log.config["target_radius"], log.counts_estimation.sum(axis=1).mean()
    shares = f"R >= {radius:g}: {reached}, R < {radius:g}: {short}, undecided: {open_}"
    return f"{shares}; {log.config['n0']} + {mean:.0f} votes on average"


def _certify(options: argparse.Namespace) -> None:
    from lipsmooth.shards import read_shards
    from lipsmooth.tables import certificate_table

    log = read_shards(*options.log)
    frame = certificate_table(log, **_rule(options))
    _write_csv(frame, options)
    _report(frame)


def _predict(options: argparse.Namespace) -> None:
    import pandas as pd

    from lipsmooth.decisions import predict_log
    from lipsmooth.shards import read_shards

    log = read_shards(*options.log)
    predicted = predict_log(log, alpha=options.alpha)
    right = (predicted == log.label).astype(int)
    columns = {"idx": log.index, "label": log.label, "predict": predicted}
    frame = pd.DataFrame({**columns, "correct": right, "alpha": options.alpha})
    _write_csv(frame, options)
    _report(frame)


def _analyze(options: argparse.Namespace) -> None:
    from lipsmooth.evaluate import summary
    from lipsmooth.tables import format_table, read_certificates

    frames = {}
    for argument in options.files:
        name, separator, file = argument.partition("=")
        if not separator:
            name, file = Path(argument).stem, argument
        if name in frames:
            raise ValueError(f"two files are called {name!r}; write NAME=FILE")
        frames[name] = read_certificates(file, **_rule(options))
    print(format_table(summary(frames, options.radii), options.format))
    if options.plot:
        _plot(frames, options.plot)


def _rule(options: argparse.Namespace) -> dict:
    names = "alpha", "strategy", "randomize_seed", "map"
    return {name: getattr(options, name) for name in names}


def _plot(frames: "dict[str, pd.DataFrame]", path: str) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from lipsmooth.plots import certified_accuracy_curves, use_style

    with mpl.rc_context():
        use_style()
        figure = Figure()
        certified_accuracy_curves(frames, figure.subplots())
        figure.savefig(path, dpi=150)


def _write_csv(frame: "pd.DataFrame", options: argparse.Namespace) -> None:
    from lipsmooth.shards import find_files

    logs = [Path(log).resolve() for log in (*options.log, *find_files(*options.log))]
    if options.out != "-" and Path(options.out).resolve() in logs:
        raise ValueError(f"--out {options.out} would overwrite the log")
    # pandas writes the shortest decimal that names the float: nothing is rounded.
    frame.to_csv(sys.stdout if options.out == "-" else options.out, index=False)


def _report(frame: "pd.DataFrame") -> None:
    right, abstained = frame["correct"].mean(), (frame["predict"] < 0).mean()
    shares = f"{100 * right:.1f} % right, {100 * abstained:.1f} % abstained"
    print(f"{len(frame)} images, {shares}", file=sys.stderr)


def _check_device(name: str) -> None:
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device {name!r} is not available: {reason}") from None


_COMMANDS = {
    "train": _train,
    "train-denoiser": _train_denoiser,
    "sample": _sample,
    "certify": _certify,
    "predict": _predict,
    "analyze": _analyze,
}
