"""The ids of a store: from id to row and back, by memory map.

    kind      row of an id                                   files
    dense     the id itself: the ids are 0 ... N-1           none
    ints      its rank                                       ids.npy        [N] int64, sorted
    strings   its place in the first language that was given  id_bytes.bin   UTF-8, end to end
                                                             id_offsets.npy [N + 1] uint64
                                                             id_hashes.npy  [N] uint64, sorted
                                                             id_rows.npy    [N] int32: the row of each hash

Strings are found by a 64-bit hash (blake2b) and then compared, so that two ids with one hash are two ids. An id such as
`007` is a string: the number would not be printed so.
"""

from __future__ import annotations

import hashlib
import mmap
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colbertxm.data.blocks import Positions, integers
from colbertxm.errors import UserError
from colbertxm.files import DataFile, Entry, Kind, map_array, write_array

UNKNOWN = -1
SPARSE = 16  # a table from number to row may have so many entries for each id; above it, numbers are searched for


class IdTable:
    """Maps the ids of `count` texts to rows and back. Unknown ids have the row -1."""

    def __init__(self, folder: Path, store: Kind, manifest: Mapping[str, Any]) -> None:
        self.kind, self.count = manifest["ids"], manifest["texts"]
        self._inverse: NDArray[np.int32] | None = None
        files = manifest["files"]

        def array(name: str, dtype: str, size: int) -> NDArray[Any]:
            return map_array(folder, store, files[name], dtype, (size,))

        if self.kind == "ints":
            self._ints = array("ids", "<i8", self.count)
            self._ints_view = self._ints.data
        elif self.kind == "strings":
            self._bytes = map_bytes(folder / files["id_bytes"]["file"])
            self._offsets = array("id_offsets", "<u8", self.count + 1).data
            self._hashes = array("id_hashes", "<u8", self.count).data
            self._rows = array("id_rows", "<i4", self.count).data

    def id(self, row: int) -> str:
        """The id of a row."""
        if self.kind == "dense":
            return str(row)
        if self.kind == "ints":
            return str(self._ints_view[row])
        return self._raw(row).decode()

    def ids(self, rows: Positions) -> list[str]:
        """The ids of rows [n]."""
        if self.kind == "strings":
            return [self._raw(row).decode() for row in rows.tolist()]
        return list(map(str, (rows if self.kind == "dense" else self._ints[rows]).tolist()))

    def row(self, id: str) -> int:
        """The row of an id, or -1."""
        if self.kind == "strings":
            return self._row_of(id.encode("utf-8", "surrogatepass"))
        if not (id.isascii() and id.isdigit() and len(id) <= 18 and (id[0] != "0" or id == "0")):
            return UNKNOWN
        number = int(id)
        if self.kind == "dense":
            return number if number < self.count else UNKNOWN
        row = bisect_left(self._ints_view, number)
        return row if row < self.count and self._ints_view[row] == number else UNKNOWN

    def rows(self, raw: bytes, starts: Positions, ends: Positions) -> Positions:
        """The rows of the ids raw[starts[i] : ends[i]], any shape."""
        if self.kind != "strings":
            values, good = integers(raw, starts, ends)
            return np.where(good, self.rows_of_integers(values), UNKNOWN)
        spans = zip(starts.ravel().tolist(), ends.ravel().tolist(), strict=True)
        return np.array([self._row_of(raw[a:b]) for a, b in spans], np.int64).reshape(starts.shape)

    def rows_of_integers(self, values: NDArray[Any]) -> Positions:
        """The rows of ids that are given as numbers, any shape."""
        values = np.asarray(values, np.int64)
        if self.kind == "strings":
            return np.array([self.row(str(v)) for v in values.ravel().tolist()], np.int64).reshape(values.shape)
        if self.kind == "dense":
            return np.where((values >= 0) & (values < self.count), values, UNKNOWN)
        largest = int(self._ints[-1])
        known = (values >= 0) & (values <= largest)
        if largest <= SPARSE * self.count + 2**20:
            return np.where(known, self._inverse_table(largest)[np.where(known, values, 0)], UNKNOWN)
        at = np.minimum(np.searchsorted(self._ints, values), self.count - 1)
        return np.where(self._ints[at] == values, at, UNKNOWN)

    def _inverse_table(self, largest: int) -> NDArray[np.int32]:
        if self._inverse is None:
            self._inverse = np.full(largest + 1, UNKNOWN, np.int32)
            self._inverse[self._ints] = np.arange(self.count, dtype=np.int32)
        return self._inverse

    def _raw(self, row: int) -> bytes:
        return self._bytes[self._offsets[row] : self._offsets[row + 1]]

    def _row_of(self, id: bytes) -> int:
        wanted = _hash(id)
        at = bisect_left(self._hashes, wanted)
        while at < self.count and self._hashes[at] == wanted:
            if self._raw(self._rows[at]) == id:
                return int(self._rows[at])
            at += 1
        return UNKNOWN


