"""Several training processes on one machine that take turns, so that a slow minute falls on all alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.parity import environments
from colbertxm.errors import UserError

HERE = Path(__file__).parent
PATIENCE = 30
"""Seconds that a process has to end."""
OURS = "colbertxm"
PYLATE, SENTENCE_TRANSFORMERS = "PyLate 1.6.0", "sentence-transformers 6.2"
SIDES = (OURS, PYLATE, SENTENCE_TRANSFORMERS)
SCRIPTS = {PYLATE: "pylate_train.py", SENTENCE_TRANSFORMERS: "sentence_transformers_train.py"}


@dataclass(frozen=True)
class Turn:
    """What one turn of one side took. `cpu` are the process's seconds on all cores: on a busy machine the better
    guide, while on a quiet one they count threads that wait for one another as work. `inside` are the seconds from the
    first forward pass of a step to the end of its optimiser's step, without which nobody trains; the rest is the
    reading of batches and the trainer's own."""

    steps: int
    seconds: float
    inside: float
    losses: tuple[float, ...]
    cpu: float = 0.0


def command(side: str, job: Path) -> list[str]:
    """How a side's process is started. Raises UserError where a peer's environment cannot be made."""
    if side == OURS:
        return [sys.executable, "-m", "benchmarks.train.ours", str(job)]
    python, _ = environments.ready(replace(environments.PEERS[side], script=SCRIPTS[side]))
    return [str(python), str(HERE / "peers" / SCRIPTS[side]), str(job)]


class Runner:
    """One side's process. Raises UserError with the last lines that it printed where it ends too soon."""

    def __init__(self, side: str, arguments: Sequence[str], threads: int, log: Path) -> None:
        self.side, self.log = side, log
        self._file = log.open("w", encoding="utf-8")
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        # One more thread each for tokenising would be one more than the machine was asked for.
        environment |= {"TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            list(arguments),
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._file,
            text=True,
        )
        self.facts: dict[str, Any] = {}

    def wait_until_ready(self) -> None:
        """Until it has its model and can start."""
        self.facts = self._answer()

    def take(self, steps: int) -> Turn:
        """Let it train so many steps."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"go {steps}\n")
        self.process.stdin.flush()
        found = self._answer()
        return Turn(found["steps"], found["seconds"], found["inside"], tuple(found["losses"]), found["cpu"])

    def close(self) -> None:
        """End the process: it ends by itself, tidily, when nobody commands it any more. A signal alone would not do,
        since Lightning waits for the step's end to act on it."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self._file.close()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self._file.flush()
            said = [text for text in self.log.read_text(encoding="utf-8").splitlines() if text.strip()]
            raise UserError(f"{self.side} stopped training: {' | '.join(said[-3:]) or 'it said nothing'}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def runners(sides: Sequence[str], job: Path, threads: int) -> Iterator[dict[str, Runner]]:
    """A process for each side, ready to start. They start one after the other."""
    with ExitStack() as stack:
        found = {}
        for side in sides:
            log = job.parent / f"{side.replace(' ', '_')}.log"
            found[side] = Runner(side, command(side, job), threads, log)
            stack.callback(found[side].close)
            found[side].wait_until_ready()
        yield found


def take_turns(sides: Sequence[str], job: Path, threads: int, turns: Sequence[int]) -> dict[str, list[Turn]]:
    """Each side's turns, of so many steps each."""
    found: dict[str, list[Turn]] = {side: [] for side in sides}
    with runners(sides, job, threads) as ready:
        if len(counts := {runner.facts["parameters"] for runner in ready.values()}) > 1:
            raise UserError(f"the sides train different numbers of parameters, {counts}: no figure")
        for number, steps in enumerate(turns):
            for side, runner in ready.items():
                found[side].append(runner.take(steps))
            paces = "  ".join(f"{side} {t[-1].seconds / steps:.2f}" for side, t in found.items())
            print(f"  turn {number + 1} of {len(turns)}: s/step {paces}", file=sys.stderr, flush=True)
    return found
