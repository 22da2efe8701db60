from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lipsmooth.certify import certify_counts
from lipsmooth.evaluate import summary
from lipsmooth.logs import LogWriter, read_log
from lipsmooth.published import read_published
from lipsmooth.tables import (
    certificate_table,
    format_table,
    read_certificates,
    settings_table,
    write_noise_levels,
)


@pytest.fixture
def log(tmp_path):
    config = {"num_classes": 3, "sigma": 0.5, "n0": 10, "n": 1000, "seed": 0}
    rows = [(0, 1, [0, 9, 1], [20, 950, 30]), (4, 0, [1, 9, 0], [10, 970, 20])]
    rows.append((7, 2, [0, 4, 6], [0, 480, 520]))
    with LogWriter(tmp_path / "votes.jsonl", config, {}) as writer:
        for index, label, selection, estimation in rows:
            writer.append(index, label, selection, estimation, 0.0)
    return tmp_path / "votes.jsonl"


def test_the_table_is_that_of_certify_counts(log):
    votes = read_log(log)
    table = certificate_table(votes, alpha=0.01, strategy="mono")
    expected = certify_counts(
        votes.counts_selection, votes.counts_estimation,
        sigma=0.5, alpha=0.01, strategy="mono",
    )  # fmt: skip
    np.testing.assert_array_equal(table["radius"], expected.radius)
    assert table["idx"].tolist() == [0, 4, 7]
    assert table["predict"].tolist() == [1, 1, -1]
    assert table["correct"].tolist() == [1, 0, 0]
    assert table.loc[0, ["sigma", "n", "alpha", "strategy"]].tolist() == [
        0.5, 1000, 0.01, "mono",
    ]  # fmt: skip


def test_coins_belong_to_images_and_their_seed_to_the_table(log, tmp_path):
    votes = read_log(log)
    plain = certificate_table(votes, alpha=0.01)
    assert "randomize_seed" not in plain
    one, two, other = (
        certificate_table(votes, alpha=0.01, randomize_seed=seed) for seed in (0, 0, 5)
    )
    assert one.equals(two)
    assert set(one["randomize_seed"]) == {0}
    assert np.all(one["radius"] >= plain["radius"])
    assert np.any(one["radius"] > plain["radius"])
    assert np.any(one["radius"] != other["radius"])
    part = certificate_table(votes.select([7, 4]), alpha=0.01, randomize_seed=5)
    kept = other.set_index("idx").loc[[7, 4]].reset_index()
    pd.testing.assert_frame_equal(part[kept.columns], kept, check_exact=True)
    pd.testing.assert_frame_equal(
        read_certificates(log, alpha=0.01, randomize_seed=5), other
    )
    by_hand = certify_counts(
        votes.counts_selection, votes.counts_estimation, sigma=0.5, alpha=0.01,
        randomize_seed=5,
    )  # fmt: skip
    assert by_hand.radius[0] == other["radius"][0], "image 0 is at position 0"
    assert by_hand.radius[1] != other["radius"][1], "image 4 is not at position 4"


@pytest.mark.parametrize("seed", [None, 2**62 + 1])
def test_a_csv_keeps_every_digit(log, tmp_path, seed):
    table = certificate_table(read_log(log), alpha=0.001, randomize_seed=seed)
    table.to_csv(tmp_path / "c.csv", index=False)
    again = read_certificates(tmp_path / "c.csv")
    pd.testing.assert_frame_equal(again, table, check_exact=True)


def test_a_log_is_certified_when_read(log):
    pd.testing.assert_frame_equal(
        read_certificates(log, alpha=0.05, strategy="bonferroni"),
        certificate_table(read_log(log), alpha=0.05, strategy="bonferroni"),
    )


