"""What the tests share: the book's tools on the path, skips, a cache of their own."""

import os
import shutil
import sys
from pathlib import Path

import matplotlib
import pytest

ROOT = Path(__file__).resolve().parents[1]
OFFLINE = str(ROOT / "tests" / "offline")
sys.path[:0] = [str(ROOT / "book"), str(ROOT / "book" / "_ext"), OFFLINE]

import offline  # noqa: E402  (it is found on the path that was just set)

# Nothing here may use the network, children that run Python included.
offline.install()
os.environ["PYTHONPATH"] = os.pathsep.join(
    [OFFLINE, *filter(None, [os.environ.get("PYTHONPATH")])]
)

matplotlib.use("Agg")


def pytest_runtest_setup(item):
    """Skip, visibly, what this machine has not got."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
    if item.get_closest_marker("browser") and not shutil.which("chromium"):
        pytest.skip("no Chromium: apt-get install chromium")


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Keep trained models and votes of the tests away from the user's."""
    before = os.environ.get("LIPSMOOTH_CACHE")
    os.environ["LIPSMOOTH_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["LIPSMOOTH_CACHE"]
    else:
        os.environ["LIPSMOOTH_CACHE"] = before


@pytest.fixture(scope="session")
def smoke_book():
    """Return the book under the smoke preset, executed and rendered."""
    from build import Book

    book = Book(preset="smoke")
    book.execute()
    book.render()
    return book


@pytest.fixture(scope="session")
def browser():
    """Return the system's Chromium, driven without a window."""
    from browse import chromium

    with chromium() as running:
        yield running
