from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ssgear import registry
from ssgear.errors import CheckpointError, ConfigError, MissingDependencyError, SsgearError
from ssgear.views.diffusion.token_merging import Matching
from ssgear.views.sd2_caption import SD2Caption
from tests.tiny_diffusion import save_captioner, save_text_to_image, save_upscaler

CPU = torch.device("cpu")
IDS = ["a", "b", "c", "d", "e"]
SEEDS = [11, 2**52, 13, 14, 15]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_upscaler(folder / "x4.pth")
    save_captioner(folder / "git", end=-1.0)  # some captions end, some do not, some are empty
    save_text_to_image(folder / "sd")
    return folder


def make(models: Path, **options: Any) -> SD2Caption:
    given: dict[str, Any] = {
        "model": str(models / "sd"),
        "captioner": str(models / "git"),
        "upscaler": models / "x4.pth",
        "input_size": 16,
        "size": 64,
        "steps": 2,
        "caption_tokens": 8,
        "upscale_batch": 3,
        "caption_batch": 4,
        "diffusion_batch": 2,
        **options,
    }
    return SD2Caption(SD2Caption.Config(**given), CPU)


@pytest.fixture(scope="module")
def generator(models: Path) -> SD2Caption:
    return make(models)


@pytest.fixture(scope="module")
def images() -> Tensor:
    noise = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    level = torch.tensor([0.1, 0.9, 0.5, 0.3, 0.7])[:, None, None, None]
    tint = torch.eye(3)[[0, 1, 2, 0, 1]][:, :, None, None]
    return ((noise * 0.3 + level * 0.4 + tint * 0.3) * 255).to(torch.uint8)


def weights_of(folder: Path, part: str) -> Path:
    return next((folder / part).glob("*.safetensors"))


def test_views_come_with_captions_and_enlarged_originals(
    generator: SD2Caption, images: Tensor
) -> None:
    views = generator.generate(images, IDS, SEEDS)
    assert views.images.shape == (5, 3, 64, 64) and views.images.dtype == torch.uint8
    assert len({row.numpy().tobytes() for row in views.images}) == 5
    assert views.failed == [None] * 5 and list(views.notes) == []
    assert set(views.seconds) == {"upscale", "caption", "diffusion"}
    for row, kept in zip(images, views.upscaled, strict=True):
        assert kept is not None and torch.equal(kept, generator.upscaler(row[None])[0][0])
    json.dumps(list(views.metadata))
    captions = generator.captioner(
        torch.stack([kept for kept in views.upscaled if kept is not None])
    )
    for about, caption in zip(views.metadata, captions, strict=True):
        assert about["prompt"] == ("a photo" if caption.refused else caption.text)
        assert about.get("caption_refused") == caption.refused
    refused = {caption.refused for caption in captions}
    assert None in refused and len(refused) > 1, captions


def test_a_row_is_what_diffusers_makes_of_its_prompt_and_seed(
    models: Path, generator: SD2Caption, images: Tensor
) -> None:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(models / "sd")
    pipe.set_progress_bar_config(disable=True)
    views = generator.generate(images, IDS, SEEDS)
    for row in (1, 4):
        made = pipe(
            str(views.metadata[row]["prompt"]),
            height=64,
            width=64,
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(SEEDS[row]),
            output_type="np",
        ).images[0]
        expected = torch.from_numpy(made).permute(2, 0, 1) * 255
        assert float((views.images[row].float() - expected).abs().max()) < 1.5


def test_neighbours_do_not_matter(generator: SD2Caption, images: Tensor) -> None:
    views = generator.generate(images, IDS, SEEDS)
    others = torch.cat((255 - images[:2], images[2:]))
    again = generator.generate(others, IDS, [1, 2, *SEEDS[2:]])
    assert not torch.equal(again.images[0], views.images[0])
    assert torch.equal(again.images[2:], views.images[2:])
    turned = generator.generate(images.flip(0), IDS[::-1], SEEDS[::-1]).images.flip(0)
    assert int((turned.int() - views.images.int()).abs().max()) <= 1


