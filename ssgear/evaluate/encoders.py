"""Evaluating an encoder: what is opened, the protocols in turn, what is written.

Under torchrun every rank encodes a part of the images; the first one measures and writes.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from ssgear import distributed, registry
from ssgear.callbacks.exhibits import with_outcome
from ssgear.callbacks.figures import FEATURES
from ssgear.config import runs
from ssgear.config.schema import DataConfig
from ssgear.data.sources import Source
from ssgear.errors import ArgumentError, ConfigError, first_line, lacking_memory, refusing
from ssgear.evaluate.options import TIMM, Evaluation, transfer_sets
from ssgear.evaluate.writing import (
    check_output,
    figure_rows,
    figures_name,
    print_figures,
    print_notes,
    unwritable_figures,
)
from ssgear.evaluation import protocols
from ssgear.evaluation.features.store import FeatureStore
from ssgear.evaluation.generated import inception
from ssgear.evaluation.images import EvalData, EvalImages
from ssgear.evaluation.memory import Memory
from ssgear.evaluation.protocols import Protocol
from ssgear.evaluation.results import Outcome, write_figures
from ssgear.evaluation.subject import Options, Subject
from ssgear.methods.base import Method
from ssgear.models.encoders.blocks import PooledBlocks
from ssgear.models.encoders.encoder import PretrainedEncoder
from ssgear.models.encoders.timm_weights import open_subject
from ssgear.report.contents import Contents
from ssgear.report.evaluation_page import Evaluated, write_evaluation
from ssgear.storage import cache
from ssgear.storage.atomic import Json

TIMEOUT_S = 1800.0
"""How long a rank waits for a sign of life of another."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a subject is, and where what belongs to it is kept."""

    text: str
    """What the user typed."""
    run: Path | None
    """A run's directory or a file in it; None for published weights."""

    @property
    def title(self) -> str:
        """Return a name for people."""
        return self.text if self.run is None else Path(self.text).resolve().name

    @property
    def folder(self) -> Path:
        """Return where the figures are written."""
        if self.run is None:
            return Path()
        return self.run if self.run.is_dir() else self.run.parent

    @property
    def features(self) -> Path:
        """Return where features are kept."""
        return (cache.folder() if self.run is None else self.folder) / FEATURES


def place_of(text: str) -> Place:
    """Return where the subject is that a user typed."""
    is_published = text.startswith(TIMM)
    return Place(text=text, run=None if is_published else Path(text).expanduser())


def evaluate(text: str, evaluation: Evaluation) -> int:
    """Load the encoder, run the protocols, print and write the figures."""
    place = place_of(text)
    method = method_of(place.run)
    own = () if method is None else method.card.protocols
    chosen = [protocols.find(name, own) for name in evaluation.protocol]
    check_output(evaluation, place.folder)
    judge = None if evaluation.inception is None else inception.load_inception(evaluation.inception)
    device = distributed.choose_device(evaluation.device, "--device")
    world = distributed.initialise(device, TIMEOUT_S)
    encoder = open_subject(text).to(device)
    images = EvalImages(
        data=evaluation.data,
        max_images=evaluation.max_images,
        select=selection(place.run, method, evaluation),
        has_folds="folds" in evaluation.protocol,
    )
    # networks of convolutions take larger images than they were trained on
    data, facts = images.load(evaluation.data.size or encoder.size)
    check_size(encoder, data)
    folder = place.features if evaluation.cache else None
    store = FeatureStore(folder=folder, world=world)
    subject = _subject(place, encoder, data, store, images, evaluation, str(facts["source"]))
    subject.inception = judge
    for protocol in chosen:
        protocol.check(subject)
    if any(protocol.reads_features for protocol in chosen) and world.size > 1:
        _ = subject.train, subject.test  # together, while all ranks are here
    distributed.shut_down()
    if not world.is_main:
        return 0
    alone = replace(store, world=distributed.World())
    for part in (subject, subject.against):
        if part is not None:
            part.store = alone
    outcome = _measure(subject, chosen, Memory(folder=folder))
    _write(place, evaluation, subject, outcome, facts)
    return 0


