"""benchmarks/engine as collections grow, on real text, on paper, and loop by loop; all at a tiny shape."""

from __future__ import annotations

import argparse
import gzip
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import record
from benchmarks.engine import figures, growth, loops, oracle, paper_size, text, vectors
from benchmarks.engine.oracle import Oracle, truth
from benchmarks.engine.peers import common
from colbertxm.engine.build import build_index
from colbertxm.engine.index import CompressedIndex
from colbertxm.engine.kmeans import number_of_centroids
from colbertxm.errors import UserError

SHAPE = vectors.Shape(documents=50, queries=8, senses=400, topics=6, per_shard=20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vectors.make(tmp_path_factory.mktemp("vectors") / "made", SHAPE)


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index that growth built, killed twice on the way."""
    folder = tmp_path_factory.mktemp("growth")
    for documents in (25, 45):
        with pytest.raises(KeyboardInterrupt):
            growth.grown(SHAPE, 2, 500, folder / "index", Killed(SHAPE, folder / "truth", documents))
    growth.grown(SHAPE, 2, 500, folder / "index", growth.Stream(SHAPE, folder / "truth"))
    return folder


class Killed(growth.Stream):
    """A stream that ends in its middle."""

    def __init__(self, shape: vectors.Shape, folder: Path, documents: int) -> None:
        super().__init__(shape, folder)
        self.left = documents

    def documents(self, first: int, clock: growth.Clock) -> Any:
        for document in super().documents(first, clock):
            if int(document.id) >= self.left:
                raise KeyboardInterrupt
            yield document


def test_an_oracle_goes_on_where_it_was_killed(folder: Path, tmp_path: Path) -> None:
    parts, queries = list(common.shards(folder)), common.queries(folder, 8)
    first = Oracle(queries, 10, tmp_path / "state.npz", "these")
    first.add(np.array(parts[0].vectors), parts[0].offsets)
    second = Oracle(queries, 10, tmp_path / "state.npz", "these")
    assert (second.shards, second.documents) == (1, 20)
    for part in parts[1:]:
        second.add(np.array(part.vectors), part.offsets)
    assert np.array_equal(second.numbers, truth(folder, 8, 10))
    with pytest.raises(UserError, match="other vectors"):
        Oracle(queries, 10, tmp_path / "state.npz", "others")
    (tmp_path / "state.npz").write_bytes(b"torn")
    with pytest.raises(UserError, match="damaged"):
        Oracle(queries, 10, tmp_path / "state.npz", "these")


def test_the_truth_is_kept_for_these_very_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = vectors.make(tmp_path / "made", SHAPE)
    found = truth(folder, 8, 5)
    with monkeypatch.context() as patched:
        patched.setattr(oracle, "ExactEngine", None)
        assert np.array_equal(truth(folder, 8, 5), found)
    np.save(folder / "queries.npy", np.load(folder / "queries.npy")[::-1])
    assert np.array_equal(truth(folder, 8, 5), found[::-1])


def test_queries_of_their_own_lengths(tmp_path: Path) -> None:
    rows = np.arange(12, dtype=np.float32).reshape(6, 2)
    np.save(tmp_path / "queries.npy", rows)
    np.save(tmp_path / "query-lengths.npy", np.array([1, 3, 2]))
    found = common.queries(tmp_path, 2)
    assert [len(query) for query in found] == [1, 3] and np.array_equal(found[1], rows[1:4])


def test_a_grown_index_is_that_of_the_folder_and_its_truth_too(grown: Path, folder: Path, tmp_path: Path) -> None:
    index = CompressedIndex(grown / "index")
    assert list(index.ids) == [str(n) for n in range(50)]
    kept = Oracle(common.queries(grown / "truth", 8), growth.K, grown / "truth" / "state.npz",
                  json.dumps(asdict(SHAPE), sort_keys=True))  # fmt: skip
    assert kept.shards == 3 and np.array_equal(kept.numbers, truth(folder, 8, growth.K))
    assert np.array_equal(np.load(grown / "truth" / "queries.npy"), np.load(folder / "queries.npy"))
    stream = growth.Stream(SHAPE, tmp_path / "other")
    whole = build_index(tmp_path / "whole", lambda first: stream.documents(first, growth.Clock(tmp_path / "clock")), 2)
    parts = [(index.parts[0], whole.parts[0])]
    assert all(np.array_equal(a["codes"], b["codes"]) for a, b in parts)
    built = index.meta["built"]
    assert built["kills"] == 2 and built["cpu_seconds"] > 0 and built["peak_mb"] > 0


def test_another_index_is_not_measured(grown: Path, tmp_path: Path) -> None:
    other = replace(SHAPE, seed=1)
    with pytest.raises(UserError, match="another index"):
        growth.grown(other, 2, 500, grown / "index", growth.Stream(other, tmp_path / "truth"))
    with pytest.raises(UserError, match="--budgets 64"):
        growth.options(["--budgets", "64,256"])


def test_growth_measures_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    asked = ["--documents", "120", "--queries", "4", "--keep", str(tmp_path), "--budgets", "100,200"]
    narrow, _, wide, deep = growth.run(asked)
    assert 0.4 < narrow["recall_10"] <= wide["recall_10"] and deep["recall_100"] > 0.8
    assert narrow["documents"] == 120 and narrow["queries"] == 4 and narrow["bytes_per_vector"] > 37
    monkeypatch.setattr(growth, "build_index", None)  # it is there: nothing is built again
    shape = vectors.Shape(120, 4)
    size = growth.grown(shape, 2, 500, tmp_path / "growth-120-2", growth.Stream(shape, tmp_path / "growth-120-truth-4"))
    assert size["cpu_seconds"] == narrow["build_cpu_s"] and size["documents"] == 120
    assert len(json.loads((tmp_path / "results" / "engine_growth.json").read_text())) == 4


def test_sizes_on_paper(grown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    found = {file.name: file for file in paper_size.files(grown / "index")}
    here = paper_size.counts(CompressedIndex(grown / "index").manifest)
    assert (found["codes"].unit, found["means"].unit, found["codec-rows"].unit) == ("vector", "passage", "centroid")
    assert found["codec-axes"].unit == "index" and "texts" not in found
    assert found["codes"].each == pytest.approx(31, abs=0.1)
    on_disk = {file.unit: file.each * here.of(file.unit) for file in found.values()}
    assert on_disk["part"] == (grown / "index" / "manifest.json").stat().st_size
    sizes = paper_size.scaled(list(found.values()), here, 10**6, 100)
    assert sizes["codes"] == pytest.approx(31e8, rel=0.01)
    assert sizes["ids"] == sum(len(str(n)) for n in range(10**6))
    assert sizes["centroids"] == pytest.approx(4e8, rel=0.1)  # so many centroids need four bytes
    assert sizes["codec-rows"] == pytest.approx(128 * number_of_centroids(10**8), rel=0.1)
    paper_size.run([str(grown / "index"), "--vectors", "60"])
    (line,) = json.loads((tmp_path / "engine_paper_size.json").read_text())
    assert 20 < line["value"] < 25


def test_what_inverted_lists_grow_with(tmp_path: Path) -> None:
    for name, shape, unit in (("documents", (5000,), "vector"), ("ends", (2, 64), "centroid and passage"),
                              ("sizes", (64,), "centroid"), ("begins", (3,), "passage")):  # fmt: skip
        np.save(tmp_path / f"{name}.npy", np.zeros(shape, np.uint32))
        assert paper_size._unit(tmp_path / f"{name}.npy", f"lists-{name}", 64, 300) == unit, name


def test_loops_print_a_figure_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    made = loops.run(["--bits", "2", "--documents", "30", "--centroids", "64", "--rounds", "1"])
    named = {line["name"]: line["value"] for line in made}
    assert {"loop interact", "loop multiply", "loop unpack", "loop rerank", "loop encode"} <= named.keys()
    assert 0 < named["loop interact"] < named["loop encode"]
    x, y = loops._rows(2, 128)
    query, sums = loops._rows(128, 32), np.zeros((2, 32), np.float32)
    total = loops.multiply(np.stack([x, y]), query.reshape(-1), sums[0], sums[1])
    assert np.allclose(sums, np.stack([x, y]) @ query, atol=1e-3) and total == pytest.approx(sums[0, 0] + sums[1, 31])


def test_every_engine_has_its_own_look() -> None:
    names = [f"peer {n}" for n in range(6)] + [
        "colbertxm, exhaustive float32",
        "colbertxm, 2 bits",
        "colbertxm, 4 bits",
    ]
    records = [{"engine": name, "our": name.startswith("colbertxm")} for name in names]
    looks = figures._looks(records)
    assert len({look["color"] for look in looks.values()}) == len({look["marker"] for look in looks.values()}) == 9
    assert list(looks)[6:] == names[6:]


def test_pairs_of_files(tmp_path: Path) -> None:
    lines = [{"query": f"q {i}", "positive": f"passage  {i % 4}"} for i in range(8)]
    packed = tmp_path / "pairs.jsonl.gz"
    packed.write_bytes(gzip.compress("\n".join(json.dumps(line) for line in lines).encode()))
    squad = tmp_path / "squad.json"
    squad.write_text(json.dumps({"data": [{"paragraphs": [{"context": "Satz", "qas": [{"question": "Frage"}]}]}]}))
    pairs = list(text.given_pairs([f"en={packed}", f"de={squad}"]))
    assert pairs[0] == ("en", "q 0", "passage  0") and pairs[-1] == ("de", "Frage", "Satz")
    passages, queries = text.drawn(iter(pairs), 5, 3)
    assert sorted(p.text for p in passages) == ["Satz", "passage 0", "passage 1", "passage 2", "passage 3"]
    answers = {"q 0": "passage 0", "q 1": "passage 1", "q 2": "passage 2", "q 3": "passage 3", "Frage": "Satz"}
    assert [answers[q.text] for q in queries] == [p.text for p in passages[:3]]
    assert text.drawn(reversed(pairs[:4]), 4, 1)[0] == text.drawn(iter(pairs[:4]), 4, 1)[0]  # whatever their order
    with pytest.raises(UserError, match="5 distinct passages, not 6"):
        text.drawn(iter(pairs), 6, 3)
    with pytest.raises(UserError, match="write LANGUAGE=FILE"):
        list(text.given_pairs([str(squad)]))
    squad.write_text("[]")
    with pytest.raises(UserError, match="SQuAD"):
        list(text.file_pairs(squad, "de"))


def test_text_refuses_before_it_works(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds vectors already"):
        text.main([str(folder)])
    with pytest.raises(UserError, match="is no folder"):
        text.opened(str(tmp_path / "nowhere"), [])
    assert isinstance(growth.options([]), argparse.Namespace)
