"""Our compressed engine as a script of `benchmarks.engine.run`: `python -m benchmarks.engine.compressed JOB`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine.ours import asked
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
    return asked(CompressedIndex(folder).engine, threads=threads)


if __name__ == "__main__":
    common.main(build, opened)