class IdCollector:
    """Takes the ids of a new store block by block and chooses their table. Needs 8 to 24 bytes an id in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self._values: list[Positions] = []  # while all ids are numbers
        self._file: DataFile | None = None  # from the first one that is none
        self._lengths: list[NDArray[np.int64]] = []
        self._hashes: list[NDArray[np.uint64]] = []

    def add(self, raw: bytes, starts: Positions, ends: Positions) -> None:
        """Take the ids raw[starts[i] : ends[i]]."""
        self.count += len(starts)
        if self._file is None:
            values, good = integers(raw, starts, ends)
            if good.all():
                self._values.append(values)
                return
            self._file = DataFile(self.folder, "id_bytes")
            for earlier in self._values:
                self._add_strings([b"%d" % value for value in earlier.tolist()])
            self._values = []
        self._add_strings([raw[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)])

    def finish(self, where: Callable[[int], str]) -> tuple[str, dict[str, Entry], NDArray[np.int32] | None]:
        """(kind, files, rows): the row of each id that was given, or None where they were given in the rows' order.
        Raises UserError for an id that was given twice; `where` names the n-th id's place."""
        return self._finish_integers(where) if self._file is None else self._finish_strings(self._file, where)

    def _add_strings(self, ids: Sequence[bytes]) -> None:
        assert self._file is not None
        self._file.write(b"".join(ids))
        self._lengths.append(np.fromiter(map(len, ids), np.int64, len(ids)))
        self._hashes.append(np.fromiter(map(_hash, ids), np.uint64, len(ids)))

    def _finish_integers(self, where: Callable[[int], str]) -> tuple[str, dict[str, Entry], NDArray[np.int32] | None]:
        values = np.concatenate(self._values)
        self._values = []
        order = None
        if not (values[1:] > values[:-1]).all():
            order = np.argsort(values, kind="stable")
            values = values[order]
            if len(twice := np.flatnonzero(values[1:] == values[:-1])):
                first = twice[np.argmin(order[twice + 1])]
                raise _repeated(str(values[first]), where(int(order[first])), where(int(order[first + 1])))
        rows = None
        if order is not None:
            rows = np.empty(self.count, np.int32)
            rows[order] = np.arange(self.count, dtype=np.int32)
        if values[0] == 0 and values[-1] == self.count - 1:
            return "dense", {}, rows
        return "ints", {"ids": write_array(self.folder, "ids", values)}, rows

    def _finish_strings(self, file: DataFile, where: Callable[[int], str]) -> tuple[str, dict[str, Entry], None]:
        files = {"id_bytes": file.finish()}
        offsets = offsets_of(self._lengths)
        hashes = np.concatenate(self._hashes)
        self._lengths, self._hashes = [], []
        order = np.argsort(hashes, kind="stable")
        hashes = hashes[order]
        ids = map_bytes(self.folder / files["id_bytes"]["file"])
        seen: dict[bytes, int] = {}
        repeated: list[tuple[int, int, bytes]] = []
        runs = np.flatnonzero(hashes[1:] == hashes[:-1])  # the same id, or (hardly ever) two with one hash
        for place in np.union1d(runs, runs + 1).tolist():
            here = int(order[place])
            id = ids[int(offsets[here]) : int(offsets[here + 1])]
            if seen.setdefault(id, here) != here:
                repeated.append((here, seen[id], id))
        if repeated:
            second, first, id = min(repeated)
            raise _repeated(id.decode("utf-8", "replace"), where(first), where(second))
        files["id_offsets"] = write_array(self.folder, "id_offsets", offsets)
        files["id_hashes"] = write_array(self.folder, "id_hashes", hashes)
        files["id_rows"] = write_array(self.folder, "id_rows", order.astype(np.int32))
        return "strings", files, None


def offsets_of(lengths: Sequence[NDArray[np.int64]]) -> NDArray[np.uint64]:
    """[N + 1]: where each of N pieces of these lengths starts, and where the last one ends."""
    offsets = np.zeros(sum(map(len, lengths)) + 1, np.uint64)
    np.cumsum(np.concatenate(lengths), out=offsets[1:])
    return offsets


def map_bytes(path: Path) -> mmap.mmap | bytes:
    """A file mapped read-only; the system maps no empty files."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""


def _hash(id: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(id, digest_size=8).digest(), "little")


def _repeated(id: str, first: str, second: str) -> UserError:
    return UserError(f"{second}: the id {id!r} stands here a second time, first at {first}: ids must be unique")
