"""The head of masked-language modelling, RoBERTa's: dense, GELU, LayerNorm, and a decoder that is the word embeddings.

facebook/xmod-base brings its own (`lm_head.*` under transformers' names). `small` has none: there the head is trained
first, over the frozen encoder, whose row for `<mask>` stays what it is.

Shapes: T tokens of a batch, M hidden ones, R pieces among which they are sought, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from colbertxm.errors import UserError
from colbertxm.model.masking import Pieces
from colbertxm.model.noted_tensors import read_noted, write_noted
from colbertxm.model.packing import Packed
from colbertxm.model.weights import locate
from colbertxm.model.xmod import Xmod, XmodConfig

PREFIX = "lm_head."
TENSORS = ("dense.weight", "dense.bias", "layer_norm.weight", "layer_norm.bias", "bias")
KIND, NOUN = "colbertxm-mlm-head", "a head of masked-language modelling"
START_GAIN = 0.3
"""Of an untrained head's LayerNorm. With 1 its random guesses drown the frequencies."""


class MlmHead(nn.Module):
    """`bias` is [V]. The decoder's matrix is not here: it is the word embeddings, handed over by whoever calls."""

    def __init__(self, config: XmodConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, states_MH: Tensor, table_RH: Tensor, bias_R: Tensor) -> Tensor:
        """Logits [M, R] of the pieces whose embeddings and biases are given."""
        return F.linear(self.layer_norm(F.gelu(self.dense(states_MH))), table_RH, bias_R)


@torch.no_grad()
def start_head(config: XmodConfig, pieces: Pieces, seed: int) -> MlmHead:
    """An untrained head: small random weights as RoBERTa's, and for biases the log of each piece's share among the
    texts, a half added to every count. So training need not spend its steps on learning which pieces are frequent; a
    piece that never occurred has the lowest."""
    head = MlmHead(config)
    generator = torch.Generator().manual_seed(seed)
    head.dense.weight.copy_(torch.randn(head.dense.weight.shape, generator=generator) * 0.02)
    head.dense.bias.zero_()
    head.layer_norm.weight.fill_(START_GAIN)
    counts = torch.full((config.vocab_size,), 0.5)
    counts[torch.from_numpy(pieces.ids)] += torch.from_numpy(pieces.counts)
    head.bias.copy_((counts / counts.sum()).log())
    return head


class Guesser(nn.Module):
    """An X-MOD that guesses hidden pieces: the encoder, the head, and the embeddings of the pieces that can occur."""

    rows_R: Tensor
    table_RH: Tensor

    def __init__(self, xmod: Xmod, head: MlmHead, pieces: Pieces) -> None:
        super().__init__()
        self.xmod, self.head = xmod, head
        rows = torch.from_numpy(pieces.ids)
        self.register_buffer("rows_R", rows, persistent=False)
        # Frozen in every stage, so copied once: gathering it anew would cost as much as the product with it.
        self.register_buffer("table_RH", xmod.embeddings.word_embeddings.weight.detach()[rows], persistent=False)

    def forward(self, batch: Packed, places_M: Tensor) -> Tensor:
        """Logits [M, R] at the hidden places, which count the batch's tokens in the caller's order."""
        return self.guess(self.states(batch, places_M))

    def states(self, batch: Packed, places_M: Tensor) -> Tensor:
        """The encoder's last hidden states [M, H] there."""
        states_TH: Tensor = self.xmod(batch)
        return states_TH[places_M]

    def guess(self, states_MH: Tensor) -> Tensor:
        """Logits [M, R] from such states."""
        logits_MR: Tensor = self.head(states_MH, self.table_RH, self.head.bias[self.rows_R])
        return logits_MR


def has_head(folder: Path) -> bool:
    """Whether a checkpoint brings a trained head, as facebook/xmod-base does."""
    found = locate(folder)
    prefix = found.prefix.removesuffix("roberta.")
    return all(prefix + PREFIX + name in found.files for name in TENSORS)


def head_of_checkpoint(folder: Path, config: XmodConfig) -> MlmHead:
    """The head that a checkpoint in transformers' layout brings. Raises UserError where it is not whole."""
    found = locate(folder)
    names = {name: found.prefix.removesuffix("roberta.") + PREFIX + name for name in TENSORS}
    read = found.read(list(names.values()))
    return _filled(config, {name: read[stored] for name, stored in names.items()}, str(folder))


def write_head(path: Path, head: MlmHead, notes: Mapping[str, Any]) -> None:
    """One safetensors file, under transformers' names, with `notes` in its header."""
    write_noted(path, {PREFIX + name: tensor for name, tensor in head.state_dict().items()}, KIND, notes)


def read_head(path: Path, config: XmodConfig) -> tuple[MlmHead, dict[str, Any]]:
    """A head that `write_head` wrote, and its notes. Raises UserError where it is damaged, foreign or of another
    shape."""
    tensors, notes = read_noted(path, KIND, NOUN)
    return _filled(config, {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}, str(path)), notes


def _filled(config: XmodConfig, tensors: Mapping[str, Tensor], where: str) -> MlmHead:
    head = MlmHead(config)
    for name, expected in head.state_dict().items():
        got = tuple(tensors[name].shape) if name in tensors else None
        if got != tuple(expected.shape):
            raise UserError(
                f"{where}: {name} has shape {got}, this model needs {tuple(expected.shape)}: it is another model's"
            )
    head.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return head
