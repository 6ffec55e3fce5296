"""The measures of the field's collections, by the names that ir_measures gives them, as functions of `Found`.

RR R nDCG AP P Rprec Success Judged, with a depth (`RR@10`) where the name allows one and, for those that ask whether a
passage is relevant, from which grade on (`AP(rel=2)@100`; from 1 otherwise). Each equals trec_eval's measure behind
pytrec_eval, Judged that of ir_measures; `tests/test_measures.py` compares them.

Shapes: Q queries, N judged passages that were found, R relevant passages in all.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from colbertxm.errors import UserError, nearest

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
ALL = 2**31  # the depth of a measure without one: deeper than any run


@dataclass(frozen=True, eq=False)
class Found:
    """Where the judged passages stand in the run, and all that there were to find.

    query, rank, gain: [N], one entry per judged passage in the run, by query and then by rank; `query` is a position
    in Q, `gain` the relevance, 0 or less where judged and not relevant.
    ideal_query, ideal_rank, ideal_gain: [R], all relevant passages, ranked best first within their query.
    lengths: [Q], the number of results.
    """

    queries: int
    query: Ints
    rank: Ints
    gain: Floats
    ideal_query: Ints
    ideal_rank: Ints
    ideal_gain: Floats
    lengths: Ints

    def counts(self, k: int, rel: int) -> Ints:
        """[Q]: relevant passages among the first k."""
        top = (self.rank <= k) & (self.gain >= rel)
        return np.bincount(self.query[top], minlength=self.queries)

    def relevant(self, rel: int) -> Ints:
        """[Q]: relevant passages in all."""
        return np.bincount(self.ideal_query[self.ideal_gain >= rel], minlength=self.queries)


Measure = Callable[[Found], Floats]


def reciprocal_rank(found: Found, k: int, rel: int = 1) -> Floats:
    """[Q]: 1 / the rank of the first relevant passage, 0 where none stands among the first k."""
    best = np.full(found.queries, np.inf)
    top = (found.rank <= k) & (found.gain >= rel)
    np.minimum.at(best, found.query[top], found.rank[top])
    return 1.0 / best


def recall(found: Found, k: int, rel: int = 1) -> Floats:
    """[Q]: relevant passages among the first k / all relevant passages."""
    return found.counts(k, rel) / np.maximum(found.relevant(rel), 1)


def precision(found: Found, k: int, rel: int = 1) -> Floats:
    """[Q]: relevant passages among the first k / k, however few results there are."""
    return found.counts(k, rel) / float(k)


def r_precision(found: Found, k: int = ALL, rel: int = 1) -> Floats:
    """[Q]: precision at the number of relevant passages. It knows no depth: `k` is not looked at."""
    relevant = found.relevant(rel)
    top = (found.gain >= rel) & (found.rank <= relevant[found.query])
    return np.bincount(found.query[top], minlength=found.queries) / np.maximum(relevant, 1)


def average_precision(found: Found, k: int, rel: int = 1) -> Floats:
    """[Q]: the sum of the precisions at the ranks of the relevant passages among the first k / all relevant ones, as
    trec_eval's map and map_cut."""
    top = (found.rank <= k) & (found.gain >= rel)
    query, rank = found.query[top], found.rank[top]
    first = np.searchsorted(query, np.arange(found.queries))
    so_far = np.arange(1, len(query) + 1) - first[query]
    sums = np.bincount(query, weights=so_far / rank, minlength=found.queries)
    return np.asarray(sums / np.maximum(found.relevant(rel), 1))


def ndcg(found: Found, k: int) -> Floats:
    """[Q]: sum of gain / log2(rank + 1) over the first k, divided by that of the best possible order.

    The gain is the relevance itself, as in trec_eval's ndcg_cut and ir_measures' nDCG@k, not 2^relevance - 1.
    """
    ideal = _discounted(found.ideal_query, found.ideal_rank, found.ideal_gain, k, found.queries)
    return _discounted(found.query, found.rank, found.gain, k, found.queries) / np.where(ideal > 0, ideal, 1.0)


def success(found: Found, k: int, rel: int = 1) -> Floats:
    """[Q]: 1 where a relevant passage stands among the first k, otherwise 0."""
    return (found.counts(k, rel) > 0).astype(np.float64)


