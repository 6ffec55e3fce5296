"""The X-MOD encoder with a routing of our own: packed tokens in, hidden states out.

Why not transformers' XmodModel: it visits every adapter of every layer with a boolean mask (81 x 12 index
operations a batch), fails under bf16 autocast, gives absent languages a zero gradient instead of none (so
that AdamW moves them) and falls back to a default language in silence. Here a batch knows its language runs
before it enters the first layer, a layer touches only the adapters that the batch names, and there is no
default language. Parameter names are those of transformers, so its checkpoints load unchanged
(tests/test_xmod.py holds values and gradients against it).

Shapes: T tokens of the batch end to end without padding, B texts, L the longest text, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from colbertxm.errors import UserError


@dataclass(frozen=True)
class XmodConfig:
    """The fields of transformers' XmodConfig that shape the computation, under the same names."""

    vocab_size: int
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 514
    type_vocab_size: int = 1
    layer_norm_eps: float = 1e-5
    pad_token_id: int = 1
    adapter_reduction_factor: int = 2
    adapter_layer_norm: bool = False
    adapter_reuse_layer_norm: bool = True
    ln_before_adapter: bool = True
    languages: tuple[str, ...] = ("en_XX",)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> XmodConfig:
        """From a transformers config.json. Raises UserError for a model that is no post-norm X-MOD."""
        if values.get("model_type") != "xmod":
            raise UserError(f"the checkpoint's model_type is {values.get('model_type')!r}; colbertxm needs 'xmod'")
        if values.get("pre_norm"):
            raise UserError("pre_norm X-MOD checkpoints are not supported; facebook/xmod-base is post-norm")
        known = {field.name for field in fields(cls)}
        return cls(**{**{k: v for k, v in values.items() if k in known}, "languages": tuple(values["languages"])})

    def to_dict(self) -> dict[str, Any]:
        """As a transformers config.json."""
        return {
            "model_type": "xmod",
            "architectures": ["XmodModel"],
            **asdict(self),
            "languages": list(self.languages),
            "hidden_act": "gelu",
            "pre_norm": False,
            "default_language": None,
            "bos_token_id": 0,
            "eos_token_id": 2,
        }


@dataclass(frozen=True)
class Grid:
    """Texts of like length in a padded [B, L] grid, which attention alone needs: `tokens` are their places among
    the packed tokens, `slots` the same tokens' places in the flattened grid, `mask_BL` is None where all are full."""

    tokens: Tensor
    slots: Tensor
    shape: tuple[int, int]
    mask_BL: Tensor | None


@dataclass(frozen=True)
class Packed:
    """Texts of a batch laid end to end. `runs` are (adapter, first token, past the last token), all tokens once."""

    ids_T: Tensor
    positions_T: Tensor
    lengths: tuple[int, ...]
    runs: tuple[tuple[str, int, int], ...]
    grids: tuple[Grid, ...]

    def to(self, device: torch.device | str) -> Packed:
        """The same batch with its tensors on `device`."""
        grids = tuple(
            Grid(
                g.tokens.to(device),
                g.slots.to(device),
                g.shape,
                None if g.mask_BL is None else g.mask_BL.to(device),
            )
            for g in self.grids
        )
        return Packed(self.ids_T.to(device), self.positions_T.to(device), self.lengths, self.runs, grids)


def pack(ids: Sequence[Sequence[int]], adapters: Sequence[str], pad_token_id: int = 1) -> Packed:
    """Lay token ids end to end; `adapters[i]` is the adapter of text i. Positions start after the padding id,
    as in RoBERTa (fairseq's convention). Neighbours of one language make one run. Computed once per batch on the
    host, so that no layer has to ask the device anything."""
    lengths = tuple(len(text) for text in ids)
    runs: list[tuple[str, int, int]] = []
    starts: list[int] = []
    start = 0
    for adapter, length in zip(adapters, lengths, strict=True):
        if runs and runs[-1][0] == adapter:
            runs[-1] = (adapter, runs[-1][1], start + length)
        else:
            runs.append((adapter, start, start + length))
        starts.append(start)
        start += length
    # One long text must not pad all others to its length: texts share a grid with those of their power of two.
    groups: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        groups.setdefault(max(16, 1 << (length - 1).bit_length()), []).append(i)
    ids_T = torch.tensor([token for text in ids for token in text], dtype=torch.long)
    positions_T = torch.tensor([pad_token_id + 1 + i for length in lengths for i in range(length)])
    grids = tuple(_grid([lengths[i] for i in g], [starts[i] for i in g]) for _, g in sorted(groups.items()))
    return Packed(ids_T, positions_T, lengths, tuple(runs), grids)


def _grid(lengths: Sequence[int], starts: Sequence[int]) -> Grid:
    longest = max(lengths)
    column_BL = torch.arange(longest).expand(len(lengths), -1)
    mask_BL = column_BL < torch.tensor(lengths)[:, None]
    tokens = (column_BL + torch.tensor(starts)[:, None])[mask_BL]
    full = len(tokens) == mask_BL.numel()
    slots = mask_BL.flatten().nonzero().squeeze(1)
    return Grid(tokens, slots, (len(lengths), longest), None if full else mask_BL)


class Embeddings(nn.Module):
    def __init__(self, config: XmodConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size, config.pad_token_id)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, ids_T: Tensor, positions_T: Tensor) -> Tensor:
        words = self.word_embeddings(ids_T) + self.token_type_embeddings.weight[0]
        return self.LayerNorm(words + self.position_embeddings(positions_T))


