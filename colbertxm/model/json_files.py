"""JSON out of a model folder: what it holds, or one line that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from colbertxm.errors import UserError


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises UserError naming the file that is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; is {path.parent} a model folder?") from None


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object. Raises UserError for anything else."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise UserError(f"{path} is no JSON object; is {path.parent} a model folder?")
    return found
