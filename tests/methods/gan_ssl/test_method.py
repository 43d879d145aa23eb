"""GAN + SSL against its formulas by hand, its limits, and who gets gradients (docs/math.md 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ssgear import registry
from ssgear.config import cli, runs
from ssgear.engine.isolate import only
from ssgear.errors import ConfigError
from ssgear.losses import nt_xent
from ssgear.methods.gan_ssl import phi
from ssgear.methods.gan_ssl.config import inner_config
from ssgear.methods.gan_ssl.instances import nearest_rows
from ssgear.methods.gan_ssl.method import GanSSL
from ssgear.methods.simclr import SimCLR
from ssgear.storage.checkpoint import find_latest, load_tensors
from tests.engine.training import train
from tests.methods.gan import (
    CLASSES,
    IMAGES,
    ROWS,
    SMALL,
    build,
    group_of,
    make_batch,
    phase_named,
    train_gan,
    weights_of,
)

VARIANTS: dict[str, dict[str, Any]] = {
    "wgan": {},
    "label": {"condition": "label", "adversarial": "hinge"},
    "instance": {"condition": "instance", "adversarial": "logistic", "r1_gamma": 1.0},
    "heads": {"aux_sides": (4, 8), "aux_weight": 0.5, "gp_phase": "both"},
    "rpgan": {
        "adversarial": "rpgan", "r1_gamma": 1.0, "r1_interval": 1, "critic_augment": "diffaugment",
    },
    "stylegan2": {
        "generator": "stylegan2", "adversarial": "logistic", "r1_gamma": 0.1, "r1_interval": 1,
        "critic_augment": "ada", "style_mixing": 0.5, "path_length": 2.0, "condition": "label",
    },
}  # fmt: skip


def gradients(method: GanSSL, name: str, **fields: Any) -> tuple[dict[str, Tensor], Any]:
    """Run a phase as the trainer does; return the gradients by parameter name, and the terms."""
    method.zero_grad(set_to_none=True)
    phase = phase_named(method, name)
    group = group_of(method, phase)
    with only(group, method.groups):
        terms = method.loss(phase, make_batch(method, name, **fields))
        terms.total.backward()
    return {n: p.grad for n, p in method.named_parameters() if p.grad is not None}, terms


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_phase_gives_gradients_to_its_own_modules_only(variant: str, norm: str) -> None:
    method = build(norm=norm, generator_norm=norm, **VARIANTS[variant])
    for name, inside in (("critic", "critic"), ("generator", "generator"), ("encoder", "encoder")):
        before = weights_of(method)
        found, terms = gradients(method, name, step=4)
        group = group_of(method, phase_named(method, name))
        own = {id(weight) for weight in group.parameters()}
        wanted = {n for n, weight in method.named_parameters() if id(weight) in own}
        assert set(found) == wanted, inside
        for weight, gradient in found.items():
            assert torch.isfinite(gradient).all(), weight
        assert any(gradient.abs().sum() > 0 for gradient in found.values())
        assert torch.isfinite(terms.total) and terms.total.dtype == torch.float32
        after = weights_of(method)
        touched = {n for n in before if not torch.equal(before[n], after[n])}
        # only batch statistics of what the phase trains may have moved
        part = {"critic": "game.critic", "generator": "game.generator"}.get(name, "")
        assert all("running_" in n or "num_batches" in n for n in touched), touched
        assert all(part in n and ("game" in n) == bool(part) for n in touched), touched
        if norm == "batch" and name == "encoder":
            assert touched


def test_an_encoder_that_is_not_trained_does_not_change_at_all() -> None:
    method = build(norm="batch", train_encoder=False, synthetic_rows=False)
    method.train()
    before = weights_of(method.ssl)
    for name in ("critic", "generator"):
        gradients(method, name)
    after = weights_of(method.ssl)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [phase.name for phase in method.phases] == ["critic", "generator"]


# limits


def test_a_gan_beside_it_leaves_simclr_as_it_is(tmp_path: Path) -> None:
    """Encoder, projector and their batch statistics, to the bit, while a GAN trains as well."""
    steps = ("--optim.max-steps", "4", "--model.norm", "batch", "--optim.warmup-epochs", "0")
    options = ("--method.no-synthetic-rows", "--method.generator-ssl-weight", "0")
    train_gan(tmp_path / "joint", *options, *steps, "--method.n-critic", "2")
    train(tmp_path / "alone", *steps, "--method.projector-dims", "16", "8",
          "--method.temperature", "0.2")  # fmt: skip
    joint, alone = (saved_group(tmp_path / name, "encoder") for name in ("joint", "alone"))
    assert joint.keys() == alone.keys() and len(alone) > 20
    assert all(torch.equal(joint[name], alone[name]) for name in alone)


def test_without_a_gan_the_loss_is_that_of_simclr(tmp_path: Path) -> None:
    steps = ("--optim.max-steps", "4", "--optim.warmup-epochs", "0")
    alone = ("--method", "gan-ssl", "--method.ssl-options", "projector_dims=16,8")
    column = train(tmp_path / "off", *alone, *OFF, *steps)
    assert column == train(tmp_path / "alone", *steps, "--method.projector-dims", "16", "8",
                           "--method.temperature", "0.2")  # fmt: skip


def saved_group(run: Path, name: str) -> dict[str, Tensor]:
    return load_tensors(find_latest(run) / f"group-{name}.pt")["weights"]


@pytest.mark.parametrize("game", ["wgan", "hinge"])
def test_plain_gan_training_equals_a_loop_written_here(game: str, tmp_path: Path) -> None:
    """With the SSL weights at zero nothing is left but the published alternation."""
    options = ("--method.no-train-encoder", "--method.generator-ssl-weight", "0",
               "--method.no-synthetic-rows", "--method.n-critic", "2", "--method.phi", "constant",
               "--method.adversarial", game, "--optim.max-steps", "3")  # fmt: skip
    seen: list[Any] = []
    train_recording(tmp_path / "run", options, seen)
    method, batches = seen[0], seen[1:]
    generator, critic = method.game.generator, method.game.critic
    torch.manual_seed(0)
    start = build_like(method)
    generator_, critic_ = start.game.generator, start.game.critic
    adam = {"lr": 2e-4, "betas": (0.0, 0.9)}
    step_d = torch.optim.Adam(critic_.parameters(), **adam)
    step_g = torch.optim.Adam(generator_.parameters(), **adam)
    for batch in batches:
        noise = batch.draw("noise", (8,), normal=True)
        if batch.phase == "critic":
            fake = generator_(noise).detach()
            real = batch.images
            d_real, d_fake = critic_(real), critic_(fake)
            if game == "hinge":
                loss = F.relu(1 - d_real).mean() + F.relu(1 + d_fake).mean()
            else:
                eps = batch.draw("eps")[:, None, None, None]
                mixed = (eps * real + (1 - eps) * fake).requires_grad_()
                (slope,) = torch.autograd.grad(critic_(mixed).sum(), mixed, create_graph=True)
                norm = slope.flatten(1).norm(dim=1)
                loss = d_fake.mean() - d_real.mean() + 10 * (norm - 1).square().mean()
            step_d.zero_grad()
            loss.backward()
            step_d.step()
        else:
            loss = -critic_(generator_(noise)).mean()
            step_g.zero_grad()
            loss.backward()
            step_g.step()
    for ours, plain in ((generator, generator_), (critic, critic_)):
        moved = 0.0
        for (name, weight), (_, other) in zip(
            ours.named_parameters(), plain.named_parameters(), strict=True
        ):
            assert torch.allclose(weight, other, atol=2e-6), name
            moved += float(
                (weight - dict(fresh(ours, method).named_parameters())[name]).abs().sum()
            )
        assert moved > 0


def train_recording(output: Path, options: tuple[str, ...], seen: list[Any]) -> None:
    """Train, and keep the method and every batch that it was given."""
    from ssgear.engine.build import prepare
    from ssgear.engine.trainer import Trainer
    from tests.engine.training import SMALL as QUICK

    run = prepare(cli.parse([*QUICK, "--output", str(output), *SMALL, *options]))
    method = run.method
    seen.append(method)
    inner = method.loss

    def loss(phase: Any, batch: Any) -> Any:
        seen.append(batch)
        return inner(phase, batch)

    method.loss = loss  # type: ignore[method-assign]
    Trainer(run, ()).run()


def build_like(method: GanSSL) -> GanSSL:
    """Build the same method again, with its initial weights."""
    from ssgear.config.schema import ModelConfig
    from ssgear.methods.base import Facts
    from ssgear.models.encoders import build_encoder

    torch.manual_seed(0)
    encoder = build_encoder(ModelConfig(name="resnet_tiny", norm="group"), 32, seed=0)
    facts = Facts(augmentation=method.specs, num_images=IMAGES)
    return GanSSL.build(method.config, encoder, facts)


def fresh(module: torch.nn.Module, method: GanSSL) -> torch.nn.Module:
    start = build_like(method)
    return start.game.generator if module is method.game.generator else start.game.critic


# phi and the losses by hand


@pytest.mark.parametrize("direction", ["falling", "rising"])
@pytest.mark.parametrize("kind", ["linear", "cosine", "step"])
def test_curricula(kind: str, direction: str) -> None:
    settings: dict[str, Any] = {"phi_step": 0.4} if kind == "step" else {}
    config = GanSSL.Config(phi=kind, phi_direction=direction, phi_min=0.2, **settings)  # type: ignore[arg-type]
    for u in (0.0, 0.25, 0.4, 0.9, 1.0):
        f = {
            "linear": 1 - u,
            "cosine": (1 + math.cos(math.pi * u)) / 2,
            "step": 1.0 if u < 0.4 else 0.0,
        }[kind]
        weight, share = phi.of_curriculum(config, u)
        wanted = 0.2 + 0.8 * (f if direction == "falling" else 1 - f)
        assert weight == pytest.approx(wanted) and share == pytest.approx(1 - f)
    constant = GanSSL.Config(phi="constant")
    assert phi.of_curriculum(constant, 0.7) == (1.0, 1.0)


@pytest.mark.parametrize("scale", ["none", "log"])
def test_phi_of_the_loss(scale: str) -> None:
    """The running mean of L_SSL(G), clipped, and the same number for every part of the loss."""
    method = build(condition="label", phi_scale=scale, phi_min=0.5, phi_max=3.0)
    mean = None
    for step in range(4):
        _, terms = gradients(method, "generator", step=step)
        value = terms.parts["generator_ssl"]
        mean = value if mean is None else 0.99 * mean + 0.01 * value
        weight = mean / math.log(2 * ROWS - 1) if scale == "log" else mean
        wanted = weight.clamp(0.5, 3.0)
        assert torch.allclose(terms.parts["phi"], wanted)
        total = wanted * terms.parts["realism"] + value
        assert torch.allclose(terms.total.detach(), total, atol=1e-5)
        method.after_step(phase_named(method, "generator"), terms.carry, 0.1)
        assert torch.allclose(method.phi_mean, mean)


@pytest.mark.parametrize("condition", ["none", "label"])
def test_generator_losses_by_hand(condition: str) -> None:
    """NT-Xent of synthetic rows with real rows (a condition), or with themselves; heads alike."""
    method = build(
        condition=condition, aux_sides=(8,), aux_weight=0.3, phi="cosine", temperature=0.3,
        adversarial="hinge",
    )  # fmt: skip
    batch = make_batch(method, "generator", progress=0.25)
    _, terms = gradients(method, "generator", progress=0.25)
    given = batch.labels if condition == "label" else None
    noise = batch.draw("noise", (8,), normal=True)
    images, features = method.game.generator.with_features(noise, given, at=(8,))
    z_fake = method.ssl.embed(method.ssl.phases[0], one_view(method, batch, images, 0)).online[0]
    if condition == "label":
        z_other = method.ssl.embed(
            method.ssl.phases[0], make_batch(method, "generator", views=batch.views[:1])
        ).online[0]
    else:
        z_other = method.ssl.embed(method.ssl.phases[0], one_view(method, batch, images, 1)).online[
            0
        ]
    ssl = plain_nt_xent(z_fake, z_other, 0.3)
    head = method.game.heads["8"](features[8].mean((2, 3)))
    aux = plain_nt_xent(head, z_other if condition == "label" else z_fake, 0.3)
    realism = -method.game.critic(images, given).mean()
    left = (1 + math.cos(math.pi * 0.25)) / 2
    total = (0.1 + 0.9 * left) * realism + (1 - left) * ssl + 0.3 * aux
    assert terms.parts["generator_ssl"] == pytest.approx(float(ssl), rel=1e-5)
    assert terms.parts["auxiliary"] == pytest.approx(float(aux), rel=1e-5)
    assert float(terms.total) == pytest.approx(float(total), rel=1e-5)


def one_view(method: GanSSL, batch: Any, images: Tensor, view: int) -> Any:
    return make_batch(method, "generator", views=[method._view(batch, images, view)])


def plain_nt_xent(a: Tensor, b: Tensor, tau: float) -> Tensor:
    rows = F.normalize(torch.cat((a, b)).double(), dim=1)
    scores = rows @ rows.T / tau
    scores.fill_diagonal_(-torch.inf)
    partner = torch.arange(len(rows)).roll(len(a))
    return F.cross_entropy(scores, partner)


def test_encoder_rows_with_a_condition_share_ids() -> None:
    """Two real views and the synthetic one of an instance are each other's positives: M = 3N."""
    method = build(condition="label", generator_norm="group")
    _, terms = gradients(method, "encoder", progress=0.6)
    batch = make_batch(method, "encoder")
    with torch.no_grad():
        images = method.game.generator(batch.draw("noise", (8,), normal=True), batch.labels)
        views = [*batch.views, method._view(batch, images, 0)]
        rows = torch.cat([method.ssl.projector(method.encoder(view)) for view in views])
        wanted = nt_xent(
            rows.double(), temperature=0.2, ids=torch.arange(ROWS).repeat(3), impl="reference"
        )
    assert float(terms.total) == pytest.approx(float(wanted), rel=1e-5)


