"""n-way rows for distillation: k negatives of each positive, drawn from bands of ranks, with the teacher's scores.

    >>> samples = n_way(by_score(pools), [(10, 2), (100, 5)], seed=1)    # 2 of the ten hardest, 5 of the next ninety

A band is (rank at which it ends, how many to draw): `uniform(k)` is one band without end, `top(k)` one with no choice.
Rank is a candidate's place in its pool: the teacher's after `by_score`, a retriever's own where `pool_systems` kept it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from colbertxm.data.negatives_pools import BLOCK, LARGEST, Ints, Pools
from colbertxm.data.negatives_rows import Sample, rows_of
from colbertxm.errors import UserError

Bands = Sequence[tuple[int, int]]


def uniform(k: int) -> Bands:
    """k of all candidates."""
    return [(LARGEST, k)]


def top(k: int) -> Bands:
    """The first k candidates."""
    return [(k, k)]


def n_way(pools: Pools, bands: Bands, seed: int, number: int = 0) -> Iterator[Sample]:
    """One round, queries in order, each with one random positive and, in the order of the bands, distinct random
    candidates of each band. A pure function of (pools, bands, seed, number), where `number` counts rounds. A query
    that has too few candidates in a band is left out and counted. Raises UserError for bands that can't be filled."""
    ends = [0, *(end for end, _ in bands)]
    wrong = [(end, k) for start, (end, k) in zip(ends, bands, strict=False) if not 0 < k <= end - start]
    if not bands or wrong:
        raise UserError(f"bands {list(bands)} must rise, each with 1 to (end - start) draws; wrong: {wrong}")
    for block, start in enumerate(range(0, len(pools), BLOCK)):
        generator = np.random.default_rng([seed, number, block])
        yield _block(pools, bands, start, min(start + BLOCK, len(pools)), generator)


def _block(pools: Pools, bands: Bands, start: int, stop: int, generator: np.random.Generator) -> Sample:
    counts = np.diff(pools.candidate_offsets[start : stop + 1])
    positives = generator.integers(np.diff(pools.positive_offsets[start : stop + 1]))
    # Random keys sorted within each query: the first few places are a uniform draw without replacement.
    rows = np.repeat(np.arange(stop - start), counts)
    ranks = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    keys = generator.random(len(rows))
    picks, begin = [], 0
    full = np.ones(stop - start, dtype=bool)
    for end, k in bands:
        inside = np.clip(counts, begin, end) - begin
        full &= inside >= k
        picks.append(_first(rows, ranks, keys, inside, (begin, end), k))
        begin = end
    queries = np.flatnonzero(full)
    chosen = np.concatenate(picks, axis=1)[queries]
    return rows_of(pools, start + queries, positives[queries], chosen, stop - start - len(queries))


def _first(rows: Ints, ranks: Ints, keys: Ints, inside: Ints, band: tuple[int, int], k: int) -> Ints:
    """Ranks of the k smallest keys of each query within the band, [queries, k]; -1 where it has fewer."""
    wanted = (ranks >= band[0]) & (ranks < band[1])
    rows, ranks, keys = rows[wanted], ranks[wanted], keys[wanted]
    order = np.lexsort((keys, rows)) if band[1] - band[0] > k else np.arange(len(rows))
    place = np.arange(len(rows)) - np.repeat(np.cumsum(inside) - inside, inside)
    few = place < k
    found = np.full((len(inside), k), -1, dtype=np.int64)
    found[rows[order][few], place[few]] = ranks[order][few]
    return found
