"""The one-machine build whose shards are encoded elsewhere.

A shard is what `Retriever` encodes at a time anyway, PASSAGES neighbouring passages: whoever makes its vectors, with
the same weights, libraries, kind of machine and number of threads, makes the same ones, and all that follows happens in
the coordinator, in order, by the code of a build without a cluster. So the index has the same bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from colbertxm import retriever
from colbertxm.cluster.journal import InMemory, Journal, Shard, Shards
from colbertxm.cluster.window import Pool, Task, in_order
from colbertxm.errors import UserError
from colbertxm.files import refusals
from colbertxm.languages import language
from colbertxm.model.encoder import Encoder
from colbertxm.records import Text
from colbertxm.retriever import Progress, Retriever

if TYPE_CHECKING:
    from colbertxm.engine.index import Document


def encoded(worker: Retriever, texts: Sequence[Text]) -> Shard:
    """A shard's vectors as an index keeps them, float16."""
    vectors = worker.encode(texts, "passage")
    values = vectors.values.detach().to("cpu", torch.float16).numpy()
    return Shard(values, vectors.offsets.diff().numpy().astype(np.int32))


class ClusterRetriever(Retriever):
    """Writes compressed indexes with the vectors that the workers of `pool` make. Its own encoder only counts tokens
    and names the model."""

    def __init__(self, encoder: Encoder, pool: Pool, retries: int = 3) -> None:
        super().__init__(encoder)
        self.pool, self.retries = pool, retries
        self._journal: Journal | None = None
        self._index: Path | None = None
        self._name = ""

    def write(
        self,
        folder: Path,
        passages: Sequence[Text],
        meta: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
        dtype: str = "float16",
        progress: Progress | None = None,
        bits: int | None = None,
        memory_mb: int = 1024,
        seed: int = 0,
    ) -> None:
        """As `Retriever.write`. Raises UserError without `bits`."""
        if bits is None:
            raise UserError("a cluster builds compressed indexes alone: give bits=4 (or 1, 2, 8)")
        self._index, self._journal = folder, None
        try:
            super().write(folder, passages, meta, dtype, progress, bits, memory_mb, seed)
        finally:
            self.pool.close()
        if self._journal is not None:
            self._journal.discard()

    def _source(self, passages: Sequence[Text]) -> str:
        self._name = super()._source(passages)
        return self._name

    def _documents(
        self, passages: Sequence[Text], chosen: Sequence[int] | npt.NDArray[np.int64], progress: Progress | None = None
    ) -> Iterator[Document]:
        """The passages at the places `chosen`: the stream's are a range, and finished shards of it are kept; a
        sample's are not, for it ends when the build has enough."""
        from colbertxm.engine.index import Document

        size = retriever.PASSAGES
        before = int(chosen[0]) // size if isinstance(chosen, range) and len(chosen) else 0

        def tasks() -> Iterator[Task]:
            for start in range(0, len(chosen), size):
                yield before + start // size, [passages[int(n)] for n in chosen[start : start + size]]

        shards: Shards = self._opened() if isinstance(chosen, range) else InMemory()
        with closing(in_order(self.pool, tasks(), shards, self.retries, _note)) as finished:
            for texts, shard in finished:
                values = torch.from_numpy(shard.values)
                for text, vectors in zip(texts, values.split(shard.lengths.tolist()), strict=True):
                    yield Document(text.id, language(text.lang).code, vectors, text.text, text.lang_confidence)
                if progress is not None:
                    progress(len(texts))
                if self._journal is not None:
                    self._journal.forget(size)

    def _opened(self) -> Journal:
        """The journal: here, inside the build, which is the folder's only writer now."""
        assert self._index is not None
        with refusals(self._index):
            self._journal = Journal(self._index, self._name)
        return self._journal


def _note(message: str) -> None:
    print(f"colbertxm: {message}", file=sys.stderr, flush=True)
