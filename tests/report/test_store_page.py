"""The contact sheet of a store: which images stand where, in the page and in the picture."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssgear.config.schema import DataConfig
from ssgear.data.sources import open_source
from ssgear.errors import DataError
from ssgear.report import store_rows
from ssgear.report.store_page import write_preview
from ssgear.report.store_rows import look
from ssgear.storage.store_marker import Failed
from ssgear.storage.store_writer import Sample, create
from ssgear.storage.view_store import StoreInfo, source_id
from tests.data.view_stores import folder, names_of, noise, samples, view_of, write

Ssgear = Callable[..., Any]
EVIL = '"><script>alert(1)</script>{{ 7 * 7 }}'


def store(root: Path, images: Path, *, num_views: int = 2, up: int | None = None) -> Path:
    """Views of five images, shards of three; image 1 has failed at k = 1, shard 2 is not there."""
    names = names_of(images)
    made = {(e.id, e.k): e for e in samples(names, range(num_views), 16, up, images)}
    settings = {"images": len(names), "source": "folder", "generator": "x", "seed": 5}
    info = StoreInfo(
        count=num_views * len(names), shard_size=3, encoding="webp", size=16, settings=settings
    )
    writer = create(root, info)
    for shard in (0, 1, 3):
        entries: list[Sample | Failed] = []
        for item in info.items_of(shard):
            k, name = item // len(names), names[item % len(names)]
            view = made[source_id(name), k]
            view = replace(view, metadata={**view.metadata, "prompt": f"{EVIL} {k}", "seed": item})
            bad = Failed(id=view.id, k=k, seed=item, reason="it is dark")
            entries.append(bad if (name, k) == (names[0], 1) else view)
            if k == 0 and up:
                entries.append(made[view.id, "up"])
        writer.write_shard(shard, entries)
    return root


def pictures(page: str) -> list[np.ndarray[Any, Any]]:
    uris = re.findall(r'<img src="data:image/png;base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri)))) for uri in uris]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return folder(tmp_path / "images", 5)


def test_sources_and_views_stand_beside_each_other(images: Path, tmp_path: Path) -> None:
    root = store(tmp_path / "store", images)
    page = write_preview(root, open_source(DataConfig(path=images, test_share=0.0), "train"))
    text, names = page.read_text(), names_of(images)
    wanted = []
    for number, name in enumerate(names):
        wanted.append(noise(int(Path(name).stem)))
        wanted += [view_of(name, k, 16) for k in (0, 1) if 5 * k + number in (0, 1, 2, 3, 4, 9)]
    found = pictures(text)
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    assert text.count("it is dark") == 2, "beside the view, and in the list"
    assert text.count('<div class="none">failed</div>') == 1
    assert text.count("not made yet</div>") == 3
    assert text.count("<small>seed 9</small>") == 1
    assert (
        "<script" not in text and "7 * 7" in text and "http" not in text.replace("http-equiv", "")
    )
    with Image.open(root / "preview.png") as sheet:
        assert sheet.size[0] > sheet.size[1]
        tile = np.asarray(sheet)[6:134, 6:134]
    np.testing.assert_array_equal(tile[::8, ::8], noise(int(Path(names[0]).stem)))


def test_upscaled_originals_stand_in_for_the_sources(images: Path, tmp_path: Path) -> None:
    seen = look(store(tmp_path / "store", images, up=32))
    assert seen.upscaled == 5 and seen.there == 6 and seen.missing == 3
    assert seen.failed == {"it is dark": 1}
    for row in seen.rows:
        assert row.source is not None and row.name in names_of(images)
        np.testing.assert_array_equal(row.source, view_of(row.name, "up", 32))
    assert [[view.state for view in row.views] for row in seen.rows] == [
        ["there", "failed"], *[["there", "missing"]] * 3, ["there", "there"],
    ]  # fmt: skip


def test_a_few_are_shown_of_many(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_rows, "SOURCES", 3)
    monkeypatch.setattr(store_rows, "VIEWS", 1)
    seen = look(store(tmp_path / "store", images))
    names = names_of(images)
    assert [row.name for row in seen.rows] == [names[0], names[2], names[4]]
    assert [[view.k for view in row.views] for row in seen.rows] == [[0]] * 3
    assert seen.num_views == 2 and all(row.source is None for row in seen.rows)


def test_a_store_of_noise_has_views_alone(run_ssgear: Ssgear, tmp_path: Path) -> None:
    words = ("--generator", "tests.views.stand_ins:Quick", "--count", 9, "--output", tmp_path / "s")
    assert run_ssgear("generate", *words).status == 0
    done = run_ssgear("generate", "--preview", tmp_path / "s")
    assert (done.status, done.err) == (0, "")
    page = Path(done.out.splitlines()[-1])
    assert page == tmp_path / "s" / "preview.html"
    assert len(pictures(page.read_text())) == 9 and "k = 0" not in page.read_text()
    assert run_ssgear("generate", *words).status == 0, "a preview in it does no harm"


def test_other_images_are_refused(run_ssgear: Ssgear, images: Path, tmp_path: Path) -> None:
    root = store(tmp_path / "store", images)
    strangers = folder(tmp_path / "strangers", 40) / "b"

    def refusal(path: Path) -> str:
        done = run_ssgear(
            "generate", "--preview", root, "--data.path", path, "--data.test-share", 0
        )
        assert (
            done.status == 2 and done.err.count("\n") == 1 and not (root / "preview.png").exists()
        )
        return str(done.complaint)

    assert "--data.path: none of these images is one that the views" in refusal(strangers)
    Image.fromarray(noise(77)).save(images / "a" / "02.png")
    assert "a/02.png is not the image that the views in the store" in refusal(images)
    assert "--data.path: " in refusal(tmp_path / "nowhere")


def test_damage_and_emptiness(images: Path, tmp_path: Path) -> None:
    root = store(tmp_path / "store", images)
    path = root / "000001.tar"
    data = bytearray(path.read_bytes())
    data[512:530] = b"#" * 18
    path.write_bytes(data)
    states = [view.state for row in look(root).rows for view in row.views]
    assert states.count("failed") == 2
    info = StoreInfo(count=3, shard_size=2, encoding="jpg", size=8, settings={})
    create(tmp_path / "empty", info)
    with pytest.raises(DataError, match=r"--preview: .*empty holds no views yet"):
        look(tmp_path / "empty")
    with pytest.raises(DataError, match=r"--preview: .*none: is no view store"):
        look(tmp_path / "none")


def test_stores_of_any_settings(tmp_path: Path) -> None:
    items = [Sample(id=str(i), pixels=noise(i, size=8), metadata={"label": i}) for i in range(3)]
    rows = look(write(tmp_path / "store", items, 8)).rows
    assert [row.views[0].text for row in rows] == ["class 0", "class 1", "class 2"]
