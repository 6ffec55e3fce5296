"""Small training runs in processes of their own, which tests may kill.

A fork server imports the package once; a run is then a fork of it and costs no imports. One rank is a process group of
its own, so that `kill` takes what it has started with it. Several ranks find each other as torchrun's do.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["colbertxm.training.fit", "torch.distributed", "torch._dynamo"])


@dataclass(frozen=True)
class Job:
    """A run: `base` is a model folder to start from, `output` its own; the seconds after a step make it last."""

    base: Path
    output: Path
    policy: str = "top_k_layers"
    languages: int = 1
    rest_s: float = 0.0
    slow_write_s: float = 0.0
    """Seconds in the middle of writing a resume point."""
    settings: dict[str, Any] = field(default_factory=dict)
    adam_eps: float = 1e-8
    """A large one keeps Adam from blowing rounding up to whole steps."""


def train(job: Job, environment: dict[str, str]) -> None:
    """What a rank does; its stderr goes to `output`.log, and a UserError to the exit status."""
    os.setsid()
    os.environ.update(environment)
    with open(f"{job.output}.log", "a") as log:
        os.dup2(log.fileno(), 2)
    import torch
    from lightning import Callback

    from colbertxm.errors import UserError
    from colbertxm.training import checkpointing
    from colbertxm.training import fit as fits

    torch.set_num_threads(1)

    class Rest(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            time.sleep(job.rest_s)

    watchers = fits.watchers
    fits.watchers = lambda *given: [*watchers(*given), Rest()]
    sync = os.fsync
    checkpointing.os.fsync = lambda handle: (time.sleep(job.slow_write_s), sync(handle))[1]  # type: ignore[attr-defined]
    try:
        fit_once(job)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(error.code)


def fit_once(job: Job) -> None:
    """Train on some sentences."""
    from colbertxm.data.examples import InMemory
    from colbertxm.model.checkpoints import load_model
    from colbertxm.model.freeze import freeze
    from colbertxm.records import Text, Triple
    from colbertxm.training.fit import TrainerSettings, fit, seed_everything
    from colbertxm.training.module import LossSettings, OptimizerSettings

    seed_everything(1)
    encoder = load_model(job.base)
    freeze(encoder, job.policy, 1)  # type: ignore[arg-type]
    langs = ["en", "de"][: job.languages]
    words = "light lamp door lock heat valve water pump camera motion".split()

    def text(kind: str, i: int) -> Text:
        return Text(f"{kind}{i}", f"{words[i % 10]} {words[i * 3 % 7]} {i}", langs[i // 4 % len(langs)])

    triples = [Triple(text("q", i), text("p", i), (text("n", i + 5), text("n", i + 7))) for i in range(40)]
    plain = TrainerSettings(steps=8, batch_size=4, val_every=0, checkpoint_every=2, log_every=1, accelerator="cpu")
    settings = replace(plain, **job.settings)
    loss = LossSettings(temperature=0.05, mean_over_query=True)
    fit(encoder, InMemory(triples, 5), (), job.output, loss, OptimizerSettings(lr=1e-3, eps=job.adam_eps), settings, 5)


def free_port() -> str:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def start(job: Job, ranks: int = 1) -> list[BaseProcess]:
    """Start a run; its process, or one for each rank."""
    job.output.parent.mkdir(parents=True, exist_ok=True)
    found = []
    port = free_port()
    for rank in range(ranks):
        several = {
            "TORCHELASTIC_RUN_ID": "test", "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0",
            "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        }  # fmt: skip
        process = SERVER.Process(target=train, args=(job, several if ranks > 1 else {}), daemon=True)
        process.start()
        found.append(process)
    return found


def end(processes: list[BaseProcess], timeout_s: float = 60.0) -> list[int]:
    """Exit statuses, in the ranks' order; -9 for one that was killed. Kills what outlives the time."""
    until = time.monotonic() + timeout_s
    for process in processes:
        process.join(max(0.1, until - time.monotonic()))
    kill(processes)
    return [process.exitcode if process.exitcode is not None else -9 for process in processes]


def kill(processes: list[BaseProcess]) -> None:
    """SIGKILL to whatever still runs."""
    for process in processes:
        if process.is_alive() and process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        process.join(10)


def weights(job: Job) -> dict[str, Any]:
    """The trained model's weights."""
    from safetensors.torch import load_file

    return load_file(job.output / "model/model.safetensors")
