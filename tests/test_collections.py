"""The registry: every kind of collection from tiny files in its real layout, and what a user can get wrong."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from colbertxm.data import lazy
from colbertxm.data.collection import Collection
from colbertxm.errors import UserError
from colbertxm.evaluation.collections import COLLECTIONS, Request, find, listing, load
from colbertxm.evaluation.collections.beir import unpack
from colbertxm.evaluation.collections.remote import sources
from colbertxm.languages import language


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.fixture
def tydi(tmp_path: Path) -> Path:
    """Two languages whose questions share the number 7, one of them with its corpus."""
    root = tmp_path / "tydi"
    for code, first in (("fi", "Missä?"), ("sw", "Wapi?")):
        write(root / f"topics/topics.mrtydi-v1.1-{code}.test.txt.gz", f"7\t{first}\n8\tx\n9\tnot judged\n")
        write(root / f"qrels/qrels.mrtydi-v1.1-{code}.test.txt", "7\tQ0\t1#0\t1\n8\tQ0\t2#0\t1\n8 Q0 1#0 0\n")
    passages = ({"docid": f"{n}#0", "title": f"T{n}", "text": "yksi"} for n in (1, 2, 3))
    write(root / "mrtydi-v1.1-finnish/corpus.jsonl.gz", lines(*passages))
    return root


def test_topics_qrels_and_a_corpus_in_the_published_layout(tydi: Path) -> None:
    (found,) = load("mrtydi", Request(["finnish"], folder=tydi)).collections
    assert (found.name, found.query_lang, found.measures[0]) == ("mrtydi/test", "fi", "RR@100")
    assert [(q.id, q.text, q.lang) for q in found.queries] == [("7", "Missä?", "fi"), ("8", "x", "fi")]
    assert [p.text for p in found.passages] == ["T1 yksi", "T2 yksi", "T3 yksi"]
    assert [(j.query_id, j.passage_id, j.relevance) for j in found.judgements][2] == ("8", "1#0", 0)


def test_without_a_corpus_topics_and_qrels_are_counted(tydi: Path) -> None:
    loaded = load("mrtydi", Request(folder=tydi))
    assert loaded.langs == ["fi", "sw"]
    assert loaded.counts()[1] == "mrtydi/test sw: 2 queries, 3 judgements, no corpus"
    assert len(loaded.notes) == 1 and "mrtydi sw: no corpus at hand" in loaded.notes[0]
    assert loaded.pair_of("fi", "7") != loaded.pair_of("sw", "7")  # two questions under one number


def test_a_slice_of_a_corpus_is_said_to_be_one(tydi: Path) -> None:
    write(tydi / "mrtydi-v1.1-swahili/corpus.jsonl", lines({"docid": "1#0", "title": "", "text": "moja"}))
    notes = load("mrtydi", Request(["sw"], folder=tydi)).notes
    assert len(notes) == 1 and "1 of 2 relevant passages are not in the corpus (first: '2#0')" in notes[0]


def test_a_judged_query_without_text_is_refused(tydi: Path) -> None:
    write(tydi / "qrels/qrels.mrtydi-v1.1-sw.test.txt", "7\tQ0\t1#0\t1\n99\tQ0\t1#0\t1\n")
    with pytest.raises(UserError, match="1 of 2 judged queries have no text \\(first: '99'\\)"):
        load("mrtydi", Request(["sw"], folder=tydi))


def test_large_corpora_are_read_by_memory_map(tydi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLBERTXM_CACHE", str(tmp_path / "cache"))
    held = load("mrtydi", Request(["fi"], folder=tydi)).collections[0].passages
    read = lazy.read_passages([tydi / "mrtydi-v1.1-finnish/corpus.jsonl.gz"], "fi", small=10)
    assert isinstance(held, tuple) and isinstance(read, lazy.StoredTexts)
    assert list(read) == list(held) and len(read) == 3 and read[-1] == held[-1] and read[1:] == list(held[1:])
    assert lazy.lacks(read, ["2#0", "nowhere"]) == lazy.lacks(held, ["2#0", "nowhere"]) == ["nowhere"]
    again = lazy.read_passages([tydi / "mrtydi-v1.1-finnish/corpus.jsonl.gz"], "fi", small=10)
    assert isinstance(again, lazy.StoredTexts) and again.store.folder == read.store.folder
    with pytest.raises(IndexError):
        read[3]


def test_mmarco_crosses_languages_under_shared_ids(tmp_path: Path) -> None:
    for name, word in (("english", "light"), ("dutch", "licht"), ("german", "Licht")):
        write(tmp_path / f"google/queries/dev/{name}_queries.dev.tsv", f"1\t{word}?\n2\tother\n")
        write(tmp_path / f"google/collections/{name}_collection.tsv", f"0\t{word}\n1\tx\n")
    write(tmp_path / "qrels.dev.small.tsv", "1\t0\t0\t1\n")
    loaded = load("mmarco", Request(["dutch", "en"], cross="english", folder=tmp_path))
    pairs = {(c.query_lang, c.passage_lang): c for c in loaded.collections}
    assert list(pairs) == [("nl", "nl"), ("en", "en"), ("nl", "en"), ("en", "nl")]
    assert pairs["en", "nl"].queries[0].text == "light?" and pairs["en", "nl"].passages[0].text == "licht"
    assert [q.id for q in pairs["nl", "nl"].queries] == ["1"] and loaded.pair_of("nl", "1") == loaded.pair_of("en", "1")
    assert [c.query_lang for c in load("mmarco", Request(folder=tmp_path)).collections] == ["en", "de", "nl"]


def test_neuclir_searches_in_english_and_in_the_corpus_language(tmp_path: Path) -> None:
    write(tmp_path / "topics.neuclir22-en.original-title.txt", "5\twhere\n6\tnot judged\n")
    write(tmp_path / "topics.neuclir22-ru.ht-title.txt", "5\tгде\n")
    write(tmp_path / "qrels.neuclir22-ru.txt", "5 0 a-b 3\n5 0 c-d 0\n")
    write(tmp_path / "rus/docs.jsonl", lines({"id": "a-b", "title": "t", "text": "в доме"}, {"id": "c-d", "text": "x"}))
    found = load("neuclir", Request(folder=tmp_path)).collections
    assert [(c.query_lang, c.passage_lang, c.queries[0].text) for c in found] == [
        ("ru", "ru", "где"),
        ("en", "ru", "where"),
    ]
    assert found[1].judgements[0].relevance == 3 and found[0].measures[0] == "nDCG@20"
    assert len(load("neuclir", Request(["ru"], cross="none", folder=tmp_path)).collections) == 1


def squad(lang: str, reverse: bool = False) -> str:
    """Two paragraphs of two sentences; the second question's answer starts in its paragraph's second sentence."""
    texts = [f"One {lang}. Two {lang}.", f"Three {lang}. Four {lang}."]
    starts = [4, texts[1].index("Four")]
    paragraphs = []
    for n, (text, start) in enumerate(zip(texts, starts, strict=True)):
        cut = text.index(". ") + 1
        answer = [{"answer_start": start, "text": "x"}]
        paragraphs.append({
            "context": text, "sentence_breaks": [[0, cut], [cut + 1, len(text)]],
            "sentences": [text[:cut], text[cut + 1 :]],
            "qas": [{"id": f"id{n}", "question": f"question {n} {lang}", "answers": answer}],
        })  # fmt: skip
    return json.dumps({"version": "1.1", "data": [{"paragraphs": paragraphs}]})


def test_xquad_finds_paragraphs_in_one_language_or_another(tmp_path: Path) -> None:
    for lang in ("en", "de", "ro"):
        write(tmp_path / f"xquad.{lang}.json", squad(lang))
    found = load("xquad", Request(folder=tmp_path, cross="english"))
    assert [(c.query_lang, c.passage_lang) for c in found.collections] == [
        ("de", "de"), ("en", "en"), ("ro", "ro"), ("de", "en"), ("en", "de"), ("en", "ro"), ("ro", "en"),
    ]  # fmt: skip
    across = found.collections[4]
    assert [(j.query_id, j.passage_id) for j in across.judgements] == [
        ("en:q:id0", "de:p:0.0"),
        ("en:q:id1", "de:p:0.1"),
    ]
    assert across.passages[1].text == "Three de. Four de." and across.queries[0].lang == "en"
    assert found.pair_of("en", "en:q:id0") == found.pair_of("de", "de:q:id0") == "id0"


def test_xquad_r_pools_the_sentences_of_all_languages(tmp_path: Path) -> None:
    for lang in ("en", "de", "th"):
        write(tmp_path / f"{lang}.json", squad(lang))
    (pool,) = load("xquad_r", Request(folder=tmp_path)).collections
    assert (pool.query_lang, pool.passage_lang, pool.measures[0]) == (Collection.MIXED, Collection.MIXED, "AP")
    assert len(pool.queries) == 6 and len(pool.passages) == 12 and len({p.id for p in pool.passages}) == 12
    right = {j.passage_id for j in pool.judgements if j.query_id == "th:q:id1"}
    assert right == {"de:p:0.1.1", "en:p:0.1.1", "th:p:0.1.1"}
    texts = {p.id: p for p in pool.passages}
    assert (texts["de:p:0.1.1"].text, texts["de:p:0.1.1"].lang) == ("Four de.", "de")
    assert load("xquad_r", Request(folder=tmp_path)).langs == ["de", "en", "th"]
    (one, *_) = load("xquad_r", Request(["en"], cross="none", folder=tmp_path, context=True)).collections
    assert one.passages[1].text == "Two en. One en. Two en." and one.judgements[0].passage_id == "en:p:0.0.0"


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ('{"data": [{"paragraphs": [{"context": "x"}]}]}', "xquad.en.json, article 0, paragraph 0: .*no 'qas'"),
        ('{"data": []}', "holds no question"),
        ("[1", "not in the shape of SQuAD"),
    ],
)
def test_a_damaged_squad_file_is_named(tmp_path: Path, broken: str, message: str) -> None:
    write(tmp_path / "xquad.en.json", broken)
    with pytest.raises(UserError, match=message):
        load("xquad", Request(["en"], folder=tmp_path))


def test_an_answer_outside_all_sentences_is_refused(tmp_path: Path) -> None:
    content = json.loads(squad("en"))
    content["data"][0]["paragraphs"][1]["qas"][0]["answers"][0]["answer_start"] = 999
    write(tmp_path / "en.json", json.dumps(content))
    with pytest.raises(UserError, match="article 0, paragraph 1: .*no sentence has the character 999"):
        load("xquad_r", Request(["en"], folder=tmp_path))


def beir(folder: Path, split: str = "test") -> None:
    texts = ({"_id": "d1", "title": "A", "text": "a"}, {"_id": "q1", "title": "", "text": "b"})
    write(folder / "corpus.jsonl", lines(*texts))
    write(folder / "queries.jsonl", lines({"_id": "q1", "text": "ask", "metadata": {}}, {"_id": "q2", "text": "train"}))
    write(folder / f"qrels/{split}.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t2\n")


@pytest.mark.parametrize("name", ["beir", "nanobeir"])
def test_beir_folders(tmp_path: Path, name: str) -> None:
    beir(tmp_path / "scifact")
    beir(tmp_path / "fiqa")
    found = load(name, Request(folder=tmp_path)).collections
    assert [c.name for c in found] == [f"{name}/fiqa", f"{name}/scifact"]
    assert [q.id for q in found[0].queries] == ["q1"] and found[0].passages[0].text == "A a"
    assert found[0].without_itself and found[0].measures[0] == "nDCG@10"
    (alone,) = load(name, Request(folder=tmp_path / "scifact")).collections
    assert alone.name == f"{name}/scifact" and alone.judgements[0].relevance == 2
    with pytest.raises(UserError, match="did you mean 'scifact'"):
        load(name, Request(folder=tmp_path, subsets=["scifakt"]))


def test_beir_reports_msmarco_on_its_development_set(tmp_path: Path) -> None:
    beir(tmp_path / "msmarco", "dev")
    assert load("beir", Request(folder=tmp_path)).counts() == ["beir/msmarco en: 1 queries, 1 judgements, 2 passages"]


def test_nanobeir_as_the_hub_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parquet is read by `datasets`; here its rows come from a stand-in for `read_hub`."""
    root = tmp_path / "NanoFiQA2018"
    rows: dict[str, list[dict[str, Any]]] = {
        "queries": [{"_id": "1", "text": "ask"}],
        "corpus": [{"_id": "10", "text": "answer"}, {"_id": "11", "text": "other"}],
        "qrels": [{"query-id": "1", "corpus-id": "10"}],
    }
    for part in rows:
        (root / part).mkdir(parents=True)

    def read(name: str, split: str, columns: tuple[str, ...], **where: Any) -> Any:
        assert split == "train" and set(columns) <= set(rows[Path(name).name][0])
        return enumerate(rows[Path(name).name], 1)

    monkeypatch.setattr("colbertxm.evaluation.collections.beir.read_hub", read)
    monkeypatch.setattr("colbertxm.data.formats.hub.read_hub", read)
    (found,) = load("nanobeir", Request(folder=tmp_path)).collections
    assert (found.name, found.judgements[0].passage_id, found.passages[1].text) == ("nanobeir/fiqa", "10", "other")


