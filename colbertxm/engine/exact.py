"""Exhaustive search: each query against each document, in bounded memory. The oracle of every faster engine.

Shapes: B queries, N documents, T document vectors in all, E dimensions; a query or document has any number of
vectors, so both kinds of model have one face: with one vector per text MaxSim is the plain dot product.

MaxSim (ColBERT, arXiv 2004.12832, equation 3) needs the largest of each document's rows in the matrix of dot
products. Documents of one length are multiplied together, so that the largest is taken over a plain axis,
without padding: the fastest of six ways that were timed (index_reduce, segment_reduce, padding and numpy's
maximum.reduceat took 1.2 to 2.3 times as long), within noise of the bare matrix product.

Equal documents must get equal scores wherever they stand, or they leave document order in the ranking. BLAS sums a
row of a product in an order that depends on the product's shape: with one column, the last rows unlike the others (of
a matrix times a vector); where a thread gets a few rows that are no multiple of four, all of them (3 rows on one
thread, 171 on 64); with rows that begin off a 16-byte boundary, the first. So every product has at least COLUMNS
columns, STEP rows or a multiple, and a multiple of WORD dimensions: MKL on AVX2, with 1 to 64 threads, then summed all
rows alike, in all products tried (tests/test_exact.py). Of another BLAS it is not known, and on a GPU, where products
of different shapes take different kernels, equal documents of different chunks may differ in the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from colbertxm.engine.filters import Wanted, documents
from colbertxm.engine.int8 import Int8Vectors, quantise
from colbertxm.engine.ties import strictly_falling
from colbertxm.errors import UserError, nearest

DTYPES = ("float32", "int8")
QUERY_VECTORS = 4096  # a batch of this many amortises reading the documents; more only crowds the cache
COLUMNS, STEP, WORD = 2, 8, 4  # of products in which equal rows have equal results


class ExactEngine:
    """MaxSim over document vectors held in memory or mapped from a file.

    `vectors` [T, E] float32 or float16; document n is rows `offsets[n]:offsets[n + 1]` (`offsets` [N + 1]),
    its name `ids[n]`, its language `langs[n]`. `dtype` "float32" multiplies them as they are given; "int8" holds a
    rounded copy in memory, a byte a component, and needs the vectors no more (`colbertxm.engine.int8`, which bounds
    the error). Raises UserError where the sizes do not fit one another.
    """

    def __init__(
        self, vectors: Tensor, offsets: Tensor, ids: Sequence[str], langs: Sequence[str], dtype: str = "float32"
    ) -> None:
        check_layout(vectors, offsets, ids, langs)
        if dtype not in DTYPES:
            raise UserError(f"dtype = {dtype!r}{nearest(dtype, DTYPES)}: the engine multiplies {' or '.join(DTYPES)}")
        self.dim = vectors.shape[1]
        self.vectors = vectors if dtype == "float32" else _wide8(quantise(vectors))
        self.ids, self.langs = ids, langs
        self.starts = offsets[:-1].cpu()
        self.lengths = offsets.diff().cpu()

    def search(
        self,
        queries: Sequence[Tensor],
        k: int,
        lang: str | None = None,
        memory_mb: int = 256,
        ids: Wanted | None = None,
    ) -> list[tuple[list[str], np.ndarray]]:
        """The best `k` documents of each query [Q, E]: their ids and float32 scores, which fall strictly.

        `lang` keeps to the passages of one language, `ids` to those named (or marked by a boolean array [N]).
        Equal scores rank in document order and are then lowered by the smallest step that float32 knows.
        Documents without vectors are never found. Working memory is at most `memory_mb`, but for one query and
        one document, which are never split. Raises UserError for a language or an id that no document has and
        for queries that do not fit the index.
        """
        found = self.ranked(queries, k, lang, memory_mb, ids)
        return [([self.ids[n] for n in chosen.tolist()], strictly_falling(row)) for chosen, row in found]

    def ranked(
        self,
        queries: Sequence[Tensor],
        k: int,
        lang: str | None = None,
        memory_mb: int = 256,
        ids: Wanted | None = None,
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """What `search` finds as positions and scores before ties are told apart: for a merge with others' finds."""
        check_search(queries, k, self.dim)
        searched = self._documents(lang, ids)
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for batch in _batches(queries, memory_mb):
            best = [(np.empty(0, np.float32), np.empty(0, np.int64)) for _ in batch]
            for chunk, scores in self._chunks(batch, searched, memory_mb):
                best = [_top(*old, row, chunk, k) for old, row in zip(best, scores, strict=True)]
            found += [(chosen, row) for row, chosen in best]
        return found

    def score_all(self, queries: Sequence[Tensor], memory_mb: int = 256) -> Tensor:
        """Every score, [B, N] float32 in document order; -inf for a document without vectors."""
        check_queries(queries, self.dim)
        result = np.full((len(queries), len(self.ids)), -np.inf, np.float32)
        row = 0
        for batch in _batches(queries, memory_mb):
            for chunk, scores in self._chunks(batch, self._documents(None), memory_mb):
                result[row : row + len(batch), chunk] = scores
            row += len(batch)
        return torch.from_numpy(result)

    def _documents(self, lang: str | None, ids: Wanted | None = None) -> Tensor:
        """Positions of the documents that can be found, ascending."""
        chosen = torch.from_numpy(documents(self.ids, self.langs, lang, ids))
        return chosen[self.lengths[chosen] > 0]

    def _chunks(
        self, queries: Sequence[Tensor], documents: Tensor, memory_mb: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Documents in order, as many at a time as memory allows: their positions [n] and scores [B, n]."""
        lengths = [len(q) for q in queries]
        queries_QE = widened(torch.cat([q.to(self.vectors.device, torch.float32) for q in queries]))
        # A chunk holds its vectors [t, E] as stored and as float32, their products with the queries [t, Q] and at most
        # as many maxima.
        room = max(1, memory_mb * 2**20 // 4 // (2 * len(queries_QE) + 2 * queries_QE.shape[1]))
        ends = self.lengths[documents].cumsum(0)
        start, used = 0, 0
        while start < len(documents):
            stop = max(start + 1, int(torch.searchsorted(ends, used + room, right=True)))
            chunk = documents[start:stop]
            best_nQ = self._best(chunk, queries_QE)[:, : sum(lengths)]
            scores_nB = sums(best_nQ, lengths)
            yield chunk.numpy(), scores_nB.T.cpu().numpy()
            start, used = stop, int(ends[stop - 1])

    def _best(self, chunk: Tensor, queries_QE: Tensor) -> Tensor:
        """The best dot product of each query vector among each document's vectors, [n, Q] float32."""
        best_nQ = queries_QE.new_empty(len(chunk), len(queries_QE))
        lengths = self.lengths[chunk]
        for length in lengths.unique().tolist():
            same = (lengths == length).nonzero().squeeze(1)
            rows = (self.starts[chunk[same]][:, None] + torch.arange(length)).flatten()
            products = self._products(rows.to(self.vectors.device), queries_QE)
            if len(same) == len(chunk) and length == 1:
                return products  # single-vector models: nothing to choose from, nothing to copy
            best_nQ[same.to(best_nQ.device)] = products.view(len(same), length, -1).amax(1)
        return best_nQ

    def _products(self, rows: Tensor, queries_QE: Tensor) -> Tensor:
        """Dot products of document vectors `rows` [t] with all query vectors, [t, Q] float32."""
        rows_t = padded(rows)
        if isinstance(self.vectors, Tensor):
            products_tQ = wide(self.vectors[rows_t].float()) @ queries_QE.T
        else:
            products_tQ = self.vectors.products(rows_t, queries_QE)
        return products_tQ[: len(rows)]


def padded(rows: Tensor) -> Tensor:
    """Numbers of rows [t], and the first of them again up to a multiple of STEP."""
    extra = -len(rows) % STEP
    return torch.cat([rows, rows[:1].expand(extra)]) if extra else rows


def widened(queries_QE: Tensor) -> Tensor:
    """Query vectors, and zeros after them where COLUMNS are more, as wide as `wide` makes documents."""
    extra = max(0, COLUMNS - len(queries_QE))
    return wide(F.pad(queries_QE, (0, 0, 0, extra)) if extra else queries_QE)


def wide(vectors_tE: Tensor) -> Tensor:
    """With zeros up to a multiple of WORD dimensions: a copy only where they are not that already."""
    extra = -vectors_tE.shape[1] % WORD
    return F.pad(vectors_tE, (0, extra)) if extra else vectors_tE


def _wide8(vectors: Int8Vectors) -> Int8Vectors:
    return Int8Vectors(wide(vectors.values), vectors.scales)


def sums(best_nQ: Tensor, lengths: Sequence[int]) -> Tensor:
    """Sums over the vectors of each query, [n, B]: in one order on every device (index_add_ has none on CUDA)."""
    if set(lengths) == {1}:
        return best_nQ
    if len(set(lengths)) == 1:
        return best_nQ.reshape(len(best_nQ), len(lengths), -1).sum(2)
    return torch.stack([own.sum(1) for own in best_nQ.split(list(lengths), 1)], 1)


def check_search(queries: Sequence[Tensor], k: int, dim: int) -> None:
    """Raises UserError for queries [Q, E] that an index of `dim` dimensions cannot answer with `k` hits."""
    if k < 1:
        raise UserError(f"k = {k}: ask for at least one hit")
    check_queries(queries, dim)


def check_queries(queries: Sequence[Tensor], dim: int) -> None:
    """Raises UserError for queries [Q, E] that an index of `dim` dimensions cannot answer."""
    for i, query in enumerate(queries):
        if query.ndim != 2 or query.shape[1] != dim:
            raise UserError(
                f"query {i} has shape {list(query.shape)}, the index holds vectors of {dim} dimensions: "
                f"search with the model that made the index"
            )
        if not len(query):
            raise UserError(f"query {i} has no vectors: give it a text")
        if not torch.isfinite(query).all():
            raise UserError(f"query {i} has vectors that are not finite: the model's weights are damaged")


def check_layout(vectors: Tensor, offsets: Tensor, ids: Sequence[str], langs: Sequence[str]) -> None:
    """Raises UserError where vectors [T, E], offsets [N + 1], ids [N], langs [N] do not fit one another."""
    if vectors.ndim != 2:
        raise UserError(f"document vectors have shape {list(vectors.shape)}: they must be [vectors, dimensions]")
    if offsets.ndim != 1 or offsets.dtype != torch.int64 or not len(ids) == len(langs) == len(offsets) - 1:
        raise UserError(
            f"{len(ids)} ids, {len(langs)} languages, {offsets.dtype} offsets {list(offsets.shape)}: "
            f"give each document one id, one language and its int64 offset, and one offset more"
        )
    if int(offsets[0]) != 0 or int(offsets[-1]) != len(vectors) or bool((offsets.diff() < 0).any()):
        raise UserError(f"offsets must rise from 0 to the number of vectors, {len(vectors)}")


def _batches(queries: Sequence[Tensor], memory_mb: int) -> Iterator[Sequence[Tensor]]:
    """Neighbouring queries, together at most QUERY_VECTORS vectors, or fewer where memory is short."""
    limit = min(QUERY_VECTORS, memory_mb * 2**20 // 4 // 128)
    start, count = 0, 0
    for i, query in enumerate(queries):
        if i > start and count + len(query) > limit:
            yield queries[start:i]
            start, count = i, 0
        count += len(query)
    if start < len(queries):
        yield queries[start:]


def _top(
    old: np.ndarray, old_documents: np.ndarray, new: np.ndarray, new_documents: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best `k` of old and new scores; of equal ones the earlier document, which stands first here."""
    scores, documents = np.concatenate([old, new]), np.concatenate([old_documents, new_documents])
    if len(scores) > k:
        keep = np.flatnonzero(scores >= np.partition(scores, len(scores) - k)[len(scores) - k])
        scores, documents = scores[keep], documents[keep]
    order = np.argsort(-scores, kind="stable")[:k]
    return scores[order], documents[order]
