"""Indexes of either kind, told apart by their manifests. Only a compressed one needs Numba, half a second to import."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from colbertxm.engine.exact import ExactEngine
from colbertxm.engine.store import Index, read_index, verify_index
from colbertxm.errors import UserError
from colbertxm.files import MANIFEST, Kind

if TYPE_CHECKING:
    from colbertxm.engine.compressed import CompressedEngine
    from colbertxm.engine.index import CompressedIndex
    from colbertxm.engine.torch_engine import TorchEngine

COMPRESSED = Kind("colbertxm-compressed-index", 1, "compressed index", "build the index again")


def open_index(folder: Path) -> Index | CompressedIndex:
    """The index in `folder`. Raises UserError where there is none, or a foreign or damaged one."""
    if not _is_compressed(folder):
        return read_index(folder)
    from colbertxm.engine.index import CompressedIndex

    return CompressedIndex(folder)


def engine_on(index: Index | CompressedIndex, device: torch.device) -> ExactEngine | CompressedEngine | TorchEngine:
    """The engine over an index that searches on `device`. Raises UserError where the device has no room for it."""
    if device.type == "cpu":
        return index.engine
    if not isinstance(index, Index):
        return index.engine_on(device)
    try:
        vectors = index.vectors.to(device)
    except torch.OutOfMemoryError:
        raise UserError(
            f"the index takes {index.vectors.nbytes / 1e9:.1f} GB, which {device} has not free: search on the CPU "
            "(device=cpu), or compress it (bits=4)"
        ) from None
    return ExactEngine(vectors, index.offsets, index.ids, index.langs)


def checked_device(device: torch.device | str) -> torch.device:
    """`device` as torch knows it. Raises UserError for one that is misspelt or not there."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"device = {str(device)!r} is not to be had ({reason}): give cpu, cuda or mps") from None
    return found


def verify(folder: Path) -> None:
    """Read all of the index in `folder` and compare checksums. Raises UserError that names the damaged file."""
    if not _is_compressed(folder):
        return verify_index(folder)
    from colbertxm.engine.index import verify_compressed

    return verify_compressed(folder)


def _is_compressed(folder: Path) -> bool:
    """Whether the manifest says so; it may be damaged all the same."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(manifest, dict) and manifest.get("format") == COMPRESSED.format
