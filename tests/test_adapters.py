"""Adding and dropping languages: the others' vectors stay bit for bit what they were."""

from __future__ import annotations

import pytest
import torch

from colbertxm.errors import UserError
from colbertxm.model.adapters import add_adapter, keep_adapters
from colbertxm.model.packing import pack
from colbertxm.model.xmod import Xmod, XmodConfig

IDS = [[0, 5, 6, 7, 2], [0, 9, 2]]


def model() -> Xmod:
    torch.manual_seed(0)
    made = Xmod(
        XmodConfig(
            vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=20, languages=("en_XX", "sw_KE"),
        )
    )  # fmt: skip
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made.eval()


def states(xmod: Xmod, name: str) -> torch.Tensor:
    with torch.no_grad():
        return xmod(pack(IDS, [name] * len(IDS)))


def test_a_copy_reads_as_its_model_and_then_goes_its_own_way() -> None:
    xmod = model()
    english, swahili = states(xmod, "en_XX"), states(xmod, "sw_KE")
    add_adapter(xmod, "yo_XX", like="sw_KE")
    assert xmod.config.languages == ("en_XX", "sw_KE", "yo_XX")
    assert torch.equal(states(xmod, "yo_XX"), swahili)
    new = [p for n, p in xmod.named_parameters() if ".yo_XX." in n]
    assert len(new) == 2 * 4
    optimizer = torch.optim.AdamW(xmod.parameters(), lr=0.1, weight_decay=0.1)
    for name, parameter in xmod.named_parameters():
        parameter.requires_grad_(".yo_XX." in name)
    xmod(pack(IDS, ["yo_XX"] * 2)).square().sum().backward()
    optimizer.step()
    assert not torch.allclose(states(xmod, "yo_XX"), swahili, atol=1e-3)
    assert torch.equal(states(xmod, "en_XX"), english) and torch.equal(states(xmod, "sw_KE"), swahili)


def test_identity_is_the_model_without_adapter() -> None:
    xmod = model()
    add_adapter(xmod, "yo_XX", seed=3)
    for layer in xmod.encoder.layer:
        english = layer.output.adapter_modules["en_XX"]
        for parameter in english.parameters():
            torch.nn.init.zeros_(parameter)
    assert torch.equal(states(xmod, "yo_XX"), states(xmod, "en_XX"))
    again = model()
    add_adapter(again, "yo_XX", seed=3)
    mine, other = xmod.state_dict(), again.state_dict()
    assert all(torch.equal(mine[name], other[name]) for name in mine if "yo_XX" in name)


def test_keeping_some() -> None:
    xmod = model()
    swahili = states(xmod, "sw_KE")
    keep_adapters(xmod, ["sw_KE"])
    assert xmod.config.languages == ("sw_KE",) and not any("en_XX" in name for name in xmod.state_dict())
    assert torch.equal(states(xmod, "sw_KE"), swahili)
    with pytest.raises(UserError, match="no adapter for en_XX"):
        states(xmod, "en_XX")


def test_what_cannot_be_is_said() -> None:
    xmod = model()
    with pytest.raises(UserError, match="has an adapter sw_KE already"):
        add_adapter(xmod, "sw_KE")
    with pytest.raises(UserError, match="no adapter sw_XX to copy"):
        add_adapter(xmod, "yo_XX", like="sw_XX")
    with pytest.raises(UserError, match="no adapter for fr_XX"):
        keep_adapters(xmod, ["fr_XX"])
    with pytest.raises(UserError, match="at least one"):
        keep_adapters(xmod, [])
