"""Builds and changes of small indexes in processes of their own, which tests may kill.

One process imports and compiles the engine once; a job is a fork of it. Every file rests a little before it is whole,
so that kills find all moments.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

DIM, COUNT, CHUNK = 16, 240, 400
REST_S = 0.004  # where a file is made sure to be on the disk


def documents(count: int = COUNT, prefix: str = "p", seed: int = 0) -> list[Any]:
    """Clustered unit vectors; a few documents are empty."""
    import numpy as np
    import torch

    from colbertxm.engine.index import Document

    rng = np.random.default_rng(seed)
    senses = np.random.default_rng(1).standard_normal((30, DIM))
    found = []
    for n in range(count):
        length = 0 if n % 41 == 40 else int(rng.integers(1, 12))
        vectors = senses[rng.integers(0, 30, length)] + rng.standard_normal((length, DIM)) * 0.4
        tensor = torch.from_numpy(vectors.astype(np.float32)).reshape(length, DIM)
        found.append(Document(f"{prefix}{n}", ("en", "de", "sw")[n * 3 // count], tensor, f"text {n}", None))
    return found


def build(folder: Path, road: str) -> None:
    """By the `road` "spool" or "sample"."""
    import numpy as np

    from colbertxm.engine import build, room
    from colbertxm.engine.sample import Sample

    room.CHUNK = CHUNK
    some = documents()
    order = np.random.default_rng(0).permutation(len(some))
    sample = Sample(lambda seed: (some[n] for n in order), len(some)) if road == "sample" else None
    build.build_index(folder, lambda first: iter(some[first:]), 2, sample=sample)


def add(folder: Path) -> None:
    """Some more documents, one in the place of another."""
    from colbertxm.engine import update

    update.CHUNK = CHUNK
    update.add(folder, [*documents(80, "q", 5), documents(1, "p", 6)[0]], replace=True)


def compact(folder: Path) -> None:
    from colbertxm.engine import update

    update.CHUNK = CHUNK
    update.compact(folder)


def run(job: dict[str, Any]) -> None:
    """What a child does."""
    os.setsid()
    with open(f"{job['folder']}.log", "a") as log:
        os.dup2(log.fileno(), 2)
    os.fsync = lambda handle: time.sleep(REST_S)  # a kill, unlike a power cut, loses nothing that was written
    folder = Path(job["folder"])
    {"spool": lambda: build(folder, "spool"), "sample": lambda: build(folder, "sample"),
     "add": lambda: add(folder), "compact": lambda: compact(folder)}[job["action"]]()  # fmt: skip


def serve() -> None:
    """Lines of {"action", "folder"} from stdin: each is forked, its process id printed, its exit status when a line
    {"wait": id} asks for it."""
    import tempfile

    import torch

    torch.set_num_threads(1)  # a fork has the thread that forks alone
    with tempfile.TemporaryDirectory() as warm:
        build(Path(warm) / "index", "spool")  # compiles
        compact(Path(warm) / "index")
    print("ready", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        if "wait" in job:
            print(os.waitstatus_to_exitcode(os.waitpid(job["wait"], 0)[1]), flush=True)
        elif pid := os.fork():
            print(pid, flush=True)
        else:
            status = 1
            try:
                run(job)
                status = 0
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(status)


class Jobs:
    """The process that forks: `with Jobs() as jobs`."""

    def __enter__(self) -> Jobs:
        here = Path(__file__)
        path = os.pathsep.join([str(here.parent.parent), os.environ.get("PYTHONPATH", "")])
        self._server = subprocess.Popen(
            [sys.executable, str(here)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        assert self._read() == "ready"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.communicate(timeout=60)

    def start(self, action: str, folder: Path) -> int:
        return int(self._ask({"action": action, "folder": str(folder)}))

    def end(self, pid: int) -> int:
        """Its exit status when it has ended; -9 for one that was killed."""
        return int(self._ask({"wait": pid}))

    def kill(self, pid: int) -> bool:
        """SIGKILL; whether it still ran."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return self.end(pid) == -signal.SIGKILL

    def _ask(self, line: dict[str, Any]) -> str:
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(line) + "\n")
        self._server.stdin.flush()
        return self._read()

    def _read(self) -> str:
        assert self._server.stdout is not None
        return self._server.stdout.readline().strip()


def files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """All that is published or left over."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != ".lock":
            yield str(path.relative_to(folder)), path.read_bytes()


if __name__ == "__main__":
    serve()
