"""The registry's part of the command `evaluate`: settings to a request, what was loaded in words, the list of names."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from colbertxm.errors import UserError
from colbertxm.evaluation.collections.entry import Loaded, Request
from colbertxm.evaluation.collections.registry import listing, load


def load_asked(settings: Mapping[str, Any]) -> Loaded:
    """The collections that `evaluate`'s settings name, told of on stderr. Raises UserError where there is nothing to
    search in."""
    loaded = load(settings["collection"], request_of(settings))
    if settings["collection"] != "smart_home":
        for line in (*loaded.counts(), *loaded.notes):
            print(f"  {line}", file=sys.stderr, flush=True)
    if empty := [c for c in loaded.collections if not len(c.passages)]:
        raise UserError(
            f"{empty[0].name} {empty[0].passage_lang}: topics and qrels are there but no corpus to search: give "
            "corpus=, add it to the folder, or leave folder out to fetch it"
        )
    return loaded


def request_of(settings: Mapping[str, Any]) -> Request:
    """What the settings ask of the collection."""
    given: dict[str, Any] = {key: settings[key] for key in ("split", "cross", "sample", "seed", "context")}
    for key, kind in (("folder", Path), ("corpus", Path), ("queries", Path), ("qrels", Path), ("langs", list),
                      ("subsets", list)):  # fmt: skip
        if settings[key] is not None:
            given[key] = kind(settings[key])
    return Request(**given)


def print_collections() -> None:
    """The registry as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("collection", "what", "languages", "measures", "splits", "licence", "in the cache")
    for line in listing():
        table.add_row(*line)
    Console(width=None if sys.stdout.isatty() else 200).print(table)
