"""MaxSim against loops."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from peak import Peak
from torch import Tensor

from colbertxm.errors import UserError
from colbertxm.model.encoder import Vectors
from colbertxm.model.scores import CPU_BUDGET, GPU_BUDGET, dot, maxsim, packed_maxsim


def ragged(generator: torch.Generator, count: int, dim: int) -> Vectors:
    lengths = torch.randint(1, 7, (count,), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    return Vectors(torch.randn(int(lengths.sum()), dim, generator=generator), offsets)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("mean", [False, True])
def test_maxsim_equals_naive_loops(seed: int, mean: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    queries, documents = ragged(generator, 4, 5), ragged(generator, 6, 5)
    found = maxsim(*queries.padded(), *documents.padded(), mean=mean)
    for i in range(len(queries)):
        for j in range(len(documents)):
            expected = sum(max(float(q @ d) for d in documents[j]) for q in queries[i])
            expected /= len(queries[i]) if mean else 1
            assert float(found[i, j]) == pytest.approx(expected, abs=1e-5)


def test_padding_never_wins_over_negative_cosines() -> None:
    query = Vectors(torch.tensor([[1.0, 0.0]]), torch.tensor([0, 1]))
    documents = Vectors(torch.tensor([[-1.0, 0.0], [-0.5, 0.0], [-0.9, 0.1]]), torch.tensor([0, 1, 3]))
    assert maxsim(*query.padded(), *documents.padded()).tolist() == [[-1.0, -0.5]]


def test_scores_are_float32_for_half_precision_vectors() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(2, 3, 8), dim=-1).bfloat16()
    mask = torch.ones(2, 3, dtype=torch.bool)
    assert maxsim(vectors, mask, vectors, mask).dtype == torch.float32
    assert dot(vectors[:, 0], vectors[:, 0]).dtype == torch.float32


def naive(queries: list[Tensor], documents: list[Tensor], mean: bool) -> Tensor:
    rows = []
    for query in queries:
        row = [torch.stack([torch.stack([q @ d for d in document]).max() for q in query]) for document in documents]
        rows.append(torch.stack([best.mean() if mean else best.sum() for best in row]))
    return torch.stack(rows)


def loss_of(scores: Tensor) -> Tensor:
    return (scores * torch.linspace(-1, 2, scores.numel()).view_as(scores)).sum()


@pytest.mark.parametrize("form", ["padded", "packed", "padded, as on a GPU", "packed, as on a GPU"])
@pytest.mark.parametrize("budget", [1, 60, None])
@pytest.mark.parametrize("mean", [False, True])
def test_values_and_gradients_equal_naive_loops_whatever_the_chunk(
    form: str, budget: int | None, mean: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "GPU" in form:
        monkeypatch.setattr("colbertxm.model.scores._on_cpu", lambda tensor: False)
    generator = torch.Generator().manual_seed(7)
    q, d = ragged(generator, 4, 8), ragged(generator, 9, 8)
    mine = [F.normalize(v.values, dim=-1).requires_grad_() for v in (q, d)]
    plain = [v.detach().clone().requires_grad_() for v in mine]
    queries, documents = (Vectors(m, v.offsets) for m, v in zip(mine, (q, d), strict=True))
    if form.startswith("padded"):
        found = maxsim(*queries.padded(), *documents.padded(), mean=mean, budget=budget)
    else:
        parts = (queries.values, queries.offsets, documents.values, documents.offsets)
        found = packed_maxsim(*parts, mean=mean, budget=budget)
    lists = [list(p.split(v.offsets.diff().tolist())) for p, v in zip(plain, (q, d), strict=True)]
    expected = naive(*lists, mean=mean)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    loss_of(found).backward()
    loss_of(expected).backward()
    for own, other in zip(mine, plain, strict=True):
        torch.testing.assert_close(own.grad, other.grad, atol=1e-6, rtol=0)


def test_mask_tokens_of_queries_score_and_masked_ones_have_neither_score_nor_gradient() -> None:
    generator = torch.Generator().manual_seed(3)
    queries = torch.randn(2, 5, 4, generator=generator, requires_grad=True)
    documents = torch.randn(3, 6, 4, generator=generator)
    mask = torch.ones(2, 5, dtype=torch.bool)
    full = torch.ones(3, 6, dtype=torch.bool)
    padded = maxsim(queries, mask, documents, full)
    mask[1, 3:] = False
    cut = maxsim(queries, mask, documents, full)
    torch.testing.assert_close(cut[0], padded[0])
    torch.testing.assert_close(cut[1], naive([queries[1, :3]], list(documents), mean=False)[0])
    cut.sum().backward()
    assert queries.grad is not None and queries.grad[1, 3:].abs().max() == 0 and queries.grad[1, :3].abs().min() > 0


def test_gradcheck() -> None:
    generator = torch.Generator().manual_seed(5)
    q = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    d = torch.randn(3, 4, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    document_mask = torch.tensor([[True] * 4, [True, True, False, False], [False, True, True, False]])
    query_mask = torch.tensor([[True, True, True], [True, False, True]])
    assert torch.autograd.gradcheck(lambda q, d: maxsim(q, query_mask, d, document_mask, True, 9), (q, d))
    offsets = torch.tensor([0, 2, 3]), torch.tensor([0, 4, 5, 12])
    assert torch.autograd.gradcheck(
        lambda q, d: packed_maxsim(q.view(-1, 4)[:3], offsets[0], d.view(-1, 4), offsets[1], False, 9), (q, d)
    )


def test_autocast_and_half_precision_change_no_accumulation() -> None:
    vectors = F.normalize(torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(1)), dim=-1)
    mask = torch.ones(3, 4, dtype=torch.bool)
    exact, single = maxsim(vectors, mask, vectors, mask), vectors[:, 0] @ vectors[:, 1].T
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(maxsim(vectors, mask, vectors, mask), exact)
        assert torch.equal(dot(vectors[:, 0], vectors[:, 1]), single)
    half = vectors.bfloat16().requires_grad_()
    assert torch.equal(maxsim(half, mask, half, mask), maxsim(half.float(), mask, half.float(), mask))
    maxsim(half, mask, half, mask).sum().backward()
    assert half.grad is not None and half.grad.dtype == torch.bfloat16


def test_texts_without_vectors_are_refused() -> None:
    vectors, mask = torch.randn(2, 3, 4), torch.tensor([[True, True, False], [False, False, False]])
    full = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(UserError, match="passage 1 of the batch has no vectors"):
        maxsim(vectors, full, vectors, mask)
    with pytest.raises(UserError, match="query 1 of the batch has no vectors"):
        maxsim(vectors, mask, vectors, full)
    flat, offsets = vectors.view(6, 4), torch.tensor([0, 3, 6])
    with pytest.raises(UserError, match="passage 0 of the batch has no vectors"):
        packed_maxsim(flat, offsets, flat, torch.tensor([0, 0, 6]))


def test_only_the_places_of_the_best_are_kept_for_the_backward_pass() -> None:
    queries, documents = torch.randn(2, 3, 4, requires_grad=True), torch.randn(5, 6, 4, requires_grad=True)
    kept: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
        maxsim(queries, torch.ones(2, 3, dtype=torch.bool), documents, torch.ones(5, 6, dtype=torch.bool))
    assert (6, 5) in kept and max(torch.Size(shape).numel() for shape in kept) == 5 * 6 * 4


@pytest.mark.parametrize(("B", "C", "D"), [(128, 2048, 180), (2048, 4096, 80)])
def test_a_gpu_never_holds_all_similarities(B: int, C: int, D: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the real shapes of a batch over 8 ranks, and of 2,048 queries, on meta tensors, which take the GPU's way."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no meta tensors
    Q, E = 32, 128
    queries = torch.empty(B * Q, E, device="meta", requires_grad=True)
    documents = torch.empty(C * D, E, device="meta", requires_grad=True)
    with Peak((queries, documents)) as peak:
        scores = packed_maxsim(queries, torch.arange(B + 1) * Q, documents, torch.arange(C + 1) * D)
        scores.sum().backward()
    assert scores.shape == (B, C) and documents.grad is not None
    outside = B * Q * C  # for each query vector and document: its best, where that is, its gradient
    assert peak.largest <= max(GPU_BUDGET, outside, C * D * E) < B * Q * C * D / 10
    assert peak.bytes < 4 * (3 * outside + 2 * GPU_BUDGET + 3 * C * D * E)


def test_a_cpu_never_holds_all_similarities() -> None:
    B, Q, C, D, E = 16, 32, 128, 64, 8
    queries, documents = torch.randn(B * Q, E, requires_grad=True), torch.randn(C * D, E, requires_grad=True)
    with Peak((queries, documents)) as peak:
        packed_maxsim(queries, torch.arange(B + 1) * Q, documents, torch.arange(C + 1) * D).sum().backward()
    assert peak.largest <= CPU_BUDGET < B * Q * C * D / 1.9
