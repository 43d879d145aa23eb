"""Exported parts against eager, engines that are wrong, and what is kept between runs."""

from __future__ import annotations

import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.view_models import drawn
from ssgear.errors import ConfigError, MissingDependencyError
from ssgear.views.compile import compile as _compile
from ssgear.views.compile import engines as _engines
from ssgear.views.compile import onnx as _onnx
from ssgear.views.compile.compile import compile_pipeline
from ssgear.views.compile.parts import check, differs, parts_of
from tests.views.toy_pipeline import toy_pipeline

CPU = torch.device("cpu")
BOTH = {"unet": "onnx", "vae_decoder": "onnx"}


def compiled(pipe: Any, mode: str = "onnx", **options: Any) -> tuple[dict[str, str], list[str]]:
    """Compile a pipeline of 2 images of 12 x 16 pixels; return what is used, and the notices."""
    told: list[str] = []

    def example() -> None:
        for part in parts_of(pipe):
            part.run(drawn(pipe, part, 2, 12, 16))

    settings = {"device": CPU, "example": example, **options}
    used = compile_pipeline(pipe, mode=mode, notice=told.append, **settings)
    return used, told


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy pipeline's graphs, exported once: exporting takes seconds."""
    folder = tmp_path_factory.mktemp("graphs")
    pipe = toy_pipeline()
    for part in parts_of(pipe):
        (folder / part.name).mkdir()
        _onnx.export(part, drawn(pipe, part, 2, 12, 16), folder / part.name)
    return folder


