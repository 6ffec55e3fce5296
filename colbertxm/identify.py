"""Which language is a text in? For `lang=auto`, never used unless asked for.

    >>> identify(["Schaltet das Licht aus."], candidates=["de", "en", "nl"])
    [Guess(lang='de', confidence=0.97...)]

Each text is judged alone: one answer for a whole collection is how multilingual retrieval went wrong before. The
model is py3langid's (139 languages, all of X-MOD's among them; BSD; 4.6 MB inside its wheel, no network), the most
accurate of four that were tried on sentences, questions and titles (lingua lacks 17 of the languages, CLD2 and CLD3
are quicker and worse). It does not tell scripts apart, which is done here, nor Serbian in Latin script from Croatian.
"""

from __future__ import annotations

import copy
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from colbertxm.errors import MissingExtra, UserError
from colbertxm.languages import LANGUAGES, language

AUTO = "auto"
"""What a setting says instead of a language."""
_LABELS = {"no": ("no", "nn")}  # its labels for one of our languages, where these are not our own code
_SCRIPT_NAMES = {"Latn": "LATIN", "Cyrl": "CYRILLIC", "Arab": "ARABIC", "Deva": "DEVANAGARI", "Tfng": "TIFINAGH"}


@dataclass(frozen=True)
class Guess:
    """A code of `colbertxm.languages`, and the model's probability for it among the candidates, 0 to 1."""

    lang: str
    confidence: float


def identify(texts: Sequence[str], candidates: Iterable[str] | None = None) -> list[Guess]:
    """The language of each text, out of `candidates` (any spelling; default: all that have an X-MOD adapter).
    Deterministic. Raises UserError for a text without letters, and for candidates none of which the model knows."""
    codes = tuple(dict.fromkeys(language(c).code for c in (candidates or [found.code for found in LANGUAGES])))
    model, labels = _model(codes)
    return [_guess(model, labels, codes, text) for text in texts]


def _guess(model: Any, labels: dict[str, str], codes: Sequence[str], text: str) -> Guess:
    if not any(unicodedata.category(character)[0] == "L" for character in text):
        raise UserError(f"no language can be told from {text[:40]!r}, which has no letters: name it instead of auto")
    chances: dict[str, float] = {}
    for label, chance in model.rank(text):
        chances[labels[label]] = chances.get(labels[label], 0.0) + chance
    best = max(chances, key=lambda base: (chances[base], base))
    return Guess(_script(best, text, codes), min(1.0, chances[best]))


def _script(base: str, text: str, codes: Sequence[str]) -> str:
    """The code of `base` whose script the text is in, where several are candidates; the first of equal ones, which
    for Chinese in characters that both scripts share is right either way."""
    several = sorted((code for code in codes if code.split("-")[0] == base), key=len)
    return several[0] if len(several) == 1 else max(several, key=lambda code: _in_script(text, language(code).script))


def _in_script(text: str, script: str) -> int:
    """How many characters of the text speak for a script. Han unification hides simplified and traditional Chinese
    from Unicode's names; the national character sets GB 2312 and Big5 tell them apart."""
    if script in ("Hans", "Hant"):
        own, other = ("gb2312", "big5") if script == "Hans" else ("big5", "gb2312")
        return sum(_encodable(character, own) and not _encodable(character, other) for character in text)
    return sum(unicodedata.name(character, "").startswith(_SCRIPT_NAMES[script]) for character in text)


def _encodable(character: str, codec: str) -> bool:
    try:
        character.encode(codec)
    except UnicodeEncodeError:
        return False
    return True


@cache
def _full_model() -> Any:
    """py3langid's model, which takes a second to unpack."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise MissingExtra("py3langid, which lang=auto needs,", "lid") from None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@cache
def _model(codes: tuple[str, ...]) -> tuple[Any, dict[str, str]]:
    """The model restricted to the candidates, and our language without script for each of its labels."""
    model = copy.copy(_full_model())
    bases = dict.fromkeys(code.split("-")[0] for code in codes)
    labels = {label: base for base in bases for label in _LABELS.get(base, (base,)) if label in model.labels}
    if not labels:
        raise UserError(f"lang=auto knows none of {', '.join(codes)}: name the language of each text")
    model.set_languages(list(labels))
    return model, labels
