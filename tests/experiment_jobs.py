"""A tiny sweep of an experiment, in this process or in one that a test may kill."""

from __future__ import annotations

import os
from pathlib import Path

SMALL = [
    "trainer.steps=4", "trainer.batch_size=4", "trainer.val_every=0", "trainer.checkpoint_every=1", "freeze.top_k=1",
    "data.val_langs=[en]", "data.val_sample=4", "data.negatives_depth=4", "model.dim=8", "model.projection=pca",
    "evaluation.langs=[en,de]", "evaluation.sample=12", "logger.mode=disabled", "energy.mode=off",
]  # fmt: skip
MODULES = "stages data.training model.checkpoints evaluation.collections.home".split()


def jobs(sweep: str, *overrides: str) -> list[tuple[str, object]]:
    """The plan of a sweep, small."""
    from colbertxm.questions.jobs import compose_job, expand

    return [(sweep, compose_job(job)) for job in expand(sweep, [*SMALL, *overrides])]


def run_in(folder: Path, wheels: dict[str, Path], sweep: str, overrides: list[str], rest_s: float) -> None:
    """Run the sweep in `folder`, resting after each step; for a process of its own."""
    import importlib
    import time

    import torch
    from lightning import Callback

    from colbertxm.questions.command import run_plan
    from colbertxm.training import fit

    class Rest(Callback):
        def on_train_batch_end(self, *_: object) -> None:
            time.sleep(rest_s)

    watchers = fit.watchers
    fit.watchers = lambda *given: [*watchers(*given), Rest()]
    torch.set_num_threads(1)
    os.chdir(folder)
    for name in MODULES:
        importlib.import_module(f"colbertxm.{name}").fetch = lambda source, cache=None: wheels[source.name]
    run_plan(jobs(sweep, *overrides))
