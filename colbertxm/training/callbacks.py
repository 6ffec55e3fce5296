"""What a run says of itself: throughput, gradients, memory and wrong rankings for the logger, progress for people.

What costs anything happens on the steps that are logged (`every`), and loss tensors stay on their device until then.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import FSDPStrategy
from tqdm import tqdm

from colbertxm.training.batches import Batch, Side
from colbertxm.training.logger import log_table

LINE_EVERY_S = 60.0


class Throughput(L.Callback):
    """Logs queries and tokens per second, seconds per step, and the share of padding among the places that attention
    computes, over the steps since the last log. A rank counts its own texts. Validation and checkpoints between
    steps are not training, and neither is waiting for data."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.tokens = self.places = self.queries = self.steps = 0
        self.since = self.seconds = 0.0
        self.step = 0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Steps are counted from where a resumed run starts."""
        self.step = trainer.global_step

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Batch, i: int) -> None:
        """Start the clock."""
        self.since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Batch, i: int
    ) -> None:
        """Count, and log where a step ended that is logged: with gradients accumulated, not each batch is a step."""
        self.seconds += time.perf_counter() - self.since
        self.queries += len(batch.queries)
        self.tokens += batch.queries.tokens + batch.passages.tokens
        self.places += places(batch.queries) + places(batch.passages)
        if trainer.global_step == self.step:
            return
        self.steps, self.step = self.steps + 1, trainer.global_step
        if self.step % self.every == 0:
            module.log("throughput/queries_per_s", self.queries / self.seconds)
            module.log("throughput/tokens_per_s", self.tokens / self.seconds)
            module.log("throughput/padding", 1 - self.tokens / self.places)
            module.log("throughput/step_s", self.seconds / self.steps)
            self.tokens = self.places = self.queries = self.steps = 0
            self.seconds = 0.0


def places(side: Side) -> int:
    """Places of all attention grids of a batch's side, padding among them; all other layers read tokens alone."""
    return sum(grid.shape[0] * grid.shape[1] for part in side.parts for grid in part.grids)


class GradientNorm(L.Callback):
    """Logs the norm of all gradients together, as it is before they are clipped. Lightning's clipping keeps that
    figure to itself, so it is computed a second time, on logged steps alone."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_before_optimizer_step(
        self, trainer: L.Trainer, module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Gradients are unscaled here and not yet clipped."""
        if (trainer.global_step + 1) % self.every:
            return
        norm = torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
        if isinstance(trainer.strategy, FSDPStrategy):  # each rank holds a shard of every gradient
            norm = torch.as_tensor(trainer.strategy.reduce(norm**2, reduce_op="sum")).sqrt()
        module.log("train/gradient_norm", norm)