def test_broken_images_are_drawn_again_in_float32(models: Path, images: Tensor) -> None:
    broken, exact = make(models, precision="bf16"), make(models, fuse="off")
    decoder = broken.diffusion.pipe.vae.decoder
    whole = decoder.forward
    calls = []

    def forward(*args: Any, **options: Any) -> Tensor:
        made: Tensor = whole(*args, **options)
        if not calls:
            made[0] = torch.nan
            made[1] = -7.0
        calls.append(len(made))
        return made

    decoder.forward = forward
    views = broken.generate(images, IDS, SEEDS)
    first = [about.get("first_attempt") for about in views.metadata]
    assert first == ["not finite", "black", None, None, None] and views.failed == [None] * 5
    expected = exact.generate(images, IDS, SEEDS)
    prompts = [[each["prompt"] for each in found.metadata] for found in (views, expected)]
    for row in range(2):  # bf16 may have changed what the captioner reads
        if prompts[0][row] == prompts[1][row]:
            assert int((views.images[row].int() - expected.images[row].int()).abs().max()) <= 1


def test_what_stays_broken_has_failed(models: Path, tmp_path: Path, images: Tensor) -> None:
    shutil.copytree(models / "sd", tmp_path / "sd")
    file = weights_of(tmp_path / "sd", "vae")
    state = load_file(file)
    state["decoder.conv_out.weight"] = state["decoder.conv_out.weight"] * torch.nan
    save_file(state, file, metadata={"format": "pt"})
    views = make(models, model=str(tmp_path / "sd")).generate(images[:3], IDS[:3], SEEDS[:3])
    assert views.failed == ["not finite; not finite in float32 too"] * 3
    assert all(each is not None for each in views.upscaled) and views.images.shape[0] == 3
    state["decoder.conv_out.weight"] = torch.zeros_like(state["decoder.conv_out.weight"])
    state["decoder.conv_out.bias"] = torch.zeros_like(state["decoder.conv_out.bias"])
    save_file(state, file, metadata={"format": "pt"})
    views = make(models, model=str(tmp_path / "sd")).generate(images[:1], IDS[:1], SEEDS[:1])
    assert views.failed == ["of one colour; of one colour in float32 too"]


