"""A virtual environment for each peer, in the user's cache, made once.

They pin other versions of torch and transformers than colbertxm, so none may be near it. Everything runs on the CPU.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from colbertxm.errors import UserError
from colbertxm.sources import cache_folder

TORCH = "torch==2.13.0"


@dataclass(frozen=True)
class Peer:
    """A library to compare with: its environment, its script, and what pip is to install, call after call."""

    environment: str
    script: str
    installs: tuple[tuple[str, ...], ...]
    legacy: str = ""
    """A package to put before the environment's own."""
    torch: str = TORCH
    """What is installed first and may not change; empty for a library that needs no torch."""
    platform: str = ""
    """The platform that `legacy`'s wheel names, where pip would not take it for this machine's."""


COLBERT = (("transformers<5", "colbert-ai==0.2.22", "faiss-cpu"),)
PYLATE = (
    ("sentence-transformers==5.3.0", "transformers<=5.3.0", "datasets", "accelerate", "pandas", "ujson", "fastkmeans"),
    ("--no-deps", "pylate==1.6.0"),  # fast-plaid, which it asks for, pins another torch and is not used here
)
PEERS = {
    "colbert-ai 0.2.22": Peer("colbert-ai", "colbert_ai.py", COLBERT),
    "colbert-ai 0.2.19": Peer("colbert-ai", "colbert_ai.py", COLBERT, legacy="colbert-ai==0.2.19"),
    "PyLate 1.6.0": Peer("pylate", "pylate_peer.py", PYLATE),
    "sentence-transformers 6.2": Peer(
        "sentence-transformers",
        "sentence_transformers_peer.py",
        (("sentence-transformers==6.2.*",), ("datasets", "accelerate")),  # the second for benchmarks/train
    ),
}


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise UserError(f"`{' '.join(command)}` failed: {lines[-1]}")


def ready(peer: Peer, group: str = "parity") -> tuple[Path, Path | None]:
    """The peer's python, and the folder to put first on its path. Makes what is not there, in the cache's folder
    `group`. Raises UserError with pip's last line where that fails."""
    folder = cache_folder() / group / peer.environment
    python = folder / "bin" / "python"
    stamp = folder / f"ready-{'-'.join(word for call in peer.installs for word in call).replace('/', '_')}"
    if not stamp.is_file():
        print(f"installing {peer.environment} in {folder} (minutes)", file=sys.stderr)
        _run([sys.executable, "-m", "venv", str(folder)])
        if peer.torch:
            _run([str(python), "-m", "pip", "install", "--quiet", peer.torch])
        lock = folder / "torch.txt"
        lock.write_text(peer.torch + "\n", encoding="utf-8")
        for call in peer.installs:
            _run([str(python), "-m", "pip", "install", "--quiet", "-c", str(lock), *call])
        stamp.touch()
    if not peer.legacy:
        return python, None
    target = folder / peer.legacy
    if not target.is_dir():
        part = target.with_name(target.name + ".part")
        foreign = ["--platform", peer.platform, "--only-binary=:all:"] if peer.platform else []
        options = ["--quiet", "--no-deps", "--target", str(part), *foreign]
        _run([str(python), "-m", "pip", "install", *options, peer.legacy])
        part.rename(target)
    return python, target
