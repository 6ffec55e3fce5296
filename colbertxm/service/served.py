"""A model with its index, as the service uses them: searches of many queries at once, token matches, changes.

Searches and match views read a snapshot, which a change replaces when it is on the disk. The encoder is one for all,
behind a lock that a change gives back after every few passages, so that searches go on beside it.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from colbertxm.engine.index import CompressedIndex, Document
from colbertxm.engine.join import PART
from colbertxm.errors import UserError
from colbertxm.evaluation.matches import Matches
from colbertxm.identify import AUTO, identify
from colbertxm.languages import language
from colbertxm.matches import match
from colbertxm.model.encoder import Encoder
from colbertxm.model.tokens import Kind, check_text
from colbertxm.records import Text
from colbertxm.retriever import Retriever
from colbertxm.service.snapshot import Passage, Snapshot

if TYPE_CHECKING:
    from colbertxm.model.onnx_encoder import OnnxEncoder

PASSAGES = 16  # encoded before the next search may have the encoder
PARTS = 32  # of a compressed index beyond those that it needs, before they are joined: each costs a search a little
ALL, SAME = "all", "same"


@dataclass(frozen=True)
class Ask:
    """A search. `langs` of passages: codes, or `all`, or `same` as the query's; `ids` to keep to."""

    query: Text
    k: int
    langs: tuple[str, ...] | Literal["all", "same"] = "all"
    ids: frozenset[str] | None = None


@dataclass(frozen=True)
class Found:
    """What a search found: the query in the language that it was read in, passages and scores."""

    query: Text
    hits: list[tuple[Passage, float]]


@dataclass(frozen=True)
class MatchAsk:
    """A query and the passage to hold it against: by its id, or any text."""

    query: Text
    passage: str | Text


@dataclass(frozen=True)
class Change:
    """Documents to add, each in the place of one with its id, and ids to delete."""

    add: tuple[Text, ...] = ()
    delete: tuple[str, ...] = ()


class NotThere(UserError):
    """A passage that is not indexed."""


class Unwritable(UserError):
    """The index cannot be changed now."""


