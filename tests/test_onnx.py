"""One language as an ONNX graph, held to torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_config import call

from colbertxm import entry, export
from colbertxm.errors import MissingExtra, UserError
from colbertxm.model.checkpoints import build_encoder, load_model, save_model
from colbertxm.model.encoder import Encoder
from colbertxm.model.onnx_encoder import SETTINGS, OnnxEncoder, difference, write_onnx
from colbertxm.model.onnx_graph import write_graph
from colbertxm.model.tokens import TokenSettings
from colbertxm.records import Text
from colbertxm.retriever import Retriever

TEXTS = [Text(f"t{n}", words, "de") for n, words in enumerate(("light lamp, door", "pump", "a of valve water! " * 9))]
SETTINGS_OF = {"query_prefix": "query: ", "passage_prefix": "passage: "}


def encoder_of(pooling: Any = "multi", dim: int = 8, langs: tuple[str, ...] = ("de",), **settings: Any) -> Encoder:
    """Whose adapters do something, unlike those of a fresh base."""
    found = build_encoder("small", list(langs), TokenSettings(**{**SETTINGS_OF, **settings}), pooling, dim, 0).eval()
    with torch.no_grad():
        for _, _, adapter in found.xmod.adapters():
            adapter.dense2.weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(langs)))
    return found


def exported(folder: Path, encoder: Encoder, int8: bool = False) -> OnnxEncoder:
    pytest.importorskip("onnxruntime", reason="pip install 'colbertxm[onnx]'")
    pytest.importorskip("onnx", reason="pip install 'colbertxm[onnx]'")
    return OnnxEncoder(write_onnx(folder, encoder, "de", int8), threads=1)


@pytest.mark.parametrize(
    ("pooling", "dim", "settings"),
    [
        ("multi", 8, {}),
        ("multi", 0, {"skip_prefix": True, "expand_queries_to": 20}),
        ("multi", 8, {"markers": "colbert_ai", "skip": "colbert_ai", "passage_maxlen": 9}),
        ("single", 8, {}),
        ("single", 0, {"skip": "none"}),
    ],
)
def test_vectors_are_torchs(world: Path, pooling: str, dim: int, settings: dict[str, Any]) -> None:
    encoder = encoder_of(pooling, dim, **settings)
    other = exported(world / "onnx", encoder)
    most, cosine = difference(encoder, other)
    assert most < 1e-5 and cosine > 0.99999
    for kind in ("query", "passage"):
        mine, its = encoder.encode(TEXTS, kind), other.encode(TEXTS, kind)  # type: ignore[arg-type]
        assert its.offsets.tolist() == mine.offsets.tolist()
        assert (its.values - mine.values).abs().max() < 1e-5
    assert other.dim == encoder.dim and other.pooling == pooling and other.languages == ["de"]


def test_the_graph_marks_what_a_passage_keeps(world: Path) -> None:
    encoder = encoder_of()
    other = exported(world / "onnx", encoder)
    tokenised = encoder.tokenise(TEXTS, "passage")
    vectors, kept = other.run([text.ids for text in tokenised])
    for row, text in enumerate(tokenised):
        assert kept[row].tolist() == [*text.keep, *[False] * (kept.shape[1] - len(text.keep))]
        assert np.linalg.norm(vectors[row], axis=1)[: len(text.ids)] == pytest.approx(1)
        assert not vectors[row, len(text.ids) :].any()
    assert any(not all(text.keep) for text in tokenised)


@pytest.mark.parametrize(
    "change", [{"adapter_layer_norm": True}, {"adapter_reuse_layer_norm": False}, {"ln_before_adapter": False}]
)
def test_every_kind_of_adapter(world: Path, change: dict[str, bool]) -> None:
    from dataclasses import replace

    from colbertxm.model.tokens import Tokens
    from colbertxm.model.xmod import Xmod

    base = encoder_of()
    torch.manual_seed(0)
    xmod = Xmod(replace(base.xmod.config, **change))
    for module in xmod.modules():
        if isinstance(module, torch.nn.LayerNorm):
            torch.nn.init.normal_(module.weight, 1, 0.2)
    encoder = Encoder(xmod, Tokens(base.tokens.tokenizer, base.tokens.settings), "multi", 8).eval()
    assert difference(encoder, exported(world / "onnx", encoder))[0] < 1e-5


def test_int8_is_near_and_smaller(world: Path) -> None:
    encoder = encoder_of()
    whole, small = exported(world / "whole", encoder), exported(world / "small", encoder, int8=True)
    most, cosine = difference(encoder, small)
    assert difference(encoder, whole)[0] < most and 0.98 < cosine < 1 and small.int8
    sizes = [sum(p.stat().st_size for p in (world / name).glob("model.onnx*")) for name in ("small", "whole")]
    assert sizes[0] < 0.6 * sizes[1]


def test_a_retriever_takes_it(world: Path) -> None:
    encoder = encoder_of()
    passages = [Text(f"p{n}", f"light {n} lamp door pump valve"[: 9 + n], "de") for n in range(12)]
    one, two = Retriever(encoder), Retriever(exported(world / "onnx", encoder))  # type: ignore[arg-type]
    one.write(world / "index", passages, {})
    one.open(world / "index")
    two.open(world / "index")
    for mine, its in zip(one.search(TEXTS, 5), two.search(TEXTS, 5), strict=True):
        assert [h.passage_id for h in its] == [h.passage_id for h in mine]
        assert [h.score for h in its] == pytest.approx([h.score for h in mine], abs=1e-4)
    with pytest.raises(UserError, match="reads 'de' alone, not 'en': export to=onnx lang=en"):
        two.search([Text("q", "light", "en")], 3)


def test_the_command(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime", reason="pip install 'colbertxm[onnx]'")
    encoder = encoder_of(langs=("en", "de"))
    save_model(world / "model", encoder, {})
    (world / "c.tsv").write_text("".join(f"p{n}\tlight {n} lamp door {n % 5} pump\n" for n in range(40)))
    given = [f"checkpoint={world / 'model'}", "to=onnx", "lang=de", "corpus=c.tsv", "sample=8"]
    export.run(entry.compose("export", [*given, "output=o"]))
    out = capsys.readouterr().out
    assert "model: o (onnx; de, adapter de_DE;" in out and "largest difference " in out
    assert "recall@10 of torch's own hits, 8 queries by ONNX over torch's passages: 1.000" in out
    assert {p.name for p in (world / "o").iterdir()} == {"model.onnx", "model.onnx.data", "tokenizer.json", SETTINGS}
    german = load_model(world / "model", languages=["de"])
    assert difference(german, OnnxEncoder(world / "o"))[0] < 1e-5
    export.run(entry.compose("export", [*given, "int8=true"]))
    assert "(onnx, int8; de" in capsys.readouterr().out and OnnxEncoder(world / "onnx-de").int8


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["output=o"], "to=onnx writes one language: give lang=de"),
        (["lang=de", "checkpoint=somebody/model"], "export needs output=... for a model from the hub"),
        (["lang=xx", "output=o"], "unknown language 'xx'"),
        (["lang=de", "output=model"], "is the checkpoint itself"),
    ],
)
def test_mistakes_are_one_line(
    world: Path, given: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    save_model(world / "model", encoder_of(), {})
    with pytest.raises(SystemExit):
        call(monkeypatch, "export", "checkpoint=model", "to=onnx", *given)
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1] and lines[-1].startswith("error: ")


def test_a_folder_that_is_none(world: Path) -> None:
    encoder = encoder_of()
    exported(world / "o", encoder)
    with pytest.raises(UserError, match="holds no colbertxm_onnx.json"):
        OnnxEncoder(world)
    (world / "o" / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot read .*model.onnx: .*; export the model again"):
        OnnxEncoder(world / "o")
    about = json.loads((world / "o" / SETTINGS).read_text())
    (world / "o" / SETTINGS).write_text(json.dumps({**about, "version": 1}))
    with pytest.raises(UserError, match="of another version"):
        OnnxEncoder(world / "o")


def test_it_knows_its_source(world: Path) -> None:
    for number, (pooling, int8) in enumerate([("multi", False), ("multi", True), ("single", False)]):
        both = encoder_of(pooling, langs=("en", "de"))
        save_model(world / f"model{number}", both, {})
        german = load_model(world / f"model{number}", languages=["de"])
        exported(world / f"onnx{number}", german, int8).check_source(both)
    encoder = encoder_of()
    other = exported(world / "onnx", encoder)
    other.check_source(encoder)
    trained = encoder_of()
    with torch.no_grad():
        for _, _, adapter in trained.xmod.adapters():
            adapter.dense2.weight.mul_(1.1)
    for wrong in (trained, encoder_of(dim=4), encoder_of("single"), encoder_of(langs=("en",)), encoder_of(skip="none")):
        with pytest.raises(UserError, match="was not exported from this model: export to=onnx lang=de again"):
            other.check_source(wrong)


def test_several_languages_and_no_extra(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx", reason="pip install 'colbertxm[onnx]'")
    with pytest.raises(UserError, match="writes one language, this model has 2"):
        write_graph(world / "m.onnx", encoder_of(langs=("en", "de")))
    for library in ("onnx", "onnxruntime"):
        monkeypatch.setitem(__import__("sys").modules, library, None)
    with pytest.raises(MissingExtra, match="colbertxm\\[onnx\\]"):
        write_graph(world / "m.onnx", encoder_of())
    with pytest.raises(MissingExtra, match="colbertxm\\[onnx\\]"):
        OnnxEncoder(world)
