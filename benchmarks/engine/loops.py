"""Nanoseconds of each hot loop of the compressed engine, one thread: `python -m benchmarks.engine.loops` (a minute).

The vectors are generated (seed 1, as in tricks.py); each figure is the least processor time of several rounds, which is
what the loop takes when nobody disturbs it. `rerank` is a whole search without a first stage, less making the query
ready.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
import torch

from benchmarks.engine.vectors import Shape, World, queries, shard
from benchmarks.record import row, write
from colbertxm.engine import kernels
from colbertxm.engine.codec import Codec, Codes, fit_codec
from colbertxm.engine.compressed import CompressedEngine, Part
from colbertxm.engine.kernels import LANES, Array

DOCUMENTS, SAMPLE = 500, 250  # searched, and of those seen by k-means
CENTROIDS = 8192
ROUNDS = 7


def least(work: Callable[[], Any], count: int, rounds: int) -> float:
    """Processor nanoseconds of `work()` for each of `count`; the first round, which may compile, is left out."""
    taken = []
    for _ in range(rounds + 1):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return 1e9 * min(taken[1:]) / count


@numba.njit(nogil=True)
def multiply(vectors: Array, query: Array, sums_x: Array, sums_y: Array) -> float:  # pragma: no cover - compiled
    """Two vectors at a time with the query; the sum keeps the compiler from leaving it out."""
    total = np.float32(0)
    for i in range(0, len(vectors) - 1, 2):
        kernels._multiply(vectors[i], vectors[i + 1], query, sums_x, sums_y)
        total += sums_x[0] + sums_y[LANES - 1]
    return total


def material(documents: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Vectors [T, E] and offsets [N + 1] of so many documents, and a query [32, E]."""
    world = World(Shape(documents, 1, 1))
    vectors, lengths, _ = shard(world, 0)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return torch.from_numpy(vectors), torch.from_numpy(offsets), torch.from_numpy(queries(world)[0])


def loops(bits: int, documents: int, centroids: int, rounds: int) -> dict[str, float]:
    """Nanoseconds a vector, of `lean` a document, of `quantise` a centroid, by the loop's name."""
    vectors, offsets, query = material(documents)
    few = min(SAMPLE, documents)
    codec = fit_codec(vectors[: offsets[few]], offsets[: few + 1], bits, centroids, rounds=1)
    codes = codec.encode(vectors, offsets)
    part = Part.of(codes, offsets.numpy()).read_only()
    names = [str(n) for n in range(documents)]
    engines = {
        "rerank": CompressedEngine(codec, [part], names, ["en"] * documents),
        "rerank, all decoded": CompressedEngine(
            codec, [part], names, ["en"] * documents, slacks=(np.inf, np.inf, np.inf)
        ),
    }
    count = len(vectors)
    found = stages(engines["rerank"], part, query, rounds) | codecs(codec, part.codes, vectors, rounds)
    ready = least(lambda: engines["rerank"].ask(query), count, rounds)
    for name, engine in engines.items():
        search = least(lambda e=engine: e.search([query], 10, budget=documents, threads=1), count, rounds)  # type: ignore[misc]
        found[name] = search - ready
    return found


def stages(engine: CompressedEngine, part: Part, query: torch.Tensor, rounds: int) -> dict[str, float]:
    """What the first stage does to every document, and the query's table of bytes."""
    question, codes = engine.ask(query), part.codes
    block, everything = question.blocks[0], np.arange(len(part.starts))
    sums, score = np.zeros(len(everything), np.int32), np.zeros(len(everything), np.float32)
    normal = _rows(4096, engine.codec.dim)
    products = np.ascontiguousarray(block.centroid_scores.reshape(-1, LANES))
    table = np.empty(products.shape, np.uint8)
    return {
        "interact": least(
            lambda: kernels.interact(block.table, codes.centroids, part.starts, part.ends, everything, sums),
            len(codes.centroids),
            10 * rounds,
        ),
        "lean, a document": least(
            lambda: kernels.lean(question.sum, codes.means, codes.mean_scales, everything, score),
            len(everything),
            10 * rounds,
        ),
        "quantise, a centroid": least(
            lambda: kernels.quantise(products, block.used, block.low, block.unit, table), len(products), 10 * rounds
        ),
        "multiply": least(
            lambda: multiply(normal, block.rotated, np.empty(LANES, np.float32), np.empty(LANES, np.float32)),
            len(normal),
            10 * rounds,
        ),
    }


def codecs(codec: Codec, codes: Codes, vectors: torch.Tensor, rounds: int) -> dict[str, float]:
    """Codes to values and back."""
    layout, out = codec.layout, np.empty(vectors.shape, np.float32)
    normal = _rows(4096, codec.dim)
    return {
        "unpack": least(
            lambda: kernels.unpack(
                codes.codes, layout.places, layout.shifts, layout.masks, codec.tables, codec.table, out
            ),
            len(vectors),
            rounds,
        ),
        "encode": least(lambda: layout.encode(normal, codec.tables, codec.table), len(normal), max(1, rounds // 3)),
    }


def _rows(count: int, dim: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, dim)).astype(np.float32)


def run(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Print the table and write benchmarks/results/engine_loops.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bits", type=int, nargs="*", default=[2, 4, 8])
    parser.add_argument("--documents", type=int, default=DOCUMENTS)
    parser.add_argument("--centroids", type=int, default=CENTROIDS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = {bits: loops(bits, given.documents, given.centroids, given.rounds) for bits in given.bits}
    print("| ns a vector |" + "".join(f" {bits} bits |" for bits in found))
    print("|---|" + "---:|" * len(found))
    for name in next(iter(found.values())):
        print(f"| {name} |" + "".join(f" {figures[name]:.1f} |" for figures in found.values()))
    made = [row(f"loop {name}", ns, "ns", bits=bits) for bits, figures in found.items() for name, ns in figures.items()]
    write("engine_loops", made)
    return made


if __name__ == "__main__":
    run()
