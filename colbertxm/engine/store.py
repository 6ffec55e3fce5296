"""The index on disk: plain arrays and a manifest that vouches for them.

    manifest.json                     version, sizes, sha256 of each file and of itself, the writer's notes
    vectors-<sha>.npy                 [T, E] float16 or float32
    offsets-<sha>.npy                 [N + 1] int64: passage n has the vectors offsets[n] to offsets[n + 1]
    ids-, langs-, texts-<sha>.json    N strings each
    confidences-<sha>.json            N numbers or nulls: how sure a guessed language is; absent where none was guessed

Data files are named by their content and the manifest is renamed into place last: a reader finds the old
index or the new one, whatever happens in between. Nothing is pickled. Opening checks everything that it reads
anyway (sizes, shapes, the checksums of all but the vectors); `verify_index` reads the vectors as well.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from colbertxm.engine.exact import ExactEngine, check_layout
from colbertxm.errors import UserError

FORMAT = "colbertxm-index"
VERSION = 1
MANIFEST = "manifest.json"
DTYPES = {"float16": "<f2", "float32": "<f4"}
SUFFIXES = {
    "vectors": ".npy",
    "offsets": ".npy",
    "ids": ".json",
    "langs": ".json",
    "texts": ".json",
    "confidences": ".json",
}
OPTIONAL = {"confidences"}
BLOCK = 2**22  # bytes read or written at a time


@dataclass(frozen=True)
class Index:
    """An opened index. `vectors` [T, E] is mapped from the file: pages are read when they are searched."""

    vectors: Tensor
    offsets: Tensor
    ids: list[str]
    langs: list[str]
    texts: list[str]
    meta: Mapping[str, Any]
    confidences: list[float | None]

    @property
    def dim(self) -> int:
        return self.vectors.shape[1]

    @property
    def guesses(self) -> dict[str, tuple[str, float]]:
        """Languages that were guessed, and how sure that was, by passage id."""
        all_ = zip(self.ids, self.langs, self.confidences, strict=True)
        return {name: (lang, sure) for name, lang, sure in all_ if sure is not None}

    def texts_of(self, ids: Collection[str]) -> dict[str, str]:
        """The texts of passages that are there, by id."""
        wanted = set(ids)
        return {name: text for name, text in zip(self.ids, self.texts, strict=True) if name in wanted}

    @property
    def engine(self) -> ExactEngine:
        return ExactEngine(self.vectors, self.offsets, self.ids, self.langs)

    def engine_of(self, first: int, last: int) -> ExactEngine:
        """The engine over the documents `first` to `last` alone, which count from 0 there."""
        offsets = self.offsets[first : last + 1]
        vectors = self.vectors[int(offsets[0]) : int(offsets[-1])]
        return ExactEngine(vectors, offsets - offsets[0], self.ids[first:last], self.langs[first:last])


def write_index(
    folder: Path,
    vectors: Tensor,
    offsets: Tensor,
    ids: Sequence[str],
    langs: Sequence[str],
    meta: Mapping[str, Any],
    dtype: str = "float16",
    texts: Sequence[str] | None = None,
    confidences: Sequence[float | None] | None = None,
) -> None:
    """Write an index to `folder`, in the place of the one that is there. Shapes as in `ExactEngine`.

    `meta` is whatever JSON the reader will want back; `texts` are kept to be shown with the hits (empty where
    not given). Raises UserError for sizes that do not fit, repeated ids, numbers that `dtype` does not hold,
    another writer at work, or a disk that is full; the old index then stays.
    """
    check_layout(vectors, offsets, ids, langs)
    texts = [""] * len(ids) if texts is None else texts
    if len(texts) != len(ids):
        raise UserError(f"{len(texts)} texts for {len(ids)} passages: give one text a passage")
    if confidences is not None and len(confidences) != len(ids):
        raise UserError(f"{len(confidences)} confidences for {len(ids)} passages: give one a passage, or None")
    if dtype not in DTYPES:
        raise UserError(f"an index stores {' or '.join(DTYPES)}, not {dtype!r}")
    if repeated := _first_repeated(ids):
        raise UserError(f"passage id {repeated!r} occurs twice: ids name passages, so make them distinct")
    sizes = {"passages": len(ids), "vectors": len(vectors), "dimensions": vectors.shape[1]}
    head = {"format": FORMAT, "version": VERSION, "dtype": dtype, **sizes, "meta": dict(meta)}
    contents: dict[str, Iterable[bytes]] = {
        "vectors": _npy(vectors, DTYPES[dtype]),
        "offsets": _npy(offsets, "<i8"),
        "ids": [json.dumps(list(ids)).encode()],
        "langs": [json.dumps(list(langs)).encode()],
        "texts": [json.dumps(list(texts)).encode()],
    }
    if confidences is not None:
        contents["confidences"] = [json.dumps(list(confidences)).encode()]
    new_folder = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", timeout=0):
            try:
                _publish(folder, contents, head)
            finally:
                _sweep(folder)
    except Timeout as error:
        raise UserError(f"{folder} is being written by another process: wait for it, or write elsewhere") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"cannot write the index {folder}: {reason}; free some space or choose another folder"
        ) from error
    finally:
        if new_folder and not (folder / MANIFEST).exists():
            shutil.rmtree(folder, ignore_errors=True)


def read_index(folder: Path) -> Index:
    """Open the index in `folder`. Raises UserError where it is missing, foreign, truncated or damaged; only
    numbers that changed among the vectors need `verify_index` to be found."""
    manifest = _read_manifest(folder)
    for name in _names(manifest):
        _check_file(folder, manifest, name, checksum=name != "vectors")
    vectors = _map_vectors(folder, manifest)
    offsets = torch.from_numpy(np.load(_path(folder, manifest, "offsets"), allow_pickle=False))
    ids, langs, texts = (json.loads(_path(folder, manifest, name).read_bytes()) for name in ("ids", "langs", "texts"))
    check_layout(vectors, offsets, ids, langs)
    guessed = "confidences" in manifest["files"]
    confidences = json.loads(_path(folder, manifest, "confidences").read_bytes()) if guessed else [None] * len(ids)
    return Index(vectors, offsets, ids, langs, texts, manifest["meta"], confidences)


def verify_index(folder: Path) -> None:
    """Read all of the index in `folder`, compare checksums. Raises UserError that names the damaged file."""
    manifest = _read_manifest(folder)
    for name in _names(manifest):
        _check_file(folder, manifest, name, checksum=True)
    read_index(folder)


def _names(manifest: Mapping[str, Any]) -> list[str]:
    """The files that an index must have, and those of the optional ones that this one has."""
    return [name for name in SUFFIXES if name not in OPTIONAL or name in manifest["files"]]


def _publish(folder: Path, contents: Mapping[str, Iterable[bytes]], head: Mapping[str, Any]) -> None:
    files = {name: _write_data(folder, name, content) for name, content in contents.items()}
    manifest = json.loads(json.dumps({**head, "files": files}, allow_nan=False))  # as the reader will see it
    manifest["sha256"] = _own_checksum(manifest)
    _write(folder / (MANIFEST + ".part"), lambda out: out.write(_encode(manifest)))
    os.replace(folder / (MANIFEST + ".part"), folder / MANIFEST)


def _write_data(folder: Path, name: str, content: Iterable[bytes]) -> dict[str, Any]:
    """Write one file under its content's name; returns its entry in the manifest."""
    digest, size = hashlib.sha256(), 0
    part = folder / f"{name}{SUFFIXES[name]}.part"

    def fill(out: IO[bytes]) -> None:
        nonlocal size
        for block in content:
            out.write(block)
            digest.update(block)
            size += len(block)

    _write(part, fill)
    file = f"{name}-{digest.hexdigest()[:12]}{SUFFIXES[name]}"
    os.replace(part, folder / file)
    return {"file": file, "bytes": size, "sha256": digest.hexdigest()}


