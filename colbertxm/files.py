"""A folder of data files and the manifest that vouches for them: how texts, triples and indexes lie on disk.

Data files are named by their content (`texts-en-1f2e3d4c5b6a.bin`) and the manifest, with size and sha256 of each and
of itself, is renamed into place last: a reader finds the old state or the new one. What a killed writer left behind
(.part files, files that no manifest names) goes when the next one starts. Opening compares sizes and shapes, which
takes milliseconds; `verify` reads everything.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import struct
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from colbertxm.errors import UserError
from colbertxm.progress import progress

MANIFEST = "manifest.json"
WORK = ".build"  # where a build keeps what it will continue from
OURS = re.compile(r"[a-z]+(-[a-z-]+)?(-[0-9a-f]{12})?\.(npy|bin|json)(\.part)?")
BLOCK = 2**22  # bytes hashed at a time
AHEAD = 4  # blocks that wait to be written
Entry = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """What a folder holds: the format's name and version in the manifest, and a noun and a remedy for messages."""

    format: str
    version: int
    noun: str
    remedy: str


def npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """The first 128 bytes of an .npy file (version 1.0), the same for every version of numpy and every shape, so
    that they can be written when the number of rows is known at last."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + text.ljust(117).encode() + b"\n"


class DataFile:
    """A file being written: hashed on the way, renamed to its content's name by `finish`. `stem` names it. A thread of
    its own writes and hashes: whoever makes the blocks need not wait for the disk, as long as AHEAD blocks at most wait
    for it."""

    def __init__(self, folder: Path, stem: str, suffix: str = ".bin") -> None:
        self.folder, self.stem, self.suffix, self.bytes = folder, stem, suffix, 0
        self._part = folder / f"{stem}{suffix}.part"
        self._digest = hashlib.sha256()
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()
        with refusals(folder):
            self._file = self._part.open("w+b")

    def write(self, block: bytes | memoryview) -> None:
        """Append a block, which must not change afterwards."""
        self._waiting.append(self._thread.submit(self._put, block))
        self.bytes += len(block)
        self._wait(AHEAD)

    def _put(self, block: bytes | memoryview) -> None:
        self._file.write(block)
        self._digest.update(block)

    def _wait(self, waiting: int) -> None:
        """Until no more than so many blocks wait. Raises UserError where the disk refused one."""
        while len(self._waiting) > waiting:
            with refusals(self.folder):
                self._waiting.popleft().result()

    def finish(self, header: bytes = b"") -> Entry:
        """Close and rename it; returns its entry in the manifest. `header` replaces the first bytes that were
        written (the file is then read once more for its checksum)."""
        self._wait(0)
        self._thread.shutdown()
        with refusals(self.folder), self._file as file:
            if header:
                file.seek(0)
                file.write(header)
                file.seek(0)
                self._digest = hashlib.sha256()
                while block := file.read(BLOCK):
                    self._digest.update(block)
            file.flush()
            os.fsync(file.fileno())  # the rename must not overtake the data
            sha256 = self._digest.hexdigest()
            name = f"{self.stem}-{sha256[:12]}{self.suffix}"
            os.replace(self._part, self.folder / name)
        return {"file": name, "bytes": self.bytes, "sha256": sha256}

    def discard(self) -> None:
        """Close and delete it, where it is not finished."""
        self._thread.shutdown(cancel_futures=True)
        with contextlib.suppress(OSError):  # a full disk refuses what is left in the buffer once more
            self._file.close()
        self._part.unlink(missing_ok=True)


def write_array(folder: Path, stem: str, array: NDArray[Any]) -> Entry:
    """Write a whole array as .npy."""
    file = DataFile(folder, stem, ".npy")
    file.write(npy_header(array.dtype.newbyteorder("<").str, array.shape))
    file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)  # `cast` takes no empty array
    return file.finish()


@contextlib.contextmanager
def writing(folder: Path, kind: Kind) -> Iterator[None]:
    """Hold `folder` as its only writer; leaves nothing in it but what its manifest names. Raises UserError where
    another process writes there or the system refuses."""
    new = not folder.exists()
    try:
        with refusals(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / ".lock", timeout=0)
            lock.acquire()
        try:
            if (folder / MANIFEST).exists():
                read_manifest(folder, kind)  # what is there is not ours to replace
            _sweep(folder)
            yield
        finally:
            _sweep(folder)
            lock.release()
    except Timeout as error:
        raise UserError(f"{folder} is being written by another process: wait for it, or write elsewhere") from error
    finally:
        if new and not (folder / MANIFEST).exists() and not (folder / WORK).exists():
            shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, kind: Kind, content: Mapping[str, Any], files: Mapping[str, Entry]) -> None:
    """Put the manifest in place, for these files."""
    manifest = {"format": kind.format, "version": kind.version, **content, "files": dict(files)}
    manifest["sha256"] = _own_checksum(manifest)
    with refusals(folder):
        put(folder / MANIFEST, _encode(manifest))
        if os.name == "posix":  # the renames themselves, so that a power cut leaves the old state or the new
            handle = os.open(folder, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)


def put(path: Path, content: bytes) -> None:
    """Write a file that is there entirely or not at all."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    os.replace(part, path)


