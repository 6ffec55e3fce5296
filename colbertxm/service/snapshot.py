"""An index as it was when it was opened: what a search reads from begin to end, whatever is written meanwhile."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from colbertxm.engine.index import CompressedIndex
from colbertxm.engine.store import Index
from colbertxm.engine.strings import distinct, equal
from colbertxm.errors import UserError, nearest
from colbertxm.languages import language
from colbertxm.model.encoder import Encoder
from colbertxm.retriever import Retriever

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Passage:
    """A passage as it is shown. `confidence` says how sure a guessed language is."""

    id: str
    text: str
    lang: str
    confidence: float | None = None


class Snapshot:
    """The index in `folder` with its engine on `device` (None: where the encoder is). Raises UserError as
    `Retriever.open` does."""

    def __init__(self, encoder: Encoder, folder: Path, device: str | None = None) -> None:
        retriever = Retriever(encoder)
        self.index: Index | CompressedIndex = retriever.open(folder, device)
        assert retriever.engine is not None
        self.engine = retriever.engine
        self.guesses = retriever.guesses
        self._places = {} if self.compressed else {name: n for n, name in enumerate(self.index.ids)}
        self._masks: dict[str, Mask] = {}
        self.living = int(self.alive.sum())
        self.langs = sorted(distinct_living(self.index, self.alive))

    @property
    def compressed(self) -> bool:
        """Whether the vectors are codes."""
        return isinstance(self.index, CompressedIndex)

    @property
    def alive(self) -> Mask:
        """Which documents were not deleted, [N]."""
        return self.index.alive if isinstance(self.index, CompressedIndex) else np.ones(len(self.index.ids), bool)

    def places(self, ids: Collection[str]) -> dict[str, int]:
        """Where those of `ids` stand that are there."""
        if isinstance(self.index, CompressedIndex):
            return self.index.places(ids) if ids else {}
        return {name: self._places[name] for name in ids if name in self._places}

    def passages(self, ids: Collection[str]) -> dict[str, Passage]:
        """The passages among `ids` that are there, by id."""
        found = {}
        for name, n in self.places(ids).items():
            guess = self.guesses.get(name)
            found[name] = Passage(name, self.index.texts[n], self.index.langs[n], guess.confidence if guess else None)
        return found

    def mask(self, langs: Sequence[str] | None, ids: Collection[str] | None) -> Mask | None:
        """The documents in one of `langs` (codes) and among `ids`, [N]; None for all. Raises UserError for a language
        that no passage is in, and an id that is not there."""
        if langs is None and ids is None:
            return None
        chosen = np.ones(len(self.index.ids), bool)
        if langs is not None:
            chosen = np.logical_or.reduce([self._in(code) for code in langs])
        if ids is not None:
            places = self.places(ids)
            if missing := sorted(set(ids) - places.keys()):
                more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
                raise UserError(f"filters.ids: no passage {missing[0]!r}{more} is indexed")
            named = np.zeros(len(chosen), bool)
            named[list(places.values())] = True
            chosen = chosen & named
        return chosen

    def search(self, queries: Sequence[Tensor], k: int, mask: Mask | None) -> list[tuple[list[str], list[float]]]:
        """The best `k` of each query [Q, E] among the documents in `mask`: ids and scores."""
        if mask is not None and not mask.any():
            return [([], []) for _ in queries]
        found = self.engine.search(queries, k, ids=mask)
        return [(ids, np.asarray(scores).tolist()) for ids, scores in found]

    def _in(self, code: str) -> Mask:
        if code not in self.langs:
            have = ", ".join(self.langs) or "nothing"
            raise UserError(f"no passage in {code!r} is indexed{nearest(code, self.langs)}; the index has {have}")
        if code not in self._masks:
            self._masks[code] = equal(self.index.langs, code)
        return self._masks[code]


def distinct_living(index: Index | CompressedIndex, alive: Mask) -> set[str]:
    """The languages of what was not deleted."""
    if alive.all():
        return distinct(index.langs)
    return {code for code in distinct(index.langs) if (equal(index.langs, code) & alive).any()}


def codes(spellings: Sequence[str]) -> list[str]:
    """Languages by their codes, each once. Raises UserError for an unknown one."""
    return list(dict.fromkeys(language(spelling).code for spelling in spellings))
