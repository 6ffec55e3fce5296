"""Which adapter reads a language when a trained model is evaluated: the ablations of X-MOD's routing.

    own       the language's own adapter
    english   the English one for everything: what the paper's public code does where nobody sets a language
    related   that of a near relative (`RELATIVES`)
    random    another language's, drawn by the seed for each language alone
    none      no adapter: its contribution is zero

Only English is trained on as a retriever, so all five are answers of one trained model.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from typing import Literal, get_args

import torch

from colbertxm.errors import UserError, nearest
from colbertxm.languages import ADAPTERS, language
from colbertxm.model.encoder import Encoder

Policy = Literal["own", "english", "related", "random", "none"]

RELATIVES = (
    "de nl af", "sv da no is", "es pt gl ca it fr ro la", "cs sk pl", "sl hr sr mk bg", "ru uk be", "lt lv", "fi et hu",
    "ga cy", "tr az uz kk ky", "hi ur ne mr gu pa bn or sa si", "fa ps ku", "ta ml te kn", "ar he am", "id ms tl",
    "zh zh-hant", "th lo", "vi km",
)  # fmt: skip
"""Families and branches (Glottolog's), as far as X-MOD has two languages of one. English is left out, being what all
others are compared with; Japanese, Korean, Greek, Basque and others have no relative here."""


def relatives(code: str) -> list[str]:
    """The other languages of its branch, in the table's order; none for a language that stands alone."""
    adapter = language(code).xmod
    for group in RELATIVES:
        if adapter in (names := {other: language(other).xmod for other in group.split()}).values():
            return [other for other, name in names.items() if name != adapter]
    return []


def needed(policy: str, langs: Sequence[str]) -> list[str]:
    """The languages whose adapters a policy may ask for, beside those in `langs` themselves."""
    if policy == "english":
        return ["en"]
    return [found[0] for code in langs if (found := relatives(code))] if policy == "related" else []


def with_policy(encoder: Encoder, policy: str, langs: Sequence[str] | None = None, seed: int = 0) -> Encoder:
    """A copy of `encoder` that reads `langs` (None: all its languages) by the policy; English keeps its own adapter
    under `related`, which it is not in. All weights that stay the same are shared with `encoder`, which is left as it
    is. Raises UserError for an unknown policy, and for a language that it has no answer for."""
    if policy not in get_args(Policy):
        raise UserError(f"adapter_policy={policy!r} is unknown{nearest(policy, get_args(Policy))}: it can be "
                        f"{', '.join(get_args(Policy))}")  # fmt: skip
    codes = encoder.languages if langs is None else [language(code).code for code in langs]
    if policy == "none":
        return _without_adapters(encoder)
    copied = _copy(encoder, frozenset())
    if policy != "own":
        readers = {code: _reader(encoder, code, policy, seed) for code in codes}
        copied.lang_proxy = {**encoder.lang_proxy, **{code: reader for code, reader in readers.items() if reader}}
    copied.check_languages(codes)
    return copied


def _reader(encoder: Encoder, code: str, policy: str, seed: int) -> str | None:
    """The language whose adapter reads `code`; None for its own."""
    have = [language(name).code for name in encoder.xmod.config.languages if name in ADAPTERS]
    if policy == "english":
        return None if code == "en" else "en"
    own = encoder.adapter(code)
    if policy == "random":
        others = sorted(other for other in have if language(other).xmod != own)
        if not others:
            raise UserError("adapter_policy=random needs a second adapter, and this model has one: add languages")
        draw = int.from_bytes(hashlib.sha256(f"{seed}:{code}".encode()).digest()[:8], "big")
        return others[draw % len(others)]
    if code == "en":
        return None
    found = [other for other in relatives(code) if other in have]
    if not found:
        raise UserError(
            f"adapter_policy=related: this model has no adapter of a relative of {code!r}; leave {code!r} out of "
            f"langs, or name one, lang_proxy={{{code}:LANGUAGE}}"
        )
    return found[0]


@torch.no_grad()
def _without_adapters(encoder: Encoder) -> Encoder:
    ups = {f"xmod.{name}" for name, _ in encoder.xmod.named_parameters() if _is_up(name)}
    copied = _copy(encoder, frozenset(ups))
    for name, parameter in copied.named_parameters():
        if name in ups:
            parameter.zero_()
    return copied


def _is_up(name: str) -> bool:
    return ".adapter_modules." in name and ".dense2." in name


def _copy(encoder: Encoder, own: frozenset[str]) -> Encoder:
    """Modules of its own, and of the parameters those that are named in `own`; the others, and the tokenizer, are
    shared."""
    shared = {id(p): p for name, p in encoder.named_parameters() if name not in own}
    return copy.deepcopy(encoder, {**shared, id(encoder.tokens): encoder.tokens})  # type: ignore[dict-item]
