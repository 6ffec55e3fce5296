"""Tables from result rows: one line per language, or query language by passage language.

A table is made once and shown thrice: `.terminal()` and `.markdown()` for people (three digits, the best of a
line bold), `.csv()` for programs (all digits, intervals in columns of their own).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from colbertxm.errors import UserError, nearest
from colbertxm.evaluation.results import INTERVAL_MEASURE

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

MODEL_ORDER = ("bm25", "untrained_single", "untrained", "untrained_no_prefix", "single_vector", "trained")
TRAINED_ON = "en"
USUAL = ("RR@10", "R@100", "nDCG@10")
_LABEL_WIDTH = 16
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """A measured mean, with its interval where there is one; `best` in its line; the `p` of its difference from what
    the table's note names, and the `mark` where that is significant. All None: not measured."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    best: bool = False
    p: float | None = None
    mark: str = ""

    def text(self) -> str:
        """`.746† [.721 .770]`, or `-`."""
        if self.value is None:
            return "-"
        if self.low is None or self.high is None:
            return digits(self.value) + self.mark
        return f"{digits(self.value)}{self.mark} [{digits(self.low)} {digits(self.high)}]"


@dataclass(frozen=True)
class Table:
    """`columns[0]` heads the lines' names; each line is (name, one cell per further column)."""

    title: str
    columns: tuple[str, ...]
    lines: tuple[tuple[str, tuple[Cell, ...]], ...]
    note: str = ""
    """What marks mean."""

    def markdown(self) -> str:
        """A GitHub table, the best of a line bold, with the title above it; ends in a newline."""
        head = [self.columns, ("---", *("---:" for _ in self.columns[1:]))]
        body = [
            (name, *(f"**{cell.text()}**" if cell.best else cell.text() for cell in cells))
            for name, cells in self.lines
        ]
        texts = ["| " + " | ".join(word.replace("|", "\\|") for word in line) + " |" for line in (*head, *body)]
        return "\n".join([self.title, "", *texts, "", *([self.note, ""] if self.note else [])])

    def csv(self) -> str:
        """Unrounded, empty where not measured; `MODEL low`, `MODEL high` follow a column with intervals, `MODEL p` one
        with tests."""
        fields = [
            [f for f in ("low", "high", "p") if any(getattr(cells[place], f) is not None for _, cells in self.lines)]
            for place in range(len(self.columns) - 1)
        ]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        heads = ([name, *(f"{name} {f}" for f in more)] for name, more in zip(self.columns[1:], fields, strict=True))
        writer.writerow([self.columns[0], *(name for head in heads for name in head)])
        for name, cells in self.lines:
            values = ([cell.value, *(getattr(cell, f) for f in own)] for cell, own in zip(cells, fields, strict=True))
            writer.writerow([name, *(value for group in values for value in group)])
        return text.getvalue()

    def terminal(self) -> RenderableType:
        """For `rich.print`. Where the width does not take all columns, the others stand in blocks below."""
        return _Terminal(self)


