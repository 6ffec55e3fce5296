"""Indexes of either kind, told apart by their manifests. Only a compressed one needs Numba, half a second to import."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from colbertxm.engine.store import Index, read_index, verify_index
from colbertxm.files import MANIFEST, Kind

if TYPE_CHECKING:
    from colbertxm.engine.index import CompressedIndex

COMPRESSED = Kind("colbertxm-compressed-index", 1, "compressed index", "build the index again")


def open_index(folder: Path) -> Index | CompressedIndex:
    """The index in `folder`. Raises UserError where there is none, or a foreign or damaged one."""
    if not _is_compressed(folder):
        return read_index(folder)
    from colbertxm.engine.index import CompressedIndex

    return CompressedIndex(folder)


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
