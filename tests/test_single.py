"""Single vectors through faiss against the exhaustive engine: rankings, filters, ties, seeds, files that lie."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from colbertxm.engine.exact import ExactEngine
from colbertxm.engine.single import SingleVectorEngine
from colbertxm.errors import MissingExtra, UserError

faiss = pytest.importorskip("faiss")

KINDS = ["flat", "ivfpq", "hnsw"]
COUNT, DIM = 6000, 16
LANGS = ["de" if n % 4 else "en" for n in range(COUNT)]
IDS = [f"d{n}" for n in range(COUNT)]


def clustered(count: int, generator: torch.Generator) -> Tensor:
    centres = torch.randn(40, DIM, generator=generator)
    vectors = centres[torch.randint(40, (count,), generator=generator)] + 0.6 * torch.randn(
        count, DIM, generator=generator
    )
    return torch.nn.functional.normalize(vectors, dim=1)


def exact_engine(vectors: Tensor, ids: list[str], langs: list[str]) -> ExactEngine:
    return ExactEngine(vectors, torch.arange(len(ids) + 1), ids, langs)


@pytest.fixture(scope="module")
def vectors() -> Tensor:
    return clustered(COUNT, torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def queries(vectors: Tensor) -> list[Tensor]:
    return list(clustered(40, torch.Generator().manual_seed(1)).unsqueeze(1))


@pytest.fixture(scope="module")
def engines(vectors: Tensor) -> dict[str, SingleVectorEngine]:
    return {kind: SingleVectorEngine(vectors, IDS, LANGS, kind, seed=3) for kind in KINDS}


def recall(found: list[Any], want: list[Any]) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for (a, _), (b, _) in zip(found, want, strict=True)]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("lang", "part"),
    [(None, None), ("de", None), (None, 0.9), ("de", 0.95), (None, 0.2), ("en", 0.5)],
    ids=["all", "language", "most", "both", "few", "few of both"],
)
def test_search_against_the_exhaustive_engine(
    engines: dict[str, SingleVectorEngine],
    vectors: Tensor,
    queries: list[Tensor],
    kind: str,
    lang: str | None,
    part: float | None,
) -> None:
    """`de` is above the size that is searched exhaustively, so faiss applies that filter itself."""
    mask = None if part is None else torch.rand(COUNT, generator=torch.Generator().manual_seed(2)) < part
    names = None if mask is None else [IDS[n] for n in mask.nonzero().flatten().tolist()]
    found = engines[kind].search(queries, 20, lang, names)
    oracle = exact_engine(vectors, IDS, LANGS)
    want = oracle.search(queries, 20, lang, ids=names)
    every = oracle.score_all(queries).numpy()
    assert recall(found, want) >= (1.0 if kind == "flat" else 0.97)
    allowed = set(IDS if names is None else names)
    for row, (ids, scores) in zip(every, found, strict=True):
        assert len(ids) == 20 and scores.dtype == np.float32 and (np.diff(scores) < 0).all()
        assert all(id in allowed and lang in (None, LANGS[int(id[1:])]) for id in ids)
        # Whatever the index made of them: found passages have their own inner products.
        np.testing.assert_allclose(scores, row[[int(id[1:]) for id in ids]], atol=1e-6)


def test_filters_reach_faiss(
    engines: dict[str, SingleVectorEngine], queries: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The large parts of the test above are not answered by the exhaustive path."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("searched exhaustively")

    for kind in ("ivfpq", "hnsw"):
        monkeypatch.setattr(engines[kind].exact, "search", refuse)
        assert len(engines[kind].search(queries, 20, "de")) == len(queries)
        with pytest.raises(AssertionError, match="exhaustively"):
            engines[kind].search(queries, 20, "en")


@pytest.mark.parametrize("kind", ["ivfpq", "hnsw"])
def test_effort_buys_recall(
    engines: dict[str, SingleVectorEngine], vectors: Tensor, queries: list[Tensor], kind: str
) -> None:
    want = exact_engine(vectors, IDS, LANGS).search(queries, 20)
    little, much = (recall(engines[kind].search(queries, 20, effort=effort), want) for effort in (1, 2000))
    assert little < much and much >= 0.99


@pytest.mark.parametrize("kind", ["ivfpq", "hnsw"])
def test_k_hits_are_k_hits(engines: dict[str, SingleVectorEngine], queries: list[Tensor], kind: str) -> None:
    """One list of codes holds too few passages: the query is then answered exhaustively."""
    for ids, scores in engines[kind].search(queries[:2], 3000, effort=1):
        assert len(set(ids)) == 3000 and (np.diff(scores) < 0).all()
    ids, _ = engines[kind].search(queries[:1], COUNT + 5)[0]
    assert sorted(ids) == sorted(IDS)


@pytest.mark.parametrize("k", [25, 150])  # faiss keeps hits in a heap, and from 100 on in a reservoir
def test_flat_keeps_ties_in_document_order(k: int) -> None:
    """Whole numbers: products are exact, and many scores equal, far beyond the hits asked for."""
    generator = torch.Generator().manual_seed(4)
    vectors = torch.randint(-1, 2, (3000, 4), generator=generator).float()
    ids, langs = [str(n) for n in range(3000)], ["en"] * 3000
    queries = list(torch.randint(-2, 3, (30, 1, 4), generator=generator).float())
    engine = SingleVectorEngine(vectors, ids, langs)
    found = engine.search(queries, k)
    for (names, scores), (want, values) in zip(
        found, exact_engine(vectors, ids, langs).search(queries, k), strict=True
    ):
        assert names == want
        np.testing.assert_array_equal(scores, values)
    every = (torch.cat(queries) @ vectors.T).numpy()
    for row, candidates in zip(every, engine._every(torch.cat(queries).numpy(), k), strict=True):
        assert set(np.flatnonzero(row >= np.sort(row)[-k])) <= set(candidates.tolist())  # no tie was cut


def test_equal_vectors_tie_though_products_round() -> None:
    vectors = torch.randn(1, 37, generator=torch.Generator().manual_seed(5)).expand(501, -1).contiguous()
    ids = [str(n) for n in range(501)]
    query = torch.randn(1, 37, generator=torch.Generator().manual_seed(6))
    found, scores = SingleVectorEngine(vectors, ids, ["en"] * 501).search([query], 501)[0]
    assert found == ids and (np.diff(scores) < 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_written_read_and_searched(
    engines: dict[str, SingleVectorEngine], queries: list[Tensor], kind: str, tmp_path: Path
) -> None:
    engines[kind].write(tmp_path / "index")
    again = SingleVectorEngine.read(tmp_path / "index")
    assert (again.kind, again.seed, list(again.ids), list(again.langs)) == (kind, 3, IDS, LANGS)
    for (ids, scores), (want, values) in zip(
        again.search(queries, 15, "de"), engines[kind].search(queries, 15, "de"), strict=True
    ):
        assert ids == want
        np.testing.assert_array_equal(scores, values)
    SingleVectorEngine(torch.eye(3), ["a", "b", "c"], ["en"] * 3).write(tmp_path / "index")
    assert SingleVectorEngine.read(tmp_path / "index").search([torch.eye(3)[1:2]], 1)[0][0] == ["b"]
    assert len(list((tmp_path / "index").glob("*.bin"))) == 1  # nothing is left of the old one


@pytest.mark.parametrize("kind", ["ivfpq", "hnsw"])
def test_a_seed_makes_the_same_bytes(kind: str, vectors: Tensor) -> None:
    def made(seed: int) -> bytes:
        index = SingleVectorEngine(vectors[:1500], IDS[:1500], LANGS[:1500], kind, seed).index
        return bytes(faiss.serialize_index(index).tobytes())

    first = made(1)
    assert first == made(1) and first != made(2)


def test_float16_is_kept_and_searched(vectors: Tensor, queries: list[Tensor], tmp_path: Path) -> None:
    half = vectors.half()
    engine = SingleVectorEngine(half, IDS, LANGS, "ivfpq")
    engine.write(tmp_path / "index")
    want = exact_engine(half, IDS, LANGS).search(queries, 10)
    assert recall(SingleVectorEngine.read(tmp_path / "index").search(queries, 10), want) >= 0.97
    assert next((tmp_path / "index").glob("vectors*.npy")).stat().st_size == half.nbytes + 128


@pytest.mark.parametrize("damage", ["bit", "end", "gone"])
@pytest.mark.parametrize("stem", ["index", "ids", "langs", "vectors", "manifest"])
def test_damaged_files_are_refused_before_faiss_sees_them(
    stem: str, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = clustered(700, torch.Generator().manual_seed(6))
    SingleVectorEngine(vectors, IDS[:700], LANGS[:700], "ivfpq").write(tmp_path / "index")
    path = next((tmp_path / "index").glob(f"{stem}*"))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(raw if damage == "bit" else path.read_bytes()[:-1])
    monkeypatch.setattr(faiss, "read_index", lambda *_: pytest.fail("faiss was given damaged bytes"))
    with pytest.raises(UserError, match=f"{stem}.*(damaged|is missing)"):
        SingleVectorEngine.read(tmp_path / "index")


def test_a_refused_write_leaves_the_old_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "index"
    SingleVectorEngine(torch.eye(3), ["a", "b", "c"], ["en"] * 3).write(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("colbertxm.files.DataFile._put", full)
    with pytest.raises(UserError, match="No space left"):
        SingleVectorEngine(torch.eye(2), ["x", "y"], ["en"] * 2).write(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format": "colbertxm-texts"}')
    with pytest.raises(UserError, match="does not describe a index of single vectors"):
        SingleVectorEngine(torch.eye(2), ["x", "y"], ["en"] * 2).write(tmp_path)


def test_without_faiss_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtra, match=r"colbertxm\[cpu\]"):
        SingleVectorEngine(torch.eye(2), ["x", "y"], ["en"] * 2)


def test_nothing_to_find() -> None:
    for kind in ("flat", "hnsw"):
        ids, scores = SingleVectorEngine(torch.empty(0, 4), [], [], kind).search([torch.ones(1, 4)], 5)[0]
        assert ids == [] and len(scores) == 0
    engine = SingleVectorEngine(torch.eye(4), ["a", "b", "c", "d"], ["en"] * 4, "hnsw")
    assert engine.search([], 5) == []
    assert engine.search([torch.ones(1, 4)], 5, ids=[])[0][0] == []


@pytest.mark.parametrize(
    ("kind", "asked", "message"),
    [
        ("hnws", {}, r"'hnws' \(did you mean 'hnsw'\?\)"),
        ("ivfpq", {}, "needs 624 vectors to train on, here are 4"),
        ("flat", {"k": 0}, "at least one hit"),
        ("flat", {"effort": 3}, "leave effort out"),
        ("hnsw", {"effort": 0}, "one list or node at least"),
        ("flat", {"lang": "dee"}, "did you mean 'de'"),
        ("flat", {"ids": ["e"]}, "no passage 'e'"),
        ("flat", {"queries": [torch.ones(2, 4)]}, "query 0 has 2 vectors"),
        ("flat", {"queries": [torch.ones(1, 5)]}, "4 dimensions"),
    ],
)
def test_mistakes_are_named(kind: str, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        engine = SingleVectorEngine(torch.eye(4), ["a", "b", "c", "d"], ["de", "en", "de", "en"], kind)
        engine.search(**{"queries": [torch.ones(1, 4)], "k": 2, **asked})


def test_vectors_that_are_not_finite_are_refused() -> None:
    bad = torch.ones(5, 2)
    bad[3, 1] = torch.nan
    with pytest.raises(UserError, match="document vector 3 is not finite"):
        SingleVectorEngine(bad, list("abcde"), ["en"] * 5)
