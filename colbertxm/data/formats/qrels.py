"""Relevance judgements: TREC's four columns, MS MARCO's `qid 0 pid rel`, BEIR's three below a header."""

from __future__ import annotations

import re
from pathlib import Path

from colbertxm.data.formats.fields import known, split
from colbertxm.data.formats.lines import Parse, Refused, Rows
from colbertxm.records import Judgement

BEIR_HEADER = ("query-id", "corpus-id", "score")
_COLUMNS = re.compile("[ \t]+")  # str.split() would cut ids at U+00A0 and U+2028 too
_RELEVANCE = re.compile("[+-]?[0-9]{1,9}")


def read_qrels(path: Path, on_error: str = "raise") -> Rows[Judgement]:
    """One judgement a line. BEIR's header in the first line says that three tab-separated columns follow; otherwise
    there are TREC's four between blanks or tabs, of which the second means nothing here. A pair that is judged twice
    is an error, the same relevance or not; that costs about 250 bytes a judgement, 130 MB for MS MARCO's training
    set."""

    def parser(_: Path) -> Parse[Judgement]:
        seen: dict[tuple[str, str], int] = {}
        beir = False

        def parse(number: int, line: str) -> Judgement | None:
            nonlocal beir
            if number == 1 and tuple(line.split("\t")) == BEIR_HEADER:
                beir = True
                return None
            query_id, passage_id, relevance = split(line, BEIR_HEADER) if beir else _trec(line)
            if not _RELEVANCE.fullmatch(relevance):
                raise Refused(
                    "has a relevance that is no whole number", f"the relevance {relevance!r} is no whole number"
                )
            pair = known(query_id), known(passage_id)
            if pair in seen:
                raise Refused(
                    "judges a pair a second time",
                    f"{query_id!r} and {passage_id!r} stand here a second time (first in line {seen[pair]})",
                )
            seen[pair] = number
            return Judgement(query_id, passage_id, int(relevance))

        return parse

    return Rows(path, parser, on_error)


def _trec(line: str) -> tuple[str, str, str]:
    columns = _COLUMNS.split(line.strip(" \t"))
    if len(columns) != 4:
        hint = ": is it a run?" if len(columns) == 6 else ""
        raise Refused(
            "does not hold four columns",
            f"expected `query 0 passage relevance`, found {len(columns)} columns{hint}"
            + (" (BEIR's three need the header query-id<TAB>corpus-id<TAB>score)" if len(columns) == 3 else ""),
        )
    return columns[0], columns[2], columns[3]
