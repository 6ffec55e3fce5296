"""The passages that go into a database, some at a time with their vectors: from an index as it keeps them, or encoded.

Shapes: N passages, t vectors of one, E dimensions.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from colbertxm.engine.index import CompressedIndex
from colbertxm.engine.store import Index
from colbertxm.engine_recall import Chunk, decoded
from colbertxm.languages import language
from colbertxm.model.encoder import Vectors
from colbertxm.records import Text
from colbertxm.retriever import PASSAGES, Retriever

Array = npt.NDArray[np.float32]
NAMESPACE = uuid.UUID("5d6ad1c6-8f0e-5d61-9d0f-3a8f4c1b6a27")


class Passage(NamedTuple):
    """`vectors` [t, E] of length one; `mean` [E], their mean at length one, stands for them in a first stage."""

    id: str
    lang: str
    text: str
    vectors: Array
    mean: Array


@dataclass(frozen=True)
class Source:
    """`count` passages; `chunks()` gives them in order, as positions with vectors, and begins anew at each call."""

    ids: Sequence[str]
    langs: Sequence[str]
    texts: Sequence[str]
    chunks: Callable[[], Iterator[Chunk]]
    dim: int

    def passages(self, chunk: Chunk) -> Iterator[Passage]:
        """Those of a chunk that have vectors."""
        for place, number in enumerate(chunk.numbers.tolist()):
            vectors = chunk.vectors[place].float().numpy()
            if len(vectors):
                yield Passage(self.ids[number], self.langs[number], self.texts[number], vectors, pooled(vectors))


def pooled(vectors: Array) -> Array:
    """The mean of vectors [t, E] at length one, [E]; one of no length stays what it is."""
    mean = vectors.mean(0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), np.float32)


def point_id(name: str) -> str:
    """The uuid5 of a passage's id: databases want such names, and the same passage must have the same one."""
    return str(uuid.uuid5(NAMESPACE, name))


def from_index(index: Index | CompressedIndex) -> Source:
    """What an index holds: a compressed one's vectors as its codes have them."""
    if isinstance(index, CompressedIndex):
        return Source(index.ids, index.langs, index.texts, lambda: decoded(index), index.dim)

    def chunks() -> Iterator[Chunk]:
        for first in range(0, len(index.ids), PASSAGES):
            offsets = index.offsets[first : first + PASSAGES + 1]
            values = index.vectors[int(offsets[0]) : int(offsets[-1])].float()
            numbers = np.arange(first, first + len(offsets) - 1)
            yield Chunk(numbers, Vectors(values, offsets - offsets[0]))

    return Source(index.ids, index.langs, index.texts, chunks, index.dim)


def from_corpus(texts: Sequence[Text], retriever: Retriever) -> Source:
    """Passages that are encoded on the way."""

    def chunks() -> Iterator[Chunk]:
        for first in range(0, len(texts), PASSAGES):
            some = texts[first : first + PASSAGES]
            yield Chunk(np.arange(first, first + len(some)), retriever.encode(some, "passage"))

    ids, langs = [text.id for text in texts], [language(text.lang).code for text in texts]
    return Source(ids, langs, [text.text for text in texts], chunks, retriever.encoder.dim)
