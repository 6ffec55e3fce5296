"""Measured beside published: is every figure of a row there, and within its tolerance?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colbertxm.errors import UserError, nearest
from colbertxm.evaluation.metrics import evaluate
from colbertxm.evaluation.reproduction import WAYS, Row
from colbertxm.evaluation.runs import read_qrels, read_run

AVERAGE = "average"
WITHIN, OUTSIDE, MISSING = "within", "OUTSIDE", "MISSING"


@dataclass(frozen=True)
class Compared:
    """One published figure and what was measured, in points; `measured` is None where nothing was."""

    measure: str
    lang: str
    expected: float
    measured: float | None
    allowed: float

    @property
    def verdict(self) -> str:
        """within, OUTSIDE or MISSING. Half a hundredth of a point is what rounding for print may add."""
        if self.measured is None:
            return MISSING
        return WITHIN if abs(self.measured - self.expected) <= self.allowed + 0.005 else OUTSIDE


def model_of(row: Row, results: Sequence[Mapping[str, Any]], model: str | None = None) -> str:
    """The model whose rows are meant. Raises UserError where the results hold no row of this collection in these
    languages, or several models of which none is named."""
    models = list(dict.fromkeys(str(line["model"]) for line in results if _belongs(line, row)))
    if not models:
        raise UserError(f"no row of {row.collection} in {', '.join(row.languages)}: are these results of {row.name}?")
    if model is None and len(models) > 1:
        raise UserError(f"these results have {', '.join(models)}: say which one is {row.name}, with --model NAME")
    if model is not None and model not in models:
        raise UserError(f"these results have no model {model!r}{nearest(model, models)}, but {', '.join(models)}")
    return model or models[0]


def measured_points(
    row: Row, results: Sequence[Mapping[str, Any]], model: str | None = None
) -> dict[str, dict[str, float]]:
    """{measure: {language: points}} of one model's monolingual rows in the row's collection and languages."""
    name = model_of(row, results, model)
    found: dict[str, dict[str, float]] = {figures.measure: {} for figures in row.figures}
    for line in results:
        if line["model"] == name and _belongs(line, row):
            for measure in found:
                if measure in line:
                    found[measure][str(line["query_lang"])] = round(100 * float(line[measure]), 2)
    return found


def from_runs(
    row: Row, found: Mapping[str, Mapping[str, float]], results: Path, model: str
) -> dict[str, dict[str, float]]:
    """`found`, with the measures that `evaluate` does not print (such as R@500) computed from the runs and qrels that
    it leaves beside its results. A measure that looks deeper than a run goes stays missing."""
    filled = {measure: dict(values) for measure, values in found.items()}
    for lang in row.languages:
        wanted = [f.measure for f in row.figures if lang in f.by_language and lang not in filled.get(f.measure, {})]
        run, qrels = results.parent / "runs" / model / f"{lang}-{lang}.trec.gz", results.parent / "qrels"
        if wanted and run.is_file() and (qrels / f"{lang}-{lang}.qrels").is_file():
            hits = read_run(run)
            deepest = max((hit.rank for hit in hits), default=0)
            deep = [measure for measure in wanted if int(measure.rpartition("@")[2]) <= deepest]
            scores = evaluate(hits, read_qrels(qrels / f"{lang}-{lang}.qrels"), deep) if deep else None
            for measure in deep:
                assert scores is not None
                filled.setdefault(measure, {})[lang] = round(100 * scores.mean(measure), 2)
    return filled


def _belongs(line: Mapping[str, Any], row: Row) -> bool:
    """Whether a result row is of the row's collection and split (`mmarco/dev.small`), in one of its languages."""
    lang = line["query_lang"]
    return line.get("collection") == f"{row.collection}/{row.split}" and lang == line["passage_lang"] in row.languages


def compare(row: Row, found: Mapping[str, Mapping[str, float]], way: str) -> list[Compared]:
    """Every published figure beside its measured one. `way`: the published weights, or trained anew."""
    allowed = row.tolerance.trained if way == "trained" else row.tolerance.published
    if allowed is None:
        raise UserError(f"{row.name} has no published weights: check it as {WAYS[1]}")
    compared = []
    for figures in row.figures:
        values = found.get(figures.measure, {})
        for lang, expected in figures.by_language.items():
            compared.append(Compared(figures.measure, lang, expected, values.get(lang), allowed))
        if figures.average is not None:
            whole = all(lang in values for lang in row.languages)
            mean = sum(values[lang] for lang in row.languages) / len(row.languages) if whole else None
            compared.append(Compared(figures.measure, AVERAGE, figures.average, mean, allowed))
    return compared


def lines(compared: Sequence[Compared]) -> Iterator[str]:
    """A line for each figure, and a sum at the end."""
    for c in compared:
        if c.measured is None:
            yield f"{c.measure:8}{c.lang:9}{c.expected:7.1f}      -       -  {c.verdict}"
        else:
            difference = c.measured - c.expected
            yield f"{c.measure:8}{c.lang:9}{c.expected:7.1f}{c.measured:7.1f}{difference:+8.2f}  {c.verdict}"
    counts = {verdict: sum(c.verdict == verdict for c in compared) for verdict in (WITHIN, OUTSIDE, MISSING)}
    allowed = ", ".join(f"{value} points" for value in sorted({c.allowed for c in compared}))
    yield (
        f"{counts[WITHIN]} of {len(compared)} figures within {allowed}, {counts[OUTSIDE]} outside, "
        f"{counts[MISSING]} missing"
    )
