"""The command that fills a store, on a generator of random weights."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssgear import generate, registry
from ssgear.config.schema import DataConfig, ViewsConfig
from ssgear.data.order.stored_views import open_stored
from ssgear.data.sources import open_source
from ssgear.kernels import philox
from ssgear.models.encoders.encoder import read_encoder, save_encoder
from ssgear.models.gan.conditions import Condition
from ssgear.models.gan.dcgan import DCGANConfig, DCGANGenerator
from ssgear.models.gan.generators import load_generator, save_generator
from ssgear.storage.view_store import ViewStore, source_id
from tests.methods.gan import SIDE, build

Ssgear = Callable[..., Any]
SMALL = ("--shard-size", 7, "--batch-size", 4)


def tiny_run(folder: Path, seed: int = 0, size: int = 8) -> Path:
    torch.manual_seed(seed)
    condition = Condition(kind="label", size=3)
    config = DCGANConfig(resolution=size, noise_dim=7, generator_width=6, condition=condition)
    generator = DCGANGenerator(config)
    generator.train()(torch.randn(64, 7), torch.arange(64) % 3)  # batch statistics
    save_generator(generator, folder, classes=("cat", "dog", "eel"))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("gan") / "run")


def contents(store: Path) -> dict[str, bytes]:
    """Everything but what tells of time."""
    telling = ("metrics.jsonl", "preview.jpg")
    return {path.name: path.read_bytes() for path in store.iterdir() if path.name not in telling}


def test_a_store_is_filled_and_its_path_printed(
    run_ssgear: Ssgear, run: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    done = run_ssgear("generate", "--run", run, "--count", 20, "--output", store, "--seed", 3)
    assert (done.status, done.out.splitlines()[-1]) == (0, str(store))
    opened = ViewStore(store)
    fields = [opened.metadata(item) for item in range(20)]
    assert [each["label"] for each in fields] == [i % 3 for i in range(20)]
    assert [each["id"] for each in fields] == [f"{i:09d}" for i in range(20)]
    assert {each["generator"] for each in fields} == {"gan"}
    assert len({each["seed"] for each in fields}) == 20
    assert opened.info.settings["classes"] == ["cat", "dog", "eel"]
    pictures = [np.asarray(Image.open(io.BytesIO(opened.encoded(i)))) for i in range(20)]
    assert len({picture.tobytes() for picture in pictures}) == 20
    assert run_ssgear("generate", "--verify", "--output", store).status == 0


def test_more_later_equals_more_at_once(run_ssgear: Ssgear, run: Path, tmp_path: Path) -> None:
    def fill(store: str, count: int) -> Any:
        options = ("--run", run, "--output", tmp_path / store, *SMALL)
        return run_ssgear("generate", "--count", count, *options)

    for count in (3, 10, 24):  # no multiple of a block or a shard
        assert fill("grown", count).status == 0
    fill("whole", 24)
    whole = contents(tmp_path / "whole")
    assert contents(tmp_path / "grown") == whole and len(whole) == 9
    (tmp_path / "grown" / "000001.tar").unlink()
    assert "17 of 24 images are there" in fill("grown", 5).err
    assert contents(tmp_path / "grown") == whole
    assert "all 24 images are there" in fill("grown", 24).err


def test_other_settings_are_refused_by_name(run_ssgear: Ssgear, run: Path, tmp_path: Path) -> None:
    options = ("--count", 5, "--output", tmp_path / "store")
    run_ssgear("generate", "--run", run, *options)
    other = tiny_run(tmp_path / "other", seed=1)
    for change, said in {
        ("--run", run, "--seed", 1): "seed (0, now 1)",
        ("--run", run, "--batch-size", 8): "batch_size (100, now 8)",
        ("--run", run, "--format", "jpg"): "encoding (webp, now jpg)",
        ("--run", other): "model (",
    }.items():
        done = run_ssgear("generate", *change, *options)
        assert done.status == 2 and f"made with other settings: {said}" in done.complaint


MISTAKES = {
    "--run RUN --output x": "--count: say how many images the store is to hold",
    "--run RUN --count 5": "--output: name the directory of the store",
    "--count 5 --output x": "--run: name the run whose generator draws the images",
    "--run RUN --count 0 --output x": "--count: 0 is not possible; use at least 1",
    "--run RUN --count 5 --output x --batch-size 0": "--batch-size: 0 is not possible",
    "--run RUN --count 5 --output x --seed -1": "--seed: -1 is not possible",
    "--run RUN --count 5 --output x --data.augmentation simclr": "--data.augmentation: means "
    "nothing here, images are read as they are, as squares of the model's own size; leave it away",
    "--run RUN --count 5 --output x --data.size 32": "--data.size: means nothing here",
    "--run RUN --count 5 --output x --workers 0": "--workers: 0 is not possible; use at least 1",
    "--run RUN --count 5 --output x --shard 0/8": "--shard: 0/8 is not possible; use 1/8 to 8/8",
    "--run RUN --count 5 --output x --shard 9/8": "--shard: 9/8 is not possible; use 1/8 to 8/8",
    "--run RUN --count 5 --output x --shard 3": "--shard: 3 is not possible; use 1/8 to 8/8",
    "--verify x": "--output: x: is no view store",
    "--run RUN --count 5 --output x --truncation 0.7": "--truncation: 0.7: a dcgan has no styles",
    "--run RUN --count 5 --output x --generator gna": "--generator: unknown generator 'gna' "
    "(did you mean gan?); known: gan",
    "--run RUN --cuont 5": "--cuont: unknown option (did you mean --count?)",
    "--run RUN --zzz": "--zzz: unknown option; --help lists every option",
    "--run nowhere --count 5 --output x": "nowhere: there is no such run or file",
    "--verify --output x": "--output: x: is no view store",
    "--run RUN --count 5 --output RUN": "holds other files (generator.json) and no store.json",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes_are_one_line(words: str, run_ssgear: Ssgear, run: Path) -> None:
    done = run_ssgear("generate", *(run if word == "RUN" else word for word in words.split()))
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("ssgear: ") and done.err.count("\n") == 1
    assert MISTAKES[words] in done.err
    assert not Path("x").exists()


def test_verify_names_what_is_damaged(run_ssgear: Ssgear, run: Path, tmp_path: Path) -> None:
    options = ("--run", run, "--count", 20, "--output", tmp_path, *SMALL)
    run_ssgear("generate", *options)
    shard = tmp_path / "000001.tar"
    before = shard.read_bytes()
    image = ViewStore(tmp_path).encoded(9)
    shard.write_bytes(before.replace(image, b"#" * len(image), 1))
    done = run_ssgear("generate", "--verify", "--output", tmp_path)
    assert done.status == 2 and "--output: 1 damaged or missing, see above; rem" in done.complaint
    assert f"ssgear: {shard}:000000009.0.webp: the image is not" in done.err
    assert run_ssgear("generate", "--verify", tmp_path).err == done.err
    shard.unlink()
    shard.with_suffix(".json").unlink()
    done = run_ssgear("generate", "--verify", tmp_path)
    assert done.status == 2 and f"ssgear: {shard}: has not been made\n" in done.err
    run_ssgear("generate", *options)
    assert shard.read_bytes() == before


def test_help_lists_the_generators_own_options_without_torch() -> None:
    program = (
        "import sys; from ssgear.generate import main\n"
        "try: main(['--help'])\nexcept SystemExit as leaving: assert leaving.code == 0\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for option in ("--run", "--truncation", "--count", "--output", "--seed", "--shard"):
        assert f" {option} " in done.stdout


def test_store_json_says_what_it_was_made_with(
    run_ssgear: Ssgear, run: Path, tmp_path: Path
) -> None:
    run_ssgear("generate", "--run", run, "--count", 5, "--output", tmp_path / "store")
    fields = json.loads((tmp_path / "store" / "store.json").read_text())
    digest = json.loads((run / "generator.json").read_text())["weights"]["blake2b"]
    assert (fields["count"], fields["size"], fields["encoding"]) == (5, 8, "webp")
    assert fields["settings"]["model"] == digest
    assert fields["settings"]["parameters"] == {"truncation": 1.0}


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose generator is conditioned on images, and a folder of nine of these."""
    root = tmp_path_factory.mktemp("instance")
    method = build(condition="instance")
    assert method.generator is not None
    method.generator.save(root / "run", None)
    (root / "images").mkdir()
    for number in range(9):
        values = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(values).save(root / "images" / f"{number}.png")
    return root


