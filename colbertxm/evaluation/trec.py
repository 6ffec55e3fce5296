"""The lines and columns of TREC files, packed where the name ends in `.gz`: all of a file or a UserError."""

from __future__ import annotations

import codecs
import gzip
import io
import math
import re
import zlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import cast

from colbertxm.errors import UserError
from colbertxm.evaluation.results import replacing

_INTEGER = re.compile(r"[+-]?[0-9]{1,15}")  # int() would also take 1_0 and Arabic digits
UNSOUND = ("\0", "\ufeff")  # a byte order mark would vanish at the start of a file


@lru_cache(maxsize=1 << 16)  # a run names the same passages again and again
def sound(word: str) -> bool:
    """Whether a reader of columns sees one word."""
    return word.split() == [word] and not any(unsound in word for unsound in UNSOUND)


def write_blocks(path: Path, blocks: Iterable[bytes]) -> None:
    """Writes whole lines. Raises UserError where the system refuses, or where making a block meets text that is no
    valid Unicode; the file that stood there then stays."""
    with replacing(path) as part, part.open("wb") as raw:
        try:
            if path.suffix == ".gz":
                # No name and no time in the header: the same run gives the same bytes.
                # Buffered, because GzipFile costs more per call than per byte.
                with (
                    gzip.GzipFile(filename="", mode="wb", compresslevel=5, fileobj=raw, mtime=0) as packed,
                    io.BufferedWriter(cast(io.RawIOBase, packed), 1 << 16) as buffer,
                ):
                    buffer.writelines(blocks)
            else:
                raw.writelines(blocks)
        except UnicodeEncodeError as error:
            raise UserError(f"cannot write {path}: {error.object!r} is no valid Unicode") from None


def read_columns(path: Path, count: int, layout: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, columns) of every line; lines end at a line feed alone, columns at ASCII white space."""
    for number, line in _read_lines(path):
        words = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).split()
        try:
            columns = [word.decode() for word in words]
        except UnicodeDecodeError:
            raise UserError(f"{path}, line {number}: not UTF-8; the file is damaged or of another kind") from None
        fault = None
        if len(columns) != count:
            fault = f"{len(columns)} columns instead of {count}"
        elif b"\0" in line:
            fault = "a NUL byte"
        elif " ".join(columns).split() != columns:
            # Such as U+2028 or a no-break space: other tools would split there, or strip it off.
            fault = "white space inside an id"
        if fault:
            raise UserError(f"{path}, line {number}: {fault}; a line should read `{layout}`")
        yield number, columns


def _read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        if path.suffix == ".gz" and path.stat().st_size == 0:
            raise EOFError("the file is empty")
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield number, line
    except FileNotFoundError:
        raise UserError(f"no file at {path}; give the right path") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}, after line {number}: damaged gzip ({error}); fetch or write it again") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def integer(text: str) -> int | None:
    """The whole number that `text` is, or None."""
    return int(text) if _INTEGER.fullmatch(text) else None


def finite(text: str) -> float | None:
    """The finite number that `text` is, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in text else None
