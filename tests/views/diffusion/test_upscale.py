from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from ssgear.errors import CheckpointError, ConfigError, MissingDependencyError
from ssgear.views.diffusion.upscale import Upscaler, load_upscaler
from tests.tiny_diffusion import save_upscaler, upscaler_state

CPU = torch.device("cpu")


def load(path: Path | None, dtype: torch.dtype = torch.float32) -> Upscaler:
    return load_upscaler(path, option="--upscaler", device=CPU, dtype=dtype)


def published(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """RRDBNet from its papers: arXiv 1809.00219 (figures 3 and 4), upsampled as in 2107.10833."""

    def conv(name: str, given: Tensor) -> Tensor:
        return F.conv2d(given, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    def active(given: Tensor) -> Tensor:
        return torch.where(given > 0, given, 0.2 * given)

    def dense(name: str, given: Tensor) -> Tensor:
        known = [given]
        for place in range(1, 5):
            known.append(active(conv(f"{name}.conv{place}", torch.cat(known, 1))))
        return given + 0.2 * conv(f"{name}.conv5", torch.cat(known, 1))

    blocks = len({name.split(".")[1] for name in state if name.startswith("body.")})
    first = conv("conv_first", x)
    y = first
    for block in range(blocks):
        inner = y
        for place in (1, 2, 3):
            inner = dense(f"body.{block}.rdb{place}", inner)
        y = y + 0.2 * inner
    y = first + conv("conv_body", y)
    for name in ("conv_up1", "conv_up2"):
        y = active(conv(name, y.repeat_interleave(2, 2).repeat_interleave(2, 3)))
    return conv("conv_last", active(conv("conv_hr", y)))


@pytest.mark.parametrize(("width", "blocks"), [(8, 1), (12, 2)])
def test_spandrels_network_is_the_published_one(tmp_path: Path, width: int, blocks: int) -> None:
    state = upscaler_state(width, blocks)
    torch.save({"params_ema": state}, tmp_path / "x4.pth")
    network = load(tmp_path / "x4.pth").network
    x = torch.rand(2, 3, 9, 11, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, expected = network(x), published(state, x)
    assert found.shape == (2, 3, 36, 44) and float(expected.std()) > 0.05
    assert float((found - expected).abs().max()) < 1e-5


def test_files_of_all_kinds_give_the_same_pixels(tmp_path: Path) -> None:
    state = upscaler_state()
    torch.save({"params": upscaler_state(12), "params_ema": state}, tmp_path / "both.pth")
    torch.save(state, tmp_path / "bare.pth")
    save_file(state, tmp_path / "x4.safetensors")
    images = torch.randint(0, 256, (3, 3, 8, 10), dtype=torch.uint8)
    made = []
    for name in ("both.pth", "bare.pth", "x4.safetensors"):
        pixels, bad = load(tmp_path / name)(images)
        assert pixels.shape == (3, 3, 32, 40) and pixels.dtype == torch.uint8 and bad == [False] * 3
        made.append(pixels)
    expected = published(state, images.float() / 255).clamp(0, 1).mul(255).round()
    assert all(torch.equal(made[0], each) for each in made[1:])
    assert float((made[0].float() - expected).abs().max()) <= 1


def test_half_precision_that_breaks_down_is_made_again(tmp_path: Path) -> None:
    upscaler = load(save_upscaler(tmp_path / "x4.pth"), torch.bfloat16)
    exact = load(tmp_path / "x4.pth")
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    whole = upscaler.network.forward

    def broken(x: Tensor) -> Tensor:
        made = whole(x)
        made[1, 0, 3, 3] = float("inf")
        return made

    upscaler.network.forward = broken
    pixels, bad = upscaler(images)
    assert bad == [False] * 3 and torch.equal(pixels[1], exact(images[1:2])[0][0])
    state = {name: value * torch.nan for name, value in upscaler_state().items()}
    torch.save(state, tmp_path / "nan.pth")
    assert load(tmp_path / "nan.pth")(images)[1] == [True] * 3


class _Command:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this ran",)


def test_other_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="--upscaler: name the weight file of Real-ESRGAN"):
        load(None)
    with pytest.raises(CheckpointError, match="there is no such file"):
        load(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(CheckpointError, match=r"text\.pth: holds no weights of PyTorch"):
        load(tmp_path / "text.pth")
    torch.save({"params_ema": upscaler_state(), "extra": _Command()}, tmp_path / "code.pth")
    with pytest.raises(CheckpointError, match=r"code\.pth: holds more than weights"):
        load(tmp_path / "code.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps(_Command(), protocol=2))
    with pytest.raises(CheckpointError, match=r"old\.pth: holds"):
        load(tmp_path / "old.pth")
    assert "this ran" not in capsys.readouterr().out
    (tmp_path / "cut.safetensors").write_bytes(b"\x40\0\0\0\0\0\0\0{}")
    with pytest.raises(CheckpointError, match=r"cut\.safetensors: cannot be read"):
        load(tmp_path / "cut.safetensors")
    torch.save({"iteration": 3}, tmp_path / "state.pth")
    with pytest.raises(CheckpointError, match="holds no table of weights"):
        load(tmp_path / "state.pth")


def test_other_networks_are_refused(tmp_path: Path) -> None:
    double = {n: v for n, v in upscaler_state().items() if not n.startswith("conv_up2")}
    torch.save(double, tmp_path / "x2.pth")
    with pytest.raises(CheckpointError, match="holds ESRGAN x2 of 3 to 3 channels; expected Real"):
        load(tmp_path / "x2.pth")
    compact = {"body.0.weight": torch.zeros(8, 3, 3, 3), "body.0.bias": torch.zeros(8)}
    compact |= {"body.1.weight": torch.zeros(8)}
    compact |= {"body.2.weight": torch.zeros(48, 8, 3, 3), "body.2.bias": torch.zeros(48)}
    torch.save(compact, tmp_path / "compact.pth")
    with pytest.raises(CheckpointError, match="holds Compact x4 of 3 to 3 channels"):
        load(tmp_path / "compact.pth")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="no network that spandrel knows"):
        load(tmp_path / "other.pth")


def test_spandrel_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "spandrel", None)
    with pytest.raises(MissingDependencyError, match=r'--upscaler: .*"ssgear\[generate\]"'):
        load(save_upscaler(tmp_path / "x4.pth"))