def test_tabs(tmp_path):
    path = tmp_path / "published"
    path.write_text(
        "idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t3\t3\t0.25\t1\t0:01\n"
    )
    assert read_certificates(path)["radius"].tolist() == [0.25]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a table"),
        ("a,b\n1,2\n", "no column 'label'"),
        ("label,predict,radius\n", "has no certificates"),
        ("label,predict,radius\n1,1,0.5\n1,1,\n", "line 3: radius is nan"),
        ("label,predict,radius\n1,1,inf\n", "line 2: radius is inf"),
        ("label,predict,radius\n1,cat,0.5\n", "line 2: predict is cat"),
        ("label,predict,radius\n1,1,0.5,9\n1,1,1,1,1,1\n", "is not a table"),
    ],
)
def test_files_that_are_no_certificates(tmp_path, text, message):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"bad\.csv.*{message}"):
        read_certificates(tmp_path / "bad.csv")


@pytest.fixture
def table():
    frame = pd.DataFrame(
        {"label": [0, 0, 0], "predict": [0, 0, -1], "radius": [0.2999, 0.6, 0.0]}
    )
    return summary({"a_b|c": frame}, at=[0, 0.5])


def test_nothing_looks_better_than_it_is(table):
    lines = format_table(table).splitlines()
    assert lines[0] == "| name | images | r=0 | r=0.5 | ACR | abstain |"
    assert lines[1] == "| --- | ---: | ---: | ---: | ---: | ---: |"
    # 2/3, 1/3 and 0.29997 down, 1/3 abstaining up.
    assert lines[2] == r"| a_b\|c | 3 | 0.666 | 0.333 | 0.299 | 0.334 |"


def test_latex(table):
    text = format_table(table, "latex")
    assert text.startswith(r"\begin{tabular}{lrrrrr}")
    assert r"name & images & r=0 & r=0.5 & ACR & abstain \\" in text
    assert r"a\_b|c & 3 & 0.666 & 0.333 & 0.299 & 0.334 \\" in text
    assert text.endswith("\\bottomrule\n\\end{tabular}")


def test_csv_is_not_rounded(table):
    head, row = format_table(table, "csv").splitlines()
    assert head == "name,images,r=0,r=0.5,ACR,abstain"
    assert float(row.split(",")[2]) == 2 / 3


@pytest.fixture
def noise_levels():
    return pd.DataFrame(
        {
            "idx": [3, 8, 9],
            "label": [1, 2, 0],
            "predict": [1, -1, 2],
            "radius": [0.1 + 0.2, 0.0, 1e-7],
            "sigma": [0.35453124999999996, 0.5, 1 / 3],
            "p_a_lower": [1 - 1e-9, 0.25, 0.5 + 1e-12],
            "seconds": [1.5, 0.25, 3.0],
        }
    )


def test_noise_levels_are_written_as_published_and_read_back_to_the_last_digit(
    noise_levels, tmp_path
):
    path = tmp_path / "qcrs"
    write_noise_levels(path, noise_levels)
    header = "idx\tlabel\tpredict\tradius\tcorrect\tbest_sigma\tpABar\ttime"
    assert path.read_text().splitlines()[0] == header
    back = read_published(path)
    assert back["correct"].tolist() == [1, 0, 0]
    pd.testing.assert_frame_equal(back[noise_levels.columns], noise_levels)
    assert read_certificates(path)["radius"].tolist() == [0.1 + 0.2, 0.0, 1e-7]


def test_incomplete_noise_levels_are_not_written(noise_levels, tmp_path):
    with pytest.raises(ValueError, match=r"lacks the columns \['seconds'\]"):
        write_noise_levels(tmp_path / "qcrs", noise_levels.drop(columns="seconds"))
    with pytest.raises(ValueError, match="must be finite"):
        write_noise_levels(tmp_path / "qcrs", noise_levels.assign(seconds=np.nan))
    assert not (tmp_path / "qcrs").exists()


def test_settings_say_what_was_sampled_and_what_is_not_known(log):
    votes = read_log(log)
    told = dict(votes.config, dataset="digits", data="0123456789", model=None)
    other = replace(votes, config=told, seconds=np.full(3, 1200.0))
    table = settings_table({"plain": votes, "told": other})
    assert table["images"].tolist() == [3, 3]
    assert table.loc["told", ["dataset", "data", "n", "sigma"]].tolist() == [
        "digits", "01234567", 1000, 0.5,
    ]  # fmt: skip
    assert table["hours"].tolist() == [0.0, 1.0]
    assert table.loc["plain", ["dataset", "data", "model", "device"]].isna().all()
