"""The head of masked-language modelling: transformers' own, value for value, and a softmax over all as a plain loop."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import XmodConfig as TheirConfig
from transformers import XmodForMaskedLM

from colbertxm.errors import UserError
from colbertxm.model.masking import Pieces
from colbertxm.model.mlm import Guesser, has_head, head_of_checkpoint, read_head, start_head, write_head
from colbertxm.model.packing import pack
from colbertxm.model.weights import read_config, read_xmod
from colbertxm.training.mlm import loss_of_states, loss_of_texts
from colbertxm.training.mlm_data import MlmBatch, States

V, H, MASK = 60, 16, 59
ALL = Pieces(np.arange(V), np.ones(V, np.int64))
TEXTS = [[0, 9, MASK, 30, 2], [0, MASK, 2], [0, 9, 8, 7, MASK, MASK, 2]]
ADAPTERS = ["en_XX", "de_DE", "en_XX"]
PLACES = torch.tensor([2, 6, 12, 13])
"""Of the masks, counted over the three texts end to end (5, 3 and 7 tokens)."""


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> tuple[XmodForMaskedLM, Path]:
    """A small XmodForMaskedLM of transformers with random weights, and the folder that it was saved to."""
    torch.manual_seed(0)
    config = TheirConfig(
        vocab_size=V, hidden_size=H, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=20, languages=["en_XX", "de_DE"], pad_token_id=1, type_vocab_size=1,
    )  # fmt: skip
    model = XmodForMaskedLM(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    folder = tmp_path_factory.mktemp("theirs")
    model.save_pretrained(folder)
    return model, folder


def guesser(folder: Path, pieces: Pieces = ALL) -> Guesser:
    xmod, _ = read_xmod(folder)
    return Guesser(xmod, head_of_checkpoint(folder, xmod.config), pieces).eval()


def test_logits_are_those_of_transformers(theirs: tuple[XmodForMaskedLM, Path]) -> None:
    model, folder = theirs
    assert has_head(folder)
    batch = pack(TEXTS, ADAPTERS)
    assert batch.restore_T is not None, "the languages are to be mixed"
    with torch.no_grad():
        found = guesser(folder)(batch, PLACES)
        expected = []
        for ids, adapter in zip(TEXTS, ADAPTERS, strict=True):
            lang = torch.tensor([["en_XX", "de_DE"].index(adapter)])
            logits = model(input_ids=torch.tensor([ids]), lang_ids=lang).logits[0]
            expected.append(logits[torch.tensor(ids) == MASK])
    torch.testing.assert_close(found, torch.cat(expected), atol=1e-5, rtol=1e-5)


def test_the_loss_is_a_plain_softmax_over_the_pieces(theirs: tuple[XmodForMaskedLM, Path]) -> None:
    full = guesser(theirs[1])
    few = Pieces(np.array([5, 9, 20, 41, 58]), np.ones(5, np.int64))
    labels = np.array([41, 5, 58, 41])
    packed = pack(TEXTS, ADAPTERS)
    with torch.no_grad():
        logits = full(packed, PLACES).double()
        for pieces in (ALL, few):
            batch = MlmBatch(packed, PLACES, torch.from_numpy(pieces.rows(labels)))
            loss, count = loss_of_texts(guesser(theirs[1], pieces), batch)
            states = States(guesser(theirs[1]).states(packed, PLACES), batch.rows_M)
            assert torch.equal(loss_of_states(guesser(theirs[1], pieces), states)[0], loss) and count == 4
            expected = 0.0
            for row, label in zip(logits, labels.tolist(), strict=True):
                chances = [math.exp(float(row[i])) for i in pieces.ids]
                expected -= math.log(math.exp(float(row[label])) / sum(chances))
            assert abs(float(loss) - expected) < 1e-4
        empty = torch.tensor([], dtype=torch.long)
        assert loss_of_texts(full, MlmBatch(packed, empty, empty)) == (0, 0)


def test_an_untrained_head_guesses_by_frequency(theirs: tuple[XmodForMaskedLM, Path]) -> None:
    xmod, _ = read_xmod(theirs[1])
    head = start_head(xmod.config, Pieces(np.array([4, 7]), np.array([30, 10])), 0)
    total = 40 + V / 2
    assert abs(head.bias[4].exp().item() - 30.5 / total) < 1e-6 and abs(head.bias[11].exp().item() - 0.5 / total) < 1e-6
    again = start_head(xmod.config, ALL, 0)
    assert torch.equal(again.dense.weight, head.dense.weight)
    assert not torch.equal(start_head(xmod.config, ALL, 1).dense.weight, head.dense.weight)


def test_a_head_comes_back_from_its_file(theirs: tuple[XmodForMaskedLM, Path], tmp_path: Path) -> None:
    xmod, _ = read_xmod(theirs[1])
    head = start_head(xmod.config, ALL, 0)
    write_head(tmp_path / "head.safetensors", head, {"seed": 0})
    found, notes = read_head(tmp_path / "head.safetensors", xmod.config)
    assert notes == {"seed": 0}
    assert all(torch.equal(value, head.state_dict()[name]) for name, value in found.state_dict().items())
    names = {name for name in load_file(tmp_path / "head.safetensors")}
    assert names == {name for name in theirs[0].state_dict() if name.startswith("lm_head.")} - {
        "lm_head.decoder.weight",
        "lm_head.decoder.bias",
    }
    assert [p.name for p in tmp_path.iterdir()] == ["head.safetensors"]


def test_damaged_and_foreign_heads_are_refused_by_name(theirs: tuple[XmodForMaskedLM, Path], tmp_path: Path) -> None:
    config = read_config(theirs[1])
    path = tmp_path / "head.safetensors"
    with pytest.raises(UserError, match=r"no file .*head\.safetensors"):
        read_head(path, config)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="is not a head of masked-language modelling"):
        read_head(path, config)
    write_head(path, start_head(config, ALL, 0), {})
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)
    with pytest.raises(UserError, match="sha256"):
        read_head(path, config)
    path.write_bytes(bytes(raw)[:-9])
    with pytest.raises(UserError, match="cannot read"):
        read_head(path, config)
    other = copy.copy(config)
    object.__setattr__(other, "vocab_size", V + 1)
    write_head(path, start_head(config, ALL, 0), {})
    with pytest.raises(UserError, match=r"bias has shape \(60,\), this model needs \(61,\)"):
        read_head(path, other)
