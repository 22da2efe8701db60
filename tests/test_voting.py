"""Batches that several images share."""

import numpy as np
import pytest
import torch

from lipsmooth.inference import Inference
from lipsmooth.noise import CHUNK, NoiseStream
from lipsmooth.sampling import count_votes
from lipsmooth.voting import Segment, count_segments


def linear(x):
    return x @ torch.linspace(-1, 1, 12).reshape(4, 3)


def segment(index, start, stop):
    image = torch.full((4,), 0.1 * index)
    return Segment(image, NoiseStream((4,), seed=7, index=index), start, stop)


SEGMENTS = [(0, 0, 10), (3, 5, 1000), (1, 0, 1), (0, 10, 700), (2, 249, 251)]


@pytest.mark.parametrize("batch_size", [1, 7, 250, 999, 10_000])
def test_sharing_a_batch_changes_no_vote(batch_size):
    segments = [segment(*numbers) for numbers in SEGMENTS]
    counts = count_segments(linear, segments, sigma=0.5, batch_size=batch_size)
    for row, (index, start, stop) in zip(counts, SEGMENTS, strict=True):
        x = torch.full((4,), 0.1 * index)
        alone = count_votes(
            linear, x, sigma=0.5, n=stop - start, seed=7, index=index, start=start
        )
        np.testing.assert_array_equal(row, alone)
    assert len(np.unique(counts / counts.sum(axis=1, keepdims=True), axis=0)) > 3


def test_batches_are_filled_across_images():
    sizes = []

    def watch(x):
        sizes.append(len(x))
        return linear(x)

    segments = [segment(i, 0, 30) for i in range(10)]
    count_segments(watch, segments, sigma=0.5, batch_size=100)
    assert sizes == [100, 100, 100]


def test_the_image_with_bad_scores_is_named():
    def fails(x):
        return linear(x) + torch.where(x[:, :1] > 5, torch.nan, 0.0)

    segments = [segment(i, 0, 10) for i in (4, 8, 80)]
    with pytest.raises(ValueError, match="scores must be finite; image 80"):
        count_segments(fails, segments, sigma=0.5, batch_size=100)


class Record(torch.nn.Module):
    """A linear classifier that remembers what it was given."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)
        self.seen = []

    def forward(self, x):
        self.seen.append((len(x), x.dtype, x.device.type))
        return self.linear(x)


@pytest.fixture
def record():
    torch.manual_seed(0)
    return Record()


def test_one_size_of_batch_for_what_is_compiled(record):
    segments = [segment(i, 0, 700) for i in range(3)]
    expected = count_segments(record, segments, sigma=0.5, batch_size=1000)
    assert [size for size, *_ in record.seen] == [1000, 1000, 100]
    record.seen.clear()
    padded = Inference(record, torch.float32, padded=True)
    counts = count_segments(padded, segments, sigma=0.5, batch_size=1000)
    assert {size for size, *_ in record.seen} == {700}
    np.testing.assert_array_equal(counts, expected)
    few = count_segments(padded, segments[:1], sigma=0.5, batch_size=30)
    assert {size for size, *_ in record.seen} == {700}  # and no size after it
    np.testing.assert_array_equal(few[0], expected[0])


def test_images_are_rounded_as_they_are_written(record):
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("no bfloat16 arithmetic on this machine")
    segments = [segment(*numbers) for numbers in SEGMENTS]
    half = Inference(record, torch.bfloat16)
    given = []
    half.register_forward_pre_hook(lambda _, x: given.append(x[0].dtype))
    counts = count_segments(half, segments, sigma=0.5, batch_size=999)
    assert set(given) == {torch.bfloat16}

    def afterwards(x):
        assert x.dtype == torch.float32
        return half(x)

    expected = count_segments(afterwards, segments, sigma=0.5, batch_size=999)
    np.testing.assert_array_equal(counts, expected)
    wide = [s._replace(image=s.image.double()) for s in segments]
    count_segments(half, wide, sigma=0.5, batch_size=999)
    assert given[-1] == torch.float64


@pytest.mark.gpu
def test_whole_and_partial_chunks_of_a_gpu_are_the_same_noise():
    shape = (3, 8, 8)
    stream = NoiseStream(shape, seed=3, index=5, device="cuda")
    whole = stream.take(0, 3 * CHUNK)
    parts = NoiseStream(shape, seed=3, index=5, device="cuda")
    pieces = [parts.take(start, start + 50) for start in range(0, 3 * CHUNK, 50)]
    assert torch.equal(whole, torch.cat(pieces))
    assert abs(whole.std().item() - 1) < 0.01


@pytest.mark.gpu
def test_counting_does_not_wait_for_the_gpu(record):
    record.cuda()
    image = torch.zeros(4, device="cuda")
    segments = [
        Segment(image, NoiseStream((4,), seed=7, index=i, device="cuda"), 0, 700)
        for i in range(4)
    ]
    expected = count_segments(record, segments, sigma=0.5, batch_size=1000)
    waits = []

    def scores(x):
        torch.cuda.set_sync_debug_mode("error")  # until the votes have been counted
        waits.append(len(x))
        return record(x)

    try:
        with pytest.raises(RuntimeError, match="synchroniz"):
            count_segments(scores, segments, sigma=0.5, batch_size=1000)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(waits) == 3  # every batch: only reading the result waits
    assert expected.sum() == 2800


class TestFill:
    def test_into_a_buffer_with_threads(self):
        threads = torch.get_num_threads()
        parts = []
        try:
            for number in (1, 3):
                torch.set_num_threads(number)
                buffer = torch.empty(5 * CHUNK + 3, 2)
                NoiseStream((2,), seed=1).fill(buffer, CHUNK - 1)
                parts.append(buffer)
        finally:
            torch.set_num_threads(threads)
        assert torch.equal(*parts)
        whole = NoiseStream((2,), seed=1).take(0, 6 * CHUNK + 2)
        assert torch.equal(parts[0], whole[CHUNK - 1 :])

    def test_a_million_keys_do_not_collide(self):
        """Seeds, images and chunks in combination: a million different generators."""
        words = {
            tuple(np.random.SeedSequence(s, spawn_key=(i, j)).generate_state(4))
            for s in (0, 1, 5, 5 + 2**32, 2**64 - 1)
            for i in range(2000)
            for j in range(100)
        }
        assert len(words) == 10**6
