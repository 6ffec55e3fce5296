"""The rows' own commands, run whole on invented words: train, index, search, evaluate, check."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import test_config

from colbertxm.errors import UserError
from colbertxm.evaluation import reproduction_miniature as miniature
from colbertxm.evaluation import reproduction_verbs as verbs
from colbertxm.evaluation.reproduction import load_rows
from colbertxm.evaluation.reproduction_run import DONE
from colbertxm.evaluation.results import read_rows
from colbertxm.model.checkpoints import load_model

FOLDER = Path(__file__).parent.parent / "experiments" / "reproduction"
ROWS = load_rows(FOLDER)
WORK = Path("outputs/reproduction")


def go(name: str, monkeypatch: pytest.MonkeyPatch, ran: list[str]) -> int:
    """`colbertxm reproduce run NAME --miniature`, its commands in this process, where `world`'s tiny base is."""

    def execute(words: Sequence[str]) -> None:
        ran.append(words[0])
        try:
            test_config.call(monkeypatch, words[0], *words[1:])
        except SystemExit as error:
            raise UserError(f"{words[0]} ended with status {error.code}") from error

    return verbs.do(FOLDER, "run", name, None, None, WORK, False, True, None, execute)


def figures(name: str) -> list[dict[str, object]]:
    return read_rows(WORK / "miniature" / name / "results.json")


def test_colbert_xm_is_trained_once_and_evaluated_on_both_collections(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row, ran = ROWS["colbert_xm_mmarco"], []  # type: ignore[var-annotated]
    assert go(row.name, monkeypatch, ran) == 0 and ran == ["train", "evaluate"]
    printed = capsys.readouterr().out
    assert "RR@10   en          37.2" in printed and "invented words" in printed
    found = figures(row.name)
    assert [line["query_lang"] for line in found] == list(row.languages) and {line["queries"] for line in found} == {8}
    assert all({"RR@10", "R@10", "R@100", "R@1000"} <= line.keys() for line in found)
    assert {line["model"] for line in found} == {"colbert_xm_6.4M"}
    model = load_model(WORK / "miniature" / "train" / "colbert_xm_6.4M" / "model")
    assert model.pooling == "multi" and "ar_AR" in model.xmod.config.languages
    assert not (WORK / "miniature" / row.name / "measured.yaml").exists(), (
        "a miniature's figures are proposed to nobody"
    )
    capsys.readouterr()
    assert go(row.name, monkeypatch, ran) == 0 and ran == ["train", "evaluate"], "all was done before"
    assert printed.endswith(capsys.readouterr().out), "the same figures again"
    other = ROWS["colbert_xm_mrtydi"]
    assert go(other.name, monkeypatch, ran) == 0 and ran == ["train", "evaluate", "evaluate"], "one training for both"
    assert [line["query_lang"] for line in figures(other.name)] == list(other.languages)
    assert len(json.loads((WORK / "miniature" / DONE).read_text())) == 3


def test_a_single_vector_row_runs_whole(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row, ran = ROWS["dpr_xm_mmarco"], []  # type: ignore[var-annotated]
    assert go(row.name, monkeypatch, ran) == 0 and ran == ["train", "evaluate"]
    assert load_model(WORK / "miniature" / "train" / "dpr_xm_25.6M" / "model").pooling == "single"
    assert len(figures(row.name)) == 14 and "0 missing" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["bm25_mmarco", "bm25_mrtydi"])
def test_bm25_finds_invented_words(name: str, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries are words of their passage, so what is found says that texts, ids and judgements belong together."""
    assert go(name, monkeypatch, []) == 0
    measure = ROWS[name].figures[0].measure
    found = {str(line["query_lang"]): float(str(line[measure])) for line in figures(name)}
    assert list(found) == list(ROWS[name].languages) and min(found.values()) > 0.3


def test_a_miniature_is_the_same_every_time(tmp_path: Path) -> None:
    contents = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        for name in ("colbert_xm_mmarco", "bm25_mrtydi"):
            miniature.write(ROWS[name], folder)
        contents.append({p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()})
    assert contents[0] == contents[1] and len(contents[0]) == 2 * 14 + 3 * 10 + 4


@pytest.mark.slow
def test_corpora_too_large_for_memory_are_indexed(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As mMARCO's and Mr. TyDi's are, from 64 MB on; here, all are. The engine's loops are compiled first: minutes."""
    monkeypatch.setattr("colbertxm.data.lazy.read_passages.__defaults__", (0,))
    monkeypatch.setenv("COLBERTXM_CACHE", str(world / "cache"))
    row = ROWS["colbert_xm_mmarco"]
    assert go(row.name, monkeypatch, []) == 0
    indexes = list((WORK / "miniature" / row.name / "indexes").glob("*/*/manifest.json"))
    assert len(indexes) == 14 and row.index is not None
    assert {json.loads(path.read_text())["bits"] for path in indexes} == {row.index.bits}
    assert len(figures(row.name)) == 14
