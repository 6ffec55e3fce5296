"""Seeded k-means in two levels: groups of centroids, and centroids in the nearest groups only.

Finding the nearest of K centroids costs K dot products; with about sqrt(K) groups, of which each vector looks into the
nearest PROBES, it costs a few hundred. The exact search is what takes over 80 % of the time in other engines' builds.
What the short way loses in squared error, and its time beside faiss': `python benchmarks/engine/tricks.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

ROUNDS = 5
PROBES = 6
BLOCK = 2**14  # vectors assigned at a time
SMALL = 512  # so few centroids are all compared


def number_of_centroids(vectors: int) -> int:
    """The paper's K = 2^floor(log2(16 sqrt(T))) (PLAID, arXiv 2205.09707), at most one a vector."""
    return max(1, min(2 ** math.floor(math.log2(16 * math.sqrt(max(1, vectors)))), vectors))


class Centroids:
    """Centroids [K, E] float32, and the groups that shorten the way to the nearest."""

    def __init__(self, values: Tensor, seed: int = 0) -> None:
        self.values = values
        self.halves = values.square().sum(1) / 2
        self.groups: list[Tensor] = []
        if len(values) > SMALL:
            count = 2 ** round(math.log2(math.sqrt(len(values))))
            heads = _lloyd(values, count, 4, torch.Generator().manual_seed(seed), nearest_of_all)
            owner = nearest_of_all(values, heads)
            order = torch.argsort(owner, stable=True)
            sizes = torch.bincount(owner, minlength=count)
            self.groups = [g for g in order.split(sizes.tolist()) if len(g)]
            self.heads = heads[sizes > 0]

    def nearest(self, vectors: Tensor) -> Tensor:
        """The nearest centroid of each vector [T, E] float32, by Euclid's distance; [T] int64. With more than SMALL
        centroids it may be another one that is nearly as near."""
        if not self.groups:
            return nearest_of_all(vectors, self.values)
        return torch.cat([self._nearest(block) for block in vectors.split(BLOCK)])

    def _nearest(self, block: Tensor) -> Tensor:
        closeness = torch.addmm(-self.heads.square().sum(1) / 2, block, self.heads.T)
        probed = closeness.topk(min(PROBES, len(self.heads)), 1).indices
        asked = torch.zeros(closeness.shape, dtype=torch.bool).scatter_(1, probed, True).T.contiguous()
        best = torch.full((len(block),), -torch.inf)
        chosen = torch.zeros(len(block), dtype=torch.int64)
        for group, rows in zip(self.groups, asked, strict=True):
            at = rows.nonzero().squeeze(1)
            if not len(at):
                continue
            products = torch.addmm(-self.halves[group], block[at], self.values[group].T)
            value, place = products.max(1)
            better = value > best[at]
            best[at[better]] = value[better]
            chosen[at[better]] = group[place[better]]
        return chosen


def nearest_of_all(vectors: Tensor, centroids: Tensor) -> Tensor:
    """The nearest of all centroids [K, E] of each vector [T, E]; the first of equally near ones."""
    halves = centroids.square().sum(1) / 2
    return torch.cat([torch.addmm(-halves, block, centroids.T).argmax(1) for block in vectors.split(2**12)])


def kmeans(
    vectors: Tensor, k: int, seed: int = 0, rounds: int = ROUNDS, progress: Callable[[int], None] | None = None
) -> Tensor:
    """`k` centroids [k, E] float32 of `vectors` [T, E] float32; the same for the same seed and number of threads.
    `progress` is told of each finished round. Raises ValueError for fewer vectors than centroids."""
    if k > len(vectors):
        raise ValueError(f"{k} centroids of {len(vectors)} vectors")
    generator = torch.Generator().manual_seed(seed)
    return _lloyd(vectors, k, rounds, generator, lambda v, c: Centroids(c, seed).nearest(v), progress)


def _lloyd(
    vectors: Tensor,
    k: int,
    rounds: int,
    generator: torch.Generator,
    nearest: Callable[[Tensor, Tensor], Tensor],
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Lloyd's rounds from `k` vectors drawn without repetition. A centroid that nothing is near to moves beside the
    fullest ones (as faiss does): half of their vectors then go to it."""
    centroids = vectors[torch.randperm(len(vectors), generator=generator)[:k]].clone()
    for _ in range(rounds):
        owner = nearest(vectors, centroids)
        counts = torch.bincount(owner, minlength=k)
        sums = torch.zeros_like(centroids).index_add_(0, owner, vectors)
        full = counts > 0
        centroids[full] = sums[full] / counts[full, None]
        empty = (~full).nonzero().squeeze(1)
        if len(empty):
            donors = counts.argsort(descending=True, stable=True)[: len(empty)]
            noise = torch.randn(len(donors), vectors.shape[1], generator=generator)
            centroids[empty[: len(donors)]] = centroids[donors] * (1 + noise / 1024)
        if progress is not None:
            progress(1)
    return centroids
