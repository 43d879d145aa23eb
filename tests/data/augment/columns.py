"""The random parameters of views by name, for tests that look at each."""

from __future__ import annotations

from torch import Tensor

from ssgear.data.augment import AugmentParams
from ssgear.kernels.augment.params import BLUR, GREY, JITTER, ORDER, SOLARISE


class Columns(AugmentParams):
    """Parameters whose every column has a name."""

    @property
    def jitter(self) -> Tensor:
        """[n, 4] float32: factors of brightness, contrast and saturation, turn of the hue."""
        return self.packed[:, JITTER]

    @property
    def order(self) -> Tensor:
        """[n, 4] int64: the operation (0 to 3, as in `jitter`) done at each of four steps."""
        return self.packed[:, ORDER].long()

    @property
    def grey(self) -> Tensor:
        """[n] bool: drop the colours."""
        return self.packed[:, GREY] != 0

    @property
    def blur(self) -> Tensor:
        """[n] float32: sigma of the Gaussian blur in pixels, 0 for none."""
        return self.packed[:, BLUR]

    @property
    def solarise(self) -> Tensor:
        """[n] bool: invert bright pixels."""
        return self.packed[:, SOLARISE] != 0