def test_encoder_rows_without_a_condition_are_images_of_their_own() -> None:
    """Two views of each real and two of each synthetic image: M = 4N."""
    method = build()
    _, terms = gradients(method, "encoder")
    batch = make_batch(method, "encoder")
    with torch.no_grad():
        images = method.game.generator(batch.draw("noise", (8,), normal=True))
        made = [method._view(batch, images, view) for view in range(2)]
        z = [method.ssl.projector(method.encoder(view)) for view in (*batch.views, *made)]
        ids = torch.cat([torch.arange(ROWS)] * 2 + [torch.arange(ROWS) + ROWS] * 2)
        wanted = nt_xent(torch.cat(z).double(), temperature=0.2, ids=ids, impl="reference")
    assert float(terms.total) == pytest.approx(float(wanted), rel=1e-5)


def test_synthetic_rows_come_late_if_asked_to() -> None:
    method = build(synthetic_after=0.5)
    early, late = (
        gradients(method, "encoder", progress=progress)[1].total.item() for progress in (0.4, 0.6)
    )
    plain = build(synthetic_rows=False)
    assert early == gradients(plain, "encoder")[1].total.item() != late


# conditions


def test_instance_conditions_are_detached_and_neighbours_are_real() -> None:
    method = build(condition="instance", adversarial="hinge", neighbours=3)
    assert method.instances is not None
    features = torch.randn(IMAGES, 5, generator=torch.Generator().manual_seed(3))
    method.instances.rebuild(features)
    unit = F.normalize(features)
    table = method.instances.neighbours_NK
    for row in range(IMAGES):
        order = (unit @ unit[row]).argsort(descending=True)
        assert set(table[row].tolist()) == set(order[:3].tolist()) and table[row, 0] == row
    batch = make_batch(method, "critic")
    near = method.instances.neighbours_of(batch)
    assert all(int(n) in table[i].tolist() for n, i in zip(near, batch.index, strict=True))
    real, condition = method._real(batch)
    assert torch.equal(real, batch.fetch(near))  # type: ignore[misc]
    assert condition is not None and not condition.requires_grad
    assert torch.allclose(condition.norm(dim=1), torch.ones(ROWS))
    drawn = {
        tuple(method.instances.neighbours_of(make_batch(method, "critic", step=step)).tolist())
        for step in range(12)
    }
    assert len(drawn) > 6  # not always the same neighbour


