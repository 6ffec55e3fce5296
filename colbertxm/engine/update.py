"""Change a compressed index: add, delete, replace, compact. Readers keep what they opened; a kill leaves old or new.

Every change writes new files beside the old ones and then the manifest. Documents that are added are encoded with the
codec that is there: `add` warns where it no longer fits them.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from colbertxm.engine.chunks import chunks
from colbertxm.engine.codec import Codes
from colbertxm.engine.index import CompressedIndex, Document, Rows, content, write_part
from colbertxm.engine.join import PART
from colbertxm.engine.kernels import Array
from colbertxm.engine.lists import with_lists
from colbertxm.engine.opening import COMPRESSED
from colbertxm.engine.room import CHUNK
from colbertxm.engine.sample import error_of
from colbertxm.engine.seen import Seen
from colbertxm.engine.strings import Strings, kept
from colbertxm.errors import UserError, nearest
from colbertxm.files import Entry, publish, write_array, writing

HASHES = 2**23  # of added ids that are held, 64 MB; beyond, a repeated one is found at the end
ALIKE = 1000  # ids compared with one that is not there
DRIFT = 1.5  # times the error at building: the centroids then no longer fit


def add(folder: Path | str, documents: Iterable[Document], replace: bool = False) -> CompressedIndex:
    """Add `documents`, CHUNK vectors at a time in memory, all of them or none. An id that is there is an error, or with
    `replace` the old passage goes. Raises UserError as `build_index` does; warns on stderr where the codec's error is
    DRIFT times that at building."""
    folder = Path(folder)
    with writing(folder, COMPRESSED):
        index = CompressedIndex(folder)
        languages, seen = list(index.manifest["languages"]), Seen(HASHES)
        gone: list[int] = []
        files, about = _old(index)
        worst = 0.0
        for chunk in chunks(documents, languages, lambda _: CHUNK, index.codec.dim):
            seen.check(chunk.rows.ids)
            known = index.places(Strings([chunk.rows.ids]))
            if known and not replace:
                raise UserError(f"passage id {min(known)!r} is in {folder} already: delete it first, or replace it")
            gone += known.values()
            codes, error = error_of(index.codec, chunk.vectors, chunk.rows.ends)
            worst = max(worst, error)
            written = write_part(folder, codes, chunk.rows)
            seen.add(folder / written["ids"]["file"], folder / written["idends"]["file"])
            files |= {f"{len(about)}-{name}": entry for name, entry in written.items()}
            about.append({"passages": len(chunk.rows.ends), "vectors": len(chunk.vectors), "deleted": 0})
        seen.finish()
        files, about = _without(folder, index, files, about, gone)
        _publish(folder, index, languages, about, files)
    times = worst / max(index.manifest["error"], 1e-6)
    if times > DRIFT:
        print(
            f"colbertxm: the added passages are coded {times:.1f} times less exactly than those that {folder} was "
            "built with: its centroids no longer fit, build it again",
            file=sys.stderr,
        )
    return CompressedIndex(folder)


def delete(folder: Path | str, ids: Collection[str]) -> CompressedIndex:
    """Delete the passages `ids`. Raises UserError for one that is not there, and then deletes none."""
    folder = Path(folder)
    if isinstance(ids, str):
        raise UserError(f"ids = {ids!r} is one string: give a collection of passage ids, [{ids!r}]")
    with writing(folder, COMPRESSED):
        index = CompressedIndex(folder)
        place = index.places(ids)
        if missing := sorted(set(ids) - place.keys()):
            near = nearest(missing[0], _alike(index, missing[0]))
            raise UserError(f"no passage {missing[0]!r} is in {folder}{near}: nothing was deleted")
        files, about = _old(index)
        files, about = _without(folder, index, files, about, list(place.values()))
        _publish(folder, index, index.manifest["languages"], about, files)
    return CompressedIndex(folder)


def compact(folder: Path | str) -> CompressedIndex:
    """Write the index anew without what was deleted, in parts of PART vectors; hits and scores stay the same."""
    folder = Path(folder)
    with writing(folder, COMPRESSED):
        index = CompressedIndex(folder)
        files = {name: entry for name, entry in index.manifest["files"].items() if name.startswith("codec-")}
        about: list[dict[str, int]] = []
        waiting: list[tuple[Codes, Rows]] = []
        for number, alive in enumerate(index.by_part(index.alive)):
            waiting.append(_kept(index.parts[number], alive))
            held = sum(len(codes.centroids) for codes, _ in waiting)
            if held >= PART or number + 1 == len(index.parts):
                codes, rows = _joined(waiting)
                if len(rows.ends):
                    written = write_part(folder, codes, rows)
                    files |= {f"{len(about)}-{name}": entry for name, entry in written.items()}
                    about.append({"passages": len(rows.ends), "vectors": len(codes.centroids), "deleted": 0})
                waiting = []
        _publish(folder, index, index.manifest["languages"], about, files)
    return CompressedIndex(folder)


def _alike(index: CompressedIndex, name: str) -> list[str]:
    """Living ids that begin or end as `name` does: a comparison with each of millions would take minutes."""
    head, tail = name[: (len(name) + 1) // 2], name[len(name) // 2 :]
    alive = zip(index.ids, index.alive.tolist(), strict=True)
    return list(islice((id for id, lives in alive if lives and (id.startswith(head) or id.endswith(tail))), ALIKE))


def _old(index: CompressedIndex) -> tuple[dict[str, Entry], list[dict[str, int]]]:
    return dict(index.manifest["files"]), [dict(part) for part in index.manifest["parts"]]


def _without(
    folder: Path, index: CompressedIndex, files: dict[str, Entry], about: list[dict[str, int]], places: list[int]
) -> tuple[dict[str, Entry], list[dict[str, int]]]:
    """The files and parts when the passages at `places` are flagged as deleted."""
    alive = index.alive.copy()
    alive[places] = False
    for number, living in enumerate(index.by_part(alive)):
        deleted = int((~living).sum())
        if deleted != about[number]["deleted"]:
            files[f"{number}-deleted"] = write_array(folder, "deleted", ~living)
            about[number]["deleted"] = deleted
    return files, about


def _publish(
    folder: Path, index: CompressedIndex, languages: list[str], about: list[dict[str, int]], files: Mapping[str, Entry]
) -> None:
    old: dict[str, Any] = index.manifest
    before = old.get("listed", 0) if "lists-sizes" in files else 0
    files, listed = with_lists(folder, files, about, before, len(index.codec.rows))
    told = content(index.codec, old["bits"], languages, about, old["meta"], old["error"], listed)
    publish(folder, COMPRESSED, told, files)


def _kept(arrays: Mapping[str, Array], alive: Array) -> tuple[Codes, Rows]:
    """What is alive of a part."""
    rows = Rows.of_arrays(arrays)
    lengths = np.diff(rows.ends, prepend=0)
    vectors = np.repeat(alive, lengths)
    codes = CompressedIndex.codes(arrays)
    some = Codes(
        codes.centroids[vectors], codes.scales[vectors], codes.fits[vectors], codes.codes[vectors],
        codes.means[alive], codes.mean_scales[alive],
    )  # fmt: skip
    ends = np.cumsum(lengths[alive], dtype=np.int64)
    return some, Rows(ends, rows.langs[alive], kept(rows.ids, alive), kept(rows.texts, alive), rows.sureness[alive])


def _joined(parts: list[tuple[Codes, Rows]]) -> tuple[Codes, Rows]:
    rows = [rows for _, rows in parts]
    return Codes.joined([codes for codes, _ in parts]), Rows(
        _stacked([r.ends for r in rows]),
        np.concatenate([r.langs for r in rows]),
        (np.concatenate([r.ids[0] for r in rows]), _stacked([r.ids[1] for r in rows])),
        (np.concatenate([r.texts[0] for r in rows]), _stacked([r.texts[1] for r in rows])),
        np.concatenate([r.sureness for r in rows]),
    )


def _stacked(ends: list[Array]) -> Array:
    """Ends of lists that stand one behind the other."""
    before = np.cumsum([0, *(int(e[-1]) if len(e) else 0 for e in ends)])
    return np.concatenate([e + b for e, b in zip(ends, before, strict=False)]).astype(np.int64)
