"""The torch engine beside naive decoding with MaxSim, and beside the CPU's kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_compressed import exact, laid_out, some_documents, some_queries
from torch import Tensor

from colbertxm.engine import torch_engine
from colbertxm.engine.build import build_index
from colbertxm.engine.codec import Codec, Codes, fit_codec
from colbertxm.engine.compressed import CompressedEngine, Part
from colbertxm.engine.index import CompressedIndex, Document
from colbertxm.engine.opening import checked_device, engine_on, open_index
from colbertxm.engine.store import write_index
from colbertxm.engine.torch_engine import TorchEngine, _highest, _scattered, best_of
from colbertxm.errors import UserError

ALL = (np.inf, np.inf, np.inf)  # the CPU's engine then decodes every vector
BITS = (1, 2, 4, 8)


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return some_documents(300)


@pytest.fixture(scope="module")
def queries(documents: list[Document]) -> list[Tensor]:
    return [*some_queries(documents, 3, 5), *some_queries(documents, 1, 70), *some_queries(documents, 1, 1)]


@pytest.fixture(scope="module")
def codecs(documents: list[Document]) -> dict[int, Codec]:
    vectors, offsets = laid_out(documents)
    return {bits: fit_codec(vectors, offsets, bits, 64, rounds=2) for bits in BITS}


def parts_of(codec: Codec, documents: Sequence[Document], cuts: Sequence[int] = ()) -> list[Part]:
    bounds = [0, *cuts, len(documents)]
    parts = []
    for first, last in zip(bounds[:-1], bounds[1:], strict=True):
        vectors, offsets = laid_out(list(documents[first:last]))
        parts.append(Part.of(codec.encode(vectors, offsets), offsets.numpy()))
    return parts


def names(documents: Sequence[Document]) -> tuple[list[str], list[str]]:
    return [d.id for d in documents], [d.lang for d in documents]


def naive(codec: Codec, parts: Sequence[Part], queries: Sequence[Tensor]) -> list[list[float]]:
    """MaxSim with each document's decoded vectors, one document at a time; -inf for one without vectors."""
    found: list[list[float]] = [[] for _ in queries]
    for part in parts:
        offsets = torch.from_numpy(np.append(part.starts, part.ends[-1:]))
        decoded = codec.decode(part.codes, offsets).double()
        for scores, query in zip(found, queries, strict=True):
            for first, last in zip(part.starts.tolist(), part.ends.tolist(), strict=True):
                own = decoded[first:last]
                scores.append(float((query.double() @ own.T).amax(1).sum()) if last > first else -np.inf)
    return found


