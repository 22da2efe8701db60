"""The whole soundness suite: ``make soundness``.

Tries every strategy, bound and sequential rule on known classifiers, lists all outcomes
of small samples, puts mistakes into the code to see whether they are caught, and writes
what was found. Ends with an error if a promise was not kept or a mistake not caught.
"""

import argparse
import datetime
import json
import platform
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import exhaustive
from judging import Trial, carry_out
from mistakes import CAUGHT
from mutants import mutants
from tqdm import tqdm
from trials import all_trials

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "notebooks" / "data" / "soundness.json"
TOTAL = 100_000
"""Certifications that a procedure gets at least, in all its settings together."""
MUTANT = 20_000
"""Certifications of a mutant, which is wrong far more often than a test needs; half as
many where each takes long."""
FAMILY = 0.01
"""Chance that sound code fails the suite: by Bonferroni's correction each of the trials
is judged at this level over their number."""


def conduct(images: int, largest: int, seed: int) -> dict:
    """Run everything and return the result, ready to be written."""
    begun = time.perf_counter()
    trials = all_trials()
    settings = Counter(t.procedure for t in trials)
    rows = []
    for t in _shown("trials", trials):
        least = -(-TOTAL // settings[t.procedure])
        rows.append(asdict(carry_out(t, max(images // t.slow, least), seed)))
    exact = [
        row
        for classes in _shown("classes", (2, 3, 4))
        for row in exhaustive.of_votes(classes, largest)
    ]
    exact += [*exhaustive.of_scores(largest), *exhaustive.of_tests(20_000)]
    unanswered = exhaustive.open_rules(exact)
    caught = [
        {"mistake": m.mistake, **asdict(carry_out(m.trial, _fewer(m.trial), seed))}
        for m in _shown("mutants", mutants())
    ]
    return {
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("lipsmooth", "numpy", "scipy")},
        "seed": seed,
        "images": images,
        "largest_n": largest,
        "minutes": round((time.perf_counter() - begun) / 60, 1),
        "family_level": FAMILY,
        "caught_below": CAUGHT,
        "trials": rows,
        "exact": [asdict(row) for row in exact if row not in unanswered],
        "open": [asdict(row) for row in unanswered],
        "mutants": caught,
    }


def faults(result: dict) -> list[str]:
    """Say which promises were not kept and which mistakes were not caught."""
    level = result["family_level"] / len(result["trials"])
    told = [
        f"{r['procedure']} on {r['classifier']}, n = {r['n']}: {r['failures']} false "
        f"in {r['certifications']} at alpha = {r['alpha']}, p = {r['p_value']:.2g}"
        for r in result["trials"] if r["p_value"] < level
    ]  # fmt: skip
    told += [
        f"{r['procedure']}: fails with probability {r['failure']} at alpha = "
        f"{r['alpha']}, n = {r['n']}, p = {r['p']}"
        for r in result["exact"] if r["failure"] > r["alpha"] * (1 + 1e-9)
    ]  # fmt: skip
    told += [
        f"not caught: {r['procedure']}, {r['mistake']}, p = {r['p_value']:.2g}"
        for r in result["mutants"] if not r["p_value"] < result["caught_below"]
    ]  # fmt: skip
    tried = {r["procedure"] for r in result["trials"]}
    mutated = {r["procedure"] for r in result["mutants"]}
    return told + [f"no mutant of {name}" for name in sorted(_plain(tried - mutated))]


def main(arguments: list[str] | None = None) -> int:
    """Run the suite from the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--images", type=int, default=100_000, help="per trial, at least"
    )
    parser.add_argument("--largest-n", type=int, default=40, help="votes listed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args(arguments)
    result = conduct(chosen.images, chosen.largest_n, chosen.seed)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(_lines(result) + "\n", encoding="utf-8")
    told = faults(result)
    counted = ", ".join(
        f"{len(result[k])} {name}"
        for k, name in (("trials", "trials"), ("exact", "exact worst cases"),
                        ("mutants", "mutants"))
    )  # fmt: skip
    print(*told, f"{counted}; {len(told)} faults; {result['minutes']} min", sep="\n")
    return 1 if told else 0


def _fewer(trial: Trial) -> int:
    return MUTANT if trial.slow == 1 else MUTANT // 2


def _plain(names: set[str]) -> set[str]:
    """Leave out what differs from a mutated procedure in its coins only."""
    return {name for name in names if not name.endswith(" with coins")}


def _lines(result: dict) -> str:
    """Return JSON with one line for each entry, so that a difference can be read."""
    parts = []
    for key, value in result.items():
        if isinstance(value, list):
            rows = ",\n".join(f"  {json.dumps(row)}" for row in value)
            parts.append(f' "{key}": [\n{rows}\n ]')
        else:
            parts.append(f' "{key}": {json.dumps(value)}')
    return "{\n" + ",\n".join(parts) + "\n}"


def _commit() -> str | None:
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(git, capture_output=True, text=True)
    return done.stdout.strip() or None


def _shown(name: str, items) -> tqdm:
    return tqdm(items, desc=name, disable=not sys.stderr.isatty())


if __name__ == "__main__":
    sys.exit(main())
