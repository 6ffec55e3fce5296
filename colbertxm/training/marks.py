"""Which passages of a batch are no negatives of a query although they stand there: false negatives, found by text.

Texts are compared by a key of 64 bits, so that ranks exchange eight bytes a text and a device compares them itself.
Two different texts share a key once in 2^64 pairs.

Shapes: G queries of all ranks, C passages of all ranks (positives first), B rows of this rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor

from colbertxm.records import Text


def text_keys(texts: Sequence[Text]) -> Tensor:
    """One int64 for each text; texts that differ in case alone have the same one."""
    digests = (blake2b(text.text.casefold().encode(), digest_size=8).digest() for text in texts)
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests], dtype=torch.long)


def false_negatives(query_keys_G: Tensor, passage_keys_C: Tensor, first: int = 0, rows: int | None = None) -> Tensor:
    """Mask [B, C] for the queries `first` to `first + rows` (None: all). A passage is marked that is not the row's own
    positive, but has the text of that positive, or of the positive of another query with the same text: it answers the
    query too."""
    G = len(query_keys_G)
    B = G if rows is None else rows
    same_BG = query_keys_G[first : first + B, None] == query_keys_G
    answers_GC = passage_keys_C[:G, None] == passage_keys_C
    marks = (same_BG.float() @ answers_GC.float()) > 0
    own = torch.arange(B, device=marks.device)
    marks[own, own + first] = False
    return marks
