import json
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest

from lipsmooth.logs import LogWriter, read_log

CONFIG = {"num_classes": 3, "sigma": 0.5, "n0": 10, "n": 100, "seed": 7, "model": "ab"}


def votes(index):
    return [10, 0, 0], [90 - index % 50, 10, index % 50]


def write(path, indices, config=CONFIG, **kwargs):
    with LogWriter(path, config, {"device": "test"}, **kwargs) as log:
        for index in indices:
            if index not in log.done:
                log.append(index, index % 3, *votes(index), 0.25)


def line(record):
    payload = json.dumps(record)
    return f'{payload[:-1]}, "crc32": "{zlib.crc32(payload.encode()):08x}"}}\n'


def row(index, **changes):
    selection, estimation = votes(index)
    return {
        "index": index, "label": index % 3, "selection": selection,
        "estimation": estimation, "seconds": 0.25, **changes,
    }  # fmt: skip


def check(log, indices):
    assert log.index.tolist() == sorted(indices)
    for position, index in enumerate(log.index):
        selection, estimation = votes(index)
        assert log.counts_selection[position].tolist() == selection
        assert log.counts_estimation[position].tolist() == estimation
    assert log.label.tolist() == [index % 3 for index in sorted(indices)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "votes.jsonl"


def test_round_trip(path):
    write(path, [5, 0, 3])
    log = read_log(path)
    check(log, [0, 3, 5])
    assert log.config == CONFIG
    assert log.provenance == {"device": "test"}
    assert log.counts_estimation.dtype == np.int64
    assert log.seconds.tolist() == [0.25] * 3
    assert len(log) == 3
    assert log.select([5, 0]).label.tolist() == [2, 0]
    with pytest.raises(ValueError, match="no votes for image 4"):
        log.select([0, 4])


def test_every_line_is_json_and_on_disk_at_once(path):
    with LogWriter(path, CONFIG, {}) as log:
        for index in range(3):
            log.append(index, 0, *votes(index), 0.0)
            lines = path.read_text().splitlines()
            assert len(lines) == index + 2
            assert json.loads(lines[-1])["index"] == index
    assert json.loads(lines[0])["config"] == CONFIG


@pytest.mark.parametrize("seed", range(30))
def test_cut_anywhere_it_loses_one_line_at_most(path, seed):
    write(path, range(4))
    whole = path.read_bytes()
    ends = [k + 1 for k, byte in enumerate(whole) if byte == ord("\n")]
    cut = int(np.random.default_rng(seed).integers(0, len(whole) + 1))
    path.write_bytes(whole[:cut])
    # A line whose newline alone is missing is complete.
    kept = sum(end - 1 <= cut for end in ends[1:])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if kept:
            check(read_log(path), range(kept))
        else:
            with pytest.raises(ValueError, match=r"votes\.jsonl: the vote log has no"):
                read_log(path)
        with LogWriter(path, CONFIG, {"device": "test"}) as log:
            assert log.done == set(range(kept))
    assert all("cut short" in str(warning.message) for warning in caught)
    write(path, range(4))
    assert path.read_bytes() == whole


def test_an_empty_file_is_an_empty_log(path):
    path.touch()
    write(path, [1])
    check(read_log(path), [1])


def test_a_tail_of_zeros_after_a_power_cut(path):
    write(path, range(2))
    with open(path, "ab") as file:
        file.write(bytes(300))
    with pytest.warns(UserWarning, match="line 4 is cut short"):
        write(path, range(3))
    check(read_log(path), range(3))


@pytest.mark.parametrize("how", ["flip", "garbage", "merge"])
def test_a_damaged_line_in_the_middle_costs_that_line(path, how):
    write(path, range(5))
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = {
        "flip": lines[3].replace(b"[88, 10, 2]", b"[89, 10, 1]"),
        "garbage": b"\xff\x00 not JSON\n",
        "merge": lines[3][:30] + lines[3],
    }[how]
    path.write_bytes(b"".join(lines))
    with pytest.warns(UserWarning, match=r"votes\.jsonl: line 4 is damaged; skipped"):
        check(read_log(path), [0, 1, 3, 4])
    with pytest.warns(UserWarning, match="line 4"):
        write(path, range(5))
    with pytest.warns(UserWarning, match="line 4"):
        check(read_log(path), range(5))


def test_a_damaged_header(path):
    write(path, [0])
    path.write_bytes(path.read_bytes().replace(b'"sigma": 0.5', b'"sigma": 0.6'))
    for use in (read_log, lambda p: LogWriter(p, CONFIG, {})):
        with pytest.raises(ValueError, match="line 1, the header, is damaged"):
            use(path)


def test_repeated_lines(path):
    write(path, range(2))
    good = path.read_text()
    path.write_text(good + line(row(1, seconds=9.0)))
    check(read_log(path), range(2))
    path.write_text(good + line(row(1, estimation=[90, 10, 0])))
    with pytest.raises(ValueError, match=r"line 4 contradicts .* image 1"):
        read_log(path)
    path.write_text(good + line(row(1, label=0)))
    with pytest.raises(ValueError, match="contradicts"):
        read_log(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"estimation": [90, 10, 1]}, r"\[90, 10, 1\] do not sum to n = 100"),
        ({"estimation": [110, -10, 0]}, r"-10, 0\] do not sum"),
        ({"selection": [1, 0, 0]}, r"do not sum to n0 = 10"),
        ({"estimation": [90, 10]}, "2 classes, not 3"),
    ],
)
def test_rows_that_contradict_the_header(path, changes, message):
    write(path, [0])
    with open(path, "a") as file:
        file.write(line(row(1, **changes)))
    with pytest.raises(ValueError, match=rf"line 3: .*{message}"):
        read_log(path)


