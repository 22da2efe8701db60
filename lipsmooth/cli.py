"""The command line: train, sample, margins, attack, certify, predict, analyze."""

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lipsmooth.options import parser

if TYPE_CHECKING:
    import pandas as pd


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


def _run_network(options: argparse.Namespace) -> None:
    from lipsmooth.commands import COMMANDS

    COMMANDS[options.command](options)


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
    from lipsmooth.marginlogs import MarginLog
    from lipsmooth.shards import read_shards

    log = read_shards(*options.log)
    predicted = predict_log(log, alpha=options.alpha)
    right = (predicted == log.label).astype(int)
    columns = {"idx": log.index, "label": log.label, "predict": predicted}
    alpha = 0.0 if isinstance(log, MarginLog) else options.alpha
    frame = pd.DataFrame({**columns, "correct": right, "alpha": alpha})
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


_NETWORKS = "train", "train-denoiser", "export", "sample", "margins", "attack"
_COMMANDS = {
    **dict.fromkeys(_NETWORKS, _run_network),
    "certify": _certify,
    "predict": _predict,
    "analyze": _analyze,
}
