import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from lipsmooth.certify import STRATEGIES, certify_counts, predict_counts
from lipsmooth.cli import main
from lipsmooth.logs import read_log
from lipsmooth.models import load_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a trained model and a log, made by the commands themselves."""
    path = tmp_path_factory.mktemp("cli")
    model, log = str(path / "m.pt"), str(path / "v.jsonl")
    quiet = ["--quiet", "--seed", "1"]
    assert main(["train", model, "--sigma", "0.5", "--epochs", "5", *quiet]) == 0
    sample = ["sample", model, log, "--n", "500", "--images", "12", *quiet]
    assert main(sample) == 0
    return path


@pytest.fixture
def log(folder):
    return str(folder / "v.jsonl")


def fails(capsys, *arguments):
    """Run a command that must fail, and return what it says."""
    assert main([str(argument) for argument in arguments]) == 2
    text = capsys.readouterr().err
    assert text.startswith("lipsmooth: error: ")
    assert text.count("\n") == 1
    return text


def test_train_and_sample(folder):
    votes = read_log(folder / "v.jsonl")
    assert len(votes) == 12
    settings = {"sigma": 0.5, "n0": 100, "n": 500, "seed": 1, "dataset": "digits"}
    assert votes.config.items() >= settings.items()


def test_how_training_runs_is_kept_in_the_checkpoint(tmp_path, monkeypatch, capsys):
    for name in ("ant", "bee"):
        for number in range(3):
            (tmp_path / "train" / name).mkdir(parents=True, exist_ok=True)
            path = tmp_path / "train" / name / f"{number}.png"
            Image.new("RGB", (20 + number, 14), (80 * number, 0, 255)).save(path)
    passed = []
    monkeypatch.setattr(torch, "compile", lambda f: passed.append(f) or f)
    model = str(tmp_path / "m.pt")
    command = [
        "train", model, "--dataset", str(tmp_path), "--sigma", "0.1", "--epochs", "1",
        "--arch", "resnet9-16", "--quiet",
    ]  # fmt: skip
    assert "all must have one size" in fails(capsys, *command)
    command += ["--size", "12", "--channels-last"]
    assert "or crop-flip, got 'cut'" in fails(capsys, *command, "--augmentation", "cut")
    assert main([*command, "--augmentation", "crop-flip", "--compile"]) == 0
    assert len(passed) == 1
    metadata = load_checkpoint(model)[1]
    assert metadata["augmentation"] == "crop-flip"
    assert metadata["shape"] == [3, 12, 12]
    assert metadata["preparation"] == {"resize": 14, "crop": 12}
    assert metadata["channels_last"]


def test_skip_and_max(folder, tmp_path):
    out = tmp_path / "v.jsonl"
    arguments = ["sample", str(folder / "m.pt"), str(out), "--n", "10", "--quiet"]
    assert main([*arguments, "--skip", "20", "--max", "70"]) == 0
    assert read_log(out).index.tolist() == [0, 20, 40, 60]


def test_sampling_resumes(folder, tmp_path, capsys):
    out = tmp_path / "v.jsonl"
    content = (folder / "v.jsonl").read_bytes()
    out.write_bytes(content[:-40])
    arguments = ["sample", str(folder / "m.pt"), str(out), "--n", "500", "--seed", "1"]
    assert main([*arguments, "--images", "12", "--quiet"]) == 0
    assert "lipsmooth: warning: " in capsys.readouterr().err
    before, after = read_log(folder / "v.jsonl"), read_log(out)
    np.testing.assert_array_equal(before.counts_estimation, after.counts_estimation)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_certify(log, tmp_path, strategy):
    out = tmp_path / "c.csv"
    settings = ["--alpha", "0.01", "--strategy", strategy]
    assert main(["certify", log, "--out", str(out), *settings]) == 0
    frame, votes = pd.read_csv(out), read_log(log)
    assert frame.columns[:7].tolist() == [
        "idx", "label", "predict", "radius", "correct", "p_a_lower", "p_b_upper",
    ]  # fmt: skip
    expected = certify_counts(
        votes.counts_selection, votes.counts_estimation,
        sigma=0.5, alpha=0.01, strategy=strategy,
    )  # fmt: skip
    np.testing.assert_array_equal(frame["radius"], expected.radius)
    np.testing.assert_array_equal(frame["p_b_upper"], expected.p_b_upper)
    assert set(frame["correct"]) <= {0, 1}
    assert set(frame["strategy"]) == {strategy}
    assert set(frame["alpha"]) == {0.01}


def test_coins_are_reported_with_their_seed(log, tmp_path, capsys):
    out, plain = tmp_path / "c.csv", tmp_path / "p.csv"
    assert main(["certify", log, "--out", str(plain)]) == 0
    assert main(["certify", log, "--out", str(out), "--randomize-seed", "3"]) == 0
    frame, votes = pd.read_csv(out), read_log(log)
    expected = certify_counts(
        votes.counts_selection, votes.counts_estimation, sigma=0.5, alpha=0.001,
        randomize_seed=3, index=votes.index,
    )  # fmt: skip
    np.testing.assert_array_equal(frame["radius"], expected.radius)
    assert set(frame["randomize_seed"]) == {3}
    assert "randomize_seed" not in pd.read_csv(plain)
    capsys.readouterr()
    assert main(["analyze", f"a={out}", f"b={plain}", "--radii", "0"]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    tossed = ["analyze", f"a={log}", "--radii", "0", "--randomize-seed", "3"]
    assert main(tossed) == 0
    assert capsys.readouterr().out.splitlines()[2] == rows[0]
    assert rows[0].removeprefix("| a") != rows[1].removeprefix("| b")
    wrong = "--randomize-seed", 3, "--strategy", "anytime"
    assert "takes no coins" in fails(capsys, "certify", log, *wrong)
    assert "got -1" in fails(capsys, "certify", log, "--randomize-seed", -1)


def test_predict(log, capsys):
    assert main(["predict", log, "--alpha", "0.01"]) == 0
    out, err = capsys.readouterr()
    rows = [line.split(",") for line in out.splitlines()]
    assert rows[0] == ["idx", "label", "predict", "correct", "alpha"]
    expected = predict_counts(read_log(log).counts_estimation, alpha=0.01)
    assert [int(row[2]) for row in rows[1:]] == expected.tolist()
    assert "12 images" in err


def test_analyze(log, tmp_path, capsys):
    csv, plot = tmp_path / "c.csv", tmp_path / "curves.png"
    assert main(["certify", log, "--out", str(csv)]) == 0
    capsys.readouterr()
    files = [f"table={csv}", log]
    assert main(["analyze", *files, "--radii", "0", "0.3", "--plot", str(plot)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| name | images | r=0 | r=0.3 | ACR | abstain |"
    assert lines[2].removeprefix("| table") == lines[3].removeprefix("| v")
    assert plot.read_bytes().startswith(b"\x89PNG")
    for style, start in (("latex", r"\begin{tabular}"), ("csv", "name,images,r=0")):
        assert main(["analyze", *files, "--format", style]) == 0
        assert capsys.readouterr().out.startswith(start)


def test_deciding_a_radius(folder, tmp_path, capsys):
    log, csv = tmp_path / "d.jsonl", tmp_path / "d.csv"
    arguments = ["sample", str(folder / "m.pt"), str(log), "--images", "30", "--quiet"]
    aim = ["--target-radius", "0.4", "--alpha", "0.01", "--n", "2000"]
    assert main([*arguments, *aim]) == 0
    votes = read_log(log)
    counts = [int((votes.decision == d).sum()) for d in (1, -1, 0)]
    text = "30 images, R >= 0.4: {}, R < 0.4: {}, undecided: {}; 100 + ".format(*counts)
    assert text in capsys.readouterr().out
    assert main(["certify", str(log), "--alpha", "0.01", "--out", str(csv)]) == 0
    frame = pd.read_csv(csv)
    assert set(frame["strategy"]) == {"sequential"}
    assert ((frame["radius"] == 0.4) == (votes.decision == 1)).all()
    np.testing.assert_array_equal(frame["n"], votes.counts_estimation.sum(axis=1))
    assert main(["analyze", str(log), "--strategy", "anytime"]) == 0
    capsys.readouterr()
    for command in ("certify", "analyze"):
        text = fails(capsys, command, log, "--strategy", "mono")
        assert "use 'sequential' or 'anytime'" in text
    assert "at alpha = 0.01" in fails(capsys, "certify", log)
    assert "certify it instead" in fails(capsys, "predict", log)
    assert "n = 2000, not 100000" in fails(capsys, *arguments, *aim[:4])
    other = fails(capsys, *arguments, *aim[2:], "--target-radius", 0)
    assert "target_radius = 0.4, not 0.0" in other
    assert "with --target-radius only" in fails(capsys, *arguments, *aim[2:])


def test_what_a_user_can_get_wrong(folder, log, tmp_path, capsys):
    model, new = folder / "m.pt", tmp_path / "new.jsonl"

    def sampling(*arguments):
        return fails(capsys, "sample", model, new, "--quiet", *arguments)

    assert "'digitz'" in sampling("--dataset", "digitz")
    assert "sigma must be positive and finite, got -1.0" in sampling("--sigma", -1)
    assert "n must be a whole number, at least 1; got 0" in sampling("--n", 0)
    assert "n0 must be a whole number" in sampling("--n0", 0)
    assert "got -5" in sampling("--seed", -5)
    assert "between 1 and 450, got 451" in sampling("--images", 451)
    assert "device 'abacus' is not available" in sampling("--device", "abacus")
    assert "batch_size must be" in sampling("--batch-size", 0)
    assert "--skip must be at least 1, got 0" in sampling("--skip", 0)
    assert "'validation'" in sampling("--split", "validation")
    assert "compiled=True needs a module" in sampling("--compile", "--plain")
    assert not new.exists()

    gone = tmp_path / "gone"
    assert "gone does not exist" in fails(capsys, "sample", gone, new)
    (tmp_path / "half.pt").write_bytes(model.read_bytes()[:5000])
    assert "half.pt is truncated" in fails(capsys, "sample", tmp_path / "half.pt", new)
    (tmp_path / "set" / "test" / "ant").mkdir(parents=True)
    assert "ant" in sampling("--dataset", tmp_path / "set")
    resumed = fails(capsys, "sample", model, log, "--n", 501, "--seed", 1)
    assert "n = 500, not 501" in resumed

    assert "alpha must lie in (0, 1), got 2" in fails(
        capsys, "certify", log, "--alpha", 2
    )
    for strategy in ("guess", "fixed-runner-up"):
        text = fails(capsys, "certify", log, "--strategy", strategy)
        assert strategy in text
    assert "alpha must lie in (0, 1)" in fails(capsys, "predict", log, "--alpha", 0)
    assert "No such file" in fails(capsys, "certify", gone)
    assert "is not a vote log" in fails(capsys, "certify", model)
    assert "directory" in fails(capsys, "certify", log, "--out", gone / "c.csv")

    training = "train", gone, "--quiet"
    assert "'digitz'" in fails(capsys, *training, "--sigma", 1, "--dataset", "digitz")
    assert "sigma must be" in fails(capsys, *training, "--sigma", -1)
    assert "epochs must be" in fails(capsys, *training, "--sigma", 1, "--epochs", 0)
    assert "'vit'" in fails(capsys, *training, "--sigma", 1, "--arch", "vit")
    text = fails(capsys, "train", model, "--quiet", "--sigma", 1, "--epochs", 5)
    assert "sigma = 0.5, not 1.0" in text

    assert "two files" in fails(capsys, "analyze", f"a={log}", f"a={log}")
    assert "No such file" in fails(capsys, "analyze", f"a={gone}")
    assert "at must be" in fails(capsys, "analyze", log, "--radii", -1)
    assert "no column 'label'" in _analyze_text(capsys, tmp_path, "a,b\n1,2\n")


def _analyze_text(capsys, tmp_path, text):
    (tmp_path / "bad.csv").write_text(text)
    return fails(capsys, "analyze", tmp_path / "bad.csv")


def test_a_log_is_never_overwritten_by_its_certificates(log, capsys):
    before = Path(log).read_bytes()
    for command in ("certify", "predict"):
        assert "would overwrite the log" in fails(
            capsys, command, log, "--out", os.path.relpath(log)
        )
    assert Path(log).read_bytes() == before


def test_a_damaged_line_is_told_and_the_rest_certified(log, tmp_path, capsys):
    lines = Path(log).read_bytes().splitlines(keepends=True)
    lines[4] = lines[4].replace(b"[", b"]", 1)
    lines[-1] = lines[-1][: len(lines[-1]) // 2]
    damaged = tmp_path / "d.jsonl"
    damaged.write_bytes(b"".join(lines))
    assert main(["certify", str(damaged), "--out", str(tmp_path / "c.csv")]) == 0
    err = capsys.readouterr().err
    assert "d.jsonl: line 5 is damaged; skipped" in err
    assert "d.jsonl: line 13 is cut short; skipped" in err
    assert len(pd.read_csv(tmp_path / "c.csv")) == 10


@pytest.mark.parametrize(
    "command", ["train", "sample", "certify", "predict", "analyze"]
)
def test_help(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert f"example:\n  python -m lipsmooth {command}" in text


@pytest.mark.parametrize("arguments", [[], ["guess"], ["certify"], ["train", "x"]])
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "usage: lipsmooth" in capsys.readouterr().err


def test_interruption(monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("lipsmooth.shards.read_shards", interrupt)
    assert main(["certify", "x"]) == 130
    assert "resumes" in capsys.readouterr().err


def test_a_log_is_certified_where_there_is_no_torch(log, tmp_path):
    code = """
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in {"torch", "torchvision", "sklearn", "tqdm", "filelock", "pooch",
                    "platformdirs"}:
            raise ModuleNotFoundError(f"no {name} here", name=name)

sys.meta_path.insert(0, Absent())
from lipsmooth.cli import main
sys.exit(main(sys.argv[1:]))
"""

    def run(*arguments):
        command = [sys.executable, "-W", "error", "-c", code, *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    out, plot = str(tmp_path / "c.csv"), str(tmp_path / "c.png")
    assert run("certify", log, "--out", out).returncode == 0
    assert run("predict", log).returncode == 0
    assert run("analyze", out, log, "--plot", plot).returncode == 0
    sampled = run("sample", "m.pt", "v.jsonl")
    assert sampled.returncode == 2
    assert sampled.stderr.startswith("lipsmooth: error: sample needs ")
    assert sampled.stderr.count("\n") == 1


def test_python_dash_m():
    done = subprocess.run(
        [sys.executable, "-m", "lipsmooth", "certify", "gone"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("lipsmooth: error: ")
    assert "Traceback" not in done.stderr
