"""Tables from rows: order, means, the best of a line, and the three ways to show them."""

from __future__ import annotations

import csv
import io
from typing import Any, Literal

import pytest
from rich.console import Console

from colbertxm.errors import UserError
from colbertxm.evaluation.tables import (
    Cell,
    Table,
    cross_lingual_matrix,
    digits,
    monolingual_table,
    order_models,
)


def line(model: str, asked: str, searched: str, value: float, **extra: Any) -> dict[str, Any]:
    names = {"model": model, "query_lang": asked, "passage_lang": searched}
    return {
        **names,
        "RR@10": value,
        "R@100": 0.9,
        "low": value - 0.05,
        "high": value + 0.04,
        "queries": 300,
        **extra,
    }


ROWS = [
    line("trained", "ja", "ja", 0.7),
    line("mine", "ja", "ja", 0.1),
    line("bm25", "ja", "ja", 0.1),
    line("bm25", "de", "de", 0.5),
    line("trained", "de", "de", 0.6),
    line("bm25", "en", "en", 0.80004),
    line("trained", "en", "en", 0.79996),
    line("trained", "en", "de", 0.4),
    line("trained", "ja", "en", 0.3),
]


def test_lines_columns_and_means() -> None:
    table = monolingual_table(ROWS)
    assert table.columns == ("language", "bm25", "trained", "mine")
    assert [name for name, _ in table.lines] == ["en", "de", "ja", "mean of other languages", "mean of all"]
    values = {name: [cell.value for cell in cells] for name, cells in table.lines}
    assert values["de"] == [0.5, 0.6, None]
    assert values["mean of other languages"] == pytest.approx([0.3, 0.65, None])
    assert values["mean of all"][:2] == pytest.approx([1.40004 / 3, 2.09996 / 3], abs=1e-6)
    assert values["mean of all"][2] is None, "a mean over one of three languages is not comparable"
    assert "300 queries" in table.title


def test_the_best_of_a_line_is_marked_as_printed() -> None:
    best = {name: [cell.best for cell in cells] for name, cells in monolingual_table(ROWS).lines}
    assert best["en"] == [True, True, False], "both print as .800"
    assert best["de"] == [False, True, False]
    assert best["mean of all"] == [False, True, False]
    alone = monolingual_table([line("trained", "en", "en", 0.5)])
    assert not any(cell.best for _, cells in alone.lines for cell in cells)


def test_the_training_language_may_be_another_or_absent() -> None:
    lines = dict(monolingual_table(ROWS, trained_on="ja").lines)
    assert list(lines)[0] == "ja"
    assert lines["mean of other languages"][0].value == pytest.approx((0.5 + 0.80004) / 2)
    without = monolingual_table([row for row in ROWS if row["query_lang"] != "en"]).lines
    assert without[-1][1] == without[-2][1]
    only_english = [line("bm25", "en", "en", 0.5)]
    assert [name for name, _ in monolingual_table(only_english).lines] == ["en", "mean of all"]


def test_models_stand_in_their_order() -> None:
    names = ["zeta", "trained", "alpha", "single_vector", "untrained", "bm25", "untrained_single", "zeta"]
    known = ["bm25", "untrained_single", "untrained", "single_vector", "trained"]
    assert order_models(names) == [*known, "zeta", "alpha"]


def test_markdown() -> None:
    rows = [row for row in ROWS if row["model"] != "mine"]
    text = monolingual_table(rows).markdown()
    assert "| language | bm25 | trained |\n| --- | ---: | ---: |\n" in text
    assert "| de | .500 [.450 .540] | **.600 [.550 .640]** |\n" in text
    assert "| mean of other languages | .300 | **.650** |\n" in text
    assert "| de | .500 | **.600** |\n" in monolingual_table(rows, intervals=False).markdown()
    assert "| de | .900 | .900 |" in monolingual_table(rows, "R@100").markdown().replace("**", "")
    assert "[" not in monolingual_table(rows, "R@100").markdown(), "low and high are those of RR@10"


def test_markdown_keeps_a_bar_in_a_name() -> None:
    assert "| a\\|b |" in Table("t", ("language", "a|b"), (("en", (Cell(0.5),)),)).markdown()


def test_csv_is_for_programs() -> None:
    read = list(csv.DictReader(io.StringIO(monolingual_table(ROWS).csv())))
    english, japanese = read[0], read[2]
    assert (english["language"], float(english["bm25"])) == ("en", 0.80004)
    assert float(english["bm25 low"]) == pytest.approx(0.75004)
    assert english["mine"] == "" and float(japanese["mine"]) == 0.1
    assert list(csv.reader(io.StringIO(monolingual_table(ROWS, "R@100").csv())))[0] == [
        "language",
        "bm25",
        "trained",
        "mine",
    ]


def shown(table: Table, width: int, styles: bool = False) -> str:
    file = io.StringIO()
    colours: Literal["standard"] | None = "standard" if styles else None
    Console(width=width, file=file, force_terminal=styles, color_system=colours).print(table.terminal())
    return file.getvalue()


def test_the_terminal_shows_figures_whole_and_the_best_bold() -> None:
    text = shown(monolingual_table(ROWS), 100, styles=True)
    assert ".500 ±.045" in text and "half of the 95% interval" in text
    assert "\x1b[1m.600 ±.045" in text and "\x1b[1m.500" not in text


@pytest.mark.parametrize("width", [30, 50, 80, 200])
def test_a_narrow_terminal_gets_blocks_not_cut_figures(width: int) -> None:
    langs = ["en", "zh-hant", "zh-hans", "sr-latn", "tr", "ru", "hu", "ko", "sk", "cs", "gl", "pt", "de"]
    rows = [line("trained", lang, lang, 0.5 + number / 1000) for number, lang in enumerate(langs)]
    text = shown(cross_lingual_matrix(rows, "trained"), width)
    for number in range(len(langs)):
        assert f".{500 + number}" in text
    assert "…" not in text
    assert max(len(part) for part in text.split("\n")) <= width


def test_the_matrix() -> None:
    table = cross_lingual_matrix(ROWS, "trained")
    assert table.columns == ("query \\ passage", "en", "de", "ja")
    cells = {name: [cell.text() for cell in cells] for name, cells in table.lines}
    assert cells == {"en": [".800", ".400", "-"], "de": ["-", ".600", "-"], "ja": [".300", "-", ".700"]}
    assert table.csv().split("\n")[2] == "de,,0.6,"
    assert "trained" in table.title


def test_what_cannot_be_tabled_is_refused() -> None:
    with pytest.raises(UserError, match="no results of model 'traned'.*'trained'"):
        cross_lingual_matrix(ROWS, "traned")
    with pytest.raises(UserError, match="hold no RR@100.*R@100|RR@10"):
        monolingual_table(ROWS, "RR@100")
    with pytest.raises(UserError, match="two results for de and bm25"):
        monolingual_table([*ROWS, line("bm25", "de", "de", 0.2)])
    with pytest.raises(UserError, match="no results"):
        monolingual_table([line("bm25", "en", "de", 0.2)])


def test_the_title_names_collections_and_queries() -> None:
    rows = [
        line("bm25", "en", "en", 0.5, collection="smart_home"),
        line("bm25", "de", "de", 0.5, queries=1250),
    ]
    assert monolingual_table(rows).title.endswith("smart_home, 300-1,250 queries each")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.7456, ".746"), (1.0, "1.000"), (0.0, ".000"), (-0.0123, "-.012"), (0.9999, "1.000")],
)
def test_digits(value: float, text: str) -> None:
    assert digits(value) == text
