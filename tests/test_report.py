"""The report of several results: names, marks, LaTeX, pictures whose data is there, and W&B."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import wandb_files
from rich.console import Console
from test_config import call
from test_tables import line

from colbertxm.collecting import costs
from colbertxm.errors import UserError
from colbertxm.evaluation.latex import escape, latex
from colbertxm.evaluation.report_collect import collect, expand, marked, one_language
from colbertxm.evaluation.report_pictures import Cost
from colbertxm.evaluation.report_write import write_collected
from colbertxm.evaluation.tables import Cell, Table, interval_of, measures_of, monolingual_table

ROWS = [line(model, lang, lang, value, collection="home")
        for model, values in {"bm25": (0.5, 0.4), "trained": (0.7, 0.6)}.items()
        for lang, value in zip(("en", "de"), values, strict=True)]  # fmt: skip
TESTS = [{"model": "trained", "against": "bm25", "scope": scope, "p": p, "difference": 0.2, **more}
         for scope, p, more in (("en", 0.04, {"p_holm": 0.08}), ("de", 0.01, {"p_holm": 0.02}),
                                ("mean of others", 0.001, {}))]  # fmt: skip


def put(path: Path, rows: list[dict[str, Any]], **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"rows": rows, **more}), encoding="utf-8")
    return path


def test_what_two_files_say_alike_counts_once(tmp_path: Path) -> None:
    a, b = put(tmp_path / "a/results.json", ROWS), put(tmp_path / "b/results.json", [*ROWS[:2], line("mine", "en", "en", 0.9, collection="home")])  # fmt: skip # noqa: E501
    found = collect([a, b])
    assert [row["model"] for row in found.rows["home"]] == ["bm25", "bm25", "trained", "trained", "mine"]
    assert not found.notes and found.sources["mine"] == (b, "mine")


def test_what_two_files_say_differently_is_named_with_its_folder(tmp_path: Path) -> None:
    other = [{**row, "RR@10": 0.1} if row["model"] == "trained" else row for row in ROWS]
    a = put(tmp_path / "a/x/results.json", ROWS, differences=TESTS)
    found = collect([a, put(tmp_path / "b/x/results.json", other)])
    models = list(dict.fromkeys(row["model"] for row in found.rows["home"]))
    assert models == ["bm25", "trained (a/x)", "trained (b/x)"] and "measured differently" in found.notes[0]
    assert found.tests["home"]["de", "trained (a/x)"]["p_holm"] == 0.02
    with pytest.raises(UserError, match="two results for home bm25 en en"):
        collect([put(tmp_path / "c/results.json", [*ROWS, ROWS[0]])])
    with pytest.raises(UserError, match="a line of 'differences' is damaged"):
        collect([put(tmp_path / "d/results.json", ROWS, differences=[{"model": "trained"}])])


def test_patterns(tmp_path: Path) -> None:
    paths = [put(tmp_path / name / "results.json", ROWS) for name in "ba"]
    assert expand([str(tmp_path / "*/results.json"), str(paths[0])]) == sorted(paths)
    with pytest.raises(UserError, match="no file matches"):
        expand([str(tmp_path / "*/nothing.json")])


def test_marks_stand_where_p_is_small_after_correction(tmp_path: Path) -> None:
    found = collect([put(tmp_path / "results.json", ROWS, differences=TESTS)])
    table = marked(monolingual_table(ROWS), found.tests["home"], "RR@10", ROWS)
    marks = {name: [cell.mark for cell in cells] for name, cells in table.lines}
    assert marks == {"en": ["", ""], "de": ["", "†"], "mean of other languages": ["", "†"], "mean of all": ["", ""]}
    assert (
        "differs from bm25: p < 0.05" in table.note and table.note in table.markdown() and ".600†" in table.markdown()
    )
    rows = list(csv.DictReader(io.StringIO(table.csv())))
    assert rows[1]["trained p"] == "0.02" and "bm25 p" not in rows[0]
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table.terminal())
    assert ".600† ±.045" in console.export_text()
    assert marked(monolingual_table(ROWS, "R@100"), found.tests["home"], "R@100", ROWS).note == "", "of RR@10 alone"


def test_measures_come_in_the_collections_order() -> None:
    row = {**ROWS[0], "nDCG@20": 0.1, "AP": 0.5, "official": "AP nDCG@20", "intervals": {"AP": [0.4, 0.6]}}
    assert measures_of([row]) == ["AP", "nDCG@20", "RR@10", "R@100"] and measures_of(ROWS) == ["RR@10", "R@100"]
    assert interval_of(row, "AP") == (0.4, 0.6) and interval_of(row, "RR@10") == (0.45, 0.54)
    assert interval_of(row, "R@100") == (None, None)
    pool = [{**ROWS[0], "passage_lang": "mixed"}, {**ROWS[0], "query_lang": "mixed", "passage_lang": "mixed"}]
    assert [(r["query_lang"], r["passage_lang"]) for r in one_language(pool)] == [("en", "en")]


def test_latex() -> None:
    cells = (Cell(0.5, 0.4, 0.6, best=True, mark="†"), Cell())
    table = Table("50% of a_b & c", ("lang", "x_y", "z"), (("zh-hant", cells), ("mean of all", cells)), "† differs")
    text = latex(table, "tab:a")
    assert r"zh-hant & \textbf{.500}$^{\dagger}$ {\scriptsize [.400, .600]} & -- \\" in text
    assert r"\caption{50\% of a\_b \& c. $^{\dagger}$ differs.}" in text and r"lang & x\_y & z \\" in text
    body = text.split("\n")
    assert body[body.index(r"\midrule", body.index(r"\midrule") + 1) + 1].startswith("mean of all"), (
        "a rule above means"
    )
    assert text.count("{") == text.count("}") and "scriptsize" not in latex(table, intervals=False)
    assert escape("\\ ^~{}") == r"\textbackslash{} \textasciicircum{}\textasciitilde{}\{\}"


def test_pictures_are_drawn_where_their_data_is_there(tmp_path: Path) -> None:
    rows = [*ROWS, line("trained", "en", "de", 0.3, collection="home")]
    found = collect([put(tmp_path / "results.json", rows)])
    report = write_collected(found, tmp_path / "plain", {})
    assert {path.name for path in report.pictures} == {"languages.png", "cross_lingual_trained.png"}
    assert [text.split(":")[1] for text in report.missing] == [" no scaling", " no energy"]
    known = {"bm25": Cost(100, 0.5, "rapl"), "trained": Cost(1000, 0.1, "TDP")}
    report = write_collected(found, tmp_path / "full", known)
    assert {path.name for path in report.pictures} >= {"scaling.png", "energy.png"} and not report.missing
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in report.pictures)
    same = write_collected(found, tmp_path / "same", {name: Cost(7) for name in known})
    assert any("no scaling" in text for text in same.missing)
    with pytest.raises(UserError, match="no row holds 'RR@20' \\(did you mean 'RR@10'"):
        write_collected(found, tmp_path / "none", {}, "RR@20")


def test_measured_energy_and_the_formula_share_no_axis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("colbertxm.evaluation.report_pictures.plot_energy", lambda *a: drawn.append(a) or a[-1].touch())
    found = collect([put(tmp_path / "results.json", ROWS)])
    write_collected(found, tmp_path, {"bm25": Cost(kwh=0.5, method="rapl"), "trained": Cost(kwh=9.0, method="TDP")})
    points, measure, unit, *_ = drawn[0]
    assert [(p.model, p.x) for p in points] == [("bm25", 0.5)] and unit == "kWh of training (rapl)"
    assert points[0].y == pytest.approx(0.45) and measure.startswith("RR@10")


def test_costs_come_from_the_models_notes(tmp_path: Path) -> None:
    model = tmp_path / "m/trained/model"
    model.mkdir(parents=True)
    notes = {"config": {"trainer": {"steps": 10, "batch_size": 32, "accumulate": 2}}, "energy": {"kwh": 0.2, "method": "nvml"}}  # fmt: skip # noqa: E501
    (model / "colbertxm.json").write_text(json.dumps({"provenance": notes}), encoding="utf-8")
    provenance = {"config": {"checkpoints": [str(model), "latest"]}}
    found = collect([put(tmp_path / "results.json", ROWS, provenance=provenance)])
    assert costs(found) == {"bm25": Cost(), "trained": Cost(640, 0.2, "nvml")}
    assert costs(found, {"bm25": 5})["bm25"] == Cost(5)
    with pytest.raises(UserError, match="did you mean 'trained'"):
        costs(found, {"trainde": 5})


def test_the_command_logs_the_same(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(Path("a/results.json"), ROWS, differences=TESTS)
    put(Path("b/results.json"), [{**row, "collection": "other/set", "nDCG@10": 0.2} for row in ROWS])
    call(monkeypatch, "report", "results=['*/results.json']", "output=r", "examples={bm25: 10, trained: 20}")
    out = capsys.readouterr().out
    assert "home, 300 queries" in out and "other/set, 300 queries" in out and "no energy" in out
    written = {str(path.relative_to("r")) for path in Path("r").rglob("*.*") if "wandb" not in path.parts}
    assert written >= {"report.md", "report.tex", "home/languages_rr10.csv", "other-set/languages_ndcg10.csv",
                       "home/languages.png", "home/scaling.png"}  # fmt: skip
    assert Path("r/report.tex").read_text(encoding="utf-8").count(r"\toprule") == 5
    history, config = wandb_files.read(wandb_files.run_of(Path("r")))
    assert config["results"] == ["a/results.json", "b/results.json"]
    table = {name: history[f"report/home/languages_rr10.{name}"] for name in ("_type", "ncols", "nrows")}
    assert table == {"_type": ["table-file"], "ncols": [3], "nrows": [4]}
    assert history["report/means_table.nrows"] == history["report/means-1_table.nrows"] == [2]
    assert history["report/home/scaling.format"] == history["report/other-set/languages.format"] == ["png"]
