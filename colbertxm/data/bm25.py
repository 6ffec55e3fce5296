"""BM25 over tokens that suit the language: words where spaces part them, elsewhere character bigrams."""

from __future__ import annotations

import logging
import re
import sys
import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np

from colbertxm.languages import language
from colbertxm.records import Text

# Scripts without spaces: Thai, Lao, Burmese, Khmer, kana, Han. A run of them is cut into overlapping bigrams,
# the usual stand-in for a segmenter in retrieval (Nie et al., 2000; Lucene's CJKBigramFilter).
DENSE = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]+"
)
# Soft hyphen, joiners and byte order mark stand inside words and change only how these look (UAX 29, WB4).
INVISIBLE = dict.fromkeys((0x00AD, 0x200C, 0x200D, 0x2060, 0xFEFF))
DOTTED = {"tr", "az"}  # where I is the capital of the dotless ı


def tokenize(text: str, lang: str) -> list[str]:
    """Lower-cased NFKC words; in languages written without spaces, bigrams of each run of their script (a run
    of one character stays as it is) and words of the rest. Raises UserError for an unknown language."""
    known = language(lang)
    folded = unicodedata.normalize("NFKC", text).translate(INVISIBLE)
    if known.code in DOTTED:
        folded = folded.replace("I", "ı").replace("İ", "i")
    words: list[str] = _word().findall(folded.lower().replace("i\u0307", "i"))  # "İ".lower() has two characters
    if known.segmented:
        return words
    tokens: list[str] = []
    for word in words:
        at = 0
        for run in DENSE.finditer(word):
            tokens += [word[at : run.start()]] if run.start() > at else []
            dense = run.group()
            tokens += [dense[i : i + 2] for i in range(len(dense) - 1)] or [dense]
            at = run.end()
        tokens += [word[at:]] if at < len(word) else []
    return tokens


@cache
def _word() -> re.Pattern[str]:
    """Letters, digits, underscores, and the marks that `\\w` leaves out: most vowels of Hindi, Thai or Tamil."""
    marks = (chr(i) for i in range(sys.maxunicode + 1) if unicodedata.category(chr(i))[0] == "M")
    return re.compile(f"[\\w{''.join(marks)}]+")


class BM25:
    """BM25 over `passages` with bm25s, in Lucene's variant: idf = ln(1 + (N - n + 0.5) / (n + 0.5)), and a
    token that stands f times in a passage of length L adds idf * f / (f + k1 * (1 - b + b * L / mean L))."""

    def __init__(self, passages: Sequence[Text], k1: float = 1.5, b: float = 0.75) -> None:
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it logs every index at DEBUG to whoever listens

        self.ids = [passage.id for passage in passages]
        tokens = [tokenize(passage.text, passage.lang) for passage in passages]
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
        words = [self.vocabulary[w] for w in tokenize(query.text, query.lang) if w in self.vocabulary]
        if not words:
            return []
        scores = self.index.get_scores_from_ids(words)
        best = np.argsort(-scores, kind="stable")[:k]
        return [(self.ids[i], float(scores[i])) for i in best if scores[i] > 0]
