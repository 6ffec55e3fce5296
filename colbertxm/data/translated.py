"""Training queries in other languages than their passages: a small share of them, as translations that people wrote.

Which queries is a function of their keys, so that a larger share holds a smaller one, whatever the seed of a run.
"""

from __future__ import annotations

from collections.abc import Sequence

from colbertxm.data.keyed import share_of
from colbertxm.data.smart_home import SmartHome
from colbertxm.errors import UserError
from colbertxm.languages import language
from colbertxm.records import Text

Pair = tuple[Text, Text]


def translate_queries(home: SmartHome, pairs: Sequence[Pair], share: float, langs: Sequence[str]) -> list[Pair]:
    """`pairs` with about `share` of the queries in one of `langs`, drawn for each query among those that have it; one
    that nobody translated stays. Raises UserError for a share outside 0..1, and for languages that are not there."""
    if not 0 <= share <= 1:
        raise UserError(f"data.translated_share={share} must lie between 0 and 1")
    codes = [language(spelling).code for spelling in langs]
    if share and not codes:
        raise UserError(f"data.translated_share={share} needs data.translated_langs=[...]")
    for code in codes:
        if code not in home.pairs:
            raise UserError(
                f"smart_home has no texts in {code!r}: data.translated_langs can be {', '.join(home.pairs)}"
            )
    return [(_translated(home, query, codes) if _draw(query, "share") < share else query, p) for query, p in pairs]


def _translated(home: SmartHome, query: Text, codes: Sequence[str]) -> Text:
    key = home.pair_of(query.id)
    there = [code for code in codes if key in home.pairs[code]]
    if not there:
        return query
    code = there[int(_draw(query, "language") * len(there))]
    return Text(f"{code}:q:{key}", home.pairs[code][key][0], code)


def _draw(query: Text, what: str) -> float:
    """A number in [0, 1) that the query's id decides."""
    return share_of(f"{what}:{query.id}")
