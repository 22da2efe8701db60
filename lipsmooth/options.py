"""What the command line understands."""

import argparse

EXAMPLES = """\
From nothing to a table of certified accuracy, about a minute on a laptop:
  python -m lipsmooth train digits.pt --dataset digits --sigma 0.25
  python -m lipsmooth sample digits.pt votes.jsonl --n 10000 --images 100
  python -m lipsmooth certify votes.jsonl --alpha 0.001 --out certificates.csv
  python -m lipsmooth analyze digits=certificates.csv --plot curves.png
A network that is Lipschitz by construction needs no noise:
  python -m lipsmooth train lipschitz.pt --arch lipschitz --sigma 0
  python -m lipsmooth margins lipschitz.pt margins.jsonl
  python -m lipsmooth certify margins.jsonl --out certificates.csv
Is the radius at least 0.5? Each image stops as soon as its votes have decided:
  python -m lipsmooth sample digits.pt decided.jsonl --target-radius 0.5
Two workers, each with a shard of the log; the other commands read them together:
  torchrun --nproc-per-node 2 -m lipsmooth sample digits.pt votes.jsonl -n 10000
"""
_LOG = "log; of one in shards, its name as given to sample, or all shards"
LOSS_OPTIONS = (
    ("copies", int, "noisy copies of an image per step (1, macer 16, others 2)"),
    ("weight", float, "of what is added to cross-entropy (consistency 10, macer 12)"),
    ("entropy", float, "consistency: weight of the mean score's entropy (0.5)"),
    ("inverse-temperature", float, "macer: factor on the logits in the hinge (16)"),
    ("margin", float, "macer: where the hinge ends (8)"),
    ("radius", float, "smoothadv…: L2 distance of the attack (0.5)"),
    ("steps", int, "smoothadv…: steps of the attack (2, smoothadv-ddn 4)"),
    ("warmup", int, "smoothadv…: epochs over which that distance grows (0)"),
)
RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; ``command`` names the command."""
    program = argparse.ArgumentParser(
        prog="lipsmooth",
        description="Certify classifiers by randomized smoothing.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = program.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, summary: str, example: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"example:\n  python -m lipsmooth {name} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip

    train = command(
        "train", "train a base classifier under Gaussian noise",
        "digits.pt --dataset digits --sigma 0.25 --loss consistency --copies 4",
    )  # fmt: skip
    train.add_argument("checkpoint", help="file to write; resumed if it exists")
    _data_options(train, dataset="digits")
    known = "cnn, resnet9, resnet9-16, resnet20, resnet110, lipschitz, lipschitz-256"
    train.add_argument("--arch", default="cnn", help=known)
    train.add_argument("--sigma", type=float, required=True, help="noise, 0 for none")
    train.add_argument("--epochs", type=int, default=60, help="(60)")
    train.add_argument("--learning-rate", type=float, default=3e-3, help="(0.003)")
    _loss_options(train)
    _run_options(train, batch_size=128)

    denoiser = command(
        "train-denoiser", "train a diffusion model, to put in front of a classifier",
        "denoiser.pt --dataset cifar10 --width 128 --epochs 500 --batch-size 256 "
        "--learning-rate 3e-4 --device cuda",
    )  # fmt: skip
    denoiser.add_argument("checkpoint", help="file to write; resumed if it exists")
    _data_options(denoiser, dataset="digits")
    denoiser.add_argument("--width", type=int, default=16, help="channels (16)")
    denoiser.add_argument(
        "--light", action="store_true", help="fewer layers, no attention, for CPUs"
    )
    denoiser.add_argument(
        "--precision", default="float32", help="or bfloat16 (float32)"
    )
    denoiser.add_argument("--epochs", type=int, default=40, help="(40)")
    denoiser.add_argument("--learning-rate", type=float, default=8e-3, help="(0.008)")
    _run_options(denoiser, batch_size=64)

    export = command(
        "export", "write a checkpoint in another format, without the state of training",
        "digits.pt digits.safetensors",
    )  # fmt: skip
    export.add_argument("checkpoint", help="as for sample, in a file")
    export.add_argument("target", help="….safetensors, or else a PyTorch file")

    sample = command(
        "sample", "count votes on noisy images, or take their scores, into a log",
        "digits.pt votes.jsonl --n 10000 --images 100",
    )  # fmt: skip
    _base_options(sample)
    sample.add_argument("--n0", type=int, default=100, help="selection votes (100)")
    sample.add_argument(
        "-n", "--n", type=int,  # torchrun stumbles over --n, an abbreviation to it
        help="estimation votes (10000), with --target-radius at most (100000)",
    )  # fmt: skip
    sample.add_argument(
        "--target-radius", type=float, metavar="R",
        help="stop each image as soon as its votes decide whether its radius is R",
    )  # fmt: skip
    sample.add_argument(
        "--alpha", type=float, help="failure probability of that (0.001)"
    )
    sample.add_argument(
        "--maps", nargs="+", metavar="MAP",
        help="no votes but scores, of maps such as softmax:1 sparsemax:0.5 hardmax; "
        "the number is the temperature, which divides the logits",
    )  # fmt: skip
    sample.add_argument(
        "--skip", type=int, default=1, help="of these every SKIP-th (1)"
    )
    sample.add_argument(
        "--search", metavar="PRESET",
        help="search a noise level for each image first (QCRS), as published for "
        "cifar10-0.25, cifar10-0.50, cifar10-0.50-macer, imagenet-0.25, imagenet-0.50",
    )  # fmt: skip
    sample.add_argument("--max", type=int, help="of these the first MAX only")
    sample.add_argument("--precision", default="float32", help="or bfloat16 (float32)")
    sample.add_argument(
        "--sound", type=int, nargs="?", const=255, metavar="LEVELS",
        help="add noise without rounding: pixels and noise are multiples of 1/LEVELS "
        "(255, for images of bytes; the digits need a multiple of 16)",
    )  # fmt: skip
    sample.add_argument(
        "--plain", action="store_true", help="sample the network as it is, unfolded"
    )
    sample.add_argument(
        "--compile", action="store_true",
        help="pass it through torch.compile, for GPUs: half a minute at first",
    )  # fmt: skip
    _run_options(sample, batch_size=1000)

    margins = command(
        "margins", "score clean images of a Lipschitz network, into a log",
        "lipschitz.pt margins.jsonl --dataset digits",
    )  # fmt: skip
    _image_options(margins)
    margins.add_argument(
        "--lipschitz", type=float, metavar="L",
        help="constant of the score vector (the product of the layers' constants)",
    )  # fmt: skip
    margins.add_argument(
        "--precision", default="float64",
        help="or float32, for a network so deployed; rounding costs radius (float64)",
    )  # fmt: skip
    margins.add_argument(
        "--radii", type=float, nargs="+", default=[0.0, 0.1, 0.25, 0.5, 1.0],
        help="to print the certified accuracy at (0 0.1 0.25 0.5 1)",
    )  # fmt: skip
    _run_options(margins, batch_size=1000, seed=False)

    attack = command(
        "attack", "attack the smoothed classifier at growing radii, into a log",
        "digits.pt attacks.jsonl --images 100 --radii 0 0.25 0.5 1",
    )  # fmt: skip
    _base_options(attack)
    attack.add_argument(
        "--radii", type=float, nargs="+", default=[0.0, *RADII[1:5], *RADII[6:], 2.0],
        help="L2 distances, increasing (0 0.25 0.5 0.75 1 1.5 2)",
    )  # fmt: skip
    attack.add_argument(
        "--alpha", type=float, default=0.05,
        help="probability of calling an image broken that is not (0.05)",
    )  # fmt: skip
    attack.add_argument(
        "-n", "--n", type=int, default=1000, help="votes of the judge (1000)"
    )
    attack.add_argument("--steps", type=int, default=20, help="of gradient (20)")
    attack.add_argument(
        "--noise-samples", type=int, default=16, help="in each step (16)"
    )
    _run_options(attack, batch_size=1000)

    certify = command(
        "certify", "turn a log of votes, scores or margins into certified radii",
        "votes.jsonl --alpha 0.001 --out certificates.csv",
    )  # fmt: skip
    certify.add_argument("log", nargs="+", help=_LOG)
    _level_options(certify, strategy=True)
    certify.add_argument("--out", default="-", help="CSV file (standard output)")

    predict = command(
        "predict", "predict the class, or abstain, from a log of votes or margins",
        "votes.jsonl --alpha 0.001",
    )  # fmt: skip
    predict.add_argument("log", nargs="+", help=_LOG)
    _level_options(predict, strategy=False)
    predict.add_argument("--out", default="-", help="CSV file (standard output)")

    analyze = command(
        "analyze", "tabulate and draw certified accuracy",
        "small=a.csv large=b.csv --radii 0 0.5 1 --format latex --plot curves.png",
    )  # fmt: skip
    analyze.add_argument(
        "files", nargs="+", metavar="NAME=FILE", help="certificates or a log"
    )
    analyze.add_argument("--radii", type=float, nargs="+", default=RADII, metavar="R")
    formats = "markdown", "latex", "csv"
    analyze.add_argument("--format", choices=formats, default=formats[0])
    analyze.add_argument("--plot", metavar="FILE", help="curves, e.g. as .png or .pdf")
    _level_options(analyze, strategy=True)
    return program


def _loss_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--loss", default="gaussian",
        help="gaussian, consistency, macer, smoothadv or smoothadv-ddn (gaussian)",
    )  # fmt: skip
    group = parser.add_argument_group(
        "options of the losses", "Those not given have the loss's own default."
    )
    for name, kind, text in LOSS_OPTIONS:
        group.add_argument(f"--{name}", type=kind, help=text)
    parser.add_argument("--precision", default="float32", help="or bfloat16 (float32)")
    parser.add_argument(
        "--channels-last", action="store_true", help="memory layout, faster on GPUs"
    )
    parser.add_argument("--augmentation", default="none", help="or crop-flip (none)")
    parser.add_argument(
        "--compile", action="store_true",
        help="pass the network through torch.compile, for GPUs: half a minute at first",
    )  # fmt: skip


def _base_options(parser: argparse.ArgumentParser) -> None:
    _image_options(parser)
    parser.add_argument(
        "--denoiser", metavar="FILE",
        help="written by train-denoiser, or cifar10_uncond_50M_500K.pt, or a diffusers "
        "folder: denoise each noisy image before it is classified",
    )  # fmt: skip
    parser.add_argument("--sigma", type=float, help="noise (that of training)")


def _image_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        help="written by train or export, or published by Cohen et al. or MACER, or a "
        "transformers folder",
    )  # fmt: skip
    parser.add_argument("log", help="log to write or to resume")
    _data_options(parser, dataset=None)
    parser.add_argument("--split", default="test", help="train or test (test)")
    parser.add_argument("--images", type=int, help="this many, evenly spaced (all)")


def _data_options(parser: argparse.ArgumentParser, dataset: str | None) -> None:
    parser.add_argument(
        "--dataset", default=dataset,
        help=f"digits, cifar10 or a folder ({dataset or 'that of training'})",
    )  # fmt: skip
    parser.add_argument("--root", help="folder for downloads (the cache)")
    parser.add_argument(
        "--size", type=int,
        help="scale images of a folder, keep SIZE × SIZE pixels (224 for ImageNet)",
    )  # fmt: skip


def _run_options(
    parser: argparse.ArgumentParser, batch_size: int, *, seed: bool = True
) -> None:
    parser.add_argument(
        "--batch-size", type=int, default=batch_size, help=f"({batch_size})"
    )
    if seed:
        parser.add_argument("--seed", type=int, default=0, help="(0)")
    parser.add_argument("--device", default="cpu", help="such as cuda (cpu)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _level_options(parser: argparse.ArgumentParser, *, strategy: bool) -> None:
    parser.add_argument(
        "--alpha", type=float, default=0.001,
        help="failure probability (0.001); for margins always 0",
    )  # fmt: skip
    if strategy:
        parser.add_argument(
            "--strategy",
            help="mono, bonferroni, cpm, max-upper, planned, anytime, or, for votes "
            "sampled with a target radius, sequential or anytime "
            "(max-upper or sequential); for scores lvmrs, mono or planned (lvmrs); "
            "none for margins",
        )  # fmt: skip
        parser.add_argument(
            "--map", help="of a score log with several: the one to certify, chosen "
            "without a look at these images",
        )  # fmt: skip
        parser.add_argument(
            "--randomize-seed", type=int, metavar="SEED",
            help="toss coins from this seed, fixed before the votes are seen, for "
            "exact bounds in place of conservative ones",
        )  # fmt: skip
