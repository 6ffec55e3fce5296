"""A search engine whose index is searched by one worker a group: an answer is complete, or says that it is not.

A worker that is lost is started again and asked again. Where it stays away, `search` raises, or, with `partial`,
answers with what the others found and says in `missing` which documents nobody looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from colbertxm.cluster.groups import Found, merged
from colbertxm.cluster.window import Handle, Lost
from colbertxm.engine.filters import Wanted
from colbertxm.errors import UserError


class Searchers(Protocol):
    """One worker for each group, in order: documents `groups[n]` (first, past the last)."""

    groups: Sequence[tuple[int, int]]

    def ask(self, group: int, queries: Sequence[Tensor], k: int, lang: str | None) -> Handle: ...

    def answer(self, handle: Handle) -> list[Found]:
        """Raises Lost."""

    def renew(self, group: int) -> None:
        """Start another worker in the place of a lost one."""


class ClusterEngine:
    """MaxSim over all groups; what `Retriever` asks of an engine. `langs` [N] are the languages of all documents."""

    def __init__(
        self,
        searchers: Searchers,
        langs: Sequence[str],
        retries: int,
        partial: bool,
        note: Callable[[str], None],
    ) -> None:
        self.searchers, self.langs = searchers, langs
        self.retries, self.partial, self.note = retries, partial, note
        self.missing: list[tuple[int, int]] = []
        """The groups that gave no answer to the last search."""

    def search(
        self, queries: Sequence[Tensor], k: int, lang: str | None = None, ids: Wanted | None = None
    ) -> list[tuple[list[str], npt.NDArray[np.float32]]]:
        """The best `k` documents of each query: their ids and float32 scores, which fall strictly. Raises UserError
        where a group does not answer and `partial` is not set, where none does, and for `ids`."""
        if ids is not None:
            raise UserError("a search on a cluster is not narrowed to ids: search on one machine, or leave them out")
        groups = range(len(self.searchers.groups))
        asked = {group: self.searchers.ask(group, queries, k, lang) for group in groups}
        answers = [self._answer(group, asked[group], queries, k, lang) for group in groups]
        self.missing = [self.searchers.groups[n] for n in groups if answers[n] is None]
        found = [answer for answer in answers if answer is not None]
        if self.missing and not (self.partial and found):
            first, last = self.missing[0]
            raise UserError(
                f"{len(self.missing)} of {len(groups)} workers are lost (passages {first} to {last} and others, if "
                "any): see to the machines, or take what the others find with ray.partial=true"
            )
        return [merged([answer[n] for answer in found], k) for n in range(len(queries))]

    def incomplete(self) -> str | None:
        """What the last search left out, in one line."""
        if not self.missing:
            return None
        count = sum(last - first for first, last in self.missing)
        return f"incomplete: {count} of {len(self.langs)} passages were not searched (their workers are lost)"

    def _answer(
        self, group: int, handle: Handle, queries: Sequence[Tensor], k: int, lang: str | None
    ) -> list[Found] | None:
        for retry in range(self.retries + 1):
            try:
                return self.searchers.answer(handle)
            except Lost as lost:
                if retry < self.retries:
                    self.note(f"the worker of group {group} was lost ({lost}) and is started again")
                self.searchers.renew(group)
                handle = self.searchers.ask(group, queries, k, lang)
        return None