def check_ranking(found: list[str], scores: np.ndarray, truth: dict[str, float], k: int) -> None:
    """The k best of `truth` in its order, near ties apart."""
    best = sorted(truth.values(), reverse=True)[:k]
    assert len(found) == len(set(found)) == len(best)
    np.testing.assert_allclose(scores, best, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose([truth[name] for name in found], best, rtol=1e-5, atol=1e-5)
    assert (np.diff(scores) < 0).all()


@pytest.mark.parametrize("memory_mb", [torch_engine.MEMORY_MB, 0.02])
@pytest.mark.parametrize("bits", BITS)
def test_scores_are_those_of_decoded_vectors(
    bits: int, memory_mb: float, codecs: dict[int, Codec], documents: list[Document], queries: list[Tensor]
) -> None:
    codec, (ids, langs) = codecs[bits], names(documents)
    alive = np.arange(len(ids)) % 7 != 3
    parts = parts_of(codec, documents, (90, 91, 240))
    engine = TorchEngine(codec, parts, ids, langs, alive, "cpu", memory_mb)
    lengths = [len(d.vectors) for d in documents]
    named = [d.id for d in documents[::5]]
    truths = naive(codec, parts, queries)
    for lang, wanted in ((None, None), ("de", None), (None, named), ("sw", named)):
        hits = engine.search(queries, 40, lang=lang, ids=wanted, budget=300)
        for (found, scores), row in zip(hits, truths, strict=True):
            truth = {
                ids[n]: row[n]
                for n in range(len(ids))
                if lengths[n] and alive[n] and lang in (None, langs[n]) and (wanted is None or ids[n] in wanted)
            }
            check_ranking(found, scores, truth, 40)


@pytest.mark.parametrize("bits", BITS)
def test_ranks_as_the_kernels_do(
    bits: int, codecs: dict[int, Codec], documents: list[Document], queries: list[Tensor]
) -> None:
    codec, (ids, langs) = codecs[bits], names(documents)
    parts = parts_of(codec, documents, (100,))
    kernels = CompressedEngine(codec, parts, ids, langs, slacks=ALL)
    engine = TorchEngine(codec, parts, ids, langs, device="cpu")
    for query in queries:
        truth, scores = kernels.search([query], 300, budget=300)[0]
        check_ranking(*engine.search([query], 50, budget=300)[0], dict(zip(truth, scores.tolist(), strict=True)), 50)


def test_first_stage_is_centroid_interaction(
    codecs: dict[int, Codec], documents: list[Document], queries: list[Tensor]
) -> None:
    """Those of a small budget have the highest first scores, in pieces as at once, among all and among some."""
    codec, (ids, langs) = codecs[4], names(documents)
    parts = parts_of(codec, documents, (150,))
    means = torch.cat([torch.from_numpy(p.codes.means * p.codes.mean_scales[:, None]) for p in parts])
    numbers = [p.codes.centroids[a:b].astype(np.int64) for p in parts for a, b in zip(p.starts, p.ends, strict=True)]
    some = [ids[n] for n in range(len(ids)) if n % 41 != 40 and n % 3 != 1]
    for memory_mb in (0.01, 0.1, 64.0):
        engine = TorchEngine(codec, parts, ids, langs, device="cpu", memory_mb=memory_mb)
        for query in queries:
            products = query @ codec.centroids.T
            first = {
                name: float(products[:, own].amax(1).sum() + 0.5 * query.sum(0) @ mean)
                for name, own, mean in zip(ids, numbers, means, strict=True)
                if len(own)
            }
            for wanted in (None, some):
                pool = sorted((name for name in first if wanted is None or name in wanted), key=lambda n: -first[n])
                hits, _ = engine.search([query], 20, budget=20, ids=wanted)[0]
                assert set(hits) == set(pool[:20])


def test_batches_and_memory_change_nothing(codecs: dict[int, Codec], documents: list[Document]) -> None:
    codec, (ids, langs) = codecs[2], names(documents)
    parts, many = parts_of(codec, documents), some_queries(documents, 9, 6)
    together = TorchEngine(codec, parts, ids, langs, device="cpu").search(many, 15, budget=60)
    tight = TorchEngine(codec, parts, ids, langs, device="cpu", memory_mb=0.02)
    assert len(list(tight._batches(many))) > 1
    assert len(list(tight._everything.pieces(1000, 100, tight.memory))) > 3
    for (found, scores), (same, close) in zip(together, tight.search(many, 15, budget=60), strict=True):
        assert found == same
        np.testing.assert_allclose(scores, close, rtol=1e-6)


def test_pieces_hold_what_memory_does() -> None:
    lengths = np.random.default_rng(0).integers(0, 30, 200)
    selection = torch_engine.Selection(np.arange(200), np.cumsum(lengths))
    pieces = list(selection.pieces(7, 3, 200))
    assert np.array_equal(np.concatenate(pieces), np.arange(200))
    costs = [7 * len(piece) + 3 * int(lengths[piece].sum()) for piece in pieces]
    assert max(costs) <= 200
    assert all(cost + 7 + 3 * lengths[piece[-1] + 1] > 200 for cost, piece in zip(costs[:-1], pieces, strict=False))
    assert [len(piece) for piece in selection.pieces(7, 3, 1)] == [1] * 200


def test_equal_documents_rank_in_document_order(codecs: dict[int, Codec], documents: list[Document]) -> None:
    copies = [documents[n % 6]._replace(id=f"c{n}") for n in range(150)]
    engine = TorchEngine(codecs[4], parts_of(codecs[4], copies), *names(copies), device="cpu", memory_mb=0.05)
    for query in some_queries(documents, 3):
        found, _ = engine.search([query], 100, budget=100)[0]
        kinds = [int(name[1:]) % 6 for name in found]
        assert kinds == sorted(kinds, key=kinds.index)  # copies stand together
        for kind in set(kinds):
            own = [int(name[1:]) for name in found if int(name[1:]) % 6 == kind]
            assert own == list(range(kind, kind + 6 * len(own), 6))


def test_highest_takes_the_first_of_equal_scores() -> None:
    rows = torch.randint(0, 4, (50, 30), generator=torch.Generator().manual_seed(0)).float()
    for count in (1, 7, 29, 30):
        for row, columns in zip(rows.tolist(), _highest(rows, count).tolist(), strict=True):
            assert columns == sorted(sorted(range(30), key=lambda n: (-row[n], n))[:count])


def test_both_ways_to_the_best_row_agree() -> None:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 9, (40,), generator=generator)
    offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    table, rows = torch.randn(12, 5, generator=generator), torch.randint(12, (int(offsets[-1]),), generator=generator)
    expected = torch.stack([table[own].amax(0) for own in rows.split(lengths.tolist())])
    assert torch.equal(best_of(table, rows.int(), offsets), expected)
    assert torch.equal(_scattered(table, rows.int(), offsets), expected)


