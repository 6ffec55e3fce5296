"""A smaller safetensors file made of some tensors of a larger one that lies elsewhere.

The format (github.com/huggingface/safetensors): 8 bytes, little endian, the length N of the header; N bytes of JSON,
{name: {"dtype", "shape", "data_offsets": [begin, end]}}; then the tensors' bytes, without holes. So a header says which
bytes a tensor is, and tensors that lie side by side are fetched in one request.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from colbertxm.errors import UserError

PIECE = 16 << 20
"""Bytes of one request at most: what a broken connection costs, and times THREADS the memory that is used."""
THREADS = 8
_LONGEST_HEADER = 100_000_000  # the format's own limit
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip


@dataclass(frozen=True)
class Slot:
    """One tensor in one file: its bytes are [begin, end) of that file."""

    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Piece:
    """Bytes [begin, end) of `file` go to `to` in the new file."""

    file: str
    begin: int
    end: int
    to: int


def read_slots(file: str, size: int, read: Callable[[int, int], bytes]) -> list[Slot]:
    """The tensors of a safetensors file of `size` bytes, of which `read(begin, end)` gives a part, in their order.
    Raises UserError where header and size do not agree: what cannot be checked by a checksum is checked by this."""
    if size < 8:
        raise UserError(f"{file} is no safetensors file: it has {size} bytes")
    (length,) = struct.unpack("<Q", read(0, 8))
    if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
        raise UserError(f"{file} is no safetensors file: its header cannot be {length} bytes long")
    try:
        header = json.loads(read(8, 8 + length).decode("utf-8"))
        slots = [_slot(file, name, said, 8 + length) for name, said in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} has a damaged safetensors header: {error}") from None
    slots.sort(key=lambda slot: (slot.begin, slot.end))
    at = 8 + length
    for slot in slots:
        if slot.begin != at:
            raise UserError(f"{file} has a damaged safetensors header: {slot.name} begins at {slot.begin}, not at {at}")
        at = slot.end
    if at != size:
        raise UserError(f"{file} has {size} bytes, its header speaks of {at}: it is damaged")
    return slots


def _slot(file: str, name: str, said: dict[str, Any], data: int) -> Slot:
    begin, end = said["data_offsets"]
    shape, dtype = tuple(int(n) for n in said["shape"]), said["dtype"]
    if dtype not in _BITS:
        raise ValueError(f"{name} has the unknown dtype {dtype!r}")
    if min(shape, default=0) < 0 or (end - begin) * 8 != math.prod(shape) * _BITS[dtype]:
        raise ValueError(f"{name} {dtype}{list(shape)} cannot be {end - begin} bytes")
    return Slot(name, file, dtype, shape, data + begin, data + end)


def new_header(slots: Sequence[Slot]) -> bytes:
    """Length and header of a file that holds `slots` end to end in the given order, padded to 8 bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for slot in slots:
        stop = at + slot.end - slot.begin
        header[slot.name] = {"dtype": slot.dtype, "shape": list(slot.shape), "data_offsets": [at, stop]}
        at = stop
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    return struct.pack("<Q", len(raw)) + raw


def pieces(slots: Sequence[Slot], start: int, wanted: Callable[[Slot], bool]) -> Iterator[Piece]:
    """What to copy for those of `slots` that are `wanted`, all of which lie end to end from `start` on in the new file:
    neighbours in one piece, none longer than PIECE."""
    run: Piece | None = None
    to = start
    for slot in slots:
        if wanted(slot):
            if run is not None and (run.file, run.end, run.to + run.end - run.begin) == (slot.file, slot.begin, to):
                run = Piece(run.file, run.begin, slot.end, run.to)
            else:
                yield from _cut(run)
                run = Piece(slot.file, slot.begin, slot.end, to)
        to += slot.end - slot.begin
    yield from _cut(run)


def _cut(run: Piece | None) -> Iterator[Piece]:
    if run is not None:
        for at in range(run.begin, run.end, PIECE):
            yield Piece(run.file, at, min(at + PIECE, run.end), run.to + at - run.begin)


