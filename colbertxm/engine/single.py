"""Single vectors through faiss, behind the face of `ExactEngine`: ids and strictly falling inner products.

Shapes: N passages with one vector each, E dimensions, B queries. Three kinds of index:

    flat    every product; the ranking of `ExactEngine`, ties in document order
    ivfpq   lists of codes, E/4 bytes a passage, searched in part: for collections that memory does not hold
    hnsw    a graph of neighbours: the quickest single query, for more memory (256 bytes a passage beside the vectors)

faiss proposes, the vectors decide: candidates are ranked by their float32 inner products, so that scores mean the
same for every kind and an approximate index can only miss a passage, never misjudge one. flat and hnsw hold the vectors
themselves; for ivfpq they stay where they were given or, read from a folder, in a mapped file, of which a search reads
a few rows (REFINE times k a query).

A filter is applied before ranking. Small parts are searched exhaustively, as are all parts of a flat index; in larger
ones faiss passes over the rest, with more effort. A query for which an approximate index finds fewer passages than
there are is answered exhaustively, so k hits are k hits.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from colbertxm.engine.exact import ExactEngine, check_search
from colbertxm.engine.faiss_index import EFFORT, build_index, faiss_module, parameters, stored_vectors, stream_index
from colbertxm.engine.filters import Wanted, documents
from colbertxm.engine.ties import strictly_falling
from colbertxm.errors import UserError
from colbertxm.files import (
    DataFile,
    Entry,
    Kind,
    damaged,
    map_array,
    publish,
    read_manifest,
    verify,
    write_array,
    writing,
)

SINGLE = Kind("colbertxm-single", 1, "index of single vectors", "index again")
REFINE, FEWEST = 4, 100  # candidates of lossy codes: so many times k, but not fewer than FEWEST
SLACK = 16  # candidates of a flat index beyond k, which show that no tie was cut
EXHAUSTIVE = 4096  # passages that are faster to compare all than to look up
QUERIES = 1024  # queries handed to faiss at a time
Found = list[tuple[list[str], npt.NDArray[np.float32]]]
Matrix = npt.NDArray[np.float32]
Positions = npt.NDArray[np.int64]


class SingleVectorEngine:
    """Inner product over `vectors` [N, E] float32 or float16; passage n is `ids[n]` in the language `langs[n]`.

    `seed` draws the training sample, the centroids and the graph's levels: the same seed makes the same bytes on the
    same machine. `index` is one that was made of these vectors before. Raises UserError where the sizes do not fit,
    for an unknown kind, for vectors that are not finite or too few to train on, and without faiss.
    """

    def __init__(
        self,
        vectors: Tensor,
        ids: Sequence[str],
        langs: Sequence[str],
        kind: str = "flat",
        seed: int = 0,
        index: Any = None,
    ) -> None:
        offsets = torch.arange(len(vectors) + 1)
        self.kind, self.seed, self.ids, self.langs = kind, seed, ids, langs
        self.exact = ExactEngine(vectors, offsets, ids, langs)  # checks the layout before faiss spends time on it
        kept = vectors.cpu() if vectors.dtype in (torch.float16, torch.float32) else vectors.cpu().float()
        self.index = build_index(kept, kind, seed) if index is None else index
        if kind != "ivfpq":
            kept = torch.from_numpy(stored_vectors(self.index))
        self.exact = ExactEngine(kept, offsets, ids, langs)
        self._rows = kept.numpy()
        norms = (float(block.float().norm(dim=1).max()) for block in kept.split(2**16) if len(block))
        self._longest = max(norms, default=0.0) if kind == "flat" else 0.0

    def search(
        self,
        queries: Sequence[Tensor],
        k: int,
        lang: str | None = None,
        ids: Wanted | None = None,
        effort: int | None = None,
    ) -> Found:
        """The best `k` passages of each query [1, E]: their ids and float32 scores, which fall strictly.

        `lang` and `ids` as in `ExactEngine.search`. `effort` is how much of an approximate index a query looks at:
        lists of ivfpq, nodes of hnsw's graph (at least k); where None EFFORT, and at least 2 k nodes. Raises
        UserError for a query that is not one vector of the index's dimensions, unknown languages and ids, and
        effort for a flat index.
        """
        self._check(queries, k, effort)
        chosen = documents(self.ids, self.langs, lang, ids)
        small = len(chosen) <= max(EXHAUSTIVE, len(self.ids) // 20) or self.kind == "flat"
        if len(chosen) < len(self.ids) and small:
            return self._exhaustive(queries, k, chosen)
        flat_BE = torch.cat([torch.empty(0, self._rows.shape[1]), *(q.cpu().float() for q in queries)]).numpy()
        found: Found = []
        for start in range(0, len(queries), QUERIES):
            batch = flat_BE[start : start + QUERIES]
            every = self._every(batch, k) if self.kind == "flat" else self._some(batch, k, chosen, effort)
            for b, candidates in enumerate(every):
                if len(candidates) < min(k, len(chosen)):
                    found += self._exhaustive(queries[start + b : start + b + 1], k, chosen)
                else:
                    found.append(self._ranked(batch[b], candidates, k))
        return found

    def write(self, folder: Path) -> None:
        """Write the index to `folder`, in the place of the one that is there. Raises UserError where another process
        writes there, the folder holds something else, or the disk is full; what was there then stays."""
        with writing(folder, SINGLE):
            files = {"index": _index_file(folder, self.index)}
            for name, strings in (("ids", self.ids), ("langs", self.langs)):
                file = DataFile(folder, name, ".json")
                file.write(json.dumps(list(strings)).encode())
                files[name] = file.finish()
            if self.kind == "ivfpq":
                files["vectors"] = write_array(folder, "vectors", self._rows)
            content = {"kind": self.kind, "seed": self.seed, "dtype": self._rows.dtype.newbyteorder("<").str}
            shape = {"passages": len(self.ids), "dimensions": self._rows.shape[1]}
            publish(folder, SINGLE, {**content, **shape}, files)

    @classmethod
    def read(cls, folder: Path) -> SingleVectorEngine:
        """The engine that was written to `folder`. All checksums are compared first, for faiss believes whatever bytes
        it is given. Raises UserError for a missing, damaged, foreign or newer one."""
        faiss = faiss_module()
        verify(folder, SINGLE)
        manifest = read_manifest(folder, SINGLE)
        files, shape = manifest["files"], (manifest["passages"], manifest["dimensions"])
        ids, langs = (json.loads((folder / files[name]["file"]).read_bytes()) for name in ("ids", "langs"))
        path = folder / files["index"]["file"]
        try:
            index = faiss.read_index(str(path))
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise damaged(path, SINGLE, f"is no index that faiss {faiss.__version__} reads ({reason})") from error
        if (index.ntotal, index.d) != shape:
            raise damaged(path, SINGLE, f"has {index.ntotal} vectors of {index.d} dimensions, its manifest {shape}")
        rows = stored_vectors(index) if manifest["kind"] != "ivfpq" else None
        if rows is None:
            rows = map_array(folder, SINGLE, files["vectors"], manifest["dtype"], shape)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # and nobody writes to it
            vectors = torch.from_numpy(rows)
        return cls(vectors, ids, langs, manifest["kind"], manifest["seed"], index)

    def _check(self, queries: Sequence[Tensor], k: int, effort: int | None) -> None:
        check_search(queries, k, self._rows.shape[1])
        for i, query in enumerate(queries):
            if len(query) != 1:
                raise UserError(f"query {i} has {len(query)} vectors, this index one a text: search with its own model")
        if self.kind == "flat" and effort is not None:
            raise UserError(f"effort = {effort}: a flat index compares everything, so leave effort out")
        if effort is not None and effort < 1:
            raise UserError(f"effort = {effort}: look at one list or node at least")

    def _every(self, queries_BE: Matrix, k: int) -> list[Positions]:
        """Of a flat index, the best `k` and all that tie with the last of them, for faiss drops ties as it likes.

        faiss rounds a sum of E products in its own way. Two ways differ by about sqrt(E) roundings of the largest
        product; four times that is taken for a tie.
        """
        count, dim = self._rows.shape
        margin_B = 4 * dim**0.5 * np.finfo(np.float32).eps * self._longest * np.linalg.norm(queries_BE, axis=1)
        candidates: list[Positions] = [np.empty(0, np.int64)] * len(queries_BE)
        open_B, fetch = np.arange(len(queries_BE)), k + SLACK
        while count and len(open_B):
            fetch = min(fetch, count)
            scores, positions = self.index.search(queries_BE[open_B], fetch)
            for b, row in zip(open_B.tolist(), positions, strict=True):
                candidates[b] = row
            if fetch == count:
                break
            open_B = open_B[scores[:, -1] >= scores[:, k - 1] - margin_B[open_B]]
            fetch *= 4
        return candidates

    def _some(self, queries_BE: Matrix, k: int, chosen: Positions, effort: int | None) -> list[Positions]:
        """What an approximate index proposes from among `chosen`."""
        fetch = min(len(chosen), k if self.kind == "hnsw" else max(REFINE * k, FEWEST))
        if not fetch:
            return [chosen] * len(queries_BE)
        if self.kind == "hnsw":  # a search for k keeps k nodes in view, whatever effort says
            effort = max(EFFORT["hnsw"], 2 * fetch) if effort is None else max(effort, fetch)
        elif effort is None:
            effort = EFFORT[self.kind]
        _, positions = self.index.search(queries_BE, fetch, params=parameters(self.index, effort, chosen))
        return [row[row >= 0] for row in positions]

    def _ranked(self, query_E: Matrix, candidates: Positions, k: int) -> tuple[list[str], Matrix]:
        """The best `k` candidates by their own vectors; equal scores in document order. Each product is summed for
        itself: a matrix product sums its last rows in another order, and equal vectors would no longer tie."""
        candidates = np.sort(candidates)
        scores = np.einsum("me,e->m", self._rows[candidates].astype(np.float32), query_E)
        order = np.argsort(-scores, kind="stable")[:k]
        return [self.ids[n] for n in candidates[order].tolist()], strictly_falling(scores[order])

    def _exhaustive(self, queries: Sequence[Tensor], k: int, chosen: Positions) -> Found:
        mask = np.zeros(len(self.ids), bool)
        mask[chosen] = True
        return self.exact.search(queries, k, ids=mask)


def _index_file(folder: Path, index: Any) -> Entry:
    file = DataFile(folder, "index")
    try:
        stream_index(index, file.write)
        return file.finish()
    except BaseException:
        file.discard()
        raise
