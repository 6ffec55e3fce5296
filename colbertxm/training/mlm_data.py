"""From unlabelled text to batches with hidden pieces; resumed at any sample, with the same pieces hidden."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from colbertxm.data.order import Order
from colbertxm.data.unlabelled import Unlabelled
from colbertxm.errors import UserError
from colbertxm.model.encoder import Encoder, length_batches
from colbertxm.model.masking import Ids, Masked, Pieces, mask
from colbertxm.model.packing import Packed, pack
from colbertxm.model.tokens import BOS, EOS

HELD_OUT_EPOCH = 2**32
"""The epoch whose draws the held-out texts get, at every evaluation the same; no training comes to it."""


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


def sentences(encoder: Encoder, corpus: Unlabelled, texts: Sequence[str], maxlen: int) -> list[Sentence]:
    """Token ids of texts in the corpus's language, behind the model's passage prefix, which is how the retriever will
    meet them, and cut at `maxlen` tokens. Texts without any piece of their own are dropped."""
    tokens = encoder.tokens
    prefix = tokens.settings.passage_prefix
    silent = 1 + (len(tokens.words([prefix.rstrip()])[0]) if prefix.strip() else 0)
    adapter = encoder.adapter(corpus.lang)
    found = []
    for pieces in tokens.words([prefix + text for text in texts]):
        ids = np.array([BOS, *pieces[: maxlen - 2], EOS], np.int64)
        if len(ids) > silent + 1:
            found.append(Sentence(ids, range(silent, len(ids) - 1), adapter))
    if not found:
        raise UserError(f"no text in {corpus.lang!r} has a piece within {maxlen} tokens: raise mlm.maxlen")
    return found


def special_tokens(encoder: Encoder) -> frozenset[int]:
    """Ids that are never hidden and never a guess: the ends, padding, `<unk>`, `<mask>`, and added markers."""
    return frozenset(encoder.tokens.tokenizer.get_added_tokens_decoder()) | {BOS, EOS, 1, encoder.tokens.unk_id}


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

    def held_out(self, batch_tokens: int = 2048) -> Iterator[MlmBatch]:
        """All sentences in batches of like length, with the same pieces hidden at every call."""
        adapters = [one.adapter for one in self.sentences]
        for group in length_batches([len(one.ids) for one in self.sentences], adapters, batch_tokens):
            yield self([(HELD_OUT_EPOCH, index) for index in group])


class _Keys(Dataset[tuple[int, int]]):
    """A DataLoader asks a data set for what its sampler names; here that is the sample."""

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, int]:
        return key


class MlmData(L.LightningDataModule):
    """Batches of `batch_size` sentences for `steps` steps. Its state is one number, the samples done."""

    def __init__(self, masking: Masking, batch_size: int, steps: int, seed: int) -> None:
        super().__init__()
        size = len(masking.sentences)
        if size < batch_size:
            raise UserError(f"{size} texts are fewer than mlm.batch_size={batch_size}: lower it, or give more text")
        self.masking, self.batch_size, self.steps, self.seed = masking, batch_size, steps, seed
        self.samples_done = 0

    def train_dataloader(self) -> DataLoader[MlmBatch]:
        """One pass of the batches that are left."""
        order: Any = Order(len(self.masking.sentences), self.batch_size, self.steps, self.seed, self.samples_done)
        keys: Any = _Keys()
        return DataLoader(keys, batch_sampler=order, collate_fn=self.masking)

    def state_dict(self) -> dict[str, int]:
        """Kept in Lightning's checkpoint."""
        return {"samples_done": self.samples_done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on behind the samples done."""
        self.samples_done = state["samples_done"]
