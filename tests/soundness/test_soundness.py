"""A sample of the soundness suite; ``make soundness`` runs all of it, for long."""

import json
from collections import Counter
from copy import deepcopy
from unittest.mock import patch

import exhaustive
import long_run
import pytest
import trials
from judging import Setting, Trial, carry_out
from mistakes import CAUGHT
from mutants import mutants
from trials import all_trials, of_votes, vote_trials

from lipsmooth.certify import STRATEGIES
from lipsmooth.scorebounds import SCORE_BOUNDS, SCORE_STRATEGIES

RESULT = json.loads(long_run.OUT.read_text(encoding="utf-8"))
SAMPLE = {"half-space, p = 0.7", "half-space, p = 0.5", "three stripes, one thin",
          "hard votes, p = 0.99", "on the fence", "ramp, two rivals"}  # fmt: skip
TRIALS = [t for t in all_trials() if t.setting.classifier in SAMPLE
          and t.setting.n <= 1000]  # fmt: skip
LONG = ("ten tosses", "of the ascent", "climbed, max-upper")  # left to the long run
QUICK = [m for m in mutants() if m.trial.setting.n <= 1000
         and not any(part in m.name for part in LONG)]  # fmt: skip
PROCEDURES = sorted({t.procedure for t in TRIALS})


@pytest.mark.statistical
@pytest.mark.parametrize("procedure", PROCEDURES)
def test_certificates_are_false_no_more_often_than_alpha(procedure):
    for trial in (t for t in TRIALS if t.procedure == procedure):
        outcome = carry_out(trial, 1000 // trial.slow, seed=1)
        assert outcome.p_value > 0.001 / len(TRIALS), trial


@pytest.mark.statistical
@pytest.mark.parametrize("mutant", QUICK, ids=lambda m: m.name)
def test_a_mutant_is_caught(mutant):
    images = 10_000 // mutant.trial.slow
    assert carry_out(mutant.trial, images, seed=1).p_value < CAUGHT


@pytest.mark.parametrize(("classes", "largest"), [(2, 12), (3, 9), (4, 5)])
def test_no_truth_makes_small_samples_fail(classes, largest):
    rows = exhaustive.of_votes(classes, largest)
    assert {r.procedure for r in rows} == {*STRATEGIES, *exhaustive.OPEN}
    assert all(r.holds for r in rows)


def test_the_enumeration_catches_a_rule_that_is_unsound():
    counts, points = exhaustive.all_counts(12, 3), exhaustive.truths(3)
    radii = exhaustive.unsplit(counts, 0.4)
    failure = exhaustive.failure_probability(radii, counts, points, sigma=1.0)
    assert failure.max() > 0.2


def test_no_truth_makes_few_scores_fail():
    rows = exhaustive.of_scores(8)
    assert len(rows) == len(SCORE_STRATEGIES) * 2 * len(exhaustive.ALPHAS[2])
    assert all(r.holds for r in rows)


def test_sequential_tests_keep_their_level_exactly():
    rows = list(exhaustive.of_tests(500))
    assert len(rows) == 6
    assert all(r.holds and r.failure > 0.1 * r.alpha for r in rows)


# What is tried


def test_a_new_strategy_is_tried_and_mutated_by_itself():
    with patch("trials.STRATEGIES", (*STRATEGIES, "brand-new")):
        tried = [t.procedure for t in vote_trials()]
    assert tried.count("brand-new") == tried.count("mono") > 15
    with patch("mutants.STRATEGIES", (*STRATEGIES, "brand-new")):
        made = {m.mistake for m in mutants() if m.trial.procedure == "brand-new"}
    assert len(made) >= 4


def test_whatever_there_is_has_trials_and_mutants():
    tried = {t.procedure for t in all_trials()}
    mutated = [m.trial.procedure for m in mutants()]
    assert tried >= set(STRATEGIES)
    for strategy in SCORE_STRATEGIES:
        assert tried >= {f"scores, {strategy}, {bound}" for bound in SCORE_BOUNDS}
    assert long_run._plain(tried) <= set(mutated)
    assert min(mutated.count(s) + mutated.count(f"{s}, stopped when false")
               for s in STRATEGIES) >= 4  # fmt: skip


def test_an_unsound_strategy_among_the_sound_ones_would_be_found():
    s = Setting("three stripes", 5, 10_000, 0.05)
    options = {"strategy": "fixed-runner-up", "coins": False, "allow_unsound": True}
    call = trials.partial(of_votes, s=s, **options)
    outcome = carry_out(Trial("fixed-runner-up", s, call), 2000, seed=0)
    assert outcome.p_value < CAUGHT


def test_a_trial_is_the_same_again_and_another_with_another_seed():
    one, two, other = (carry_out(TRIALS[0], 500, seed=s) for s in (3, 3, 4))
    assert one == two
    assert (one.failures, one.certified) != (other.failures, other.certified)


# The result of the long run


def test_the_last_long_run_found_nothing():
    assert long_run.faults(RESULT) == []
    assert RESULT["largest_n"] == 40
    total = Counter()
    for row in RESULT["trials"]:
        total[row["procedure"]] += row["certifications"]
    assert min(total.values()) >= 100_000


def test_the_last_long_run_tried_all_that_there_is():
    """If not, something was added since: ``make soundness`` writes a new result."""
    tried = {(r["procedure"], r["classifier"], r["n"]) for r in RESULT["trials"]}
    now = {(t.procedure, t.setting.classifier, t.setting.n) for t in all_trials()}
    assert tried == now
    caught = {(r["procedure"], r["mistake"]) for r in RESULT["mutants"]}
    assert caught == {(m.trial.procedure, m.mistake) for m in mutants()}


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("trials", {"p_value": 1e-9}, "false in"),
        ("exact", {"failure": 0.9}, "fails with probability 0.9"),
        ("mutants", {"p_value": 0.01}, "not caught"),
        ("mutants", {"procedure": "none"}, "no mutant of"),
    ],
)
def test_a_fault_is_told(part, change, message):
    result = deepcopy(RESULT)
    rows = [r for r in result[part] if r["procedure"] == result[part][-1]["procedure"]]
    for row in rows:
        row.update(change)
    assert any(message in fault for fault in long_run.faults(result))


def test_a_run_is_written_and_read_again(tmp_path):
    few = {"all_trials": lambda: TRIALS[:2], "mutants": lambda: QUICK[:1]}
    out = tmp_path / "deep" / "result.json"
    with patch.multiple(long_run, **few, TOTAL=1200, MUTANT=5):
        status = long_run.main(
            ["--images", "500", "--largest-n", "2", "--out", str(out)]
        )
    result = json.loads(out.read_text())
    assert status == 1, "the mutant has too few images to be caught"
    assert [len(result[k]) for k in ("trials", "mutants")] == [2, 1]
    assert {r["certifications"] for r in result["trials"]} == {600}
    assert {"date", "commit", "versions", "seed"} < result.keys()
