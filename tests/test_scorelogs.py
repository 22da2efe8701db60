import json
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest

from lipsmooth.certify import ABSTAIN
from lipsmooth.cli import main
from lipsmooth.logs import read_log
from lipsmooth.records import encode
from lipsmooth.scorelogs import (
    ScoreWriter,
    SimplexMap,
    parse_maps,
    read_score_log,
)
from lipsmooth.scores import certify_scores
from lipsmooth.shards import read_shards, shard_path
from lipsmooth.tables import certificate_table, read_certificates

MAPS = ["softmax:0.1", "sparsemax:2.0", "hardmax:1.0"]
CONFIG = {
    "num_classes": 4, "sigma": 0.5, "n0": 10, "n": 2000, "seed": 7, "maps": MAPS,
}  # fmt: skip


def moments(index, part):
    rng = np.random.default_rng([index, part])
    mean = rng.dirichlet([9, 1, 1, 1], size=3)
    return mean, mean * (1 - mean) * rng.uniform(size=(3, 4))


def write(path, indices, config=CONFIG):
    with ScoreWriter(path, config, {"device": "test"}) as log:
        for index in indices:
            if index not in log.done:
                log.append(index, index % 2, moments(index, 0), moments(index, 1), 0.1)


def check(log, indices):
    assert log.index.tolist() == list(indices)
    for row, index in enumerate(indices):
        for part, names in enumerate(
            [("mean_selection", "variance_selection"), ("mean", "variance")]
        ):
            for name, expected in zip(names, moments(index, part), strict=True):
                np.testing.assert_array_equal(getattr(log, name)[row], expected)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "scores.jsonl"


class TestSimplexMap:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("softmax:1", ("softmax", 1.0)),
            ("sparsemax:1e-7", ("sparsemax", 1e-7)),
            ("hardmax", ("hardmax", 1.0)),
        ],
    )
    def test_reading(self, text, expected):
        found = SimplexMap.parse(text)
        assert found == expected
        assert SimplexMap.parse(str(found)) == found

    def test_every_temperature_survives_being_written(self):
        for temperature in 1 / np.linspace(0.1, 50, 100):
            each = SimplexMap("softmax", float(temperature))
            assert SimplexMap.parse(str(each)) == each

    @pytest.mark.parametrize(
        "text",
        ["", "softmin:1", "softmax:", "softmax:x", "softmax:0", "softmax:-1",
         "softmax:inf", "softmax:nan", "softmax:1:2", SimplexMap("softmax", 0.0)],
    )  # fmt: skip
    def test_nonsense(self, text):
        with pytest.raises(ValueError, match=r"sparsemax:0\.5; got"):
            SimplexMap.parse(text)

    def test_lists(self):
        assert parse_maps("softmax:2") == (("softmax", 2.0),)
        with pytest.raises(ValueError, match="at least one"):
            parse_maps([])
        with pytest.raises(ValueError, match=r"hardmax:1\.0 twice"):
            parse_maps(["hardmax", "softmax", "hardmax:1"])


def test_round_trip_names_the_very_floats(path):
    write(path, [5, 0, 3])
    log = read_score_log(path)
    check(log, [0, 3, 5])
    check(log.select([5, 0]), [5, 0])
    assert log.config == CONFIG
    assert log.provenance == {"device": "test"}
    assert (len(log), log.n0, log.n, log.label.tolist()) == (3, 10, 2000, [0, 1, 1])
    assert log.maps == tuple(map(SimplexMap.parse, MAPS))
    with pytest.raises(ValueError, match="no scores for image 4"):
        log.select([4])


def test_one_map_of_several(path):
    write(path, range(3))
    log = read_score_log(path)
    alone = log.only("sparsemax:2")
    assert alone.maps == (SimplexMap("sparsemax", 2.0),)
    np.testing.assert_array_equal(alone.mean, log.mean[:, 1:2])
    np.testing.assert_array_equal(
        alone.variance_selection, log.variance_selection[:, 1:2]
    )
    with pytest.raises(ValueError, match=r"no map softmax:3\.0; it has softmax:0\.1, "):
        log.only("softmax:3")


