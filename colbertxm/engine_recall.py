"""What an index's compression and its budget cost: recall against searches that leave nothing out.

Two truths: exhaustive MaxSim over the decoded codes, which is what a larger budget comes to, and exhaustive MaxSim over
the vectors as the model makes them, float32, which no codec reaches. Documents are decoded or encoded some at a time.

Shapes: B queries, N documents, k hits.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from colbertxm.engine.codec import Codes
from colbertxm.engine.compressed import BUDGET, PER_HIT
from colbertxm.engine.exact import ExactEngine
from colbertxm.engine.index import CompressedIndex
from colbertxm.errors import UserError
from colbertxm.model.encoder import Vectors
from colbertxm.records import Text
from colbertxm.retriever import PASSAGES, Progress, Retriever

Found = list[list[int]]
"""Positions of each query's documents, best first."""


@dataclass(frozen=True)
class Chunk:
    """Documents `numbers` [n] of an index with their vectors."""

    numbers: np.ndarray
    vectors: Vectors


def decoded(index: CompressedIndex, size: int = PASSAGES) -> Iterator[Chunk]:
    """The findable documents of an index as its codes have them."""
    before = 0
    for arrays in index.parts:
        codes, ends = index.codes(arrays), np.asarray(arrays["ends"])
        for first in range(0, len(ends), size):
            last = min(first + size, len(ends))
            start, stop = int(ends[first - 1]) if first else 0, int(ends[last - 1])
            of_documents = {"means", "mean_scales"}
            some = Codes(**{
                field.name: getattr(codes, field.name)[slice(first, last) if field.name in of_documents
                                                       else slice(start, stop)]
                for field in fields(Codes)
            })  # fmt: skip
            offsets = torch.from_numpy(np.concatenate([[start], ends[first:last]]) - start)
            vectors = Vectors(index.codec.decode(some, offsets), offsets)
            yield _alive(index, Chunk(np.arange(before + first, before + last), vectors))
        before += len(ends)


def encoded(
    index: CompressedIndex, retriever: Retriever, progress: Progress | None = None, size: int = PASSAGES
) -> Iterator[Chunk]:
    """The findable documents of an index as the model makes them now, from the texts in the index. Raises UserError for
    an index without texts, and where a text makes another number of vectors than the index has of it: then it was made
    by another checkpoint, or with other settings."""
    lengths = np.concatenate([np.diff(arrays["ends"], prepend=0) for arrays in index.parts])
    for first in range(0, len(lengths), size):
        last = min(first + size, len(lengths))
        texts = [Text(index.ids[n], index.texts[n], index.langs[n]) for n in range(first, last)]
        empty = next((text.id for text in texts if not text.text), None)
        if empty is not None:
            raise UserError(f"{index.folder} holds no text of {empty!r}: compare without it, float32=false")
        vectors = retriever.encode(texts, "passage", progress)
        differ = np.flatnonzero(vectors.offsets.diff().numpy() != lengths[first:last])
        if len(differ):
            raise UserError(f"{index.folder} has another number of vectors for {texts[differ[0]].id!r} than this model "
                            "makes: give the checkpoint that made the index, or float32=false")  # fmt: skip
        yield _alive(index, Chunk(np.arange(first, last), vectors))


def _alive(index: CompressedIndex, chunk: Chunk) -> Chunk:
    keep = index.alive[chunk.numbers]
    if keep.all():
        return chunk
    chosen = np.flatnonzero(keep).tolist()
    return Chunk(chunk.numbers[keep], Vectors.of([chunk.vectors[n] for n in chosen], index.dim))


def exhaustive(queries: Sequence[Tensor], chunks: Iterator[Chunk], k: int) -> Found:
    """The best `k` documents of each query among all of `chunks`; of equal scores the earlier document, as every
    engine here ranks them."""
    best = [(np.empty(0, np.float32), np.empty(0, np.int64)) for _ in queries]
    for chunk in chunks:
        names = [str(n) for n in chunk.numbers.tolist()]
        engine = ExactEngine(chunk.vectors.values, chunk.vectors.offsets, names, names)
        scores = engine.score_all(queries).numpy()
        for place, row in enumerate(scores):
            values = np.concatenate([best[place][0], row])
            numbers = np.concatenate([best[place][1], chunk.numbers])
            order = np.argsort(-values, kind="stable")[:k]
            best[place] = values[order], numbers[order]
    return [numbers[np.isfinite(values)].tolist() for values, numbers in best]


def recall(found: Found, truth: Found, k: int) -> float:
    """The mean share of each query's true best `k` among its first `k` found."""
    return float(
        np.mean([len(set(f[:k]) & set(t[:k])) / max(1, len(t[:k])) for f, t in zip(found, truth, strict=True)])
    )


def measure_recall(
    index: CompressedIndex,
    queries: Sequence[Tensor],
    depths: Sequence[int],
    budgets: Sequence[int],
    float32: Iterator[Chunk] | None = None,
    threads: int = 1,
) -> list[dict[str, Any]]:
    """One line for each depth k and budget (None: the default), and for each k one of all decoded codes: recall@k of
    both truths, and the median milliseconds of a query that is searched alone, after one that warms up."""
    alive = int(index.alive.sum())
    depths = sorted({min(depth, alive) for depth in depths})
    position = {name: number for number, name in enumerate(index.ids)}
    codec = exhaustive(queries, decoded(index), max(depths))
    truth = exhaustive(queries, float32, max(depths)) if float32 is not None else None
    engine = index.engine
    lines = []
    for k in depths:
        asked = [None, *sorted({min(budget, alive) for budget in budgets if min(budget, alive) >= k})]
        for budget in asked:
            engine.search([queries[0]], k, budget=budget, threads=threads)
            found, seconds = [], []
            for query in queries:
                started = time.perf_counter()
                ((ids, _),) = engine.search([query], k, budget=budget, threads=threads)
                seconds.append(time.perf_counter() - started)
                found.append([position[name] for name in ids])
            default = f"default ({min(max(BUDGET, PER_HIT * k), alive)})"
            lines.append(_line(k, default if budget is None else str(budget), found, codec, truth, seconds))
        lines.append(_line(k, "all, decoded", codec, codec, truth, None))
    return lines


def _line(
    k: int, budget: str, found: Found, codec: Found, truth: Found | None, seconds: list[float] | None
) -> dict[str, Any]:
    return {
        "k": k,
        "budget": budget,
        "recall of decoded": round(recall(found, codec, k), 6),
        "recall of float32": None if truth is None else round(recall(found, truth, k), 6),
        "ms a query": None if seconds is None else round(1000 * statistics.median(seconds), 3),
    }


def settings(index: CompressedIndex) -> dict[str, Any]:
    """What a figure about an index must say with it."""
    manifest = index.manifest
    vectors = sum(int(part["vectors"]) for part in manifest["parts"])
    size = sum(int(entry["bytes"]) for entry in manifest["files"].values())
    return {
        "index": str(index.folder),
        "bits": manifest["bits"],
        "dimensions": index.dim,
        "centroids": manifest["centroids"],
        "parts": len(index.parts),
        "passages": int(index.alive.sum()),
        "deleted": int((~index.alive).sum()),
        "vectors": vectors,
        "bytes a vector": round(size / max(1, vectors), 1),
        "squared error": manifest["error"],
        "model": index.meta.get("model"),
    }
