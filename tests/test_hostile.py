"""Files that somebody made to do harm, or that chance made: data or a ValueError.

The long search for such files is `make fuzz`; here is what it and thought have found.
"""

import ast
import io
import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import tarfile
import time
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

sys.path.insert(0, str(ROOT / "tests" / "fuzz"))

import readers
from execution import BuildError
from presets import read_assignments, read_preset
from readers import PACKED, RAW, READERS, attempt

from lipsmooth.cli import main
from lipsmooth.data import load_dataset
from lipsmooth.epochs import run_epochs
from lipsmooth.facts import read_facts
from lipsmooth.logs import LogWriter, read_log
from lipsmooth.models import build_model, load_checkpoint, save_checkpoint
from lipsmooth.pretrained import load_base, load_denoiser
from lipsmooth.published import read_published_votes
from lipsmooth.shards import read_shards
from lipsmooth.tables import read_certificates
from lipsmooth.weightfiles import FORMAT, read_content, write_content

# --- Every reader -----------------------------------------------------------------


def mutated(seed, rng):
    """Return an input with some of its bytes changed, gone, repeated or of interest."""
    data = bytearray(seed)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(0, max(len(data), 1)))
        kind = rng.integers(0, 4)
        if kind == 0 and data:
            data[at % len(data)] = rng.integers(0, 256)
        elif kind == 1:
            del data[at : at + int(rng.integers(1, 20))]
        elif kind == 2:
            data[at:at] = data[at : at + int(rng.integers(1, 40))]
        else:
            words = b"-1", b"1e999", b"null", b"[]", b"{}", b'"a"', b"9" * 30, b"NaN"
            data[at : at + 1] = words[rng.integers(0, len(words))]
    return bytes(data)


@pytest.mark.parametrize("name", READERS)
def test_every_reader_accepts_or_refuses(name, tmp_path):
    rng = np.random.default_rng(len(name))
    reader = READERS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        said = [attempt(reader, seed, tmp_path) for seed in reader.seeds()]
        assert None in said, "nothing to start from is accepted"
        for seed in reader.seeds():
            for _ in range(8 if name == "denoisers" else 25):
                said.append(attempt(reader, mutated(seed, rng), tmp_path))
    assert len(set(said)) > 1, "nothing is refused"


def test_another_exception_would_be_noticed(tmp_path):
    def careless(data, folder):
        return json.loads(data)["version"]

    reader = readers.Reader(list, careless)
    assert attempt(reader, b'{"version": 1}', tmp_path) is None
    assert "Expecting" in attempt(reader, b"{", tmp_path)
    with pytest.raises(KeyError):
        attempt(reader, b"{}", tmp_path)


# --- Logs ---------------------------------------------------------------------------


def forged(path, name, change):
    """Write a log of a reader with one header or row changed, and right checksums."""
    content = READERS[name].seeds()[0][1:]
    lines = [json.loads(line) for line in content.splitlines()]
    change(*lines)
    text = "\n".join(map(json.dumps, lines)) + "\n"
    path.write_bytes(readers.checksummed(text.encode()))


