"""What each trick of the compressed engine is worth: `python benchmarks/engine/tricks.py` (a few minutes).

Prints, on generated vectors of another seed than `make bench-engine` uses (settings were chosen on these): the codes'
error on normal numbers, the short way to the nearest centroid beside faiss' long one, and recall and time with and
without the document's mean and the early end of reranking.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.engine.oracle import truth
from benchmarks.engine.peers import common
from benchmarks.engine.vectors import Shape, make
from colbertxm.engine import compressed, trellis
from colbertxm.engine.compressed import CompressedEngine
from colbertxm.engine.index import CompressedIndex
from colbertxm.engine.kmeans import Centroids, kmeans, number_of_centroids
from colbertxm.sources import cache_folder

SHAPE = Shape(5000, 200, 1)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def codes() -> None:
    """Mean squared error on normal numbers: uniform levels, as many as the bits give, beside the trellis."""
    sample = np.random.default_rng(0).standard_normal((500, 128)).astype(np.float32)
    for width in range(1, 6):
        steps = [2 * reach / 2**width for reach in np.linspace(1, 6, 51)]
        half = 2**width // 2
        uniform = min(
            float(((np.clip(np.floor(sample / s), -half, half - 1) + 0.5) * s - sample).__pow__(2).mean())
            for s in steps
        )
        print(f"{width} bits: uniform {uniform:.4f}, trellis {trellis.ERRORS[width]:.4f}, bound {4.0**-width:.4f}")


def centroids(corpus: common.Corpus) -> None:
    """Squared error and seconds of k-means and assignment."""
    import faiss

    vectors = torch.from_numpy(corpus.vectors)
    k = number_of_centroids(len(vectors))
    sample = vectors[torch.randperm(len(vectors), generator=torch.Generator().manual_seed(0))[: 10 * k]]
    for name, train in (
        ("two levels", lambda: kmeans(sample, k, rounds=5)),
        ("faiss", lambda: _faiss(faiss, sample, k)),
    ):
        seconds, found = timed(train)
        search: Callable[[], torch.Tensor] = (
            (lambda found=found: Centroids(found).nearest(vectors))
            if name != "faiss"
            else (lambda found=found: _faiss_nearest(faiss, found, vectors))
        )
        more, owner = timed(search)
        error = float((vectors - found[owner]).square().sum(1).mean())
        print(f"{name}: squared error {error:.4f}, k-means {seconds:.1f} s, assignment {more:.1f} s")


def _faiss(faiss: Any, sample: torch.Tensor, k: int) -> torch.Tensor:
    trained = faiss.Kmeans(sample.shape[1], k, niter=5, seed=0, max_points_per_centroid=10, min_points_per_centroid=1)
    trained.train(sample.numpy())
    return torch.from_numpy(trained.centroids)


def _faiss_nearest(faiss: Any, found: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    index = faiss.IndexFlatL2(found.shape[1])
    index.add(found.numpy())
    return torch.from_numpy(index.search(vectors.numpy(), 1)[1][:, 0])


def searches(folder: Path) -> None:
    """Recall@10 and milliseconds a query at 4 bits: as it is, and without one trick each."""
    from benchmarks.engine.compressed import build

    torch.set_num_threads(1)
    queries = [torch.from_numpy(query) for query in common.queries(folder, 100)]
    true = truth(folder, 100, 10)
    with TemporaryDirectory() as work:
        build(common.load(folder), Path(work), {"bits": 4})
        index = CompressedIndex(work)
        plain = index.engine
        hasty = CompressedEngine(plain.codec, plain.parts, plain.ids, plain.langs, slacks=(np.inf, np.inf, np.inf))
        for name, engine, weight in (("as it is", plain, 0.5), ("all decoded", hasty, 0.5), ("no mean", plain, 0.0)):
            compressed.MEAN_WEIGHT = np.float32(weight)
            for budget in (64, 128, 256, 512):
                taken, right = [], 0
                for query, wanted in zip(queries, true, strict=True):
                    seconds, hits = timed(lambda q=query, e=engine, b=budget: e.search([q], 10, budget=b, threads=1))  # type: ignore[misc]
                    taken.append(seconds)
                    right += len({int(name) for name in hits[0][0]} & set(wanted[:10].tolist()))
                recall, ms = right / 10 / len(queries), 1000 * float(np.median(taken))
                print(f"{name}, budget {budget}: recall@10 {recall:.3f}, {ms:.1f} ms")


def main() -> None:
    """All of it."""
    folder = make(cache_folder() / "engine" / f"vectors-{SHAPE.documents}-{SHAPE.seed}", SHAPE)
    codes()
    centroids(common.load(folder))
    searches(folder)


if __name__ == "__main__":
    main()
