"""Is one condition better than another? Paired over queries and over seeds.

A run's seed decides the order of its samples and its projection's start, its queries are drawn from a language's
queries: both are noise. Conditions are compared on the same queries with the same seeds.

Shapes: S seeds, C clusters (a query with all its translations), L languages, N bootstrap samples.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from colbertxm.errors import UserError
from colbertxm.evaluation.significance import SAMPLES, macro_difference
from colbertxm.files import put, refusals

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Queries:
    """The measure of each query of a pair of languages, and the key that its translations share."""

    keys: tuple[str, ...]
    values: Floats


ByPair = Mapping[str, Queries]


@dataclass(frozen=True)
class Compared:
    """The macro-averaged difference over languages of two conditions, averaged over seeds. `low` and `high`: 95%, seeds
    and clusters drawn with replacement; `p`: clusters of the seeds' mean flip their signs; `by_seed`: of each seed."""

    difference: float
    low: float
    high: float
    p: float
    by_seed: tuple[float, ...]


def write_queries(path: Path, values: ByPair) -> None:
    """Keep per-query values beside a job's rows; numbers and plain text, nothing pickled."""
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for pair, queries in values.items():
        arrays[f"{pair}|values"] = np.asarray(queries.values, np.float64)
        arrays[f"{pair}|keys"] = np.array(queries.keys, dtype=np.str_)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    with refusals(path.parent):
        put(path, buffer.getvalue())


def read_queries(path: Path) -> dict[str, Queries]:
    """What `write_queries` wrote. Raises UserError where it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as found:
            pairs = [name.removesuffix("|values") for name in found.files if name.endswith("|values")]
            return {
                pair: Queries(tuple(found[f"{pair}|keys"].tolist()), found[f"{pair}|values"].astype(np.float64))
                for pair in pairs
            }
    except Exception as error:  # a damaged zip raises nearly anything
        raise UserError(f"cannot read {path} ({error}): delete the job's folder, and it runs again") from None


def compare(
    first: Sequence[ByPair], second: Sequence[ByPair], pairs: Sequence[str], samples: int = SAMPLES
) -> Compared:
    """Second minus first over `pairs`; element s of both is seed s. ValueError where queries or seeds differ."""
    if not first or len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} seeds: compare the same ones")
    for ones in (*first, *second):
        if any(ones[pair].keys != first[0][pair].keys for pair in pairs):
            raise ValueError("conditions and seeds were measured on different queries")
    clusters = {pair: first[0][pair].keys for pair in pairs}
    ours = {pair: np.mean([seed[pair].values for seed in second], axis=0) for pair in pairs}
    theirs = {pair: np.mean([seed[pair].values for seed in first], axis=0) for pair in pairs}
    over_queries = macro_difference(ours, theirs, clusters, samples=samples)
    sums, counts = _by_cluster(first, second, pairs, clusters)
    by_seed = (sums.sum(axis=1) / counts.sum(axis=0)).mean(axis=1)
    low, high = _interval(sums, counts, samples)
    return Compared(over_queries.mean, low, high, over_queries.p, tuple(float(d) for d in by_seed))


def _by_cluster(
    first: Sequence[ByPair], second: Sequence[ByPair], pairs: Sequence[str], clusters: Mapping[str, Sequence[str]]
) -> tuple[Floats, Floats]:
    """[S, C, L] sums of the differences, [C, L] numbers of queries."""
    numbers = {key: n for n, key in enumerate(dict.fromkeys(key for pair in pairs for key in clusters[pair]))}
    sums, counts = np.zeros((len(first), len(numbers), len(pairs))), np.zeros((len(numbers), len(pairs)))
    for column, pair in enumerate(pairs):
        places = [numbers[key] for key in clusters[pair]]
        np.add.at(counts[:, column], places, 1.0)
        for seed, (a, b) in enumerate(zip(first, second, strict=True)):
            np.add.at(sums[seed, :, column], places, b[pair].values - a[pair].values)
    return sums, counts


def _interval(sums: Floats, counts: Floats, samples: int) -> tuple[float, float]:
    """Percentiles of the mean over drawn seeds of the macro-average over drawn clusters."""
    rng = np.random.default_rng(0)
    seeds, size, languages = sums.shape
    found = []
    for start in range(0, samples, 500):
        count = min(500, samples - start)
        drawn = rng.multinomial(size, np.full(size, 1 / size), count).astype(np.float64)
        weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), count) / seeds
        present = drawn @ counts
        totals = np.einsum("ns,snl->nl", weights, drawn @ sums)
        means = np.divide(totals, present, out=np.zeros((count, languages)), where=present > 0)
        found.append(means.sum(axis=1) / np.maximum((present > 0).sum(axis=1), 1))
    low, high = np.quantile(np.concatenate(found), [0.025, 0.975])
    return float(low), float(high)
