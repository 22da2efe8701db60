"""Counting votes: batches of noisy images go in, one count per class comes out.

A batch takes samples from as many images as fit, so that few samples per image, as
in the selection of a class, fill the hardware as well as many do.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lipsmooth.inference import Inference
from lipsmooth.noise import NoiseStream, open_stream

Classifier = Callable[[Tensor], Tensor]
Part = tuple[int, int, int]
"""A segment's number, and which of its samples: from, to."""


class Segment(NamedTuple):
    """Samples ``start`` to ``stop - 1`` of one image, to be counted together."""

    image: Tensor
    stream: NoiseStream
    start: int
    stop: int


def count_segments(
    base_classifier: Classifier,
    segments: Sequence[Segment],
    *,
    sigma: float,
    batch_size: int,
    num_classes: int | None = None,
) -> NDArray[np.int64]:
    """Count the votes of several runs of samples, in shared batches.

    Parameters
    ----------
    base_classifier : callable
        As for `lipsmooth.sampling.count_votes`. Batches share one buffer: it must
        not keep its input.
    segments : sequence of Segment
        Of images of one shape, type and device; at least one. Segments that follow
        on each other in the same image should share their stream, which then draws
        nothing twice.
    sigma, batch_size, num_classes
        As for `lipsmooth.sampling.count_votes`.

    Returns
    -------
    ndarray of int64, shape (segments, classes)

    Raises
    ------
    ValueError
        If scores have the wrong shape, or an image or a score is not finite.
    """
    counts = None
    with torch.inference_mode(), evaluating(base_classifier):
        batches = score_batches(
            base_classifier, segments, sigma=sigma, batch_size=batch_size,
            num_classes=num_classes,
        )  # fmt: skip
        for batch, scores in batches:
            classes = scores.shape[1]
            if counts is None:
                size = len(segments) * (classes + 1)
                counts = torch.zeros(size, dtype=torch.int64, device=scores.device)
            # Scores that are not finite vote for a class of their own.
            votes = scores.argmax(dim=1)
            votes = torch.where(scores.isfinite().all(dim=1), votes, classes)
            cells = votes.add_(_owners(batch, votes.device) * (classes + 1))
            counts.scatter_add_(0, cells, torch.ones_like(cells))
    # Reading the device only now lets a GPU run ahead of Python.
    result = counts.cpu().numpy().reshape(len(segments), -1)
    for segment, failures in zip(segments, result[:, -1], strict=True):
        if failures:
            raise not_finite(segment)
    return result[:, :-1].copy()


def _owners(batch: list[Part], device: torch.device) -> int | Tensor:
    """Return which segment a batch's rows belong to, without waiting for a GPU."""
    if len(batch) == 1:
        return batch[0][0]
    numbers, starts, stops = torch.tensor(batch).T
    owners = numbers.repeat_interleave(stops - starts)
    if device.type == "cpu":
        return owners
    # From memory that may be paged out, a copy would wait for all work before it.
    return owners.pin_memory().to(device, non_blocking=True)


def whole_segment(
    base_classifier: Classifier,
    x: Tensor | NDArray[np.float32],
    *,
    n: int,
    seed: int,
    index: int,
    start: int,
    sigma: float,
    levels: int | None = None,
) -> Segment:
    """Return ``n`` samples of an image, on the device where they are wanted."""
    image = torch.as_tensor(x)
    if not image.is_floating_point():
        raise ValueError(f"x must be floating point, got {image.dtype}")
    image = image.to(device_of(base_classifier, image))
    stream = open_stream(
        image.shape, seed=seed, index=index, device=image.device, sigma=sigma,
        levels=levels,
    )  # fmt: skip
    return Segment(image, stream, start, start + n)


def not_finite(segment: Segment) -> ValueError:
    """Return the error to raise when a segment's scores are not finite."""
    fine = segment.image.isfinite().all()
    what = "the base classifier's scores" if fine else "x"
    where = f"image {segment.stream.index} has NaN or infinity"
    return ValueError(f"{what} must be finite; {where}")


def score_batches(
    base_classifier: Classifier,
    segments: Sequence[Segment],
    *,
    sigma: float,
    batch_size: int,
    num_classes: int | None = None,
) -> Iterator[tuple[list[Part], Tensor]]:
    """Yield batches of (segment's number, from, to), and the scores of all of them.

    The arguments are those of `count_segments`. It is for the caller to put the
    classifier into evaluation mode and to look at NaN.
    """
    first = segments[0].image
    total = sum(stop - start for _, _, start, stop in segments)
    rows = min(batch_size, total)
    if isinstance(base_classifier, Inference) and base_classifier.padded:
        rows = batch_size = math.ceil(total / math.ceil(total / batch_size))
    # Fresh memory costs a page fault per 4 kB: as much as the noise itself.
    noise = torch.empty((rows, *first.shape), device=first.device)
    dtype = _input_dtype(base_classifier, first)
    noisy = noise if dtype == noise.dtype else torch.empty_like(noise, dtype=dtype)
    for batch in _batches(segments, batch_size):
        filled = 0
        for number, start, stop in batch:
            part = slice(filled, filled + stop - start)
            image, stream, *_ = segments[number]
            stream.perturb(image, noisy[part], noise[part], start=start, sigma=sigma)
            filled = part.stop
        scores = base_classifier(noisy[:filled])
        num_classes = check_scores(scores, filled, num_classes)
        yield batch, scores


def _input_dtype(base_classifier: Classifier, image: Tensor) -> torch.dtype:
    """Return the type of noisy images: that of the image, or what it is rounded to."""
    single = image.dtype == torch.float32
    # Sums are rounded as they are written: one pass over memory less than afterwards.
    rounds = isinstance(base_classifier, Inference) and single
    return base_classifier.dtype if rounds else image.dtype


def _batches(segments: Sequence[Segment], batch_size: int) -> Iterator[list[Part]]:
    """Cut the samples of all segments, in order, into batches of (number, from, to)."""
    batch, free = [], batch_size
    for number, (_, _, start, stop) in enumerate(segments):
        while start < stop:
            end = min(start + free, stop)
            batch.append((number, start, end))
            free -= end - start
            start = end
            if free == 0:
                yield batch
                batch, free = [], batch_size
    if batch:
        yield batch


@contextmanager
def evaluating(base_classifier: Classifier) -> Iterator[None]:
    """Put a module into evaluation mode, and back as it was afterwards."""
    parts = base_classifier.modules() if isinstance(base_classifier, nn.Module) else ()
    training = [part for part in parts if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def device_of(base_classifier: Classifier, image: Tensor) -> torch.device:
    """Return where the classifier computes."""
    if isinstance(base_classifier, nn.Module):
        return next((p.device for p in base_classifier.parameters()), image.device)
    return image.device


def check_scores(scores: Tensor, batch: int, num_classes: int | None) -> int:
    """Return the number of classes; raise unless scores are (batch, classes)."""
    shape = tuple(scores.shape)
    fits = len(shape) == 2 and shape[0] == batch and shape[1] >= 2
    if not fits or num_classes not in (None, shape[1]):
        expected = "classes" if num_classes is None else num_classes
        raise ValueError(
            f"the base classifier must return scores of shape ({batch}, {expected}), "
            f"got {shape}"
        )
    return shape[1]
