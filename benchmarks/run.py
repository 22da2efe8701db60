"""Run every benchmark: python benchmarks/run.py [--quick | --report-only].

Writes results.json and report.md beside this file, or with --report-only the report
alone, from the results that are there. Networks are timed in processes of their own,
once per setting of the memory allocator, which is read at a process's start.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from counts import certifying, stopping
from forward import has_bfloat16, measure
from scores import scoring
from sound import exactness

HERE = Path(__file__).resolve().parent
# Keep freed memory instead of handing it back: every page anew costs a fault.
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_TOP_PAD_": str(2**26),
}
FULL = {
    "networks": [
        {"arch": "cnn", "batch": 500, "batches": 20, "rounds": 7},
        {"arch": "cnn", "batch": 1000, "batches": 10, "rounds": 7},
        {"arch": "resnet20", "batch": 500, "batches": 1, "rounds": 5},
        {"arch": "resnet20", "batch": 1000, "batches": 1, "rounds": 5},
        {"arch": "resnet110", "batch": 500, "batches": 1, "rounds": 3},
        {"arch": "resnet110", "batch": 1000, "batches": 1, "rounds": 3},
    ],
    "certifying": [
        {"images": 10_000, "classes": 10, "rows": 500, "rounds": 5},
        {"images": 1000, "classes": 1000, "rows": 20, "rounds": 5},
    ],
    "stopping": {"n_max": 100_000, "points": 120},
    "sound": [
        {"arch": "cnn", "batch": 500, "batches": 6, "rounds": 7},
        {"arch": "resnet20", "batch": 250, "batches": 1, "rounds": 3},
    ],
    "scores": [
        {
            "rows": 1000,
            "classes": classes,
            "spread": spread,
            "step": 1,
            "rounds": rounds,
            "compiled": True,
        }
        for classes, rounds in ((10, 11), (1000, 3))
        for spread in (1, 3)
    ],
}
QUICK = {
    "networks": [
        {"arch": "resnet20", "batch": 4, "batches": 1, "rounds": 1},
    ],
    "certifying": [{"images": 20, "classes": 5, "rows": 5, "rounds": 1}],
    "stopping": {"n_max": 500, "points": 10},
    "sound": [{"arch": "cnn", "batch": 50, "batches": 1, "rounds": 1}],
    "scores": [
        {
            "rows": 50,
            "classes": classes,
            "spread": 2,
            "step": 20,
            "rounds": 1,
            "compiled": False,
        }
        for classes in (5, 100)
    ],
}


def machine():
    """Describe the machine without naming it."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if "model name" in line]
        model = lines[0].partition(":")[2].strip() if lines else model
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": has_bfloat16(),
        "allocator": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "scipy")},
        "date": date.today().isoformat(),
    }


def in_processes(case, threads):
    """Time one network under both allocator settings."""
    seconds, fixed = {}, {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, "--worker", json.dumps(case)]
    for name, extra in (("default", {}), ("tuned", ALLOCATOR)):
        done = subprocess.run(
            command,
            env={**os.environ, **fixed, **extra},
            check=True,
            stdout=subprocess.PIPE,
        )
        seconds[name] = json.loads(done.stdout)
    return {**case, "seconds": seconds, "ratios": network_ratios(seconds)}


