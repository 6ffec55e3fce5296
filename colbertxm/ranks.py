"""Which of a run's processes this one is, as its launcher says in the environment.

Three launchers: our own (`colbertxm train trainer.devices=2`, see `launch.py`), torchrun, and Slurm's srun. Asked
before torch is imported and long before processes meet, so that what is to be said or written once is said by rank 0.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from colbertxm.errors import UserError

Launcher = Literal["none", "colbertxm", "torchrun", "slurm"]


@dataclass(frozen=True)
class World:
    """One process among all: `rank` of `size`, on one of `nodes` machines with `local` processes each."""

    launcher: Launcher = "none"
    rank: int = 0
    size: int = 1
    nodes: int = 1

    @property
    def local(self) -> int:
        """Processes on each machine."""
        return self.size // self.nodes


def world(environment: Mapping[str, str] | None = None) -> World:
    """The place of this process. Raises UserError where the launcher's variables make no sense."""
    env = os.environ if environment is None else environment
    try:
        if "TORCHELASTIC_RUN_ID" in env:
            size = int(env["WORLD_SIZE"])
            return World("torchrun", int(env["RANK"]), size, max(1, size // int(env["LOCAL_WORLD_SIZE"])))
        # A batch script has the job's other variables too, but is one process; srun alone numbers its steps.
        if "SLURM_STEP_ID" in env and int(env.get("SLURM_NTASKS", "1")) > 1:
            nodes = int(env.get("SLURM_NNODES", "1"))
            return World("slurm", int(env["SLURM_PROCID"]), int(env["SLURM_NTASKS"]), nodes)
        # Names of our own: Lightning deletes WORLD_SIZE when training ends.
        if "COLBERTXM_RANK" in env:
            counts = (int(env[f"COLBERTXM_{name}"]) for name in ("RANK", "SIZE", "NODES"))
            return World("colbertxm", *counts)
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"the launcher's environment variables are incomplete or no numbers: {error}") from None
    return World()


def rank() -> int:
    """This process's number; 0 where there is one alone."""
    return world().rank
