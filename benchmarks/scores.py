"""Score moments of the published grid of maps against a loop over the maps."""

from functools import partial
from time import process_time

import numpy as np
import torch

from lipsmooth.scorelogs import SimplexMap
from lipsmooth.simplex import apply
from lipsmooth.temperatures import grid_moments
from lipsmooth.timing import interleaved, speedup

# Delattre et al. (2024) multiply by these; a temperature divides.
INVERSE = [1.0, *np.linspace(0.1, 50, 100), 1e7]
MAPS = [SimplexMap(m, 1 / t) for m in ("sparsemax", "softmax") for t in INVERSE]


def loop(logits, maps):
    """Take mean and standard deviation of every class, one map after the other."""
    moments = []
    for each in maps:
        scores = apply(each, logits)
        moments.append(torch.stack([scores.mean(dim=0), scores.std(dim=0)]))
    return torch.stack(moments, dim=1).double()


def at_once(logits, maps, *, compiled):
    mean, squares = grid_moments(logits, maps, compiled=compiled)
    return torch.stack([mean, (squares.clamp(min=0) / (len(logits) - 1)).sqrt()])


def scoring(*, rows, classes, spread, step, rounds, compiled):
    """Return seconds and errors of every way, on logits of this standard deviation."""
    threads, maps = torch.get_num_threads(), MAPS[::step]
    torch.set_num_threads(1)  # the clock adds up threads
    generator = torch.Generator().manual_seed(0)
    logits = spread * torch.randn(rows, classes, generator=generator)
    tasks = {
        "loop": partial(loop, logits, maps),
        "at once": partial(at_once, logits, maps, compiled=False),
    }
    if compiled:
        tasks["compiled"] = partial(at_once, logits, maps, compiled=True)
    exact = loop(logits.double(), maps)
    with torch.inference_mode():
        errors = {
            name: (f() - exact).abs().amax(dim=(1, 2)) for name, f in tasks.items()
        }
        seconds = interleaved(tasks, rounds=rounds, clock=process_time)
    torch.set_num_threads(threads)
    about = {"maps": len(maps), "rows": rows, "classes": classes, "logits' std": spread}
    return [
        {
            **about, "way": name, "milliseconds": 1000 * float(seconds[name].median()),
            "loop / way": speedup(seconds, name, "loop"),
            "error of means": float(errors[name][0]),
            "error of deviations": float(errors[name][1]),
        } for name in tasks
    ]  # fmt: skip
