"""What reads files, each as a function of bytes, with inputs to start from.

The contract is that of the readers: data, or a ValueError (for presets of the book a
BuildError) with a message. Anything else is a fault.

The first byte of an input says how the rest is packed: where a checksum or a length
would refuse nearly every change, it can be made right before the file is read, as
somebody would who means harm.
"""

import io
import json
import os
import struct
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "book")]
RAW, PACKED = b"\0", b"\1"
SEPARATOR = b"\n----\n"
SHARED = {"num_classes": 2, "sigma": 0.5, "seed": 7}


class Reader(NamedTuple):
    """A reader under test.

    ``seeds()`` gives inputs that it accepts, or nearly; ``read(data, folder)`` writes
    one into the folder and reads it.
    """

    seeds: Callable[[], list[bytes]]
    read: Callable[[bytes, Path], object]


def documented() -> tuple[type[Exception], ...]:
    """Return what a reader may raise."""
    from execution import BuildError

    return ValueError, BuildError


def attempt(reader: Reader, data: bytes, folder: Path) -> str | None:
    """Read one input; return the message of the error, None if it was accepted."""
    try:
        reader.read(data, folder)
    except documented() as error:
        if not str(error):
            raise AssertionError("an error without a message") from error
        return str(error)
    return None


def folder() -> tempfile.TemporaryDirectory:
    """Return a folder in memory, where there is one."""
    return tempfile.TemporaryDirectory(
        dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    )


# --- Logs ---------------------------------------------------------------------------


def checksummed(data: bytes) -> bytes:
    """Return lines of JSON with the checksums that they should have."""
    lines = []
    for line in data.split(b"\n"):
        if line.endswith(b"}"):
            line = line[:-1] + b', "crc32": "%08x"}' % zlib.crc32(line)
        lines.append(line)
    return b"\n".join(lines)


def unpacked(data: bytes, pack: Callable[[bytes], bytes]) -> bytes:
    """Return the content of the file that an input stands for."""
    return pack(data[1:]) if data[:1] == PACKED else data[1:]


def written(write: Callable[[Path], None]) -> list[bytes]:
    """Return a log without its checksums, and as it is."""
    with folder() as name:
        path = Path(name) / "log"
        write(path)
        content = path.read_bytes()
    bare = b"\n".join(
        line[: -len(', "crc32": "00000000"}')] + b"}" for line in content.splitlines()
    )
    return [PACKED + bare + b"\n", RAW + content]


def votes(**more) -> list[bytes]:
    from lipsmooth.logs import LogWriter

    def write(path):
        config = {**SHARED, "n0": 10, "n": 100, **more}
        with LogWriter(path, config, {"device": "test"}) as log:
            for index in range(2):
                extra = {"decision": 1} if "target_radius" in more else {}
                extra |= {"best_sigma": 0.25} if "search" in more else {}
                log.append(index, 1, [9, 1], [95, 5], 0.25, **extra)

    return written(write)


def decisions() -> list[bytes]:
    from lipsmooth.sequential import RULE

    aim = {"target_radius": 0.25, "alpha": 0.01, "stopping": RULE}
    return [*votes(**aim), *votes(search={"low": 0.1})]


def scores() -> list[bytes]:
    from lipsmooth.scorelogs import ScoreWriter

    def write(path):
        config = {**SHARED, "n0": 10, "n": 100, "maps": ["softmax:1.0", "hardmax:1.0"]}
        with ScoreWriter(path, config, {"device": "test"}) as log:
            for index in range(2):
                moments = np.array([[[0.5, 0.25]] * 2, [[0.125, 0.0625]] * 2])
                log.append(index, 1, moments, moments, 0.25)

    return written(write)


def attacks() -> list[bytes]:
    from lipsmooth.attacklogs import AttackWriter

    def write(path):
        config = {**SHARED, "radii": [0.25, 0.5], "alpha": 0.1}
        with AttackWriter(path, config, {"device": "test"}) as log:
            log.append(0, 1, 0.25, 0.25)
            log.append(1, 1, np.inf, 0.25)

    return written(write)


def margins() -> list[bytes]:
    from lipsmooth.marginlogs import MarginWriter

    def write(path):
        config = {"num_classes": 2, "lipschitz": 4.0, "rounding": [1e-9, 1e-9]}
        with MarginWriter(path, config, {"device": "test"}) as log:
            log.append(0, 1, [0.25, 0.5], 3.5, 0.25)
            log.append(1, 1, [0.25, 0.25], 3.5, 0.25)

    return written(write)


def log_reader(read: Callable[[Path], object]) -> Callable[[bytes, Path], object]:
    def use(data, folder):
        path = folder / "log"
        path.write_bytes(unpacked(data, checksummed))
        return read(path)

    return use


