"""Join small parts to large ones: chunks are as small as memory asks for, but each part costs a search and an opening
its own step (3 x 15 microseconds and 13 mapped files, by 2,000 chunks where there are 8.8 million passages)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from colbertxm.engine.kernels import Array
from colbertxm.engine.spool import Record, read, write
from colbertxm.files import DataFile, Entry, npy_header

PART = 2**22  # vectors of a joined part at most, 300 MB at 4 bits
BLOCK = 2**24  # bytes that are copied at a time
ENDS = {"ends", "idends", "textends"}  # counted from the part's begin


def joined(work: Path, parts: Sequence[Record]) -> list[Record]:
    """Neighbouring `parts` as parts of at most PART vectors, with the same documents in the same order. What is written
    is kept in `work`, so that a killed build does not join again."""
    made = []
    for number, group in enumerate(_groups(parts)):
        path = work / f"whole-{number:06}.json"
        if len(group) > 1 and not path.exists():
            sizes = {name: sum(part[name] for part in group) for name in ("passages", "vectors")}
            files = {name: _join(work, name, [part["files"][name] for part in group]) for name in group[0]["files"]}
            write(path, {**group[-1], **sizes, "files": files})
        made.append(read(path) if len(group) > 1 else group[0])
    return made


def _groups(parts: Sequence[Record]) -> list[list[Record]]:
    groups: list[list[Record]] = []
    held = PART
    for part in parts:
        if held + part["vectors"] > PART:
            groups.append([])
            held = 0
        groups[-1].append(part)
        held += part["vectors"]
    return groups


def _join(work: Path, name: str, entries: Sequence[Entry]) -> Entry:
    """The arrays of `entries`, one behind the other, in one file."""
    arrays: list[Array] = [np.load(work / entry["file"], mmap_mode="r", allow_pickle=False) for entry in entries]
    file = DataFile(work, name, ".npy")
    shape = (sum(len(array) for array in arrays), *arrays[0].shape[1:])
    file.write(npy_header(arrays[0].dtype.newbyteorder("<").str, shape))
    before = 0
    for array in arrays:
        if name in ENDS:
            array = np.asarray(array) + before
            before = int(array[-1]) if len(array) else before
        flat = array.reshape(-1).view(np.uint8)
        for first in range(0, len(flat), BLOCK):
            file.write(np.array(flat[first : first + BLOCK]).data)
    return file.finish()
