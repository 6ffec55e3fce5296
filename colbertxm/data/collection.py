"""A retrieval task: queries, passages, and which answers which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from colbertxm.records import Judgement, Text


@dataclass(frozen=True)
class Collection:
    """Queries in one language over passages in one language, with their judgements; or in several, in one pool."""

    MIXED: ClassVar[str] = "mixed"
    """Stands for the language where queries, or passages, are in several."""

    name: str
    query_lang: str
    passage_lang: str
    queries: tuple[Text, ...]
    passages: Sequence[Text]
    """In memory, or read as they are asked for (`colbertxm.data.lazy.StoredTexts`); empty where no corpus is there."""
    judgements: tuple[Judgement, ...]
    measures: tuple[str, ...] = ()
    """The official ones, the main one first; none: the report's own."""
    without_itself: bool = False
    """Whether a passage under the query's own id is no hit, as BEIR's evaluation has it."""