def put(where, *keys):
    """Return a change: at the end of the keys, of header or row, stands a value."""
    *inner, last, value = keys

    def change(*lines):
        part = lines[where]
        for key in inner:
            part = part[key]
        part[last] = value
        if value is None:
            del part[last]

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("votes", put(0, "version", None), "unknown log version None"),
        ("votes", put(0, "config", None), "the configuration of a vote log is 'None'"),
        ("votes", put(0, "config", [1]), "the configuration of a vote log is"),
        ("votes", put(0, "provenance", None), "the header has no provenance"),
        ("votes", put(0, "config", "n", None), r"vote log needs \['n'\]"),
        ("votes", put(0, "config", "n", "100"), "n must be a whole number"),
        ("votes", put(0, "config", "num_classes", 10**16), "num_classes must be a"),
        ("votes", put(0, "config", "sigma", "loud"), "sigma must be positive"),
        ("votes", put(0, "config", "sigma", 10**400), "sigma must be positive"),
        ("votes", put(1, "index", 10**30), "index is '1000.* not a number"),
        ("votes", put(1, "index", -1), "index is '-1', not a number"),
        ("votes", put(1, "seconds", float("nan")), "line 2 is not JSON: NaN is no num"),
        ("votes", put(1, "seconds", 10**400), "seconds is '1000"),
        ("decisions", put(0, "config", "alpha", None), "alpha must lie in"),
        ("decisions", put(0, "config", "alpha", "low"), "alpha must lie in"),
        ("decisions", put(0, "config", "target_radius", [1]), "target_radius must be"),
        ("decisions", put(0, "config", "stopping", None), "the log stopped by None"),
        ("scores", put(0, "config", "maps", 3), "maps must be a list"),
        ("scores", put(0, "config", "maps", ["argmax"]), "a map is one of"),
        ("scores", put(0, "config", "n", 1), "n must be a whole number of at least 2"),
        ("attacks", put(0, "config", "radii", "all"), "radii must be a list"),
        ("attacks", put(0, "config", "radii", ["a"]), "radii must be a list"),
        ("attacks", put(1, "broken", "a"), "'a' is none of the radii"),
        ("margins", put(0, "config", "lipschitz", "low"), "lipschitz must be positive"),
        ("margins", put(0, "config", "rounding", [1]), "rounding must be two numbers"),
        ("margins", put(0, "config", "num_classes", 1), "num_classes must be at least"),
        ("margins", put(1, "norm", -1), "norm is -1"),
        ("margins", put(1, "scores", [1, 10**400]), "is not a finite number"),
    ],
)
def test_logs_with_right_checksums_and_wrong_content(tmp_path, name, change, message):
    path = tmp_path / "log"
    forged(path, name, lambda *_: None)
    data = path.read_bytes()
    assert attempt(READERS[name], RAW + data, tmp_path) is None
    forged(path, name, change)
    data = path.read_bytes()
    said = attempt(READERS[name], RAW + data, tmp_path)
    assert said
    with pytest.raises(ValueError, match=message):
        raise ValueError(said)


def test_a_name_that_promises_many_shards(tmp_path):
    content = READERS["votes"].seeds()[1][1:]
    (tmp_path / "log.0-of-99999999999").write_bytes(content)
    with pytest.raises(ValueError, match="1 of 99999999999 shards are here"):
        read_shards(tmp_path / "log")
    (tmp_path / "log.0-of-99999999999").rename(tmp_path / "log.7-of-2")
    with pytest.raises(ValueError, match="1 of 2 shards are here"):
        read_shards(tmp_path / "log")


# --- Tables ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("7,3,3,1.25\n8,2,2,1.0\n", "has rows longer than the header"),
        ("3,3.5,1.25\n", "line 2: predict is 3.5"),
        ("1e300,3,1.25\n", r"line 2: label is 1e\+300"),
        ("3,3,inf\n", "line 2: radius is inf"),
        ("3,3,\n", "line 2: radius is nan"),
        ("", "has no certificates"),
    ],
)
def test_tables_that_would_be_misread(tmp_path, rows, message):
    path = tmp_path / "c.csv"
    path.write_text("label,predict,radius\n3,3,1.0\n")
    assert len(read_certificates(path)) == 1
    path.write_text("label,predict,radius\n" + rows)
    with pytest.raises(ValueError, match=rf"c\.csv.*{message}"):
        read_certificates(path)


def test_a_table_is_not_unpacked(tmp_path):
    import gzip

    path = tmp_path / "c.csv.gz"
    path.write_bytes(gzip.compress(b"label,predict,radius\n3,3,1.0\n"))
    with pytest.raises(ValueError, match=r"c\.csv\.gz is not a table"):
        read_certificates(path)


