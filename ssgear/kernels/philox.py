"""Random numbers without state: Philox4x32-10 (Salmon et al., SC 2011) in int64 tensor arithmetic.

On the CPU csrc/philox.cpp draws the same bits, where it was built, in a hundredth of the time.

A draw is a function of a 64-bit key and a counter, so it does not depend on what was drawn before,
on the order of work or on the number of workers. The integer words and the uniforms are the same
bits on CPU and GPU. Counter layout of a draw: (low 32 bits of the counter, its high 32 bits, block
number, 0); block b holds the words 4 b to 4 b + 3.

    key = derive_key(seed, epoch, "augment")   # any ints and strings
    u = uniform(key, indices, 8)               # [n, 8]; row i depends on indices[i] only
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from ssgear.kernels import native, transforms

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
MASK = 0xFFFFFFFF


def derive_key(*parts: int | str) -> int:
    """Return a key in [0, 2^64) for a sequence of ints and strings, the same in every process."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        text = f"i{int(part)}" if isinstance(part, int) else f"s{part}"
        data = text.encode()
        digest.update(len(data).to_bytes(8, "little") + data)  # lengths keep ("a", "b") from ("ab")
    return int.from_bytes(digest.digest(), "little")


def philox4x32(key: int, counter: Tensor) -> Tensor:
    """Encrypt four-word counters [4, ...] (int64, each word in [0, 2^32)) to random words alike."""
    words = counter.reshape(4, -1)
    even, odd = words[0::2], words[1::2]
    multipliers = torch.tensor(MULTIPLIERS, device=counter.device)[:, None]
    keys = torch.tensor(_key_schedule(key), device=counter.device)[:, :, None]
    for round_key in keys:
        # a product past 2^63 wraps; both its halves are right all the same
        product = (even * multipliers).flip(0)
        even = (product >> 32).bitwise_and_(MASK).bitwise_xor_(odd).bitwise_xor_(round_key)
        odd = product.bitwise_and_(MASK)
    return torch.stack((even[0], odd[0], even[1], odd[1])).reshape(counter.shape)


def uniform(key: int, counters: Tensor, count: int) -> Tensor:
    """Return float32 [n, count], uniform over the multiples of 2^-24 in [0, 1)."""
    if is_fast(counters):
        drawn: Tensor = torch.ops.ssgear_native.philox_uniform(signed(key), counters, count)
        return drawn
    return (_words(key, counters, count) >> 8).to(torch.float32).mul_(2.0**-24)


def normal(key: int, counters: Tensor, count: int) -> Tensor:
    """Return float32 [n, count], standard normal by Box and Muller; always finite.

    The last bit may differ between devices: logarithm and cosine are theirs.
    """
    pairs = (count + 1) // 2
    words = _words(key, counters, 2 * pairs).reshape(len(counters), pairs, 2)
    radius_words, angle_words = words.to(torch.float64).unbind(-1)
    radius = ((radius_words + 1) * 2.0**-32).log_().mul_(-2).sqrt_()  # of (0, 1]: no log of zero
    angle = angle_words * (math.tau * 2.0**-32)
    drawn = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1)
    return drawn.reshape(len(counters), 2 * pairs)[:, :count].to(torch.float32)


def permutation(key: int, n: int) -> Tensor:
    """Return the numbers 0 to n - 1 in random order, int64 [n] on the CPU."""
    high, low = _words(key, torch.arange(n), 2).unbind(-1)
    return ((high << 32) | low).argsort(stable=True)


def _key_schedule(key: int) -> list[list[int]]:
    low, high = key & MASK, (key >> 32) & MASK
    return [
        [(low + step * WEYL[0]) & MASK, (high + step * WEYL[1]) & MASK] for step in range(ROUNDS)
    ]


def is_fast(counters: Tensor) -> bool:
    """Return whether C++ draws for these counters."""
    if torch.compiler.is_compiling() or transforms.is_transformed(counters):
        return False
    plain = counters.device.type == "cpu" and counters.dtype == torch.int64 and counters.ndim == 1
    return plain and type(counters) is Tensor and native.available()


def signed(key: int) -> int:
    """Return the int64 of the same bits as the lowest 64 of a key."""
    return (key + 2**63) % 2**64 - 2**63


def _words(key: int, counters: Tensor, count: int) -> Tensor:
    """Return the first `count` random words of every counter, int64 [n, count] below 2^32."""
    if is_fast(counters):
        words: Tensor = torch.ops.ssgear_native.philox_words(signed(key), counters, count)
        return words
    n, blocks = len(counters), -(-count // 4)
    counter = torch.zeros(4, n, blocks, dtype=torch.int64, device=counters.device)
    counter[0] = (counters & MASK)[:, None]
    counter[1] = ((counters >> 32) & MASK)[:, None]
    counter[2] = torch.arange(blocks, device=counters.device)
    drawn = philox4x32(key, counter).permute(1, 2, 0)
    return drawn.reshape(n, 4 * blocks)[:, :count]
