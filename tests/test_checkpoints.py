"""Model folders: what is saved comes back, whole or not at all; damage is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from colbertxm.errors import UserError
from colbertxm.model.checkpoints import build_encoder, load_model, pca_projection, provenance_of, save_model
from colbertxm.model.formats import files
from colbertxm.model.tokens import TokenSettings
from colbertxm.records import Text

TEXTS = [Text("a", "turn the lamp on", "en"), Text("b", "door, lock", "de")]


def make(pooling: str = "multi", dim: int = 8):  # type: ignore[no-untyped-def]
    return build_encoder("small", ["en", "de"], TokenSettings("query: ", "passage: "), pooling, dim, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(("pooling", "dim"), [("multi", 8), ("single", 0)])
def test_a_saved_model_makes_the_same_vectors(world: Path, pooling: str, dim: int) -> None:
    encoder = make(pooling, dim)
    save_model(world / "model", encoder, {"seed": 3})
    loaded = load_model(world / "model")
    assert torch.equal(encoder.encode(TEXTS, "passage").values, loaded.encode(TEXTS, "passage").values)
    assert loaded.tokens.settings == encoder.tokens.settings and loaded.pooling == pooling
    assert provenance_of(world / "model") == {"seed": 3}
    assert not list(world.glob("*.part"))


def test_the_state_dict_is_transformers_own(world: Path) -> None:
    from transformers import AutoConfig, XmodModel

    save_model(world / "model", make(), {})
    config = AutoConfig.from_pretrained(world / "model")
    model, report = XmodModel.from_pretrained(world / "model", add_pooling_layer=False, output_loading_info=True)
    assert config.languages == ["de_DE", "en_XX"] and not report["missing_keys"]
    assert set(report["unexpected_keys"]) == {"linear.weight"}
    assert isinstance(model, XmodModel)


def test_a_language_that_xmod_never_had_is_added_saved_and_taken_over(world: Path) -> None:
    settings = TokenSettings("query: ", "passage: ")
    yoruba = [Text("y", "turn the lamp on", "yo")]
    with pytest.raises(UserError, match="no adapter for Yoruba"):
        build_encoder("small", ["en", "yo"], settings, "multi", 8, 3)
    encoder = build_encoder("small", ["en", "yo"], settings, "multi", 8, 3, add_languages={"yo": "sw"})
    assert encoder.xmod.config.languages == ("en_XX", "sw_KE", "yo_XX") and encoder.languages == ["en", "sw", "yo"]
    before = encoder.encode(yoruba, "query").values
    save_model(world / "model", encoder, {})
    assert torch.equal(load_model(world / "model", languages=["yo"]).encode(yoruba, "query").values, before)
    again = build_encoder(str(world / "model"), ["yo"], settings, "multi", 8, 3, add_languages={"ig": "yo"})
    assert again.xmod.config.languages == ("yo_XX", "ig_XX")
    for given, message in (({"yo": "swahilli"}, "swahili"), ("yo", "give a mapping"), ({"en": "sw"}, None)):
        if message is None:  # X-MOD's own adapters can be replaced by a fresh one
            assert "en_XX" in build_encoder("small", ["en"], settings, "multi", 8, 3, given).xmod.config.languages  # type: ignore[arg-type]
            continue
        with pytest.raises(UserError, match=message):
            build_encoder("small", ["en", "yo"], settings, "multi", 8, 3, add_languages=given)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "colbertxm.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_damaged_files_are_refused_by_name(world: Path, name: str, damage: str) -> None:
    save_model(world / "model", make(), {})
    path = world / "model" / name
    raw = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(raw[: len(raw) // 2])
    else:
        raw[len(raw) // 2] ^= 4
        path.write_bytes(raw)
    if name == "colbertxm.json" and damage == "flip":
        # The settings are JSON of our own: a flip there breaks JSON, a checksum or a number, each is caught or visible.
        raw[:1] = b"["
        path.write_bytes(raw)
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        load_model(world / "model")


def test_a_missing_folder_and_a_foreign_format_say_what_to_do(world: Path) -> None:
    with pytest.raises(UserError, match="no model at nowhere: train one"):
        load_model(Path("nowhere"))
    save_model(world / "model", make(), {})
    settings = json.loads((world / "model" / "colbertxm.json").read_text())
    (world / "model" / "colbertxm.json").write_text(json.dumps({**settings, "format": 99}))
    with pytest.raises(UserError, match="format 99; this version reads 1"):
        load_model(world / "model")


def test_a_full_disk_leaves_the_old_model_and_nothing_half_written(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make()
    save_model(world / "model", first, {})

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(UserError, match="No space left on device; free space"):
        save_model(world / "model", make("single", 0), {})
    assert load_model(world / "model").pooling == "multi"
    assert not list(world.glob("*.part"))


def test_pca_keeps_dot_products_best(world: Path) -> None:
    encoder = make(dim=8)
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(500, 8, generator=generator) @ torch.randn(8, 32, generator=generator)  # rank 8
    pca_projection(encoder, states)
    assert encoder.linear is not None
    projected = states @ encoder.linear.weight.T
    torch.testing.assert_close(projected @ projected.T, states @ states.T, atol=1e-2, rtol=1e-3)
    with pytest.raises(UserError, match="dim=0 has no projection"):
        pca_projection(make(dim=0), states)


def test_unknown_base_pooling_and_language_are_errors(world: Path) -> None:
    with pytest.raises(UserError, match="no model at tiny: give a model folder"):
        build_encoder("tiny", ["en"], TokenSettings(), "multi", 8, 0)
    with pytest.raises(UserError, match="'many' must be 'multi' or 'single'"):
        build_encoder("small", ["en"], TokenSettings(), "many", 8, 0)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="unknown language 'xx'"):
        build_encoder("small", ["xx"], TokenSettings(), "multi", 8, 0)


def test_chosen_languages_are_read_and_settings_of_version_0_1_understood(world: Path) -> None:
    encoder = make()
    save_model(world / "model", encoder, {})
    german = load_model(world / "model", languages=["de"])
    assert german.xmod.config.languages == ("de_DE",)
    assert torch.equal(german.encode(TEXTS[1:], "passage").values, encoder.encode(TEXTS[1:], "passage").values)
    with pytest.raises(UserError, match="no adapter ko_KR; it has de_DE, en_XX"):
        load_model(world / "model", languages=["ko"])
    settings = json.loads((world / "model" / "colbertxm.json").read_text())
    old = ("query_prefix", "passage_prefix", "query_maxlen", "passage_maxlen", "expand_queries_to")
    tokens = {name: settings["tokens"][name] for name in old}
    (world / "model" / "colbertxm.json").write_text(
        json.dumps({**settings, "tokens": {**tokens, "skip_punctuation": False}})
    )
    assert load_model(world / "model").tokens.settings == TokenSettings("query: ", "passage: ", skip="none")
