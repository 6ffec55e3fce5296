"""From unlabelled text to batches with hidden pieces; resumed at any sample, with the same pieces hidden."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from colbertxm.data.order import Order
from colbertxm.errors import UserError
from colbertxm.model.encoder import Encoder, length_batches
from colbertxm.model.masking import Ids, Masked, Pieces, mask
from colbertxm.model.packing import Packed, pack
from colbertxm.model.tokens import BOS, EOS

FIXED_EPOCH = 2**32
"""The epoch whose draws texts get that are read once or measured; no training comes to it."""


@dataclass(frozen=True)
class Sentence:
    """One text: its token ids, the places that may be hidden, and the adapter that reads it."""

    ids: Ids
    free: range
    adapter: str


@dataclass(frozen=True)
class MlmBatch:
    """M hidden places, counted over the batch's tokens, and which of the pieces stood there."""

    packed: Packed
    places_M: Tensor
    rows_M: Tensor


@dataclass(frozen=True)
class States:
    """The encoder's last hidden states at M hidden places, and which of the pieces stood there."""

    states_MH: Tensor
    rows_M: Tensor

    def __call__(self, keys: Sequence[tuple[int, int]]) -> States:
        """The batch of (epoch, index) `keys`."""
        chosen = torch.tensor([index for _, index in keys])
        return States(self.states_MH[chosen], self.rows_M[chosen])


def sentences(encoder: Encoder, lang: str, texts: Sequence[str], maxlen: int) -> list[Sentence]:
    """Token ids of texts in one language, behind the model's passage prefix, which is how the retriever will meet them,
    and cut at `maxlen` tokens. The prefix is never hidden. Raises UserError where no text has a piece of its own."""
    tokens = encoder.tokens
    prefix = tokens.settings.passage_prefix
    silent = 1 + (len(tokens.words([prefix.rstrip()])[0]) if prefix.strip() else 0)
    adapter = encoder.adapter(lang)
    found = []
    for pieces in tokens.words([prefix + text for text in texts]):
        ids = np.array([BOS, *pieces[: maxlen - 2], EOS], np.int64)
        if len(ids) > silent + 1:
            found.append(Sentence(ids, range(silent, len(ids) - 1), adapter))
    if not found:
        raise UserError(f"no text in {lang!r} has a piece within {maxlen} tokens: raise mlm.maxlen")
    return found


def pieces_of(encoder: Encoder, train: Sequence[Sentence], held_out: Sequence[Sentence], full: bool) -> Pieces:
    """The pieces that can be hidden: those that occur in either, or, with `full`, all that the tokenizer has; counted
    in `train`. Never the ends, padding, `<unk>`, `<mask>` or added markers."""
    tokenizer = encoder.tokens.tokenizer
    special = frozenset(tokenizer.get_added_tokens_decoder()) | {BOS, EOS, encoder.tokens.unk_id}
    special |= {encoder.tokens.mask_id, encoder.xmod.config.pad_token_id}
    counted = Pieces.of([one.ids for one in train], special)
    if full:
        ids = np.array([i for i in range(tokenizer.get_vocab_size()) if i not in special], np.int64)
    else:
        ids = Pieces.of([one.ids for one in (*train, *held_out)], special).ids
    counts = np.zeros(len(ids), np.int64)
    counts[np.searchsorted(ids, counted.ids)] = counted.counts
    return Pieces(ids, counts)


class Masking:
    """Sentences to a batch. Holds what is needed and not the model."""

    def __init__(self, sentences: Sequence[Sentence], pieces: Pieces, mask_id: int, pad: int, seed: int) -> None:
        self.sentences, self.pieces, self.mask_id, self.pad, self.seed = sentences, pieces, mask_id, pad, seed

    def __call__(self, keys: Sequence[tuple[int, int]]) -> MlmBatch:
        """The batch of (epoch, index) `keys`."""
        chosen = [self.sentences[index] for _, index in keys]
        hidden = [
            mask(one.ids, one.free, self.pieces, self.mask_id, (self.seed, epoch, index))
            for one, (epoch, index) in zip(chosen, keys, strict=True)
        ]
        return self._batch(chosen, hidden)

    def _batch(self, chosen: Sequence[Sentence], hidden: Sequence[Masked]) -> MlmBatch:
        starts = np.cumsum([0, *(len(one.ids) for one in chosen[:-1])])
        places = np.concatenate([start + one.places for start, one in zip(starts, hidden, strict=True)])
        rows = self.pieces.rows(np.concatenate([one.labels for one in hidden]))
        packed = pack([one.ids.tolist() for one in hidden], [one.adapter for one in chosen], self.pad)
        return MlmBatch(packed, torch.from_numpy(places), torch.from_numpy(rows))

    def all_texts(self, batch_tokens: int = 2048) -> Iterator[MlmBatch]:
        """All sentences once, in batches of like length, with the same pieces hidden at every call."""
        adapters = [one.adapter for one in self.sentences]
        for group in length_batches([len(one.ids) for one in self.sentences], adapters, batch_tokens):
            yield self([(FIXED_EPOCH, index) for index in group])


class _Keys(Dataset[tuple[int, int]]):
    """A DataLoader asks a data set for what its sampler names; here that is the sample."""

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, int]:
        return key


class MlmData(L.LightningDataModule):
    """Batches of `batch_size` of `size` samples for `steps` steps, made by `collate`. Its state is one number, the
    samples done. `what` names samples and setting for messages."""

    def __init__(
        self, collate: Callable[[Any], Any], size: int, batch_size: int, steps: int, seed: int, what: str
    ) -> None:
        super().__init__()
        if size < batch_size:
            raise UserError(f"{size} {what}={batch_size}: lower it, or give more text")
        self.collate, self.size, self.batch_size, self.steps, self.seed = collate, size, batch_size, steps, seed
        self.samples_done = 0

    def train_dataloader(self) -> DataLoader[Any]:
        """One pass of the batches that are left."""
        order: Any = Order(self.size, self.batch_size, self.steps, self.seed, self.samples_done)
        keys: Any = _Keys()
        return DataLoader(keys, batch_sampler=order, collate_fn=self.collate)

    def state_dict(self) -> dict[str, int]:
        """Kept in Lightning's checkpoint."""
        return {"samples_done": self.samples_done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on behind the samples done."""
        self.samples_done = state["samples_done"]
