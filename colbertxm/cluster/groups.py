"""An index in groups of neighbouring documents, each searched by somebody else, and the exact merge of what they find.

Shapes: N documents, k hits. A group's scores are those of a search of the whole index: a document's score depends on
that document alone. Where the budget takes in all documents, the merged answer is that of one engine, ties included;
where it does not, each group reranks a budget of its own, and the merged answer misses less than one engine's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from colbertxm.engine.index import CompressedIndex
from colbertxm.engine.opening import open_index
from colbertxm.engine.store import Index
from colbertxm.engine.strings import equal
from colbertxm.engine.ties import strictly_falling

Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Found:
    """A query's best documents in one group: `positions` in the whole index [n], raw `scores` [n] float32, best first
    and of equal ones the earlier document, and their `ids`."""

    positions: Array
    scores: npt.NDArray[np.float32]
    ids: list[str]


def ends_of(index: Index | CompressedIndex) -> Array:
    """Where each document's vectors end in the whole index, [N]."""
    if isinstance(index, Index):
        return index.offsets[1:].numpy()
    parts, before = [np.empty(0, np.int64)], 0
    for part in index.parts:
        parts.append(np.asarray(part["ends"]) + before)
        before += int(part["ends"][-1]) if len(part["ends"]) else 0
    return np.concatenate(parts)


def plan(ends: Array, groups: int) -> list[tuple[int, int]]:
    """(first, past the last) document of each group: all documents once, about as many vectors each, none empty."""
    total = int(ends[-1]) if len(ends) else 0
    cuts = [int(np.searchsorted(ends, total * n / groups)) + 1 for n in range(1, groups)]
    edges = sorted({0, *(min(cut, len(ends)) for cut in cuts), len(ends)})
    return list(zip(edges, edges[1:], strict=False))


def version(folder: Path) -> str:
    """Changes with every change of the index."""
    from colbertxm.engine.spool import read

    return str(read(folder / "manifest.json")["sha256"])


class Group:
    """Documents `first` to `last` of the index in `folder`."""

    def __init__(self, folder: Path, first: int, last: int) -> None:
        index = open_index(folder)
        self.first, self.version = first, version(folder)
        self.langs: Sequence[str] = index.langs[first:last]
        self.engine = index.engine_of(first, last)

    def search(self, queries: Sequence[Tensor], k: int, lang: str | None) -> list[Found]:
        """The group's best `k` of each query [Q, E]; nothing where it has no passage in `lang`."""
        if lang is not None and not equal(self.langs, lang).any():
            return [Found(np.empty(0, np.int64), np.empty(0, np.float32), []) for _ in queries]
        ids = self.engine.ids
        return [
            Found(positions + self.first, scores, [ids[n] for n in positions.tolist()])
            for positions, scores in self.engine.ranked(queries, k, lang)
        ]


def merged(groups: Sequence[Found], k: int) -> tuple[list[str], npt.NDArray[np.float32]]:
    """The best `k` of all groups, as one engine gives them: equal scores in document order, then strictly falling."""
    positions = np.concatenate([np.empty(0, np.int64), *(found.positions for found in groups)])
    scores = np.concatenate([np.empty(0, np.float32), *(found.scores for found in groups)])
    ids = [name for found in groups for name in found.ids]
    order = np.lexsort((positions, -scores))[:k]
    return [ids[n] for n in order.tolist()], strictly_falling(scores[order])
