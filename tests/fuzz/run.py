"""Fuzz the readers of files, guided by coverage, one after the other.

    make fuzz T=60                # seconds for each reader
    make fuzz T=60 READERS="votes pictures"

What makes a reader break its contract is kept in ``_build/fuzz/READER``, to be read
again with ``python tests/fuzz/run.py --again FILE READER``. Needs Atheris, which the
target installs beside the environment of the tests. The last result of each reader goes
into ``notebooks/data/faults.json``.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent)]
TRACED = [
    "lipsmooth",
    "presets",
    "PIL",
    "yaml",
    "zipfile",
    "torch._weights_only_unpickler",
]
LIMITS = ["-timeout=30", "-rss_limit_mb=6000", "-max_len=20000"]


def fuzz(name: str, rest: list[str]) -> None:
    """Fuzz one reader in this process, which does not return."""
    import atheris
    import diffusers  # noqa: F401 - large ones first, and untraced: it takes minutes
    import pandas as pd  # noqa: F401
    import papermill  # noqa: F401
    import scipy.stats  # noqa: F401
    import sklearn.datasets  # noqa: F401
    import torchvision  # noqa: F401

    with atheris.instrument_imports(include=TRACED, enable_loader_override=False):
        import readers

        reader = readers.READERS[name]
        with readers.folder() as place:
            for seed in reader.seeds():  # imports what they need
                readers.attempt(reader, seed, Path(place))
    warnings.simplefilter("ignore")
    place = readers.folder()

    def once(data: bytes) -> None:
        readers.attempt(reader, data, Path(place.name))

    atheris.Setup([sys.argv[0], *rest], once)
    atheris.Fuzz()


def campaign(name: str, seconds: int, folder: Path) -> dict:
    """Fuzz one reader for a time in processes of its own; return what came of it."""
    import readers

    corpus, faults = folder / "corpus", folder / "faults"
    for made in (corpus, faults):
        made.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(readers.READERS[name].seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    before = set(faults.iterdir())
    ends, executions, output = time.monotonic() + seconds, 0, ""
    began = time.monotonic()
    while (left := int(ends - time.monotonic())) > 0:
        options = [f"-max_total_time={left}", "-print_final_stats=1", *LIMITS]
        options += [f"-artifact_prefix={faults}/", f"-seed={1 + executions}"]
        done = subprocess.run(
            [sys.executable, __file__, "--fuzz", name, *options, str(corpus)],
            stderr=subprocess.PIPE, text=True, errors="replace", cwd=ROOT,
        )  # fmt: skip
        output = done.stderr
        counted = re.findall(r"stat::number_of_executed_units: (\d+)", output)
        executions += int(counted[-1]) if counted else 0
        if done.returncode:
            print(output[-3000:], flush=True)
        if not counted:  # it did not get as far as fuzzing
            raise SystemExit(f"{name}: the fuzzer has failed")
    covered = re.findall(r"cov: (\d+)", output)
    return {
        "executions": executions, "seconds": round(time.monotonic() - began),
        "faults": len(set(faults.iterdir()) - before),
        "coverage": int(covered[-1]) if covered else 0,
    }  # fmt: skip


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("readers", nargs="*", help="names; all by default")
    parser.add_argument("--seconds", type=int, default=60, help="for each (60)")
    parser.add_argument("--again", help="a file to read, instead of fuzzing")
    options = parser.parse_args()
    import readers

    names = options.readers or list(readers.READERS)
    if unknown := set(names) - set(readers.READERS):
        parser.error(
            f"no reader is called {min(unknown)}: {', '.join(readers.READERS)}"
        )
    if options.again:
        with readers.folder() as place:
            data = Path(options.again).read_bytes()
            print(readers.attempt(readers.READERS[names[0]], data, Path(place)))
        return
    from journal import PATH, record

    found = {}
    for name in names:
        folder = ROOT / "_build" / "fuzz" / name
        found[name] = campaign(name, options.seconds, folder)
        print(f"{name}: {found[name]}", flush=True)
        content = json.loads(PATH.read_text()) if PATH.exists() else {}
        results = content.get("fuzz", {}).get("readers", {}) | {name: found[name]}
        total = {
            key: sum(result[key] for result in results.values())
            for key in ("executions", "seconds", "faults")
        }
        record("fuzz", {**total, "atheris": version("atheris"), "readers": results})
    sys.exit(any(result["faults"] for result in found.values()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--fuzz"]:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        fuzz(sys.argv[2], sys.argv[3:])
    else:
        main()
