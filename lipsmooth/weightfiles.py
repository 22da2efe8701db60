"""Files of weights: PyTorch's, of which nothing is executed, and safetensors.

A content is a dict of ``format``, ``metadata`` (plain values), ``weights`` (tensors by
name) and ``training`` (the state from which training can go on, or None).
"""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

FORMAT = "lipsmooth-checkpoint"
SAFE = ".safetensors"
"""How a file's name ends that holds weights and plain values alone."""
DIGEST = "sha256"
"""What is added to the metadata of safetensors: a digest of all else that they hold."""
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
        metadata = content["metadata"]
        about = {**metadata, DIGEST: _digest(metadata, weights)}
        data = save(weights, {FORMAT: json.dumps(about)})
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
        If the file is missing, truncated, damaged or holds nothing of the kind.

    Notes
    -----
    Guarantee: damage is found by the checksums of PyTorch's zip format, and by a digest
    in safetensors that were written here; other formats have none. Memory is bounded by
    a multiple of the file's size: compressed parts are refused.
    """
    if not Path(path).is_file():
        raise ValueError(f"checkpoint {path} does not exist")
    try:
        if Path(path).suffix == SAFE:
            return _read_safe(path, device)
        data = Path(path).read_bytes()
        file = _repacked(data) if data.startswith(b"PK") else io.BytesIO(data)
        content = torch.load(file, map_location=device, weights_only=True)
        if isinstance(content, dict) and content.get("format") == FORMAT:
            _check_content(content)
    except Exception as error:  # both raise many kinds for a file they cannot read
        kind = type(error).__name__
        raise ValueError(f"{path} is truncated or not a checkpoint ({kind})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a checkpoint but a {type(content).__name__}")
    return content


def _repacked(data: bytes) -> io.BytesIO:
    """Return a zip file anew, of parts that are stored as they are, and undamaged.

    PyTorch looks at no checksum, unpacks what is compressed, and where a part is marked
    as a folder returns memory as it finds it.
    """
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as archive,
        zipfile.ZipFile(buffer, "w") as copy,
    ):
        parts = archive.infolist()
        stored = all(part.compress_type == zipfile.ZIP_STORED for part in parts)
        if not stored or sum(part.file_size for part in parts) > len(data):
            raise ValueError("a part is compressed")
        if len({part.filename for part in parts}) < len(parts):
            raise ValueError("two parts have one name")
        for part in parts:
            copy.writestr(part.filename, archive.read(part))
    buffer.seek(0)
    return buffer


def _check_content(content: dict) -> None:
    check_tensors(content["weights"])
    if not isinstance(content["metadata"], dict):
        raise TypeError("metadata must be a dict")
    if not isinstance(content["training"], dict | None):
        raise TypeError("the state of training must be a dict")


def check_tensors(weights: Any) -> None:
    """Raise ValueError unless weights are ordinary tensors by name, each in memory."""
    if not isinstance(weights, Mapping):
        raise ValueError(
            f"weights must be tensors by name, got {type(weights).__name__}"
        )
    for name, tensor in weights.items():
        plain = isinstance(name, str) and isinstance(tensor, Tensor)
        plain = plain and tensor.layout == torch.strided and not tensor.is_quantized
        plain = plain and tensor.device.type != "meta"
        if not plain or tensor.untyped_storage().nbytes() < tensor.nbytes:
            raise ValueError(f"{str(name)[:60]!r} is no ordinary tensor")


def misfit(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str | None:
    """Name the first tensor that is missing, too many, or of another shape."""
    for name, tensor in expected.items():
        if name not in weights:
            return f"{name!r} is missing"
        found, wanted = tuple(weights[name].shape), tuple(tensor.shape)
        if found != wanted:
            return f"{name!r} has shape {found}, not {wanted}"
        if weights[name].is_floating_point() != tensor.is_floating_point():
            return f"{name!r} holds {weights[name].dtype}, not {tensor.dtype}"
    odd = next((name for name in weights if name not in expected), None)
    return None if odd is None else f"{odd!r} has no place in it"


def stored_bytes(weights: Mapping[str, Tensor]) -> int:
    """Return how much memory tensors take, what they share counted once."""
    parts = (tensor.untyped_storage() for tensor in weights.values())
    return sum({part.data_ptr(): part.nbytes() for part in parts}.values())


def tensors_digest(weights: Mapping[str, Tensor], about: bytes = b"") -> str:
    """Return a SHA-256 of ``about`` and of tensors, the same on every device."""
    digest = hashlib.sha256(about)
    for name, tensor in weights.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _digest(metadata: dict, weights: Mapping[str, Tensor]) -> str:
    ordered = dict(sorted(weights.items()))
    return tensors_digest(ordered, json.dumps(metadata, sort_keys=True).encode())


def _read_safe(path: Pathlike, device: str) -> dict:
    with safe_open(path, framework="pt", device=str(device)) as file:
        about = (file.metadata() or {}).get(FORMAT)
        if about is None:
            raise SafetensorError("metadata of another program")
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    metadata = json.loads(about)
    digest = metadata.pop(DIGEST, None)
    if digest not in (None, _digest(metadata, weights)):
        raise SafetensorError("damaged")
    content = {"format": FORMAT, "metadata": metadata, "weights": weights}
    _check_content({**content, "training": None})
    return {**content, "training": None}
