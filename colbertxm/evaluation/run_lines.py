"""The lines of a run's file as they stand there, and the two orders that can be read from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from colbertxm.errors import UserError
from colbertxm.evaluation.blocks import LONGEST_ID, Part, parse
from colbertxm.evaluation.columns import Ids, Ints, Run, keys
from colbertxm.evaluation.trec import finite, integer, read_blocks, split_lines

LAYOUTS = {6: "query Q0 passage rank score tag", 3: "query passage rank"}


@dataclass(frozen=True, eq=False)
class Lines:
    """A run's N lines in the file's order; `query` is a position in `query_ids`, which stand as they first come."""

    path: Path
    query_ids: tuple[str, ...]
    query: Ints
    passages: Ids
    ranks: Ints
    scores: npt.NDArray[np.float64]

    def by_rank(self) -> Run:
        """The run in the order of its lines, which must be that of its ranks and no other than that of its scores.
        UserError names the first line that breaks it."""
        order = self._by_query()
        self._check_order(order)
        return self._run(order)

    def by_score(self) -> Run:
        """The run in trec_eval's order; ranks are not looked at. UserError for a passage that comes twice."""
        order = self._by_query()
        self._check_twice()
        return self._run(order).as_trec_eval()

    def _by_query(self) -> Ints | None:
        if (self.query[1:] >= self.query[:-1]).all():
            return None  # as nearly always: the lines need not move
        return np.argsort(self.query, kind="stable")

    def _run(self, order: Ints | None) -> Run:
        bounds = np.append(0, np.cumsum(np.bincount(self.query, minlength=len(self.query_ids))))
        if order is None:
            return Run(self.query_ids, bounds, self.passages, self.scores)
        return Run(self.query_ids, bounds, self.passages[order], self.scores[order])

    def _check_order(self, order: Ints | None) -> None:
        query, ranks, scores = (c if order is None else c[order] for c in (self.query, self.ranks, self.scores))
        within = query[1:] == query[:-1]
        broken = np.flatnonzero(within & ((ranks[1:] <= ranks[:-1]) | (scores[1:] > scores[:-1])))
        lines = broken + 1 if order is None else order[broken + 1]
        self._check_twice(int(lines.min()) if len(lines) else None)
        if not len(lines):
            return
        at = int(broken[lines.argmin()])
        rank, before = int(ranks[at + 1]), int(ranks[at])
        if rank <= before:
            why = f"rank {rank} comes after rank {before}; sort the file by query and rank, or let scores decide"
            raise self._fault(int(lines.min()), f"{why} (ties=trec)")
        score, last = float(scores[at + 1]), float(scores[at])
        why = f"the score rises from {last} to {score} at rank {rank}; make both follow one order, or let scores decide"
        raise self._fault(int(lines.min()), f"{why} (ties=trec)")

    def _check_twice(self, before: int | None = None) -> None:
        """UserError for a passage that comes twice for a query, where its second line stands above line `before`."""
        hashes = keys(self.passages, self.query)
        found = np.sort(hashes)
        if not (found[1:] == found[:-1]).any():
            return
        order = np.argsort(hashes, kind="stable")
        suspects = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
        seen: set[tuple[int, bytes]] = set()
        for line in np.unique(np.append(order[suspects], order[suspects + 1])).tolist():
            if before is not None and line >= before:
                return
            pair = int(self.query[line]), self.passages[line]
            if pair in seen:
                raise self._fault(line, f"passage {pair[1].decode()} comes twice")
            seen.add(pair)

    def _fault(self, line: int, what: str) -> UserError:
        return UserError(f"{self.path}, line {line + 1}: query {self.query_ids[self.query[line]]}: {what}")


def read_lines(path: str | Path) -> Lines:
    """The lines of a run. UserError with file and line for any that is none."""
    path = Path(path)
    blocks = read_blocks(path)
    first = next(blocks, None)
    numbers: dict[str, int] = {}
    parts: list[Part] = []
    if first is not None:
        columns = len(first[1].split(b"\n", 1)[0].split())
        columns = columns if columns in LAYOUTS else 6
        for number, block in chain([first], blocks):
            part = parse(block, columns, lambda name: numbers.setdefault(name, len(numbers)))
            if part is None:
                plain = b"".join(_plain(path, number, block, columns))
                part = parse(plain, columns, lambda name: numbers.setdefault(name, len(numbers)))
            assert part is not None, "lines that were made plain are plain"
            parts.append(part)
    return Lines(
        path,
        tuple(numbers),
        np.concatenate([np.empty(0, np.int64), *(part.query for part in parts)]),
        np.concatenate([np.empty(0, "S8"), *(part.passages for part in parts)]),
        np.concatenate([np.empty(0, np.int64), *(part.ranks for part in parts)]),
        np.concatenate([np.empty(0), *(part.scores for part in parts)]),
    )


def _plain(path: Path, first: int, block: bytes, columns: int) -> Iterator[bytes]:
    """The lines of a block, each checked and rewritten with one blank between its columns."""
    for number, words in split_lines(path, first, block, columns, LAYOUTS[columns]):
        rank_place = 3 if columns == 6 else 2
        rank = integer(words[rank_place])
        if rank is None:
            raise UserError(f"{path}, line {number}: rank {words[rank_place]!r} is not an integer")
        words[rank_place] = str(rank)
        if columns == 6:
            score = finite(words[4])
            if score is None:
                raise UserError(f"{path}, line {number}: score {words[4]!r} is not a finite number")
            words[4] = repr(score)
        if len(max(words[0].encode(), words[rank_place - 1].encode(), key=len)) > LONGEST_ID:
            raise UserError(f"{path}, line {number}: an id longer than {LONGEST_ID} bytes; is it a run?")
        yield " ".join(words).encode() + b"\n"
