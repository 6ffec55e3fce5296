"""benchmarks/engine at a tiny shape and without the peers, which need downloads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import record
from benchmarks.engine import figures, job, ours, run, vectors
from benchmarks.engine.engines import Engine
from benchmarks.engine.oracle import truth
from benchmarks.engine.peers import common
from colbertxm.errors import UserError

SHAPE = vectors.Shape(documents=50, queries=8, senses=400, topics=6, per_shard=20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vectors.make(tmp_path_factory.mktemp("vectors") / "made", SHAPE)


def test_a_shard_is_a_function_of_shape_seed_and_number(folder: Path, tmp_path: Path) -> None:
    again = vectors.make(tmp_path / "again", SHAPE)
    other = vectors.make(tmp_path / "other", replace(SHAPE, seed=1))
    names = sorted(file.name for file in again.iterdir())
    assert names[:3] == ["lengths-000.npy", "lengths-001.npy", "lengths-002.npy"]
    for name in names:
        assert (folder / name).read_bytes() == (again / name).read_bytes(), name
    assert (folder / "vectors-001.npy").read_bytes() != (other / "vectors-001.npy").read_bytes()
    world = vectors.World(SHAPE)  # a shard needs none of the shards before it
    assert np.array_equal(vectors.shard(world, 2)[0], np.load(folder / "vectors-002.npy"))
    assert not np.array_equal(vectors.shard(world, 0)[0][:20], vectors.shard(world, 1)[0][:20])


def test_what_is_made_has_the_promised_shapes(folder: Path) -> None:
    corpus = common.load(folder)
    parts = list(common.shards(folder))
    assert [len(part.offsets) - 1 for part in parts] == [20, 20, 10]
    assert len(corpus.offsets) == 51 and corpus.offsets[-1] == len(corpus.vectors)
    assert corpus.vectors.dtype == np.float32 and corpus.vectors.shape[1] == 128
    assert np.allclose(np.linalg.norm(corpus.vectors, axis=1), 1, atol=1e-5)
    assert corpus.tokens is not None and len(corpus.tokens) == len(corpus.vectors) and corpus.tokens.max() < 400
    start = len(parts[0].vectors)
    assert np.array_equal(corpus.vectors[start : start + 5], parts[1].vectors[:5])
    queries = common.queries(folder, 8)
    assert np.shape(queries) == (8, 32, 128) and np.allclose(np.linalg.norm(queries, axis=2), 1, atol=1e-5)


def test_vectors_are_like_a_models(folder: Path) -> None:
    """A shared direction, and vectors of one sense nearer to one another than to others."""
    corpus = common.load(folder)
    assert corpus.tokens is not None
    assert np.linalg.norm(corpus.vectors.mean(0)) > 0.2
    sense = np.bincount(corpus.tokens).argmax()
    inside = corpus.vectors[corpus.tokens == sense]
    assert (inside @ inside.T).mean() > (corpus.vectors @ inside.T).mean() + 0.2


def test_a_query_finds_the_document_that_it_was_made_from(folder: Path) -> None:
    assert (truth(folder, 8, 5)[:, 0] == vectors.targets(SHAPE)).mean() >= 0.75
    streamed = vectors.queries(vectors.World(SHAPE))
    assert np.array_equal(streamed, np.load(folder / "queries.npy"))  # without the other shards: the same


def test_half_precision_is_the_same_rounded(folder: Path, tmp_path: Path) -> None:
    half = vectors.make(tmp_path / "half", replace(SHAPE, dtype="float16"))
    assert np.load(half / "vectors-000.npy").dtype == np.float16
    assert np.array_equal(np.load(half / "vectors-000.npy"), np.load(folder / "vectors-000.npy").astype(np.float16))


def test_a_folder_of_others_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="holds other vectors"):
        vectors.make(folder, replace(SHAPE, seed=7))


def test_the_truth_is_naive_maxsim_over_all_shards(folder: Path) -> None:
    corpus = common.load(folder)
    queries = common.queries(folder, 8)
    scores = np.array([[(query @ document.T).max(1).sum() for document in corpus.documents()] for query in queries])
    assert truth(folder, 8, 7).tolist() == np.argsort(-scores)[:, :7].tolist()
    assert truth(folder, 3, 100).shape == (3, 50)


def test_a_folder_in_one_piece_is_read_alike(folder: Path, tmp_path: Path) -> None:
    corpus = common.load(folder)
    for name, array in (("emb", corpus.vectors), ("off", corpus.offsets), ("q", common.queries(folder, 8))):
        np.save(tmp_path / f"{name}.npy", array)
    whole = common.load(tmp_path)
    assert np.array_equal(whole.vectors, corpus.vectors) and np.array_equal(whole.offsets, corpus.offsets)
    assert whole.tokens is None
    assert np.array_equal(truth(tmp_path, 8, 10), truth(folder, 8, 10))
    with pytest.raises(FileNotFoundError, match="no folder of vectors"):
        common.load(tmp_path.parent / "nowhere")


def test_recall_by_hand() -> None:
    true = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    assert job.recall([[2, 1, 9, 9], [5, 9]], true, 2) == pytest.approx((1 + 0.5) / 2)
    assert job.recall([[4, 3, 2, 1], []], true, 4) == pytest.approx(0.5)
    assert job.recall([[9, 9, 1], [9, 9, 5]], true, 2) == 0  # what stands behind the depth does not count
    assert job.recall([[1, 2, 3, 4], [5, 6, 7, 8]], true, 10) == 1  # fewer documents than the depth


def test_the_whole_run_with_ours_alone(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(run, "PICTURE", tmp_path / "frontier.png")
    work = tmp_path / "work"
    work.mkdir()
    asked = ["--peers", "", "--vectors", str(folder), "--queries", "6", "--threads", "1", "--work", str(work)]
    asked += ["--builds", "2"]
    before = {"documents": 9, "threads": 1, "hits": 10, "recall_10": 0.5, "engine": "other", "setting": "defaults"}
    earlier = [record.row("engine_query_ms", 7.0, "ms", **before, our=False), record.row("recall10_4bit", 1.0, "")]
    record.write(f"engine-{folder.name}", earlier)
    found, deep, *compressed = run.run([*asked, "--picture", "--add"])
    at_most = {"2": 0.5, "4": 0.2, "8": 0.05}
    for other in compressed:  # four times the budgets' documents: every loss is the codec's
        assert other["recall_10"] > 1 - at_most[other["engine"].split()[1]]
        assert other["bytes_per_vector"] < found["bytes_per_vector"]
    assert found["recall_10"] == deep["recall_10"] == deep["recall_100"] == 1 and found["our"]
    assert (found["hits"], deep["hits"], found["recall_100"]) == (10, 100, None)
    assert found["documents"] == 50 and found["queries"] == 6
    assert 512 < found["bytes_per_vector"] < 515
    assert 0 < found["p50_ms"] <= found["p95_ms"] and found["build_peak_mb"] > found["build_before_mb"] > 0
    written = json.loads((tmp_path / "results" / f"engine-{folder.name}.json").read_text())
    assert (
        written[0]["name"] == "engine_query_ms"
        and written[0]["value"] == 7
        and written[0]["settings"] == earlier[0]["settings"]
    )
    assert written[1]["name"] == "engine_query_ms" and written[1]["value"] == found["p50_ms"]
    named = {line["name"]: line["value"] for line in written if line["settings"]["hits"] == 10}
    default = next(r for r in compressed if "4 bits" in r["engine"] and r["setting"] == "budget 512")
    assert default["hits"] == 10 and sum(line["name"] == "recall10_4bit" for line in written) == 2
    assert named["ms_per_query_4bit"] == default["p50_ms"] and named["recall10_4bit"] == default["recall_10"]
    assert named["bytes_per_vector_2bit"] < named["bytes_per_vector_4bit"] == default["bytes_per_vector"]
    assert "speedup_vs_fast_plaid" not in named  # it was not asked
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert not any(work.iterdir())


def test_headlines_beside_the_peers() -> None:
    figures_of = {"documents": 9, "threads": 1, "hits": 10, "recall_10": 0.9, "build_peak_mb": 100.0}
    ours = [
        {**figures_of, "engine": f"colbertxm, {bits} bits", "setting": "budget 512", "p50_ms": 10.0, "our": True,
         "build_cpu_s": 5.0, "bytes_per_vector": 16.0 * bits}
        for bits in (2, 4, 8)
    ]  # fmt: skip
    peers = [
        {**figures_of, "engine": name, "setting": "defaults", "p50_ms": ms, "our": False, "build_cpu_s": 20.0,
         "bytes_per_vector": 80.0}
        for name, ms in (("fast-plaid 1.7.0, 4 bits", 500.0), ("tachiom 0.4.0", 20.0), ("xtr-warp-rs 2.1.0", 5.0))
    ]  # fmt: skip
    named = {line["name"]: line["value"] for line in run.rows([*ours, *peers])}
    assert (named["bytes_per_vector_2bit"], named["bytes_per_vector_4bit"]) == (32, 64)
    assert [named[f"speedup_vs_{peer}"] for peer in ("fast_plaid", "tachiom", "xtr_warp")] == [50, 2, 0.5]
    assert named["build_cpu_ratio_vs_fast_plaid"] == 0.25 and named["build_memory_ratio_vs_fast_plaid"] == 1


def test_an_engine_that_fails_costs_its_own_figures_alone(folder: Path, tmp_path: Path) -> None:
    broken = Engine("broken", "benchmarks.engine.nowhere")
    given = job.Job(folder, truth(folder, 2, 10), tmp_path / "work", threads=(1,))
    (found,) = job.together([broken], given, 1)
    assert found["engine"] == "broken" and "nowhere" in found["not_run"] and "ended with 1" in found["not_run"]
    assert run.rows([found])[0]["settings"] == found
    assert "not run: broken" in figures.table([found])
    assert not (tmp_path / "work").exists()


def test_a_misspelt_peer_is_named() -> None:
    with pytest.raises(UserError, match="no engine tachyon: the peers are fast-plaid"):
        run.options(["--peers", "tachyon,lancedb"])
    alone = run.options(["--peers", ""])
    assert alone.peers == [] and alone.documents == "5000" and run.options([]).documents == "5000,20000,50000"
    with pytest.raises(UserError, match="--budgets 64: 100 hits"):
        run.options(["--budgets", "64", "256"])


def test_ours_are_engines_of_this_process(folder: Path) -> None:
    """They need no environment, so `--peers ''` needs no network."""
    for engine in (ours.EXACT, ours.compressed(4)):
        assert engine.peer is None and engine.command()[0][1:] == ["-m", engine.script]
