"""Runs and qrels on disk, and the making of a run's hits.

A run's line is `query Q0 passage rank score tag`, or MS MARCO's `query passage rank`; a line of qrels `query 0 passage
relevance`, or BEIR's `query-id corpus-id score` below that header; split on white space, UTF-8, packed where the name
ends in `.gz` or `.zst`. The tools that read such files break ties by different
rules (trec_eval by passage id descending, ir_measures' RR ascending, MS MARCO's script by rank), so what is
written here has strictly decreasing scores, even after rounding to trec_eval's float32.

A reader gives all of a file or a UserError that names the file and the line; no line is skipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby, repeat
from operator import attrgetter
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from colbertxm.data.formats.qrels import BEIR_HEADER
from colbertxm.engine.ties import strictly_falling
from colbertxm.errors import UserError, nearest
from colbertxm.evaluation.columns import Run
from colbertxm.evaluation.run_lines import read_lines
from colbertxm.evaluation.trec import UNSOUND, integer, read_blocks, read_columns, sound, write_blocks
from colbertxm.records import Hit, Judgement

# Hit._make without its frame: columns become hits in a third of the time that calls of Hit would take.
Layout = Callable[[Sequence[Hit], Sequence[float]], str]
"""Neighbouring hits of one query, with the scores to write -> their lines."""
_hit = cast(Callable[[tuple[str, str, int, float]], Hit], partial(tuple.__new__, Hit))
QRELS_LAYOUTS = ("trec", "beir")
TIES = ("rank", "trec")
"""Who decides the order of hits with equal scores: their ranks, or trec_eval's rule."""
_LARGEST = float(np.finfo(np.float32).max)


def rank_hits(query_id: str, passage_ids: Sequence[str], scores: npt.ArrayLike) -> list[Hit]:
    """One query's hits, best first, with scores that fall strictly in float32.

    `passage_ids` and `scores` ([N], falling or equal) stand in rank order. A score that does not lie below
    the one before it is moved to the next float32 below that one, so ties keep the given order in every tool.

    Raises UserError for a score that is not finite, ValueError for lengths that differ or scores that rise.
    """
    with np.errstate(over="ignore"):
        values = np.asarray(scores, dtype=np.float32)
    if values.shape != (len(passage_ids),):
        raise ValueError(f"{len(passage_ids)} passages, but scores of shape {values.shape}")
    if not np.isfinite(values).all():
        raise UserError(f"query {query_id}: a score is not a finite number; the model's weights are damaged")
    if (values[1:] > values[:-1]).any():
        raise ValueError(f"query {query_id}: scores rise; give them in rank order")
    ranks = range(1, len(passage_ids) + 1)
    return list(map(_hit, zip(repeat(query_id), passage_ids, ranks, strictly_falling(values).tolist())))


def write_run(path: str | Path, hits: Iterable[Hit], tag: str, layout: str = "trec") -> None:
    """Writes a run; `read_run` gives the same hits back, to the last bit of their scores. `layout="msmarco"` writes
    query, passage and rank alone.

    Raises UserError for an id with white space, ranks that do not count 1, 2, 3 within their query, scores
    that do not fall strictly in float32, and a passage that comes twice for a query; nothing is then written.
    """
    path = Path(path)
    if not sound(tag):
        raise UserError(f"cannot write {path}: the tag {tag!r} is empty or has white space; name it anew")
    if layout not in LAYOUTS:
        raise UserError(f"layout={layout!r}{nearest(layout, LAYOUTS)}: take {' or '.join(LAYOUTS)}")
    write_blocks(path, _run_blocks(path, hits, LAYOUTS[layout](tag)))


