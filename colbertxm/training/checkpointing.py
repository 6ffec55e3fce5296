"""Checkpoints that are either whole or absent.

Lightning writes a checkpoint in place (#19970): killed in the middle, the only copy is lost. Here it goes to a
temporary name, is synced, and replaces the old one by a rename.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from colbertxm.errors import UserError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's CheckpointIO with write-sync-rename, and with errors that say what to do."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write to `path`.part, sync, rename. Raises UserError on a full disk; the old file stays as it was."""
        target = Path(path)
        part = target.with_name(target.name + ".part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, target)
        except (OSError, RuntimeError) as error:
            part.unlink(missing_ok=True)
            raise UserError(
                f"cannot write the checkpoint {target}: {error}; free space or choose another place"
            ) from error

    def load_checkpoint(self, path: Any, map_location: Any | None = None, weights_only: bool | None = None) -> Any:
        """Read a checkpoint as data: nothing in it is executed. Raises UserError for a damaged one."""
        return read_checkpoint(Path(path))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A training checkpoint's content, tensors on the CPU. Raises UserError where it is missing or damaged."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises anything from EOFError to UnpicklingError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"cannot resume from {path}: {reason}; delete it to start this run anew") from None
    if not isinstance(content, dict) or "state_dict" not in content:
        raise UserError(f"{path} is no training checkpoint of colbertxm; delete it to start this run anew")
    return content
