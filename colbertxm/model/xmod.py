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
from torch.utils.checkpoint import checkpoint

from colbertxm.errors import UserError
from colbertxm.model.packing import Grid, Packed


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


FEW = 128
"""Tokens up to which `Linear` turns a product round."""


class Linear(nn.Linear):
    """torch's, faster for a query on the CPU: for few rows BLAS multiplies W x^T up to 1.7 times as fast as x W^T
    (768 to 3,072, 32 tokens, float32, AVX2: 2.7 against 1.5 ms; from 512 tokens on the two are equal)."""

    def forward(self, x_TI: Tensor) -> Tensor:
        # Compiled code must not ask how many rows there are: it would be compiled twice.
        if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu") or x_TI.device.type != "cpu":
            return super().forward(x_TI)
        if len(x_TI) <= FEW and self.bias is not None:
            return torch.addmm(self.bias[:, None], self.weight, x_TI.T).T
        return super().forward(x_TI)


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
        self.query = Linear(config.hidden_size, config.hidden_size)
        self.key = Linear(config.hidden_size, config.hidden_size)
        self.value = Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_TH: Tensor, batch: Packed) -> Tensor:
        projected = [project(hidden_TH) for project in (self.query, self.key, self.value)]
        context_TH = torch.empty_like(projected[2], memory_format=torch.contiguous_format)
        for grid in batch.grids:
            context_TH = grid.collect(self.attend([grid.spread(p) for p in projected], grid), context_TH)
        return context_TH

    def attend(self, projected: Sequence[Tensor], grid: Grid) -> Tensor:
        """Attention within each text of a grid whose slots are the rows of `projected` (query, key, value)."""
        B, L = grid.shape
        query, key, value = (p.reshape(B, L, self.heads, -1).transpose(1, 2) for p in projected)
        mask = None if grid.mask_BL is None else grid.mask_BL[:, None, None, :]
        context = F.scaled_dot_product_attention(query, key, value, mask)
        return context.transpose(1, 2).reshape(B * L, -1)


class AttentionOutput(nn.Module):
    def __init__(self, config: XmodConfig) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size)
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
        self.dense1 = Linear(config.hidden_size, bottleneck)
        self.dense2 = Linear(bottleneck, config.hidden_size)

    def forward(self, hidden_TH: Tensor) -> Tensor:
        return self.dense2(F.gelu(self.dense1(hidden_TH)))


class Output(nn.Module):
    """Second half of the feed-forward block, then the adapter of each run's language."""

    def __init__(self, config: XmodConfig) -> None:
        super().__init__()
        self.dense = Linear(config.intermediate_size, config.hidden_size)
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
        self.dense = Linear(config.hidden_size, config.intermediate_size)

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
        self.checkpoint_activations = False
        """In training keep a layer's input alone and compute the rest of it again in the backward pass."""
        self.embeddings = Embeddings(config)
        self.encoder = Stack(config)

    def compile(self, **options: Any) -> None:
        """Compile in place what works token by token, for any number of tokens: a few graphs in all, shared by the
        layers, whatever the batch's lengths and languages. The routing, which is different for each batch, and
        attention, which is one fused kernel already, stay as they are. `options` go to torch.compile."""
        for module in self.modules():
            if isinstance(module, (Intermediate, Adapter, AttentionOutput)):
                nn.Module.compile(module, dynamic=True, **options)

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
        `first`; without them the embeddings are computed here. Tokens in the caller's order."""
        self.check(batch)
        if hidden_TH is None:
            hidden_TH = self.embeddings(batch.ids_T, batch.positions_T)
        elif batch.sort_T is not None:
            hidden_TH = hidden_TH[batch.sort_T]
        for layer in list(self.encoder.layer)[first:last]:
            if self.checkpoint_activations and self.training and _has_graph(layer, hidden_TH):
                hidden_TH = checkpoint(layer, hidden_TH, batch, use_reentrant=False)
            else:
                hidden_TH = layer(hidden_TH, batch)
        return hidden_TH if batch.restore_T is None else hidden_TH[batch.restore_T]


def _has_graph(layer: nn.Module, hidden_TH: Tensor) -> bool:
    """Whether a backward pass will go through the layer: those below all that is trained keep nothing anyway."""
    return torch.is_grad_enabled() and (hidden_TH.requires_grad or any(p.requires_grad for p in layer.parameters()))