def network_ratios(seconds):
    """Return the ratios of interest; within a process, medians over its rounds."""
    ratios = {}
    for setting, times in seconds.items():
        t = {name: np.array(values) for name, values in times.items()}
        found = {
            "noise / sampling folded": t["noise"] / t["sampling folded"],
            "counting / sampling folded": t["counting"] / t["sampling folded"],
            "forward plain / forward folded": t["forward plain"] / t["forward folded"],
            "forward folded, unsliced / forward folded": (
                t["forward folded, unsliced"] / t["forward folded"]
            ),
            "published loop / forward plain": t["published loop"] / t["forward plain"],
        }
        for name, kind in (("folded", "float32"), ("bfloat16", "bfloat16")):
            if ideal := times.get(f"products {kind}"):
                found[f"products {kind} / forward {name}"] = (
                    np.array(ideal) / t[f"forward {name}"]
                )
                found[f"published loop / products {kind}"] = t[
                    "published loop"
                ] / np.array(ideal)
        for name in ("plain", "folded", "bfloat16"):
            if f"sampling {name}" in t:
                own = t[f"sampling {name}"]
                found[f"forward {name} / sampling {name}"] = t[f"forward {name}"] / own
                found[f"published loop / sampling {name}"] = t["published loop"] / own
        ratios[setting] = {name: float(np.median(v)) for name, v in found.items()}
    across = np.median(seconds["default"]["published loop"])
    for name in ("plain", "folded", "bfloat16"):
        if own := seconds["tuned"].get(f"sampling {name}"):
            key = f"published loop, default / sampling {name}, tuned"
            ratios["tuned"][key] = float(across / np.median(own))
    return ratios


def report(results):
    """Return the results as Markdown tables."""
    about = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    lines = ["# Benchmarks", "", f"Measured on: {about}.", ""]
    lines += [
        "Ratios of times, above 1 where the second of the two is faster; tasks took "
        "turns, medians over rounds. With one thread the clock is the process's own, "
        "which others on the machine do not advance. *Tuned* is the setting of the "
        "memory allocator in `run.py`. *Products* are square matrix products with as "
        "many operations as the network has: what a processor does in less time than "
        "that, it does not do by multiplying.",
        "", "## Sampling", "",
    ]  # fmt: skip
    rows = []
    for case in results["networks"]:
        for setting, ratios in case["ratios"].items():
            named = f"{case['arch']}, batch {case['batch']}, {setting}"
            rows += [(named, name, f"{value:.3g}") for name, value in ratios.items()]
    lines += table(("network", "ratio of times", "value"), rows)
    lines += ["", "## Sound arithmetic: times over those of ordinary sampling", ""]
    keys = tuple(results["sound"][0])
    lines += table(keys, [pick(row, keys) for row in results["sound"]])
    lines += ["", "## Certifying a log, one thread", ""]
    keys = ("images", "classes", "strategy", "library", "loop", "vectorised", "ratio",
            "largest difference of radii")  # fmt: skip
    lines += table(keys, [pick(row, keys) for row in results["certifying"]])
    lines += ["", "## Deciding a radius: mean votes", ""]
    keys = tuple(results["stopping"][0])
    lines += table(keys, [pick(row, keys) for row in results["stopping"]])
    lines += ["", "## Moments of class scores, one thread", ""]
    keys = tuple(results["scores"][0])
    lines += table(keys, [pick(row, keys) for row in results["scores"]])
    return "\n".join(lines) + "\n"


def write_report(folder):
    """Render the results of a folder, and nothing else, into its report."""
    results = json.loads((folder / "results.json").read_text())
    (folder / "report.md").write_text(report(results))


def pick(row, keys):
    values = (row[key] for key in keys)
    return [f"{v:.3g}" if isinstance(v, float) else str(v) for v in values]


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="tiny sizes, for a test")
    how.add_argument("--report-only", action="store_true", help="measure nothing")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the results")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (1)")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(**options.worker)))
        return
    if options.report_only:
        write_report(options.out)
        return
    sizes = QUICK if options.quick else FULL
    results = {"machine": {**machine(), "threads": options.threads}, "networks": []}
    for case in sizes["networks"]:
        print(f"{case['arch']}, batch {case['batch']} …", file=sys.stderr)
        results["networks"].append(in_processes(case, options.threads))
    results["sound"] = [exactness(**case) for case in sizes["sound"]]
    results["certifying"] = [
        row for case in sizes["certifying"] for row in certifying(**case)
    ]
    results["stopping"] = stopping(**sizes["stopping"])
    results["scores"] = [row for case in sizes["scores"] for row in scoring(**case)]
    options.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1, ensure_ascii=False)
    (options.out / "results.json").write_text(text + "\n")
    write_report(options.out)


if __name__ == "__main__":
    main()
