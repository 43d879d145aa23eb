"""What a generator or a critic is conditioned on: nothing, a class label, or a feature vector.

`Condition` says which, checks what a network is given, and turns it into rows that a linear layer
takes. The checks for images and noise that the networks share stand here too.
Shapes: N rows, Z noise numbers, R pixels of a side, E numbers of a condition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from ssgear.errors import ArgumentError, ConfigError, did_you_mean

Kind = Literal["none", "label", "vector"]


def check_choice(what: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse a value that is not one of the known ones, and name the nearest."""
    if value not in known:
        near = did_you_mean(str(value), known)
        raise ConfigError(f"unknown {what} {value!r}{near}; known: {', '.join(known)}")


@dataclass(frozen=True, kw_only=True)
class Condition:
    """The condition c of G(noise, c) and D(x, c)."""

    kind: Kind = "none"
    """none, label (int64 [N]) or vector (floating-point [N, size])."""
    size: int = 0
    """Number of classes, or length E of the vector; 0 for none."""

    def __post_init__(self) -> None:
        """Refuse a kind that there is not and a size that does not go with it."""
        check_choice("condition", self.kind, get_args(Kind))
        if (self.size > 0) != (self.kind != "none"):
            wanted = "0" if self.kind == "none" else "at least 1"
            raise ConfigError(f"condition {self.kind}: size {self.size}, expected {wanted}")

    def __bool__(self) -> bool:
        """Return whether there is one."""
        return self.kind != "none"

    def check(self, given: Tensor | None, rows: int) -> None:
        """Refuse a condition that is missing, unexpected, of another type or of another shape."""
        if given is None and not self:
            return
        if given is None or not self:
            what, not_what = ("missing", self._text) if self else ("unexpected", "None")
            raise ArgumentError(f"condition is {what}: this network takes {not_what}")
        label = self.kind == "label"
        shape = (rows,) if label else (rows, self.size)
        right_type = given.dtype == torch.int64 if label else given.is_floating_point()
        if not right_type or given.shape != shape:
            raise ArgumentError(
                f"condition: {given.dtype} {tuple(given.shape)}, expected {self._text}, N = {rows}"
            )
        # on a GPU the comparison would wait for the device in every step
        looked_at = given.device.type == "cpu" and not torch.compiler.is_compiling()
        if label and looked_at and given.numel():
            low, high = int(given.min()), int(given.max())
            if low < 0 or high >= self.size:
                raise ArgumentError(
                    f"condition: labels {low} to {high}, expected 0 to {self.size - 1}"
                )

    def rows(self, given: Tensor, dtype: torch.dtype) -> Tensor:
        """Return [N, size]: labels as one-hot rows, vectors as they are."""
        if self.kind == "label":
            return F.one_hot(given, self.size).to(dtype)
        return given.to(dtype)

    @property
    def _text(self) -> str:
        if self.kind == "label":
            return f"int64 labels [N] below {self.size}"
        return f"floating-point vectors [N, {self.size}]"


UNCONDITIONAL = Condition()


def check_resolution(what: str, resolution: int, low: int, high: int) -> None:
    """Refuse a side that is not 4 times a power of two, or outside [low, high]."""
    power = resolution > 0 and resolution & (resolution - 1) == 0
    if not power or not low <= resolution <= high:
        sides = [str(2**e) for e in range(low.bit_length() - 1, high.bit_length())]
        raise ConfigError(f"{what}: resolution {resolution}, expected one of {', '.join(sides)}")


def check_noise(noise_NZ: Tensor, noise_dim: int) -> None:
    """Refuse noise that is not floating-point [N, noise_dim]."""
    if not noise_NZ.is_floating_point() or noise_NZ.shape[1:] != (noise_dim,):
        raise ArgumentError(
            f"noise: {noise_NZ.dtype} {tuple(noise_NZ.shape)}, expected floating-point "
            f"[N, {noise_dim}]"
        )


def check_images(images: Tensor, channels: int, resolution: int) -> None:
    """Refuse images that are not floating-point [N, channels, resolution, resolution]."""
    shape = (channels, resolution, resolution)
    if not images.is_floating_point() or images.shape[1:] != shape:
        raise ArgumentError(
            f"images: {images.dtype} {tuple(images.shape)}, expected floating-point "
            f"[N, {channels}, {resolution}, {resolution}]"
        )


def check_feature_sides(at: tuple[int, ...], sides: tuple[int, ...]) -> None:
    """Refuse a resolution at which a generator has no features."""
    for side in at:
        if side not in sides:
            known = ", ".join(map(str, sides))
            raise ArgumentError(f"features at {side} pixels: this generator has them at {known}")
