"""A run as columns: seven million hits in arrays, for measuring without an object per hit.

Shapes: N hits, Q queries. A passage's id is its UTF-8 bytes, padded with NUL to the longest one's length, a multiple of
eight, so that ids are compared and hashed as words of 64 bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from colbertxm.records import Hit

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Ids = npt.NDArray[np.bytes_]

_BITS = 22
_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: Knuth's multiplicative hashing


@dataclass(frozen=True, eq=False)
class Run:
    """Hits by query, best first. Iterates as `Hit`s, whose ranks are 1, 2, 3 within each query.

    query_ids: [Q]; bounds: [Q + 1], query i's hits are rows bounds[i] to bounds[i + 1]; passages: [N]; scores: [N].
    """

    query_ids: tuple[str, ...]
    bounds: Ints
    passages: Ids
    scores: Floats

    @staticmethod
    def of(hits: Iterable[Hit]) -> Run:
        """The run of these hits: queries in the order in which they first come, hits in the order of their ranks."""
        groups: dict[str, list[Hit]] = {}
        for query_id, neighbours in groupby(hits, key=itemgetter(0)):
            groups.setdefault(query_id, []).extend(neighbours)
        ordered = [hit for group in groups.values() for hit in sorted(group, key=itemgetter(2))]
        return Run(
            tuple(groups),
            np.cumsum([0, *(len(group) for group in groups.values())], dtype=np.int64),
            padded([hit.passage_id for hit in ordered]),
            np.array([hit.score for hit in ordered], np.float64),
        )

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Hit]:
        bounds = self.bounds.tolist()
        for query_id, start, end in zip(self.query_ids, bounds, bounds[1:], strict=False):
            passages, scores = self.passages[start:end].tolist(), self.scores[start:end].tolist()
            for rank, (passage, score) in enumerate(zip(passages, scores, strict=True), start=1):
                yield Hit(query_id, passage.decode(), rank, score)

    @cached_property
    def query(self) -> Ints:
        """[N]: each hit's query, as a position in `query_ids`."""
        return np.repeat(np.arange(len(self.query_ids)), np.diff(self.bounds))

    @cached_property
    def rank(self) -> Ints:
        """[N]: each hit's rank, from 1."""
        return np.arange(1, len(self) + 1) - self.bounds[self.query]

    @cached_property
    def keys(self) -> Words:
        """[N]: a hash of each hit's query and passage."""
        return keys(self.passages, self.query)

    def tied(self) -> Ints:
        """[Q]: hits whose score is that of the hit before them, as float32, which is how trec_eval holds scores."""
        return np.bincount(self.query[1:][self._ties()], minlength=len(self.query_ids))

    def as_trec_eval(self) -> Run:
        """The same hits in trec_eval's order: by score as float32, and by the passage's id, descending, where scores
        are equal. Ranks play no part."""
        seen = float32(self.scores)
        rises = (seen[1:] > seen[:-1]) & (self.query[1:] == self.query[:-1])
        if rises.any():
            return self._taken(np.lexsort((-seen, self.query))).as_trec_eval()
        ties = self._ties()
        if not ties.any():
            return self
        in_group = np.append(ties, False) | np.insert(ties, 0, False)
        group = np.cumsum(~np.insert(ties, 0, False))[in_group]
        rows = np.flatnonzero(in_group)
        letters = words(self.passages[rows]).byteswap()  # the first byte counts most
        order = np.arange(len(self))
        order[rows] = rows[np.lexsort((*(~letters[:, i] for i in reversed(range(letters.shape[1]))), group))]
        return self._taken(order)

    def _ties(self) -> npt.NDArray[np.bool_]:
        seen = float32(self.scores)
        return np.asarray((seen[1:] == seen[:-1]) & (self.query[1:] == self.query[:-1]))

    def _taken(self, order: Ints) -> Run:
        return Run(self.query_ids, self.bounds, self.passages[order], self.scores[order])


def float32(scores: Floats) -> npt.NDArray[np.float32]:
    """Scores as trec_eval holds them; those beyond its range are infinite there, and so here."""
    with np.errstate(over="ignore"):
        return scores.astype(np.float32)


def padded(ids: Iterable[str]) -> Ids:
    """[N] ids as bytes, in a width that `words` takes."""
    raw = [name.encode() for name in ids]
    width = max(map(len, raw), default=1)
    return np.array(raw, dtype=f"S{-(-max(width, 1) // 8) * 8}")


def words(ids: Ids) -> Words:
    """[N, W]: the bytes of ids as words, the first byte in the lowest place; equal where the ids are equal."""
    return np.ascontiguousarray(ids).view("<u8").astype(np.uint64, copy=False).reshape(len(ids), ids.itemsize // 8)


def keys(ids: Ids, query: npt.NDArray[Any]) -> Words:
    """[N]: a hash of (query, id); the same whatever width the ids are padded to. Pairs that differ may share one."""
    found = query.astype(np.uint64) * _ODD
    for column in words(ids).T:
        # A word of padding must not count, or the width would.
        mixed = (found ^ column) * _ODD
        found = np.where(column != 0, mixed ^ (mixed >> np.uint64(29)), found)
    return np.asarray(found * _ODD)


def lookup(run: Run, query: Ints, ids: Ids) -> tuple[Ints, Ints]:
    """(rows, pairs): every row of the run that is one of the wanted pairs of query (a position in `run.query_ids`, -1
    for none) and passage, and which one it is. Hashes find what may match, the ids themselves decide."""
    wanted = keys(ids, query)
    order = np.argsort(wanted)
    wanted = wanted[order]
    # Seven million binary searches take a second; a table of bits leaves few of them.
    table = np.zeros(1 << _BITS, np.bool_)
    table[wanted >> np.uint64(64 - _BITS)] = True
    rows = np.flatnonzero(table[run.keys >> np.uint64(64 - _BITS)])
    left = np.searchsorted(wanted, run.keys[rows], "left")
    right = np.searchsorted(wanted, run.keys[rows], "right")
    found: list[tuple[Ints, Ints]] = []
    for step in range(int((right - left).max(initial=0))):
        inside = np.flatnonzero(left + step < right)
        row, pair = rows[inside], order[left[inside] + step]
        equal = (run.query[row] == query[pair]) & (run.passages[row] == ids[pair])
        found.append((row[equal], pair[equal]))
    if not found:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    return np.concatenate([row for row, _ in found]), np.concatenate([pair for _, pair in found])
