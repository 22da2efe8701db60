"""Sampling against the bare forward pass and against the published loop."""

import math
import time

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from lipsmooth.inference import check_precision, optimized
from lipsmooth.models import build_model
from lipsmooth.noise import NoiseStream
from lipsmooth.sampling import count_votes
from lipsmooth.timing import interleaved

SHAPES = {"cnn": (1, 8, 8), "resnet20": (3, 32, 32), "resnet110": (3, 32, 32)}
SIGMA, CLASSES = 0.25, 10
SIDE = 512  # of square matrices that fit the cache


def published_loop(model, x, n, batch_size):
    """Restate how published code samples: copy, add noise, vote, count in Python."""
    counts = np.zeros(CLASSES, dtype=int)
    with torch.no_grad():
        for _ in range(math.ceil(n / batch_size)):
            size = min(batch_size, n)
            n -= size
            copies = x.repeat((size, 1, 1, 1))
            noise = SIGMA * torch.randn_like(copies)
            for vote in model(copies + noise).argmax(1).numpy():
                counts[vote] += 1
    return counts


def forward_only(model, batch, batches):
    with torch.inference_mode():
        for _ in range(batches):
            model(batch)


def count_only(scores, batches):
    counts = torch.zeros(CLASSES, dtype=torch.int64)
    for _ in range(batches):
        votes = scores.argmax(dim=1)
        counts.scatter_add_(0, votes, torch.ones_like(votes))


def operations(model, batch):
    """Return the floating point operations of a forward pass, two per product."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(batch)
    return counter.get_total_flops()


def products(dtype, work):
    """Return a task of about so many operations at the best rate: matrix products."""
    first, second = torch.randn(2, SIDE, SIDE).to(dtype)
    out = first @ second
    times = max(1, round(work / (2 * SIDE**3)))
    return lambda: [torch.mm(first, second, out=out) for _ in range(times)]


def has_bfloat16():
    try:
        check_precision("bfloat16", torch.device("cpu"))
    except ValueError:
        return False
    return True


def measure(arch, *, batch, batches, rounds):
    """Return seconds of every task, a list per task with one entry per round."""
    torch.manual_seed(0)
    shape, n = SHAPES[arch], batch * batches
    networks = {"plain": build_model(arch, shape=shape, num_classes=CLASSES).eval()}
    networks["folded"] = optimized(networks["plain"])
    if has_bfloat16():
        networks["bfloat16"] = optimized(networks["plain"], precision="bfloat16")
    x = torch.rand(shape)
    noisy = x + SIGMA * torch.randn(batch, *shape)
    stream, buffer = NoiseStream(shape, seed=0), torch.empty(batch, *shape)
    scores = torch.randn(batch, CLASSES)
    tasks = {
        "published loop": lambda: published_loop(networks["plain"], x, n, batch),
        "noise": lambda: [stream.fill(buffer, k * batch) for k in range(batches)],
        "counting": lambda: count_only(scores, batches),
    }
    whole = networks["folded"].runs
    tasks["forward folded, unsliced"] = lambda: forward_only(whole, noisy, batches)
    work = batches * operations(networks["plain"], noisy)
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        if name == "float32" or name in networks:
            tasks[f"products {name}"] = products(dtype, work)
    for name, network in networks.items():
        tasks[f"forward {name}"] = lambda f=network: forward_only(f, noisy, batches)
        tasks[f"sampling {name}"] = lambda f=network: count_votes(
            f, x, sigma=SIGMA, n=n, seed=0, batch_size=batch
        )
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    return interleaved(tasks, rounds=rounds, clock=clock).to_dict("list")
