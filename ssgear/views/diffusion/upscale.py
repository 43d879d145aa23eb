"""Super-resolution four times by Real-ESRGAN (Wang et al. 2021, arXiv 2107.10833).

spandrel reads the weight file that is published (RealESRGAN_x4plus.pth, or the same numbers as
safetensors) and builds the network (RRDBNet of ESRGAN, arXiv 1809.00219). A pickle is read by
PyTorch's weights-only reader. Published weights were never loaded here: networks of the published
names and shapes were.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ssgear.errors import CheckpointError, ConfigError, first_line, refusing
from ssgear.storage.store_marker import digest_of_file
from ssgear.views.diffusion.folders import need

if TYPE_CHECKING:
    import torch
    from spandrel import ImageModelDescriptor
    from torch import Tensor, nn

SCALE = 4
_NESTED = ("params_ema", "params")
"""Where the published files keep the weights; the average comes first."""


@dataclass(eq=False)
class Upscaler:
    """A network that makes images four times as large."""

    network: nn.Module
    """float images in [0, 1] -> the same, larger."""
    digest: str
    """Of the weight file."""
    device: torch.device
    """Where it computes."""
    dtype: torch.dtype
    """Precision of weights and activations."""
    state: dict[str, Tensor] = field(repr=False)
    """The weights in float32, from which a second network is built where one is needed."""
    channels_last: bool = True
    """Memory layout."""
    _exact: nn.Module | None = None

    def __call__(self, images: Tensor) -> tuple[Tensor, list[bool]]:
        """Return images uint8 [n, 3, h, w] as uint8 [n, 3, 4h, 4w], and which are not numbers.

        What is not finite is made once more in float32, by itself.
        """
        import torch

        made = _forward(self.network, images.to(self.device), self.dtype, self.channels_last)
        bad = [not bool(torch.isfinite(row).all()) for row in made]
        for row in (row for row, is_bad in enumerate(bad) if is_bad):
            if self._exact is None:
                self._exact = _network(self.state).to(self.device)
            again = _forward(self._exact, images[row : row + 1].to(self.device), torch.float32)
            bad[row] = not bool(torch.isfinite(again).all())
            made[row] = again[0].nan_to_num()
        return (made.clamp(0, 1) * 255).round().to(torch.uint8).cpu(), bad


def load_upscaler(
    path: Path | None,
    *,
    option: str,
    device: torch.device,
    dtype: torch.dtype,
    channels_last: bool = True,
) -> Upscaler:
    """Read a weight file of Real-ESRGAN x4.

    Raises:
        SsgearError: no file is named, or it holds another network, or more than weights.
    """
    if path is None:
        raise ConfigError(f"{option}: name the weight file of Real-ESRGAN, RealESRGAN_x4plus.pth")
    path = path.expanduser()
    need("spandrel", option)
    state = _read(path, option)
    with refusing(
        Exception,  # spandrel raises what a wrong shape happens to raise
        lambda error: CheckpointError(
            f"{option}: {path}: no network that spandrel knows ({first_line(error)[:120]}); "
            "expected Real-ESRGAN x4 (RealESRGAN_x4plus.pth)"
        ),
    ):
        descriptor = _descriptor(state)
    kind, scale = descriptor.architecture.id, descriptor.scale
    channels = (descriptor.input_channels, descriptor.output_channels)
    if kind != "ESRGAN" or scale != SCALE or channels != (3, 3):
        raise CheckpointError(
            f"{option}: {path} holds {kind} x{scale} of {channels[0]} to {channels[1]} channels; "
            "expected Real-ESRGAN x4 of 3 to 3 (RealESRGAN_x4plus.pth)"
        )
    network = descriptor.model.to(device=device, dtype=dtype).eval()
    return Upscaler(
        network=_in_order(network, channels_last),
        digest=digest_of_file(path),
        device=device,
        dtype=dtype,
        state=state,
        channels_last=channels_last,
    )


def _read(path: Path, option: str) -> dict[str, Tensor]:
    """Return the tensors of a file; nothing in it is run."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    def unpickling(error: pickle.UnpicklingError) -> CheckpointError:
        if "Unsupported global" not in str(error):
            return CheckpointError(f"{option}: {path}: holds no weights of PyTorch")
        return CheckpointError(
            f"{option}: {path}: holds more than weights, which reading would run; use the "
            "published file or one in safetensors"
        )

    if not path.exists():
        raise CheckpointError(f"{option}: {path}: there is no such file")
    with (
        refusing(
            (OSError, RuntimeError, EOFError, ValueError, SafetensorError),
            lambda error: CheckpointError(f"{option}: {path}: cannot be read: {first_line(error)}"),
        ),
        refusing(pickle.UnpicklingError, unpickling),
    ):
        if path.suffix == ".safetensors":
            file: object = load_file(path)
        else:
            file = torch.load(path, map_location="cpu", weights_only=True)
    nested = [file[key] for key in _NESTED if isinstance(file, dict) and key in file]
    state = nested[0] if nested else file
    if (
        not isinstance(state, dict)
        or not state
        or not all(isinstance(value, torch.Tensor) for value in state.values())
    ):
        raise CheckpointError(f"{option}: {path}: holds no table of weights")
    return {str(name): value for name, value in state.items()}


def _descriptor(state: dict[str, Tensor]) -> ImageModelDescriptor:
    import spandrel

    return spandrel.ModelLoader().load_from_state_dict(dict(state))


def _network(state: dict[str, Tensor]) -> nn.Module:
    network: nn.Module = _descriptor(state).model
    return network.float().eval()


def _in_order(network: nn.Module, channels_last: bool) -> nn.Module:
    import torch

    return network.to(memory_format=torch.channels_last) if channels_last else network


def _forward(
    network: nn.Module, images: Tensor, dtype: torch.dtype, channels_last: bool = False
) -> Tensor:
    """Return uint8 images through the network as float32 in about [0, 1]."""
    import torch

    pixels = images.to(dtype) / 255
    if channels_last:
        pixels = pixels.to(memory_format=torch.channels_last)
    made: Tensor = network(pixels)
    return made.float()
