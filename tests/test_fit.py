"""Training: a resumed run ends with the weights of an uninterrupted one, and frozen parameters stay."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from conftest import killed_at

from colbertxm.data.examples import InMemory
from colbertxm.data.training import TrainingData, smart_home
from colbertxm.errors import UserError
from colbertxm.model.checkpoints import build_encoder
from colbertxm.model.encoder import Encoder
from colbertxm.model.freeze import freeze
from colbertxm.model.tokens import TokenSettings
from colbertxm.model.trunk import Trunk
from colbertxm.records import Triple
from colbertxm.retriever import Retriever
from colbertxm.training import fit as fit_module
from colbertxm.training.batches import Collate
from colbertxm.training.checkpointing import AtomicCheckpointIO, read_checkpoint, resume_points
from colbertxm.training.fit import TrainerSettings, fit
from colbertxm.training.module import LossSettings, OptimizerSettings, RetrieverModule

LOSS = LossSettings(temperature=0.05, mean_over_query=True)
OPTIMIZER = OptimizerSettings(lr=1e-3)
SETTINGS = TrainerSettings(steps=7, batch_size=4, val_every=0, checkpoint_every=3, log_every=1, accelerator="cpu")


@pytest.fixture
def data(world: Path) -> TrainingData:
    return smart_home(clean_only=True, negatives_depth=3, val_langs=["en", "de"], val_sample=8)


def triples(data: TrainingData) -> list[Triple]:
    """Each pair with its neighbours' descriptions as negatives."""
    pairs = data.pairs
    return [Triple(q, p, tuple(pairs[(i + j) % len(pairs)][1] for j in (1, 2, 3))) for i, (q, p) in enumerate(pairs)]


def fresh(pooling: str = "multi", top_k: int = 1) -> tuple[Encoder, Trunk]:
    L.seed_everything(0, verbose=False)
    encoder = build_encoder("small", ["en", "de"], TokenSettings("query: ", "passage: "), pooling, 8, 0)  # type: ignore[arg-type]
    depth = freeze(encoder, "top_k_layers", top_k)
    return encoder, Trunk(encoder.xmod, depth)


def run(output: Path, data: TrainingData, encoder: Encoder, trunk: Trunk | None, **changes: Any) -> Any:
    if trunk is not None:  # filled before training and always in this order, as `stages.prepare` does by mining
        texts = [text for pair in data.pairs for text in pair]
        Retriever(encoder, trunk).encode(texts, "query"), Retriever(encoder, trunk).encode(texts, "passage")
    settings = dataclasses.replace(SETTINGS, **changes)
    return fit(encoder, InMemory(triples(data), 5), data.pools, output, LOSS, OPTIMIZER, settings, 5, False, trunk)


@pytest.mark.parametrize("pooling", ["multi", "single"])
def test_the_loss_falls_and_only_trained_parameters_move(world: Path, data: TrainingData, pooling: str) -> None:
    encoder, trunk = fresh(pooling, top_k=2)
    before = {name: p.detach().clone() for name, p in encoder.named_parameters()}
    module = RetrieverModule(encoder, LOSS, OPTIMIZER, 7)
    batch = Collate(encoder, True)(InMemory(triples(data), 0).read([(0, i) for i in range(8)], 1))
    start = torch.nn.functional.cross_entropy(module.scores(batch) / 0.05, torch.arange(8)).item()
    few = dataclasses.replace(SETTINGS, steps=60, batch_size=8)
    fit(
        encoder,
        InMemory(triples(data)[:8], 5),
        (),
        world / "out",
        LOSS,
        OptimizerSettings(lr=3e-3),
        few,
        5,
        False,
        trunk,
    )
    end = torch.nn.functional.cross_entropy(module.scores(batch) / 0.05, torch.arange(8)).item()
    assert end < 0.5 * start
    for name, parameter in encoder.named_parameters():
        moved = not torch.equal(parameter, before[name])
        assert moved == parameter.requires_grad, name


