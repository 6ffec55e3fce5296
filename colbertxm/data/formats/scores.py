"""A teacher's scores of (query, passage) pairs: read once out of their pickle, kept as arrays, looked up in bulk."""

from __future__ import annotations

import gzip
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from colbertxm.data.formats.lines import Damaged, open_bytes
from colbertxm.data.formats.pickled_names import Unsafe
from colbertxm.data.formats.pickles import read_nested
from colbertxm.errors import UserError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
PARTS = ("qid", "start", "pid", "score")


@dataclass(frozen=True)
class Scores:
    """P scores of the candidates of Q queries: 8 bytes a score."""

    qid: Ints
    """[Q] query ids, rising."""
    start: Ints
    """[Q + 1]: the candidates of query i are those from start[i] to start[i + 1]."""
    pid: npt.NDArray[np.int32]
    """[P] passage ids, rising within a query."""
    score: Floats
    """[P]."""

    def of(self, qids: npt.ArrayLike, pids: npt.ArrayLike, missing: float | None = None) -> Floats:
        """The scores of pairs, in the shape of `qids` and `pids` broadcast. A pair that has none gets `missing`;
        without it, that is a UserError that names the first one."""
        asked_q, asked_p = np.broadcast_arrays(np.asarray(qids, np.int64), np.asarray(pids, np.int64))
        shape, asked_q, asked_p = asked_q.shape, asked_q.ravel(), asked_p.ravel()
        row = np.searchsorted(self.qid, asked_q)
        known = row < len(self.qid)
        known[known] = self.qid[row[known]] == asked_q[known]
        row = np.where(known, row, 0)
        low = np.where(known, self.start[row], 0) if len(self.qid) else np.zeros_like(asked_q)
        end = np.where(known, self.start[row + 1], 0) if len(self.qid) else low
        high = end.copy()
        while (open_ := low < high).any():  # a binary search in all rows at once: the longest has a thousand or so
            middle = (low + high) // 2
            less = np.zeros_like(open_)
            less[open_] = self.pid[middle[open_]] < asked_p[open_]
            low, high = np.where(less, middle + 1, low), np.where(open_ & ~less, middle, high)
        found = low < end
        found[found] = self.pid[low[found]] == asked_p[found]
        if missing is None and not found.all():
            first = int(np.flatnonzero(~found)[0])
            raise UserError(
                f"{int((~found).sum())} of {found.size} pairs have no score, the first is query {asked_q[first]} and "
                f"passage {asked_p[first]}: leave them out, or give missing="
            )
        scores = np.full(found.shape, 0.0 if missing is None else missing, np.float32)
        scores[found] = self.score[low[found]]
        return scores.reshape(shape)

    def save(self, path: Path) -> None:
        """Write an .npz, whole or not at all."""
        part = path.with_name(path.name + ".part")
        try:
            with part.open("wb") as file:
                np.savez(file, **{name: getattr(self, name) for name in PARTS})  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def load_scores(path: Path) -> Scores:
    """Scores that `save` wrote; the archive's checksums are verified by reading it. Raises UserError."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            scores = Scores(**{name: archive[name] for name in PARTS})
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read the scores in {path} ({error}): make them again from the pickle") from None
    start, size = scores.start, len(scores.pid)
    whole = len(start) == len(scores.qid) + 1 and size == len(scores.score) and start[0] == 0 and start[-1] == size
    if not whole or (np.diff(scores.qid) <= 0).any() or (np.diff(start) < 0).any():
        raise UserError(f"the scores in {path} are damaged: make them again from the pickle")
    return scores


def read_scores_pickle(path: Path) -> Scores:
    """cross-encoder-ms-marco-MiniLM-L-6-v2-scores.pkl.gz: {query id: {passage id: score}}, ids below 2^31 as numbers or
    strings of digits. Reads about half a million scores a second and needs about 16 bytes for each. Raises UserError
    for anything that is not such a dict, without running any of it."""
    queries: dict[int, tuple[npt.NDArray[np.int32], Floats]] = {}
    try:
        with open_bytes(path) as file:
            for key, inner in read_nested(file):
                qid = _id(key)
                if qid in queries:
                    raise Unsafe(f"query {qid} twice")
                queries[qid] = _row(inner)
            if file.read(1):
                raise Unsafe("something after its end")
    except Unsafe as refused:
        raise UserError(f"{path} is refused: it holds {refused}, expected a pickled {{qid: {{pid: score}}}}") from None
    except EOFError:
        raise UserError(f"{path} ends early, after {len(queries)} queries: fetch it again") from None
    except (gzip.BadGzipFile, zlib.error, Damaged) as error:
        raise UserError(f"{path} is damaged ({error}): fetch it again") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    return _joined(queries)


def _id(key: Any) -> int:
    digits = isinstance(key, str) and len(key) <= 10 and key.isascii() and key.isdigit()
    if not digits and type(key) is not int or not 0 <= (found := int(key)) < 1 << 31:
        raise Unsafe("a key that is no id (a whole number below 2^31)")
    return found


def _row(inner: dict[Any, Any]) -> tuple[npt.NDArray[np.int32], Floats]:
    """One query's passage ids, rising, and their scores."""
    if not all(type(score) in (float, int) for score in inner.values()):
        raise Unsafe("a score that is no number")
    pids = np.fromiter(
        (key if type(key) is int and 0 <= key < 1 << 31 else _id(key) for key in inner), np.int32, len(inner)
    )
    try:
        with np.errstate(over="ignore"):  # what overflows is refused below
            scores = np.fromiter(inner.values(), np.float32, len(inner))
    except OverflowError:
        raise Unsafe("a score that is no finite number") from None
    order = np.argsort(pids)
    pids, scores = pids[order], scores[order]
    if not np.isfinite(scores).all() or (np.diff(pids) == 0).any():
        raise Unsafe("a score that is no finite number, or a passage id twice")
    return pids, scores


def _joined(queries: dict[int, tuple[npt.NDArray[np.int32], Floats]]) -> Scores:
    qid = np.array(sorted(queries), np.int64)
    start = np.concatenate(([0], np.cumsum([len(queries[q][0]) for q in qid.tolist()], dtype=np.int64)))
    pid, score = np.empty(start[-1], np.int32), np.empty(start[-1], np.float32)
    for i, (low, high) in enumerate(_spans(start)):
        pid[low:high], score[low:high] = queries.pop(int(qid[i]))
    return Scores(qid, start.astype(np.int64), pid, score)


def _spans(start: Ints) -> Iterator[tuple[int, int]]:
    return zip(start[:-1].tolist(), start[1:].tolist(), strict=True)
