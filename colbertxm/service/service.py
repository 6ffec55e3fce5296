"""From bodies to answers: what is checked before it waits, the three lines in which it waits, what comes back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

from colbertxm import __version__
from colbertxm.errors import UserError
from colbertxm.evaluation.matches import Matches, Side
from colbertxm.identify import AUTO
from colbertxm.languages import language
from colbertxm.records import Text
from colbertxm.service.bodies import (
    DocumentsBody,
    HitAnswer,
    InfoAnswer,
    MatchAnswer,
    MatchBody,
    ModelAnswer,
    PassageAnswer,
    SearchAnswer,
    SearchBody,
    TokenAnswer,
    Which,
)
from colbertxm.service.limits import Limits
from colbertxm.service.served import ALL, SAME, Ask, Change, Found, MatchAsk, Served
from colbertxm.service.snapshot import Passage, codes
from colbertxm.service.waiting import Line

SHOWN = ("query_chars", "text_chars", "id_chars", "k", "documents", "filter_ids")  # limits that a client should know


class Service:
    """One or two models with their indexes, each with a line of searches and one of match views; changes, to the first
    alone, wait in a third."""

    def __init__(self, main: Served, compare: Served | None, limits: Limits) -> None:
        self.limits = limits
        self.models: dict[Which, Served] = {"main": main}
        if compare is not None:
            self.models["compare"] = compare
        wait_s, waiting, seconds = limits.batch_ms / 1000, limits.searches, limits.search_s
        self.searches: dict[Which, Line[Ask, Found]] = {
            which: Line(served.search, limits.batch, wait_s, waiting, seconds, "search")
            for which, served in self.models.items()
        }
        self.matches: dict[Which, Line[MatchAsk, tuple[Matches, Passage]]] = {
            which: Line(served.match, 1, 0, waiting, seconds, "match") for which, served in self.models.items()
        }
        self.changes: Line[Change, int] = Line(main.change, 1, 0, limits.updates, limits.update_s, "change")

    @property
    def lines(self) -> list[Line[Any, Any]]:
        """All of them."""
        return [*self.searches.values(), *self.matches.values(), self.changes]

    def start(self) -> None:
        """Begin to work, in the running event loop."""
        for line in self.lines:
            line.start()

    async def close(self) -> None:
        """Finish what waits."""
        for line in self.lines:
            await line.close()

    def served(self, which: Which) -> Served:
        """Raises UserError where there is no second model."""
        if which not in self.models:
            raise UserError("model='compare': this service has one model; start it with compare.checkpoint or .index")
        return self.models[which]

    async def search(self, body: SearchBody) -> SearchAnswer:
        """Raises UserError for what cannot be read or found, Full and Late."""
        started = time.perf_counter()
        served = self.served(body.model)
        query = self._text(served, "query", body.query, body.lang)
        ids = None if body.filters.ids is None else frozenset(body.filters.ids)
        ask = Ask(query, body.k, passage_langs(body.filters.passage_lang), ids)
        found = await self.searches[body.model].ask(ask)
        hits = [
            HitAnswer(**vars(answered(passage)), rank=rank, score=score)
            for rank, (passage, score) in enumerate(found.hits, 1)
        ]
        took_ms = round((time.perf_counter() - started) * 1000, 2)
        sure = found.query.lang_confidence
        return SearchAnswer(lang=found.query.lang, lang_confidence=sure, took_ms=took_ms, hits=hits)

    async def match(self, body: MatchBody) -> MatchAnswer:
        """Raises as `search` does, and where both or neither of an id and a passage are given."""
        served = self.served(body.model)
        query = self._text(served, "query", body.query, body.lang)
        if (body.id is None) == (body.passage is None) or (body.passage is None) != (body.passage_lang is None):
            raise UserError("give the `id` of an indexed passage, or a `passage` with its `passage_lang`")
        passage: str | Text = body.id or ""
        if body.passage is not None and body.passage_lang is not None:
            passage = self._text(served, "passage", body.passage, body.passage_lang)
        matches, shown = await self.matches[body.model].ask(MatchAsk(query, passage))
        return MatchAnswer(
            lang=matches.query.lang,
            passage=answered(shown),
            score=matches.score,
            query_tokens=tokens(matches.query),
            passage_tokens=tokens(matches.passage),
            rest=matches.passage.rest,
            best=matches.best.tolist(),
            cosines=[[round(value, 5) for value in line] for line in matches.similarity.tolist()],
        )

    async def add(self, body: DocumentsBody) -> int:
        """Index passages; how many are there then. Raises UserError, also for an id that comes twice."""
        served = self.models["main"]
        texts = [self._text(served, d.id, d.text, d.lang) for d in body.documents]
        names = [text.id for text in texts]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"documents: the id {repeated[0]!r} comes twice in one request")
        if bad := [name for name in names if not name.isprintable() or name != name.strip() or name in (".", "..")]:
            raise UserError(f"documents: {bad[0]!r} is no id: give printable characters, none of them white space "
                            "at an end, and not `.` or `..`")  # fmt: skip
        return await self.changes.ask(Change(add=tuple(texts)))

    async def delete(self, name: str) -> int:
        """Raises NotThere."""
        return await self.changes.ask(Change(delete=(name,)))

    def passage(self, name: str) -> PassageAnswer:
        """Raises NotThere."""
        return answered(self.models["main"].passage(name))

    def info(self) -> InfoAnswer:
        """What is served."""
        models = [
            ModelAnswer(
                which=which,
                name=served.name,
                engine="compressed" if served.snapshot.compressed else "exact",
                passages=served.snapshot.living,
                passage_langs=served.snapshot.langs,
                query_langs=served.languages,
                token_matches=served.encoder.pooling == "multi",
            )
            for which, served in self.models.items()
        ]
        known = {code: language(code) for m in models for code in (*m.query_langs, *m.passage_langs)}
        return InfoAnswer(
            version=__version__,
            auto=self.models["main"].auto,
            models=models,
            names={code: found.name for code, found in known.items()},
            rtl=sorted(code for code, found in known.items() if found.rtl),
            limits={name: getattr(self.limits, name) for name in SHOWN},
        )

    @staticmethod
    def _text(served: Served, id_: str, text: str, lang: str) -> Text:
        if lang.strip().lower() == AUTO:
            lang = AUTO
        return served.check(Text(id_, text, lang))


def passage_langs(given: str | Sequence[str]) -> tuple[str, ...] | Literal["all", "same"]:
    """A filter's languages by their codes. Raises UserError for an unknown one."""
    if given == ALL:
        return "all"
    if given == SAME:
        return "same"
    return tuple(sorted(codes([given] if isinstance(given, str) else given)))


def answered(passage: Passage) -> PassageAnswer:
    """A passage as it is answered."""
    return PassageAnswer(id=passage.id, text=passage.text, lang=passage.lang, lang_confidence=passage.confidence)


def tokens(side: Side) -> list[TokenAnswer]:
    """The tokens of a side, those without vectors too."""
    return [TokenAnswer(label=t.label(), text=t.text, role=t.role, kept=t.kept) for t in side.tokens]
