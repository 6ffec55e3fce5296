"""Strings in a file of bytes: read when they are asked for, so that opening an index of millions costs nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def packed(strings: Sequence[str]) -> tuple[Array, Array]:
    """The strings' bytes end to end, uint8, and where each ends, [N] int64."""
    raw = [string.encode("utf-8", "surrogatepass") for string in strings]
    ends = np.cumsum([len(r) for r in raw], dtype=np.int64) if raw else np.empty(0, np.int64)
    return np.frombuffer(b"".join(raw), np.uint8), ends


def kept(pair: tuple[Array, Array], flags: Array) -> tuple[Array, Array]:
    """Those of `packed` strings with their flag [N] set."""
    raw, ends = pair
    lengths = np.diff(ends, prepend=0)
    return raw[np.repeat(flags, lengths)], np.cumsum(lengths[flags], dtype=np.int64)


class _Lazy(Sequence[str]):
    """A sequence by its `_at`: one string, of a place from 0 to the length."""

    def _at(self, n: int) -> str:
        raise NotImplementedError

    @overload
    def __getitem__(self, n: int) -> str: ...
    @overload
    def __getitem__(self, n: slice) -> list[str]: ...
    def __getitem__(self, n: int | slice) -> str | list[str]:
        if isinstance(n, slice):
            return [self._at(i) for i in range(*n.indices(len(self)))]
        if not -len(self) <= n < len(self):
            raise IndexError(n)
        return self._at(n % len(self))


class Strings(_Lazy):
    """Several lists of `packed` strings as one."""

    def __init__(self, lists: Sequence[tuple[Array, Array]]) -> None:
        self._lists = lists
        self._bounds = np.cumsum([0, *(len(ends) for _, ends in lists)])

    def __len__(self) -> int:
        return int(self._bounds[-1])

    def _at(self, n: int) -> str:
        which = int(np.searchsorted(self._bounds, n, side="right")) - 1
        raw, ends = self._lists[which]
        at = n - int(self._bounds[which])
        return bytes(raw[int(ends[at - 1]) if at else 0 : int(ends[at])]).decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        for raw, ends in self._lists:
            whole, first = bytes(raw), 0
            for last in ends.tolist():
                yield whole[first:last].decode("utf-8", "surrogatepass")
                first = last


class Span(_Lazy):
    """Strings `first` to `last` of others."""

    def __init__(self, whole: Sequence[str], first: int, last: int) -> None:
        self.whole, self.first, self.last = whole, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def _at(self, n: int) -> str:
        return self.whole[self.first + n]


class Names(_Lazy):
    """A few names by their numbers, one a document: languages."""

    def __init__(self, numbers: Array, names: Sequence[str]) -> None:
        self.numbers, self.names = numbers, names

    def __len__(self) -> int:
        return len(self.numbers)

    def _at(self, n: int) -> str:
        return self.names[int(self.numbers[n])]

    def __iter__(self) -> Iterator[str]:
        names = self.names
        return (names[i] for i in self.numbers.tolist())


def distinct(names: Sequence[str]) -> set[str]:
    """The names that occur."""
    if isinstance(names, Names):
        return {names.names[i] for i in np.flatnonzero(np.bincount(names.numbers)).tolist()}
    return set(names)


def equal(names: Sequence[str], name: str) -> NDArray[np.bool_]:
    """Where `name` stands, [N]."""
    if not isinstance(names, Names):
        return np.fromiter((other == name for other in names), bool, len(names))
    if name not in names.names:
        return np.zeros(len(names), bool)
    return np.asarray(names.numbers == list(names.names).index(name))
