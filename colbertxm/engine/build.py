"""Build a compressed index from a stream of documents, in bounded memory, through any number of kills.

Two roads. Given how to draw a `Sample` of the collection, the codec is fitted first, and chunks of the stream are
encoded while whoever makes the vectors makes the next ones:

    1. fit      the codec is fitted to the sample
    2. encode   each chunk of the stream becomes a part, while the next one is being filled
    3. publish  small parts are joined and linked into the folder, inverted lists written, the manifest follows

Without one, the stream is written to disk and read again:

    1. spool    chunks go to disk, float16
    2. fit      the codec is fitted to a sample of all chunks
    3. encode   each chunk becomes a part
    4. publish

Chunks and parts are there entirely or not at all, in `<folder>/.build` (colbertxm.engine.spool); a killed build
continues behind the last one and ends with the same bytes as an undisturbed one (with the same number of threads: sums
of products depend on it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from colbertxm.engine.chunks import Chunk, chunks, encode_blocks
from colbertxm.engine.codec import CODE_BYTES, Codec
from colbertxm.engine.index import CompressedIndex, Document, content
from colbertxm.engine.join import joined
from colbertxm.engine.lists import with_lists
from colbertxm.engine.opening import COMPRESSED
from colbertxm.engine.room import Room
from colbertxm.engine.sample import Drawn, Sample, drawn, fitted, from_spool
from colbertxm.engine.seen import Seen
from colbertxm.engine.spool import Record, Work, discard, link
from colbertxm.errors import UserError
from colbertxm.files import WORK, Entry, publish, refusals, writing
from colbertxm.progress import progress

Stream = Callable[[int], Iterable[Document]]


def build_index(
    folder: Path | str,
    documents: Stream,
    bits: int = 4,
    seed: int = 0,
    memory_mb: int = 1024,
    meta: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
    sample: Sample | None = None,
    source: str = "",
) -> CompressedIndex:
    """Build the index of `documents(n)`, the stream from its document n on, in `folder`.

    `bits` a dimension: 1, 2, 4 or 8. `memory_mb` bounds what the build takes above what the process has already and the
    stream itself takes (colbertxm.engine.room); with less of it, centroids see fewer vectors, and parts are smaller.
    `sample` spares the copy of all vectors on disk. A killed build is continued where bits, seed, memory and `source`
    are the same: name there whatever the vectors come from, so that one of other texts or another model begins anew.
    `meta` is whatever JSON the reader will want back, or a function that is asked for it at the end. Raises UserError
    for repeated ids, vectors that do not fit, too little memory, another writer, a full disk.
    """
    folder, room = Path(folder), Room(memory_mb)
    if bits not in CODE_BYTES:
        raise UserError(f"bits = {bits}: a compressed index has {', '.join(map(str, CODE_BYTES))} bits a dimension")
    with writing(folder, COMPRESSED):
        asked = {
            "bits": bits, "seed": seed, "memory_mb": memory_mb, "source": source,
            "count": None if sample is None else sample.count,
        }  # fmt: skip
        try:
            with refusals(folder):
                _build(folder, documents, sample, asked, room, meta if callable(meta) else lambda: meta or {})
        except UserError as error:
            if not isinstance(error.__cause__, OSError):  # with a full disk one continues, with a wrong stream not
                discard(folder / WORK)
            raise
        discard(folder / WORK)
    return CompressedIndex(folder)


def _build(
    folder: Path,
    documents: Stream,
    sample: Sample | None,
    asked: Mapping[str, Any],
    room: Room,
    meta: Callable[[], Mapping[str, Any]],
) -> None:
    work = Work(folder / WORK, asked)
    if sample is None:
        spooled = _spool(work, documents, room)
        codec, error, codec_files = _codec(work, lambda: from_spool(work, spooled, asked["seed"], room), asked, room)
        parts = _encode(work, spooled, codec)
    else:
        codec, error, codec_files = _codec(work, lambda: drawn(sample, asked["seed"], room), asked, room)
        parts = _stream(work, documents, codec, room)
    parts = joined(work.folder, parts)
    files = dict(codec_files)
    for number, part in enumerate(parts):
        files |= {f"{number}-{name}": entry for name, entry in part["files"].items()}
    link(folder, work.folder, files)
    about = [{"passages": p["passages"], "vectors": p["vectors"], "deleted": 0} for p in parts]
    files, listed = with_lists(folder, files, about, 0, len(codec.rows))
    languages = parts[-1]["languages"]
    publish(folder, COMPRESSED, content(codec, asked["bits"], languages, about, meta(), error, listed), files)


def _codec(
    work: Work, sampled: Callable[[], Drawn], asked: Mapping[str, Any], room: Room
) -> tuple[Codec, float, dict[str, Entry]]:
    """The fitted codec, its mean squared error on the sample, and its files."""
    if (known := work.codec()) is None:
        work.keep_codec(*fitted(sampled(), asked["bits"], asked["seed"], room))
        known = work.codec()
    assert known is not None
    return known


def _begun(work: Work, kind: str, room: Room) -> tuple[list[Record], Seen, list[str], int | None]:
    """What is there of the stream: records, ids, languages, dimensions."""
    records, seen = work.records(kind), Seen(room.hashes)
    for record in records:
        seen.add(*work.ids(record))
    last = records[-1] if records else {"languages": [], "dimensions": None}
    return records, seen, list(last["languages"]), last["dimensions"]


def _checked(records: list[Record], seen: Seen) -> None:
    """Once the stream has ended."""
    if not records:
        raise UserError("there is no passage to index: the corpus is empty")
    if not any(record["vectors"] for record in records):
        raise UserError("no passage has a vector: there is nothing to index")
    seen.finish()


def _spool(work: Work, documents: Stream, room: Room) -> list[Record]:
    """All chunks, written where they are not yet."""
    done = work.folder / "spooled"
    if done.exists():
        return work.records("chunk")
    records, seen, languages, dim = _begun(work, "chunk", room)
    stream = documents(sum(record["passages"] for record in records))
    for chunk in chunks(stream, languages, room.chunk, dim):
        seen.check(chunk.rows.ids)
        records.append(work.spool(len(records), chunk))
        seen.add(*work.ids(records[-1]))
    _checked(records, seen)
    done.touch()
    return records


def _encode(work: Work, spooled: list[Record], codec: Codec) -> list[Record]:
    """The chunks' parts."""
    advance = progress(sum(record["vectors"] for record in spooled), "vectors encoded")
    return [work.part_of_chunk(number, record, codec, advance) for number, record in enumerate(spooled)]


def _stream(work: Work, documents: Stream, codec: Codec, room: Room) -> list[Record]:
    """The stream's parts, each encoded while the next chunk is filled. Of two chunks in memory one at most waits."""
    records, seen, languages, dim = _begun(work, "part", room)

    def encode(chunk: Chunk) -> None:
        seen.check(chunk.rows.ids)
        codes = encode_blocks(codec, lambda first, last: chunk.vectors[first:last], chunk.rows.ends)
        records.append(work.part(len(records), chunk, codes))
        seen.add(*work.ids(records[-1]))

    stream = documents(sum(record["passages"] for record in records))
    behind: Future[None] | None = None
    with ThreadPoolExecutor(1) as thread:
        for chunk in chunks(stream, languages, room.chunk, dim or codec.dim):
            if behind is not None:
                behind.result()
            behind = thread.submit(encode, chunk)
        if behind is not None:
            behind.result()
    _checked(records, seen)
    return records
