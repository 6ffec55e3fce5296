"""A compressed index on disk: parts that never change, and a manifest that says which of them count.

    manifest.json            version, sizes, sha256 of every file and of itself, languages, the codec's settings, notes
    codec-*.npy              centroids, axes, widths (colbertxm.engine.codec)
    per part: centroids, scales, fits, codes, means, meanscales, ends (of a document's vectors), langs, ids and texts
    with their ends, sureness (of a guessed language; NaN where none was), and deleted, where documents were

Files are named by their content and mapped, not read: opening takes as long for a million documents as for ten. The
manifest is renamed into place last; a reader keeps the files that it opened with, whatever a writer does next. Adding
writes a part, deleting writes flags, `compact` writes parts without what was deleted. Nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from colbertxm.engine.codec import CODE_BYTES, Codec, Codes
from colbertxm.engine.compressed import CompressedEngine, Part
from colbertxm.engine.kernels import Array
from colbertxm.engine.lists import BLOCK, Lists
from colbertxm.engine.lists import FILES as LISTS
from colbertxm.engine.opening import COMPRESSED, checked_device
from colbertxm.engine.seen import places
from colbertxm.engine.strings import Names, Span, Strings
from colbertxm.files import MANIFEST, Entry, check_sizes, damaged, map_array, read_manifest, verify, write_array

if TYPE_CHECKING:
    from colbertxm.engine.torch_engine import TorchEngine

CODEC = {"rows": "|i1", "row_scales": "<f4", "axes": "<f4", "back": "<f4", "deviations": "<f4", "widths": "<i8"}
CODES = ("centroids", "scales", "fits", "codes", "means", "meanscales")  # the files of Codes, in its order
MAX_LANGS = 256


class Document(NamedTuple):
    """A passage to index: `vectors` [t, E], the `text` to show, how sure a guessed language is."""

    id: str
    lang: str
    vectors: Tensor
    text: str = ""
    sure: float | None = None


@dataclass(frozen=True)
class Rows:
    """What a part keeps of its documents besides codes."""

    ends: Array
    langs: Array
    ids: tuple[Array, Array]
    texts: tuple[Array, Array]
    sureness: Array

    def arrays(self) -> dict[str, Array]:
        """By the names of their files."""
        (ids, id_ends), (texts, text_ends) = self.ids, self.texts
        return {
            "ends": self.ends, "langs": self.langs, "ids": ids, "idends": id_ends, "texts": texts,
            "textends": text_ends, "sureness": self.sureness,
        }  # fmt: skip

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Array]) -> Rows:
        """The rows of `arrays()`."""
        ids, texts = (arrays["ids"], arrays["idends"]), (arrays["texts"], arrays["textends"])
        return cls(arrays["ends"], arrays["langs"], ids, texts, arrays["sureness"])


def write_codec(folder: Path, codec: Codec) -> dict[str, Entry]:
    """The codec's files in `folder`."""
    return {
        f"codec-{name}": write_array(folder, f"codec-{name}".replace("_", "-"), a) for name, a in codec.arrays().items()
    }


def write_codes(folder: Path, codes: Codes) -> dict[str, Entry]:
    """The files of a part's codes in `folder`, by name."""
    arrays = zip(CODES, vars(codes).values(), strict=True)
    return {name: write_array(folder, name, array) for name, array in arrays}


def write_rows(folder: Path, rows: Rows) -> dict[str, Entry]:
    """The other files of a part in `folder`, by name."""
    return {name: write_array(folder, name, array) for name, array in rows.arrays().items()}


def write_part(folder: Path, codes: Codes, rows: Rows) -> dict[str, Entry]:
    """A part's files in `folder`, by name."""
    return {**write_codes(folder, codes), **write_rows(folder, rows)}


