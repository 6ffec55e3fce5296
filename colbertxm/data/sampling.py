"""What is sampled besides the order: nested subsets, and a language for each sample.

Both are functions of their keys (`colbertxm.data.keyed`), so that they are the same on every rank, after every resume,
and whatever else changes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from colbertxm.data.keyed import Integers, Permutation, draws
from colbertxm.data.order import Order
from colbertxm.errors import UserError
from colbertxm.languages import language

SUBSET, LANGUAGE = 2, 3  # first part of every key, as ORDER in colbertxm.data.order
UNITS = {"": 1, "%": 0.01, "k": 1e3, "K": 1e3, "M": 1e6}


def amount(wanted: int | float | str, size: int) -> int:
    """How many of `size` are wanted: a count (6_400_000, "6.4M", "50k") or a share (0.1, "10%"; 1.0 is all, 1 is one).
    Raises UserError for more than there are, none, or what is no amount."""
    if isinstance(wanted, str):
        parts = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([kKM%]?)", wanted.strip())
        if parts is None:
            raise UserError(f"{wanted!r} is no amount of samples: give a count (6.4M, 50k, 1000) or a share (10%)")
        number, unit = float(parts[1]), parts[2]
        counted = number * UNITS[unit] * (size if unit == "%" else 1)
        share = unit == "%"
    else:
        share = isinstance(wanted, float)
        counted = wanted * size if share else wanted
    count = round(counted)
    if not 1 <= count <= size or (not share and not math.isclose(count, counted)):
        raise UserError(f"{wanted} of {size} samples is no possible amount: give 1 to {size}, or a share above 0%")
    return count


class Subset:
    """`count` of `size` samples, drawn by `seed`. Subsets of one seed are nested: a larger one begins with a smaller
    one. Call it with numbers below `count` to have the samples' indices; give it to `Order(count, ..., subset=...)`."""

    def __init__(self, size: int, count: int, seed: int) -> None:
        if not 1 <= count <= size:
            raise UserError(f"a subset of {count} of {size} samples: give 1 to {size}")
        self.size, self.count, self.seed = size, count, seed
        self._drawn = Permutation(size, SUBSET, seed)

    def __len__(self) -> int:
        return self.count

    def __call__(self, numbers: ArrayLike) -> Integers:
        """The indices of the subset's samples `numbers` [n]."""
        found = np.atleast_1d(np.asarray(numbers, np.int64))
        if found.size and int(found.max()) >= self.count:
            raise IndexError(f"sample {found.max()} of a subset of {self.count}")
        return self._drawn(found)

    def contains(self, indices: ArrayLike) -> NDArray[np.bool_]:
        """Which of the samples `indices` [n] belong to it."""
        return self._drawn.inverse(indices) < self.count


def temperature(counts: Mapping[str, float], t: float) -> dict[str, float]:
    """Each language's share of the samples, p ~ n^(1/t): t = 1 as the data are, larger t more alike.

    Arivazhagan et al. 2019 (arXiv 1907.05019) write it so, with t = 5; the exponent 1/t is 0.7 in multilingual BERT
    and 0.3 in XLM-R (Conneau et al. 2020, arXiv 1911.02116, section 3.1)."""
    if t <= 0:
        raise UserError(f"temperature={t}: give a number above 0 (1 keeps the data's own shares)")
    _check_weights(counts)
    largest = max(counts.values())
    raised = {lang: (n / largest) ** (1 / t) for lang, n in counts.items()}  # the ratio, so that nothing overflows
    total = sum(raised.values())
    return {lang: weight / total for lang, weight in raised.items()}


class LanguageMix:
    """Gives each sample a language, with the shares `weights`. Languages are sorted by code, so that the order in
    which they are named does not matter."""

    def __init__(self, weights: Mapping[str, float], seed: int) -> None:
        _check_weights(weights)
        named = {language(lang).code: float(weight) for lang, weight in weights.items()}
        if len(named) < len(weights):
            raise UserError(f"a language is named twice among {', '.join(weights)}: name each once")
        self.languages = tuple(sorted(lang for lang, weight in named.items() if weight))
        shares = np.cumsum([named[lang] for lang in self.languages])
        self._below = shares[:-1] / shares[-1]
        self.seed = seed

    def of_samples(self, epochs: ArrayLike, indices: ArrayLike) -> list[str]:
        """The languages of the samples `indices` [n] in `epochs` (one, or [n]): batches of mixed languages."""
        numbers = np.atleast_1d(np.asarray(indices, np.int64))
        when = np.broadcast_to(np.asarray(epochs, np.int64), numbers.shape)
        drawn = np.empty(numbers.shape)
        for epoch in np.unique(when).tolist():
            drawn[when == epoch] = draws(numbers[when == epoch], LANGUAGE, self.seed, epoch)
        return self._named(drawn)

    def of_step(self, first: int) -> str:
        """The language of the step that begins with the run's sample number `first`: one language a batch."""
        return self._named(draws([first], LANGUAGE, self.seed, -1))[0]

    def _named(self, drawn: NDArray[np.float64]) -> list[str]:
        return [self.languages[n] for n in np.searchsorted(self._below, drawn, side="right").tolist()]


class MixedOrder:
    """As `Order`, in batches of (epoch, index, language): each sample in a language of its own, or with
    `one_language` all of a step in one, on all ranks."""

    def __init__(self, order: Order, mix: LanguageMix, one_language: bool) -> None:
        self.order, self.mix, self.one_language = order, mix, one_language

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[list[tuple[int, int, str]]]:
        for span, batch in zip(self.order.spans(), self.order, strict=True):
            epochs, indices = zip(*batch, strict=True)
            langs = [self.mix.of_step(span.start)] * len(batch)
            if not self.one_language:
                langs = self.mix.of_samples(epochs, indices)
            yield list(zip(epochs, indices, langs, strict=True))


def _check_weights(weights: Mapping[str, float]) -> None:
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights.values()) or not sum(weights.values()):
        raise UserError(f"{dict(weights)} are no weights of languages: give numbers above 0")