def test_facts_are_numbers(tmp_path):
    path = tmp_path / "facts.csv"
    for text in ("fact,at,a\nrows,0,many\n", "fact\nrows\n", "fact,at,a\nrows,x,1,2\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"facts\.csv is no file of facts"):
            read_facts(path)


def test_published_votes_with_an_endless_sigma(tmp_path):
    settings = '{"sigma": 1%s, "N0": 10, "N": 100}' % ("0" * 400)
    (tmp_path / "certify_args.json").write_text(settings)
    with pytest.raises(ValueError, match="is no configuration: OverflowError"):
        read_published_votes(tmp_path)


# --- Presets --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "must name notebooks, got list"),
        ("a: {n: [", "is no YAML"),
        ("a: 3", "'a' must have parameters"),
        ("1: {n: 3}", "'1' must have parameters"),
        ("a: {n: 2020-01-01}", "a value is a date"),
        ("a: {n: 2020-99-01}", "is no YAML"),
        ("a: {n: !!python/object/apply:os.getcwd []}", "is no YAML"),
        ("a: {n: &a [*a]}", "has more than 10000 values"),
        ("[" * 3_000, "is no YAML"),
    ],
)
def test_presets_that_are_none(tmp_path, text, message):
    path = tmp_path / "preset.yml"
    path.write_text("a: {n: [1, 0.5, x, null, true]}\nb:\n")
    assert read_preset(path) == {"a": {"n": [1, 0.5, "x", None, True]}, "b": None}
    path.write_text(text)
    with pytest.raises(BuildError, match=message):
        read_preset(path)


def test_assignments_that_are_none():
    pairs = [("n", "3"), ("alpha", "1e-3"), ("name", "x"), ("n", "[1, 2]")]
    chosen = read_assignments(pairs)
    assert chosen == {"n": [1, 2], "alpha": "1e-3", "name": "x"}
    for text in ("[1", "{a: }}", "!!python/object:os.system x", "2020-13-45"):
        with pytest.raises(BuildError, match=r"^-p n .* no YAML"):
            read_assignments([("n", text)])


def test_a_preset_of_a_billion_laughs(tmp_path):
    lines = ["a: {x: &l0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1],"]
    lines += [f" x{k}: &l{k} [{', '.join([f'*l{k - 1}'] * 10)}]," for k in range(1, 10)]
    (tmp_path / "preset.yml").write_text("\n".join([*lines, "}"]))
    began = time.perf_counter()
    with pytest.raises(BuildError, match="has more than 10000 values"):
        read_preset(tmp_path / "preset.yml")
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sigma: 0>25", "sigma must be finite and at least 0, got 0>25"),
        ("sigma: 1" + 400 * "0", "sigma must be finite"),
        ("epochs: many", "epochs must be at least 1, got many"),
        ("epochs: 1.5", "epochs must be at least 1, got 1.5"),
        ("learning_rate: []", "learning_rate must be positive"),
        ("loss: []", "loss must be one of"),
        ("precision: {}", "precision must be"),
        ("augmentation: []", "augmentation must be"),
        ("options: 3", "options must be values by name"),
        ("loss: macer\noptions: {copies: 1" + 400 * "0" + "}", "copies must be"),
    ],
)
def test_recipes_of_other_types(tmp_path, setting, message):
    said = attempt(READERS["recipes"], setting.encode(), tmp_path)
    assert said
    assert message in said


# --- Weights --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model("cnn", shape=(1, 8, 8), num_classes=3)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arch": None}, "arch, shape and num_classes are"),
        ({"shape": None}, "arch, shape and num_classes are"),
        ({"shape": "188"}, "arch, shape and num_classes are"),
        ({"shape": [1, 8.0, 8]}, "arch, shape and num_classes are"),
        ({"num_classes": "3"}, "arch, shape and num_classes are"),
        ({"num_classes": 10**12}, "too few"),
        ({"shape": [10**12, 8, 8]}, "too few"),
        ({"shape": [10**20, 8, 8]}, "m"),
        ({"arch": "resnet110"}, "too few"),
        ({"arch": "lipschitz", "shape": [3, 10**6, 10**6]}, "too few"),
        ({"arch": "vgg"}, "arch must be one of"),
        ({"sigma": "loud"}, "sigma must be a number"),
        ({"dataset": 3}, "dataset a name"),
    ],
)
def test_checkpoints_that_say_what_they_are_not(
    tmp_path, model, suffix, change, message
):
    path = tmp_path / f"m{suffix}"
    save_checkpoint(path, model, sigma=0.25, dataset="digits")
    content = read_content(path)
    assert load_checkpoint(path)[1] == content["metadata"]
    metadata = {**content["metadata"], **change}
    path.unlink()
    write_content(path, {**content, "metadata": metadata})
    with pytest.raises(ValueError, match=message):
        load_checkpoint(path)
    metadata = {k: v for k, v in metadata.items() if k not in change}
    write_content(path, {**content, "metadata": metadata})
    if change.keys() <= {"arch", "shape", "num_classes"}:
        with pytest.raises(ValueError, match=r"arch, shape and num_cl|no classifier"):
            load_checkpoint(path)


