"""faiss indices of single vectors: how each kind is made, searched with effort, and written as a stream.

Shapes: N vectors, E dimensions, B queries. Inner product throughout. The parameters follow the field's rules: about
4 sqrt(N) lists, product quantisation of 4 dimensions to a byte, 32 neighbours in HNSW's graph (arXiv 1603.09320). faiss
is imported only where it is used: it is the extra `cpu` (or `gpu`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from colbertxm.errors import MissingExtra, UserError, nearest

KINDS = ("flat", "ivfpq", "hnsw")
EFFORT = {"ivfpq": 32, "hnsw": 128}  # lists, or nodes of the graph, that a query looks at
POINTS = 39  # vectors to train a centroid on: with fewer, faiss warns
SAMPLE = 256  # vectors a centroid beyond which k-means gains nothing (faiss's own limit)
SMALLEST = 16 * POINTS  # vectors without which a code of 4 bits cannot be trained
NEIGHBOURS, CONSTRUCTION = 32, 100
BLOCK_BYTES = 2**26  # float32 bytes handed to faiss at a time


def faiss_module() -> ModuleType:
    try:
        import faiss
    except ImportError:
        raise MissingExtra("faiss", "cpu") from None
    module: ModuleType = faiss
    return module


def build_index(vectors: Tensor, kind: str, seed: int) -> Any:
    """A faiss index of `vectors` [N, E], the same for the same seed and machine. Raises UserError for an unknown
    kind, vectors that are not finite, and too few to train on."""
    if kind not in KINDS:
        raise UserError(
            f"kind = {kind!r}{nearest(kind, KINDS)}: an index of single vectors is one of {', '.join(KINDS)}"
        )
    faiss, dim = faiss_module(), vectors.shape[1]
    if kind == "ivfpq":
        index = _trained(vectors, seed)
    elif kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = CONSTRUCTION
        index.hnsw.rng = faiss.RandomGenerator(seed)
    else:
        index = faiss.IndexFlatIP(dim)
    # Threads link the graph in the order in which they happen to run: one thread makes it reproducible.
    with _threads(1) if kind == "hnsw" else contextlib.nullcontext():
        for block in _blocks(vectors):
            index.add(block)
    return index


def lists_of(count: int) -> int:
    """4 sqrt(N) lists, or as many as N vectors can train."""
    return max(1, min(round(4 * math.sqrt(count)), count // POINTS))


def _trained(vectors: Tensor, seed: int) -> Any:
    faiss, (count, dim) = faiss_module(), vectors.shape
    if count < SMALLEST:
        raise UserError(
            f"kind=ivfpq needs {SMALLEST} vectors to train on, here are {count}: take kind=flat, it is exact"
        )
    width = next(size for size in range(min(4, dim), dim + 1) if dim % size == 0)
    bits = min(8, int(math.log2(count / POINTS)))
    lists = lists_of(count)
    quantiser = faiss.IndexFlatIP(dim)
    index = faiss.IndexIVFPQ(quantiser, dim, lists, dim // width, bits, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = index.pq.cp.seed = seed
    size = min(count, SAMPLE * max(lists, 2**bits))
    rows = np.sort(np.random.default_rng(seed).choice(count, size, replace=False))
    sample = vectors[torch.from_numpy(rows)]
    index.train(np.concatenate(list(_blocks(sample))))
    return index


def _blocks(vectors: Tensor) -> Iterator[npt.NDArray[np.float32]]:
    """The vectors as float32, a part at a time. Raises UserError for those that are not finite: faiss would not."""
    step = max(1, BLOCK_BYTES // (4 * vectors.shape[1]))
    for start in range(0, len(vectors), step):
        block = np.ascontiguousarray(vectors[start : start + step].float().numpy())
        if not np.isfinite(block).all():
            row = start + int(np.flatnonzero(~np.isfinite(block).all(1))[0])
            raise UserError(f"document vector {row} is not finite: encode the passages again with an undamaged model")
        yield block


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    faiss = faiss_module()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def stored_vectors(index: Any) -> npt.NDArray[np.float32]:
    """The vectors [N, E] that a flat or HNSW index holds anyway: a view, good as long as the index lives."""
    faiss = faiss_module()
    flat = faiss.downcast_index(index.storage) if hasattr(index, "hnsw") else index
    if not flat.ntotal:
        return np.empty((0, flat.d), np.float32)
    view: npt.NDArray[np.float32] = faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d)
    return view.reshape(flat.ntotal, flat.d)


def parameters(index: Any, effort: int, chosen: npt.NDArray[np.int64]) -> Any:
    """How an approximate index is searched for the positions `chosen`. Where these are one in s, the search meets
    one in s of what it would have met, so effort grows s times."""
    faiss = faiss_module()
    options: dict[str, Any] = {}
    if len(chosen) < index.ntotal:
        mask = np.zeros(index.ntotal, bool)
        mask[chosen] = True
        options["sel"] = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        effort = math.ceil(effort * index.ntotal / len(chosen))
    if hasattr(index, "hnsw"):
        return faiss.SearchParametersHNSW(efSearch=min(effort, index.ntotal), **options)
    return faiss.SearchParametersIVF(nprobe=min(effort, index.nlist), **options)


def stream_index(index: Any, write: Callable[[bytes], None]) -> None:
    """faiss's bytes of an index, handed to `write` as they come: a whole copy may not fit into memory. What `write`
    raises comes through; faiss by itself would turn it into a RuntimeError without a cause."""
    faiss = faiss_module()
    refused: list[Exception] = []

    def put(block: bytes) -> int:
        if not refused:
            try:
                write(block)
            except Exception as error:
                refused.append(error)
        return len(block)

    faiss.write_index(index, faiss.PyCallbackIOWriter(put))
    if refused:
        raise refused[0]
