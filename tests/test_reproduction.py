"""The reproduction matrix: rows are read strictly, compared figure by figure, run once, and the page is theirs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from colbertxm import entry, reproduce
from colbertxm.engine.kmeans import number_of_centroids
from colbertxm.errors import UserError
from colbertxm.evaluation.reproduction import Row, load_row, load_rows
from colbertxm.evaluation.reproduction_check import MISSING, OUTSIDE, WITHIN, compare, from_runs, lines, measured_points
from colbertxm.evaluation.reproduction_index import expected
from colbertxm.evaluation.reproduction_page import page, state
from colbertxm.evaluation.reproduction_run import DONE, Step, as_process, proposal, run, steps
from colbertxm.evaluation.runs import rank_hits, read_run, write_qrels, write_run
from colbertxm.records import Judgement

FOLDER = Path(__file__).parent.parent / "experiments" / "reproduction"
ROWS = load_rows(FOLDER)
REVISION = "0123456789abcdef0123456789abcdef01234567"


def changed(tmp_path: Path, name: str, **values: Any) -> Path:
    """The row's YAML with other values, in a file of its own."""
    content = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**content, **values}), encoding="utf-8")
    return path


def results_of(row: Row, model: str = "m", off: float = 0.0, **missing: str) -> list[dict[str, Any]]:
    """Result rows that have the published figures, `off` points above; `missing` lacks a language for a measure."""
    found = []
    for lang in row.languages:
        line: dict[str, Any] = {"model": model, "query_lang": lang, "passage_lang": lang, "queries": 9}
        line["collection"] = f"{row.collection}/{row.split}"
        for figures in row.figures:
            if lang in figures.by_language and missing.get("lang") != lang:
                line[figures.measure] = (figures.by_language[lang] + off) / 100
        found.append(line)
    return found


def test_the_page_is_what_the_rows_say() -> None:
    assert (FOLDER / "README.md").read_text(encoding="utf-8") == page(ROWS), "run `make reproduction-page`"
    assert page(load_rows(FOLDER)) == page(ROWS)


def test_every_published_row_is_there_and_none_has_a_figure_that_nobody_measured() -> None:
    sizes = ["table4_03_2M", "table4_06_4M", "table4_12_8M", "table4_19_2M", "table4_25_6M"]
    assert list(ROWS) == [
        "bm25_mmarco", "bm25_mrtydi", "colbert_xm_mmarco", "colbert_xm_mrtydi", "dpr_xm_mmarco", *sizes
    ]  # fmt: skip
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    run_by_nobody = [name for name, row in ROWS.items() if not row.status]
    assert text.count("Status: **not run**") == len(run_by_nobody)
    assert text.count("\nMeasured 20") == sum(len(row.status) for row in ROWS.values())


@pytest.mark.parametrize(
    ("row", "measure", "lang", "points"),
    [
        # By hand from Tables 1, 2 and 4 of arXiv 2402.15059 and the two model cards.
        ("colbert_xm_mmarco", "RR@10", "en", 37.2), ("colbert_xm_mmarco", "RR@10", "ar", 19.5),
        ("colbert_xm_mmarco", "R@500", "vi", 79.0), ("colbert_xm_mmarco", "R@1000", "nl", 86.8),
        ("colbert_xm_mrtydi", "RR@100", "te", 50.6), ("colbert_xm_mrtydi", "R@100", "id", 93.8),
        ("table4_03_2M", "RR@10", "ja", 23.9), ("table4_12_8M", "RR@10", "en", 38.1),
        ("table4_19_2M", "RR@10", "vi", 23.2), ("table4_25_6M", "RR@10", "ru", 26.0),
        ("dpr_xm_mmarco", "RR@10", "hi", 16.0), ("bm25_mmarco", "RR@10", "zh", 11.6),
        ("bm25_mrtydi", "R@100", "bn", 86.9),
    ],
)  # fmt: skip
def test_published_figures(row: str, measure: str, lang: str, points: float) -> None:
    (figures,) = [f for f in ROWS[row].figures if f.measure == measure]
    assert figures.by_language[lang] == points