def test_the_instance_encoder_follows_the_trained_one() -> None:
    method = build(condition="instance", momentum=0.9)
    assert method.instances is not None
    start = [value.clone() for value in method.instances._average().values()]
    with torch.no_grad():
        for weight in method.encoder.parameters():
            weight.add_(1.0)
    method.after_step(phase_named(method, "encoder"), {}, 0.1)
    for before, after in zip(start, method.instances._average().values(), strict=True):
        assert torch.allclose(after, before + 0.1, atol=1e-6)


def test_the_condition_is_of_the_averaged_encoder_and_has_no_gradient() -> None:
    method = build(condition="instance", momentum=0.5)
    batch = make_batch(method, "critic")
    before = method._condition(batch)
    assert method.instances is not None and before is not None
    with torch.no_grad():
        for weight in method.encoder.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(before, method._condition(batch))  # type: ignore[arg-type]
    method.after_step(phase_named(method, "encoder"), {}, 0.1)
    after = method._condition(batch)
    assert after is not None and not torch.allclose(before, after, atol=1e-3)
    assert batch.images is not None
    images = batch.images.clone().requires_grad_()  # as a generator's would be
    assert not method.instances.features(method.encoder, images).requires_grad


def test_twins_do_not_displace_a_row() -> None:
    same = torch.ones(5, 2)
    assert nearest_rows(same, 1)[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert nearest_rows(same, 9).shape == (5, 5)


def test_samples_are_numbered_and_follow_the_average() -> None:
    for variant in ("wgan", "label", "instance"):
        method = build(**VARIANTS[variant])
        images = torch.randint(0, 256, (7, 3, 16, 16), dtype=torch.uint8)
        labels = torch.arange(7) % CLASSES
        assert method.generator is not None
        made = method.generator.samples(images, labels, seed=1)
        fewer = method.generator.samples(images[:4], labels[:4], seed=1)
        assert made.dtype == torch.uint8 and made.shape == (7, 3, 16, 16)
        assert torch.equal(made[:4], fewer)
        other = method.generator.samples(images, labels, seed=2)
        assert not torch.equal(made, other)
        with torch.no_grad():
            for weight in method.game.generator.parameters():
                weight.zero_()  # the live weights, not the average
        again = method.generator.samples(images, labels, seed=1)
        assert torch.equal(made, again)


# settings


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "bounds": ({"phi_min": 2.0, "phi_max": 1.0, "condition": "label"}, "phi_min 2 lies above"),
    "curriculum": ({"phi_min": 1.5}, "curricula begin at 1"),
    "loss without condition": ({"phi": "loss"}, "--method.condition label or instance"),
    "heads without weight": ({"aux_sides": (8,)}, "--method.aux-weight above 0"),
    "batch statistics": ({"generator": "stylegan2"}, "statistics over the batch"),
    "styles": ({"style_mixing": 0.5}, "is for --method.generator stylegan2; leave it away"),
    "nothing": (
        {"adversarial_weight": 0, "generator_ssl_weight": 0, "train_encoder": False},
        "nothing would be trained",
    ),
    "share": ({"synthetic_after": 1.2}, r"use a share in \[0, 1\]"),
    "rate": ({"critic_lr": 0.0}, "--method.critic-lr: 0.0 is not possible"),
    "gp phase": ({"adversarial": "hinge", "gp_phase": "both"}, "--method.gp-phase"),
}  # fmt: skip


