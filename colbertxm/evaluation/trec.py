"""The lines and columns of TREC files, packed where the name ends in `.gz` or `.zst`: all of a file or a UserError."""

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
from typing import IO, Any, cast

from colbertxm.data.formats.lines import Damaged, open_bytes
from colbertxm.errors import MissingExtra, UserError
from colbertxm.evaluation.results import replacing

_INTEGER = re.compile(r"[+-]?[0-9]{1,15}")  # int() would also take 1_0 and Arabic digits
BLOCK = 1 << 21  # bytes of lines that are looked at together: what fits a processor's cache
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
            elif path.suffix == ".zst":
                with _zstandard().ZstdCompressor(level=5).stream_writer(raw, closefd=False) as packed:
                    for block in blocks:
                        packed.write(block)
            else:
                raw.writelines(blocks)
        except UnicodeEncodeError as error:
            raise UserError(f"cannot write {path}: {error.object!r} is no valid Unicode") from None


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError:
        raise MissingExtra("zstandard", "zstd") from None
    return zstandard


def read_columns(path: Path, count: int, layout: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, columns) of every line; lines end at a line feed alone, columns at ASCII white space."""
    for first, block in read_blocks(path):
        yield from split_lines(path, first, block, count, layout)


def split_lines(path: Path, first: int, block: bytes, count: int, layout: str) -> Iterator[tuple[int, list[str]]]:
    """`read_columns` of one block, whose first line has the number `first`."""
    for number, line in enumerate(block[:-1].split(b"\n"), first):
        try:
            columns = [word.decode() for word in line.split()]
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


def read_blocks(path: Path, size: int = BLOCK) -> Iterator[tuple[int, bytes]]:
    """(number of the first line, whole lines of about `size` bytes), without a byte order mark; the last line gets a
    line feed where it has none. An empty file gives nothing."""
    number, rest = 1, b""
    try:
        if path.suffix == ".gz" and path.stat().st_size == 0:
            raise EOFError("the file is empty")
        with _open(path) as file:
            while block := file.read(size):
                if number == 1 and not rest:
                    block = block.removeprefix(codecs.BOM_UTF8)
                end = block.rfind(b"\n") + 1
                if not end:
                    rest += block
                    continue
                lines, rest = rest + block[:end], block[end:]
                yield number, lines
                number += lines.count(b"\n")
        if rest:
            yield number, rest + b"\n"
    except FileNotFoundError:
        raise UserError(f"no file at {path}; give the right path") from None
    except (EOFError, zlib.error, gzip.BadGzipFile, Damaged) as error:
        kind, why = "zstd" if path.suffix == ".zst" else "gzip", str(error) or "it ends early"
        raise UserError(f"{path}, after line {number - 1}: damaged {kind} ({why}); fetch or write it again") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path))
    return open_bytes(path) if path.suffix == ".zst" else path.open("rb")


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