def _run_blocks(path: Path, hits: Iterable[Hit], lines: Layout) -> Iterator[bytes]:
    """The lines of neighbouring hits of one query at a time; these are checked together, and only where that finds
    a fault one by one, to name it."""
    order = _Order()
    for query_id, neighbours in groupby(hits, key=attrgetter("query_id")):
        group = list(neighbours)
        scores = order.faultless(query_id, group)
        yield from [lines(group, scores).encode()] if scores else _checked_lines(path, order, group, lines)


def _trec(tag: str) -> Layout:
    def lines(group: Sequence[Hit], scores: Sequence[float]) -> str:
        head, tail = f"{group[0].query_id} Q0 ", f" {tag}\n"
        return "".join([f"{head}{hit[1]} {hit[2]} {score!r}{tail}" for hit, score in zip(group, scores, strict=True)])

    return lines


def _msmarco(tag: str) -> Layout:
    return lambda group, scores: "".join([f"{hit[0]}\t{hit[1]}\t{hit[2]}\n" for hit in group])


LAYOUTS: dict[str, Callable[[str], Layout]] = {"trec": _trec, "msmarco": _msmarco}


def _checked_lines(path: Path, order: _Order, group: Sequence[Hit], lines: Layout) -> Iterator[bytes]:
    for hit in group:
        _check_ids(path, hit)
        score = float(hit.score)
        fault = order.written_fault(hit.query_id, hit.passage_id, hit.rank, score)
        if fault:
            raise UserError(f"cannot write {path}: query {hit.query_id}: {fault}; make hits with `rank_hits`")
        yield lines([hit], [score]).encode()


def read_run(path: str | Path, ties: str = "rank") -> list[Hit]:
    """The hits of `load_run`, as a list."""
    return list(load_run(path, ties))


def load_run(path: str | Path, ties: str = "rank") -> Run:
    """A run in TREC's six columns or MS MARCO's three (`query passage rank`; minus the rank then stands for the
    score), grouped by query (in the order in which the queries first come), best first.

    `ties="rank"`: ranks decide. They are counted anew from 1: some tools start at 0, some leave gaps. A query's lines
    must stand in rank order, without a rising score (equal ones are taken). `ties="trec"`: scores decide, then ids,
    as in trec_eval, whatever the ranks.

    Raises UserError with file and line: another number of columns, rank or score not a number, a score that is not
    finite, order broken, a passage that comes twice for a query, white space inside an id, not UTF-8, damaged gzip.
    """
    if ties not in TIES:
        raise UserError(f"ties={ties!r}{nearest(ties, TIES)}: take {' or '.join(TIES)}")
    lines = read_lines(path)
    return lines.by_rank() if ties == "rank" else lines.by_score()


def write_qrels(path: str | Path, judgements: Iterable[Judgement], layout: str = "trec") -> None:
    """Writes judgements as given, in TREC's columns or, with `layout="beir"`, in BEIR's. Raises UserError for an id
    with white space or a pair judged twice."""
    path = Path(path)
    if layout not in QRELS_LAYOUTS:
        raise UserError(f"layout={layout!r}{nearest(layout, QRELS_LAYOUTS)}: take {' or '.join(QRELS_LAYOUTS)}")
    write_blocks(path, _qrels_lines(path, judgements, layout == "beir"))


def _qrels_lines(path: Path, judgements: Iterable[Judgement], beir: bool) -> Iterator[bytes]:
    seen: set[tuple[str, str]] = set()
    if beir:
        yield "\t".join(BEIR_HEADER).encode() + b"\n"
    for judgement in judgements:
        _check_ids(path, judgement)
        pair = (judgement.query_id, judgement.passage_id)
        if pair in seen:
            raise UserError(f"cannot write {path}: {' '.join(pair)} is judged twice; keep one judgement")
        seen.add(pair)
        middle = "\t" if beir else " 0 "
        end = "\t" if beir else " "
        yield f"{judgement.query_id}{middle}{judgement.passage_id}{end}{int(judgement.relevance)}\n".encode()


