"""Search over compressed vectors: every document scored by its centroids, the best `budget` reranked from codes.

Shapes: Q query vectors, K centroids, N documents, T document vectors, E dimensions.

Three looks, each at fewer documents and closer:

1. all documents, or where there are more than some ten thousand those that inverted lists find worth it
   (colbertxm.engine.lists): the sum over query vectors of the best centroid among the document's vectors' (PLAID's
   centroid interaction), plus MEAN_WEIGHT times the dot product of the query's sum with the document's mean residual:
   128 products a document that halve the number of documents one must rerank;
2. the best `budget`: MaxSim over vectors decoded in their first LOOK coordinates, which hold most of what a query sees;
3. of these the best KEEP: MaxSim over all coordinates, the score that a hit has.

Where `budget` takes in all documents that are searched, all get the third look at once: then nothing is left out.

Decoding happens vector by vector in the first cache (colbertxm.engine.kernels).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from colbertxm.engine import kernels
from colbertxm.engine.codec import FITS, SCALES, Codec, Codes
from colbertxm.engine.exact import check_search
from colbertxm.engine.filters import Wanted, documents
from colbertxm.engine.kernels import LANES, Array
from colbertxm.engine.lists import FROM, Lists, best
from colbertxm.engine.ties import strictly_falling
from colbertxm.errors import UserError

MEAN_WEIGHT = np.float32(0.5)  # the best vector of a document leans less to its side than the mean does
BUDGET = 512
PER_HIT = 5  # documents reranked for each that is asked for, where that is more than BUDGET
CANDIDATES, CANDIDATES_PER_BUDGET = 4096, 8  # documents that inverted lists leave, where there are many
CANDIDATES_SHARE = 32  # or this share of them
LOOK = 32  # coordinates of the codes, those that queries ask for most, that all reranked documents are scored by
KEEP = 64  # documents that are then scored by all coordinates
KEEP_PER_HIT, KEEP_SHARE = 2, 8  # or so many for each that is asked for, or this share of `budget`
SLACKS = (0.5, 2.0, 3.0)
"""A vector of a reranked document is decoded where, for some query vector, it may come above the document's best: what
its centroid promises may be wrong by so many standard deviations of a query's product with a residual's decoded
coordinates. The first for the look at LOOK coordinates, the second for that at all, the third within that: what the
centroid and LOOK coordinates promise may be wrong by so many of the product with the other coordinates."""


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
    centroids [K, LANES], in float32 and as bytes: `low` plus `unit` times them; `used` of them count."""

    columns: Array
    rotated: Array
    centroid_scores: Array
    table: Array
    unit: np.float32
    low: np.float32
    used: int


@dataclass(frozen=True)
class Stage:
    """How closely documents are looked at: by so many coordinates, the `first` of them, in so many `bytes` of a code,
    before the others. Vectors whose centroids promise less than the best by more than `margin` (in units of their
    scales) are passed over; those whose first coordinates promise less by more than `rest` are spared the others."""

    axes: int
    first: int
    bytes: int
    margin: np.float32
    rest: np.float32


@dataclass(frozen=True)
class Question:
    """A query's blocks and the sum [E] of its vectors."""

    blocks: list[Block]
    sum: Array