@pytest.mark.parametrize("metadata", [[], 3, None, "text"])
def test_metadata_that_are_no_dict(tmp_path, model, metadata):
    path = tmp_path / "m.pt"
    content = {"format": FORMAT, "weights": model.state_dict(), "training": None}
    for about in ({"metadata": metadata}, {}):
        torch.save({**content, **about}, path)
        with pytest.raises(ValueError, match="is truncated or not a checkpoint"):
            load_checkpoint(path)
    header = {"__metadata__": {FORMAT: json.dumps(metadata)}}
    (tmp_path / "m.safetensors").write_bytes(
        readers.with_header(json.dumps(header).encode())[: 8 + len(json.dumps(header))]
    )
    with pytest.raises(ValueError, match="is truncated or not a checkpoint"):
        load_checkpoint(tmp_path / "m.safetensors")


def weights_like(model, **changes):
    return {**model.state_dict(), **changes}


def test_tensors_that_are_none(tmp_path, model):
    path = tmp_path / "m.pt"
    name, tensor = "1.weight", model.state_dict()["1.weight"]
    sparse = tensor.to_sparse()
    wide = torch.zeros(1).expand(10**9)
    metadata = {**model.spec, "sigma": 0.25}
    content = {"format": FORMAT, "metadata": metadata, "training": None}
    for odd in ({name: sparse}, {name: wide}, {name: 3}, {3: tensor}):
        torch.save({**content, "weights": {**model.state_dict(), **odd}}, path)
        with pytest.raises(ValueError, match="is truncated or not a checkpoint"):
            load_checkpoint(path)
    for odd in (tensor.long(), tensor.double()[:0], tensor.to(torch.complex64)):
        torch.save({**content, "weights": weights_like(model, **{name: odd})}, path)
        with pytest.raises(ValueError, match=r"'1\.weight' h"):
            load_checkpoint(path)


def test_training_does_not_go_on_from_what_is_no_state(tmp_path, model):
    path = tmp_path / "m.pt"
    optimizer = torch.optim.AdamW(model.parameters())
    metadata = {**model.spec, "seed": 1}
    good = {"format": FORMAT, "metadata": metadata, "weights": model.state_dict()}

    def go_on(**changes):
        write_content(path, {**good, "training": None, **changes})
        return run_epochs(
            model, lambda epoch: {"loss": 1.0}, epochs=2, settings={"seed": 1},
            parts={"optimizer": optimizer}, checkpoint=path, name="", progress=False,
        )  # fmt: skip

    state = {"optimizer": optimizer.state_dict()}
    history = [{"epoch": 1, "loss": 1.0, "seconds": 0.1}]
    assert len(go_on(metadata={**metadata, "history": history}, training=state)) == 2
    with pytest.raises(ValueError, match="has not the state of a run"):
        go_on(training=state)
    with pytest.raises(ValueError, match="has not the state of a run"):
        go_on(metadata={**metadata, "history": history}, weights={})
    for odd in ({}, {"optimizer": 3}, {"optimizer": {"state": {}}}):
        with pytest.raises(ValueError, match="has no state of the optimizer"):
            go_on(metadata={**metadata, "history": history}, training=odd)


# A program that would write a file, if one were run.
class Intruder:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def packed(model, intruder):
    """Return ways to put a program where weights are awaited."""
    weights = weights_like(model, extra=intruder)
    metadata = {**model.spec, "sigma": 0.25}
    ours = {"format": FORMAT, "metadata": metadata, "training": None}
    buffers = {name: io.BytesIO() for name in ("zip", "legacy", "ours")}
    torch.save(intruder, buffers["zip"])
    torch.save(
        {"net": intruder}, buffers["legacy"], _use_new_zipfile_serialization=False
    )
    torch.save({**ours, "weights": weights}, buffers["ours"])
    return {
        "pickle": pickle.dumps(intruder),
        "pickle in a zip": readers.with_pickle("m.pt", pickle.dumps(intruder)),
        **{name: buffer.getvalue() for name, buffer in buffers.items()},
    }


