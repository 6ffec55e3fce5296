"""Which passage ids are there, in 8 bytes a document or fewer: hashes tell ids apart, strings on disk decide.

A 64-bit hash meets another by chance once in some 3,700 collections of 100 million ids, so strings are read again for
repeated ids alone, or where somebody made ids collide: slow then, and right still.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numba
import numpy as np

from colbertxm.engine.kernels import Array
from colbertxm.engine.strings import Strings, packed
from colbertxm.errors import UserError

RUN = 2**20  # hashes sorted together: a batch is merged into at most so many
Pair = tuple[Array, Array]
"""`packed` strings: bytes and where each ends."""


@numba.njit(nogil=True, cache=True)
def _hash(raw: Array, ends: Array, out: Array) -> None:  # pragma: no cover - compiled
    """FNV-1a of each string (Fowler, Noll, Vo; RFC 9923), then the finish of splitmix64: FNV's own high bits of short
    strings are far from even."""
    first = np.int64(0)
    for n in range(len(ends)):
        value = np.uint64(14695981039346656037)
        for at in range(first, ends[n]):
            value = (value ^ np.uint64(raw[at])) * np.uint64(1099511628211)
        first = ends[n]
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        out[n] = value ^ (value >> np.uint64(31))


def hashes(pair: Pair) -> Array:
    """[N] uint64; the same in every process."""
    raw, ends = (np.ascontiguousarray(array).view() for array in pair)
    raw.flags.writeable = ends.flags.writeable = False  # as mapped files are: one kind of array, compiled once
    out = np.empty(len(ends), np.uint64)
    _hash(raw, ends, out)
    return out


class Seen:
    """The ids of a stream that comes in pieces, each on disk when the next one comes. At most `limit` hashes are held:
    an id that repeats one of them is refused at once, any other in `finish`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._runs: list[Array] = []
        self._pieces: list[tuple[Path, Path]] = []
        self._held = self._count = 0

    def check(self, ids: Pair) -> None:
        """Raises UserError for an id that occurs twice, in `ids` or with a piece before."""
        own = np.sort(hashes(ids))
        again = np.zeros(len(own), bool)
        again[1:] = own[1:] == own[:-1]
        for run in self._runs:
            again |= _within(run, own)
        if again.any():
            self._compare(np.unique(own[again]), ids)

    def add(self, ids: Path, ends: Path) -> None:
        """The next piece, from its two files."""
        new = hashes((np.load(ids), np.load(ends)))
        self._pieces.append((ids, ends))
        self._count += len(new)
        if self._held + len(new) > self.limit:
            return
        self._held += len(new)
        if self._runs and len(self._runs[-1]) + len(new) <= RUN:
            new = np.concatenate([self._runs.pop(), new])
        self._runs.append(np.sort(new))

    def finish(self) -> None:
        """Compare what was not held, a range of hashes at a time. Raises UserError for an id that occurs twice."""
        if self._held == self._count:
            return
        self._runs = []
        passes = -(-4 * self._count // max(1, self.limit))  # a range is held, joined and sorted
        edges = [2**64 * n // passes for n in range(passes)]
        for low, high in zip(edges, [*(edge - 1 for edge in edges[1:]), 2**64 - 1], strict=True):
            some = []
            for ids, ends in self._pieces:
                found = hashes((np.load(ids), np.load(ends)))
                some.append(found[(found >= np.uint64(low)) & (found <= np.uint64(high))])
            own = np.sort(np.concatenate(some))
            if (again := own[1:] == own[:-1]).any():
                self._compare(np.unique(own[1:][again]), packed([]))

    def _compare(self, doubtful: Array, ids: Pair) -> None:
        """Raises UserError where two ids with hashes among `doubtful` (ascending) are one string."""
        met: set[str] = set()
        for pair in (*((np.load(raw), np.load(ends)) for raw, ends in self._pieces), ids):
            strings = Strings([pair])
            for n in np.flatnonzero(_within(doubtful, hashes(pair))).tolist():
                if (name := strings[n]) in met:
                    raise UserError(f"passage id {name!r} occurs twice: ids name passages, so make them distinct")
                met.add(name)


def places(parts: Iterable[Pair], alive: Sequence[Array], wanted: Collection[str]) -> dict[str, int]:
    """Where the living passages among `wanted` stand, by id: one pass over the ids of `parts`, with one part's hashes
    in memory. `alive` are each part's flags."""
    names = list(wanted)
    own = hashes(packed(names))
    ascending, found, before = np.sort(own), {}, 0
    asked = set(names)
    for pair, living in zip(parts, alive, strict=True):
        strings = Strings([pair])
        for n in np.flatnonzero(_within(ascending, hashes(pair)) & living).tolist():
            if (name := strings[n]) in asked:
                found[name] = before + n
        before += len(living)
    return found


def _within(ascending: Array, values: Array) -> Array:
    """Which `values` are among `ascending`, [N] bool."""
    if not len(ascending):
        return np.zeros(len(values), bool)
    at = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    return np.asarray(ascending[at] == values)