IDLE: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "generator_norm": ("group", {"generator": "stylegan2", "gp_weight": 0}, {}),
    "style_mixing": (0.5, {}, {"generator": "stylegan2", "gp_weight": 0}),
    "path_length": (2.0, {}, {"generator": "stylegan2", "gp_weight": 0}),
    "gp_weight": (5.0, {"adversarial": "hinge"}, {}),
    "gp_at": ("real", {"gp_weight": 0}, {}),
    "gp_phase": ("both", {"adversarial": "logistic"}, {}),
    "r1_interval": (4, {}, {"gp_weight": 0, "r1_gamma": 1.0}),
    "critic_policies": (("color",), {}, {"critic_augment": "diffaugment"}),
    "synthetic_after": (0.3, {"synthetic_rows": False}, {}),
    "warmup_epochs": (2.0, {"train_encoder": False}, {}),
    "phi_max": (5.0, {}, {"condition": "label"}),
    "phi_scale": ("log", {"phi": "linear", "condition": "label"}, {"condition": "label"}),
    "phi_direction": ("rising", {"condition": "label"}, {}),
    "phi_step": (0.2, {}, {"phi": "step"}),
    "phi_min": (0.3, {"phi": "constant"}, {"condition": "label"}),
    "neighbours": (5, {"condition": "label"}, {"condition": "instance"}),
    "momentum": (0.9, {}, {"condition": "instance"}),
}
"""Option -> a value, settings that it means nothing with, and settings that it belongs to."""


