"""Measure anyone's run: `colbertxm evaluate --run a.trec.gz --qrels qrels.txt --measures "RR@10 nDCG@10"`.

    colbertxm evaluate --run a.trec --run b.trec --qrels q.txt              b minus a, with interval and p
    colbertxm evaluate --run de=a.trec fr=b.trec --qrels de=q.txt fr=r.txt  by language; one file may do for all

The n-th file of a language belongs to the n-th system. Means over languages weigh each language the same; queries of
one id are taken for translations of one another and are drawn together. Needs neither torch nor a model.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from colbertxm.errors import UserError, nearest
from colbertxm.evaluation.columns import Run
from colbertxm.evaluation.measures import parse_measures
from colbertxm.evaluation.metrics import Scores, evaluate
from colbertxm.evaluation.results import provenance, write_json
from colbertxm.evaluation.run_lines import read_lines
from colbertxm.evaluation.run_report import print_report, write_csv
from colbertxm.evaluation.runs import TIES, read_qrels
from colbertxm.evaluation.significance import (
    Difference,
    bootstrap_intervals,
    holm,
    macro_difference,
    macro_interval,
    paired_difference,
)
from colbertxm.records import Judgement
from colbertxm.sources import sha256

MEASURES = "RR@10 R@100 R@1000 nDCG@10"
SEEN = "Judged@10"  # how much of what a reader sees was judged at all
Row = dict[str, Any]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        known = [name for action in self._actions for name in action.option_strings]
        wrong = next((word for word in message.split() if word.startswith("-") and word not in known), "")
        raise UserError(f"{message}{nearest(wrong, known)}; see `colbertxm evaluate --run --help`")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = _Parser(prog="colbertxm evaluate", description="Measure runs in TREC's or MS MARCO's format.",
                    allow_abbrev=False)  # fmt: skip
    files: dict[str, Any] = {"action": "extend", "nargs": "+", "required": True}
    found.add_argument("--run", metavar="[LANG=]FILE", help="a run; a second one is compared with the first", **files)
    found.add_argument("--qrels", metavar="[LANG=]FILE", help="judgements, TREC's or BEIR's", **files)
    found.add_argument("--measures", default=MEASURES, help=f"as ir_measures names them (default: {MEASURES})")
    found.add_argument("--ties", choices=TIES, default="rank",
                       help="equal scores: in rank order, as MS MARCO has it, or as trec_eval sorts them")  # fmt: skip
    found.add_argument("--output", type=Path, metavar="FILE.json", help="rows, differences and what made them")
    found.add_argument("--per-query", type=Path, metavar="FILE.csv", help="every measure of every query")
    return found


@dataclass(frozen=True, eq=False)
class Measured:
    """One run in one language. `other`: means of the measures that the other rule for ties changes, None where the
    file's ranks give no order; `tied`: judged queries with equal scores."""

    system: str
    lang: str
    file: Path
    scores: Scores
    judged: Scores
    hits: int
    empty: int
    unknown: int
    tied: int
    other: dict[str, float] | None


def labelled(words: Sequence[str], kind: str) -> dict[str, list[Path]]:
    """{language: files}, the language being `` for plain files. A name that is a file with `=` in it is that file."""
    found: dict[str, list[Path]] = {}
    for word in words:
        lang, equals, path = word.partition("=")
        if not equals or "/" in lang or Path(word).exists():
            lang, path = "", word
        found.setdefault(lang, []).append(Path(path))
    if len(found) > 1 and "" in found:
        raise UserError(f"--{kind}: {found[''][0]} says no language, others do: give LANG=FILE for all, or for none")
    return found


def pair_up(runs: dict[str, list[Path]], qrels: dict[str, list[Path]]) -> dict[str, Path]:
    """{language: its qrels}. UserError where runs and qrels do not go together."""
    if many := next((files for files in qrels.values() if len(files) > 1), None):
        raise UserError(f"--qrels: {many[1]} is a second file for the same runs: join them into one")
    if len({len(files) for files in runs.values()}) > 1:
        counts = ", ".join(f"{lang} {len(files)}" for lang, files in runs.items())
        raise UserError(f"--run: each language needs a file of every system; there are {counts}")
    if "" in qrels:
        return {lang: qrels[""][0] for lang in runs}
    for lang in runs:
        if lang not in qrels:
            raise UserError(f"--qrels has none for {lang or 'runs without a language'!r}{nearest(lang, qrels)}")
    if unused := next((lang for lang in qrels if lang not in runs), None):
        raise UserError(f"--run has none for {unused!r}{nearest(unused, runs)}, but --qrels has")
    return {lang: qrels[lang][0] for lang in runs}


def system_names(runs: dict[str, list[Path]]) -> list[str]:
    """A name for each system: its file's, or its files' folder's where there is one file per language."""
    systems = list(zip(*runs.values(), strict=True))
    names = [files[0].name.split(".")[0] if "" in runs else files[0].absolute().parent.name for files in systems]
    if len(set(names)) < len(names):
        return [f"{place}:{name}" for place, name in enumerate(names, start=1)]
    return names


def measure(
    system: str, lang: str, file: Path, judgements: Sequence[Judgement], measures: Sequence[str], ties: str
) -> Measured:
    """One run's figures."""
    lines = read_lines(file)
    run = lines.by_rank() if ties == "rank" else lines.by_score()
    wanted = [*measures, *([] if SEEN in measures else [SEEN])]
    scores = evaluate(run, judgements, wanted)
    known, ties_of = set(scores.query_ids), run.tied()
    answered = {query_id for query_id, size in zip(run.query_ids, np.diff(run.bounds), strict=True) if size}
    tied = sum(bool(count) and query_id in known for query_id, count in zip(run.query_ids, ties_of, strict=True))
    return Measured(
        system,
        lang,
        file,
        Scores(scores.query_ids, {name: scores.values[name] for name in measures}),
        Scores(scores.query_ids, {SEEN: scores.values[SEEN]}),
        hits=len(run),
        empty=len(known - answered),
        unknown=len(answered - known),
        tied=tied,
        other=_other_rule(lines.by_rank if ties == "trec" else run.as_trec_eval, judgements, scores, measures)
        if tied or ties == "trec"
        else {},
    )


