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
from typing import TYPE_CHECKING, Any

from ssgear.errors import CheckpointError, ConfigError, first_line
from ssgear.views.diffusion.folders import digest_of, need

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SCALE = 4
_NESTED = ("params_ema", "params")
"""Where the published files keep the weights; the average comes first."""


@dataclass(eq=False)
class Upscaler:
    """A network that makes images four times as large."""

    network: Any
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
    _exact: Any = None

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
    try:
        descriptor = _descriptor(state)
    except Exception as error:  # spandrel raises what a wrong shape happens to raise
        raise CheckpointError(
            f"{option}: {path}: no network that spandrel knows ({first_line(error)[:120]}); "
            "expected Real-ESRGAN x4 (RealESRGAN_x4plus.pth)"
        ) from None
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
        digest=digest_of(path),
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

    try:
        if path.suffix == ".safetensors":
            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{option}: {path}: there is no such file") from None
    except pickle.UnpicklingError as error:
        if "Unsupported global" not in str(error):
            raise CheckpointError(f"{option}: {path}: holds no weights of PyTorch") from None
        raise CheckpointError(
            f"{option}: {path}: holds more than weights, which reading would run; use the "
            "published file or one in safetensors"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{option}: {path}: cannot be read: {first_line(error)}") from None
    inner = next((found[key] for key in _NESTED if isinstance(found, dict) and key in found), found)
    is_state = isinstance(inner, dict) and all(isinstance(v, torch.Tensor) for v in inner.values())
    if not is_state or not inner:
        raise CheckpointError(f"{option}: {path}: holds no table of weights")
    return {str(name): value for name, value in inner.items()}


def _descriptor(state: dict[str, Tensor]) -> Any:
    import spandrel

    return spandrel.ModelLoader().load_from_state_dict(dict(state))


def _network(state: dict[str, Tensor]) -> Any:
    return _descriptor(state).model.float().eval()


def _in_order(network: Any, channels_last: bool) -> Any:
    import torch

    return network.to(memory_format=torch.channels_last) if channels_last else network


def _forward(
    network: Any, images: Tensor, dtype: torch.dtype, channels_last: bool = False
) -> Tensor:
    """Return uint8 images through the network as float32 in about [0, 1]."""
    import torch

    pixels = images.to(dtype) / 255
    if channels_last:
        pixels = pixels.to(memory_format=torch.channels_last)
    made: Tensor = network(pixels)
    return made.float()
