"""Exports to serving databases: what is written, what a second export leaves, recall beside exact MaxSim."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_config import call
from test_engine_recall import vectors_of
from test_matches import encoder_of

from colbertxm import entry
from colbertxm import export as command
from colbertxm.databases.export import export
from colbertxm.databases.lance import Lance
from colbertxm.databases.passages import Passage, Source, from_corpus, from_index, point_id, pooled
from colbertxm.databases.qdrant import Qdrant
from colbertxm.engine.build import build_index
from colbertxm.engine.exact import ExactEngine
from colbertxm.engine.index import CompressedIndex, Document
from colbertxm.engine.opening import open_index
from colbertxm.engine.store import write_index
from colbertxm.errors import MissingExtra, UserError
from colbertxm.model.checkpoints import save_model
from colbertxm.records import Text
from colbertxm.retriever import Retriever

COUNT, DIM = 60, 16
NAMES = [f"d {n}'ü" for n in range(COUNT)]
LANGS = [("en", "de")[n % 2] for n in range(COUNT)]


def documents() -> list[torch.Tensor]:
    found = vectors_of(COUNT, 3)
    found[7] = found[7][:0]  # nothing but punctuation
    return found


@pytest.fixture(scope="module", params=["exact", "compressed"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder, found = tmp_path_factory.mktemp("index") / "index", documents()
    if request.param == "exact":
        offsets = torch.tensor([0, *(len(v) for v in found)]).cumsum(0)
        write_index(folder, torch.cat(found), offsets, NAMES, LANGS, {}, texts=[f"text {n}" for n in range(COUNT)])
    else:
        build_index(
            folder,
            lambda first: (Document(NAMES[n], LANGS[n], found[n], f"text {n}") for n in range(first, COUNT)),
            8,
        )
    return from_index(open_index(folder))


class Kept:
    """A database in memory; its searches see all but what `blind` names."""

    def __init__(self, blind: Sequence[str] = ()) -> None:
        self.rows: dict[str, Passage] = {}
        self.batches: list[int] = []
        self.blind, self.finished = set(blind), False

    def write(self, passages: Sequence[Passage]) -> None:
        assert not self.finished
        self.batches.append(len(passages))
        self.rows |= {p.id: p for p in passages}

    def finish(self) -> None:
        self.finished = True

    def count(self) -> int:
        return len(self.rows)

    def search(self, query: np.ndarray, k: int, candidates: int, lang: str | None = None) -> list[tuple[str, float]]:
        scores = {name: float((p.vectors @ query.T).max(0).sum()) for name, p in self.rows.items()}
        found = sorted((name for name in scores if name not in self.blind), key=lambda name: -scores[name])[:k]
        return [(name, scores[name]) for name in found]


def truth(source: Source, queries: Sequence[torch.Tensor], k: int, lang: str | None = None) -> list[list[str]]:
    chunks = [chunk.vectors for chunk in source.chunks()]
    values, offsets = torch.cat([c.values for c in chunks]), chunks[0].offsets
    assert len(chunks) == 1
    found = ExactEngine(values, offsets, source.ids, list(source.langs)).search(queries, k, lang)
    return [ids for ids, _ in found]


def test_every_passage_with_vectors_is_written_in_batches(source: Source) -> None:
    database, steps = Kept(), []
    report = export(source, database, [], 16, progress=steps.append)
    assert set(database.rows) == set(NAMES) - {NAMES[7]} and database.finished
    assert database.batches == [16, 16, 16, 11] and sum(steps) == COUNT
    assert (report.written, report.held, report.recall) == (59, 59, None)
    for n in (0, 8, 59):
        row = database.rows[NAMES[n]]
        assert (row.lang, row.text) == (LANGS[n], f"text {n}")
        assert np.abs(row.vectors - documents()[n].numpy()).max() < 0.1
        mean = row.vectors.mean(0)
        assert row.mean == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)


def test_recall_is_that_of_exact_search(source: Source) -> None:
    queries = vectors_of(12, 5)
    assert export(source, Kept(), queries, 16).recall == 1
    best = truth(source, queries, 4)
    blind = {ids[0] for ids in best}
    expected = np.mean([len(set(ids) - blind) / 4 for ids in best])
    assert export(source, Kept(list(blind)), queries, 16, k=4).recall == pytest.approx(expected)


def test_names_and_means() -> None:
    assert point_id("a") == point_id("a") != point_id("b") and len(point_id("ü '")) == 36
    assert pooled(np.zeros((2, 4), np.float32)).tolist() == [0] * 4
    assert pooled(np.array([[3, 0], [0, 4]], np.float32)) == pytest.approx([0.6, 0.8])


def test_no_vectors_is_an_error() -> None:
    nothing = Source(["a"], ["en"], [""], lambda: iter(()), 8)
    with pytest.raises(UserError, match="no passage has a vector"):
        export(nothing, Kept(), [], 4)


@pytest.mark.parametrize(("kind", "library"), [(Qdrant, "qdrant_client"), (Lance, "lancedb")])
def test_without_the_extra(kind: Any, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, library, None)
    with pytest.raises(MissingExtra, match="pip install 'colbertxm\\[(qdrant|lancedb)\\]'"):
        kind("c", 8, path="x")


def opened(kind: Any, folder: Path, dim: int = DIM, collection: str = "c") -> Any:
    pytest.importorskip(
        "qdrant_client" if kind is Qdrant else "lancedb", reason="pip install 'colbertxm[qdrant,lancedb]'"
    )
    return kind(collection, dim, path=str(folder))


@pytest.mark.parametrize("kind", [Qdrant, Lance])
def test_a_real_database(kind: Any, source: Source, tmp_path: Path) -> None:
    database, queries = opened(kind, tmp_path / "db"), vectors_of(10, 5)
    for turn in range(2):  # the second time nothing is doubled
        report = export(source, database, queries, 16, candidates=COUNT)
        assert (report.written, report.held) == (59, 59), turn
        assert report.recall == 1 and report.ms > 0
    best, german = (truth(source, queries, 5, lang) for lang in (None, "de"))
    scores = ExactEngine(
        next(source.chunks()).vectors.values, next(source.chunks()).vectors.offsets, source.ids, list(source.langs)
    ).search(queries, 5)
    for n, query in enumerate(queries):
        hits = database.search(query.numpy(), 5, COUNT)
        assert [name for name, _ in hits] == best[n]
        assert [score for _, score in hits] == pytest.approx(scores[n][1].tolist(), rel=2e-3)
        assert [name for name, _ in database.search(query.numpy(), 5, COUNT, "de")] == german[n]
    few = export(source, database, queries, 16, candidates=10).recall
    assert few is not None and few < 1  # the first stage lets only ten through
    database.close()
    again = opened(kind, tmp_path / "db")
    assert again.count() == 59
    again.close()
    with pytest.raises(UserError, match="has other (vectors|columns) than.* of 8 dim|has other .* 8 dimensions"):
        opened(kind, tmp_path / "db", dim=8)


@pytest.mark.parametrize("kind", [Qdrant, Lance])
def test_where_it_is_must_be_said_once(kind: Any, tmp_path: Path) -> None:
    opened(kind, tmp_path / "db").close()
    with pytest.raises(UserError, match="needs path=FOLDER"):
        kind("c", 8)
    with pytest.raises(UserError, match="one of them"):
        kind("c", 8, path="a", url="b")


def test_no_server_is_one_line() -> None:
    pytest.importorskip("qdrant_client", reason="pip install 'colbertxm[qdrant]'")
    with pytest.raises(UserError, match="qdrant at http://127.0.0.1:9 refuses") as caught:
        Qdrant("c", 8, url="http://127.0.0.1:9")
    assert "\n" not in str(caught.value)


def test_two_writers_of_one_folder(tmp_path: Path) -> None:
    held = opened(Qdrant, tmp_path / "db")
    with pytest.raises(UserError, match="refuses: .*already accessed"):
        opened(Qdrant, tmp_path / "db")
    held.close()


@pytest.fixture
def model(world: Path) -> Path:
    encoder = encoder_of()
    save_model(world / "model", encoder, {})
    texts = [Text(f"p{n}", f"light {n} lamp door {n % 7} pump", ("en", "de")[n % 2]) for n in range(30)]
    Retriever(encoder).write(world / "index", texts, {})
    lines = [f'{{"id": "{t.id}", "text": "{t.text}", "lang": "{t.lang}"}}\n' for t in texts]
    (world / "corpus.jsonl").write_text("".join(lines))
    return world / "model"


@pytest.mark.parametrize("given", [[], ["corpus=corpus.jsonl"], ["queries=corpus.jsonl", "sample=5"]])
def test_the_command(
    model: Path, given: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    database = Kept()
    monkeypatch.setattr("colbertxm.databases.qdrant.Qdrant", lambda *where: database)
    database.close = lambda: None  # type: ignore[attr-defined]
    command.run(entry.compose("export", [f"checkpoint={model}", "to=qdrant", "path=db", *given]))
    out = capsys.readouterr().out
    count, what = (5, "queries") if "sample=5" in given else (30, "passages as queries")
    assert "qdrant: 30 passages in 'colbertxm' at db" in out and "also holds" not in out
    assert f"recall@10 of exact MaxSim over the same vectors: 1.000 ({count} {what}, 200 candidates" in out
    assert set(database.rows) == {f"p{n}" for n in range(30)}


def test_other_passages_in_the_collection_are_told(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    database = Kept()
    database.rows["old"] = Passage("old", "en", "", np.ones((1, 8), np.float32), np.ones(8, np.float32))
    database.close = lambda: None  # type: ignore[attr-defined]
    monkeypatch.setattr("colbertxm.databases.lance.Lance", lambda *where: database)
    command.run(entry.compose("export", [f"checkpoint={model}", "to=lancedb", "path=db", "sample=0"]))
    out = capsys.readouterr().out
    assert "also holds 1 passages that were there before" in out and "recall" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["index=a", "corpus=b"], "export takes index=... or corpus=..., not both"),
        (["batch=0"], "batch, candidates and k must be at least 1"),
        (["index=nowhere"], "nowhere holds no index"),
        (["corpus=absent.tsv"], "absent.tsv"),
        (["candidats=5"], "did you mean 'candidates'"),
    ],
)
def test_mistakes_are_one_line(
    model: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with pytest.raises(SystemExit):
        call(monkeypatch, "export", f"checkpoint={model}", "to=qdrant", "path=db", *arguments)
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1] and lines[-1].startswith("error: ")


def test_a_corpus_is_encoded_as_an_index_would_be(world: Path) -> None:
    texts = [Text(f"p{n}", f"light {n} lamp", "de") for n in range(5)]
    retriever = Retriever(encoder_of())
    source = from_corpus(texts, retriever)
    (chunk,) = source.chunks()
    assert torch.equal(chunk.vectors.values, retriever.encode(texts, "passage").values)
    assert source.dim == 8 and list(source.langs) == ["de"] * 5


def test_a_compressed_index_gives_what_its_codes_hold(source: Source) -> None:
    (chunk,) = source.chunks()
    assert len(chunk.numbers) == COUNT and source.dim == DIM and CompressedIndex
