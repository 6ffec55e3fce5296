"""What a training run needs of its data, whatever the source: the contract behind the configuration group `data`.

A new source is a function that returns a `TrainingData`, named by `_target_` in conf/data/NAME.yaml.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from colbertxm.data.collection import Collection
from colbertxm.data.examples import Examples
from colbertxm.data.smart_home import open_smart_home
from colbertxm.data.translated import translate_queries
from colbertxm.errors import UserError
from colbertxm.languages import language
from colbertxm.records import Text
from colbertxm.sources import HOMEASSISTANT, fetch


@dataclass(frozen=True)
class TrainingData:
    """What to train on, pools to watch, and the languages whose adapters the model is to keep. Either `examples`, which
    bring their negatives, or `pairs`, for which hard negatives are mined (`negatives_depth` each)."""

    name: str
    pairs: tuple[tuple[Text, Text], ...]
    pools: tuple[Collection, ...]
    languages: tuple[str, ...]
    negatives_depth: int
    checksums: dict[str, str] = field(default_factory=dict)
    examples: Examples | None = None


def smart_home(
    clean_only: bool,
    negatives_depth: int,
    val_langs: Sequence[str],
    val_sample: int,
    translated_share: float = 0.0,
    translated_langs: Sequence[str] = (),
) -> TrainingData:
    """The training and development components of smart_home, a share of the training queries translated. Raises
    UserError for a language that it has not."""
    collection = open_smart_home(fetch(HOMEASSISTANT))
    known = collection.languages("dev", at_least=1)
    codes = [language(spelling).code for spelling in val_langs]
    for code in codes:
        if code not in known:
            raise UserError(
                f"smart_home has no development pairs in {code!r}; data.val_langs can be {', '.join(known)}"
            )
    pairs = collection.training_pairs("train", "en", clean=clean_only)
    return TrainingData(
        name="smart_home",
        pairs=tuple(translate_queries(collection, pairs, translated_share, translated_langs)),
        pools=tuple(collection.collection("dev", code, code, sample=val_sample) for code in codes),
        languages=collection.languages("test"),
        negatives_depth=negatives_depth,
        checksums={HOMEASSISTANT.filename: HOMEASSISTANT.sha256},
    )
