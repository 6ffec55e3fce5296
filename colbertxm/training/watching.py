"""Who watches a run: progress, throughput, gradients, memory, wrong rankings, and the best weights so far.

The best weights lie in `best.ckpt` beside the run's checkpoints, the trained parameters alone, with the step and the
figures that they had. What is needed to go on - the best figure, how long it has stood - is callback state and
travels in the checkpoints that a run resumes from. Those are written before the validation of their step, so a run
that was killed in between, or during, validates first when it goes on: it then decides as if never cut off.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from tqdm import tqdm

from colbertxm.data.collection import Collection
from colbertxm.errors import UserError
from colbertxm.model.encoder import Encoder
from colbertxm.training.callbacks import Bar, GradientNorm, Lines, Memory, Throughput, WrongRankings
from colbertxm.training.checkpointing import read_checkpoint
from colbertxm.training.validation import check_monitor

if TYPE_CHECKING:
    from colbertxm.training.fit import TrainerSettings


def check_watching(settings: TrainerSettings, pools: Sequence[Collection]) -> None:
    """Raises UserError where `monitor` or `patience` ask for what this run will not have."""
    validates = 0 < settings.val_every <= settings.steps
    check_monitor(settings.monitor, settings.patience, pools, validates)


def watchers(settings: TrainerSettings, logger: Any, best: BestWeights | None, terminal: bool) -> list[Callback]:
    """The callbacks of a run that only look on; all but progress keep to the steps that are logged."""
    every = settings.log_every
    found: list[Callback] = [Bar(settings.steps) if terminal else Lines(settings.steps, every)]
    if logger:
        found += [Throughput(every), Memory(every), LearningRateMonitor("step"), WrongRankings()]
    if logger or settings.strategy == "fsdp":  # over shards the norm takes all ranks, those without a logger too
        found.append(GradientNorm(every))
    return found if best is None else [*found, best]


def best_weights(settings: TrainerSettings, folder: Path) -> BestWeights | None:
    """What keeps the best weights in `folder`, None without `monitor`."""
    if settings.monitor is None:
        return None
    return BestWeights(folder / "best.ckpt", settings.monitor, settings.val_every, settings.steps, settings.patience)


class BestWeights(Callback):
    """Keeps the weights with the highest `monitor`, and stops the run when `patience` validations have not raised it.
    Of equal figures the first counts."""

    def __init__(self, path: Path, monitor: str, val_every: int, steps: int, patience: int | None) -> None:
        self.path, self.monitor, self.patience = path, monitor, patience
        self.val_every, self.steps = val_every, steps
        self.step: int | None = None
        """The best one so far."""
        self.figure = float("-inf")
        self.waited = 0
        """Validations since the best."""
        self.seen = 0
        """The step last validated."""

    @property
    def state_key(self) -> str:
        """Of one figure: a run that is resumed with another one begins to compare anew."""
        return f"BestWeights({self.monitor})"

    def state_dict(self) -> dict[str, Any]:
        """Kept in Lightning's checkpoint."""
        return {"step": self.step, "figure": self.figure, "waited": self.waited, "seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on comparing."""
        self.step, self.figure = state["step"], state["figure"]
        self.waited, self.seen = state["waited"], state["seen"]

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Of a resumed run: do the validation that its checkpoint came before."""
        if self.step is not None and not self.path.exists():
            raise UserError(
                f"{self.path} is gone, the best weights of the run to resume: put it back, or delete {self.path.parent}"
            )
        self._catch_up(trainer)
        if self.patience is not None and self.waited >= self.patience:
            trainer.should_stop = True

    def on_fit_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """A run that was killed between its last step and the validation of that step has no training to start."""
        if trainer.global_step >= self.steps:
            self._catch_up(trainer)

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Compare. Validations out of turn, such as Lightning's own when a run is told to stop, don't count: the
        run that goes on would not have had them."""
        step = trainer.global_step
        if trainer.sanity_checking or step % self.val_every or step == self.seen:
            return
        # Rank 0 decides for all: a last bit that differs elsewhere must not part the ranks at a collective save.
        figure = float(trainer.strategy.broadcast(float(trainer.callback_metrics[self.monitor])))
        self.seen = step
        if figure > self.figure:
            self.step, self.figure, self.waited = step, figure, 0
            self._save(trainer, module)
            return
        self.waited += 1
        if self.patience is not None and self.waited >= self.patience:
            trainer.should_stop = True
            if trainer.is_global_zero:
                found = f"{self.monitor} {self.figure:.3f} of step {self.step}"
                # tqdm's own print, which does not write into a bar; where there is none it is the plain one.
                tqdm.write(f"  stopped at step {step}: {self.waited} validations without more than {found}", sys.stderr)

    def restore(self, encoder: Encoder) -> dict[str, Any] | None:
        """Put the best weights back into `encoder`; returns their step, monitor and figures, as the file has them.
        None, and the last weights stay, where a resumed run had no validation left."""
        if self.step is None:
            return None
        found = read_checkpoint(self.path)
        state = {name.removeprefix("encoder."): value for name, value in found["state_dict"].items()}
        if unknown := encoder.load_state_dict(state, strict=False).unexpected_keys:
            raise UserError(f"{self.path} has parameters that this model lacks, such as {unknown[0]}: delete it")
        return dict(found["best"])

    def _save(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        figures = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        checkpoint: dict[str, Any] = {
            "state_dict": trainer.strategy.lightning_module_state_dict(),
            "best": {"step": self.step, "monitor": self.monitor, "figures": figures},
        }
        module.on_save_checkpoint(checkpoint)  # leaves frozen parameters out
        trainer.strategy.save_checkpoint(checkpoint, self.path)
        trainer.strategy.barrier("best.ckpt")

    def _catch_up(self, trainer: L.Trainer) -> None:
        step = trainer.global_step
        if step == 0 or step % self.val_every or step == self.seen:
            return
        # As Lightning's own training loop calls its validation.
        trainer.validating = True
        trainer.fit_loop.epoch_loop.val_loop.run()
        trainer.training = True
