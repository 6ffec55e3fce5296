"""How sure a mean over queries is: percentile bootstrap, sign-flip randomisation, Holm's correction.

Shapes: Q queries, C clusters, L languages, S samples. Values are per-query measures such as
`Scores.values["RR@10"]`. Everything is a pure function of its arguments: the same seed gives the same
interval and the same p.

Sources: Efron and Tibshirani 1993, ch. 13 (percentile interval); Smucker, Allan and Carterette 2007 (the
paired randomisation test for retrieval); Phipson and Smyth 2010 (why p is (count + 1) / (samples + 1)); Field
and Welsh 2007 (cluster bootstrap); Holm 1979.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
SAMPLES = 10_000
_CHUNK = 2**21  # numbers drawn at a time: 16 MB of float64


@dataclass(frozen=True)
class Difference:
    """Mean of a - b, its bootstrap interval `low` to `high`, two-sided p of the randomisation test."""

    mean: float
    low: float
    high: float
    p: float


def bootstrap_interval(
    values: npt.ArrayLike, confidence: float = 0.95, samples: int = SAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values` [Q]: queries are drawn with replacement.

    ValueError for no values, NaN, or a confidence outside (0, 1).
    """
    return bootstrap_intervals({"": values}, confidence, samples, seed)[""]


def bootstrap_intervals(
    values: Mapping[str, npt.ArrayLike], confidence: float = 0.95, samples: int = SAMPLES, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """`bootstrap_interval` of several measures of the same queries, [Q] each: each drawn once for all of them."""
    if not values:
        return {}
    columns = [_values(measure) for measure in values.values()]
    if len({len(column) for column in columns}) > 1:
        raise ValueError(f"values of the same queries, not of {[len(column) for column in columns]}")
    stacked = np.stack(columns, axis=1)
    queries = len(stacked)
    if samples * queries <= 2 * _CHUNK:
        means = _bootstrap_counts(samples, queries, seed) @ stacked / queries
    else:
        rng = np.random.default_rng(seed)
        means = _sampled(samples, queries, lambda size: _multiplicities(rng, size, queries) @ stacked / queries)
    return {name: _percentiles(means[:, place], confidence) for place, name in enumerate(values)}


def paired_randomisation(a: npt.ArrayLike, b: npt.ArrayLike, samples: int = SAMPLES, seed: int = 0) -> float:
    """Two-sided p of "a and b are exchangeable, query by query", for the mean difference.

    Each query's difference d keeps or flips its sign with probability 1/2, S times:
    p = (1 + #{|sum(sign d)| >= |sum(d)|}) / (S + 1), so never below 1 / (S + 1). `a`, `b`: [Q], same queries.
    """
    return _sign_flip(_paired(a, b), samples, np.random.default_rng(seed))


def paired_difference(
    a: npt.ArrayLike, b: npt.ArrayLike, confidence: float = 0.95, samples: int = SAMPLES, seed: int = 0
) -> Difference:
    """The mean of a - b over the same queries [Q], with `bootstrap_interval` and `paired_randomisation`."""
    difference = _paired(a, b)
    low, high = bootstrap_interval(difference, confidence, samples, seed)
    p = _sign_flip(difference, samples, np.random.default_rng(seed))
    return Difference(float(difference.mean()), low, high, p)


def macro_difference(
    a: Mapping[str, npt.ArrayLike],
    b: Mapping[str, npt.ArrayLike],
    clusters: Mapping[str, Sequence[str]],
    confidence: float = 0.95,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Difference:
    """The difference a - b of the macro-average over languages, each language weighing the same:

        D = 1/L sum_l 1/Q_l sum_{q in l} (a_lq - b_lq)

    `a[lang]`, `b[lang]`: [Q_l], same queries; `clusters[lang]`: each query's cluster key, Q_l of them.
    Queries that share a key depend on one another - the same pair in several languages, or all pairs of one
    component - and taking them for independent would make the interval too narrow. So whole clusters are
    drawn and flipped:

    - interval: C clusters are drawn with replacement, m_c times each, and D is computed anew, each language's
      mean over what was drawn of it: D* = mean_l [sum_q m_c(q) d_lq / sum_q m_c(q)]. (A language of which
      nothing was drawn, possible only with a handful of clusters, is left out of that sample's mean.)
    - p: D = sum_c z_c with z_c = 1/L sum_l 1/Q_l sum_{q in l, c(q) = c} d_lq; the z_c flip their signs.

    ValueError where languages or lengths of the three differ.
    """
    sums, counts = _by_cluster(a, b, clusters)
    shares = (sums / counts.sum(axis=0)).mean(axis=1)
    rng = np.random.default_rng(seed)
    means = _sampled(samples, len(sums), lambda size: _macro_means(_multiplicities(rng, size, len(sums)), sums, counts))
    low, high = _percentiles(means, confidence)
    return Difference(float(shares.sum()), low, high, _sign_flip(shares, samples, np.random.default_rng(seed)))


def macro_interval(
    values: Mapping[str, npt.ArrayLike],
    clusters: Mapping[str, Sequence[str]],
    confidence: float = 0.95,
    samples: int = SAMPLES,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Mean, low and high of the macro-average over languages, from the cluster bootstrap of `macro_difference`."""
    nothing = {lang: np.zeros(len(_values(found))) for lang, found in values.items()}
    sums, counts = _by_cluster(values, nothing, clusters)
    rng = np.random.default_rng(seed)
    means = _sampled(samples, len(sums), lambda size: _macro_means(_multiplicities(rng, size, len(sums)), sums, counts))
    mean = float((sums / counts.sum(axis=0)).sum(axis=0).mean())
    return mean, *_percentiles(means, confidence)


def unpaired_difference(
    a: npt.ArrayLike, b: npt.ArrayLike, confidence: float = 0.95, samples: int = SAMPLES, seed: int = 0
) -> Difference:
    """mean(a) - mean(b) of different queries [Q_a], [Q_b]: each side is drawn on its own for the interval, and p is
    that of the permutation test, in which the queries change sides."""
    first, second = _values(a), _values(b)
    rng = np.random.default_rng(seed)
    sizes = len(first), len(second)

    def drawn(size: int) -> Floats:
        return first[_draw(rng, size, sizes[0])].mean(axis=1) - second[_draw(rng, size, sizes[1])].mean(axis=1)

    low, high = _percentiles(_sampled(samples, max(sizes), drawn), confidence)
    difference = float(first.mean() - second.mean())
    together = np.concatenate([first, second])

    def permuted(size: int) -> Floats:
        places = rng.random((size, len(together))).argpartition(sizes[0] - 1, axis=1)[:, : sizes[0]]
        chosen = together[places].sum(axis=1)
        return np.abs(chosen / sizes[0] - (together.sum() - chosen) / sizes[1])

    threshold = abs(difference) - 1e-12 * np.abs(together).max()
    count = int((_sampled(samples, len(together), permuted) >= threshold).sum())
    return Difference(difference, low, high, (count + 1) / (samples + 1))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p values corrected for the number of tests (Holm's step-down), in the order given.

    With the m values in rising order, the i-th (from 0) becomes max over j <= i of min(1, (m - j) p_j).
    """
    if not all(0 <= p <= 1 for p in p_values.values()):
        raise ValueError(f"p values lie between 0 and 1, not {dict(p_values)}")
    corrected: dict[str, float] = {}
    largest = 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[name]))
        corrected[name] = largest
    return {name: corrected[name] for name in p_values}


def _values(values: npt.ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError(f"need one finite value per query and at least one query, not shape {array.shape}")
    return array


def _paired(a: npt.ArrayLike, b: npt.ArrayLike) -> Floats:
    first, second = _values(a), _values(b)
    if len(first) != len(second):
        raise ValueError(f"paired values come from the same queries, not {len(first)} and {len(second)}")
    return first - second


def _by_cluster(
    a: Mapping[str, npt.ArrayLike], b: Mapping[str, npt.ArrayLike], clusters: Mapping[str, Sequence[str]]
) -> tuple[Floats, Floats]:
    """[C, L] sums of the differences and [C, L] numbers of queries; clusters in the order they first come."""
    if not a or a.keys() != b.keys() or a.keys() != clusters.keys():
        raise ValueError(f"languages differ: {sorted(a)}, {sorted(b)}, {sorted(clusters)}")
    numbers: dict[str, int] = {}
    for lang in a:
        for key in clusters[lang]:
            numbers.setdefault(key, len(numbers))
    sums, counts = np.zeros((2, len(numbers), len(a)))
    for column, lang in enumerate(a):
        difference = _paired(a[lang], b[lang])
        if len(difference) != len(clusters[lang]):
            raise ValueError(f"{lang}: {len(difference)} queries, but {len(clusters[lang])} cluster keys")
        of_query = [numbers[key] for key in clusters[lang]]
        np.add.at(sums[:, column], of_query, difference)
        np.add.at(counts[:, column], of_query, 1.0)
    return sums, counts


def _macro_means(drawn: Floats, sums: Floats, counts: Floats) -> Floats:
    """[S] macro-averages, for how often each cluster was drawn [S, C]."""
    totals, sizes = drawn @ sums, drawn @ counts
    present = sizes > 0
    means = np.divide(totals, sizes, out=np.zeros_like(totals), where=present)
    return np.asarray(means.sum(axis=1) / present.sum(axis=1))


def _draw(rng: np.random.Generator, size: int, population: int) -> npt.NDArray[np.int32]:
    return rng.integers(0, population, size=(size, population), dtype=np.int32)


@lru_cache(maxsize=1)  # collections have as many queries as the one before, more often than not
def _bootstrap_counts(samples: int, population: int, seed: int) -> Floats:
    rng = np.random.default_rng(seed)
    return _sampled(samples, population, lambda size: _multiplicities(rng, size, population))


def _multiplicities(rng: np.random.Generator, size: int, population: int) -> Floats:
    """[S, C]: how often each cluster comes among C draws with replacement."""
    cells = _draw(rng, size, population) + np.arange(size)[:, None] * population
    counts = np.bincount(cells.ravel(), minlength=size * population)
    return counts.reshape(size, population).astype(np.float64)


def _sign_flip(parts: Floats, samples: int, rng: np.random.Generator) -> float:
    """p of |sum(parts)| among the sums with random signs; parts of zero, without a sign, are dropped."""
    parts = parts[parts != 0]
    total = abs(parts.sum())
    # Equal sums added in another order differ in their last bits; they count as equal.
    threshold = total - 1e-12 * np.abs(parts).sum()

    def flipped(size: int) -> Floats:
        signs = np.unpackbits(rng.integers(0, 256, size=(size, -(-len(parts) // 8)), dtype=np.uint8), axis=1)
        return np.abs(parts.sum() - 2.0 * (signs[:, : len(parts)].astype(np.float64) @ parts))

    count = int((_sampled(samples, max(len(parts), 1), flipped) >= threshold).sum())
    return (count + 1) / (samples + 1)


def _sampled(samples: int, width: int, draw: Callable[[int], npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """[S]: `draw(size)` for sizes that add up to `samples`, so that size x width stays small."""
    if samples < 1:
        raise ValueError(f"need at least one sample, not {samples}")
    return np.concatenate([draw(size) for size in _sizes(samples, max(1, _CHUNK // width))])


def _sizes(total: int, most: int) -> Iterator[int]:
    for start in range(0, total, most):
        yield min(most, total - start)


def _percentiles(means: Floats, confidence: float) -> tuple[float, float]:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence lies between 0 and 1, not {confidence}")
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
