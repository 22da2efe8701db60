"""What happens when the disk is full, a bit is flipped, or a process is killed."""

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import tqdm.std
from conftest import ROOT
from journal import record

from lipsmooth import records
from lipsmooth.attacklogs import AttackWriter, read_attack_log
from lipsmooth.cli import main
from lipsmooth.data import load_dataset
from lipsmooth.logs import LogWriter, read_log
from lipsmooth.marginlogs import MarginWriter, read_margin_log
from lipsmooth.sampling import sample_log
from lipsmooth.scorelogs import ScoreWriter, read_score_log
from lipsmooth.shards import shard_path
from lipsmooth.weightfiles import FORMAT, read_content, write_content

SHARED = {"num_classes": 2, "sigma": 0.5, "seed": 7}


def write_votes(path, indices=range(3)):
    with LogWriter(path, {**SHARED, "n0": 10, "n": 100}, {"device": "test"}) as log:
        for index in set(indices) - log.done:
            log.append(index, 1, [9, 1], [100 - index, index], 0.25)


def write_scores(path):
    config = {**SHARED, "n0": 10, "n": 100, "maps": ["softmax:1.0"]}
    with ScoreWriter(path, config, {"device": "test"}) as log:
        for index in range(3):
            moments = [[0.5, 0.25]], [[0.125, index / 16]]
            log.append(index, 1, moments, moments, 0.25)


def write_attacks(path):
    config = {**SHARED, "radii": [0.25, 0.5], "alpha": 0.1}
    with AttackWriter(path, config, {"device": "test"}) as log:
        for index, broken in enumerate([0.25, 0.5, np.inf]):
            log.append(index, 1, broken, 0.25)


def write_margins(path):
    config = {"num_classes": 2, "lipschitz": 4.0, "rounding": [1e-9, 1e-9]}
    with MarginWriter(path, config, {"device": "test"}) as log:
        for index in range(3):
            log.append(index, 1, [0.25, index / 16], 3.5, 0.25)


KINDS = {
    "votes": (write_votes, read_log),
    "scores": (write_scores, read_score_log),
    "attacks": (write_attacks, read_attack_log),
    "margins": (write_margins, read_margin_log),
}


def rows(log):
    """Return a log as plain values: its configuration, and its images by index."""
    columns = {
        name: value.tolist()
        for name, value in vars(log).items()
        if isinstance(value, np.ndarray)
    }
    images = zip(*columns.values(), strict=True)
    return log.config, dict(zip(columns["index"], images, strict=True))


# --- Damage to logs ---------------------------------------------------------------


def misreadings(path, read):
    """Flip every bit of a log of three images; return what was then read wrongly."""
    content = path.read_bytes()
    config, images = rows(read(path))
    ends = [k for k, byte in enumerate(content) if byte == ord("\n")]
    wrong = []
    with open(path, "r+b", buffering=0) as file:
        for position, byte in enumerate(content):
            line = int(np.searchsorted(ends, position))  # 0 is the header
            lost = {line - 1}
            if position in ends[:-1]:  # two lines have become one
                lost |= {line}
            left = {index: row for index, row in images.items() if index not in lost}
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), position)
                found = outcome(path, read)
                if found != ("refused" if line == 0 else (config, left)):
                    wrong.append((position, bit, found))
            os.pwrite(file.fileno(), bytes([byte]), position)
    assert path.read_bytes() == content
    return wrong


