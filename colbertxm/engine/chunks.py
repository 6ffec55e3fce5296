"""A stream of documents as chunks: so many vectors as the build has room for, with what a part keeps of their passages.

Documents are copied one by one into a chunk's float16 array, so that a stream of views on large batches lets those go.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from colbertxm.engine.codec import Codec, Codes
from colbertxm.engine.index import MAX_LANGS, Document, Rows
from colbertxm.engine.kernels import Array
from colbertxm.engine.strings import packed
from colbertxm.errors import UserError

BLOCK = 2**20  # numbers encoded at a time: 8192 vectors of 128 dimensions

STRINGS = 2**20  # bytes of strings that go into any chunk


@dataclass(frozen=True)
class Chunk:
    """Neighbouring documents: their vectors [t, E] float16 end to end, the rest, and all languages so far."""

    vectors: Array
    rows: Rows
    languages: list[str]


class _Filling:
    """A chunk that is being filled with documents of `dim` dimensions: at most `size` vectors, strings of half their
    bytes or STRINGS; one document goes in whatever its size."""

    def __init__(self, size: int, dim: int, languages: list[str]) -> None:
        self.vectors = np.empty((size, dim), np.float16)
        self.languages = languages
        self.count, self.strings = 0, max(STRINGS, size * dim)
        self.ends: list[int] = []
        self.langs: list[int] = []
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.sureness: list[float] = []

    def fits(self, document: Document) -> bool:
        """Whether there is room for one more."""
        return self.count + len(document.vectors) <= len(self.vectors) and _bytes(document) <= self.strings

    def take(self, document: Document) -> None:
        """Copy it. Raises UserError for a language too many, and for numbers that float16 does not hold."""
        vectors = document.vectors.detach().to("cpu", torch.float16)
        if not torch.isfinite(vectors).all():
            raise UserError(f"passage {document.id!r} has vectors that are not finite: the model's weights are damaged")
        if len(vectors) > len(self.vectors):
            self.vectors = np.empty((len(vectors), self.vectors.shape[1]), np.float16)
        if document.lang not in self.languages:
            self.languages.append(document.lang)
            if len(self.languages) > MAX_LANGS:
                raise UserError(f"an index holds at most {MAX_LANGS} languages")
        self.vectors[self.count : self.count + len(vectors)] = vectors.numpy()
        self.count += len(vectors)
        self.strings -= _bytes(document)
        self.ends.append(self.count)
        self.langs.append(self.languages.index(document.lang))
        self.ids.append(document.id)
        self.texts.append(document.text)
        self.sureness.append(np.nan if document.sure is None else document.sure)

    def chunk(self) -> Chunk:
        """What was taken."""
        return Chunk(
            self.vectors[: self.count],
            Rows(
                np.array(self.ends, np.int64),
                np.array(self.langs, np.uint8),
                packed(self.ids),
                packed(self.texts),
                np.array(self.sureness, np.float32),
            ),
            list(self.languages),
        )


def chunks(
    documents: Iterable[Document], languages: list[str], size: Callable[[int], int], dim: int | None = None
) -> Iterator[Chunk]:
    """All `documents`, at most `size(E)` vectors at a time; a new language goes to the end of `languages`, before its
    chunk comes. The first document says what E is, where `dim` does not. Raises UserError for vectors that do not fit.
    """
    filling: _Filling | None = None
    for document in documents:
        dim = dimensions(document, dim)
        if filling is not None and not filling.fits(document):
            yield filling.chunk()
            filling = None
        if filling is None:
            filling = _Filling(size(dim), dim, languages)
        filling.take(document)
    if filling is not None:
        yield filling.chunk()


def encode_blocks(
    codec: Codec,
    vectors: Callable[[int, int], Array],
    ends: Array,
    progress: Callable[[int], None] | None = None,
    look: Callable[[Codes, Tensor, Tensor], None] | None = None,
) -> Codes:
    """`codec.encode` of whole documents, about BLOCK numbers at a time. `vectors(first, last)` [n, E] are of any
    floats; `progress` is told of each block's vectors, `look` sees its codes, vectors and offsets."""
    offsets = np.concatenate([[0], ends]).astype(np.int64)
    pieces, first, size = [], 0, max(1, BLOCK // codec.dim)
    while first < len(ends):
        last = int(np.searchsorted(offsets, offsets[first] + size, side="right")) - 1
        last = min(max(last, first + 1), len(ends))
        block = torch.from_numpy(np.asarray(vectors(int(offsets[first]), int(offsets[last])), np.float32))
        cut = torch.from_numpy(offsets[first : last + 1] - offsets[first])
        pieces.append(codec.encode(block, cut))
        if look is not None:
            look(pieces[-1], block, cut)
        if progress is not None:
            progress(len(block))
        first = last
    return Codes.joined(pieces)


def dimensions(document: Document, dim: int | None) -> int:
    """E of a document's vectors [t, E]. Raises UserError for another one than `dim`, or one that codes cannot have."""
    shape = list(document.vectors.shape)
    if len(shape) != 2 or (dim is not None and shape[1] != dim):
        raise UserError(f"passage {document.id!r} has vectors of shape {shape}: all must be [vectors, {dim or 'E'}]")
    if shape[1] % 8 or not shape[1]:
        raise UserError(f"vectors of {shape[1]} dimensions cannot be compressed: a multiple of 8 is needed")
    return int(shape[1])


def _bytes(document: Document) -> int:
    """What a document costs besides its vectors: as Python's objects now, packed soon."""
    return sys.getsizeof(document.id) + sys.getsizeof(document.text) + 100