@pytest.mark.parametrize("name", IDLE)
def test_an_option_that_would_be_ignored_is_refused(name: str) -> None:
    value, without, along = IDLE[name]
    flag = f"--method.{name.replace('_', '-')}"
    with pytest.raises(ConfigError, match=rf"^{flag}: .* is for .*; leave it away") as caught:
        GanSSL.Config(**{**without, name: value})
    assert "\n" not in str(caught.value)
    assert getattr(GanSSL.Config(**{**along, name: value}), name) == value
    GanSSL.Config(**without)  # nothing is wrong with these alone


OFF = ("--method.adversarial-weight", "0", "--method.generator-ssl-weight", "0")
NO_SSL = OFF[2:]
NEEDS = "is not possible; it is for a GAN, which needs a --method.adversarial-weight, --method.gen"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((*OFF, "--method.n-critic", "3"), f"--method.n-critic: 3 {NEEDS}"),
        ((*OFF, "--method.warmup-epochs", "2"), f"--method.warmup-epochs: 2.0 {NEEDS}"),
        ((*OFF, "--method.temperature", "0.5"), f"--method.temperature: 0.5 {NEEDS}"),
        ((*OFF, "--method.generator", "stylegan2", "--method.gp-weight", "0"),
         f"--method.generator: stylegan2 {NEEDS}"),
        ((*NO_SSL, "--method.phi", "cosine", "--method.temperature", "0.5"),
         "--method.temperature: 0.5 is not possible; it is for a --method.generator-ssl-weight or"),
        ((*OFF[:2], "--method.phi-min", "0.5"),
         "--method.phi-min: 0.5 is not possible; it is for an --method.adversarial-weight above 0"),
    ],
)  # fmt: skip
def test_an_option_of_a_part_that_is_off_is_refused_where_it_was_typed(
    options: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        cli.parse(["--method", "gan-ssl", *options])
    assert str(caught.value).startswith(message)
    assert "; leave it away (it is " in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        ("--preset", "gan-ssl-quick", *OFF),  # the preset's own n_critic, widths, temperature
        ("--preset", "gan-ssl-quick", *NO_SSL, "--method.phi", "cosine"),
        ("--method", "gan-ssl", *OFF, "--method.n-critic", "5", "--method.temperature", "0.2"),
        ("--method", "gan-ssl", *OFF, "--method.no-synthetic-rows", "--method.ssl", "byol"),
        ("--method", "gan-ssl", *NO_SSL, "--method.temperature", "0.5", "--method.condition",
         "label"),  # phi is measured by NT-Xent
        ("--method", "gan-ssl", *NO_SSL, "--method.temperature", "0.5", "--method.aux-weight", "1",
         "--method.aux-sides", "8"),
        ("--method", "gan-ssl", *OFF[:2], "--method.temperature", "0.5"),
    ],
)  # fmt: skip
def test_a_part_that_is_off_takes_presets_and_defaults(options: tuple[str, ...]) -> None:
    found = cli.parse(options).config
    assert runs.load(runs.dump(found)) == found  # as a resumed or evaluated run reads it


