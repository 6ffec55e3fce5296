"""Each reader on a file of its format, and on the mistakes that such files have."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from colbertxm.data.formats.candidates import HardNegatives, NWay, read_hard_negatives, read_nway
from colbertxm.data.formats.fields import Ids
from colbertxm.data.formats.jsonl import SHAPES, Annotated, read_annotated, read_texts_jsonl, read_triples_jsonl
from colbertxm.data.formats.lines import Refused
from colbertxm.data.formats.qrels import read_qrels
from colbertxm.data.formats.tsv import (
    IdTriple,
    Margin,
    read_id_triples,
    read_margins,
    read_queries,
    read_text_triples,
    read_texts,
)
from colbertxm.errors import UserError
from colbertxm.records import Judgement, Text, Triple

TRIPLE = Triple(Text("1:q", "wer", "de"), Text("1:p", "ich", "en"), (Text("1:n", "du", "en"),))
PASSAGE = '{"docid": "7#0", "title": "Wasser", "text": "ist nass"}'
TRAIN = '{"query_id": "1", "query": "was", "positive_passages": [%s], "negative_passages": []}'


@pytest.mark.parametrize(
    ("read", "content", "rows"),
    [
        (lambda p: read_texts(p, "dt"), "7\tnat\n0\t\n", [Text("7", "nat", "nl"), Text("0", "", "nl")]),
        (lambda p: read_text_triples(p, "de", "en"), "wer\tich\tdu\n", [TRIPLE]),
        (lambda p: read_triples_jsonl(p, "de", "en"), '{"query": "wer", "doc_pos": "ich", "doc_neg": "du"}', [TRIPLE]),
        (read_id_triples, "1\t2\t3\nq\tp\tn", [IdTriple("1", "2", "3"), IdTriple("q", "p", "n")]),
        (read_margins, "q\ta\tb\t-1.5e0\n", [Margin("q", "a", "b", -1.5)]),
        (read_qrels, "1 0 a\u2028b 3\n1\tQ0\tc\t-1\n", [Judgement("1", "a\u2028b", 3), Judgement("1", "c", -1)]),
        (read_qrels, "query-id\tcorpus-id\tscore\nq 1\td\t2\n", [Judgement("q 1", "d", 2)]),
        (read_hard_negatives, '{"qid": 1, "pos": [2], "neg": {"bm25": [3, "4"]}}',
         [HardNegatives("1", ("2",), {"bm25": ("3", "4")})]),
        (read_nway, '[1, [2, 0.5], ["3", -4]]\n[1, [2, 9], [5, 1]]',
         [NWay("1", ("2", "3"), (0.5, -4.0)), NWay("1", ("2", "5"), (9.0, 1.0))]),
        (read_nway, "[1, 2, 3]", [NWay("1", ("2", "3"), None)]),
        (lambda p: read_annotated(p, "de"), TRAIN % PASSAGE,
         [Annotated(Text("1", "was", "de"), (Text("7#0", "Wasser ist nass", "de"),), ())]),
        (lambda p: read_texts_jsonl(p, "de"), PASSAGE, [Text("7#0", "Wasser ist nass", "de")]),
        (lambda p: read_texts_jsonl(p, "de"), '{"_id": 3, "title": "T", "text": ""}', [Text("3", "T", "de")]),
        (lambda p: read_texts_jsonl(p, "de", titles=False), PASSAGE, [Text("7#0", "ist nass", "de")]),
    ],
)  # fmt: skip
def test_rows(tmp_path: Path, read: Callable[[Path], Any], content: str, rows: list[Any]) -> None:
    (tmp_path / "f").write_bytes(content.encode())
    assert list(read(tmp_path / "f")) == rows


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (lambda p: read_texts(p, "en"), "1\ta\n2\tb\tc\n", "f:2: expected id<TAB>text, found 3 fields"),
        (lambda p: read_texts(p, "en"), "1\ta\n\tb\n", "f:2: has an empty id"),
        (lambda p: read_texts(p, "en"), "5\ta\n6\tb\n9\tc\n6\td\n", r"f:4: the id '6' .* \(first in line 2\)"),
        (lambda p: read_texts(p, "en"), "a\ta\nb\tb\na\tc\n", r"f:3: the id 'a' .* \(first in line 1\)"),
        (lambda p: read_queries(p, "en"), "1\t \n", "f:1: has an empty text"),
        (lambda p: read_text_triples(p, "en"), "q\tp\n", "f:1: expected query<TAB>positive<TAB>negative, found 2"),
        (lambda p: read_text_triples(p, "en"), "q\t\tn\n", "f:1: has an empty positive"),
        (read_margins, "q\ta\tb\tnan\n", "f:1: the margin 'nan' is no finite number"),
        (read_margins, "q\ta\tb\t1_0\n", "f:1: the margin '1_0'"),
        (read_qrels, "1 0 a 1\n2 0 b x\n", "f:2: the relevance 'x'"),
        (read_qrels, "1 0 a\n", "f:1: expected .*, found 3 columns .*header"),
        (read_qrels, "1 Q0 a 1 2.0 me\n", "found 6 columns: is it a run"),
        (read_qrels, "1 0 a 1\n1 0 a 0\n", r"f:2: '1' and 'a' .* second time \(first in line 1\)"),
        (read_hard_negatives, '{"qid": true, "pos": [], "neg": {}}', "f:1: expected an id in 'qid', found True"),
        (read_hard_negatives, '{"qid": 1, "pos": 2, "neg": {}}', "f:1: expected a list of ids in 'pos'"),
        (read_hard_negatives, '{"qid": 1, "pos": [1.5], "neg": {}}', "f:1: expected an id in 'pos', found 1.5"),
        (read_hard_negatives, '{"qid": 1, "pos": [2], "neg": [3]}', "f:1: expected {system: "),
        (read_hard_negatives, '{"qid": 1, "pos": [2]', "f:1: not JSON"),
        (read_nway, "[1, [2, 0.5]]\n[1, 2]", "f:2: has scores where others have none"),
        (read_nway, "[1, [2, 0.5], 3]", "f:1: expected .passage id, score., found 3"),
        (read_nway, "[1, [2, NaN]]", "f:1: not JSON .NaN is no JSON"),
        (read_nway, "[1, [2, 1e999]]", "f:1: the score inf is no finite number"),
        (read_nway, f"[1, [2, 1{'0' * 400}]]", "f:1: the score"),
        (read_nway, "[1]", "f:1: expected .query id, candidate"),
        (read_nway, "[" * 100_000, "f:1: not JSON"),
        (lambda p: read_annotated(p, "en"), TRAIN % '{"docid": "1"}', "f:1: expected a text in 'text', found nothing"),
        (lambda p: read_annotated(p, "en"), TRAIN % '"7#0"', "f:1: expected a list of passages"),
        (lambda p: read_texts_jsonl(p, "en"), '{"_id": "1", "text": "a\\u0000"}', "f:1: holds an escaped NUL"),
        (lambda p: read_texts_jsonl(p, "en"), '{"_id": "1", "text": "\\ud800"}', "f:1: holds half a surrogate pair"),
        (lambda p: read_texts_jsonl(p, "en"), '{"_id": "a\\tb", "text": "c"}', "f:1: the id 'a.*tb' holds a tab"),
        (lambda p: read_texts_jsonl(p, "en"), '{"_id": "1", "body": ""}', "f:1: no id and text among the keys"),
        (lambda p: read_texts_jsonl(p, "en"), '{"_id":"1","text":"a"}\n{"docid":"2","text":"b"}',
         "f:2: expected an id in '_id'"),
        (lambda p: read_triples_jsonl(p, "en"), '{"query": "a"}', "f:1: no query, positive and negative"),
    ],
)  # fmt: skip
def test_mistakes_are_named(tmp_path: Path, read: Callable[[Path], Any], content: str, message: str) -> None:
    (tmp_path / "f").write_bytes(content.encode())
    with pytest.raises(UserError, match=message):
        list(read(tmp_path / "f"))


@pytest.mark.parametrize("name", list(SHAPES))
def test_every_shape_of_corpus_is_read_as_itself(tmp_path: Path, name: str) -> None:
    shape = SHAPES[name]
    row = {shape.id: "1", shape.text: "a\tb\n"} | ({shape.title: "T"} if shape.title else {})
    (tmp_path / "f").write_text(json.dumps(row), encoding="utf-8")
    wanted = [Text("1", "T a\tb\n" if shape.title else "a\tb\n", "en")]
    assert list(read_texts_jsonl(tmp_path / "f", "en")) == list(read_texts_jsonl(tmp_path / "f", "en", name)) == wanted


def test_unknown_shape() -> None:
    with pytest.raises(UserError, match="unknown shape 'bier' .did you mean 'beir'"):
        read_texts_jsonl(Path("f"), "en", "bier")


def test_bad_lines_are_counted_by_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "f").write_bytes(b"1\ta\nx\n2\tb\n\n1\tc\n3\td\ne\n")
    rows = read_texts(tmp_path / "f", "en", on_error="count")
    assert [text.text for text in rows] == ["a", "b", "d"]
    assert rows.skipped.counts == {"does not hold id<TAB>text": 2, "has an id that stands twice": 1, "is empty": 1}
    assert "4 of 7 lines left out: 2 x does not hold id<TAB>text (first: " in capsys.readouterr().err


def test_a_collection_in_parts_has_one_set_of_ids(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1\ta\n2\tb\n", encoding="utf-8")
    (tmp_path / "b").write_text("3\tc\n2\td\n", encoding="utf-8")
    rows = read_texts([tmp_path / "a", tmp_path / "b"], "en")
    assert [next(rows).id for _ in range(3)] == ["1", "2", "3"]
    with pytest.raises(UserError, match=r"b:2: the id '2' stands here a second time \(first in line 2\)"):
        next(rows)


def test_a_collection_is_streamed(tmp_path: Path) -> None:
    with (tmp_path / "f").open("w", encoding="utf-8") as file:
        file.writelines(f"{i}\t{'word ' * 60}\n" for i in range(30_000))
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_texts(tmp_path / "f", "en")) == 30_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3e6 < (tmp_path / "f").stat().st_size  # a buffer of 1 MB and a line


def test_consecutive_ids_take_no_memory_and_every_repeat_is_found() -> None:
    ids = Ids()
    for number in range(1, 5001):
        ids.add(str(number + 9), number)
    assert not ids.seen
    for again, line in (("10", 1), ("5009", 5000), ("2500", 2491)):
        with pytest.raises(Refused, match=rf"first in line {line}\)"):
            ids.add(again, 6000)
    for new in ("010", "9", "5010", "²", "1" * 5000):
        ids.add(new, 6001)
        with pytest.raises(Refused, match=r"first in line 6001\)"):
            ids.add(new, 6002)
