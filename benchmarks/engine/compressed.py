"""Our compressed engine as a script of `benchmarks.engine.run`: `python -m benchmarks.engine.compressed JOB`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.engine.peers import common
from colbertxm.engine.build import build_index
from colbertxm.engine.index import CompressedIndex, Document


def build(corpus: common.Corpus, folder: Path, options: dict[str, Any]) -> None:
    """An index of `options["bits"]` bits."""

    def documents(first: int) -> Iterator[Document]:
        for number in range(first, len(corpus.offsets) - 1):
            vectors = corpus.vectors[corpus.offsets[number] : corpus.offsets[number + 1]]
            yield Document(str(number), "en", torch.from_numpy(vectors))

    build_index(folder, documents, **options)


def opened(folder: Path, threads: int) -> common.Searcher:
    """Mapped from its files."""
    torch.set_num_threads(threads)
    engine = CompressedIndex(folder).engine

    def search(query: np.ndarray, k: int, arguments: dict[str, Any]) -> list[int]:
        ((ids, _),) = engine.search([torch.from_numpy(query)], k, threads=threads, **arguments)
        return [int(name) for name in ids]

    return search


if __name__ == "__main__":
    common.main(build, opened)
