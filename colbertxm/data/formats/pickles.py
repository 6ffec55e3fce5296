"""A pickle of nested dicts of numbers, read as data: the one published file that we cannot have in another form.

sentence-transformers publishes its cross-encoder scores as a pickled `{query id: {passage id: score}}`. Python's
unpickler calls whatever a pickle names; this is a reader of its own for the few opcodes that dicts, lists, strings and
numbers are made of (Python's `pickletools` documents them). It imports nothing and calls nothing that the file names:
of all names it knows three of numpy's, and puts functions of its own in their place. Everything else is refused.

Memory: the inner dicts go to the caller a thousand at a time, as the pickler wrote them, and are then forgotten; the
whole of 160 million scores as Python objects would take 20 GB.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from colbertxm.data.formats.pickled_names import NAMES, DType, Unsafe

SHORT = 1 << 16
"""Bytes of the longest string: what is read are ids and numbers."""


class _Dict(dict[Any, Any]):
    """A dict out of the pickle. `given`: the caller has had it, and it is empty now; the memo may still name it."""

    __slots__ = ("given",)

    def __init__(self) -> None:
        super().__init__()
        self.given = False


class _Mark:
    """Where a group on the stack begins."""


MARK = _Mark()


def read_nested(file: BinaryIO) -> Iterator[tuple[Any, dict[Any, Any]]]:
    """(outer key, inner dict) of each item of a pickled dict of dicts. Raises Unsafe; EOFError where it ends early."""
    reader = _Reader(file)
    while not reader.done:
        reader.step()
        if reader.ready:
            yield from reader.ready
            reader.forget()


class _Reader:
    """A stack machine that steps to the next opcode that fills the outermost dict."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.stack, self.memo = file, list[Any](), dict[int, Any]()
        self.root: _Dict | None = None
        self.ready: list[tuple[Any, _Dict]] = []
        self.done = False
        protocol = self.read(2)
        if protocol[0] != 0x80 or not 2 <= protocol[1] <= 5:
            raise Unsafe("no pickle of protocol 2 to 5")

    def read(self, size: int) -> bytes:
        found = self.file.read(size)
        if len(found) < size:
            raise EOFError
        return found

    def number(self, kind: str) -> Any:
        return struct.unpack(kind, self.read(struct.calcsize(kind)))[0]

    def step(self) -> None:
        """Run opcodes until items of the outermost dict are ready, or the pickle ends."""
        read, push, fast = self.file.read, self.stack.append, _FAST
        try:
            while not self.ready and not self.done:
                code = read(1)
                if code in fast:  # three of four opcodes are numbers
                    size, unpack = fast[code]
                    push(unpack(read(size))[0])
                elif code in _OPCODES:
                    _OPCODES[code](self)
                elif code:
                    raise Unsafe(f"opcode {code!r}")
                else:
                    raise EOFError
        except struct.error:
            raise EOFError from None
        except (IndexError, TypeError, AttributeError, KeyError, ValueError) as error:
            raise Unsafe(f"a damaged stack ({type(error).__name__})") from None

    def forget(self) -> None:
        for _, inner in self.ready:
            inner.clear()
            inner.given = True
        self.ready = []

    def text(self, size: int) -> None:
        if size > SHORT:
            raise Unsafe(f"a string of {size} bytes")
        self.stack.append(self.read(size).decode("utf-8"))

    def bytes(self, size: int) -> None:
        if size > SHORT:
            raise Unsafe(f"a string of {size} bytes")
        self.stack.append(self.read(size))

    def long(self, size: int) -> None:
        if size > 16:
            raise Unsafe(f"a number of {size} bytes")
        self.stack.append(int.from_bytes(self.read(size), "little", signed=True))

    def group(self) -> list[Any]:
        """What stands above the last mark."""
        at = len(self.stack) - 1
        while self.stack[at] is not MARK:
            at -= 1
            if at < 0:
                raise Unsafe("a damaged stack (no mark)")
        found = self.stack[at + 1 :]
        del self.stack[at:]
        return found

    def dict(self) -> None:
        made = _Dict()
        self.root = made if self.root is None else self.root
        self.stack.append(made)

    def items(self, group: list[Any]) -> None:
        target = self.stack[-1]
        pairs = list(zip(group[::2], group[1::2], strict=True))
        if not isinstance(target, _Dict) or target.given:
            raise Unsafe("items of something that is no dict")
        if target is not self.root:
            before = len(target)
            target.update(pairs)
            if len(target) != before + len(pairs):
                raise Unsafe("a key that stands twice in one dict")
            return
        for _, inner in pairs:
            if not isinstance(inner, _Dict) or inner is self.root or inner.given:
                raise Unsafe("a key without a dict of its own")
        if len({id(inner) for _, inner in pairs}) != len(pairs):
            raise Unsafe("one dict under two keys")
        self.ready = pairs

    def name(self, module: Any, name: Any) -> None:
        if (module, name) not in NAMES:
            raise Unsafe(f"the name {module}.{name}")
        self.stack.append(NAMES[module, name])

    def line(self) -> str:
        return self.file.readline(SHORT).decode("utf-8").rstrip("\n")

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(arguments, tuple) or function not in NAMES.values():
            raise Unsafe("a call")
        self.stack.append(function(*arguments))

    def build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], DType):
            raise Unsafe("an object")
        self.stack[-1].state(state)

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise Unsafe("items of something that is no list")
        self.stack[-1].extend(items)

    def tuple(self, items: list[Any]) -> None:
        # Python hashes nested tuples without a limit of depth: as a key, a deep one would end the process.
        if any(type(item) is tuple for item in items):
            raise Unsafe("a tuple within a tuple")
        self.stack.append(tuple(items))

    def last(self, size: int) -> list[Any]:
        if len(self.stack) < size:
            raise Unsafe("a damaged stack (too few values)")
        found = self.stack[-size:]
        del self.stack[-size:]
        return found

    def stop(self) -> None:
        if self.root is None or len(self.stack) != 1 or self.stack[0] is not self.root:
            raise Unsafe("something else than a dict of dicts")
        self.done = True


