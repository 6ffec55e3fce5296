"""Text to token ids: prefixes, markers, lengths, mask expansion of queries, and which passage tokens are skipped.

A query is `<s> [marker] text </s>`, optionally padded with attended `<mask>` tokens to a fixed length (query
augmentation, ColBERT, arXiv 2004.12832, section 3.2); a passage is `<s> [marker] text </s>`, and its punctuation
makes no vectors.

Three loaders make three different vectors of one colbert-xm, because XLM-R's vocabulary has none of ColBERT's
markers ([unused0], [unused1]). So the way is named, stored with each checkpoint, and never guessed here:

markers           ids                      who does it
none              0 text 2                 plain encoders; markers that are text stand in the prefix
colbert_xm_train  0 3 5 text 2             colbert-ai before August 2024, which trained the released colbert-xm: it
                                           wrote ". " before each text and the marker over the first piece, but
                                           XLM-R makes two pieces of "." (6, 5), so the second stays
colbert_ai        0 3 text 2               colbert-ai since then: an unknown marker is <unk> (3) for both kinds
added             0 250002|250003 text 2   PyLate: the markers are added to the vocabulary, with ids of their own
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from tokenizers import Tokenizer

from colbertxm.errors import UserError, nearest
from colbertxm.model.words import Words
from colbertxm.records import Text

Kind = Literal["query", "passage"]
Markers = Literal["none", "colbert_xm_train", "colbert_ai", "added"]
SkipList = Literal["none", "punctuation", "colbert_ai", "pylate", "sentence_transformers"]
BOS, EOS = 0, 2
_NO_TEXT = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")
"""Control characters but white space, and halves of surrogate pairs."""
STRAY = ". "
"""What colbert-ai wrote before each text until August 2024, to have a piece that the marker can overwrite."""


@dataclass(frozen=True)
class TokenSettings:
    """How texts become tokens; stored with every checkpoint, because other settings make other vectors. Raises
    UserError for an unknown mode and for lengths that leave no room for text."""

    query_prefix: str = ""
    passage_prefix: str = ""
    query_maxlen: int = 32
    """Longest query in tokens, prefix, marker and both ends included."""
    passage_maxlen: int = 256
    expand_queries_to: int = 0
    """Queries are filled with attended `<mask>` tokens to this length; 0 = no expansion. The paper: 32."""
    skip: SkipList = "punctuation"
    """Which passage tokens are read by the encoder but make no vectors. `punctuation`: every piece that is punctuation
    only, in any script. `colbert_ai`: the first piece of each of string.punctuation, which for XLM-R is often the bare
    space. `pylate`, `sentence_transformers`: the pieces in `skip_words`; words that are no piece become <unk> with the
    one and nothing with the other."""
    skip_words: tuple[str, ...] = ()
    """For the last two; empty = string.punctuation."""
    skip_prefix: bool = False
    """The prefix's pieces make no vectors, of queries and of passages: they say which of the two a text is, which the
    encoder reads, and match one another in every pair, which tells no passage from another."""
    markers: Markers = "none"
    query_marker: str = "[unused0]"
    """Names of the tokens of mode `added`."""
    passage_marker: str = "[unused1]"

    def __post_init__(self) -> None:
        for name, modes in (("markers", get_args(Markers)), ("skip", get_args(SkipList))):
            if (given := getattr(self, name)) not in modes:
                known = ", ".join(modes)
                raise UserError(f"tokens.{name}={given!r} is unknown{nearest(str(given), modes)}: choose of {known}")
        for name in ("query_maxlen", "passage_maxlen"):
            if getattr(self, name) < 5:
                raise UserError(f"tokens.{name}={getattr(self, name)} leaves no room for text: give at least 5")
        for prefix in (self.query_prefix, self.passage_prefix):
            if self.skip_prefix and prefix and not prefix[-1].isspace():
                raise UserError(
                    f"tokens.skip_prefix=true needs prefixes that end with a space, or a piece may belong to both the "
                    f"prefix and the text: {prefix!r} does not"
                )
        object.__setattr__(self, "skip_words", tuple(self.skip_words))

    @classmethod
    def of(cls, given: Mapping[str, Any], base: TokenSettings | None = None) -> TokenSettings:
        """From plain values; what is None is taken from `base`. Raises UserError for unknown names, and for None
        without a base."""
        known = [field.name for field in fields(cls)]
        for name, value in given.items():
            if name not in known:
                raise UserError(f"unknown token setting {name!r}{nearest(name, known)}: there are {', '.join(known)}")
            if value is None and base is None:
                raise UserError(f"tokens.{name} is not given and the base model stores none: set model.tokens.{name}")
        start = {} if base is None else {name: getattr(base, name) for name in known}
        return cls(**start | {name: value for name, value in given.items() if value is not None})

    @classmethod
    def stored(cls, values: Mapping[str, Any]) -> TokenSettings:
        """As a checkpoint stores them; version 0.1 had `skip_punctuation` in place of `skip`."""
        values = dict(values)
        if "skip_punctuation" in values:
            values["skip"] = "punctuation" if values.pop("skip_punctuation") else "none"
        return cls.of(values)


@dataclass(frozen=True)
class Tokenised:
    """One text: its ids, and for each token whether its vector takes part in MaxSim."""

    ids: tuple[int, ...]
    keep: tuple[bool, ...]


def check_text(text: Text) -> None:
    """Raise UserError for what is no text: nothing but white space, or bytes that no writer types."""
    if not text.text.strip():
        raise UserError(f"text {text.id!r} is empty: remove it or give it words")
    bad = _NO_TEXT.search(text.text)
    if bad is not None:
        raise UserError(f"text {text.id!r} is not plain text (it holds U+{ord(bad[0]):04X}): is it a binary file?")


class Tokens:
    """A tokenizer with its settings."""

    def __init__(self, tokenizer: Tokenizer, settings: TokenSettings) -> None:
        self.tokenizer = tokenizer
        self.settings = settings
        self.mask_id = self._special("<mask>")
        self.unk_id = self._special("<unk>")
        if settings.markers == "added":
            for marker in (settings.query_marker, settings.passage_marker):
                if tokenizer.token_to_id(marker) is None:
                    raise UserError(
                        f"tokens.markers=added, but the tokenizer has no {marker!r}: choose colbert_ai, or start from "
                        "a model to which it was added"
                    )
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()

    @cached_property
    def words(self) -> Words:
        """The tokenizer with a memory for words."""
        return Words(self.tokenizer)

    def _special(self, token: str) -> int:
        found = self.tokenizer.token_to_id(token)
        if found is None:
            raise UserError(f"the tokenizer has no {token} token; colbertxm needs an XLM-R tokenizer")
        return int(found)

    @cached_property
    def punctuation(self) -> frozenset[int]:
        """Ids of the pieces that are punctuation only (Unicode categories P*), with or without a leading space."""
        pieces = self.tokenizer.get_vocab(with_added_tokens=False)
        return frozenset(
            i for piece, i in pieces.items() if (bare := piece.strip("▁")) and all(_is_punctuation(c) for c in bare)
        )

    @cached_property
    def skipped(self) -> frozenset[int]:
        """Ids whose vectors take no part on the passages' side."""
        mode, tokenizer = self.settings.skip, self.tokenizer
        if mode == "none":
            return frozenset()
        if mode == "punctuation":
            return self.punctuation
        if mode == "colbert_ai":
            return frozenset(tokenizer.encode(symbol, add_special_tokens=False).ids[0] for symbol in string.punctuation)
        ids = [tokenizer.token_to_id(word) for word in self.settings.skip_words or string.punctuation]
        if mode == "pylate":
            return frozenset(self.unk_id if i is None else i for i in ids)
        return frozenset(i for i in ids if i is not None and i != self.unk_id)

    def marker(self, kind: Kind) -> int | None:
        """The id that stands behind `<s>`; None without markers."""
        s = self.settings
        if s.markers == "none":
            return None
        if s.markers == "added":
            return self._special(s.query_marker if kind == "query" else s.passage_marker)
        return self.unk_id

    def __call__(self, texts: Sequence[Text], kind: Kind) -> list[Tokenised]:
        """Token ids of each text. Raises UserError for empty and binary texts."""
        for text in texts:
            check_text(text)
        s = self.settings
        marker = self.marker(kind)
        prefix = s.query_prefix if kind == "query" else s.passage_prefix
        longest = (s.query_maxlen if kind == "query" else s.passage_maxlen) - 2 - (marker is not None)
        stray = s.markers == "colbert_xm_train"
        written = [(STRAY if stray else "") + prefix + text.text for text in texts]
        if s.markers == "added":
            written = [text.strip() for text in written]  # as PyLate does; its tokenizer may keep a space at the end
        # The stray text's first piece gives way to the marker, whatever it is.
        pieces = [ids[stray : stray + longest] for ids in self.words(written)]
        start = [BOS] if marker is None else [BOS, marker]
        first = len(start) + (self._pieces(STRAY) - 1 if stray else 0)
        silent = range(first, first + (self._pieces(prefix) if s.skip_prefix else 0))
        return [self._finish([*start, *p, EOS], kind, silent) for p in pieces]

    def _pieces(self, prefix: str) -> int:
        """How many pieces of a text belong to its prefix; none crosses the space that ends it."""
        return len(self.tokenizer.encode(prefix.rstrip(), add_special_tokens=False).ids)

    def _finish(self, ids: list[int], kind: Kind, silent: range) -> Tokenised:
        if kind == "query":
            ids += [self.mask_id] * (self.settings.expand_queries_to - len(ids))
            keep = [True] * len(ids)
        else:
            skipped = self.skipped
            keep = [i not in skipped for i in ids]
        for place in silent[: max(0, len(ids) - silent.start)]:
            keep[place] = False
        return Tokenised(tuple(ids), tuple(keep))

    def save(self, folder: Path) -> None:
        """Write tokenizer.json into `folder`."""
        self.tokenizer.save(str(folder / "tokenizer.json"), pretty=False)

    @staticmethod
    def read_tokenizer(folder: Path) -> Tokenizer:
        """Read tokenizer.json of a checkpoint. Raises UserError where it is absent or damaged."""
        path = folder / "tokenizer.json"
        try:
            return Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception for a missing or damaged file
            raise UserError(f"cannot read {path}: {error}; the checkpoint is damaged, make it again") from None


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character).startswith("P")
