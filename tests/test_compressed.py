"""The compressed engine: its codec, its kernels beside plain references, its files, its builds and its changes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from colbertxm.engine import compressed, kernels, trellis
from colbertxm.engine.build import build_index
from colbertxm.engine.codec import Codec, allocate, fit_codec
from colbertxm.engine.compressed import CompressedEngine, Part
from colbertxm.engine.exact import ExactEngine
from colbertxm.engine.index import CompressedIndex, Document, verify_compressed
from colbertxm.engine.kmeans import Centroids, kmeans, nearest_of_all, number_of_centroids
from colbertxm.engine.update import add, compact, delete
from colbertxm.errors import UserError

DIM = 32


def some_documents(count: int, seed: int = 0, prefix: str = "p") -> list[Document]:
    """Clustered unit vectors that lean to their document's side, as contextual ones do; a few documents are empty."""
    rng = np.random.default_rng(seed)
    senses = np.random.default_rng(1).standard_normal((60, DIM))
    documents = []
    for n in range(count):
        length = 0 if n % 41 == 40 else int(rng.integers(1, 12))
        own = rng.standard_normal(DIM) * 0.5
        vectors = senses[rng.integers(0, 60, length)] + own + rng.standard_normal((length, DIM)) * 0.4
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        tensor = torch.from_numpy(vectors.astype(np.float32)).reshape(length, DIM)
        documents.append(
            Document(f"{prefix}{n}", ("en", "de", "sw")[n % 3], tensor, f"text {n} ü", 0.5 if n % 2 else None)
        )
    return documents


def some_queries(documents: list[Document], count: int, length: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    vectors = torch.cat([d.vectors for d in documents])
    queries = []
    for _ in range(count):
        chosen = vectors[torch.randint(len(vectors), (length,), generator=generator)]
        noisy = chosen + torch.randn(chosen.shape, generator=generator) * 0.15
        queries.append(noisy / noisy.norm(dim=1, keepdim=True))
    return queries


def laid_out(documents: list[Document]) -> tuple[Tensor, Tensor]:
    offsets = torch.tensor([0, *np.cumsum([len(d.vectors) for d in documents]).tolist()])
    return torch.cat([d.vectors for d in documents]), offsets


def exact(documents: list[Document]) -> ExactEngine:
    vectors, offsets = laid_out(documents)
    return ExactEngine(vectors, offsets, [d.id for d in documents], [d.lang for d in documents])


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return some_documents(400)


@pytest.fixture(scope="module")
def folder(documents: list[Document], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("index") / "index"
    build_index(path, lambda n: iter(documents[n:]), bits=4)
    return path


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "own"))


@pytest.mark.parametrize("width", range(1, len(trellis.ERRORS)))
def test_trellis_errors(width: int) -> None:
    sample = np.random.default_rng(9).standard_normal((500, 64)).astype(np.float32)
    layout, starts = trellis.Layout(np.full(64, width)), np.zeros(64, np.uint32)
    table = trellis.values(width)
    codes = layout.encode(sample, starts, table)
    out = np.empty_like(sample)
    kernels.unpack(codes, layout.places, layout.shifts, layout.masks, starts, table, out)
    assert codes.shape == (500, width * 8)
    assert ((out - sample) ** 2).mean() == pytest.approx(trellis.ERRORS[width], rel=0.1)


