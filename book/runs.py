"""Remake the CIFAR-10 logs that chapter 17 reads: each run one command.

python book/runs.py votes-0.50 --dataset cifar10
python book/runs.py all --scale published --device cuda --logs cifar10-logs

A run trains the networks that it needs and does not find. Killed at any moment, the
same command goes on from there. Networks stay in ``_build/runs``, logs go where the
chapter looks for them; a network that is kept there, ``network-0.50.safetensors``, is
taken before one is trained.
"""

import argparse
import shutil
import sys
from pathlib import Path

from lipsmooth.cli import main as lipsmooth

ROOT = Path(__file__).parents[1]
LOGS = ROOT / "notebooks" / "logs" / "cifar10"
NETWORKS = ROOT / "_build" / "runs"

# How much of everything: what two processor cores do in a few hours, and what the
# published experiments took, for a GPU.
SCALES = {
    "reduced": {
        "train": (
            "--arch resnet9-16 --epochs 24 --batch-size 256 --learning-rate 0.005 "
            "--precision bfloat16 --channels-last --augmentation crop-flip"
        ),
        "lipschitz": (
            "--arch lipschitz-256 --epochs 16 --batch-size 256 --learning-rate 0.003 "
            "--augmentation crop-flip"
        ),
        "denoiser": (
            "--light --width 16 --epochs 6 --batch-size 64 --learning-rate 0.002 "
            "--precision bfloat16"
        ),
        "sample": "--precision bfloat16",
        "images": 500, "n": 10_000, "moments": 2_000,
        "few": 100, "n_few": 1_000,
    },
    "published": {
        "train": (
            "--arch resnet9 --epochs 120 --batch-size 512 --learning-rate 0.004 "
            "--precision bfloat16 --channels-last --augmentation crop-flip --compile"
        ),
        "lipschitz": (
            "--arch lipschitz-256 --epochs 60 --batch-size 512 --learning-rate 0.003 "
            "--augmentation crop-flip"
        ),
        "denoiser": (
            "--width 128 --epochs 500 --batch-size 256 --learning-rate 3e-4 "
            "--precision bfloat16"
        ),
        "sample": "--precision bfloat16 --compile --batch-size 2000",
        "images": 500, "n": 100_000, "moments": 100_000,
        "few": 500, "n_few": 10_000,
    },
}  # fmt: skip
SIGMAS = ("0.25", "0.50", "1.00")
LEVELS = ("0.12", *SIGMAS)  # of votes and scores
DENOISER = "denoiser.pt"  # in a command, for the path that is found
MAPS = "hardmax softmax:0.25 softmax:1 sparsemax:0.5"
SOFT = "hardmax sparsemax:0.25 sparsemax:0.5 sparsemax:1 sparsemax:2"


def runs(scale: dict) -> dict[str, tuple[str, str]]:
    """Return, by name, the network that a run needs and its part of the command."""
    votes = f"--n0 100 {scale['sample']} --images {scale['images']}"
    few = f"--n0 100 {scale['sample']} --images {scale['few']}"
    found = {}
    for s in LEVELS:
        found[f"votes-{s}"] = f"network-{s}", f"sample {votes} -n {scale['n']}"
        found[f"decisions-{s}-r{s}"] = (
            f"network-{s}", f"sample {votes} -n 100000 --target-radius {s}",
        )  # fmt: skip
    for s in LEVELS:
        found[f"moments-{s}"] = (
            f"network-{s}", f"sample {votes} -n {scale['moments']} --maps {MAPS}",
        )  # fmt: skip
    for s in SIGMAS:
        found[f"clean-{s}"] = (
            "network-0.00", f"sample {few} -n {scale['n_few']} --sigma {s}",
        )  # fmt: skip
        found[f"denoised-{s}"] = (
            "network-0.00",
            f"sample {few} -n {scale['n_few']} --sigma {s} --denoiser {DENOISER}",
        )
    for s in ("0.25", "0.50"):
        found[f"searched-{s}"] = (
            f"network-{s}", f"sample {few} -n {scale['n']} --search cifar10-{s}",
        )  # fmt: skip
    for s in SIGMAS:
        found[f"lipschitz-{s}"] = (
            f"lipschitz-network-{s}",
            f"sample --n0 100 --images {scale['images']} -n {scale['n']} --maps {SOFT}",
        )  # fmt: skip
    for s in ("0.00", *SIGMAS):
        found[f"margins-{s}"] = (
            f"lipschitz-network-{s}", f"margins --images {scale['images']}",
        )  # fmt: skip
    found["attack-0.50"] = "network-0.50", f"attack --images {scale['few']}"
    return found


def train(name: str, scale: dict, rest: list[str], kept: Path) -> Path:
    """Train a network unless it is here or among the kept; return its checkpoint."""
    path = NETWORKS / f"{name}.pt"
    if not path.exists():
        if (kept / f"{name}.safetensors").exists():
            return kept / f"{name}.safetensors"
        unfinished = path.with_suffix(".part")
        if name == "denoiser":
            command = ["train-denoiser", str(unfinished), *scale["denoiser"].split()]
        else:
            sigma = name.rpartition("-")[2]
            recipe = scale["lipschitz" if "lipschitz" in name else "train"].split()
            command = ["train", str(unfinished), "--sigma", sigma, *recipe]
        call([*command, *rest])
        shutil.move(unfinished, path)
    return path


def call(command: list[str]) -> None:
    """Run one command of lipsmooth, or stop with its exit status."""
    print("python -m lipsmooth", *command, flush=True)
    if status := lipsmooth(command):
        sys.exit(status)


def main(argv: list[str] | None = None) -> None:
    """Make the runs that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    known = list(runs(SCALES["reduced"]))
    parser.add_argument("names", nargs="+", help=f"all, or {', '.join(known)}")
    parser.add_argument("--scale", choices=SCALES, default="reduced")
    parser.add_argument("--dataset", default="cifar10", help="or a folder (cifar10)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--logs", type=Path, default=LOGS, help="folder for the logs")
    options = parser.parse_args(argv)
    names = known if options.names == ["all"] else options.names
    if unknown := [name for name in names if name not in known]:
        parser.error(f"no run is called {unknown[0]}; there are {', '.join(known)}")
    scale = SCALES[options.scale]
    if options.scale == "published" and any(options.logs.glob("network-*.safetensors")):
        parser.error(f"{options.logs} holds a smaller scale; name another with --logs")
    rest = ["--dataset", options.dataset, "--device", options.device]
    NETWORKS.mkdir(parents=True, exist_ok=True)
    for name in names:
        network, command = runs(scale)[name]
        if "--denoiser" in command:
            denoiser = train("denoiser", scale, rest, options.logs)
            command = command.replace(DENOISER, str(denoiser))
        checkpoint = train(network, scale, rest, options.logs)
        first, *settings = command.split()
        log = options.logs / f"{name}.jsonl"
        call([first, str(checkpoint), str(log), *settings, *rest])


if __name__ == "__main__":
    main()
