"""Systems that need no training of ours, behind the face that every evaluated system has."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from colbertxm.data.bm25 import BM25, K1, B
from colbertxm.data.bm25_tokens import cutter
from colbertxm.data.collection import Collection
from colbertxm.evaluation.runs import rank_hits
from colbertxm.records import Hit


class System(Protocol):
    """Anything that can be evaluated."""

    def run(self, collection: Collection, k: int = 100) -> list[Hit]:
        """Up to `k` hits for each query, in rank order."""
        ...


@runtime_checkable
class Described(Protocol):
    """A system whose figures hang on more than its name says."""

    def how(self, collection: Collection) -> str:
        """What made the figures of `collection`, for their row."""
        ...


def how(system: System, collection: Collection) -> str | None:
    """What a row says of how its system worked, where the system has something to say."""
    return system.how(collection) if isinstance(system, Described) else None


class BM25System:
    """BM25 with tokens of a scheme of `colbertxm.data.bm25_tokens`, built anew for each collection."""

    def __init__(self, scheme: str = "best", k1: float = K1, b: float = B) -> None:
        self.scheme, self.k1, self.b = scheme, k1, b
        cutter("en", scheme)  # a misspelt scheme, or a library that is not there, shows before the first collection

    def run(self, collection: Collection, k: int = 100) -> list[Hit]:
        """Passages that share a word with the query, best first; queries that match nothing get no hits."""
        found = BM25(collection.passages, self.k1, self.b, self.scheme).search(collection.queries, k)
        return [
            hit
            for query, ranked in zip(collection.queries, found, strict=True)
            for hit in rank_hits(query.id, [i for i, _ in ranked], [score for _, score in ranked])
        ]

    def how(self, collection: Collection) -> str:
        """The constants, and each language's tokens."""
        langs = dict.fromkeys(text.lang for texts in (collection.queries, collection.passages) for text in texts)
        cut = "; ".join(f"{lang}: {cutter(lang, self.scheme).how}" for lang in langs)
        return f"BM25 k1={self.k1} b={self.b}, {cut}"