class Memory(L.Callback):
    """Logs memory in MB (10^6 bytes): the process's now and at its peak, and the GPU's peak since the last log."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Batch, i: int
    ) -> None:
        """Log."""
        if trainer.global_step % self.every:
            return
        for name, value in process_memory().items():
            module.log(f"memory/{name}", value)
        if module.device.type == "cuda":
            module.log("memory/gpu_peak_mb", torch.cuda.max_memory_allocated(module.device) / 1e6)
            torch.cuda.reset_peak_memory_stats(module.device)


def process_memory() -> dict[str, float]:
    """MB of this process, files that it maps included; only the peak where there is no /proc (macOS)."""
    status = Path("/proc/self/status")
    if not status.exists():
        # Bytes on macOS, where alone this is reached.
        return {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}
    text = status.read_text(encoding="ascii", errors="replace")
    fields = {"rss_mb": "VmRSS:", "peak_mb": "VmHWM:"}
    return {name: int(text.split(field)[1].split()[0]) * 1024 / 1e6 for name, field in fields.items() if field in text}


class WrongRankings(L.Callback):
    """Logs a table of queries whose first passage is wrong, at each validation: what `validation_step` returns."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Begin a new table."""
        self.rows = []

    def on_validation_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, i: int, loader: int = 0
    ) -> None:
        """Collect one pool's rows."""
        self.rows += [{"step": trainer.global_step, **row} for row in outputs["wrong"]]

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Log the table. Every rank has searched every pool: one table is enough."""
        if trainer.is_global_zero:
            log_table(trainer.logger, "val/wrong_rankings", self.rows)


class Lines(L.Callback):
    """Plain lines for a log file: step, loss, pace and time left, twenty times in a run and once a minute at least;
    and each validation's figures."""

    def __init__(self, steps: int, every: int) -> None:
        self.steps, self.every = steps, every
        self.started = self.last = 0.0
        self.first = self.step = 0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Remember where a resumed run starts, so that the time left is right."""
        self.started = self.last = time.perf_counter()
        self.first = self.step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Batch, i: int
    ) -> None:
        """Print the line where it is due. The pace is of all that takes time, so that the time left is."""
        if trainer.global_step == self.step or not trainer.is_global_zero:
            return
        self.step, now = trainer.global_step, time.perf_counter()
        due = self.step % max(1, self.steps // 20) == 0 or self.step == self.steps
        if due or (self.step % self.every == 0 and now - self.last >= LINE_EVERY_S):
            self.last = now
            pace = (now - self.started) / (self.step - self.first)
            loss = float(trainer.callback_metrics.get("train/loss", float("nan")))
            left = duration(pace * (self.steps - self.step))
            print(
                f"  step {self.step}/{self.steps}  loss {loss:.3f}  {pace:.2f} s/step  {left} left",
                file=sys.stderr, flush=True,
            )  # fmt: skip

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Print the development pools' figures."""
        found = headline({k: float(v) for k, v in trainer.callback_metrics.items()})
        if found and trainer.is_global_zero and not trainer.sanity_checking:
            print(f"  dev {found}", file=sys.stderr, flush=True)


class Bar(L.Callback):
    """A progress bar for a terminal: steps, time left, loss, and the last validation. Lightning's own counts batches
    and epochs and fetches the loss from the device at every one of them; this one does as often as it is drawn."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.bar: Any = None
        self.dev = ""

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """A resumed run's bar starts where the run does."""
        self.bar = tqdm(
            total=self.steps, initial=trainer.global_step, desc="train", unit="step", file=sys.stderr,
            disable=not trainer.is_global_zero, smoothing=0, dynamic_ncols=True, mininterval=0.5, miniters=1,
        )  # fmt: skip

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Batch, i: int
    ) -> None:
        """Move on by a step where one was made."""
        if trainer.global_step > self.bar.n and self.bar.update(trainer.global_step - self.bar.n):
            loss = float(trainer.callback_metrics.get("train/loss", float("nan")))
            self.bar.set_postfix_str(f"loss {loss:.3f}{self.dev}", refresh=False)

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Say why no step is made for a while."""
        if self.bar is not None:
            self.bar.set_description_str("validate", refresh=True)

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Keep the mean in sight."""
        if self.bar is not None and "val/mrr@10" in trainer.callback_metrics:
            self.dev = f", mrr@10 {float(trainer.callback_metrics['val/mrr@10']):.3f}"
            self.bar.set_description_str("train", refresh=False)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Leave the finished bar."""
        loss = float(trainer.callback_metrics.get("train/loss", float("nan")))
        self.bar.set_postfix_str(f"loss {loss:.3f}{self.dev}", refresh=True)
        self.bar.close()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        """Leave the line to the message."""
        if self.bar is not None:
            self.bar.close()


def headline(figures: dict[str, float]) -> str:
    """The exact search's figures alone, the mean first: `mrr@10 0.803  en-en 0.811  de-de 0.795`."""
    start = "val/mrr@10"
    found = {k.removeprefix(start).lstrip("/") or "mrr@10": v for k, v in figures.items() if k.startswith(start)}
    return "  ".join(f"{name} {found[name]:.3f}" for name in sorted(found, key=lambda name: name != "mrr@10"))


def duration(seconds: float) -> str:
    """`48 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
