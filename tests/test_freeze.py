"""Freezing policies, and the paper's parameter count on the real architecture."""

from __future__ import annotations

import pytest
import torch

from colbertxm.errors import UserError
from colbertxm.languages import ADAPTERS
from colbertxm.model.encoder import Encoder
from colbertxm.model.freeze import freeze, parameter_table
from colbertxm.model.xmod import Xmod, XmodConfig


def encoder(layers: int = 3, languages: tuple[str, ...] = ("en_XX", "de_DE")) -> Encoder:
    shape = XmodConfig(vocab_size=20, hidden_size=8, num_hidden_layers=layers, num_attention_heads=2,
                       intermediate_size=16, max_position_embeddings=20, languages=languages)  # fmt: skip
    return Encoder(Xmod(shape), None, "multi", 4)  # type: ignore[arg-type]


def trained(model: Encoder) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_policies_train_what_they_say() -> None:
    model = encoder()
    assert freeze(model, "paper") == 0
    assert not any("adapter_modules" in name or "embeddings" in name for name in trained(model))
    assert any("layer.0.attention" in name for name in trained(model))
    assert freeze(model, "top_k_layers", 1) == 2
    assert all(name.startswith(("xmod.encoder.layer.2.", "linear")) for name in trained(model))
    assert freeze(model, "adapters_only") == 0
    assert all("adapter_modules" in name or name == "linear.weight" for name in trained(model))
    assert freeze(model, "head_only") == 3 and trained(model) == {"linear.weight"}
    assert freeze(model, "none") == 0 and len(trained(model)) == len(list(model.parameters()))


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="unknown freezing policy 'papr' \\(did you mean 'paper'"):
        freeze(encoder(), "papr")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="top_k=4, but the encoder has 3 layers"):
        freeze(encoder(), "top_k_layers", 4)


def test_the_papers_parameter_count() -> None:
    """85.15M trained of 852.57M (the latter with a pooler of 590,592 that gets no gradient and that we leave out)."""
    with torch.device("meta"):
        model = Encoder(Xmod(XmodConfig(vocab_size=250_002, languages=ADAPTERS)), None, "multi", 128)  # type: ignore[arg-type]
    freeze(model, "paper")
    table = {part: (on, off) for part, on, off in parameter_table(model)}
    assert table["embeddings"] == (0, 192_398_592)
    assert table["shared layers"] == (85_054_464, 0)
    assert table["adapters"] == (0, 81 * 7_091_712)
    assert table["head"] == (98_304, 0)
    assert sum(on for on, _ in table.values()) == 85_152_768
    assert sum(on + off for on, off in table.values()) == 852_570_624 - 590_592