class SelfAttention(nn.Module):
    def __init__(self, config: XmodConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_TH: Tensor, batch: Packed) -> Tensor:
        projected = [project(hidden_TH) for project in (self.query, self.key, self.value)]
        context_TH = torch.empty_like(projected[2])
        for grid in batch.grids:
            B, L = grid.shape
            query, key, value = (
                p.new_zeros(B * L, p.shape[1])
                .index_copy(0, grid.slots, p[grid.tokens])
                .view(B, L, self.heads, -1)
                .transpose(1, 2)
                for p in projected
            )
            mask = None if grid.mask_BL is None else grid.mask_BL[:, None, None, :]
            context = F.scaled_dot_product_attention(query, key, value, mask)
            flat = context.transpose(1, 2).reshape(B * L, -1)[grid.slots]
            context_TH = context_TH.index_copy(0, grid.tokens, flat.to(context_TH.dtype))
        return context_TH


class AttentionOutput(nn.Module):
    def __init__(self, config: XmodConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, context_TH: Tensor, residual_TH: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(context_TH) + residual_TH)


class Attention(nn.Module):
    def __init__(self, config: XmodConfig) -> None:
        super().__init__()
        self.self = SelfAttention(config)
        self.output = AttentionOutput(config)

    def forward(self, hidden_TH: Tensor, batch: Packed) -> Tensor:
        return self.output(self.self(hidden_TH, batch), hidden_TH)


class Adapter(nn.Module):
    """One language's bottleneck in one layer: down, GELU, up."""

    def __init__(self, config: XmodConfig) -> None:
        super().__init__()
        bottleneck = config.hidden_size // config.adapter_reduction_factor
        self.dense1 = nn.Linear(config.hidden_size, bottleneck)
        self.dense2 = nn.Linear(bottleneck, config.hidden_size)

    def forward(self, hidden_TH: Tensor) -> Tensor:
        return self.dense2(F.gelu(self.dense1(hidden_TH)))


class Output(nn.Module):
    """Second half of the feed-forward block, then the adapter of each run's language."""

    def __init__(self, config: XmodConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.adapter_layer_norm = (
            nn.LayerNorm(config.hidden_size, config.layer_norm_eps) if config.adapter_layer_norm else None
        )
        self.reuse_layer_norm = config.adapter_reuse_layer_norm
        self.ln_before_adapter = config.ln_before_adapter
        self.adapter_modules = nn.ModuleDict({name: Adapter(config) for name in config.languages})

    def forward(self, inner_TI: Tensor, residual_TH: Tensor, runs: Sequence[tuple[str, int, int]]) -> Tensor:
        hidden = self.dense(inner_TI) + residual_TH
        normed = hidden
        if self.adapter_layer_norm is not None:
            normed = self.adapter_layer_norm(hidden)
        elif self.reuse_layer_norm:
            normed = self.LayerNorm(hidden)
        skip = normed if self.ln_before_adapter else hidden
        # One run is one slice: no mask, no index, no adapter of an absent language in the graph.
        adapted = [self.adapter_modules[name](normed[start:stop]) for name, start, stop in runs]
        return self.LayerNorm(skip + (adapted[0] if len(adapted) == 1 else torch.cat(adapted)))


class Intermediate(nn.Module):
    """First half of the feed-forward block."""

    def __init__(self, config: XmodConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)

    def forward(self, hidden_TH: Tensor) -> Tensor:
        return F.gelu(self.dense(hidden_TH))


class Layer(nn.Module):
    def __init__(self, config: XmodConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.intermediate = Intermediate(config)
        self.output = Output(config)

    def forward(self, hidden_TH: Tensor, batch: Packed) -> Tensor:
        attended = self.attention(hidden_TH, batch)
        return self.output(self.intermediate(attended), attended, batch.runs)


class Stack(nn.Module):
    def __init__(self, config: XmodConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList([Layer(config) for _ in range(config.num_hidden_layers)])


class Xmod(nn.Module):
    """X-MOD without pooler and heads. No dropout: it is fine-tuned on far less text than it has parameters,
    with a frozen part that is computed once (`model/trunk.py`), which dropout would forbid."""

    def __init__(self, config: XmodConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = Stack(config)

    def adapters(self) -> Iterator[tuple[int, str, Adapter]]:
        """Every adapter with its layer's index and its name."""
        for index, layer in enumerate(self.encoder.layer):
            assert isinstance(layer, Layer)
            for name, adapter in layer.output.adapter_modules.items():
                assert isinstance(adapter, Adapter)
                yield index, name, adapter

    def check_adapters(self, names: set[str]) -> None:
        """Raise UserError for adapters that this model has not."""
        missing = sorted(names - set(self.config.languages))
        if missing:
            raise UserError(
                f"no adapter for {', '.join(missing)} in this model; it has {', '.join(self.config.languages)}: "
                "load it with that language in model.languages"
            )

    def check(self, batch: Packed) -> None:
        """Raise UserError where the batch names a language without adapter or a text is too long."""
        self.check_adapters({name for name, _, _ in batch.runs})
        room = self.config.max_position_embeddings - self.config.pad_token_id - 1
        if max(batch.lengths) > room:
            raise UserError(f"a text has {max(batch.lengths)} tokens, the encoder reads at most {room}: cut it first")

    def forward(
        self, batch: Packed, hidden_TH: Tensor | None = None, first: int = 0, last: int | None = None
    ) -> Tensor:
        """Hidden states [T, H] after layer `last` (default: all). `hidden_TH` are the states that enter layer
        `first`; without them the embeddings are computed here."""
        self.check(batch)
        if hidden_TH is None:
            hidden_TH = self.embeddings(batch.ids_T, batch.positions_T)
        for layer in list(self.encoder.layer)[first:last]:
            hidden_TH = layer(hidden_TH, batch)
        return hidden_TH
