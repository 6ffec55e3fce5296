"""How large the paper's index would be: `python -m benchmarks.engine.paper_size INDEX`, an index that was built.

Every file of the index is of some bytes a vector, a passage, or a centroid (its first dimension says of which), and
those are multiplied: 8,841,823 passages of MS MARCO, `--vectors` vectors each, K by the paper's formula.
XLM-R makes some 77 tokens of such a passage; punctuation makes no vectors, so fewer are kept: 60, 70 and 80 are shown
as well. Texts are not counted: the paper's index has none (here they would be 3 GB).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import row, write
from colbertxm.engine.index import CompressedIndex
from colbertxm.engine.kmeans import number_of_centroids
from colbertxm.engine.room import CHUNK
from colbertxm.errors import UserError
from colbertxm.files import MANIFEST
from colbertxm.sources import cache_folder

PASSAGES = 8_841_823
TARGET_GB = 25.0
VECTORS = (60, 70, 77, 80)
SMALL = 2**16  # so many centroids have numbers of two bytes, more of four
OF_PASSAGES = ("ids",)  # strings end to end: their ends say how many, not they
LEFT_OUT = ("texts",)


@dataclass(frozen=True)
class Counts:
    """What an index has of each thing that files grow with."""

    vectors: int
    passages: int
    centroids: int
    parts: int

    def of(self, unit: str) -> int:
        return {
            "vector": self.vectors, "passage": self.passages, "centroid": self.centroids, "part": self.parts,
            "centroid and passage": self.centroids * self.passages, "index": 1,
        }[unit]  # fmt: skip


@dataclass(frozen=True)
class File:
    """All files of one name: their bytes, and what they grow with."""

    name: str
    unit: str
    bytes: int
    each: float


def counts(manifest: Mapping[str, Any]) -> Counts:
    """Of a built index."""
    parts = manifest["parts"]
    return Counts(
        sum(part["vectors"] for part in parts), sum(part["passages"] for part in parts), manifest["centroids"],
        len(parts),
    )  # fmt: skip


def files(folder: Path) -> list[File]:
    """The index's files by name, the manifest among them."""
    index = CompressedIndex(folder)
    manifest, here = index.manifest, counts(index.manifest)
    sizes: dict[str, int] = {}
    units: dict[str, str] = {}
    for key, entry in manifest["files"].items():
        number, _, name = key.partition("-")
        part = manifest["parts"][int(number)] if number.isdigit() else None
        name = name if part else key
        if name in LEFT_OUT:
            continue
        sizes[name] = sizes.get(name, 0) + entry["bytes"]
        passages = part["passages"] if part else here.passages
        units.setdefault(name, _unit(folder / entry["file"], name, here.centroids, passages))
    sizes["manifest"], units["manifest"] = (folder / MANIFEST).stat().st_size, "part"
    return [File(name, units[name], size, size / here.of(units[name])) for name, size in sizes.items()]


def _unit(path: Path, name: str, centroids: int, passages: int) -> str:
    """What a file grows with: the codec with the centroids or not at all; what belongs to `passages` (a part's, or all)
    by the array's shape. One of no known shape is taken for one that grows with the vectors."""
    shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
    if shape[0] in (centroids, centroids + 1) and shape[0] not in (passages, passages + 1):
        return "centroid"
    if name.startswith("codec-"):
        return "index"
    if shape[1:] == (centroids,):
        return "centroid and passage"  # a row for so many passages
    return "passage" if name in OF_PASSAGES or shape[0] <= passages + 1 else "vector"


def scaled(found: Sequence[File], here: Counts, passages: int, vectors: float) -> dict[str, float]:
    """Bytes of each file with so many passages of so many vectors."""
    total = round(passages * vectors)
    there = Counts(total, passages, number_of_centroids(total), -(-total // CHUNK))
    sizes = {file.name: file.each * there.of(file.unit) for file in found}
    if "centroids" in sizes and here.centroids <= SMALL < there.centroids:
        sizes["centroids"] *= 2
    if "ids" in sizes:  # numbers get longer
        digits = range(1, len(str(passages)) + 1)
        sizes["ids"] = 1.0 + sum(d * (min(passages, 10**d) - 10 ** (d - 1)) for d in digits)
    return sizes


def run(arguments: Sequence[str] | None = None) -> dict[float, dict[str, float]]:
    """Print the table and write benchmarks/results/engine_paper_size.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    kept = cache_folder() / "engine" / "growth-500000-2"
    parser.add_argument("index", type=Path, nargs="?", default=kept, help="(growth-500000-2 of the cache folder)")
    parser.add_argument("--vectors", type=float, nargs="*", default=list(VECTORS), help="of a passage")
    given = parser.parse_args(arguments)
    found, manifest = files(given.index), CompressedIndex(given.index).manifest
    here = counts(manifest)
    sizes = {vectors: scaled(found, here, PASSAGES, vectors) for vectors in given.vectors}
    print(f"{given.index.name}: {manifest['bits']} bits, {here.passages:,} passages, {here.vectors:,} vectors, "
          f"{here.centroids:,} centroids, {here.parts} parts")  # fmt: skip
    print("| GB at 8,841,823 passages | measured here, bytes |" + "".join(f" {v:g} vectors |" for v in sizes))
    print("|---|---:|" + "---:|" * len(sizes))
    for file in found:
        row_of = "".join(f" {made[file.name] / 1e9:.3f} |" for made in sizes.values())
        print(f"| {file.name} | {file.each:.2f} / {file.unit} |{row_of}")
    print("| **all** | |" + "".join(f" **{sum(made.values()) / 1e9:.1f}** |" for made in sizes.values()))
    centroids = "".join(f" {number_of_centroids(round(PASSAGES * v)):,} |" for v in sizes)
    each = "".join(f" {sum(made.values()) / PASSAGES / v:.1f} |" for v, made in sizes.items())
    print(f"| centroids | |{centroids}\n| bytes a vector | |{each}\naimed at: {TARGET_GB:g} GB")
    write("engine_paper_size", [
        row("paper_index_gb", sum(made.values()) / 1e9, "GB", vectors_a_passage=v, bits=manifest["bits"],
            measured_on=here.vectors, aimed_at=TARGET_GB)
        for v, made in sizes.items()
    ])  # fmt: skip
    return sizes


if __name__ == "__main__":
    try:
        run()
    except UserError as error:
        sys.exit(f"error: {error}")
