"""The command line of training as a user meets it: options, errors, precedence, help."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssgear import registry
from ssgear.config import cli, runs
from ssgear.config.options import options_for, options_of
from ssgear.config.schema import Config
from ssgear.errors import CheckpointError, ConfigError, SsgearError

# scripts rely on these names: one that goes or changes is a break of theirs
OPTIONS = """
--preset --config --resume --dry-run
--method --seed --output --deepspeed
--data.source --data.path --data.test-path --data.labels --data.download --data.test-share
--data.size --data.augmentation --data.min-scale --data.loader --data.workers
--data.resident-limit-mb --data.max-bad-share --data.cache --data.synthetic --data.synthetic-ratio
--views.store --views.probability --views.policy
--model.name --model.norm --model.stem --model.weights
--optim.name --optim.lr --optim.weight-decay --optim.momentum
--optim.lars-eta --optim.lars-clip --optim.batch-size
--optim.micro-batch --optim.epochs --optim.max-steps --optim.warmup-epochs --optim.clip
--optim.ema
--engine.device --engine.precision --engine.compile --engine.channels-last
--engine.keep-memory --engine.deterministic --engine.threads --engine.timeout-s
--log.every --log.tensorboard --log.progress
--checkpoint.every --checkpoint.keep
--eval.every --eval.final --eval.max-images --eval.final-images --eval.inception
--method.temperature --method.learned-temperature --method.projector-dims
""".split()  # noqa: SIM905

MISTAKES = {
    "--optim.learning-rate 1": "--optim.learning-rate: unknown option (did you mean --optim.lr?)",
    "--optim.lerning_rate=1": "--optim.lerning_rate: unknown option (did you mean --optim.lr?)",
    "--lr 1": "--lr: unknown option (did you mean --optim.lr?)",
    "--method.temprature 1": "--method.temprature: unknown setting of simclr "
    "(did you mean --method.temperature?)",
    "--method.temprature=1 --method simclr": "--method.temprature: unknown setting of simclr "
    "(did you mean --method.temperature?)",
    "--method.temperature 0": "--method.temperature: 0.0 is not possible; use a value above 0",
    "--method.temperature -0.5": "--method.temperature: -0.5 is not possible; use a value above 0",
    "--data.synthetic-ratio 0.3": "--data.synthetic-ratio: 0.3 is not possible; name the store of "
    "synthetic images by --data.synthetic",
    "--data.synthetic x --data.synthetic-ratio 1.5": "--data.synthetic-ratio: 1.5 is not possible; "
    "use [0, 1]",
    "--views.probability 0.3": "--views.probability: 0.3 is not possible; name the store of views "
    "by --views.store",
    "--views.store x --views.probability -0.1": "--views.probability: -0.1 is not possible; "
    "use [0, 1]",
    "--views.store x --views.probability nan": "--views.probability: 'nan' is not a number",
    "--views.policy pair": "--views.policy: pair is not possible; name the store of views by "
    "--views.store",
    "--views.policy pairs": "--views.policy: 'pairs' is not one of second-only, any, pair "
    "(did you mean pair?)",
    "--engine.precision fp8": "--engine.precision: 'fp8' is not one of float32, bf16",
    "--optim.name adam": "--optim.name: 'adam' is not one of lars, sgd, adamw "
    "(did you mean adamw?)",
    "--optim.batch-size many": "--optim.batch-size: 'many' is not a whole number",
    "--optim.batch-size 25.6": "--optim.batch-size: '25.6' is not a whole number",
    "--optim.batch-size 1": "--optim.batch-size: 1 is not possible; use at least 2",
    "--optim.micro-batch none": "--optim.micro-batch: 'none' is not a whole number or None",
    "--optim.lr nan": "--optim.lr: 'nan' is not a number",
    "--optim.lr": "--optim.lr: a value is missing; it takes a number",
    "--optim.lr 1 2": "--optim.lr: takes one value, 2 were given: 1 2",
    "--engine.compile maybe": "--engine.compile: 'maybe' is not True or False",
    "--config none.json": "none.json: cannot be read (No such file or directory)",
    "--seed -1": "--seed: -1 is not possible; use 0 to 2^32 - 1",
    "quick": "quick: is no option; options start with -- (--help lists them)",
    "--zzz": "--zzz: unknown option; --method NAME --help lists every option",
}


def parse(*argv: object) -> cli.Launch:
    return cli.parse([str(word) for word in argv])


def refused(*argv: object) -> str:
    with pytest.raises(SsgearError) as caught:
        parse(*argv)
    return str(caught.value)


def test_the_options_are_these() -> None:
    simclr = registry.load("methods", "simclr")
    options = {**options_of(cli.Launching), **options_for(simclr)}
    assert [option.flag for option in options.values()] == OPTIONS


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line_and_status_2(run_ssgear: Callable[..., Any], line: str) -> None:
    outcome = run_ssgear("train", *line.split())
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err == f"ssgear: {MISTAKES[line]}\n"


@pytest.mark.parametrize(
    ("line", "beginning"),
    [
        (
            "--preset quik",
            "--preset: unknown preset 'quik' (did you mean quick?); --help lists",
        ),
        (
            "--preset byol",
            "--preset: byol is a method; use --method byol, or a preset of it: by",
        ),
        ("--method simclrr", "--method: unknown method 'simclrr' (did you mean simclr?); known: "),
    ],
)
def test_a_misspelt_name_leads_to_the_known(line: str, beginning: str) -> None:
    assert refused(*line.split()).startswith(beginning)


@pytest.mark.parametrize("line", ["--optim.learning-rate 1", "--method.temperature 0"])
def test_a_mistake_in_a_process_of_its_own(line: str) -> None:
    words = [sys.executable, "-m", "ssgear.train", *line.split()]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"ssgear: {MISTAKES[line]}\n"


def test_types_of_a_users_own_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd_method.py").write_text(
        "from dataclasses import dataclass\n"
        "from ssgear.methods.base import Method\n"
        "class Odd(Method):\n"
        "    @dataclass(frozen=True, kw_only=True)\n"
        "    class Config(Method.Config):\n"
        "        widths: int | tuple[int, ...] = 3\n"
        "        def __post_init__(self):\n"
        "            if self.widths == 0: raise ValueError('no width')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    odd = ("--method", "odd_method:Odd")
    assert parse(*odd, "--method.widths", "2", "3").config.method.widths == (2, 3)
    assert refused(*odd, "--method.widths", "2", "many-words") == (
        "--method.widths: 'many-words' is not a whole number or a list of whole numbers"
    )
    assert refused(*odd, "--method.widths", "0") == "--method: odd_method:Odd: no width"


def test_without_options_quick_runs_on_the_embedded_images() -> None:
    launch = parse("--deepspeed", "ds.json")
    assert launch.config.model.name == "resnet_tiny"
    assert launch.config.data.source == "auto"
    assert launch.config.data.path is None
    assert launch.config.deepspeed == Path("ds.json")
    assert launch.given == {"deepspeed"}
    assert (launch.resume, launch.dry_run) == (None, False)


def test_none_takes_an_option_back() -> None:
    assert parse("--config", "none.json", "--config", "None", "--resume", "None") == parse(
        "--preset", "quick"
    )


def test_precedence(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"optim": {"lr": 0.3, "epochs": 7}, "log.every": 3}))
    default, preset = Config(), parse("--preset", "quick").config
    laid = parse("--preset", "quick", "--config", file, "--optim.epochs", "9").config
    assert default.optim.epochs != preset.optim.epochs
    assert laid.optim.epochs == 9  # argv
    assert (laid.optim.lr, laid.log.every) == (0.3, 3)  # run.json
    assert laid.optim.name == preset.optim.name != default.optim.name  # preset
    assert laid.checkpoint == default.checkpoint  # defaults
    alone = parse("--config", file).config  # a configuration is complete: no preset below it
    assert alone.optim.name == default.optim.name


def test_what_argv_set_is_known() -> None:
    launch = parse(
        "--preset", "simclr-cifar10", "--optim.batch_size=64", "--method.temperature", "0.5",
        "--engine.no-channels-last", "--output", "here", "--method", "simclr", "--dry-run",
    )  # fmt: skip
    assert launch.given == {
        "optim.batch_size",
        "method.temperature",
        "engine.channels_last",
        "output",
        "method_name",
    }
    assert launch.dry_run


def test_values_of_every_kind() -> None:
    config = parse(
        "--optim.lr", "1e-3", "--optim.micro-batch", "64", "--optim.micro-batch", "None",
        "--engine.compile", "--engine.channels-last", "False", "--log.no-tensorboard",
        "--method.projector_dims", "7", "5", "--data.path", "some dir", "--optim.weight-decay=0",
        "--engine.precision", "bf16", "--data.size", "None", "--seed", "4294967295",
    ).config  # fmt: skip
    assert (config.optim.lr, config.optim.micro_batch, config.optim.weight_decay) == (1e-3, None, 0)
    assert (config.engine.compile, config.engine.channels_last) == (True, False)
    assert (config.log.tensorboard, config.log.progress) == (False, True)
    assert config.method.projector_dims == (7, 5)
    assert (config.data.path, config.data.size) == (Path("some dir"), None)
    assert (config.engine.precision, config.seed) == ("bf16", 2**32 - 1)


@pytest.mark.parametrize("launcher", [["--local_rank=1"], ["--local-rank", "1"]])
@pytest.mark.parametrize("last", [True, False])
def test_launchers_may_add_the_local_rank(launcher: list[str], last: bool) -> None:
    own = ["--optim.epochs", "3"]
    assert parse(*(own + launcher if last else launcher + own)) == parse(*own)


def test_settings_survive_json_and_back(tmp_path: Path) -> None:
    config = parse(
        "--preset", "simclr-cifar10", "--data.path", "a/b", "--method.projector-dims", "3", "2",
        "--output", tmp_path, "--optim.micro-batch", "32", "--seed", "5",
    ).config  # fmt: skip
    assert runs.load(runs.dump(config)) == config
    file = tmp_path / "config.json"
    file.write_text(runs.to_json(config))
    assert runs.load_file(file) == config
    assert parse("--config", file).config == config


def test_dry_run_prints_the_settings(run_ssgear: Callable[..., Any], tmp_path: Path) -> None:
    outcome = run_ssgear("train", "--dry-run", "--output", tmp_path / "run", "--optim.lr", "0.25")
    status, out, err = outcome.status, outcome.out, outcome.err
    assert (status, err) == (0, "")
    assert (
        runs.load(json.loads(out)) == parse("--output", tmp_path / "run", "--optim.lr", 0.25).config
    )
    assert not (tmp_path / "run").exists()


def test_resume_takes_the_settings_of_the_run(tmp_path: Path) -> None:
    first = parse("--preset", "simclr-cifar10", "--optim.lr", "0.3").config
    (tmp_path / "config.json").write_text(runs.to_json(first))
    again = parse("--resume", tmp_path)
    assert again.resume == tmp_path
    assert again.config == first
    # the command that started the run, with --resume added, asks for the same
    same = parse("--resume", tmp_path, "--preset", "simclr-cifar10", "--optim.lr", "0.3").config
    assert runs.differences(first, same) == []
    other = parse("--resume", tmp_path, "--optim.lr", "0.2", "--log.every", "3").config
    assert runs.differences(first, other) == ["optim.lr (0.3, now 0.2)"]


def test_resume_on_nothing(tmp_path: Path) -> None:
    complaint = f"--resume: {tmp_path} holds no run (there is no config.json in it)"
    with pytest.raises(CheckpointError) as caught:
        parse("--resume", tmp_path)
    assert str(caught.value) == complaint
    complaint = f"--resume: {tmp_path / 'none'} is not there; give a run's directory"
    with pytest.raises(CheckpointError) as caught:
        parse("--resume", tmp_path / "none")
    assert str(caught.value) == complaint


def test_a_run_goes_on_in_its_own_directory(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(runs.to_json(parse("--output", tmp_path).config))
    assert parse("--resume", tmp_path).resume == tmp_path
    parse("--resume", tmp_path, "--output", f"{tmp_path}/")  # the command that began it
    with pytest.raises(ConfigError, match="--output: elsewhere is not possible with --resume"):
        parse("--resume", tmp_path, "--output", "elsewhere")


def test_differences_name_what_a_resumed_run_may_not_change() -> None:
    before = parse("--optim.max-steps", "5").config
    free = parse(
        "--optim.max-steps", "9", "--log.every", "1", "--checkpoint.keep", "1", "--eval.every", "0",
        "--output", "elsewhere", "--data.workers", "0", "--engine.threads", "1",
        "--engine.timeout-s", "5",
    ).config  # fmt: skip
    assert runs.differences(before, free) == []
    bound = parse(
        "--optim.max-steps", "4", "--seed", "3", "--model.norm", "group",
        "--method.temperature", "0.5", "--data.path", "x",
    ).config  # fmt: skip
    assert runs.differences(before, bound) == [
        "method.temperature (0.1, now 0.5)",
        "seed (0, now 3)",
        "data.path (None, now x)",
        "model.norm (batch, now group)",
        "optim.max_steps (5, now 4)",
    ]


def test_resumable_keys_are_options() -> None:
    keys = options_of(Config)
    for beginning in runs.RESUMABLE:
        assert beginning in keys or any(key.startswith(beginning) for key in keys)


def test_help_is_quick_and_imports_no_torch() -> None:
    program = (
        "import sys; from ssgear.train import main\n"
        "try: main(['--help'])\n"
        "finally: print('heavy:', *sorted({'torch', 'timm', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "heavy:", done.stdout
    assert min(processor_seconds_of_help() for _ in range(3)) < 1.0


def processor_seconds_of_help() -> float:
    """Time on a processor: waiting for one, on a busy machine, is left out."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "ssgear.train", "--help"], capture_output=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_names_what_there_is(
    run_ssgear: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    outcome = run_ssgear("train", "--help")
    status, out, err = outcome.status, outcome.out, outcome.err
    assert (status, err) == (0, "")
    assert max(len(line) for line in out.splitlines()) <= 80
    for word in ("--data.path PATH", "--optim.batch-size N", "[float32|bf16]", "--dry-run"):
        assert word in out
    for name in (*registry.names("methods"), *registry.presets(), "quick"):
        assert f"  {name} " in out


def test_help_with_a_method_lists_everything(
    run_ssgear: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    outcome = run_ssgear("train", "--method", "simclr", "--help")
    status, out, err = outcome.status, outcome.out, outcome.err
    assert (status, err) == (0, "")
    for option in OPTIONS:
        assert f"{option} " in out or f"{option}," in out, option
    assert max(len(line) for line in out.splitlines()) <= 80


def test_help_with_a_misspelt_method_says_so() -> None:
    assert refused("--method", "simclrr", "--help").startswith("--method: unknown method")


def test_a_mistake_of_ours_is_a_config_error() -> None:
    assert issubclass(ConfigError, SsgearError)
    assert ConfigError.exit_status == 2