@dataclass(frozen=True)
class _Terminal:
    """Right-aligned, the best of a line bold, intervals as half their width, a rule above the means."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from rich.text import Text

        has_intervals = any(cell.low is not None for _, cells in self.table.lines for cell in cells)
        note = "; ± half of the 95% interval" if has_intervals else ""
        yield Text(self.table.title + note + "\n", style="italic")
        for columns in self._blocks(options.max_width):
            yield self._block(columns)
            yield ""
        if self.table.note:
            yield Text(self.table.note + "\n", style="italic")

    def _blocks(self, width: int) -> list[list[int]]:
        """Columns by number, as many in each block as the width takes; rich alone would cut their figures."""
        names = [self.table.columns[0], *(name for name, _ in self.table.lines)]
        free = width - min(_LABEL_WIDTH, max(map(len, names)))
        blocks: list[list[int]] = [[]]
        left = free
        for place, name in enumerate(self.table.columns[1:]):
            words = [*_head(name).split("\n"), *(_short(cells[place]) for _, cells in self.table.lines)]
            needed = 2 + max(map(len, words))
            if needed > left and blocks[-1]:
                blocks.append([])
                left = free
            blocks[-1].append(place)
            left -= needed
        return blocks

    def _block(self, columns: list[int]) -> RenderableType:
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        block = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        block.add_column(Text(self.table.columns[0]), vertical="bottom", max_width=_LABEL_WIDTH)
        for place in columns:
            head = Text(_head(self.table.columns[1 + place]))
            block.add_column(head, justify="right", vertical="bottom", no_wrap=True)
        means = [name.startswith("mean of ") for name, _ in self.table.lines]
        for (name, cells), is_mean, mean_follows in zip(self.table.lines, means, [*means[1:], False], strict=True):
            # Text objects, because rich takes brackets for markup.
            shown = [Text(_short(cells[place]), style="bold" if cells[place].best else "") for place in columns]
            block.add_row(Text(name), *shown, end_section=mean_follows and not is_mean)
        return block


def _head(name: str) -> str:
    """A column's name on two lines where it has two parts: narrow columns keep a table on one screen."""
    return re.sub(r"([_-])(?=[^_-]+$)", r"\1\n", name)


def _short(cell: Cell) -> str:
    if cell.value is None or cell.low is None or cell.high is None:
        return cell.text()
    return f"{digits(cell.value)}{cell.mark} ±{digits((cell.high - cell.low) / 2)}"


def digits(value: float) -> str:
    """Three decimals without the leading zero, as papers print measures: `.746`, `1.000`."""
    text = f"{value:.3f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def monolingual_table(
    rows: Iterable[Row], measure: str = "RR@10", intervals: bool = True, trained_on: str = TRAINED_ON
) -> Table:
    """One line per language (queries and passages in it), one column per model, then the means.

    The training language comes first, the others in alphabetical order; then "mean of other languages"
    (without `trained_on`) and "mean of all", each language weighing the same. A model that misses a language
    of the table gets no mean, because it would not be comparable. Intervals stand where the rows have them.
    Raises UserError: nothing measured in one language, a measure the rows lack, two rows for one cell.
    """
    rows = [row for row in rows if row["query_lang"] == row["passage_lang"]]
    cells = _cells(rows, measure, intervals, lambda row: (row["query_lang"], row["model"]))
    models = order_models(row["model"] for row in rows)
    languages = order_languages((row["query_lang"] for row in rows), trained_on)
    lines = [(lang, tuple(cells.get((lang, model), Cell()) for model in models)) for lang in languages]
    others = [lang for lang in languages if lang != trained_on]
    for name, chosen in (("mean of other languages", others), ("mean of all", languages)):
        if chosen:
            lines.append((name, tuple(mean_of([cells.get((lang, model)) for lang in chosen]) for model in models)))
    title = f"{measure}, queries and passages in the same language, {describe(rows)}"
    return Table(title, ("language", *models), tuple((name, mark_best(line)) for name, line in lines))


def cross_lingual_matrix(
    rows: Iterable[Row], model: str, measure: str = "RR@10", trained_on: str = TRAINED_ON
) -> Table:
    """Query language (lines) x passage language (columns) for one model; `-` where not measured.

    Raises UserError for a model without rows, a measure the rows lack, two rows for one cell.
    """
    rows = rows_of(rows, model)
    cells = _cells(rows, measure, False, lambda row: (row["query_lang"], row["passage_lang"]))
    asked = order_languages((row["query_lang"] for row in rows), trained_on)
    searched = order_languages((row["passage_lang"] for row in rows), trained_on)
    lines = tuple((lang, tuple(cells.get((lang, other), Cell()) for other in searched)) for lang in asked)
    title = f"{measure} of {model}, query language (down) by passage language (across), {describe(rows)}"
    return Table(title, ("query \\ passage", *searched), lines)