def test_a_trunk_changes_no_gradient(world: Path, data: TrainingData) -> None:
    encoder, trunk = fresh(top_k=2)
    batch = Collate(encoder, True)(InMemory(triples(data), 0).read([(1, i) for i in range(6)], 2))
    gradients = []
    for cached in (None, trunk):
        encoder.zero_grad()
        RetrieverModule(encoder, LOSS, OPTIMIZER, 1, cached).scores(batch).logsumexp(1).sum().backward()
        gradients.append({n: p.grad.clone() for n, p in encoder.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and gradients[0]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-4, rtol=1e-4, msg=name)


@pytest.mark.parametrize("at", [1, 3, 4, 6])
def test_a_killed_and_restarted_run_ends_with_the_same_weights(
    world: Path, data: TrainingData, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    encoder, trunk = fresh()
    run(world / "whole", data, encoder, trunk, val_every=2)
    whole = {name: p.detach().clone() for name, p in encoder.named_parameters()}

    encoder, trunk = fresh()
    with killed_at(at):
        run(world / "cut", data, encoder, trunk, val_every=2)
    kept = [step for step, _ in resume_points(world / "cut/checkpoints")]
    assert kept == ([] if at < 3 else [3] if at < 6 else [6, 3])
    encoder, trunk = fresh()
    result = run(world / "cut", data, encoder, trunk, val_every=2)
    assert result.steps == 7 and not (world / "cut/checkpoints").exists()
    for name, parameter in encoder.named_parameters():
        assert torch.equal(parameter, whole[name]), name


def test_a_damaged_checkpoint_is_an_error_that_names_it(world: Path, data: TrainingData) -> None:
    path = world / "out/checkpoints/resume-3.ckpt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no checkpoint")
    encoder, trunk = fresh()
    with pytest.raises(UserError, match=r"no resume point is whole: .*resume-3\.ckpt .*delete .* to start"):
        run(world / "out", data, encoder, trunk)


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    io, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    io.save_checkpoint({"state_dict": {"a": torch.ones(3)}}, path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("colbertxm.training.checkpointing.os.fsync", full)
    with pytest.raises(UserError, match="No space left on device; free space"):
        io.save_checkpoint({"state_dict": {"a": torch.zeros(3)}}, path)
    assert float(read_checkpoint(path)["state_dict"]["a"].sum()) == 3 and not list(tmp_path.glob("*.part"))


def test_checkpoints_hold_trained_parameters_only(
    world: Path, data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_module.shutil, "rmtree", lambda *_, **__: None)
    encoder, trunk = fresh()
    run(world / "out", data, encoder, trunk)
    stored = set(read_checkpoint(world / "out/checkpoints/resume-6.ckpt")["state_dict"])
    assert stored == {f"encoder.{name}" for name, p in encoder.named_parameters() if p.requires_grad}


def test_adamw_is_fused_on_the_cpu_in_full_precision_alone(world: Path) -> None:
    encoder, _ = fresh()
    module = RetrieverModule(encoder, LOSS, OPTIMIZER, 7)
    assert module.configure_optimizers()["optimizer"].defaults["fused"] is True
    module.trainer = L.Trainer(accelerator="cpu", precision="bf16-mixed", logger=False, enable_checkpointing=False)
    assert not module.configure_optimizers()["optimizer"].defaults["fused"]


def test_fused_adamw_takes_the_loops_steps(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for fused in (True, False):
        monkeypatch.setattr(RetrieverModule, "_fused", lambda self, fused=fused: fused)
        encoder, _ = fresh(top_k=2)
        module = RetrieverModule(encoder, LOSS, OPTIMIZER, 7)
        optimizer = module.configure_optimizers()["optimizer"]
        generator = torch.Generator().manual_seed(1)
        trained = [p for p in encoder.parameters() if p.requires_grad]
        for _ in range(3):
            for parameter in trained:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
        found.append([p.detach().clone() for p in trained])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*found, strict=True))
