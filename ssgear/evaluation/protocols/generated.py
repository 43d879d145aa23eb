"""Protocols for a run's generator: FID, KID, precision, recall, density and coverage.

As many synthetic images as real ones are drawn from noise of a fixed seed and compared with the
test images, or with those that the run was trained on, in the space of Inception-v3.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ssgear.evaluation.features import extract
from ssgear.evaluation.generated.fid import frechet_caveat
from ssgear.evaluation.generated.inception import BATCH, About, Inception, protocol_of
from ssgear.evaluation.generated.inception import fid as compute_fid
from ssgear.evaluation.generated.kid import usual_distance
from ssgear.evaluation.generated.prdc import prdc as compute_prdc
from ssgear.evaluation.protocols.registry import protocol
from ssgear.evaluation.results import Measure, Outcome
from ssgear.evaluation.subject import Subject
from ssgear.models.gan.instances import check_condition, synthetic_for

SEED = 0
"""Of the noise that synthetic images are made of."""


def generator_of(subject: Subject) -> object:
    """Need a generator, and what it is conditioned on for test images."""
    saved = subject.generator
    check_condition(saved, subject.folder, subject.data.test_labels)
    return saved


def trained_generator_of(subject: Subject) -> object:
    """Need a generator, and what it is conditioned on for the images that it learned from."""
    saved = subject.generator
    labels = None if subject.load_trained else subject.data.train_labels
    check_condition(saved, subject.folder, labels)
    return saved


@protocol("fid", needs=generator_of, reads_features=False)
def fid(subject: Subject) -> Outcome:
    """FID of as many synthetic images as there are test images against these."""
    return _fid(subject, "test")


@protocol("fid-train", needs=trained_generator_of, reads_features=False)
def fid_train(subject: Subject) -> Outcome:
    """FID of as many synthetic images as there are images that the run learned from, against these.

    Where a set has unlabelled training images those are it.
    """
    return _fid(subject, "training")


@protocol("kid", needs=generator_of, reads_features=False)
def kid(subject: Subject) -> Outcome:
    """Kernel distance of as many synthetic images as there are test images to these."""
    real, synthetic, text = _inception_features(subject)
    distance, notes = usual_distance(real, synthetic)
    measure = Measure(value=distance.value, num_test=len(real))
    deviation = Measure(value=distance.deviation)
    return Outcome(
        measures={"kid": measure, "kid_deviation": deviation},
        statements={"kid_protocol": text},
        notes=notes,
    )


@protocol("prdc", needs=generator_of, reads_features=False)
def prdc(subject: Subject) -> Outcome:
    """Precision, recall, density and coverage of as many synthetic images as test images."""
    real, synthetic, text = _inception_features(subject)
    shares = vars(compute_prdc(real, synthetic))
    measures = {name: Measure(value=value, num_test=len(real)) for name, value in shares.items()}
    return Outcome(measures=measures, statements={"prdc_protocol": text})


def _fid(subject: Subject, split: Literal["test", "training"]) -> Outcome:
    inception, images, synthetic, about = _images(subject, split)
    figures = compute_fid(inception, synthetic, images, about=about, device=subject.device)
    name = "fid" if split == "test" else "fid_train"
    caveat = frechet_caveat(len(synthetic), len(images), 2048)
    return Outcome(
        measures={name: Measure(value=float(figures["fid"]), num_test=len(images))},
        statements={f"{name}_protocol": str(figures["fid_protocol"])},
        notes=(f"{name}: {caveat}",) if caveat else (),
    )


def _inception_features(subject: Subject) -> tuple[Tensor, Tensor, str]:
    """Return features of test images and of synthetic ones, and what they are of."""
    inception, images, synthetic, about = _images(subject, "test")
    network = inception.network.to(subject.device)
    real, other = (
        extract(network, part, batch_size=BATCH, device=subject.device)
        for part in (images, synthetic)
    )
    return real, other, protocol_of(synthetic, images, about, inception.digest)


def _images(
    subject: Subject, split: Literal["test", "training"]
) -> tuple[Inception, Tensor, Tensor, About]:
    """Return Inception, real images and synthetic ones, and what they are."""
    saved, inception = subject.generator, subject.inception
    assert inception is not None  # or there would be no generator
    side = int(subject.data.test_images.shape[-1])
    rows, labels = subject.split(split, side)
    images = rows[:]
    synthetic = synthetic_for(
        saved, subject.folder, images, labels, seed=SEED, device=subject.device
    )
    if saved.generator.resolution != side:
        rows, _ = subject.split(split, saved.generator.resolution)
        images = rows[:]
    about = About(
        real=f"{split} images of {subject.name}".strip(),
        condition=saved.generator.config.condition.kind,
        seed=SEED,
    )
    return inception, torch.as_tensor(images), synthetic, about
