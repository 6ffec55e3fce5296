"""The frozen lower layers' output, computed once per text.

Where the lower layers are frozen (policy `top_k_layers`), a text enters the trained layers with the same states
in every epoch and for every model trained on the same base. Keeping them saves depth/layers of each forward
pass and the whole backward pass below. Exact, because X-MOD here has no dropout: states come from the same
function; only the order of sums inside a matrix product may differ with a batch's shape (about 1e-6). So that a resumed
run is the same to the last bit, it is filled before training and in a fixed order, which mining does; a stream that is
read only as it is trained on goes without.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from colbertxm.model.packing import pack
from colbertxm.model.xmod import Xmod

Key = tuple[str, tuple[int, ...]]


class Trunk:
    """States before layer `depth`, in memory: 4 bytes x hidden size x tokens of the distinct texts that it saw.
    `below` is a shallower trunk of the same model to start from."""

    def __init__(self, xmod: Xmod, depth: int, below: Trunk | None = None, batch_tokens: int = 2048) -> None:
        self.xmod = xmod
        self.depth = depth
        self.below = below
        self.batch_tokens = batch_tokens
        self._states: dict[Key, Tensor] = {}

    def __len__(self) -> int:
        return len(self._states)

    def states(self, ids: Sequence[tuple[int, ...]], adapters: Sequence[str]) -> Tensor:
        """States [T, H] of the texts end to end; those not seen before are computed and kept."""
        keys: list[Key] = [(adapter, tuple(text)) for adapter, text in zip(adapters, ids, strict=True)]
        self._add([key for key in dict.fromkeys(keys) if key not in self._states])
        return torch.cat([self._states[key] for key in keys])

    @torch.no_grad()
    def _add(self, keys: list[Key]) -> None:
        keys.sort(key=lambda key: (len(key[1]), key))
        device = next(self.xmod.parameters()).device
        while keys:
            # The longest last: the first n texts of which the n-th is the longest fill one padded grid.
            count = next((n for n in range(1, len(keys)) if (n + 1) * len(keys[n][1]) > self.batch_tokens), len(keys))
            group, keys = sorted(keys[:count]), keys[count:]
            ids, adapters = [ids for _, ids in group], [adapter for adapter, _ in group]
            batch = pack(ids, adapters, self.xmod.config.pad_token_id).to(device)
            first = self.below.depth if self.below is not None else 0
            hidden = self.below.states(ids, adapters).to(device) if self.below is not None else None
            states_TH = self.xmod(batch, hidden, first, self.depth)
            for key, states in zip(group, states_TH.cpu().split(list(batch.lengths)), strict=True):
                self._states[key] = states.clone()  # a view would keep the whole batch alive
