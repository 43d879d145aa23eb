"""Philox against the published vectors, and the distributions that are made of its words."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from ssgear.kernels import native, philox

PI_COUNTER = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
PI_KEY = (0xA4093822, 0x299F31D0)
KNOWN_ANSWERS = [  # counter, key, words: the known-answer file of the authors' Random123 library
    ((0,) * 4, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (PI_COUNTER, PI_KEY, (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]


def key_of(low: int, high: int) -> int:
    return low | high << 32


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_published_vectors(counter, key, words):
    assert philox.philox4x32(key_of(*key), torch.tensor(counter)).tolist() == list(words)


def test_vectors_in_a_batch():
    """Every column of a batch is its own counter."""
    counters = torch.stack([torch.tensor(case[0]) for case in KNOWN_ANSWERS], dim=1)
    for column, (_, key, words) in enumerate(KNOWN_ANSWERS):
        drawn = philox.philox4x32(key_of(*key), counters.reshape(4, 1, -1))
        assert drawn[:, 0, column].tolist() == list(words)


def test_uniform_follows_the_documented_counter():
    """Counter words are (low, high, block, 0); a uniform is the top 24 bits of a word."""
    counter, key = (PI_COUNTER[1] << 31) | PI_COUNTER[0], key_of(*PI_KEY)
    low, high = counter & 0xFFFFFFFF, counter >> 32
    expected = [
        word >> 8
        for block in range(3)
        for word in philox.philox4x32(key, torch.tensor([low, high, block, 0])).tolist()
    ]
    drawn = philox.uniform(key, torch.tensor([counter]), 11)[0]
    assert drawn.dtype == torch.float32
    assert (drawn.double() * 2**24).tolist() == expected[:11]


def test_negative_counters_and_any_int64():
    drawn = philox.uniform(3, torch.tensor([-1, 0, 1, 2**63 - 1, -(2**63)]), 5)
    assert len(drawn.unique(dim=0)) == 5


@pytest.mark.parametrize("draw", [philox.uniform, philox.normal])
def test_rows_do_not_depend_on_each_other(draw):
    counters = torch.randint(0, 2**40, (257,), generator=torch.Generator().manual_seed(1))
    whole = draw(99, counters, 13)
    shuffled = torch.randperm(257, generator=torch.Generator().manual_seed(2))
    assert torch.equal(draw(99, counters[shuffled], 13), whole[shuffled])
    assert torch.equal(draw(99, counters[5:6], 13), whole[5:6])
    assert torch.equal(draw(99, counters, 6), whole[:, :6]), "a draw keeps its place"


def test_uniform_moments():
    drawn = philox.uniform(philox.derive_key("moments"), torch.arange(20000), 7).double()
    assert drawn.min() >= 0 and drawn.max() < 1
    assert stats.kstest(drawn.flatten()[:50000].numpy(), "uniform").pvalue > 1e-3
    error = 1 / math.sqrt(12 * 20000)
    assert (drawn.mean(0) - 0.5).abs().max() < 4 * error
    assert (drawn.T.corrcoef() - torch.eye(7)).abs().max() < 4 / math.sqrt(20000)
    following = torch.stack((drawn[:-1, 0], drawn[1:, 0])).corrcoef()[0, 1]
    assert following.abs() < 4 / math.sqrt(20000), "neighbouring counters are unrelated"


def test_normal_moments():
    drawn = philox.normal(philox.derive_key("normal"), torch.arange(20000), 5)
    assert drawn.shape == (20000, 5) and drawn.dtype == torch.float32
    assert drawn.isfinite().all()
    assert stats.kstest(drawn.flatten()[:50000].numpy(), "norm").pvalue > 1e-3
    assert (drawn.double().T.corrcoef() - torch.eye(5)).abs().max() < 4 / math.sqrt(20000)


def test_normal_is_finite_at_the_ends(monkeypatch):
    for word in (0, 2**32 - 1):
        monkeypatch.setattr(
            philox, "_words", lambda _, counters, count, w=word: torch.full((1, count), w)
        )
        assert philox.normal(0, torch.zeros(1, dtype=torch.int64), 2).isfinite().all()


def test_permutation_is_one():
    for n in (0, 1, 2, 1001):
        order = philox.permutation(5, n)
        assert order.dtype == torch.int64
        assert torch.equal(order.sort().values, torch.arange(n))
    assert not torch.equal(philox.permutation(5, 1001), philox.permutation(6, 1001))


def test_permutations_are_unbiased():
    orders = torch.stack([philox.permutation(philox.derive_key("p", k), 4) for k in range(2400)])
    _, counts = orders.unique(dim=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_keys_tell_parts_apart():
    parts = [(), ("",), ("a", "b"), ("ab",), ("b", "a"), (1, 2), (12,), ("1", 2), (-1,), (2**70,)]
    keys = {philox.derive_key(*part) for part in parts}
    assert len(keys) == len(parts)
    assert all(0 <= key < 2**64 for key in keys)


def test_keys_never_change():
    """A run that is resumed by another process, or a later version, must draw the same."""
    assert philox.derive_key(7, "order", -1) == 0x8E89AB0B27176094


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_same_bits_on_a_gpu():
    counters = torch.arange(-1000, 1000)
    for count in (1, 37):
        here = philox.uniform(12345, counters, count)
        assert torch.equal(philox.uniform(12345, counters.cuda(), count).cpu(), here)
    there = philox.normal(12345, counters.cuda(), 8).cpu()
    torch.testing.assert_close(there, philox.normal(12345, counters, 8), rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(not native.available(), reason=native.reason())
@pytest.mark.parametrize("count", [0, 1, 4, 36, 37])
def test_cpp_draws_the_same_bits(count, monkeypatch):
    counters = torch.tensor([0, 1, -1, 2**32, 2**63 - 1, -(2**63), 12345])
    keys = (0, 1, 2**63, 2**64 - 1, philox.derive_key("any"))
    strided = counters.repeat_interleave(3)[::3]
    fast = [f(k, strided, count) for k in keys for f in (philox.uniform, philox._words)]
    monkeypatch.setattr(philox, "is_fast", lambda counters: False)
    slow = [f(k, strided, count) for k in keys for f in (philox.uniform, philox._words)]
    for mine, right in zip(fast, slow, strict=True):
        assert mine.dtype == right.dtype and torch.equal(mine, right)