class CompressedEngine:
    """MaxSim over the documents of `parts`, in order; document n of all is `ids[n]` in the language `langs[n]`."""

    def __init__(
        self, codec: Codec, parts: Sequence[Part], ids: Sequence[str], langs: Sequence[str], alive: Array | None = None,
        slacks: tuple[float, float, float] = SLACKS, lists: Lists | None = None,
    ) -> None:  # fmt: skip
        """`alive` [N] bool: which documents can be found (all). `slacks`: see SLACKS; infinite ones decode all. `lists`
        of the first documents: searches of more than `lists.FROM` documents go through them."""
        check_names(parts, ids, langs)
        self.codec, self.ids, self.langs, self.lists = codec, ids, langs, lists
        first, look, whole, rest = min(LOOK, codec.dim), *slacks
        room, none = codec.layout.room(first), np.float32(0)
        self.look = Stage(first, first, room, np.float32(look * _spread(codec, 0, first)), none)
        margin = np.float32(whole * _spread(codec, 0, codec.dim))
        beyond = np.float32(rest * _spread(codec, first, codec.dim)) if first < codec.dim else none
        self.whole = Stage(codec.dim, first, room, margin, beyond)
        self.parts = [part.read_only() for part in parts]
        self.bounds = np.cumsum([0, *(len(part.starts) for part in parts)])
        lengths = [part.ends - part.starts for part in parts]
        self.findable = np.concatenate([*lengths, np.empty(0, np.int64)]) > 0
        if alive is not None:
            self.findable &= alive
        self.all = np.flatnonzero(self.findable)

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
        found = self.ranked(queries, k, lang, ids, budget, threads)
        return [([self.ids[n] for n in chosen.tolist()], strictly_falling(scores)) for chosen, scores in found]

    def ranked(
        self,
        queries: Sequence[Tensor],
        k: int,
        lang: str | None = None,
        ids: Wanted | None = None,
        budget: int | None = None,
        threads: int | None = None,
    ) -> list[tuple[Array, Array]]:
        """What `search` finds as positions and scores before ties are told apart: for a merge with others' finds."""
        check_search(queries, k, self.codec.dim)
        budget = budget_of(k, budget)
        chosen = self._documents(lang, ids)
        threads = threads or torch.get_num_threads()
        if threads == 1:
            return [self._one(query, chosen, k, budget, 1, None) for query in queries]
        if len(queries) == 1:
            return [self._one(queries[0], chosen, k, budget, threads, _pool(threads))]
        return list(_pool(threads).map(lambda query: self._one(query, chosen, k, budget, 1, None), queries))

    def _documents(self, lang: str | None, ids: Wanted | None) -> Array:
        if lang is None and ids is None:
            return self.all
        found = documents(self.ids, self.langs, lang, ids)
        return found[self.findable[found]]

    def _one(
        self, query: Tensor, chosen: Array, k: int, budget: int, threads: int, pool: ThreadPoolExecutor | None
    ) -> tuple[Array, Array]:
        question = self.ask(query, threads, pool)
        if len(chosen) > budget:
            chosen = self._listed(question, chosen, budget, pool)
            keep = max(KEEP, KEEP_PER_HIT * k, budget // KEEP_SHARE)
            for score, count in ((self._first, budget), (self._second, keep)):
                if len(chosen) > count:
                    scores = self._everywhere(score, question, chosen, threads, pool)
                    chosen = np.sort(chosen[np.argpartition(scores, len(scores) - count)[-count:]])
        scores = self._everywhere(self._third, question, chosen, threads, pool)
        order = np.argsort(-scores, kind="stable")[:k]
        return chosen[order], scores[order]

    def _listed(self, question: Question, chosen: Array, budget: int, pool: ThreadPoolExecutor | None) -> Array:
        """Those of `chosen` that inverted lists find worth a look, ascending."""
        if self.lists is None or len(chosen) <= FROM:
            return chosen
        allowed = np.zeros(self.lists.count, bool)
        new = np.searchsorted(chosen, self.lists.count)
        allowed[chosen[:new]] = True
        count = max(CANDIDATES, CANDIDATES_PER_BUDGET * budget, self.lists.count // CANDIDATES_SHARE)
        found = [
            best(self.lists.gains(block.table, block.used, map if pool is None else pool.map), allowed, count)
            for block in question.blocks
        ]
        return np.concatenate([np.unique(np.concatenate(found)), chosen[new:]])

    def ask(self, query: Tensor, threads: int = 1, pool: ThreadPoolExecutor | None = None) -> Question:
        """Make a query [Q, E] ready."""
        query = query.to("cpu", torch.float32)
        return Question([self._block(piece, threads, pool) for piece in query.split(LANES)], query.sum(0).numpy())

    def _block(self, query: Tensor, threads: int, pool: ThreadPoolExecutor | None) -> Block:
        used, k = len(query), len(self.codec.rows)
        columns = np.zeros((self.codec.dim, LANES), np.float32)
        columns[:, :used] = query.T
        flat, scores, table = columns.reshape(-1), np.empty(k * LANES, np.float32), np.empty((k, LANES), np.uint8)

        def products(piece: int) -> None:
            first, last = piece * k // threads, (piece + 1) * k // threads
            kernels.products(self.codec.rows, self.codec.row_scales, flat, first, last, scores)

        for _ in (map if pool is None else pool.map)(products, range(threads)):
            pass
        low = scores.min()
        unit = np.float32(max((scores.max() - low) / 255, 1e-12))
        kernels.quantise(scores.reshape(k, LANES), used, low, unit, table)
        rotated = np.empty(self.codec.dim * LANES, np.float32)
        ones = np.ones((self.codec.dim, 1), np.float32)
        kernels.products(self.codec.decoder, ones, flat, 0, self.codec.dim, rotated)
        return Block(flat, rotated, scores, table, unit, low, used)

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
        return self._decoded(question, part, chosen, self.look)

    def _third(self, question: Question, part: Part, chosen: Array) -> Array:
        return self._decoded(question, part, chosen, self.whole)

    def _decoded(self, question: Question, part: Part, chosen: Array, stage: Stage) -> Array:
        codec, codes, score = self.codec, part.codes, np.zeros(len(chosen), np.float32)
        for block in question.blocks:
            kernels.rerank(
                chosen, part.starts, part.ends, block.columns, block.rotated, block.centroid_scores, block.table,
                block.unit, block.low, block.used, codes.centroids, codes.scales, codes.fits, codes.codes, codes.means,
                codes.mean_scales, codec.layout.places, codec.layout.shifts, codec.layout.masks, codec.tables,
                codec.table, SCALES, FITS, stage.margin, stage.rest, stage.first, stage.bytes, stage.axes, score,
            )  # fmt: skip
        return score


def check_names(parts: Sequence[Part], ids: Sequence[str], langs: Sequence[str]) -> None:
    """Raises UserError unless each document of `parts` has an id and a language."""
    count = sum(len(part.starts) for part in parts)
    if not count == len(ids) == len(langs):
        raise UserError(f"{count} documents, {len(ids)} ids, {len(langs)} languages: give each document one of each")


def budget_of(k: int, budget: int | None) -> int:
    """How many documents are reranked for `k` hits: `budget`, or BUDGET, or PER_HIT times `k`. Raises UserError for
    fewer than `k`."""
    budget = max(BUDGET, PER_HIT * k) if budget is None else budget
    if budget < k:
        raise UserError(f"budget = {budget} documents cannot give k = {k} hits: raise the budget")
    return budget


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Kept from search to search: to start threads takes a third of a search."""
    return ThreadPoolExecutor(threads, "colbertxm-search")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has the pools but not their threads


def _spread(codec: Codec, begin: int, end: int) -> float:
    """The standard deviation of the product of a vector as centroids are with the decoded coordinates `begin` to `end`
    of a residual of scale 1."""
    step = max(1, len(codec.rows) // 1024)  # of the bytes: all centroids in float32 would be made for these few
    some = torch.from_numpy(codec.rows[::step] * codec.row_scales[::step])
    return float((some @ torch.from_numpy(codec.decoder[begin:end]).T).square().sum(1).mean().sqrt())