def judged(found: Found, k: int) -> Floats:
    """[Q]: judged passages / passages among the first k; 0 without results."""
    known = np.bincount(found.query[found.rank <= k], minlength=found.queries)
    return known / np.maximum(np.minimum(found.lengths, k), 1)


def _discounted(query: Ints, rank: Ints, gain: Floats, k: int, queries: int) -> Floats:
    top = (rank <= k) & (gain > 0)
    sums = np.bincount(query[top], weights=gain[top] / np.log2(rank[top] + 1), minlength=queries)
    return sums.astype(np.float64)


@dataclass(frozen=True)
class _Family:
    of: Callable[..., Floats]
    depth: str  # "needed", "allowed", "none"
    graded: bool  # whether `(rel=2)` may stand behind the name


_FAMILIES = {
    "RR": _Family(reciprocal_rank, "allowed", True),
    "R": _Family(recall, "needed", True),
    "nDCG": _Family(ndcg, "allowed", False),
    "AP": _Family(average_precision, "allowed", True),
    "P": _Family(precision, "needed", True),
    "Rprec": _Family(r_precision, "none", True),
    "Success": _Family(success, "needed", True),
    "Judged": _Family(judged, "allowed", False),
}
_OTHER_NAMES = {
    **{"mrr": "RR", "rr": "RR", "recip_rank": "RR", "recall": "R", "r": "R", "ndcg": "nDCG", "ndcg_cut": "nDCG"},
    **{"map": "AP", "ap": "AP", "map_cut": "AP", "precision": "P", "prec": "P", "p": "P", "rprec": "Rprec"},
    **{"success": "Success", "hit": "Success", "hits": "Success", "judged": "Judged"},
}
_NAME = re.compile(r"([A-Za-z_]+)(?:\(rel=([1-9][0-9]{0,8})\))?(?:@([1-9][0-9]{0,8}))?")


def measure_of(name: str) -> Measure:
    """The function that a name such as `nDCG@10` or `P(rel=2)@5` stands for. UserError, with the nearest name, for
    one that stands for nothing."""
    match = _NAME.fullmatch(name)
    family = _FAMILIES.get(match[1]) if match else None
    if match is None or family is None:
        raise UserError(f"unknown measure {name!r}{_hint(name)}; take {_known()}")
    rel, depth = match[2], match[3]
    if depth is None and family.depth == "needed":
        raise UserError(f"measure {name!r} needs a depth: did you mean '{name}@10'?")
    if depth is not None and family.depth == "none":
        raise UserError(f"measure {name!r} knows no depth: did you mean '{name.partition('@')[0]}'?")
    if rel is not None and not family.graded:
        plain = match[1] + (f"@{depth}" if depth else "")
        raise UserError(f"measure {name!r} takes every grade as it is: did you mean {plain!r}?")
    arguments = {"rel": int(rel)} if rel else {}
    return partial(family.of, k=int(depth or ALL), **arguments)


def parse_measures(text: str) -> tuple[str, ...]:
    """The names in `RR@10 nDCG@10` (blanks or commas between), each once. UserError for an unknown one, or none."""
    names = tuple(dict.fromkeys(text.replace(",", " ").split()))
    if not names:
        raise UserError(f"no measure named; take {_known()}")
    for name in names:
        measure_of(name)
    return names


def is_measure(name: str) -> bool:
    """Whether a name of a result's column is a measure's."""
    match = _NAME.fullmatch(name)
    return match is not None and match[1] in _FAMILIES


def _hint(name: str) -> str:
    loose = re.match(r"([A-Za-z_]+?)_?(?:@?([1-9][0-9]{0,8}))?$", name)
    depth = (loose[2] if loose else None) or "10"
    other = _OTHER_NAMES.get(loose[1].lower()) if loose else None
    if other is None:
        return nearest(name, [f"{family}@{depth}" for family in _FAMILIES if family != "Rprec"] + [*_FAMILIES])
    shown = other if other == "Rprec" or (not loose or not loose[2]) and other in ("AP", "RR") else f"{other}@{depth}"
    return f" (did you mean {shown!r}?)"


def _known() -> str:
    return f"{', '.join(_FAMILIES)}, most with @ and a depth, as in RR@10 or AP(rel=2)@100"
