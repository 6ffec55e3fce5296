"""Values out of a YAML file that a person wrote: each one checked, each error with file and key in one line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from colbertxm.errors import UserError, nearest
from colbertxm.languages import language

T = TypeVar("T")
MEASURES = ("RR", "R", "nDCG")


class Fields:
    """Reads one file, so that every error can name it and the key."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def wrong(self, key: str, what: str) -> UserError:
        """The error for a value."""
        return UserError(f"{self.path}, {key}: {what}")

    def keys(self, key: str, value: object, wanted: Sequence[str]) -> dict[str, Any]:
        """A mapping with exactly these keys."""
        if not isinstance(value, dict):
            raise self.wrong(key, f"is no mapping of {', '.join(wanted)}")
        for name in value:
            if name not in wanted:
                raise self.wrong(key, f"has no key {name!r}{nearest(str(name), wanted)}")
        if missing := [name for name in wanted if name not in value]:
            raise self.wrong(key, f"lacks {', '.join(missing)}")
        return dict(value)

    def mapping(self, key: str, value: object, read: Callable[[str, object], T]) -> dict[str, T]:
        """A mapping with entries, each of which `read` takes."""
        if not isinstance(value, dict) or not value:
            raise self.wrong(key, "is no mapping with entries")
        return {self.text(key, name): read(f"{key}.{name}", entry) for name, entry in value.items()}

    def points(self, key: str, value: object, languages: Sequence[str], least: float = 0.0) -> dict[str, float]:
        """Figures by language, in points, none of them below `least`."""
        if not isinstance(value, Mapping):
            raise self.wrong(key, "is no mapping of languages to points")
        found = {}
        for lang, points in value.items():
            if lang not in languages:
                raise self.wrong(key, f"names {lang!r}{nearest(str(lang), languages)}, no language of the row")
            found[lang] = self.number(f"{key}.{lang}", points)
            if not least <= found[lang] <= 100:
                raise self.wrong(f"{key}.{lang}", f"is {points}: points, as the paper prints them, are x 100")
        return found

    def text(self, key: str, value: object) -> str:
        """A text in one line."""
        if value is False or value is True:
            raise self.wrong(key, "was read as a truth value: quote it")  # YAML's `no` is no Norwegian
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(key, f"is {value!r}, and no text")
        return " ".join(value.split())

    def texts(self, key: str, value: object) -> list[str]:
        """A list with entries."""
        if not isinstance(value, list) or not value:
            raise self.wrong(key, "is no list with entries")
        return [self.text(key, entry) for entry in value]

    def maybe(self, key: str, value: object) -> str | None:
        """A text or null."""
        return None if value is None else self.text(key, value)

    def number(self, key: str, value: object) -> float:
        """A number, and no truth value."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(key, f"is {value!r}, and no number")
        return float(value)

    def one_of(self, key: str, value: object, known: Sequence[str]) -> str:
        """One of some words."""
        text = self.text(key, value)
        if text not in known:
            raise self.wrong(key, f"is {text!r}{nearest(text, known)}: choose {', '.join(known)}")
        return text

    def codes(self, key: str, value: object) -> tuple[str, ...]:
        """Languages, by the codes that result rows have."""
        langs = self.texts(key, value)
        for lang in langs:
            try:
                code = language(lang).code
            except UserError as error:
                raise self.wrong(key, str(error)) from None
            if code != lang:
                raise self.wrong(key, f"{lang!r} is {code!r} in result rows")
        return tuple(langs)

    def measure(self, key: str, name: str) -> None:
        """A measure by the name that result rows have."""
        if not re.fullmatch(rf"({'|'.join(MEASURES)})@[1-9][0-9]*", name):
            raise self.wrong(key, f"{name!r} is no measure: {', '.join(MEASURES)} with a depth, as in RR@10 for MRR@10")