@pytest.mark.parametrize("kind", ["<u2", "<u4"])
def test_large_centroid_numbers_survive_the_move(kind: str) -> None:
    numbers = np.array([0, 1, 40_000, 65_535], kind)
    moved = torch_engine._moved([numbers[:1], numbers[1:]], torch.device("cpu"))
    fake = SimpleNamespace(_codes={"centroids": moved})
    assert TorchEngine._numbers(fake, slice(None)).tolist() == numbers.tolist()  # type: ignore[arg-type]


def test_mistakes_are_named(codecs: dict[int, Codec], documents: list[Document], queries: list[Tensor]) -> None:
    engine = TorchEngine(codecs[2], parts_of(codecs[2], documents), *names(documents), device="cpu")
    with pytest.raises(UserError, match="raise the budget"):
        engine.search(queries, 5, budget=3)
    with pytest.raises(UserError, match="no passage in 'fr'"):
        engine.search(queries, 5, lang="fr")
    with pytest.raises(UserError, match="dimensions"):
        engine.search([queries[0][:, :8]], 5)
    with pytest.raises(UserError, match="299 ids"):
        TorchEngine(codecs[2], parts_of(codecs[2], documents), *names(documents[1:]), device="cpu")
    for device in ("cudo", "cuda:99"):
        with pytest.raises(UserError, match=f"device = '{device}'"):
            checked_device(device)
    nothing = TorchEngine(codecs[2], [], [], [], device="cpu")
    assert [(found, len(scores)) for found, scores in nothing.search(queries[:1], 5)] == [([], 0)]


def test_what_lies_on_the_device_is_what_lies_on_disk(codecs: dict[int, Codec], documents: list[Document]) -> None:
    parts = parts_of(codecs[2], documents, (50,))
    engine = TorchEngine(codecs[2], parts, *names(documents), device="cpu")
    coded = sum(getattr(p.codes, field.name).nbytes for p in parts for field in fields(Codes))
    assert engine.bytes == coded + 8 * (len(documents) + 1) + 4 * codecs[2].centroids.numel()


def test_an_opened_index_searches_where_it_is_told(tmp_path: Path, documents: list[Document]) -> None:
    build_index(tmp_path / "compressed", lambda n: iter(documents[n:]), bits=4)
    index = CompressedIndex(tmp_path / "compressed")
    assert isinstance(index.engine_on("cpu"), CompressedEngine)
    vectors, offsets = laid_out(documents)
    write_index(tmp_path / "whole", vectors, offsets, *names(documents), {}, "float32")
    query = some_queries(documents, 1)
    for name, engine in (("whole", exact(documents)), ("compressed", index.engine)):
        opened = engine_on(open_index(tmp_path / name), torch.device("cpu"))
        assert opened.search(query, 10)[0][0] == engine.search(query, 10)[0][0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
@pytest.mark.parametrize("bits", BITS)
def test_on_a_gpu_as_on_the_cpu(
    bits: int, codecs: dict[int, Codec], documents: list[Document], queries: list[Tensor]
) -> None:
    codec, parts = codecs[bits], parts_of(codecs[bits], documents, (100,))
    near, far = (TorchEngine(codec, parts, *names(documents), device=d) for d in ("cpu", "cuda"))
    for memory_mb in (0.02, 64):
        far.memory = int(memory_mb * 2**20)
        for query in queries:
            truth, scores = near.search([query], 300, budget=300)[0]
            known = dict(zip(truth, scores.tolist(), strict=True))
            check_ranking(*far.search([query.cuda()], 50, budget=300)[0], known, 50)
            assert set(far.search([query], 20, budget=20)[0][0]) == set(near.search([query], 20, budget=20)[0][0])
