"""Fine-tuning: a toy task, a plain loop as its oracle, repeated to the bit, and one-line errors."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssgear.config.schema import ModelConfig
from ssgear.data.augment.spec import AugmentSpec
from ssgear.errors import ArgumentError, TrainingError
from ssgear.evaluation.probes.finetune import (
    Classifier,
    Recipe,
    default_epochs,
    fine_tune,
    predict,
    train,
)
from ssgear.kernels import philox
from ssgear.models.encoders import Normalized, PretrainedEncoder, build_encoder

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
WHOLE = AugmentSpec()
SHORT: dict[str, Any] = {"epochs": 12, "batch_size": 32, "lr": 4e-3}


def encoder_of(name: str = "5c3-8f", size: int = 8, seed: int = 0) -> Normalized:
    return Normalized(build_encoder(ModelConfig(name=name), size, seed=seed), MEAN, STD)


def coloured(count: int, size: int = 8, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Noise in which one channel is brighter: its number is the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count,), generator=generator)
    images = torch.randint(0, 160, (count, 3, size, size), generator=generator)
    images[torch.arange(count), labels] += 40
    return images.byte(), labels


def recipe(**changes: Any) -> Recipe:
    plain: dict[str, Any] = {
        "epochs": 3, "batch_size": 16, "lr": 2e-3, "weight_decay": 0.1, "layer_decay": 1.0,
        "ema": 0.0, "label_smoothing": 0.0, "augmentation": WHOLE, "seed": 5,
    }  # fmt: skip
    return Recipe(**plain | changes)


def test_it_learns_what_the_labels_say_and_leaves_the_encoder_alone() -> None:
    train_images, test_images = coloured(203), coloured(101, seed=2)
    encoder = encoder_of("resnet_tiny")
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    result = fine_tune(encoder, *train_images, *test_images, **SHORT, ema=0.9)
    assert result.top1 > 0.9 and result.protocol == "finetune"
    assert (result.num_train, result.l2, result.converged) == (203, 0.05, True)
    assert result.predicted.shape == (101, 3) and result.top5 == 1
    right = (result.predicted[:, 0] == test_images[1]).double().mean()
    assert result.top1 == pytest.approx(float(right))
    assert encoder.training
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_two_calls_give_the_same_bits_and_another_seed_gives_others() -> None:
    images, labels = coloured(70)
    weights = []
    for seed in (3, 3, 4):
        torch.manual_seed(len(weights))  # the global generator has no part in it
        encoder = encoder_of()
        encoder.encoder.network = nn.Sequential(encoder.encoder.network, nn.Dropout(0.5))
        model = Classifier(encoder, 3, seed)
        view = AugmentSpec(crop_scale=(0.2, 1.0), flip=0.5)
        small = recipe(seed=seed, augmentation=view, epochs=1, batch_size=35)
        state = torch.get_rng_state()
        train(model, images, labels, small)
        assert torch.equal(torch.get_rng_state(), state)
        weights.append(torch.cat([value.flatten() for value in model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_plain_loop_gives_the_same_weights() -> None:
    """In float64, with the update of AdamW (Loshchilov & Hutter 2019) written out."""
    images, labels = coloured(37)
    steps, lr, decay, smoothing = 6, 2e-3, 0.1, 0.2
    model = Classifier(encoder_of(), 3, seed=5)
    oracle = copy.deepcopy(model).double()
    mean, std = (torch.tensor(v).double().view(3, 1, 1) for v in (MEAN, STD))
    inputs = (images.double() / 255 - mean) / std
    weights = list(oracle.parameters())
    first, second = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    averages = [weight.detach().clone() for weight in weights]
    for step in range(steps):
        order = philox.permutation(philox.derive_key(5, "fine_tune", step // 2), 37)
        rows = order[16 * (step % 2) : 16 * (step % 2 + 1)]
        logs = oracle.head(oracle.encoder.encoder(inputs[rows])).log_softmax(1)
        targets = F.one_hot(labels[rows], 3) * (1 - smoothing) + smoothing / 3
        gradients = torch.autograd.grad(-(targets * logs).sum(1).mean(), weights)
        # a tenth of six steps is one step of warm-up
        rate = lr if step == 0 else lr * (1 + math.cos(math.pi * (step - 1) / (steps - 1))) / 2
        for number, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
            first[number] = 0.9 * first[number] + 0.1 * gradient
            second[number] = 0.999 * second[number] + 0.001 * gradient**2
            move = first[number] / (1 - 0.9 ** (step + 1))
            move = move / ((second[number] / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
            with torch.no_grad():
                weight *= 1 - rate * (decay if weight.ndim > 1 else 0.0)
                weight -= rate * move
                averages[number] = 0.7 * averages[number] + 0.3 * weight
    result = train(model, images, labels, recipe(ema=0.7, label_smoothing=smoothing))
    for (name, weight), wanted in zip(model.named_parameters(), weights, strict=True):
        torch.testing.assert_close(weight.double(), wanted, rtol=1e-4, atol=1e-5, msg=name)
    for average, wanted in zip(result.average.values(), averages, strict=True):
        torch.testing.assert_close(average.double(), wanted, rtol=1e-4, atol=1e-5)


def test_what_is_tested_is_the_average() -> None:
    train_images, test_images = coloured(64), coloured(50, seed=2)
    model = Classifier(encoder_of(), 3, 0)
    average = train(model, *train_images, recipe(seed=0, ema=0.5))
    last = predict(model, test_images[0])
    with average.applied():
        expected = predict(model, test_images[0])
    assert not torch.equal(last, expected)
    settings = {"epochs": 3, "batch_size": 16, "lr": 2e-3, "weight_decay": 0.1, "layer_decay": 1.0}
    result = fine_tune(
        encoder_of(), *train_images, *test_images, **settings, ema=0.5, label_smoothing=0.0,
        augmentation=WHOLE, seed=0,
    )  # fmt: skip
    assert torch.equal(result.predicted, expected.topk(3).indices)


def test_lower_layers_move_less() -> None:
    images, labels = coloured(32)
    moves: dict[float, list[float]] = {}
    for decay in (1.0, 0.1):
        model = Classifier(encoder_of(), 3, 0)
        before = copy.deepcopy(model)
        train(model, images, labels, recipe(epochs=1, batch_size=32, layer_decay=decay))
        moves[decay] = [
            float((after - start).detach().abs().max())
            for after, start in zip(model.parameters(), before.parameters(), strict=True)
        ]
    # layer1 is two below the head, layer2 one; the first step of Adam is the learning rate
    shares = [low / full for low, full in zip(moves[0.1], moves[1.0], strict=True)]
    assert shares == pytest.approx([0.01, 0.01, 0.1, 0.1, 1, 1], rel=0.05)


def test_statistics_of_batches_are_learned_and_modes_return() -> None:
    images, labels = coloured(40, 32)
    encoder = PretrainedEncoder(encoder_of("resnet_tiny", 32).encoder, MEAN, STD)
    model = Classifier(encoder, 3, 0)
    name = "encoder.encoder.network.bn1.running_mean"
    before = model.state_dict()[name].clone()
    train(model, images, labels, recipe(epochs=1))
    assert not torch.equal(model.state_dict()[name], before)
    assert not any(module.training for module in encoder.modules())
    scores = predict(model, images[:7])
    assert torch.equal(scores[:3], predict(model, images[:3])) and model.training


@pytest.mark.parametrize(
    ("count", "batch_size", "epochs"),
    [(50_000, 128, 30), (5000, 128, 52), (500, 128, 667), (100, 100, 2000), (3, 128, 2000)],
)
def test_few_images_get_more_epochs(count: int, batch_size: int, epochs: int) -> None:
    assert default_epochs(count, batch_size) == epochs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.0}, r"fine-tuning: lr must be positive \(got 0\)"),
        ({"lr": float("nan")}, "lr must be positive"),
        ({"epochs": 0}, r"epochs must be positive \(got 0\)"),
        ({"batch_size": 0}, r"batch_size must be positive \(got 0\)"),
        ({"weight_decay": -1.0}, r"weight_decay must be 0 or more \(got -1\)"),
        ({"layer_decay": 1.5}, r"layer_decay must be in \(0, 1\] \(got 1.5\)"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\) \(got 1\)"),
        ({"label_smoothing": -0.1}, r"label_smoothing must be in \[0, 1\)"),
    ],
)
def test_settings_out_of_range(changes: dict[str, Any], message: str) -> None:
    data = coloured(9)
    with pytest.raises(ArgumentError, match=message):
        fine_tune(encoder_of(), *data, *data, **changes)


@pytest.mark.parametrize(
    ("name", "built", "size"), [("drlim", 32, 28), ("vit_tiny_patch16_224", 32, 48)]
)
def test_a_size_that_the_network_cannot_take(name: str, built: int, size: int) -> None:
    data = coloured(9, size)
    with pytest.raises(ArgumentError, match=f"{size} x {size} pixels.*{built} x {built}") as caught:
        fine_tune(encoder_of(name, built), *data, *data, epochs=1)
    assert "\n" not in str(caught.value)


def test_one_class_is_refused_before_anything_is_trained() -> None:
    images, labels = coloured(9)
    with pytest.raises(ArgumentError, match="one class"):
        fine_tune(encoder_of(), images, labels * 0, images, labels)


def test_a_loss_that_is_not_finite() -> None:
    images, labels = coloured(20)
    encoder = encoder_of()
    with torch.no_grad():
        next(encoder.parameters()).mul_(float("inf"))
    with pytest.raises(TrainingError, match=r"the loss is nan after step 1 of 3; use a smaller lr"):
        fine_tune(encoder, images, labels, images, labels, epochs=3)


def test_frozen_weights_of_an_encoder_are_trained_too() -> None:
    images, labels = coloured(20)
    encoder = encoder_of().requires_grad_(False)
    model = Classifier(encoder, 3, 0)
    assert all(weight.requires_grad for weight in model.parameters())
    assert isinstance(model.head, nn.Linear)
    assert fine_tune(encoder, images, labels, images, labels, epochs=1).num_train == 20
