"""Blocks of lines into columns, by numpy: a run of seven million lines in seconds.

Nearly every line of nearly every run is plain: columns with one blank or tab between. Blocks of such lines are cut and
their numbers read without an object per word. Any other block goes through `run_lines`, line by line, which refuses it
by file and line or makes it plain; so what is refused does not depend on the way taken.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from colbertxm.evaluation.columns import Ids, Ints

LONGEST_ID = 1000  # bytes; every id takes as much memory as the longest
_SPACES = re.compile(r"[^\S \t\n]")  # white space that other tools split at, and bytes do not show
_PARTS, _NEVER = np.zeros((2, 256), np.bool_)
_PARTS[list(b" \t\n")] = True
_NEVER[list(b"\0\r\v\f\x1c\x1d\x1e\x1f")] = True  # white space to others, or refused
_KEPT = np.array([(1 << 8 * size) - 1 for size in range(8)] + [2**64 - 1], np.uint64)


@dataclass(frozen=True, eq=False)
class Cut:
    """A block of L lines of C words. `starts`, `ends`: [L, C], a word is block[start:end]."""

    block: bytes
    starts: Ints
    ends: Ints

    def column(self, place: int) -> Cut:
        """One column alone, C = 1."""
        return Cut(self.block, self.starts[:, place : place + 1], self.ends[:, place : place + 1])

    def longest(self) -> int:
        """Bytes of the longest word."""
        return int((self.ends - self.starts).max(initial=0))

    def ids(self, place: int) -> Ids:
        """[L]: a column of ids, as `columns.padded` makes them."""
        starts, sizes = self.starts[:, place], self.ends[:, place] - self.starts[:, place]
        width = -(-int(sizes.max(initial=1)) // 8)
        padded = self.block + bytes(8 * width)
        at = np.ndarray(len(padded) - 7, "<u8", padded, 0, (1,))  # the eight bytes that start at each place
        out = np.empty((len(starts), width), "<u8")
        for word in range(width):
            out[:, word] = at[starts + 8 * word] & _KEPT[np.clip(sizes - 8 * word, 0, 8)]
        return out.view(f"S{8 * width}")[:, 0]

    def numbers(self, place: int, dtype: type) -> npt.NDArray[Any] | None:
        """[L]: a column of numbers, or None where one of them is none."""
        wanted = np.zeros(self.starts.shape, np.bool_)
        wanted[:, place] = True
        sizes = np.diff(self.ends.ravel(), prepend=-1)
        text = np.frombuffer(self.block, np.uint8)[np.repeat(wanted.ravel(), sizes)].tobytes()
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # older versions of numpy warn where newer ones raise
            try:
                found: npt.NDArray[Any] = np.fromstring(text, dtype, sep=" ")
            except (ValueError, DeprecationWarning):
                return None
        return found if len(found) == len(self.starts) else None


def cut(block: bytes, columns: int) -> Cut | None:
    """The words of a block of whole lines, or None where any line is not plain."""
    data = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(data <= 32)
    if not _PARTS[data[ends]].all():
        if _NEVER[data[ends]].any():
            return None
        ends = np.flatnonzero(_PARTS[data])  # control characters inside ids: odd, but nobody splits there
    if len(ends) % columns or len(ends) // columns != block.count(b"\n"):
        return None
    if (data[ends[columns - 1 :: columns]] != 10).any():
        return None
    starts = np.append(0, ends[:-1] + 1)
    if (starts >= ends).any() or not (block.isascii() or _decodes(block)):
        return None
    return Cut(block, starts.reshape(-1, columns), ends.reshape(-1, columns))


def _decodes(block: bytes) -> bool:
    try:
        return not _SPACES.search(block.decode())
    except UnicodeDecodeError:
        return False


@dataclass(frozen=True, eq=False)
class Part:
    """The lines of one block: queries [L] as numbers, ids, ranks and scores."""

    query: Ints
    passages: Ids
    ranks: Ints
    scores: npt.NDArray[np.float64]


def parse(block: bytes, columns: int, number_of: Callable[[str], int]) -> Part | None:
    """The columns of a block of TREC's lines (6) or MS MARCO's (3), or None where any is not plain. `number_of` gives
    a query's number. MS MARCO's lines have no scores: minus the rank stands in their place."""
    lines = cut(block, columns)
    trec = columns == 6
    id_place, rank_place = (2, 3) if trec else (1, 2)
    if lines is None or lines.column(rank_place).longest() > 15:
        return None
    if max(lines.column(0).longest(), lines.column(id_place).longest()) > LONGEST_ID:
        return None
    ranks = lines.numbers(rank_place, np.int64)
    if ranks is None:
        return None
    scores = lines.numbers(4, np.float64) if trec else -ranks.astype(np.float64)
    if scores is None or not np.isfinite(scores).all():
        return None
    return Part(_queries(lines.ids(0), number_of), lines.ids(id_place), ranks, scores)


def _queries(ids: Ids, number_of: Callable[[str], int]) -> Ints:
    # A query's lines stand together, so few ids need to be looked at.
    first = np.flatnonzero(np.append(True, ids[1:] != ids[:-1]))
    numbers = np.array([number_of(name.decode()) for name in ids[first].tolist()], np.int64)
    return np.repeat(numbers, np.diff(np.append(first, len(ids))))
