"""Layers computed again in the backward pass: the same values and gradients to the last bit, less memory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from peak import Peak
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from colbertxm.model import xmod
from colbertxm.model.encoder import Encoder, Vectors
from colbertxm.model.freeze import freeze
from colbertxm.model.packing import Packed, pack
from colbertxm.model.xmod import Layer, Xmod, XmodConfig
from colbertxm.training.gradcache import cached_step

LANGUAGES = ("en_XX", "de_DE", "ja_XX")


def encoder(layers: int = 3, seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    shape = XmodConfig(vocab_size=50, hidden_size=24, num_hidden_layers=layers, num_attention_heads=3,
                       intermediate_size=96, max_position_embeddings=66, languages=LANGUAGES)  # fmt: skip
    model = Encoder(Xmod(shape), None, "multi", 8)  # type: ignore[arg-type]
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.train()


def batch(seed: int = 0, count: int = 6) -> Packed:
    """Texts of unlike lengths, their languages mixed."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 40, (count,), generator=generator).tolist()
    ids = [torch.randint(4, 50, (n,), generator=generator).tolist() for n in lengths]
    return pack(ids, [LANGUAGES[i % 2] for i in range(count)])


def gradients(model: Encoder) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def step(model: Encoder, checkpointed: bool, autocast: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    """Values and gradients of one batch of queries and one of passages."""
    model.zero_grad(set_to_none=True)
    model.xmod.checkpoint_activations = checkpointed
    torch.manual_seed(9)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        values = torch.cat([model(batch(seed)).values for seed in (0, 1)])
    (values * torch.linspace(-1, 2, values.numel()).view_as(values)).sum().backward()
    return values.detach(), gradients(model)


class Dropped(nn.Module):
    """A sub-layer whose output loses some of its numbers, others in every call."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden_TH: Tensor) -> Tensor:
        return F.dropout(self.inner(hidden_TH), 0.3, self.training)


@pytest.mark.parametrize("case", ["plain", "dropout", "bf16", "upper layers"])
def test_values_and_gradients_are_those_without(case: str) -> None:
    model = encoder()
    if case == "dropout":
        for layer in model.xmod.encoder.layer:
            layer.intermediate = Dropped(layer.intermediate)  # type: ignore[assignment]
    if case == "upper layers":
        freeze(model, "top_k_layers", 2)
    values, expected = step(model, False, case == "bf16")
    again, found = step(model, True, case == "bf16")
    assert torch.equal(again, values) and found.keys() == expected.keys()
    assert any("attention" in name for name in found) and not any("ja_XX" in name for name in found)
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name


def calls(model: Encoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Indices of layers in the order in which they are computed from now on."""
    seen: list[int] = []
    original, layers = Layer.forward, list(model.xmod.encoder.layer)

    def counting(self: Layer, hidden_TH: Tensor, packed: Packed) -> Tensor:
        seen.append(layers.index(self))
        return original(self, hidden_TH, packed)

    monkeypatch.setattr(Layer, "forward", counting)
    return seen


def test_frozen_layers_and_passes_without_a_graph_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = encoder()
    freeze(model, "top_k_layers", 1)
    model.xmod.checkpoint_activations = True
    seen, asked = calls(model, monkeypatch), []
    monkeypatch.setattr(xmod, "checkpoint", lambda *a, **k: asked.append(a[0]) or checkpoint(*a, **k))
    model(batch()).values.sum().backward()
    assert seen == [0, 1, 2, 2] and asked == [model.xmod.encoder.layer[2]]
    seen.clear()
    with torch.no_grad():
        model(batch())
    freeze(model, "head_only")
    model(batch()).values.sum().backward()
    freeze(model, "none")
    model.eval()(batch()).values.sum().backward()
    assert seen == [0, 1, 2] * 3 and len(asked) == 1


def test_the_activations_of_one_layer_are_alive_at_a_time() -> None:
    """What grows with the number of layers are their inputs alone."""

    def peak(layers: int, checkpointed: bool) -> int:
        model = encoder(layers)
        model.xmod.checkpoint_activations = checkpointed
        for p in model.parameters():
            p.grad = torch.zeros_like(p)  # so that gradients do not count
        with Peak(list(model.parameters())) as found:
            model(batch(count=30)).values.sum().backward()
        return found.bytes

    tokens = sum(batch(count=30).lengths)
    kept = 4 * tokens * 24
    with_it = (peak(9, True) - peak(3, True)) / 6
    without = (peak(9, False) - peak(3, False)) / 6
    assert with_it < 3.0 * kept < 10 * kept < without


def test_cached_gradients_and_activation_checkpoints_go_together() -> None:
    model = encoder()
    parts = [batch(0), batch(1)]

    def loss(vectors: list[Vectors]) -> Tensor:
        return (vectors[0].values @ vectors[1].values.T).logsumexp(1).sum()

    loss([model(part) for part in parts]).backward()
    expected = gradients(model)
    model.zero_grad(set_to_none=True)
    model.xmod.checkpoint_activations = True
    cached_step(model, parts, loss)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-5, msg=name)
