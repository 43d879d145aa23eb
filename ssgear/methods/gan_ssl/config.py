"""Settings of GAN + SSL (docs/math.md 2). Needs no torch; the checks name the option to change."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

from ssgear.config.values import convert
from ssgear.errors import ConfigError, did_you_mean, refuse_idle, refusing, require
from ssgear.storage.atomic import Json

PenaltyPlace = Literal["mixed", "generated", "real"]
WITHOUT_A_GAN = (
    "ssl", "ssl_options", "train_encoder", "synthetic_rows", "adversarial_weight",
    "generator_ssl_weight", "aux_weight", "aux_sides", "max_skipped",
)  # fmt: skip
"""Options that mean something, or switch a part off, where no GAN is trained."""


@dataclass(frozen=True, kw_only=True)
class GanSettings:
    """Settings of `--method gan-ssl`; fields appear as `--method.FIELD`."""

    generator: Literal["dcgan", "stylegan2"] = "dcgan"
    """Architecture of generator and critic."""
    condition: Literal["none", "label", "instance"] = "none"
    """What both see beside noise and image: nothing, the class, the feature of a real image."""
    resolution: int | None = None
    """Side of synthetic images in pixels, 4 times a power of two; by default that of the views."""
    noise_dim: int = 128
    """Length of the generator's noise."""
    generator_width: int = 64
    """Channels of a DCGAN's largest feature map; a StyleGAN2 has 512 at 32 pixels times w / 64."""
    critic_width: int = 64
    """The same of the critic."""
    generator_norm: Literal["batch", "group", "none"] = "batch"
    """Normalisation in a DCGAN's generator."""
    adversarial: Literal["wgan", "logistic", "hinge", "rpgan"] = "wgan"
    """Game of critic and generator: Wasserstein, non-saturating, hinge, relativistic pairs."""
    n_critic: int = 5
    """Critic steps for one of the generator."""
    gp_weight: float = 10.0
    """Weight of (||grad D|| - 1)^2, wgan only; 0: none."""
    gp_at: PenaltyPlace = "mixed"
    """Where its gradient is taken: between real and synthetic images, or at either."""
    gp_phase: Literal["critic", "both"] = "critic"
    """both: the generator's loss has the penalty at its own images too."""
    r1_gamma: float = 0.0
    """gamma of R1 = gamma / 2 ||grad D||^2 at real images; rpgan has R2 at synthetic ones too."""
    r1_interval: int = 16
    """Critic steps between two R1 penalties, which count as many times as much."""
    generator_lr: float = 2e-4
    """Adam's learning rate for the generator, constant."""
    critic_lr: float = 2e-4
    """Adam's learning rate for the critic, constant."""
    betas: tuple[float, float] = (0.0, 0.9)
    """Adam's decay rates for both."""
    critic_augment: Literal["none", "diffaugment", "ada"] = "none"
    """What is done to all images that the critic sees, so that few cannot be learned by heart."""
    critic_policies: tuple[str, ...] = ()
    """Parts of it: color translation cutout, or blit geom color; empty: all."""
    generator_half_life: float = 10_000.0
    """Images after which a weight counts half in the average of the generator that is kept."""
    style_mixing: float = 0.0
    """Share of a StyleGAN2's images made of two styles in training."""
    path_length: float = 0.0
    """Weight of a StyleGAN2's path-length penalty, every fourth step."""
    ssl: str = "simclr"
    """Method that trains the encoder."""
    ssl_options: tuple[str, ...] = ()
    """That method's own settings, each as NAME=VALUE; lists with commas: projector_dims=256,64."""
    train_encoder: bool = True
    """False: plain GAN training; the encoder stays as it is."""
    synthetic_rows: bool = True
    """Whether the encoder sees synthetic images too."""
    synthetic_after: float = 0.0
    """Share of the run after which it does."""
    adversarial_weight: float = 1.0
    """Weight of realism in the generator's loss, times phi; all its weights 0: no GAN at all."""
    generator_ssl_weight: float = 1.0
    """Weight of the SSL loss of synthetic images in the generator's loss, through the encoder."""
    aux_weight: float = 0.0
    """Weight of NT-Xent on heads at inner feature maps of the generator."""
    aux_sides: tuple[int, ...] = ()
    """Sides of those feature maps in pixels."""
    temperature: float = 0.2
    """Temperature of the generator's NT-Xent losses."""
    phi: Literal["auto", "loss", "linear", "cosine", "step", "constant"] = "auto"
    """Weight of realism: the SSL loss of synthetic images (needs a condition), or a curriculum from
    1 down to phi_min while the SSL loss takes over; constant: 1, and nothing takes over. auto: loss
    with a condition, else cosine."""
    phi_min: float = 0.1
    """Smallest phi."""
    phi_max: float = 10.0
    """Largest phi, for phi loss."""
    phi_scale: Literal["none", "log"] = "none"
    """log: divide the SSL loss by log(2N - 1), its value where nothing is told apart."""
    phi_direction: Literal["falling", "rising"] = "falling"
    """rising: the curriculum backwards."""
    phi_step: float = 0.5
    """Share of the run after which phi step falls."""
    neighbours: int = 20
    """condition instance: the critic's real image is one of so many nearest to the instance."""
    momentum: float = 0.999
    """condition instance: decay of the encoder's average that makes the features."""
    warmup_epochs: float = 0.0
    """Epochs of SSL alone before the GAN starts; condition instance needs features worth that."""
    max_skipped: int = 10
    """Steps in a row with a gradient that is not finite that are skipped before the run ends."""

    def __post_init__(self) -> None:
        """Refuse what defines no game."""
        self._check_numbers()
        self._check_choices()
        refuse_idle(self, self._switches())

    def _check_numbers(self) -> None:
        at_least = {
            "noise_dim": 1, "generator_width": 1, "critic_width": 1, "n_critic": 1, "gp_weight": 0,
            "r1_gamma": 0, "r1_interval": 1, "adversarial_weight": 0, "generator_ssl_weight": 0,
            "aux_weight": 0, "path_length": 0, "phi_min": 0, "neighbours": 1, "warmup_epochs": 0,
            "max_skipped": 0,
        }  # fmt: skip
        for name, least in at_least.items():
            value = getattr(self, name)
            _require(least <= value < math.inf, name, value, f"use {least} or more")
        for name in ("generator_lr", "critic_lr", "temperature", "generator_half_life"):
            value = getattr(self, name)
            _require(0 < value < math.inf, name, value, "use a value above 0")
        for name in ("style_mixing", "synthetic_after", "phi_step"):
            value = getattr(self, name)
            _require(0 <= value <= 1, name, value, "use a share in [0, 1]")
        _require(0 <= self.momentum < 1, "momentum", self.momentum, "use a decay in [0, 1)")
        for beta in self.betas:
            _require(0 <= beta < 1, "betas", self.betas, "use two decays in [0, 1)")
        bounds = f"phi_min {self.phi_min:g} lies above phi_max {self.phi_max:g}"
        _require(self.phi_min <= self.phi_max, "phi_min", self.phi_min, f"{bounds}; swap them")
        top = f"curricula begin at 1; use [0, 1] for phi {self.phi_kind}"
        _require(self.phi_kind == "loss" or self.phi_min <= 1, "phi_min", self.phi_min, top)

    def _check_choices(self) -> None:
        _require(
            self.phi != "loss" or self.condition != "none",
            "phi", self.phi,
            "loss compares a synthetic image with the real one that it is conditioned on; use "
            "--method.condition label or instance, or a curriculum",
        )  # fmt: skip
        _require(
            bool(self.aux_sides) == (self.aux_weight > 0),
            "aux_sides", self.aux_sides,
            f"goes with --method.aux-weight above 0, which is {self.aux_weight:g}",
        )  # fmt: skip
        _require(
            not (self.has_gp and self.r1_gamma),
            "r1_gamma", self.r1_gamma,
            f"goes with --method.gp-weight 0, which is {self.gp_weight:g}: one penalty at a time",
        )  # fmt: skip
        if self.generator == "stylegan2" and self.has_gp:
            raise ConfigError(
                "--method.adversarial: wgan with a gradient penalty is not possible with stylegan2:"
                " its critic has statistics over the batch, so a sample's gradient is not its own; "
                "use logistic, hinge or rpgan with --method.r1-gamma"
            )
        _require(
            self.has_gan or self.train_encoder,
            "train_encoder", self.train_encoder, "with every weight at 0 nothing would be trained",
        )  # fmt: skip

    def _switches(self) -> dict[str, tuple[bool, tuple[str, ...]]]:
        """Return what options depend on: how it is switched on, whether it is, and which."""
        styled, phi = self.generator == "stylegan2", self.phi_kind
        gp = "--method.adversarial wgan with a --method.gp-weight above 0"
        rows = "--method.synthetic-rows and --method.train-encoder"
        curriculum = phi in ("linear", "cosine", "step")
        of_a_gan = tuple(field.name for field in dataclasses.fields(GanSettings)
                         if field.name not in WITHOUT_A_GAN)  # fmt: skip
        pairs = self.generator_ssl_weight > 0 or self.aux_weight > 0 or phi == "loss"
        return {
            "a GAN, which needs a --method.adversarial-weight, --method.generator-ssl-weight or "
            "--method.aux-weight above 0": (self.has_gan, of_a_gan),
            "a --method.generator-ssl-weight or --method.aux-weight above 0, or --method.phi loss":
                (pairs, ("temperature",)),
            "an --method.adversarial-weight above 0":
                (self.adversarial_weight > 0,
                 ("phi_min", "phi_max", "phi_scale", "phi_direction")),
            "--method.generator dcgan": (not styled, ("generator_norm",)),
            "--method.generator stylegan2": (styled, ("style_mixing", "path_length")),
            "--method.adversarial wgan": (self.adversarial == "wgan" or not self.gp_weight,
                                          ("gp_weight",)),
            gp: (self.has_gp, ("gp_at", "gp_phase")),
            "a --method.r1-gamma above 0": (self.r1_gamma > 0, ("r1_interval",)),
            "--method.critic-augment diffaugment or ada": (self.critic_augment != "none",
                                                           ("critic_policies",)),
            rows: (self.synthetic_rows and self.train_encoder, ("synthetic_after",)),
            "--method.train-encoder": (self.train_encoder, ("warmup_epochs",)),
            "--method.phi loss": (phi == "loss", ("phi_max", "phi_scale")),
            "--method.phi linear, cosine or step": (curriculum, ("phi_direction",)),
            "--method.phi step": (phi == "step", ("phi_step",)),
            "any --method.phi but constant": (phi != "constant", ("phi_min",)),
            "--method.condition instance": (self.condition == "instance",
                                            ("neighbours", "momentum")),
        }  # fmt: skip

    @property
    def has_gp(self) -> bool:
        """Whether the norm of the critic's gradient is penalised."""
        return self.adversarial == "wgan" and self.gp_weight > 0

    @property
    def phi_kind(self) -> str:
        """Return phi with auto filled in."""
        if self.phi != "auto":
            return self.phi
        return "cosine" if self.condition == "none" else "loss"

    @property
    def pairs_synthetic(self) -> bool:
        """Whether an SSL loss sees synthetic images: the encoder's, or the generator's own."""
        encoder_sees = self.train_encoder and self.synthetic_rows
        return self.has_gan and (encoder_sees or self.generator_ssl_weight > 0)

    @property
    def has_gan(self) -> bool:
        """Whether generator and critic are trained at all."""
        return self.adversarial_weight > 0 or self.generator_ssl_weight > 0 or self.aux_weight > 0


