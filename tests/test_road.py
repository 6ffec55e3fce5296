"""The whole road through the commands, on the tiny wheels: train, multirun, index, search, evaluate, report, demo."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import wandb_files
from hub_server import Hub, Repo
from test_config import call

from colbertxm.data.corpus import read_corpus
from colbertxm.evaluation.metrics import evaluate
from colbertxm.evaluation.runs import read_qrels, read_run
from colbertxm.model.checkpoints import build_encoder, load_model, provenance_of
from colbertxm.model.formats import write_as
from colbertxm.model.tokens import TokenSettings
from colbertxm.records import Text
from colbertxm.retriever import Retriever

QUICK = ["trainer.steps=4", "trainer.batch_size=4", "trainer.val_every=2", "trainer.log_every=2", "freeze.top_k=1",
         "data.val_langs=[en,de]", "data.val_sample=6", "data.negatives_depth=4", "model.dim=8"]  # fmt: skip


@pytest.fixture(autouse=True)
def few_pairs_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny collection has some dozens of test pairs a language; the real one asks for 400."""
    from colbertxm.data.smart_home import SmartHome

    original = SmartHome.languages
    monkeypatch.setattr(
        SmartHome, "languages", lambda self, split="test", at_least=1: original(self, split, min(at_least, 5))
    )


