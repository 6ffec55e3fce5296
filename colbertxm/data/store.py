"""Texts by id, by memory map: queries or passages in any number of languages under the same ids.

    manifest.json              what is there, with sizes and checksums (`colbertxm.files`)
    texts-<lang>-<sha>.bin     UTF-8, end to end
    offsets-<lang>-<sha>.npy   [N + 1] uint64: text n lies between offsets[n] and offsets[n + 1]
    rows-<lang>-<sha>.npy      [N] int32: which text of the file a row has, -1 for none; absent where row n has text n
    ids ...                    one table for all languages (`colbertxm.data.ids`); none for the ids 0 ... N-1

Opening takes milliseconds and next to no memory, the pages that are read belong to the system, and all processes share
them. `colbertxm.data.store_build` writes stores.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from colbertxm.data.blocks import Positions
from colbertxm.data.ids import UNKNOWN, IdTable, map_bytes
from colbertxm.errors import UserError, nearest
from colbertxm.files import Kind, check_sizes, damaged, map_array, read_manifest, verify
from colbertxm.languages import language
from colbertxm.records import Text

STORE = Kind("colbertxm-texts", 1, "store of texts", "build it again from its source")


@dataclass
class Language:
    """The mapped files of one language."""

    code: str
    path: Path
    texts: mmap.mmap | bytes
    offsets: NDArray[np.uint64]
    rows: NDArray[np.int32] | None

    @cached_property
    def offset(self) -> memoryview:
        """The offsets one by one: a memoryview is quicker than an array."""
        return self.offsets.data


class Store:
    """N texts by row or id. `lang` is the language that is read where none is named; it may be left out where
    the store has one only. Can be sent to other processes, which open it themselves.

    Raises UserError where the folder holds no store, or a damaged one; only bytes that changed in the texts need
    `verify` to be found."""

    def __init__(self, folder: Path | str, lang: str | None = None) -> None:
        self.folder = Path(folder)
        self._manifest = read_manifest(self.folder, STORE)
        check_sizes(self.folder, STORE, self._manifest)
        self.languages: tuple[str, ...] = tuple(self._manifest["languages"])
        self.ids = IdTable(self.folder, STORE, self._manifest)
        self._opened: dict[str, Language] = {}
        self.lang = self._code(lang) if lang is not None else None

    def __len__(self) -> int:
        return self.ids.count

    def __contains__(self, id: str) -> bool:
        return self.ids.row(id) != UNKNOWN

    def __getitem__(self, id: str) -> Text:
        """The text of an id in the store's language. Raises UserError where there is none."""
        opened = self._default
        row = self.ids.row(id)
        return Text(id, self._read(opened, row if row >= 0 else self.row(id)), opened.code)

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.folder, self.lang)

    def row(self, id: str) -> int:
        """The row of an id. Raises UserError where the store has none."""
        if (row := self.ids.row(id)) == UNKNOWN:
            raise UserError(f"the store {self.folder} has no id {id!r}: was it built from another collection?")
        return row

    def texts(self, rows: ArrayLike, langs: str | Sequence[str] | None = None) -> list[Text]:
        """The texts of these rows [n], all in one language, or each in its own (`langs` [n])."""
        numbers = self._checked(rows)
        ids = self.ids.ids(numbers)
        if isinstance(langs, str) or langs is None:
            opened = self._language(langs)
            return list(map(Text, ids, self._strings(opened, numbers), repeat(opened.code)))
        each = zip(ids, numbers.tolist(), map(self._language, langs), strict=True)
        return [Text(id, self._read(opened, row), opened.code) for id, row, opened in each]

    def all(self, lang: str | None = None) -> Iterable[Text]:
        """All texts of a language in the rows' order; rows that it has no text for are left out."""
        opened = self._language(lang)
        rows = range(len(self)) if opened.rows is None else np.flatnonzero(opened.rows >= 0).tolist()
        return (Text(self.ids.id(row), self._read(opened, row), opened.code) for row in rows)

    def verify(self) -> None:
        """Read every byte and compare checksums. Raises UserError that names the damaged file."""
        verify(self.folder, STORE)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the ids and their rows: the same for two stores whose rows mean the same ids."""
        tables = {name: entry["sha256"] for name, entry in self._manifest["files"].items() if name.startswith("id")}
        return hashlib.sha256(json.dumps([self.ids.kind, len(self), tables], sort_keys=True).encode()).hexdigest()

    @cached_property
    def _default(self) -> Language:
        return self._language(None)

    def _checked(self, rows: ArrayLike) -> Positions:
        numbers = np.atleast_1d(np.asarray(rows, np.int64))
        if numbers.size and not (numbers.min() >= 0 and numbers.max() < len(self)):
            raise IndexError(f"rows between {numbers.min()} and {numbers.max()}, but {self.folder} has {len(self)}")
        return numbers

    def _strings(self, opened: Language, rows: Positions) -> list[str]:
        """As `_read` for many rows: looking all offsets up at once hides most of the memory's latency."""
        at = rows if opened.rows is None else opened.rows[rows]
        if len(at) and at.min() >= 0:
            starts, stops = opened.offsets[at], opened.offsets[at + 1]
            if (starts <= stops).all() and int(stops.max()) <= len(opened.texts):
                texts, spans = opened.texts, zip(starts.tolist(), stops.tolist(), strict=True)
                with contextlib.suppress(UnicodeDecodeError):
                    return [texts[a:b].decode() for a, b in spans]
        return [self._read(opened, row) for row in rows.tolist()]  # one of them is an error, which this tells

    def _read(self, opened: Language, row: int) -> str:
        at = row if opened.rows is None else int(opened.rows[row])
        if at < 0:
            raise UserError(f"{self.folder} has no text in {opened.code!r} for the id {self.ids.id(row)!r}: add it")
        start, stop = opened.offset[at], opened.offset[at + 1]
        if not start <= stop <= len(opened.texts):
            raise damaged(opened.path, STORE, f"has no bytes {start} to {stop} (damaged offsets)")
        try:
            return opened.texts[start:stop].decode()
        except UnicodeDecodeError:
            raise damaged(opened.path, STORE, f"is not UTF-8 between {start} and {stop}") from None

    def _language(self, lang: str | None) -> Language:
        if lang is None:
            lang = self.lang if self.lang is not None else self._only()
        if lang not in self._opened:
            code = self._code(lang)
            if code not in self._opened:
                self._opened[code] = self._open(code)
            self._opened[lang] = self._opened[code]
        return self._opened[lang]

    def _only(self) -> str:
        if len(self.languages) > 1:
            raise UserError(f"{self.folder} has texts in {', '.join(self.languages)}: say which one to read")
        return self.languages[0]

    def _code(self, lang: str) -> str:
        code = language(lang).code
        if code not in self.languages:
            raise UserError(
                f"{self.folder} has no texts in {code!r}{nearest(code, self.languages)}: it has "
                f"{', '.join(self.languages)}; add the language to it"
            )
        return code

    def _open(self, code: str) -> Language:
        files, count = self._manifest["files"], self._manifest["languages"][code]
        texts = self.folder / files[f"texts-{code}"]["file"]
        offsets = map_array(self.folder, STORE, files[f"offsets-{code}"], "<u8", (count + 1,))
        rows = None
        if f"rows-{code}" in files:
            rows = map_array(self.folder, STORE, files[f"rows-{code}"], "<i4", (len(self),))
        return Language(code, texts, map_bytes(texts), offsets, rows)
