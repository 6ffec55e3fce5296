"""Hard negatives from any ranking: passages that rank high for a query and do not answer it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from colbertxm.errors import UserError
from colbertxm.records import Text, Triple

Ranked = Sequence[tuple[str, float]]


def mine(
    pairs: Sequence[tuple[Text, Text]], ranked: Sequence[Ranked], passages: Mapping[str, Text], depth: int
) -> list[tuple[str, ...]]:
    """For each (query, positive) the ids of the first `depth` passages of its ranking that are no answer.

    An answer is a passage with the text of a positive of any query of the same text; case does not matter. Of
    passages with one text only the first is taken. `ranked` holds (passage id, score) in rank order."""
    answers: dict[str, set[str]] = {}
    for query, positive in pairs:
        answers.setdefault(query.text.casefold(), set()).add(positive.text.casefold())
    found = []
    for (query, _), hits in zip(pairs, ranked, strict=True):
        seen = set(answers[query.text.casefold()])
        wrong: list[str] = []
        for passage_id, _ in hits:
            text = passages[passage_id].text.casefold()
            if text not in seen and len(wrong) < depth:
                seen.add(text)
                wrong.append(passage_id)
        found.append(tuple(wrong))
    return found


def triples(
    pairs: Sequence[tuple[Text, Text]], negatives: Sequence[Sequence[str]], passages: Mapping[str, Text]
) -> list[Triple]:
    """Pairs with their negatives. Raises UserError where a query has none: the pairwise loss needs one."""
    made = []
    for (query, positive), ids in zip(pairs, negatives, strict=True):
        if not ids:
            raise UserError(f"no hard negative was found for query {query.id!r}: raise data.negatives_depth")
        made.append(Triple(query, positive, tuple(passages[i] for i in ids)))
    return made