def read_qrels(path: str | Path) -> list[Judgement]:
    """Judgements in the file's order: TREC's and MS MARCO's four columns, or BEIR's three below their header. Raises
    UserError with file and line for anything else."""
    path = Path(path)
    judgements: list[Judgement] = []
    seen: set[tuple[str, str]] = set()
    beir = _has_header(path)
    layout = (3, "query-id corpus-id score") if beir else (4, "query 0 passage relevance")
    for number, columns in read_columns(path, *layout):
        if number == 1 and beir:
            continue
        query_id, passage_id, text = columns[0], columns[-2], columns[-1]
        relevance = integer(text)
        if relevance is None:
            raise UserError(f"{path}, line {number}: relevance {text!r} is not an integer")
        if (query_id, passage_id) in seen:
            raise UserError(f"{path}, line {number}: {query_id} {passage_id} is judged twice; keep one line")
        seen.add((query_id, passage_id))
        judgements.append(Judgement(query_id, passage_id, relevance))
    return judgements


def _has_header(path: Path) -> bool:
    """Whether the first line is BEIR's."""
    for _, block in read_blocks(path):
        return block.split(b"\n", 1)[0].split() == [word.encode() for word in BEIR_HEADER]
    return False


class _Order:
    """What a query's lines owe one another: each passage once, ranks that rise, scores that fall."""

    def __init__(self) -> None:
        self._seen: dict[str, set[str]] = {}
        self._last: dict[str, tuple[int, float]] = {}

    def faultless(self, query_id: str, hits: Sequence[Hit]) -> list[float] | None:
        """The scores of a query's next hits if nothing is wrong with them and their ids. Otherwise None, and then
        nothing is remembered of them."""
        _, passage_ids, ranks, given = zip(*hits, strict=True)
        scores = np.array(given, np.float64)
        with np.errstate(over="ignore"):
            seen_by_trec_eval = scores.astype(np.float32)
        last_rank, last_score = self._last.get(query_id, (0, math.inf))
        before, words, distinct = self._seen.get(query_id), [query_id, *passage_ids], set(passage_ids)
        line = " ".join(words)
        if (
            (np.abs(scores) <= _LARGEST).all()
            and ranks == tuple(range(last_rank + 1, last_rank + 1 + len(ranks)))
            and seen_by_trec_eval[0] < last_score
            and (seen_by_trec_eval[1:] < seen_by_trec_eval[:-1]).all()
            and len(distinct) == len(passage_ids)
            and (before is None or before.isdisjoint(distinct))
            and line.split() == words
            and not any(unsound in line for unsound in UNSOUND)
        ):
            self._last[query_id] = (ranks[-1], float(seen_by_trec_eval[-1]))
            self._seen[query_id] = distinct if before is None else before | distinct
            return list(scores.tolist())
        return None

    def written_fault(self, query_id: str, passage_id: str, rank: int, score: float) -> str | None:
        if not abs(score) <= _LARGEST:
            return f"score {score} is not finite in float32"
        seen_by_trec_eval = float(np.float32(score))
        last_rank, last_score = self._last.get(query_id, (0, math.inf))
        self._last[query_id] = (rank, seen_by_trec_eval)
        if rank != last_rank + 1:
            return f"rank {rank} comes after rank {last_rank}"
        if not seen_by_trec_eval < last_score:
            return f"score {score} at rank {rank} does not lie below the one before"
        return self._twice(query_id, passage_id)

    def _twice(self, query_id: str, passage_id: str) -> str | None:
        seen = self._seen.setdefault(query_id, set())
        if passage_id in seen:
            return f"passage {passage_id} comes twice"
        seen.add(passage_id)
        return None


def _check_ids(path: Path, record: Hit | Judgement) -> None:
    for kind, name in (("query", record.query_id), ("passage", record.passage_id)):
        if not sound(name):
            raise UserError(
                f"cannot write {path}: {kind} id {name!r} is empty or has white space, where TREC files split"
            )
