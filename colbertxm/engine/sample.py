"""The vectors that a codec is fitted to: whole documents from everywhere, by seed.

They come from the spool where the stream was written to disk first, or, before anything is streamed, from a `Sample`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from colbertxm.engine.chunks import dimensions, encode_blocks
from colbertxm.engine.codec import Codec, Codes, fit_codec
from colbertxm.engine.index import Document
from colbertxm.engine.kernels import Array
from colbertxm.engine.kmeans import ROUNDS, number_of_centroids
from colbertxm.engine.room import LEAST, PER_CENTROID, Room
from colbertxm.engine.spool import Record, Work
from colbertxm.errors import UserError
from colbertxm.progress import progress

FIRST = 1000  # documents from which the mean length is known well enough to say how many are wanted
LARGE = 2**24
"""Vectors of a collection that is worth drawing from. The sample is encoded twice, 20 K of T vectors: 8 % of them at
LARGE and ever less beyond, for K <= 16 sqrt(T). It spares two bytes a dimension on disk, 4.3 GB at LARGE and 128
dimensions, in time their writing and reading, and lets encoder and codec work side by side."""
MEASURED = 20_000  # vectors whose error is measured


@dataclass(frozen=True)
class Sample:
    """How documents are drawn from a collection before its stream is read: `documents(seed)` gives whole documents of
    all the collection in random order, none twice and always the same ones; the build stops when it has enough. The
    stream will have `count` documents (or nearly): with the drawn ones' mean length, that is the number of vectors."""

    documents: Callable[[int], Iterable[Document]]
    count: int


@dataclass(frozen=True)
class Drawn:
    """`vectors` [S, E] float32, the documents' `offsets` [n + 1] int64, and how many vectors the collection has."""

    vectors: Tensor
    offsets: Tensor
    total: int


def drawn(sample: Sample, seed: int, room: Room) -> Drawn:
    """As many documents as the codec wants and the room holds. Raises UserError where there is no vector."""
    buffer: Array | None = None
    offsets = [0]
    dim, limit = None, 0
    advance: Callable[[int], None] | None = None
    for document in sample.documents(seed):
        dim = dimensions(document, dim)
        vectors = document.vectors.detach().to("cpu", torch.float16).float().numpy()  # as the stream's will be rounded
        if buffer is None:
            limit = room.sample(dim)
            buffer = np.empty((limit, dim), np.float32)
        if offsets[-1] + len(vectors) > limit:
            break
        buffer[offsets[-1] : offsets[-1] + len(vectors)] = vectors
        offsets.append(offsets[-1] + len(vectors))
        if advance is not None:
            advance(len(vectors))
        if len(offsets) <= FIRST:
            continue
        wanted = min(limit, PER_CENTROID * number_of_centroids(_total(sample, offsets)))
        if advance is None:
            advance = progress(wanted, "vectors sampled")
            advance(offsets[-1])
        if offsets[-1] >= wanted:
            break
    if buffer is None or not offsets[-1]:
        raise UserError("no passage of the sample has a vector: there is nothing to index")
    return Drawn(torch.from_numpy(buffer[: offsets[-1]]), torch.tensor(offsets), _total(sample, offsets))


def _total(sample: Sample, offsets: Sequence[int]) -> int:
    return max(offsets[-1], round(sample.count * offsets[-1] / (len(offsets) - 1)))


def from_spool(work: Work, spooled: Sequence[Record], seed: int, room: Room) -> Drawn:
    """About as many of the spooled vectors as the codec wants and the room holds."""
    total, dim = sum(record["vectors"] for record in spooled), spooled[0]["dimensions"]
    wanted = min(PER_CENTROID * number_of_centroids(total), room.sample(dim))

    def chosen(number: int) -> tuple[Array, Array]:
        """Where the chosen documents of a chunk begin and how many vectors they have."""
        ends = work.load(spooled[number], "ends")
        flags = np.random.default_rng([seed, number]).random(len(ends)) < wanted / total
        lengths = np.diff(ends, prepend=0)[flags]
        return ends[flags] - lengths, lengths

    offsets = np.cumsum(np.concatenate([[0], *(chosen(number)[1] for number in range(len(spooled)))])).astype(np.int64)
    if not offsets[-1]:
        raise UserError("no passage was short enough for a sample: cut passages into shorter ones, or raise memory_mb")
    vectors, at = np.empty((offsets[-1], dim), np.float32), 0
    for number in range(len(spooled)):
        rows = work.spooled(number, dim)
        for first, length in zip(*(array.tolist() for array in chosen(number)), strict=True):
            vectors[at : at + length] = rows(first, first + length)
            at += length
    return Drawn(torch.from_numpy(vectors), torch.from_numpy(offsets), total)


def fitted(drawn: Drawn, bits: int, seed: int, room: Room) -> tuple[Codec, float]:
    """The codec of a sample, and its mean squared error on a part of it. Says on stderr where the room holds too small
    a sample for the paper's number of centroids."""
    k = number_of_centroids(drawn.total)
    held = room.sample(drawn.vectors.shape[1])
    if k * LEAST > held:
        lower = 2 ** math.floor(math.log2(max(1, held // LEAST)))
        print(
            f"colbertxm: memory_mb={room.memory_mb} holds a sample for {lower} centroids instead of {k}: "
            "more memory makes codes more exact and searches faster",
            file=sys.stderr,
        )
        k = lower
    advance = progress(ROUNDS, "rounds of k-means")
    codec = fit_codec(drawn.vectors, drawn.offsets, bits, k, seed, progress=advance)
    return codec, _error(codec, drawn)


def _error(codec: Codec, drawn: Drawn) -> float:
    """Of whole documents of some MEASURED vectors, a block at a time: decoding takes many times their memory."""
    ends = drawn.offsets[1:].numpy()
    ends = ends[: max(1, int(np.searchsorted(ends, MEASURED, side="right")))]
    return error_of(codec, drawn.vectors[: int(ends[-1])].numpy(), ends)[1]


def error_of(codec: Codec, vectors: Array, ends: Array) -> tuple[Codes, float]:
    """Codes of whole documents, and their mean squared error: `vectors` [t, E] of any floats."""
    total = 0.0

    def measured(codes: Codes, block: Tensor, offsets: Tensor) -> None:
        nonlocal total
        total += codec.error(codes, block, offsets) * len(block) if len(block) else 0.0

    codes = encode_blocks(codec, lambda first, last: vectors[first:last], ends, look=measured)
    return codes, total / max(1, len(vectors))
