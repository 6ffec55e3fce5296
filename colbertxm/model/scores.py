"""Late-interaction scores.

Shapes: B queries, C candidates, Q query vectors, D document vectors, E dimensions.
Scores are summed in float32 whatever the vectors' dtype: 32 cosines near 1 lose ties in bfloat16.
"""

from __future__ import annotations

import torch
from torch import Tensor


def maxsim(
    queries_BQE: Tensor,
    query_mask_BQ: Tensor,
    documents_CDE: Tensor,
    document_mask_CD: Tensor,
    mean: bool = False,
) -> Tensor:
    """Sum over query vectors of the best dot product among a document's vectors; all pairs, [B, C] (ColBERT,
    arXiv 2004.12832, equation 3). With `mean`, the sum is divided by the number of query vectors, so that short
    and long queries live on one scale (cosines in, at most 1 out)."""
    similarity_BQCD = torch.einsum("bqe,cde->bqcd", queries_BQE, documents_CDE).float()
    best_BQC = similarity_BQCD.masked_fill(~document_mask_CD, -torch.inf).amax(-1)
    total_BC = best_BQC.masked_fill(~query_mask_BQ[:, :, None], 0).sum(1)
    return total_BC / query_mask_BQ.sum(1, keepdim=True).float() if mean else total_BC


def dot(queries_BE: Tensor, documents_CE: Tensor) -> Tensor:
    """Dot products of single vectors; all pairs, [B, C]."""
    return (queries_BE @ documents_CE.T).float()