def read_votes(path):
    from lipsmooth.decisions import certify_log
    from lipsmooth.logs import read_log

    return certify_log(read_log(path), alpha=0.05)


def read_decisions(path):
    from lipsmooth.decisions import certify_log
    from lipsmooth.shards import read_shards
    from lipsmooth.tables import certificate_table, settings_table

    log = read_shards(path)
    settings_table({"log": log})
    certificate_table(log, alpha=0.05)
    return certify_log(log, alpha=0.05, strategy="anytime")


def read_scores(path):
    from lipsmooth.decisions import certify_log
    from lipsmooth.scorelogs import read_score_log

    log = read_score_log(path)
    return certify_log(log, alpha=0.05, map=log.maps[0])


def read_attacks(path):
    from lipsmooth.attacklogs import read_attack_log

    return read_attack_log(path)


def read_margins(path):
    from lipsmooth.marginlogs import read_margin_log
    from lipsmooth.tables import certificate_table

    return certificate_table(read_margin_log(path), alpha=0.05)


# --- Tables -------------------------------------------------------------------------

TABLES = (
    b"idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t3\t3\t1.25\t1\t0:00:02.5\n"
    b"1\t2\t-1\t0.0\t0\t0:00:02.4\n",
    b"idx\tlabel\tpredict\tcorrect\ttime\n0\t3\t3\t1\t2.5\n",
    b"idx\tlabel\tpredict\tradius\tcorrect\tbest_sigma\tpABar\ttime\n"
    b"0\t3\t3\t1.25\t1\t0.3\t9.5e-1\t2.5\n",
    b"idx,label,predict,radius,correct\n0,3,3,1.25,1\n1,2,-1,0.0,0\n",
)
PUBLISHED_VOTES = SEPARATOR.join(
    [
        b'{"sigma": 0.5, "N0": 10, "N": 100}',
        b"idx\tlabel\tcounts\n0\t1\t[9, 1]\n1\t0\t[10, 0]\n",
        b"idx\tlabel\tcounts\n0\t1\t[90, 10]\n1\t0\t[95, 5]\n",
    ]
)
FACTS = (
    b"# Facts\nfact,at,cohen2019/a,cohen2019/b\nrows,0,500,500\n"
    b"accuracy,0.25,0.5,0.25\n"
)


def read_table(data, folder):
    from lipsmooth.published import read_published

    path = folder / "table"
    path.write_bytes(data)
    return read_published(path)


def read_certificates(data, folder):
    from lipsmooth.tables import read_certificates

    path = folder / "table.csv.gz"
    path.write_bytes(data)
    frame = read_certificates(path)
    assert np.isfinite(frame[["label", "predict", "radius"]].to_numpy(float)).all()
    return frame


def read_published_votes(data, folder):
    from lipsmooth.decisions import certify_log
    from lipsmooth.published import read_published_votes

    names = "certify_args.json", "certify_a_N0_10.txt", "certify_a_N_100.txt"
    parts = data.split(SEPARATOR, 2)
    for name, part in zip(names, [*parts, b"", b""], strict=False):
        (folder / name).write_bytes(part)
    return certify_log(read_published_votes(folder), alpha=0.05)


def read_facts(data, folder):
    from lipsmooth.facts import read_facts

    path = folder / "facts.csv"
    path.write_bytes(data)
    frame = read_facts(path)
    assert all(kind.kind == "f" for kind in frame.dtypes)
    return frame


# --- Presets and recipes ------------------------------------------------------------

RECIPE = (
    b"sigma: 0.25\nepochs: 3\nloss: consistency\noptions: {copies: 2, weight: 5.0}\n"
)


def presets() -> list[bytes]:
    bomb = b"02_neyman_pearson: {n: &a [1, 2], m: [*a, *a]}\n"
    whole = (ROOT / "notebooks/params/smoke.yml").read_bytes().splitlines(True)
    return [b"".join(whole[:20]), bomb]


def read_preset(data, folder):
    from presets import read_preset

    path = folder / "preset.yml"
    path.write_bytes(data)
    return read_preset(path)


def read_recipe(data, folder):
    import yaml

    from lipsmooth.recipe import Recipe

    try:
        settings = yaml.safe_load(data)
    except Exception:  # what YAML is, is not the recipe's affair
        return None
    known = set(Recipe.__dataclass_fields__)
    if not isinstance(settings, dict) or not settings.keys() <= known:
        return None
    return Recipe(**{"sigma": 0.25, **settings})


# --- Weights ------------------------------------------------------------------------


