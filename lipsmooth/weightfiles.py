"""Files of weights: PyTorch's, of which nothing is executed, and safetensors.

A content is a dict of ``format``, ``metadata`` (plain values), ``weights`` (tensors by
name) and ``training`` (the state from which training can go on, or None).
"""

import io
import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

FORMAT = "lipsmooth-checkpoint"
SAFE = ".safetensors"
"""How a file's name ends that holds weights and plain values alone."""
Pathlike = str | os.PathLike


def write_content(path: Pathlike, content: dict) -> None:
    """Write a content, so that a crash leaves the old file.

    Parameters
    ----------
    path : path
        Its folder is made if need be. A name that ends in `SAFE` makes it safetensors.
    content : dict
        As above.

    Raises
    ------
    ValueError
        If safetensors are to hold a state of training.
    """
    target = Path(path)
    if target.suffix == SAFE:
        if content["training"] is not None:
            raise ValueError(f"{path} cannot hold a state of training; name a .pt file")
        weights = {name: part.contiguous() for name, part in content["weights"].items()}
        data = save(weights, {FORMAT: json.dumps(content["metadata"])})
    else:
        buffer = io.BytesIO()
        torch.save(content, buffer)
        data = buffer.getbuffer()
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def read_content(path: Pathlike, device: str = "cpu") -> dict:
    """Read a file of weights, ours or another's. Nothing in it is executed.

    Parameters
    ----------
    path : path
        A name that ends in `SAFE` is read as safetensors.
    device : str
        Where the tensors go.

    Returns
    -------
    dict
        A content, or what else a PyTorch file holds.

    Raises
    ------
    ValueError
        If the file is missing, truncated or holds nothing of the kind.
    """
    if not Path(path).is_file():
        raise ValueError(f"checkpoint {path} does not exist")
    try:
        if Path(path).suffix == SAFE:
            return _read_safe(path, device)
        file = io.BytesIO(Path(path).read_bytes())
        content = torch.load(file, map_location=device, weights_only=True)
    except Exception as error:  # both raise many kinds for a file they cannot read
        kind = type(error).__name__
        raise ValueError(f"{path} is truncated or not a checkpoint ({kind})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a checkpoint but a {type(content).__name__}")
    return content


def _read_safe(path: Pathlike, device: str) -> dict:
    with safe_open(path, framework="pt", device=str(device)) as file:
        about = (file.metadata() or {}).get(FORMAT)
        if about is None:
            raise SafetensorError("metadata of another program")
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    known = {"format": FORMAT, "training": None}
    return {**known, "metadata": json.loads(about), "weights": weights}
