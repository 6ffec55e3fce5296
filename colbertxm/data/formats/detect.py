"""Which format a file or a folder is in, by its content: the name of a file that was downloaded or renamed lies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from colbertxm.data.formats.fields import short, value
from colbertxm.data.formats.folders import MMARCO, VARIANTS
from colbertxm.data.formats.jsonl import TRIPLE_KEYS, shape_of
from colbertxm.data.formats.lines import Refused, open_bytes, read_lines
from colbertxm.data.formats.qrels import BEIR_HEADER
from colbertxm.errors import UserError

FORMATS = {
    "texts": "tsv.read_texts or read_queries: id<TAB>text",
    "text_triples": "tsv.read_text_triples: query<TAB>positive<TAB>negative",
    "id_triples": "tsv.read_id_triples",
    "margins": "tsv.read_margins: GPL's qid<TAB>pid<TAB>pid<TAB>margin",
    "qrels": "qrels.read_qrels",
    "texts_jsonl": "jsonl.read_texts_jsonl",
    "triples_jsonl": "jsonl.read_triples_jsonl: texts",
    "annotated": "jsonl.read_annotated: Mr. TyDi's train.jsonl",
    "hard_negatives": "candidates.read_hard_negatives",
    "nway": "candidates.read_nway",
    "scores_pickle": "scores.read_scores_pickle",
    "scores": "scores.load_scores: an .npz",
    "mmarco": "folders.MMarco",
    "beir": "folders.Beir",
}
LOOKED_AT = 50
_WHOLE = re.compile("[+-]?[0-9]+")
_NUMBER = re.compile("[+-]?[0-9]+([.][0-9]*)?(e[+-]?[0-9]+)?", re.IGNORECASE)
_BLANKS = re.compile("[ \t]+")


def detect(path: Path) -> str:
    """A key of FORMATS, from the first fifty lines. Raises UserError where they fit none, or more than one; it then
    says what was found. Later lines are the reader's to judge."""
    if path.is_dir():
        return _folder(path)
    start = _start(path)
    if start.startswith(b"PK\x03\x04") and path.suffix == ".npz":
        return "scores"
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "scores_pickle"
    lines = [line for _, line in islice(read_lines(path), LOOKED_AT)]
    if not lines:
        raise UserError(f"{path} is empty: no format to be seen")
    return _json(path, lines[0]) if lines[0].lstrip()[:1] in ("{", "[") else _tsv(path, lines)


def _start(path: Path) -> bytes:
    try:
        with open_bytes(path) as file:
            return file.read(4)
    except (EOFError, OSError) as error:
        why = getattr(error, "strerror", None) or "it ends early or is damaged"
        raise UserError(f"cannot read {path}: {why}") from None


def _folder(path: Path) -> str:
    if any((path / f"corpus.jsonl{suffix}").is_file() for suffix in ("", ".gz", ".zst")):
        return "beir"
    for folder in (path, *(path / variant for variant in VARIANTS)):
        names = {file.name.partition("_")[0] for file in folder.glob("collections/*_collection.tsv*")}
        if names & set(MMARCO.values()):
            return "mmarco"
    found = ", ".join(sorted(file.name for file in path.iterdir())[:8]) or "nothing"
    raise UserError(
        f"{path} is neither BEIR (corpus.jsonl) nor mMARCO (collections/LANGUAGE_collection.tsv): it has {found}"
    )


def _json(path: Path, line: str) -> str:
    try:
        found = value(line)
    except Refused as refused:
        raise UserError(f"{path}:1: {refused}: one JSON value on each line was expected") from None
    if isinstance(found, list):
        if len(found) > 1 and not isinstance(found[0], (dict, list)):
            return "nway"
        raise UserError(f"{path}:1: a JSON list that is no n-way line: {short(found)}")
    return _object(path, found)


def _object(path: Path, found: dict[str, Any]) -> str:
    if {"qid", "pos", "neg"} <= found.keys():
        return "hard_negatives"
    if {"query_id", "query", "positive_passages"} <= found.keys():
        return "annotated"
    if any(found.keys() >= set(keys) for keys in TRIPLE_KEYS):
        return "triples_jsonl"
    if shape_of(frozenset(found)):
        return "texts_jsonl"
    raise UserError(f"{path}:1: no known format has the keys {', '.join(map(str, found))[:200]}")


def _tsv(path: Path, lines: Sequence[str]) -> str:
    if tuple(lines[0].split("\t")) == BEIR_HEADER:
        return "qrels"
    widths = {line.count("\t") + 1 for line in lines}
    blanks = [_BLANKS.split(line.strip(" \t")) for line in lines]
    if all(len(columns) == 4 and _NUMBER.fullmatch(columns[3]) for columns in blanks):
        return _four(path, blanks)
    if all(len(columns) == 6 for columns in blanks) and {columns[1] for columns in blanks} == {"Q0"}:
        raise UserError(f"{path} is a TREC run (six columns): it is evaluated, not read as data")
    if widths == {2}:
        return "texts"
    if widths == {3}:
        return _three(path, [line.split("\t") for line in lines])
    found = " and ".join(str(width) for width in sorted(widths)[:5])
    raise UserError(f"{path}: no known format has lines of {found} tab-separated fields; it starts {short(lines[0])}")


def _four(path: Path, rows: Sequence[Sequence[str]]) -> str:
    iterations = {row[1] for row in rows} <= {"0", "Q0"}
    whole = all(_WHOLE.fullmatch(row[3]) for row in rows)
    if iterations and whole:
        return "qrels"
    if not iterations and not whole:
        return "margins"
    raise UserError(
        f"{path}: four columns that could be qrels (query 0 passage relevance) or GPL's margins: name its format"
    )


def _three(path: Path, rows: Sequence[Sequence[str]]) -> str:
    if all(_WHOLE.fullmatch(field) for row in rows for field in row):
        return "id_triples"
    if any(" " in field for row in rows for field in row) or any(not field.isascii() for row in rows for field in row):
        return "text_triples"
    raise UserError(f"{path}: three columns that could be ids or texts of one word: name its format")
