from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssgear.errors import SsgearError
from ssgear.views.sd_image import SDImage, foreground_share, least_strength, noise_level
from tests.tiny_diffusion import (
    save_captioner,
    save_text_to_image,
    save_unclip,
    save_variation,
)

CPU = torch.device("cpu")
IDS = ["a", "b", "c"]
SEEDS = [21, 22, 23]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_text_to_image(folder / "img2img")
    save_variation(folder / "variation")
    save_unclip(folder / "unclip")
    save_captioner(folder / "git", end=-1.0)
    return folder


def make(models: Path, folder: str, **options: Any) -> SDImage:
    given = {"model": str(models / folder), "size": 64, "steps": 2, "diffusion_batch": 2, **options}
    return SDImage(SDImage.Config(**given), CPU)


def images(side: int, count: int = 3) -> Tensor:
    draw = torch.Generator().manual_seed(4)
    coarse = torch.rand(count, 3, 4, 4, generator=draw)
    smooth = torch.nn.functional.interpolate(coarse, side, mode="bilinear")
    return (smooth * 255).to(torch.uint8)


def reference(models: Path, kind: str, image: Tensor, seed: int) -> Tensor:
    """Ask diffusers for one view of one image, as its documentation does."""
    import diffusers
    from PIL import Image

    names = {
        "unclip": "StableUnCLIPImg2ImgPipeline",
        "variation": "StableDiffusionImageVariationPipeline",
        "img2img": "StableDiffusionImg2ImgPipeline",
    }
    pipe = getattr(diffusers, names[kind]).from_pretrained(models / kind)
    pipe.set_progress_bar_config(disable=True)
    options: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 3.0}
    options |= {} if kind == "variation" else {"prompt": "a dog"}
    options |= {"noise_level": 150} if kind == "unclip" else {}
    options |= {"strength": 0.5} if kind == "img2img" else {"height": 64, "width": 64}
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    generator = torch.Generator().manual_seed(seed)
    made = pipe(image=picture, generator=generator, output_type="np", **options).images[0]
    return torch.from_numpy(made).permute(2, 0, 1) * 255


@pytest.mark.parametrize("kind", ["unclip", "variation", "img2img"])
def test_a_row_is_what_diffusers_makes_of_it(models: Path, kind: str) -> None:
    options: dict[str, Any] = {"steps": 4, "guidance": 3.0}
    options |= {} if kind == "variation" else {"prompt": "a dog"}
    options |= {"noise_level": 150} if kind == "unclip" else {}
    options |= {"strength": 0.5} if kind == "img2img" else {}
    generator = make(models, kind, **options)
    assert generator.kind == kind
    assert generator.image_size == (64 if kind == "img2img" else 24)
    given = images(generator.image_size)
    views = generator.generate(given, IDS, SEEDS)
    assert views.images.shape == (3, 3, 64, 64) and views.failed == [None] * 3
    assert list(views.upscaled) == [None] * 3 and set(views.seconds) == {"diffusion"}
    assert len({row.numpy().tobytes() for row in views.images}) == 3
    for row in range(3):
        expected = reference(models, kind, given[row], SEEDS[row])
        assert float((views.images[row].float() - expected).abs().max()) < 1.5, row
    about = views.metadata[0]
    assert about.get("prompt") == (None if kind == "variation" else "a dog")
    assert about.get("noise_level") == (150 if kind == "unclip" else None)
    assert about["parameters"]["kind"] == kind and about["model"] == generator.settings["model"]
    json.dumps(about)


@pytest.mark.parametrize("kind", ["unclip", "variation", "img2img"])
def test_image_and_seed_decide_and_neighbours_do_not(models: Path, kind: str) -> None:
    generator = make(models, kind, guidance=9.0)
    given = images(generator.image_size or 0)
    first = generator.generate(given, IDS, SEEDS).images
    assert torch.equal(generator.generate(given, IDS, SEEDS).images, first)
    others = torch.cat((255 - given[:1], given[1:]))
    found = generator.generate(others, IDS, SEEDS).images
    assert not torch.equal(found[0], first[0]) and torch.equal(found[1:], first[1:])
    seeded = generator.generate(given, IDS, [1, *SEEDS[1:]]).images
    assert not torch.equal(seeded[0], first[0]) and torch.equal(seeded[1:], first[1:])