def test_no_gpu_memory_halves_one_stage(models: Path, images: Tensor) -> None:
    generator = make(models, diffusion_batch=4)

    def short_of_memory(module: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
        if len(args[0]) > 4:  # two images with guidance
            raise torch.OutOfMemoryError("artificial")

    generator.diffusion.pipe.unet.register_forward_pre_hook(short_of_memory)
    views = generator.generate(images, IDS, SEEDS)
    expected = make(models, diffusion_batch=2).generate(images, IDS, SEEDS)
    assert torch.equal(views.images, expected.images)
    (note,) = views.notes
    assert "diffusion: no GPU memory for 4 images" in note and "--diffusion-batch 2" in note
    assert list(generator.generate(images, IDS, SEEDS).notes) == []  # it is known by then


def test_no_gpu_memory_for_the_second_attempt_costs_its_row_only(
    models: Path, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = make(models)
    decoder = generator.diffusion.pipe.vae.decoder
    whole = decoder.forward

    def forward(*args: Any, **options: Any) -> Tensor:
        made: Tensor = whole(*args, **options)
        made[0] = torch.nan
        return made

    def no_room() -> Any:
        raise torch.OutOfMemoryError("artificial")

    decoder.forward = forward
    monkeypatch.setattr(generator.diffusion, "_in_float32", no_room)
    views = generator.generate(images[:2], IDS[:2], SEEDS[:2])
    assert views.failed == ["not finite; no GPU memory to draw it in float32", None]
    assert list(views.notes) == []


def test_compiled_parts_are_given_whole_slices(
    models: Path, generator: SD2Caption, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: set[tuple[int, ...]] = set()

    def compile_pipeline(pipe: Any, **asked: Any) -> dict[str, str]:
        pipe.unet.register_forward_pre_hook(lambda _, args: shapes.add(tuple(args[0].shape)))
        asked["example"]()
        asked["notice"]("told")
        return {"unet": asked["mode"], "vae_decoder": "none"}

    stand_in: Any = ModuleType("ssgear.views.compile.compile")
    stand_in.compile_pipeline = compile_pipeline
    monkeypatch.setitem(sys.modules, "ssgear.views.compile.compile", stand_in)
    compiled = make(models, compile="inductor")
    assert compiled.settings["compile"] == {"unet": "inductor"} and compiled.notes == ["told"]
    views = compiled.generate(images, IDS, SEEDS)
    side = 64 // generator.diffusion.pipe.vae_scale_factor
    assert shapes == {(4, 4, side, side)}  # two images with guidance, also where one is left
    expected = generator.generate(images, IDS, SEEDS).images
    assert int((views.images.int() - expected.int()).abs().max()) <= 1
    assert make(models, compile="auto").settings["compile"] == {}  # on a CPU


def test_settings_name_all_that_decides_pixels(models: Path, tmp_path: Path) -> None:
    generator = make(models)
    same, config = generator.settings, generator.config
    assert json.loads(json.dumps(same)) == same
    options: list[dict[str, Any]] = [
        {"steps": 3},
        {"guidance": 2.0},
        {"negative_prompt": "text"},
        {"prompt": "an image"},
        {"input_size": 8},
        {"caption_tokens": 9},
        {"diffusion_batch": 1},
        {"upscale_batch": 1},
        {"caption_batch": 1},
        {"channels_last": False},
        {"step_cache": 2},
        {"token_merging": 0.5},
    ]
    for each in options:
        generator.config = generator.diffusion.config = dataclasses.replace(config, **each)
        assert generator._settings() != same, each
    for each in ({"scheduler": "euler"}, {"precision": "bf16"}, {"fuse": "on"}):
        assert make(models, **each).settings != same
    folder = shutil.copytree(models, tmp_path / "copy")
    assert make(folder).settings == same  # where models lie does not matter
    state = load_file(weights_of(folder / "sd", "unet"))
    state["conv_in.bias"][0] += 1e-6
    save_file(state, weights_of(folder / "sd", "unet"), metadata={"format": "pt"})
    assert make(folder).settings["model"] != same["model"]


def test_step_cache_reuses_deep_features(models: Path, images: Tensor) -> None:
    plain = make(models, steps=4, guidance=2.0)
    cached = make(models, steps=4, guidance=2.0, step_cache=3)
    runs: list[str] = []
    for name, generator in (("plain", plain), ("cached", cached)):
        generator.diffusion.pipe.unet.mid_block.resnets[0].register_forward_hook(
            lambda *_, name=name: runs.append(name)
        )
    first, second = (each.generate(images, IDS, SEEDS).images for each in (plain, cached))
    assert (runs.count("plain"), runs.count("cached")) == (3 * 4, 3 * 2)
    assert not torch.equal(first, second)
    assert float((first.float() - second.float()).abs().mean()) < 20
    unet = cached.diffusion.pipe.unet
    inputs = (torch.randn(2, 4, 8, 8), 500, torch.randn(2, 16, 8))
    cached.diffusion.cache.restart()  # type: ignore[union-attr]
    with torch.no_grad():
        whole, kept = unet(*inputs).sample, unet(*inputs).sample
    assert torch.equal(whole, kept)  # nothing has changed, so what was kept is right


def test_token_merging_shortens_self_attention(
    models: Path, generator: SD2Caption, images: Tensor
) -> None:
    merging = make(models, token_merging=0.5)
    seen: list[int] = []
    block = merging.diffusion.pipe.unet.down_blocks[0].attentions[0].transformer_blocks[0]
    block.attn1.to_k.register_forward_hook(lambda _, args, made: seen.append(args[0].shape[1]))
    block.attn2.to_q.register_forward_hook(lambda _, args, made: seen.append(args[0].shape[1]))
    views = merging.generate(images, IDS, SEEDS)
    assert set(seen[::2]) == {32} and set(seen[1::2]) == {64}  # of 8 x 8 tokens
    plain = generator.generate(images, IDS, SEEDS)
    assert not torch.equal(views.images, plain.images)
    assert float((views.images.float() - plain.images.float()).abs().mean()) < 20
    again = merging.generate(torch.cat((255 - images[:2], images[2:])), IDS, SEEDS)
    assert torch.equal(again.images[2:], views.images[2:])


@pytest.mark.parametrize("merged", [0, 1, 20, 48])
def test_tokens_that_are_alike_merge_without_loss(merged: int) -> None:
    draw = torch.Generator().manual_seed(5)
    cells = torch.randn(3, 4, 4, 6, generator=draw)
    alike = cells.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1, 2)
    matching = Matching(alike, merged)
    short = matching.merge(alike)
    assert short.shape == (3, 64 - merged, 6)
    assert float((matching.unmerge(short) - alike).abs().max()) < 1e-6
    x = torch.randn(3, 64, 6, generator=draw)
    matching = Matching(x, merged)
    short, made = matching.merge(x), matching.unmerge(matching.merge(x))
    for row in range(3):  # what went together has its members' mean
        groups = made[row].unique(dim=0, return_inverse=True)[1]
        means = torch.stack([x[row][groups == group].mean(0) for group in groups])
        assert float((means - made[row]).abs().max()) < 1e-5
        assert len(groups.unique()) == 64 - merged == len(short[row])


@pytest.mark.parametrize("scheduler", ["dpm-solver", "euler-ancestral", "lcm", "pndm"])
def test_schedulers_draw_from_the_seeds_alone(models: Path, images: Tensor, scheduler: str) -> None:
    generator = make(models, scheduler=scheduler, steps=3)
    torch.manual_seed(1)
    first = generator.generate(images[:2], IDS[:2], SEEDS[:2]).images
    torch.manual_seed(2)
    assert torch.equal(generator.generate(images[:2], IDS[:2], SEEDS[:2]).images, first)
    other = generator.generate(images[:2], IDS[:2], [9, SEEDS[1]]).images
    changed = (other.int() - first.int()).abs().amax((1, 2, 3))
    assert int(changed[0]) > 1 and int(changed[1]) == 0


def test_few_step_models(models: Path, tmp_path: Path, images: Tensor) -> None:
    turbo = make(models, steps=1, guidance=0.0, fuse="on").generate(images[:2], IDS[:2], SEEDS[:2])
    assert turbo.failed == [None, None]
    folder = save_text_to_image(tmp_path / "lcm", time_cond_proj_dim=8)
    index = json.loads((folder / "model_index.json").read_text())
    index["_class_name"] = "LatentConsistencyModelPipeline"
    (folder / "model_index.json").write_text(json.dumps(index))
    options: dict[str, Any] = {"model": str(folder), "steps": 2, "scheduler": "lcm"}
    weak, strong = (
        make(models, guidance=guidance, **options).generate(images[:2], IDS[:2], SEEDS[:2]).images
        for guidance in (2.0, 8.0)
    )
    assert not torch.equal(weak, strong)  # guidance is an input of such a model


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, r"--model: name a folder with model_index\.json of StableDiffusionPipeline"),
    ({"model": "/nowhere/sd"}, r"--model: /nowhere/sd: there is no such folder; expected a folder"),
    ({"model": "GIT"}, r"git holds config\.json, .*; expected a folder with model_index\.json"),
    ({"model": "FILE"}, r"x4\.pth is a file; expected a folder"),
    ({"captioner": None}, r"--captioner: name a folder with config\.json of a git model"),
    (
        {"captioner": "TEXT"},
        r"holds a model of type clip_text_model \(config\.json\); expected git",
    ),
    ({"captioner": "SD"}, r"--captioner: .*sd holds .*; expected a folder with config\.json"),
    ({"upscaler": None}, "--upscaler: name the weight file of Real-ESRGAN"),
    ({"size": 60}, "--size: 60: use a multiple of 8 for this model"),
    ({"precision": "float16"}, "--precision: float16 needs a GPU; use bf16 or float32 on a CPU"),
    ({"steps": 1001}, "--steps: 1001 cannot be taken by DDIMScheduler: "),
    ({"steps": 0}, "--steps: 0 is not possible; use at least 1"),
    ({"caption_batch": 0}, "--caption-batch: 0 is not possible; use at least 1"),
    ({"guidance": float("nan")}, "--guidance: nan is not possible; use 0 or more"),
    ({"prompt": " "}, "--prompt: name what is drawn where a caption is empty"),
    ({"step_cache": 2, "compile": "inductor"}, "--step-cache: takes the UNet apart"),
    ({"token_merging": 0.5, "compile": "onnx"}, "--token-merging: takes the UNet apart, of which"),
    ({"token_merging": 0.8}, r"--token-merging: 0\.8 is not possible; use 0 to 0\.75"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED)
def test_what_it_cannot_use_is_refused(models: Path, options: dict[str, Any], said: str) -> None:
    places = {
        "GIT": models / "git", "FILE": models / "x4.pth", "SD": models / "sd",
        "TEXT": models / "sd" / "text_encoder",
    }  # fmt: skip
    given = {name: str(places.get(str(value), value)) if value in places else value
             for name, value in options.items()}  # fmt: skip
    with pytest.raises(SsgearError, match=said) as caught:
        make(models, **given)
    assert "\n" not in str(caught.value)


def test_damaged_folders_are_refused(models: Path, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        return shutil.copytree(models / "sd", tmp_path / name)

    def refused(folder: Path, said: str) -> None:
        with pytest.raises(CheckpointError, match=said) as caught:
            make(models, model=str(folder))
        assert "\n" not in str(caught.value)

    pickled = copy("pickled")
    weights_of(pickled, "unet").rename(pickled / "unet" / "diffusion_pytorch_model.bin")
    refused(pickled, r"unet/diffusion_pytorch_model\.bin is a pickle, which may run code")
    partial = copy("partial")
    shutil.rmtree(partial / "vae")
    refused(partial, r"partial has no folder vae, which model_index\.json names")
    cut = copy("cut")
    file = weights_of(cut, "unet")
    file.write_bytes(file.read_bytes()[:1000])
    refused(cut, r"--model: .*cut cannot be loaded \(.*\); is it complete\?")
    empty = copy("empty")
    weights_of(empty, "unet").unlink()
    refused(empty, r"--model: .*empty cannot be loaded")
    for part in ("vae", "text_encoder"):
        weights_of(empty, part).unlink()
    refused(empty, r"--model: .*empty has no weights in safetensors, .*unet")
    other = copy("other")
    index = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps({**index, "_class_name": "FluxPipeline"}))
    refused(other, r"holds a FluxPipeline \(model_index\.json\); expected StableDiffusionPipeline")
    (other / "model_index.json").write_text("{")
    refused(other, r"model_index\.json cannot be read")
    sde = {**index, "scheduler": ["diffusers", "DPMSolverSDEScheduler"]}
    (other / "model_index.json").write_text(json.dumps(sde))
    with pytest.raises(ConfigError, match=r"--scheduler: DPMSolverSDE\w+ of .* no seed decid"):
        make(models, model=str(other))
    for nothing in ({}, {"scheduler": []}, {"scheduler": ["diffusers"]}):
        rest = {name: value for name, value in index.items() if name != "scheduler"}
        (other / "model_index.json").write_text(json.dumps({**rest, **nothing}))
        refused(other, r"--model: .*model_index\.json names no scheduler; is it complete\?")
    half = shutil.copytree(models / "git", tmp_path / "git")
    (half / "tokenizer.json").unlink()
    (half / "model.safetensors").rename(half / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"--captioner: .*pytorch_model\.bin is a pickle"):
        make(models, captioner=str(half))


def test_half_precision_variants_are_found(models: Path, tmp_path: Path, images: Tensor) -> None:
    folder = shutil.copytree(models / "sd", tmp_path / "fp16")
    for file in folder.glob("*/*.safetensors"):
        state = {name: value.half() if value.is_floating_point() else value
                 for name, value in load_file(file).items()}  # fmt: skip
        save_file(state, file.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})
        file.unlink()
    views = make(models, model=str(folder)).generate(images[:2], IDS[:2], SEEDS[:2])
    expected = make(models).generate(images[:2], IDS[:2], SEEDS[:2])
    assert int((views.images.int() - expected.images.int()).abs().max()) <= 4


