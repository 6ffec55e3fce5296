"""Recall of a compressed index against both truths."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from test_config import call
from test_matches import encoder_of

from colbertxm.engine import update
from colbertxm.engine.build import build_index
from colbertxm.engine.exact import ExactEngine
from colbertxm.engine.index import CompressedIndex, Document
from colbertxm.engine_recall import decoded, encoded, exhaustive, measure_recall, recall, settings
from colbertxm.errors import UserError
from colbertxm.model.checkpoints import save_model
from colbertxm.records import Text
from colbertxm.retriever import Retriever

DIM, COUNT = 16, 90


def vectors_of(count: int, seed: int) -> list[torch.Tensor]:
    rng = np.random.default_rng(seed)
    drawn = [rng.normal(size=(int(rng.integers(3, 9)), DIM)) for _ in range(count)]
    return [torch.nn.functional.normalize(torch.from_numpy(v).float(), dim=1) for v in drawn]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> CompressedIndex:
    """Two parts, with documents deleted from the first."""
    folder = tmp_path_factory.mktemp("index") / "index"
    found = vectors_of(COUNT, 1)

    def documents(first: int) -> Iterator[Document]:
        yield from (Document(f"d{n}", "en", found[n], "text") for n in range(first, 70))

    build_index(folder, documents, 4)
    update.add(folder, [Document(f"d{n}", "en", found[n], "text") for n in range(70, COUNT)])
    update.delete(folder, ["d3", "d40"])
    return CompressedIndex(folder)


def test_decoded_documents_are_those_that_can_be_found(index: CompressedIndex) -> None:
    chunks = list(decoded(index, size=32))
    numbers = np.concatenate([chunk.numbers for chunk in chunks]).tolist()
    assert numbers == [n for n in range(COUNT) if n not in (3, 40)] and len(index.parts) == 2
    truth = vectors_of(COUNT, 1)
    for chunk in chunks:
        for place, number in enumerate(chunk.numbers.tolist()):
            assert chunk.vectors[place].shape == truth[number].shape
            assert float((chunk.vectors[place] - truth[number]).square().sum(1).mean()) < 0.1


def test_exhaustive_search_in_chunks_is_exhaustive_search(index: CompressedIndex) -> None:
    queries = vectors_of(6, 2)
    found = exhaustive(queries, decoded(index, size=13), 10)
    (whole,) = list(decoded(index, size=70))[:1]
    assert len(whole.numbers) == 68
    everything = [chunk.vectors[i] for chunk in decoded(index) for i in range(len(chunk.vectors))]
    names = [str(n) for n in range(COUNT) if n not in (3, 40)]
    offsets = torch.tensor([0, *(len(v) for v in everything)]).cumsum(0)
    expected = ExactEngine(torch.cat(everything), offsets, names, names).search(queries, 10)
    assert [[str(n) for n in own] for own in found] == [ids for ids, _ in expected]


def test_a_budget_of_everything_finds_what_the_codes_say(index: CompressedIndex) -> None:
    lines = measure_recall(index, vectors_of(12, 3), [10, 1000], [10, 20, 5000], decoded(index))
    by_place = {(line["k"], line["budget"]): line for line in lines}
    assert set(by_place) == {
        (10, "default (88)"), (10, "10"), (10, "20"), (10, "88"), (10, "all, decoded"),
        (88, "default (88)"), (88, "88"), (88, "all, decoded"),
    }  # fmt: skip
    assert by_place[10, "88"]["recall of decoded"] > 0.98 and by_place[88, "88"]["recall of decoded"] == 1
    assert by_place[10, "10"]["recall of decoded"] < by_place[10, "88"]["recall of decoded"]
    assert by_place[10, "10"]["recall of float32"] == by_place[10, "10"]["recall of decoded"], (
        "both truths are the codes"
    )
    assert by_place[10, "all, decoded"]["ms a query"] is None and by_place[10, "20"]["ms a query"] > 0
    about = settings(index)
    assert about["bits"] == 4 and about["passages"] == 88 and about["deleted"] == 2 and about["bytes a vector"] > 0


def test_recall_is_the_share_of_the_true_ones() -> None:
    assert recall([[1, 2, 3], [4, 5, 6]], [[3, 2, 1], [4, 9, 8]], 2) == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert recall([[1]], [[]], 5) == 0


def test_the_command_and_another_models_index(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = encoder_of()
    save_model(Path("m/model"), encoder, {})
    passages = [Text(f"p{n}", f"lamp {n} light fan {n * 7}", "en") for n in range(40)]
    Retriever(encoder).write(Path("m/index"), passages, {"model": "m/model"}, bits=8)
    Retriever(encoder).write(Path("exact"), passages, {})
    Path("queries.tsv").write_text("".join(f"q{n}\tlamp fan {n}\n" for n in range(9)), encoding="utf-8")
    command = ["recall", "checkpoint=m/model", "queries=queries.tsv", "lang=en", "depths=[5]", "budgets=[8]"]
    call(monkeypatch, "diagnose", *command, "sample=4")
    assert "bits: 8" in capsys.readouterr().out
    found = json.loads(Path("m/recall.json").read_text())
    assert found["settings"]["queries"] == 3 and found["settings"]["model"] == "m/model"
    ceiling = next(line for line in found["lines"] if line["budget"] == "all, decoded")
    assert 0.8 < ceiling["recall of float32"] <= 1 and ceiling["recall of decoded"] == 1
    with pytest.raises(SystemExit):
        call(monkeypatch, "diagnose", *command, "index=exact")
    assert "exact is not compressed" in capsys.readouterr().err
    other = Retriever(encoder_of(skip="none", passage_prefix="passage: "))
    with pytest.raises(UserError, match="another number of vectors for 'p0'"):
        list(encoded(CompressedIndex("m/index"), other))
