"""Exhaustive search against triple loops, and its promises: ties, filters, memory, errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from colbertxm.engine.exact import ExactEngine, strictly_falling
from colbertxm.errors import UserError

DIM = 8


def naive_maxsim(query: Tensor, document: Tensor) -> float:
    """Equation 3 of ColBERT, one number at a time, in float64."""
    total = 0.0
    for q in query.tolist():
        total += max(sum(a * b for a, b in zip(q, d, strict=True)) for d in document.tolist())
    return total


def naive_search(
    queries: Sequence[Tensor], documents: Sequence[Tensor], langs: Sequence[str], k: int, lang: str | None
) -> list[list[tuple[int, float]]]:
    found = []
    for query in queries:
        scored = [
            (n, naive_maxsim(query, d))
            for n, d in enumerate(documents)
            if len(d) and (lang is None or langs[n] == lang)
        ]
        found.append(sorted(scored, key=lambda pair: (-pair[1], pair[0]))[:k])
    return found


def whole_numbers(rows: int, generator: torch.Generator) -> Tensor:
    """Vectors of small whole numbers: their sums are exact in any order, and many scores are equal."""
    return torch.randint(-2, 3, (rows, DIM), generator=generator).float()


def engine_of(documents: Sequence[Tensor], langs: Sequence[str], dtype: torch.dtype = torch.float32) -> ExactEngine:
    offsets = torch.tensor([0, *(len(d) for d in documents)]).cumsum(0)
    ids = [f"d{n}" for n in range(len(documents))]
    return ExactEngine(torch.cat([torch.empty(0, DIM), *documents]).to(dtype), offsets, ids, langs)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    sizes=st.lists(st.integers(0, 5), min_size=1, max_size=30),
    query_sizes=st.lists(st.integers(1, 4), max_size=5),
    k=st.integers(1, 40),
    lang=st.sampled_from([None, "de"]),
    dtype=st.sampled_from([torch.float32, torch.float16]),
)
def test_search_is_the_triple_loop(
    seed: int, sizes: list[int], query_sizes: list[int], k: int, lang: str | None, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(seed)
    documents = [whole_numbers(n, generator) for n in sizes]
    queries = [whole_numbers(n, generator) for n in query_sizes]
    langs = ["de", *(("en", "de")[(seed + n) % 2] for n in range(len(sizes) - 1))]
    found = engine_of(documents, langs, dtype).search(queries, k, lang)
    expected = naive_search(queries, documents, langs, k, lang)
    assert len(found) == len(expected)
    for (ids, scores), want in zip(found, expected, strict=True):
        assert ids == [f"d{n}" for n, _ in want]
        assert scores.dtype == np.float32 and (np.diff(scores) < 0).all()
        np.testing.assert_allclose(scores, [s for _, s in want], atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_score_all_is_the_triple_loop_on_real_numbers(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    documents = [torch.randn(n, DIM, generator=generator).to(dtype).float() for n in (3, 0, 1, 7, 3)]
    queries = [torch.randn(n, DIM, generator=generator) for n in (2, 1, 5)]
    scores = engine_of(documents, ["en"] * 5, dtype).score_all(queries)
    expected = [[naive_maxsim(q, d) if len(d) else -np.inf for d in documents] for q in queries]
    torch.testing.assert_close(scores, torch.tensor(expected))


def test_chunks_change_nothing_and_stay_within_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(2)
    documents = [whole_numbers(int(n), generator) for n in torch.randint(0, 9, (4000,), generator=generator)]
    queries = [whole_numbers(int(n), generator) for n in torch.randint(1, 9, (30,), generator=generator)]
    engine = engine_of(documents, ["en"] * len(documents))
    roomy = engine.search(queries, 50)
    monkeypatch.setattr("colbertxm.engine.exact.QUERY_VECTORS", 60)
    chunks = [c for c, _ in engine._chunks(queries, engine._documents(None), memory_mb=1)]
    assert len(chunks) > 2
    assert max(int(engine.lengths[c].sum()) for c in chunks) * sum(map(len, queries)) * 4 <= 2**20
    for (ids, scores), (tight_ids, tight_scores) in zip(roomy, engine.search(queries, 50, memory_mb=1), strict=True):
        assert ids == tight_ids
        np.testing.assert_array_equal(scores, tight_scores)


def test_equal_scores_keep_document_order_across_chunks() -> None:
    one = torch.ones(1, DIM)
    engine = engine_of([one] * 3000, ["en"] * 3000)
    ids, scores = engine.search([one.expand(200, -1)], 2999, memory_mb=1)[0]
    assert ids == [f"d{n}" for n in range(2999)]
    assert (np.diff(scores) < 0).all() and scores[0] == 200 * DIM


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize(
    ("threads", "dim", "query_vectors"), [(1, 8, 1), (1, 100, 7), (1, 127, 2), (1, 127, 32), (1, 128, 1), (2, 128, 32)]
)
def test_equal_documents_stand_in_document_order(
    threads: int, dim: int, query_vectors: int, dtype: str, few_threads: None
) -> None:
    """Wherever they stand, with whatever beside them: a few documents repeated in random places, all of them searched
    in chunks, and random parts of every size, whose products have all numbers of rows."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(dim + query_vectors)
    originals = [torch.randn(1 + n % 3, dim, generator=generator) for n in range(9)]
    numbers = torch.randint(len(originals), (1000,), generator=generator).tolist()
    offsets = torch.tensor([0, *(len(originals[n]) for n in numbers)]).cumsum(0)
    ids = [f"d{position}" for position in range(len(numbers))]
    engine = ExactEngine(torch.cat([originals[n] for n in numbers]), offsets, ids, ["en"] * len(ids), dtype)
    query = torch.randn(query_vectors, dim, generator=generator)
    every = engine.score_all([query], memory_mb=1)[0].numpy()
    known = {n: every[numbers.index(n)] for n in set(numbers)}
    assert every.tolist() == [known[n] for n in numbers]
    for size in (2, 3, 5, 6, 8, 11, 14, 19, 27, 65, 700):
        part = torch.randperm(len(ids), generator=generator)[:size].sort().values.tolist()
        found, _ = engine.search([query], size, ids=[ids[position] for position in part])[0]
        assert found == [ids[p] for p in sorted(part, key=lambda p: (-known[numbers[p]], p))], size