class Served:
    """`encoder` with the index in `folder`; `name` is what people call them. At most `indexed` passages."""

    def __init__(
        self, name: str, encoder: Encoder, folder: Path, device: str | None = None, indexed: int | None = None
    ) -> None:
        self.name, self.encoder, self.folder, self.device, self.indexed = name, encoder.eval(), folder, device, indexed
        self.onnx: Mapping[str, OnnxEncoder] = {}
        """Exports of this model: they encode queries of their languages; passages and token matches are torch's."""
        self._retriever = Retriever(encoder)
        self._lock = threading.Lock()
        self.snapshot = Snapshot(encoder, folder, device)
        self.languages = encoder.languages  # with the proxies that the index was read by
        self.auto = False
        """Whether a language can be guessed: `warm` finds out."""

    def check(self, text: Text) -> Text:
        """`text` with its language's code. Raises UserError for what cannot be read: no text, an unknown language, one
        without adapter in this model."""
        check_text(text)
        if text.lang == AUTO:
            return text
        code = language(text.lang).code
        if code not in self.languages:
            have = ", ".join(self.languages)
            raise UserError(f"this model has no adapter for {language(code).name} ({code}); it reads {have}")
        return replace(text, lang=code)

    def warm(self) -> None:
        """Compile and load what the first search would wait for."""
        (found,) = self.search([Ask(Text("warm", "a b c", self.languages[0]), 10)])
        if isinstance(found, Exception):
            raise found
        with contextlib.suppress(UserError):  # the library is an extra, and may know none of the model's languages
            self.auto = bool(identify(["some words to begin with"], self.languages))

    def search(self, asks: Sequence[Ask]) -> list[Found | Exception]:
        """Several searches at once: one that fails does not disturb the others."""
        snapshot = self.snapshot
        results: list[Found | Exception] = [UserError("not searched")] * len(asks)
        groups: dict[tuple[int, tuple[str, ...] | None, frozenset[str] | None], list[int]] = {}
        queries: dict[int, Text] = {}
        for n, ask in enumerate(asks):
            try:
                query = self._told(ask.query)
            except Exception as error:
                results[n] = error
                continue
            langs = (query.lang,) if ask.langs == SAME else None if ask.langs == ALL else tuple(ask.langs)
            groups.setdefault((ask.k, langs, ask.ids), []).append(n)
            queries[n] = query
        vectors = dict(zip(queries, self._queries(list(queries.values())), strict=True))
        for (k, langs, ids), members in groups.items():
            try:
                found = snapshot.search([vectors[n] for n in members], k, snapshot.mask(langs, ids))
                passages = snapshot.passages({name for names, _ in found for name in names})
                for n, (names, scores) in zip(members, found, strict=True):
                    hits = [(passages[name], score) for name, score in zip(names, scores, strict=True)]
                    results[n] = Found(queries[n], hits)
            except Exception as error:
                for n in members:
                    results[n] = error
        return results

    def match(self, asks: Sequence[MatchAsk]) -> list[tuple[Matches, Passage] | Exception]:
        """The token matches of queries and passages. Raises nothing: an error stands in its place."""
        return [self._match(ask) for ask in asks]

    def _match(self, ask: MatchAsk) -> tuple[Matches, Passage] | Exception:
        try:
            if isinstance(ask.passage, str):
                passage = self.passage(ask.passage)
            else:
                text = self._told(ask.passage)
                passage = Passage(text.id, text.text, text.lang, text.lang_confidence)
            query = self._told(ask.query)
            with self._lock:
                return match(self.encoder, query, Text(passage.id, passage.text, passage.lang)), passage
        except Exception as error:
            return error

    def passage(self, name: str) -> Passage:
        """A passage of the index. Raises NotThere."""
        found = self.snapshot.passages([name])
        if name not in found:
            raise NotThere(f"no passage {name!r} is indexed")
        return found[name]

    def change(self, changes: Sequence[Change]) -> list[int | Exception]:
        """Changes one after the other, each whole or not at all; how many passages there are after each."""
        return [self._change(change) for change in changes]

    def _change(self, change: Change) -> int | Exception:
        try:
            if change.delete:
                self.passage(change.delete[0])
            before = self.snapshot
            new = {text.id for text in change.add} - before.places([text.id for text in change.add]).keys()
            if self.indexed is not None and before.living + len(new) > self.indexed:
                return UserError(f"the index may hold {self.indexed} passages and has {before.living}: delete some")
            documents = self._documents(change.add)
        except Exception as error:
            return error
        try:
            self._write(documents, change.delete)
            self.snapshot = Snapshot(self.encoder, self.folder, self.device)
            return self.snapshot.living
        except UserError as error:  # of the disk, or of another writer: what was asked for has been looked at
            return Unwritable(str(error))
        except Exception as error:
            return error

    def _documents(self, texts: Sequence[Text]) -> list[Document]:
        documents = []
        for start in range(0, len(texts), PASSAGES):
            some = [self._told(text) for text in texts[start : start + PASSAGES]]
            vectors = self._encoded(some, "passage")
            documents += [
                Document(t.id, language(t.lang).code, v, t.text, t.lang_confidence)
                for t, v in zip(some, vectors, strict=True)
            ]
        return documents

    def _write(self, documents: Sequence[Document], delete: Sequence[str]) -> None:
        if not self.snapshot.compressed:
            from colbertxm.engine.rewrite import rewrite

            rewrite(self.folder, documents, delete)
            return
        from colbertxm.engine import update

        if delete:
            index = update.delete(self.folder, delete)
        if documents:
            index = update.add(self.folder, documents, replace=True)
        if crowded(index):
            try:
                update.compact(self.folder)
            except UserError as error:  # the change itself is there
                print(f"colbertxm: not compacted: {error}", file=sys.stderr, flush=True)

    def _queries(self, texts: Sequence[Text]) -> list[Tensor]:
        """The vectors of queries: of each language by its export, where there is one."""
        found: dict[int, Tensor] = {}
        for lang, export in self.onnx.items():
            own = [n for n, text in enumerate(texts) if text.lang == lang]
            if own:
                vectors = export.encode([texts[n] for n in own], "query")
                found.update((n, vectors[row]) for row, n in enumerate(own))
        others = [n for n in range(len(texts)) if n not in found]
        found.update(zip(others, self._encoded([texts[n] for n in others], "query"), strict=True))
        return [found[n] for n in range(len(texts))]

    def _encoded(self, texts: Sequence[Text], kind: Kind) -> list[Tensor]:
        if not texts:
            return []
        with self._lock:
            vectors = self._retriever.encode(texts, kind)
        return [vectors[n] for n in range(len(texts))]

    def _told(self, text: Text) -> Text:
        """The text, one in `auto` in the language among the model's that it seems to be in."""
        if text.lang != AUTO:
            return text
        (guess,) = identify([text.text], self.languages)
        return replace(text, lang=guess.lang, lang_confidence=guess.confidence)


def crowded(index: CompressedIndex) -> bool:
    """Whether an index is worth writing anew: many small parts, or more that is deleted than that lives."""
    vectors = sum(part["vectors"] for part in index.manifest["parts"])
    living, all_ = int(index.alive.sum()), len(index.alive)
    return living > 0 and (len(index.parts) > PARTS + vectors // PART or living < all_ - living)