def _write(part: Path, fill: Callable[[IO[bytes]], Any]) -> None:
    with part.open("wb") as out:
        fill(out)
        out.flush()
        os.fsync(out.fileno())  # the rename that follows must not overtake the data


def _npy(array: Tensor, dtype: str) -> Iterator[bytes]:
    """The bytes of an .npy file, converted block by block: a large index needs no second copy in memory."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": tuple(array.shape)})
    yield header.getvalue()
    rows = max(1, BLOCK // max(1, array[:1].numel() * 4))
    for start in range(0, len(array), rows):
        with np.errstate(over="ignore"):
            block = array[start : start + rows].detach().cpu().numpy().astype(dtype)
        if not np.isfinite(block).all():
            raise UserError(
                f"vectors from {start} on hold numbers that are not finite in {np.dtype(dtype).name}: "
                f"the model's weights are damaged, or store float32"
            )
        yield block.tobytes()


def _sweep(folder: Path) -> None:
    """Delete files of ours that the manifest does not name: an old index, or a failed writer's remains."""
    try:
        wanted = {entry["file"] for entry in json.loads((folder / MANIFEST).read_bytes())["files"].values()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        wanted = set()
    for path in folder.iterdir():
        stem = path.name.split("-")[0].split(".")[0]
        ours = path.name.endswith(".part") or "-" in path.name
        if stem in (*SUFFIXES, "manifest") and ours and path.name not in wanted:
            with contextlib.suppress(OSError):  # Windows keeps a file that a reader has mapped; the next writer sweeps
                path.unlink()


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        raw = path.read_bytes()
        manifest = json.loads(raw)
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no index ({MANIFEST} is missing): make one with `colbertxm index`") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give the folder of an index") from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "is not JSON") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{path} is not a colbertxm index: make one with `colbertxm index`")
    if manifest.get("version") != VERSION:
        raise UserError(
            f"{path} has format version {manifest.get('version')!r}, this colbertxm reads {VERSION}: "
            f"index the passages again"
        )
    if raw != _encode(manifest) or manifest.get("sha256") != _own_checksum(manifest):
        raise _damaged(path, "does not have its own checksum")
    return manifest


