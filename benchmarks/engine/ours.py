"""Our engines, measured as the peers are: the same job, a process of their own.

`python -m benchmarks.engine.ours JOB` is the script of the exhaustive engine: float32 vectors as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.engine.engines import Engine
from benchmarks.engine.peers import common
from colbertxm.engine.exact import ExactEngine

EXACT = Engine("colbertxm, exhaustive float32", "benchmarks.engine.ours")
BITS = (2, 4, 8)
BUDGETS = (128, 256, 512)


def compressed(bits: int, budgets: Sequence[int] = BUDGETS) -> Engine:
    """Our compressed engine, searched with each of the budgets."""
    settings = tuple({"name": f"budget {budget}", "budget": budget} for budget in budgets)
    return Engine(f"colbertxm, {bits} bits", "benchmarks.engine.compressed", settings, {"bits": bits})


def ours(budgets: Sequence[int] = BUDGETS) -> list[Engine]:
    """Each of our engines."""
    return [EXACT, *(compressed(bits, budgets) for bits in BITS)]


def build(corpus: common.Corpus, folder: Path, options: dict[str, Any]) -> None:
    """The vectors and where each document begins."""
    np.save(folder / "vectors.npy", corpus.vectors)
    np.save(folder / "offsets.npy", corpus.offsets)


def opened(folder: Path, threads: int) -> common.Searcher:
    """Read into memory."""
    torch.set_num_threads(threads)
    offsets = torch.from_numpy(np.load(folder / "offsets.npy"))
    names = [str(number) for number in range(len(offsets) - 1)]
    return asked(ExactEngine(torch.from_numpy(np.load(folder / "vectors.npy")), offsets, names, ["en"] * len(names)))


def asked(engine: Any, **fixed: Any) -> common.Searcher:
    """One query at a time of `engine`, whose ids are the documents' numbers."""

    def search(query: np.ndarray, k: int, arguments: dict[str, Any]) -> list[int]:
        ((ids, _),) = engine.search([torch.from_numpy(query)], k, **fixed, **arguments)
        return [int(name) for name in ids]

    return search


if __name__ == "__main__":
    common.main(build, opened)
