"""Our side of a training run, in a process of its own: `colbertxm.training.fit.fit`, a turn at a time."""

from __future__ import annotations

import sys
import tempfile
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import torch
from lightning.pytorch.loggers.logger import Logger
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.train.peers.gate import Gate, trained_parameters
from benchmarks.train.workloads import read_job, trainer_settings
from colbertxm.data.examples import InMemory
from colbertxm.model.checkpoints import load_model
from colbertxm.model.freeze import freeze
from colbertxm.records import Text, Triple
from colbertxm.training.fit import fit
from colbertxm.training.module import OptimizerSettings
from colbertxm.training.objective import LossSettings


class Turns(Logger):
    """Takes the loss of every step from what `fit` logs, and tells the gate that the step is over."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = gate

    @property
    def name(self) -> str:
        return "turns"

    @property
    def version(self) -> str:
        return "0"

    def log_hyperparams(self, params: Namespace | dict[str, object], *args: object, **kwargs: object) -> None:
        """Nothing to keep."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Called once a step with the loss; the learning rate comes on its own."""
        if "train/loss" in metrics:
            self.gate.losses.append(float(metrics["train/loss"]))
            self.gate.stepped()


class InOrder(InMemory):
    """The triples as the file has them, one after the other: our stream asks for them in an order of its own."""

    at = 0

    def read(self, keys: list[tuple[int, int]], negatives: int) -> list[Triple]:  # type: ignore[override]
        """The next ones."""
        self.at += len(keys)
        return self.triples[self.at - len(keys) : self.at]  # type: ignore[return-value]


def main() -> None:
    """Train as the job's file says."""
    job = read_job(Path(sys.argv[1]))
    torch.set_num_threads(job.threads)
    encoder = load_model(Path(job.folder) / "multi_vector")
    freeze(encoder, "none")
    found = [
        Triple(Text(f"q{i}", query, "en"), Text(f"p{i}", positive, "en"), (Text(f"n{i}", negative, "en"),))
        for i, (query, positive, negative) in enumerate(job.triples)
    ]
    gate = Gate()
    encoder.register_forward_pre_hook(gate.forward)
    register_optimizer_step_post_hook(gate.updated)
    gate.ready(parameters=trained_parameters(encoder))
    with tempfile.TemporaryDirectory() as output:
        fit(
            encoder,
            InOrder(found, job.seed),
            (),
            Path(output),
            LossSettings(pairwise=0.0, temperature=job.temperature, mask_false_negatives=False),
            OptimizerSettings(job.lr, warmup=job.warmup_steps / job.steps, weight_decay=job.weight_decay),
            trainer_settings(job),
            job.seed,
            Turns(gate),
        )


if __name__ == "__main__":
    main()