def rows_of(rows: Iterable[Row], model: str) -> list[Row]:
    """The rows of one model; UserError, with the nearest name, where there are none."""
    rows = list(rows)
    chosen = [row for row in rows if row["model"] == model]
    if not chosen:
        known = list(dict.fromkeys(row["model"] for row in rows))
        raise UserError(f"no results of model {model!r}{nearest(model, known)}; there are {', '.join(known) or 'none'}")
    return chosen


def order_models(names: Iterable[str]) -> list[str]:
    """Each once: the known ones in `MODEL_ORDER`, the others after them in order of appearance."""
    seen = list(dict.fromkeys(names))
    return [name for name in MODEL_ORDER if name in seen] + [name for name in seen if name not in MODEL_ORDER]


def order_languages(codes: Iterable[str], trained_on: str = TRAINED_ON) -> list[str]:
    """Each once: the training language first, the others in alphabetical order."""
    return sorted(set(codes), key=lambda code: (code != trained_on, code))


def value_of(row: Row, measure: str) -> float:
    """A row's value; UserError, with the nearest measure, where the row lacks it."""
    if measure not in row:
        known = measures_of([row])
        raise UserError(f"the results hold no {measure}{nearest(measure, known)}; there are {', '.join(known)}")
    return float(row[measure])


def measures_of(rows: Iterable[Row]) -> list[str]:
    """The measures that the rows have, each once: the collection's official ones first, which rows may name, then the
    others in the order of RR@10, R@100, nDCG@10 and the alphabet."""
    rows = list(rows)
    named = dict.fromkeys(name for row in rows for name in str(row.get("official", "")).split())
    found = {name for row in rows for name, value in row.items() if _is_figure(name, value)}
    usual = [name for name in USUAL if name in found]
    return list(dict.fromkeys([*(name for name in named if name in found), *usual, *sorted(found)]))


def _is_figure(name: str, value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and ("@" in name or (isinstance(value, float) and name not in ("low", "high")))


def interval_of(row: Row, measure: str) -> tuple[float | None, float | None]:
    """The 95% interval of a row's value; (None, None) where the row has none. `low` and `high` belong to RR@10,
    those of other measures stand in `intervals`."""
    low, high = row.get("intervals", {}).get(measure, (None, None))
    return (row.get("low"), row.get("high")) if low is None and measure == INTERVAL_MEASURE else (low, high)


def describe(rows: Iterable[Row]) -> str:
    """Collections, where rows name them, and numbers of queries: `smart_home, 283-300 queries each`."""
    rows = list(rows)
    collections = sorted({str(row["collection"]) for row in rows if row.get("collection")})
    counts = sorted({int(row["queries"]) for row in rows})
    number = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,}-{counts[-1]:,}"
    return ", ".join([*collections, f"{number} queries each"])


def _cells(
    rows: list[Row], measure: str, intervals: bool, place: Callable[[Row], tuple[str, str]]
) -> dict[tuple[str, str], Cell]:
    if not rows:
        raise UserError("no results to make a table of: evaluate queries and passages of one language first")
    cells: dict[tuple[str, str], Cell] = {}
    for row in rows:
        where = place(row)
        if where in cells:
            raise UserError(f"two results for {' and '.join(where)}: give the rows of one collection and one run")
        low, high = interval_of(row, measure) if intervals else (None, None)
        cells[where] = Cell(value_of(row, measure), low, high)
    return cells


def mean_of(cells: list[Cell | None]) -> Cell:
    """Each cell weighing the same; empty where one is missing, because it would not be comparable."""
    values = [cell.value for cell in cells if cell and cell.value is not None]
    return Cell(round(sum(values) / len(values), 6)) if len(values) == len(cells) else Cell()


def mark_best(cells: tuple[Cell, ...]) -> tuple[Cell, ...]:
    """Marks the highest of a line as printed: of two that look the same both are best."""
    printed = [digits(cell.value) for cell in cells if cell.value is not None]
    if len(printed) < 2:
        return cells
    top = max(printed, key=float)
    return tuple(replace(cell, best=cell.value is not None and digits(cell.value) == top) for cell in cells)


def _is_mean(name: str) -> bool:
    return name.startswith("mean of ")