@cache
def checkpoint(name: str) -> bytes:
    """Return a file with a small network, or one that others might have published."""
    import torch

    from lipsmooth.denoise import build_denoiser
    from lipsmooth.models import build_model, save_checkpoint

    torch.manual_seed(0)
    with folder() as place:
        path = Path(place) / name
        if name == "denoiser.pt":
            from lipsmooth.denoise import SCHEDULE

            network = build_denoiser((1, 8, 8), width=8, light=True)
            save_checkpoint(path, network, schedule=SCHEDULE)
        elif name == "published.pt":
            weights = {"conv1.weight": torch.zeros(16, 3, 3, 3)}
            torch.save({"net": weights, "epoch": 3}, path)
        elif name == "legacy.pt":
            content = {"arch": "cifar_resnet20", "state_dict": {"1.a": torch.ones(3)}}
            torch.save(content, path, _use_new_zipfile_serialization=False)
        else:
            model = build_model("cnn", shape=(1, 8, 8), num_classes=3)
            save_checkpoint(path, model, sigma=0.25, dataset="digits")
        return path.read_bytes()


def pickles(name: str) -> list[bytes]:
    """Return the pickle of a PyTorch file."""
    with zipfile.ZipFile(io.BytesIO(checkpoint(name))) as archive:
        (part,) = [each for each in archive.namelist() if each.endswith("data.pkl")]
        return [PACKED + archive.read(part)]


def with_pickle(name: str, data: bytes) -> bytes:
    """Return a PyTorch file whose pickle is another one."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(checkpoint(name))) as archive,
        zipfile.ZipFile(buffer, "w") as copy,
    ):
        for part in archive.namelist():
            own = part.endswith("data.pkl")
            copy.writestr(part, data if own else archive.read(part))
    return buffer.getvalue()


def torch_files() -> list[bytes]:
    raw = [RAW + checkpoint(name) for name in ("published.pt", "legacy.pt")]
    return [*pickles("m.pt"), *pickles("published.pt"), *raw]


def read_torch(data, folder):
    from lipsmooth.models import load_checkpoint

    path = folder / "m.pt"
    path.write_bytes(unpacked(data, lambda part: with_pickle("m.pt", part)))
    return load_checkpoint(path)


def read_denoiser(data, folder):
    from lipsmooth.pretrained import load_denoiser

    path = folder / "m.pt"
    path.write_bytes(unpacked(data, lambda part: with_pickle("denoiser.pt", part)))
    return load_denoiser(path)


def safetensors() -> list[bytes]:
    from lipsmooth.weightfiles import DIGEST, FORMAT

    content = checkpoint("m.safetensors")
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    about = json.loads(header["__metadata__"][FORMAT])
    del about[DIGEST]
    header["__metadata__"][FORMAT] = json.dumps(about)
    few = {key: header[key] for key in list(header)[:3]}
    return [PACKED + json.dumps(each).encode() for each in (header, few)]


def with_header(data: bytes) -> bytes:
    """Return safetensors whose header is another one."""
    content = checkpoint("m.safetensors")
    (length,) = struct.unpack("<Q", content[:8])
    return struct.pack("<Q", len(data)) + data + content[8 + length :]


def read_safetensors(data, folder):
    from lipsmooth.models import load_checkpoint

    path = folder / "m.safetensors"
    path.write_bytes(unpacked(data, with_header))
    return load_checkpoint(path)


# --- Pictures -----------------------------------------------------------------------


def pictures() -> list[bytes]:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 3), dtype=np.uint8)
    kinds = "PNG", "JPEG", "BMP", "PPM", "TIFF", "WEBP", "GIF"
    found = []
    for kind in kinds:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind)
        found.append(buffer.getvalue())
    return found


def read_pictures(data, folder):
    from lipsmooth.data import load_dataset

    ants = folder / "test" / "ant"
    ants.mkdir(parents=True, exist_ok=True)
    (ants / "0.png").write_bytes(data)
    for size in (None, 8):
        dataset = load_dataset(folder, "test", size=size)
        if np.prod(dataset.shape) < 1e6:
            dataset[0]
    return dataset


READERS = {
    "votes": Reader(votes, log_reader(read_votes)),
    "decisions": Reader(decisions, log_reader(read_decisions)),
    "scores": Reader(scores, log_reader(read_scores)),
    "attacks": Reader(attacks, log_reader(read_attacks)),
    "margins": Reader(margins, log_reader(read_margins)),
    "published": Reader(lambda: list(TABLES), read_table),
    "published-votes": Reader(lambda: [PUBLISHED_VOTES], read_published_votes),
    "certificates": Reader(lambda: list(TABLES), read_certificates),
    "facts": Reader(lambda: [FACTS], read_facts),
    "presets": Reader(presets, read_preset),
    "recipes": Reader(lambda: [RECIPE], read_recipe),
    "torch": Reader(torch_files, read_torch),
    "safetensors": Reader(safetensors, read_safetensors),
    "denoisers": Reader(lambda: pickles("denoiser.pt"), read_denoiser),
    "pictures": Reader(pictures, read_pictures),
}
"""All readers of files, by the name that the fuzzer knows them by."""