def test_train_index_search_evaluate_report(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call(monkeypatch, "train", *QUICK)
    out = capsys.readouterr().out
    assert "model: outputs/train/multi_vector/model" in out and "next:  colbertxm evaluate" in out
    assert Path("outputs/train/multi_vector/model/model.safetensors").exists()
    history, config = wandb_files.read(wandb_files.run_of(Path("outputs/train/multi_vector")))
    assert config["parameters"]["head"]["trained"] == 8 * 32 and config["parameters"]["adapters"]["trained"] == 0
    assert config["seed"] == 42 and config["config"]["trainer"]["steps"] == 4 and config["checksums"]
    assert len(history["train/loss"]) == 2 and len(history["val/mrr@10/de-de"]) == 2
    expected = {
        "train/pairwise",
        "train/in_batch",
        "throughput/tokens_per_s",
        "throughput/queries_per_s",
        "lr-AdamW/pg1",
    }
    assert expected <= history.keys()

    call(monkeypatch, "train", *QUICK, "model.languages=[en,de]", "output=outputs/few", "logger.mode=disabled")
    capsys.readouterr()
    call(monkeypatch, "index", "langs=[en,de]", "checkpoint=outputs/train/multi_vector/model")
    assert "index: outputs/train/multi_vector/index" in capsys.readouterr().out
    one = "checkpoint=outputs/train/multi_vector/model"
    multi = ["checkpoints=[outputs/train/multi_vector/model]"]
    call(monkeypatch, "search", "turn the lamp on", "lang=en", "k=3", one)
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 6 and lines[0].split()[0] == "1" and lines[0].split()[2].startswith("en:p:")
    call(monkeypatch, "search", "turn the lamp on", "lang=en", "passage_lang=de", "k=2", one)
    assert "de:p:" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        call(monkeypatch, "search", "turn the lamp on", "lang=ja", one)
    assert "no passage in 'ja' is indexed; the index has de, en" in capsys.readouterr().err

    call(monkeypatch, "evaluate", *multi, "langs=[en,de]", "baselines=[bm25,untrained]", "output=outputs/e")
    found = json.loads(Path("outputs/e/results.json").read_text())
    places = {(r["model"], r["query_lang"], r["passage_lang"]): r for r in found["rows"]}
    assert {m for m, *_ in places} == {"bm25", "untrained", "multi_vector"} and len(places) == 3 * 4
    for (model, query, passage), row in places.items():
        run, qrels = (
            Path(f"outputs/e/runs/{model}/{query}-{passage}.trec.gz"),
            Path(f"outputs/e/qrels/{query}-{passage}.qrels"),
        )
        again = evaluate(read_run(run), read_qrels(qrels), ["RR@10"]).mean("RR@10")
        assert row["RR@10"] == pytest.approx(again, abs=1e-6) and row["low"] <= row["RR@10"] <= row["high"]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        call(monkeypatch, "evaluate", "langs=[en,ja]", "checkpoints=[outputs/few/model]", "baselines=[]")
    printed = capsys.readouterr().err
    assert "no adapter for ja_XX in this model; it has de_DE, en_XX" in printed and "[evaluate" not in printed
    call(monkeypatch, "report", "results=outputs/e/results.json", "output=outputs/r")
    assert "RR@10" in capsys.readouterr().out
    assert {p.name for p in Path("outputs/r").iterdir()} >= {
        "report.md",
        "languages.png",
        "languages_rr10.csv",
    }


def test_multirun_sweeps(world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = ["-m", "optimizer.lr=1e-4,1e-3", "output=outputs/sweep/${optimizer.lr}", "logger.mode=disabled"]
    call(monkeypatch, "train", *QUICK, "+experiment=single_vector", *sweep)
    assert {p.name for p in Path("outputs/sweep").iterdir()} == {"0.0001", "0.001"}


def test_the_demo_leaves_its_results_and_is_deterministic(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = "overrides=[" + ",".join(f"'{o}'" for o in QUICK) + "]"
    tables = []
    for _ in range(2):
        call(monkeypatch, "demo", "langs=3", "sample=10", overrides)
        found = json.loads(Path("outputs/demo/results.json").read_text())
        assert {r["model"] for r in found["rows"]} == {
            "bm25",
            "untrained_single",
            "untrained",
            "single_vector",
            "trained",
        }
        assert {"seconds", "peak_mb", "rows"} <= found.keys() and found["peak_mb"] > 0
        keys = {"model", "query_lang", "passage_lang", "RR@10", "R@100", "nDCG@10", "low", "high", "queries"}
        assert all(keys <= row.keys() for row in found["rows"])
        tables.append(found["rows"])
    assert tables[0] == tables[1]
    capsys.readouterr()
    call(monkeypatch, "search", "turn", "lang=en")
    assert capsys.readouterr().out.count("en:p:") == 5


def test_the_road_from_a_name_on_the_hub(
    world: Path, loopback_hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A Stanford ColBERT checkpoint that lies on the hub: index and search with it, and train on from it."""
    settings = TokenSettings(markers="colbert_ai", skip="colbert_ai", query_maxlen=16, expand_queries_to=16)
    encoder = build_encoder("small", ["en", "de", "ja", "fr"], settings, "multi", 8, 3)
    write_as("stanford", world / "written", encoder)
    content = {p.name: p.read_bytes() for p in (world / "written").iterdir()}
    loopback_hub.repos["someone/colbert-xm"] = Repo()
    loopback_hub.repos["someone/colbert-xm"].commit(content)
    (world / "passages.tsv").write_text("1\tturn the lamp on\n2\topen the door\n3\tclose the valve\n")
    checkpoint = "checkpoint=someone/colbert-xm"
    call(monkeypatch, "index", checkpoint, "corpus=passages.tsv", "lang=de")
    assert "index: outputs/someone--colbert-xm/index" in capsys.readouterr().out
    call(monkeypatch, "search", "open the door", "lang=de", "k=3", checkpoint)
    at_home = Retriever(encoder)
    at_home.add(read_corpus(Path("passages.tsv"), ["de"]))
    expected = [hit.passage_id for hit in at_home.search([Text("q", "open the door", "de")], 3)[0]]
    assert [line.split()[2] for line in capsys.readouterr().out.splitlines()[::2]] == expected
    call(monkeypatch, "index", checkpoint, "corpus=passages.tsv", "lang=de", "bits=8", "output=outputs/small")
    capsys.readouterr()
    call(monkeypatch, "search", "open the door", "lang=de", "k=3", checkpoint, "index=outputs/small")
    assert [line.split()[2] for line in capsys.readouterr().out.splitlines()[::2]] == expected, "8 bits a dimension"
    call(monkeypatch, "index", "verify", "outputs/small", "outputs/someone--colbert-xm/index")
    assert capsys.readouterr().out.count(": whole") == 2
    (codes,) = Path("outputs/small").glob("codes-*.npy")
    codes.write_bytes(codes.read_bytes()[:-1] + b"?")
    with pytest.raises(SystemExit):
        call(monkeypatch, "index", "verify", "outputs/small")
    assert codes.name in capsys.readouterr().err
    (pulled,) = (world / "cache" / "hub" / "someone--colbert-xm").glob("*/config.json")
    assert json.loads(pulled.read_text())["languages"] == ["de_DE"], "English, Japanese and French were not fetched"
    quick = [o for o in QUICK if "model.dim" not in o and "val_langs" not in o]
    base = ["model=checkpoint", "model.base=someone/colbert-xm", "model.dim=8", "data.val_langs=[en]"]
    call(monkeypatch, "train", *quick, *base, "model.languages=[en,de]", "output=outputs/on", "logger.mode=disabled")
    trained = load_model(Path("outputs/on/model"))
    (weights,) = [
        k for k in provenance_of(Path("outputs/on/model"))["checksums"] if k.startswith("someone/colbert-xm@")
    ]
    assert weights.endswith("/model.safetensors")
    assert set(trained.xmod.config.languages) == {"en_XX", "de_DE"} and trained.tokens.settings.markers == "colbert_ai"
    with pytest.raises(SystemExit):
        call(monkeypatch, "search", "open", "lang=de", "checkpoint=outputs/trian/model")
    assert "no model at outputs/trian/model" in capsys.readouterr().err
