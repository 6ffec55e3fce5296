"""Candidates for hard negatives: for every query its positives and what some systems ranked high, with teacher scores.

    >>> pools = pool_systems(numbered(records), scores.of, margin=3.0)  # block by block: each passage once, de-noised
    >>> pools = without_answers(pools, same_passage)  # never an answer as a negative

Ids are whole numbers (MS MARCO's own, or rows of a store). Ragged lists lie end to end beside their offsets, so that
half a million queries are a few arrays (8 bytes a candidate), which may be memory maps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import chain, islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from colbertxm.errors import UserError, nearest

Ints = NDArray[Any]
Floats = NDArray[Any]
Entry = tuple[int, Sequence[int], Mapping[str, Sequence[int]]]
"""(query id, ids of its positives, {system: ids in rank order}): one line of msmarco-hard-negatives.jsonl."""
Lookup = Callable[[Ints, Ints], Floats]
"""Teacher scores of pairs, from equally long arrays of query and passage ids; NaN where there is none."""


class Record(Protocol):
    """A line of hard negatives as a reader gives it, with ids as they are written."""

    @property
    def query_id(self) -> str: ...
    @property
    def positives(self) -> Sequence[str]: ...
    @property
    def negatives(self) -> Mapping[str, Sequence[str]]: ...


BLOCK = 8192
LARGEST = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Pools:
    """N queries with P positives and M candidates in all; those of query i are `positives[a:b]` with
    `a, b = positive_offsets[i : i + 2]`, and `candidates` likewise. Scores are the teacher's, in float32."""

    query_ids: Ints
    positives: Ints
    positive_scores: Floats
    positive_offsets: Ints
    candidates: Ints
    candidate_scores: Floats
    candidate_offsets: Ints

    def __len__(self) -> int:
        return len(self.query_ids)

    def rows(self) -> Ints:
        """The number of its query for every candidate, [M]."""
        return np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self.candidate_offsets))

    def lowest_positive(self) -> Floats:
        """The score of each query's worst positive, [N]."""
        return np.minimum.reduceat(self.positive_scores, self.positive_offsets[:-1])

    def keep(self, wanted_M: NDArray[np.bool_]) -> Pools:
        """Only the candidates that are marked, in their order."""
        ends = np.concatenate([[0], np.cumsum(wanted_M, dtype=np.int64)])
        return replace(
            self,
            candidates=self.candidates[wanted_M],
            candidate_scores=self.candidate_scores[wanted_M],
            candidate_offsets=ends[self.candidate_offsets],
        )


def numbered(records: Iterable[Record]) -> Iterator[Entry]:
    """Entries of records whose ids are numbers, as MS MARCO's are. Raises UserError for one that is not."""
    for record in records:
        try:
            lists = {system: [int(i) for i in ids] for system, ids in record.negatives.items()}
            yield int(record.query_id), [int(i) for i in record.positives], lists
        except ValueError as error:
            raise UserError(f"query {record.query_id}: an id is no number ({error}): give store rows instead") from None


def pool_systems(
    entries: Iterable[Entry],
    scores: Lookup,
    systems: Sequence[str] | None = None,
    margin: float | None = None,
    ranked: bool = False,
) -> Pools:
    """Pool the lists of `systems` (None: all that an entry has), each passage once, and score them. With `margin`,
    only candidates that `denoise` would keep are held in memory. Queries without positives are left out, as in the
    original. `ranked` keeps the order of the first list that names a passage; without it, the order is that of a
    Python set of the ids, which is the original's and which its random draws depend on.

    Raises UserError for an entry that lacks a system, a pair without a score, or an id above 2^31 - 1."""
    labelled = (entry for entry in entries if len(entry[1]))
    parts = []
    while block := list(islice(labelled, BLOCK)):
        part = _score(block, [_pooled(entry, systems, ranked) for entry in block], scores)
        parts.append(part if margin is None else denoise(part, margin=margin))
    if not parts:
        raise UserError("no query has a positive: there is nothing to sample negatives for")
    return _join(parts)


def _pooled(entry: Entry, systems: Sequence[str] | None, ranked: bool) -> list[int]:
    query, _, lists = entry
    missing = next((name for name in systems or () if name not in lists), None)
    if missing is not None:
        raise UserError(
            f"query {query} has no list of system {missing!r}{nearest(missing, lists)}: it has {list(lists)}"
        )
    ids = chain.from_iterable(lists[name] for name in systems or lists)
    return list(dict.fromkeys(ids) if ranked else set(ids))


