"""What exact MaxSim finds: the truth that every engine is measured against.

It is kept beside the vectors (`truth-QUERIES-K.npz`), with the names, sizes and times of the files that it was taken
from: with others it is taken again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from benchmarks.engine.peers import common
from colbertxm.engine.exact import ExactEngine
from colbertxm.errors import UserError
from colbertxm.evaluation.results import replacing

MEMORY_MB = 128


class Oracle:
    """The best `k` documents of each query [Q, E], from shards that are shown one after another.

    With a `file`, what was found is written there after each shard, and a later oracle with the same file goes on
    behind the last of them; `of` says what is searched. Raises UserError for a file of something else.
    """

    def __init__(self, queries: Sequence[np.ndarray], k: int, file: Path | None = None, of: str = "") -> None:
        self.queries, self.k, self.file, self.of = [torch.from_numpy(query) for query in queries], k, file, of
        self.numbers = np.empty((len(queries), 0), np.int64)
        self.scores = np.empty((len(queries), 0), np.float32)
        self.shards, self.documents = 0, 0
        if file is not None and file.is_file():
            self._read(file)

    def _read(self, file: Path) -> None:
        try:
            with np.load(file, allow_pickle=False) as kept:
                if str(kept["of"]) != self.of or len(kept["numbers"]) != len(self.queries):
                    raise UserError(f"{file} belongs to other vectors or queries: remove it")
                self.numbers, self.scores = kept["numbers"], kept["scores"]
                self.shards, self.documents = int(kept["shards"]), int(kept["documents"])
        except (BadZipFile, KeyError, ValueError) as error:
            raise UserError(f"{file} is damaged ({error}): remove it") from error

    def add(self, vectors: np.ndarray, offsets: np.ndarray) -> None:
        """The next shard: `vectors` [t, E], document n is rows offsets[n]:offsets[n + 1]."""
        size = len(offsets) - 1
        names = [str(self.documents + number) for number in range(size)]
        engine = ExactEngine(
            torch.from_numpy(vectors), torch.from_numpy(offsets.astype(np.int64)), names, ["en"] * size
        )
        found = engine.search(self.queries, self.k, memory_mb=MEMORY_MB)
        numbers = np.concatenate([self.numbers, [[int(name) for name in ids] for ids, _ in found]], 1)
        scores = np.concatenate([self.scores, np.stack([row for _, row in found])], 1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, : self.k]
        self.numbers = np.take_along_axis(numbers, order, 1).astype(np.int64)
        self.scores = np.take_along_axis(scores, order, 1)
        self.shards, self.documents = self.shards + 1, self.documents + size
        if self.file is not None:
            with replacing(self.file) as part, part.open("wb") as out:
                np.savez(out, of=self.of, numbers=self.numbers, scores=self.scores, shards=self.shards,
                         documents=self.documents)  # fmt: skip


def truth(folder: Path, count: int, k: int) -> np.ndarray:
    """[count, k] positions of the best documents of the first `count` queries in a folder of vectors; one shard is in
    memory at a time. Fewer than k columns where there are fewer documents."""
    kept, seen = folder / f"truth-{count}-{k}.npz", _seen(folder)
    with contextlib.suppress(OSError, BadZipFile, KeyError, ValueError), np.load(kept, allow_pickle=False) as file:
        if str(file["of"]) == seen:
            return np.asarray(file["numbers"])
    oracle = Oracle(common.queries(folder, count), k)
    for part in common.shards(folder):
        oracle.add(np.array(part.vectors), part.offsets)
    with contextlib.suppress(UserError), replacing(kept) as part, part.open("wb") as out:  # a folder may be read-only
        np.savez(out, of=seen, numbers=oracle.numbers)
    return oracle.numbers


def _seen(folder: Path) -> str:
    """The folder's files of vectors: name, size and time of each."""
    files = sorted(file for file in folder.glob("*.npy"))
    return json.dumps([[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files])
