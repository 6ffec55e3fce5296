"""Write a store: from any texts, or fast from a huge `id<TAB>text` file. Both give the same bytes for the same rows.

The first language of a folder makes the table of ids; each further one must have the same ids (in any order, some may
be missing). Memory: a few blocks and up to 32 bytes a text, whatever the texts' length. A language is there entirely or
not at all; what a killed build leaves behind goes when the next one starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colbertxm.data.blocks import Positions, read_fields
from colbertxm.data.ids import UNKNOWN, IdCollector, offsets_of
from colbertxm.data.store import STORE, Store
from colbertxm.errors import UserError
from colbertxm.files import MANIFEST, DataFile, publish, read_manifest, write_array, writing
from colbertxm.languages import language
from colbertxm.records import Text

CHUNK = 10_000  # texts taken from an iterable at a time
FORBIDDEN = b"\0\t\n"  # in an id: files of ids could not carry it


@dataclass(frozen=True)
class Rows:
    """Some texts: their ids raw[starts[i] : ends[i]], their bytes end to end, and the bytes of each."""

    raw: bytes
    starts: Positions
    ends: Positions
    texts: bytes
    lengths: Positions


def build_store(folder: Path | str, lang: str, texts: Iterable[Text]) -> Store:
    """Add `texts`, all in `lang`, to the store in `folder` (a new one where there is none) and open it there. Raises
    UserError for a repeated or unknown id, another language, and what UTF-8 cannot carry."""
    code = language(lang).code
    return _build(Path(folder), code, _rows_of_texts(texts, code), lambda n: f"text {n + 1}")


def build_store_from_tsv(folder: Path | str, lang: str, path: Path | str) -> Store:
    """As `build_store`, from a file of `id<TAB>text` lines (.tsv or .tsv.gz), hundreds of MB a second. Raises
    UserError with file and line for what cannot be read: an empty line, a tab in a text, an empty id, NUL, bytes that
    are not UTF-8, a repeated or unknown id. An empty text is a text."""
    path = Path(path)
    return _build(Path(folder), language(lang).code, _rows_of_file(path), lambda n: f"{path}:{n + 1}")


def _rows_of_texts(texts: Iterable[Text], lang: str) -> Iterator[Rows]:
    texts, before = iter(texts), 0
    while chunk := list(islice(texts, CHUNK)):
        ids, contents = [], []
        for number, text in enumerate(chunk, before + 1):
            if text.lang != lang:
                raise UserError(f"text {number} ({text.id!r}) is in {text.lang!r}, not in {lang!r}: give one language")
            ids.append(_encoded(text.id, f"the id of text {number}"))
            contents.append(_encoded(text.text, f"text {number} ({text.id!r})"))
            if not text.id or any(byte in FORBIDDEN for byte in ids[-1]):
                raise UserError(f"text {number} has the id {text.id!r}: an id has characters, but no tab or line end")
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        ends = np.cumsum(lengths + 1) - 1
        sizes = np.fromiter(map(len, contents), np.int64, len(contents))
        yield Rows(b"\n".join(ids) + b"\n", ends - lengths, ends, b"".join(contents), sizes)
        before += len(chunk)


def _encoded(text: str, what: str) -> bytes:
    try:
        encoded = text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{what} cannot be written as UTF-8 ({error.reason}): mend it") from None
    if b"\0" in encoded:
        raise UserError(f"{what} holds a NUL character: mend it")
    return encoded


def _rows_of_file(path: Path) -> Iterator[Rows]:
    for block in read_fields(path, columns=2):
        if len(empty := np.flatnonzero(block.starts[:, 0] == block.ends[:, 0])):
            raise UserError(f"{block.where(int(empty[0]))}: the id is empty: expected id<TAB>text")
        starts, ends = block.starts[:, 1], block.ends[:, 1]
        view = memoryview(block.raw)
        texts = b"".join([view[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)])
        yield Rows(block.raw, block.starts[:, 0], block.ends[:, 0], texts, ends - starts)


def _build(folder: Path, lang: str, blocks: Iterable[Rows], where: Callable[[int], str]) -> Store:
    with writing(folder, STORE):
        manifest: dict[str, Any] = {"ids": "", "texts": 0, "languages": {}, "files": {}}
        old = Store(folder) if (folder / MANIFEST).exists() else None
        if old is not None:
            manifest = read_manifest(folder, STORE)
            if lang in old.languages:
                raise UserError(f"{folder} has texts in {lang!r} already: remove the folder to build it anew")
        texts = DataFile(folder, f"texts-{lang}")
        try:
            ids: IdCollector | _KnownIds = IdCollector(folder) if old is None else _KnownIds(old, where)
            lengths = [_take(rows, ids, texts) for rows in blocks]
            if not lengths:
                raise UserError(f"there is no text in {lang!r} to build {folder} from: the source is empty")
            kind, files, rows = ids.finish(where)
            count = ids.count if old is None else len(old)
            files[f"texts-{lang}"] = texts.finish()
        finally:
            texts.discard()
        files[f"offsets-{lang}"] = write_array(folder, f"offsets-{lang}", offsets_of(lengths))
        if rows is not None:
            files[f"rows-{lang}"] = write_array(folder, f"rows-{lang}", _places(rows, count))
        languages = {**manifest["languages"], lang: ids.count}
        content = {"ids": kind, "texts": count, "languages": languages}
        publish(folder, STORE, content, {**manifest["files"], **files})
    return Store(folder, lang)


def _take(rows: Rows, ids: IdCollector | _KnownIds, texts: DataFile) -> Positions:
    ids.add(rows.raw, rows.starts, rows.ends)
    texts.write(rows.texts)
    return rows.lengths


def _places(rows: NDArray[np.int32], count: int) -> NDArray[np.int32]:
    """[count]: which of the texts with these rows each row has, -1 for none."""
    places = np.full(count, UNKNOWN, np.int32)
    places[rows] = np.arange(len(rows), dtype=np.int32)
    return places


class _KnownIds:
    """As `IdCollector`, for a further language: looks the ids up in the table that is there."""

    def __init__(self, store: Store, where: Callable[[int], str]) -> None:
        self.store, self.where, self.count = store, where, 0
        self._rows: list[NDArray[np.int32]] = []

    def add(self, raw: bytes, starts: Positions, ends: Positions) -> None:
        rows = self.store.ids.rows(raw, starts, ends)
        if len(unknown := np.flatnonzero(rows == UNKNOWN)):
            n = int(unknown[0])
            id = raw[starts[n] : ends[n]].decode("utf-8", "replace")
            raise UserError(
                f"{self.where(self.count + n)}: the id {id!r} is not among those of {self.store.folder} "
                f"({self.store.languages[0]!r} came first): languages share their ids"
            )
        self._rows.append(rows.astype(np.int32))
        self.count += len(rows)

    def finish(self, where: Callable[[int], str]) -> tuple[str, dict[str, Any], NDArray[np.int32] | None]:
        rows = np.concatenate(self._rows)
        places = _places(rows, len(self.store))
        if len(twice := np.flatnonzero(places[rows] != np.arange(len(rows)))):
            first = int(twice[0])
            second = first + 1 + int(np.flatnonzero(rows[first + 1 :] == rows[first])[0])
            raise UserError(
                f"{where(second)}: the id {self.store.ids.id(int(rows[first]))!r} stands here a second time, "
                f"first at {where(first)}: ids must be unique"
            )
        in_order = len(rows) == len(self.store) and bool((places == np.arange(len(rows))).all())
        return self.store.ids.kind, {}, None if in_order else rows
