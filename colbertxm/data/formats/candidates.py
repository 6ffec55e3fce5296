"""Queries with their candidates by id: hard negatives of many systems, and n-way lists with a teacher's scores."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colbertxm.data.formats.fields import Ids, id_of, ids_of, record, short, value
from colbertxm.data.formats.lines import Parse, Refused, Rows


@dataclass(frozen=True, slots=True)
class HardNegatives:
    """One line of msmarco-hard-negatives.jsonl.gz or of GPL's hard-negatives.jsonl."""

    query_id: str
    positives: tuple[str, ...]
    negatives: Mapping[str, tuple[str, ...]]
    """System (bm25, ...) -> ids of what it ranked high and nobody marked, in its order."""


@dataclass(frozen=True, slots=True)
class NWay:
    """A query and its candidates; in ColBERT's files the first is the positive."""

    query_id: str
    passage_ids: tuple[str, ...]
    scores: tuple[float, ...] | None
    """A teacher's score of each candidate, or None where the file has none."""


def read_hard_negatives(path: Path, on_error: str = "raise") -> Rows[HardNegatives]:
    """{"qid": id, "pos": [id, ...], "neg": {system: [id, ...], ...}} a line; ids are numbers or strings."""

    def parser(path: Path) -> Parse[HardNegatives]:
        seen = Ids().of(path)

        def parse(number: int, line: str) -> HardNegatives:
            found = record(line)
            query_id, positives = id_of(found.get("qid"), "qid"), ids_of(found.get("pos"), "pos")
            systems = found.get("neg")
            if not isinstance(systems, dict):
                raise Refused("has no 'neg'", f"expected {{system: [ids]}} in 'neg', found {short(systems)}")
            negatives = {system: ids_of(listed, "neg") for system, listed in systems.items()}
            seen.add(query_id, number)
            return HardNegatives(query_id, positives, negatives)

        return parse

    return Rows(path, parser, on_error)


def read_nway(path: Path, on_error: str = "raise") -> Rows[NWay]:
    """ColBERT's triples: `[qid, [pid, score], [pid, score], ...]` or `[qid, pid, pid, ...]` a line. All lines of a file
    have scores or none has; a query may stand in many lines."""

    def parser(_: Path) -> Parse[NWay]:
        scored: bool | None = None

        def parse(_: int, line: str) -> NWay:
            nonlocal scored
            found = value(line)
            if not isinstance(found, list) or len(found) < 2:
                raise Refused("is no n-way list", f"expected [query id, candidate, ...], found {short(found)}")
            with_scores = isinstance(found[1], list)
            if with_scores != (with_scores if scored is None else scored):
                raise Refused("has scores where others have none, or none where they have")
            query_id = id_of(found[0], "query id")
            row = _scored(query_id, found[1:]) if with_scores else NWay(query_id, ids_of(found[1:], "candidates"), None)
            scored = with_scores
            return row

        return parse

    return Rows(path, parser, on_error)


def _scored(query_id: str, candidates: list[Any]) -> NWay:
    ids, scores = [], []
    for candidate in candidates:
        if not isinstance(candidate, list) or len(candidate) != 2:
            raise Refused("is no n-way list", f"expected [passage id, score], found {short(candidate)}")
        passage_id, score = candidate
        # A bool is an int, 1e999 is read as infinity, and a whole number may be too long for a float.
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not abs(score) < sys.float_info.max:
            raise Refused("has a score that is no number", f"the score {short(score)} is no finite number")
        ids.append(id_of(passage_id, "candidates"))
        scores.append(float(score))
    return NWay(query_id, tuple(ids), tuple(scores))