def outcome(path, read):
    """Return what is read, "refused", or "silent" if nothing was said of damage."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = rows(read(path))
        except ValueError as error:
            assert str(error).startswith(str(path))  # noqa: PT017
            return "refused"
    return found if caught else "silent"


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_costs_its_line_or_is_refused(tmp_path, kind):
    write, read = KINDS[kind]
    write(tmp_path / "log")
    assert misreadings(tmp_path / "log", read) == []


def test_without_checksums_flipped_bits_would_be_read_as_data(tmp_path, monkeypatch):
    def trusting(line):
        return json.loads(line)

    write_votes(tmp_path / "log")
    monkeypatch.setattr(records, "decode", trusting)
    assert len(misreadings(tmp_path / "log", read_log)) > 100


@pytest.mark.parametrize("kind", KINDS)
def test_cut_at_any_byte_it_goes_on_to_the_same_file(tmp_path, kind):
    write, read = KINDS[kind]
    path = tmp_path / "log"
    write(path)
    whole = path.read_bytes()
    images = rows(read(path))[1]
    ends = [k for k, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(ends[0] + 1, len(whole)):
        path.write_bytes(whole[:cut])
        kept = sum(end <= cut for end in ends[1:])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if kept:
                found = rows(read(path))[1]
                assert found == {i: images[i] for i in range(kept)}
            else:
                with pytest.raises(ValueError, match="has no images yet"):
                    read(path)
            if kind == "votes" and not cut % 5:
                write(path)
                assert path.read_bytes() == whole


# --- Damage to checkpoints ----------------------------------------------------------


CONTENT = {
    "format": FORMAT,
    "metadata": {"arch": "cnn", "sigma": 0.25},
    "weights": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1.5])},
    "training": None,
}


def same_content(found):
    weights, expected = found["weights"], CONTENT["weights"]
    metadata = {key: found["metadata"].get(key) for key in CONTENT["metadata"]}
    return (
        metadata == CONTENT["metadata"]
        and weights.keys() == expected.keys()
        and all(torch.equal(weights[name], expected[name]) for name in weights)
    )


@pytest.mark.parametrize("name", ["m.pt", "m.safetensors"])
def test_a_checkpoint_with_a_flipped_byte_is_whole_or_refused(tmp_path, name):
    path = tmp_path / name
    write_content(path, CONTENT)
    whole = path.read_bytes()
    bits = np.random.default_rng(0).integers(0, 8, len(whole))
    refused = 0
    with open(path, "r+b", buffering=0) as file:
        for position, bit in enumerate(bits.tolist()):
            os.pwrite(file.fileno(), bytes([whole[position] ^ 1 << bit]), position)
            try:
                assert same_content(read_content(path)), position
            except ValueError as error:
                assert "is truncated or not a checkpoint" in str(error)  # noqa: PT017
                refused += 1
            os.pwrite(file.fileno(), whole[position : position + 1], position)
    assert refused > len(whole) / 3
    for cut in range(0, len(whole), 31):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="is truncated or not a checkpoint"):
            read_content(path)


def test_pytorch_alone_would_load_flipped_weights(tmp_path):
    path = tmp_path / "m.pt"
    write_content(path, CONTENT)
    whole = path.read_bytes()
    damaged = whole.replace(np.float32(5).tobytes(), np.float32(-5).tobytes())
    assert damaged != whole
    path.write_bytes(damaged)
    assert not same_content(torch.load(path, weights_only=True))
    with pytest.raises(ValueError, match="is truncated or not a checkpoint"):
        read_content(path)


# --- Disks --------------------------------------------------------------------------


def run(code, *arguments, **options):
    """Run Python code that can import these tests; return what it printed."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], text=True, timeout=100,
        env={**os.environ, "PYTHONPATH": paths}, capture_output=True, **options,
    )  # fmt: skip


FULL = """
import resource, sys
from lipsmooth.logs import LogWriter
config = {"num_classes": 2, "sigma": 0.5, "seed": 7, "n0": 10, "n": 100}
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
done = 0
try:
    with LogWriter(sys.argv[1], config, {"device": "test"}) as log:
        for index in range(50):
            log.append(index, 1, [9, 1], [100 - index, index], 0.25)
            done += 1
except OSError as error:
    print(done, error)
"""


def test_a_full_disk_loses_the_image_in_flight_alone(tmp_path):
    path = tmp_path / "log"
    printed = run(FULL, path)
    assert printed.stderr == ""
    done, _, message = printed.stdout.partition(" ")
    assert "File too large" in message
    assert str(path) in message
    with pytest.warns(UserWarning, match="cut short; skipped"):
        assert read_log(path).index.tolist() == list(range(int(done)))
    assert 2 < int(done) < 50
    with pytest.warns(UserWarning, match="cut short"):
        write_votes(path, range(50))
    write_votes(tmp_path / "whole", range(50))
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_full_device_is_told_in_one_line(tmp_path, capsys):
    write_votes(tmp_path / "log")
    assert main(["certify", str(tmp_path / "log"), "--out", "/dev/full"]) == 2
    assert "No space left on device" in capsys.readouterr().err