def test_adaptive_noise_is_each_rows_own(models: Path) -> None:
    adaptive = make(models, "unclip", adaptive_noise=True, diffusion_batch=3)
    given = images(24, 8)
    ids, seeds = [str(i) for i in range(8)], list(range(8))
    views = adaptive.generate(given, ids, seeds)
    levels = [int(about["noise_level"]) for about in views.metadata]
    assert set(levels) <= {0, 100, 200, 300, 400} and len(set(levels)) > 1, levels
    level = levels[3]
    fixed = make(models, "unclip", noise_level=level, diffusion_batch=3)
    expected = fixed.generate(given, ids, seeds).images
    same = [row for row in range(8) if levels[row] == level]
    assert torch.equal(views.images[same], expected[same])
    others = [row for row in range(8) if levels[row] != level]
    assert not any(torch.equal(views.images[row], expected[row]) for row in others)


def test_captions_are_prompts(models: Path) -> None:
    options: dict[str, Any] = {"captioner": str(models / "git"), "caption_tokens": 8}
    generator = make(models, "img2img", prompt="a photo", strength=1.0, **options)
    given = images(64, 6)
    given[0], given[1] = 0, 255
    views = generator.generate(given, list("abcdef"), list(range(6)))
    captions = generator.captioner(given)
    assert {caption.refused is None for caption in captions} == {True, False}
    for about, caption in zip(views.metadata, captions, strict=True):
        assert about["prompt"] == ("a photo" if caption.refused else caption.text)
    assert generator.settings["captioner"] == generator.captioner.digest
    assert set(views.seconds) == {"caption", "diffusion"}


def test_foreground_of_drawn_squares() -> None:
    draw = torch.Generator().manual_seed(6)
    around, inside = torch.randn(2, 7, generator=draw)
    maps, expected = [], []
    for side in (2, 4, 6):
        patches = around.expand(8, 8, 7).clone()
        patches[1 : 1 + side, 1 : 1 + side] = inside
        maps.append(patches + 0.01 * torch.randn(8, 8, 7, generator=draw))
        expected.append(side**2 / 64)
    found = foreground_share(torch.stack(maps))
    assert found.tolist() == expected
    assert torch.equal(foreground_share(-torch.stack(maps)), found)
    assert foreground_share(torch.ones(2, 5, 5, 3)).tolist() == [0, 0]
    torn = torch.stack(maps)
    torn[1, 0, 0, 0] = torch.nan  # as half precision may overflow
    assert foreground_share(torn).tolist() == [expected[0], 0, expected[2]]
    assert [noise_level(share) for share in (0, 0.19, 0.2, 0.55, 0.99, 1)] == [
        0, 0, 100, 200, 400, 400,
    ]  # fmt: skip


def test_the_strength_that_is_named_leaves_a_step() -> None:
    for steps in range(1, 1001):
        least = float(f"{least_strength(steps):g}")
        assert int(steps * least) >= 1 and 0 < least <= 1, steps


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("variation", {"kind": "unclip"}, "--kind: unclip is not what .*variation holds, a StableDiff"),
    ("variation", {"prompt": "a"}, "--prompt: .* is used as variation; the option is for unclip"),
    ("variation", {"noise_level": 1}, "--noise-level: .* the option is for unclip"),
    ("img2img", {"adaptive_noise": True}, "--adaptive-noise: .* used as img2img; .* for unclip"),
    ("unclip", {"strength": 0.5}, "--strength: .* used as unclip; the option is for img2img"),
    ("img2img", {"strength": 0.2}, r"--strength: 0\.2 of --steps 2 is less than one step; .* 0\.5"),
    ("img2img", {"strength": 0.0}, r"--strength: 0\.0 is not possible"),
    ("unclip", {"noise_level": 1000}, "--noise-level: 1000 is not possible; use 0 to 999"),
    ("git", {}, r"git holds .*; expected a folder with model_index\.json of StableUnCLIP"),
    ("unclip", {"input_size": 0}, "--input-size: 0 is not possible"),
]


@pytest.mark.parametrize(("kind", "options", "said"), REFUSED)
def test_what_it_cannot_use_is_refused(
    models: Path, kind: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(SsgearError, match=said) as caught:
        make(models, kind, **options)
    assert "\n" not in str(caught.value)
