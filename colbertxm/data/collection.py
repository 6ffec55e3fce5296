"""A retrieval task: queries, passages, and which answers which."""

from __future__ import annotations

from dataclasses import dataclass

from colbertxm.records import Judgement, Text


@dataclass(frozen=True)
class Collection:
    """Queries in one language over passages in one language, with their judgements."""

    name: str
    query_lang: str
    passage_lang: str
    queries: tuple[Text, ...]
    passages: tuple[Text, ...]
    judgements: tuple[Judgement, ...]
