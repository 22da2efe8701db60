"""The last result of the long runs, kept for a page to show."""

import json
import platform
from importlib.metadata import version

from conftest import ROOT
from filelock import FileLock

import lipsmooth

PATH = ROOT / "notebooks" / "data" / "faults.json"


def record(section, result, path=PATH):
    """Replace one section of the file, and say with what it was found."""
    versions = {name: version(name) for name in ("torch", "numpy", "safetensors")}
    versions |= {
        "lipsmooth": lipsmooth.__version__,
        "python": platform.python_version(),
    }
    with FileLock(f"{path}.lock"):
        content = json.loads(path.read_text()) if path.exists() else {}
        content[section] = {**result, "versions": versions}
        text = json.dumps(content, indent=2, sort_keys=True)
        path.write_text(text + "\n", encoding="utf-8")
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
