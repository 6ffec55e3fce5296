"""Late-interaction scores.

Shapes: B queries, C candidates, Q query vectors, D document vectors, E dimensions; S vectors of all queries and T of
all documents end to end. Products and sums are taken in float32 (float64 stays) whatever the vectors' dtype and
whatever autocast says: 32 cosines near 1 lose ties in bfloat16.

All similarities at once would be B * Q * C * D numbers, several times over with their gradient. But only each query
vector's best match in each document counts: so similarities are made for a few documents at a time, and what the
backward pass keeps of them is which vector was best, one int32 for every (query vector, document).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from colbertxm.errors import UserError

CPU_BUDGET, GPU_BUDGET = 1 << 21, 1 << 27
"""Similarities that exist at one time: 8 MB, about a core's share of the cache; 0.5 GB, enough to fill a GPU."""


def maxsim(
    queries_BQE: Tensor,
    query_mask_BQ: Tensor,
    documents_CDE: Tensor,
    document_mask_CD: Tensor,
    mean: bool = False,
    budget: int | None = None,
) -> Tensor:
    """Sum over query vectors of the best dot product among a document's vectors; all pairs, [B, C] in float32
    (ColBERT, arXiv 2004.12832, equation 3). With `mean`, the sum is divided by the number of query vectors, so that
    short and long queries live on one scale (cosines in, at most 1 out).

    Of equally good document vectors only one gets the gradient. At most `budget` similarities exist at a time
    (or those of one document, if that is more). Raises UserError for a query or a document without vectors."""
    B, Q, E = queries_BQE.shape
    C, D, _ = documents_CDE.shape
    _refuse_empty(query_mask_BQ, "query")
    _refuse_empty(document_mask_CD, "passage")
    best_SC = _Best.apply(
        queries_BQE.reshape(B * Q, E), documents_CDE.reshape(C * D, E), (C, D), document_mask_CD, budget
    )
    total_BC = best_SC.view(B, Q, C).masked_fill(~query_mask_BQ[:, :, None], 0).sum(1)
    return total_BC / query_mask_BQ.sum(1, keepdim=True).float() if mean else total_BC


def packed_maxsim(
    queries_SE: Tensor,
    query_offsets: Tensor,
    documents_TE: Tensor,
    document_offsets: Tensor,
    mean: bool = False,
    budget: int | None = None,
) -> Tensor:
    """`maxsim` of vectors that lie end to end, without padding: those of query i are
    `queries_SE[query_offsets[i]:query_offsets[i + 1]]`, documents likewise. The offsets lie on the CPU."""
    for offsets, name in ((query_offsets, "query"), (document_offsets, "passage")):
        if not bool((offsets.diff() > 0).all()):
            raise UserError(f"{name} {int((offsets.diff() <= 0).int().argmax())} of the batch has no vectors to score")
    lengths = document_offsets.diff()
    if _on_cpu(documents_TE):
        best_SC = _Best.apply(queries_SE, documents_TE, tuple(lengths.tolist()), None, budget)
    else:  # one kernel for all documents needs a grid; the slots are worked out on the host
        C, D = len(lengths), int(lengths.max())
        mask_CD = torch.arange(D) < lengths[:, None]
        slots = mask_CD.flatten().nonzero().squeeze(1).to(documents_TE.device, non_blocking=True)
        grid = documents_TE.new_zeros(C * D, documents_TE.shape[1]).index_copy(0, slots, documents_TE)
        best_SC = _Best.apply(queries_SE, grid, (C, D), mask_CD.to(grid.device, non_blocking=True), budget)
    counts = query_offsets.diff().to(best_SC.device, non_blocking=True)
    return torch.segment_reduce(best_SC, "mean" if mean else "sum", lengths=counts, axis=0, unsafe=True)


def dot(queries_BE: Tensor, documents_CE: Tensor) -> Tensor:
    """Dot products of single vectors; all pairs, [B, C], in float32."""
    with torch.autocast(queries_BE.device.type, enabled=False):
        return _wide(queries_BE) @ _wide(documents_CE).T


def _on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _wide(vectors: Tensor) -> Tensor:
    return vectors if vectors.dtype == torch.float64 else vectors.float()


def _refuse_empty(mask: Tensor, name: str) -> None:
    """A softmax over -inf or a mean of nothing would turn up as a NaN much later."""
    filled = mask.any(1)
    if _on_cpu(mask):
        if not bool(filled.all()):
            raise UserError(f"{name} {int((~filled).int().argmax())} of the batch has no vectors to score")
    else:
        torch._assert_async(filled.all(), f"a {name} of the batch has no vectors to score")  # the host does not wait


