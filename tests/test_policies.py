"""Adapter policies: each changes what it says and nothing else, and the model itself stays as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from colbertxm.errors import UserError
from colbertxm.languages import ADAPTERS, language
from colbertxm.model.checkpoints import build_encoder
from colbertxm.model.encoder import Encoder
from colbertxm.model.policies import RELATIVES, needed, relatives, with_policy
from colbertxm.model.tokens import TokenSettings
from colbertxm.records import Text

LANGS = ["en", "de", "nl", "ja"]


@pytest.fixture
def encoder(world: Path) -> Encoder:
    """A model whose adapters all differ."""
    made = build_encoder("small", LANGS, TokenSettings("query: ", "passage: "), "multi", 8, 0).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for _, _, adapter in made.xmod.adapters():
            for parameter in adapter.parameters():
                parameter.normal_(std=0.3)
    return made


def vectors(encoder: Encoder, lang: str) -> torch.Tensor:
    return encoder.encode([Text("1", "turn the lamp on", lang)], "passage").values


def test_each_policy_reads_with_the_adapter_that_it_names(encoder: Encoder) -> None:
    own = {lang: vectors(encoder, lang) for lang in LANGS}
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    for one, other in (("en", "de"), ("de", "nl"), ("nl", "ja")):
        assert not torch.allclose(own[one], own[other], atol=1e-3), "or the test could not fail"
    found = {policy: with_policy(encoder, policy) for policy in ("own", "english", "random", "none")}
    found["related"] = with_policy(encoder, "related", ["en", "de", "nl"])
    for lang in LANGS:
        assert torch.equal(vectors(found["own"], lang), own[lang])
        assert torch.equal(vectors(found["english"], lang), own["en"])
        drawn = [other for other in LANGS if torch.equal(vectors(found["random"], lang), own[other])]
        assert len(drawn) == 1 and drawn != [lang]
    assert torch.equal(vectors(found["related"], "de"), own["nl"])
    assert torch.equal(vectors(found["related"], "nl"), own["de"])
    assert torch.equal(vectors(found["related"], "en"), own["en"])
    untrained = build_encoder("small", LANGS, TokenSettings("query: ", "passage: "), "multi", 8, 0).eval()
    for lang in LANGS:
        assert torch.equal(vectors(found["none"], lang), vectors(untrained, lang)), "small's adapters start as none"
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert encoder.lang_proxy == {} and torch.equal(vectors(encoder, "de"), own["de"])


def test_what_stays_the_same_is_shared(encoder: Encoder) -> None:
    mine = dict(encoder.named_parameters())
    for policy in ("english", "none"):
        for name, parameter in with_policy(encoder, policy).named_parameters():
            changed = policy == "none" and ".adapter_modules." in name and ".dense2." in name
            assert (parameter is mine[name]) != changed, (policy, name)
    assert with_policy(encoder, "none").tokens is encoder.tokens


def test_a_random_adapter_depends_on_seed_and_language_alone(encoder: Encoder) -> None:
    one = with_policy(encoder, "random", ["de", "ja"], seed=3).lang_proxy
    assert one == {k: v for k, v in with_policy(encoder, "random", seed=3).lang_proxy.items() if k in ("de", "ja")}
    assert len({tuple(with_policy(encoder, "random", ["de"], seed=s).lang_proxy.values()) for s in range(20)}) == 3


def test_relatives_are_of_one_branch_and_never_the_same_adapter() -> None:
    listed = [code for group in RELATIVES for code in group.split()]
    assert len(listed) == len(set(listed)) and all(language(code).xmod in ADAPTERS for code in listed)
    assert relatives("de") == ["nl", "af"] and relatives("pt-BR")[0] == "es" and relatives("ja") == []
    assert relatives("sr-latn") == relatives("sr") == ["sl", "hr", "mk", "bg"]
    assert needed("related", ["de", "ja"]) == ["nl"] and needed("english", ["de"]) == ["en"]
    assert needed("own", ["de"]) == needed("none", ["de"]) == []


def test_what_cannot_be_is_said(encoder: Encoder, world: Path) -> None:
    with pytest.raises(UserError, match=r"adapter_policy='englsh' is unknown \(did you mean 'english'"):
        with_policy(encoder, "englsh")
    with pytest.raises(UserError, match="no adapter of a relative of 'ja'"):
        with_policy(encoder, "related")
    with pytest.raises(UserError, match="no adapter for fr_XX"):
        with_policy(encoder, "own", ["fr"])
    single = build_encoder("small", ["de"], TokenSettings("query: ", "passage: "), "multi", 8, 0)
    with pytest.raises(UserError, match="this model has one"):
        with_policy(single, "random")
    with pytest.raises(UserError, match="no adapter for en_XX"):
        with_policy(single, "english")
