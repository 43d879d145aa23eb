"""`python -m ssgear.evaluate RUN`: an encoder -> figures -> `RUN/evaluation-SOURCE.json`.

RUN is a run's directory, its `encoder.safetensors`, or `timm:NAME` for published weights. The
images are those that the run was trained on unless `--data.*` names others.
`python -m ssgear.evaluate --store STORE` measures a view store beside the images that it was made
of (evaluation/generated/store_views.py) instead, where they lay then or where `--data.*` says. A
page with the same name shows them. The last line on standard output is the path of the figures.
"""

from __future__ import annotations

from typing import NoReturn

from ssgear.command import command
from ssgear.config import help
from ssgear.errors import GPU_MEMORY, ConfigError, refusing_lack
from ssgear.evaluate.options import Evaluation, lack_of_inception, parse, parse_store

USAGE = "python -m ssgear.evaluate RUN"
STORE_USAGE = "python -m ssgear.evaluate --store STORE"


@command()
def main(words: list[str]) -> int:
    """Run the command and return its exit status."""
    with refusing_lack(_too_many):
        if not words or words[0] in ("-h", "--help"):
            _show_help(Evaluation())
        if words[0].startswith("-"):
            return _of_store(words)
        evaluation, help_wanted = parse(words[0], words[1:])
        if help_wanted:
            _show_help(evaluation)
        if evaluation.store is not None:
            raise ConfigError(
                f"--store: measures no run; say {STORE_USAGE} [OPTIONS], without {words[0]}"
            )
        if "frechet" in evaluation.protocol:
            raise ConfigError(f"--protocol: frechet is of a store: {STORE_USAGE} [OPTIONS]")
        for name in {"kid", "prdc"} & set(evaluation.protocol):
            if evaluation.inception is None:
                raise lack_of_inception(name)
        from ssgear.evaluate.encoders import evaluate

        return evaluate(words[0], evaluation)


def _of_store(words: list[str]) -> int:
    parsed = parse_store(words)
    if parsed is None:
        raise ConfigError(f"{words[0]}: the run comes first: {USAGE} [OPTIONS]")
    evaluation, help_wanted = parsed
    if help_wanted:
        _show_help(evaluation)
    from ssgear.evaluate.stores import evaluate_store

    return evaluate_store(evaluation)


def _too_many(lacking: str) -> ConfigError:
    less = "use fewer images by --max-images"
    less += ", or --device cpu" if lacking == GPU_MEMORY else ""
    return ConfigError(f"not enough {lacking} for these images; {less}")


def _show_help(default: Evaluation) -> NoReturn:
    about = "Measure an encoder on the images of its run, or on any others."
    help.show_all(f"{USAGE} [OPTIONS]", about, [default])
    raise SystemExit(0)
