"""Queries encoded by ONNX Runtime in the service: whose, and which exports are taken."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from service_world import Made, make

pytest.importorskip("fastapi")
pytest.importorskip("onnxruntime", reason="pip install 'colbertxm[onnx]'")
pytest.importorskip("onnx", reason="pip install 'colbertxm[onnx]'")

from colbertxm.errors import UserError
from colbertxm.model.checkpoints import load_model
from colbertxm.model.onnx_encoder import OnnxEncoder, write_onnx
from colbertxm.records import Text
from colbertxm.serve import opened
from colbertxm.service import exports as module
from colbertxm.service.exports import exports
from colbertxm.service.served import Ask, Change, Found, Served


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, wheels: dict[str, Path]) -> Made:
    found = make(tmp_path_factory.mktemp("onnx"), wheels)
    write_onnx(found.model.parent / "onnx-de", load_model(found.model, languages=["de"]).eval(), "de")
    return found


def asks() -> list[Ask]:
    return [
        Ask(Text(f"q{n}", text, lang), 5)
        for n, (text, lang) in enumerate([("lamp", "en"), ("licht", "de"), ("door", "en"), ("tuer schloss", "de")])
    ]


def hits(found: Any) -> list[list[tuple[str, float]]]:
    assert all(isinstance(one, Found) for one in found)
    return [[(passage.id, pytest.approx(score, abs=1e-4)) for passage, score in one.hits] for one in found]


def test_only_queries_of_its_language(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Path(shutil.copytree(made.compressed, tmp_path / "index"))
    torchs = Served("t", load_model(made.model).eval(), index)
    served = Served("o", load_model(made.model).eval(), index)
    served.onnx = exports("auto", made.model, served.encoder)
    assert list(served.onnx) == ["de"]
    read: list[str] = []
    encode = OnnxEncoder.encode

    def watched(self: OnnxEncoder, texts: Any, kind: Any, *more: Any) -> Any:
        read.extend(f"{kind} {text.text}" for text in texts)
        return encode(self, texts, kind, *more)

    monkeypatch.setattr(OnnxEncoder, "encode", watched)
    assert hits(served.search(asks())) == hits(torchs.search(asks()))
    assert read == ["query licht", "query tuer schloss"]
    served.change([Change(add=(Text("de:new", "licht licht", "de"),))])
    assert len(read) == 2, "a passage is torch's"
    (one,) = served.search(asks()[1:2])
    assert isinstance(one, Found) and "de:new" in [passage.id for passage, _ in one.hits]


def test_what_is_named_must_fit(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = load_model(made.model).eval()
    folder = made.model.parent / "onnx-de"
    assert exports(None, made.model, encoder) == {}
    assert list(exports([str(folder)], tmp_path / "elsewhere", encoder)) == ["de"]
    assert "queries in de are encoded by ONNX Runtime (" in capsys.readouterr().err
    with pytest.raises(UserError, match="give auto, null, or a list of folders"):
        exports("folder", made.model, encoder)
    with pytest.raises(UserError, match="both read 'de': name one"):
        exports([str(folder), str(folder)], made.model, encoder)
    with pytest.raises(UserError, match="holds no colbertxm_onnx.json"):
        exports([str(tmp_path)], made.model, encoder)
    encoder.tokens.settings = type(encoder.tokens.settings)()
    with pytest.raises(UserError, match="was not exported from this model"):
        exports([str(folder)], made.model, encoder)
    assert exports("auto", made.model, encoder) == {}
    assert "onnx-de was not exported from this model" in capsys.readouterr().err


def test_without_the_library_torch_encodes(
    made: Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert exports("auto", made.model, load_model(made.model).eval()) == {}
    assert "onnx-de is not used: pip install 'colbertxm[onnx]'" in capsys.readouterr().err


def test_the_command_takes_it(made: Made) -> None:
    from colbertxm import entry

    cfg = entry.compose("serve", [f"checkpoint={made.model}", f"index={made.exact}"])
    assert list(opened(cfg, cfg.checkpoint, cfg.index, None, cfg.onnx).onnx) == ["de"]
    assert not opened(cfg, cfg.checkpoint, cfg.index, None, None).onnx
