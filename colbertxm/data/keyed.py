"""Random numbers and permutations that are functions of a key: no state, no array, any element on its own.

The permutation of [0, n) is the generalised Feistel cipher of Black and Rogaway ("Ciphers with Arbitrary Finite
Domains", CT-RSA 2002, sections 4 and 5; Luby and Rackoff 1988 for why rounds of it look random). A number is written as
(left, right) in base b with a * b >= n and a, b next to sqrt(n); rounds add a keyed hash of one half to the other,
modulo a and b in turn, which any key can undo; a result that falls on one of the fewer than a numbers beyond n is sent
through again (cycle walking), so what is left is a permutation of [0, n). With a and b instead of a power of four
hardly any number needs a second turn. The hash is splitmix64's finaliser (Steele, Lea and Flood, OOPSLA 2014). None of
this is secret: it has to be even and without correlations, which the tests measure.
"""

from __future__ import annotations

import hashlib
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Integers = NDArray[np.int64]
Words = NDArray[np.uint64]

WORD = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, splitmix64's step
ROUNDS = 8  # four of each half; the tests see no trace of the input from 6 on, small n included
LIMIT = 2**60  # halves and hashes of 32 bits add without overflow


def word_of(text: str) -> int:
    """64 bits that a text alone decides: the first of its sha256."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def share_of(text: str) -> float:
    """A number in [0, 1) that a text alone decides: a split by it needs no list and is the same everywhere."""
    return word_of(text) / 2**64


def mix(words: Words) -> Words:
    """splitmix64's finaliser of each word: every bit of the input moves every bit of the output."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def key(*parts: int) -> int:
    """One 64-bit word of any integers; (1, 2), (2, 1) and (1, 2, 0) are different keys."""
    word = len(parts)
    for part in parts:
        word = int(mix(np.array([(word + part * GOLDEN + GOLDEN) & WORD], np.uint64))[0])
    return word


def draws(numbers: ArrayLike, *parts: int) -> NDArray[np.float64]:
    """One number in [0, 1) for each of `numbers`, a function of it and of the key `parts`."""
    words = np.atleast_1d(np.asarray(numbers)).astype(np.uint64)
    words = mix(mix(words + np.uint64(GOLDEN)) ^ np.uint64(key(*parts)))
    return np.ldexp((words >> np.uint64(11)).astype(np.float64), -53)


class Permutation:
    """A permutation of the numbers below `size`, chosen by the key `parts`; costs no memory. Call it with positions
    (all at once: a call takes tens of microseconds, whatever the size) to have what stands there."""

    def __init__(self, size: int, *parts: int) -> None:
        if not 1 <= size < LIMIT:
            raise ValueError(f"a permutation of {size} numbers: between 1 and 2**60 are possible")
        self.size = size
        self._a = np.uint64(isqrt(size - 1) + 1)
        self._b = np.uint64(-(-size // int(self._a)))
        base = key(*parts)
        self._keys = [np.uint64(key(base, n)) for n in range(ROUNDS)]

    def __call__(self, positions: ArrayLike) -> Integers:
        """What stands at `positions` [n], int64 [n]. Raises IndexError for a position outside [0, size)."""
        return self._walk(positions, self._forwards)

    def inverse(self, numbers: ArrayLike) -> Integers:
        """The positions at which `numbers` [n] stand, int64 [n]."""
        return self._walk(numbers, self._backwards)

    def _walk(self, numbers: ArrayLike, turn: Any) -> Integers:
        given = np.atleast_1d(np.asarray(numbers, np.int64))
        if len(given) and not (int(given.min()) >= 0 and int(given.max()) < self.size):
            raise IndexError(f"positions between {given.min()} and {given.max()}, but there are {self.size}")
        found = turn(given.astype(np.uint64))
        while len(outside := np.flatnonzero(found >= np.uint64(self.size))):
            found[outside] = turn(found[outside])
        return found.astype(np.int64)

    def _forwards(self, words: Words) -> Words:
        left, right = words // self._b, words % self._b
        for n, round_key in enumerate(self._keys):
            if n % 2:
                right = (right + self._hash(left, round_key)) % self._b
            else:
                left = (left + self._hash(right, round_key)) % self._a
        return left * self._b + right

    def _backwards(self, words: Words) -> Words:
        left, right = words // self._b, words % self._b
        for n, round_key in reversed(list(enumerate(self._keys))):
            if n % 2:
                right = (right + self._b - self._hash(left, round_key) % self._b) % self._b
            else:
                left = (left + self._a - self._hash(right, round_key) % self._a) % self._a
        return left * self._b + right

    @staticmethod
    def _hash(half: Words, round_key: np.uint64) -> Words:
        return mix(half ^ round_key) >> np.uint64(32)
