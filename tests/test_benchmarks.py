"""One command line for all benchmarks; their figures are checked where they are made."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import functools
import graphlib
import importlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks import __main__ as entry
from benchmarks import finetune, kernels, method_rows, methods, train_step, view_models, views
from benchmarks.common import machine
from benchmarks.common.command import Benchmark, WrongResultError
from ssgear.config.schema import ModelConfig
from ssgear.data.loaders.batch import Batch
from ssgear.errors import ConfigError
from ssgear.methods.rotnet.method import Turns
from ssgear.models.encoders import build_encoder, save_encoder
from tests.data.view_stores import folder
from tests.views.toy_pipeline import toy_pipeline


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--rows 512 7", "argument --rows: '7': use an even number"),
        ("--rows 0", "argument --rows: '0'"),
        ("--widths 0", "argument --widths: '0': use a number of at least 1"),
        ("--threads -1", "argument --threads: '-1'"),
        ("--threads 0", "argument --threads: '0'"),
        ("--threads two", "argument --threads: 'two'"),
        ("--kernels knn", "argument --kernels: invalid choice: 'knn'"),
    ],
)
def test_bad_options_are_named_in_one_line(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        kernels.BENCHMARK.parse(words.split())
    said = capsys.readouterr().err
    assert left.value.code == 2
    assert said.startswith(f"benchmark: {message}") and said.count("\n") == 1


def test_alone_it_lists_every_benchmark_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    folder = Path(entry.__file__).parent
    modules = [file.stem for file in folder.glob("*.py") if "\nBENCHMARK = " in file.read_text()]
    listed = dict(line.split(maxsplit=1) for line in lines if line.startswith("  "))
    assert sorted(listed) == sorted(modules) == sorted(entry.BENCHMARKS)
    assert all(text.endswith(".") for text in listed.values())


def test_an_unknown_benchmark_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["kernel"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("benchmark: kernel: unknown (did you mean kernels?); known: kernels, ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", entry.BENCHMARKS)
def test_common_options_reach_every_benchmark(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    seen: list[argparse.Namespace] = []
    measure = lambda options: seen.append(options) or {"rows": [torch.get_num_threads()]}  # noqa: E731
    benchmark = dataclasses.replace(module.BENCHMARK, measure=measure)
    monkeypatch.setattr(module, "BENCHMARK", benchmark)
    threads = torch.get_num_threads()
    file = tmp_path / "results.json"
    words = ["dcgan", "64"] if name == "gan_row" else []
    words += ["--rounds", "3", "--threads", "1", "--device", "cpu", "--json", str(file)]
    assert entry.main([name.replace("_", "-"), *words]) == 0
    torch.set_num_threads(threads)
    (options,) = seen
    assert (benchmark.name, options.rounds, options.device) == (name, 3, "cpu")
    results = json.loads(file.read_text("utf-8"))
    assert results["rows"] == [1] and results["threads"] == 1 and "versions" in results
    with pytest.raises(SystemExit) as left:
        benchmark.parse([*words, "--rounds", "0"])
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("benchmark: argument --rounds: '0'")


def test_a_wrong_result_or_a_mistake_is_one_line_and_leaves_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    errors: list[tuple[Exception, int, str]] = [
        (WrongResultError("x is off"), 1, "benchmark: x is off; nothing more is timed\n"),
        (ConfigError("--x: no"), 2, "benchmark: --x: no\n"),
    ]
    for error, status, line in errors:

        def fail(_: object, error: Exception = error) -> dict[str, Any]:
            raise error

        assert Benchmark("x", "X.", fail).main(["--json", str(tmp_path / "x")]) == status
        assert capsys.readouterr().err == line
    assert not list(tmp_path.iterdir())


def test_only_a_training_passes_options_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert methods.BENCHMARK.parse(["--seeds", "1", "--", "--seeds"]).further == ["--seeds"]
    with pytest.raises(SystemExit):
        kernels.BENCHMARK.parse(["--", "--seeds"])
    assert "unrecognized arguments" in capsys.readouterr().err


def test_benchmarks_import_no_circle_and_touch_nothing_private() -> None:
    root = Path(entry.__file__).parents[1]
    files = sorted((root / "benchmarks").rglob("*.py"))
    graph: dict[str, set[str]] = {}
    private: list[str] = []
    for file in files:
        name = ".".join(file.relative_to(root).with_suffix("").parts)
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                graph.setdefault(name, set()).update(names)
            elif isinstance(node, ast.Attribute) and re.match("_[a-z]", node.attr):
                private.append(f"{name}:{node.lineno} {node.attr}")
    assert len(files) > 20 and not private, private
    list(graphlib.TopologicalSorter(graph).static_order())


ROW = {
    "what": "dcgan", "size": 64, "width": 64, "batch": 16, "eager": 10.0, "plain": 11.0,
    "compile_limit_s": 90.0, "compile_s": None, "compiled": None,
}  # fmt: skip


def test_a_line_of_gan_training_says_what_came_of_compiling(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a process printed before it ended itself stands."""
    asked: list[list[str]] = []
    second: dict[str, Any] = {"compile_s": 41.2, "compiled": 7.5}

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        lines = [json.dumps(ROW)]
        lines += [json.dumps({**ROW, **second})] if len(asked) == 2 else []
        return subprocess.CompletedProcess(command, -9, stdout="\n".join(["noise", *lines]))

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(train_step, "measure_joint", lambda *_: joint)
    joint = {"what": "x", "joint": 3, "critic": 1, "generator": 1, "encoder": 1, "sum": 3.0}
    joint["ratio"] = 1.0
    assert train_step.BENCHMARK.main(["--kinds", "stylegan2", "--compile-limit", "90"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-2].endswith("10.00    11.00         1.10   compile did not finish within 90 s")
    assert said[-1].endswith("7.50 (compiled in 41 s)")
    assert [word[3:6] for word in asked] == [
        ["stylegan2", size, "--batch"] for size in ["32", "64"]
    ]
    assert "--compile-limit 90.0" in " ".join(asked[0])
    monkeypatch.setitem(ROW, "compile_limit_s", 0.0)
    train_step.BENCHMARK.main(["--kinds", "dcgan", "--sizes", "64", "--no-compile"])
    assert capsys.readouterr().out.endswith("not asked for\n")
    assert "--compile-limit 0.0" in " ".join(asked[-1])


def test_compiling_that_takes_too_long_ends_with_its_compilers() -> None:
    """The process and its children; what was printed before is not lost."""
    program = (
        "import subprocess, sys, time\n"
        "from benchmarks import gan_row\n"
        "gan_row.joint_step = lambda run: lambda: time.sleep(60)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True)\n"
        "gan_row.compiled_step(None, 0.5)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert done.returncode == -9
    child = int(done.stdout)
    for _ in range(100):
        if not is_alive(child):
            return
        time.sleep(0.05)
    raise AssertionError("a compiler lives on")


def is_alive(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_views_are_timed_by_stage_and_what_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stages(*_: object) -> Any:
        return {"caption": lambda: torch.ones(3) @ torch.ones(3)}

    rates = machine.Rates(flop=1e6, exps=1.0, bytes=1.0)
    monkeypatch.setattr(view_models, "pipeline", lambda *_: toy_pipeline())
    monkeypatch.setattr(view_models, "stages", stages)
    monkeypatch.setattr(machine, "measure_rates", lambda *_: rates)
    file = tmp_path / "views.json"
    words = f"--device cpu --batches 3 --steps 7 --contenders tensorrt --json {file}"
    assert views.BENCHMARK.main(words.split()) == 0
    assert "left out: --compile: tensorrt needs an NVIDIA GPU" in capsys.readouterr().out
    found = json.loads(file.read_text("utf-8"))
    rows = {row["stage"]: row for row in found["rows"]}
    assert list(rows) == ["unet", "vae_decoder", "caption", "image, 7 steps"]
    # two convolutions of 3 x 3 on 32 x 32 places, and a linear layer: 6 rows
    flop = 6 * 2 * (2 * 9 * 4 * 8 * 32 * 32 + 6 * 8)
    assert rows["unet"]["gflop"] == pytest.approx(flop / 1e9)
    parts = {stage: row["milliseconds"] for stage, row in rows.items()}
    whole = 7 * parts["unet"] + parts["vae_decoder"] + parts["caption"]
    assert parts["image, 7 steps"] == pytest.approx(whole)
    assert rows["unet"]["images_per_second"] == pytest.approx(3000 / parts["unet"])
    limit = rows["unet"]["percent_of_limit"] * parts["unet"] / 100
    assert limit == pytest.approx(flop / 1e6) and "left_out" in found


def test_a_gpu_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as left:
        views.BENCHMARK.parse(["--device", "cuda"])
    assert left.value.code == 2 and "there is no NVIDIA GPU here" in capsys.readouterr().err


def row(method: str, seed: int, probe: float, **fields: Any) -> method_rows.Row:
    given: dict[str, Any] = {
        "method": method, "seed": seed, "images": 640, "epochs": 2, "images_per_second": 1000.0,
        "figures": {"linear_probe": probe, "knn": 0.3}, "untrained": {"linear_probe": 0.27},
        "peak_mb": 500.0, "minutes": 2.0, "step_ms": 100.0, "encoder_ms": 60.0, "views_ms": 30.0,
    }  # fmt: skip
    return method_rows.Row(**{**given, **fields})


def test_the_table_of_methods_has_means_and_deviations_over_seeds() -> None:
    rows = [row("a", 0, 0.40), row("a", 1, 0.44), row("b", 0, 0.5, figures={"purity": 0.9})]
    first, second = method_rows.table(rows).splitlines()[2:]
    # deviation of 40 and 44: sqrt((2^2 + 2^2) / 1)
    assert first == (
        "| a | 42.0 +- 2.8 | 27.0 +- 0.0 | 30.0 +- 0.0 | - | 1,000 | 500 | 2.0 | 10 % |"
    )
    assert second == "| b | - | 27.0 | - | - | 1,000 | 500 | 2.0 | 10 % |"


def test_methods_that_are_trained_are_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[tuple[str, int]] = []

    def train(job: methods.Job) -> method_rows.Row:
        if (job.method, job.seed) == ("swav", 1):
            raise ConfigError("no")
        trained.append((job.method, job.seed))
        return row(job.method, job.seed, 0.4)

    monkeypatch.setattr(methods, "in_a_process", train)
    file = tmp_path / "found.json"
    words = ["--images", "640", "--json", str(file), "--methods", "simclr", "swav", "--seeds"]
    assert methods.BENCHMARK.main([*words, "0"]) == 0
    assert methods.BENCHMARK.main([*words, "0", "1"]) == 1
    assert trained == [("simclr", 0), ("swav", 0), ("simclr", 1)]
    out, err = capsys.readouterr()
    assert err == "benchmark: swav, seed 1: no\n"
    assert out.splitlines()[-2].startswith("| simclr | 40.0 +- 0.0 |")
    assert methods.BENCHMARK.main(["--images", "64", "--json", str(file)]) == 2
    assert "name another file" in capsys.readouterr().err


def test_methods_by_the_length_of_their_own_presets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(job: methods.Job) -> method_rows.Row:
        assert "--optim.epochs" not in methods.scaled(job, tmp_path)
        return row(job.method, job.seed, 0.4)

    monkeypatch.setattr(methods, "in_a_process", train)
    file = tmp_path / "found.json"
    words = ["--images", "preset", "--seeds", "0", "--methods", "simclr", "--json", str(file)]
    assert methods.BENCHMARK.main(words) == 0
    assert "its preset's images seen by each method" in capsys.readouterr().out
    assert methods.BENCHMARK.main([*words, "--images", "640"]) == 2  # another file's


def test_a_piece_that_fails_ends_no_other_and_no_piece_loses_the_rows_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "found.json"

    def train(job: methods.Job) -> method_rows.Row:
        if job.method == "moco":
            raise RuntimeError("killed")
        if job.method == "swav":  # which another piece trains beside it
            found = json.loads(file.read_text())
            found["rows"].append(dataclasses.asdict(row("byol", 0, 0.5)))
            file.write_text(json.dumps(found))
        return row(job.method, job.seed, 0.4)

    monkeypatch.setattr(methods, "in_a_process", train)
    words = ["--images", "640", "--json", str(file), "--seeds", "0", "--methods"]
    assert methods.BENCHMARK.main([*words, "simclr", "moco", "swav", "byol"]) == 1
    out, err = capsys.readouterr()
    assert "RuntimeError: killed" in err and err.endswith("benchmark: moco, seed 0: failed\n")
    found = json.loads(file.read_text())
    assert [each["method"] for each in found["rows"]] == ["simclr", "byol", "swav"]
    assert "| byol | 50.0 |" in out and "byol, seed 0" not in out  # shown, and not trained again
    monkeypatch.setattr(torch, "get_num_threads", lambda: found["settings"]["threads"] + 1)
    assert methods.BENCHMARK.main([*words, "simclr"]) == 2


def test_what_only_some_methods_are_measured_by_has_lines_of_its_own() -> None:
    rows = [
        row("drlim", seed, 0.4, figures={"knn": 0.9, "knn_20": 0.8, "shift_knn": share})
        for seed, share in enumerate((0.2, 0.24))
    ]
    (line,) = method_rows.own_figures([*rows, row("simclr", 0, 0.5)]).splitlines()[2:]
    assert line == "| drlim | shift_knn | 22.0 +- 2.8 | - |"
    assert method_rows.own_figures([row("simclr", 0, 0.5)]) == ""


def test_a_method_is_trained_for_the_images_asked_for_and_taken_apart(tmp_path: Path) -> None:
    images = folder(tmp_path / "images", 40)
    options = ("--data.path", str(images), "--optim.batch-size", "16", "--method.projector-dims")
    job = methods.Job(
        method="supcon", seed=3, preset="quick", images=100, options=(*options, "16", "8")
    )
    found = methods.train(job)
    assert (found.epochs, found.images) == (3, 96)  # two batches of 16 an epoch
    assert {"linear_probe", "knn"} <= found.figures.keys() & found.untrained.keys()
    assert found.peak_mb > 100 and found.images_per_second > 0
    assert found.encoder_ms > 0 and 0 < found.views_ms < found.step_ms


def test_what_a_method_makes_of_its_views_is_no_overhead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = Turns.seen

    def slow(self: Turns, batch: Batch) -> tuple[torch.Tensor, ...]:
        time.sleep(0.1)
        return turns(self, batch)

    monkeypatch.setattr(Turns, "seen", slow)
    images = folder(tmp_path / "images", 40)
    options = (
        "--data.path",
        str(images),
        "--optim.batch-size",
        "8",
        "--eval.max-images",
        "10",
        "--eval.final-images",
        "10",
    )
    job = methods.Job(method="rotnet", seed=0, preset="quick", images=16, options=options, rounds=2)
    found = methods.train(job)
    assert 100 < found.views_ms < found.step_ms


def test_fine_tuning_is_compared_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3 * 24):
        part = "test" if number < 15 else "train"
        file = tmp_path / "images" / part / "abc"[number % 3] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.full((8, 8, 3), number, dtype=torch.uint8)
        pixels[..., number % 3] = 200
        Image.fromarray(pixels.numpy()).save(file)
    encoder = build_encoder(ModelConfig(name="5c3-8f"), 8)
    save_encoder(encoder, tmp_path / "run", mean=(0.5,) * 3, std=(0.2,) * 3)
    results = tmp_path / "results.json"
    # images are decoded by processes that take longer to start than all trainings here
    monkeypatch.setattr("benchmarks.finetune.load", functools.cache(finetune.load))
    words = ["finetune", "--run", str(tmp_path / "run"), "--data", str(tmp_path / "images")]
    words += ["--json", str(results), "--shares", "0.2", "--seeds", "0", "1", "--lrs", "0.01"]
    words += ["--steps", "5", "--held-out", "9", "--batch-size", "4", "--device", "cpu"]
    assert entry.main([*words, "--starts", "scratch"]) == 0
    assert "fine-tuned" not in capsys.readouterr().out  # half of a comparison is no table
    assert entry.main(words) == 0
    fields = json.loads(results.read_text("utf-8"))
    (entry_of_share,) = fields["comparison"]
    assert entry_of_share["num_train"] == 12 and len(entry_of_share["mcnemar"]) == 2
    rows = [row for row in fields["rows"] if not row["is_tuning"]]
    means = {
        start: sum(row["accuracy"] for row in rows if row["start"] == start) / 2
        for start in ("pretrained", "scratch")
    }
    for start, mean in means.items():
        assert entry_of_share[start]["mean"] == pytest.approx(mean)
    difference = means["pretrained"] - means["scratch"]
    assert entry_of_share["difference"]["mean"] == pytest.approx(difference)
    assert {row["start"]: (row["epochs"], row["num_test"]) for row in rows} == {
        "pretrained": (2, 15), "scratch": (5, 15),
    }  # fmt: skip
    table = capsys.readouterr().out
    monkeypatch.setattr("benchmarks.finetune.fine_tune", lambda *_, **__: pytest.fail("again"))
    assert entry.main(words) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1] == table.strip().splitlines()[-1]
    assert entry.main([*words, "--steps", "6"]) == 2
    assert "is of other settings; name another file" in capsys.readouterr().err
    assert entry.main(["finetune"]) == 2
    assert capsys.readouterr().err == "benchmark: --run: required; name what to fine-tune\n"
