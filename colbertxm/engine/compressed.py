"""Search over compressed vectors: every document scored by its centroids, the best `budget` reranked from their codes.

Shapes: Q query vectors, K centroids, N documents, T document vectors, E dimensions.

A document's first score is the sum over query vectors of the best centroid among its vectors' (PLAID's centroid
interaction), plus MEAN_WEIGHT times the dot product of the query's sum with the document's mean residual: 128 products
a document that halve the number of documents one must rerank. The second score is MaxSim over the decoded vectors;
decoding happens vector by vector in the first cache (colbertxm.engine.kernels).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from colbertxm.engine import kernels
from colbertxm.engine.codec import FITS, SCALES, Codec, Codes
from colbertxm.engine.exact import check_search
from colbertxm.engine.filters import Wanted, documents
from colbertxm.engine.kernels import LANES, Array
from colbertxm.engine.ties import strictly_falling
from colbertxm.errors import UserError

MEAN_WEIGHT = np.float32(0.5)  # the best vector of a document leans less to its side than the mean does
SLACK = 2.0
"""A vector of a reranked document is decoded where, for some query vector, it may come above the document's best: what
its centroid promises may be wrong by so many standard deviations of a query's product with a residual. Recall@10 was
the same to the last query as without, in 12.9 instead of 14.9 ms (4 bits; `python benchmarks/engine/tricks.py`)."""
BUDGET = 256
PER_HIT = 5  # documents reranked for each that is asked for, where that is more than BUDGET


@dataclass(frozen=True)
class Part:
    """Encoded documents that stand together: `starts` and `ends` [N] int64 of their vectors in `codes`."""

    codes: Codes
    starts: Array
    ends: Array

    @classmethod
    def of(cls, codes: Codes, offsets: Array) -> Part:
        return cls(codes, np.ascontiguousarray(offsets[:-1]), np.ascontiguousarray(offsets[1:]))

    def read_only(self) -> Part:
        """The same as read-only views, as mapped files are: the kernels are compiled for one kind of array alone."""
        codes = Codes(**{name: _view(array) for name, array in vars(self.codes).items()})
        return Part(codes, _view(self.starts), _view(self.ends))


def _view(array: Array) -> Array:
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


@dataclass(frozen=True)
class Block:
    """At most LANES query vectors, made ready: as columns [E * LANES], in the codes' space, and their products with the
    centroids [K, LANES], in float32 and as bytes of `unit`; `used` of them count."""

    columns: Array
    rotated: Array
    centroid_scores: Array
    table: Array
    unit: np.float32
    used: int


@dataclass(frozen=True)
class Question:
    """A query's blocks and the sum [E] of its vectors."""

    blocks: list[Block]
    sum: Array


