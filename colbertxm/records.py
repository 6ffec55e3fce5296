"""The only types that cross stages: a text, a training triple, a relevance judgement, a ranked hit.

A language is a field of every text (a code of `colbertxm.languages`), never a property of a collection,
because every vector must be made by its own text's adapter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Text:
    """A query or a passage. `lang` is a code that `colbertxm.languages.language` knows, such as `de` or
    `zh-hant`; where it was guessed (`lang=auto`), `lang_confidence` says how sure the guess was, 0 to 1."""

    id: str
    text: str
    lang: str
    lang_confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Triple:
    """One training example: a query, a passage that answers it, and passages that do not (hard negatives)."""

    query: Text
    positive: Text
    negatives: tuple[Text, ...]
    scores: tuple[float, ...] = ()
    """A teacher's, of the positive and then the negatives; none where nobody taught."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """One line of qrels: how relevant a passage is to a query (0 = judged and not relevant)."""

    query_id: str
    passage_id: str
    relevance: int


class Hit(NamedTuple):
    """One line of a run. `rank` starts at 1; scores fall strictly with the rank, so that no tie rule matters.

    A tuple, because runs hold hundreds of thousands: it is made in a third of a frozen dataclass's time."""

    query_id: str
    passage_id: str
    rank: int
    score: float
