"""Token ids of texts, each distinct word tokenised once.

A tokenizer that splits at spaces makes the same pieces of a word wherever it stands, and a few hundred thousand words
are nearly all that a corpus is made of. Looking them up takes a tenth of the time of finding each anew.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from typing import Any

from tokenizers import Tokenizer

LONGEST = 24
"""Characters of a word that is remembered. A text with a longer one is tokenised whole: it is in a script without
spaces, or such a word will not come back."""
MOST = 2**18
"""Words that are remembered, about 60 MB; then all are forgotten, and the frequent ones are back at once."""
SPACE = "▁"
"""What tokenizers write for a space. A text that has one itself, or other white space than single spaces between words,
is tokenised whole."""
PROBES = [
    "a b", "a, b. c", "l'été e\u0301té \u2014 ½", "x\u200by \u200b z", "日本 語", "नमस्ते दुनिया", "ภาษา لغة",
    "\u00a8 a\u00a8b", "<mask> a<mask> b</s>", "3.14 1,000 A-B C/D (e) #f @g",
]  # fmt: skip
SIMPLE = {"NFKC", "NFC", "Strip", "Replace", "Precompiled", "Lowercase"}
"""Normalizers that do the same to a text as to its words."""


class Words:
    """A tokenizer with a memory. The ids are those of `encode_batch_fast` without special tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._known: dict[str, tuple[int, ...]] = {}  # tuples, which the garbage collector need not visit
        self.apart = splits_at_spaces(description(tokenizer))
        # A second look, in case a tokenizer does what its description does not show.
        self.apart = self.apart and self(PROBES) == self._whole(PROBES)

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        if not self.apart:
            return self._whole(texts)
        if len(self._known) > MOST:
            self._known = {}
        known = self._known  # another thread may begin a new one meanwhile
        split = [text.split(" ") for text in texts]
        short = [
            max(map(len, words)) <= LONGEST and SPACE not in text and words == text.split()
            for words, text in zip(split, texts, strict=True)
        ]
        asked = set(chain.from_iterable(words for words, s in zip(split, short, strict=True) if s))
        missing = sorted(word for word in asked if word not in known)  # a difference of sets would walk all of `known`
        known.update(zip(missing, map(tuple, self._whole(missing)), strict=True))
        long = iter(self._whole([text for text, s in zip(texts, short, strict=True) if not s]))
        return [
            list(chain.from_iterable(map(known.__getitem__, words))) if s else next(long)
            for words, s in zip(split, short, strict=True)
        ]

    def _whole(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def description(tokenizer: Tokenizer) -> dict[str, Any]:
    """What tokenizer.json says beside the vocabulary, whose quarter of a million pieces take most of a second to
    read."""
    parts = {"normalizer": tokenizer.normalizer, "pre_tokenizer": tokenizer.pre_tokenizer}
    found = {name: None if part is None else json.loads(part.__getstate__()) for name, part in parts.items()}
    return {**found, "added_tokens": [{"content": t.content} for t in tokenizer.get_added_tokens_decoder().values()]}


def splits_at_spaces(tokenizer: dict[str, Any]) -> bool:
    """Whether a tokenizer, as tokenizer.json has it, makes of a text what it makes of its words between spaces: it
    gives each a "▁", drops what is empty, and no token of its own has a space."""
    normal, split = _steps(tokenizer["normalizer"], "normalizers"), _steps(tokenizer["pre_tokenizer"], "pretokenizers")
    if not split or split[-1]["type"] != "Metaspace" or split[-1].get("prepend_scheme") != "always":
        return False
    kinds = [step["type"] for step in split[:-1]]
    folds = any(s["type"] == "Replace" and s["pattern"] == {"Regex": r"\s+"} and s["content"] == " " for s in normal)
    strips = any(s["type"] == "Strip" and s["strip_left"] and s["strip_right"] for s in normal)
    drops = kinds == ["WhitespaceSplit"] or (not kinds and folds and strips and split[-1].get("split") is True)
    plain = all(step["type"] in SIMPLE for step in normal)
    return drops and plain and not any(" " in added["content"] for added in tokenizer["added_tokens"])


def _steps(part: dict[str, Any] | None, inside: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    return list(part[inside]) if part["type"] == "Sequence" else [part]