@pytest.fixture
def few_threads() -> Iterator[None]:
    """The number of threads as it was, afterwards."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_ties_are_lowered_without_overtaking() -> None:
    below = np.nextafter(np.float32(1), np.float32(0))
    scores = strictly_falling(np.array([1, 1, below, below, 0, 0, -3], np.float32))
    assert (np.diff(scores) < 0).all() and scores[0] == 1 and scores[-1] == -3


def test_one_vector_per_text_is_the_dot_product() -> None:
    generator = torch.Generator().manual_seed(3)
    documents, queries = torch.randn(50, DIM, generator=generator), torch.randn(4, DIM, generator=generator)
    engine = ExactEngine(documents, torch.arange(51), [str(n) for n in range(50)], ["en"] * 50)
    torch.testing.assert_close(engine.score_all(queries.split(1)), queries @ documents.T)


def test_nothing_to_find_is_an_empty_answer() -> None:
    (ids, scores), *rest = engine_of([torch.empty(0, DIM)] * 2, ["en"] * 2).search([torch.ones(1, DIM)], 5)
    assert ids == [] and len(scores) == 0 and not rest
    assert engine_of([torch.ones(1, DIM)], ["en"]).search([], 5) == []


@pytest.mark.parametrize(
    ("query", "k", "lang", "message"),
    [
        (torch.ones(2, DIM), 0, None, "at least one hit"),
        (torch.ones(2, DIM), 3, "dee", r"'dee' is indexed \(did you mean 'de'\?\); the index has de, en"),
        (torch.ones(2, DIM + 1), 3, None, f"vectors of {DIM} dimensions"),
        (torch.ones(DIM), 3, None, "query 0 has shape"),
        (torch.empty(0, DIM), 3, None, "no vectors"),
        (torch.full((1, DIM), torch.nan), 3, None, "not finite"),
    ],
)
def test_mistakes_are_named(query: Tensor, k: int, lang: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        engine_of([torch.ones(1, DIM)] * 2, ["en", "de"]).search([query], k, lang)


@pytest.mark.parametrize(
    ("vectors", "offsets", "ids", "message"),
    [
        (torch.ones(3), torch.tensor([0, 3]), ["a"], "shape"),
        (torch.ones(3, 2), torch.tensor([0, 3]), ["a", "b"], "2 ids"),
        (torch.ones(3, 2), torch.tensor([0.0, 3.0]), ["a"], "float32 offsets"),
        (torch.ones(3, 2), torch.tensor([0, 2]), ["a"], "rise from 0"),
        (torch.ones(3, 2), torch.tensor([0, 4, 3]), ["a", "b"], "rise from 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(vectors: Tensor, offsets: Tensor, ids: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ExactEngine(vectors, offsets, ids, ["en"] * len(ids))


def test_queries_on_another_device_and_of_many_lengths_score_as_one_by_one() -> None:
    generator = torch.Generator().manual_seed(5)
    engine = engine_of([torch.randn(3, DIM, generator=generator) for _ in range(40)], ["en"] * 40)
    queries = [torch.randn(n, DIM, generator=generator) for n in (3, 1, 7, 3)]
    alone = torch.cat([engine.score_all([query]) for query in queries])
    torch.testing.assert_close(engine.score_all(queries), alone)
    torch.testing.assert_close(engine.score_all([q.half() for q in queries]), alone, atol=0.02, rtol=0.01)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_on_a_gpu_as_on_the_cpu(dtype: str) -> None:
    generator = torch.Generator().manual_seed(6)
    vectors, offsets = torch.randn(900, DIM, generator=generator), torch.arange(0, 901, 3)
    ids = [str(n) for n in range(300)]
    queries = [torch.randn(n, DIM, generator=generator) for n in (4, 1, 4)]
    near = ExactEngine(vectors, offsets, ids, ["en"] * 300, dtype)
    far = ExactEngine(vectors.cuda(), offsets, ids, ["en"] * 300, dtype)
    torch.testing.assert_close(far.score_all([q.cuda() for q in queries]), near.score_all(queries))
    for (found, scores), (wanted, truth) in zip(far.search(queries, 10), near.search(queries, 10), strict=True):
        assert found == wanted
        np.testing.assert_allclose(scores, truth, rtol=1e-5)
