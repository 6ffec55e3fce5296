"""SIGKILL at any moment: a build that is started again ends with the bytes of an undisturbed one, and a change leaves
the old index or the new one, whole."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from index_jobs import COUNT, Jobs, files

from colbertxm.engine.index import CompressedIndex, verify_compressed

Whole = dict[str, tuple[float, dict[str, bytes], Path]]
OLD = {f"p{n}" for n in range(COUNT)}
NEW = OLD | {f"q{n}" for n in range(80)}


@pytest.fixture(scope="module")
def jobs() -> Iterator[Jobs]:
    with Jobs() as started:
        yield started


@pytest.fixture(scope="module")
def whole(jobs: Jobs, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Seconds, files and folder of each undisturbed job."""
    found: Whole = {}
    changed = tmp_path_factory.mktemp("whole") / "changed"
    for action in ("spool", "sample", "add", "compact"):
        folder = changed if action in ("add", "compact") else changed.with_name(action)
        if action == "add":
            shutil.copytree(found["spool"][2], changed)
        started = time.monotonic()
        assert jobs.end(jobs.start(action, folder)) == 0, log(folder)
        seconds = time.monotonic() - started
        kept = Path(shutil.copytree(folder, changed.with_name(f"{action}-kept")))
        found[action] = seconds, dict(files(kept)), kept
    return found


def log(folder: Path) -> str:
    return Path(f"{folder}.log").read_text()


def build_through_kills(jobs: Jobs, whole: Whole, road: str, folder: Path, moments: list[float]) -> int:
    """Kill a build after these shares of an undisturbed one's time, one after the other, then let it end. Returns how
    often it was killed."""
    killed = 0
    for moment in moments:
        pid = jobs.start(road, folder)
        time.sleep(moment * whole[road][0])
        killed += jobs.kill(pid)
    assert jobs.end(jobs.start(road, folder)) == 0, log(folder)
    found = dict(files(folder))
    assert found.keys() == whole[road][1].keys()
    assert [name for name in found if found[name] != whole[road][1][name]] == []
    verify_compressed(folder)
    return killed


def change_through_kill(jobs: Jobs, whole: Whole, action: str, folder: Path, moment: float) -> bool:
    """Kill a change, look at what it left, and change again. Returns whether it was killed."""
    before = whole["spool" if action == "add" else "add"]
    shutil.copytree(before[2], folder)
    pid = jobs.start(action, folder)
    time.sleep(moment * whole[action][0])
    killed = jobs.kill(pid)
    verify_compressed(folder)
    index = CompressedIndex(folder)
    names = [name for name, lives in zip(index.ids, index.alive.tolist(), strict=True) if lives]
    assert len(names) == len(set(names)) and set(names) in ([OLD, NEW] if action == "add" else [NEW])
    manifest = (folder / "manifest.json").read_bytes()
    assert manifest in (before[1]["manifest.json"], whole[action][1]["manifest.json"])
    if manifest == before[1]["manifest.json"]:  # its leftovers go with the next change
        assert jobs.end(jobs.start(action, folder)) == 0, log(folder)
        assert dict(files(folder)) == whole[action][1]
    return killed


@pytest.mark.parametrize("road", ["spool", "sample"])
def test_a_killed_build_ends_with_the_same_bytes(jobs: Jobs, whole: Whole, road: str, tmp_path: Path) -> None:
    draw = random.Random(road)
    # What is done stays done, so that the same share of the time lies further on each time.
    moments = [0.25 + draw.random() * 0.3 for _ in range(4)]
    assert build_through_kills(jobs, whole, road, tmp_path / "index", moments) >= 2


@pytest.mark.parametrize("action", ["add", "compact"])
def test_a_killed_change_leaves_the_old_or_the_new(jobs: Jobs, whole: Whole, action: str, tmp_path: Path) -> None:
    killed = [
        change_through_kill(jobs, whole, action, tmp_path / f"index{n}", moment)
        for n, moment in enumerate((0.3, 0.6, 0.9))
    ]
    assert any(killed)


@pytest.mark.slow
@pytest.mark.parametrize("road", ["spool", "sample"])
def test_a_build_killed_at_forty_random_moments(jobs: Jobs, whole: Whole, road: str, tmp_path: Path) -> None:
    draw = random.Random(f"slow {road}")
    killed = [
        build_through_kills(jobs, whole, road, tmp_path / f"index{n}", [draw.random() for _ in range(1 + n % 3)])
        for n in range(20)
    ]
    assert sum(killed) >= 20
    print(f"{road}: {sum(killed)} kills")


@pytest.mark.slow
@pytest.mark.parametrize("action", ["add", "compact"])
def test_a_change_killed_at_thirty_random_moments(jobs: Jobs, whole: Whole, action: str, tmp_path: Path) -> None:
    draw = random.Random(f"slow {action}")
    killed = [change_through_kill(jobs, whole, action, tmp_path / f"index{n}", 1.1 * draw.random()) for n in range(30)]
    assert sum(killed) >= 20
    print(f"{action}: {sum(killed)} kills")
