"""A batch of texts laid end to end, with all that routing and attention need to know, worked out on the host.

Padding to the longest text wastes more than half of a batch of real passages, and asking the device which tokens are
of which language would make the host wait in every layer. So a batch is described once, before the encoder runs: its
tokens without padding, sorted by adapter so that each language is one slice, and the small grids that attention wants.

Shapes: T tokens of the batch, B texts, L the longest text of a grid, K tokens whose vectors count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """Texts of like length in a padded [B, L] grid, which attention alone needs. `tokens` are their places among
    the packed tokens and `slots` the same tokens' places in the flattened grid, both None where the grid is the
    packed order itself; `mask_BL` is None where all texts are equally long."""

    tokens: Tensor | None
    slots: Tensor | None
    shape: tuple[int, int]
    mask_BL: Tensor | None

    def spread(self, states_TH: Tensor) -> Tensor:
        """The grid's texts out of the packed states: [B * L, H], zeros behind each text."""
        if self.tokens is None or self.slots is None:
            return states_TH
        B, L = self.shape
        return states_TH.new_zeros(B * L, states_TH.shape[1]).index_copy(0, self.slots, states_TH[self.tokens])

    def collect(self, spread_SH: Tensor, into_TH: Tensor) -> Tensor:
        """`into_TH` with the grid's texts written over it."""
        if self.tokens is None or self.slots is None:
            return spread_SH
        return into_TH.index_copy(0, self.tokens, spread_SH[self.slots].to(into_TH.dtype))


@dataclass(frozen=True)
class Packed:
    """One batch. Inside, texts stand sorted by adapter; what goes in and comes out keeps the caller's order."""

    ids_T: Tensor
    positions_T: Tensor
    lengths: tuple[int, ...]
    """Tokens of each text, in the caller's order."""
    runs: tuple[tuple[str, int, int], ...]
    """(adapter, first token, past the last token): each adapter once, all tokens once."""
    grids: tuple[Grid, ...]
    kept_K: Tensor
    """Places of the tokens whose vectors count, in the caller's order."""
    kept: tuple[int, ...]
    """How many those are in each text."""
    sort_T: Tensor | None
    """From the caller's order of tokens to the sorted one, and back; None where they are the same."""
    restore_T: Tensor | None

    def to(self, device: torch.device | str) -> Packed:
        """The same batch with its tensors on `device`; the host does not wait for the copies."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Packed:
        """The same batch in pinned memory."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Packed:
        def maybe(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else change(tensor)

        grids = tuple(Grid(maybe(g.tokens), maybe(g.slots), g.shape, maybe(g.mask_BL)) for g in self.grids)
        ids, positions, kept = change(self.ids_T), change(self.positions_T), change(self.kept_K)
        sort, restore = maybe(self.sort_T), maybe(self.restore_T)
        return Packed(ids, positions, self.lengths, self.runs, grids, kept, self.kept, sort, restore)


def pack(
    ids: Sequence[Sequence[int]],
    adapters: Sequence[str],
    pad_token_id: int = 1,
    keep: Sequence[Sequence[bool]] | None = None,
) -> Packed:
    """Lay token ids end to end. `adapters[i]` is the adapter of text i; `keep[i]` says which of its tokens make
    vectors (None: all). Positions start after the padding id, as in RoBERTa (fairseq's convention)."""
    lengths = tuple(len(text) for text in ids)
    order = sorted(range(len(ids)), key=lambda i: adapters[i])  # stable: one language in its own order
    runs: list[tuple[str, int, int]] = []
    start, starts = 0, []
    for i in order:
        first = runs.pop()[1] if runs and runs[-1][0] == adapters[i] else start
        starts.append(start)
        start += lengths[i]
        runs.append((adapters[i], first, start))
    sort = restore = None
    if order != list(range(len(ids))):
        firsts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
        sort = torch.tensor(list(chain.from_iterable(range(firsts[i], firsts[i] + lengths[i]) for i in order)))
        restore = torch.empty_like(sort)
        restore[sort] = torch.arange(len(sort))
    first_position = pad_token_id + 1
    sorted_lengths = [lengths[i] for i in order]
    T = sum(lengths)
    kept = np.ones(T, bool) if keep is None else np.fromiter(chain.from_iterable(keep), bool, T)
    # By way of NumPy: torch.tensor of a list of numbers takes five times as long.
    return Packed(
        torch.from_numpy(np.fromiter(chain.from_iterable(ids[i] for i in order), np.int64, T)),
        torch.from_numpy(np.arange(first_position, first_position + T) - np.repeat(starts, sorted_lengths)),
        lengths,
        tuple(runs),
        _grids(sorted_lengths, starts),
        torch.from_numpy(kept.nonzero()[0]),
        tuple(lengths if keep is None else (sum(marks) for marks in keep)),
        sort,
        restore,
    )


def _grids(lengths: Sequence[int], starts: Sequence[int]) -> tuple[Grid, ...]:
    """One long text must not pad all others to its length: texts share a grid with those of their power of two."""
    groups: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        groups.setdefault(max(16, 1 << (length - 1).bit_length()), []).append(i)
    if len(groups) == 1 and len(set(lengths)) == 1:
        return (Grid(None, None, (len(lengths), lengths[0]), None),)
    return tuple(_grid([lengths[i] for i in g], [starts[i] for i in g]) for _, g in sorted(groups.items()))


def _grid(lengths: Sequence[int], starts: Sequence[int]) -> Grid:
    longest = max(lengths)
    column_BL = torch.arange(longest).expand(len(lengths), -1)
    mask_BL = column_BL < torch.tensor(lengths)[:, None]
    tokens = (column_BL + torch.tensor(starts)[:, None])[mask_BL]
    full = len(tokens) == mask_BL.numel()
    slots = mask_BL.flatten().nonzero().squeeze(1)
    return Grid(tokens, slots, (len(lengths), longest), None if full else mask_BL)
