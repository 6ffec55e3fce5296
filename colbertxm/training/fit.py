"""Train one encoder: freeze, fit with Lightning, save the model folder. Restarted with the same output folder it
goes on from its last checkpoint."""

from __future__ import annotations

import logging
import shutil
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint, TQDMProgressBar

from colbertxm.data.collection import Collection
from colbertxm.data.examples import Examples
from colbertxm.data.sampling import amount
from colbertxm.energy.account import Energy
from colbertxm.energy.meter import EnergySettings
from colbertxm.errors import UserError
from colbertxm.model.checkpoints import save_model
from colbertxm.model.encoder import Encoder
from colbertxm.model.trunk import Trunk
from colbertxm.training.batches import RetrievalData
from colbertxm.training.callbacks import Lines, Throughput
from colbertxm.training.checkpointing import AtomicCheckpointIO
from colbertxm.training.energy import measure_energy
from colbertxm.training.module import LossSettings, OptimizerSettings, RetrieverModule


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
    """Lightning's name: auto, ddp, fsdp ..."""
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
    _quiet()
    module = RetrieverModule(encoder.train(), loss, optimizer, trainer.steps, trunk)
    data = stream(encoder, examples, pools, trainer, seed, keep_ids=trunk is not None)
    module.data = data
    checkpoints = output / "checkpoints"
    last = checkpoints / "last.ckpt"
    runner = _trainer(trainer, checkpoints, logger, bool(pools))
    meter = measure_energy(runner, energy or EnergySettings(), trainer.log_every, trainer.checkpoint_every)
    if last.exists():
        print(f"resuming from {last}", file=sys.stderr)
    started = time.perf_counter()
    runner.fit(module, datamodule=data, ckpt_path=str(last) if last.exists() else None)
    if runner.interrupted:
        raise UserError(f"interrupted at step {runner.global_step}: the same command goes on from {last}")
    seconds = time.perf_counter() - started
    model = save_model(output / "model", encoder.eval(), meter.noted(provenance or {}))
    # The run is complete: its checkpoint would make the next run of the same command a no-op.
    shutil.rmtree(checkpoints, ignore_errors=True)
    validation = {k: float(v) for k, v in runner.callback_metrics.items() if k.startswith("val/")}
    return FitResult(model, seconds, runner.global_step, validation, meter.result)


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
        subset, keep_ids,
    )  # fmt: skip


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, so that the same command gives the same weights."""
    L.seed_everything(seed, verbose=False)


def _trainer(settings: TrainerSettings, checkpoints: Path, logger: Any, validate: bool) -> L.Trainer:
    terminal = sys.stderr.isatty()
    callbacks: list[Callback] = [Throughput(settings.log_every)]
    callbacks.append(TQDMProgressBar() if terminal else Lines(max(1, settings.steps // 10), settings.steps))
    if logger:
        callbacks.append(LearningRateMonitor("step"))
    callbacks.append(
        ModelCheckpoint(
            checkpoints, "step{step}", every_n_train_steps=settings.checkpoint_every, save_last=True,
            save_top_k=1, monitor=None, auto_insert_metric_name=False, enable_version_counter=False,
        )
    )  # fmt: skip
    validate = validate and settings.val_every > 0
    return L.Trainer(
        max_steps=settings.steps,
        max_epochs=-1,
        accelerator=settings.accelerator,
        devices=settings.devices,
        precision=settings.precision,  # type: ignore[arg-type]
        gradient_clip_val=settings.gradient_clip or None,
        log_every_n_steps=settings.log_every,
        val_check_interval=settings.val_every if validate else None,
        limit_val_batches=1.0 if validate else 0,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        logger=logger,
        enable_progress_bar=terminal,
        enable_model_summary=False,
        use_distributed_sampler=False,
        deterministic="warn",
        default_root_dir=str(checkpoints.parent),
    )


def _quiet() -> None:
    """Lightning's advice that does not apply here; its warnings about real trouble stay."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*have overridden `transfer_batch_to_device`.*")
    warnings.filterwarnings("ignore", message=".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*")
    warnings.filterwarnings("ignore", message=".*defined a `validation_step` but have no.*")
    warnings.filterwarnings("ignore", message=".*Trying to infer the `batch_size`.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*is smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*You're resuming from a checkpoint that ended before the epoch.*")
