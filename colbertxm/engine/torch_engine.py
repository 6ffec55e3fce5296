"""The compressed engine in torch, for a GPU: the same files and, but for rounding, the same results.

Shapes: B queries, Q query vectors of all, K centroids, N documents, T document vectors, E dimensions, C bytes a code;
n documents and t vectors of a piece that memory has room for.

The arrays lie on the device as they lie on disk. A vector takes 2 or 4 bytes for its centroid's number (4 from 65,537
centroids on), 2 for scale and fit, and at 128 dimensions 31 of code at 2 bits or 66 at 4; a document 132 for its mean
and 8 for its place. How many passages a card holds: `python -m benchmarks.engine.device --card 80`.

First stage: products of queries with centroids, [K, Q], gathered by the vectors' centroid numbers, and the largest of
each document's rows. That is what `embedding_bag` does in one kernel, without ever writing the gathered [t, Q]: on a
CPU 69 ns a vector and 32 query vectors, beside 136 for scatter_reduce, 164 for segment_reduce and 41 for documents
sorted by length, which on a GPU would be a hundred small kernels. All documents are scanned: no inverted lists. Second
stage: only what is reranked is decoded, piece by piece, windows of bits looked up in a table (codec.Windows).

Beside the CPU's engine: that one rounds the first stage's table to bytes, asks inverted lists where there are many
documents, looks at a part of the coordinates before it looks at all, and passes over vectors that are unlikely to win;
this one does none of it. So other documents may reach the last look, and a score may be above the CPU's where that
missed a vector. Where both decode all vectors (a budget of all documents, infinite `slacks` there), scores differ by
less than 1e-5 of their size. Products are float32, on CUDA too (TF32 is off while a search runs); none in half
precision. Equal scores rank in document order on every device. Tests run it on the CPU, and on CUDA where it is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from colbertxm.engine.codec import FITS, SCALES, Codec, Codes
from colbertxm.engine.compressed import MEAN_WEIGHT, Part, budget_of, check_names
from colbertxm.engine.exact import check_search, padded, widened
from colbertxm.engine.filters import Wanted, documents
from colbertxm.engine.kernels import Array
from colbertxm.engine.opening import checked_device
from colbertxm.engine.ties import strictly_falling
from colbertxm.errors import UserError

MEMORY_MB = 1024
BLOCK_BYTES = 2**26  # copied to the device at a time
LOOSE = (
    1.25  # documents that were not asked for are scored with the others up to so many times the work: no rows to list
)
BAGS = ("cpu", "cuda")  # devices whose embedding_bag takes the maximum in every torch that we support


@dataclass(frozen=True)
class Selection:
    """Documents to search, ascending, and the running sum of their vectors: both [n] int64, on the CPU."""

    documents: Array
    ends: Array

    def pieces(self, per_document: int, per_vector: int, memory: int) -> Iterator[Array]:
        """Neighbours whose bytes fit into `memory`, one at least."""
        start, count = 0, len(self.documents)

        def cost(stop: int) -> int:
            return per_document * stop + per_vector * (int(self.ends[stop - 1]) if stop else 0)

        while start < count:
            room = bisect_right(range(start + 1, count + 1), cost(start) + memory, key=cost)
            stop = start + max(1, room)
            yield self.documents[start:stop]
            start = stop


class TorchEngine:
    """MaxSim over the documents of `parts` on a torch `device`; the face of `CompressedEngine`.

    A search works in `memory_mb` beside what the index takes (`bytes`), but for one query and one document, which are
    never split. Raises UserError for a device that is not there or too small.
    """

    def __init__(
        self, codec: Codec, parts: Sequence[Part], ids: Sequence[str], langs: Sequence[str], alive: Array | None = None,
        device: torch.device | str = "cuda", memory_mb: float = MEMORY_MB,
    ) -> None:  # fmt: skip
        check_names(parts, ids, langs)
        self.codec, self.ids, self.langs = codec, ids, langs
        self.device = checked_device(device)
        self.memory = int(memory_mb * 2**20)
        self.offsets = _offsets(parts)
        self.findable = np.diff(self.offsets) > 0
        if alive is not None:
            self.findable &= alive
        self._everything = self._selection(np.flatnonzero(self.findable))
        try:
            self._load(parts)
        except torch.OutOfMemoryError:
            need = sum(getattr(part.codes, field.name).nbytes for part in parts for field in fields(Codes))
            raise UserError(
                f"the index takes {need / 1e9:.1f} GB, which {self.device} has not free: search on the CPU "
                "(device=cpu), or index with fewer bits"
            ) from None

    def _load(self, parts: Sequence[Part]) -> None:
        codec, layout = self.codec, self.codec.layout
        empty = Codes(
            np.empty(0, codec.number), np.empty(0, np.uint8), np.empty(0, np.uint8),
            np.empty((0, layout.bytes), np.uint8), np.empty((0, codec.dim), np.int8), np.empty(0, np.float32),
        )  # fmt: skip
        pieces = [empty, *(part.codes for part in parts)]
        self._codes = {
            field.name: _moved([getattr(piece, field.name) for piece in pieces], self.device) for field in fields(Codes)
        }
        self._offsets = torch.from_numpy(self.offsets).to(self.device)
        self._centroids = codec.centroids.to(self.device)
        self._decoder, self._scales, self._fits = (
            torch.from_numpy(np.array(array)).to(self.device) for array in (codec.decoder, SCALES, FITS)
        )
        self._windows = codec.windows(self.device)

    @property
    def bytes(self) -> int:
        """What the index takes on the device."""
        return sum(t.nbytes for t in (*self._codes.values(), self._offsets, self._centroids))

    def search(
        self,
        queries: Sequence[Tensor],
        k: int,
        lang: str | None = None,
        ids: Wanted | None = None,
        budget: int | None = None,
        threads: int | None = None,
    ) -> list[tuple[list[str], Array]]:
        """The best `k` documents of each query [Q, E], on whatever device: their ids and float32 scores, which fall
        strictly. Arguments and errors are those of `CompressedEngine.search`; `threads` does not count here."""
        check_search(queries, k, self.codec.dim)
        budget = budget_of(k, budget)
        chosen = self._chosen(lang, ids)
        found = []
        with torch.no_grad(), _float32_products(self.device):
            for batch in self._batches(queries):
                vectors = [query.to(self.device, torch.float32) for query in batch]
                few = len(chosen.documents) <= budget
                candidates = [chosen.documents] * len(batch) if few else self._first(vectors, chosen, budget)
                ranked = [self._second(q, own, k) for q, own in zip(vectors, candidates, strict=True)]
                for own, (scores, order) in zip(candidates, ranked, strict=True):
                    names = [self.ids[n] for n in own[order.cpu().numpy()].tolist()]
                    found.append((names, strictly_falling(scores.cpu().numpy())))
        return found

    def _selection(self, chosen: Array) -> Selection:
        return Selection(chosen, np.cumsum(self.offsets[chosen + 1] - self.offsets[chosen]))

    def _chosen(self, lang: str | None, ids: Wanted | None) -> Selection:
        if lang is None and ids is None:
            return self._everything
        found = documents(self.ids, self.langs, lang, ids)
        return self._selection(found[self.findable[found]])

    def _batches(self, queries: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        """Neighbouring queries whose products with the centroids take a third of the memory."""
        limit = self.memory // 3 // (4 * len(self._centroids))
        batch: list[Tensor] = []
        longest = 0
        for query in queries:
            longest = max(longest, len(query))
            if batch and (len(batch) + 1) * longest > limit:
                yield batch
                batch, longest = [], len(query)
            batch.append(query)
        if batch:
            yield batch

    def _first(self, queries: Sequence[Tensor], chosen: Selection, budget: int) -> Array:
        """The `budget` documents of each query that its products with centroids promise most of: [B, budget] positions,
        ascending."""
        grid = torch.nn.utils.rnn.pad_sequence(list(queries), batch_first=True)  # a query vector of zeros adds nothing
        table = self._centroids @ grid.flatten(0, 1).T
        sums = grid.sum(1)
        count, vectors = len(queries), table.shape[1]
        scores, found = grid.new_empty(count, 0), torch.empty(count, 0, dtype=torch.int64, device=self.device)
        # A document's: best products and where they were, mean, scores and what `_highest` makes of them. A vector's:
        # number, row; where there are no bags, its gathered products as well.
        per_document = 12 * vectors + 5 * self.codec.dim + 64 * count + 32
        per_vector = 32 + (0 if self.device.type in BAGS else 4 * vectors)
        for piece in chosen.pieces(per_document, per_vector, int(self.memory * 2 / 3 / LOOSE)):
            own, numbers = self._promises(piece, table, sums)
            scores = torch.cat([scores, own], 1)
            found = torch.cat([found, numbers.expand(count, -1)], 1)
            columns = _highest(scores, min(budget, scores.shape[1]))
            scores, found = scores.gather(1, columns), found.gather(1, columns)
        return found.cpu().numpy()

    def _promises(self, piece: Array, table: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
        """First scores [B, n] of the documents `piece`, and their positions [n]; between them may be others, which
        score minus infinity."""
        first, last = int(piece[0]), int(piece[-1]) + 1
        asked = int((self.offsets[piece + 1] - self.offsets[piece]).sum())
        near = max(asked, 1) * LOOSE >= self.offsets[last] - self.offsets[first] and len(piece) * LOOSE >= last - first
        if near:
            numbers = torch.arange(first, last, device=self.device)
            local = self._offsets[first : last + 1] - self._offsets[first]
            rows: Tensor | slice = slice(int(self.offsets[first]), int(self.offsets[last]))
        else:
            numbers = torch.from_numpy(piece).to(self.device)
            rows, local = self._rows(numbers, asked)
        best = best_of(table, self._numbers(rows), local)
        scores = best.view(len(numbers), len(sums), -1).sum(2)
        means = self._codes["means"][numbers].float() @ sums.T
        scores += float(MEAN_WEIGHT) * means * self._codes["mean_scales"][numbers][:, None]
        if near and last - first > len(piece):
            unasked = np.ones(last - first, bool)
            unasked[piece - first] = False
            scores.masked_fill_(torch.from_numpy(unasked).to(self.device)[:, None], -torch.inf)
        return scores.T, numbers

    def _second(self, query: Tensor, candidates: Array, k: int) -> tuple[Tensor, Tensor]:
        """MaxSim of decoded `candidates` [n]: the best k scores, falling, and their places among the candidates."""
        queries = widened(query)
        rotated = self._decoder @ queries.T
        dim, columns = self.codec.dim, len(queries)
        # A vector's: words, windows and values; base; products and their maximum's place. A document's: mean and best.
        per_vector = 24 * dim + 16 * self.codec.layout.bytes + 20 * columns + 64
        pieces = self._selection(candidates).pieces(8 * dim + 16 * columns, per_vector, self.memory)
        scores = [self._maxsim(piece, queries, rotated)[:, : len(query)].sum(1) for piece in pieces]
        ranked = torch.cat([*scores, query.new_empty(0)]).sort(descending=True, stable=True)
        return ranked.values[:k], ranked.indices[:k]

    def _maxsim(self, piece: Array, queries: Tensor, rotated: Tensor) -> Tensor:
        """The best product of each query vector among each document's decoded vectors, [n, Q]."""
        chosen = torch.from_numpy(piece).to(self.device)
        count = int((self.offsets[piece + 1] - self.offsets[piece]).sum())
        rows, local = self._rows(chosen, count)
        lengths = local.diff()
        rows = padded(rows)  # equal documents get equal scores: see colbertxm.engine.exact
        owners = padded(torch.repeat_interleave(lengths, output_size=count))
        means = self._codes["means"][chosen].float() * self._codes["mean_scales"][chosen][:, None]
        base = self._centroids.index_select(0, self._numbers(rows)) + means[owners]
        scale = self._scales.index_select(0, self._codes["scales"][rows].int())[:, None]
        fit = self._fits.index_select(0, self._codes["fits"][rows].int())[:, None]
        values = self._windows.values(self._codes["codes"][rows])
        products = (values @ rotated).mul_(scale).add_(base @ queries.T).mul_(fit)
        return best_of(products, torch.arange(count, dtype=torch.int32, device=self.device), local)

    def _rows(self, chosen: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Rows [t] of the vectors of documents `chosen` [n], `count` in all, and where each document's begin, [n + 1].
        The count is known on the CPU: asking the device for it would wait for the device."""
        starts = self._offsets[chosen]
        lengths = self._offsets[chosen + 1] - starts
        local = F.pad(lengths.cumsum(0), (1, 0))
        rows = torch.repeat_interleave(starts - local[:-1], lengths, output_size=count)
        return rows + torch.arange(count, device=self.device), local

    def _numbers(self, rows: Tensor | slice) -> Tensor:
        """Centroid numbers of `rows`, int32: torch computes little with unsigned numbers of 16 bits, so they are held
        as signed ones."""
        numbers = self._codes["centroids"][rows]
        return numbers.int() & 0xFFFF if numbers.dtype == torch.int16 else numbers


def best_of(table: Tensor, rows: Tensor, offsets: Tensor) -> Tensor:
    """The largest of each document's rows, [n, Q]: document i has rows[offsets[i]:offsets[i + 1]] of `table` [m, Q].
    `rows` [t] int32, `offsets` [n + 1]. Of no rows it is not defined."""
    if table.device.type in BAGS:
        return F.embedding_bag(rows, table, offsets.int(), mode="max", include_last_offset=True)
    return _scattered(table, rows, offsets)


def _scattered(table: Tensor, rows: Tensor, offsets: Tensor) -> Tensor:
    """`best_of` where there are no bags; writes the gathered rows."""
    owners = torch.repeat_interleave(offsets.diff(), output_size=len(rows))[:, None].expand(-1, table.shape[1])
    lowest = table.new_full((len(offsets) - 1, table.shape[1]), -torch.inf)
    return lowest.scatter_reduce_(0, owners, table.index_select(0, rows), "amax")


def _highest(scores: Tensor, count: int) -> Tensor:
    """Columns [B, count], ascending, of the highest `scores` [B, n] of each row; of equal ones the first, as topk alone
    does not promise."""
    least = scores.topk(count, sorted=False).values.amin(1, keepdim=True)
    above, equal = scores > least, scores == least
    room = count - above.sum(1, keepdim=True)
    kept = above | (equal & (equal.cumsum(1) <= room))
    return kept.nonzero()[:, 1].view(len(scores), count)


def _offsets(parts: Sequence[Part]) -> Array:
    """Where each document's vectors begin among those of all parts, [N + 1] int64."""
    for part in parts:
        bounds = np.append(part.starts, len(part.codes.codes))
        if not np.array_equal(bounds[1:], part.ends) or bounds[0]:
            raise ValueError("the vectors of a part's documents must lie end to end, and be all that it has")
    lengths = [np.zeros(1, np.int64), *(part.ends - part.starts for part in parts)]
    return np.cumsum(np.concatenate(lengths), dtype=np.int64)


def _moved(arrays: Sequence[Array], device: torch.device) -> Tensor:
    """All rows of `arrays` on `device`, copied block by block: mapped files are never in memory whole. Unsigned numbers
    of 16 and 32 bits become signed ones of the same bits."""
    kind: np.dtype[Any] = arrays[0].dtype
    if kind.kind == "u" and kind.itemsize > 1:
        kind = np.dtype(f"<i{kind.itemsize}")
    like = torch.from_numpy(np.empty(0, kind))
    shape = arrays[0].shape[1:]
    out = torch.empty((sum(len(array) for array in arrays), *shape), dtype=like.dtype, device=device)
    at, step = 0, max(1, BLOCK_BYTES // (kind.itemsize * prod(shape)))
    for array in arrays:
        for start in range(0, len(array), step):
            block = torch.from_numpy(np.array(array[start : start + step]).view(kind))
            out[at : at + len(block)] = block
            at += len(block)
    return out


@contextmanager
def _float32_products(device: torch.device) -> Iterator[None]:
    """Products of float32 in float32, whatever training has allowed on CUDA: TF32 would be off by 1e-3."""
    before = torch.get_float32_matmul_precision()
    if device.type != "cuda" or before == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
