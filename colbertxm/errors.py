"""The one exception that means "you can mend this yourself".

Everything a user can cause - a misspelt language, a damaged file, a full disk - is raised as a
`UserError` whose message says what is wrong, where, and what to do. Entry points print it as one line
and exit with code 1; any other exception is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can mend; the message is one line: what, where, what to do."""

    code = 1
    """The command's exit status."""


class MissingExtra(UserError, ImportError):
    """An optional library is absent. Is an ImportError too, so `pytest.importorskip` and friends know it."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(f"{library} is not installed: run `pip install 'colbertxm[{extra}]'`")


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the known name closest to `name`, or an empty string where none is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""
