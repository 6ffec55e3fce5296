"""Answers in JSON, all of them ASCII: a client may send half of a surrogate pair and gets it back escaped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse


class Answer(JSONResponse):
    """JSON that any content survives; numbers that JSON has not are an error of ours."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")


def failure(status: int, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    """`{"error": one line}`."""
    return Answer({"error": " ".join(message.split())}, status, dict(headers or {}))


def explained(errors: Sequence[Mapping[str, Any]]) -> str:
    """What a body or an address has that it must not, in one line; what was sent is not repeated."""
    lines = []
    for error in errors[:3]:
        place = ".".join(str(part) for part in error.get("loc", ()) if part not in ("body", "path"))
        lines.append(f"{place[:80]}: {error['msg']}" if place else str(error["msg"]))
    more = f" and {len(errors) - 3} more" if len(errors) > 3 else ""
    return "; ".join(lines) + more
