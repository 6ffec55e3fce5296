"""The objective: weights, own passages, ignored passages, teachers; cached gradients and accumulation in real runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from conftest import killed_at, numbered_triple
from torch import Tensor

from colbertxm.data.examples import InMemory
from colbertxm.errors import UserError
from colbertxm.model.checkpoints import build_encoder
from colbertxm.model.encoder import Encoder, Vectors
from colbertxm.model.freeze import freeze
from colbertxm.model.tokens import TokenSettings
from colbertxm.model.trunk import Trunk
from colbertxm.records import Triple
from colbertxm.training.batches import Batch, Collate
from colbertxm.training.fit import TrainerSettings, fit
from colbertxm.training.losses import in_batch_softmax, kl_distillation, margin_mse, own_passages, pairwise_softmax
from colbertxm.training.marks import false_negatives
from colbertxm.training.module import OptimizerSettings
from colbertxm.training.objective import LossSettings, Objective


def triples(count: int = 8) -> list[Triple]:
    return [dataclasses.replace(numbered_triple(i, 3), scores=(5.0, 1.0 + i / 8, 0.5, -2.0)) for i in range(count)]


def fresh(pooling: str = "multi") -> Encoder:
    L.seed_everything(0, verbose=False)
    tokens = TokenSettings("query: ", "passage: ")
    encoder = build_encoder("small", ["en"], tokens, pooling, 8, 0)  # type: ignore[arg-type]
    freeze(encoder, "top_k_layers", 2)
    return encoder


def encoded(encoder: Encoder, batch: Batch) -> tuple[Vectors, Vectors]:
    return encoder(batch.queries.parts[0]), encoder(batch.passages.parts[0])


@pytest.mark.parametrize("pooling", ["multi", "single"])
@pytest.mark.parametrize("mean", [False, True])
def test_own_scores_are_those_of_the_whole_matrix(world: Path, pooling: str, mean: bool) -> None:
    encoder = fresh(pooling)
    batch = Collate(encoder, False)(triples(5))
    objective = Objective(LossSettings(mean_over_query=mean), encoder.pooling)
    queries, passages = encoded(encoder, batch)
    whole = own_passages(objective.scores(queries, passages))
    torch.testing.assert_close(objective.own_scores(queries, passages), whole)
    assert whole.shape == (5, 4)


def test_the_loss_is_the_weighted_sum_of_its_parts(world: Path) -> None:
    encoder = fresh()
    batch = Collate(encoder, False)(triples(6))
    settings = LossSettings(0.5, 2.0, 3.0, 0.25, temperature=0.7, teacher_temperature=2.0)
    objective = Objective(settings, "multi")
    queries, passages = encoded(encoder, batch)
    found = objective.losses(queries, passages, batch)
    scores, teacher = objective.scores(queries, passages), batch.teacher_BK
    assert teacher is not None
    own, ignore = own_passages(scores), false_negatives(batch.query_keys, batch.passage_keys)
    expected: dict[str, Tensor] = {
        "pairwise": pairwise_softmax(scores, 0.7),
        "in_batch": in_batch_softmax(scores, ignore, "included", 0.7),
        "distillation": kl_distillation(own, teacher, 0.7, 2.0),
        "margin_mse": margin_mse(own, teacher),
    }
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    weights = {"pairwise": 0.5, "in_batch": 2.0, "distillation": 3.0, "margin_mse": 0.25}
    torch.testing.assert_close(found["loss"], sum(weights[n] * v for n, v in expected.items()))
    only = Objective(dataclasses.replace(settings, in_batch=0.0, pairwise=0.0), "multi").losses(
        queries, passages, batch
    )
    assert set(only) == {"distillation", "margin_mse", "loss"}
    torch.testing.assert_close(only["distillation"], expected["distillation"])


def test_settings_that_mean_nothing_are_refused() -> None:
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"pairwise": 0.0, "in_batch": 0.0}, "one at least above 0"),
        ({"pairwise": -1.0}, "loss.pairwise=-1"),
        ({"temperature": 0.0}, "loss.temperature=0.0 must be above 0"),
        ({"own_hard_negative": "both"}, "choose from included, excluded"),
    )
    for settings, reason in wrong:
        with pytest.raises(UserError, match=reason):
            LossSettings(**settings)


SETTINGS = TrainerSettings(
    steps=4, batch_size=8, negatives=2, val_every=0, checkpoint_every=2, log_every=1, accelerator="cpu"
)
LOSS = LossSettings(temperature=0.05, mean_over_query=True, distillation=1.0, teacher_temperature=2.0)


def trained(
    output: Path, encoder: Encoder, trunk: Trunk | None = None, loss: LossSettings = LOSS, **changes: Any
) -> dict[str, Tensor]:
    settings = dataclasses.replace(SETTINGS, **changes)
    optimizer = OptimizerSettings(lr=1e-3, eps=1e-3)  # a large eps: Adam would blow rounding up to whole steps
    fit(encoder, InMemory(triples(16), 5), (), output, loss, optimizer, settings, 5, False, trunk)
    return {name: p.detach().clone() for name, p in encoder.named_parameters() if p.requires_grad}


def close(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=2e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("chunk", [3, 5, 100])
def test_a_run_with_cached_gradients_is_the_plain_run(world: Path, chunk: int) -> None:
    before = {n: p.detach().clone() for n, p in fresh().named_parameters()}
    plain = trained(world / "plain", fresh())
    assert any((value - before[name]).abs().max() > 1e-3 for name, value in plain.items())
    close(plain, trained(world / "cached", fresh(), chunk=chunk))


def test_cached_gradients_use_a_trunk(world: Path) -> None:
    encoder = fresh()
    close(trained(world / "plain", fresh()), trained(world / "cut", encoder, Trunk(encoder.xmod, 1), chunk=5))


def test_accumulated_batches_make_one_step(world: Path) -> None:
    """Without in-batch negatives two batches of four are one of eight: the pairwise loss is a mean over queries."""
    loss = dataclasses.replace(LOSS, in_batch=0.0)
    one = trained(world / "one", fresh(), loss=loss, batch_size=8)
    close(one, trained(world / "two", fresh(), loss=loss, batch_size=4, accumulate=2))


@pytest.mark.parametrize("settings", [{"chunk": 5}, {"accumulate": 3, "batch_size": 4}], ids=["cached", "accumulated"])
def test_such_runs_resume_exactly(world: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, int]) -> None:

    whole = trained(world / "whole", fresh(), **settings)
    with killed_at(3):
        trained(world / "cut", fresh(), **settings)
    again = trained(world / "cut", fresh(), **settings)
    for name, value in whole.items():
        assert torch.equal(value, again[name]), name


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"chunk": 4, "accumulate": 2}, "do not go together"),
        ({"chunk": 0}, "trainer.chunk=0"),
        ({"accumulate": 0}, "trainer.accumulate=0"),
        ({"chunk": 4, "precision": "16-mixed"}, "precision=16-mixed"),
        ({"chunk": 4, "strategy": "fsdp"}, "strategy=fsdp"),
        ({"devices": 3}, "batch_size=8 does not divide among 3 processes"),
    ],
)
def test_settings_that_do_not_go_together(world: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        trained(world / "out", fresh(), **changes)


def test_a_loss_that_needs_a_teacher_says_so_before_training(world: Path) -> None:
    untaught = InMemory([dataclasses.replace(t, scores=()) for t in triples(8)], 5)
    with pytest.raises(UserError, match="need a teacher's scores, which these training data lack"):
        fit(fresh(), untaught, (), world / "out", LOSS, OptimizerSettings(), SETTINGS, 5)
    assert not (world / "out").exists()
