"""The walls of the package: imports go down its floors only, and each framework stays in its own rooms."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "colbertxm"
ENTRY_POINTS = set(
    "train pretrain graft experiment index search evaluate report export diagnose reproduce serve push demo cli".split()
)
# What entry points share:
SHARED = set(
    "entry schema stages baselines reporting launch pretraining diagnosing collecting questions exporting".split()
)
FLOORS = [
    {
        "errors",
        "records",
        "languages",
        "other_languages",
        "identify",
        "sources",
        "progress",
        "files",
        "ranks",
        "energy",
        "engine",
    },
    {"data", "model"},
    {"evaluation", "retriever", "cluster", "databases", "matches", "engine_recall", "training_notes", "mteb_search"},
    {"training", "service"},
    SHARED,
    ENTRY_POINTS,
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
SEPARATE = {*ENTRY_POINTS, "data", "model", "training", "service"}  # rooms that do not look at others on their floor
ALLOWED = {  # library -> the only rooms that import it
    "lightning": {"training"},
    "pytorch_lightning": set(),
    "hydra": ENTRY_POINTS | SHARED,
    "omegaconf": ENTRY_POINTS | SHARED,
    **dict.fromkeys(("fastapi", "starlette", "uvicorn", "pydantic"), {"service"}),
}
FORBIDDEN = {
    ("evaluation", room) for room in ("model", "retriever", "cluster", "databases", "matches", "engine_recall")
}  # it takes runs, whoever made them


def imported(source: str) -> Iterator[tuple[str, str]]:
    """(library, room of ours) of every import, those inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{'colbertxm' if node.level else node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            library, room, *_ = [*name.split("."), ""]
            yield library, room if library == "colbertxm" else ""


def broken_walls(room: str, source: str) -> list[str]:
    broken = []
    for library, other in imported(source):
        if room not in ALLOWED.get(library, {room}):
            broken.append(f"{room} imports {library}")
        if other in FLOOR and other != room:
            beside = FLOOR[other] == FLOOR[room] and room in SEPARATE
            if FLOOR[other] > FLOOR[room] or beside or (room, other) in FORBIDDEN:
                broken.append(f"{room} imports {other}")
    return broken


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_go_down(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert room in FLOOR or room == "__init__", f"give {room} a floor"
    assert "from ." not in path.read_text(encoding="utf-8"), "imports of ours are absolute"
    if room in FLOOR:
        assert broken_walls(room, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("room", "source", "broken"),
    [
        (
            "engine",
            "import torch\nfrom colbertxm.errors import UserError\nfrom colbertxm.engine import exact",
            False,
        ),
        ("engine", "from colbertxm.data.collection import Collection", True),
        ("model", "def f():\n    import colbertxm.data.collection", True),
        ("evaluation", "from colbertxm import model", True),
        ("evaluation", "import lightning.pytorch as pl", True),
        ("retriever", "from omegaconf import DictConfig", True),
        ("training", "import lightning\nfrom colbertxm.retriever import Retriever", False),
        ("training", "from hydra.utils import instantiate", True),
        ("service", "from colbertxm.training import fit", True),
        ("service", "import fastapi\nfrom colbertxm.matches import match", False),
        ("serve", "import uvicorn", True),
        ("stages", "from colbertxm import train", True),
        ("train", "import hydra\nfrom colbertxm import entry", False),
        ("train", "from colbertxm.search import main", True),
    ],
)
def test_a_broken_wall_is_seen(room: str, source: str, broken: bool) -> None:
    assert bool(broken_walls(room, source)) == broken