def test_no_pickle_is_run(tmp_path, model):
    target = tmp_path / "intruded"
    (tmp_path / "m.safetensors").write_bytes(pickle.dumps(Intruder(target)))
    for content in packed(model, Intruder(target)).values():
        for name in ("m.pt", "m.safetensors", "log"):
            (tmp_path / name).write_bytes(content)
        for read in (load_checkpoint, load_base, load_denoiser):
            with pytest.raises(ValueError, match="is truncated or not a checkpoint"):
                read(tmp_path / "m.pt")
        with pytest.raises(ValueError, match="is truncated or not a checkpoint"):
            load_checkpoint(tmp_path / "m.safetensors")
        with pytest.raises(ValueError, match="is not a vote log"):
            read_log(tmp_path / "log")
        assert not target.exists()
    pickle.loads(pickle.dumps(Intruder(target)))
    assert target.exists(), "the control: unpickled plainly, it is run"


def test_an_archive_writes_nothing_elsewhere(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    with tarfile.open(inside / "m.pt", "w") as archive:
        for name in ("../escaped", "storages", "/tmp/lipsmooth-escaped"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(ValueError, match="is truncated or not a checkpoint"):
        load_checkpoint(inside / "m.pt")
    buffer = io.BytesIO(readers.checkpoint("m.pt"))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("archive/../../escaped", b"1")
    (inside / "m.pt").write_bytes(buffer.getvalue())
    load_checkpoint(inside / "m.pt")  # read in memory, nothing is unpacked
    assert [path.name for path in tmp_path.rglob("*")] == ["inside", "m.pt"]
    assert not Path("/tmp/lipsmooth-escaped").exists()


def test_parts_that_pytorch_would_not_check(tmp_path):
    path = tmp_path / "m.pt"
    content = readers.checkpoint("m.pt")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {part: archive.read(part) for part in archive.namelist()}

    def repack(kind=zipfile.ZIP_STORED, twice=False, folder=False):
        with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name, data in [*parts.items(), *list(parts.items())[-twice:] * twice]:
                info = zipfile.ZipInfo(name)
                info.external_attr = 0x10 if folder else 0
                archive.writestr(info, data, kind)

    repack()
    expected = load_checkpoint(path)[0].state_dict()
    repack(folder=True)  # PyTorch alone returns whatever is in memory
    for name, tensor in load_checkpoint(path)[0].state_dict().items():
        assert torch.equal(tensor, expected[name])
    for options in ({"kind": zipfile.ZIP_DEFLATED}, {"twice": True}):
        repack(**options)
        with pytest.raises(ValueError, match="is truncated or not a checkpoint"):
            load_checkpoint(path)


# --- Memory ---------------------------------------------------------------------------

# 300 MB more than what is loaded anyway: each of the files below asks for far more.
FRUGAL = """
import resource, sys, time
import readers
from lipsmooth.models import load_checkpoint
from lipsmooth.pretrained import load_denoiser
from lipsmooth.data import load_dataset
import torch, diffusers, PIL.PngImagePlugin, PIL.BmpImagePlugin, PIL.TiffImagePlugin
readers.checkpoint("denoiser.pt")
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20,) * 2)
began = time.monotonic()
for path in sys.argv[1:]:
    read = load_denoiser if "denoiser" in path else load_checkpoint
    if not path.endswith(("pt", "safetensors")):
        read = lambda path: load_dataset(path, "test")
    try:
        read(path)
    except ValueError as error:
        print("refused:", str(error)[:300])
    except BaseException as error:
        print("FAULT", path, repr(error)[:300])
print("seconds:", time.monotonic() - began)
try:
    torch.zeros(10**9)
except RuntimeError:
    print("limited")
"""


def png(width, height):
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def bombs(folder, model):
    """Write files that ask for far more memory than they have; return their paths."""
    found = [folder / name for name in ("zip.pt", "shape.pt", "length.safetensors")]
    with zipfile.ZipFile(
        found[0], "w", zipfile.ZIP_DEFLATED, compresslevel=1
    ) as zipped:
        with zipfile.ZipFile(io.BytesIO(readers.checkpoint("m.pt"))) as archive:
            for part in archive.namelist():
                zipped.writestr(part, archive.read(part))
        with zipped.open("m/data/999", "w") as part:
            for _ in range(40):
                part.write(bytes(10**7))
    spec = {"arch": "cnn", "shape": [3, 32, 32], "num_classes": 10**9}
    content = {"format": FORMAT, "weights": model.state_dict(), "training": None}
    torch.save({**content, "metadata": spec}, found[1])
    header = struct.pack("<Q", 10**10) + b'{"a":' + bytes(1000)
    found[2].write_bytes(header)
    found.append(folder / "claim.safetensors")
    entry = {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}
    text = json.dumps({"__metadata__": {FORMAT: "{}"}, "a": entry}).encode()
    found[3].write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))
    denoiser = torch.load(io.BytesIO(readers.checkpoint("denoiser.pt")))
    for number, change in enumerate(
        (
            {"block_out_channels": [8, 10**6]},
            {"layers_per_block": 10**9},
            {"in_channels": 10**9},
        )
    ):
        config = {**denoiser["metadata"]["config"], **change}
        found.append(folder / f"denoiser-{number}.pt")
        metadata = {**denoiser["metadata"], "config": config}
        torch.save({**denoiser, "metadata": metadata}, found[-1])
    found.append(folder / "denoiser-schedule.pt")
    schedule = {"num_train_timesteps": 10**10}
    metadata = {**denoiser["metadata"], "schedule": schedule}
    torch.save({**denoiser, "metadata": metadata}, found[-1])
    for name, data in (
        ("png", png(10**5, 10**5)),
        ("legal", png(13_000, 13_000)),
        ("bmp", bytes(bmp(10**5, 10**5))),
    ):
        ants = folder / name / "test" / "ant"
        ants.mkdir(parents=True)
        (ants / "0.png").write_bytes(data)
        found.append(folder / name)
    return found


