"""Train one encoder: freeze, fit with Lightning, save the model folder. Restarted with the same output folder it
goes on from its last checkpoint."""

from __future__ import annotations

import logging
import shutil
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from colbertxm.data.collection import Collection
from colbertxm.data.examples import Examples
from colbertxm.data.sampling import amount
from colbertxm.energy.account import Energy
from colbertxm.energy.meter import EnergySettings
from colbertxm.errors import UserError
from colbertxm.model.checkpoints import save_model
from colbertxm.model.encoder import Encoder
from colbertxm.model.lora import merge
from colbertxm.model.trunk import Trunk
from colbertxm.ranks import rank, world
from colbertxm.training.batches import RetrievalData
from colbertxm.training.checkpointing import AtomicCheckpointIO, claimed, resume_point
from colbertxm.training.economy import economise
from colbertxm.training.energy import measure_energy
from colbertxm.training.module import LossSettings, OptimizerSettings, RetrieverModule
from colbertxm.training.signals import ResumePoints, StopRequest
from colbertxm.training.strategies import SameStart, Whole, make_trainer, place
from colbertxm.training.watching import best_weights, check_watching, watchers


@dataclass(frozen=True)
class TrainerSettings:
    """How long and on what."""

    steps: int = 100
    batch_size: int = 32
    negatives: int = 1
    """Hard negatives of each query in a batch."""
    workers: int = 0
    """Processes that tokenise and pack; 0 = the training process does it."""
    subset: int | float | str | None = None
    """Of the examples, as `data.sampling.amount` reads it; None = all."""
    val_every: int = 50
    """Steps between validations on the development pools; 0 = none."""
    checkpoint_every: int = 50
    log_every: int = 10
    gradient_clip: float = 2.0
    precision: str = "32-true"
    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"
    """auto (ddp where there are several processes), ddp or fsdp."""
    gather: bool = True
    """Whether ranks score their queries against the passages of all ranks."""
    accumulate: int = 1
    """Batches whose gradients make one step; `steps` counts steps."""
    chunk: int | None = None
    """Texts encoded at a time with cached gradients; None = the whole batch at once."""
    checkpoint_activations: bool = False
    """Compute each layer again in the backward pass, for memory."""
    compile: bool = False
    monitor: str | None = None
    """What the best checkpoint is chosen by: a logged figure, the higher the better; None = the last step is kept."""
    patience: int | None = None
    """Validations without a better figure after which training stops; None = never."""


@dataclass(frozen=True)
class FitResult:
    """Where the model lies, and what happened on the way."""

    model: Path
    seconds: float
    steps: int
    validation: dict[str, float] = field(default_factory=dict)
    """The saved weights' figures where `monitor` chose them, else the last validation's."""
    best: int | None = None
    """The step whose weights were saved, where `monitor` chose them."""
    energy: Energy | None = None
    """Of all parts of a resumed run and of all processes; None where nobody asked for it."""


def fit(
    encoder: Encoder,
    examples: Examples,
    pools: Sequence[Collection],
    output: Path,
    loss: LossSettings,
    optimizer: OptimizerSettings,
    trainer: TrainerSettings,
    seed: int,
    logger: Any = False,
    trunk: Trunk | None = None,
    provenance: Mapping[str, Any] | None = None,
    energy: EnergySettings | None = None,
) -> FitResult:
    """Train `encoder` (already frozen by `model.freeze.freeze`) in place and save it to `output`/model. A checkpoint
    of an unfinished run in `output` is resumed. Raises UserError for settings and files that a user can mend."""
    quiet()
    check_settings(loss, trainer, pools)
    if loss.needs_teacher and not examples.scored:
        raise UserError("loss.distillation and loss.margin_mse need a teacher's scores, which these training data lack")
    economise(encoder, trainer)
    module = RetrieverModule(
        encoder.train(), loss, optimizer, trainer.steps, trunk, trainer.gather, trainer.chunk is not None,
        trainer.gradient_clip,
    )  # fmt: skip
    data = stream(encoder, examples, pools, trainer, seed, keep_ids=trunk is not None)
    module.data = data
    checkpoints = output / "checkpoints"
    best = best_weights(trainer, checkpoints)
    request = StopRequest()
    with claimed(output) if rank() == 0 else nullcontext():
        last = resume_point(checkpoints)
        if last is not None and rank() == 0:
            print(f"resuming from {last}", file=sys.stderr)
        whole = Whole(encoder)
        callbacks = [
            *watchers(trainer, logger, best, sys.stderr.isatty()),
            ResumePoints(checkpoints, trainer.checkpoint_every, request, seed),
            whole,
            SameStart(examples, trainer.negatives),
        ]
        runner = _trainer(trainer, output, logger, bool(pools), encoder, callbacks)
        meter = measure_energy(runner, energy or EnergySettings(), trainer.log_every, trainer.checkpoint_every)
        started = time.perf_counter()
        try:
            runner.fit(module, datamodule=data, ckpt_path=last, weights_only=True)
        finally:
            request.restore()
        seconds = time.perf_counter() - started
        model, kept = output / "model", None
        if runner.is_global_zero:
            kept = best.restore(whole.trained) if best is not None else None
            notes = {**meter.noted(provenance or {}), **({} if kept is None else {"best": kept})}
            save_model(model, merge(whole.trained.eval()), notes)
            # The run is complete: its resume points would make the next run of the same command a no-op.
            shutil.rmtree(checkpoints, ignore_errors=True)
        runner.strategy.barrier()
    validation = {k: float(v) for k, v in runner.callback_metrics.items() if k.startswith("val/")}
    figures, step = (kept["figures"], kept["step"]) if kept is not None else (validation, None)
    return FitResult(model, seconds, runner.global_step, figures, step, meter.result)