def test_viterbi_finds_the_best_of_all_ways() -> None:
    rng = np.random.default_rng(0)
    widths = np.array([1, 2, 0, 1, 1, 0, 2, 0])
    layout = trellis.Layout(widths)
    used = sorted(set(widths.tolist()))
    table = np.concatenate([trellis.values(w) for w in used])
    starts = dict(zip(used, np.cumsum([0, *(len(trellis.values(w)) for w in used)]).tolist(), strict=False))
    tables = np.array([starts[w] for w in widths.tolist()], np.uint32)
    sample = rng.standard_normal((40, 8)).astype(np.float32)
    every = np.arange(256, dtype=np.uint8)
    codes = np.stack([every, np.zeros(256, np.uint8)], 1)[:, : layout.bytes]
    values = np.empty((256, 8), np.float32)
    kernels.unpack(codes, layout.places, layout.shifts, layout.masks, tables, table, values)
    best = ((sample[:, None] - values[None, ::2]) ** 2).sum(2).min(1)  # seven bits: the lowest stays 0
    out = np.empty_like(sample)
    own_codes = layout.encode(sample, tables, table)
    kernels.unpack(own_codes, layout.places, layout.shifts, layout.masks, tables, table, out)
    np.testing.assert_allclose(((sample - out) ** 2).sum(1), best, rtol=1e-5)


def test_allocation_spends_all_bits_where_they_help() -> None:
    widths = allocate(np.array([16.0, 4.0, 1.0, 0.25, 0.0625, 1e-6, 1e-6, 1e-6]), 16)
    assert widths.sum() == 16
    assert (np.diff(widths) <= 0).all()
    assert allocate(np.ones(8), 64).tolist() == [8] * 8


def test_two_levels_find_nearly_the_nearest() -> None:
    vectors = torch.cat([d.vectors for d in some_documents(3000)])
    centroids = kmeans(vectors, 1024, seed=1, rounds=2)
    assert torch.equal(centroids, kmeans(vectors, 1024, seed=1, rounds=2))
    short, long = Centroids(centroids).nearest(vectors), nearest_of_all(vectors, centroids)
    error = [(vectors - centroids[chosen]).square().sum(1).mean() for chosen in (short, long)]
    assert (short == long).float().mean() > 0.85
    assert error[0] < 1.03 * error[1]


def test_the_papers_number_of_centroids() -> None:
    assert number_of_centroids(600_000_000) == 262_144
    assert number_of_centroids(425_000) == 8192
    assert number_of_centroids(3) == 3


@pytest.mark.parametrize(("bits", "look"), [(1, 32), (2, 16), (4, 32), (4, 12), (8, 20)])
def test_kernels_score_as_the_decoded_vectors_do(
    documents: list[Document], bits: int, look: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compressed, "LOOK", look)  # coordinates before the rest
    vectors, offsets = laid_out(documents)
    codec = fit_codec(vectors, offsets, bits, 64, rounds=3)
    codec = Codec.of(codec.arrays())
    codes = codec.encode(vectors, offsets)
    decoded = codec.decode(codes, offsets)
    ids, langs = [d.id for d in documents], [d.lang for d in documents]
    engine = CompressedEngine(codec, [Part.of(codes, offsets.numpy())], ids, langs, slacks=(np.inf, np.inf, np.inf))
    hasty = CompressedEngine(codec, [Part.of(codes, offsets.numpy())], ids, langs)
    reference = ExactEngine(decoded, offsets, ids, langs)
    for query in some_queries(documents, 6, 5) + some_queries(documents, 2, 70):
        found, scores = engine.search([query], 20, budget=400)[0]
        wanted, truth = reference.search([query], 20)[0]
        np.testing.assert_allclose(scores, truth, atol=2e-4)
        assert len(set(found) & set(wanted)) >= 19
        short, lower = hasty.search([query], 20, budget=400)[0]
        assert len(set(short) & set(wanted)) >= 18 and (np.sort(lower) <= np.sort(scores) + 2e-4).all()
    errors = (decoded - vectors).square().sum(1).mean()
    assert errors < {1: 0.25, 2: 0.12, 4: 0.012, 8: 0.0004}[bits]


