"""Evaluate systems on collections: runs and qrels on disk, rows, and paired differences between two systems."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from colbertxm.data.collection import Collection
from colbertxm.evaluation.baselines import System, how
from colbertxm.evaluation.metrics import Scores, evaluate
from colbertxm.evaluation.results import row
from colbertxm.evaluation.runs import write_qrels, write_run
from colbertxm.evaluation.significance import holm, macro_difference, paired_difference

MEASURES = ("RR@10", "R@100", "nDCG@10")
Measured = dict[tuple[str, str], Scores]
"""Scores per (query language, passage language)."""


def measure(
    name: str,
    system: System,
    collections: Sequence[Collection],
    output: Path,
    k: int = 100,
    progress: Callable[[int], None] | None = None,
) -> tuple[list[dict[str, Any]], Measured]:
    """Rows and per-query scores of one system on every collection. The run goes to `output`/runs/NAME, the qrels to
    `output`/qrels: from these files anyone's tool gets the same figures."""
    rows: list[dict[str, Any]] = []
    measured: Measured = {}
    for collection in collections:
        pair = f"{collection.query_lang}-{collection.passage_lang}"
        hits = system.run(collection, k)
        write_run(output / "runs" / name / f"{pair}.trec.gz", hits, name)
        write_qrels(output / "qrels" / f"{pair}.qrels", collection.judgements)
        scores = evaluate(hits, collection.judgements, MEASURES)
        measured[collection.query_lang, collection.passage_lang] = scores
        notes = {"collection": collection.name, "how": how(system, collection)}
        rows.append(row(name, collection.query_lang, collection.passage_lang, scores, **notes))
        if progress is not None:
            progress(1)
    return rows, measured


def differences(
    first: Measured, second: Measured, keys: Mapping[str, str], measure_name: str = "RR@10"
) -> list[dict[str, Any]]:
    """Second minus first, monolingual: each language with its paired randomisation test (Holm-corrected over the
    languages), and the macro-average over the languages other than English, where `keys` (query id -> pair) says
    which queries are translations of one another and so are drawn together."""
    languages = [q for q, p in first if q == p]
    values = {
        lang: (first[lang, lang].values[measure_name], second[lang, lang].values[measure_name]) for lang in languages
    }
    found = {lang: paired_difference(b, a) for lang, (a, b) in values.items()}
    corrected = holm({lang: difference.p for lang, difference in found.items()})
    lines = [
        {
            "scope": lang,
            "difference": d.mean,
            "low": d.low,
            "high": d.high,
            "p": d.p,
            "p_holm": corrected[lang],
        }
        for lang, d in found.items()
    ]
    others = [lang for lang in languages if lang != "en"]
    if others:
        d = macro_difference(
            {lang: np.asarray(values[lang][1]) for lang in others},
            {lang: np.asarray(values[lang][0]) for lang in others},
            {lang: [keys[i] for i in first[lang, lang].query_ids] for lang in others},
        )
        lines.append({"scope": "mean of others", "difference": d.mean, "low": d.low, "high": d.high, "p": d.p})
    return lines
