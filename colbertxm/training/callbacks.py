"""Callbacks: throughput for the logger, and progress lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning as L

from colbertxm.training.batches import Batch


class Throughput(L.Callback):
    """Logs queries and tokens per second, averaged over the steps since the last log."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.tokens = self.queries = 0
        self.since = 0.0
        self.seconds = 0.0

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Batch, i: int) -> None:
        """Start the clock; validation and checkpoints between steps are not training."""
        self.since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Batch, i: int
    ) -> None:
        """Count, and log every `every` steps."""
        self.seconds += time.perf_counter() - self.since
        self.queries += len(batch.queries)
        self.tokens += batch.queries.tokens + batch.passages.tokens
        if (i + 1) % self.every == 0:
            module.log("throughput/queries_per_s", self.queries / self.seconds)
            module.log("throughput/tokens_per_s", self.tokens / self.seconds)
            self.tokens, self.queries, self.seconds = 0, 0, 0.0


class Lines(L.Callback):
    """One plain line every `every` steps: step, loss, pace and time left. For logs; a terminal gets a bar instead."""

    def __init__(self, every: int, steps: int) -> None:
        self.every, self.steps = every, steps
        self.started = 0.0
        self.first = 0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Remember where a resumed run starts, so that the time left is right."""
        self.started, self.first = time.perf_counter(), trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Batch, i: int
    ) -> None:
        """Print the line."""
        step = trainer.global_step
        if step % self.every == 0 or step == self.steps:
            pace = (time.perf_counter() - self.started) / max(1, step - self.first)
            left = pace * (self.steps - step)
            loss = float(trainer.callback_metrics.get("train/loss", float("nan")))
            print(
                f"  step {step}/{self.steps}  loss {loss:.3f}  {pace:.2f} s/step  {left:.0f} s left",
                file=sys.stderr,
            )

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Print the development pools' figures."""
        found = {k.removeprefix("val/"): float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        if found and not trainer.sanity_checking:
            print("  dev " + "  ".join(f"{name} {value:.3f}" for name, value in found.items()), file=sys.stderr)
