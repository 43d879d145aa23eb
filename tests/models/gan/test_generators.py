from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ssgear.errors import ArgumentError, CheckpointError
from ssgear.models.encoders import load_encoder
from ssgear.models.gan.conditions import Condition
from ssgear.models.gan.dcgan import DCGANConfig, DCGANGenerator
from ssgear.models.gan.generators import load_generator, read_generator, save_generator
from ssgear.models.gan.sampling import Generator, sample
from ssgear.models.gan.stylegan2 import StyleGAN2Generator
from ssgear.models.gan.stylegan2_config import StyleGAN2Config

LABEL = Condition(kind="label", size=3)


def tiny(kind: str, condition: Condition | None = None, **changes: Any) -> Generator:
    condition = condition or Condition()
    torch.manual_seed(3)
    if kind == "dcgan":
        sizes = {"resolution": 8, "noise_dim": 7, "generator_width": 6, "embedding_dim": 5}
        return DCGANGenerator(DCGANConfig(**{**sizes, "condition": condition, **changes}))
    sizes = {"resolution": 8, "noise_dim": 7, "style_dim": 6, "max_width": 5, "mapping_layers": 2}
    return StyleGAN2Generator(StyleGAN2Config(**{**sizes, "condition": condition, **changes}))


@pytest.mark.parametrize("kind", ["dcgan", "stylegan2"])
@pytest.mark.parametrize("condition", [Condition(), LABEL, Condition(kind="vector", size=4)])
def test_what_is_saved_is_read_back(kind: str, condition: Condition, tmp_path: Path) -> None:
    generator = tiny(kind, condition)
    for name, buffer in generator.named_buffers():  # statistics that no fresh network has
        if name.endswith("running_var"):
            buffer.mul_(0.01)
    save_generator(generator, tmp_path / "run", extra={"step": 12})
    before = torch.get_rng_state()
    found = read_generator(tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)
    assert found.generator.config == generator.config and not found.generator.training
    assert (found.kind, found.classes, found.extra) == (kind, None, {"step": 12})
    state = found.generator.state_dict()
    assert state.keys() == generator.state_dict().keys()
    for name, value in generator.state_dict().items():
        assert torch.equal(state[name], value), name
    given = {"none": None, "label": torch.tensor([0, 2]), "vector": torch.ones(2, 4)}
    chosen = given[condition.kind]
    images = [sample(each, 2, 0, condition=chosen) for each in (generator, found.generator)]
    assert torch.equal(*images) and float(images[0].std()) > 0


def test_a_file_names_the_run_as_well_and_classes_are_kept(tmp_path: Path) -> None:
    save_generator(tiny("dcgan", LABEL), tmp_path, classes=("cat", "dog", "eel"))
    for name in ("generator.safetensors", "generator.json", ""):
        assert read_generator(tmp_path / name).classes == ("cat", "dog", "eel")
    assert isinstance(load_generator(str(tmp_path)), DCGANGenerator)
    save_generator(tiny("dcgan"), tmp_path / "none")
    digests = {read_generator(folder).digest for folder in (tmp_path, tmp_path / "none")}
    assert len(digests) == 2


def test_classes_are_as_many_as_labels(tmp_path: Path) -> None:
    for condition in (LABEL, Condition(), Condition(kind="vector", size=2)):
        with pytest.raises(ArgumentError, match=r"2 names, but the generator has [03] labels"):
            save_generator(tiny("dcgan", condition), tmp_path, classes=("cat", "dog"))
    assert not list(tmp_path.iterdir())


def edit(**changes: object) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        file = run / "generator.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return change


def set_config(**changes: object) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        config = json.loads((run / "generator.json").read_text())["config"]
        edit(config={**config, **changes})(run)

    return change


def drop(key: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        fields = json.loads((run / "generator.json").read_text())
        fields["config"].pop(key)
        (run / "generator.json").write_text(json.dumps(fields))

    return change


def cut(run: Path) -> None:
    file = run / "generator.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def other_weights(run: Path) -> None:
    save_generator(tiny("dcgan", noise_dim=8), run / "other")
    shutil.copy(run / "other" / "generator.safetensors", run / "generator.safetensors")


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no run": (shutil.rmtree, "there is no such run or file; .*generator.safetensors"),
    "no weights": (lambda run: (run / "generator.safetensors").unlink(), "no such file; expected"),
    "no description": (lambda run: (run / "generator.json").unlink(), "belongs to the weights"),
    "truncated": (cut, "truncated or not a safetensors"),
    "pickle": (lambda run: torch.save({}, run / "generator.safetensors"), "truncated or not"),
    "no json": (lambda run: (run / "generator.json").write_text("{"), "cannot be read as JSON"),
    "later format": (edit(format=2), "format 2 is not one"),
    "other weights": (other_weights, "describes other weights"),
    "kind": (edit(kind="dcgna"), r"kind is 'dcgna' \(did you mean dcgan\?\)"),
    "kind of another type": (edit(kind=["dcgan"]), "known: dcgan, stylegan2"),
    "other kind": (edit(kind="stylegan2"), "config.condition_layers is missing"),
    "no config": (edit(config=None), "a setting is missing or wrong"),
    "a field less": (drop("noise_dim"), "config.noise_dim is missing"),
    "a field more": (set_config(nosie=1), "config.nosie is not known"),
    "text for a number": (set_config(resolution="8"), "config.resolution: '8' is not a whole"),
    "odd norm": (set_config(generator_norm="bacth"), "did you mean batch"),
    "odd side": (set_config(resolution=24), "resolution 24, expected one of"),
    "too large": (set_config(max_width=10**8, generator_width=10**8), "does not fit a dcgan of 8"),
    "condition": (set_config(condition={"kind": "label", "size": 2}), "embed.weight is missing"),
    "half a condition": (set_config(condition={"kind": "label"}), "condition.size is missing"),
    "classes": (edit(classes=["cat"]), "classes are 1, the labels 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(case: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    save_generator(tiny("dcgan"), run)
    damage, message = BAD[case]
    damage(run)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_generator(run)
    assert "\n" not in str(caught.value) and str(run) in str(caught.value)


def test_an_encoder_is_no_generator(tmp_path: Path) -> None:
    save_generator(tiny("dcgan"), tmp_path)
    with pytest.raises(CheckpointError, match="a setting is missing or wrong: 'model'"):
        load_encoder(tmp_path / "generator.safetensors")