def _encode(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest, indent=1).encode()


def _own_checksum(manifest: Mapping[str, Any]) -> str:
    """sha256 of the manifest without this entry."""
    return hashlib.sha256(_encode({key: value for key, value in manifest.items() if key != "sha256"})).hexdigest()


def _map_vectors(folder: Path, manifest: Mapping[str, Any]) -> Tensor:
    """Map the vectors' file, whose checksum nobody has compared yet: its header may say anything."""
    path, shape = _path(folder, manifest, "vectors"), (manifest["vectors"], manifest["dimensions"])
    dtype = np.dtype(DTYPES[manifest["dtype"]])
    if not shape[0] * shape[1]:
        return torch.from_numpy(np.empty(shape, dtype))  # the system maps no empty files
    try:
        # Copy-on-write: torch wants writable memory, and nothing written to it can reach the file.
        vectors = np.load(path, mmap_mode="c", allow_pickle=False)
    except Exception as error:  # a damaged header makes numpy's parser raise nearly anything
        raise _damaged(path, f"cannot be read ({error})") from error
    whole = vectors.offset + vectors.nbytes == manifest["files"]["vectors"]["bytes"]
    if (vectors.shape, vectors.dtype.str) != (shape, dtype.str) or not (whole and vectors.flags.c_contiguous):
        raise _damaged(path, "does not have the shape that the manifest gives")
    return torch.from_numpy(vectors)


def _check_file(folder: Path, manifest: Mapping[str, Any], name: str, checksum: bool) -> None:
    path, entry = _path(folder, manifest, name), manifest["files"][name]
    try:
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise _damaged(path, f"has {size} bytes instead of {entry['bytes']}")
        if checksum and _sha256(path) != entry["sha256"]:
            raise _damaged(path, "does not have its checksum")
    except OSError as error:
        raise _damaged(path, f"cannot be read ({error.strerror})") from error


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _path(folder: Path, manifest: Mapping[str, Any], name: str) -> Path:
    return folder / manifest["files"][name]["file"]


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path} {what}: the index is damaged, index the passages again")


def _first_repeated(ids: Sequence[str]) -> str | None:
    seen: set[str] = set()
    return next((i for i in ids if i in seen or seen.add(i)), None)  # type: ignore[func-returns-value]
