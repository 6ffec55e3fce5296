"""Passages of all ranks as negatives, with gradient.

    >>> shared = gather_passages(passages, queries=len(queries))
    >>> scores = packed_maxsim(queries.values, queries.offsets, shared.passages.values, shared.passages.offsets)
    >>> loss = paper_loss(scores, queries=shared.queries, first=shared.first)      # plain mean, no factor

Every rank scores its own queries against the passages of all. Why this is exact: with R ranks the loss of the whole
batch is the mean of the ranks' losses; the gather's backward pass adds up, for a rank's passages, the gradients of all
R losses; and DDP's average over ranks is the 1/R. A loss that is multiplied by R, or passages gathered without
gradient, are both wrong.

Shapes: T vectors of this rank's passages, R ranks, G queries of all ranks, N negatives of each query.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from colbertxm.errors import UserError
from colbertxm.model.encoder import Vectors


@dataclass(frozen=True)
class Shared:
    """The passages of all ranks, all positives first, then the first negative of every query ...; this rank's
    queries are number `first` and following of `queries`."""

    passages: Vectors
    queries: int
    first: int


def gather_passages(passages: Vectors, queries: int, group: Any = None) -> Shared:
    """All ranks' passages, laid out as one rank's are: `passages` holds this rank's `queries` positives, then their
    first negatives ... Without a process group, or with one rank, the passages come back as they are. Ranks may
    have different numbers of vectors, but not of queries or passages: their plain mean would not be the batch's.
    Raises UserError where these differ. `group` is a process group; None is all ranks."""
    if not ranks_together(group):
        return Shared(passages, queries, 0)
    R, C = dist.get_world_size(group), len(passages)
    device = passages.values.device
    _refuse_unequal(queries, C, R, device, group)
    lengths_RC = _gather_plain(passages.offsets.diff().to(device), R, group).cpu()
    T_R = lengths_RC.sum(1)
    padded = torch.nn.functional.pad(passages.values, (0, 0, 0, int(T_R.max()) - len(passages.values)))
    gathered = _gather_with_gradient(padded, group)
    order_RC = layout(R, C, queries)
    starts_RC = torch.arange(R)[:, None] * T_R.max() + lengths_RC.cumsum(1) - lengths_RC
    starts, lengths = starts_RC.flatten()[order_RC], lengths_RC.flatten()[order_RC]
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    rows = torch.arange(int(offsets[-1])) + torch.repeat_interleave(starts - offsets[:-1], lengths)
    values = gathered.index_select(0, rows.to(device, non_blocking=True))
    return Shared(Vectors(values, offsets), R * queries, dist.get_rank(group) * queries)


def layout(ranks: int, passages: int, queries: int) -> Tensor:
    """Where the gathered passages (rank by rank) stand in the batch's order: the positives of all ranks, then all
    first negatives ..."""
    return torch.arange(ranks * passages).view(ranks, passages // queries, queries).transpose(0, 1).flatten()


def gather_keys(query_keys_B: Tensor, passage_keys_C: Tensor, group: Any = None) -> tuple[Tensor, Tensor]:
    """The keys of all ranks' queries [G] and passages, in the order in which `gather_passages` lays them out."""
    if not ranks_together(group):
        return query_keys_B, passage_keys_C
    R, B = dist.get_world_size(group), len(query_keys_B)
    found_RN = _gather_plain(torch.cat([query_keys_B, passage_keys_C]), R, group)
    order = layout(R, len(passage_keys_C), B).to(found_RN.device)
    return found_RN[:, :B].flatten(), found_RN[:, B:].flatten()[order]


def average_gradients(parameters: Iterable[nn.Parameter], group: Any = None) -> None:
    """Make every rank's gradients their mean, as DDP does while it goes backward: for steps that go backward several
    times. A parameter that some ranks did not use (another language's adapter) counts as zero there; one that nobody
    used keeps no gradient, so that no optimiser moves it."""
    if not ranks_together(group):
        return
    chosen = [parameter for parameter in parameters if parameter.requires_grad]
    used = torch.tensor([parameter.grad is not None for parameter in chosen], device=chosen[0].device).int()
    dist.all_reduce(used, dist.ReduceOp.MAX, group=group)
    R = dist.get_world_size(group)
    for parameter, somewhere in zip(chosen, used.tolist(), strict=True):
        if somewhere:
            grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            dist.all_reduce(grad, group=group)
            parameter.grad = grad.div_(R)


def ranks_together(group: Any = None) -> bool:
    """Whether there are several ranks to share with."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1


def _refuse_unequal(queries: int, passages: int, ranks: int, device: torch.device, group: Any) -> None:
    counts = _gather_plain(torch.tensor([queries, passages], device=device), ranks, group)
    if passages % queries or not bool((counts == counts[0]).all()):
        raise UserError(
            f"ranks have (queries, passages) {counts.tolist()}: negatives across ranks need the same numbers on every"
            " rank, so drop the last, smaller batch"
        )


def _gather_plain(tensor: Tensor, ranks: int, group: Any) -> Tensor:
    """[R, n] from each rank's [n], without gradient."""
    found = [torch.empty_like(tensor) for _ in range(ranks)]
    dist.all_gather(found, tensor.contiguous(), group=group)
    return torch.stack(found)


def _gather_with_gradient(values: Tensor, group: Any) -> Tensor:
    """[R * T, E] from each rank's [T, E]. Not torch.distributed.nn.all_gather, which gave silently wrong gradients
    where the incoming gradient is not contiguous; `_Contiguous` makes it so in the backward pass."""
    collectives = importlib.import_module("torch.distributed._functional_collectives")
    # torch 2.13 has a new name, and warns of the old one that 2.6 knows.
    gather = getattr(collectives, "all_gather_single_autograd", None) or collectives.all_gather_tensor_autograd
    found: Tensor = gather(values.contiguous(), 0, dist.group.WORLD if group is None else group)
    return _Contiguous.apply(found)


class _Contiguous(torch.autograd.Function):
    """The identity; its gradient is contiguous, which collectives take for granted."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.contiguous()