@pytest.mark.parametrize("seed", range(15))
def test_cut_anywhere_it_loses_one_line_at_most(path, seed):
    write(path, range(4))
    whole = path.read_bytes()
    ends = [k + 1 for k, byte in enumerate(whole) if byte == ord("\n")]
    cut = int(np.random.default_rng(seed).integers(0, len(whole) + 1))
    path.write_bytes(whole[:cut])
    kept = sum(end - 1 <= cut for end in ends[1:])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if kept:
            check(read_score_log(path), range(kept))
        else:
            with pytest.raises(ValueError, match=r"scores\.jsonl: the score log has"):
                read_score_log(path)
        write(path, range(4))
    assert all("cut short" in str(warning.message) for warning in caught)
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": [[0.1] * 4] * 2}, "mean must be 3 lists of 4 each"),
        ({"mean": [[0.1] * 3] * 3}, "mean must be 3 lists of 4"),
        ({"mean": [[1.1, 0, 0, 0]] * 3}, r"mean has '1\.1', outside \[0, 1\]"),
        ({"mean": [[-0.1, 0, 0, 0]] * 3}, "outside"),
        ({"mean": [["x", 0, 0, 0]] * 3}, "outside"),
        ({"mean": [[True, 0, 0, 0]] * 3}, "outside"),
        ({"variance": [[0.26, 0, 0, 0]] * 3}, r"\[0, 0\.250125\]"),
        ({"variance_selection": [[0.28, 0, 0, 0]] * 3}, r"\[0, 0\.277778\]"),
        ({"variance": None}, "variance must be"),
        ({"label": None}, "not a number where one is due"),
        ({"seconds": "now"}, "not a number where one is due"),
    ],
)
def test_rows_that_contradict_the_header(path, changes, message):
    write(path, [0])
    row = json.loads(path.read_text().splitlines()[1])
    del row["crc32"]
    with open(path, "ab") as file:
        file.write(encode({**row, "index": 1, **changes}))
    with pytest.raises(ValueError, match=rf"line 3: .*{message}"):
        read_score_log(path)


def test_nan_in_a_row(path):
    write(path, [0])
    text = path.read_text().splitlines()[1]
    with ScoreWriter(path, CONFIG, {}) as log:
        mean, variance = moments(1, 0)
        with pytest.raises(ValueError, match="image 1: mean has 'nan'"):
            log.append(1, 0, (mean, variance), (mean * np.nan, variance), 0.0)
        assert log.done == {0}
    assert path.read_text().splitlines()[1:] == [text]


def test_resuming_with_other_settings_is_refused(path):
    write(path, [0])
    for key, value in (("maps", MAPS[:2]), ("n", 3), ("sigma", 1.0)):
        with pytest.raises(ValueError, match=f"was sampled with {key} = "):
            write(path, [1], {**CONFIG, key: value})
    with pytest.raises(ValueError, match=r"score log needs \['maps'\]"):
        ScoreWriter(path, {k: v for k, v in CONFIG.items() if k != "maps"}, {})


def test_contradicting_lines(path):
    write(path, [0])
    row = json.loads(path.read_text().splitlines()[1])
    del row["crc32"]
    row["mean"][1][2] /= 2
    with open(path, "ab") as file:
        file.write(encode(row))
    with pytest.raises(ValueError, match="contradicts an earlier line about image 0"):
        read_score_log(path)


def test_the_two_kinds_of_log_are_not_mistaken_for_one_another(path, tmp_path):
    write(path, [0])
    with pytest.raises(ValueError, match="is not a vote log"):
        read_log(path)
    votes = tmp_path / "votes.jsonl"
    votes.write_text('{"format": "lipsmooth-votes", "version": 1}\n')
    with pytest.raises(ValueError, match="is not a score log"):
        read_score_log(votes)


def test_shards_are_read_together(path):
    for rank in range(2):
        write(shard_path(path, rank, 2), range(rank, 6, 2))
    log = read_shards(path)
    check(log, range(6))
    write(shard_path(path, 1, 2), [0])  # of the other shard, and equal
    write(shard_path(path, 1, 2), [8, 10])
    with pytest.warns(UserWarning, match="not finished"):
        log = read_shards(path)
    check(log, [*range(6), 8, 10])


def test_shards_that_contradict(path, tmp_path):
    write(path, [0, 1])
    other = tmp_path / "other.jsonl"
    with ScoreWriter(other, CONFIG, {}) as log:
        log.append(1, 1, moments(1, 0), moments(2, 1), 0.1)
    with pytest.raises(ValueError, match=r"contradicts .* image 1"):
        read_shards(path, other)
    write(other.with_suffix(".x"), [2], {**CONFIG, "seed": 8})
    with pytest.raises(ValueError, match="seed"):
        read_shards(path, other.with_suffix(".x"))


