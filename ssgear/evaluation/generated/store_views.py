"""A view store beside the images that it was made of: distances, fidelity, diversity.

    compared = open_compared(store, source)            # images that have views, and a view of each
    outcome = measure(compared, ("fid", "prdc"), inception=..., device=device)

One view of each image is compared, so that both sets are as large as each other: of image number i
the (i mod K)-th of its K views, so that all k are seen. Images are read, and their features taken,
a few at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ssgear.config.schema import ViewsConfig
from ssgear.data.order.stored_views import open_stored
from ssgear.data.sources.loading import load_images
from ssgear.data.sources.source import Source
from ssgear.errors import ConfigError, DataError, did_you_mean, refusing
from ssgear.evaluation.features import extract
from ssgear.evaluation.generated.fid import frechet_caveat, frechet_distance
from ssgear.evaluation.generated.inception import Inception
from ssgear.evaluation.generated.kid import usual_distance
from ssgear.evaluation.generated.prdc import prdc
from ssgear.evaluation.results import Measure, Outcome
from ssgear.models.encoders import PretrainedEncoder

PROTOCOLS = ("fid", "frechet", "kid", "prdc")
"""What can be measured of a store."""
BLOCK = 50
"""Images in memory at a time."""
LEAST = 6
"""Images that neighbourhoods need."""


@dataclass(frozen=True)
class Compared:
    """Images, and of each a view, row by row."""

    images: Source
    """Images that have views."""
    views: Source
    """Their views."""
    size: int
    """Side of the views in pixels."""
    workers: int = 0
    """Threads that decode."""

    def features(self, network: nn.Module, size: int, device: torch.device) -> list[Tensor]:
        """Return features [N, F] of images and of views, shown as squares of that side."""
        return [
            extract(network, self._blocks(source, size), device=device)
            for source in (self.images, self.views)
        ]

    def _blocks(self, source: Source, size: int) -> Iterator[Tensor]:
        for rows in torch.split(torch.arange(len(source)), BLOCK):
            yield load_images(source, rows, size, workers=self.workers)


def open_compared(
    store: Path, images: Source, *, max_images: int | None = None, workers: int = 0
) -> Compared:
    """Find the images that a store has views of, evenly thinned to `max_images`.

    Raises:
        DataError: there is no store, it is not complete, or it was made of other images.
    """
    with refusing(DataError, _named_store):
        stored = open_stored(ViewsConfig(store=store, policy="any"), images)
    assert stored is not None
    mix = stored.mix(images, first_row=0, num_views=1)
    rows = mix.has_views().nonzero()[:, 0]
    count = min(len(rows), max_images or len(rows))
    if count < LEAST:
        raise DataError(
            f"--store: {store} has views of {count} of these images, and neighbourhoods need at "
            f"least {LEAST}"
        )
    rows = rows[torch.linspace(0, len(rows) - 1, count).round().long()]
    views = mix.first[rows] + torch.arange(count) % mix.count[rows]
    size = stored.source.native_size
    assert size is not None  # of a store without upscaled images
    return Compared(images.subset(rows), stored.source.subset(views), size, workers)


def _named_store(error: DataError) -> DataError:
    """Name the option by which this command takes a store."""
    hint = str(error).replace("--views.store", "--store")
    more = "; name its images by --data.path" if "made of other" in hint else ""
    return DataError(hint + more)


def check(wanted: Sequence[str], *, inception: object, encoder: object) -> None:
    """Refuse protocols that there are not, and those whose network is not named."""
    for name in wanted:
        if name not in PROTOCOLS:
            raise ConfigError(
                f"--protocol: {name!r} is none of a store{did_you_mean(name, PROTOCOLS)}; known: "
                f"{', '.join(PROTOCOLS)}"
            )
    if "frechet" in wanted and encoder is None:
        raise ConfigError(
            "--encoder: name the run or encoder.safetensors whose space to measure in"
        )
    if {"kid", "prdc"} & set(wanted) and inception is None and encoder is None:
        raise ConfigError(
            "--encoder: precision and recall, and KID, need a space: name a run or "
            "encoder.safetensors, or "
            "the file of Inception-v3's weights by --inception"
        )


def measure(
    compared: Compared,
    wanted: Sequence[str],
    *,
    device: torch.device,
    inception: Inception | None = None,
    encoder: PretrainedEncoder | None = None,
) -> Outcome:
    """Return the figures and what they are of.

    Kernel distance and neighbourhoods are those of Inception's space where it is given, else of the
    encoder's.
    """
    outcome = Outcome()
    spaces: list[tuple[str, nn.Module, int, str]] = []
    if inception is not None:
        about = f"Inception-v3 of weights {inception.digest}, resized without antialiasing"
        spaces.append(("fid", inception.network, compared.size, about))
    if encoder is not None:
        about = f"the space of encoder {encoder.digest} (not FID)"
        spaces.append(("frechet", encoder, encoder.size, about))
    others = {"kid", "prdc"} & set(wanted)
    for name, network, size, about in spaces:
        if name not in wanted and not others:
            continue
        real, synthetic = compared.features(network.to(device), size, device)
        text = (
            f"one view each of {len(real):,} images against these, all as squares of {size} "
            f"pixels; {about}"
        )
        if name in wanted:
            figure = "fid" if name == "fid" else "frechet_encoder"
            outcome |= _frechet(figure, real, synthetic, text)
        outcome |= _other(others, real, synthetic, text)
        others = set()
    return outcome


def _frechet(name: str, real: Tensor, synthetic: Tensor, text: str) -> Outcome:
    caveat = frechet_caveat(len(synthetic), len(real), real.shape[1])
    return Outcome(
        measures={name: Measure(value=frechet_distance(synthetic, real), num_test=len(real))},
        statements={f"{name}_protocol": text},
        notes=(f"{name}: {caveat}",) if caveat else (),
    )


def _other(wanted: set[str], real: Tensor, synthetic: Tensor, text: str) -> Outcome:
    """Return kernel distance, and precision, recall, density and coverage, where wanted."""
    figures: dict[str, float] = {}
    notes: tuple[str, ...] = ()
    if "kid" in wanted:
        distance, notes = usual_distance(real, synthetic)
        figures |= {"kid": distance.value, "kid_deviation": distance.deviation}
    if "prdc" in wanted:
        figures |= vars(prdc(real, synthetic))
    return Outcome(
        measures={key: Measure(value=value, num_test=len(real)) for key, value in figures.items()},
        statements={f"{name}_protocol": text for name in sorted(wanted)},
        notes=notes,
    )