def inner_config(kind: type[Any], options: tuple[str, ...], name: str) -> Any:
    """Build the settings of the encoder's method from NAME=VALUE words."""
    hints = typing.get_type_hints(kind)
    fields = {field.name for field in dataclasses.fields(kind)}
    given: dict[str, Any] = {}
    for word in options:
        key, equals, value = word.partition("=")
        key = key.replace("-", "_")
        where = f"--method.ssl-options: {word!r}"
        if not equals:
            raise ConfigError(f"{where} is not NAME=VALUE")
        if key not in fields:
            near = did_you_mean(key, fields)
            raise ConfigError(f"{where}: unknown setting of {name}{near}")
        given[key] = convert(_read(value, hints[key]), hints[key], where)
    with named_inside():
        return kind(**given)


def named_inside() -> AbstractContextManager[None]:
    """Let what the encoder's method refuses name the options by which GAN + SSL gives them."""
    return refusing(ConfigError, _inner_refusal)


def _inner_refusal(error: ConfigError) -> ConfigError:
    text = str(error).replace("--method: ", "--method.ssl: ", 1)
    if text.startswith("--method.") and not text.startswith("--method.ssl: "):
        text = f"--method.ssl-options: {text.removeprefix('--method.')}"
    return ConfigError(text)


def _read(word: str, kind: object) -> Json:
    if typing.get_origin(kind) is tuple:
        return [_scalar(part) for part in word.split(",") if part]
    return _scalar(word)


def _scalar(word: str) -> Json:
    try:
        value: Json = json.loads(word.lower() if word in ("True", "False") else word)
        return value
    except json.JSONDecodeError:
        return word


def _require(condition: bool, name: str, value: object, right: str) -> None:
    require(condition, f"--method.{name.replace('_', '-')}", value, right)