def _other_rule(
    order: Any, judgements: Sequence[Judgement], scores: Scores, measures: Sequence[str]
) -> dict[str, float] | None:
    try:
        run: Run = order()
    except UserError:
        return None
    found = evaluate(run, judgements, measures)
    return {name: found.mean(name) for name in measures if (found.values[name] != scores.values[name]).any()}


def row(found: Measured) -> Row:
    """A result's row, which `report` reads too."""
    intervals = bootstrap_intervals(found.scores.values)
    lang = found.lang or "-"
    line: Row = {"model": found.system, "query_lang": lang, "passage_lang": lang, "file": str(found.file)}
    line |= {name: found.scores.mean(name) for name in found.scores.values}
    if "RR@10" in intervals:
        line |= dict(zip(("low", "high"), intervals["RR@10"], strict=True))
    answered = max(len(found.scores.query_ids) - found.empty, 1)
    unjudged = 1 - float(found.judged.values[SEEN].sum()) / answered
    line |= {"queries": len(found.scores.query_ids), "empty": found.empty, "hits": found.hits}
    line |= {"queries_without_judgements": found.unknown, "unjudged@10": unjudged, "tied_queries": found.tied}
    line |= {"other_ties": found.other, "intervals": {name: list(bounds) for name, bounds in intervals.items()}}
    return line


def macro(system: str, found: Sequence[Measured], measures: Sequence[str]) -> Row:
    """The mean over languages, with its cluster bootstrap."""
    clusters = {one.lang: one.scores.query_ids for one in found}
    line: Row = {"model": system, "scope": "mean of languages", "intervals": {}}
    for name in measures:
        mean, low, high = macro_interval({one.lang: one.scores.values[name] for one in found}, clusters)
        line[name] = mean
        line["intervals"][name] = [low, high]
    return line


def compare(first: Sequence[Measured], others: Sequence[Sequence[Measured]], measures: Sequence[str]) -> list[Row]:
    """Each other system minus the first, by measure and language, and over languages. p values are Holm-corrected over
    all comparisons of one measure that are no mean of others."""
    lines: list[Row] = []
    for name in measures:
        tests: dict[tuple[str, str], Difference] = {}
        for found in others:
            for one, base in zip(found, first, strict=True):
                tests[one.system, one.lang] = paired_difference(one.scores.values[name], base.scores.values[name])
        numbered = {str(place): difference.p for place, difference in enumerate(tests.values())}
        for ((system, lang), difference), corrected in zip(tests.items(), holm(numbered).values(), strict=True):
            lines.append(_line(system, first[0].system, name, lang or "-", difference) | {"p_holm": corrected})
        for found in others if len(first) > 1 else []:
            difference = macro_difference(
                {one.lang: one.scores.values[name] for one in found},
                {one.lang: one.scores.values[name] for one in first},
                {one.lang: one.scores.query_ids for one in first},
            )
            lines.append(_line(found[0].system, first[0].system, name, "mean of languages", difference))
    return lines


def _line(system: str, against: str, measure: str, scope: str, d: Difference) -> Row:
    return {"model": system, "against": against, "measure": measure, "scope": scope, "difference": d.mean,
            "low": d.low, "high": d.high, "p": d.p}  # fmt: skip


def main(arguments: Sequence[str]) -> dict[str, Any]:
    """Measure, print and write. Returns what `--output` writes. Raises UserError."""
    asked = parser().parse_args(arguments)
    measures = parse_measures(asked.measures)
    runs = labelled(asked.run, "run")
    judgements_of = pair_up(runs, labelled(asked.qrels, "qrels"))
    read: dict[Path, list[Judgement]] = {}
    systems: list[list[Measured]] = []
    for system, files in zip(system_names(runs), zip(*runs.values(), strict=True), strict=True):
        found = []
        for lang, file in zip(runs, files, strict=True):
            qrels = judgements_of[lang]
            if qrels not in read:
                read[qrels] = read_qrels(qrels)
            found.append(measure(system, lang, file, read[qrels], measures, asked.ties))
        systems.append(found)
    content: dict[str, Any] = {
        "rows": [row(one) for found in systems for one in found],
        "means": [macro(found[0].system, found, measures) for found in systems if len(found) > 1],
        "differences": compare(systems[0], systems[1:], measures),
    }
    print_report(content, measures, asked.ties)
    if asked.per_query:
        write_csv(asked.per_query, [(one.system, one.lang, one.scores) for found in systems for one in found])
        print(f"per query: {asked.per_query}")
    if asked.output:
        config = {name: str(value) if isinstance(value, Path) else value for name, value in vars(asked).items()}
        write_json(asked.output, content | {"provenance": provenance(config, 0, _checksums(systems, judgements_of))})
        print(f"written: {asked.output}")
    return content


def _checksums(systems: Sequence[Sequence[Measured]], qrels: dict[str, Path]) -> dict[str, str]:
    files = {one.file for found in systems for one in found} | set(qrels.values())
    return {str(path): sha256(path) for path in sorted(files)}


def command(arguments: Sequence[str]) -> None:
    """`main` for a console: a user's mistake is one line and exit code 1."""
    try:
        main(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.code) from None
