"""trainer.checkpoint_activations and trainer.compile change memory and time, not results or checkpoints."""

from __future__ import annotations

import functools
import socket
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from conftest import killed_at
from test_fit import LOSS, OPTIMIZER, SETTINGS, fresh, run, triples
from torch import Tensor, nn

from colbertxm.data.examples import InMemory
from colbertxm.data.training import TrainingData, smart_home
from colbertxm.errors import UserError
from colbertxm.model.encoder import Encoder
from colbertxm.model.xmod import Intermediate, Layer
from colbertxm.training import economy
from colbertxm.training.batches import Collate
from colbertxm.training.checkpointing import read_checkpoint, resume_points
from colbertxm.training.economy import economise
from colbertxm.training.fit import TrainerSettings, stream
from colbertxm.training.module import RetrieverModule


@pytest.fixture
def data(world: Path) -> TrainingData:
    return smart_home(clean_only=True, negatives_depth=3, val_langs=["en", "de"], val_sample=8)


@pytest.fixture
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile's own machinery, without the C++ compiler's minute."""
    torch._dynamo.reset()
    monkeypatch.setattr(Encoder, "compile", functools.partialmethod(Encoder.compile, backend="aot_eager"))


def weights(encoder: Encoder) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in encoder.named_parameters()}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        # Softmax does not see a key's bias: its gradient is rounding alone, and AdamW's step is as long as any other's.
        if not name.endswith("attention.self.key.bias"):
            torch.testing.assert_close(found[name], weight, atol=1e-4, rtol=1e-4, msg=name)


def test_a_run_with_activation_checkpoints_ends_with_the_same_weights(
    world: Path, data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    original = Layer.forward
    monkeypatch.setattr(Layer, "forward", lambda *a: seen.append(torch.is_grad_enabled()) or original(*a))
    found, passes = [], []
    for checkpointed in (False, True):
        encoder, trunk = fresh(top_k=2)
        seen.clear()
        run(world / f"{checkpointed}", data, encoder, trunk, checkpoint_activations=checkpointed)
        found.append(weights(encoder))
        passes.append(sum(seen))
    assert passes[1] == 2 * passes[0] > 0
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_compiled_run_has_the_same_checkpoint_and_nearly_the_same_weights(
    world: Path, data: TrainingData, monkeypatch: pytest.MonkeyPatch, quick_compiler: None
) -> None:
    encoder, trunk = fresh(top_k=2)
    run(world / "plain", data, encoder, trunk)
    plain = weights(encoder)

    settings = {"compile": True, "checkpoint_activations": True}
    encoder, trunk = fresh(top_k=2)
    with killed_at(4):
        run(world / "out", data, encoder, trunk, **settings)
    assert any(isinstance(m, Intermediate) and m._compiled_call_impl is not None for m in encoder.modules())
    stored = set(read_checkpoint(resume_points(world / "out/checkpoints")[0][1])["state_dict"])
    assert stored == {f"encoder.{name}" for name, p in encoder.named_parameters() if p.requires_grad}
    encoder, trunk = fresh(top_k=2)
    assert run(world / "out", data, encoder, trunk, **settings).steps == 7
    assert_close(weights(encoder), plain)


def test_what_is_compiled_before_ddp_trains_as_what_is_not(
    world: Path, data: TrainingData, monkeypatch: pytest.MonkeyPatch, quick_compiler: None
) -> None:
    """fit's order: the layers are compiled, then the strategy wraps the module."""
    wrapped: list[bool] = []
    original = nn.parallel.DistributedDataParallel.__init__

    def wrapping(self: Any, module: nn.Module, *args: Any, **kwargs: Any) -> None:
        wrapped.append(any(m._compiled_call_impl is not None for m in module.modules()))
        original(self, module, *args, **kwargs)

    monkeypatch.setattr(nn.parallel.DistributedDataParallel, "__init__", wrapping)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    found = []
    for compiled in (False, True):
        encoder, _ = fresh(top_k=2)
        settings = TrainerSettings(steps=3, batch_size=4, compile=compiled, accelerator="cpu")
        economise(encoder, settings)
        module = RetrieverModule(encoder.train(), LOSS, OPTIMIZER, 3)
        batches = stream(encoder, InMemory(triples(data), 5), (), settings, 5)
        trainer = L.Trainer(
            max_steps=3, accelerator="cpu", devices=1, strategy="ddp", logger=False, limit_val_batches=0,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            use_distributed_sampler=False, default_root_dir=world,
        )  # fmt: skip
        try:
            trainer.fit(module, datamodule=batches)
        finally:  # Lightning leaves the group open, and later tests would think that they have ranks
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
        found.append(weights(encoder))
    assert wrapped == [False, True]
    assert_close(found[1], found[0])


