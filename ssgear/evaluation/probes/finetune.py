"""Fine-tuning: all weights of an encoder and a linear classifier are trained on labels.

The recipe is that of BEiT and MAE (arXiv 2106.08254, 2111.06377) at any size: AdamW with a learning
rate that falls from layer to layer (`layer_decay.py`), linear warm-up and a cosine, random crops
and flips, label smoothing, and an average of the weights that is measured at the end. The same
function trains from scratch: give it an encoder that was not trained.

    result = fine_tune(load_encoder("runs/a"), images, labels, test_images, test_labels)
    print(result.top1)
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssgear.data.augment import augment
from ssgear.data.augment.spec import AugmentSpec
from ssgear.data.sources.progress import progress
from ssgear.errors import ArgumentError, TrainingError, first_line, lacking_memory, refusing
from ssgear.evaluation.features.rows import Rows
from ssgear.evaluation.features.stream import ahead
from ssgear.evaluation.probes.image_checks import check_images
from ssgear.evaluation.probes.layer_decay import layer_groups
from ssgear.evaluation.probes.result import ProbeResult, best_classes, probe_result
from ssgear.kernels import philox
from ssgear.models.encoders import Normalized
from ssgear.models.heads import seeded
from ssgear.models.modes import evaluating
from ssgear.optim import Ema, schedule

CROP_AND_FLIP = AugmentSpec(crop_scale=(0.2, 1.0), flip=0.5)
MIN_EPOCHS, MIN_STEPS = 30, 2000
"""The default length: as many epochs, and as many steps where the images are few."""
WARMUP = 0.1
"""Share of the steps in which the learning rate rises."""
TEST_BATCH = 500
HEAD_STD = 0.01


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How `fine_tune` trains."""

    epochs: int
    """Passes over the training images."""
    batch_size: int
    """Images of a step; the last images of an epoch that do not fill a batch wait for the next."""
    lr: float
    """Peak learning rate of the classifier."""
    weight_decay: float
    """AdamW's, of tensors with two or more dimensions."""
    layer_decay: float
    """Factor on the learning rate from a layer to the one below it, in (0, 1]."""
    ema: float
    """Decay of the average of the weights at each step, in [0, 1); 0 keeps the last weights."""
    label_smoothing: float
    """Share of the target that is spread over all classes, in [0, 1)."""
    augmentation: AugmentSpec
    """One view of each image; its mean and deviation are not used, the encoder has its own."""
    seed: int
    """Seed of the classifier's weights, the order of the images and their views."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        for name in ("epochs", "batch_size", "lr"):
            value = getattr(self, name)
            _require(value > 0 and math.isfinite(value), name, "must be positive", value)
        decay = self.weight_decay
        _require(0 <= decay < math.inf, "weight_decay", "must be 0 or more", decay)
        _require(0 < self.layer_decay <= 1, "layer_decay", "must be in (0, 1]", self.layer_decay)
        for name in ("ema", "label_smoothing"):
            value = getattr(self, name)
            _require(0 <= value < 1, name, "must be in [0, 1)", value)


class Classifier(nn.Module):
    """A copy of an encoder with a linear classifier; the weights of the encoder stay untouched."""

    def __init__(self, encoder: Normalized, classes: int, seed: int) -> None:
        """Copy the encoder and draw the classifier's weights."""
        super().__init__()
        # a pretrained encoder looks at the values of its images: a wait for the device each step
        self.encoder = Normalized(copy.deepcopy(encoder.encoder), encoder.mean, encoder.std)
        with seeded(seed, "fine_tune.head"):
            self.head = nn.Linear(encoder.num_features, classes)
            nn.init.trunc_normal_(self.head.weight, std=HEAD_STD)
            nn.init.zeros_(self.head.bias)
        self.requires_grad_(True)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return scores [N, C] of uint8 images, or of float images in [0, 1]."""
        scores: Tensor = self.head(self.encoder(images_NCHW))
        return scores


def fine_tune(
    encoder: Normalized,
    images: Rows,
    labels: Tensor,
    test_images: Rows,
    test_labels: Tensor,
    *,
    epochs: int | None = None,
    batch_size: int = 128,
    lr: float = 1e-3,
    weight_decay: float = 0.05,
    layer_decay: float = 0.75,
    ema: float = 0.99,
    augmentation: AugmentSpec | None = None,
    label_smoothing: float = 0.1,
    seed: int = 0,
    device: torch.device | None = None,
    label: str = "",
) -> ProbeResult:
    """Train a copy of an encoder and a linear classifier on labelled images, and test them.

    The recipe of BEiT and MAE (Bao et al. 2021, arXiv 2106.08254; He et al. 2021, arXiv
    2111.06377). The order of the images is a function of (seed, epoch), a view of (seed, epoch,
    image). On a CPU two calls give the same bits. Batch normalization trains with batch statistics.

    Args:
        encoder: Trained or not; it is not modified.
        images: Training images, uint8 [N, 3, S, S]; a batch is read while another is trained on.
        labels: Their classes, int64 [N], at least two.
        test_images: Test images, uint8 [M, 3, S, S].
        test_labels: Their classes, int64 [M].
        epochs: Passes over the training images; by default 30, and as many as 2,000 steps take.
        batch_size: Images of a step, at most N.
        lr: Peak learning rate of the classifier.
        weight_decay: AdamW's, of tensors with two or more dimensions.
        layer_decay: Factor on the learning rate from a layer to the one below it.
        ema: Decay of the average of the weights that is tested; 0 tests the last weights.
        augmentation: One view of each image; by default a random crop and flip. Its mean and
            deviation are not used: the encoder has its own.
        label_smoothing: Share of the target that is spread over all classes.
        seed: Seed of every random number.
        device: Where to train; by default where the encoder is.
        label: What a progress bar says; none is shown without it.

    Returns:
        Accuracies in [0, 1] and the best classes of the test images; `l2` is the weight decay.

    Raises:
        ArgumentError: images and labels do not fit each other or the encoder, or a setting is out
            of range.
        TrainingError: the loss is not finite.
    """
    classes = check_images(images, labels, test_images, test_labels)
    batch_size = min(batch_size, len(images))
    recipe = Recipe(
        epochs=default_epochs(len(images), batch_size) if epochs is None else epochs,
        batch_size=batch_size, lr=lr, weight_decay=weight_decay, layer_decay=layer_decay, ema=ema,
        label_smoothing=label_smoothing, augmentation=augmentation or CROP_AND_FLIP, seed=seed,
    )  # fmt: skip
    device = device or encoder.mean_3HW.device
    model = Classifier(encoder, classes, seed).to(device)
    model.to(memory_format=torch.channels_last)  # convolutions: 1.3 times as fast on a CPU
    predict(model, test_images[:2])  # what does not fit is refused before the training
    average = train(model, images, labels, recipe, label=label)
    with average.applied():
        scores = predict(model, test_images)
    return probe_result(
        best_classes(scores), test_labels.cpu(), l2=weight_decay, protocol="finetune",
        num_train=len(images), converged=True,
    )  # fmt: skip


def default_epochs(count: int, batch_size: int) -> int:
    """Return the default number of epochs for so many training images."""
    return max(MIN_EPOCHS, math.ceil(MIN_STEPS / max(1, count // max(1, batch_size))))


def train(
    model: Classifier, images: Rows, labels: Tensor, recipe: Recipe, *, label: str = ""
) -> Ema:
    """Train a model in place, and return the average of its weights.

    Args:
        model: On the device to train on.
        images: Uint8 [N, 3, S, S], N at least the batch size.
        labels: Int64 [N].
        recipe: How to train.
        label: What a progress bar says.

    Raises:
        TrainingError: the loss is not finite at the end of an epoch.
    """
    device = model.head.weight.device
    spec = dataclasses.replace(recipe.augmentation, mean=(0.0,) * 3, std=(1.0,) * 3)
    groups = layer_groups(
        model.encoder.encoder.network, model.head,
        weight_decay=recipe.weight_decay, layer_decay=recipe.layer_decay,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr)
    average = Ema(model, recipe.ema)
    steps = recipe.epochs * (len(images) // recipe.batch_size)
    model.train()
    with _seeded_dropout(recipe.seed, device), progress(label, steps) as advance:
        for step, (epoch, rows, batch) in enumerate(_batches(images, recipe)):
            factor = schedule(step, total_steps=steps, warmup_steps=math.ceil(WARMUP * steps))
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * factor * group["lr_scale"]
            views = augment(
                batch.to(device), spec, size=spec.side(batch.shape[-1]), seed=recipe.seed,
                epoch=epoch, indices=rows.to(device), view=0,
            )  # fmt: skip
            targets = labels[rows.to(labels.device)].to(device)
            loss = F.cross_entropy(model(views), targets, label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            average.update()
            advance(1)
            if (step + 1) % (steps // recipe.epochs) == 0 and not bool(loss.isfinite()):
                raise TrainingError(
                    f"fine-tuning: the loss is {float(loss.detach())} after step {step + 1} of "
                    f"{steps}; use a smaller lr (got {recipe.lr:g})"
                )
    return average


@torch.no_grad()
def predict(model: Classifier, images: Rows) -> Tensor:
    """Return scores [M, C] float32 on the CPU of uint8 images [M, 3, S, S].

    Raises:
        ArgumentError: the network cannot take images of this size.
    """
    device, name, size = model.head.weight.device, model.encoder.config.name, images.shape[-1]

    def refusal(error: Exception) -> ArgumentError | None:
        if isinstance(error, ArgumentError) or lacking_memory(error) is not None:
            return None
        return ArgumentError(
            f"fine-tuning: {name} cannot take images of {size} x {size} pixels "
            f"({first_line(error)}); use {model.encoder.size} x {model.encoder.size}"
        )

    slices = [slice(at, at + TEST_BATCH) for at in range(0, len(images), TEST_BATCH)]
    kinds = (AssertionError, RuntimeError, ValueError)  # how networks refuse a size
    with evaluating(model), refusing(kinds, refusal):
        return torch.cat([model(b.to(device)).float().cpu() for b in ahead(images, slices)])


def _batches(images: Rows, recipe: Recipe) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield (epoch, rows, images) of every step."""
    size, count = recipe.batch_size, len(images) // recipe.batch_size
    orders = (
        philox.permutation(philox.derive_key(recipe.seed, "fine_tune", epoch), len(images))
        for epoch in range(recipe.epochs)
    )
    places = [
        (epoch, order[number * size : (number + 1) * size])
        for epoch, order in enumerate(orders)
        for number in range(count)
    ]
    batches = ahead(images, [rows for _, rows in places])
    for (epoch, rows), batch in zip(places, batches, strict=True):
        yield epoch, rows, batch


@contextmanager
def _seeded_dropout(seed: int, device: torch.device) -> Iterator[None]:
    """Seed what layers draw themselves (dropout, stochastic depth); restore the generators."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        number = philox.derive_key(seed, "fine_tune.dropout") % 2**63
        torch.default_generator.manual_seed(number)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(number)
        yield


def _require(condition: bool, name: str, rule: str, value: float) -> None:
    if not condition:
        raise ArgumentError(f"fine-tuning: {name} {rule} (got {value:g})")