def bmp(width, height):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "BMP")
    data = bytearray(buffer.getvalue())
    data[18:26] = struct.pack("<ii", width, height)
    return data


def test_small_files_that_ask_for_much_memory(tmp_path, model):
    paths = bombs(tmp_path, model)
    places = [ROOT, ROOT / "tests" / "fuzz"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FRUGAL, *map(str, paths)], text=True,
        capture_output=True, timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))},
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[-1:] == ["limited"], done.stderr
    legal = [line for line in lines if "legal" in line or line.startswith("FAULT")]
    assert legal == [], "its pixels are not decoded before they are asked for"
    assert sum(line.startswith("refused: ") for line in lines) == len(paths) - 1
    assert float(lines[-2].split()[1]) < 60


# --- Pictures -------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    for name in ("ant", "bee"):
        folder = tmp_path / "set" / "test" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "0.png")
    return tmp_path / "set"


def test_what_is_no_picture_is_refused_by_name(tree):
    first = tree / "test" / "ant" / "0.png"
    assert len(load_dataset(tree, "test")) == 2
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(run) system\n"
    for content in (b"", b"text", png(10**5, 10**5), eps, first.read_bytes()[:40]):
        first.write_bytes(content)
        for size in (None, 8):
            with pytest.raises(ValueError, match=r"0\.png cannot be read as an image"):
                load_dataset(tree, "test", size=size)[0]


def test_links_that_lead_in_a_circle(tree):
    (tree / "test" / "ant" / "more").symlink_to(tree / "test" / "bee")
    with pytest.raises(ValueError, match="is a folder met before"):
        load_dataset(tree, "test")
    (tree / "test" / "ant" / "more").unlink()
    for name in ("ant", "bee"):  # two ways at each of forty steps
        (tree / "test" / name / "up").symlink_to("..")
    began = time.perf_counter()
    with pytest.raises(ValueError, match="is a folder met before"):
        load_dataset(tree, "test")
    assert time.perf_counter() - began < 5