def test_archives_unpack_beside_themselves_and_nowhere_else(tmp_path: Path) -> None:
    def archive(name: str) -> Path:
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as content:
            content.writestr(name, "inside")
        return tmp_path / "x.zip"

    unpack(archive("scifact/corpus.jsonl"), tmp_path)
    there = tmp_path / "scifact/corpus.jsonl"
    there.write_text("Inside")  # the same size, another file
    unpack(tmp_path / "x.zip", tmp_path)
    assert there.read_text() == "inside"
    with pytest.raises(UserError, match="outside its folder"):
        unpack(archive("../corpus.jsonl"), tmp_path / "scifact")


def test_a_local_trio(tmp_path: Path) -> None:
    corpus = write(tmp_path / "c.tsv", "a\tEins\nb\tZwei\n")
    queries = write(tmp_path / "q.jsonl", lines({"_id": "1", "text": "wo"}))
    qrels = write(tmp_path / "house.qrels", "1 0 a 1\n")
    (found,) = load("local", Request(["de"], corpus=corpus, queries=queries, qrels=qrels)).collections
    assert (found.name, found.query_lang, found.passage_lang) == ("local/house", "de", "de")
    (found,) = load("local", Request(["en", "de"], corpus=corpus, queries=queries, qrels=qrels)).collections
    assert (found.query_lang, found.passage_lang, found.passages[0].lang) == ("en", "de", "de")
    own = write(
        tmp_path / "c.jsonl", lines({"id": "a", "text": "x", "lang": "de"}, {"id": "b", "text": "y", "lang": "fr"})
    )
    loaded = load("local", Request(["en"], corpus=own, queries=queries, qrels=qrels))
    assert loaded.collections[0].passage_lang == Collection.MIXED and loaded.langs == ["en", "de", "fr"]
    with pytest.raises(UserError, match="does not say its language: give langs"):
        load("local", Request(corpus=corpus, queries=queries, qrels=qrels))
    with pytest.raises(UserError, match="needs queries=FILE and qrels=FILE"):
        load("local", Request(["de"], corpus=corpus))