class TestCertifying:
    def test_a_table_is_that_of_the_named_map(self, path):
        write(path, range(8))
        log = read_score_log(path)
        table = certificate_table(log, alpha=0.05, map="sparsemax:2")
        expected = certify_scores(
            log.mean_selection[:, 1], log.mean[:, 1], log.variance[:, 1], 2000,
            sigma=0.5, alpha=0.05,
        )  # fmt: skip
        np.testing.assert_array_equal(table["radius"], expected.radius)
        np.testing.assert_array_equal(table["predict"], expected.prediction)
        assert (expected.prediction != ABSTAIN).any()
        assert set(table["map"]) == {"sparsemax:2.0"}
        assert set(table["strategy"]) == {"lvmrs"}
        assert set(table["n"]) == {2000}
        again = read_certificates(path, alpha=0.05, map="sparsemax:2")
        pd.testing.assert_frame_equal(table, again)
        alone = certificate_table(log.only("sparsemax:2"), alpha=0.05)
        pd.testing.assert_frame_equal(table, alone)
        planned = certificate_table(log, alpha=0.05, map=MAPS[0], strategy="planned")
        assert set(planned["strategy"]) == {"planned"}

    def test_choosing_on_these_images_is_refused(self, path):
        write(path, [0])
        log = read_score_log(path)
        with pytest.raises(ValueError, match=r"3 maps, .*chosen on other images"):
            certificate_table(log, alpha=0.05)
        with pytest.raises(ValueError, match="scores take no coins"):
            certificate_table(log, alpha=0.05, map=MAPS[0], randomize_seed=1)
        with pytest.raises(ValueError, match="strategy"):
            certificate_table(log, alpha=0.05, map=MAPS[0], strategy="cpm")


def fails(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 2
    text = capsys.readouterr().err
    assert text.startswith("lipsmooth: error: ")
    assert text.count("\n") == 1
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli-scores")
    model, log = str(path / "m.pt"), str(path / "s.jsonl")
    quiet = ["--quiet", "--seed", "1"]
    assert main(["train", model, "--sigma", "0.5", "--epochs", "5", *quiet]) == 0
    sample = ["sample", model, log, "-n", "500", "--images", "12", *quiet]
    assert main([*sample, "--maps", "softmax:0.5", "sparsemax:2"]) == 0
    return path


def test_the_command_line(folder, tmp_path, capsys):
    log, out = str(folder / "s.jsonl"), tmp_path / "c.csv"
    read = read_score_log(log)
    assert len(read) == 12
    assert list(map(str, read.maps)) == ["softmax:0.5", "sparsemax:2.0"]
    assert main(["certify", log, "--map", "softmax:.5", "--out", str(out)]) == 0
    capsys.readouterr()
    frame = pd.read_csv(out)
    expected = certificate_table(read, alpha=0.001, map="softmax:0.5")
    np.testing.assert_array_equal(frame["radius"], expected["radius"])
    assert main(["analyze", log, str(out), "--map", "softmax:0.5"]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert rows[0].removeprefix("| s") == rows[1].removeprefix("| c")
    sample = ["sample", str(folder / "m.pt"), log, "-n", "500", "--images", "14"]
    maps = ["--maps", "softmax:0.5", "sparsemax:2"]
    assert main([*sample, "--seed", "1", "--quiet", *maps]) == 0
    assert "14 images, 2 maps, 100 + 500 samples each" in capsys.readouterr().out


def test_what_a_user_can_get_wrong(folder, tmp_path, capsys):
    log, model, new = folder / "s.jsonl", folder / "m.pt", tmp_path / "new"
    for command in ("certify", "analyze"):
        assert "2 maps, such as softmax:0.5; name one chosen" in fails(
            capsys, command, log
        )
        text = fails(capsys, command, log, "--map", "hardmax")
        assert "no map hardmax:1.0; it has softmax:0.5, sparsemax:2.0" in text
        assert "got 'soft'" in fails(capsys, command, log, "--map", "soft")
        text = fails(capsys, command, log, "--map", "softmax:0.5", "--strategy", "cpm")
        assert "strategy" in text
    assert "this is a log of scores" in fails(capsys, "predict", log)
    quiet = "--quiet", "--images", 2
    for maps, message in (
        (["softmin"], "got 'softmin'"),
        (["softmax:0"], "positive and finite"),
        (["softmax", "softmax:1"], "twice"),
        (["softmax", "--target-radius", 1], "without --target-radius"),
        (["softmax", "--n", 1], "n must be a whole number, at least 2; got 1"),
    ):
        assert message in fails(capsys, "sample", model, new, *quiet, "--maps", *maps)
    assert not new.exists()
    text = fails(capsys, "sample", model, log, *quiet, "--seed", 1, "-n", 500)
    assert "is not a vote log" in text
    votes = tmp_path / "v.jsonl"
    assert main(["sample", str(model), str(votes), "--quiet", "--n", "50",
                 "--images", "2"]) == 0  # fmt: skip
    assert "this one holds votes" in fails(capsys, "certify", votes, "--map", "hardmax")


def test_scores_are_certified_where_there_is_no_torch(folder, tmp_path):
    code = """
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torch":
            raise ModuleNotFoundError(f"no {name} here", name=name)

sys.meta_path.insert(0, Absent())
from lipsmooth.cli import main
sys.exit(main(sys.argv[1:]))
"""
    command = [sys.executable, "-W", "error", "-c", code, "certify"]
    arguments = [str(folder / "s.jsonl"), "--map", "softmax:0.5"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") >= 13
