"""Training examples by (epoch, index): what an order of samples is an order of.

Whatever the source, one sample is a pure function of its key, so that every rank, worker and resumed run reads the
same. Two sources: triples in memory (small collections, mined negatives), and rows on disk beside stores of texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from colbertxm.data.keyed import draws
from colbertxm.data.sampling import LanguageMix
from colbertxm.data.triples import Triples
from colbertxm.errors import UserError
from colbertxm.records import Triple

NEGATIVE = 4
"""First part of every key in this file, as ORDER, SUBSET and LANGUAGE are elsewhere."""
Key = tuple[int, int]


class Examples(Protocol):
    """A source of training triples."""

    def __len__(self) -> int:
        """How many triples an epoch has."""

    def read(self, keys: Sequence[Key], negatives: int) -> list[Triple]:
        """The samples (epoch, index), each with exactly `negatives` hard negatives, those of its epoch."""

    def check(self, negatives: int) -> None:
        """Raise UserError where a triple has fewer hard negatives."""

    @property
    def scored(self) -> bool:
        """Whether every triple has a teacher's scores."""


class InMemory:
    """Triples in a list; each epoch a triple starts from another of its hard negatives."""

    def __init__(self, triples: Sequence[Triple], seed: int) -> None:
        self.triples, self.seed = triples, seed

    def __len__(self) -> int:
        return len(self.triples)

    def check(self, negatives: int) -> None:
        """See `Examples`."""
        fewest = min(len(triple.negatives) for triple in self.triples)
        if fewest < negatives:
            raise UserError(f"a triple has {fewest} hard negatives, but trainer.negatives={negatives}: lower it")

    def read(self, keys: Sequence[Key], negatives: int) -> list[Triple]:
        """See `Examples`."""
        found = []
        for epoch, index in keys:
            triple = self.triples[index]
            first = int(draws([index], NEGATIVE, self.seed, epoch)[0] * len(triple.negatives))
            found.append(_choose(triple, [(first + n) % len(triple.negatives) for n in range(negatives)]))
        return found

    @property
    def scored(self) -> bool:
        """See `Examples`."""
        return all(triple.scores for triple in self.triples)


class OnDisk:
    """Rows of a `data.triples.Triples`. Of more passages than asked for, each epoch draws others. With a `mix` the
    samples are in its languages, queries and passages alike: translate-train, the same ids with other texts."""

    def __init__(self, triples: Triples, seed: int, mix: LanguageMix | None = None) -> None:
        self.triples, self.seed, self.mix = triples, seed, mix

    def __len__(self) -> int:
        return len(self.triples)

    def check(self, negatives: int) -> None:
        """See `Examples`."""
        if self.triples.width - 1 < negatives:
            raise UserError(
                f"{self.triples.folder} has {self.triples.width - 1} hard negatives a query, but "
                f"trainer.negatives={negatives}: lower it"
            )

    def read(self, keys: Sequence[Key], negatives: int) -> list[Triple]:
        """See `Examples`."""
        epochs, indices = np.array(keys, np.int64).reshape(-1, 2).T
        langs = None if self.mix is None else self.mix.of_samples(epochs, indices)
        found = self.triples.read(indices, langs, langs)
        most = self.triples.width - 1
        if negatives == most:
            return found
        chosen = []
        for triple, (epoch, index) in zip(found, keys, strict=True):
            lottery = draws(np.arange(most) + index * most, NEGATIVE, self.seed, epoch)
            chosen.append(_choose(triple, np.argsort(lottery)[:negatives].tolist()))
        return chosen

    @property
    def scored(self) -> bool:
        """See `Examples`."""
        return self.triples.scored


def _choose(triple: Triple, negatives: Sequence[int]) -> Triple:
    """The triple with some of its negatives, and their scores."""
    own = tuple(triple.negatives[n] for n in negatives)
    scores = (triple.scores[0], *(triple.scores[1 + n] for n in negatives)) if triple.scores else ()
    return Triple(triple.query, triple.positive, own, scores)