def _score(block: Sequence[Entry], pooled: Sequence[list[int]], scores: Lookup) -> Pools:
    queries = _int32([query for query, _, _ in block])
    sides = []
    for lists in ([positives for _, positives, _ in block], pooled):
        counts = [len(ids) for ids in lists]
        passages = _int32(list(chain.from_iterable(lists)))
        asked = np.repeat(queries, counts)
        found = np.asarray(scores(asked, passages), dtype=np.float32)
        if np.isnan(found).any():
            i = int(np.isnan(found).argmax())
            raise UserError(f"query {asked[i]} and passage {passages[i]} have no teacher score: score all pooled pairs")
        sides.append((passages, found, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)))
    return Pools(queries, *sides[0], *sides[1])


def _int32(ids: Sequence[int]) -> Ints:
    wide = np.asarray(ids, dtype=np.int64)
    if len(wide) and (wide.min() < 0 or wide.max() > LARGEST):
        raise UserError(f"id {wide.max() if wide.max() > LARGEST else wide.min()} is no 31-bit number: use store rows")
    return wide.astype(np.int32)


def _join(parts: Sequence[Pools]) -> Pools:
    def offsets(pieces: Iterable[Ints]) -> Ints:
        return np.concatenate([[0], np.cumsum(np.concatenate([np.diff(piece) for piece in pieces]))])

    def values(name: str) -> Any:
        return np.concatenate([getattr(part, name) for part in parts])

    return Pools(
        values("query_ids"),
        values("positives"),
        values("positive_scores"),
        offsets(part.positive_offsets for part in parts),
        values("candidates"),
        values("candidate_scores"),
        offsets(part.candidate_offsets for part in parts),
    )


def denoise(pools: Pools, *, margin: float | None = None, share: float | None = None) -> Pools:
    """Drop candidates that the teacher finds too good to be wrong: kept are scores of at most the worst positive's
    minus `margin` (ColBERT-XM's recipe: 3.0 for a cross-encoder's logits), or of at most `share` of it (NV-Retriever's
    TopK-PercPos, arXiv 2407.15831: 0.95 of a similarity). Raises UserError unless exactly one of them is given, and
    for a share of a score that is not above 0, which would mean nothing."""
    if (margin is None) == (share is None):
        raise UserError("de-noising takes either a margin or a share of the positive's score")
    lowest = pools.lowest_positive().astype(np.float64)  # in float64, as the original's Python floats are
    if share is not None and (not 0 < share <= 1 or lowest.min() <= 0):
        raise UserError(f"share={share} must lie in (0, 1] and needs positive scores above 0: use a margin for logits")
    limit = lowest * share if share is not None else lowest - margin  # type: ignore[operator]
    return pools.keep(pools.candidate_scores <= np.repeat(limit, np.diff(pools.candidate_offsets)))


def without_answers(pools: Pools, same_passage: Ints | None = None, same_query: Ints | None = None) -> Pools:
    """Drop candidates that answer the query: judged positive for it, or with the text of such a passage; and of
    candidates with one text all but the first. `same_passage[p]` and `same_query[i]` (of the i-th query here) name the
    first with the same text, as `same_text` gives them; None: all texts differ."""

    def canon(passages: Ints) -> Ints:
        return passages if same_passage is None else same_passage[passages]

    asked = np.arange(len(pools), dtype=np.int64) if same_query is None else same_query.astype(np.int64)
    answers = np.repeat(asked, np.diff(pools.positive_offsets)) << 32 | canon(pools.positives)
    rows, texts = pools.rows(), canon(pools.candidates)
    first = np.zeros(len(texts), dtype=bool)
    first[np.unique(rows.astype(np.int64) << 32 | texts, return_index=True)[1]] = True
    return pools.keep(first & ~np.isin(asked[rows] << 32 | texts, answers))


def by_score(pools: Pools) -> Pools:
    """Candidates in falling order of the teacher's score, so that ranks are the teacher's; ties keep their order."""
    order = np.lexsort((-pools.candidate_scores, pools.rows()))
    return replace(pools, candidates=pools.candidates[order], candidate_scores=pools.candidate_scores[order])


def same_text(texts: Iterable[str]) -> Ints:
    """For every text the number of the first that equals it but for case, int32. Compares 64-bit digests: of ten
    million texts two differing ones coincide once in 400,000 tries, and would cost one candidate."""

    def digests() -> Iterator[int]:
        for text in texts:
            yield int.from_bytes(blake2b(text.casefold().encode("utf-8"), digest_size=8).digest(), "little")

    _, first, inverse = np.unique(np.fromiter(digests(), dtype=np.uint64), return_index=True, return_inverse=True)
    return first[inverse].astype(np.int32)
