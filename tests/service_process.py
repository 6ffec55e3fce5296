"""The real service as a process of its own, on a free port of the loopback.

`Forks` starts many: one process imports everything once, and each service is a fork of it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

START_S = 240.0
"""A busy machine takes long to import torch."""
ROOT = Path(__file__).parent.parent


def environment(key: str | None = None) -> dict[str, str]:
    """Of a service."""
    found = {name: value for name, value in os.environ.items() if name != "COLBERTXM_API_KEY"}
    found |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return found if key is None else {**found, "COLBERTXM_API_KEY": key}


class Forked:
    """A fork, with what is used of Popen's face."""

    def __init__(self, forks: Forks, pid: int) -> None:
        self.forks, self.pid, self.returncode = forks, pid, None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self.forks.ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout: float) -> int:
        until = time.monotonic() + timeout
        while (status := self.poll()) is None:
            assert time.monotonic() < until
            time.sleep(0.01)
        return status

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Forks:
    """The process that forks: `with Forks() as forks`."""

    def __enter__(self) -> Forks:
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
        )
        assert self._server.stdout is not None and self._server.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate(timeout=60)

    def ask(self, line: dict[str, Any]) -> Any:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(line) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())


def fork_services() -> None:
    """Lines {"log", "settings"} from stdin: each is forked and its process id printed; {"poll": id} prints how it
    ended, or null."""
    import torch

    import colbertxm.service.run
    import colbertxm.stages  # noqa: F401
    from colbertxm import serve

    torch.set_num_threads(1)  # a fork has the thread that forks alone
    print("ready", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        if "poll" in job:
            pid, status = os.waitpid(job["poll"], os.WNOHANG)
            print(json.dumps(os.waitstatus_to_exitcode(status) if pid else None), flush=True)
        elif pid := os.fork():
            print(pid, flush=True)
        else:
            status = 1
            try:
                os.setsid()
                with open(job["log"], "a") as log:
                    os.dup2(log.fileno(), 1)
                    os.dup2(log.fileno(), 2)
                sys.argv = ["colbertxm serve", *job["settings"]]
                os.chdir(Path(job["log"]).parent)
                serve.main()
                status = 0
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(status)


class Process:
    """`colbertxm serve` with `settings`; `url` where it listens."""

    def __init__(self, log: Path, *settings: str, key: str | None = None, forks: Forks | None = None) -> None:
        self.log, self.key, self.port = log, key, 0
        log.write_text("")
        self.process: subprocess.Popen[bytes] | Forked
        settings = ("port=0", *settings)
        if forks is not None:
            self.process = Forked(forks, forks.ask({"log": str(log), "settings": settings}))
            return
        with log.open("a") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "colbertxm.serve", *settings],
                stdout=out, stderr=out, env=environment(key), cwd=log.parent,
            )  # fmt: skip

    def wait(self) -> Process:
        """Until it answers."""
        until = time.monotonic() + START_S
        while time.monotonic() < until and self.process.poll() is None:
            found = re.findall(r"serving http://127\.0\.0\.1:(\d+)", self.log.read_text())
            if found:
                self.port = int(found[-1])
                with contextlib.suppress(OSError):
                    assert self.ask("GET", "/health")[0] == 200
                    return self
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: Any = None, timeout_s: float = 60.0) -> tuple[int, Any]:
        """Status and answer of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        headers = {"content-type": "application/json"} | ({"x-api-key": self.key} if self.key else {})
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(60)
        finally:
            if self.process.poll() is None:
                self.process.kill()


@contextlib.contextmanager
def serving(log: Path, *settings: str, key: str | None = None) -> Iterator[Process]:
    """The service, stopped at the end."""
    process = Process(log, *settings, key=key)
    try:
        yield process.wait()
    finally:
        process.stop()


if __name__ == "__main__":
    fork_services()
