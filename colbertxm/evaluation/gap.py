"""The cross-lingual gap: how much is lost when a query is in another language than the passages.

For passages in language p and queries in q, the gap is the mean of the monolingual search of the same passages (p, p)
minus that of (q, p), query by query where the same queries exist in both languages: collection and truth stay, only
the query's language changes. 0 means that language makes no difference; above 0, that crossing languages costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from colbertxm.errors import UserError
from colbertxm.evaluation.metrics import Scores
from colbertxm.evaluation.significance import (
    Difference,
    Floats,
    holm,
    macro_difference,
    paired_difference,
    unpaired_difference,
)

Pair = tuple[str, str]
"""(query language, passage language)"""


@dataclass(frozen=True, eq=False)
class _Sides:
    """Values of the same queries in both settings, [Q] each, and their keys; or, without keys, of different ones."""

    mono: Floats
    cross: Floats
    keys: tuple[str, ...]

    def difference(self) -> Difference:
        return (paired_difference if self.keys else unpaired_difference)(self.mono, self.cross)


def cross_lingual_gap(
    measured: Mapping[Pair, Scores], keys: Mapping[str, str], measure: str = "RR@10"
) -> list[dict[str, Any]]:
    """A row for every cross-lingual pair that has its monolingual one, and, last, one for the mean of all pairs.

    `measured`: scores by (query language, passage language). `keys`: query id -> what its translations share; an id
    that is not in it is its own key. A row has `mono`, `cross`, `gap` (mono - cross) with `low` and `high`, `kept`
    (cross / mono), `p`, `p_holm` (Holm over the pairs), `queries` and `paired`. Pairs that share no query are compared
    as two samples (`paired` False: wider intervals, permutation test) and stay out of the mean.
    The mean draws and flips all values of one key together, see `macro_difference`.

    Raises UserError where no cross-lingual pair stands beside its monolingual one, or the measure was not computed.
    """
    sides = {
        (query, passage): _sides(measured[passage, passage], scores, keys, measure)
        for (query, passage), scores in measured.items()
        if query != passage and (passage, passage) in measured
    }
    if not sides:
        raise UserError("no cross-lingual gap without a search across languages and a monolingual one of the same "
                        f"passages: have {', '.join(f'{q}-{p}' for q, p in measured) or 'none'}")  # fmt: skip
    found = {pair: side.difference() for pair, side in sides.items()}
    names = {pair: f"{pair[0]}-{pair[1]}" for pair in sides}
    corrected = holm({names[pair]: difference.p for pair, difference in found.items()})
    rows = [
        _row(names[pair], measure, sides[pair].mono, sides[pair].cross, difference)
        | {"p_holm": corrected[names[pair]], "paired": bool(sides[pair].keys)}
        for pair, difference in found.items()
    ]
    paired = {names[pair]: side for pair, side in sides.items() if side.keys}
    return [*rows, *([mean_gap(paired, measure)] if paired else [])]


def mean_gap(sides: Mapping[str, _Sides], measure: str) -> dict[str, Any]:
    """The row of the mean over pairs, each weighing the same."""
    difference = macro_difference(
        {name: side.mono for name, side in sides.items()},
        {name: side.cross for name, side in sides.items()},
        {name: side.keys for name, side in sides.items()},
    )
    mono = np.array([side.mono.mean() for side in sides.values()])
    cross = np.array([side.cross.mean() for side in sides.values()])
    row = _row(f"mean of {len(sides)} pairs", measure, mono, cross, difference) | {"paired": True}
    return row | {"queries": sum(len(side.keys) for side in sides.values())}


def _sides(mono: Scores, cross: Scores, keys: Mapping[str, str], measure: str) -> _Sides:
    places = [_places(scores, keys) for scores in (mono, cross)]
    shared = tuple(key for key in places[0] if key in places[1])
    values = [_values(scores, measure) for scores in (mono, cross)]
    if not shared:
        return _Sides(values[0], values[1], ())
    first, second = (value[[place[key] for key in shared]] for value, place in zip(values, places, strict=True))
    return _Sides(first, second, shared)


def _places(scores: Scores, keys: Mapping[str, str]) -> dict[str, int]:
    places: dict[str, int] = {}
    for place, query_id in enumerate(scores.query_ids):
        key = keys.get(query_id, query_id)
        if places.setdefault(key, place) != place:
            raise UserError(f"queries {scores.query_ids[places[key]]} and {query_id} of one language have the key "
                            f"{key}: give each query of a language a key of its own")  # fmt: skip
    return places


def _values(scores: Scores, measure: str) -> Floats:
    scores.mean(measure)  # which knows what to say of a measure that was not computed
    return scores.values[measure]


def _row(scope: str, measure: str, mono: Floats, cross: Floats, found: Difference) -> dict[str, Any]:
    before, after = float(mono.mean()), float(cross.mean())
    line: dict[str, Any] = {"scope": scope, "measure": measure, "mono": before, "cross": after, "gap": found.mean}
    line |= {"low": found.low, "high": found.high, "p": found.p, "kept": after / before if before else None}
    return line | {"queries": len(cross)}


def gap_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows for a terminal."""
    return [
        f"{row['scope']:20} {row['measure']}  {row['mono']:.3f} -> {row['cross']:.3f}  gap {row['gap']:+.3f} "
        f"[{row['low']:+.3f}, {row['high']:+.3f}]  p = {row['p']:.4f}"
        for row in rows
    ]
