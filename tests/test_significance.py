"""Intervals and p values: against exact enumeration, plain loops, and cases with a known answer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from colbertxm.evaluation import significance
from colbertxm.evaluation.significance import (
    Difference,
    bootstrap_interval,
    bootstrap_intervals,
    holm,
    macro_difference,
    macro_interval,
    paired_difference,
    paired_randomisation,
    unpaired_difference,
)


def exact_p(parts: np.ndarray) -> float:
    """All 2^n signs."""
    total = abs(parts.sum())
    sums = [abs(np.dot(signs, parts)) for signs in itertools.product((1, -1), repeat=len(parts))]
    return sum(value >= total - 1e-12 for value in sums) / len(sums)


def exact_means(values: np.ndarray) -> np.ndarray:
    """The means of all n^n resamples."""
    return np.array([np.mean(drawn) for drawn in itertools.product(values, repeat=len(values))])


def test_the_interval_is_that_of_all_resamples() -> None:
    values = np.array([0.0, 0.13, 0.41, 0.5, 1.0])
    low, high = bootstrap_interval(values, samples=100_000)
    assert (low, high) == pytest.approx(np.quantile(exact_means(values), [0.025, 0.975]), abs=0.01)
    low, high = bootstrap_interval(values, confidence=0.5, samples=100_000)
    assert (low, high) == pytest.approx(np.quantile(exact_means(values), [0.25, 0.75]), abs=0.01)


def test_the_interval_is_near_the_normal_one_for_many_queries() -> None:
    values = np.random.default_rng(0).random(1000)
    error = 1.96 * values.std() / np.sqrt(1000)
    assert bootstrap_interval(values) == pytest.approx((values.mean() - error, values.mean() + error), abs=1e-3)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    values = np.random.default_rng(0).random(50)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values) != bootstrap_interval(values, seed=1)


def test_chunks_do_not_lose_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(significance, "_CHUNK", 70)
    values = np.array([0.0, 0.13, 0.41, 0.5, 1.0])
    expected = np.quantile(exact_means(values), [0.025, 0.975])
    assert bootstrap_interval(values, samples=20_001) == pytest.approx(expected, abs=0.03)
    assert paired_randomisation(values, values * 0, samples=999) >= 1 / 1000
    drawn = significance._sampled(1001, 7, lambda size: np.ones(size))
    assert drawn.shape == (1001,)


def test_constant_values_have_no_width() -> None:
    assert bootstrap_interval([0.25] * 7) == (0.25, 0.25)


@pytest.mark.parametrize("seed", range(6))
def test_p_is_that_of_all_signs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0.4 * seed, 1, size=10), rng.normal(size=10)
    # Four standard errors of a share estimated from 40,000 samples are at most 0.01.
    assert paired_randomisation(a, b, samples=40_000) == pytest.approx(exact_p(a - b), abs=0.01)


def test_p_with_ties_and_zeros_is_that_of_all_signs() -> None:
    a = np.array([0.1, 0.1, 0.1, 0.0, 0.3, 0.0, -0.2, 0.1])
    assert paired_randomisation(a, a * 0, samples=40_000) == pytest.approx(exact_p(a), abs=0.01)


def test_p_at_its_ends() -> None:
    a = np.random.default_rng(0).random(100)
    assert paired_randomisation(a, a) == 1.0
    assert paired_randomisation(a + 1, a, samples=999) == 1 / 1000
    assert paired_randomisation(a, a + 1, samples=999) == 1 / 1000


def test_p_is_uniform_where_nothing_differs() -> None:
    rng = np.random.default_rng(0)
    p = [paired_randomisation(rng.random(30), rng.random(30), samples=199, seed=seed) for seed in range(400)]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.035)
    assert np.mean(np.array(p) <= 0.5) == pytest.approx(0.5, abs=0.1)


def test_paired_difference_puts_the_pieces_together() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random(80), rng.random(80)
    difference = paired_difference(a, b, seed=3)
    assert difference.mean == pytest.approx(a.mean() - b.mean())
    assert (difference.low, difference.high) == bootstrap_interval(a - b, seed=3)
    assert difference.p == paired_randomisation(a, b, seed=3)
    assert paired_difference(b, a, seed=3).mean == pytest.approx(-difference.mean)


def ragged(seed: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, list[str]]]:
    """Three languages of different sizes; every pair is in some of them; pairs 0 and 1 twice in `de`."""
    rng = np.random.default_rng(seed)
    clusters = {"de": list("01234501"), "ja": list("2345"), "tr": list("56701")}
    a = {lang: rng.random(len(keys)) for lang, keys in clusters.items()}
    b = {lang: rng.random(len(keys)) - 0.15 * seed for lang, keys in clusters.items()}
    return a, b, clusters


def macro(
    a: dict[str, np.ndarray], b: dict[str, np.ndarray], clusters: dict[str, list[str]], times: dict[str, int]
) -> float:
    """The formula, as a loop over languages and queries; `times[key]`: how often a cluster was drawn."""
    means = []
    for lang, keys in clusters.items():
        drawn = [d for d, key in zip(a[lang] - b[lang], keys, strict=True) for _ in range(times[key])]
        if drawn:
            means.append(sum(drawn) / len(drawn))
    return sum(means) / len(means)


@pytest.mark.parametrize("seed", range(4))
def test_macro_difference_draws_and_flips_whole_clusters(seed: int) -> None:
    a, b, clusters = ragged(seed)
    keys = list("01234567")
    found = macro_difference(a, b, clusters, samples=40_000)
    assert found.mean == pytest.approx(macro(a, b, clusters, dict.fromkeys(keys, 1)))

    rng = np.random.default_rng(99)
    means = []
    for _ in range(8_000):
        drawn = rng.choice(keys, size=len(keys)).tolist()
        means.append(macro(a, b, clusters, {key: drawn.count(key) for key in keys}))
    assert (found.low, found.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.025)

    flips = []
    for signs in itertools.product((1, -1), repeat=len(keys)):
        sign = dict(zip(keys, signs, strict=True))
        flipped = {lang: (a[lang] - b[lang]) * [sign[key] for key in clusters[lang]] for lang in a}
        flips.append(abs(np.mean([values.mean() for values in flipped.values()])))
    exact = np.mean(np.array(flips) >= abs(found.mean) - 1e-12)
    assert found.p == pytest.approx(exact, abs=0.01)


def test_macro_difference_of_one_language_is_the_paired_difference() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(200), rng.random(200) - 0.02
    one = macro_difference({"de": a}, {"de": b}, {"de": [str(number) for number in range(200)]}, samples=20_000)
    other = paired_difference(a, b, samples=20_000)
    assert (one.mean, one.low, one.high) == pytest.approx((other.mean, other.low, other.high), abs=3e-3)
    assert one.p == pytest.approx(other.p, abs=0.02)


def test_copies_of_a_language_add_no_certainty() -> None:
    """Ten languages with the same values are one: the interval must not shrink by the root of ten."""
    rng = np.random.default_rng(0)
    a, b = rng.random(100), rng.random(100)
    keys = [str(number) for number in range(100)]
    langs = [f"l{number}" for number in range(10)]
    one = macro_difference({"l": a}, {"l": b}, {"l": keys})
    ten = macro_difference(dict.fromkeys(langs, a), dict.fromkeys(langs, b), dict.fromkeys(langs, keys))
    assert ten.high - ten.low == pytest.approx(one.high - one.low)
    assert ten.p == pytest.approx(one.p)
    apart = {lang: [f"{lang}{key}" for key in keys] for lang in langs}
    naive = macro_difference(dict.fromkeys(langs, a), dict.fromkeys(langs, b), apart)
    assert naive.high - naive.low < 0.5 * (ten.high - ten.low)


def test_holm_by_hand() -> None:
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03}) == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06})
    assert list(holm({"z": 0.5, "a": 0.9})) == ["z", "a"]
    assert holm({"z": 0.5, "a": 0.9}) == {"z": 1.0, "a": 1.0}
    assert holm({"one": 0.2}) == {"one": 0.2}
    assert holm({}) == {}


def test_senseless_input_is_refused() -> None:
    for values in ([], [float("nan")], [[1.0]]):
        with pytest.raises(ValueError, match="finite value"):
            bootstrap_interval(values)
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_interval([1.0], confidence=95)
    with pytest.raises(ValueError, match="sample"):
        bootstrap_interval([1.0], samples=0)
    with pytest.raises(ValueError, match="same queries"):
        paired_randomisation([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="languages differ"):
        macro_difference({"de": [1.0]}, {"ja": [1.0]}, {"de": ["a"]})
    with pytest.raises(ValueError, match="2 queries, but 1 cluster"):
        macro_difference({"de": [1.0, 2.0]}, {"de": [1.0, 0.0]}, {"de": ["a"]})
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm({"a": float("nan")})


def test_a_difference_is_a_value() -> None:
    assert Difference(0.1, 0.0, 0.2, 0.04) == Difference(0.1, 0.0, 0.2, 0.04)


def test_several_measures_are_drawn_at_once_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    values = {name: rng.random(40) for name in "abc"}
    together = bootstrap_intervals(values, samples=500)
    for name in values:
        draws = np.random.default_rng(0).integers(0, 40, size=(500, 40), dtype=np.int32)
        expected = np.quantile(values[name][draws].mean(axis=1), [0.025, 0.975])
        assert together[name] == pytest.approx(tuple(expected))
        assert together[name] == pytest.approx(bootstrap_interval(values[name], samples=500))
    monkeypatch.setattr(significance, "_CHUNK", 1000)  # too many for memory: drawn piece by piece
    assert bootstrap_intervals(values, samples=500) == {name: pytest.approx(together[name]) for name in values}
    assert bootstrap_intervals({}) == {}
    with pytest.raises(ValueError, match="same queries"):
        bootstrap_intervals({"a": [1.0], "b": [1.0, 2.0]})


def test_the_interval_of_a_macro_average_is_that_of_its_difference_from_nothing() -> None:
    rng = np.random.default_rng(1)
    values = {"de": rng.random(12), "fr": rng.random(9)}
    clusters = {"de": [f"k{n}" for n in range(12)], "fr": [f"k{n}" for n in range(9)]}
    nothing = {lang: np.zeros(len(found)) for lang, found in values.items()}
    expected = macro_difference(values, nothing, clusters)
    mean, low, high = macro_interval(values, clusters)
    assert (mean, low, high) == pytest.approx((expected.mean, expected.low, expected.high))
    assert mean == pytest.approx((values["de"].mean() + values["fr"].mean()) / 2)


def test_unpaired_samples_against_all_permutations() -> None:
    a, b = np.array([0.9, 0.8, 1.0, 0.3]), np.array([0.1, 0.4, 0.2])
    together, observed = np.concatenate([a, b]), abs(a.mean() - b.mean())
    sides = [set(side) for side in itertools.combinations(range(7), 4)]
    split = [[[together[n] for n in range(7) if (n in side) == first] for first in (True, False)] for side in sides]
    exact = np.mean([abs(np.mean(x) - np.mean(y)) >= observed - 1e-12 for x, y in split])
    found = unpaired_difference(a, b)
    assert found.mean == pytest.approx(a.mean() - b.mean())
    assert found.p == pytest.approx(exact, abs=0.01)
    assert found.low < found.mean < found.high
    assert unpaired_difference(a, a).p == 1.0
