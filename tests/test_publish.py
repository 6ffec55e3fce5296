"""`colbertxm push` against a real server on the loopback: what is sent is what is pulled again, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

import hub_server
import pytest
import torch
from hub_server import Hub, Repo
from huggingface_hub import ModelCard
from test_config import call

from colbertxm.evaluation.results import provenance, write_json
from colbertxm.model.checkpoints import build_encoder, load_model, save_model
from colbertxm.model.hub import pull
from colbertxm.model.tokens import TokenSettings
from colbertxm.records import Text

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's own upload
REPO = "someone/retriever"
MODEL = Path("outputs/train/multi_vector/model")


@pytest.fixture
def model(world: Path, loopback_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder as training writes it, with things beside it that must not be sent."""
    # hf-xet is a transfer of its own that the stand-in does not speak; without it the client sends by LFS.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
    encoder = build_encoder("small", ["en", "de"], TokenSettings("query: ", "passage: "), "multi", 8, 3)
    save_model(MODEL, encoder, provenance({"model": {"base": "small"}}, 3, {"a.whl": "ab"}))
    (MODEL / "optimizer.pt").write_bytes(b"pickle")
    (MODEL / "notes.py").write_text("secret")
    return MODEL


def push(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    call(monkeypatch, "push", f"checkpoint={MODEL}", f"repo={REPO}", *arguments)


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        push(monkeypatch, *arguments)
    assert caught.value.code == 1
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("error: ")
    return line


def test_push_then_pull_gives_the_same_bytes(
    model: Path,
    loopback_hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scores = {"RR@10": 0.5, "R@100": 0.75, "low": 0.4, "high": 0.6, "queries": 30, "collection": "smart_home"}
    write_json("r.json", {"rows": [{"model": "multi_vector", "query_lang": "en", "passage_lang": "de", **scores}]})
    push(monkeypatch, "private=true", "results=r.json")
    assert f"published: {loopback_hub.url}/{REPO}/tree/" in capsys.readouterr().out
    assert loopback_hub.repos[REPO].private and any(r.path.endswith("/objects/batch") for r in loopback_hub.log)
    sent = loopback_hub.repos[REPO].commits[loopback_hub.repos[REPO].refs["main"]]
    wanted = {"config.json", "model.safetensors", "tokenizer.json", "colbertxm.json"}
    assert wanted | {"README.md"} <= sent.keys() <= wanted | {"README.md", ".gitattributes", "tokenizer_config.json",
                                                              "special_tokens_map.json"}  # fmt: skip
    data = ModelCard(sent["README.md"].decode()).data
    assert data.language == ["de", "en"] and data.eval_results[0].metric_value == 0.5
    folder = pull(REPO)
    for name in wanted:
        assert (folder / name).read_bytes() == (model / name).read_bytes()
    texts = [Text("1", "lamp light", "en"), Text("2", "pump valve", "de")]
    assert torch.equal(
        load_model(folder).encode(texts, "query").values, load_model(model).encode(texts, "query").values
    )
    push(monkeypatch, "private=true")  # again: the card that was made here is made anew


def test_one_language_of_a_pushed_model_is_a_model_folder(
    model: Path,
    loopback_hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    push(monkeypatch)
    folder = pull(REPO, ["en"])
    assert not loopback_hub.repos[REPO].private
    assert json.loads((folder / "config.json").read_text())["languages"] == ["en_XX"]
    texts = [Text("1", "lamp light", "en")]
    found, expected = (load_model(place).encode(texts, "passage").values for place in (folder, model))
    assert torch.equal(found, expected)
    pull(REPO, ["de"])
    texts.append(Text("2", "pump valve", "de"))
    found, expected = (load_model(place).encode(texts, "passage").values for place in (folder, model))
    assert torch.equal(found, expected)


def test_a_dry_run_sends_nothing(
    model: Path,
    loopback_hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    push(monkeypatch, "dry_run=true")
    out = capsys.readouterr().out
    assert "model.safetensors" in out and "public: someone/retriever" in out and "nothing was sent" in out
    assert "optimizer.pt" not in out and "notes.py" not in out
    assert loopback_hub.log == [] and ModelCard.load(model / "README.md").data.library_name == "colbertxm"


def test_what_stops_a_push_is_one_line(
    model: Path,
    loopback_hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_json("r.json", {"rows": [{"model": "other", "query_lang": "en", "passage_lang": "de", "queries": 1}]})
    assert "no rows of 'multi_vector'" in refused(monkeypatch, capsys, "results=r.json")
    assert "owner/name" in refused(monkeypatch, capsys, "repo=name")
    monkeypatch.delenv("HF_TOKEN")
    assert "no token: make one" in refused(monkeypatch, capsys)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "HTTP 401" in refused(monkeypatch, capsys)
    monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
    loopback_hub.read_only = True
    assert "HTTP 403" in refused(monkeypatch, capsys)
    loopback_hub.read_only = False
    loopback_hub.repos[REPO] = Repo()
    loopback_hub.repos[REPO].commit({})
    assert "is public already" in refused(monkeypatch, capsys, "private=true")
    (model / "README.md").write_text("# mine")
    assert "README.md was written by hand" in refused(monkeypatch, capsys)
    assert loopback_hub.repos[REPO].commits == {
        loopback_hub.repos[REPO].refs["main"]: {}
    }  # nothing was sent in all this
    push(monkeypatch, f"card={model / 'README.md'}")
    assert loopback_hub.repos[REPO].commits[loopback_hub.repos[REPO].refs["main"]]["README.md"] == b"# mine"


def test_a_damaged_model_is_not_sent(
    model: Path,
    loopback_hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    raw = bytearray((model / "model.safetensors").read_bytes())
    raw[-5] ^= 1
    (model / "model.safetensors").write_bytes(raw)
    assert "model.safetensors is damaged" in refused(monkeypatch, capsys)
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert "format that can run code" in refused(monkeypatch, capsys)
    assert loopback_hub.log == []
