"""The table of a question's README: a function of results.csv and comparisons.csv beside it, and of nothing else."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from colbertxm.errors import UserError
from colbertxm.evaluation.experiment_languages import (
    BY_LANGUAGE,
    differences_by_language,
    lang_of,
    pairs_within,
    pretraining,
)
from colbertxm.evaluation.experiment_rows import ACROSS, ALL, COLUMNS, OTHERS, Row, read_csv, split_pair, split_settings
from colbertxm.evaluation.reproduction_page import table
from colbertxm.evaluation.results import write_text

BEGIN, END = "<!-- table -->", "<!-- /table -->"
NOT_RUN = "*Not run yet: no figure stands here.*"
COMPARED = (
    "question", "settings", "against", "scope", "seeds", "difference", "low", "high", "p", "p_holm", "seed_least",
    "seed_most",
)  # fmt: skip
COMPARED_NUMBERS = ("seeds", "difference", "low", "high", "p", "p_holm", "seed_least", "seed_most")
GROUP = ("size", "data", "model")
EACH = "each"
"""The mean over the pairs of languages, of a metric that has no macro-average of its own."""
NEAR = 0.01
"""Of a mean reciprocal rank: how much worse than all data still counts as flat."""
SCOPES = {"en-en": "English", OTHERS: "other languages", ACROSS: "across languages"}


@dataclass(frozen=True)
class Column:
    """A column: its head, the metric (None: the main one, that `others` has), the pair, and its digits."""

    head: str
    metric: str | None
    pair: str
    digits: int = 3


QUALITY = [Column(f"{name}, {{main}}", None, pair) for pair, name in SCOPES.items()]
SPECIAL = {
    "compression": [
        Column("other languages, {main}", None, OTHERS),
        Column("overlap@10 with exhaustive", "overlap@10", EACH),
        Column("bytes a vector", "bytes_per_vector", ALL, 1),
        Column("index, MB", "index_mb", ALL, 2),
        Column("ms a query, one thread", "ms_per_query", ALL, 2),
    ],
    "energy": [
        Column(f"{name}, {unit}", f"{stage}_{key}", ALL, digits)
        for stage, name in (
            ("training", "training"), ("indexing_a_million", "10^6 passages"), ("a_thousand_queries", "1000 queries"),
        )
        for key, unit, digits in (
            ("kwh", "kWh", 5), ("seconds", "s", 0), ("paper_kwh", "paper's kWh", 5), ("paper_kg", "kg", 5),
        )
    ],
}  # fmt: skip


def fill_readme(question: str, folder: Path) -> None:
    """Put the table between the README's marks. Raises UserError where there is no README or it has no marks."""
    path = folder / "README.md"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; a question has a README with {BEGIN} {END}") from None
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UserError(f"{path} has no place for its table: write {BEGIN} and {END} on lines of their own, once")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    made = f"{before}{BEGIN}\n{page(question, folder)}\n{END}{after}"
    if made != text:
        write_text(path, made)


def page(question: str, folder: Path) -> str:
    """What stands between the marks."""
    if not (folder / "results.csv").exists():
        return NOT_RUN
    rows = read_csv(folder / "results.csv", COLUMNS)
    compared = read_csv(folder / "comparisons.csv", COMPARED, COMPARED_NUMBERS)
    parts = []
    for group, own in grouped(rows).items():
        lines = [line for line in compared if _group(line["settings"]) == group]
        parts.append(f"{group_title(group, own)}\n\n{figures(question, own)}")
        if scoped := [line for line in lines if line["scope"] in SCOPES]:
            parts.append(differences(scoped))
        if question in BY_LANGUAGE:
            parts += filter(None, (differences_by_language(lines), pretraining(own)))
        if question == "data_scaling" and (flat := flattens(lines)):
            parts.append(flat)
    if (folder / "picture.png").exists():
        parts.append(f"![{question}](picture.png)")
    return "\n\n".join(part.strip("\n") for part in parts)


