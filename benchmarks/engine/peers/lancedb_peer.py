"""LanceDB: a column of several vectors a row, IVF_PQ over all of them, the vectors themselves beside it.

Threads are held down by the number of processors that the process may use.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import common
import lancedb
import numpy as np
import pyarrow as pa

TABLE = "documents"


def build(corpus: common.Corpus, folder: Path, options: dict[str, Any]) -> None:
    """Several vectors a row are searched by cosine alone; ours have length one."""
    flat = pa.FixedSizeListArray.from_arrays(pa.array(corpus.vectors.reshape(-1)), corpus.vectors.shape[1])
    column = pa.ListArray.from_arrays(pa.array(corpus.offsets.astype(np.int32)), flat)
    rows = pa.table({"id": pa.array(np.arange(len(column))), "vector": column})
    table = lancedb.connect(str(folder)).create_table(TABLE, rows)
    table.create_index(metric="cosine", index_type="IVF_PQ", vector_column_name="vector", **options)


def opened(folder: Path, threads: int) -> common.Searcher:
    """Arguments of a setting are methods of its query."""
    table = lancedb.connect(str(folder)).open_table(TABLE)

    def search(query: np.ndarray, k: int, arguments: dict[str, Any]) -> list[int]:
        asked = table.search(query, vector_column_name="vector").limit(k).select(["id"])
        for name, value in arguments.items():
            asked = getattr(asked, name)(value)
        return asked.to_arrow()["id"].to_pylist()

    return search


if __name__ == "__main__":
    common.main(build, opened)