def content(
    codec: Codec, bits: int, languages: Sequence[str], parts: Sequence[Mapping[str, int]], meta: Mapping[str, Any],
    error: float, listed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """What the manifest says beside the files. `parts` have `passages`, `vectors` and `deleted` each; the first
    `listed` passages are in inverted lists."""
    return {
        "bits": bits,
        "dimensions": codec.dim,
        "centroids": len(codec.rows),
        "languages": list(languages),
        "parts": [dict(part) for part in parts],
        "error": error,
        "listed": listed,
        "meta": dict(meta),
    }


class CompressedIndex:
    """An opened index: what `manifest.json` named when it was opened."""

    def __init__(self, folder: Path | str) -> None:
        """Raises UserError where it is missing, foreign, of another version, truncated; only `verify_compressed` reads
        everything."""
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder, COMPRESSED)
        check_sizes(self.folder, COMPRESSED, self.manifest)
        try:
            self._open()
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise damaged(self.folder / MANIFEST, COMPRESSED, f"does not describe one ({error!r})") from error

    def _open(self) -> None:
        manifest = self.manifest
        dim, k = int(manifest["dimensions"]), int(manifest["centroids"])
        shapes = {"rows": (k, dim), "row_scales": (k, 1), "axes": (dim, dim), "back": (dim, dim)}
        codec = {
            name: map_array(
                self.folder, COMPRESSED, manifest["files"][f"codec-{name}"], dtype, shapes.get(name, (dim,))
            )
            for name, dtype in CODEC.items()
        }
        if manifest["bits"] not in CODE_BYTES or codec["widths"].min() < 0 or codec["widths"].max() > 8:
            raise damaged(self.folder / MANIFEST, COMPRESSED, "names bits that no codec has")
        self.codec = Codec.of(codec)
        self.parts = [self._part(number) for number in range(len(manifest["parts"]))]
        self.ids = Strings([(p["ids"], p["idends"]) for p in self.parts])
        self.listed = int(manifest.get("listed", 0))
        if not 0 <= self.listed <= len(self.ids):
            raise damaged(self.folder / MANIFEST, COMPRESSED, f"lists {self.listed} passages and has {len(self.ids)}")
        self.texts = Strings([(p["texts"], p["textends"]) for p in self.parts])
        langs = np.concatenate([np.empty(0, np.uint8), *(p["langs"] for p in self.parts)])
        if len(langs) and int(langs.max()) >= len(manifest["languages"]):
            raise damaged(self.folder / MANIFEST, COMPRESSED, "has fewer languages than its passages")
        self.langs = Names(langs, manifest["languages"])
        flags = [p["deleted"] if "deleted" in p else np.zeros(len(p["ends"]), bool) for p in self.parts]
        self.alive = ~np.concatenate([np.empty(0, bool), *flags])

    @property
    def meta(self) -> Mapping[str, Any]:
        """What its writer noted."""
        meta: Mapping[str, Any] = self.manifest["meta"]
        return meta

    @property
    def dim(self) -> int:
        return self.codec.dim

    @property
    def guesses(self) -> dict[str, tuple[str, float]]:
        """Languages that were guessed, and how sure that was, by passage id."""
        sure = np.concatenate([np.empty(0, np.float32), *(part["sureness"] for part in self.parts)])
        return {self.ids[n]: (self.langs[n], float(sure[n])) for n in np.flatnonzero(~np.isnan(sure)).tolist()}

    def texts_of(self, ids: Collection[str]) -> dict[str, str]:
        """The texts of passages that are there, by id: one pass over hashes of the ids, whose texts alone are read."""
        return {name: self.texts[n] for name, n in self.places(ids).items()}

    def places(self, ids: Collection[str]) -> dict[str, int]:
        """Where the living passages among `ids` stand."""
        return places([(part["ids"], part["idends"]) for part in self.parts], self.by_part(self.alive), ids)

    def by_part(self, flags: Array) -> list[Array]:
        """Flags of all passages, [N], as those of each part."""
        return np.split(flags, np.cumsum([len(part["ends"]) for part in self.parts]))[: len(self.parts)]

    def _part(self, number: int) -> dict[str, Array]:
        about, files = self.manifest["parts"][number], self.manifest["files"]
        n, t, dim = int(about["passages"]), int(about["vectors"]), self.codec.dim
        shapes: dict[str, tuple[str, tuple[int, ...]]] = {
            "centroids": (self.codec.number, (t,)), "scales": ("|u1", (t,)), "fits": ("|u1", (t,)),
            "codes": ("|u1", (t, self.codec.layout.bytes)), "means": ("|i1", (n, dim)), "meanscales": ("<f4", (n,)),
            "ends": ("<i8", (n,)), "langs": ("|u1", (n,)), "idends": ("<i8", (n,)), "textends": ("<i8", (n,)),
            "sureness": ("<f4", (n,)), "deleted": ("|b1", (n,)),
        }  # fmt: skip
        arrays = {
            name: map_array(self.folder, COMPRESSED, files[f"{number}-{name}"], *shape)
            for name, shape in shapes.items()
            if name != "deleted" or f"{number}-deleted" in files
        }
        for name, ends in (("ids", "idends"), ("texts", "textends")):
            size = int(arrays[ends][-1]) if n else 0
            arrays[name] = map_array(self.folder, COMPRESSED, files[f"{number}-{name}"], "|u1", (size,))
        if n and (int(arrays["ends"][-1]) != t or (np.diff(arrays["ends"]) < 0).any() or arrays["ends"][0] < 0):
            raise damaged(
                self.folder / files[f"{number}-ends"]["file"], COMPRESSED, "does not rise to the number of vectors"
            )
        return arrays

    @property
    def engine(self) -> CompressedEngine:
        """The engine over this index. Wherever a file lies about a centroid, it must not read outside: all are
        compared with their number once."""
        parts = [self._coded(number, arrays) for number, arrays in enumerate(self.parts)]
        return CompressedEngine(self.codec, parts, self.ids, self.langs, self.alive, lists=self.lists)

    def engine_of(self, first: int, last: int) -> CompressedEngine:
        """The engine over the documents `first` to `last` alone, which count from 0 there. It has no inverted lists:
        those are of the whole index."""
        parts, before = [], 0
        for number, arrays in enumerate(self.parts):
            count = len(arrays["ends"])
            begin, end = (min(max(edge - before, 0), count) for edge in (first, last))
            before += count
            if begin < end:
                whole = self._coded(number, arrays)
                codes = replace(
                    whole.codes, means=whole.codes.means[begin:end], mean_scales=whole.codes.mean_scales[begin:end]
                )
                parts.append(Part(codes, whole.starts[begin:end], whole.ends[begin:end]))
        langs = Names(self.langs.numbers[first:last], self.langs.names)
        return CompressedEngine(self.codec, parts, Span(self.ids, first, last), langs, self.alive[first:last])

    def engine_on(self, device: torch.device | str) -> CompressedEngine | TorchEngine:
        """The engine that searches on `device`: the kernels on the CPU, else `TorchEngine`.
        Raises UserError for a device that is not there or too small."""
        from colbertxm.engine.torch_engine import TorchEngine

        if checked_device(device).type == "cpu":
            return self.engine
        parts = [self._coded(number, arrays) for number, arrays in enumerate(self.parts)]
        return TorchEngine(self.codec, parts, self.ids, self.langs, self.alive, device)

    @property
    def lists(self) -> Lists | None:
        """The inverted lists, where there are any."""
        count, k = self.listed, len(self.codec.rows)
        if not count:
            return None
        files, blocks = self.manifest["files"], -(-count // BLOCK)
        begins = map_array(self.folder, COMPRESSED, files["lists-begins"], LISTS["begins"], (blocks + 1,))
        shapes = {"documents": (int(begins[-1]),), "ends": (blocks, k), "sizes": (k,)}
        arrays = {
            name: map_array(self.folder, COMPRESSED, files[f"lists-{name}"], LISTS[name], shape)
            for name, shape in shapes.items()
        }
        return Lists(begins=begins, count=count, **arrays)

    def _coded(self, number: int, arrays: dict[str, Array]) -> Part:
        if len(arrays["centroids"]) and int(arrays["centroids"].max()) >= len(self.codec.rows):
            path = self.folder / self.manifest["files"][f"{number}-centroids"]["file"]
            raise damaged(path, COMPRESSED, "names a centroid that is not there")
        starts = np.concatenate([np.zeros(1, np.int64), arrays["ends"]])[: len(arrays["ends"])]
        return Part(self.codes(arrays), starts, arrays["ends"])

    @staticmethod
    def codes(arrays: Mapping[str, Array]) -> Codes:
        """A part's codes."""
        return Codes(*(arrays[name] for name in CODES))


def verify_compressed(folder: Path | str) -> None:
    """Read all of the index in `folder` and compare checksums. Raises UserError that names the damaged file."""
    verify(Path(folder), COMPRESSED)
    _ = CompressedIndex(folder).engine
