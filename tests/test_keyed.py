"""Keyed permutations: bijections of any size, even, without traces of their input or key."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from colbertxm.data.keyed import Permutation, draws, key


@pytest.mark.parametrize("size", [*range(1, 70), 100, 127, 128, 255, 256, 257, 1000, 4095, 4097, 65_537, 300_000])
def test_every_size_is_a_bijection_and_has_its_inverse(size: int) -> None:
    positions = np.arange(size)
    order = Permutation(size, 3, 1)(positions)
    assert np.array_equal(np.sort(order), positions)
    assert np.array_equal(Permutation(size, 3, 1).inverse(order), positions)


@given(st.integers(1, 2**60 - 1), st.integers(), st.data())
def test_large_sizes_are_bijections_where_one_looks(size: int, seed: int, data: st.DataObject) -> None:
    looked = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=50, unique=True))
    found = Permutation(size, seed)(looked)
    assert found.min() >= 0 and found.max() < size and len(set(found.tolist())) == len(looked)
    assert Permutation(size, seed).inverse(found).tolist() == looked


def test_a_batch_is_what_its_positions_are_alone() -> None:
    order = Permutation(1000, 5)
    assert order(np.arange(1000)).tolist() == [int(order([n])[0]) for n in range(1000)]


def test_the_order_is_pinned() -> None:
    """A change of the construction would silently reorder everybody's resumed runs."""
    assert Permutation(100, 42, 0)([0, 1, 2, 3, 99]).tolist() == [73, 56, 64, 60, 80]


def test_positions_outside_are_refused() -> None:
    for wrong in (-1, 10):
        with pytest.raises(IndexError, match="there are 10"):
            Permutation(10, 1)([0, wrong])
    with pytest.raises(ValueError, match="0 numbers"):
        Permutation(0, 1)


@pytest.mark.parametrize("size", [3, 5, 7, 12, 16])
def test_every_number_stands_everywhere_equally_often(size: int) -> None:
    """Chi-square over keys, 5 sigma: also the smallest domains, where Feistel networks are weakest."""
    trials, counts = 2000, np.zeros((size, size))
    for seed in range(trials):
        counts[np.arange(size), Permutation(size, seed)(np.arange(size))] += 1
    expected, degrees = trials / size, (size - 1) ** 2
    chi = ((counts - expected) ** 2 / expected).sum() * (size - 1) / size
    assert abs(chi - degrees) < 5 * (2 * degrees) ** 0.5


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(x, y)[0, 1])


@pytest.mark.parametrize("size", [10_000, 99_991, 2**17])
def test_neighbours_positions_seeds_and_epochs_are_uncorrelated(size: int) -> None:
    positions, bound = np.arange(size), 5 / size**0.5
    order = Permutation(size, 1, 0)(positions)
    assert abs(correlation(order, positions)) < bound
    for lag in (1, 2, 3, 16, 128, int(size**0.5), int(size**0.5) + 1):
        assert abs(correlation(order[:-lag], order[lag:])) < bound, lag
    for other in (Permutation(size, 1, 1), Permutation(size, 2, 0)):
        assert abs(correlation(order, other(positions))) < bound
        assert np.count_nonzero(order == other(positions)) < 10  # about one for random permutations
    steps = np.diff(order) % size  # neighbours at a typical distance would show here
    assert np.bincount(steps * 16 // size, minlength=16).std() < 5 * (size / 16) ** 0.5


def test_draws_are_even_and_of_their_key() -> None:
    numbers = draws(np.arange(100_000), 1, 2)
    assert numbers.min() >= 0 and numbers.max() < 1
    assert np.histogram(numbers, 20, (0, 1))[0].std() < 5 * (100_000 / 20) ** 0.5
    assert abs(correlation(numbers[:-1], numbers[1:])) < 5 / 100_000**0.5
    assert abs(correlation(numbers, draws(np.arange(100_000), 2, 1))) < 5 / 100_000**0.5
    assert numbers[7] == draws([7], 1, 2)[0]
    assert len({key(), key(0), key(0, 0), key(1, 2), key(2, 1), key(1, 2, 0), key(-1)}) == 7
