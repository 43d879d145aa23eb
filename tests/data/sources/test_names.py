"""Many names in one block, and how they are found there."""

from __future__ import annotations

import hashlib
import os
import pickle

import numpy as np
import pytest

from ssgear.data.sources.names import Names, printable

WORDS = ["a/b.png", "", "größe/Ω.jpg", os.fsdecode(b"latin\xe9.jpg"), "z"]


def test_names() -> None:
    names = Names(WORDS)
    assert len(names) == 5 and [names[i] for i in range(5)] == list(names) == WORDS
    assert names[-1] == "z"
    for copy in (pickle.loads(pickle.dumps(names)), Names.of_arrays("x", names.arrays("x"))):
        assert list(copy) == WORDS
    assert list(names.encoded(np.array([4, 0, 4]))) == [b"z", b"a/b.png", b"z"]
    assert len(Names([])) == 0 and list(Names()) == []
    assert list(Names.joined([names, Names(), names])) == WORDS * 2


def test_what_is_below_a_folder() -> None:
    words = sorted(["a/1", "a/b/2", "a-b/3", "a.png", "a0/4", "ab/5", "a/", "é/6"])
    names = Names(words)
    for folder in ("a/", "ab/", "a/b/", "é/", "none/"):
        expected = [word for word in words if word.startswith(folder)]
        assert [names[row] for row in names.below(folder)] == expected
    assert names.find("ab/5") == words.index("ab/5")
    assert names.find("ab/6") is None and names.find("zz") is None and Names().find("a") is None


@pytest.mark.parametrize("skip", [0, 2])
def test_digests_are_blake2b(skip: int) -> None:
    expected = [
        int.from_bytes(hashlib.blake2b(os.fsencode(word)[skip:], digest_size=8).digest(), "big")
        for word in WORDS
    ]
    assert Names(WORDS).digests(skip).tolist() == expected


def test_printable() -> None:
    assert printable("größe/Ω 1.jpg") == "größe/Ω 1.jpg"
    assert printable(os.fsdecode(b"a\nb\xe9.jpg")) == "a\\nb\\udce9.jpg"
