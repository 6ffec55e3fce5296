"""Build a compressed index from a stream of documents, in bounded memory, through any number of kills.

    1. spool    documents go to chunks of CHUNK vectors on disk, float16
    2. fit      the codec is fitted to a sample of whole documents of all chunks
    3. encode   each chunk becomes a part
    4. publish  the parts' files are linked into the folder, the manifest follows

Each chunk and each part is there entirely or not at all, in `<folder>/.build`; a killed build continues behind the last
one and ends with the same bytes as an undisturbed one (with the same number of threads: sums of products depend on it).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from colbertxm.engine.codec import CODE_BYTES, Codec, Codes, fit_codec
from colbertxm.engine.index import (
    CompressedIndex,
    Document,
    Rows,
    check_documents,
    content,
    write_codec,
    write_part,
)
from colbertxm.engine.kernels import Array
from colbertxm.engine.kmeans import ROUNDS, number_of_centroids
from colbertxm.engine.opening import COMPRESSED
from colbertxm.engine.strings import Strings
from colbertxm.errors import UserError
from colbertxm.files import WORK, Entry, publish, put, refusals, writing
from colbertxm.progress import progress

CHUNK = 2**18  # vectors a chunk, 64 MB of 128 dimensions
PER_CENTROID = 20  # vectors a centroid that k-means sees; more lowers the error by less than 1 %


def build_index(
    folder: Path | str,
    documents: Callable[[int], Iterable[Document]],
    bits: int = 4,
    seed: int = 0,
    memory_mb: int = 1024,
    meta: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
) -> CompressedIndex:
    """Build the index of `documents(n)`, the stream from its document n on, in `folder`.

    `bits` a dimension: 1, 2, 4 or 8. `memory_mb` bounds the sample that k-means sees and with it most of the memory; at
    least some 400 MB are needed. `meta` is whatever JSON the reader will want back, or a function that is asked for it
    at the end. Raises UserError for repeated ids, vectors that do not fit, another writer, a full disk.
    """
    folder = Path(folder)
    if bits not in CODE_BYTES:
        raise UserError(f"bits = {bits}: a compressed index has {', '.join(map(str, CODE_BYTES))} bits a dimension")
    with writing(folder, COMPRESSED):
        work = folder / WORK
        asked = {"bits": bits, "seed": seed, "memory_mb": memory_mb}
        try:
            with refusals(folder):
                _build(folder, work, documents, asked, meta if callable(meta) else lambda: meta or {})
        except UserError as error:
            if not isinstance(error.__cause__, OSError):  # with a full disk one continues, with a wrong stream not
                shutil.rmtree(work, ignore_errors=True)
            raise
        shutil.rmtree(work, ignore_errors=True)
    return CompressedIndex(folder)


def _build(
    folder: Path,
    work: Path,
    documents: Callable[[int], Iterable[Document]],
    asked: Mapping[str, Any],
    meta: Callable[[], Mapping[str, Any]],
) -> None:
    _begin(work, asked)
    chunks = _spool(work, documents)
    codec, error = _codec(work, chunks, asked)
    languages: list[str] = _read(chunks[-1])["languages"]
    advance = progress(len(chunks), "parts encoded")
    parts = []
    for chunk in chunks:
        parts.append(_encode(work, chunk, codec))
        advance(1)
    files = _linked(folder, work, _read(work / "codec.json")["files"])
    for number, part in enumerate(parts):
        linked = _linked(folder, work, part["files"])
        files |= {f"{number}-{name}": entry for name, entry in linked.items()}
    about = [{"passages": p["passages"], "vectors": p["vectors"], "deleted": 0} for p in parts]
    publish(folder, COMPRESSED, content(codec, asked["bits"], languages, about, meta(), error), files)


def _begin(work: Path, asked: Mapping[str, Any]) -> None:
    """Keep what an earlier build with the same settings left, and nothing else."""
    settings = work / "settings.json"
    if settings.exists() and _read(settings) != asked:
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    _write(settings, asked)


def _spool(work: Path, documents: Callable[[int], Iterable[Document]]) -> list[Path]:
    """All chunks' json files, in order."""
    chunks = sorted(work.glob("chunk-*.json"))
    if (work / "spooled").exists():
        return chunks
    seen: set[str] = set()
    languages: list[str] = []
    count, dim = 0, None
    for path in chunks:
        known = _read(path)
        ids = Strings([(np.load(_beside(path, "ids")), np.load(_beside(path, "idends")))])
        seen.update(ids)
        languages, dim = known["languages"], known["dimensions"]
        count += len(ids)
    for batch in batches(documents(count)):
        dim = batch[0].vectors.shape[-1] if dim is None else dim
        check_documents(batch, dim, seen)
        rows = Rows.of(batch, languages)
        path = work / f"chunk-{len(chunks):06}.json"
        vectors = torch.cat([d.vectors.to("cpu", torch.float16) for d in batch])
        for name, array in {"vectors": vectors.numpy(), **rows.arrays()}.items():
            np.save(_beside(path, name), array, allow_pickle=False)
        _write(path, {"languages": languages, "dimensions": dim})
        chunks.append(path)
    if not chunks:
        raise UserError("there is no passage to index: the corpus is empty")
    (work / "spooled").touch()
    return chunks


def batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Neighbouring documents, together CHUNK vectors or a little more."""
    batch, count = [], 0
    for document in documents:
        batch.append(document)
        count += len(document.vectors)
        if count >= CHUNK:
            yield batch
            batch, count = [], 0
    if batch:
        yield batch


def _codec(work: Path, chunks: list[Path], asked: Mapping[str, Any]) -> tuple[Codec, float]:
    """The fitted codec and its mean squared error on the sample, from a file where there is one."""
    path = work / "codec.json"
    if not path.exists():
        ends = [np.load(_beside(chunk, "ends")) for chunk in chunks]
        total = int(sum(e[-1] for e in ends))
        if total == 0:
            raise UserError("no passage has a vector: there is nothing to index")
        k = number_of_centroids(total)
        dim = _read(chunks[0])["dimensions"]
        if dim % 8:
            raise UserError(f"vectors of {dim} dimensions cannot be compressed: a multiple of 8 is needed")
        room = asked["memory_mb"] * 2**20 // (dim * 4 * 4)  # vectors, residuals, the same turned, and some air
        vectors, offsets = _sample(chunks, ends, min(k * PER_CENTROID, room), asked["seed"])
        advance = progress(ROUNDS, "rounds of k-means")
        codec = fit_codec(vectors, offsets, asked["bits"], k, asked["seed"], progress=advance)
        few = max(1, int(torch.searchsorted(offsets, min(len(vectors), 20_000), right=True)) - 1)
        some, cut = vectors[: int(offsets[few])], offsets[: few + 1]
        error = codec.error(codec.encode(some, cut), some, cut)
        _write(path, {"files": write_codec(work, codec), "error": error})
    known = _read(path)
    arrays = {name.removeprefix("codec-"): np.load(work / e["file"]) for name, e in known["files"].items()}
    return Codec.of(arrays), known["error"]


def _sample(chunks: list[Path], ends: list[Any], limit: int, seed: int) -> tuple[Tensor, Tensor]:
    """Whole documents from everywhere, about `limit` vectors: float32 [t, E] and their offsets."""
    total = sum(int(e[-1]) for e in ends)
    rng = np.random.default_rng(seed)
    rows, lengths = [], []
    for chunk, e in zip(chunks, ends, strict=True):
        chosen = rng.random(len(e)) < limit / total
        if not chosen.any() and len(chunks) == 1:
            chosen[:] = True
        vectors = np.load(_beside(chunk, "vectors"), mmap_mode="r")
        sizes = np.diff(e, prepend=0)
        rows.append(torch.from_numpy(vectors[np.repeat(chosen, sizes)]).float())
        lengths.append(sizes[chosen])
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    return torch.cat(rows), torch.from_numpy(offsets.astype(np.int64))


def _encode(work: Path, chunk: Path, codec: Codec) -> dict[str, Any]:
    """A chunk's part, written where it is not yet."""
    path = chunk.with_name(chunk.name.replace("chunk", "part"))
    if not path.exists():
        names = ("ends", "langs", "ids", "idends", "texts", "textends", "sureness")
        rows = Rows.of_arrays({name: np.load(_beside(chunk, name)) for name in names})
        vectors = np.load(_beside(chunk, "vectors"), mmap_mode="r")
        files = write_part(work, encode_blocks(codec, vectors, rows.ends), rows)
        _write(path, {"files": files, "passages": len(rows.ends), "vectors": int(rows.ends[-1])})
    return dict(_read(path))


def encode_blocks(codec: Codec, vectors: Array, ends: Array) -> Codes:
    """`codec.encode` of whole documents, some 2^14 vectors at a time; `vectors` [T, E] of any floats may be mapped."""
    offsets = np.concatenate([[0], ends]).astype(np.int64)
    pieces, first = [], 0
    while first < len(ends):
        last = int(np.searchsorted(offsets, offsets[first] + 2**14, side="right")) - 1
        last = min(max(last, first + 1), len(ends))
        block = torch.from_numpy(np.array(vectors[offsets[first] : offsets[last]])).float()
        pieces.append(codec.encode(block, torch.from_numpy(offsets[first : last + 1] - offsets[first])))
        first = last
    return Codes.joined(pieces)


def _linked(folder: Path, work: Path, files: Mapping[str, Entry]) -> dict[str, Entry]:
    """Put `work`'s files into `folder` as well, so that `work` stays whole until the manifest is there."""
    for entry in files.values():
        target = folder / entry["file"]
        if not target.exists():
            try:
                os.link(work / entry["file"], target)
            except OSError:  # a file system without links
                part = target.with_name(target.name + ".part")
                shutil.copyfile(work / entry["file"], part)
                os.replace(part, target)
    return dict(files)


def _beside(path: Path, name: str) -> Path:
    return path.with_name(f"{path.stem}-{name}.npy")


def _read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _write(path: Path, value: Any) -> None:
    put(path, json.dumps(value).encode())
