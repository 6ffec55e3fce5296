"""One reader for plain, gzip and zstd text: lines by number, and what is done with a line that cannot be read.

Only LF and CRLF end a line (`str.splitlines` would cut at U+2028 too, and shift every row below). A byte order mark at
the start is dropped. Memory is bounded by the longest line, at most `LONGEST` bytes.
"""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar

from colbertxm.errors import MissingExtra, UserError, nearest

LONGEST = 64 << 20
"""Bytes of the longest line that is read: MS MARCO's longest document has 3 MB, a binary file may have no line end."""
ON_ERROR = ("raise", "count")
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
NAMED = {".gz": GZIP, ".gzip": GZIP, ".zst": ZSTD, ".zstd": ZSTD}
BOM = b"\xef\xbb\xbf"

Row = TypeVar("Row")
Parse = Callable[[int, str], "Row | None"]
"""(line number, line) -> row, or None for a line that is rightly no row, such as a header; raises `Refused`."""


class Refused(Exception):
    """A line that cannot be read. `kind` is what is counted (a handful in all), `detail` what is said of this line."""

    def __init__(self, kind: str, detail: str | None = None) -> None:
        super().__init__(detail or kind)
        self.kind = kind


class Skipped:
    """The lines that were left out under `on_error="count"`, by reason."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        """Reason -> file and line where it stood first."""
        self.lines = 0
        """Lines read so far, those left out included."""

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def add(self, kind: str, where: str, times: int = 1) -> None:
        self.counts[kind] += times
        self.first.setdefault(kind, where)

    def __str__(self) -> str:
        reasons = ", ".join(f"{n} x {kind} (first: {self.first[kind]})" for kind, n in self.counts.most_common())
        return f"{self.total} of {self.lines} lines left out: {reasons}" if self.counts else "no line left out"


class Rows(Iterator[Row], Generic[Row]):
    """An iterator over the rows of one file, or of several that are one collection, in order.

    `parser` is called once per file. Raises UserError for an unknown `on_error` at once, and while iterating for what
    cannot be read. Under "count", `skipped` is printed to stderr at the end where it holds anything."""

    def __init__(self, paths: Path | Sequence[Path], parser: Callable[[Path], Parse[Row]], on_error: str) -> None:
        if on_error not in ON_ERROR:
            raise UserError(f"on_error={on_error!r}{nearest(str(on_error), ON_ERROR)}: it can be {', '.join(ON_ERROR)}")
        self.paths = [paths] if isinstance(paths, Path) else list(paths)
        self.skipped = Skipped()
        self._parser, self._raises = parser, on_error == "raise"
        self._rows = self._read()

    def __next__(self) -> Row:
        return next(self._rows)

    def _read(self) -> Iterator[Row]:
        for path in self.paths:
            yield from self._file(path)
        if self.skipped.counts:
            print(self.skipped, file=sys.stderr, flush=True)

    def _file(self, path: Path) -> Iterator[Row]:
        parse, skipped = self._parser(path), self.skipped
        blank, blanks = 0, 0  # the first of the empty lines that stand just above, and how many
        for number, raw in raw_lines(path):
            skipped.lines += 1
            try:
                line = decode(raw, number)
                if not line:
                    blank, blanks = blank or number, blanks + 1
                    continue
                if blanks:  # empty lines at the end of a file are no rows; elsewhere a row is missing
                    self._refuse(path, blank, Refused("is empty"), blanks)
                    blank = blanks = 0
                row = parse(number, line)
            except Refused as refused:
                self._refuse(path, number, refused)
                continue
            if row is not None:
                yield row

    def _refuse(self, path: Path, number: int, refused: Refused, times: int = 1) -> None:
        if self._raises:
            raise UserError(f"{path}:{number}: {refused}") from None
        self.skipped.add(refused.kind, f"{path}:{number}", times)


def read_lines(path: Path, on_error: str = "raise") -> Rows[tuple[int, str]]:
    """(line number from 1, line without its end) of every line that is not empty."""
    return Rows(path, lambda _: lambda number, line: (number, line), on_error)


def decode(raw: bytes, number: int) -> str:
    """A line's text. Raises Refused for NUL and for what is not UTF-8."""
    if number == 1:
        raw = raw.removeprefix(BOM)
    raw = raw.removesuffix(b"\n").removesuffix(b"\r")
    if b"\0" in raw:
        raise Refused("holds a NUL byte", f"holds a NUL byte (byte {raw.index(0) + 1} of the line)")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(
            "is not UTF-8 text", f"is not UTF-8 text ({error.reason}, byte {error.start + 1} of the line)"
        ) from None


def raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number, bytes with the line end) of every line, decompressed. Raises UserError where the file cannot be read,
    ends inside its compressed stream, fails its checksum, or has a line longer than LONGEST."""
    number = 0
    try:
        with open_bytes(path) as file:
            while raw := file.readline(LONGEST + 1):
                number += 1
                if len(raw) > LONGEST:
                    raise UserError(f"{path}:{number}: longer than {LONGEST >> 20} MiB: is it a text file?")
                yield number, raw
    except EOFError:
        raise UserError(
            f"{path}:{number + 1}: the compressed file ends early (after {number} whole lines): fetch it again"
        ) from None
    except (gzip.BadGzipFile, zlib.error, Damaged) as error:
        raise UserError(f"{path}:{number + 1}: the compressed file is damaged ({error}): fetch it again") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


class Damaged(Exception):
    """A zstd stream that does not decompress."""


def open_bytes(path: Path) -> BinaryIO:
    """A file, decompressed. Its first bytes say how; a name that says otherwise is an error, since the file would be
    another than its name: a page of a web server, an empty download. Raises OSError, UserError."""
    with path.open("rb") as file:
        start = file.read(4)
    for suffix, magic in NAMED.items():
        if path.suffix.lower() == suffix and not start.startswith(magic):
            found = "is empty" if not start else f"does not start as a {suffix} file does"
            raise UserError(f"{path}:1: {found}: fetch it again, or rename it if it is plain text")
    if start.startswith(GZIP):
        return io.BufferedReader(gzip.GzipFile(path), 1 << 20)  # type: ignore[arg-type]
    if start == ZSTD:
        return io.BufferedReader(_Zstd(path), 1 << 20)
    return path.open("rb", buffering=1 << 20)


class _Zstd(io.RawIOBase):
    """zstd frames as one stream. zstandard's own stream reader takes a frame that ends early for a whole one."""

    PIECE = 1 << 14  # compressed bytes at a time: a hostile frame can grow 30,000-fold

    def __init__(self, path: Path) -> None:
        try:
            import zstandard
        except ImportError:
            raise MissingExtra("zstandard", "zstd") from None
        self._file, self._zstandard = path.open("rb"), zstandard
        self._chunks = self._decompressed()
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._left = memoryview(chunk)
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size

    def _decompressed(self) -> Iterator[bytes]:
        frame, data = None, b""
        while data := data or self._file.read(self.PIECE):
            frame = frame or self._zstandard.ZstdDecompressor().decompressobj()
            try:
                yield frame.decompress(data)
            except self._zstandard.ZstdError as error:
                raise Damaged(str(error)) from None
            data = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
        if frame is not None:
            raise EOFError
