"""Which documents a search may find: those of one language, those that a caller names, or both.

Shape: N documents. Every engine filters before it ranks, so that k hits of a small part are found wherever they rank.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from colbertxm.engine.strings import distinct, equal
from colbertxm.errors import UserError, nearest

Wanted = Collection[str] | npt.NDArray[np.bool_] | Tensor
"""Passage ids, or one boolean a document, [N]: quicker for a part that is searched again and again."""


def documents(
    ids: Sequence[str], langs: Sequence[str], lang: str | None = None, wanted: Wanted | None = None
) -> npt.NDArray[np.int64]:
    """Positions of the documents in `lang` and among `wanted`, ascending; all where both are None.

    Document n is `ids[n]` in the language `langs[n]`. Order and repetition in `wanted` mean nothing, and an empty one
    finds nothing. Raises UserError for a language that no document has, an id that is not there, an array that does
    not fit.
    """
    chosen = np.ones(len(ids), bool)
    if lang is not None:
        chosen &= equal(langs, lang)
        if not chosen.any():
            known = sorted(distinct(langs))
            raise UserError(
                f"no passage in {lang!r} is indexed{nearest(lang, known)}; the index has {', '.join(known)}"
            )
    if wanted is not None:
        chosen &= _mask(wanted, len(ids)) if isinstance(wanted, np.ndarray | Tensor) else _named(ids, wanted)
    return np.flatnonzero(chosen)


def _mask(wanted: npt.NDArray[np.bool_] | Tensor, count: int) -> npt.NDArray[np.bool_]:
    mask = wanted.cpu().numpy() if isinstance(wanted, Tensor) else wanted
    if mask.dtype != np.bool_ or mask.shape != (count,):
        raise UserError(
            f"ids is an array of {mask.dtype} {list(mask.shape)}: give passage ids, or one boolean for each of the "
            f"index's {count} passages"
        )
    return mask


def _named(ids: Sequence[str], wanted: Collection[str]) -> npt.NDArray[np.bool_]:
    """One pass over the ids instead of a table of them, which would take more memory than many an index."""
    if isinstance(wanted, str):
        raise UserError(f"ids = {wanted!r} is one string: give a collection of passage ids, [{wanted!r}]")
    names = set(wanted)
    mask = np.fromiter((id in names for id in ids), bool, len(ids))
    missing = names.difference(ids[n] for n in np.flatnonzero(mask).tolist())
    if missing:
        name = min(missing, key=str)
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"no passage {name!r}{more} is indexed{nearest(str(name), _alike(ids, str(name)))}")
    return mask


def _alike(ids: Sequence[str], name: str) -> Iterable[str]:
    """Ids that share a half with `name`: a comparison with each of millions would take minutes."""
    head, tail = name[: (len(name) + 1) // 2], name[len(name) // 2 :]
    return (id for id in ids if id.startswith(head) or id.endswith(tail))