def _subject(
    place: Place,
    encoder: PretrainedEncoder,
    data: EvalData,
    store: FeatureStore,
    images: EvalImages,
    evaluation: Evaluation,
    name: str,
) -> Subject:
    """Return the encoder with everything that protocols may ask for."""
    device = encoder.mean_3HW.device
    last = evaluation.features == "last"
    against: Subject | None = None
    if evaluation.against is not None:
        other = open_subject(evaluation.against).to(device)
        is_same = other.size == data.test_images.shape[-1]
        other_data = data if is_same else images.load(other.size)[0]
        title = place_of(evaluation.against).title
        against = Subject(other, other_data, device, store, title=title)
    others = {
        key: functools.cache(partial(_load_other, config, evaluation.max_images, encoder.size))
        for key, config in transfer_sets(evaluation.transfer).items()
    }
    return Subject(
        encoder if last else PooledBlocks(encoder, [evaluation.features]),
        data,
        device,
        store,
        Options(
            labels=evaluation.labels,
            label_lists=evaluation.label_lists,
            seeds=evaluation.seeds,
        ),
        title=place.title,
        run=place.run,
        name=name,
        load=lambda size: images.load(size)[0],
        load_trained=images.trained(name) if "fid-train" in evaluation.protocol else None,
        against=against,
        others=others,
    )


def check_size(encoder: PretrainedEncoder, data: EvalData) -> None:
    """Refuse images of a size that the encoder cannot take."""
    side = int(data.test_images.shape[-1])

    def refusal(error: Exception) -> ConfigError | None:
        if lacking_memory(error) is not None:
            return None
        return ConfigError(
            f"--data.size: {encoder.config.name} cannot take images of {side} x {side} pixels; "
            f"leave it away for its own {encoder.size} x {encoder.size} ({first_line(error)})"
        )

    if side != encoder.size:
        blank = torch.zeros(1, 3, side, side, dtype=torch.uint8, device=encoder.mean_3HW.device)
        with torch.no_grad(), refusing((ArgumentError, RuntimeError), refusal):
            encoder(blank)


def _load_other(config: DataConfig, max_images: int | None, size: int) -> EvalData:
    return EvalImages(data=config, max_images=max_images).load(size)[0]


def _measure(subject: Subject, chosen: list[Protocol], memory: Memory) -> Outcome:
    """Run the protocols in turn; what was computed before is read."""
    outcome = Outcome()
    for protocol in chosen:
        key = subject.fingerprint(protocol.name) if memory.folder is not None else ""
        part, _ = memory.outcome(key, partial(protocol.measure, subject))
        outcome |= part
    return outcome


def _write(
    place: Place,
    evaluation: Evaluation,
    subject: Subject,
    outcome: Outcome,
    facts: dict[str, Json],
) -> None:
    """Print the figures, and write them and their page."""
    name = str(facts["source"])
    title = f"{name}: {facts['num_train']} training, {facts['num_test']} test images"
    print_figures(title, outcome)
    print_notes(outcome)
    path = evaluation.output or figures_name(place.folder, evaluation, name, run=place.run)
    if place.run is None and evaluation.output is None:
        weights = Path(place.text.removeprefix(TIMM)).name
        path = path.with_name(f"{weights}-{path.name}")
    if path.exists():
        print(f"ssgear: {path} is replaced", file=sys.stderr)
    asked: dict[str, Json] = {
        "subject": place.text,
        "protocols": list(evaluation.protocol),
        "max_images": evaluation.max_images,
        "features": evaluation.features,
        "path": evaluation.data.path,
    }
    if outcome.notes:
        asked["notes"] = [*outcome.notes]
    with refusing(OSError, partial(unwritable_figures, path)):
        write_figures(
            path,
            outcome.measures,
            {**outcome.statements, **facts, **asked},
            test_images=subject.data.test_print,
            test_labels=subject.data.test_labels,
        )
    evaluated = Evaluated(
        title=place.title,
        source=name,
        rows=figure_rows(outcome),
        facts=[
            ("Training images", f"{facts['num_train']:,}"),
            ("Test images", f"{facts['num_test']:,}"),
            ("Protocols", ", ".join(evaluation.protocol)),
        ],
        notes=outcome.notes,
    )
    contents = with_outcome(Contents(), outcome, subject.data)
    page = path.with_suffix(".html")
    with refusing(OSError, partial(unwritable_figures, page)):
        print(f"page: {write_evaluation(page, evaluated, contents)}")
    print(path)


def method_of(run: Path | None) -> type[Method] | None:
    """Import the method of a run; None for an encoder that is not in its run's directory."""
    if run is None or not runs.has_settings(run):
        return None
    method: type[Method] = registry.load("methods", runs.settings_of(run).method_name)
    return method


def selection(
    run: Path | None, method: type[Method] | None, evaluation: Evaluation
) -> Callable[[Source], Source]:
    """Return a filter that keeps the images the run's method uses; others stay whole."""
    if method is not None and run is not None:
        config = runs.settings_of(run)
        pretext = method.build_pretext(config.method)
        data = evaluation.data
        its_own = (data.source, data.path) == (config.data.source, config.data.path)
        if pretext is not None and its_own:
            return pretext.select
    return lambda source: source