def test_links_to_files_and_folders_elsewhere_are_followed(tree, tmp_path):
    (tree / "test" / "bee").rename(tmp_path / "bees")
    (tree / "test" / "bee").symlink_to(tmp_path / "bees")
    assert load_dataset(tree, "test").classes == ["ant", "bee"]


def test_no_name_leads_out_of_the_folder_for_results(tree, tmp_path, monkeypatch):
    """Names of datasets and classes become parts of names of files."""
    from lipsmooth.sampling import sample_votes

    odd = tree / "test" / "..\n; rm -rf '$HOME' #"
    (tree / "test" / "bee").rename(odd)
    model = tmp_path / "m.pt"
    torch.manual_seed(0)
    save_checkpoint(model, build_model("cnn", shape=(3, 8, 8), num_classes=2))
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
    for name in (tree, tree / "test" / "..", tree / "." / "test" / ".."):
        log = sample_votes(
            model, name, sigma=0.5, n0=2, n=4, seed=0, cache_dir=tmp_path / "cache"
        )
        assert len(log) == 2
    after = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
    assert after == before
    logs = list((tmp_path / "cache").rglob("*.jsonl"))
    assert [path.parent for path in logs] == [tmp_path / "cache" / "votes"]


def test_the_command_line_tells_every_one_in_a_line(tmp_path, tree, capsys):
    path = tmp_path / "m.pt"
    path.write_bytes(readers.checkpoint("m.pt")[:500])
    (tmp_path / "log").write_bytes(PACKED * 100)
    for command in (
        ["sample", path, tmp_path / "out"],
        ["certify", tmp_path / "log"],
        ["analyze", tmp_path / "log"],
        ["export", path, tmp_path / "x.pt"],
    ):
        assert main([str(part) for part in command]) == 2
        text = capsys.readouterr().err
        assert text.startswith("lipsmooth: error: ")
        assert text.count("\n") == 1


# --- What no module does --------------------------------------------------------------

NEVER = {"eval", "exec", "compile", "system", "popen", "unsafe_load", "full_load"}
NEVER |= {"extract", "extractall", "unpack_archive", "read_pickle", "__import__"}


def suspicious(source):
    """Return the calls in a piece of code that could run what a file says."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names += [getattr(node, "module", None)]
            risky = {"pickle", "marshal", "shelve", "tarfile", "dill"}
            found += [name for name in names if name in risky]
        if not isinstance(node, ast.Call):
            continue
        owner = getattr(getattr(node.func, "value", None), "id", None)
        name = getattr(node.func, "attr", getattr(node.func, "id", None))
        options = {
            word.arg: getattr(word.value, "value", None) for word in node.keywords
        }
        torchs = name == "load" and owner == "torch"
        bare = isinstance(node.func, ast.Name)
        if name in NEVER and (bare or name not in ("eval", "exec", "compile")):
            found.append(name)
        if torchs and options.get("weights_only") is not True:
            found.append("torch.load")
        if name == "load" and owner in ("yaml", "np", "numpy", "pickle"):
            found.append(f"{owner}.load")
        if options.get("shell") or options.get("allow_pickle"):
            found.append(name)
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "lipsmooth").glob("*.py")))
def test_no_module_runs_what_it_reads(path):
    assert suspicious(path.read_text()) == []


def test_modules_that_did_would_be_noticed():
    for line in (
        "eval(line)", "import pickle", "from tarfile import open", "torch.load(path)",
        "torch.load(path, weights_only=False)", "yaml.load(text)", "os.system(text)",
        "subprocess.run(text, shell=True)", "np.load(path)", "archive.extractall()",
    ):  # fmt: skip
        assert suspicious(line), line
    assert suspicious("torch.load(path, weights_only=True); re.compile('a')") == []


def test_a_log_that_is_written_stays_in_bounds(tmp_path):
    """What is refused when read is not written in the first place."""
    config = {**readers.SHARED, "n0": 10, "n": 100}
    for key, value in (("n", 0), ("n", 2**60), ("sigma", -1.0), ("num_classes", 2.0)):
        with pytest.raises(ValueError, match=f"{key} must be"):
            LogWriter(tmp_path / "log", {**config, key: value}, {})
    assert not list(tmp_path.iterdir())
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
