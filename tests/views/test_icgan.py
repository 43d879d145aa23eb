"""IC-GAN from files in the published names, against a plain formulation of the papers."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy import stats
from torch import Tensor
from torch.nn import functional as F
from torchvision.models import resnet50

from ssgear.config.schema import DataConfig, ModelConfig, ViewsConfig
from ssgear.data.order.stored_views import open_stored
from ssgear.data.sources import open_source
from ssgear.errors import CheckpointError
from ssgear.models.encoders import build_encoder, save_encoder
from ssgear.views.biggan.instance_encoders import load_any_encoder
from ssgear.views.biggan.network import load_biggan, truncated_noise
from ssgear.views.icgan import ICGAN
from tests.data.view_stores import folder

Ssgear = Callable[..., Any]
CPU = torch.device("cpu")
CHANNELS = (16, 16, 16, 8, 8)
CHUNK, EMBEDDED, FEATURES, ATTENDED = 3, 6, 256, 2
State = dict[str, Tensor]


def published(norms: str = "stored", *, embedded: bool = True) -> State:
    """Random weights of 64 pixels under the published names; `norms`: how statistics are kept."""
    generator = torch.Generator().manual_seed(7)
    state: State = {}

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(*shape, generator=generator)

    def layer(name: str, *shape: int, bias: bool = True) -> None:
        state[f"{name}.weight"] = draw(*shape)
        state[f"{name}.u0"], state[f"{name}.sv0"] = draw(1, shape[0]), torch.ones(1)
        if bias:
            state[f"{name}.bias"] = draw(shape[0], scale=0.3)

    def statistics(name: str, width: int) -> None:
        prefix = {"stored": "stored", "running": "bn.running", "mybn": "bn.stored"}[norms]
        state[f"{name}.{prefix}_mean"] = draw(width, scale=0.2)
        state[f"{name}.{prefix}_var"] = draw(width).square() + 0.5
        if norms == "running":
            state[f"{name}.bn.num_batches_tracked"] = torch.tensor(5)
        if norms == "mybn":
            state[f"{name}.bn.accumulation_counter"] = torch.zeros(1)

    condition = CHUNK + (EMBEDDED if embedded else FEATURES)
    state["shared.weight"] = draw(10, 5)  # of classes, which this kind does not look at
    if embedded:
        layer("shared_feat", EMBEDDED, FEATURES)
    layer("linear", CHANNELS[0] * 16, CHUNK)
    for place, (wide, out) in enumerate(itertools.pairwise(CHANNELS)):
        block = f"blocks.{place}.0"
        layer(f"{block}.conv1", out, wide, 3, 3)
        layer(f"{block}.conv2", out, out, 3, 3)
        layer(f"{block}.conv_sc", out, wide, 1, 1)
        for name, width in (("bn1", wide), ("bn2", out)):
            layer(f"{block}.{name}.gain", width, condition, bias=False)
            layer(f"{block}.{name}.bias", width, condition, bias=False)
            statistics(f"{block}.{name}", width)
    own, attention = CHANNELS[ATTENDED + 1], f"blocks.{ATTENDED}.1"
    for name, to in (("theta", own // 8), ("phi", own // 8), ("g", own // 2)):
        layer(f"{attention}.{name}", to, own, 1, 1, bias=False)
    layer(f"{attention}.o", own, own // 2, 1, 1, bias=False)
    state[f"{attention}.gamma"] = torch.tensor(0.7)
    statistics("output_layer.0", CHANNELS[-1])
    gain, bias = ("bn.weight", "bn.bias") if norms == "running" else ("gain", "bias")
    state[f"output_layer.0.{gain}"] = 1 + draw(CHANNELS[-1], scale=0.1)
    state[f"output_layer.0.{bias}"] = draw(CHANNELS[-1], scale=0.1)
    layer("output_layer.2", 3, CHANNELS[-1], 3, 3)
    return state


def plain(state: State, noise: Tensor, features: Tensor) -> Tensor:
    """The papers' generator in float64, weights over the spectral norm kept beside them."""
    state = {name: value.double() for name, value in state.items()}

    def weight(name: str) -> Tensor:
        matrix = state[f"{name}.weight"].flatten(1)
        v = matrix.T @ state[f"{name}.u0"][0]
        sigma = (matrix @ (v / v.norm())).norm()
        return state[f"{name}.weight"] / sigma

    def conv(name: str, h: Tensor) -> Tensor:
        kernel = weight(name)
        return F.conv2d(h, kernel, state.get(f"{name}.bias"), padding=kernel.shape[-1] // 2)

    def wide(h: Tensor) -> Tensor:
        return h.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def norm(name: str, h: Tensor) -> Tensor:
        mean, var = state[f"{name}.stored_mean"], state[f"{name}.stored_var"]
        return (h - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()

    noise, features = noise.double(), features.double()
    chunks = [noise[:, i * CHUNK : (i + 1) * CHUNK] for i in range(len(CHANNELS))]
    if "shared_feat.weight" in state:
        features = features @ weight("shared_feat").T + state["shared_feat.bias"]
    h = (chunks[0] @ weight("linear").T + state["linear.bias"]).reshape(-1, CHANNELS[0], 4, 4)
    for place in range(len(CHANNELS) - 1):
        y, block = torch.cat((features, chunks[place + 1]), 1), f"blocks.{place}.0"

        def conditional(name: str, h: Tensor, y: Tensor = y, block: str = block) -> Tensor:
            gain = 1 + y @ weight(f"{block}.{name}.gain").T
            bias = y @ weight(f"{block}.{name}.bias").T
            return norm(f"{block}.{name}", h) * gain[..., None, None] + bias[..., None, None]

        inner = conv(f"{block}.conv1", wide(conditional("bn1", h).relu()))
        inner = conv(f"{block}.conv2", conditional("bn2", inner).relu())
        h = inner + wide(conv(f"{block}.conv_sc", h))
        if place == ATTENDED:
            name, (_, c, height, width) = f"blocks.{place}.1", h.shape
            theta = conv(f"{name}.theta", h).reshape(len(h), c // 8, -1)
            phi = F.max_pool2d(conv(f"{name}.phi", h), 2).reshape(len(h), c // 8, -1)
            g = F.max_pool2d(conv(f"{name}.g", h), 2).reshape(len(h), c // 2, -1)
            beta = torch.einsum("ncq,nck->nqk", theta, phi).softmax(-1)
            seen = torch.einsum("nqk,nck->ncq", beta, g).reshape(len(h), c // 2, height, width)
            h = h + state[f"{name}.gamma"] * conv(f"{name}.o", seen)
    gain, bias = state["output_layer.0.gain"], state["output_layer.0.bias"]
    h = norm("output_layer.0", h) * gain[:, None, None] + bias[:, None, None]
    return conv("output_layer.2", h.relu()).tanh()


def inputs(rows: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(rows, CHUNK * len(CHANNELS), generator=generator)
    return noise, F.normalize(torch.randn(rows, FEATURES, generator=generator))


@pytest.mark.parametrize("embedded", [True, False])
def test_the_network_is_the_papers(tmp_path: Path, embedded: bool) -> None:
    state = published(embedded=embedded)
    torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "g.pth")
    generator, _ = load_biggan(tmp_path / "g.pth")
    made, expected = generator(*inputs()), plain(state, *inputs())
    assert made.shape == (3, 3, 64, 64) and expected.std() > 0.05 and expected.abs().mean() < 0.98
    assert (made - expected).abs().max() < 1e-4


def test_three_ways_of_keeping_statistics_are_one(tmp_path: Path) -> None:
    made = []
    for norms in ("stored", "running", "mybn"):
        save_file(published(norms), tmp_path / f"{norms}.safetensors")
        made.append(load_biggan(tmp_path / f"{norms}.safetensors")[0](*inputs()))
    assert torch.equal(made[0], made[1]) and torch.equal(made[0], made[2])


def test_files_that_are_something_else_are_refused_in_a_line(tmp_path: Path) -> None:
    def complaint(state: Any, name: str = "g.pth") -> str:
        torch.save(state, tmp_path / name)
        with pytest.raises(CheckpointError) as caught:
            load_biggan(tmp_path / name)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    good = published()
    gone = {name: value for name, value in good.items() if name != "blocks.1.0.conv2.bias"}
    assert "blocks.1.0.conv2.bias is missing" in complaint(gone)
    assert "more.weight is not part of it" in complaint({**good, "more.weight": torch.ones(1)})
    assert "linear.weight is missing" in complaint(
        {name: value for name, value in good.items() if name != "linear.weight"}
    )
    bad = {**good, "linear.bias": good["linear.bias"] / 0}
    assert "linear.bias holds values that are not finite" in complaint(bad)
    assert "it has 0 blocks" in complaint({"layer.weight": torch.ones(2)})
    wider = {**good, "blocks.0.0.bn1.gain.weight": torch.ones(16, CHUNK + EMBEDDED + 5)}
    assert "takes a class besides the image" in complaint(wider)
    assert "linear.weight" in complaint({**good, "linear.weight": torch.ones(5, 5, 2)})
    assert "weights of an IC-GAN" in complaint({**good, "linear.weight": torch.ones(2)})
    assert "is no file of plain weights" in complaint(Path("a class"))
    assert "holds more than weights" in complaint({"G": 3})
    (tmp_path / "g.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match=r"--weights: .*name a safetensors file"):
        load_biggan(tmp_path / "g.safetensors")


def test_noise_is_of_the_seed_and_cut_as_by_drawing_again() -> None:
    seeds = list(range(2000))
    noise = truncated_noise(seeds, 5, 0.8)
    assert noise.abs().max() <= 0.8
    assert stats.kstest(noise.flatten().numpy(), stats.truncnorm(-0.8, 0.8).cdf).pvalue > 1e-3
    assert torch.equal(truncated_noise([7, 1], 5, 0.8), noise[[7, 1]])
    whole = truncated_noise(seeds, 5, None)
    assert stats.kstest(whole.flatten().numpy(), stats.norm.cdf).pvalue > 1e-3


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A generator of 64 pixels, and an ssgear encoder whose features it takes."""
    save_file(published(), tmp_path / "icgan.safetensors")
    config = ModelConfig(name="resnet_tiny", stem="cifar", norm="group")
    encoder = build_encoder(config, 16)
    assert encoder.num_features == FEATURES
    save_encoder(encoder, tmp_path / "run", mean=(0.5,) * 3, std=(0.5,) * 3)
    return tmp_path / "icgan.safetensors", tmp_path / "run"


def test_views_depend_on_image_and_seed_alone(files: tuple[Path, Path]) -> None:
    weights, run = files
    generator = ICGAN(ICGAN.Config(weights=weights, instance_encoder=run, truncation=1.5), CPU)
    assert (generator.size, generator.image_size) == (64, 16)
    images = torch.randint(0, 256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(1))
    images = images[[0, 0, 1]].byte()
    made = generator.generate(images, ["a", "a", "b"], [5, 6, 5])
    assert made.images.shape == (3, 3, 64, 64) and made.images.dtype == torch.uint8
    assert not torch.equal(made.images[0], made.images[1])
    assert not torch.equal(made.images[0], made.images[2])
    again = generator.generate(images[[2, 1, 0]], ["b", "a", "a"], [5, 6, 5]).images
    assert (again.flip(0).int() - made.images.int()).abs().max() <= 1
    assert json.dumps(generator.settings) and made.metadata[0]["parameters"] == {"truncation": 1.5}


def test_what_is_no_image_has_failed_and_memory_halves_the_block(files: tuple[Path, Path]) -> None:
    weights, run = files
    generator = ICGAN(ICGAN.Config(weights=weights, instance_encoder=run), CPU)
    images = torch.arange(4 * 3 * 16 * 16).remainder(251).view(4, 3, 16, 16).byte()
    ids, seeds = ["a", "b", "c", "d"], [3, 4, 5, 6]
    expected = generator.generate(images, ids, seeds)
    assert list(expected.failed) == [None] * 4

    def short_of_memory(module: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
        if len(args[0]) > 2:
            raise torch.OutOfMemoryError("artificial")

    def broken(module: torch.nn.Module, args: tuple[Tensor, ...], made: Tensor) -> Tensor:
        made[0, 0, 0, 0], made[1] = torch.nan, -1
        return made

    generator.generator.register_forward_pre_hook(short_of_memory)
    generator.generator.register_forward_hook(broken)
    views = generator.generate(images, ids, seeds)
    assert list(views.failed) == ["not finite", "black"] * 2
    assert "icgan: no GPU memory for 4 images" in views.notes[0] and len(views.notes) == 1
    assert list(generator.generate(images, ids, seeds).notes) == []


def test_a_store_comes_out_that_training_reads(
    run_ssgear: Ssgear, files: tuple[Path, Path], tmp_path: Path
) -> None:
    weights, run = files
    images = folder(tmp_path / "images", 5)
    store = tmp_path / "store"
    done = run_ssgear(
        "generate", "--generator", "icgan", "--weights", weights, "--instance-encoder", run,
        "--data.path", images, "--views", 2, "--output", store, "--batch-size", 4,
    )  # fmt: skip
    assert done.status == 0, done.err
    assert run_ssgear("generate", "--verify", "--output", store).status == 0
    source = open_source(DataConfig(path=images), "train")
    stored = open_stored(ViewsConfig(store=store), source)
    assert stored is not None and len(stored.source) == 2 * len(source)
    shown = np.asarray(stored.source.image(0))
    assert shown.shape == (64, 64, 3) and shown.std() > 1


def test_missing_files_are_named(
    run_ssgear: Ssgear, files: tuple[Path, Path], tmp_path: Path
) -> None:
    weights, run = files

    def complaint(*options: object) -> str:
        done = run_ssgear("generate", "--generator", "icgan", "--output", tmp_path / "s", *options)
        assert done.status == 2 and len(done.err.strip().splitlines()) == 1, done.err
        return str(done.complaint)

    assert "--weights: name the file" in complaint()
    assert "--instance-encoder: name the encoder" in complaint("--weights", weights)
    both = ("--weights", weights, "--instance-encoder")
    assert "not weights of a ResNet-50: conv1.weight" in complaint(*both, weights)
    assert "no such file" in complaint(*both, tmp_path / "none.pth").lower()
    assert "--truncation: 0.0" in complaint(*both, run, "--truncation", 0)


def test_a_resnet_50_in_torchvisions_names(tmp_path: Path) -> None:
    with torch.device("meta"):  # its own initialisation takes seconds
        resnet = resnet50(weights=None)
    resnet = resnet.to_empty(device="cpu").eval()
    for value in resnet.state_dict().values():
        wide = value.ndim > 1
        drawn = torch.randn(value.shape) / value[0].numel() ** 0.5 if wide else None
        value.copy_(1 + torch.rand(value.shape) if drawn is None else drawn)
    state = {f"module.{name}": value for name, value in resnet.state_dict().items()}
    state["module.prototypes.weight"] = torch.ones(3, 3)
    torch.save(state, tmp_path / "swav.pth.tar")
    encoder = load_any_encoder(tmp_path / "swav.pth.tar", 2048)
    assert encoder.size == 224
    images = torch.randint(
        0, 256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(0)
    ).byte()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    resnet.fc = torch.nn.Identity()
    normalised = ((images / 255).permute(0, 2, 3, 1) - mean) / std
    with torch.no_grad():
        expected = resnet(normalised.permute(0, 3, 1, 2))
    assert (encoder(images) - expected).abs().max() < 1e-5 * expected.abs().max() + 1e-6
    with pytest.raises(CheckpointError, match="features of 2048 numbers, the generator takes 256"):
        load_any_encoder(tmp_path / "swav.pth.tar", 256)
