"""The script that remakes the CIFAR-10 logs, at a tiny scale on digits."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "book"))
import runs

from lipsmooth.attacklogs import read_attack_log
from lipsmooth.cli import main as lipsmooth
from lipsmooth.logs import read_log
from lipsmooth.options import parser
from lipsmooth.scorelogs import read_score_log

TINY = {
    "train": "--arch resnet9-16 --epochs 1 --batch-size 256 --augmentation crop-flip",
    "denoiser": "--light --width 16 --epochs 1",
    "sample": "--batch-size 500",
    "images": 3, "n": 60, "moments": 40, "few": 2, "n_few": 30,
}  # fmt: skip


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.setitem(runs.SCALES, "reduced", TINY)
    monkeypatch.setattr(runs, "NETWORKS", tmp_path / "networks")
    return tmp_path


def test_runs_train_what_they_need_and_log_what_they_say(folders):
    names = ["votes-0.25", "moments-0.25", "denoised-0.50", "searched-0.25"]
    where = ["--dataset", "digits", "--logs", str(folders)]
    runs.main([*names, "attack-0.50", *where])
    log = read_log(folders / "votes-0.25.jsonl")
    assert len(log) == TINY["images"]
    assert (log.config["sigma"], log.config["n"]) == (0.25, TINY["n"])
    assert len(read_score_log(folders / "moments-0.25.jsonl").maps) > 3
    denoised = read_log(folders / "denoised-0.50.jsonl")
    assert "denoiser" in denoised.config
    assert read_log(folders / "searched-0.25.jsonl").best_sigma is not None
    assert len(read_attack_log(folders / "attack-0.50.jsonl")) == TINY["few"]
    trained = {path.stem for path in (folders / "networks").glob("*.pt")}
    assert trained == {"network-0.25", "network-0.00", "network-0.50", "denoiser"}
    before = (folders / "votes-0.25.jsonl").read_bytes()
    runs.main(["votes-0.25", *where])  # nothing is left to do
    assert (folders / "votes-0.25.jsonl").read_bytes() == before


def test_a_kept_network_is_taken_before_one_is_trained(folders, capsys):
    where = ["--dataset", "digits", "--logs", str(folders)]
    runs.main(["votes-0.25", *where])
    trained, kept = (
        folders / "networks/network-0.25.pt",
        folders / "network-0.25.safetensors",
    )
    assert lipsmooth(["export", str(trained), str(kept)]) == 0
    trained.unlink()
    (folders / "votes-0.25.jsonl").rename(folders / "first")
    runs.main(["votes-0.25", *where])
    assert not trained.exists()
    first, again = read_log(folders / "first"), read_log(folders / "votes-0.25.jsonl")
    assert again.config == first.config
    assert (again.counts_estimation == first.counts_estimation).all()
    with pytest.raises(SystemExit):
        runs.main(["votes-0.25", "--scale", "published", *where])
    assert "name another with --logs" in capsys.readouterr().err


def test_every_run_is_a_command_at_every_scale(folders):
    for scale in runs.SCALES.values():
        commands = [command for _, command in runs.runs(scale).values()]
        for command in [f"train x --sigma 1 {scale['train']}",
                        f"train-denoiser x {scale['denoiser']}"]:  # fmt: skip
            parser().parse_args(command.split())
        for command in commands:
            first, *settings = command.split()
            parser().parse_args([first, "checkpoint", "log", *settings])


def test_an_unknown_run_is_named(folders, capsys):
    with pytest.raises(SystemExit):
        runs.main(["votes-0.33"])
    assert "no run is called votes-0.33" in capsys.readouterr().err


def test_a_run_that_fails_stops_the_script(folders, capsys):
    with pytest.raises(SystemExit) as stopped:
        runs.main(["votes-0.25", "--dataset", str(folders / "nowhere")])
    assert stopped.value.code == 2
    assert "dataset must be" in capsys.readouterr().err