def assemble(
    target: Path,
    slots: Sequence[Slot],
    read: Callable[[Piece], bytes],
    have: Path | None,
    identity: str,
    advance: Callable[[int], Any],
) -> int:
    """Write a safetensors file of `slots` to `target` and return the bytes that `read` was asked for. Tensors of the
    same name, dtype and shape in the local file `have` are copied from there.

    The file grows in a .part; beside it a journal lists the pieces that are on the disk, so that a killed process goes
    on where it was. `identity` says of what commit the pieces are: a journal of another one is thrown away."""
    part, journal = target.with_name(target.name + ".part"), target.with_name(target.name + ".part.done")
    header = new_header(slots)
    total = len(header) + sum(slot.end - slot.begin for slot in slots)
    local = {slot.name: slot for slot in (local_slots(have) if have else [])}
    kept = {s.name for s in slots if (o := local.get(s.name)) and (o.dtype, o.shape) == (s.dtype, s.shape)}
    first = json.dumps([identity, PIECE, total, [slot.name for slot in slots], sorted(kept)], separators=(",", ":"))
    done = _resume(part, journal, first)
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | (0 if done else os.O_TRUNC), 0o644)
    try:
        if not done:
            journal.write_text(first + "\n", encoding="utf-8")
        os.ftruncate(descriptor, total)
        _write(descriptor, header, 0)
        if have is not None:
            _copy(have, [local[s.name] if s.name in kept else s for s in slots], kept, len(header), descriptor)
        planned = list(pieces(slots, len(header), lambda slot: slot.name not in kept))
        advance(sum(piece.end - piece.begin for piece in planned if piece.to in done))
        todo = [piece for piece in planned if piece.to not in done]
        _fetch_all(todo, read, descriptor, journal, advance)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    local_slots(part)  # refuses a file that does not hang together
    os.replace(part, target)
    journal.unlink()
    return sum(piece.end - piece.begin for piece in todo)


def local_slots(path: Path) -> list[Slot]:
    """The tensors of a local file."""
    return read_slots(str(path), path.stat().st_size, lambda begin, end: _part_of(path, begin, end))


def _resume(part: Path, journal: Path, first: str) -> set[int]:
    """Where the pieces begin that an earlier process has brought to the disk, for exactly this file."""
    if not part.exists() or not journal.exists():
        return set()
    lines = journal.read_text(encoding="utf-8", errors="replace").split("\n")
    # The last line may be cut short by what ended that process: only lines with an end count.
    return {int(line) for line in lines[1:-1] if line.isdigit()} if lines[0] == first else set()


def _fetch_all(
    todo: Iterable[Piece],
    read: Callable[[Piece], bytes],
    descriptor: int,
    journal: Path,
    advance: Callable[[int], Any],
) -> None:
    """Fetch pieces in parallel; each is on the disk before the journal says so. The first error ends it."""
    lock = Lock()
    with journal.open("a", encoding="utf-8") as log:

        def one(piece: Piece) -> None:
            data = read(piece)
            _write(descriptor, data, piece.to)
            os.fsync(descriptor)
            with lock:
                log.write(f"{piece.to}\n")
                log.flush()
                advance(len(data))

        with ThreadPoolExecutor(THREADS) as pool:
            try:
                for _ in pool.map(one, todo):
                    pass
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise


def _copy(source: Path, slots: Sequence[Slot], kept: set[str], start: int, descriptor: int) -> None:
    """Copy the tensors named in `kept` from a local file to their places among `slots`."""
    with source.open("rb") as file:
        for piece in pieces(slots, start, lambda slot: slot.name in kept):
            file.seek(piece.begin)
            _write(descriptor, file.read(piece.end - piece.begin), piece.to)


def _write(descriptor: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, at)
        view, at = view[written:], at + written


def _part_of(path: Path, begin: int, end: int) -> bytes:
    with path.open("rb") as file:
        file.seek(begin)
        return file.read(end - begin)