def test_lora_compiles(world: Path, data: TrainingData, quick_compiler: None) -> None:
    """Its modules lie inside compiled layers where they stand beside `dense`."""
    pytest.importorskip("peft", reason="LoRA needs the extra `lora`")
    from colbertxm.model.lora import LoraSettings, add_lora, merge

    encoder, trunk = fresh(top_k=2)
    add_lora(encoder, LoraSettings(2, targets=["query", "dense"]), trunk.depth, 0)
    batch = Collate(encoder, False)(InMemory(triples(data), 5).read([(0, i) for i in range(4)], 1))
    module, gradients, scores = RetrieverModule(encoder.train(), LOSS, OPTIMIZER, 1), [], []
    torch.nn.init.normal_(encoder.get_parameter("xmod.encoder.layer.2.output.dense.lora_B.default.weight"), std=0.3)
    for _ in range(2):
        encoder.zero_grad()
        scores.append(module.scores(batch))
        scores[-1].logsumexp(1).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None})
        encoder.compile()
    assert_close(gradients[1], gradients[0])
    torch.testing.assert_close(module.eval().scores(batch), scores[0], atol=1e-5, rtol=1e-5)
    merge(encoder)
    torch.testing.assert_close(module.scores(batch), scores[0], atol=1e-5, rtol=1e-5)


def test_settings_that_do_not_go_together_are_named(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, _ = fresh()
    monkeypatch.setattr(economy, "has_lora", lambda encoder: True)
    with pytest.raises(UserError, match=r"trainer\.strategy=fsdp does not go with LoRA.*choose ddp"):
        economise(encoder, TrainerSettings(strategy="fsdp"))
    economise(encoder, TrainerSettings(strategy="ddp"))


def test_a_machine_that_cannot_compile_is_an_error_of_one_line(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, _ = fresh()
    monkeypatch.setattr(economy.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler: install g\+\+"):
        economise(encoder, TrainerSettings(compile=True, accelerator="cpu"))
    economise(encoder, TrainerSettings())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(economy.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs triton"):
        economise(encoder, TrainerSettings(compile=True))


@pytest.mark.slow
def test_the_real_compiler(world: Path, data: TrainingData) -> None:
    torch._dynamo.reset()
    found = []
    for compiled in (False, True):
        encoder, trunk = fresh(top_k=2)
        run(world / f"{compiled}", data, encoder, trunk, compile=compiled)
        found.append(weights(encoder))
    assert_close(found[1], found[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_has_a_finite_loss_and_the_gradient_of_single(
    world: Path, data: TrainingData, dtype: torch.dtype
) -> None:
    """As Lightning's bf16-mixed and 16-mixed do it, the latter with its scaler's first scale."""
    encoder, _ = fresh(top_k=2)
    settings = TrainerSettings(**{**vars(SETTINGS), "batch_size": 16})
    batches = stream(encoder, InMemory(triples(data), 5), (), settings, 5)
    batch = next(iter(batches.train_dataloader()))
    module = RetrieverModule(encoder.train(), LOSS, OPTIMIZER, 7)
    module.log = module.log_dict = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    losses, gradients = [], []
    for low in (False, True):
        encoder.zero_grad(set_to_none=True)
        scale = 65536.0 if low and dtype == torch.float16 else 1.0
        with torch.autocast("cpu", dtype, enabled=low):
            loss = module.training_step(batch, 0)
        (loss * scale).backward()
        losses.append(float(loss.detach()))
        trained = [p.grad for p in encoder.parameters() if p.grad is not None]
        assert len(trained) == len([p for p in encoder.parameters() if p.requires_grad])
        gradients.append(torch.cat([g.flatten() / scale for g in trained]))
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert gradients[1].isfinite().all()
    near = 0.96 if dtype == torch.bfloat16 else 0.999  # 8 bits of mantissa against 11
    assert float(torch.cosine_similarity(gradients[0], gradients[1], dim=0)) > near
