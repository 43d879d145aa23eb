"""Evaluating a view store beside the images that it was made of."""

from __future__ import annotations

import sys
from functools import partial

from ssgear import distributed
from ssgear.data.sources import open_source, scan
from ssgear.errors import refusing
from ssgear.evaluate.options import Evaluation
from ssgear.evaluate.writing import (
    check_output,
    figures_name,
    print_figures,
    print_notes,
    unwritable_figures,
)
from ssgear.evaluation.generated import inception, store_views
from ssgear.evaluation.results import write_figures
from ssgear.models.encoders import load_encoder
from ssgear.storage.atomic import Json


def evaluate_store(evaluation: Evaluation) -> int:
    """Measure a store beside its images, print and write the figures."""
    assert evaluation.store is not None
    weights, encoder = evaluation.inception, evaluation.encoder
    store_views.check(evaluation.protocol, inception=weights, encoder=encoder)
    check_output(evaluation, evaluation.store.expanduser())
    device = distributed.choose_device(evaluation.device, "--device")
    data, folder = evaluation.data, evaluation.store.expanduser()
    images, _ = scan(open_source(data, "train"), data)
    compared = store_views.open_compared(
        folder, images, max_images=evaluation.max_images, workers=data.workers
    )
    outcome = store_views.measure(
        compared,
        evaluation.protocol,
        device=device,
        inception=None if weights is None else inception.load_inception(weights),
        encoder=None if encoder is None else load_encoder(encoder),
    )
    count = len(compared.images)
    print_figures(f"{evaluation.store.name}: {count} images of {images.name}", outcome)
    print_notes(outcome)
    path = evaluation.output or figures_name(folder, evaluation, images.name, run=folder)
    if path.exists():
        print(f"ssgear: {path} is replaced", file=sys.stderr)
    facts: dict[str, Json] = {
        **outcome.statements,
        "source": images.name,
        "num_images": count,
        "protocols": list(evaluation.protocol),
        "max_images": evaluation.max_images,
        "path": data.path,
    }
    with refusing(OSError, partial(unwritable_figures, path)):
        write_figures(path, outcome.measures, facts)
    print(path)
    return 0