@pytest.fixture
def exports(graphs: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the toy pipeline's parts that are exported from now on."""
    names: list[str] = []

    def export(part: Any, inputs: Any, folder: Path) -> None:
        names.append(part.name)
        for file in (graphs / part.name).iterdir():
            shutil.copy(file, folder)

    monkeypatch.setattr(_onnx, "export", export)
    return names


@pytest.fixture(scope="module")
def diffusion() -> Any:
    """A Stable Diffusion 2 pipeline of two narrow levels."""
    diffusers = pytest.importorskip("diffusers")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = diffusers.UNet2DConditionModel(
            sample_size=8,
            layers_per_block=1,
            block_out_channels=(8, 16),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=(2, 2),
            norm_num_groups=4,
            use_linear_projection=True,
        )
        vae = diffusers.AutoencoderKL(
            block_out_channels=(8,),
            latent_channels=4,
            norm_num_groups=4,
            layers_per_block=1,
        )
    pipe = diffusers.StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=None,
        tokenizer=None,
        unet=unet.eval(),
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pictures(pipe: Any, seed: int, rows: int = 2) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    words = torch.randn(rows, 5, 16, generator=generator)
    made: np.ndarray = pipe(
        prompt_embeds=words,
        negative_prompt_embeds=-words,
        num_inference_steps=2,
        height=8,
        width=16,
        output_type="np",
        generator=generator,
    ).images
    return made


def test_a_diffusion_pipeline_on_onnxruntime_is_that_of_eager(diffusion: Any) -> None:
    unet = diffusion.unet
    call = {
        "sample": torch.randn(4, 4, 8, 16, generator=torch.Generator().manual_seed(3)),
        "timestep": torch.tensor(417),
        "encoder_hidden_states": torch.randn(4, 5, 16),
    }
    eager_images = [pictures(diffusion, seed) for seed in (1, 2)]
    with torch.no_grad():
        eager = unet(**call).sample
    used, told = compiled(diffusion, example=lambda: pictures(diffusion, 0))
    assert used == BOTH and not told
    made = unet(**call)
    assert (made.sample - eager).abs().max() < 1e-4
    assert torch.equal(unet(**call, return_dict=False)[0], made.sample)
    for seed, expected in zip((1, 2), eager_images, strict=True):
        assert np.abs(pictures(diffusion, seed) - expected).max() < 1e-4
    with torch.no_grad():  # three rows, a batch that was cut: eager
        few = unet(call["sample"][:3], 417, call["encoder_hidden_states"][:3]).sample
    assert (few - eager[:3]).abs().max() < 1e-5
    assert len(told) == 1 and "unet was called with other shapes" in told[0]


def test_inputs_that_are_drawn() -> None:
    pipe = toy_pipeline()
    shapes = [
        {name: tuple(value.shape) for name, value in drawn(pipe, part, 2, 12, 16).items()}
        for part in parts_of(pipe)
    ]
    words = {"encoder_hidden_states": (4, 1, 6), "timestep": (4,)}
    assert shapes == [{"sample": (4, 4, 6, 8), **words}, {"sample": (2, 4, 6, 8)}]
    pipe.vae.use_slicing = True
    assert drawn(pipe, parts_of(pipe)[1], 2, 12, 16)["sample"].shape[0] == 1


@pytest.mark.usefixtures("exports")
def test_other_shapes_and_arguments_go_to_eager_and_are_told_once() -> None:
    pipe = toy_pipeline()
    used, told = compiled(pipe)
    assert used == BOTH and not told
    sample, words = torch.randn(3, 4, 6, 8), torch.randn(3, 1, 6)
    expected = type(pipe.unet).forward(pipe.unet, sample, 3, words)[0]
    for _ in range(2):
        assert torch.equal(pipe.unet(sample, 3, words, return_dict=False)[0], expected)
    assert len(told) == 1 and "unet was called with other shapes" in told[0]
    four, more = torch.randn(4, 4, 6, 8), torch.randn(4, 1, 6)
    masked = pipe.unet(four, 3, more, attention_mask=torch.ones(4), return_dict=False)[0]
    assert torch.equal(masked, type(pipe.unet).forward(pipe.unet, four, 3, more)[0])


@pytest.mark.usefixtures("exports")
def test_channels_last_is_the_same() -> None:
    pipe = toy_pipeline()
    part = parts_of(pipe)[1]
    inputs = drawn(pipe, part, 2, 12, 16)
    expected = part.run(inputs)
    latents = inputs["sample"].contiguous(memory_format=torch.channels_last)
    used, told = compiled(pipe, example=lambda: (pipe.unet(**words(4)), pipe.vae.decoder(latents)))
    assert used == BOTH and not told
    assert (pipe.vae.decoder(latents) - expected).abs().max() < 1e-5


def words(rows: int) -> dict[str, Tensor]:
    """Arguments of a call of the toy UNet."""
    generator = torch.Generator().manual_seed(4)
    return {
        "sample": torch.randn(rows, 4, 6, 8, generator=generator),
        "timestep": torch.tensor(5),
        "encoder_hidden_states": torch.randn(rows, 1, 6, generator=generator),
    }


def test_a_second_start_takes_what_was_kept(exports: list[str]) -> None:
    assert compiled(toy_pipeline()) == (BOTH, [])
    assert exports == ["unet", "vae_decoder"]
    assert compiled(toy_pipeline()) == (BOTH, [])
    assert exports == ["unet", "vae_decoder"]


@pytest.mark.parametrize("what", ["weights", "shapes", "versions", "code"])
def test_what_an_engine_depends_on(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(pipe: Any, rows: int = 2) -> str:
        part = parts_of(pipe)[0]
        return _engines.key_of(_compile._facts(part, drawn(pipe, part, rows, 12, 16), "onnx"))

    pipe = toy_pipeline()
    before = key(pipe)
    assert before == key(toy_pipeline())
    if what == "weights":
        with torch.no_grad():
            pipe.unet.out.bias[0] += 1e-6
    elif what == "versions":
        monkeypatch.setattr(_compile, "_version", lambda package: "0.0")
    elif what == "code":
        pipe.unet.into.forward = pipe.unet.out.forward
    assert key(pipe, 3 if what == "shapes" else 2) != before


def kept() -> list[Path]:
    return sorted(path for path in _engines.folder().iterdir() if path.is_dir())


def spoil(engine: Path, *, sealed: bool) -> None:
    """Change a weight of a kept graph; `sealed`: its list of digests agrees all the same."""
    data = engine / "model.onnx.data"
    weights = np.fromfile(data, dtype=np.float32)
    weights[np.abs(weights).argmax()] += 3
    weights.tofile(data)
    if sealed:
        _engines.seal(engine, engine.name)


@pytest.mark.parametrize("sealed", [True, False])
def test_a_kept_engine_that_is_wrong_is_caught_and_made_again(
    sealed: bool, exports: list[str]
) -> None:
    pipe = toy_pipeline()
    part = parts_of(pipe)[0]
    inputs = drawn(pipe, part, 2, 12, 16)
    compiled(pipe)
    for engine in kept():
        spoil(engine, sealed=sealed)
    fresh = toy_pipeline()
    used, told = compiled(fresh)
    assert used == BOTH and exports == ["unet", "vae_decoder"] * 2
    assert [("differs from eager by" in line) for line in told] == ([True, True] if sealed else [])
    made = fresh.unet(**inputs, return_dict=False)[0]
    assert (made - part.run(inputs)).abs().max() < 1e-5


WRONG: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "nan": (lambda made: torch.where(made > made.median(), torch.nan, made), "not finite (50 %"),
    "black": (torch.zeros_like, "an even field (it varies by 0,"),
    "biased": (lambda made: made + 0.1 * made.std(), "differs from eager by 0.1"),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.usefixtures("exports")
def test_an_engine_that_gives_something_else_is_refused_with_the_figure(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong, figure = WRONG[kind]
    real = _onnx.Session.run
    monkeypatch.setattr(_onnx.Session, "run", lambda self, inputs: wrong(real(self, inputs)))
    pipe = toy_pipeline()
    used, told = compiled(pipe)
    assert used == {"unet": "none", "vae_decoder": "none"}
    assert len(told) == 2 and all(figure[:20] in line for line in told), told
    assert "onnx is not used for the unet" in told[0] and told[0].endswith("eager instead")
    assert "forward" not in vars(pipe.unet) and not kept()


@pytest.mark.usefixtures("exports")
def test_a_session_that_repeats_its_first_answer_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, first = _onnx.Session.run, {}

    def run(self: _onnx.Session, inputs: Any) -> Tensor:
        return first.setdefault(id(self), real(self, inputs))

    monkeypatch.setattr(_onnx.Session, "run", run)
    assert compiled(toy_pipeline())[0] == {"unet": "none", "vae_decoder": "none"}


def test_a_form_that_changes_its_mind_is_refused() -> None:
    pipe = toy_pipeline()
    part = parts_of(pipe)[0]
    inputs = drawn(pipe, part, 2, 12, 16)
    assert check(part, part.run, inputs) is None
    calls: list[int] = []

    def run(given: Any) -> Tensor:
        calls.append(1)
        return part.run(given) * (1.1 if len(calls) == 3 else 1)

    assert "called again with the same inputs, it differs" in (check(part, run, inputs) or "")


def test_half_precision_has_a_wider_bound() -> None:
    eager = torch.randn(50, generator=torch.Generator().manual_seed(0))
    assert differs(eager, eager * 1.01) is not None
    assert differs(eager.half(), eager.half() * 1.01) is None
    assert "gives values that are not" in (differs(eager * torch.nan, eager) or "")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_graph_has_the_precision_of_the_weights_in_every_node(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    pipe = toy_pipeline()
    pipe.unet.to(dtype)
    part = parts_of(pipe)[0]
    inputs = drawn(pipe, part, 2, 12, 16)
    _onnx.export(part, inputs, tmp_path)
    graph = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph
    half = {"float16": onnx.TensorProto.FLOAT16, "bfloat16": onnx.TensorProto.BFLOAT16}
    wanted = half[str(dtype).removeprefix("torch.")]
    weights = {each.name: each.data_type for each in graph.initializer if "module" in each.name}
    assert len(weights) >= 5 and set(weights.values()) == {wanted}
    assert graph.output[0].type.tensor_type.elem_type == wanted
    onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)
    if dtype == torch.bfloat16:
        return  # onnxruntime has no convolution of bfloat16 for CPUs
    with torch.no_grad():
        expected = part.run(inputs)
    session = _onnx.Session(tmp_path, inputs, expected, "onnx")
    assert differs(expected, session.run(inputs)) is None


@pytest.mark.usefixtures("exports")
def test_engines_are_private(tmp_path: Path) -> None:
    compiled(toy_pipeline())
    for path in (_engines.folder(), *kept()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    files = [file for engine in kept() for file in engine.iterdir()]
    assert files and all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    key = kept()[0].name
    assert _engines.find(key) == kept()[0]
    kept()[0].chmod(0o755)
    assert _engines.find(key) is None
    kept()[0].chmod(0o700)
    elsewhere = kept()[0].rename(tmp_path / key)
    (_engines.folder() / key).symlink_to(elsewhere)
    assert _engines.find(key) is None


def test_a_cache_that_cannot_be_written_costs_only_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exports: list[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    assert [compiled(toy_pipeline()) for _ in range(2)] == [(BOTH, [])] * 2
    assert len(exports) == 4
    assert not list((tmp_path / "temporary").glob("ssgear-engine-*"))


def test_a_build_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def export(part: Any, inputs: Any, folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("No space left on device")

    monkeypatch.setattr(_onnx, "export", export)
    used, told = compiled(toy_pipeline())
    assert used["unet"] == "none" and "it failed: No space left on device; eager" in told[0]
    assert list(_engines.folder().iterdir()) == []


def test_a_compiled_module_that_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_wrongly(forward: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        assert options == {"dynamic": False}

        def call(*args: Any, **given: Any) -> Any:
            made = forward(*args, **given)
            return (made[0] * 2,) if isinstance(made, tuple) else made * 2

        return call

    monkeypatch.setattr(torch, "compile", compile_wrongly)
    pipe = toy_pipeline()
    inputs = drawn(pipe, parts_of(pipe)[0], 2, 12, 16)
    expected = pipe.unet(**inputs)[0]
    used, told = compiled(pipe, "inductor")
    assert used == {"unet": "none", "vae_decoder": "none"} and "differs from eager by 1 " in told[0]
    assert torch.equal(pipe.unet(**inputs)[0], expected)


@pytest.mark.slow
def test_torch_compile_is_taken_where_it_is_right() -> None:
    pipe = toy_pipeline()
    inputs = drawn(pipe, parts_of(pipe)[0], 2, 12, 16)
    expected = pipe.unet(**inputs)[0]
    used, told = compiled(pipe, "inductor")
    assert used == {"unet": "inductor", "vae_decoder": "inductor"} and not told
    assert (pipe.unet(**inputs, return_dict=False)[0] - expected).abs().max() < 1e-5


def test_modes_and_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    told: list[str] = []
    assert _compile._choices("auto", CPU, told.append) == () and not told
    assert _compile._choices("none", cuda, told.append) == () and not told
    with pytest.raises(ConfigError, match="tensorrt needs an NVIDIA GPU"):
        _compile._choices("tensorrt", CPU, told.append)
    with pytest.raises(ConfigError, match="onnx runs on the CPU"):
        _compile._choices("onnx", cuda, told.append)
    monkeypatch.setattr(_onnx, "missing", lambda how: "No module named 'onnxruntime'")
    assert _compile._choices("auto", cuda, told.append) == ("inductor",)
    assert len(told) == 1 and 'pip install "ssgear[tensorrt]"' in told[0]
    with pytest.raises(MissingDependencyError, match=r"--compile: tensorrt: No module.*\[tensorrt"):
        _compile._choices("tensorrt", cuda, told.append)
    monkeypatch.setattr(_onnx, "missing", lambda how: None)
    assert _compile._choices("auto", cuda, told.append) == ("tensorrt", "inductor")
