"""Passages into a database, and what its answers miss of exact MaxSim over the same vectors.

Each passage is written under its own id, so that an export that was broken off is simply started again.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from colbertxm.databases.passages import Array, Passage, Source
from colbertxm.engine_recall import Chunk, exhaustive, recall
from colbertxm.errors import UserError

Progress = Callable[[int], None]


class Database(Protocol):
    """Somewhere passages are kept and found."""

    def write(self, passages: Sequence[Passage]) -> None:
        """Add them, each in the place of one of the same id."""

    def finish(self) -> None:
        """Called when all are written."""

    def count(self) -> int: ...

    def search(self, query: Array, k: int, candidates: int, lang: str | None = None) -> list[tuple[str, float]]:
        """The best `k` by MaxSim (id, score) of the `candidates` whose mean is nearest to that of the query [Q, E]."""


@dataclass(frozen=True)
class Report:
    """What was written, what is there now, and of the sample of queries the mean recall@k and median milliseconds."""

    written: int
    held: int
    recall: float | None
    ms: float | None


def export(
    source: Source,
    database: Database,
    queries: Sequence[Tensor],
    batch: int,
    k: int = 10,
    candidates: int = 200,
    progress: Progress | None = None,
) -> Report:
    """Write all passages, `batch` at a time; the truth about `queries` [Q, E] is found in the same pass. Raises
    UserError where no passage has a vector."""
    written = 0

    def writing() -> Iterator[Chunk]:
        nonlocal written
        for chunk in source.chunks():
            passages = list(source.passages(chunk))
            for first in range(0, len(passages), batch):
                database.write(passages[first : first + batch])
            written += len(passages)
            if progress is not None:
                progress(len(chunk.numbers))
            yield chunk

    truth = exhaustive(queries, writing(), k)
    if not written:
        raise UserError("no passage has a vector: there is nothing to export")
    database.finish()
    if not queries:
        return Report(written, database.count(), None, None)
    found, seconds = [], []
    names = {source.ids[n]: n for rows in truth for n in rows}
    for query in queries:
        vectors = np.asarray(query.detach().cpu().float().numpy(), np.float32)
        started = time.perf_counter()
        hits = database.search(vectors, k, candidates)
        seconds.append(time.perf_counter() - started)
        found.append([names.get(name, -1) for name, _ in hits])
    return Report(written, database.count(), recall(found, truth, k), 1000 * statistics.median(seconds))
