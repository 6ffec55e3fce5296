"""Hard negatives from any ranking: passages that rank high for a query and do not answer it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from colbertxm.data.bm25 import BM25
from colbertxm.errors import UserError
from colbertxm.records import Text, Triple

Ranked = Sequence[tuple[str, float]]
Search = Callable[[Sequence[Text], int], Sequence[Ranked]]
"""The best k passages, at most, for each query: an index's search, or BM25's."""


def mine(
    pairs: Sequence[tuple[Text, Text]],
    ranked: Sequence[Ranked],
    passages: Mapping[str, Text],
    depth: int,
    judged: Sequence[tuple[Text, Text]] | None = None,
) -> list[tuple[str, ...]]:
    """For each (query, positive) the ids of the first `depth` passages of its ranking that are no answer.

    An answer is a passage with the text of a positive of any query of the same text, among `judged` (None: `pairs`);
    case does not matter. Of passages with one text only the first is taken. `ranked` holds
    (passage id, score) in rank order."""
    answers: dict[str, set[str]] = {}
    for query, positive in pairs if judged is None else judged:
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


def mine_with(
    search: Search, pairs: Sequence[tuple[Text, Text]], passages: Mapping[str, Text], depth: int
) -> list[tuple[str, ...]]:
    """`mine` from the rankings of `search`, which is asked twice as deep again for those queries whose first hits
    were mostly answers or repeats, until they have `depth` negatives or their ranking ends."""
    found: list[tuple[str, ...]] = [()] * len(pairs)
    waiting, k = list(range(len(pairs))), depth + 1
    while waiting:
        asked = [pairs[i] for i in waiting]
        ranked = search([query for query, _ in asked], k)
        # Answers are known from all pairs: another pair with this query's text names one of them.
        for i, wrong in zip(waiting, mine(asked, ranked, passages, depth, pairs), strict=True):
            found[i] = wrong
        waiting = [i for i, hits in zip(waiting, ranked, strict=True) if len(found[i]) < depth and len(hits) >= k]
        k *= 2
    return found


def mine_bm25(pairs: Sequence[tuple[Text, Text]], passages: Mapping[str, Text], depth: int) -> list[tuple[str, ...]]:
    """`mine` from BM25 over `passages`: those that share the query's words and do not answer it."""
    return mine_with(BM25(list(passages.values())).search, pairs, passages, depth)


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
