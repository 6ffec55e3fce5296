"""The order of samples: whole epochs, the same for any ranks and workers, resumed at any sample."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from colbertxm.data.order import Order
from colbertxm.errors import UserError

Sample = tuple[int, int]


def flat(batches: Iterator[list[Sample]]) -> list[Sample]:
    return [sample for batch in batches for sample in batch]


def steps(size: int, batch: int, count: int, seed: int, done: int, world: int) -> list[list[Sample]]:
    """Each step's samples, put together from the batches of all ranks."""
    ranks = [list(Order(size, batch, count, seed, done, rank, world)) for rank in range(world)]
    assert len({len(batches) for batches in ranks}) == 1 and all(all(batches) for batches in ranks)
    return [flat(iter(parts)) for parts in zip(*ranks, strict=True)]


def test_an_epoch_visits_every_triple_once_and_epochs_and_seeds_differ() -> None:
    samples = flat(iter(Order(1000, 7, 300, seed=1)))
    first, second = [i for e, i in samples if e == 0], [i for e, i in samples if e == 1]
    assert sorted(first) == sorted(second) == list(range(1000)) and first != second
    assert [e for e, _ in samples] == sorted(e for e, _ in samples) and samples[-1][0] == 2
    assert samples != flat(iter(Order(1000, 7, 300, seed=2)))


@settings(deadline=None)
@given(
    size=st.integers(1, 60), batch=st.integers(1, 12), count=st.integers(1, 20), seed=st.integers(),
    world=st.integers(1, 12), other_world=st.integers(1, 12), workers=st.integers(1, 5), killed=st.integers(0, 19),
)  # fmt: skip
def test_killed_and_resumed_on_other_ranks_and_workers(
    size: int, batch: int, count: int, seed: int, world: int, other_world: int, workers: int, killed: int
) -> None:
    world, other_world, killed = min(world, batch), min(other_world, batch), min(killed, count - 1)
    whole = list(Order(size, batch, count, seed))
    assert steps(size, batch, count, seed, 0, world) == whole
    assert steps(size, batch, count, seed, killed * batch, other_world) == whole[killed:]
    order = Order(size, batch, count, seed, killed * batch, rank=other_world - 1, world=other_world)
    made = [list(order.batches(worker, workers)) for worker in range(workers)]
    in_turn = [made[n % workers][n // workers] for n in range(sum(map(len, made)))]
    assert in_turn == list(order)


@settings(deadline=None)
@given(
    size=st.integers(1, 60), batch=st.integers(1, 12), count=st.integers(1, 20), other_batch=st.integers(1, 12),
    world=st.integers(1, 12), done=st.integers(0, 240),
)  # fmt: skip
def test_resumed_at_any_sample_with_another_batch_size(
    size: int, batch: int, count: int, other_batch: int, world: int, done: int
) -> None:
    total = batch * count
    other_count = -(-total // other_batch)
    whole = flat(iter(Order(size, other_batch, other_count, 3)))  # at least `total` of them
    world, done = min(world, other_batch), min(done, total)
    if 0 < other_count * other_batch - done < world:
        with pytest.raises(UserError, match="no step is left"):
            Order(size, other_batch, other_count, 3, done, 0, world)
    else:
        assert flat(iter(steps(size, other_batch, other_count, 3, done, world))) == whole[done:]


def test_shares_differ_by_one_at_most() -> None:
    shares = [len(next(iter(Order(100, 10, 2, 1, 0, rank, 4)))) for rank in range(4)]
    assert sorted(shares) == [2, 2, 3, 3]


class Rows(Dataset[torch.Tensor]):
    def __getitem__(self, key: Sample) -> torch.Tensor:
        return torch.tensor(key)


class Stream(IterableDataset[torch.Tensor]):
    def __init__(self, order: Order) -> None:
        self.order = order

    def __iter__(self) -> Iterator[torch.Tensor]:
        info = get_worker_info()
        assert info is not None
        for batch in self.order.batches(info.id, info.num_workers):
            yield torch.tensor(batch)


def test_a_data_loader_gives_the_order_through_either_road_and_any_workers() -> None:
    order = Order(50, 6, 9, 4, done=12, rank=1, world=2)
    expected = [torch.tensor(batch) for batch in order]
    alone = list(DataLoader(Rows(), batch_sampler=order))
    helped = list(DataLoader(Rows(), batch_sampler=order, num_workers=2))
    streamed = list(DataLoader(Stream(order), batch_size=None, num_workers=2))
    for found in (alone, helped, streamed):
        assert len(found) == len(expected) == 7
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_hundred_million_start_at_once() -> None:
    started = time.perf_counter()
    batch = next(iter(Order(10**8, 128, 10**6, 1, done=128 * 900_000, rank=3, world=4)))
    assert time.perf_counter() - started < 1 and len(batch) == 32 and batch[0][0] == 1


def test_a_subset_maps_the_indices() -> None:
    order = Order(4, 4, 2, 1, subset=lambda indices: np.asarray(indices) * 10)
    assert {i for _, i in flat(iter(order))} == {0, 10, 20, 30}
    assert order.sample(5) == flat(iter(order))[5]


def test_what_cannot_be_split_is_an_error() -> None:
    for wrong, match in (
        (dict(size=0), "0 training samples"),
        (dict(steps=0), "for 0 steps"),
        (dict(batch_size=2, world=3), "on 3 ranks"),
        (dict(done=41), "41 of 40 samples are done"),
        (dict(done=39, world=2), "no step is left for 2 ranks"),
    ):
        with pytest.raises(UserError, match=match):
            Order(**{**dict(size=10, batch_size=4, steps=10, seed=1), **wrong})  # type: ignore[arg-type]
    assert len(Order(10, 4, 10, 1, done=40)) == 10 and list(Order(10, 4, 10, 1, done=40)) == []
