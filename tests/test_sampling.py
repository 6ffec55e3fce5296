"""Nested subsets, shares of languages, and both as functions of their keys."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from colbertxm.data.order import Order
from colbertxm.data.sampling import LanguageMix, MixedOrder, Subset, amount, temperature
from colbertxm.errors import UserError

PAPER = ["3.2M", "6.4M", "12.8M", "19.2M", "25.6M"]


@pytest.mark.parametrize(
    ("wanted", "size", "count"),
    [
        (10, 100, 10), (0.25, 100, 25), (1.0, 100, 100), (1, 100, 1), ("10%", 1000, 100), ("0.5%", 1000, 5),
        ("50k", 10**6, 50_000), (" 100 ", 100, 100), (0.1, 8, 1), ("100%", 7, 7), ("2.5K", 10**4, 2500),
    ] + [(paper, 39_780_811, round(float(paper[:-1]) * 10**6)) for paper in PAPER],
)  # fmt: skip
def test_amounts(wanted: int | float | str, size: int, count: int) -> None:
    assert amount(wanted, size) == count


@pytest.mark.parametrize("wanted", [0, 101, -1, 0.0, 1.1, "101", "110%", "10 percent", "", "1.5", "6,4M", "-3", "0%"])
def test_what_is_no_amount_is_refused(wanted: int | float | str) -> None:
    with pytest.raises(UserError, match="amount"):
        amount(wanted, 100)


@given(size=st.integers(1, 300), seed=st.integers(), data=st.data())
def test_subsets_are_nested_and_know_their_members(size: int, seed: int, data: st.DataObject) -> None:
    small, large = sorted(data.draw(st.lists(st.integers(1, size), min_size=2, max_size=2)))
    inner, outer = (Subset(size, count, seed) for count in (small, large))
    indices = outer(np.arange(large))
    assert inner(np.arange(small)).tolist() == indices[:small].tolist()
    assert len(set(indices.tolist())) == large and indices.max() < size
    assert np.flatnonzero(outer.contains(np.arange(size))).tolist() == sorted(indices.tolist())


def test_the_papers_sizes_are_nested_at_full_size() -> None:
    size = 39_780_811
    subsets = [Subset(size, amount(paper, size), 42) for paper in PAPER]
    looked = subsets[0](np.arange(0, len(subsets[0]), 9973))
    assert all(subset.contains(looked).all() for subset in subsets)
    share = subsets[1].contains(np.arange(0, size, 97)).mean()
    assert share == pytest.approx(len(subsets[1]) / size, abs=0.005)
    assert Subset(size, 1000, 1)(np.arange(1000)).tolist() != Subset(size, 1000, 2)(np.arange(1000)).tolist()


def test_an_order_over_a_subset_visits_its_members_once_an_epoch() -> None:
    subset = Subset(1000, 60, 3)
    order = Order(len(subset), 6, 20, 1, subset=subset)
    seen = [sample for batch in order for sample in batch]
    members = sorted(subset(np.arange(60)).tolist())
    assert sorted(i for e, i in seen if e == 0) == sorted(i for e, i in seen if e == 1) == members


def test_numbers_outside_a_subset_are_refused() -> None:
    with pytest.raises(IndexError, match="sample 5 of a subset of 5"):
        Subset(10, 5, 1)([5])
    for count in (0, 11):
        with pytest.raises(UserError, match="of 10 samples: give 1 to 10"):
            Subset(10, count, 1)


def test_temperature_by_hand() -> None:
    counts = {"en": 900, "de": 100, "sw": 0}
    assert temperature(counts, 1) == pytest.approx({"en": 0.9, "de": 0.1, "sw": 0})
    assert temperature(counts, 2) == pytest.approx({"en": 0.75, "de": 0.25, "sw": 0})  # 30 to 10
    assert temperature(counts, 1e9)["de"] == pytest.approx(0.5)
    assert temperature(counts, 1e-3) == pytest.approx({"en": 1, "de": 0, "sw": 0})
    for wrong in (0, -1):
        with pytest.raises(UserError, match="temperature="):
            temperature(counts, wrong)


def test_languages_have_their_shares_and_are_functions_of_the_sample() -> None:
    mix = LanguageMix({"sw": 1, "German": 3, "en": 6, "fr": 0}, seed=5)
    assert mix.languages == ("de", "en", "sw")
    langs = np.array(mix.of_samples(0, np.arange(50_000)))
    for lang, share in (("en", 0.6), ("de", 0.3), ("sw", 0.1)):
        assert (langs == lang).mean() == pytest.approx(share, abs=0.012)
    assert mix.of_samples(0, [77, 3]) == [langs[77], langs[3]]
    other = np.array(LanguageMix({"en": 6, "de": 3, "sw": 1}, seed=5).of_samples(0, np.arange(50_000)))
    assert (other == langs).all()
    by_chance = 0.6**2 + 0.3**2 + 0.1**2
    reseeded = LanguageMix({"en": 6, "de": 3, "sw": 1}, seed=6)
    for changed in (mix.of_samples(1, np.arange(50_000)), reseeded.of_samples(0, np.arange(50_000))):
        assert (np.array(changed) == langs).mean() == pytest.approx(by_chance, abs=0.012)


@pytest.mark.parametrize("one_language", [True, False])
def test_batches_of_one_language_or_mixed_are_the_same_on_all_ranks_and_after_a_resume(one_language: bool) -> None:
    mix = LanguageMix({"en": 1, "de": 1, "fr": 1}, seed=1)

    def batches(done: int = 0, rank: int = 0, world: int = 1) -> list[list[tuple[int, int, str]]]:
        return list(MixedOrder(Order(40, 8, 30, 2, done, rank, world), mix, one_language))

    whole = batches()
    assert [[sample[:2] for sample in batch] for batch in whole] == list(Order(40, 8, 30, 2))
    assert {len({lang for _, _, lang in batch}) for batch in whole} <= ({1} if one_language else {1, 2, 3})
    assert {lang for batch in whole for _, _, lang in batch} == {"en", "de", "fr"}
    shares = zip(*(batches(80, rank, 3) for rank in range(3)), strict=True)
    assert [[sample for share in step for sample in share] for step in shares] == whole[10:]
    assert len(MixedOrder(Order(40, 8, 30, 2), mix, one_language)) == 30


@pytest.mark.parametrize("weights", [{}, {"en": 0}, {"en": -1, "de": 2}, {"en": float("nan")}])
def test_weights_that_are_none_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(UserError, match="no weights"):
        LanguageMix(weights, 1)
    with pytest.raises(UserError, match="named twice"):
        LanguageMix({"en": 1, "English": 2}, 1)