@pytest.mark.parametrize("case", BAD)
def test_settings_that_define_no_game(case: str) -> None:
    settings, message = BAD[case]
    with pytest.raises(ConfigError, match=message) as caught:
        GanSSL.Config(**settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"aux_sides": (5,), "aux_weight": 1.0}, "no feature map of 5 pixels; it has 4, 8"),
        ({"warmup_epochs": 10.0}, "10 of 10 epochs leave none for the GAN"),
        ({"resolution": 24}, "^--method.resolution: DCGAN: resolution 24, expected one of 8, 16, "),
        (
            {"resolution": 4, "generator": "stylegan2", "adversarial": "hinge"},
            "^--method.resolution: StyleGAN2: resolution 4, expected one of",
        ),
        (
            {"critic_policies": ("colour",), "critic_augment": "diffaugment"},
            r"^--method.critic-policies: unknown policy .* \(did you mean color\?\)",
        ),
        (
            {"critic_policies": ("blit", "blit"), "critic_augment": "ada"},
            "^--method.critic-policies: policy 'blit' of Ada is given twice",
        ),
        ({"ssl": "simclrr"}, "did you mean simclr"),
        ({"ssl": "gan-ssl"}, "cannot train its own encoder"),
        ({"ssl_options": ("temprature=1",)}, "did you mean temperature"),
        ({"ssl_options": ("temperature=0",)}, "use a value above 0"),
        ({"ssl_options": ("temperature=warm",)}, "is not a number"),
        ({"ssl_options": ("temperature",)}, "is not NAME=VALUE"),
        ({"ssl": "rotnet"}, "--method.ssl: rotnet shows its encoder images of its own making"),
        ({"ssl": "drlim"}, "--method.ssl: drlim shows its encoder images of its own making"),
        ({"ssl": "exemplar-cnn"}, "--method.ssl: exemplar-cnn shows its encoder images of its"),
        (
            {"ssl": "swav", "ssl_options": ("prototypes=999", "queue_length=0")},
            "^--method.ssl-options: prototypes: 999 cannot be filled",
        ),
    ],
)
def test_settings_that_cannot_be_built(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build(**settings)
    assert "\n" not in str(caught.value)


def test_options_of_the_inner_method_may_be_required(monkeypatch: Any) -> None:
    class Strict(SimCLR):
        @dataclass(frozen=True, kw_only=True)
        class Config(SimCLR.Config):
            strength: float

    load = registry.load
    monkeypatch.setattr(
        registry, "load", lambda kind, name, *a: Strict if name == "m:Strict" else load(kind, name)
    )
    method = build(ssl="m:Strict", ssl_options=("strength=0.5",))
    assert method.ssl.config.strength == 0.5


def test_what_judges_the_generator_is_compiled_though_it_is_not_trained() -> None:
    frozen, trained = build(train_encoder=False), build(train_encoder=True)
    for method in (frozen, trained):
        compiled = {id(part) for group in method.groups for part in group.compiled}
        assert id(method.encoder) in compiled


def test_a_side_that_comes_from_the_views_names_both_options(monkeypatch: Any) -> None:
    monkeypatch.setattr("tests.methods.gan.SIDE", 20)
    with pytest.raises(ConfigError, match=r"^--method.resolution \(by default --data.size\): DC"):
        build()


def test_heads_alone_train_a_generator() -> None:
    weights = {"adversarial_weight": 0, "generator_ssl_weight": 0, "train_encoder": False}
    method = build(**weights, synthetic_rows=False, aux_sides=(4,), aux_weight=1.0)
    found, terms = gradients(method, "generator")
    assert terms.total.item() == terms.parts["auxiliary"].item()
    assert any("game.heads" in name for name in found)


def test_options_of_the_inner_method() -> None:
    words = ("temperature=0.5", "projector-dims=64,32,16", "learned_temperature=true")
    found = inner_config(SimCLR.Config, words, "simclr")
    wanted = SimCLR.Config(temperature=0.5, projector_dims=(64, 32, 16), learned_temperature=True)
    assert found == wanted
    assert inner_config(SimCLR.Config, (), "simclr") == SimCLR.Config()
    assert inner_config(SimCLR.Config, ("projector_dims=8",), "simclr").projector_dims == (8,)
