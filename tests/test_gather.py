"""Negatives across ranks: two processes end with the gradient of one that has the whole batch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from test_gradcache import Texts, TinyEncoder, gradients, joined, texts
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from colbertxm.errors import UserError
from colbertxm.model.encoder import Vectors
from colbertxm.model.scores import packed_maxsim
from colbertxm.training.gather import Shared, average_gradients, gather_keys, gather_passages, layout
from colbertxm.training.gradcache import cached_step
from colbertxm.training.losses import paper_loss

RANKS, B, WAYS = 2, 3, 3
QUERIES = texts(RANKS * B, 4, seed=11)
# Rank 1's passages are much longer: ranks have unequal numbers of vectors.
PASSAGES = [[*text, *range(9 * (i % (RANKS * B) >= B))] for i, text in enumerate(texts(RANKS * B * WAYS, 5, seed=12))]


def own(rank: int) -> tuple[Texts, Texts]:
    """A rank's queries, and its passages in the layout of a batch."""
    rows = range(rank * B, rank * B + B)
    return [QUERIES[i] for i in rows], [PASSAGES[way * RANKS * B + i] for way in range(WAYS) for i in rows]


def loss_of(queries: Vectors, shared: Shared) -> Tensor:
    passages = shared.passages
    scores = packed_maxsim(queries.values, queries.offsets, passages.values, passages.offsets)
    return paper_loss(scores, own_hard_negative="excluded", queries=shared.queries, first=shared.first)


def encoder() -> TinyEncoder:
    torch.manual_seed(0)
    return TinyEncoder()


def plain_step(model: Any) -> None:
    queries, passages = own(dist.get_rank())
    both = model(queries + passages)  # one forward pass: DDP expects as many as backward passes
    cut = int(both.offsets[B])
    vectors = Vectors(both.values[:cut], both.offsets[: B + 1])
    shared = gather_passages(Vectors(both.values[cut:], both.offsets[B:] - cut), B)
    loss_of(vectors, shared).backward()


def cached(model: Any) -> None:
    queries, passages = own(dist.get_rank())
    chunks = [queries, passages[:4], passages[4:]]
    cached_step(
        model,
        chunks,
        lambda parts: loss_of(parts[0], gather_passages(joined(parts[1:]), B)),
        no_sync=model.no_sync,
    )


def by_hand(model: TinyEncoder) -> None:
    """Without DDP: an average over ranks of each parameter's gradient."""
    plain_step(model)
    average_gradients(model.parameters())


def partly_used(rank: int) -> list[torch.Tensor | None]:
    """Gradients of parameters that both ranks, only rank 1, or nobody used."""
    parameters = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
    parameters[0].grad = torch.full((2,), float(rank + 1))
    if rank == 1:
        parameters[1].grad = torch.full((2,), 4.0)
    average_gradients(parameters)
    return [p.grad for p in parameters]


def refused() -> str:
    queries = B + dist.get_rank()
    vectors = Vectors(torch.randn(2 * queries, 4), torch.arange(2 * queries + 1))
    with pytest.raises(UserError) as error:
        gather_passages(vectors, queries)
    return str(error.value)


def work(rank: int, folder: str) -> None:
    """What each process does; rank 0's findings come back in a file."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=RANKS)
    found: dict[str, Any] = {}
    model = encoder()
    by_hand(model)
    found["by_hand"] = gradients(model)
    for name, step in (("ddp", plain_step), ("ddp_cached", cached)):
        model = encoder()
        step(DistributedDataParallel(model))
        found[name] = gradients(model)
    queries, passages = own(rank)
    shared = gather_passages(model(passages), B)
    found["shared"] = shared.passages.values.detach(), shared.passages.offsets, (shared.queries, shared.first)
    found["tokens"] = sum(map(len, passages))
    found["keys"] = gather_keys(torch.arange(B) + 10 * rank, torch.arange(2 * B) + 100 * (rank + 1))
    found["partly_used"] = partly_used(rank)
    found["refused"] = refused()
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, args=(str(folder),), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


@pytest.mark.parametrize("way", ["by_hand", "ddp", "ddp_cached"])
def test_two_processes_give_the_gradient_of_one(found: list[dict[str, Any]], way: str) -> None:
    model = encoder()
    queries, passages = model(QUERIES), model(PASSAGES)
    loss_of(queries, Shared(passages, RANKS * B, 0)).backward()
    for name, expected in gradients(model).items():
        assert expected is not None and expected.abs().max() > 1e-3
        for rank in range(RANKS):
            torch.testing.assert_close(found[rank][way][name], expected, atol=1e-6, rtol=0)


def test_ranks_have_unequal_numbers_of_vectors(found: list[dict[str, Any]]) -> None:
    first, second = (rank["tokens"] for rank in found)
    assert second > 1.5 * first


def test_the_gathered_passages_stand_as_in_one_batch(found: list[dict[str, Any]]) -> None:
    expected = encoder()(PASSAGES)
    for rank in range(RANKS):
        values, offsets, (queries, first) = found[rank]["shared"]
        torch.testing.assert_close(values, expected.values.detach())
        assert torch.equal(offsets, expected.offsets) and (queries, first) == (RANKS * B, rank * B)


def test_unequal_batches_are_refused_on_every_rank(found: list[dict[str, Any]]) -> None:
    for rank in range(RANKS):
        assert "[[3, 6], [4, 8]]" in found[rank]["refused"] and "drop the last" in found[rank]["refused"]


def test_keys_stand_as_the_passages(found: list[dict[str, Any]]) -> None:
    for rank in found:
        queries, passages = rank["keys"]
        assert queries.tolist() == [*range(B), *range(10, 10 + B)]
        expected = [100 + i + 100 * r for half in (0, B) for r in range(RANKS) for i in range(half, half + B)]
        assert passages.tolist() == expected


def test_an_average_counts_unused_parameters_as_zero(found: list[dict[str, Any]]) -> None:
    for rank in found:
        both, one, nobody = rank["partly_used"]
        assert both.tolist() == [1.5, 1.5] and one.tolist() == [2.0, 2.0] and nobody is None


def test_layout_puts_all_positives_first() -> None:
    # rank 0 has passages 0..5 (positives 0, 1, then negatives), rank 1 has 6..11
    assert layout(2, 6, 2).tolist() == [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]


def test_one_process_keeps_its_passages() -> None:
    vectors = Vectors(torch.randn(4, 2), torch.tensor([0, 1, 4]))
    assert gather_passages(vectors, 1) == Shared(vectors, 1, 0)
    keys = torch.arange(2), torch.arange(4)
    assert gather_keys(*keys) == keys
    parameter = torch.nn.Parameter(torch.ones(1))
    average_gradients([parameter])
    assert parameter.grad is None
