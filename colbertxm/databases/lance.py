"""LanceDB: a table with a column of several vectors a row, and their mean as a first stage.

LanceDB compares multivectors by cosine; ours have length one, so that is MaxSim. The first stage finds candidates by
their means, the second ranks these by their token vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from colbertxm.databases.passages import Array, Passage, pooled
from colbertxm.errors import MissingExtra, UserError

TOKENS, MEAN = "tokens", "mean"
T = TypeVar("T")


class Lance:
    """A table in the folder `path` or at `url` (s3://, gs://, db://, whose keys are in the environment); made where it
    is not there. Raises UserError for a table of another shape."""

    def __init__(self, collection: str, dim: int, path: str | None = None, url: str | None = None) -> None:
        try:
            import lancedb
            import pyarrow
        except ImportError:
            raise MissingExtra("lancedb", "lancedb") from None
        if (path is None) == (url is None):
            raise UserError("to=lancedb needs path=FOLDER or url=s3://... (or gs://, db://), one of them")
        self.arrow, self.dim, self.where = pyarrow, dim, url or path
        pa = pyarrow
        one = pa.list_(pa.float32(), dim)
        self.schema = pa.schema(
            [("id", pa.string()), ("lang", pa.string()), ("text", pa.string()), (TOKENS, pa.list_(one)), (MEAN, one)]
        )
        database = self._try(lambda: lancedb.connect(str(self.where)))
        try:
            self.table: Any = database.open_table(collection)
        except (ValueError, FileNotFoundError):  # it is not there
            self.table = self._try(lambda: database.create_table(collection, schema=self.schema))
        if not self.table.schema.equals(self.schema):
            raise UserError(
                f"the table {collection!r} at {self.where} has other columns than vectors of {dim} dimensions as "
                f"{TOKENS!r} and {MEAN!r}: name another with collection=..."
            )

    def write(self, passages: Sequence[Passage]) -> None:
        pa = self.arrow
        flat = np.concatenate([p.vectors for p in passages]).astype(np.float32)
        ends = np.cumsum([0, *(len(p.vectors) for p in passages)]).astype(np.int32)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), self.dim)
        means = np.concatenate([p.mean for p in passages]).astype(np.float32)
        columns = [
            pa.array([p.id for p in passages]),
            pa.array([p.lang for p in passages]),
            pa.array([p.text for p in passages]),
            pa.ListArray.from_arrays(ends, vectors),
            pa.FixedSizeListArray.from_arrays(pa.array(means), self.dim),
        ]
        rows = pa.Table.from_arrays(columns, schema=self.schema)
        merge = self.table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        self._try(lambda: merge.execute(rows))

    def finish(self) -> None:
        """Indexes by which languages are told apart and passages found by id."""
        from lancedb.index import Bitmap, BTree

        self._try(lambda: self.table.create_index("lang", config=Bitmap(), replace=True))
        self._try(lambda: self.table.create_index("id", config=BTree(), replace=True))
        self._try(self.table.optimize)

    def count(self) -> int:
        return int(self._try(self.table.count_rows))

    def search(self, query: Array, k: int, candidates: int, lang: str | None = None) -> list[tuple[str, float]]:
        asked = self.table.search(pooled(query), vector_column_name=MEAN).distance_type("dot").limit(candidates)
        if lang is not None:
            asked = asked.where(f"lang = {_quoted(lang)}", prefilter=True)
        rows = self._try(lambda: asked.select(["id", TOKENS, "_distance"]).to_arrow())
        ids, column = rows["id"].to_pylist(), rows[TOKENS].combine_chunks()
        ends = column.offsets.to_numpy()
        flat = np.asarray(column.values.flatten()).reshape(-1, self.dim)[: int(ends[-1]) - int(ends[0])]
        if not ids:
            return []
        best = np.maximum.reduceat(flat @ query.T, ends[:-1] - ends[0]).sum(1)
        order = np.argsort(-best, kind="stable")[:k]
        return [(ids[n], float(best[n])) for n in order.tolist()]

    def close(self) -> None:
        """Nothing is held."""

    def _try(self, call: Callable[[], T]) -> T:
        """`call`, with what the database refuses as one line."""
        try:
            return call()
        except (RuntimeError, ValueError, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"lancedb at {self.where} refuses: {reason}; see to it, then export again") from None


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
