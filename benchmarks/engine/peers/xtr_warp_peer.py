"""xtr-warp-rs: WARP in Rust (inverted lists of quantized residuals, scores of unseen vectors imputed)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from xtr_warp import XTRWarp


def build(corpus: common.Corpus, folder: Path, options: dict[str, Any]) -> None:
    """Everything at its default."""
    documents = [torch.from_numpy(document) for document in corpus.documents()]
    XTRWarp(index=str(folder)).create(embeddings_source=documents, device="cpu", **options)


def opened(folder: Path, threads: int) -> common.Searcher:
    """Its default number of threads is one, whatever torch has."""
    torch.set_num_threads(threads)
    index = XTRWarp(index=str(folder))
    index.load(device="cpu", dtype=torch.float32)

    def search(query: np.ndarray, k: int, arguments: dict[str, Any]) -> list[int]:
        found = index.search(
            queries_embeddings=torch.from_numpy(query[None]), top_k=k, num_threads=threads, **arguments
        )
        return [number for number, _ in found[0]]

    return search


if __name__ == "__main__":
    common.main(build, opened)
