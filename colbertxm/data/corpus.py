"""The user's own passages: `id<TAB>text` (.tsv) or one {"id", "text", "lang"} object a line (.jsonl), or their .gz."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from colbertxm.data.formats.fields import value
from colbertxm.data.formats.lines import NAMED, Refused, read_lines
from colbertxm.errors import MissingExtra, UserError
from colbertxm.identify import identify
from colbertxm.languages import language
from colbertxm.records import Text

TO_GUESS = ""  # the language of a line until `identify` has named one; no text leaves this file with it


def read_corpus(path: Path, langs: Sequence[str], candidates: Sequence[str] | None = None) -> list[Text]:
    """All passages of a file. A .tsv names no language, so `langs` must name exactly one; in a .jsonl every line
    may name its own. With `candidates` (lang=auto) a line that names none is read as the likeliest of these, on its
    own text alone. Raises UserError with file and line for what cannot be read; no line is skipped."""
    kind = path.with_suffix("").suffix if path.suffix in NAMED else path.suffix
    if kind not in (".tsv", ".jsonl"):
        raise UserError(f"corpus={str(path)!r}: give smart_home, a .tsv file or a .jsonl file (.gz and .zst will do)")
    if len(langs) > 1:
        raise UserError(f"{path} needs one language, langs has {len(langs)}: put `lang` into each line of a .jsonl")
    default = language(langs[0]).code if langs else None
    if candidates is not None:
        default = TO_GUESS
    found: dict[str, Text] = {}
    for number, line in read_lines(path):
        text = _tsv(line, default, f"{path}:{number}") if kind == ".tsv" else _json(line, default, path, number)
        if text.lang == TO_GUESS:
            text = _identified(text, candidates or (), f"{path}:{number}")
        if text.id in found:
            raise UserError(f"{path}:{number}: the id {text.id!r} stands here a second time: ids must be unique")
        found[text.id] = text
    if not found:
        raise UserError(f"{path} holds no passage")
    return list(found.values())


def _tsv(line: str, lang: str | None, where: str) -> Text:
    if lang is None:
        raise UserError(f"{where}: a .tsv does not say its language: give langs=[en], or lang=auto")
    fields = line.split("\t")
    if len(fields) != 2 or not fields[0]:
        raise UserError(f"{where}: expected id<TAB>text, found {len(fields)} fields")
    return Text(fields[0], fields[1], lang)


def _json(line: str, lang: str | None, path: Path, number: int) -> Text:
    where = f"{path}:{number}"
    try:
        record = value(line)
    except Refused as refused:
        raise UserError(f"{where}: {refused}") from None
    if not isinstance(record, dict) or not isinstance(record.get("text"), str) or "id" not in record:
        raise UserError(f'{where}: expected {{"id": ..., "text": "...", "lang": "en"}}')
    named = record.get("lang", lang)
    if not isinstance(named, str):
        raise UserError(
            f"{where}: no language: add `lang` to the line, or give langs=[en] for the whole file, or lang=auto"
        )
    code = TO_GUESS if lang == TO_GUESS and "lang" not in record else language(named).code
    return Text(str(record["id"]), record["text"], code)


def _identified(text: Text, candidates: Sequence[str], where: str) -> Text:
    try:
        guess = identify([text.text], candidates)[0]
    except MissingExtra:
        raise
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return Text(text.id, text.text, guess.lang, guess.confidence)
