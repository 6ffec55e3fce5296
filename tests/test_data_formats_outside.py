"""Hub data sets and ir_datasets collections, without network; a file that is not the published one is refused."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from colbertxm.data.formats import ir_data
from colbertxm.data.formats.hub import read_hub_texts, read_hub_triples
from colbertxm.data.formats.ir_data import files_below, read_ir_passages, read_ir_qrels, read_ir_queries, verify
from colbertxm.errors import MissingExtra, UserError
from colbertxm.records import Judgement, Text

NAME = "mmarco/v2/dt/dev/small"


@pytest.fixture(autouse=True, scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """ir_datasets makes folders in its home as soon as it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IR_DATASETS_HOME", str(tmp_path_factory.mktemp("ir_datasets")))
        yield


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A stand-in for `datasets` that hands out `rows`, and notes how it was asked."""
    state: dict[str, Any] = {"rows": []}

    def load_dataset(name: str, config: str | None, **asked: Any) -> Any:
        state["asked"] = (name, config, asked)
        if isinstance(state["rows"], Exception):
            raise state["rows"]
        return iter(state["rows"])

    fake = SimpleNamespace(load_dataset=load_dataset, exceptions=SimpleNamespace(DatasetsError=OSError))
    monkeypatch.setitem(sys.modules, "datasets", fake)
    return state


def test_hub_columns(hub: dict[str, Any]) -> None:
    hub["rows"] = [
        {"pid": 3, "body": "x", "heading": "T", "more": 1},
        {"pid": 4, "body": "y", "heading": None, "more": 1},
    ]
    columns = {"id": "pid", "text": "body", "title": "heading"}
    rows = read_hub_texts("o/n", "dt", "train", columns, config="c", revision="abc")
    assert list(rows) == [Text("3", "T x", "nl"), Text("4", "y", "nl")]
    assert hub["asked"] == ("o/n", "c", {"split": "train", "revision": "abc", "streaming": True})
    hub["rows"] = [{"anchor": "a", "pos": "b", "neg": "c"}]
    triples = read_hub_triples("o/n", "de", "train", {"query": "anchor", "positive": "pos", "negative": "neg"}, "en")
    assert [(t.query, t.positive.lang, t.negatives[0].text) for t in triples] == [(Text("1:q", "a", "de"), "en", "c")]


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([{"pid": 1, "body": "x"}], {"id": "pid", "text": "bdy"}, "no column 'bdy' .did you mean 'body'.*body, pid"),
        ([{"pid": 1, "body": "x"}, {"pid": 1, "body": "y"}], {"id": "pid", "text": "body"}, "row 2: the id '1' stands"),
        ([{"pid": 1, "body": None}], {"id": "pid", "text": "body"}, "row 1: expected a text in 'body', found nothing"),
        ([], {"id": "pid"}, "name the data set's column for text"),
        ([], {"id": "pid", "txet": "body"}, "unknown key 'txet' .did you mean 'text'"),
        (ValueError("Unknown split"), {"id": "pid", "text": "body"}, "cannot read split 'train' .* o/n: Unknown split"),
    ],
)  # fmt: skip
def test_hub_mistakes(hub: dict[str, Any], rows: Any, columns: dict[str, str], message: str) -> None:
    hub["rows"] = rows
    with pytest.raises(UserError, match=message):
        list(read_hub_texts("o/n", "en", "train", columns))


def test_a_folder_is_read_by_the_library_itself(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    row = {"_id": "1", "text": "a\u2028b"}
    (tmp_path / "train.jsonl").write_text(json.dumps(row), encoding="utf-8")
    rows = read_hub_texts(str(tmp_path), "en", "train", {"id": "_id", "text": "text"})
    assert list(rows) == [Text("1", "a\u2028b", "en")]
    with pytest.raises(UserError, match="cannot read split 'tset'"):
        list(read_hub_texts(str(tmp_path), "en", "tset", {"id": "_id", "text": "text"}))


@pytest.mark.parametrize(("library", "read"), [
    ("datasets", lambda: read_hub_texts("o/n", "en", "train", {"id": "i", "text": "t"})),
    ("ir_datasets", lambda: read_ir_queries(NAME)),
])  # fmt: skip
def test_an_absent_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, library: str, read: Any) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra, match=rf"colbertxm\[{library}\]"):
        list(read())


@pytest.fixture
def placed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """mMARCO's Dutch files at ir_datasets' paths, their checksums published as if they were the real ones."""
    library = pytest.importorskip("ir_datasets")
    found = library.load(NAME)
    contents = {
        "docs": b"0\tnat\n1\tdroog\n", "queries": b"5\twat\n6\twie\n", "qrels": b"5\t0\t1\t1\n",
    }  # fmt: skip
    paths = {}
    for part in contents:
        for file in files_below(getattr(found, f"{part}_handler")()):
            path = tmp_path / Path(file._cache_path).name
            kind = "qrels" if "qrels" in path.name else part
            path.write_bytes(contents[kind])
            paths[kind] = path
            monkeypatch.setattr(file, "_cache_path", str(path))
            monkeypatch.setattr(file, "_path", None)
            monkeypatch.setattr(file, "expected_md5", hashlib.md5(contents[kind]).hexdigest())
    return paths


def test_verified_files_are_read(placed: dict[str, Path]) -> None:
    assert list(read_ir_passages(NAME)) == [Text("0", "nat", "nl"), Text("1", "droog", "nl")]
    assert list(read_ir_queries(NAME)) == [Text("5", "wat", "nl")]  # the small set's alone
    assert list(read_ir_qrels(NAME)) == [Judgement("5", "1", 1)]


@pytest.mark.parametrize("part", ["docs", "queries", "qrels"])
def test_a_fake_is_refused(placed: dict[str, Path], part: str) -> None:
    read = {"docs": read_ir_passages, "queries": read_ir_queries, "qrels": read_ir_qrels}[part]
    assert list(read(NAME))
    placed[part].write_bytes(placed[part].read_bytes() + b"9\tfake\n")
    with pytest.raises(UserError, match="is not the file that was published .* delete it"):
        list(read(NAME))


def test_queries_of_a_subset_are_refused_for_their_qrels(placed: dict[str, Path]) -> None:
    placed["qrels"].write_bytes(b"6\t0\t1\t1\n")
    with pytest.raises(UserError, match="qrels.dev.small.tsv is not the file"):
        list(read_ir_queries(NAME))


def test_an_index_that_was_built_before_is_not_used(placed: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from ir_datasets.indices import PickleLz4FullStore

    monkeypatch.setattr(PickleLz4FullStore, "built", lambda _: pytest.fail("the index was asked"))
    assert len(list(read_ir_passages(NAME))) == 2


def test_unpacked_files_are_held_against_their_archive(tmp_path: Path) -> None:
    util = pytest.importorskip("ir_datasets").util
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo("in/one.txt")
        entry.size = 3
        archive.addfile(entry, io.BytesIO(b"one"))
    source = util.download.LocalDownload(tmp_path / "a.tar.gz")
    single = util.Cache(util.TarExtract(source, "in/one.txt"), tmp_path / "one.txt")
    folder = util.TarExtractAll(source, str(tmp_path / "all"))
    verify(single)
    verify(folder)  # not there yet
    single.path()
    folder.path()
    verify(single)
    verify(folder)
    for file, path in ((single, tmp_path / "one.txt"), (folder, tmp_path / "all/in/one.txt")):
        path.write_bytes(b"two")
        with pytest.raises(UserError, match="is not what its archive holds"):
            verify(file)
    (tmp_path / "a.tar.gz").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be held against its published checksum"):
        verify(single)


def test_ir_datasets_mistakes(placed: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="knows no 'mmarco/v2/dt/dev/smal' .did you mean 'mmarco/v2/dt/dev/small'"):
        list(read_ir_queries("mmarco/v2/dt/dev/smal"))
    with pytest.raises(UserError, match="mmarco/v2/dt has no queries"):
        list(read_ir_queries("mmarco/v2/dt"))
    placed["docs"].write_bytes(b"0\tnat\n0\tdroog\n")
    monkeypatch.setattr(ir_data, "_verified", lambda name, part: __import__("ir_datasets").load(name).docs_handler())
    with pytest.raises(UserError, match="docs, row 2: the id '0' stands here a second time"):
        list(read_ir_passages(NAME))