def of_images(paired: Path, store: Path, *options: object) -> tuple[object, ...]:
    data = ("--data.path", paired / "images", "--data.test-share", 0)
    return ("generate", "--run", paired / "run", *data, "--output", store, *SMALL, *options)


def test_views_of_real_images(run_ssgear: Ssgear, paired: Path, tmp_path: Path) -> None:
    assert run_ssgear(*of_images(paired, tmp_path / "grown")).status == 0
    assert len(ViewStore(tmp_path / "grown")) == 9
    for store in ("grown", "whole"):
        assert run_ssgear(*of_images(paired, tmp_path / store, "--views", 3)).status == 0
    assert contents(tmp_path / "grown") == contents(tmp_path / "whole")
    store = ViewStore(tmp_path / "whole")
    fields = [store.metadata(item) for item in range(len(store))]
    assert [(each["id"], each["k"]) for each in fields] == [
        (source_id(f"{i}.png"), k) for k in range(3) for i in range(9)
    ]
    source = open_source(DataConfig(path=paired / "images", test_share=0.0), "train")
    stored = open_stored(ViewsConfig(store=tmp_path / "whole"), source)
    assert stored is not None and len(stored.source) == 27, "training takes them by --views.store"
    assert all("label" not in each for each in fields)
    made = np.stack([np.asarray(Image.open(io.BytesIO(store.encoded(i)))) for i in range(27)])
    assert len({picture.tobytes() for picture in made}) == 27
    wanted = by_hand(paired, [each["seed"] for each in fields])
    assert np.abs(made.astype(int) - wanted).max() <= 1
    assert store.info.settings["images"] == 9 and store.info.settings["source"] == "folder"