def test_a_size_of_table_4_is_its_steps_of_128_triples() -> None:
    for name, row in ROWS.items():
        if "train" in row.commands:
            found = dict(re.findall(r"(data\.examples|trainer\.steps)=(\d+)", row.commands["train"]))
            assert int(found["data.examples"]) == 128 * int(found["trainer.steps"])
            if name.startswith("table4"):
                assert int(found["data.examples"]) == float(name[7:-1].replace("_", ".")) * 1e6
            needed = {*row.languages, "en"}
            adapters = re.search(r"model\.languages=\[(.*?)\]", row.commands["train"])
            assert adapters and needed <= set(adapters[1].split(",")), "it could not read the languages it is for"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"titel": "x"}, r"the row: has no key 'titel' \(did you mean 'title'\?\)"),
        ({"title": ""}, "title: is '', and no text"),
        ({"title": False}, "title: was read as a truth value"),
        ({"languages": ["en", "dt"]}, "languages: 'dt' is 'nl' in result rows"),
        ({"languages": ["klingon"]}, "languages: unknown language 'klingon'"),
        ({"vectors": "mutli"}, r"vectors: is 'mutli' \(did you mean 'multi'\?\)"),
        ({"figures": {"MRR@10": {}}}, "'MRR@10' is no measure"),
        ({"figures": {"RR@10": {"source": "s", "average": 1.0}}}, "figures.RR@10: lacks by_language"),
        ({"figures": {"RR@10": {"source": "s", "average": None, "by_language": {"en": 37.2}}}}, "lacks ar, de"),
        ({"figures": {"RR@10": {"source": "s", "average": None, "by_language": {"en": 0.372}}}}, "is 0.372: points"),
        ({"figures": {"RR@10": {"source": "s", "average": None, "by_language": {"eu": 37}}}}, "names 'eu'"),
        ({"tolerance": {"published": 0, "trained": 1, "reason": "r"}}, "tolerance.published: must be above 0"),
        ({"tolerance": {"published": None, "trained": None, "reason": "r"}}, "tolerance.trained: is null"),
        ({"commands": {"evaluate": "index output=o"}}, "commands.evaluate: runs 'index'"),
        ({"commands": {"evaluate": "evaluate seed=1"}}, "commands.evaluate: has no output="),
        ({"commands": {"evaluate": "evaluate output={wrok}/x"}}, r"\{wrok\} is no placeholder \(did you mean 'work'"),
        ({"trained_model": None}, "trained_model: is null, though a command trains"),
        ({"index": {"bits": 3, "passages": 1, "tokens": 1, "source": "s", "measured": "m"}}, "index.bits: is 3"),
        ({"index": {"bits": 2, "passages": {"en": 1}, "tokens": 1, "source": "s", "measured": "m"}}, "other languages"),
        ({"status": "ran well"}, "status: is neither 'not run' nor a list"),
        ({"status": []}, "status: is neither 'not run' nor a list"),
        ({"status": [{"figures": {"RR@10": {"en": 37.0}}}]}, "status 1: lacks way, date, revision, machine"),
    ],
)  # fmt: skip
def test_mistakes_name_file_and_key(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    path = changed(tmp_path, "colbert_xm_mmarco", **values)
    with pytest.raises(UserError, match=message) as caught:
        load_row(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


MEASURED = {"way": "published", "date": "2026-11-23", "revision": REVISION, "machine": "1x H100"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"date": "soon"}, "date: 'soon' is no date"),
        ({"revision": "main"}, "revision: 'main' is no commit"),
        ({"revision": f"{REVISION}-dirty"}, "is no commit"),
        ({"machine": None}, "machine: is None"),
        ({"way": "guessed"}, "way: is 'guessed'"),
        ({"figures": {"RR@10": {}}}, "figures: holds none"),
        ({"figures": {"RR@10": {"en": "37"}}}, "en: is '37', and no number"),
    ],
)
def test_a_measured_figure_says_who_when_and_where(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    entry_ = {**MEASURED, "figures": {"RR@10": {"en": 37.0}}, **values}
    with pytest.raises(UserError, match=message):
        load_row(changed(tmp_path, "colbert_xm_mmarco", status=[entry_]))


def test_a_typo_in_a_published_figure_shows_in_its_mean(tmp_path: Path) -> None:
    content = yaml.safe_load((FOLDER / "colbert_xm_mmarco.yaml").read_text(encoding="utf-8"))
    content["figures"]["RR@10"]["by_language"]["es"] = 82.5
    with pytest.raises(UserError, match="mean of the languages is 30.09, and not 26.2: a figure is mistyped"):
        load_row(changed(tmp_path, "colbert_xm_mmarco", **content))


def test_figures_are_within_outside_or_missing() -> None:
    row = ROWS["colbert_xm_mmarco"]
    results = results_of(row, off=0.8, lang="hi")
    found = compare(row, measured_points(row, results), "trained")
    verdicts = {(c.measure, c.lang): c.verdict for c in found}
    assert verdicts["RR@10", "en"] == WITHIN and verdicts["RR@10", "hi"] == MISSING
    assert verdicts["RR@10", "average"] == MISSING, "a mean of thirteen is not that of fourteen"
    assert ("R@500", "average") not in verdicts, "none was published"
    strict = {(c.measure, c.lang): c.verdict for c in compare(row, measured_points(row, results), "published")}
    assert strict["RR@10", "en"] == OUTSIDE
    last = list(lines(found))[-1]
    assert last == "65 of 74 figures within 1.0 points, 0 outside, 9 missing"
    whole = compare(row, measured_points(row, results_of(row, off=-0.5)), "published")
    assert {c.verdict for c in whole if c.lang != "average"} == {WITHIN}, "the very edge is within"
    assert len(whole) == 5 * 14 + 4 and all(c.measured is not None for c in whole)


def test_figures_are_taken_from_the_right_rows() -> None:
    row = ROWS["colbert_xm_mrtydi"]
    results = results_of(row, "a") + results_of(row, "b", off=2)
    with pytest.raises(UserError, match="these results have a, b: say which one"):
        measured_points(row, results)
    assert measured_points(row, results, "b")["RR@100"]["ar"] == 57.2
    with pytest.raises(UserError, match="no model 'c'"):
        measured_points(row, results, "c")
    crossed = [{**line, "query_lang": "en"} for line in results_of(row) if line["passage_lang"] != "en"]
    with pytest.raises(UserError, match="no row of mrtydi"):
        measured_points(row, crossed)
    with pytest.raises(UserError, match="no row of mrtydi"):
        measured_points(row, results_of(ROWS["colbert_xm_mmarco"]))
    with pytest.raises(UserError, match="bm25_mrtydi has no published weights"):
        compare(ROWS["bm25_mrtydi"], {}, "published")


def test_what_evaluate_does_not_print_comes_from_its_runs(tmp_path: Path) -> None:
    row = ROWS["colbert_xm_mmarco"]
    for query, place in (("q1", 400), ("q2", 20)):
        ids = [f"{query}-{i}" for i in range(1, 521)]
        hits = rank_hits(query, ids, [1.0 / i for i in range(1, 521)])
        files = tmp_path / "runs" / "m" / "en-en.trec.gz", tmp_path / "qrels" / "en-en.qrels"
        earlier = read_run(files[0]) if files[0].exists() else []
        write_run(files[0], [*earlier, *hits], "m")
        marks = [Judgement(f"q{i}", f"q{i}-{at}", 1) for i, at in ((1, 400), (2, 20))]
        assert ids[place - 1] in {mark.passage_id for mark in marks}
        write_qrels(files[1], marks)
    found = from_runs(row, {"RR@10": {"en": 37.0}}, tmp_path / "results.json", "m")
    assert found["R@100"] == {"en": 50.0} and found["R@500"] == {"en": 100.0} and found["RR@10"] == {"en": 37.0}
    assert "R@1000" not in found, "520 hits do not say what stands among a thousand"
    assert from_runs(row, {}, tmp_path / "results.json", "other") == {}


def test_a_command_is_a_process_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    as_process(["reproduce", "list"])
    assert capfd.readouterr().out.count("not run") == len(ROWS)
    with pytest.raises(UserError, match="reproduce ended with status 1"):
        as_process(["reproduce", "lst"])


def test_a_measured_row_stands_on_the_page(tmp_path: Path) -> None:
    row = ROWS["colbert_xm_mmarco"]
    figures = measured_points(row, results_of(row, off=0.25))
    path = changed(tmp_path, row.name, status=[{**MEASURED, "figures": figures}])
    measured = load_row(path)
    assert state(measured) == "2026-11-23, published: 74 of 74 within tolerance"
    text = page({row.name: measured})
    assert "Measured 2026-11-23, published, revision 0123456789ab, on 1x H100:" in text and "not run**" not in text
    assert re.search(r"\| RR@10 \| en \| 37.2 \| 37.[45] \| within \|", text)


def test_index_statistics_follow_the_formula() -> None:
    row = ROWS["colbert_xm_mmarco"]
    assert row.index is not None
    found = expected(row.index, "de")
    assert found is not None and found.vectors == 8_841_823 * 77 and found.centroids == 2**18
    assert found.plaid_bytes == found.vectors * 36 and found.our_code_bytes == found.vectors * 31
    for tokens, centroids in ((found.tokens_from, 2**18), (found.tokens_to, 2**18),
                              (found.tokens_from - 0.2, 2**17), (found.tokens_to + 0.2, 2**19)):  # fmt: skip
        assert number_of_centroids(round(8_841_823 * tokens)) == centroids
    single = ROWS["dpr_xm_mmarco"].index
    assert single is not None and expected(single, "de") is None


def test_commands_are_filled_and_published_weights_need_no_training() -> None:
    row = ROWS["colbert_xm_mrtydi"]
    trained = steps(row, "files", "out")
    assert [s.name for s in trained][0] == "train" and trained[0].output == Path("out/train/colbert_xm_6.4M")
    assert "checkpoints=[out/train/colbert_xm_6.4M/model]" in trained[-1].words
    assert f"langs=[{','.join(row.languages)}]" in trained[-1].words
    assert not re.search(r"\{(data|work|model|languages)\}", " ".join(w for s in trained for w in s.words))
    published = steps(row, "files", "out", "published")
    assert "train" not in [s.name for s in published]
    assert "checkpoints=[antoinelouis/colbert-xm]" in published[-1].words
    assert trained[0].key == steps(ROWS["colbert_xm_mmarco"], "files", "out")[0].key, "one training for both rows"
    with pytest.raises(UserError, match="table4_03_2M has no published weights"):
        steps(ROWS["table4_03_2M"], "files", "out", "published")


COMMANDS = {
    step.key: step
    for row in ROWS.values()
    for way in ("trained", "published")
    if way == "trained" or row.published_model
    for step in steps(row, "files", "out", way)
}


@pytest.mark.parametrize("step", COMMANDS.values(), ids=lambda step: step.output.name)
def test_every_command_composes(step: Step) -> None:
    cfg = entry.compose(step.words[0], step.words[1:])
    entry.check_filled(cfg, step.words[0])
    assert cfg.output == str(step.output)


def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    row, ran, said = ROWS["colbert_xm_mmarco"], [], []  # type: ignore[var-annotated]

    def execute(words: Any) -> None:
        ran.append(words[0])
        if words[0] == "evaluate" and len(ran) == len(wanted):
            raise UserError("evaluate ended with status 1")
        [out] = [w.removeprefix("output=") for w in words if w.startswith("output=")]
        Path(out).mkdir(parents=True)

    wanted = steps(row, "files", str(tmp_path))
    with pytest.raises(UserError, match="status 1"):
        run(wanted, tmp_path, execute, said.append)
    first = [step.words[0] for step in wanted]
    assert ran == first
    run(wanted, tmp_path, execute, said.append)
    assert ran == [*first, "evaluate"], "what was done is not repeated"
    run(wanted, tmp_path, execute, said.append)
    assert ran == [*first, "evaluate"] and said[-1].startswith("[evaluate] done before: ")
    (tmp_path / "colbert_xm_mmarco").rename(tmp_path / "gone")
    run(wanted, tmp_path, execute, said.append)
    assert ran[-1] == "evaluate" and len(ran) == len(first) + 2, "its output was gone"
    other = steps(row, "files", str(tmp_path), extra={"train": ["seed=7", f"output={tmp_path}/other"]})
    assert other[0].output == tmp_path / "other" and other[0].key != wanted[0].key
    (tmp_path / DONE).write_text("{")
    with pytest.raises(UserError, match=f"{DONE} cannot be read"):
        run(wanted, tmp_path, execute, said.append)


def test_what_was_measured_is_proposed_in_a_form_that_the_row_takes(tmp_path: Path) -> None:
    row = ROWS["bm25_mrtydi"]
    made = {"rows": results_of(row), "provenance": {"revision": REVISION, "platform": "Linux", "cpus": 2}}
    (tmp_path / "results.json").write_text(json.dumps(made))
    found = measured_points(row, made["rows"])  # type: ignore[arg-type]
    text = proposal(row, found, "trained", tmp_path / "results.json")
    measured = load_row(changed(tmp_path, row.name, status=yaml.safe_load(text)))
    assert measured.status[0].figures == found and measured.status[0].machine == "Linux, 2 CPUs"
    made["provenance"]["revision"] = f"{REVISION}-dirty"  # type: ignore[index]
    (tmp_path / "results.json").write_text(json.dumps(made))
    text = proposal(row, found, "trained", tmp_path / "results.json")
    assert "no clean commit" in text
    with pytest.raises(UserError, match="is no commit"):
        load_row(changed(tmp_path, row.name, status=yaml.safe_load(text)))


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """`colbertxm reproduce ...`; its exit status."""
    monkeypatch.setattr("sys.argv", ["colbertxm reproduce", *arguments])
    with pytest.raises(SystemExit) as caught:
        reproduce.main()
    return int(str(caught.value.code))


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "list") == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == list(ROWS) and all(line.endswith("not run") for line in printed)
    row = ROWS["colbert_xm_mmarco"]
    Path("results.json").write_text(json.dumps(results_of(row)))
    assert call(monkeypatch, "check", row.name, "results.json", "--published") == 0
    assert "74 of 74 figures within 0.5 points, 0 outside, 0 missing" in capsys.readouterr().out
    Path("results.json").write_text(json.dumps(results_of(row, off=1.2)))
    assert call(monkeypatch, "check", row.name, "results.json") == 1
    assert re.search(r"RR@10 +en +37\.2 +38\.4 +\+1\.20 +OUTSIDE", capsys.readouterr().out)
    Path("rows").mkdir()
    for path in FOLDER.glob("*.yaml"):
        (Path("rows") / path.name).write_bytes(path.read_bytes())
    assert call(monkeypatch, "page", "--rows", "rows") == 0
    assert Path("rows/README.md").read_bytes() == (FOLDER / "README.md").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lst"], "invalid choice: 'lst'"),
        (["check", "colbert_mmarco", "r.json"], "there is no row 'colbert_mmarco' (did you mean 'colbert_xm_mmarco'?)"),
        (["check", "bm25_mmarco"], "check needs a results.json"),
        (["check", "bm25_mmarco", "nowhere.json"], "no results at nowhere.json"),
        (["run"], "no row is named"),
        (["run", "bm25_mmarco"], "give --data FOLDER with {data}/mmarco"),
        (["run", "colbert_xm_mmarco", "--miniature", "--published"], "published weights are of another base"),
        (["list", "--rows", "nowhere"], "nowhere holds no rows"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, *arguments) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and message in printed and printed.count("\n") == 1
