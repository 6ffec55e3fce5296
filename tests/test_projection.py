"""The projection's start: ragged MaxSim equals the padded one, and distillation brings the base's rankings nearer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from colbertxm.errors import UserError
from colbertxm.model.checkpoints import build_encoder
from colbertxm.model.encoder import Encoder, Vectors
from colbertxm.model.scores import maxsim
from colbertxm.model.tokens import TokenSettings
from colbertxm.records import Text, Triple
from colbertxm.training.projection import Material, distil_projection, mean_maxsim, start_projection
from colbertxm.training.teaching import taught


def ragged(generator: torch.Generator, count: int, dim: int) -> Vectors:
    lengths = torch.randint(1, 7, (count,), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    values = torch.nn.functional.normalize(torch.randn(int(lengths.sum()), dim, generator=generator), dim=-1)
    return Vectors(values, offsets)


def material(count: int = 60) -> Material:
    generator = torch.Generator().manual_seed(0)
    passages = [Text(f"p{i}", f"passage {i}", "en") for i in range(count)]
    triples = [
        Triple(Text(f"q{i}", f"query {i}", "en"), p, (passages[i - 1], passages[i - 2])) for i, p in enumerate(passages)
    ]
    rows = {p.id: i for i, p in enumerate(passages)}
    return Material(triples, ragged(generator, count, 32), ragged(generator, count, 32), rows)


def encoder(pooling: str = "multi", dim: int = 8) -> Encoder:
    return build_encoder("small", ["en"], TokenSettings(), pooling, dim, 0)  # type: ignore[arg-type]


def test_ragged_maxsim_equals_the_padded_one() -> None:
    generator = torch.Generator().manual_seed(3)
    queries, passages = ragged(generator, 5, 16), ragged(generator, 9, 16)
    expected = maxsim(*queries.padded(), *passages.padded(), mean=True)
    torch.testing.assert_close(mean_maxsim(queries, passages), expected)


def test_distillation_brings_the_base_nearer_and_is_deterministic(world: Path) -> None:
    weights = []
    for _ in range(2):
        model = encoder()
        losses = distil_projection(model, material(), seed=1, steps=60)
        assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
        assert model.linear is not None
        weights.append(model.linear.weight.detach().clone())
    assert torch.equal(*weights)


def test_each_start_is_what_it_says(world: Path) -> None:
    starts = {}
    for name in ("random", "pca", "distilled"):
        model = encoder()
        start_projection(model, material(), name, seed=0)
        assert model.linear is not None
        starts[name] = model.linear.weight.detach().clone()
    random = encoder().linear
    assert random is not None and torch.equal(starts["random"], random.weight)
    torch.testing.assert_close(starts["pca"] @ starts["pca"].T, torch.eye(8), atol=1e-5, rtol=1e-5)
    assert not torch.equal(starts["pca"], starts["distilled"])
    start_projection(encoder(dim=0), material(), "distilled", seed=0)
    with pytest.raises(UserError, match="model.projection='pac' is unknown .did you mean 'pca'"):
        start_projection(encoder(), material(), "pac", seed=0)


def test_the_base_teaches_by_its_own_scores() -> None:
    made = material(12)
    for i, triple in enumerate(taught(made)):
        own = [triple.positive, *triple.negatives]
        sims = [(made.queries[i] @ made.passages[made.rows[p.id]].T).amax(1).mean() for p in own]
        torch.testing.assert_close(torch.tensor(triple.scores), torch.stack(sims))
        assert triple.query == made.triples[i].query and len(triple.scores) == 3