class CompressedEngine:
    """MaxSim over the documents of `parts`, in order; document n of all is `ids[n]` in the language `langs[n]`."""

    def __init__(
        self, codec: Codec, parts: Sequence[Part], ids: Sequence[str], langs: Sequence[str], alive: Array | None = None,
        slack: float = SLACK,
    ) -> None:  # fmt: skip
        """`alive` [N] bool: which documents can be found (all). `slack`: see SLACK; infinite decodes all vectors."""
        count = sum(len(part.starts) for part in parts)
        if not count == len(ids) == len(langs):
            raise UserError(
                f"{count} documents, {len(ids)} ids, {len(langs)} languages: give each document one of each"
            )
        self.margin = np.float32(slack * _spread(codec))
        self.codec, self.ids, self.langs = codec, ids, langs
        self.parts = [part.read_only() for part in parts]
        self.bounds = np.cumsum([0, *(len(part.starts) for part in parts)])
        lengths = [part.ends - part.starts for part in parts]
        self.findable = np.concatenate([*lengths, np.empty(0, np.int64)]) > 0
        if alive is not None:
            self.findable &= alive

    def search(
        self,
        queries: Sequence[Tensor],
        k: int,
        lang: str | None = None,
        ids: Wanted | None = None,
        budget: int | None = None,
        threads: int | None = None,
    ) -> list[tuple[list[str], Array]]:
        """The best `k` documents of each query [Q, E]: their ids and float32 scores, which fall strictly.

        `lang` keeps to one language, `ids` to named passages (or a boolean [N]). `budget` documents are reranked;
        given none, BUDGET or PER_HIT times `k`. `threads` None: all cores. One query uses all threads, of many each
        thread takes its own. Raises UserError for what the index cannot answer.
        """
        check_search(queries, k, self.codec.dim)
        budget = max(BUDGET, PER_HIT * k) if budget is None else budget
        if budget < k:
            raise UserError(f"budget = {budget} documents cannot give k = {k} hits: raise the budget")
        chosen = self._documents(lang, ids)
        threads = threads or torch.get_num_threads()
        with ThreadPoolExecutor(threads) as pool:
            if len(queries) == 1:
                return [self._one(queries[0], chosen, k, budget, threads, pool if threads > 1 else None)]
            return list(pool.map(lambda query: self._one(query, chosen, k, budget, 1, None), queries))

    def _documents(self, lang: str | None, ids: Wanted | None) -> Array:
        if lang is None and ids is None:
            return np.flatnonzero(self.findable)
        found = documents(self.ids, self.langs, lang, ids)
        return found[self.findable[found]]

    def _one(
        self, query: Tensor, chosen: Array, k: int, budget: int, threads: int, pool: ThreadPoolExecutor | None
    ) -> tuple[list[str], Array]:
        question = self.ask(query)
        if len(chosen) > budget:
            first = self._everywhere(self._first, question, chosen, threads, pool)
            cut = len(first) - budget
            chosen = np.sort(chosen[np.argpartition(first, cut)[cut:]])
        scores = self._everywhere(self._second, question, chosen, threads, pool)
        order = np.argsort(-scores, kind="stable")[:k]
        return [self.ids[n] for n in chosen[order].tolist()], strictly_falling(scores[order])

    def ask(self, query: Tensor) -> Question:
        """Make a query [Q, E] ready."""
        query = query.to("cpu", torch.float32)
        return Question([self._block(piece) for piece in query.split(LANES)], query.sum(0).numpy())

    def _block(self, query: Tensor) -> Block:
        used = len(query)
        columns = torch.zeros(self.codec.dim, LANES)
        columns[:, :used] = query.T
        products = self.codec.centroids @ columns
        low = products.min()
        unit = np.float32(((products.max() - low) / 255).clamp_min(1e-12))
        table = np.empty(products.shape, np.uint8)
        kernels.quantise(products.numpy(), used, np.float32(low), unit, table)
        rotated = torch.from_numpy(self.codec.decoder) @ columns
        flat = [tensor.flatten().numpy() for tensor in (columns, rotated, products)]
        return Block(flat[0], flat[1], flat[2], table, unit, used)

    def _everywhere(
        self,
        score: Callable[[Question, Part, Array], Array],
        question: Question,
        chosen: Array,
        threads: int,
        pool: ThreadPoolExecutor | None,
    ) -> Array:
        """`score` of the documents `chosen` (ascending, of all parts), [n] float32."""
        cuts = np.searchsorted(chosen, self.bounds)
        work = []
        for number, part in enumerate(self.parts):
            local = chosen[cuts[number] : cuts[number + 1]] - self.bounds[number]
            work += [(part, piece) for piece in np.array_split(local, threads) if len(piece)]
        if pool is None:
            scores = [score(question, part, piece) for part, piece in work]
        else:
            scores = list(pool.map(lambda task: score(question, *task), work))
        return np.concatenate([*scores, np.empty(0, np.float32)])

    def _first(self, question: Question, part: Part, chosen: Array) -> Array:
        codes, score = part.codes, np.empty(len(chosen), np.float32)
        kernels.lean(question.sum, codes.means, codes.mean_scales, chosen, score)
        score *= MEAN_WEIGHT
        for block in question.blocks:
            sums = np.zeros(len(chosen), np.int32)
            kernels.interact(block.table, codes.centroids, part.starts, part.ends, chosen, sums)
            score += sums * block.unit
        return score

    def _second(self, question: Question, part: Part, chosen: Array) -> Array:
        codec, codes, score = self.codec, part.codes, np.zeros(len(chosen), np.float32)
        for block in question.blocks:
            kernels.rerank(
                chosen, part.starts, part.ends, block.columns, block.rotated, block.centroid_scores, block.used,
                codes.centroids, codes.scales, codes.fits, codes.codes, codes.means, codes.mean_scales,
                codec.layout.places, codec.layout.shifts, codec.layout.masks, codec.tables, codec.table, SCALES, FITS,
                self.margin, score,
            )  # fmt: skip
        return score


def _spread(codec: Codec) -> float:
    """The standard deviation of the product of a vector as centroids are with a decoded residual of scale 1."""
    some = codec.centroids[:: max(1, len(codec.rows) // 1024)]
    return float((some @ torch.from_numpy(codec.decoder).T).square().sum(1).mean().sqrt())
