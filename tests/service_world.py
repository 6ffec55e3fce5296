"""A tiny model and its indexes for the tests of the service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from colbertxm.records import Text

LANGS = ["en", "de", "ar", "he"]
WORDS = {
    "en": "light lamp door lock heat valve water pump camera motion alarm siren".split(),
    "de": "licht lampe tuer schloss waerme ventil wasser pumpe kamera bewegung alarm sirene".split(),
    "ar": "ضوء مصباح باب قفل حرارة صمام ماء مضخة كاميرا حركة إنذار صفارة".split(),
}


def passages(count: int = 30) -> list[Text]:
    """Of each language but Hebrew."""
    return [
        Text(f"{lang}:{n}", f"{words[n % 12]} {words[n * 5 % 12]} {words[n * 7 % 11]} {n}", lang)
        for lang, words in WORDS.items()
        for n in range(count)
    ]


@dataclass(frozen=True)
class Made:
    """Folders of a model and of two indexes of the same passages."""

    model: Path
    exact: Path
    compressed: Path


def make(folder: Path, wheels: dict[str, Path]) -> Made:
    """Write them."""
    from colbertxm.model.checkpoints import build_encoder, save_model
    from colbertxm.model.tokens import TokenSettings
    from colbertxm.retriever import Retriever

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("colbertxm.model.checkpoints.fetch", lambda source, cache=None: wheels[source.name])
        encoder = build_encoder("small", LANGS, TokenSettings("query: ", "passage: "), "multi", 16, 3)
    made = Made(folder / "trained" / "model", folder / "trained" / "index", folder / "trained" / "compressed")
    save_model(made.model, encoder.eval(), {})
    Retriever(encoder).write(made.exact, passages(), {})
    Retriever(encoder).write(made.compressed, passages(), {}, bits=4)
    return made


def errors(answers: Sequence[Any]) -> list[tuple[int, str]]:
    """Status and line of answers that are none."""
    return [(answer.status_code, answer.json().get("error", "")) for answer in answers]
