"""Training runs of any network: resumed after the last epoch, cached when finished."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from filelock import FileLock
from torch import nn
from tqdm import tqdm

from lipsmooth.data import Pathlike, cache_folder
from lipsmooth.models import read_checkpoint, save_checkpoint
from lipsmooth.weightfiles import SAFE, misfit


def check_run(*, epochs: int, batch_size: int, learning_rate: float, seed: int) -> None:
    """Raise ValueError unless these are what a training run can have."""
    whole = {"epochs": (epochs, 1), "batch_size": (batch_size, 1), "seed": (seed, 0)}
    for name, (value, least) in whole.items():
        if not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name} must be at least {least}, got {str(value)[:60]}")
    if not (is_finite(learning_rate) and learning_rate > 0):
        what = f"learning_rate must be positive, got {str(learning_rate)[:60]}"
        raise ValueError(what)


def is_finite(value: Any) -> bool:
    """Return whether a value is a real number that fits a float."""
    return isinstance(value, Real) and bool(abs(value) < 1e300)


def run_epochs(
    model: nn.Module,
    train_epoch: Callable[..., dict],
    *,
    epochs: int,
    settings: Mapping[str, Any],
    parts: Mapping[str, Any],
    checkpoint: Pathlike | None,
    name: str,
    progress: bool,
    before: Mapping[str, Any] | None = None,
) -> list[dict]:
    """Train epoch by epoch, saving each, from where a checkpoint left off.

    Parameters
    ----------
    model : nn.Module
        What is trained.
    train_epoch : callable
        Called as ``train_epoch(epoch=…)``, counted from 0; returns what is to be known
        of it, ``loss`` included. Must depend on the epochs before it through the model
        and ``parts`` only.
    epochs : int
        How many.
    settings : mapping
        Plain values on which the result depends; kept in the checkpoint, and compared
        with those of one that exists.
    parts : mapping
        Optimiser, schedule: what has a state beside the model's.
    checkpoint : path, optional
        Saved after every epoch; resumed if it exists.
    name : str
        Of the progress bar.
    progress : bool
        Whether it is shown.
    before : mapping, optional
        Settings of checkpoints that were written before these had a name. A mapping
        among them completes the checkpoint's.

    Returns
    -------
    list of dict
        Per epoch: ``epoch`` from 1, what ``train_epoch`` returned, ``seconds``.

    Raises
    ------
    ValueError
        If the checkpoint is of another run, or an epoch's loss is not finite.
    """
    history: list[dict] = []
    if checkpoint is not None and Path(checkpoint).suffix == SAFE:
        raise ValueError(f"training cannot go on from {checkpoint}; name a .pt file")
    if checkpoint is not None and Path(checkpoint).exists():
        history = _resume(checkpoint, model, parts, settings, before or {})
    bar = tqdm(
        total=epochs, initial=len(history), unit="epoch", disable=not progress,
        desc=name,
    )  # fmt: skip
    with bar:
        for number in range(len(history), epochs):
            began = time.perf_counter()
            found = train_epoch(epoch=number)
            if not isfinite(found["loss"]):
                what = f"the training loss became {found['loss']}"
                raise ValueError(f"{what} in epoch {number + 1}")
            seconds = round(time.perf_counter() - began, 6)
            history.append({"epoch": number + 1, **found, "seconds": seconds})
            if checkpoint is not None:
                state = {key: part.state_dict() for key, part in parts.items()}
                last = number + 1 == epochs
                save_checkpoint(
                    checkpoint, model, **settings, epoch=number + 1,
                    training=None if last else state, history=history,
                )  # fmt: skip
            bar.set_postfix(loss=f"{found['loss']:.3f}", refresh=False)
            bar.update()
    return history


def _resume(
    checkpoint: Pathlike,
    model: nn.Module,
    parts: Mapping[str, Any],
    settings: Mapping[str, Any],
    before: Mapping[str, Any],
) -> list[dict]:
    content = read_checkpoint(checkpoint)
    metadata = _completed(content["metadata"], before)
    for key, value in {**settings, **getattr(model, "spec", {})}.items():
        if metadata.get(key) != value:
            raise ValueError(
                f"checkpoint {checkpoint} was trained with {key} = "
                f"{metadata.get(key)!r}, not {value!r}"
            )
    history = metadata.get("history")
    if not isinstance(history, list) or misfit(model.state_dict(), content["weights"]):
        raise ValueError(f"checkpoint {checkpoint} has not the state of a run")
    model.load_state_dict(content["weights"])
    for name, part in parts.items() if content["training"] is not None else ():
        try:
            part.load_state_dict(content["training"][name])
        except Exception as error:  # PyTorch raises many kinds
            what = f"has no state of the {name}: {type(error).__name__}"
            raise ValueError(f"checkpoint {checkpoint} {what}") from None
    return history


def _completed(metadata: Mapping[str, Any], before: Mapping[str, Any]) -> dict:
    completed = {**before, **metadata}
    for key, known in before.items():
        if isinstance(known, Mapping) and isinstance(completed[key], Mapping):
            completed[key] = {**known, **completed[key]}
    return completed


def cached(
    stem: str,
    key: Mapping[str, Any],
    sources: Iterable[str],
    train: Callable[[Path], object],
    *,
    cache_dir: Pathlike | None,
) -> Path:
    """Return a finished checkpoint from the cache, training it only if it lacks it.

    Parameters
    ----------
    stem : str
        Start of the file's name, for people.
    key : mapping
        Plain values on which the checkpoint depends; their digest ends the name.
    sources : iterable of str
        Files of code on which it depends.
    train : callable
        Given the path of an unfinished checkpoint, to be resumed if it exists, leaves
        the finished one there.
    cache_dir : path, optional
        By default `lipsmooth.data.cache_folder`.

    Returns
    -------
    Path
        Processes that ask for the same checkpoint wait for the first.
    """
    code = b"".join(Path(file).read_bytes() for file in (*sources, __file__))
    full = {**key, "code": hashlib.sha256(code).hexdigest()}
    digest = hashlib.sha256(json.dumps(full, sort_keys=True).encode()).hexdigest()[:16]
    path = cache_folder(cache_dir) / "models" / f"{stem}-{digest}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            unfinished = path.with_suffix(".part")
            train(unfinished)
            unfinished.replace(path)
    return path
