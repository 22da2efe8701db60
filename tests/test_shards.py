"""Logs in shards: read together they are the log of one worker."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lipsmooth.cli import main
from lipsmooth.logs import LogWriter, read_log
from lipsmooth.shards import find_files, read_shards, shard_path, worker
from lipsmooth.train import trained_classifier

CONFIG = {"num_classes": 2, "sigma": 0.5, "n0": 4, "n": 20, "seed": 7}


def write(path, indices, config=CONFIG, votes=15):
    with LogWriter(path, config, {}) as log:
        for index in indices:
            log.append(index, 1, [3, 1], [votes, 20 - votes], 0.1)


@pytest.fixture
def base(tmp_path):
    return tmp_path / "v[1].jsonl"  # brackets mean something in a pattern


def three(base):
    for rank in range(3):
        write(shard_path(base, rank, 3), range(rank, 11, 3))


def test_where_a_worker_writes(base):
    assert shard_path(base, 0, 1) == base
    assert shard_path(base, 1, 3).name == "v[1].jsonl.1-of-3"


def test_who_a_worker_is(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert worker() == (0, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert worker() == (2, 3)
    for rank, world in (("3", "3"), ("-1", "3"), ("x", "3"), ("0", "0")):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", world)
        with pytest.raises(ValueError, match=f"got '{rank}' and '{world}'"):
            worker()


def test_by_base_name_pattern_or_list(base):
    three(base)
    shards = [shard_path(base, rank, 3) for rank in range(3)]
    pattern = f"{base.parent}/*.jsonl.*-of-3"
    for named in (
        [base],
        [str(base)],
        [pattern],
        shards,
        shards[::-1],
        [base, pattern],
    ):
        log = read_shards(*named)
        assert log.index.tolist() == list(range(11))
        assert set(find_files(*named)) == set(shards)
    assert log.config == CONFIG
    assert log.counts_estimation.shape == (11, 2)
    assert log.decision is None


def test_one_file_is_read_as_ever(base):
    write(base, [4, 2])
    log = read_shards(base)
    assert log.index.tolist() == [2, 4]
    write(base.with_name("other.jsonl.backup"), [9])
    assert read_shards(base).index.tolist() == [2, 4]


def test_a_missing_shard_is_named(base):
    three(base)
    shard_path(base, 1, 3).rename(base.parent / "elsewhere")
    for named in (base, shard_path(base, 0, 3), f"{base.parent}/*of-3"):
        with pytest.raises(ValueError, match=r"missing: .*jsonl\.1-of-3; finish"):
            read_shards(named)
    write(shard_path(base, 1, 3), [])
    with pytest.raises(ValueError, match=r"1-of-3: the vote log has no images yet"):
        read_shards(base)


def test_one_shard_is_not_the_log(base):
    three(base)
    with pytest.raises(
        ValueError, match=r"missing: .*0-of-3, .*2-of-3; name .* to read"
    ):
        read_shards(shard_path(base, 1, 3))


def test_unfinished_shards_are_told(base):
    three(base)
    shard_path(base, 1, 3).unlink()
    write(shard_path(base, 1, 3), [1])
    with pytest.warns(UserWarning, match=r"hold \[4, 1, 3\] images: .* not finished"):
        assert len(read_shards(base)) == 8


@pytest.mark.parametrize(("key", "value"), [("seed", 8), ("sigma", 0.25), ("new", 1)])
def test_other_settings_do_not_mix(base, key, value):
    three(base)
    shard_path(base, 2, 3).unlink()
    write(shard_path(base, 2, 3), [2, 5, 8], {**CONFIG, key: value})
    with pytest.raises(ValueError, match=f"{key} = .*2-of-3 {key} = {value}"):
        read_shards(base)


def test_overlaps_must_agree(base):
    three(base)
    write(base, range(20))
    assert read_shards(base).index.tolist() == list(range(20))
    write(base, [20])
    write(shard_path(base, 0, 2), [1])
    write(shard_path(base, 1, 2), [6], votes=16)
    with pytest.raises(ValueError, match=r"(1-of-2|jsonl) contradicts .* image 6"):
        read_shards(base)


def test_nothing(base):
    for named in (base, f"{base.parent}/*.jsonl"):
        with pytest.raises(FileNotFoundError, match="No such file: no vote log"):
            read_shards(named)


# Two real processes


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return str(trained_classifier("digits", sigma=0.5, epochs=6, cache_dir=folder))


def torchrun(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", "0", "-m", "lipsmooth", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def ranks_of(launcher):
    """Return {shard number: process id} of the workers that a launcher started."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            environment = (status.parent / "environ").read_bytes().split(b"\0")
        except OSError:  # gone, or not ours
            continue
        if parent == launcher.pid:
            values = dict(e.split(b"=", 1) for e in environment if b"=" in e)
            found[int(values[b"RANK"])] = int(status.parent.name)
    return found


def same(log, reference):
    for name in ("index", "label", "counts_selection", "counts_estimation", "decision"):
        np.testing.assert_array_equal(getattr(log, name), getattr(reference, name))
    assert log.config == reference.config


@pytest.mark.parametrize("aim", [[], ["--target-radius", "0.6"]])
def test_two_processes_count_the_same_votes(checkpoint, tmp_path, aim):
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    settings = ["-n", "2000", "--images", "21", "--quiet", *aim]
    assert main(["sample", checkpoint, str(one), *settings]) == 0
    launcher = torchrun("sample", checkpoint, two, *settings)
    output = launcher.communicate(timeout=300)[0].decode()
    assert launcher.returncode == 0, output
    assert not two.exists()
    assert [len(read_log(shard_path(two, rank, 2))) for rank in (0, 1)] == [11, 10]
    same(read_shards(two), read_log(one))
    tables = []
    for log in (one, two):
        out = str(tmp_path / "c.csv")
        assert main(["certify", str(log), "--out", out]) == 0
        tables.append(pd.read_csv(out))
        assert main(["analyze", str(log)]) == 0
    pd.testing.assert_frame_equal(*tables)
    # Certificates must not take the place of votes.
    for out in (two, shard_path(two, 1, 2)):
        assert main(["certify", str(two), "--out", str(out)]) == 2


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_one_of_two_processes_is_killed_and_the_command_repeated(checkpoint, tmp_path):
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    settings = ["-n", "6000", "--images", "60", "--quiet"]
    victim = shard_path(two, 1, 2)
    launcher = torchrun("sample", checkpoint, two, *settings)
    deadline = time.monotonic() + 200
    while not (victim.exists() and victim.read_bytes().count(b"\n") >= 3):
        assert time.monotonic() < deadline
        assert launcher.poll() is None, launcher.communicate()[0].decode()
        time.sleep(0.005)
    os.kill(ranks_of(launcher)[1], signal.SIGKILL)
    launcher.communicate(timeout=300)
    assert launcher.returncode != 0
    assert 2 <= len(read_log(victim)) < 30
    launcher = torchrun("sample", checkpoint, two, *settings)
    output = launcher.communicate(timeout=300)[0].decode()
    assert launcher.returncode == 0, output
    assert main(["sample", checkpoint, str(one), *settings]) == 0
    same(read_shards(two), read_log(one))


def test_more_workers_than_images(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    path = str(tmp_path / "v.jsonl")
    assert main(["sample", checkpoint, path, "--images", "3", "--quiet"]) == 2
    assert "4 workers for 3 images; start fewer" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
