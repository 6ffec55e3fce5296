"""Change an index of plain vectors: it is written anew, beside the old one and then in its place.

What `update` does for a compressed index, in time and memory that grow with the whole index: for some ten thousand
passages. Readers keep what they opened; a kill leaves the old index or the new one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from colbertxm.engine.store import Index, read_index, write_index
from colbertxm.errors import UserError

if TYPE_CHECKING:
    from colbertxm.engine.index import Document


def rewrite(folder: Path, documents: Sequence[Document], delete: Collection[str] = ()) -> Index:
    """Add `documents`, each in the place of one with its id, and drop those in `delete`. Raises UserError as
    `write_index` does, for vectors of another width, and for an id to delete that is not there; the old index then
    stays."""
    old = read_index(folder)
    for document in documents:
        if document.vectors.ndim != 2 or document.vectors.shape[1] != old.dim:
            shape = list(document.vectors.shape)
            raise UserError(f"{document.id!r} has vectors {shape}, the index has {old.dim} dimensions")
    if missing := sorted(set(delete).difference(old.ids)):
        raise UserError(f"no passage {missing[0]!r} is in {folder}: nothing was deleted")
    gone = {document.id for document in documents}.union(delete)
    kept = [n for n, name in enumerate(old.ids) if name not in gone]
    lengths = old.offsets.diff()
    flags = np.ones(len(old.ids), bool)
    flags[[n for n, name in enumerate(old.ids) if name in gone]] = False
    rows = torch.from_numpy(np.repeat(flags, lengths.numpy()))
    vectors = [old.vectors[rows], *(document.vectors.to("cpu", old.vectors.dtype) for document in documents)]
    counts = torch.cat([lengths[kept], torch.tensor([len(d.vectors) for d in documents], dtype=torch.int64)])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    sure = [*(old.confidences[n] for n in kept), *(d.sure for d in documents)]
    write_index(
        folder,
        torch.cat(vectors),
        offsets,
        [*(old.ids[n] for n in kept), *(d.id for d in documents)],
        [*(old.langs[n] for n in kept), *(d.lang for d in documents)],
        old.meta,
        str(old.vectors.dtype).removeprefix("torch."),
        [*(old.texts[n] for n in kept), *(d.text for d in documents)],
        sure if any(value is not None for value in sure) else None,
    )
    return read_index(folder)