_FAST: dict[bytes, tuple[int, Callable[[bytes], tuple[Any, ...]]]] = {
    b"G": (8, struct.Struct(">d").unpack),
    b"J": (4, struct.Struct("<i").unpack),
    b"M": (2, struct.Struct("<H").unpack),
    b"K": (1, struct.Struct("<B").unpack),
}
_OPCODES: dict[bytes, Callable[[_Reader], Any]] = {
    b"\x95": lambda r: r.read(8),  # FRAME: how much to read at once, no more than a hint
    b"}": _Reader.dict,
    b"(": lambda r: r.stack.append(MARK),
    b"u": lambda r: r.items(r.group()),
    b"s": lambda r: r.items(r.last(2)),
    b"\x8a": lambda r: r.long(r.number("<B")),
    b"X": lambda r: r.text(r.number("<I")),
    b"\x8c": lambda r: r.text(r.number("<B")),
    b"B": lambda r: r.bytes(r.number("<I")),
    b"C": lambda r: r.bytes(r.number("<B")),
    b"]": lambda r: r.stack.append([]),
    b"a": lambda r: r.extend([r.stack.pop()]),
    b"e": lambda r: r.extend(r.group()),
    b")": lambda r: r.stack.append(()),
    b"\x85": lambda r: r.tuple(r.last(1)),
    b"\x86": lambda r: r.tuple(r.last(2)),
    b"\x87": lambda r: r.tuple(r.last(3)),
    b"t": lambda r: r.tuple(r.group()),
    b"N": lambda r: r.stack.append(None),
    b"\x88": lambda r: r.stack.append(True),
    b"\x89": lambda r: r.stack.append(False),
    b"q": lambda r: r.memo.__setitem__(r.number("<B"), r.stack[-1]),
    b"r": lambda r: r.memo.__setitem__(r.number("<I"), r.stack[-1]),
    b"\x94": lambda r: r.memo.__setitem__(len(r.memo), r.stack[-1]),
    b"h": lambda r: r.stack.append(r.memo[r.number("<B")]),
    b"j": lambda r: r.stack.append(r.memo[r.number("<I")]),
    b"0": lambda r: r.stack.pop(),
    b"c": lambda r: r.name(r.line(), r.line()),
    b"\x93": lambda r: r.name(*r.last(2)),
    b"R": _Reader.call,
    b"b": _Reader.build,
    b".": _Reader.stop,
}
