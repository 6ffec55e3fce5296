"""Systems that need no training of ours, behind the face that every evaluated system has."""

from __future__ import annotations

from typing import Protocol

from colbertxm.data.bm25 import BM25
from colbertxm.data.collection import Collection
from colbertxm.evaluation.runs import rank_hits
from colbertxm.records import Hit


class System(Protocol):
    """Anything that can be evaluated."""

    def run(self, collection: Collection, k: int = 100) -> list[Hit]:
        """Up to `k` hits for each query, in rank order."""
        ...


class BM25System:
    """BM25 with language-aware tokenisation, built anew for each collection."""

    def run(self, collection: Collection, k: int = 100) -> list[Hit]:
        """Passages that share a word with the query, best first; queries that match nothing get no hits."""
        found = BM25(collection.passages).search(collection.queries, k)
        return [
            hit
            for query, ranked in zip(collection.queries, found, strict=True)
            for hit in rank_hits(query.id, [i for i, _ in ranked], [score for _, score in ranked])
        ]
