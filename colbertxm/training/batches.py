"""From examples to batches: tokenised and packed in workers, in an order that is resumed at any sample.

The state of the stream is one number, the samples done by all ranks together (`data/order.py`): a run that was cut off
goes on with exactly those samples that it has not seen, on any number of ranks and workers.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from colbertxm.data.collection import Collection
from colbertxm.data.examples import Examples, Key
from colbertxm.data.order import Order
from colbertxm.data.sampling import Subset
from colbertxm.errors import UserError
from colbertxm.languages import language
from colbertxm.model.encoder import Encoder
from colbertxm.model.packing import Packed, pack
from colbertxm.model.tokens import Kind, Tokens
from colbertxm.records import Text, Triple
from colbertxm.training.marks import text_keys


@dataclass(frozen=True)
class Side:
    """The queries or the passages of a batch, in parts that are encoded one after another; without cached gradients
    there is one. `ids` and `adapters` of each text are kept for a trunk alone."""

    parts: tuple[Packed, ...]
    ids: tuple[tuple[int, ...], ...] = ()
    adapters: tuple[str, ...] = ()

    def __len__(self) -> int:
        return sum(len(part.lengths) for part in self.parts)

    @property
    def tokens(self) -> int:
        """Tokens of all texts, none of them padding."""
        return sum(sum(part.lengths) for part in self.parts)

    def pieces(self) -> list[Side]:
        """Each part as a side of its own."""
        stops = list(itertools.accumulate(len(part.lengths) for part in self.parts))
        spans = [slice(stop - len(part.lengths), stop) for part, stop in zip(self.parts, stops, strict=True)]
        return [
            Side((part,), self.ids[span], self.adapters[span]) for part, span in zip(self.parts, spans, strict=True)
        ]

    def pinned(self) -> Side:
        """In memory from which a GPU reads while the host goes on."""
        return replace(self, parts=tuple(part.pinned() for part in self.parts))


@dataclass(frozen=True)
class Batch:
    """B queries, then C = B * (1 + N) passages: positives, then first negatives ... The keys tell which texts are the
    same (`marks.text_keys`); `teacher_BK` are a teacher's scores of each query's K = 1 + N own passages."""

    queries: Side
    passages: Side
    query_keys: Tensor
    passage_keys: Tensor
    teacher_BK: Tensor | None = None

    def pin_memory(self) -> Batch:
        """The DataLoader asks for it. Keys and scores are a few kilobytes, and travel as they are."""
        return replace(self, queries=self.queries.pinned(), passages=self.passages.pinned())


class Collate:
    """Triples to a batch, its texts in parts of at most `chunk` where that is given. Holds what a worker needs and not
    the model, so that it travels to other processes."""

    def __init__(self, encoder: Encoder, keep_ids: bool, chunk: int | None = None) -> None:
        self.tokens: Tokens = encoder.tokens
        self.adapters: Mapping[str, str] = {code: encoder.adapter(code) for code in encoder.languages}
        self.pad = encoder.xmod.config.pad_token_id
        self.keep_ids, self.chunk = keep_ids, chunk

    def __call__(self, triples: Sequence[Triple]) -> Batch:
        """Tokenise and pack a batch."""
        queries = [triple.query for triple in triples]
        passages = [triple.positive for triple in triples]
        for negatives in zip(*(triple.negatives for triple in triples), strict=True):
            passages += negatives
        scored = all(triple.scores for triple in triples)
        teacher = torch.tensor([triple.scores for triple in triples]) if scored else None
        sides = self._side(queries, "query"), self._side(passages, "passage")
        return Batch(*sides, text_keys(queries), text_keys(passages), teacher)

    def _side(self, texts: Sequence[Text], kind: Kind) -> Side:
        found = self.tokens(texts, kind)
        adapters = tuple(self._adapter(text) for text in texts)
        ids = tuple(text.ids for text in found)
        size = self.chunk or len(texts)
        spans = [slice(start, start + size) for start in range(0, len(texts), size)]
        parts = (pack(ids[s], adapters[s], self.pad, [text.keep for text in found[s]]) for s in spans)
        return Side(tuple(parts), ids, adapters) if self.keep_ids else Side(tuple(parts))

    def _adapter(self, text: Text) -> str:
        code = language(text.lang).code
        if code not in self.adapters:
            raise UserError(
                f"text {text.id!r} is in {code!r}, of which the model has no adapter: name it in model.languages"
            )
        return self.adapters[code]


class _Reader(Dataset[Triple]):
    """A DataLoader's view of `Examples`: a whole batch of keys at a time."""

    def __init__(self, examples: Examples, negatives: int) -> None:
        self.examples, self.negatives = examples, negatives

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, key: Key) -> Triple:
        return self.examples.read([key], self.negatives)[0]

    def __getitems__(self, keys: list[Key]) -> list[Triple]:
        return self.examples.read(keys, self.negatives)


class RetrievalData(L.LightningDataModule):
    """Batches of `examples` for `steps` steps of `accumulate` batches, each of `batch_size` queries over all ranks.
    `subset` takes that many of the examples, the same ones for a seed and nested in larger subsets; `chunk` is the most
    texts in a part of a batch (cached gradients)."""

    def __init__(
        self,
        examples: Examples,
        encoder: Encoder,
        batch_size: int,
        steps: int,
        negatives: int,
        seed: int,
        pools: Sequence[Collection] = (),
        workers: int = 0,
        subset: int | None = None,
        keep_ids: bool = False,
        accumulate: int = 1,
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        if len(examples) < batch_size:
            raise UserError(f"{len(examples)} training triples are fewer than batch_size={batch_size}: lower it")
        # A subset below that is somebody's will: a batch then holds a triple more than once, and copies are no
        # negatives of one another (colbertxm.training.marks).
        size = len(examples) if subset is None else subset
        examples.check(negatives)
        self.examples, self.size = examples, size
        self.subset = None if subset is None else Subset(len(examples), subset, seed)
        self.batch_size, self.negatives, self.seed = batch_size, negatives, seed
        self.steps = steps * accumulate
        """Batches in all."""
        self.workers = workers
        self.pools = list(pools)
        self.collate = Collate(encoder, keep_ids, chunk)
        self.samples_done = 0

    def order(self) -> Order:
        """This rank's batches of (epoch, index) that are left."""
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return Order(self.size, self.batch_size, self.steps, self.seed, self.samples_done, rank, world, self.subset)

    def train_dataloader(self) -> DataLoader[Batch]:
        """One pass of `steps` batches; after a resume those that are left."""
        reader: Any = _Reader(self.examples, self.negatives)
        start: Callable[[int], None] | None = _start_worker if self.workers else None
        return DataLoader(
            reader,
            batch_sampler=self.order(),
            collate_fn=self.collate,
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=start,
        )

    def val_dataloader(self) -> DataLoader[Collection]:
        """One development pool is one validation batch."""
        pools: Any = self.pools
        return DataLoader(pools, batch_size=None, collate_fn=_as_it_is)

    def state_dict(self) -> dict[str, int]:
        """The samples done, kept in Lightning's checkpoint."""
        return {"samples_done": self.samples_done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on behind the samples done."""
        self.samples_done = state["samples_done"]


def _start_worker(worker: int) -> None:
    # Workers are as many as the user wants cores at work; the tokenizer's own threads would multiply them.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _as_it_is(pool: Any) -> Any:
    return pool