def read_manifest(folder: Path, kind: Kind) -> dict[str, Any]:
    """The manifest of `folder`. Raises UserError where there is none, or a damaged, foreign or newer one."""
    path = folder / MANIFEST
    try:
        raw = path.read_bytes()
        manifest = json.loads(raw)
    except FileNotFoundError:
        raise UserError(f"{folder} holds no {kind.noun} ({MANIFEST} is missing): {kind.remedy}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give the folder of a {kind.noun}") from error
    except (ValueError, RecursionError):
        raise damaged(path, kind, "is not JSON") from None
    if not isinstance(manifest, dict) or manifest.get("format") != kind.format:
        raise UserError(f"{path} does not describe a {kind.noun} of colbertxm: name another folder, or {kind.remedy}")
    if manifest.get("version") != kind.version:
        raise UserError(
            f"{path} has format version {manifest.get('version')!r}, this colbertxm reads {kind.version}: {kind.remedy}"
        )
    if raw != _encode(manifest) or manifest.get("sha256") != _own_checksum(manifest):
        raise damaged(path, kind, "does not have its own checksum")
    return manifest


def check_sizes(folder: Path, kind: Kind, manifest: Mapping[str, Any]) -> None:
    """Raises UserError that names the first file that is missing or has another size than the manifest says."""
    for entry in manifest["files"].values():
        path = folder / entry["file"]
        try:
            size = path.stat().st_size
        except OSError as error:
            raise damaged(path, kind, f"cannot be read ({error.strerror})") from error
        if size != entry["bytes"]:
            raise damaged(path, kind, f"has {size} bytes instead of {entry['bytes']}")


def verify(folder: Path, kind: Kind) -> None:
    """Read every file of `folder` and compare checksums. Raises UserError that names the damaged one."""
    manifest = read_manifest(folder, kind)
    check_sizes(folder, kind, manifest)
    advance = progress(sum(entry["bytes"] for entry in manifest["files"].values()), f"bytes of {folder.name} verified")
    for entry in manifest["files"].values():
        digest, path = hashlib.sha256(), folder / entry["file"]
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
                advance(len(block))
        if digest.hexdigest() != entry["sha256"]:
            raise damaged(path, kind, "does not have its checksum")


def map_array(folder: Path, kind: Kind, entry: Entry, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """An .npy file mapped read-only. Nobody has compared its checksum yet: its header may say anything."""
    path = folder / entry["file"]
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header makes numpy's parser raise nearly anything
        raise damaged(path, kind, f"cannot be read ({error})") from error
    whole = getattr(array, "offset", 0) + array.nbytes == entry["bytes"]
    if (array.shape, array.dtype) != (shape, np.dtype(dtype)) or not (whole and array.flags.c_contiguous):
        raise damaged(path, kind, "does not have the shape that the manifest gives")
    return np.asarray(array)  # a plain view of the map: np.memmap is slow to index


def damaged(path: Path, kind: Kind, what: str) -> UserError:
    """The error for a file that is not what was written."""
    return UserError(f"{path} {what}: the {kind.noun} is damaged, {kind.remedy}")


def _encode(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest, indent=1).encode()


def _own_checksum(manifest: Mapping[str, Any]) -> str:
    """sha256 of the manifest without this entry."""
    return hashlib.sha256(_encode({key: value for key, value in manifest.items() if key != "sha256"})).hexdigest()


def _sweep(folder: Path) -> None:
    """Delete files of ours that the manifest does not name."""
    wanted = {MANIFEST}
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        wanted |= {entry["file"] for entry in json.loads((folder / MANIFEST).read_bytes())["files"].values()}
    for path in folder.iterdir():
        leftover = path.name.endswith(".part") or re.search(r"-[0-9a-f]{12}\.", path.name)
        if path.name not in wanted and leftover and OURS.fullmatch(path.name):
            with contextlib.suppress(OSError):  # Windows keeps a file that a reader has mapped; the next writer sweeps
                path.unlink()


@contextlib.contextmanager
def refusals(folder: Path) -> Iterator[None]:
    """What the system refuses in `folder`, as a UserError."""
    try:
        yield
    except Timeout:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot write to {folder}: {reason}; free some space or choose another folder") from error
