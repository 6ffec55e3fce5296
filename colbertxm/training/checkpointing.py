"""Resume points that are either whole or absent, and never the only one.

Lightning writes a checkpoint in place (#19970): killed in the middle, the only copy is lost. Here it goes to a
temporary name, is synced, and gets its name by a rename; the one before it stays. Behind the bytes that torch writes,
and reads, stands their sha256: torch.load notices a file that was cut off, but no flipped bit.

    checkpoints/resume-200.ckpt       after step 200
    checkpoints/resume-250.ckpt       after step 250, the one to go on from
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from filelock import FileLock, Timeout
from lightning.pytorch.plugins.io import TorchCheckpointIO

from colbertxm.errors import UserError
from colbertxm.ranks import rank

MAGIC = b"colbertxm-sha256"
TRAILER = len(MAGIC) + 32
NAME = re.compile(r"resume-(\d+)\.ckpt")
KEPT = 2


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's CheckpointIO with write-sync-rename and checksums, and with errors that say what to do."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write to `path`.part, sync, rename, sync the folder. Raises UserError on a full disk; the old file stays as
        it was."""
        target = Path(path)
        part = target.with_name(target.name + ".part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                hashing = _Hashing(file)
                torch.save(checkpoint, hashing)  # type: ignore[arg-type]
                file.write(MAGIC + hashing.digest.digest())
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, target)
            _sync_folder(target.parent)
        except (OSError, RuntimeError) as error:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise UserError(
                f"cannot write the checkpoint {target}: {error}; free space or choose another place"
            ) from error

    def load_checkpoint(self, path: Any, map_location: Any | None = None, weights_only: bool | None = None) -> Any:
        """Read a checkpoint as data: nothing in it is executed. Raises UserError for a damaged one."""
        return read_checkpoint(Path(path))


class _Hashing:
    """A file that remembers the sha256 of what it was given; torch writes from front to back."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A training checkpoint's content, tensors on the CPU. Raises UserError where it is missing or damaged."""
    if reason := damage(path):
        raise UserError(f"cannot resume from {path}: {reason}; delete it to go on from the one before, or anew")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file raises anything from EOFError to UnpicklingError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"cannot resume from {path}: {reason}; delete it to start this run anew") from None
    if not isinstance(content, dict) or "state_dict" not in content:
        raise UserError(f"{path} is no training checkpoint of colbertxm; delete it to start this run anew")
    return content


def damage(path: Path) -> str:
    """What is wrong with a checkpoint's bytes; an empty string where nothing is."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            left = os.fstat(file.fileno()).st_size - TRAILER
            if left <= 0:
                return f"it has {left + TRAILER} bytes, which is no checkpoint"
            while left and (block := file.read(min(left, 1 << 22))):
                digest.update(block)
                left -= len(block)
            trailer = file.read()
    except OSError as error:
        return error.strerror or str(error)
    if not trailer.startswith(MAGIC):
        return "it is cut off, or no checkpoint of colbertxm"
    return "" if trailer == MAGIC + digest.digest() else "its bytes are damaged (their sha256 is another one)"


def resume_name(step: int) -> str:
    """The file name of the resume point after `step`."""
    return f"resume-{step}.ckpt"


def resume_points(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of the resume points in `folder`, the last one first, whole or not."""
    if not folder.is_dir():
        return []
    found = ((NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)


def resume_point(folder: Path) -> Path | None:
    """The last whole resume point in `folder`; None where there has been none. A damaged one is named on stderr and
    the one before it is taken. Raises UserError where all are damaged."""
    found = resume_points(folder)
    damaged: list[str] = []
    for _, path in found:
        reason = damage(path)
        if not reason:
            if damaged and rank() == 0:
                print(f"damaged: {'; '.join(damaged)}: going back to the one before", file=sys.stderr, flush=True)
            return path
        damaged.append(f"{path} ({reason})")
    if damaged:
        raise UserError(f"no resume point is whole: {'; '.join(damaged)}; delete {folder} to start this run anew")
    return None


def prune(folder: Path, step: int) -> None:
    """Keep the resume point of `step` and the one before it. Later ones were found damaged, or the run would not be
    here; what was half written by a run that was killed goes too."""
    before = [path for number, path in resume_points(folder) if number < step]
    after = [path for number, path in resume_points(folder) if number > step]
    for path in [*before[KEPT - 1 :], *after, *folder.glob("resume-*.ckpt.part")]:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def claimed(output: Path, wait_s: float = 10.0) -> Iterator[None]:
    """Hold `output` for this run: two runs in one folder would overwrite each other's resume points. Waits for the
    processes of a run that was killed a moment ago. Raises UserError where another run stays."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(output / ".training.lock"), timeout=wait_s)
        with lock:
            yield
    except Timeout:
        raise UserError(f"another run trains in {output}: wait for it, or give output=ANOTHER") from None


def _sync_folder(folder: Path) -> None:
    """A rename is on the disk once the folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