def test_hub_names_and_extras(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="--model: someone/sd is no folder here, and the Hug"):
        make(models, model="someone/sd")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match=r'--captioner: transformers .*generate\]"'):
        make(models)


def test_models_without_their_words_are_refused(models: Path, tmp_path: Path) -> None:
    """Libraries make a tokenizer of special tokens alone where its files are not there."""
    git = shutil.copytree(models / "git", tmp_path / "git")
    for file in (*git.glob("vocab*"), *git.glob("tokenizer.json")):
        file.unlink()
    sd = shutil.copytree(models / "sd", tmp_path / "sd")
    for file in (sd / "tokenizer").iterdir():
        file.unlink()
    for given in ({"captioner": str(git)}, {"model": str(sd)}):
        with pytest.raises(CheckpointError, match=r"knows no word|cannot be loaded") as caught:
            make(models, **given)
        assert str(caught.value).startswith(f"--{next(iter(given))}: ")
        assert "\n" not in str(caught.value)


def test_presets_name_options_that_are_there() -> None:
    from ssgear.config.options import options_of
    from ssgear.config.values import from_words
    from ssgear.views.jobs.options import Generation

    found = registry.presets("views")
    assert {"sd2-caption-tiny-imagenet", "sd-image-unclip"} <= set(found)
    for preset in found.values():
        kind = registry.load("views", str(preset["generator"]))
        options = {**options_of(Generation), **options_of(kind.Config)}
        for key, value in preset.items():
            assert from_words([str(value)], options[key].type, key) == value
    own = {field.name for field in dataclasses.fields(SD2Caption.Config)}
    assert not own & {field.name for field in dataclasses.fields(Generation)}
