"""Which query token met which passage token, and how strongly: MaxSim taken apart.

Shapes: Q query vectors, D passage vectors. The score is the sum over query vectors of their best cosine
(ColBERT, arXiv 2004.12832, equation 3), so each query token's part is that cosine, and each passage token's part is
the sum of the cosines of the query tokens that chose it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Role = Literal["text", "prefix", "start", "marker", "end", "mask"]


@dataclass(frozen=True)
class Token:
    """One token as the encoder read it."""

    text: str
    """What it covers of the text as written, with the space before it; empty for tokens that are no text."""
    piece: str
    """Its name in the vocabulary."""
    role: Role
    kept: bool
    """Whether its vector takes part in MaxSim (punctuation and prompts may not)."""
    word: int
    """Number of its word; -1 where it belongs to no text."""

    def label(self) -> str:
        """What to show: the text, or the token's name where it is none."""
        if self.role in ("text", "prefix") and self.text.strip():
            return self.text.strip()
        return self.piece.replace("▁", "␣") or "∅"


@dataclass(frozen=True)
class Side:
    """A query or a passage: its tokens in order, and the end of the text that was cut off."""

    lang: str
    tokens: tuple[Token, ...]
    rest: str = ""

    @cached_property
    def kept(self) -> tuple[Token, ...]:
        """The tokens that have vectors, in their order."""
        return tuple(token for token in self.tokens if token.kept)

    def word(self, number: int) -> str:
        """A word as written."""
        return "".join(token.text for token in self.tokens if token.word == number).strip()


@dataclass(frozen=True)
class WordMatch:
    """A query word: what it gives to the score, and the passage words that its tokens chose, the strongest first."""

    word: str
    score: float
    found: tuple[tuple[str, float], ...]


@dataclass(frozen=True, eq=False)
class Matches:
    """`similarity` [Q, D]: cosines of the kept tokens of query and passage, in their order."""

    query: Side
    passage: Side
    similarity: Floats

    @cached_property
    def best(self) -> npt.NDArray[np.int64]:
        """[Q]: the passage vector that each query vector chose, the first of equal ones."""
        return self.similarity.argmax(1)

    @cached_property
    def cosines(self) -> Floats:
        """[Q]: each query vector's part of the score."""
        return self.similarity.max(1)

    @property
    def score(self) -> float:
        """MaxSim."""
        return float(self.cosines.sum())

    @cached_property
    def given(self) -> Floats:
        """[D]: each passage vector's part of the score; 0 where nobody chose it."""
        return np.bincount(self.best, self.cosines, self.similarity.shape[1]).astype(np.float32)

    def words(self) -> list[WordMatch]:
        """The query's words in order; tokens that are no text stand alone, mask expansion in one line."""
        groups: dict[tuple[str, int], list[int]] = {}
        for place, token in enumerate(self.query.kept):
            key = ("word", token.word) if token.word >= 0 else (token.label(), -1 if token.role == "mask" else place)
            groups.setdefault(key, []).append(place)
        return [
            WordMatch(
                self.query.word(number) if kind == "word" else kind + (f" x {len(places)}" if len(places) > 1 else ""),
                float(self.cosines[places].sum()),
                self._found(places),
            )
            for (kind, number), places in groups.items()
        ]

    def _found(self, places: list[int]) -> tuple[tuple[str, float], ...]:
        found: dict[str, float] = {}
        for place in places:
            token = self.passage.kept[int(self.best[place])]
            name = self.passage.word(token.word) if token.word >= 0 else token.label()
            found[name] = found.get(name, 0.0) + float(self.cosines[place])
        return tuple(sorted(found.items(), key=lambda item: -item[1]))
