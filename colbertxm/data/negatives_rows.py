"""Sampled training rows, and how they come to disk: [query id, positive, negatives ...] with the teacher's scores.

Rows are appended to a .npy file block by block, so a run of any length takes the memory of one block.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from colbertxm.data.negatives_pools import Floats, Ints, Pools
from colbertxm.errors import UserError


@dataclass(frozen=True)
class Sample:
    """n rows with k negatives: `rows` int32 [n, 2 + k]; `scores` float32 [n, 1 + k], the positive's first;
    `left_out` counts queries that had fewer than k candidates."""

    rows: Ints
    scores: Floats
    left_out: int


def rows_of(pools: Pools, queries_n: Ints, positives_n: Ints, picks_nk: Ints, left_out: int) -> Sample:
    """Places in the pools to ids and scores: query `queries_n[i]`, its positive number `positives_n[i]` and
    its candidates number `picks_nk[i]`, counted from the query's first."""
    own = pools.positive_offsets[queries_n] + positives_n
    chosen = pools.candidate_offsets[queries_n][:, None] + picks_nk
    rows = np.column_stack([pools.query_ids[queries_n], pools.positives[own], pools.candidates[chosen]])
    scores = np.column_stack([pools.positive_scores[own], pools.candidate_scores[chosen]])
    return Sample(rows.astype(np.int32), scores.astype(np.float32), left_out)


def save_samples(samples: Iterable[Sample], rows: Path, scores: Path | None = None) -> tuple[int, int]:
    """Write all rows, and their scores beside them where asked, as .npy; returns (rows, queries left out). The files
    appear whole or not at all, the rows last. Raises UserError where no row was drawn."""
    count = left_out = 0
    targets = {path: _Growing(path) for path in (scores, rows) if path is not None}
    try:
        for sample in samples:
            targets[rows].append(sample.rows)
            if scores is not None:
                targets[scores].append(sample.scores)
            count, left_out = count + len(sample.rows), left_out + sample.left_out
        if not count:
            raise UserError(
                f"no query has enough candidates: {rows} was not written; lower the margin or the negatives"
            )
        for target in targets.values():
            target.finish()
    finally:
        for target in targets.values():
            target.discard()
    return count, left_out


class _Growing:
    """A .npy file whose number of rows is known only in the end."""

    def __init__(self, path: Path) -> None:
        self.path, self.part = path, path.with_name(path.name + ".part")
        self.file = self.part.open("wb")
        self.rows, self.like = 0, np.empty((0, 0), np.int32)

    def _header(self) -> None:
        # numpy pads headers so that the first axis can grow to 21 digits: rewritten, it has the same length
        shape = (self.rows, *self.like.shape[1:])
        header: dict[str, Any] = {"descr": self.like.dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.file, header)

    def append(self, rows: Ints) -> None:
        if not self.rows:
            self.file.seek(0)
            self.like = rows[:0]
            self._header()
        self.rows += len(rows)
        self.file.write(np.ascontiguousarray(rows).data)

    def finish(self) -> None:
        end = self.file.tell()
        self.file.seek(0)
        self._header()
        if end != self.file.tell() + self.rows * self.like.dtype.itemsize * self.like.shape[1]:
            raise UserError(f"{self.part} was changed while it was written: run again")
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        os.replace(self.part, self.path)

    def discard(self) -> None:
        """Close, and remove what was not finished."""
        self.file.close()
        self.part.unlink(missing_ok=True)
