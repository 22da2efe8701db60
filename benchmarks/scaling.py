"""What sharing a run among workers costs: python benchmarks/scaling.py [--quick].

Writes scaling.json beside this file. One and the same run is started under torchrun
with 1, 2, … workers, and once more with next to nothing to sample, which leaves what
every worker pays before its first vote. Counted is processor time, of torchrun and all
its workers together: it does not grow when other programs want the processor. Seconds
on the wall are noted too, and mean something on a quiet machine only.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from run import machine

from lipsmooth.models import build_model, save_checkpoint
from lipsmooth.shards import read_shards

HERE = Path(__file__).resolve().parent
FULL = {"workers": [1, 2], "rounds": 2, "images": 48, "n": 8_000}
QUICK = {"workers": [1, 2], "rounds": 1, "images": 4, "n": 20}
NETWORK = {"arch": "resnet20", "shape": (1, 8, 8), "num_classes": 10}


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run(folder, workers, *, images, n, name):
    """Return processor and wall seconds of one run, and its log."""
    log = folder / f"{name}.jsonl"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc-per-node={workers}", "-m", "lipsmooth", "sample",
        str(folder / "network.pt"), str(log), "--dataset", "digits", "--sigma", "0.25",
        "--images", str(images), "-n", str(n), "--quiet",
    ]  # fmt: skip
    before, began = cpu_seconds(), time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, capture_output=True)
    return cpu_seconds() - before, time.perf_counter() - began, read_shards(log)


def measure(settings):
    """Return one row per round and number of workers."""
    rows, n, images = [], settings["n"], settings["images"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        save_checkpoint(folder / "network.pt", build_model(**NETWORK))
        reference = None
        for turn in range(settings["rounds"]):
            for workers in settings["workers"]:
                about = {"images": images, "name": f"{turn}-{workers}"}
                cpu, wall, log = run(folder, workers, n=n, **about)
                about["name"] += "-start"
                start, _, _ = run(folder, workers, n=1, **about)
                votes = log.counts_estimation
                reference = votes if reference is None else reference
                rows.append(
                    {
                        "workers": workers, "cpu": cpu, "wall": wall, "start": start,
                        "same votes": bool(np.array_equal(votes, reference)),
                    }
                )  # fmt: skip
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, for a test")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to")
    options = parser.parse_args()
    settings = QUICK if options.quick else FULL
    found = {
        "machine": machine(),
        "settings": {**settings, "network": NETWORK["arch"], "dataset": "digits"},
        "runs": measure(settings),
    }
    target = options.out / "scaling.json"
    target.write_text(json.dumps(found, indent=2) + "\n")
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
