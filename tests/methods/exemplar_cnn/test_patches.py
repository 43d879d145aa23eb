"""Seed patches by hand on a fixed image, their draw against numpy, windows against numpy.pad."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from ssgear.data.sources.names import Names
from ssgear.data.sources.readers import ArrayReader, FolderReader
from ssgear.data.sources.source import Images, Source
from ssgear.methods.exemplar_cnn.patches import (
    candidates,
    cut_window,
    draw_patches,
    gradient_energy,
    patch_source,
)


def source_of(pixels: np.ndarray) -> Source:
    return Source(
        "drawn", Images(reader=ArrayReader("drawn", pixels)), mean=(0.5,) * 3, std=(1,) * 3
    )


def noise(count: int, side: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3, side, side), dtype=np.uint8)


def test_energy_by_hand() -> None:
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    image[0, :, 2:] = 255  # one channel steps up between the second and the third column
    expected = torch.tensor([0, 0.25, 0.25, 0], dtype=torch.float64).expand(4, 4) / 3
    assert torch.equal(gradient_energy(image), expected)


def test_energy_against_numpy() -> None:
    image = noise(1, 9)[0]
    down, right = np.gradient(image.astype(np.float64) / 255, axis=(1, 2))
    expected = (down**2 + right**2).mean(0)
    np.testing.assert_allclose(gradient_energy(torch.from_numpy(image)).numpy(), expected)


def test_candidates_lie_half_a_side_apart_and_have_some_gradient() -> None:
    image = torch.zeros(3, 8, 10, dtype=torch.uint8)
    image[:, 7, 9] = 255  # steps into its column at 6 and its row at 8, half of it each
    places, energy = candidates(image, 4)
    assert places.tolist() == [[4, 6]]
    # the corner has one-sided differences of 1 both ways, the pixels beside it central ones of 1/2
    assert energy.tolist() == pytest.approx([(1 + 1 + 0.25 + 0.25) / 16])
    assert len(candidates(image, 9)[0]) == 0


def test_the_draw_is_in_proportion_to_the_energy() -> None:
    pixels = np.zeros((1, 3, 8, 16), dtype=np.uint8)
    pixels[:, :, :, :8] = noise(1, 8)[0] // 4
    pixels[:, :, :, 8:] = noise(1, 8, 1)[0] // 2
    places, energy = candidates(torch.from_numpy(pixels[0]), 8)
    assert places[:, 1].tolist() == [0, 4, 8]
    found = [
        int(draw_patches(source_of(pixels), 1, side=8, seed=seed).rows[0, 2]) for seed in range(600)
    ]
    counts = [found.count(left) for left in (0, 4, 8)]
    expected = (energy / energy.sum() * 600).tolist()
    assert stats.chisquare(counts, expected).pvalue > 1e-4


def test_every_image_gives_one_before_any_gives_two() -> None:
    source = source_of(noise(5, 16))
    few = draw_patches(source, 3, side=8, seed=0)
    assert len(set(few.rows[:, 0].tolist())) == 3
    more = draw_patches(source, 12, side=8, seed=0)
    assert sorted(more.rows[:5, 0].tolist()) == [0, 1, 2, 3, 4]
    assert sorted(more.rows[5:10, 0].tolist()) == [0, 1, 2, 3, 4]
    assert len({tuple(row) for row in more.rows.tolist()}) == 12
    assert torch.equal(few.rows, more.rows[:3])
    assert not torch.equal(draw_patches(source, 3, side=8, seed=1).rows, few.rows)


def test_no_more_than_there_are_and_none_of_flat_images() -> None:
    pixels = noise(4, 16)
    pixels[2] = 7
    places = draw_patches(source_of(pixels), 100, side=8, seed=0)
    assert (len(places.rows), places.available) == (27, 27)
    assert 2 not in places.rows[:, 0]
    assert draw_patches(source_of(pixels[2:3]), 2, side=8, seed=0).available == 0


def test_windows_are_those_of_a_padded_image() -> None:
    image = noise(1, 6)[0, :, :, :5]
    padded = np.pad(image, ((0, 0), (9, 9), (9, 9)), mode="symmetric")
    for top, left in ((-9, -4), (0, 0), (3, 2), (-2, 4)):
        window = cut_window(torch.from_numpy(image), top, left, 8)
        assert np.array_equal(window.numpy(), padded[:, 9 + top : 17 + top, 9 + left : 17 + left])


def test_patches_are_the_middles_of_their_windows() -> None:
    pixels = noise(3, 16)
    places = draw_patches(source_of(pixels), 7, side=8, seed=0)
    patches = patch_source(source_of(pixels), places, side=8, window=14)
    assert len(patches) == 7
    assert patches.native_size == 14
    assert patches.labels is not None and patches.labels.tolist() == list(range(7))
    for number, (index, top, left) in enumerate(places.rows.tolist()):
        middle = patches.decode(number)[:, 3:11, 3:11]
        assert np.array_equal(middle.numpy(), pixels[index, :, top : top + 8, left : left + 8])


def test_files_that_cannot_be_read_are_named_and_left_out(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(3)]
    for name, pixels in zip(names, noise(3, 8), strict=True):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / name)
    (tmp_path / "1.png").write_bytes(b"no picture")
    reader = FolderReader(tmp_path, Names(names))
    source = Source("folder", Images(reader=reader), mean=(0.5,) * 3, std=(1.0,) * 3)
    places = draw_patches(source, 3, side=8, seed=0)
    assert sorted(places.rows[:, 0].tolist()) == [0, 2]
    assert [Path(bad.where).name for bad in places.bad] == ["1.png"]
    assert patch_source(source, places, side=8, window=8).bad == places.bad
