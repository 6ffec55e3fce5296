"""TREC runs and qrels on disk, and the making of a run's hits.

A run's line is `query Q0 passage rank score tag`, a line of qrels `query 0 passage relevance`, split on white
space, UTF-8, packed where the name ends in `.gz`. The tools that read such files break ties by different
rules (trec_eval by passage id descending, ir_measures' RR ascending, MS MARCO's script by rank), so what is
written here has strictly decreasing scores, even after rounding to trec_eval's float32.

A reader gives all of a file or a UserError that names the file and the line; no line is skipped.
"""

from __future__ import annotations

import codecs
import gzip
import io
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from colbertxm.errors import UserError
from colbertxm.evaluation.results import replacing
from colbertxm.records import Hit, Judgement

_INTEGER = re.compile(r"[+-]?[0-9]{1,15}")  # int() would also take 1_0 and Arabic digits
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
    if (np.diff(values) > 0).any():
        raise ValueError(f"query {query_id}: scores rise; give them in rank order")
    falling = _strictly_falling(values).tolist()
    return [
        Hit(query_id, passage_id, rank, score)
        for rank, (passage_id, score) in enumerate(zip(passage_ids, falling, strict=True), start=1)
    ]


def _strictly_falling(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """[N] -> [N]: y[i] = min(x[i], nextafter(y[i - 1], -inf)).

    Done without a loop: a float's bits, read as an integer with the sign applied, count the floats in order,
    so one step of nextafter is minus one, and y[i] + i is a running minimum.
    """
    bits = values.view(np.int32).astype(np.int64)
    order = np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    steps = np.arange(len(values))
    order = np.minimum.accumulate(order + steps) - steps
    magnitude = np.abs(order).astype(np.int32).view(np.float32)
    return np.where(order < 0, -magnitude, magnitude).astype(np.float32)


def write_run(path: str | Path, hits: Iterable[Hit], tag: str) -> None:
    """Writes a run; `read_run` gives the same hits back, to the last bit of their scores.

    Raises UserError for an id with white space, ranks that do not count 1, 2, 3 within their query, scores
    that do not fall strictly in float32, and a passage that comes twice for a query; nothing is then written.
    """
    path = Path(path)
    if not _sound(tag):
        raise UserError(f"cannot write {path}: the tag {tag!r} is empty or has white space; name it anew")
    _write_lines(path, _run_lines(path, hits, tag))


def _run_lines(path: Path, hits: Iterable[Hit], tag: str) -> Iterator[str]:
    order = _Order()
    for hit in hits:
        _check_ids(path, hit)
        score = float(hit.score)
        fault = order.written_fault(hit.query_id, hit.passage_id, hit.rank, score)
        if fault:
            raise UserError(f"cannot write {path}: query {hit.query_id}: {fault}; make hits with `rank_hits`")
        yield f"{hit.query_id} Q0 {hit.passage_id} {hit.rank} {score!r} {tag}\n"


def read_run(path: str | Path) -> list[Hit]:
    """The hits of a run, grouped by query (in the order in which the queries first come), in rank order.

    Ranks are counted anew from 1: some tools start at 0, some leave gaps. A query's lines must stand in rank
    order, without a rising score (equal ones are taken; the order of ranks decides).

    Raises UserError with file and line: columns other than six, rank or score not a number, a score that is
    not finite, order broken, a passage that comes twice for a query, white space inside an id, not UTF-8, bad
    gzip.
    """
    path = Path(path)
    order = _Order()
    by_query: dict[str, list[Hit]] = {}
    for number, columns in _read_columns(path, 6, "query Q0 passage rank score tag"):
        query_id, _, passage_id, rank_text, score_text, _ = columns
        rank, score = _integer(rank_text), _number(score_text)
        if rank is None:
            raise UserError(f"{path}, line {number}: rank {rank_text!r} is not an integer")
        if score is None:
            raise UserError(f"{path}, line {number}: score {score_text!r} is not a finite number")
        fault = order.read_fault(query_id, passage_id, rank, score)
        if fault:
            raise UserError(f"{path}, line {number}: query {query_id}: {fault}")
        hits = by_query.setdefault(query_id, [])
        hits.append(Hit(hits[0].query_id if hits else query_id, passage_id, len(hits) + 1, score))
    return [hit for hits in by_query.values() for hit in hits]


def write_qrels(path: str | Path, judgements: Iterable[Judgement]) -> None:
    """Writes judgements as given. Raises UserError for an id with white space or a pair judged twice."""
    path = Path(path)
    _write_lines(path, _qrels_lines(path, judgements))


def _qrels_lines(path: Path, judgements: Iterable[Judgement]) -> Iterator[str]:
    seen: set[tuple[str, str]] = set()
    for judgement in judgements:
        _check_ids(path, judgement)
        pair = (judgement.query_id, judgement.passage_id)
        if pair in seen:
            raise UserError(f"cannot write {path}: {' '.join(pair)} is judged twice; keep one judgement")
        seen.add(pair)
        yield f"{judgement.query_id} 0 {judgement.passage_id} {int(judgement.relevance)}\n"


def read_qrels(path: str | Path) -> list[Judgement]:
    """Judgements in the file's order. Raises UserError with file and line for anything else than qrels."""
    path = Path(path)
    judgements: list[Judgement] = []
    seen: set[tuple[str, str]] = set()
    for number, (query_id, _, passage_id, text) in _read_columns(path, 4, "query 0 passage relevance"):
        relevance = _integer(text)
        if relevance is None:
            raise UserError(f"{path}, line {number}: relevance {text!r} is not an integer")
        if (query_id, passage_id) in seen:
            raise UserError(f"{path}, line {number}: {query_id} {passage_id} is judged twice; keep one line")
        seen.add((query_id, passage_id))
        judgements.append(Judgement(query_id, passage_id, relevance))
    return judgements


class _Order:
    """What a query's lines owe one another: each passage once, ranks that rise, scores that fall."""

    def __init__(self) -> None:
        self._seen: dict[str, set[str]] = {}
        self._last: dict[str, tuple[int, float]] = {}

    def read_fault(self, query_id: str, passage_id: str, rank: int, score: float) -> str | None:
        last_rank, last_score = self._last.get(query_id, (-math.inf, math.inf))
        self._last[query_id] = (rank, score)
        if rank <= last_rank:
            return f"rank {rank} comes after rank {last_rank}; sort the file by query and rank"
        if score > last_score:
            return f"the score rises from {last_score} to {score} at rank {rank}; make both follow one order"
        return self._twice(query_id, passage_id)

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


@lru_cache(maxsize=1 << 16)  # a run names the same passages again and again
def _sound(word: str) -> bool:
    """Whether a reader of columns sees one word. A byte order mark would vanish at the start of a file."""
    return word.split() == [word] and "\0" not in word and "\ufeff" not in word


def _check_ids(path: Path, record: Hit | Judgement) -> None:
    for kind, name in (("query", record.query_id), ("passage", record.passage_id)):
        if not _sound(name):
            raise UserError(
                f"cannot write {path}: {kind} id {name!r} is empty or has white space, where TREC files split"
            )


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with replacing(path) as part, part.open("wb") as raw:
        try:
            if path.suffix == ".gz":
                # No name and no time in the header: the same run gives the same bytes.
                # Buffered, because GzipFile costs more per call than per byte.
                with (
                    gzip.GzipFile(filename="", mode="wb", compresslevel=5, fileobj=raw, mtime=0) as packed,
                    io.BufferedWriter(cast(io.RawIOBase, packed), 1 << 16) as buffer,
                ):
                    buffer.writelines(line.encode() for line in lines)
            else:
                raw.writelines(line.encode() for line in lines)
        except UnicodeEncodeError as error:
            raise UserError(f"cannot write {path}: {error.object!r} is no valid Unicode") from None


def _read_columns(path: Path, count: int, layout: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, columns) of every line; lines end at a line feed alone, columns at ASCII white space."""
    for number, line in _read_lines(path):
        words = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).split()
        try:
            columns = [word.decode() for word in words]
        except UnicodeDecodeError:
            raise UserError(f"{path}, line {number}: not UTF-8; the file is damaged or of another kind") from None
        fault = None
        if len(columns) != count:
            fault = f"{len(columns)} columns instead of {count}"
        elif b"\0" in line:
            fault = "a NUL byte"
        elif " ".join(columns).split() != columns:
            # Such as U+2028 or a no-break space: other tools would split there, or strip it off.
            fault = "white space inside an id"
        if fault:
            raise UserError(f"{path}, line {number}: {fault}; a line should read `{layout}`")
        yield number, columns


def _read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        if path.suffix == ".gz" and path.stat().st_size == 0:
            raise EOFError("the file is empty")
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield number, line
    except FileNotFoundError:
        raise UserError(f"no file at {path}; give the right path") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}, after line {number}: damaged gzip ({error}); fetch or write it again") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _integer(text: str) -> int | None:
    return int(text) if _INTEGER.fullmatch(text) else None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in text else None
