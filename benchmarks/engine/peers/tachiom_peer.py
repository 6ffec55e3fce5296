"""tachiom: clusters per kind of token, product quantization, a graph over the centroids; Rust.

Threads are held down by the number of processors that the process may use: a single query has no argument for them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import common
import numpy as np
import tachiom

FILE = "index.bin"
NOBODY = np.iinfo(np.uint32).max
"""Where fewer documents than k were found."""


def build(corpus: common.Corpus, folder: Path, options: dict[str, Any]) -> None:
    """It takes float16, as uint16."""
    if corpus.tokens is None:
        raise SystemExit("the folder of vectors has no tokens, which tachiom builds clusters from")
    vectors = corpus.vectors.astype(np.float16).view(np.uint16)
    lengths = np.diff(corpus.offsets).astype(np.int32)
    tachiom.Tachiom.build_from_arrays(vectors, corpus.tokens, lengths, **options).save(str(folder / FILE))


def opened(folder: Path, threads: int) -> common.Searcher:
    """Read the index into memory."""
    index = tachiom.Tachiom.load(str(folder / FILE))

    def search(query: np.ndarray, k: int, arguments: dict[str, Any]) -> list[int]:
        _, numbers = index.search(query, k=k, **arguments)
        return [number for number in numbers.tolist() if number != NOBODY]

    return search


if __name__ == "__main__":
    common.main(build, opened)
