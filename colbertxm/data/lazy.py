"""A corpus as a sequence of texts: in memory where it is small, else by memory map out of a store built once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

from filelock import FileLock

from colbertxm.data.formats.jsonl import read_texts_jsonl
from colbertxm.data.formats.lines import NAMED
from colbertxm.data.formats.tsv import read_texts
from colbertxm.data.store import Store
from colbertxm.data.store_build import build_store, build_store_from_tsv
from colbertxm.errors import UserError
from colbertxm.files import MANIFEST
from colbertxm.records import Text
from colbertxm.sources import cache_folder

SMALL = 64 << 20
"""Bytes of files up to which a corpus is held in memory: 8.8 million Text objects would take some 5 GB."""


class StoredTexts(Sequence[Text]):
    """The texts of a store's language, in the order of its rows, each made when it is asked for."""

    def __init__(self, store: Store, lang: str) -> None:
        self.store, self.lang = store, lang

    def __len__(self) -> int:
        return len(self.store)

    @overload
    def __getitem__(self, at: int) -> Text: ...
    @overload
    def __getitem__(self, at: slice) -> list[Text]: ...
    def __getitem__(self, at: int | slice) -> Text | list[Text]:
        rows = range(len(self))[at]
        return self.store.texts([rows], self.lang)[0] if isinstance(rows, int) else self.store.texts(rows, self.lang)

    def __iter__(self) -> Iterator[Text]:
        return iter(self.store.all(self.lang))

    def has(self, id: str) -> bool:
        """Whether a passage has this id."""
        return id in self.store


def lacks(passages: Sequence[Text], ids: Iterable[str]) -> list[str]:
    """Those of `ids` that no passage has."""
    if isinstance(passages, StoredTexts):
        return [id for id in ids if not passages.has(id)]
    there = {passage.id for passage in passages}
    return [id for id in ids if id not in there]


def read_passages(files: Sequence[Path], lang: str, small: int | None = None) -> Sequence[Text]:
    """The passages of `files` (.tsv or .jsonl, plain or compressed), all of one language and one collection. Beyond
    `small` bytes (None: SMALL) they go into a store in the cache first, once for the same files. Raises UserError by
    file and line for what cannot be read."""
    if sum(path.stat().st_size for path in files) <= (SMALL if small is None else small):
        return tuple(_rows(files, lang))
    named = "\n".join(f"{path.resolve()}\t{path.stat().st_size}\t{path.stat().st_mtime_ns}" for path in files)
    folder = cache_folder() / "collections" / "stores" / f"{lang}-{hashlib.sha256(named.encode()).hexdigest()[:16]}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {folder.parent}: {error.strerror}; set COLBERTXM_CACHE to a folder") from None
    with FileLock(f"{folder}.lock"):
        if not (folder / MANIFEST).exists():
            if len(files) == 1 and files[0].name.endswith((".tsv", ".tsv.gz")):
                build_store_from_tsv(folder, lang, files[0])
            else:
                build_store(folder, lang, _rows(files, lang))
    return StoredTexts(Store(folder, lang), lang)


def _rows(files: Sequence[Path], lang: str) -> Iterable[Text]:
    plain = {path.with_suffix("").suffix if path.suffix in NAMED else path.suffix for path in files}
    if plain == {".tsv"}:
        return read_texts(list(files), lang)
    if plain <= {".jsonl", ".json"}:
        return read_texts_jsonl(list(files), lang)
    raise UserError(f"{files[0]}: a corpus is a .tsv (id<TAB>text) or a .jsonl file, or their .gz or .zst")
