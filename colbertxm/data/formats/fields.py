"""What the readers share: the fields of a tab-separated line, the values of a JSON line, ids that stand once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from colbertxm.data.formats.lines import Refused

IN_NO_ID = frozenset("\t\r\n\0")
DIGITS = 18
"""Of the longest id that is looked at as a number."""


def split(line: str, names: tuple[str, ...]) -> list[str]:
    """The tab-separated fields of a line, as many as `names`. Raises Refused for another number of them: none of
    these formats escapes a tab, so one too many means that a text holds one and the columns have shifted."""
    found = line.split("\t")
    if len(found) != len(names):
        wanted = "<TAB>".join(names)
        raise Refused(f"does not hold {wanted}", f"expected {wanted}, found {len(found)} fields")
    return found


def known(text_id: str) -> str:
    """An id of a tsv: anything but nothing."""
    if not text_id:
        raise Refused("has an empty id")
    return text_id


def worded(text: str, what: str) -> str:
    """A text that must say something: a query, or a passage to train on."""
    if not text or text.isspace():
        raise Refused(f"has an empty {what}")
    return text


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_constant)


def value(line: str) -> Any:
    """The JSON value of a line. Raises Refused for what is not JSON (NaN included), and for texts that hold a NUL or
    half a surrogate pair, which JSON can escape and UTF-8 cannot carry."""
    try:
        found = _DECODER.decode(line)
        escaped = "".join(_texts(found)) if "\\u" in line else ""
        escaped.encode()
    except UnicodeEncodeError:
        raise Refused("is not UTF-8 text", "holds half a surrogate pair (\\ud800 to \\udfff alone)") from None
    except (ValueError, RecursionError) as error:
        raise Refused("is not JSON", f"not JSON ({error})") from None
    if "\0" in escaped:
        raise Refused("holds a NUL byte", "holds an escaped NUL (\\u0000)")
    return found


def _texts(found: Any) -> list[str]:
    if isinstance(found, str):
        return [found]
    if isinstance(found, dict):
        return [text for item in found.items() for part in item for text in _texts(part)]
    return [text for part in found for text in _texts(part)] if isinstance(found, list) else []


def record(line: str) -> dict[str, Any]:
    found = value(line)
    if not isinstance(found, dict):
        raise Refused("is not a JSON object", f"not a JSON object but a {type(found).__name__}")
    return found


def id_of(found: Any, key: str) -> str:
    """An id out of JSON: a string, or a whole number as MS MARCO's files write it."""
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    if not isinstance(found, str):
        raise Refused(f"has no {key!r}", f"expected an id in {key!r}, found {short(found)}")
    if IN_NO_ID.intersection(found):
        raise Refused("has an id with a tab or a line end", f"the id {found!r} holds a tab or a line end")
    return known(found)


def text_of(found: dict[str, Any], key: str) -> str:
    text = found.get(key)
    if not isinstance(text, str):
        raise Refused(f"has no {key!r}", f"expected a text in {key!r}, found {short(text)}")
    return text


def ids_of(found: Any, key: str) -> tuple[str, ...]:
    if not isinstance(found, list):
        raise Refused(f"has no list {key!r}", f"expected a list of ids in {key!r}, found {short(found)}")
    return tuple(id_of(item, key) for item in found)


def short(found: Any) -> str:
    """A value as an error message shows it."""
    if found is None:
        return "nothing"
    written = repr(found)
    return written if len(written) <= 40 else f"{written[:40]}..."


class Ids:
    """The ids of a collection, to find one that stands a second time.

    Ids that count up by one from line to line, as MS MARCO's passages do, cost nothing; every other id costs about
    150 bytes, which is 1 GB at 7 million."""

    def __init__(self) -> None:
        self.seen: dict[str, str | int] = {}
        """Id -> line, with its file before it where that is not the first one."""
        self._path: Path | None = None
        self._prefix = ""
        self._start = self._end = self._line = 0  # the run: ids [start, end) from line `line` on
        self._next: str | None = None

    def of(self, path: Path) -> Ids:
        """The same ids, from here on of `path`."""
        if self._path is None:
            self._path = path
        self._prefix = "" if path == self._path else f"{path}:"
        return self

    def add(self, text_id: str, number: int) -> None:
        """Raises Refused, naming both lines, where the id is known."""
        if not self._prefix and text_id == self._next and number == self._line + self._end - self._start:
            if text_id not in self.seen:
                self._end += 1
                self._next = str(self._end)
                return
        elif self._next is None and not self._prefix and _numeric(text_id):
            self._start, self._line, self._end = int(text_id), number, int(text_id) + 1
            if str(self._start) == text_id:
                self._next = str(self._end)
                return
            self._next = ""  # "007": no run; an empty string is no id
        first = self._first(text_id)
        if first:
            raise Refused(
                "has an id that stands twice",
                f"the id {text_id!r} stands here a second time (first in line {first}): ids must be unique",
            )
        self.seen[text_id] = f"{self._prefix}{number}" if self._prefix else number

    def _first(self, text_id: str) -> str | int:
        if text_id in self.seen:
            return self.seen[text_id]
        if self._next and _numeric(text_id) and self._start <= int(text_id) < self._end:
            same = str(int(text_id)) == text_id
            return self._line + int(text_id) - self._start if same else ""
        return ""


def _numeric(text_id: str) -> bool:
    return len(text_id) <= DIGITS and text_id.isascii() and text_id.isdigit()
