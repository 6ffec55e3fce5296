"""Finished shards on disk: a coordinator that was killed asks nobody for them again.

    settings.json        what the shards are of (`source`): shards of anything else are thrown away
    shard-000012.npz     the float16 vectors of shard 12, and how many vectors each of its passages has

Beside the folder `.build` of the index, which keeps what was taken in order. Workers finish in any order, so some
shards wait here for an earlier one; when the index's own work has them, they go.
"""

from __future__ import annotations

import io
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from colbertxm.engine.spool import read, write
from colbertxm.files import WORK, put

FOLDER = ".shards"


@dataclass(frozen=True)
class Shard:
    """Passages' vectors end to end: `values` [t, E] float16, and `lengths` [n] of each passage."""

    values: npt.NDArray[np.float16]
    lengths: npt.NDArray[np.int32]


class Shards(Protocol):
    """Where finished shards wait until it is their turn."""

    def has(self, number: int) -> bool: ...
    def keep(self, number: int, shard: Shard) -> None: ...
    def take(self, number: int) -> Shard: ...


class InMemory:
    """For shards that nobody asks for a second time."""

    def __init__(self) -> None:
        self._shards: dict[int, Shard] = {}

    def has(self, number: int) -> bool:
        return number in self._shards

    def keep(self, number: int, shard: Shard) -> None:
        self._shards[number] = shard

    def take(self, number: int) -> Shard:
        return self._shards.pop(number)


class Journal:
    """Shards of `source` in `index`/.shards, those of an earlier run among them."""

    def __init__(self, index: Path, source: str) -> None:
        self.folder, self._work = index / FOLDER, index / WORK
        settings, asked = self.folder / "settings.json", {"source": source}
        if not settings.exists() or read(settings) != asked:
            self.discard()
        self.folder.mkdir(parents=True, exist_ok=True)
        write(settings, asked)
        self._seen = {"chunk": (0, 0), "part": (0, 0)}  # files and passages

    def has(self, number: int) -> bool:
        """Reads all of it: one that was damaged since is made again."""
        try:
            self.take(number)
        except FileNotFoundError:
            return False
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            self._path(number).unlink(missing_ok=True)
            return False
        return True

    def keep(self, number: int, shard: Shard) -> None:
        """There entirely or not at all."""
        packed = io.BytesIO()
        np.savez(packed, values=shard.values, lengths=shard.lengths)
        put(self._path(number), packed.getvalue())

    def take(self, number: int) -> Shard:
        """The archive's checksums are compared on the way."""
        with np.load(self._path(number), allow_pickle=False) as found:
            return Shard(found["values"], found["lengths"])

    def forget(self, size: int) -> None:
        """Delete the shards of `size` passages each that the index's own work folder holds on disk by now."""
        done = max(self._durable(kind) for kind in ("chunk", "part")) // size
        for path in self.folder.glob("shard-*.npz"):
            if int(path.stem.removeprefix("shard-")) < done:
                path.unlink()

    def discard(self) -> None:
        """Its settings go first: killed on the way, the rest is nobody's."""
        (self.folder / "settings.json").unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _durable(self, kind: str) -> int:
        """Passages of the work's chunks or parts; those that were counted before are not read again."""
        count, passages = self._seen[kind]
        while (path := self._work / f"{kind}-{count:06}.json").exists():
            passages += int(read(path)["passages"])
            count += 1
        self._seen[kind] = count, passages
        return passages

    def _path(self, number: int) -> Path:
        return self.folder / f"shard-{number:06}.npz"
