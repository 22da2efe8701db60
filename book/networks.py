"""Note what the networks behind the logs are: architecture, training, course of it.

python book/networks.py _build/runs/network-*.pt

A log names its network by a digest of the weights. The file that this writes beside the
logs says, by digest, what a checkpoint knows of itself: how it was trained.
"""

import argparse
import json
from pathlib import Path

from lipsmooth.models import load_checkpoint, weights_digest

ROOT = Path(__file__).parents[1]
NOTES = ROOT / "notebooks" / "logs" / "cifar10" / "networks.json"
KEPT = (
    "arch", "dataset", "images", "sigma", "epochs", "batch_size", "learning_rate",
    "seed", "loss", "precision", "augmentation",
)  # fmt: skip


def describe(checkpoint):
    """Return the digest of a checkpoint's weights, and what is known of it."""
    model, metadata = load_checkpoint(checkpoint)
    known = {key: metadata[key] for key in KEPT if key in metadata}
    known["parameters"] = sum(part.numel() for part in model.parameters())
    course = ("loss", "accuracy", "seconds")
    known["course"] = {
        key: [round(epoch[key], 4) for epoch in metadata["history"]] for key in course
    }
    return weights_digest(model), known


def main(argv=None):
    """Add the networks of the command line to the notes, or replace them there."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=NOTES, help="file to add to")
    options = parser.parse_args(argv)
    notes = json.loads(options.out.read_text()) if options.out.exists() else {}
    notes |= dict(map(describe, options.checkpoints))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = (f"{json.dumps(key)}: {json.dumps(notes[key])}" for key in notes)
    options.out.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
