"""Stop when asked to, and lose nothing: finish the step, write the resume point, leave with the signal's exit status.

    SIGTERM   143   the end of a job, or `kill`
    SIGINT    130   Ctrl-C; a second one leaves at once
    SIGUSR1   138   Slurm's warning before the time limit (#SBATCH --signal=USR1@120)

Any rank may get the signal, and all must stop after the same step, or some would wait for ever. So each step ends with
the largest flag of all ranks - of the step before, so that nobody waits for it: a GPU goes on computing meanwhile.
Lightning's own handlers save wherever the program is (Slurm) or call a collective from within a handler (SIGTERM); ours
take their place while training.
"""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Checkpoint

from colbertxm.errors import UserError
from colbertxm.training.checkpointing import prune, resume_name

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
AGAIN_S = 2.0
"""Ctrl-C reaches a process from the terminal and from its launcher; a second one by hand comes later than this."""


class Stopped(UserError):
    """The run was asked to stop and can go on; `code` is 128 + the signal's number, as a shell has it."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.code = 128 + signum


class StopRequest:
    """Notes the signals that ask to stop, between `install` and `restore`; what then handles them is what did when this
    was made, before Lightning came."""

    def __init__(self) -> None:
        self.signum = 0
        self._since = 0.0
        self._installed = False
        self._before: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}

    def install(self) -> None:
        """Take the signals over; outside the main thread Python does not allow it, and they stay as they are."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._note)
            self._installed = True

    def restore(self) -> None:
        """Give the signals back."""
        if self._installed:
            for number, handler in self._before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
            self._installed = False

    def _note(self, signum: int, frame: Any) -> None:
        now = time.monotonic()
        if signum == signal.SIGINT and self.signum and now - self._since > AGAIN_S:
            raise Stopped(
                signum, "interrupted twice: left at once; the same command goes on from the last resume point"
            )
        if not self.signum:
            self.signum, self._since = signum, now


class Agreement:
    """The largest of all ranks' flags, one call late; with one rank its own, at once."""

    def __init__(self) -> None:
        self._pending: Any = None

    def __call__(self, flag: int, device: torch.device) -> int:
        """To be called by all ranks at the same point."""
        if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
            return flag
        before, self._pending = self._pending, self._send(flag, device)
        return self._receive(before) if before is not None else 0

    @staticmethod
    def _send(flag: int, device: torch.device) -> Any:
        if device.type != "cuda":
            mine = torch.tensor([flag])
            return mine, dist.all_reduce(mine, dist.ReduceOp.MAX, async_op=True)
        on_device = torch.full((1,), flag, device=device)
        dist.all_reduce(on_device, dist.ReduceOp.MAX)
        host = torch.empty(1, dtype=on_device.dtype, pin_memory=True)
        host.copy_(on_device, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        return host, event

    @staticmethod
    def _receive(sent: Any) -> int:
        flag, work = sent
        # An event, not the stream: that would wait for the step which has just been queued.
        work.synchronize() if isinstance(work, torch.cuda.Event) else work.wait()
        return int(flag)


class ResumePoints(Checkpoint):
    """Writes a resume point every `every` optimiser steps (0: none), and when all ranks agree to stop; then raises
    Stopped. Never between the batches whose gradients make one step together."""

    def __init__(self, folder: Path, every: int, request: StopRequest, seed: int = 0) -> None:
        self.folder, self.every, self.request, self.seed = folder, every, request, seed
        self.step = 0
        self.agree = Agreement()

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Take over the signals, after Lightning has; and spare its own question to all ranks, which waits for the GPU
        at each step."""
        self.step = trainer.global_step
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        self.request.install()

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, i: int) -> None:
        """Randomness (dropout) is a function of seed, batch and rank, so that a resumed run draws the same."""
        torch.manual_seed((self.seed * 1_000_003 + i * trainer.world_size + trainer.global_rank) % 2**63)

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, i: int
    ) -> None:
        """After an optimiser step: save where it is time, stop where asked."""
        if trainer.global_step == self.step:
            return
        self.step = trainer.global_step
        last = self.step >= (trainer.max_steps or 0) > 0
        signum = 0 if last else self.agree(self.request.signum, module.device)
        if signum or (self.every and self.step % self.every == 0):
            self.save(trainer)
        if signum:
            name, path = signal.Signals(signum).name, self.folder / resume_name(self.step)
            raise Stopped(signum, f"{name} after step {self.step}: the same command goes on from {path}")

    def save(self, trainer: L.Trainer) -> None:
        """Write the resume point of this step, all ranks together."""
        trainer.save_checkpoint(self.folder / resume_name(self.step), weights_only=False)
        if trainer.is_global_zero:
            prune(self.folder, self.step)
