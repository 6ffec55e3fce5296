"""Adapters as files: put into a model of the same trunk they are what they were, and nothing else moves."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from colbertxm.errors import UserError
from colbertxm.model.adapters import add_adapter
from colbertxm.model.checkpoints import add_markers, build_encoder
from colbertxm.model.encoder import Encoder
from colbertxm.model.grafting import adapter_files, graft, save_adapter, trunk_print
from colbertxm.model.tokens import TokenSettings
from colbertxm.records import Text

TEXTS = [Text("1", "turn the lamp on", "de"), Text("2", "close the door", "ja")]


@pytest.fixture
def base(world: Path) -> Encoder:
    return build_encoder("small", ["en", "de", "ja"], TokenSettings("query: ", "passage: "), "multi", 8, 0).eval()


def trained(encoder: Encoder, name: str = "de_DE") -> Encoder:
    """A copy whose adapter `name` has been somewhere."""
    moved = copy.deepcopy(encoder)
    torch.manual_seed(1)
    with torch.no_grad():
        for _, found, adapter in moved.xmod.adapters():
            if found == name:
                for parameter in adapter.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    return moved


def vectors(encoder: Encoder, texts: list[Text] = TEXTS) -> torch.Tensor:
    return encoder.encode(texts, "passage").values


def save(folder: Path, encoder: Encoder, name: str = "de_DE") -> Path:
    return save_adapter(folder / f"{name}.safetensors", encoder.xmod, name, trunk_print(encoder.xmod), {"steps": 3})


def test_a_grafted_adapter_makes_the_vectors_that_it_was_trained_to(base: Encoder, world: Path) -> None:
    there = trained(base)
    path = save(world / "adapters", there)
    assert not torch.allclose(vectors(there)[:5], vectors(base)[:5], atol=1e-3)
    here = copy.deepcopy(base)
    assert graft(here, world) == [], "the folder around `adapters` will do; the same trunk needs no word"
    assert torch.equal(vectors(here), vectors(there))
    for name, tensor in here.state_dict().items():
        assert ".adapter_modules.de_DE." in name or torch.equal(tensor, base.state_dict()[name]), name
    assert set(load_file(path)) == {name for name in base.xmod.state_dict() if ".de_DE." in name}
    assert path.stat().st_size < 60_000 and adapter_files(path) == {"de_DE": path}


def test_a_language_that_the_model_never_had(base: Encoder, world: Path) -> None:
    there = trained(base)
    save(world / "adapters", there)
    without = build_encoder("small", ["en", "ja"], TokenSettings("query: ", "passage: "), "multi", 8, 0).eval()
    assert "de" not in without.languages
    graft(without, world / "adapters", ["de"])
    assert "de" in without.languages and torch.equal(vectors(without), vectors(there))


def test_a_language_that_x_mod_never_had(base: Encoder, world: Path) -> None:
    add_adapter(base.xmod, "yo_XX", seed=2)
    there = trained(base, "yo_XX")
    save(world / "adapters", there, "yo_XX")
    here = build_encoder("small", ["en", "ja"], TokenSettings("query: ", "passage: "), "multi", 8, 0).eval()
    graft(here, world / "adapters")
    yoruba = [Text("1", "turn the lamp on", "yo")]
    assert torch.equal(vectors(here, yoruba), vectors(there, yoruba))


def test_a_model_fine_tuned_since_is_taken_with_a_note_and_another_model_is_not(base: Encoder, world: Path) -> None:
    path = save(world / "adapters", trained(base))
    tuned, other = copy.deepcopy(base), copy.deepcopy(base)
    with torch.no_grad():
        tuned.xmod.encoder.layer[2].intermediate.dense.weight[0, 0] += 1e-3  # type: ignore[union-attr]
        other.xmod.embeddings.word_embeddings.weight[5, 0] += 1e-3
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(UserError, match=r"de_DE.safetensors was trained on other layers.*trunk=same"):
        graft(tuned, path, trunk="same")
    (note,) = graft(tuned, path)
    assert "trained on since" in note
    with pytest.raises(UserError, match="was trained on another model"):
        graft(other, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items()), "refused untouched"
    assert graft(other, path, trunk="any") == []
    with pytest.raises(UserError, match=r"trunk='sane' is unknown \(did you mean 'same'"):
        graft(other, path, trunk="sane")  # type: ignore[arg-type]


def test_added_markers_are_the_same_trunk(base: Encoder, world: Path) -> None:
    path = save(world / "adapters", trained(base))
    settings = TokenSettings(markers="added")
    xmod = add_markers(base.xmod, base.tokens.tokenizer, settings, 0)
    base.tokens.tokenizer.add_special_tokens(["[more]"])
    if xmod.config.vocab_size == base.xmod.config.vocab_size:  # the fixture has spare rows
        wider = torch.cat([xmod.embeddings.word_embeddings.weight.detach(), torch.ones(2, 32)])
        xmod.embeddings.word_embeddings.weight = torch.nn.Parameter(wider)
        object.__setattr__(xmod.config, "vocab_size", len(wider))
    base.xmod = xmod
    assert graft(base, path, trunk="same") == []


def test_what_does_not_fit_is_said(base: Encoder, world: Path) -> None:
    path = save(world / "adapters", trained(base))
    with pytest.raises(UserError, match="has no adapter ja_XX; it has de_DE"):
        graft(base, world / "adapters", ["ja"])
    with pytest.raises(UserError, match="holds no adapter"):
        (world / "empty").mkdir()
        graft(base, world / "empty")
    with pytest.raises(UserError, match="there is no file"):
        graft(base, world / "nowhere.safetensors")
    (world / "adapters/again.safetensors").write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="both adapters de_DE"):
        graft(base, world / "adapters")
    narrow = copy.deepcopy(base)
    object.__setattr__(narrow.xmod.config, "adapter_reduction_factor", 4)
    with pytest.raises(UserError, match="has adapter_reduction_factor=8, this model 4"):
        graft(narrow, path)
    raw = bytearray(path.read_bytes())
    raw[-10] ^= 4
    path.write_bytes(raw)
    with pytest.raises(UserError, match="sha256"):
        graft(base, path)
