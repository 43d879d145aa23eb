from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ssgear.config.schema import ModelConfig
from ssgear.errors import CheckpointError, ConfigError, TrainingError
from ssgear.models.encoders import build_encoder
from ssgear.models.gan.conditions import Condition
from ssgear.models.gan.dcgan import DCGANConfig, DCGANGenerator
from ssgear.models.gan.generators import save_generator
from ssgear.models.gan.instances import save_instance_encoder
from ssgear.models.gan.stylegan2 import StyleGAN2Generator
from ssgear.models.gan.stylegan2_config import StyleGAN2Config
from ssgear.views.base import item_seed
from ssgear.views.gan import GAN

CPU = torch.device("cpu")


def saved(folder: Path, kind: str = "dcgan", condition: Condition | None = None) -> Path:
    torch.manual_seed(1)
    condition = condition or Condition()
    generator: DCGANGenerator | StyleGAN2Generator
    if kind == "dcgan":
        config = DCGANConfig(resolution=8, noise_dim=7, generator_width=6, condition=condition)
        generator = DCGANGenerator(config)
        generator.train()(torch.randn(64, 7), _condition(condition, 64))  # batch statistics
    else:
        sizes = {"resolution": 8, "noise_dim": 7, "style_dim": 6, "max_width": 5}
        generator = StyleGAN2Generator(StyleGAN2Config(**sizes, condition=condition))  # type: ignore[arg-type]
    save_generator(generator, folder)
    return folder


def _condition(condition: Condition, rows: int) -> torch.Tensor | None:
    return torch.arange(rows) % condition.size if condition.kind == "label" else None


def gan(run: Path, **config: float) -> GAN:
    return GAN(GAN.Config(run=run, **config), CPU)


def test_a_row_depends_on_its_seed_and_number_only(tmp_path: Path) -> None:
    generator = gan(saved(tmp_path))
    ids, seeds = [f"{i:03d}" for i in range(5)], [item_seed(4, f"{i}") for i in range(5)]
    whole = generator.generate(None, ids, seeds).images
    assert whole.shape == (5, 3, 8, 8) and whole.dtype == torch.uint8
    assert len({row.numpy().tobytes() for row in whole}) == 5
    turned = generator.generate(None, ids[::-1], seeds[::-1]).images
    assert int((turned.flip(0).int() - whole.int()).abs().max()) <= 1
    assert torch.equal(generator.generate(None, ids, seeds).images, whole)


def test_labels_take_turns_and_decide_the_image(tmp_path: Path) -> None:
    generator = gan(saved(tmp_path, condition=Condition(kind="label", size=3)))
    views = generator.generate(None, ["4", "5", "6", "7"], [9] * 4)
    assert [fields["label"] for fields in views.metadata] == [1, 2, 0, 1]
    assert torch.equal(views.images[0], views.images[3])
    assert not torch.equal(views.images[0], views.images[1])


def test_truncation_moves_images_towards_the_average(tmp_path: Path) -> None:
    run = saved(tmp_path, "stylegan2")
    seeds = list(range(6))
    spreads = [
        gan(run, truncation=psi).generate(None, ["0"] * 6, seeds).images.float().std(0).sum()
        for psi in (0.0, 0.5, 1.0)
    ]
    assert spreads[0] == 0 < spreads[1] < spreads[2]
    assert gan(run, truncation=0.5).settings != gan(run).settings


def test_what_it_cannot_use_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--run: name the run"):
        GAN(GAN.Config(), CPU)
    with pytest.raises(CheckpointError, match=r"expected generator\.safetensors"):
        gan(tmp_path)
    with pytest.raises(ConfigError, match=r"--truncation: 0\.5: a dcgan has no styles"):
        gan(saved(tmp_path / "dcgan"), truncation=0.5)
    instance = saved(tmp_path / "instance", "stylegan2", Condition(kind="vector", size=5))
    with pytest.raises(CheckpointError, match=r"instance_encoder\.safetensors"):
        gan(instance)
    encoder = build_encoder(ModelConfig(name="resnet_tiny"), 8)
    save_instance_encoder(encoder, instance, mean=(0.5,) * 3, std=(0.2,) * 3)
    with pytest.raises(CheckpointError, match=r"features of \d+ numbers, the generator takes 5"):
        gan(instance)


def test_item_seeds_are_apart() -> None:
    seeds = {item_seed(s, i, k) for s in (0, 1) for i in ("0", "1", "10") for k in (0, 1)}
    assert len(seeds) == 12 and max(seeds) < 2**53


def test_what_is_no_image_has_failed(tmp_path: Path) -> None:
    generator = gan(saved(tmp_path))
    whole = generator.generator.forward

    def broken(*args: torch.Tensor | None) -> torch.Tensor:
        made = whole(*args)  # type: ignore[arg-type]
        made[1, 0, 0, 0], made[2] = torch.nan, -1
        return made

    expected = generator.generate(None, ["0"] * 4, [1, 2, 3, 4])
    assert list(expected.failed) == [None] * 4
    generator.generator.forward = broken  # type: ignore[method-assign]
    views = generator.generate(None, ["0"] * 4, [1, 2, 3, 4])
    assert list(views.failed) == [None, "not finite", "black", None]
    assert torch.equal(views.images[[0, 3]], expected.images[[0, 3]])


def test_no_gpu_memory_halves_the_block_from_then_on(tmp_path: Path) -> None:
    condition = Condition(kind="label", size=3)
    generator, rows, most = gan(saved(tmp_path, condition=condition)), list[int](), [2]

    def short_of_memory(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        rows.append(len(args[0]))
        if len(args[0]) > most[0]:
            raise torch.OutOfMemoryError("artificial")

    ids, seeds = [str(i) for i in range(5)], list(range(5))
    expected = generator.generate(None, ids, seeds)
    generator.generator.register_forward_pre_hook(short_of_memory)
    views = generator.generate(None, ids, seeds)
    assert (
        rows == [5, 2, 2, 1] and int((views.images.int() - expected.images.int()).abs().max()) <= 1
    )
    assert views.metadata == expected.metadata
    (note,) = views.notes
    assert note.startswith("gan: no GPU memory for 5 images") and "--batch-size 2)" in note
    assert list(generator.generate(None, ids, seeds).notes) == [] and rows[4:] == [2, 2, 1]
    most[0] = 0
    with pytest.raises(TrainingError, match=r"--batch-size: .* image; use a GPU with more"):
        generator.generate(None, ids, seeds)
