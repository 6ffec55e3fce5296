"""int8 vectors: their error stays under the derived bound, their rankings near those of float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from colbertxm.engine.exact import ExactEngine
from colbertxm.engine.int8 import Int8Vectors, quantise
from colbertxm.errors import UserError


def clustered(count: int, dim: int, generator: torch.Generator, clusters: int = 50) -> Tensor:
    """Unit vectors about `clusters` centres, as token vectors lie: most neighbours are close calls."""
    centres = torch.randn(clusters, dim, generator=generator)
    owner = torch.randint(clusters, (count,), generator=generator)
    return torch.nn.functional.normalize(centres[owner] + 0.5 * torch.randn(count, dim, generator=generator), dim=1)


def engines(vectors: Tensor, offsets: Tensor) -> tuple[ExactEngine, ExactEngine]:
    ids = [f"d{n}" for n in range(len(offsets) - 1)]
    plain, rounded = (ExactEngine(vectors, offsets, ids, ["en"] * len(ids), d) for d in ("float32", "int8"))
    return plain, rounded


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), dim=st.integers(1, 70), exponent=st.integers(-30, 15), dtype=st.sampled_from([4, 2]))
def test_no_component_is_off_by_more_than_half_a_scale(seed: int, dim: int, exponent: int, dtype: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(20, dim, generator=generator) * 2.0 ** min(exponent, 15 if dtype == 4 else 10)
    vectors = vectors if dtype == 4 else vectors.half()
    held = quantise(vectors)
    assert held.values.dtype == torch.int8 and held.scales.dtype == torch.float32
    back = held.values.double() * held.scales.double()[:, None]
    assert ((back - vectors.double()).abs() <= held.scales.double()[:, None] * 0.5001).all()
    assert int(held.values.min()) >= -127


def test_scores_stay_within_the_bound() -> None:
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(0, 30, (400,), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    plain, rounded = engines(clustered(int(offsets[-1]), 64, generator), offsets)
    queries = [torch.nn.functional.normalize(torch.randn(n, 64, generator=generator), dim=1) for n in (1, 8, 32)]
    assert isinstance(rounded.vectors, Int8Vectors)
    exact, near = plain.score_all(queries), rounded.score_all(queries)
    for query, row, other in zip(queries, exact, near, strict=True):
        found = row.isfinite()
        worst = float((row - other)[found].abs().max())
        bound = rounded.vectors.error_bound(query) + 1e-5  # float32's own rounding
        assert 0 < worst <= bound
        assert bound < 0.06 * len(query)  # a bound that is worth stating: scores reach len(query)
        assert torch.equal(found, other.isfinite())


def test_the_bound_is_reached_by_the_worst_vectors() -> None:
    """A component just below half a scale is lost whole."""
    vectors = torch.tensor([[127.0, 0.4999]])
    plain, rounded = engines(vectors, torch.tensor([0, 1]))
    query = torch.tensor([[0.0, 1.0]])
    assert isinstance(rounded.vectors, Int8Vectors)
    off = abs(float(plain.score_all([query])) - float(rounded.score_all([query])))
    assert 0.999 * rounded.vectors.error_bound(query) < off <= rounded.vectors.error_bound(query)


@pytest.mark.parametrize("tokens", [1, 12])
def test_recall_against_float32(tokens: int) -> None:
    generator = torch.Generator().manual_seed(3)
    documents = 3000
    vectors = clustered(documents * tokens, 128, generator)
    plain, rounded = engines(vectors, torch.arange(documents + 1) * tokens)
    picked = torch.randint(len(vectors), (60, 4 if tokens > 1 else 1), generator=generator)
    noisy = vectors[picked] + 0.03 * torch.randn(*picked.shape, 128, generator=generator)
    queries = list(torch.nn.functional.normalize(noisy, dim=2))
    recalls = [
        len(set(want) & set(found)) / 10
        for (want, _), (found, _) in zip(plain.search(queries, 10), rounded.search(queries, 10), strict=True)
    ]
    assert np.mean(recalls) >= 0.98


def test_whole_numbers_are_exact_and_ties_keep_document_order() -> None:
    """Components up to 127, the largest among them, are stored as they are."""
    generator = torch.Generator().manual_seed(4)
    vectors = torch.randint(-3, 4, (500, 8), generator=generator).float()
    vectors[:, 0] = 127
    plain, rounded = engines(vectors, torch.arange(501))
    queries = list(torch.randint(-2, 3, (5, 1, 8), generator=generator).float())
    for (ids, scores), (near_ids, near_scores) in zip(
        plain.search(queries, 40), rounded.search(queries, 40), strict=True
    ):
        assert ids == near_ids and (np.diff(near_scores) < 0).all()
        np.testing.assert_array_equal(scores, near_scores)


def test_blocks_change_nothing_and_memory_is_a_quarter(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = clustered(1000, 32, torch.Generator().manual_seed(5))
    whole = quantise(vectors)
    monkeypatch.setattr("colbertxm.engine.int8.BLOCK_BYTES", 7 * 32 * 4)
    pieces = quantise(vectors)
    assert torch.equal(whole.values, pieces.values) and torch.equal(whole.scales, pieces.scales)
    held = whole.values.nbytes + whole.scales.nbytes
    assert held == vectors.nbytes // 4 + 4 * len(vectors)


def test_zeros_and_nothing() -> None:
    held = quantise(torch.zeros(2, 3))
    assert not held.values.any() and held.error_bound(torch.ones(1, 3)) >= 0
    _, rounded = engines(torch.empty(0, 3), torch.zeros(3, dtype=torch.int64))
    assert rounded.search([torch.ones(1, 3)], 5)[0][0] == []


def test_mistakes_are_named() -> None:
    bad = torch.ones(5, 2)
    bad[3, 1] = torch.inf
    with pytest.raises(UserError, match="document vector 3 is not finite"):
        quantise(bad)
    with pytest.raises(UserError, match=r"'int-8' \(did you mean 'int8'\?\)"):
        ExactEngine(torch.ones(1, 2), torch.tensor([0, 1]), ["a"], ["en"], "int-8")