def test_a_checkpoint_on_a_full_disk_leaves_the_old_one(tmp_path):
    path = tmp_path / "m.pt"
    write_content(path, CONTENT)
    before = path.read_bytes()
    large = {**CONTENT, "weights": {"a": torch.zeros(10_000)}}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_content(path, large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["m.pt"]


# Root may write everywhere, until it gives up the capability to.
ORDINARY = """
import ctypes, sys
kernel, header = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0)
powers = (ctypes.c_uint32 * 6)()
kernel.capget(header, powers)
for kind in (0, 1, 2):
    powers[kind] &= ~0b110  # to pass over the modes of files
assert kernel.capset(header, powers) == 0
"""
TRY = """
from lipsmooth.cli import main
from lipsmooth.logs import LogWriter
config = {"num_classes": 2, "sigma": 0.5, "seed": 7, "n0": 10, "n": 100}
log, new, *tables = sys.argv[1:]
for table in tables:
    print(main(["certify", log, "--out", table]))
for path in (log, new):
    try:
        LogWriter(path, config, {})
        print("opened")
    except OSError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
def test_a_folder_that_cannot_be_written(tmp_path):
    folder = tmp_path / "kept"
    paths = [folder / name for name in ("log", "new", "c.csv", "log.csv")]
    write_votes(paths[0])
    folder.chmod(0o555)
    paths[0].chmod(0o444)
    done = run(ORDINARY + TRY, *paths)
    said = done.stdout.splitlines()
    assert said[:2] == ["2", "2"]
    assert all(str(path) in line for path, line in zip(paths, said[2:], strict=False))
    for line in (*said[2:], *done.stderr.splitlines()):
        assert "[Errno 13] Permission denied" in line
    assert done.stderr.count("lipsmooth: error: ") == done.stderr.count("\n") == 2
    assert os.listdir(folder) == ["log"]
    folder.chmod(0o755)
    assert run(ORDINARY + TRY, *paths).stdout.split()[:2] == ["0", "0"]
    assert len(read_log(paths[0])) == 3


# --- Time ---------------------------------------------------------------------------


def test_a_clock_that_runs_backwards(tmp_path, monkeypatch):
    digits = load_dataset("digits", "test")

    def classify(x):
        return x.flatten(1)[:, :10]

    settings = {"sigma": 0.5, "n0": 5, "n": 20, "seed": 1, "indices": range(6)}
    sample_log(classify, digits, tmp_path / "a", progress=False, **settings)
    clock = iter(np.linspace(2e9, 0, 100_000).tolist())
    for owner in (time, tqdm.std):  # that of the progress bar, too
        monkeypatch.setattr(owner, "time", lambda: next(clock))
    half = {**settings, "indices": range(3)}
    sample_log(classify, digits, tmp_path / "b", progress=True, **half)
    sample_log(classify, digits, tmp_path / "b", progress=True, **settings)
    assert next(clock) < 2e9, "nobody has looked at the clock"
    assert settled(tmp_path / "a") == settled(tmp_path / "b")
    assert np.all(read_log(tmp_path / "b").seconds >= 0)


# --- Processes ----------------------------------------------------------------------


def settled(path):
    """Return the lines of a log without time and checksum: when, not what."""
    lines = []
    for line in Path(path).read_bytes().splitlines():
        found = records.decode(line)
        found.pop("seconds", None)
        found.get("provenance", {}).pop("started", None)
        lines.append(json.dumps(found))
    return lines


def test_what_is_compared_after_a_kill(tmp_path):
    write_votes(tmp_path / "a")
    write_votes(tmp_path / "b", [0, 1])
    assert settled(tmp_path / "a") != settled(tmp_path / "b")
    write_votes(tmp_path / "b")
    assert settled(tmp_path / "a") == settled(tmp_path / "b")
    write_votes(tmp_path / "c", [0, 1])
    with LogWriter(
        tmp_path / "c", {**SHARED, "n0": 10, "n": 100}, {"device": "test"}
    ) as log:
        log.append(2, 1, [9, 1], [97, 3], 0.25)
    assert settled(tmp_path / "a") != settled(tmp_path / "c")


HOLD = """
import sys
from lipsmooth.logs import LogWriter
config = {"num_classes": 2, "sigma": 0.5, "seed": 7, "n0": 10, "n": 100}
with LogWriter(sys.argv[1], config, {}) as log:
    log.append(0, 1, [9, 1], [100, 0], 0.25)
    print("held", flush=True)
    sys.stdin.read()
    log.append(1, 1, [9, 1], [99, 1], 0.25)
"""


def test_another_process_holds_the_log_until_it_is_killed(tmp_path):
    path = tmp_path / "log"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match="is being written by another process"):
            write_votes(path)
        assert read_log(path).index.tolist() == [0]
    finally:
        holder.kill()
        holder.communicate()
    write_votes(path)
    assert read_log(path).index.tolist() == [0, 1, 2]


# --- Kills: `make faults` -----------------------------------------------------------

SETTINGS = ["-n", "2000", "--images", "40", "--quiet"]


class Alone:
    """A command in a process of its own, forked from one that has imported all."""

    def __init__(self, arguments, output):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["lipsmooth.commands"])
        self.output = output
        self.process = context.Process(target=told, args=(arguments, output))
        self.process.start()

    def running(self):
        return self.process.is_alive()

    def kill(self, rng):
        self.process.kill()

    def wait(self):
        """Return the exit status, and what was said."""
        self.process.join(300)
        text = self.output.read_text() if self.output.exists() else ""
        return self.process.exitcode, text


class Pair(Alone):
    """The command under torchrun, as two workers; a group, to be killed together."""

    def __init__(self, arguments, output):
        launcher = ["torch.distributed.run", "--nproc-per-node", "2"]
        launcher += ["--master-port", "0", "-m", "lipsmooth"]
        self.output = output
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *launcher, *arguments], start_new_session=True,
                cwd=ROOT, stdout=file, stderr=file,
            )  # fmt: skip

    def running(self):
        return self.process.poll() is None

    def kill(self, rng):
        """Kill one of the workers or, as often, both and their launcher."""
        pid = self.process.pid
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        lines = {int(c): Path(f"/proc/{c}/cmdline").read_bytes() for c in listed}
        workers = [child for child, line in lines.items() if b"lipsmooth" in line]
        if workers and rng.random() < 0.5:
            os.kill(workers[int(rng.integers(len(workers)))], signal.SIGKILL)
        else:
            for child in workers:
                os.kill(child, signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)

    def wait(self):
        return self.process.wait(300), self.output.read_text()


def told(arguments, output):
    """Run a command, and keep what it says on standard error."""
    with output.open("w", buffering=1) as sys.stderr:
        sys.exit(main(arguments))


def images(paths):
    return sum(path.read_bytes().count(b"\n") - 1 for path in paths if path.exists())


def killed(kind, checkpoint, folder, rng, duration):
    """Kill one run at a random moment and repeat its command; return what came of it.

    The moment is drawn between the start of sampling and its end; in every tenth run
    it is before sampling has started.
    """
    path, workers = folder / "log", 2 if kind is Pair else 1
    shards = [shard_path(path, rank, workers) for rank in range(workers)]
    arguments = ["sample", str(checkpoint), str(path), *SETTINGS]
    early, share = rng.random() < 0.1, rng.random()
    first = kind(arguments, folder / "first")
    if early:
        time.sleep(share / 2)
    else:
        while first.running() and not all(map(Path.exists, shards)):
            time.sleep(0.001)
        time.sleep(0.9 * share * duration)
    running = first.running()
    if running:
        first.kill(rng)
    status, _ = first.wait()
    at = images(shards)
    again, text = kind(arguments, folder / "again").wait()
    assert again == 0, text
    return {
        "struck": running and status != 0, "at": at, "torn": "cut short" in text,
        "lines": [*map(settled, shards)],
    }  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "m.pt"
    training = ["--sigma", "0.5", "--epochs", "4", "--seed", "1", "--quiet"]
    assert main(["train", str(path), *training]) == 0
    return path


@pytest.mark.faults
@pytest.mark.parametrize(("kind", "workers", "wanted"), [(Alone, 1, 42), (Pair, 2, 8)])
def test_killed_fifty_times_it_ends_with_the_same_log(
    tmp_path, checkpoint, kind, workers, wanted
):
    rng = np.random.default_rng(20)
    results, began = [], time.monotonic()
    whole = tmp_path / "whole"
    shards = [shard_path(whole, rank, workers) for rank in range(workers)]
    arguments = ["sample", str(checkpoint), str(whole), *SETTINGS]
    run = kind(arguments, tmp_path / "output")
    while run.running() and not all(map(Path.exists, shards)):
        time.sleep(0.001)
    opened = time.time()
    status, text = run.wait()
    assert status == 0, text
    duration = max(path.stat().st_mtime for path in shards) - opened
    expected = [*map(settled, shards)]
    while len(results) < wanted:
        with tempfile.TemporaryDirectory(dir=tmp_path) as name:
            found = killed(kind, checkpoint, Path(name), rng, duration)
        if not found.pop("struck"):  # it was done before the signal came
            duration *= 0.9
            continue
        found["same"] = found.pop("lines") == expected
        results.append(found)
        print(f"{len(results)}: {results[-1]}", flush=True)
        result = {
            "kills": len(results),
            "identical": sum(found["same"] for found in results),
            "torn_lines": sum(found["torn"] for found in results),
            "images": int(SETTINGS[SETTINGS.index("--images") + 1]),
            "images_at_the_kill": sorted(found["at"] for found in results),
            "minutes": round((time.monotonic() - began) / 60, 1),
        }
        record(f"kills of {workers} workers" if workers > 1 else "kills", result)
    assert result["identical"] == wanted
    assert len(set(result["images_at_the_kill"])) > wanted / 5, "always at one moment"


@pytest.mark.faults
def test_two_commands_on_one_log(tmp_path, checkpoint):
    arguments = ["sample", str(checkpoint), str(tmp_path / "log"), *SETTINGS]
    both = [Alone(arguments, tmp_path / name) for name in ("first", "second")]
    found = sorted(process.wait() for process in both)
    assert [status for status, _ in found] == [0, 2], found
    assert "is being written by another process" in found[1][1]
    assert main(["sample", str(checkpoint), str(tmp_path / "one"), *SETTINGS]) == 0
    assert settled(tmp_path / "log") == settled(tmp_path / "one")
