"""How scores and lengths are spread, by task and by language: numbers for people and for a picture.

Scores: those of relevant passages that the run found, those of the best passage of each query that is not relevant,
and of all that are not. Lengths: tokens before anything is cut off, and the share of texts that is cut.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from colbertxm.errors import UserError
from colbertxm.evaluation.diagnosis_runs import Task
from colbertxm.evaluation.metrics import relevant_by_query

QUANTILES = (5, 25, 50, 75, 95)
KINDS = ("relevant", "best other", "others")


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Number, mean, deviation and quantiles of values; only the number of none."""
    if not len(values):
        return {"count": 0}
    array = np.asarray(values, np.float64)
    quantiles = np.percentile(array, QUANTILES).tolist()
    named = {f"p{quantile}": round(value, 6) for quantile, value in zip(QUANTILES, quantiles, strict=True)}
    return {"count": len(array), "mean": round(float(array.mean()), 6), "sd": round(float(array.std()), 6), **named}


def score_lines(task: Task) -> list[dict[str, Any]]:
    """One line for each of KINDS of a task with one run; those of `relevant` also say how many were not found, how far
    the best relevant lies above the best other one (median over queries that found both), and `auc`: the probability
    that a relevant passage of any query scores above another passage of any query, 0.5 where scores tell nothing."""
    relevant = relevant_by_query(task.judgements)
    good: list[float] = []
    best_other: list[float] = []
    others: list[float] = []
    best: dict[str, dict[bool, float]] = {}
    for hit in task.runs[0]:
        if hit.query_id not in relevant:
            continue
        is_relevant = hit.passage_id in relevant[hit.query_id]
        (good if is_relevant else others).append(hit.score)
        seen = best.setdefault(hit.query_id, {})
        if is_relevant not in seen:
            seen[is_relevant] = hit.score
            if not is_relevant:
                best_other.append(hit.score)
    if not best:
        raise UserError(f"{task.name}: the run answers none of the judged queries: are run and qrels of one task?")
    margins = [seen[True] - seen[False] for seen in best.values() if len(seen) == 2]
    missed = sum(len(passages) for passages in relevant.values()) - len(good)
    more: dict[str, Any] = {"missed": missed}
    if margins:
        more["median margin"] = round(float(np.median(margins)), 6)
    if good and others:
        more["auc"] = round(auc(good, others), 6)
    kinds = zip(KINDS, (good, best_other, others), (more, {}, {}), strict=True)
    return [{"task": task.name, "scores of": kind, **spread(values), **extra} for kind, values, extra in kinds]


def auc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """P(a positive > a negative) + half of P(equal): the Mann-Whitney statistic over the number of pairs."""
    ordered = np.sort(np.asarray(negative, np.float64))
    values = np.asarray(positive, np.float64)
    below, up_to = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    return float((below + up_to).mean() / 2 / len(ordered))


def length_lines(kind: str, lengths: Mapping[str, Sequence[int]], limit: int) -> list[dict[str, Any]]:
    """One line a language of texts of one kind (query or passage): tokens before the cut, and the share longer than
    `limit`."""
    return [
        {"kind": kind, "lang": lang, **spread(own), "longest": max(own), "limit": limit,
         "cut": round(float(np.mean(np.asarray(own) > limit)), 6)}
        for lang, own in sorted(lengths.items(), key=lambda item: (item[0] != "en", item[0]))
    ]  # fmt: skip


def dicts_csv(lines: Iterable[Mapping[str, Any]]) -> str:
    """A table of lines that may lack some columns, which are then empty."""
    lines = list(lines)
    columns = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