def test_vectors_that_are_their_centroids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is uncertain then: every document keeps its best vector all the same."""
    monkeypatch.setattr(compressed, "LOOK", 16)
    rng = np.random.default_rng(4)
    words = torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal((20, DIM)).astype(np.float32)), dim=1)
    documents = [Document(str(n), "en", words[rng.integers(0, 20, 6)]) for n in range(90)]
    vectors, offsets = laid_out(documents)
    codec = fit_codec(vectors, offsets, 2, 20, rounds=3)
    ids, langs = [d.id for d in documents], [d.lang for d in documents]
    engine = CompressedEngine(codec, [Part.of(codec.encode(vectors, offsets), offsets.numpy())], ids, langs)
    for length in (32, 7):
        (query,) = some_queries(documents, 1, length)
        found, truth = engine.search([query], 20, budget=40)[0][1], exact(documents).search([query], 20)[0][1]
        np.testing.assert_allclose(found, truth, atol=0.02 * length)


def test_recall_grows_with_the_budget_to_its_ceiling(folder: Path, documents: list[Document]) -> None:
    engine = CompressedIndex(folder).engine
    queries = some_queries(documents, 40)
    truth = [set(ids) for ids, _ in exact(documents).search(queries, 10)]
    recall = {}
    for budget in (10, 40, 400):
        hits = engine.search(queries, 10, budget=budget)
        recall[budget] = np.mean([len(t & set(ids)) / 10 for t, (ids, _) in zip(truth, hits, strict=True)])
    assert recall[10] <= recall[40] <= recall[400]
    assert recall[400] > 0.93
    assert recall[40] > recall[400] - 0.03


def test_scores_fall_strictly_and_threads_change_nothing(folder: Path, documents: list[Document]) -> None:
    engine = CompressedIndex(folder).engine
    queries = some_queries(documents, 5)
    together = engine.search(queries, 30)
    for query, (ids, scores) in zip(queries, together, strict=True):
        assert (np.diff(scores) < 0).all()
        for threads in (1, 3):
            alone, same = engine.search([query], 30, threads=threads)[0]
            assert alone == ids
            assert np.array_equal(scores, same)


def test_filters(folder: Path, documents: list[Document]) -> None:
    engine = CompressedIndex(folder).engine
    query = some_queries(documents, 1)[0]
    named = [f"p{n}" for n in range(0, 90, 2)]
    everything, _ = engine.search([query], 400, budget=400)[0]
    lang = {d.id: d.lang for d in documents}
    for lang_, ids in (("de", None), (None, named), ("de", named)):
        found, _ = engine.search([query], 400, lang=lang_, ids=ids, budget=400)[0]
        assert found == [i for i in everything if (not lang_ or lang[i] == lang_) and (not ids or i in named)]
    assert "p40" not in everything  # it has no vectors
    with pytest.raises(UserError, match="no passage in 'fr'"):
        engine.search([query], 5, lang="fr")
    with pytest.raises(UserError, match="raise the budget"):
        engine.search([query], 5, budget=3)
    with pytest.raises(UserError, match="dimensions"):
        engine.search([query[:, :8]], 5)


def test_an_index_gives_back_what_was_put_in(folder: Path, documents: list[Document]) -> None:
    index = CompressedIndex(folder)
    assert list(index.ids) == [d.id for d in documents]
    assert [index.texts[n] for n in range(len(documents))] == [d.text for d in documents]
    assert list(index.langs) == [d.lang for d in documents]
    assert index.ids[-1] == documents[-1].id
    verify_compressed(folder)
    assert not (folder / ".build").exists()


def test_adding_deleting_replacing_and_compacting(own: Path, documents: list[Document]) -> None:
    reader = CompressedIndex(own).engine
    queries = some_queries(documents, 8)
    before = reader.search(queries, 20)
    more = some_documents(50, seed=7, prefix="q")
    add(own, more)
    with pytest.raises(UserError, match="'q3' is in .* already"):
        add(own, more[3:4])
    delete(own, ["p1", "p2", "q5"])
    with pytest.raises(UserError, match="no passage 'p1'"):
        delete(own, ["p0", "p1"])
    new = more[8]._replace(id="p10", text="changed")
    index = add(own, [new], replace=True)
    alive = {name: n for n, name in enumerate(index.ids) if index.alive[n]}
    assert set(alive) == {d.id for d in documents + more} - {"p1", "p2", "q5"}
    assert index.texts[alive["p10"]] == "changed"
    hits = index.engine.search(queries, 20, budget=500)
    found, _ = index.engine.search([more[8].vectors], 2, budget=500)[0]
    assert set(found) == {"q8", "p10"}
    small = compact(own)
    assert sorted(small.ids) == sorted(alive)
    assert len(small.parts) == 1
    for (ids, scores), (same, equal) in zip(hits, small.engine.search(queries, 20, budget=500), strict=True):
        assert ids == same
        assert np.array_equal(scores, equal)
    verify_compressed(own)
    assert [ids for ids, _ in reader.search(queries, 20)] == [ids for ids, _ in before]  # its files are still mapped


def test_vectors_of_another_kind_are_warned_of(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(own, some_documents(10, seed=2, prefix="same"))
    assert "no longer fit" not in capsys.readouterr().err
    generator = torch.Generator().manual_seed(0)
    strange = torch.randn(30, DIM, generator=generator)
    add(own, [Document("strange", "en", strange / strange.norm(dim=1, keepdim=True))])
    assert "its centroids no longer fit" in capsys.readouterr().err


def test_damaged_files_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    """Every file cut short, emptied, removed, and with one bit of a few of its bytes turned over."""
    rng = np.random.default_rng(0)
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and p.name != ".lock")
    tried = 0
    for name in names:
        own = tmp_path / "own"
        raw = (folder / name).read_bytes()
        damages = [raw[:-1], b"", None, raw + b"\0"]
        for place in rng.integers(0, len(raw), 5).tolist():
            damages.append(raw[:place] + bytes([raw[place] ^ (1 << int(rng.integers(8)))]) + raw[place + 1 :])
        for damage in damages:
            shutil.rmtree(own, ignore_errors=True)
            shutil.copytree(folder, own)
            (own / name).unlink() if damage is None else (own / name).write_bytes(damage)
            tried += 1
            with pytest.raises(UserError, match=name):
                verify_compressed(own)
    assert tried > 150


def test_hostile_manifests_are_refused(own: Path) -> None:
    from colbertxm.files import MANIFEST, _encode, _own_checksum

    good = json.loads((own / MANIFEST).read_bytes())
    hostile = [
        {**good, "version": 99},
        {**good, "format": "other"},
        {**good, "bits": 3},
        {**good, "centroids": -1},
        {**good, "centroids": "many"},
        {**good, "dimensions": 10**9},
        {**good, "parts": None},
        {**good, "parts": good["parts"] * 2},
        {**good, "languages": []},
        {**good, "files": {}},
    ]
    for manifest in hostile:
        manifest["sha256"] = _own_checksum(manifest)
        (own / MANIFEST).write_bytes(_encode(manifest))
        with pytest.raises(UserError, match="manifest.json|damaged"):
            _ = CompressedIndex(own).engine


def test_numba_is_loaded_for_compressed_indexes_alone() -> None:
    """It takes half a second, which a search of an exhaustive index need not wait for."""
    program = "import sys, colbertxm.retriever; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_a_build_refuses_what_cannot_be_indexed(tmp_path: Path, documents: list[Document]) -> None:
    folder = tmp_path / "index"
    with pytest.raises(UserError, match="occurs twice"):
        build_index(folder, lambda n: iter([documents[0], documents[0]]))
    with pytest.raises(UserError, match="corpus is empty"):
        build_index(folder, lambda n: iter([]))
    with pytest.raises(UserError, match="bits = 3"):
        build_index(folder, lambda n: iter(documents), bits=3)
    with pytest.raises(UserError, match="not finite"):
        build_index(folder, lambda n: iter([Document("a", "en", torch.full((1, DIM), torch.nan))]))
