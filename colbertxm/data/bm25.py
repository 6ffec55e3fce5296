"""BM25 over tokens that suit the language (`colbertxm.data.bm25_tokens`)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from colbertxm.data.bm25_tokens import tokenize
from colbertxm.records import Text

K1, B = 0.9, 0.4
"""Anserini's and Pyserini's defaults, with which MIRACL's BM25 figures were made (arXiv 2210.09984); Lucene's own are
1.2 and 0.75. Tuned on nothing of ours."""


class BM25:
    """BM25 over `passages` with bm25s, in Lucene's variant: idf = ln(1 + (N - n + 0.5) / (n + 0.5)), and a
    token that stands f times in a passage of length L adds idf * f / (f + k1 * (1 - b + b * L / mean L)).
    `scheme` says how texts are cut: see `colbertxm.data.bm25_tokens`; the plain way is the same on any machine."""

    def __init__(self, passages: Sequence[Text], k1: float = K1, b: float = B, scheme: str = "plain") -> None:
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it logs every index at DEBUG to whoever listens

        self.scheme = scheme
        self.ids = [passage.id for passage in passages]
        tokens = [tokenize(passage.text, passage.lang, scheme) for passage in passages]
        distinct = dict.fromkeys(word for words in tokens for word in words)
        self.vocabulary = {word: i for i, word in enumerate(distinct)}
        self.index = bm25s.BM25(k1=k1, b=b, method="lucene")
        if self.vocabulary:
            ids = [[self.vocabulary[word] for word in words] for words in tokens]
            self.index.index((ids, self.vocabulary), create_empty_token=False, show_progress=False)

    def search(self, queries: Sequence[Text], k: int) -> list[list[tuple[str, float]]]:
        """(passage id, score) of the best `k` that share a token with the query; ties in passage order."""
        return [self._search(query, k) for query in queries]

    def _search(self, query: Text, k: int) -> list[tuple[str, float]]:
        words = [self.vocabulary[w] for w in tokenize(query.text, query.lang, self.scheme) if w in self.vocabulary]
        if not words:
            return []
        scores = self.index.get_scores_from_ids(words)
        best = np.argsort(-scores, kind="stable")[:k]
        return [(self.ids[i], float(scores[i])) for i in best if scores[i] > 0]
