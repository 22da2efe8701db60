"""What a GPU does while it samples: python benchmarks/gpu.py [--device cpu].

Writes gpu.json and gpu.md beside this file. In one run, on the same network and batch,
tasks taking turns: the bare compiled forward pass, sampling, whole logs, the published
loop, and the parts of a sampler; against them the rate of a large product of matrices,
which is what the card's matrix units reach here and now. Without a GPU it says so;
``--device cpu`` runs everything in miniature, to see that it works.
"""

import argparse
import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from run import machine, table
from torch.utils.flop_counter import FlopCounterMode

from lipsmooth.data import Images
from lipsmooth.inference import optimized
from lipsmooth.models import build_model
from lipsmooth.noise import NoiseStream
from lipsmooth.sampling import count_votes, sample_log
from lipsmooth.timing import interleaved, speedup

HERE = Path(__file__).resolve().parent
SIGMA = 0.25
SMALL, LARGE = (3, 32, 32), (3, 224, 224)
# Architecture, shape, classes, batch, batches timed at once.
CASES = [
    ("resnet9", SMALL, 10, 2000, 50),
    ("cifar_resnet20", SMALL, 10, 2000, 50),
    ("cifar_resnet110", SMALL, 10, 1000, 20),
    ("resnet50", LARGE, 1000, 400, 5),
]
TINY = [("resnet9-16", (3, 8, 8), 10, 20, 2)]


class Clock:
    """Seconds on the wall after all work on the device has been done."""

    def __init__(self, device):
        self.wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def __call__(self):
        self.wait()
        return time.perf_counter()


def published_loop(model, x, n, batch, classes):
    """Restate how published code samples: copy, add noise, vote, count in Python."""
    counts = np.zeros(classes, dtype=int)
    with torch.no_grad():
        for size in (*[batch] * (n // batch), n % batch):
            copies = x.repeat((size, 1, 1, 1))
            noise = SIGMA * torch.randn_like(copies)
            votes = model(copies + noise).argmax(1).cpu().numpy() if size else ()
            for vote in votes:
                counts[vote] += 1
    return counts


def forward_only(network, batch, batches):
    with torch.inference_mode():
        for _ in range(batches):
            network(batch)


def logs(network, x, n, batch, classes):
    """Sample three images as the command does, the writing of the log included."""
    pixels = x.cpu().expand(3, *x.shape).contiguous().numpy()
    names = [str(number) for number in range(classes)]
    dataset = Images("benchmark", "test", names, pixels, np.zeros(3, dtype=int))
    with tempfile.TemporaryDirectory() as folder:
        sample_log(
            network, dataset, Path(folder) / "votes.jsonl", sigma=SIGMA, n0=n - n // 2,
            n=n // 2, seed=0, batch_size=batch, device=str(x.device), progress=False,
            fast=False,
        )  # fmt: skip


def peak(device, dtype, size, rounds):
    """Return operations per second of the largest product of square matrices."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    tasks = {"product": lambda: [a @ b for _ in range(10)]}
    seconds = interleaved(tasks, rounds=rounds, clock=Clock(device))["product"]
    return 10 * 2 * size**3 / seconds.min()


def operations(model, shape, device):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *shape, device=device))
    return counter.get_total_flops()


def measure(case, *, device, compiled, precision, rounds):
    """Return samples per second of every way, and what they are worth."""
    arch, shape, classes, batch, batches = case
    torch.manual_seed(0)
    model = build_model(arch, shape=shape, num_classes=classes).to(device).eval()
    fast = optimized(model, precision=precision, compiled=compiled)
    x, n = torch.rand(shape, device=device), batch * batches
    ready = (x + SIGMA * torch.randn(batch, *shape, device=device)).to(fast.dtype)
    stream = NoiseStream(shape, seed=0, device=device)
    buffer = torch.empty(batch, *shape, device=device)
    loop = partial(published_loop, x=x, n=n, batch=batch, classes=classes)
    tasks = {
        "forward": lambda: forward_only(fast, ready, batches),
        "sampling": lambda: count_votes(
            fast, x, sigma=SIGMA, n=n, seed=0, batch_size=batch
        ),
        "log": lambda: logs(fast, x, n, batch, classes),
        "published loop": lambda: loop(model),
        "published loop, fast network": lambda: loop(fast),
        "noise": lambda: [stream.fill(buffer, k * batch) for k in range(batches)],
    }
    seconds = interleaved(tasks, rounds=rounds, clock=Clock(device))
    counted = {name: n * (3 if name == "log" else 1) for name in tasks}
    rates = {name: counted[name] / seconds[name].median() for name in tasks}
    return {
        "network": arch, "batch": batch, "precision": precision, "compiled": compiled,
        "samples per second": {name: float(rate) for name, rate in rates.items()},
        "sampling / forward": speedup(seconds, "sampling", against="forward"),
        "log / forward": float(rates["log"] / rates["forward"]),
        "sampling / published loop": speedup(
            seconds, "sampling", against="published loop"
        ),
        "operations per sample": operations(model, shape, device),
    }  # fmt: skip


def report(found):
    """Return the results as Markdown tables."""
    about = ", ".join(f"{key} {value}" for key, value in found["machine"].items())
    peaks = ", ".join(f"{k} {v / 1e12:.3g}" for k, v in found["peaks"].items())
    head = (
        "network", "precision", "batch", "samples/s", "of peak (%)", "of forward (%)",
        "log, of forward (%)", "× published loop",
    )  # fmt: skip
    rows = []
    for row in found["networks"]:
        rate = row["samples per second"]["sampling"]
        share = rate * row["operations per sample"] / found["peaks"][row["precision"]]
        numbers = (
            rate, 100 * share, 100 * row["sampling / forward"],
            100 * row["log / forward"], row["sampling / published loop"],
        )  # fmt: skip
        names = row["network"], row["precision"], str(row["batch"])
        rows.append((*names, *(f"{number:,.3g}" for number in numbers)))
    return "\n".join(
        [
            "# Sampling on a GPU", "", f"Measured on: {about}.", "",
            f"Product of matrices, 10¹² operations per second: {peaks}.", "",
            *table(head, rows), "",
        ]
    )  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="cpu: a dry run (cuda)")
    parser.add_argument("--rounds", type=int, default=7, help="(7)")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to")
    options = parser.parse_args()
    tiny = options.device == "cpu"
    if not (tiny or torch.cuda.is_available()):
        print("no CUDA device: nothing measured. --device cpu runs it in miniature.")
        return 1
    about = {**machine(), "device": "cpu, a dry run"}
    if not tiny:
        about["device"] = torch.cuda.get_device_name()
    precisions = ("float32",) if tiny else ("bfloat16", "float32")
    size, rounds = (64, 1) if tiny else (8192, options.rounds)
    found = {
        "machine": about,
        "peaks": {
            name: peak(options.device, getattr(torch, name), size, rounds)
            for name in precisions
        },
        "networks": [
            measure(
                case, device=options.device, compiled=not tiny, precision=precision,
                rounds=rounds,
            )
            for case in (TINY if tiny else CASES)
            for precision in precisions
        ],
    }  # fmt: skip
    (options.out / "gpu.json").write_text(json.dumps(found, indent=2) + "\n")
    (options.out / "gpu.md").write_text(report(found))
    print(report(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