def stream(
    encoder: Encoder,
    examples: Examples,
    pools: Sequence[Collection],
    trainer: TrainerSettings,
    seed: int,
    keep_ids: bool = False,
) -> RetrievalData:
    """The batches that `fit` trains on."""
    subset = None if trainer.subset is None else amount(trainer.subset, len(examples))
    return RetrievalData(
        examples, encoder, trainer.batch_size, trainer.steps, trainer.negatives, seed, pools, trainer.workers,
        subset, keep_ids, trainer.accumulate, trainer.chunk,
    )  # fmt: skip


def check_settings(loss: LossSettings, trainer: TrainerSettings, pools: Sequence[Collection]) -> None:
    """Raise UserError for settings that do not go together; to be asked before minutes go into preparing a run."""
    check_watching(trainer, pools)
    if loss.margin_mse and not trainer.negatives:
        raise UserError("loss.margin_mse compares a positive with negatives: set trainer.negatives to 1 or more")
    ranks = max(world().size, trainer.devices * trainer.nodes)
    if trainer.gather and loss.in_batch and trainer.batch_size % ranks:
        raise UserError(
            f"trainer.batch_size={trainer.batch_size} does not divide among {ranks} processes, which trainer.gather "
            "needs: choose a multiple"
        )
    if trainer.accumulate < 1:
        raise UserError(f"trainer.accumulate={trainer.accumulate} must be 1 or more")
    if trainer.chunk is None:
        return
    if trainer.chunk < 1:
        raise UserError(f"trainer.chunk={trainer.chunk} must be 1 or more, or null")
    if trainer.accumulate > 1:
        raise UserError("trainer.chunk and trainer.accumulate do not go together: raise trainer.batch_size instead")
    if trainer.precision.startswith("16"):
        raise UserError(f"trainer.chunk does not go with precision={trainer.precision}: use bf16-mixed or 32-true")
    if trainer.strategy.startswith(("fsdp", "deepspeed")):
        raise UserError(f"trainer.chunk does not go with strategy={trainer.strategy}: use ddp")


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, so that the same command gives the same weights."""
    L.seed_everything(seed, verbose=False)


def _trainer(
    settings: TrainerSettings,
    output: Path,
    logger: Any,
    validate: bool,
    encoder: Encoder,
    callbacks: list[Callback],
) -> L.Trainer:
    arguments, environment = place(settings, encoder)
    validate = validate and settings.val_every > 0
    return make_trainer(
        **arguments,
        max_steps=settings.steps,
        max_epochs=-1,
        gradient_clip_val=None if settings.chunk else settings.gradient_clip or None,
        accumulate_grad_batches=settings.accumulate,
        log_every_n_steps=settings.log_every,
        val_check_interval=settings.val_every * settings.accumulate if validate else None,
        limit_val_batches=1.0 if validate else 0,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO(), *environment],
        logger=logger,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        deterministic="warn",
        default_root_dir=str(output),
    )


def quiet() -> None:
    """Lightning's advice that does not apply here; its warnings about real trouble stay."""
    for chatty in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.distributed"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*have overridden `transfer_batch_to_device`.*")
    warnings.filterwarnings("ignore", message=".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*")
    warnings.filterwarnings("ignore", message=".*defined a `validation_step` but have no.*")
    warnings.filterwarnings("ignore", message=".*Trying to infer the `batch_size`.*")
    # Every rank has the same figures, see validation.py.
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*when logging on epoch level.*")
    warnings.filterwarnings("ignore", message=".*is smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*You're resuming from a checkpoint that ended before the epoch.*")
