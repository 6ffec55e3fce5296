"""Inverted lists: which documents hold a centroid. They spare looking at every document where there are too many.

    lists-documents.npy   uint16 [entries]: document numbers within their block of BLOCK, list behind list
    lists-ends.npy        uint32 [blocks, K]: where centroid c's list of a block ends, counted from the block's begin
    lists-begins.npy      int64 [blocks + 1]: where each block's entries begin
    lists-sizes.npy       uint32 [K]: entries of a centroid in all blocks

They cover the first documents of an index, in order; what was added since is looked at one by one until there is so
much of it that the lists are written anew. A document that was deleted stays in its lists.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from colbertxm.engine import kernels
from colbertxm.engine.kernels import LANES, Array
from colbertxm.files import Entry, write_array

BLOCK = 2**16
FROM = 2**16  # so many documents are sooner looked at one by one
STALE = 0.1  # share of documents without lists from which on they are written anew
ENTRIES, ENTRIES_SHARE = 2**14, 4  # list entries that each query vector walks, or this share of the documents
"""At 500,000 documents (lists of 42 million entries) .562 of the best ten without lists are found by 2**14 entries and
4,096 candidates, .929 by 2**16, .996 by 2**17 and 16,384 candidates, in 58, 57 and 82 ms where the search without lists
takes 231 (seed 0, 24 queries, none of the benchmark's)."""
FILES = {"documents": "<u2", "ends": "<u4", "begins": "<i8", "sizes": "<u4"}


Run = Callable[[Callable[[int], None], Iterable[int]], Iterable[None]]


@dataclass(frozen=True)
class Lists:
    """The arrays of the files above, for `count` documents."""

    documents: Array
    ends: Array
    begins: Array
    sizes: Array
    count: int

    def gains(self, table: Array, used: int, run: Run, entries: int | None = None) -> Array:
        """What each document gains by the centroids that `used` query vectors like best, [count] uint16, in units of
        `table` [K, LANES] uint8. `run` is `map`, or that of a pool of threads;
        `entries` each query vector walks."""
        entries = entries or max(ENTRIES, self.count // ENTRIES_SHARE)
        floors, counts = np.zeros(LANES, np.uint8), np.zeros(LANES, np.int64)
        floors[used:] = 255
        kernels.reach(table, used, self.sizes, entries, floors)
        picked = np.empty((used, len(table)), np.int32)  # the few places that are used are all that costs
        kernels.pick(table, used, floors, picked, counts)
        sums = np.zeros((len(self.ends), BLOCK), np.uint16)

        def walk(block: int) -> None:
            ends = self.ends[block].astype(np.int64)
            begins = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
            entries = self.documents[self.begins[block] : self.begins[block + 1]]
            kernels.walk_lists(table, used, floors, picked, counts, entries, begins, ends, sums[block])

        for _ in run(walk, range(len(self.ends))):
            pass
        return sums.reshape(-1)[: self.count]


def best(gains: Array, allowed: Array | None, count: int) -> Array:
    """The documents, ascending, with the `count` largest `gains` [N] among those `allowed` [N] bool; more where gains
    are equal, fewer where there are not so many with any."""
    if allowed is not None:
        gains = np.where(allowed, gains, 0)
    above = np.cumsum(np.bincount(gains, minlength=2)[:0:-1])  # documents that gain at least the highest, ...
    floor = max(len(above) - int(np.searchsorted(above, count)), 1)
    return np.flatnonzero(gains >= floor)


def with_lists(
    folder: Path, files: Mapping[str, Entry], parts: Sequence[Mapping[str, int]], listed: int, k: int
) -> tuple[dict[str, Entry], int]:
    """The `files` of an index of `parts` in `folder`, and how many documents are in lists: those that were, `listed`,
    or new ones of all where it has too few."""
    documents = sum(part["passages"] for part in parts)
    if documents <= FROM or documents - listed <= STALE * documents:
        return dict(files), listed
    opened = [
        {name: np.load(folder / files[f"{n}-{name}"]["file"], mmap_mode="r") for name in ("centroids", "ends")}
        for n in range(len(parts))
    ]
    others = {name: entry for name, entry in files.items() if not name.startswith("lists-")}
    return {**others, **write_lists(folder, opened, k)}, documents


def write_lists(folder: Path, parts: Sequence[Mapping[str, Array]], k: int) -> dict[str, Entry]:
    """Write the lists of all documents of `parts` (their `centroids` and `ends`), in the memory of a few blocks."""
    bounds = np.cumsum([0, *(len(part["ends"]) for part in parts)]).tolist()
    blocks = [(first, min(first + BLOCK, bounds[-1])) for first in range(0, bounds[-1], BLOCK)]
    ends, sizes = np.empty((len(blocks), k), np.uint32), np.zeros(k, np.uint32)
    for block, (first, last) in enumerate(blocks):
        places = np.zeros(k, np.int64)
        _fill(parts, bounds, first, last, places, np.empty(0, np.uint16))
        ends[block] = np.cumsum(places)
        sizes += places.astype(np.uint32)
    begins = np.concatenate([[0], np.cumsum(ends[:, -1], dtype=np.int64)])
    with tempfile.TemporaryFile(dir=folder) as file:
        documents = np.memmap(file, np.uint16, "w+", shape=(int(begins[-1]),))
        for block, (first, last) in enumerate(blocks):
            places = np.concatenate([[0], ends[block, :-1]]).astype(np.int64)
            _fill(parts, bounds, first, last, places, documents[begins[block] : begins[block + 1]])
        arrays: dict[str, Array] = {"documents": documents, "ends": ends, "begins": begins, "sizes": sizes}
        return {f"lists-{name}": write_array(folder, f"lists-{name}", array) for name, array in arrays.items()}


def _fill(
    parts: Sequence[Mapping[str, Array]], bounds: Sequence[int], first: int, last: int, places: Array, out: Array
) -> None:
    """`kernels.fill_lists` for the documents from `first` to `last` of all."""
    seen = np.full(len(places), -1, np.int64)
    for part, begin, end in zip(parts, bounds, bounds[1:], strict=False):
        if begin < last and end > first:
            chosen = range(max(first - begin, 0), min(last, end) - begin)
            stops = np.asarray(part["ends"])
            starts = np.concatenate([np.zeros(1, np.int64), stops[:-1]])
            number = begin + chosen.start - first
            kernels.fill_lists(part["centroids"], starts, stops, chosen.start, chosen.stop, number, seen, places, out)
