"""The energy of a training run, through resumptions and over processes.

Each process measures the GPU that it trains on, and local rank 0 of each machine what its processes share (processors,
memory); the sum over all ranks is exchanged every `every` steps and before checkpoints, as a tensor. The sum up to a
checkpoint lies in the checkpoint. What a killed process used after its last checkpoint is lost with its steps.
Mining, indexing and evaluation are stages of their own; validation during training is counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import lightning as L
import torch

from colbertxm.energy.account import Energy, beside, from_numbers, then, to_numbers
from colbertxm.energy.meter import EnergySettings, Machine, Meter


class EnergyCallback(L.Callback):
    """Meters `fit`; logs energy/kwh, energy/kg_co2eq and the paper's figures where they are known."""

    def __init__(
        self, settings: EnergySettings, every: int, checkpoint_every: int, machine: Machine | None = None
    ) -> None:
        self.settings, self.every, self.checkpoint_every, self.machine = settings, every, checkpoint_every, machine
        self.meter: Meter | None = None
        self.before: Energy | None = None
        """What the run had used up to the checkpoint that it was resumed from."""
        self.total: Energy | None = None
        """The same and this part's, over all ranks, as of the last exchange."""
        self.alone = True

    @property
    def result(self) -> Energy | None:
        """The run's energy; None where it was not asked for."""
        return None if self.settings.mode == "off" and self.before is None else self.total

    def noted(self, provenance: Mapping[str, Any]) -> dict[str, Any]:
        """`provenance` with the run's energy."""
        return dict(provenance) if self.result is None else {**provenance, "energy": self.result.notes()}

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Start; the devices are known now. Raises UserError where a source that was named is not there."""
        device = trainer.strategy.root_device
        devices = [device.index or 0] if device.type == "cuda" else []
        self.alone = trainer.world_size == 1
        self.meter = Meter(self.settings, devices, trainer.local_rank == 0, self.machine).start()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log; and have a fresh sum for the checkpoint that a later callback may write."""
        step = trainer.global_step
        if step % self.every == 0 or (not self.alone and self.checkpoint_every and step % self.checkpoint_every == 0):
            self._exchange(trainer)
            if self.total is not None and step % self.every == 0:
                module.log_dict(self.total.metrics())

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """The run's figures, and their method with all other notes in the run's configuration."""
        self._exchange(trainer, last=True)
        if self.result is not None and trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.log_metrics(self.result.metrics(), step=trainer.global_step)
                logger.log_hyperparams({"energy": self.result.notes()})

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        """Let the counters go."""
        if self.meter is not None:
            self.meter.stop()

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint: the energy so far. Of several ranks the sum as of the last exchange, because one rank may
        be writing alone."""
        if self.alone and self.meter is not None:
            self.total = self._after(self.meter.read())
        return {} if self.total is None else asdict(self.total)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint's sum."""
        self.before = Energy(**state_dict) if state_dict else None

    def _after(self, part: Energy) -> Energy:
        return part if self.before is None else then(self.before, part)

    def _exchange(self, trainer: L.Trainer, last: bool = False) -> None:
        """Sum over the ranks: a collective, so all of them must come here at the same step."""
        assert self.meter is not None
        share = self.meter.stop() if last else self.meter.read()
        if not self.alone:
            numbers = torch.tensor(to_numbers(share), dtype=torch.float64, device=trainer.strategy.root_device)
            gathered = trainer.strategy.all_gather(numbers)
            share = beside([from_numbers(row.tolist(), share) for row in gathered])
        self.total = self._after(share)


def measure_energy(trainer: L.Trainer, settings: EnergySettings, every: int, checkpoint_every: int) -> EnergyCallback:
    """Have `trainer` measured. First among its callbacks, so that those that write checkpoints come after it."""
    callback = EnergyCallback(settings, every, checkpoint_every)
    trainer.callbacks.insert(0, callback)  # type: ignore[attr-defined]
    return callback
