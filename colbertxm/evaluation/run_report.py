"""What `evaluate --run` prints and writes, from its rows."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from colbertxm.evaluation.metrics import Scores
from colbertxm.evaluation.results import replacing

Row = Mapping[str, Any]
_RULES = {"rank": "in rank order, as MS MARCO's script takes them", "trec": "by score and id, as trec_eval does"}
_OTHER = {"rank": "trec", "trec": "rank"}


def print_report(content: Mapping[str, Sequence[Row]], measures: Sequence[str], ties: str) -> None:
    """Means with 95% bootstrap intervals, what was judged, what ties do, and differences."""
    for line in content["rows"]:
        print_run(line, measures, ties)
    for line in content["means"]:
        print(f"\n{line['model']}: mean of languages, each weighing the same; queries of one id drawn together")
        print_measures(line, measures)
    if content["differences"]:
        print_differences(content["differences"])


def print_run(line: Row, measures: Sequence[str], ties: str) -> None:
    """One run in one language."""
    lang = "" if line["query_lang"] == "-" else f" {line['query_lang']}"
    print(f"\n{line['model']}{lang}: {line['queries']} judged queries, {line['hits']} hits  ({line['file']})")
    if line["empty"]:
        print(f"  {line['empty']} judged queries have no results and count as zero")
    if line["queries_without_judgements"]:
        print(f"  {line['queries_without_judgements']} queries of the run are not judged and left out")
    print_measures(line, measures)
    print(f"  unjudged among the first 10: {line['unjudged@10']:.1%}")
    print(f"  {tie_note(line, ties)}")


def print_measures(line: Row, measures: Sequence[str]) -> None:
    """A line per measure."""
    width = max(map(len, measures))
    for name in measures:
        low, high = line["intervals"][name]
        print(f"  {name:{width}}  {line[name]:.4f}  [{low:.4f}, {high:.4f}]")


def tie_note(line: Row, ties: str) -> str:
    """How many queries had ties, and what the other rule would make of them."""
    if not line["tied_queries"] and ties == "rank":
        return "ties: none"
    note = f"ties: {line['tied_queries']} queries, taken {_RULES[ties]}"
    other = line["other_ties"]
    if other is None:
        return f"{note}; the file's ranks give no order of their own"
    if not other:
        return f"{note}; --ties {_OTHER[ties]} would give the same figures"
    figures = ", ".join(f"{name} {value:.4f} ({value - line[name]:+.4f})" for name, value in other.items())
    return f"{note}; --ties {_OTHER[ties]} would give {figures}"


def print_differences(lines: Sequence[Row]) -> None:
    """Paired differences; p of the randomisation test."""
    tests = sum("p_holm" in line for line in lines) // len({line["measure"] for line in lines})
    holm = f"; p_holm: Holm's correction over the {tests} comparisons of a measure" if tests > 1 else ""
    print(f"\npaired differences, 95% bootstrap intervals, p of the randomisation test{holm}")
    names = [f"{line['model']} - {line['against']}" for line in lines]
    widths = [max(map(len, words)) for words in (names, [x["measure"] for x in lines], [x["scope"] for x in lines])]
    for name, line in zip(names, lines, strict=True):
        corrected = f"  p_holm = {line['p_holm']:.4f}" if tests > 1 and "p_holm" in line else ""
        what = f"{name:{widths[0]}}  {line['measure']:{widths[1]}}  {line['scope']:{widths[2]}}"
        interval = f"{line['difference']:+.4f}  [{line['low']:+.4f}, {line['high']:+.4f}]"
        print(f"  {what}  {interval}  p = {line['p']:.4f}{corrected}")


def write_csv(path: Path, scores: Sequence[tuple[str, str, Scores]]) -> None:
    """A line per run, language and query: every measure, unrounded."""
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = list(scores[0][2].values)
        writer.writerow(["run", "lang", "query_id", *names])
        for system, lang, found in scores:
            columns = [found.values[name].tolist() for name in names]
            writer.writerows(
                [system, lang, query_id, *values] for query_id, *values in zip(found.query_ids, *columns, strict=True)
            )
