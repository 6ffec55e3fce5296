"""What masked-language modelling hides, and the pieces among which a hidden one is sought.

BERT's rule (arXiv 1810.04805, section 3.1) with RoBERTa's fresh draw each time a text is read: each piece is chosen
with probability 0.15; of the chosen 80% become `<mask>`, 10% another piece, 10% stay as they are. All must be guessed.

A draw is a function of its key alone - seed, epoch, number of the text - and not of the batch that the text is in, so
that a run that was cut off goes on with the draws that it would have made.

Shapes: n tokens of a text, M chosen ones, R pieces among which they are sought.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CHOSEN, HIDDEN, REPLACED = 0.15, 0.8, 0.1
"""The share of the pieces that is chosen, and the shares of the chosen that become `<mask>` and another piece."""
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Masked:
    """A text as the encoder reads it, the places of the chosen tokens, and what stood there."""

    ids: Ids
    places: Ids
    labels: Ids


@dataclass(frozen=True)
class Pieces:
    """The R pieces that can be hidden, `ids` rising: those that occur in the texts at hand. A softmax over these alone
    is exact where no other piece can be the answer, and a tenth of the work of all 250,002."""

    ids: Ids
    counts: Ids
    """How often each occurs."""

    @classmethod
    def of(cls, texts: Iterable[Ids], special: frozenset[int]) -> Pieces:
        """All pieces of `texts` but special ones."""
        ids, counts = np.unique(np.concatenate([np.empty(0, np.int64), *texts]), return_counts=True)
        keep = ~np.isin(ids, list(special))
        return cls(ids[keep], counts[keep])

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, labels: Ids) -> Ids:
        """Each label's place in `ids`. Raises ValueError for a piece that is not among them."""
        found = np.searchsorted(self.ids, labels)
        if len(labels) and (found.max() >= len(self.ids) or not np.array_equal(self.ids[found], labels)):
            raise ValueError("a label is none of the pieces: they were collected from other texts")
        return found


def mask(ids: Ids, free: range, pieces: Pieces, mask_id: int, key: Sequence[int]) -> Masked:
    """Hide tokens of a text [n]. Only those at the places `free` (not the ends, not a prompt) that are one of `pieces`
    (so no special token) can be chosen; a replacement is drawn from `pieces` evenly."""
    draw = np.random.default_rng(list(key))
    chances, kinds = draw.random(len(ids)), draw.random(len(ids))
    others = pieces.ids[draw.integers(len(pieces), size=len(ids))]
    may = np.zeros(len(ids), bool)
    may[free.start : free.stop] = True
    places = (may & np.isin(ids, pieces.ids) & (chances < CHOSEN)).nonzero()[0]
    read = ids.copy()
    hidden = places[kinds[places] < HIDDEN]
    other = places[(kinds[places] >= HIDDEN) & (kinds[places] < HIDDEN + REPLACED)]
    read[hidden], read[other] = mask_id, others[other]
    return Masked(read, places, ids[places])
