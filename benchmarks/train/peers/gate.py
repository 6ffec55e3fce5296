"""How a training run takes turns with others: it trains so many steps, says how long that took, and waits.

All three libraries' processes use this file, so it needs torch and the standard library alone. On the process's
standard input stand commands, `go 5`; on its standard output stands a line of JSON for each. What the libraries print
goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


def trained_parameters(model: Any) -> int:
    """How many parameters are trained, but for two that differ without a difference: transformers adds a pooler that
    nobody uses, and PyLate cuts the rows of the vocabulary off that have no token."""
    aside = ("pooler", "word_embeddings")
    named = model.named_parameters()
    return sum(p.numel() for name, p in named if p.requires_grad and not any(part in name for part in aside))


class Gate:
    """Counts the steps of a turn. Between `go` and the answer the process has the machine for itself."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self.left = 0
        self.steps = 0
        self.losses: list[float] = []
        self.started = self.entered = self.cpu = self.inside = 0.0
        self._in_step = False

    def ready(self, **facts: Any) -> None:
        """Say that training can start, and wait for the first turn."""
        self._say(facts)
        self._wait()

    def forward(self, *_: Any) -> None:
        """A model's forward pass begins; the first in a step starts the clock of what no trainer can do without."""
        if not self._in_step:
            self._in_step, self.entered = True, time.perf_counter()

    def updated(self, *_: Any) -> None:
        """The optimiser has changed the weights: forward, backward, clipping and update are done."""
        self.inside += time.perf_counter() - self.entered
        self._in_step = False

    def stepped(self) -> None:
        """A step is over, whatever the trainer does in one; at the turn's end say so and wait."""
        self.left -= 1
        self.steps += 1
        if self.left:
            return
        seconds = time.perf_counter() - self.started
        cpu = time.process_time() - self.cpu
        self._say({"steps": self.steps, "seconds": seconds, "cpu": cpu, "inside": self.inside, "losses": self.losses})
        self._wait()

    def _wait(self) -> None:
        command = sys.stdin.readline().split()
        if not command:
            raise SystemExit("the other side is gone")
        self.left, self.steps, self.losses, self.inside = int(command[1]), 0, [], 0.0
        self.started, self.cpu = time.perf_counter(), time.process_time()

    def _say(self, values: dict[str, Any]) -> None:
        print(json.dumps(values), file=self._answers, flush=True)
