"""Losses, pure functions of a score matrix.

Shapes: B queries; N negatives of each query; C = B * (1 + N) passages, the B positives first (row i's positive is
column i), then the first negative of every query, then the second ...
The paper's loss is their sum with equal weights (ColBERT-XM, arXiv 2402.15059, section 3.2).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pairwise_softmax(scores_BC: Tensor) -> Tensor:
    """Mean of -log softmax of the positive among itself and the query's own hard negatives; 0 where a query has
    none, because a softmax over one score is 1."""
    B, C = scores_BC.shape
    own_BN = torch.stack([scores_BC[:, i : i + B].diagonal() for i in range(0, C, B)], dim=1)
    return F.cross_entropy(own_BN, torch.zeros(B, dtype=torch.long, device=scores_BC.device))


def in_batch_softmax(scores_BC: Tensor, ignore_BC: Tensor | None = None) -> Tensor:
    """Mean of -log softmax of the positive among all passages of the batch, the query's own hard negatives
    included, as the paper's equation has it. `ignore_BC` marks passages that are no negatives of a query
    although they stand in the batch (another pair with the same title, say)."""
    if ignore_BC is not None:
        scores_BC = scores_BC.masked_fill(ignore_BC, -torch.inf)
    return F.cross_entropy(scores_BC, torch.arange(len(scores_BC), device=scores_BC.device))
