"""From examples to batches: tokenised and packed in workers, in an order that is resumed at any sample.

The state of the stream is one number, the samples done by all ranks together (`data/order.py`): a run that was cut off
goes on with exactly those samples that it has not seen, on any number of ranks and workers.
"""

from __future__ import annotations

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


@dataclass(frozen=True)
class Side:
    """The queries or the passages of a batch. `ids` and `adapters` of each text are kept for a trunk alone."""

    packed: Packed
    ids: tuple[tuple[int, ...], ...] = ()
    adapters: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.packed.lengths)

    @property
    def tokens(self) -> int:
        """Tokens of all texts, none of them padding."""
        return sum(self.packed.lengths)


@dataclass(frozen=True)
class Batch:
    """B queries, then C = B * (1 + N) passages: positives, then first negatives ... `ignore_BC` marks passages
    that share the text of a query's positive, or belong to another query of the same text."""

    queries: Side
    passages: Side
    ignore_BC: Tensor

    def pin_memory(self) -> Batch:
        """In memory from which a GPU reads while the host goes on; the DataLoader asks for it."""
        queries, passages = (replace(s, packed=s.packed.pinned()) for s in (self.queries, self.passages))
        return Batch(queries, passages, self.ignore_BC.pin_memory())


class Collate:
    """Triples to a batch. Holds what a worker needs and not the model, so that it travels to other processes."""

    def __init__(self, encoder: Encoder, keep_ids: bool) -> None:
        self.tokens: Tokens = encoder.tokens
        self.adapters: Mapping[str, str] = {code: encoder.adapter(code) for code in encoder.languages}
        self.pad = encoder.xmod.config.pad_token_id
        self.keep_ids = keep_ids

    def __call__(self, triples: Sequence[Triple]) -> Batch:
        """Tokenise and pack a batch, and mark its false negatives."""
        queries = [triple.query for triple in triples]
        passages = [triple.positive for triple in triples]
        for negatives in zip(*(triple.negatives for triple in triples), strict=True):
            passages += negatives
        marks = false_negatives(queries, passages)
        return Batch(self._side(queries, "query"), self._side(passages, "passage"), marks)

    def _side(self, texts: Sequence[Text], kind: Kind) -> Side:
        found = self.tokens(texts, kind)
        adapters = tuple(self._adapter(text) for text in texts)
        ids = tuple(text.ids for text in found)
        packed = pack(ids, adapters, self.pad, [text.keep for text in found])
        return Side(packed, ids, adapters) if self.keep_ids else Side(packed)

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
    """Batches of `examples` for `steps` steps of `batch_size` queries over all ranks; `subset` takes that many of the
    examples, the same ones for a seed and nested in larger subsets. `prepare` is called on one process before all."""

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
    ) -> None:
        super().__init__()
        size = len(examples) if subset is None else subset
        if size < batch_size:
            raise UserError(f"{size} training triples are fewer than batch_size={batch_size}: lower it")
        examples.check(negatives)
        self.examples, self.size = examples, size
        self.subset = None if subset is None else Subset(len(examples), subset, seed)
        self.batch_size, self.steps, self.negatives, self.seed = batch_size, steps, negatives, seed
        self.workers = workers
        self.pools = list(pools)
        self.collate = Collate(encoder, keep_ids)
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


def false_negatives(queries: Sequence[Text], passages: Sequence[Text]) -> Tensor:
    """Mask [B, C]: passage c is not row b's own positive (c == b), but has the same text as that positive or is the
    positive of another query with the same text as query b. Such passages answer the query too."""
    B = len(queries)
    answers: dict[str, set[str]] = {}
    for query, positive in zip(queries, passages[:B], strict=True):
        answers.setdefault(query.text.casefold(), set()).add(positive.text.casefold())
    columns: dict[str, list[int]] = {}
    for c, passage in enumerate(passages):
        columns.setdefault(passage.text.casefold(), []).append(c)
    marks = torch.zeros(B, len(passages), dtype=torch.bool)
    for b, query in enumerate(queries):
        for answer in answers[query.text.casefold()]:
            marks[b, columns[answer]] = True
        marks[b, b] = False
    return marks
