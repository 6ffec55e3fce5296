"""Several processes from one command: `colbertxm train trainer.devices=2` is a small parent and two ranks.

All ranks start at once and prepare side by side, the parent only waits. (Lightning's launcher would start the others
when rank 0 has prepared everything, and rank 0 would wait for them to do the same.) Where one rank dies, the others
would wait for it for ever: the parent ends them. Where the parent dies, its ranks end themselves. Nothing is lost by
either; a run goes on from its last resume point. Under torchrun and srun, which do all this, nothing is launched here.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

from colbertxm.errors import UserError
from colbertxm.ranks import world

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
STOPPING = {128 + number for number in FORWARDED}
GRACE_S = 15.0
"""For the other ranks to leave after one has stopped as it was asked to."""
PARENT = "COLBERTXM_PARENT"


def wanted(devices: int, nodes: int) -> int:
    """How many processes are to be started on this machine; 0 where this process is to do the work itself."""
    if world().launcher != "none":
        watch_parent()
        return 0
    if devices < -1 or devices == 0 or nodes < 1:
        raise UserError(f"trainer.devices={devices} on trainer.nodes={nodes}: give at least one of each, or devices=-1")
    if devices == -1:
        import torch

        devices = torch.cuda.device_count() or 1
    return devices if devices * nodes > 1 else 0


def launch(verb: str, devices: int, nodes: int) -> None:
    """Run this command in `devices` processes and wait for them; exits as they do, unless all is well. With several
    nodes the command is given on each, with MASTER_ADDR, MASTER_PORT and NODE_RANK in the environment."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    # The job of a sweep has its own overrides; Hydra's record of the run lies where the parent has put it.
    command = [sys.executable, "-m", f"colbertxm.{verb}", *hydra.overrides.task]
    command += [f"hydra.run.dir={quoted(hydra.runtime.output_dir)}", "hydra.output_subdir=null"]
    shared = {
        **os.environ,
        **_meeting_point(nodes),
        "COLBERTXM_SIZE": str(devices * nodes),
        "COLBERTXM_NODES": str(nodes),
        PARENT: str(os.getpid()),
        "WORLD_SIZE": str(devices * nodes),
    }
    shared.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices)))
    first = int(shared["NODE_RANK"]) * devices
    own = [{"LOCAL_RANK": str(i), "RANK": str(first + i), "COLBERTXM_RANK": str(first + i)} for i in range(devices)]
    if code := supervise([(command, {**shared, **numbers}) for numbers in own], first):
        raise SystemExit(code)


def supervise(processes: list[tuple[list[str], dict[str, str]]], first: int = 0) -> int:
    """Run the processes until all are done or one has failed; the others are ended then. Returns the exit status, 0
    where all have succeeded. Signals that ask to stop are handed on."""
    ranks: list[subprocess.Popen[bytes]] = []

    def forward(signum: int, frame: Any) -> None:
        for process in ranks:
            process.send_signal(signum)

    before = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        ranks += [subprocess.Popen(command, env=environment) for command, environment in processes]
        while True:
            codes = [process.poll() for process in ranks]
            if failed := [(number, code) for number, code in enumerate(codes) if code]:
                return _end(ranks, failed, first)
            if None not in codes:
                return 0
            time.sleep(0.05)
    finally:
        for process in ranks:
            process.kill()
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(ranks: list[subprocess.Popen[bytes]], failed: list[tuple[int, int]], first: int) -> int:
    number, code = failed[0]
    if code in STOPPING:
        until = time.monotonic() + GRACE_S
        while any(process.poll() is None for process in ranks) and time.monotonic() < until:
            time.sleep(0.05)
    if code < 0:
        name = signal.Signals(-code).name
        print(f"error: rank {first + number} was ended by {name}; the same command goes on", file=sys.stderr)
    return code if code > 0 else 128 - code


def watch_parent() -> None:
    """End this process when the parent that launched it is gone, however it went. Asks twice a second."""
    parent = os.environ.get(PARENT)
    if not parent:
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="watch-parent").start()


def quoted(value: str) -> str:
    """A value of a Hydra override, whatever characters are in it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _meeting_point(nodes: int) -> dict[str, str]:
    """Where ranks find each other. On one machine any free port does."""
    if nodes == 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "NODE_RANK": "0"}
    names = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
    if absent := [name for name in names if name not in os.environ]:
        raise UserError(
            f"trainer.nodes={nodes} needs {', '.join(absent)} in the environment of each machine: or start the command "
            "with torchrun or srun"
        )
    return {name: os.environ[name] for name in names}
