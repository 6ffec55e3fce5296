"""Huge tab-separated files as blocks of bytes: numpy finds the lines, fields and numbers, no Python line by line.

The general readers of data/formats give one object a line, which is slow for 8.8 million passages or 39.8 million
triples. The rules are the same: only LF and CRLF end a line; a BOM at the start, a missing last newline and empty lines
at the end are allowed; whatever cannot be read is a UserError with file, line and reason.
"""

from __future__ import annotations

import contextlib
import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from colbertxm.errors import UserError
from colbertxm.progress import progress

BLOCK = 2**21  # bytes: the arrays that are made of a block stay in the processor's cache
LONGEST_LINE = 2**28  # bytes: what has no newline for so long is no file of lines
LONGEST_NUMBER = 18  # digits that always fit int64
BOM = b"\xef\xbb\xbf"
TAB, LF, CR, ZERO = 9, 10, 13, 48
Positions = NDArray[np.int64]


@dataclass(frozen=True)
class Fields:
    """F fields in each of L lines: field (l, f) is raw[starts[l, f] : ends[l, f]]. `first` numbers the first line."""

    raw: bytes
    starts: Positions
    ends: Positions
    first: int
    path: Path

    def where(self, line: int) -> str:
        """`file:line` of a line of this block."""
        return f"{self.path}:{self.first + line}"

    def field(self, line: int, field: int) -> str:
        """The text of one field."""
        return self.raw[self.starts[line, field] : self.ends[line, field]].decode("utf-8", "replace")


def read_fields(path: Path, columns: int | None = None, text: bool = True) -> Iterator[Fields]:
    """The fields of a file (gzip where it ends in .gz), block by block, with a progress bar. Every line must have
    `columns` fields (None: as many as the first line). Without `text` nobody looks whether it is UTF-8: for fields
    that are parsed as numbers anyway."""
    first = 1
    for raw in _whole_lines(path):
        if columns is None:
            columns = raw[: raw.index(b"\n")].count(b"\t") + 1
        if text:
            _check_text(raw, path, first)
        fields = _split(raw, columns, path, first)
        yield fields
        first += len(fields.starts)


def integers(raw: bytes, starts: Positions, ends: Positions) -> tuple[Positions, NDArray[np.bool_]]:
    """(values, which are numbers): fields that are whole numbers as Python prints them, of at most 18 digits. `007`
    is none: printed again it would not be the same id."""
    data = np.frombuffer(raw, np.uint8)
    lengths = ends - starts
    values = np.zeros(starts.shape, np.int64)
    longest = min(int(lengths.max(initial=0)), LONGEST_NUMBER)
    good = (lengths > 0) & (lengths <= LONGEST_NUMBER)
    for place in range(longest):  # the digits from the right
        at = ends - 1 - place
        inside = at >= starts
        digits = data[np.where(inside, at, starts)] - np.uint8(ZERO)  # below ZERO wraps to a large number
        good &= (digits <= 9) | ~inside
        values += np.where(inside, digits, np.uint8(0)) * np.int64(10**place)
    good &= (data[np.minimum(starts, len(data) - 1)] != ZERO) | (lengths == 1)
    return values, good


def _whole_lines(path: Path) -> Iterator[bytes]:
    """Blocks of whole lines, each with its newline. Empty lines at the end of the file are no rows, so those at the
    end of a block wait until another line follows them."""
    rest, head = b"", True
    for block in _bytes(path):
        rest += block
        if head and len(rest) >= len(BOM):
            rest, head = rest.removeprefix(BOM), False
        end = rest.rfind(b"\n", max(0, len(rest) - len(block))) + 1
        if content := rest[:end].rstrip(b"\r\n"):
            end = rest.index(b"\n", len(content)) + 1
            yield rest[:end]
            rest = rest[end:]
        elif len(rest) > LONGEST_LINE:
            raise UserError(f"{path}: a line is longer than {LONGEST_LINE >> 20} MB: is it a file of lines?")
    if head:
        rest = rest.removeprefix(BOM)
    if not re.fullmatch(rb"(\r?\n)*\r?", rest):
        yield rest if rest.endswith(b"\n") else rest + b"\n"


def _bytes(path: Path) -> Iterator[bytes]:
    try:
        with contextlib.ExitStack() as stack:
            on_disk = stack.enter_context(path.open("rb"))
            advance = progress(path.stat().st_size, f"bytes of {path.name}")
            unpacked = stack.enter_context(gzip.GzipFile(fileobj=on_disk)) if path.suffix == ".gz" else on_disk
            source: IO[bytes] = unpacked  # type: ignore[assignment]
            before = 0
            while block := source.read(BLOCK):
                yield block
                if (here := on_disk.tell()) > before:
                    advance(here - before)
                before = here
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is truncated or damaged ({error}): fetch it again") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _check_text(raw: bytes, path: Path, first: int) -> None:
    if (at := raw.find(b"\0")) >= 0:
        line = first + raw.count(b"\n", 0, at)
        raise UserError(f"{path}:{line}: holds a NUL byte: is it a binary file?")
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first + raw.count(b"\n", 0, error.start)
        raise UserError(f"{path}:{line}: is not UTF-8 text ({error.reason}): convert it to UTF-8") from None


def _split(raw: bytes, columns: int, path: Path, first: int) -> Fields:
    data = np.frombuffer(raw, np.uint8)
    cuts = np.flatnonzero((data == TAB) | (data == LF))
    table = cuts.reshape(-1, columns) if len(cuts) % columns == 0 else cuts[:0].reshape(0, columns)
    fits = len(table) and (data[table[:, :-1]] == TAB).all() and (data[table[:, -1]] == LF).all()
    if not fits:
        raise _wrong_line(data, columns, path, first)
    starts = np.empty_like(table)
    starts.flat[0], starts.flat[1:] = 0, cuts[:-1] + 1
    ends = table.copy()
    ends[:, -1] -= data[ends[:, -1] - 1] == CR
    return Fields(raw, starts, ends, first, path)


def _wrong_line(data: NDArray[np.uint8], columns: int, path: Path, first: int) -> UserError:
    """The error for the first line that has not `columns` fields."""
    newlines = np.flatnonzero(data == LF)
    tabs = np.diff(np.searchsorted(np.flatnonzero(data == TAB), newlines), prepend=0)
    line = int(np.flatnonzero(tabs != columns - 1)[0])
    return UserError(f"{path}:{first + line}: expected {columns} fields between tabs, found {tabs[line] + 1}")
