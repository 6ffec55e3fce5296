"""mMARCO's and BEIR's folders, and what `detect` makes of files and folders."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import pytest

from colbertxm.data.formats.detect import FORMATS, detect
from colbertxm.data.formats.folders import Beir, MMarco
from colbertxm.data.formats.scores import read_scores_pickle
from colbertxm.errors import UserError
from colbertxm.records import Judgement, Text


def files(root: Path, **contents: str) -> Path:
    """Files by their paths, in which __ stands for a slash and _0_ for a dot."""
    for name, content in contents.items():
        path = root / name.replace("__", "/").replace("_0_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return root


@pytest.fixture
def mmarco(tmp_path: Path) -> Path:
    return files(
        tmp_path / "data",
        google__collections__dutch_collection_0_tsv="0\tnat\n1\tdroog\n",
        google__queries__dev__dutch_queries_0_dev_0_small_0_tsv="5\twat\n",
        google__queries__train__dutch_queries_0_train_0_tsv="6\twie\n",
        helsinki__collections__french_collection_0_tsv="0\tmouill\u00e9\n",
        helsinki__queries__french_queries_0_dev_0_tsv="5\tquoi\n",
        qrels_0_dev_0_small_0_tsv="5\t0\t1\t1\n",
        triples_0_train_0_ids_0_small_0_tsv="6\t0\t1\n",
    )


def test_mmarco(mmarco: Path) -> None:
    dutch = MMarco(mmarco, "dt")
    assert [text.text for text in dutch.passages()] == ["nat", "droog"]
    assert list(dutch.queries("dev.small")) == [Text("5", "wat", "nl")]
    assert list(dutch.queries("train")) == [Text("6", "wie", "nl")]
    assert list(dutch.qrels("dev.small")) == [Judgement("5", "1", 1)]
    assert [triple.negative_id for triple in dutch.triples()] == ["1"]
    french = MMarco(mmarco / "helsinki", "fr", "helsinki")
    assert [text.text for text in french.passages()] == ["mouill\u00e9"]
    assert list(french.queries("dev")) == [Text("5", "quoi", "fr")]
    assert list(french.qrels("dev.small")) == [Judgement("5", "1", 1)]


def test_mmarco_mistakes(mmarco: Path) -> None:
    with pytest.raises(UserError, match="unknown translation 'gogle' .did you mean 'google'"):
        MMarco(mmarco, "fr", "gogle")
    with pytest.raises(UserError, match="mMARCO has no 'sw'"):
        MMarco(mmarco, "sw")
    with pytest.raises(UserError, match="has no french_collection.tsv .* it has dutch_collection.tsv"):
        MMarco(mmarco, "fr").passages()
    with pytest.raises(UserError, match="holds the helsinki translation, not google's"):
        MMarco(mmarco / "helsinki", "fr").passages()
    (mmarco / "google/collections/dutch_collection.tsv.gz").write_bytes(gzip.compress(b"0\tx\n"))
    with pytest.raises(UserError, match="has both dutch_collection.tsv and dutch_collection.tsv.gz"):
        MMarco(mmarco, "nl").passages()


def test_beir_and_gpl(tmp_path: Path) -> None:
    folder = files(
        tmp_path,
        corpus_0_jsonl='{"_id": "d1", "title": "T", "text": "x"}\n',
        queries_0_jsonl='{"_id": "q1", "text": "y", "metadata": {}}\n',
        qrels__test_0_tsv="query-id\tcorpus-id\tscore\nq1\td1\t1\n",
        qgen_queries_0_jsonl="",
        gpl="q\ta\tb\t1.5\n",
    )
    (folder / "qgen_queries.jsonl").rename(folder / "qgen-queries.jsonl")
    (folder / "gpl").rename(folder / "gpl-training-data.tsv")
    (folder / "hard-negatives.jsonl.gz").write_bytes(gzip.compress(b'{"qid": "q", "pos": ["a"], "neg": {"m": ["b"]}}'))
    beir = Beir(folder, "de", passage_lang="en")
    assert list(beir.passages()) == [Text("d1", "T x", "en")]
    assert list(beir.queries()) == [Text("q1", "y", "de")]
    assert list(beir.qrels("test")) == [Judgement("q1", "d1", 1)]
    assert [row.margin for row in beir.margins()] == [1.5]
    assert [row.negatives for row in beir.hard_negatives()] == [{"m": ("b",)}]
    assert list(Beir(folder, "de", prefix="qgen").queries()) == []
    with pytest.raises(UserError, match="qgen-qrels has no train.tsv .* it has no such folder"):
        Beir(folder, "de", prefix="qgen").qrels("train")


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("1\tone two\n", "texts"),
        ("who\tme too\tyou\n", "text_triples"),
        ("1\t2\t3\n", "id_triples"),
        ("1 0 2 1\n", "qrels"),
        ("1\tQ0\td#1\t-1\n", "qrels"),
        ("query-id\tcorpus-id\tscore\nq\td\t1\n", "qrels"),
        ("q\ta\tb\t-3.5\n", "margins"),
        ('{"_id": "1", "text": "a"}\n', "texts_jsonl"),
        ('{"docid": "1", "title": "", "text": "a"}\n', "texts_jsonl"),
        ('{"query": "a", "pos": "b", "neg": "c"}\n', "triples_jsonl"),
        ('{"query_id": "1", "query": "a", "positive_passages": [], "negative_passages": []}\n', "annotated"),
        ('{"qid": 1, "pos": [2], "neg": {}}\n', "hard_negatives"),
        ("[1, [2, 0.5]]\n", "nway"),
    ],
)
def test_detect_by_content(tmp_path: Path, content: str, wanted: str) -> None:
    assert wanted in FORMATS
    (tmp_path / "f.txt").write_text(content, encoding="utf-8")
    (tmp_path / "g").write_bytes(gzip.compress(content.replace("\n", "\r\n").encode()))
    assert detect(tmp_path / "f.txt") == detect(tmp_path / "g") == wanted


def test_detect_scores_and_folders(tmp_path: Path, mmarco: Path) -> None:
    (tmp_path / "s.gz").write_bytes(gzip.compress(pickle.dumps({1: {2: 1.0}})))
    read_scores_pickle(tmp_path / "s.gz").save(tmp_path / "s.npz")
    assert (detect(tmp_path / "s.gz"), detect(tmp_path / "s.npz")) == ("scores_pickle", "scores")
    assert (detect(mmarco), detect(mmarco / "helsinki")) == ("mmarco", "mmarco")
    assert detect(files(tmp_path / "b", corpus_0_jsonl="")) == "beir"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("1 Q0 a 1 2.5 me\n", "is a TREC run"),
        ("one\n", "no known format has lines of 1 tab-separated fields"),
        ("a\tb\nc\td\te\n", "lines of 2 and 3 tab-separated fields"),
        ("who\tme\tyou\n", "ids or texts of one word"),
        ("q\ta\tb\t3\n", "qrels .* or GPL's margins"),
        ('{"a": 1, "b": 2}\n', "no known format has the keys a, b"),
        ('{\n  "id": "1"\n}\n', "f:1: not JSON"),
        ("[1]\n", "no n-way line"),
        ("a\0b\n", "f:1: holds a NUL byte"),
    ],
)
def test_detect_says_what_it_found(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "f").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        detect(tmp_path / "f")
    with pytest.raises(UserError, match="neither BEIR .* nor mMARCO .* it has f"):
        detect(tmp_path)
