"""From MS MARCO's files to a trained model: stores and rows built once, streamed, in two languages."""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path

import pytest
from test_config import call

from colbertxm.data.ms_marco import ms_marco
from colbertxm.errors import UserError
from colbertxm.model.checkpoints import load_model

WORDS = "light lamp door lock heat valve water pump camera motion alarm siren fan speed window blind".split()
QUICK = ["trainer.steps=4", "trainer.batch_size=4", "trainer.val_every=2", "freeze.top_k=1", "model.dim=8",
         "logger.mode=disabled"]  # fmt: skip


@pytest.fixture
def files(world: Path) -> Path:
    """Sixteen queries, 48 passages in two languages, triples, hard negatives with scores, a development set."""
    for lang, tail in (("en", ""), ("de", "en")):
        passages = [" ".join(WORDS[(i * j) % 16] + tail for j in (1, 3, 5)) + f" {i}" for i in range(48)]
        (world / f"collection.{lang}.tsv").write_text("".join(f"{i}\t{p}\n" for i, p in enumerate(passages)))
        (world / f"queries.{lang}.tsv").write_text("".join(f"{100 + i}\t{w}{tail}\n" for i, w in enumerate(WORDS)))
    (world / "triples.tsv").write_text("".join(f"{100 + i % 16}\t{i}\t{(i + 7) % 48}\n" for i in range(48)))
    (world / "qrels.tsv").write_text("".join(f"{100 + i}\t0\t{i}\t1\n" for i in range(16)))
    lines = [{"qid": 100 + i, "pos": [i], "neg": {"bm25": [i + 16, i + 17], "dense": [i + 20]}} for i in range(16)]
    with gzip.open(world / "hard.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    scores = {100 + i: {i: 9.0, i + 16: 1.0, i + 17: 8.5, i + 20: 2.0} for i in range(16)}
    with gzip.open(world / "scores.pkl.gz", "wb") as raw:
        pickle.dump(scores, raw)
    nway = [[100 + i, [i, 3.0], [i + 16, 1.0], [i + 17, 0.5]] for i in range(16)]
    (world / "nway.jsonl").write_text("".join(json.dumps(line) + "\n" for line in nway))
    return world


SOURCES = {"collection": "collection.en.tsv", "queries": "queries.en.tsv"}


def test_train_from_the_files_in_two_languages(files: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    data = ["data=msmarco", *(f"data.{k}={v}" for k, v in SOURCES.items()), "data.triples=triples.tsv",
            "data.translations={de:{collection:collection.de.tsv,queries:queries.de.tsv}}", "data.mix={en:0.5,de:0.5}",
            "data.val_queries=queries.en.tsv", "data.val_qrels=qrels.tsv", "data.val_sample=6"]  # fmt: skip
    call(monkeypatch, "train", *QUICK, *data, "dry_run=3")
    printed = capsys.readouterr().out
    assert printed.count("query") >= 3 and "[▁query]" in printed and "de_DE" in printed + "de_DE"
    assert not Path("outputs/train").exists(), "a dry run trains nothing"
    call(monkeypatch, "train", *QUICK, *data, "trainer.workers=1")
    err = capsys.readouterr().err
    assert "step 4/4" in err and "dev mrr@10 " in err and "  en-en " in err
    assert set(load_model(Path("outputs/train/multi_vector/model")).xmod.config.languages) == {"en_XX", "de_DE"}
    for name in ("collection.en.tsv", "triples.tsv"):  # built once: the files are not looked at again
        (files / name).unlink()
    call(monkeypatch, "train", *QUICK, "data=msmarco", "data.mix={de:1}", "output=outputs/again", "model.dim=4")


def test_the_papers_negatives_are_drawn_from_scored_lists(files: Path) -> None:
    found = ms_marco("d", "en", **SOURCES, hard_negatives="hard.jsonl.gz", scores="scores.pkl.gz", examples=40)
    assert (files / "scores.npz").exists() and len(found.examples or ()) == 40
    assert found.examples is not None
    for triple in found.examples.read([(0, i) for i in range(40)], 1):
        query = int(triple.query.id) - 100
        # The third candidate scores 8.5 against the positive's 9.0: within the margin of 3, no negative.
        assert triple.positive.id == str(query) and triple.negatives[0].id in {str(query + 16), str(query + 20)}


def test_n_way_lines_keep_their_scores(files: Path) -> None:
    found = ms_marco("d", "en", **SOURCES, triples="nway.jsonl")
    assert found.examples is not None
    assert found.examples.triples.scores([2]).tolist() == [[3.0, 1.0, 0.5]]  # type: ignore[attr-defined]
    assert [n.id for n in found.examples.read([(0, 2)], 2)[0].negatives] == ["18", "19"]


def test_what_is_missing_is_said(files: Path) -> None:
    with pytest.raises(UserError, match=r"no texts in 'en' yet: give data\.collection=FILE"):
        ms_marco("d", "en")
    with pytest.raises(UserError, match=r"no texts in 'fr' yet: give data\.translations\.fr\.queries=FILE"):
        ms_marco("d", "en", **SOURCES, translations={"fr": {"collection": "collection.de.tsv"}})
    with pytest.raises(UserError, match=r"not built yet: give data\.triples=FILE, or data\.hard_negatives=FILE"):
        ms_marco("d2", "en", **SOURCES)
    (files / "bad.tsv").write_text("100\t0\t99\n")
    with pytest.raises(UserError, match="bad.tsv:1"):
        ms_marco("d2", "en", **SOURCES, triples="bad.tsv")
    assert len(ms_marco("d2", "en", **SOURCES, triples="triples.tsv").examples or ()) == 48, "nothing was left behind"


@pytest.mark.parametrize("experiment", ["paper", "colbert_xm", "dpr_xm", "distillation", "in_batch_large"])
def test_the_recipes_train(files: Path, monkeypatch: pytest.MonkeyPatch, capsys, experiment: str) -> None:  # type: ignore[no-untyped-def]
    data = ["data=msmarco", *(f"data.{k}={v}" for k, v in SOURCES.items()), "data.triples=nway.jsonl"]
    small = ["model=small", "model.projection=random", "trainer.steps=2", "trainer.batch_size=4", "trainer.workers=0",
             "trainer.log_every=1", "trainer.accelerator=cpu", "trainer.precision=bf16-mixed",
             "logger.mode=disabled"]  # fmt: skip
    sizes = ["trainer.negatives=2", "trainer.chunk=3"] if experiment in ("distillation", "in_batch_large") else []
    width = [] if experiment == "dpr_xm" else ["model.dim=8"]
    call(monkeypatch, "train", f"+experiment={experiment}", *data, *small, *sizes, *width)
    assert "step 2/2  loss" in capsys.readouterr().err
    assert load_model(Path(f"outputs/train/{experiment}/model")).pooling == (
        "single" if experiment == "dpr_xm" else "multi"
    )
