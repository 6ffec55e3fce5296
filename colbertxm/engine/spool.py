"""What a build keeps in its folder for work, so that after a kill it continues behind the last whole chunk.

    settings.json      what the build was asked for: another one begins anew
    codec.json         the codec's files and its error
    chunk-000000.json  a chunk's rows (files), and how many passages and vectors it has
    chunk-000000.bin   its vectors, [t, E] float16; gone once they are encoded
    spooled            all chunks are there
    part-000000.json   all files of a part

Every file is on the disk before its json file is, and that is renamed into place: what is named is whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from colbertxm.engine.chunks import Chunk, encode_blocks
from colbertxm.engine.codec import Codec, Codes
from colbertxm.engine.index import write_codec, write_codes, write_part, write_rows
from colbertxm.engine.kernels import Array
from colbertxm.files import Entry, put

Record = dict[str, Any]
"""A chunk or part: `files`, `passages`, `vectors`, `dimensions`, and all `languages` so far."""


class Work:
    """The folder of a build that may be killed."""

    def __init__(self, folder: Path, asked: Mapping[str, Any]) -> None:
        """Keeps what an earlier build with the same settings left, and nothing else."""
        self.folder = folder
        settings = folder / "settings.json"
        if not settings.exists() or read(settings) != asked:
            discard(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write(settings, asked)

    def records(self, kind: str) -> list[Record]:
        """All chunks or parts that are there, in order."""
        return [read(path) for path in sorted(self.folder.glob(f"{kind}-*.json"))]

    def spool(self, number: int, chunk: Chunk) -> Record:
        """Write a chunk."""
        with self._vectors(number).open("wb") as file:
            file.write(np.ascontiguousarray(chunk.vectors).reshape(-1).view(np.uint8).data)
            file.flush()
            os.fsync(file.fileno())
        return self._record("chunk", number, chunk, write_rows(self.folder, chunk.rows))

    def spooled(self, number: int, dim: int) -> Callable[[int, int], Array]:
        """Reads vectors first to last of a chunk, [n, E] float16. Not mapped: pages of a map would count as ours."""

        def rows(first: int, last: int) -> Array:
            path, at = self._vectors(number), first * dim * 2
            return np.fromfile(path, np.float16, (last - first) * dim, offset=at).reshape(-1, dim)

        return rows

    def part(self, number: int, chunk: Chunk, codes: Codes) -> Record:
        """Write a part whose rows are not there yet."""
        return self._record("part", number, chunk, write_part(self.folder, codes, chunk.rows))

    def part_of_chunk(self, number: int, chunk: Record, codec: Codec, progress: Callable[[int], None]) -> Record:
        """The part of a spooled chunk, written where it is not yet."""
        path = self.folder / f"part-{number:06}.json"
        if not path.exists():
            ends = self.load(chunk, "ends")
            codes = encode_blocks(codec, self.spooled(number, chunk["dimensions"]), ends, progress)
            write(path, {**chunk, "files": {**write_codes(self.folder, codes), **chunk["files"]}})
        else:
            progress(chunk["vectors"])
        self._vectors(number).unlink(missing_ok=True)
        return dict(read(path))

    def keep_codec(self, codec: Codec, error: float) -> None:
        """Write the codec."""
        write(self.folder / "codec.json", {"files": write_codec(self.folder, codec), "error": error})

    def codec(self) -> tuple[Codec, float, dict[str, Entry]] | None:
        """The codec, its error and its files; None where there is none yet."""
        path = self.folder / "codec.json"
        if not path.exists():
            return None
        known = read(path)
        arrays = {name.removeprefix("codec-"): self._array(entry) for name, entry in known["files"].items()}
        return Codec.of(arrays), known["error"], known["files"]

    def load(self, record: Record, name: str) -> Array:
        """A file of a chunk or part."""
        return self._array(record["files"][name])

    def ids(self, record: Record) -> tuple[Path, Path]:
        """The files of its ids."""
        return self.folder / record["files"]["ids"]["file"], self.folder / record["files"]["idends"]["file"]

    def _array(self, entry: Entry) -> Array:
        array: Array = np.load(self.folder / entry["file"], allow_pickle=False)
        return array

    def _record(self, kind: str, number: int, chunk: Chunk, files: dict[str, Entry]) -> Record:
        sizes = {"passages": len(chunk.rows.ends), "vectors": len(chunk.vectors), "dimensions": chunk.vectors.shape[1]}
        record = {"files": files, **sizes, "languages": chunk.languages}
        write(self.folder / f"{kind}-{number:06}.json", record)
        return record

    def _vectors(self, number: int) -> Path:
        return self.folder / f"chunk-{number:06}.bin"


def discard(folder: Path) -> None:
    """Delete a folder for work. Its settings go first: killed on the way, it is nobody's."""
    (folder / "settings.json").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def link(folder: Path, work: Path, files: Mapping[str, Entry]) -> None:
    """Put `work`'s files into `folder` as well, so that `work` stays whole until the manifest is there."""
    for entry in files.values():
        target = folder / entry["file"]
        if not target.exists():
            try:
                os.link(work / entry["file"], target)
            except OSError:  # a file system without links
                part = target.with_name(target.name + ".part")
                shutil.copyfile(work / entry["file"], part)
                os.replace(part, target)


def read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def write(path: Path, value: Any) -> None:
    put(path, json.dumps(value).encode())
