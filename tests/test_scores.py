"""MaxSim against loops."""

from __future__ import annotations

import pytest
import torch

from colbertxm.model.encoder import Vectors
from colbertxm.model.scores import dot, maxsim


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
