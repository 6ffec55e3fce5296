"""Training triples in an order that is a pure function of (seed, epoch), resumed at any sample.

An epoch visits every triple once; which of its hard negatives a triple brings is drawn from (seed, epoch, triple)
too. The state of the stream is one number, the samples done, so a run that was cut off goes on with exactly
those samples that it has not seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from colbertxm.data.collection import Collection
from colbertxm.errors import UserError
from colbertxm.model.encoder import Encoder
from colbertxm.model.tokens import Tokenised
from colbertxm.records import Text, Triple


@dataclass(frozen=True)
class Batch:
    """B queries, then C = B * (1 + N) passages: positives, then first negatives ... `ignore_BC` marks passages
    that share the text of a query's positive, or belong to another query of the same text."""

    queries: list[Tokenised]
    passages: list[Tokenised]
    query_adapters: list[str]
    passage_adapters: list[str]
    ignore_BC: Tensor


class Order:
    """Batches of (epoch, index), `steps` of them, from sample `done` on. Its length stays that of the whole run."""

    def __init__(self, size: int, batch_size: int, steps: int, seed: int, done: int = 0) -> None:
        self.size, self.batch_size, self.steps, self.seed, self.done = size, batch_size, steps, seed, done

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for start in range(self.done, self.steps * self.batch_size, self.batch_size):
            yield [self.sample(i) for i in range(start, start + self.batch_size)]

    def sample(self, i: int) -> tuple[int, int]:
        """(epoch, index of the triple) of the run's sample i."""
        epoch, position = divmod(i, self.size)
        return epoch, int(self._permutation(epoch)[position])

    def _permutation(self, epoch: int) -> Tensor:
        if getattr(self, "_cached", (-1, None))[0] != epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._cached = (epoch, torch.randperm(self.size, generator=generator))
        return self._cached[1]


class Triples(Dataset[tuple[Triple, int]]):
    """Triples by (epoch, index), each with the number of the hard negative that it starts from in that epoch."""

    def __init__(self, triples: Sequence[Triple], seed: int) -> None:
        self.triples, self.seed = triples, seed

    def __len__(self) -> int:
        return len(self.triples)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Triple, int]:
        epoch, index = key
        triple = self.triples[index]
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) * 1_000_003 + index)
        first = int(torch.randint(max(1, len(triple.negatives)), (1,), generator=generator))
        return triple, first


class TripleData(L.LightningDataModule):
    """Batches of `triples` for `steps` steps. Tokenisation is the encoder's own, so both see the same ids."""

    def __init__(
        self,
        triples: Sequence[Triple],
        encoder: Encoder,
        batch_size: int,
        steps: int,
        negatives: int,
        seed: int,
        pools: Sequence[Collection] = (),
    ) -> None:
        super().__init__()
        if len(triples) < batch_size:
            raise UserError(f"{len(triples)} training triples are fewer than batch_size={batch_size}: lower it")
        fewest = min(len(triple.negatives) for triple in triples)
        if fewest < negatives:
            raise UserError(f"a triple has {fewest} hard negatives, but data.negatives={negatives}: lower it")
        self.triples, self.encoder = triples, encoder
        self.batch_size, self.steps, self.negatives, self.seed = batch_size, steps, negatives, seed
        self.pools = list(pools)
        self.samples_done = 0

    def train_dataloader(self) -> DataLoader[Batch]:
        """One pass of `steps` batches; after a resume those that are left."""
        order = Order(len(self.triples), self.batch_size, self.steps, self.seed, self.samples_done)
        items: Dataset[Any] = Triples(self.triples, self.seed)
        return DataLoader(items, batch_sampler=order, collate_fn=self.collate)

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

    def collate(self, items: list[tuple[Triple, int]]) -> Batch:
        """Tokenise a batch and mark its false negatives."""
        triples = [triple for triple, _ in items]
        queries = [triple.query for triple in triples]
        passages = [triple.positive for triple in triples]
        for n in range(self.negatives):
            passages += [t.negatives[(first + n) % len(t.negatives)] for t, first in items]
        return Batch(
            self.encoder.tokenise(queries, "query"),
            self.encoder.tokenise(passages, "passage"),
            [self.encoder.adapter(text.lang) for text in queries],
            [self.encoder.adapter(text.lang) for text in passages],
            false_negatives(queries, passages),
        )


def _as_it_is(pool: Any) -> Any:
    return pool


def false_negatives(queries: Sequence[Text], passages: Sequence[Text]) -> Tensor:
    """Mask [B, C]: passage c is not row b's own positive (c == b), but has the same text as that positive or is the
    positive of another query with the same text as query b. Such passages answer the query too."""
    B, C = len(queries), len(passages)
    answers: dict[str, set[str]] = {}
    for query, positive in zip(queries, passages[:B], strict=True):
        answers.setdefault(query.text.casefold(), set()).add(positive.text.casefold())
    return torch.tensor(
        [
            [c != b and passages[c].text.casefold() in answers[queries[b].text.casefold()] for c in range(C)]
            for b in range(B)
        ]
    )
