"""One stage of pretraining: fit with Lightning, with the same resume points, signals, progress and meter as `fit`."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback

from colbertxm.energy.account import Energy
from colbertxm.energy.meter import EnergySettings
from colbertxm.errors import UserError
from colbertxm.model.mlm import Guesser
from colbertxm.ranks import world
from colbertxm.training.callbacks import Bar, GradientNorm, Lines, Memory
from colbertxm.training.checkpointing import AtomicCheckpointIO, resume_point
from colbertxm.training.energy import measure_energy
from colbertxm.training.fit import quiet
from colbertxm.training.mlm import Loss, MlmModule, MlmSettings
from colbertxm.training.mlm_data import MlmData
from colbertxm.training.signals import ResumePoints, StopRequest
from colbertxm.training.strategies import make_trainer


@dataclass(frozen=True)
class StageResult:
    """What a stage took: this part's seconds, and the energy of all parts (None where nobody asked)."""

    seconds: float
    energy: Energy | None


def fit_stage(
    guesser: Guesser,
    data: MlmData,
    loss: Loss,
    settings: MlmSettings,
    lr: float,
    folder: Path,
    stage: str,
    key: str,
    logger: Any = False,
    energy: EnergySettings | None = None,
) -> StageResult:
    """Train what is chosen of `guesser`, in place. Resume points lie in `folder` and stay there until `forget`, so that
    whoever calls can first bring the result to the disk. `key` names the run: text, base, settings. The caller holds
    `folder` for itself (`checkpointing.claimed`). Raises UserError for what a user can mend."""
    quiet()
    module = MlmModule(guesser.train(), data, loss, settings, lr, stage, key)
    request = StopRequest()
    last = resume_point(folder)
    if last is not None:
        print(f"resuming from {last}", file=sys.stderr)
    points = ResumePoints(folder, settings.checkpoint_every, request, data.seed)
    runner = _trainer(settings, data.steps, folder, logger, points)
    meter = measure_energy(runner, energy or EnergySettings(), settings.log_every, settings.checkpoint_every)
    started = time.perf_counter()
    try:
        runner.fit(module, datamodule=data, ckpt_path=last, weights_only=True)
    finally:
        request.restore()
    guesser.eval()
    return StageResult(time.perf_counter() - started, meter.result)


def forget(folder: Path) -> None:
    """Delete a stage's resume points: its result is on the disk."""
    shutil.rmtree(folder, ignore_errors=True)


def one_process() -> None:
    """Raise UserError under a launcher of several processes: an adapter is small, and languages do not need each other,
    so several devices are several runs."""
    if world().size > 1:
        raise UserError("pretrain runs as one process: start one for each language, with outputs of their own")


def _trainer(settings: MlmSettings, steps: int, folder: Path, logger: Any, points: Callback) -> Any:
    if settings.accelerator == "cpu" and settings.precision.startswith("16"):
        raise UserError(f"mlm.precision={settings.precision} needs a GPU: on the CPU take bf16-mixed or 32-true")
    shown: Callback = Bar(steps) if sys.stderr.isatty() else Lines(steps, settings.log_every)
    logged = [GradientNorm(settings.log_every), Memory(settings.log_every)] if logger else []
    return make_trainer(
        accelerator=settings.accelerator,
        devices=1,
        precision=settings.precision,
        max_steps=steps,
        max_epochs=-1,
        gradient_clip_val=settings.gradient_clip or None,
        log_every_n_steps=settings.log_every,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        callbacks=[*logged, shown, points],
        plugins=[AtomicCheckpointIO()],
        logger=logger,
        enable_progress_bar=False,
        enable_model_summary=False,
        deterministic="warn",
        default_root_dir=str(folder.parent),
    )
