"""fast-plaid: PLAID in Rust (centroids, residuals of a few bits a dimension)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from fast_plaid.search import FastPlaid


def build(corpus: common.Corpus, folder: Path, options: dict[str, Any]) -> None:
    """Everything but the bits a dimension at its default."""
    documents = [torch.from_numpy(document) for document in corpus.documents()]
    FastPlaid(index=str(folder), device="cpu").create(documents_embeddings=documents, **options)


def opened(folder: Path, threads: int) -> common.Searcher:
    """One query is one process's work there; threads are torch's."""
    torch.set_num_threads(threads)
    index = FastPlaid(index=str(folder), device="cpu")

    def search(query: np.ndarray, k: int, arguments: dict[str, Any]) -> list[int]:
        found = index.search(torch.from_numpy(query[None]), top_k=k, show_progress=False, **arguments)
        return [number for number, _ in found[0]]

    return search


if __name__ == "__main__":
    common.main(build, opened)