def by_hand(paired: Path, seeds: list[int]) -> Any:
    """Three views of each image: noise of the seed, condition of the image."""
    files = [paired / "images" / f"{number}.png" for number in range(9)]
    images = torch.stack([torch.from_numpy(np.asarray(Image.open(f)).copy()) for f in files])
    unit = images.permute(0, 3, 1, 2).float() / 255
    encoder = read_encoder(paired / "run", "instance_encoder")
    with torch.no_grad():
        condition = torch.nn.functional.normalize(encoder(unit)).repeat(3, 1)
        generator = load_generator(paired / "run")
        noise = philox.normal(philox.derive_key("gan"), torch.tensor(seeds), generator.noise_dim)
        pixels = (generator(noise, condition).clamp(-1, 1) + 1) * 127.5
    return pixels.round().permute(0, 2, 3, 1).numpy().astype(int)


def test_other_images_or_another_encoder_are_refused(
    run_ssgear: Ssgear, paired: Path, tmp_path: Path
) -> None:
    assert run_ssgear(*of_images(paired, tmp_path / "store")).status == 0
    more = tmp_path / "more"
    shutil.copytree(paired, more)
    shutil.copy(more / "images" / "3.png", more / "images" / "9.png")
    done = run_ssgear(*of_images(more, tmp_path / "store"))
    assert done.status == 2 and "made with other settings: images (9, now 10)" in done.complaint
    (more / "images" / "9.png").unlink()
    load = read_encoder(more / "run", "instance_encoder")
    with torch.no_grad():
        next(load.parameters()).add_(1)
    save_encoder(load.encoder, more / "run", mean=load.mean, std=load.std, name="instance_encoder")
    done = run_ssgear(*of_images(more, tmp_path / "store"))
    assert done.status == 2 and "instance_encoder (" in done.complaint


def test_options_of_the_other_kind_of_generator(
    run_ssgear: Ssgear, paired: Path, run: Path, tmp_path: Path
) -> None:
    done = run_ssgear(*of_images(paired, tmp_path / "store", "--count", 5))
    assert done.status == 2 and done.complaint.startswith("ssgear: --count: this generator makes")
    for option in (("--views", 2), ("--data.path", paired / "images"), ("--data.source", "mini")):
        done = run_ssgear(
            "generate", "--run", run, "--count", 5, "--output", tmp_path / "x", *option
        )
        assert done.status == 2
        assert done.complaint.startswith(f"ssgear: {option[0]}: this generator draws from noise")
    done = run_ssgear(*of_images(paired, tmp_path / "store", "--views", 0))
    assert done.complaint == "ssgear: --views: 0 is not possible; use at least 1"
    assert not (tmp_path / "store").exists() and not (tmp_path / "x").exists()


def test_help_names_every_generator_and_preset(run_ssgear: Ssgear) -> None:
    said = " ".join(run_ssgear("generate", "--help").out.replace("│", " ").split())
    for name in (*registry.names("views"), *registry.presets("views")):
        assert name in said, name


def test_a_preset_stands_below_what_is_typed() -> None:
    asked, own, _ = generate.parse(
        ["--steps", "7", "--preset", "sd_image_unclip", "--output", "x", "--model", "m"]
    )
    assert (asked.generator, asked.views, own.kind, own.guidance) == ("sd-image", 10, "unclip", 10)
    assert own.steps == 7  # the preset's 10 gives way, wherever it stands


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--preset sd-image-unclp", "--preset: unknown preset 'sd-image-unclp' (did you mean"),
        (
            "--preset sd-image-unclip --generator gan",
            "--generator: preset sd-image-unclip is of sd-image, not of gan; leave --generator",
        ),
    ],
)
def test_presets_that_do_not_fit(words: str, message: str, run_ssgear: Ssgear) -> None:
    done = run_ssgear("generate", *words.split(), "--output", "x")
    assert done.status == 2 and done.complaint.startswith(f"ssgear: {message}")
