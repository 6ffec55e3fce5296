"""Passages of the user's own: `id<TAB>text` (.tsv) or one {"id", "text", "lang"} object a line (.jsonl)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from colbertxm.errors import MissingExtra, UserError
from colbertxm.identify import identify
from colbertxm.languages import language
from colbertxm.records import Text

TO_GUESS = ""  # the language of a line until `identify` has named one; no text leaves this file with it


def read_corpus(path: Path, langs: Sequence[str], candidates: Sequence[str] | None = None) -> list[Text]:
    """All passages of a file. A .tsv names no language, so `langs` must name exactly one; in a .jsonl every line
    may name its own. With `candidates` (lang=auto) a line that names none is read as the likeliest of these, on its
    own text alone. Raises UserError with file and line for what cannot be read; no line is skipped."""
    if path.suffix not in (".tsv", ".jsonl"):
        raise UserError(f"corpus={str(path)!r}: give smart_home, a .tsv file or a .jsonl file")
    if len(langs) > 1:
        raise UserError(f"{path} needs one language, langs has {len(langs)}: put `lang` into each line of a .jsonl")
    default = language(langs[0]).code if langs else None
    if candidates is not None:
        default = TO_GUESS
    found: dict[str, Text] = {}
    for number, line in _lines(path):
        text = _tsv(line, default, f"{path}:{number}") if path.suffix == ".tsv" else _json(line, default, path, number)
        if text.lang == TO_GUESS:
            text = _identified(text, candidates or (), f"{path}:{number}")
        if text.id in found:
            raise UserError(f"{path}:{number}: the id {text.id!r} stands here a second time: ids must be unique")
        found[text.id] = text
    if not found:
        raise UserError(f"{path} holds no passage")
    return list(found.values())


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines without their ends. Only LF and CRLF end a line: str.splitlines would cut at U+2028 too."""
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
                line = line.removesuffix(b"\n").removesuffix(b"\r")
                if line:
                    yield number, line.decode("utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason} in line {number}): is it a binary file?") from None


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
        record = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error})") from None
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
