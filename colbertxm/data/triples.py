"""Training triples as int32 rows on disk, read by memory map: a training process holds the batch that it is at.

manifest.json        sizes, checksums, and which ids the rows mean (the stores' fingerprints)
rows-<sha>.npy       [n, 1 + k] int32: the query's row in its store, then the rows of k passages, the positive first
scores-<sha>.npy     [n, k] float32: a teacher's scores of the passages; absent where there are none
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from colbertxm.data.blocks import read_fields
from colbertxm.data.ids import UNKNOWN
from colbertxm.data.store import Store
from colbertxm.errors import UserError
from colbertxm.files import (
    DataFile,
    Entry,
    Kind,
    check_sizes,
    damaged,
    map_array,
    npy_header,
    publish,
    read_manifest,
    verify,
    writing,
)
from colbertxm.records import Triple

TRIPLES = Kind("colbertxm-triples", 1, "set of triples", "build it again from its source")
Rows = NDArray[np.int32]
Scores = NDArray[np.float32]
Langs = str | Sequence[str] | None


class Triples:
    """n triples by index, each with k passages. Opening takes milliseconds, whatever n is. Can be sent to other
    processes. Raises UserError where the folder holds no triples, or damaged ones, or not those of these stores."""

    def __init__(self, folder: Path | str, queries: Store, passages: Store) -> None:
        self.folder, self.queries, self.passages = Path(folder), queries, passages
        manifest = read_manifest(self.folder, TRIPLES)
        check_sizes(self.folder, TRIPLES, manifest)
        for role, store in (("queries", queries), ("passages", passages)):
            if manifest[role] != store.fingerprint:
                raise UserError(
                    f"{self.folder} was made for other {role} than those of {store.folder}: name that store, or "
                    f"build the triples again"
                )
        self.count, self.width = manifest["triples"], manifest["passages_each"]
        files = manifest["files"]
        self._rows: Rows = map_array(self.folder, TRIPLES, files["rows"], "<i4", (self.count, 1 + self.width))
        self._file: str = files["rows"]["file"]
        self._scores: Scores | None = None
        if "scores" in files:
            self._scores = map_array(self.folder, TRIPLES, files["scores"], "<f4", (self.count, self.width))

    def __len__(self) -> int:
        return self.count

    def __reduce__(self) -> tuple[Any, ...]:
        return Triples, (self.folder, self.queries, self.passages)

    @property
    def scored(self) -> bool:
        """Whether a teacher's scores lie beside the rows."""
        return self._scores is not None

    def rows(self, indices: ArrayLike) -> Rows:
        """[b, 1 + k]: the query's row and its passages' rows, of the triples `indices` [b]."""
        return self._rows[self._checked(indices)]

    def scores(self, indices: ArrayLike) -> Scores | None:
        """[b, k]: the teacher's scores of the passages, or None where there are none."""
        return None if self._scores is None else self._scores[self._checked(indices)]

    def read(self, indices: ArrayLike, query_langs: Langs = None, passage_langs: Langs = None) -> list[Triple]:
        """The triples `indices` [b] with their texts, in the stores' languages, in one that is named, or each in its
        own ([b]): the same ids with the text of another language are translate-train."""
        rows = self.rows(indices)
        if passage_langs is not None and not isinstance(passage_langs, str):
            passage_langs = [lang for lang in passage_langs for _ in range(self.width)]
        try:
            queries = self.queries.texts(rows[:, 0], query_langs)
            passages = self.passages.texts(rows[:, 1:].ravel(), passage_langs)
        except IndexError as error:
            raise damaged(self.folder / self._file, TRIPLES, f"has {error}") from error
        found = self.scores(indices)
        scores = [()] * len(queries) if found is None else [tuple(row) for row in found.tolist()]
        return [
            Triple(query, passages[start], tuple(passages[start + 1 : start + self.width]), own)
            for query, own, start in zip(queries, scores, range(0, len(passages), self.width), strict=True)
        ]

    def verify(self) -> None:
        """Read every byte and compare checksums. Raises UserError that names the damaged file."""
        verify(self.folder, TRIPLES)

    def _checked(self, indices: ArrayLike) -> NDArray[Any]:
        found = np.atleast_1d(np.asarray(indices, np.int64))
        if found.size and not (found.min() >= 0 and found.max() < self.count):
            raise IndexError(f"triples between {found.min()} and {found.max()}, but {self.folder} has {self.count}")
        return found


def write_triples(
    folder: Path | str, queries: Store, passages: Store, blocks: Iterable[ArrayLike | tuple[ArrayLike, ArrayLike]]
) -> Triples:
    """Write triples to `folder` and open them. Each block is rows [b, 1 + k] of the stores, or (rows, scores [b, k]);
    `to_rows` makes rows of ids. Raises UserError for blocks that do not fit each other, rows that the stores do
    not have, scores that are not finite, and a folder that holds triples already."""
    folder = Path(folder)
    with writing(folder, TRIPLES):
        if (folder / "manifest.json").exists():
            raise UserError(f"{folder} holds triples already: remove it to build them anew")
        written = _Written(folder, queries, passages)
        try:
            for block in blocks:
                rows, scores = block if isinstance(block, tuple) else (block, None)
                written.add(np.asarray(rows), None if scores is None else np.asarray(scores, np.float32))
            files = written.finish()
        finally:
            written.discard()
        content = {
            "triples": written.count,
            "passages_each": written.width,
            "queries": queries.fingerprint,
            "passages": passages.fingerprint,
        }
        publish(folder, TRIPLES, content, files)
    return Triples(folder, queries, passages)


