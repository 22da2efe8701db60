import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from lipsmooth import facts
from lipsmooth.certify import certify_counts
from lipsmooth.evaluate import average_certified_radius, certified_accuracy
from lipsmooth.facts import (
    AT,
    LEVELS,
    RANKS,
    STATED,
    TENFOLD,
    log_facts,
    read_facts,
    write_facts,
)
from lipsmooth.lattice import print_radii
from lipsmooth.published import PUBLISHED

PATH = ROOT / "notebooks" / "data" / "cohen2019-facts.csv"


def certified(votes, alpha, sigma=0.25):
    counts = np.stack([votes, facts.N - votes], axis=1)
    selection = np.tile([1, 0], (len(votes), 1))
    return certify_counts(selection, counts, sigma=sigma, alpha=alpha, strategy="mono")


@pytest.fixture(scope="module")
def votes():
    rng = np.random.default_rng(0)
    easy = facts.N - rng.integers(0, 400, 60)
    return np.concatenate([easy, rng.integers(49_000, facts.N, 140)])


def frame(votes, alpha):
    found = certified(votes, alpha)
    return pd.DataFrame(
        {
            "label": np.arange(len(votes)) % 5 == 0,  # a fifth is classified wrongly
            "predict": found.prediction,
            "radius": print_radii(found.radius),
            "seconds": 15.5 + np.arange(len(votes)) / 10,
        }
    ).astype({"label": int})


@pytest.fixture(scope="module", params=[STATED, TENFOLD])
def both(request, votes):
    table = frame(votes, request.param)
    return request.param, table, log_facts(table, sigma=0.25)


def test_what_is_counted(both):
    _, table, found = both
    assert found["rows", 0] == len(table)
    assert found["abstained", 0] == np.sum(table["predict"] == -1) > 0
    assert found["seconds", 0] == table["seconds"].median()
    assert found["seconds_in_tenths", 0] == 1
    assert found["largest_radius", 1] == table["radius"].max()
    assert found["rows_at_largest", 1] == np.sum(
        table["radius"] == table["radius"].max()
    )
    assert found["quantile"][RANKS[[0, -1]]].tolist() == [0, table["radius"].max()]
    assert found["certified_quantile", 0] > 0
    columns = table["label"], table["predict"], table["radius"]
    assert found["acr", 0] == average_certified_radius(*columns)
    shares = certified_accuracy(*columns, AT)
    assert found["accuracy"][AT].tolist() == shares.tolist()


def test_the_level_that_fits_is_the_one_used(both):
    alpha, _, found = both
    other = STATED if alpha == TENFOLD else TENFOLD
    unexplained = found["unexplained"]
    assert unexplained[LEVELS[np.isclose(LEVELS, alpha)]].tolist() == [0]
    assert unexplained[LEVELS[np.isclose(LEVELS, other)]].item() > 5
    assert found["level_from", alpha] < alpha < found["level_to", alpha]
    assert ("level_from", other) not in found
    for free in ("unexplained_any_n", "unexplained_any_sigma"):
        assert found[free, alpha] == 0 <= found[free, other]
        assert (
            found[free, other] < unexplained[LEVELS[np.isclose(LEVELS, other)]].item()
        )


def test_the_truth_lies_between_the_bounds(both, votes):
    alpha, table, found = both
    for name, level in (("exact", alpha), ("stated", STATED)):
        radii = certified(votes, level).radius
        columns = table["label"], table["predict"], radii
        acr = average_certified_radius(*columns)
        ends = found[f"{name}_acr_lower", 0], found[f"{name}_acr_upper", 0]
        assert ends[0] - 1e-12 <= acr <= ends[1] + 1e-12
        assert ends[1] - ends[0] < 0.001
        shares = certified_accuracy(*columns, AT)
        assert np.all(found[f"{name}_accuracy_lower"][AT] <= shares)
        assert np.all(shares <= found[f"{name}_accuracy_upper"][AT])
    up = np.sum(table["radius"] > certified(votes, alpha).radius)
    assert 0 < found["rounded_up_lower", 0] <= up <= found["rounded_up_upper", 0]
    excess = np.max(table["radius"] - certified(votes, alpha).radius)
    assert 0 < found["excess_lower", 0] <= excess <= 0.0005
    # Not vacuous: at the looser level the bounds exclude what was printed.
    shown = found["acr", 0]
    assert (found["stated_acr_upper", 0] < shown) == (alpha == TENFOLD)


def test_a_log_that_fits_neither_level(votes):
    with pytest.raises(ValueError, match=r"neither 0\.001 nor 0\.01 explains"):
        log_facts(frame(votes, 0.003), sigma=0.25)


def test_small_radii_leave_both_levels_open(votes):
    table = frame(votes[votes < 90_000], TENFOLD)
    found = log_facts(table, sigma=0.25)
    assert found["level_from"].index.tolist() == [STATED, TENFOLD]
    strict = [found[f"stated_acr_{side}", 0] for side in ("lower", "upper")]
    assert strict[0] < found["acr", 0] <= strict[1] + 1e-3


def test_the_file_is_read_back(tmp_path, both):
    table = pd.DataFrame({"a": both[2], "b": both[2] / 3})
    table.index.names = ["fact", "at"]
    write_facts(tmp_path / "facts.csv", table)
    back = read_facts(tmp_path / "facts.csv")
    pd.testing.assert_frame_equal(back, table, rtol=1e-9)
    assert (
        (tmp_path / "facts.csv").read_text().startswith("# Facts about the logs of Co")
    )
    (tmp_path / "other.csv").write_text("a,b,c\n1,2,3\n")
    with pytest.raises(ValueError, match=r"other\.csv is no file of facts"):
        read_facts(tmp_path / "other.csv")
    with pytest.raises(FileNotFoundError):
        read_facts(tmp_path / "none.csv")


@pytest.mark.parametrize("folder", [ROOT, ROOT / "notebooks"])
def test_the_committed_file_knows_every_log(monkeypatch, folder):
    monkeypatch.chdir(folder)
    found = read_facts()
    assert sorted(found.columns) == sorted(PUBLISHED)
    assert found.loc[("rows", 0)].sum() == 12 * 500 + 427 + 13
    assert PATH.stat().st_size < 30_000  # facts, not logs


# Below: the real logs, as in test_published.py.
LOGS = os.environ.get("LIPSMOOTH_PUBLISHED_LOGS")
real = pytest.mark.skipif(
    not LOGS, reason="LIPSMOOTH_PUBLISHED_LOGS names no folder of published logs"
)


@real
def test_the_committed_file_agrees_with_the_logs(tmp_path, monkeypatch):
    fresh = read_facts(PATH, logs_dir=Path(LOGS))
    write_facts(tmp_path / "facts.csv", fresh)
    assert (tmp_path / "facts.csv").read_bytes() == PATH.read_bytes()
    # The comparison can fail.
    monkeypatch.setattr(facts, "collect_facts", lambda _: fresh)
    text = PATH.read_text().replace("accuracy,0,0.814,", "accuracy,0,0.815,", 1)
    (tmp_path / "changed.csv").write_text(text)
    with pytest.raises(ValueError, match=r"changed\.csv differs from the logs"):
        read_facts(tmp_path / "changed.csv", logs_dir=LOGS)