def test_a_sample_takes_the_same_questions_in_every_language(tmp_path: Path) -> None:
    for lang in ("en", "de", "th"):
        write(tmp_path / f"xquad.{lang}.json", squad(lang))
    found = load("xquad", Request(folder=tmp_path, sample=1)).collections
    assert len({q.id.split(":")[2] for c in found for q in c.queries}) == 1 and len(found[0].passages) == 2
    assert all(len(c.queries) == len(c.judgements) == 1 for c in found)
    with pytest.raises(UserError, match="sample=0"):
        load("xquad", Request(folder=tmp_path, sample=0))


@pytest.mark.parametrize(
    ("name", "request_", "message"),
    [
        ("mr_tydi", Request(), "unknown collection 'mr_tydi' \\(did you mean 'mrtydi'\\?\\): there are mmarco"),
        ("mrtydi", Request(["fr"]), "mrtydi has no 'fr'"),
        ("mrtydi", Request(["finish"]), "unknown language 'finish'"),
        ("mrtydi", Request(split="tset"), "split='tset' \\(did you mean 'test'\\?\\): mrtydi has test, dev"),
        ("mrtydi", Request(cross="english"), "cross='english': mrtydi has none"),
        ("xquad", Request(cross="pol"), "cross='pol' \\(did you mean 'pool'\\?\\)"),
        ("xquad", Request(["en"], folder=Path("nowhere")), "nowhere has no file of xquad in 'en'"),
        ("miracl", Request(["fi"], folder=Path("nowhere")), "there is no such folder"),
        ("miracl", Request(["fi"], queries=Path("q.tsv")), "queries=q.tsv: miracl knows its own files"),
        ("miracl", Request(subsets=["fiqa"]), "miracl has none; beir and nanobeir have"),
    ],
)
def test_mistakes_are_one_line_with_the_nearest_name(name: str, request_: Request, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(name, request_)
    assert "\n" not in str(caught.value)


def test_the_registry_is_whole() -> None:
    names = [entry.name for entry in COLLECTIONS]
    assert names == "mmarco mrtydi miracl neuclir xquad xquad_r beir nanobeir smart_home local".split()
    assert [len(find(name).languages) for name in names[:6]] == [14, 11, 18, 3, 12, 11]
    for entry in COLLECTIONS:
        assert entry.measures and entry.splits and entry.licence
        assert all(language(code).code == code for code in entry.languages)
    assert [line[0] for line in listing()] == names


def test_every_remote_file_lies_where_its_collection_looks() -> None:
    for file in sources():
        entry = find(file.collection)
        assert file.url.startswith("https://")
        assert file.checksum is None or file.checksum.split(":")[0] in ("md5", "sha256")
        if entry.subsets or file.key == "*":
            assert file.key in (*entry.subsets, "*")
            continue
        patterns = {"queries": entry.queries, "qrels": entry.qrels}.get(file.part.split(":")[0], entry.corpus)
        split = file.part.partition(":")[2] or entry.splits[0]
        spelling = entry.languages.get(file.key, file.key)
        looked_at = [p.format(code=file.key, name=spelling, split=split) for p in patterns if ":" not in p]
        path = Path(file.path.removesuffix(".gz"))
        assert any(path.match(name) for name in looked_at), file
