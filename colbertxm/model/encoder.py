"""Texts to vectors: X-MOD, then one vector per token (projected, normalised) or one per text (mean pooled).

    >>> vectors = encoder.encode(texts, "passage")   # Vectors: values [T, E], offsets [N + 1]

Shapes: T vectors of all texts end to end, N texts, H hidden size, E dimensions of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from colbertxm.languages import LANGUAGES, language, proxies
from colbertxm.model.adapters import later
from colbertxm.model.packing import Packed, pack
from colbertxm.model.tokens import Kind, Tokenised, Tokens
from colbertxm.model.trunk import Trunk
from colbertxm.model.xmod import Xmod
from colbertxm.records import Text

Pooling = Literal["multi", "single"]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Vectors:
    """Vectors of texts end to end: those of text i are `values[offsets[i]:offsets[i + 1]]`. The offsets lie on the
    CPU wherever the values are, so that nobody waits for a device to learn a length."""

    values: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, values: Sequence[Tensor], dim: int) -> Vectors:
        """From one [n, E] tensor a text; `dim` is E, which no texts at all would not tell."""
        offsets = torch.tensor([0, *(len(v) for v in values)]).cumsum(0)
        return cls(torch.cat(list(values)) if values else torch.empty(0, dim), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> Tensor:
        return self.values[int(self.offsets[i]) : int(self.offsets[i + 1])]

    def padded(self) -> tuple[Tensor, Tensor]:
        """As [N, longest, E] with zeros behind, and the mask [N, longest] of real vectors. Differentiable."""
        lengths, device = self.offsets.diff(), self.values.device
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        slots = mask.flatten().nonzero().squeeze(1).to(device, non_blocking=True)
        grid = self.values.new_zeros(mask.numel(), self.values.shape[1]).index_copy(0, slots, self.values)
        return grid.view(*mask.shape, -1), mask.to(device, non_blocking=True)


def joined(parts: Sequence[Vectors]) -> Vectors:
    """The texts of all parts, one part after the other. Differentiable."""
    lengths = torch.cat([part.offsets.diff() for part in parts])
    return Vectors(torch.cat([part.values for part in parts]), F.pad(lengths.cumsum(0), (1, 0)))


class Encoder(nn.Module):
    """X-MOD with its head. `dim` is the width of the projection (no bias); 0 keeps the hidden size, unprojected.
    `lang_proxy` names, by codes, the language whose adapter reads another one's texts: {"yo": "sw"}."""

    def __init__(
        self,
        xmod: Xmod,
        tokens: Tokens,
        pooling: Pooling = "multi",
        dim: int = 128,
        lang_proxy: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.lang_proxy = proxies(lang_proxy)
        self.xmod = xmod
        self.tokens = tokens
        self.pooling: Pooling = pooling
        self.linear = nn.Linear(xmod.config.hidden_size, dim, bias=False) if dim else None

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return self.linear.out_features if self.linear is not None else self.xmod.config.hidden_size

    @property
    def languages(self) -> list[str]:
        """Codes of all languages whose texts this model reads."""
        codes = dict.fromkeys([*(found.code for found in LANGUAGES), *self.lang_proxy])
        codes |= dict.fromkeys(later(self.xmod.config.languages))
        return [code for code in codes if self.adapter(code) in self.xmod.config.languages]

    def adapter(self, lang: str) -> str:
        """The adapter that reads `lang`: the one that `lang_proxy` names, its own in X-MOD, or one that was added to
        this model. Raises UserError where there is none."""
        found = language(lang)
        if found.code in self.lang_proxy:
            found = language(self.lang_proxy[found.code])
        added = None if found.xmod else later(self.xmod.config.languages).get(found.code)
        return added or found.adapter

    def compile(self, **options: Any) -> None:
        """Compile the X-MOD in place, as `Xmod.compile` does; the head is one product."""
        self.xmod.compile(**options)

    def check_languages(self, codes: Sequence[str]) -> None:
        """Raise UserError where a language has no adapter in this model: before the work, not in its middle."""
        self.xmod.check_adapters({self.adapter(code) for code in codes})

    def tokenise(self, texts: Sequence[Text], kind: Kind) -> list[Tokenised]:
        """Token ids and skip marks. Raises UserError for an unknown language or a text that is none."""
        return self.tokens(texts, kind)

    def pack(self, texts: Sequence[Tokenised], adapters: Sequence[str]) -> Packed:
        """A batch of texts, on the encoder's device."""
        keep = [text.keep for text in texts]
        batch = pack([text.ids for text in texts], adapters, self.xmod.config.pad_token_id, keep)
        return batch.to(next(self.parameters()).device)

    def forward(self, batch: Packed, hidden_TH: Tensor | None = None, first: int = 0) -> Vectors:
        """L2-normalised vectors of a batch. `hidden_TH` are states that a frozen trunk left before layer `first`."""
        return self.head(self.xmod(batch, hidden_TH, first), batch)

    def head(self, states_TH: Tensor, batch: Packed) -> Vectors:
        """Last hidden states to vectors. In float32 whatever autocast says: cosines near 1 lose ties in bfloat16."""
        if self.pooling == "single":
            lengths = torch.tensor(batch.lengths).to(states_TH.device, non_blocking=True)
            pooled = torch.segment_reduce(states_TH.float(), "sum", lengths=lengths, axis=0) / lengths[:, None]
            values = self.linear(pooled) if self.linear is not None else pooled
            return Vectors(F.normalize(values.float(), dim=-1), torch.arange(len(batch.lengths) + 1))
        kept = states_TH if len(batch.kept_K) == len(states_TH) else states_TH[batch.kept_K]
        values = self.linear(kept) if self.linear is not None else kept
        return Vectors(F.normalize(values.float(), dim=-1), torch.tensor([0, *batch.kept]).cumsum(0))

    @torch.no_grad()  # not inference_mode: what a trunk keeps is read in training
    def encode(
        self,
        texts: Sequence[Text],
        kind: Kind,
        batch_tokens: int = 2048,
        trunk: Trunk | None = None,
        progress: Progress | None = None,
    ) -> Vectors:
        """Vectors of all texts in their order, on the CPU in float32. Texts of like length share a batch of about
        `batch_tokens` tokens; with a `trunk`, layers that it holds are not computed again. `progress` is called
        with the number of texts finished since its last call. Raises UserError as `tokenise` does."""
        tokenised = self.tokenise(texts, kind)
        adapters = [self.adapter(text.lang) for text in texts]
        device = next(self.parameters()).device
        values: list[Tensor] = [torch.empty(0)] * len(texts)
        for indices in length_batches([len(t.ids) for t in tokenised], adapters, batch_tokens):
            chosen = [tokenised[i] for i in indices]
            names = [adapters[i] for i in indices]
            batch = self.pack(chosen, names)
            hidden = trunk.states([t.ids for t in chosen], names).to(device) if trunk is not None else None
            first = trunk.depth if trunk is not None else 0
            vectors = self(batch, hidden, first)
            for position, i in enumerate(indices):
                values[i] = vectors[position].float().cpu()
            if progress is not None:
                progress(len(indices))
        return Vectors.of(values, self.dim)


def length_batches(lengths: Sequence[int], adapters: Sequence[str], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of texts grouped by length, so that attention pads little, then by adapter, so that a batch has few
    language runs. A pure function of its arguments: the same texts always meet the same neighbours."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], adapters[i], i))
    group: list[int] = []
    for i in order:
        # Sorted by length: this text is the longest so far, so the padded grid has (members + 1) x its length.
        if group and (len(group) + 1) * lengths[i] > batch_tokens:
            yield sorted(group, key=lambda j: (adapters[j], j))
            group = []
        group.append(i)
    if group:
        yield sorted(group, key=lambda j: (adapters[j], j))
