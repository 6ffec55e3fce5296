"""Text to token ids: prefixes, lengths, mask expansion of queries, and which passage tokens are skipped.

A query is `<s> prefix text </s>`, optionally padded with attended `<mask>` tokens to a fixed length (query
augmentation, ColBERT, arXiv 2004.12832, section 3.2); a passage is `<s> prefix text </s>`, and its punctuation makes
no vectors.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer

from colbertxm.errors import UserError
from colbertxm.records import Text

Kind = Literal["query", "passage"]
BOS, EOS = 0, 2


@dataclass(frozen=True)
class TokenSettings:
    """How texts become tokens; stored with every checkpoint, because other settings make other vectors."""

    query_prefix: str = ""
    passage_prefix: str = ""
    query_maxlen: int = 32
    """Longest query in tokens, prefix and both ends included."""
    passage_maxlen: int = 256
    expand_queries_to: int = 0
    """Queries are filled with attended `<mask>` tokens to this length; 0 = no expansion. The paper: 32."""
    skip_punctuation: bool = True
    """Punctuation tokens of passages are read by the encoder but make no vectors."""


@dataclass(frozen=True)
class Tokenised:
    """One text: its ids, and for each token whether its vector takes part in MaxSim."""

    ids: tuple[int, ...]
    keep: tuple[bool, ...]


def check_text(text: Text) -> None:
    """Raise UserError for what is no text: nothing but white space, or bytes that no writer types."""
    if not text.text.strip():
        raise UserError(f"text {text.id!r} is empty: remove it or give it words")
    bad = next((c for c in text.text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n\r\f\v\x85"), None)
    if bad is not None:
        raise UserError(f"text {text.id!r} is not plain text (it holds U+{ord(bad):04X}): is it a binary file?")


class Tokens:
    """A tokenizer with its settings."""

    def __init__(self, tokenizer: Tokenizer, settings: TokenSettings) -> None:
        self.tokenizer = tokenizer
        self.settings = settings
        mask = tokenizer.token_to_id("<mask>")
        if mask is None:
            raise UserError("the tokenizer has no <mask> token; colbertxm needs an XLM-R tokenizer")
        self.mask_id: int = mask
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()

    @cached_property
    def punctuation(self) -> frozenset[int]:
        """Ids of the pieces that are punctuation only (Unicode categories P*), with or without a leading space."""
        pieces = self.tokenizer.get_vocab(with_added_tokens=False)
        return frozenset(
            i for piece, i in pieces.items() if (bare := piece.strip("▁")) and all(_is_punctuation(c) for c in bare)
        )

    def __call__(self, texts: Sequence[Text], kind: Kind) -> list[Tokenised]:
        """Token ids of each text. Raises UserError for empty and binary texts."""
        for text in texts:
            check_text(text)
        s = self.settings
        prefix = s.query_prefix if kind == "query" else s.passage_prefix
        longest = s.query_maxlen if kind == "query" else s.passage_maxlen
        encodings = self.tokenizer.encode_batch_fast([prefix + text.text for text in texts], add_special_tokens=False)
        return [self._finish(encoding.ids[: longest - 2], kind) for encoding in encodings]

    def _finish(self, pieces: list[int], kind: Kind) -> Tokenised:
        ids = [BOS, *pieces, EOS]
        if kind == "query":
            ids += [self.mask_id] * (self.settings.expand_queries_to - len(ids))
            return Tokenised(tuple(ids), (True,) * len(ids))
        skipped = self.punctuation if self.settings.skip_punctuation else frozenset()
        return Tokenised(tuple(ids), tuple(i not in skipped for i in ids))

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
