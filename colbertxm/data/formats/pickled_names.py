"""The names that a pickle of scores may use, and what stands in for them: nothing of numpy or codecs is called."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any


class Unsafe(Exception):
    """The pickle holds something else than dicts, lists, strings and numbers, or is damaged."""


class DType:
    """A stand-in for numpy.dtype: its code and byte order."""

    CODES = {"f2": "e", "f4": "f", "f8": "d", "i4": "i", "i8": "q", "u4": "I", "u8": "Q"}

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or code not in self.CODES:
            raise Unsafe(f"a numpy array of {code!r}")
        self.code, self.order = self.CODES[code], "<"

    def state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|"):
            raise Unsafe("a numpy dtype with fields")
        self.order = ">" if state[1] == ">" else "<"


def _scalar(dtype: Any, raw: Any) -> float:
    if not isinstance(dtype, DType) or not isinstance(raw, bytes):
        raise Unsafe("a numpy scalar of another kind")
    return float(struct.unpack(dtype.order + dtype.code, raw)[0])


def _encode(text: Any, coding: Any) -> bytes:
    """How Python 3 writes bytes in protocol 2."""
    if not isinstance(text, str) or coding != "latin1":
        raise Unsafe("an encoded text")
    return text.encode("latin1")


NAMES: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): DType,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("_codecs", "encode"): _encode,
}