def triples_from_tsv(folder: Path | str, queries: Store, passages: Store, path: Path | str) -> Triples:
    """As `write_triples`, from a file of `qid<TAB>pid<TAB>pid...` lines (.tsv or .tsv.gz), millions a second. Raises
    UserError with file and line for what cannot be read and for ids that the stores do not have."""
    return write_triples(folder, queries, passages, _rows_of_file(Path(path), queries, passages))


def to_rows(ids: ArrayLike, queries: Store, passages: Store) -> Rows:
    """Rows [b, 1 + k] of ids that are numbers [b, 1 + k]. Raises UserError for one that the stores do not have."""
    given = np.asarray(ids)
    rows = np.empty(given.shape, np.int32)
    rows[:, 0] = queries.ids.rows_of_integers(given[:, 0])
    rows[:, 1:] = passages.ids.rows_of_integers(given[:, 1:])
    for line, column in np.argwhere(rows == UNKNOWN)[:1].tolist():
        store = passages if column else queries
        raise UserError(f"triple {line}: the store {store.folder} has no id '{given[line, column]}'")
    return rows


def _rows_of_file(path: Path, queries: Store, passages: Store) -> Iterator[Rows]:
    text = "strings" in (queries.ids.kind, passages.ids.kind)
    for block in read_fields(path, text=text):
        if block.starts.shape[1] < 2:
            raise UserError(f"{block.where(0)}: expected query id, positive's id and negatives' ids between tabs")
        rows = np.empty(block.starts.shape, np.int32)
        rows[:, 0] = queries.ids.rows(block.raw, block.starts[:, 0], block.ends[:, 0])
        rows[:, 1:] = passages.ids.rows(block.raw, block.starts[:, 1:], block.ends[:, 1:])
        for line, column in np.argwhere(rows == UNKNOWN)[:1].tolist():
            store = passages if column else queries
            raise UserError(
                f"{block.where(line)}: the store {store.folder} has no id {block.field(line, column)!r} "
                f"({'passage' if column else 'query'}, field {column + 1})"
            )
        yield rows


class _Written:
    """The files of a set of triples while it grows block by block."""

    def __init__(self, folder: Path, queries: Store, passages: Store) -> None:
        self.folder, self.count, self.width = folder, 0, 0
        self.queries, self.passages = queries, passages
        self._rows = DataFile(folder, "rows", ".npy")
        self._scores: DataFile | None = None

    def add(self, rows: NDArray[Any], scores: Scores | None) -> None:
        if rows.ndim != 2 or rows.shape[1] < 2 or not np.issubdtype(rows.dtype, np.integer):
            raise UserError(f"triples are whole numbers [b, 1 + k] with k >= 1, not {rows.dtype} {list(rows.shape)}")
        if not self.width:
            self._start(rows.shape[1] - 1, scores is not None)
        if rows.shape[1] != 1 + self.width or (scores is not None) != (self._scores is not None):
            raise UserError(f"triple {self.count}: all triples have as many passages, and all have scores or none")
        for role, column, store in (("query", rows[:, :1], self.queries), ("passage", rows[:, 1:], self.passages)):
            if column.size and not (column.min() >= 0 and column.max() < len(store)):
                raise UserError(
                    f"triples from {self.count} on have {role} rows between {column.min()} and {column.max()}, but "
                    f"{store.folder} has {len(store)}: are these ids? `to_rows` makes rows of them"
                )
        self._rows.write(rows.astype("<i4").tobytes())
        if scores is not None and self._scores is not None:
            if scores.shape != (len(rows), self.width) or not np.isfinite(scores).all():
                raise UserError(f"triples from {self.count} on: scores are finite numbers [b, k], one a passage")
            self._scores.write(scores.astype("<f4").tobytes())
        self.count += len(rows)

    def finish(self) -> dict[str, Entry]:
        if not self.count:
            raise UserError(f"there is no triple to build {self.folder} from: the source is empty")
        files = {"rows": self._rows.finish(npy_header("<i4", (self.count, 1 + self.width)))}
        if self._scores is not None:
            files["scores"] = self._scores.finish(npy_header("<f4", (self.count, self.width)))
        return files

    def discard(self) -> None:
        self._rows.discard()
        if self._scores is not None:
            self._scores.discard()

    def _start(self, width: int, scored: bool) -> None:
        self.width = width
        self._rows.write(npy_header("<i4", (0, 1 + width)))  # the number of rows is not known yet
        if scored:
            self._scores = DataFile(self.folder, "scores", ".npy")
            self._scores.write(npy_header("<f4", (0, width)))