def grouped(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """By size, data and base."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(_group(row["settings"]), []).append(row)
    return found


def condition(settings: str) -> str:
    """Settings without those that a whole table shares."""
    return " ".join(f"{key}={value}" for key, value in split_settings(settings).items() if key not in GROUP)


def _group(settings: str) -> str:
    found = split_settings(settings)
    return " ".join(f"{key}={found[key]}" for key in GROUP if key in found)


def group_title(group: str, rows: Sequence[Row]) -> str:
    """What a table's rows have in common."""
    revisions = sorted({row["git_revision"][:12] for row in rows})
    return f"**{group}**, revision {', '.join(revisions)}:"


def main_metric(rows: Sequence[Row]) -> str:
    """That of the macro-averages; the first metric where there is none."""
    return str(next((row["metric"] for row in rows if row["language_pair"] in (OTHERS, ACROSS)), rows[0]["metric"]))


def by_condition(rows: Sequence[Row]) -> dict[str, dict[str, list[Row]]]:
    """Condition -> seed -> rows."""
    found: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        found.setdefault(condition(row["settings"]), {}).setdefault(row["seed"], []).append(row)
    return found


def values(runs: Mapping[str, Sequence[Row]], metric: str, pair: str) -> list[float]:
    """One number a seed, of the seeds that have it."""
    found = []
    for rows in runs.values():
        own = [r for r in rows if r["metric"] == metric and r["value"] is not None]
        chosen = [
            r["value"] for r in own if (split_pair(r["language_pair"]) if pair == EACH else r["language_pair"] == pair)
        ]
        if chosen:
            found.append(sum(chosen) / len(chosen))
    return found


def cell(found: Sequence[float], digits: int) -> str:
    """The mean over seeds, and their standard deviation."""
    if not found:
        return ""
    text = f"{statistics.fmean(found):.{digits}f}"
    return f"{text} ± {statistics.stdev(found):.{digits}f}" if len(found) > 1 else text


def figures(question: str, rows: Sequence[Row]) -> str:
    """One line a condition: means over seeds and their standard deviation, then what a run took."""
    main = main_metric(rows)
    columns = SPECIAL.get(question, QUALITY)
    if question in BY_LANGUAGE:
        within = [pair for pair in pairs_within(rows) if pair not in SCOPES]
        columns = [*columns, *(Column(lang_of(pair), None, pair) for pair in within)]
    conditions = by_condition(rows)
    made = {
        name: [cell(values(runs, c.metric or main, c.pair), c.digits) for c in columns]
        for name, runs in conditions.items()
    }
    kept = [n for n in range(len(columns)) if any(cells[n] for cells in made.values())]
    head = ["condition", "seeds", *(columns[n].head.format(main=main) for n in kept), "s", "kWh (method)"]
    lines = [[name, str(len(runs)), *(made[name][n] for n in kept), *costs(runs)] for name, runs in conditions.items()]
    return table(head, lines, "lr" + "r" * (len(kept) + 2))


def costs(runs: Mapping[str, Sequence[Row]]) -> list[str]:
    """Seconds and kWh of a run, means over seeds; of the run's training, or of the index that was built."""
    firsts = [rows[0] for rows in runs.values()]
    seconds = [row["seconds"] for row in firsts if row["seconds"] is not None]
    kwh = [row["kwh"] for row in firsts if row["kwh"] is not None]
    methods = "+".join(sorted({row["method"] for row in firsts}))
    return [
        f"{statistics.fmean(seconds):.0f}" if seconds else "",
        f"{statistics.fmean(kwh):.5f} ({methods})" if kwh else f"not measured ({methods})",
    ]


def differences(lines: Sequence[Row]) -> str:
    """Each condition against the one that it is compared with."""
    head = ["condition", "against", "scope", "difference", "95% interval", "p", "p (Holm)", "single seeds"]
    cells = []
    for line in lines:
        interval = f"[{line['low']:+.3f}, {line['high']:+.3f}]"
        seeds = f"{line['seeds']:.0f}: {line['seed_least']:+.3f} to {line['seed_most']:+.3f}"
        figures_of = [f"{line['difference']:+.3f}", interval, f"{line['p']:.4f}", f"{line['p_holm']:.4f}", seeds]
        cells.append([condition(line["settings"]), line["against"], SCOPES[line["scope"]], *figures_of])
    return table(head, cells, "lllrrrrr")


def flattens(lines: Sequence[Row]) -> str:
    """From which share on no more is lost than NEAR, as far as the interval can tell."""
    own = [line for line in lines if line["scope"] == OTHERS]
    flat = [share_of(condition(line["settings"])) for line in own if line["low"] > -NEAR]
    steep = [share_of(condition(line["settings"])) for line in own if line["low"] <= -NEAR]
    flat = [share for share in flat if share > max(steep, default=0)]
    if not own:
        return ""
    if not flat:
        return f"Other languages: no share below 100% is surely within {NEAR} of all data."
    return f"Other languages: from {min(flat):g}% on, no more than {NEAR} is lost against all data (95%)."


def share_of(text: str) -> float:
    """The percentage in `subset=10%`; `subset=None` is all."""
    found = split_settings(text)["subset"]
    return 100.0 if found == "None" else float(found.rstrip("%"))
