"""The head of masked-language modelling, RoBERTa's: dense, GELU, LayerNorm, and a decoder that is the word embeddings.

facebook/xmod-base brings its own (`lm_head.*` under transformers' names), `small` has none and never learnt its
`<mask>`: there the head is trained first, over the frozen encoder, and with it a vector that stands for `<mask>`. That
vector lies with the head and never in the model, so the encoder stays what it was for every text without a mask.

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
MASK = "mask_embedding"
KIND = "colbertxm-mlm-head"


class MlmHead(nn.Module):
    """`bias` is [V]; `mask_embedding` [H] stands in for the embeddings' row of `<mask>`, None where that one is good.
    The decoder's matrix is not here: it is the word embeddings, handed over by whoever calls."""

    def __init__(self, config: XmodConfig, own_mask: bool) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.mask_embedding = nn.Parameter(torch.zeros(config.hidden_size)) if own_mask else None

    def forward(self, states_MH: Tensor, table_RH: Tensor, bias_R: Tensor) -> Tensor:
        """Logits [M, R] of the pieces whose embeddings and biases are given."""
        return F.linear(self.layer_norm(F.gelu(self.dense(states_MH))), table_RH, bias_R)


@torch.no_grad()
def start_head(xmod: Xmod, pieces: Pieces, mask_id: int, seed: int) -> MlmHead:
    """An untrained head: small random weights as RoBERTa's, and for biases the log of each piece's share among the
    texts, a half added to every count. So that training need not spend its steps on learning which pieces are frequent;
    a piece that never occurred has the lowest. The mask's vector starts as the embeddings' own row."""
    head = MlmHead(xmod.config, own_mask=True)
    generator = torch.Generator().manual_seed(seed)
    head.dense.weight.copy_(torch.randn(head.dense.weight.shape, generator=generator) * 0.02)
    head.dense.bias.zero_()
    counts = torch.full((xmod.config.vocab_size,), 0.5)
    counts[torch.from_numpy(pieces.ids)] += torch.from_numpy(pieces.counts)
    head.bias.copy_((counts / counts.sum()).log())
    assert head.mask_embedding is not None
    head.mask_embedding.copy_(xmod.embeddings.word_embeddings.weight[mask_id])
    return head


class Guesser(nn.Module):
    """An X-MOD that guesses hidden pieces: the encoder, the head, and the embeddings of the pieces that can occur."""

    rows_R: Tensor
    table_RH: Tensor

    def __init__(self, xmod: Xmod, head: MlmHead, pieces: Pieces, mask_id: int) -> None:
        super().__init__()
        self.xmod, self.head, self.mask_id = xmod, head, mask_id
        rows = torch.from_numpy(pieces.ids)
        self.register_buffer("rows_R", rows, persistent=False)
        # Frozen in every stage, so copied once: gathering it anew would cost as much as the product with it.
        self.register_buffer("table_RH", xmod.embeddings.word_embeddings.weight.detach()[rows], persistent=False)

    def forward(self, batch: Packed, places_M: Tensor) -> Tensor:
        """Logits [M, R] at the hidden places, which count the batch's tokens in the caller's order."""
        hidden_TH = self.xmod(batch, self.embed(batch))
        return self.head(hidden_TH[places_M], self.table_RH, self.head.bias[self.rows_R])

    def embed(self, batch: Packed) -> Tensor:
        """The embeddings [T, H] in the caller's order, as X-MOD makes them but for the mask's own vector."""
        parts, own = self.xmod.embeddings, self.head.mask_embedding
        words_TH = parts.word_embeddings(batch.ids_T)
        if own is not None:
            words_TH = torch.where((batch.ids_T == self.mask_id)[:, None], own, words_TH)
        words_TH = words_TH + parts.token_type_embeddings.weight[0]
        states_TH: Tensor = parts.LayerNorm(words_TH + parts.position_embeddings(batch.positions_T))
        return states_TH if batch.restore_T is None else states_TH[batch.restore_T]

    def loss(self, batch: Packed, places_M: Tensor, rows_M: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of the cross-entropies in nats over the hidden places, and how many were guessed right. 0 of no
        places at all, and not the NaN of a mean."""
        logits_MR = self(batch, places_M).float()
        right = (logits_MR.argmax(1) == rows_M).sum() if len(rows_M) else torch.zeros((), dtype=torch.int64)
        return F.cross_entropy(logits_MR, rows_M, reduction="sum"), right


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
    write_noted(path, {_stored(name): tensor for name, tensor in head.state_dict().items()}, KIND, notes)


def read_head(path: Path, config: XmodConfig) -> tuple[MlmHead, dict[str, Any]]:
    """A head that `write_head` wrote, and its notes. Raises UserError where it is damaged, foreign or of another
    shape."""
    tensors, notes = read_noted(path, KIND, "a head of masked-language modelling")
    return _filled(config, {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}, str(path)), notes


def _stored(name: str) -> str:
    return name if name == MASK else PREFIX + name


def _filled(config: XmodConfig, tensors: Mapping[str, Tensor], where: str) -> MlmHead:
    head = MlmHead(config, own_mask=MASK in tensors)
    for name, expected in head.state_dict().items():
        got = tuple(tensors[name].shape) if name in tensors else None
        if got != tuple(expected.shape):
            raise UserError(
                f"{where}: {name} has shape {got}, this model needs {tuple(expected.shape)}: it is another model's"
            )
    head.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return head
