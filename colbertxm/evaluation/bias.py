"""Language bias in a mixed pool: which languages stand among the first k, against which should.

A pool of passages in several languages is searched with queries of one or more. For a query, the share of a language
among its first k hits is compared with its share among the query's relevant passages (the truth). Three figures:

- the difference of the mean shares, language by language, with bootstrap intervals over the queries;
- their total variation distance, 1/2 sum_l |found_l - truth_l|: the part of the first k that would have to change its
  language, 0 to 1, in the mean over queries' shares (queries' own deviations cancel out: this is bias, not error);
- `own_first`: of the pairs of a relevant passage in the query's language and a relevant one in another, the share in
  which the former stands higher; 0.5 is fair, above it the own language is favoured. Passages that were not found stand
  below all others, and tie.

Shapes: Q queries, L languages (those of the pool, sorted).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from colbertxm.errors import UserError
from colbertxm.evaluation.metrics import relevant_by_query
from colbertxm.evaluation.significance import Floats, bootstrap_interval, bootstrap_intervals
from colbertxm.records import Hit, Judgement


@dataclass(frozen=True, eq=False)
class Bias:
    """`found`, `truth`: [Q, L], each query's shares; `pool`: [L], the languages' shares of all passages; `own_first`:
    [Q'], for the queries that have relevant passages in their own language and in others. `skipped`: judged queries
    without results or relevant passages, of which there are no shares."""

    languages: tuple[str, ...]
    k: int
    found: Floats
    truth: Floats
    pool: Floats
    own_first: Floats
    skipped: int

    def total_variation(self) -> float:
        """Half the sum of the absolute differences of the mean shares."""
        return float(np.abs(self.found.mean(axis=0) - self.truth.mean(axis=0)).sum() / 2)

    def row(self) -> dict[str, Any]:
        """Plain numbers for a result's file. `excess` is found - truth, with its interval."""
        gaps = self.found - self.truth
        intervals = bootstrap_intervals(dict(zip(self.languages, gaps.T, strict=True)))
        shares = zip(self.languages, self.found.mean(0), self.truth.mean(0), self.pool, gaps.mean(0), strict=True)
        row: dict[str, Any] = {
            "k": self.k,
            "queries": len(self.found),
            "skipped": self.skipped,
            "total_variation": self.total_variation(),
            "languages": {
                lang: {"found": float(found), "truth": float(truth), "pool": float(pool), "excess": float(excess),
                       "low": intervals[lang][0], "high": intervals[lang][1]}
                for lang, found, truth, pool, excess in shares
            },
        }  # fmt: skip
        if len(self.own_first):
            low, high = bootstrap_interval(self.own_first)
            row["own_first"] = {"mean": float(self.own_first.mean()), "low": low, "high": high,
                                "queries": len(self.own_first)}  # fmt: skip
        return row


def language_bias(
    run: Iterable[Hit],
    qrels: Iterable[Judgement],
    passage_lang: Mapping[str, str],
    query_lang: Mapping[str, str],
    k: int = 10,
) -> Bias:
    """The bias over all judged queries. `passage_lang`: every passage of the pool and its language; `query_lang`: every
    judged query's.

    Raises UserError for a passage or query without a language, and where no query has results and relevant passages.
    """
    return _bias(_tops(run, qrels), passage_lang, query_lang, k)


def language_bias_matrix(
    run: Iterable[Hit],
    qrels: Iterable[Judgement],
    passage_lang: Mapping[str, str],
    query_lang: Mapping[str, str],
    k: int = 10,
) -> dict[str, Bias]:
    """{query language: its queries' bias}, sorted: the rows of the matrix of query and passage languages."""
    tops = _tops(run, qrels)
    groups: dict[str, dict[str, _Top]] = {}
    for query_id, top in tops.items():
        groups.setdefault(_known(query_lang, query_id, "query"), {})[query_id] = top
    return {lang: _bias(groups[lang], passage_lang, query_lang, k) for lang in sorted(groups)}


@dataclass(frozen=True)
class _Top:
    ranked: dict[str, int]  # passage -> rank
    relevant: list[str]


def _tops(run: Iterable[Hit], qrels: Iterable[Judgement]) -> dict[str, _Top]:
    tops = {query_id: _Top({}, list(passages)) for query_id, passages in relevant_by_query(qrels).items()}
    for hit in run:
        if hit.query_id in tops:
            tops[hit.query_id].ranked[hit.passage_id] = hit.rank
    return tops


def _bias(tops: Mapping[str, _Top], passage_lang: Mapping[str, str], query_lang: Mapping[str, str], k: int) -> Bias:
    if k < 1:
        raise UserError(f"k={k}: look at one hit at least")
    counts = Counter(passage_lang.values())
    languages = tuple(sorted(counts))
    found, truth, own_first = [], [], []
    for query_id, top in tops.items():
        first = [passage for passage, rank in top.ranked.items() if rank <= k]
        if not first or not top.relevant:
            continue
        found.append(_shares([_known(passage_lang, passage, "passage") for passage in first], languages))
        truth.append(_shares([_known(passage_lang, passage, "passage") for passage in top.relevant], languages))
        own_first.append(_own_first(top, _known(query_lang, query_id, "query"), passage_lang))
    if not found:
        raise UserError("no judged query has both results and relevant passages: is it the run of these qrels?")
    return Bias(
        languages,
        k,
        np.array(found),
        np.array(truth),
        np.array([counts[lang] for lang in languages]) / len(passage_lang),
        np.array([share for share in own_first if share is not None]),
        len(tops) - len(found),
    )


def _shares(langs: list[str], languages: tuple[str, ...]) -> list[float]:
    counts = Counter(langs)
    return [counts[lang] / len(langs) for lang in languages]


def _own_first(top: _Top, lang: str, passage_lang: Mapping[str, str]) -> float | None:
    """Among pairs of relevant passages, the share in which the one in `lang` stands higher; None without pairs."""
    own = [top.ranked.get(passage, np.inf) for passage in top.relevant if passage_lang[passage] == lang]
    other = [top.ranked.get(passage, np.inf) for passage in top.relevant if passage_lang[passage] != lang]
    if not own or not other:
        return None
    own_ranks, other_ranks = np.array(own)[:, None], np.array(other)[None, :]
    return float(((own_ranks < other_ranks) + 0.5 * (own_ranks == other_ranks)).mean())


def _known(langs: Mapping[str, str], name: str, kind: str) -> str:
    if name not in langs:
        raise UserError(f"{kind} {name!r} has no language: give the language of every {kind}")
    return langs[name]