class _Best(torch.autograd.Function):
    """[S, C]: for every query vector its best product with each document. `layout` is (C, D) beside a mask [C, D],
    or, without a mask, the documents' lengths."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,
        queries_SE: Tensor,
        documents_TE: Tensor,
        layout: tuple[int, ...],
        mask_CD: Tensor | None,
        budget: int | None,
    ) -> Tensor:
        S = len(queries_SE)
        lengths = layout if mask_CD is None else (layout[1],) * layout[0]
        limit = budget or (CPU_BUDGET if _on_cpu(queries_SE) else GPU_BUDGET)
        with torch.autocast(queries_SE.device.type, enabled=False):
            queries = _wide(queries_SE)
            best_SC = queries.new_empty(S, len(lengths))
            where_SC = best_SC.new_empty(best_SC.shape, dtype=torch.int32)
            for first, last, start, stop in _chunks(lengths, S, limit):
                similarity_Sk = queries @ _wide(documents_TE[start:stop]).T
                mask = None if mask_CD is None else mask_CD[first:last]
                best, where = _argmax(similarity_Sk, lengths[first:last], mask)
                best_SC[:, first:last] = best
                where_SC[:, first:last] = where + start
        ctx.save_for_backward(queries_SE, documents_TE, where_SC)
        ctx.lengths, ctx.limit = lengths, limit
        return best_SC

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_SC: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        queries_SE, documents_TE, where_SC = ctx.saved_tensors
        of_queries = of_documents = None
        with torch.autocast(grad_SC.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                of_queries = _gradient_of_queries(_wide(documents_TE), where_SC, grad_SC).to(queries_SE.dtype)
            if ctx.needs_input_grad[1]:
                of_documents = torch.empty_like(documents_TE)
                queries, lengths = _wide(queries_SE), ctx.lengths
                # Chunks by pairs, not similarities: what is sorted here is one number for each document. Sorting takes
                # eight times the bytes of a similarity for each (keys, 64-bit order, owners, weights).
                for first, last, start, stop in _chunks((1,) * len(lengths), len(queries), ctx.limit // 8, lengths):
                    pairs = where_SC[:, first:last] - start, grad_SC[:, first:last]
                    of_documents[start:stop] = _gradient_of_documents(queries, *pairs, stop - start)
        return of_queries, of_documents, None, None, None


def _chunks(
    costs: tuple[int, ...], S: int, limit: int, lengths: tuple[int, ...] | None = None
) -> list[tuple[int, int, int, int]]:
    """(first document, past the last, first vector, past the last) of chunks with S * costs of about `limit`; the
    documents' lengths are their costs where not given apart."""
    chunks, first, start, stop, cost = [], 0, 0, 0, 0
    for i, (length, own) in enumerate(zip(lengths or costs, costs, strict=True)):
        if i > first and S * (cost + own) > limit:
            chunks.append((first, i, start, stop))
            first, start, cost = i, stop, 0
        stop, cost = stop + length, cost + own
    return [*chunks, (first, len(costs), start, stop)] if costs else []


def _argmax(similarity_Sk: Tensor, lengths: tuple[int, ...], mask_cD: Tensor | None) -> tuple[Tensor, Tensor]:
    """Best similarity and its column in each document, both [S, c]. NumPy's argmax runs at the speed of memory on the
    CPU, five times as fast as torch's."""
    if mask_cD is not None:
        grid = similarity_Sk.view(len(similarity_Sk), *mask_cD.shape).masked_fill_(~mask_cD, -torch.inf)
        where = torch.from_numpy(grid.numpy().argmax(-1)) if _on_cpu(grid) else grid.argmax(-1)
        best = grid.gather(2, where[:, :, None]).squeeze(2)
        return best, where + torch.arange(0, grid[0].numel(), grid.shape[2], device=grid.device)
    columns, start = [], 0
    for length in lengths:
        columns.append(torch.from_numpy(similarity_Sk[:, start : start + length].numpy().argmax(1)) + start)
        start += length
    where = torch.stack(columns, dim=1)
    return similarity_Sk.gather(1, where), where


def _gradient_of_queries(documents_TE: Tensor, where_SC: Tensor, grad_SC: Tensor) -> Tensor:
    """For each query vector the weighted sum of the document vectors that it found: no [S, C, E] in between."""
    grad_SC = grad_SC.contiguous()
    return F.embedding_bag(where_SC, documents_TE, mode="sum", per_sample_weights=grad_SC.to(documents_TE.dtype))


def _gradient_of_documents(queries_SE: Tensor, where_SC: Tensor, grad_SC: Tensor, T: int) -> Tensor:
    """For each document vector the weighted sum of the query vectors that it was best for, [T, E]. Sorted by document
    vector and summed run by run: the same result in every run, which atomic additions do not give."""
    sorted_n, order_n = where_SC.flatten().sort(stable=True)
    vectors = torch.arange(T + 1, device=sorted_n.device, dtype=sorted_n.dtype)
    starts = torch.searchsorted(sorted_n, vectors, out_int32=True)
    owners = torch.div(order_n, where_SC.shape[1], rounding_mode="floor").int()
    weights = grad_SC.flatten()[order_n].to(queries_SE.dtype)
    return F.embedding_bag(owners, queries_SE, starts, mode="sum", per_sample_weights=weights, include_last_offset=True)
