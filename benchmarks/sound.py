"""Sound sampling against ordinary sampling: what it costs to add without rounding."""

import time

import torch
from forward import CLASSES, SHAPES, SIGMA

from lipsmooth.inference import optimized
from lipsmooth.models import build_model
from lipsmooth.noise import GridStream, NoiseStream
from lipsmooth.sampling import count_votes
from lipsmooth.timing import interleaved

LEVELS = 255


def exactness(*, arch, batch, batches, rounds):
    """Return the ratios of processor times, sound over ordinary, of one network."""
    torch.manual_seed(0)
    shape, n = SHAPES[arch], batch * batches
    network = optimized(build_model(arch, shape=shape, num_classes=CLASSES).eval())
    x = torch.randint(0, LEVELS + 1, shape) / LEVELS
    buffer = torch.empty(batch, *shape)
    plain = NoiseStream(shape, seed=0)
    grid = GridStream(shape, seed=0, sigma=SIGMA, levels=LEVELS)

    def noise(stream):
        return [stream.fill(buffer, k * batch) for k in range(batches)]

    def votes(levels):
        count_votes(
            network, x, sigma=SIGMA, n=n, seed=0, batch_size=batch, levels=levels
        )

    tasks = {
        "noise": lambda: noise(plain), "noise, sound": lambda: noise(grid),
        "votes": lambda: votes(None), "votes, sound": lambda: votes(LEVELS),
    }  # fmt: skip
    seconds = interleaved(tasks, rounds=rounds, clock=time.process_time)
    ratio = {
        name: float((seconds[f"{name}, sound"] / seconds[name]).median())
        for name in ("noise", "votes")
    }
    return {"network": arch, "batch": batch, **ratio}
