"""The whole commands on real images: train, what it leaves behind, and evaluate."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssgear import load_encoder
from ssgear.data.sources import open_source
from ssgear.errors import ArgumentError
from ssgear.evaluate import main as evaluate
from ssgear.train import main as train

SHORT = [
    "--preset", "quick", "--optim.batch-size", "256", "--optim.epochs", "2", "--eval.every", "1",
    "--optim.warmup-epochs", "0.5", "--eval.max-images", "400", "--eval.final-images", "400",
    "--log.every", "5",
    "--log.no-progress", "--optim.max-steps", "18",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run on the embedded images that stops in its second epoch."""
    directory = tmp_path_factory.mktemp("train") / "run"
    assert train([*SHORT, "--output", str(directory)]) == 0
    return directory


def test_a_run_leaves_what_the_design_names(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names == {
        "config.json", "metrics.jsonl", "checkpoints", "encoder.safetensors", "encoder.json",
        "summary.json", "summary.safetensors", "map.safetensors", "features", "report.html",
        "tensorboard", ".lock",
    }  # fmt: skip
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["kind"] == "train"]
    assert steps == [5, 10, 15, 18]
    assert all(isinstance(line["loss"], float) for line in lines if line["kind"] == "train")
    readings = [line for line in lines if line["kind"] == "eval"]
    assert [line["step"] for line in readings] == [15, 18]
    assert {"knn", "alignment", "uniformity", "effective_rank", "collapsed"} <= readings[0].keys()


def test_the_summary_has_figures_and_both_baselines(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    for figures in (summary, summary["baselines"]["untrained"], summary["baselines"]["pixels"]):
        assert 0.1 < figures["linear_probe"] < 1 and 0.1 < figures["knn"] < 1
    assert summary["num_train"] == 4000 and summary["steps"] == 18
    assert summary["versions"]["torch"] == torch.__version__.split("+")[0] or torch.__version__


def test_the_encoder_is_the_one_that_was_trained(run: Path) -> None:
    encoder = load_encoder(run)
    summary = json.loads((run / "summary.json").read_text())
    images = torch.randint(0, 255, (3, 3, 32, 32), dtype=torch.uint8)
    assert not encoder.training and encoder(images).shape == (3, encoder.num_features)
    state = torch.load(run / "checkpoints" / "step-18" / "group-encoder.pt", weights_only=True)
    trained = state["weights"]["parts.encoder.network.conv1.weight"]
    assert torch.equal(encoder.encoder.network.conv1.weight, trained)
    assert summary["size"] == encoder.size == 32


def test_the_last_line_is_the_report_and_it_stands_alone(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--optim.max-steps", "1", "--eval.no-final", "--log.no-tensorboard"]
    assert train([*SHORT, *options, "--output", "out"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "out/report.html"
    html = (run / "report.html").read_text()
    assert "SimCLR" in html and len(html) < 4_000_000
    assert 'src="http' not in html and 'href="http' not in html


def test_evaluate_finds_the_figures_of_the_summary_again(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--protocol", "linear", "knn", "health", "--max-images", "400"]
    assert evaluate([str(run), *options]) == 0
    path = Path(capsys.readouterr().out.splitlines()[-1])
    assert path == run / "evaluation-mini-400-images-linear-knn-health.json"
    figures, summary = json.loads(path.read_text()), json.loads((run / "summary.json").read_text())
    assert figures["linear_probe"] == pytest.approx(summary["linear_probe"], abs=0.01)
    assert figures["knn"] == pytest.approx(summary["knn"], abs=0.01)
    assert figures["effective_rank"] == pytest.approx(summary["health"]["effective_rank"], rel=0.01)


def test_figures_of_other_images_have_a_name_of_their_own(
    run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = []
    for _ in range(2):
        assert evaluate([str(run), "--data.path", str(folder), "--protocol", "health"]) == 0
        out, err = capsys.readouterr()
        path = Path(out.splitlines()[-1])
        told.append("is replaced" in err)
    assert path == run / f"evaluation-folder-{folder.name}-health.json" and told == [False, True]
    assert json.loads(path.read_text())["path"] == str(folder)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--max-images", "-3"], "--max-images: must be at least 2 (got -3)"),
        (["--output", "nowhere/x.json"], "nowhere/x.json: nowhere cannot be written"),
        (["--output", "."], ".: is a directory"),
        (["--output", "figures.html"], "--output: must end in .json (got figures.html)"),
        (["--protocol", "knm"], "did you mean knn?"),
    ],
)
def test_evaluate_refuses_before_it_measures(
    options: list[str], expected: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate([str(run), *options]) == 2
    out, err = capsys.readouterr()
    assert expected in err and len(err.splitlines()) == 1 and not out


def test_evaluate_of_nothing_names_what_was_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(["nowhere/run"]) == 2
    assert "nowhere/run: there is no such run or file" in capsys.readouterr().err


def test_the_encoder_refuses_floats_that_are_no_images(run: Path) -> None:
    encoder = load_encoder(run)
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(encoder(images.float() / 255), encoder(images))
    for wrong in (images.float(), images / 255 * 4 - 2, torch.full((1, 3, 32, 32), torch.nan)):
        with pytest.raises(ArgumentError, match=r"floats in \[0, 1\], not normalised"):
            encoder(wrong)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of mixed sizes without labels, cut from the embedded ones."""
    from ssgear.config.schema import DataConfig

    source = open_source(DataConfig(), "train")
    root = tmp_path_factory.mktemp("photos")
    for number in range(60):
        array = source.decode(number * 66).permute(1, 2, 0).numpy()
        size = (40 + number % 7, 36 + number % 5)
        Image.fromarray(np.ascontiguousarray(array)).resize(size).save(root / f"{number}.jpg")
    return root


def test_a_folder_of_unlabelled_images_of_mixed_sizes(folder: Path, tmp_path: Path) -> None:
    options = ["--data.path", str(folder), "--optim.batch-size", "16", "--optim.epochs", "1"]
    assert train([*SHORT, *options, "--output", str(tmp_path / "run")]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["loader"] == "torch" and summary["num_train"] == 54 and summary["num_test"] == 6
    assert "linear_probe" not in summary and summary["health"]["effective_rank"] > 1
    assert (tmp_path / "run" / "report.html").is_file()


def test_the_torch_loader_gives_the_same_run_whatever_the_workers(
    folder: Path, tmp_path: Path
) -> None:
    options = [
        *SHORT, "--data.path", str(folder), "--optim.batch-size", "16", "--optim.epochs", "1",
        "--log.every", "1", "--eval.no-final", "--eval.every", "0",
    ]  # fmt: skip
    columns = []
    for workers in ("0", "2"):
        run = tmp_path / workers
        assert train([*options, "--data.workers", workers, "--output", str(run)]) == 0
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        columns.append([line["loss"] for line in lines if line["kind"] == "train"])
    assert len(columns[0]) == 3 and columns[0] == columns[1]


def evaluate_refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    assert evaluate(list(argv)) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and told[0].startswith("ssgear: ")
    return told[0]


def test_evaluate_refuses_in_one_line(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "linear" in evaluate_refused(capsys, str(run), "--protocol", "lineer")
    assert "--protocol" in evaluate_refused(capsys, str(run), "--protocl", "linear")
    assert "nowhere" in evaluate_refused(capsys, str(tmp_path / "nowhere"))
    assert "labels" in evaluate_refused(capsys, str(run), "--data.path", str(folder))
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("encoder.json", "encoder.safetensors"):
        (broken / name).write_bytes((run / name).read_bytes()[:300])
    assert "encoder" in evaluate_refused(capsys, str(broken))
