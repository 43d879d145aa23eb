"""What critic and generator are shown of each other, by hand: augmentation, penalties, phi."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ssgear.methods.gan_ssl import phi
from ssgear.methods.gan_ssl.method import GanSSL
from ssgear.models.gan.stylegan2_styles import PathLength
from tests.methods.gan import ROWS, build, make_batch, phase_named


def terms_of(method: GanSSL, name: str, **fields: Any) -> Any:
    return method.loss(phase_named(method, name), make_batch(method, name, **fields))


def made(method: GanSSL, batch: Any, condition: Tensor | None = None) -> Tensor:
    images: Tensor = method.game.generator(batch.draw("noise", (8,), normal=True), condition)
    return images


@pytest.mark.parametrize("kind", ["hinge", "rpgan"])
def test_real_and_synthetic_images_are_both_augmented_wherever_the_critic_sees_them(
    kind: str,
) -> None:
    """Each by draws of its own, but pairs by the same; R1 is that of critic and augmentation."""
    method = build(adversarial=kind, critic_augment="diffaugment", r1_gamma=0.7, r1_interval=1)
    game = method.game
    names = (
        ("critic_augment",) * 2
        if kind == "rpgan"
        else ("critic_augment.real", "critic_augment.fake")
    )

    def scores(batch: Any, images: Tensor, which: int) -> Tensor:
        seen: Tensor = game.critic(game.augment(images, batch.draw, name=names[which]))
        return seen

    batch = make_batch(method, "critic")
    real, fake = (
        batch.images.clone().requires_grad_(),
        made(method, batch).detach().requires_grad_(),
    )
    d_real, d_fake = scores(batch, real, 0), scores(batch, fake, 1)
    squares = [
        torch.autograd.grad(score.sum(), images, retain_graph=True)[0].square().sum()
        for score, images in ((d_real, real), (d_fake, fake))
    ]
    penalty = 0.35 * sum(squares if kind == "rpgan" else squares[:1]) / ROWS
    if kind == "rpgan":
        wanted = F.softplus(d_fake - d_real).mean()
    else:
        wanted = F.relu(1 - d_real).mean() + F.relu(1 + d_fake).mean()
    terms = terms_of(method, "critic")
    assert float(terms.parts["d_real"]) == pytest.approx(float(d_real.detach().mean()), rel=1e-4)
    assert float(terms.parts["d_fake"]) == pytest.approx(float(d_fake.detach().mean()), rel=1e-4)
    assert float(terms.parts["penalty"]) == pytest.approx(penalty.item(), rel=1e-4)
    assert terms.total.item() == pytest.approx((wanted + penalty).item(), rel=1e-5)
    plain = game.critic(batch.images).mean()
    assert abs((plain - d_real.mean()).item()) > 1e-4  # the augmentation is seen in the scores

    batch = make_batch(method, "generator")
    d_real, d_fake = scores(batch, batch.images, 0), scores(batch, made(method, batch), 1)
    wanted = F.softplus(d_real - d_fake).mean() if kind == "rpgan" else -d_fake.mean()
    parts = terms_of(method, "generator").parts
    assert float(parts["realism"]) == pytest.approx(wanted.item(), rel=1e-4)


def test_ada_hears_of_real_images_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    method = build(adversarial="hinge", critic_augment="ada")
    real = make_batch(method, "critic").images

    def scores(images: Tensor, condition: Tensor | None = None) -> Tensor:
        sign = 1.0 if torch.equal(images, real) else -1.0
        return images.new_full((len(images),), sign, requires_grad=True)

    monkeypatch.setattr(method.game.critic, "forward", scores)
    signs = terms_of(method, "critic").carry["signs"]
    assert signs.tolist() == [ROWS, ROWS]  # p is 0: the images are as they were


def test_a_lazy_penalty_counts_critic_steps_not_steps() -> None:
    method = build(adversarial="hinge", r1_gamma=1.0, r1_interval=3, n_critic=2)
    due = [
        "r1" in terms_of(method, "critic", step=step, repeat=repeat).carry
        for step in range(3)
        for repeat in range(2)
    ]
    assert due == [True, False, False, True, False, False]


def test_the_average_is_told_how_many_images_were_seen() -> None:
    method = build(adversarial="hinge")
    carry = terms_of(method, "generator", step=7).carry
    assert carry["rows_and_images_seen"].tolist() == [ROWS, 7 * ROWS]


def test_the_generator_s_own_penalty_has_its_weight() -> None:
    settings: dict[str, Any] = {"phi": "constant", "generator_ssl_weight": 0.0}
    method = build(gp_phase="both", gp_weight=3.0, **settings)
    batch = make_batch(method, "generator")
    fake = made(method, batch)
    scores = method.game.critic(fake)
    (slope,) = torch.autograd.grad(scores.sum(), fake, create_graph=True)
    wanted = -scores.mean() + 3 * (slope.flatten(1).norm(dim=1) - 1).square().mean()
    terms = terms_of(method, "generator")
    assert terms.total.item() == pytest.approx(wanted.item(), rel=1e-5)
    weight = method.game.generator.start.weight
    ours, theirs = (torch.autograd.grad(each, weight)[0] for each in (terms.total, wanted))
    assert torch.allclose(ours, theirs, atol=1e-5 * float(theirs.abs().max()))


def test_path_lengths_come_every_fourth_step_and_count_four_times() -> None:
    method = build(
        generator="stylegan2", adversarial="hinge", path_length=2.0, phi="constant",
        generator_ssl_weight=0.0,
    )  # fmt: skip
    assert "path_penalty" not in terms_of(method, "generator", step=3).parts
    terms = terms_of(method, "generator", step=4)
    batch = make_batch(method, "generator", step=4)
    fake = method.game.synthesise(batch, None)
    normal = batch.draw("path", (3, 16, 16), normal=True)
    penalty, length = PathLength()(fake.images, fake.styles, normal)
    assert float(terms.parts["path_penalty"]) == pytest.approx(8 * penalty.item(), rel=1e-4)
    assert float(terms.carry["path_length"]) == pytest.approx(length.item(), rel=1e-4)
    assert fake.styles is not None
    style = fake.styles[:, 0].mean(dim=0)
    assert torch.allclose(terms.carry["mean_style"], style, atol=1e-5)


@pytest.mark.parametrize(("scale", "divisor"), [("none", 1.0), ("log", 3.0)])
def test_phi_of_the_loss_keeps_to_its_bounds(scale: Any, divisor: float) -> None:
    config = GanSSL.Config(condition="label", phi_scale=scale, phi_min=0.5, phi_max=4.0)
    rows = round(torch.e**3) + 1  # log(rows - 1) is about 3
    for value in (0.1, 4.5, 90.0):
        wanted = min(max(value / divisor, 0.5), 4.0)
        found = phi.of_loss(config, torch.tensor(value), rows)
        assert float(found) == pytest.approx(wanted, rel=2e-3)


@pytest.mark.parametrize(
    "settings",
    [
        {"phi": "cosine"},
        {"phi": "cosine", "condition": "label"},
        {"phi": "loss", "condition": "label"},
    ],
    ids=["free", "label", "phi of the loss"],
)
def test_gradients_of_the_generator_by_hand(settings: dict[str, Any]) -> None:
    """phi, the real rows and what the heads are compared with are constants in them."""
    method = build(adversarial="hinge", aux_sides=(8,), aux_weight=0.3, **settings)
    batch = make_batch(method, "generator")
    terms = terms_of(method, "generator")
    given = batch.labels if "condition" in settings else None
    noise = batch.draw("noise", (8,), normal=True)
    images, features = method.game.generator.with_features(noise, given, at=(8,))

    def embedded(view: Tensor) -> Tensor:
        return method.ssl.projector(method.encoder(view))  # type: ignore[no-any-return,operator]

    z_fake = embedded(method._view(batch, images, 0))
    if given is not None:
        z_other = embedded(batch.views[0]).detach()
        anchor = z_other
    else:
        z_other = embedded(method._view(batch, images, 1))
        anchor = z_fake.detach()
    head = method.game.heads["8"](features[8].mean((2, 3)))
    parts = terms.parts
    weight, share = float(parts["phi"]), 1.0
    if settings["phi"] == "cosine":
        _, share = phi.of_curriculum(method.config, batch.progress)
    else:
        assert weight == pytest.approx(float(parts["generator_ssl"]), rel=1e-6)
    total = -weight * method.game.critic(images, given).mean()
    total = total + share * plain_nt_xent(z_fake, z_other) + 0.3 * plain_nt_xent(head, anchor)
    assert terms.total.item() == pytest.approx(total.item(), rel=1e-5)
    weights = [
        *method.game.generator.parameters(),
        *method.game.heads.parameters(),
    ]
    ours, theirs = (torch.autograd.grad(each, weights) for each in (terms.total, total))
    for one, two in zip(ours, theirs, strict=True):
        assert torch.allclose(one, two, atol=1e-4 * max(float(two.abs().max()), 1e-3))


def plain_nt_xent(a: Tensor, b: Tensor, tau: float = 0.2) -> Tensor:
    rows = F.normalize(torch.cat((a, b)).double(), dim=1)
    scores = rows @ rows.T / tau
    scores = scores.masked_fill(torch.eye(len(rows), dtype=torch.bool), -torch.inf)
    return F.cross_entropy(scores, torch.arange(len(rows)).roll(len(a)))