CODE = "__import__('pathlib').Path('/tmp/lipsmooth-was-run').touch()"


@pytest.mark.parametrize(
    "payload",
    [
        CODE,
        f"[{CODE}]",
        json.dumps([CODE]),
        json.dumps(CODE),
        json.dumps(row(1, estimation=CODE)),
        json.dumps(row(1, estimation=[CODE, 10, 0])),
        json.dumps(row(1, selection={"10": CODE})),
        json.dumps({**row(1), "index": CODE}),
        json.dumps(row(1, seconds=CODE)),
        json.dumps(row(1, label=None)),
        json.dumps(row(1, estimation=[90.0, 10, 0])),
        json.dumps(row(1, estimation=[True, 99, 0])),
        "[" * 100_000,
        "{}",
    ],
)
@pytest.mark.parametrize("forged", [True, False])
def test_a_line_of_code_is_data(path, monkeypatch, payload, forged):
    """With a right checksum it is an error that names the line; else it is damage."""

    def run(*_):
        raise AssertionError("something was run")

    for name in ("builtins.eval", "builtins.exec", "os.system"):
        monkeypatch.setattr(name, run)
    write(path, [0])
    written = path.read_bytes()
    if forged:
        head = payload.removesuffix("}")
        checksum = zlib.crc32(f"{head}}}".encode())
        text = f'{head}, "crc32": "{checksum:08x}"}}\n'
        path.write_bytes(written + text.encode())
        for use in (read_log, lambda p: LogWriter(p, CONFIG, {})):
            with pytest.raises(ValueError, match=r"votes\.jsonl: line 3"):
                use(path)
    else:
        path.write_bytes(written + payload.encode() + b"\n" + written.split(b"\n")[1])
        with pytest.warns(UserWarning, match="line 3 is damaged; skipped"):
            check(read_log(path), [0])
    assert not Path("/tmp/lipsmooth-was-run").exists()


def test_wrong_counts_are_not_written(path):
    with LogWriter(path, CONFIG, {}) as log:
        with pytest.raises(ValueError, match=r"image 3: .* do not sum to n = 100"):
            log.append(3, 0, [10, 0, 0], [1, 2, 3], 0.0)
        assert log.done == set()
    assert len(path.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("key", "value"), [("sigma", 0.25), ("n", 101), ("seed", 8), ("model", "cd")]
)
def test_resuming_with_other_settings_is_refused(path, key, value):
    write(path, [0])
    before = path.read_bytes()
    with pytest.raises(
        ValueError, match=rf"{key} = '?{CONFIG[key]}'?, not '?{value}'?"
    ):
        write(path, [1], {**CONFIG, key: value})
    with pytest.raises(ValueError, match="extra = None, not 1"):
        write(path, [1], {**CONFIG, "extra": 1})
    assert path.read_bytes() == before


def test_an_incomplete_configuration(path):
    with pytest.raises(ValueError, match="seed"):
        LogWriter(path, {"num_classes": 2, "sigma": 1.0, "n0": 1, "n": 1}, {})


@pytest.mark.parametrize("text", ["idx,label\n0,1\n", "PNG", '{"format": "x"}\n', "\n"])
def test_other_files_are_refused_and_untouched(path, text):
    path.write_text(text)
    for use in (read_log, lambda p: LogWriter(p, CONFIG, {})):
        with pytest.raises(ValueError, match=r"votes\.jsonl.*(not a vote|damaged)"):
            use(path)
    assert path.read_text() == text


def test_missing(path):
    with pytest.raises(FileNotFoundError, match=r"votes\.jsonl"):
        read_log(path)


def test_two_writers_cannot_mix(path):
    with LogWriter(path, CONFIG, {}) as log:
        with pytest.raises(ValueError, match=r"votes\.jsonl is being written"):
            LogWriter(path, CONFIG, {})
        log.append(0, 0, *votes(0), 0.0)
    write(path, range(2))
    check(read_log(path), range(2))


def test_a_writer_can_wait_for_another(path):
    code = (
        "import sys; from lipsmooth.logs import LogWriter\n"
        f"with LogWriter(sys.argv[1], {CONFIG}, {{}}, wait=True) as log:\n"
        "    print(sorted(log.done))\n"
    )
    with LogWriter(path, CONFIG, {}) as log:
        command = [sys.executable, "-c", code, str(path)]
        waiting = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        time.sleep(1.0)
        assert waiting.poll() is None
        log.append(4, 1, *votes(4), 0.0)
    assert waiting.communicate(timeout=120)[0] == "[4]\n"


def test_ten_thousand_images_are_read_quickly(path):
    record = {"format": "lipsmooth-votes", "version": 1, "config": CONFIG}
    lines = [line({**record, "provenance": {}}), *(line(row(k)) for k in range(10_000))]
    path.write_text("".join(lines))
    began = time.perf_counter()
    log = read_log(path)
    # It takes a tenth of a second; quadratic code would take minutes.
    assert time.perf_counter() - began < 5
    check(log, range(10_000))
