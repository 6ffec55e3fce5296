"""Losses, pure functions of scores.

Shapes: B queries; N negatives of each query; K = 1 + N passages of one query, its positive first; C = G * (1 + N)
passages of a batch of G queries, all positives first, then the first negative of every query, then the second ...
Usually the rows are all queries of the batch (B = G) and row i's positive is column i. Where ranks share their
passages, a rank scores its own B of the G queries: row i is then query `first + i` of `queries` = G.

Scores are divided by `temperature`; the paper has none (1.0) and sums 32 cosines. The paper's loss is the sum of the
pairwise and the in-batch softmax with equal weights (ColBERT-XM, arXiv 2402.15059, section 3.2).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from colbertxm.errors import UserError, nearest

OwnHardNegative = Literal["included", "excluded"]
READINGS = ("included", "excluded")


def check_reading(own_hard_negative: str) -> None:
    """Raise UserError for a reading that there is not."""
    if own_hard_negative not in READINGS:
        hint = nearest(own_hard_negative, READINGS)
        raise UserError(
            f"loss.own_hard_negative={own_hard_negative!r} is unknown{hint}: choose from {', '.join(READINGS)}"
        )


def own_passages(scores_BC: Tensor, queries: int | None = None, first: int = 0) -> Tensor:
    """Scores of each query's own passages out of the batch's, [B, K], the positive first."""
    columns = _own_columns(scores_BC, queries, first)
    return scores_BC.gather(1, columns)


def pairwise_softmax(scores_BC: Tensor, temperature: float = 1.0, queries: int | None = None, first: int = 0) -> Tensor:
    """Mean of -log softmax of the positive among itself and the query's own hard negatives; 0 where a query has
    none, because a softmax over one score is 1."""
    return n_way_softmax(own_passages(scores_BC, queries, first), temperature)


def in_batch_softmax(
    scores_BC: Tensor,
    ignore_BC: Tensor | None = None,
    own_hard_negative: OwnHardNegative = "included",
    temperature: float = 1.0,
    queries: int | None = None,
    first: int = 0,
) -> Tensor:
    """Mean of -log softmax of the positive among the passages of the batch. The query's own hard negatives are
    `included` as the paper's equation has it, or `excluded` as its code has it: candidates are then the positive and
    all passages of the other queries. `ignore_BC` marks passages that are no negatives of a query although they stand
    in the batch (another pair with the same title, say). Raises UserError for another reading."""
    check_reading(own_hard_negative)
    columns = _own_columns(scores_BC, queries, first)
    if own_hard_negative == "excluded":
        scores_BC = scores_BC.scatter(1, columns[:, 1:], -torch.inf)
    if ignore_BC is not None:
        scores_BC = scores_BC.masked_fill(ignore_BC, -torch.inf)
    return F.cross_entropy(scores_BC / temperature, columns[:, 0])


def paper_loss(
    scores_BC: Tensor,
    ignore_BC: Tensor | None = None,
    own_hard_negative: OwnHardNegative = "included",
    temperature: float = 1.0,
    queries: int | None = None,
    first: int = 0,
) -> Tensor:
    """The sum of `pairwise_softmax` and `in_batch_softmax`."""
    in_batch = in_batch_softmax(scores_BC, ignore_BC, own_hard_negative, temperature, queries, first)
    return pairwise_softmax(scores_BC, temperature, queries, first) + in_batch


def n_way_softmax(scores_BK: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean of -log softmax of the positive among its query's K passages."""
    positive = torch.zeros(len(scores_BK), dtype=torch.long, device=scores_BK.device)
    return F.cross_entropy(scores_BK / temperature, positive)


def kl_distillation(
    scores_BK: Tensor, teacher_BK: Tensor, temperature: float = 1.0, teacher_temperature: float = 1.0
) -> Tensor:
    """KL(teacher || student) of the softmaxes over each query's K passages, mean over queries (ColBERTv2, arXiv
    2112.01488, section 3.2). Without Hinton's factor temperature^2: the gradient falls as the temperature rises."""
    student = F.log_softmax(scores_BK / temperature, dim=1)
    teacher = F.log_softmax(teacher_BK.to(student.dtype) / teacher_temperature, dim=1)
    return F.kl_div(student, teacher, log_target=True, reduction="batchmean")


def margin_mse(scores_BK: Tensor, teacher_BK: Tensor) -> Tensor:
    """Mean squared difference between student's and teacher's margins, positive minus negative, over all B * N
    negatives (Hofstätter et al., arXiv 2010.02666, equation 5). Raises UserError where there is no negative."""
    if scores_BK.shape[1] < 2:
        raise UserError("MarginMSE compares margins: each query needs at least one negative")
    student = scores_BK[:, :1] - scores_BK[:, 1:]
    teacher = teacher_BK[:, :1] - teacher_BK[:, 1:]
    return F.mse_loss(student, teacher.to(student.dtype))


def _own_columns(scores_BC: Tensor, queries: int | None, first: int) -> Tensor:
    """Columns of each row's positive and negatives, [B, K]."""
    B, C = scores_BC.shape
    G = B if queries is None else queries
    if C % G or not 0 <= first <= G - B:
        raise ValueError(
            f"scores {B} x {C} are not rows {first} to {first + B} of {G} queries with equally many passages"
        )
    rows = torch.arange(first, first + B, device=scores_BC.device)
    return rows[:, None] + torch.arange(0, C, G, device=scores_BC.device)
