"""Text in, hits out: an encoder with an engine behind it. What a notebook imports.

>>> retriever = Retriever(load_model(Path("outputs/demo/trained/model")))
>>> retriever.add(passages)
>>> retriever.search([Text("q", "how do I turn the lights off", "en")], k=5)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from colbertxm.data.collection import Collection
from colbertxm.engine.exact import ExactEngine
from colbertxm.engine.opening import checked_device, engine_on, open_index
from colbertxm.engine.store import Index, write_index
from colbertxm.engine.strings import distinct
from colbertxm.errors import UserError
from colbertxm.evaluation.runs import rank_hits
from colbertxm.identify import Guess
from colbertxm.languages import language
from colbertxm.model.encoder import Encoder, Vectors
from colbertxm.model.tokens import Kind
from colbertxm.model.trunk import Trunk
from colbertxm.progress import progress as bar_of
from colbertxm.records import Hit, Text

if TYPE_CHECKING:
    from colbertxm.cluster.searching import ClusterEngine
    from colbertxm.engine.compressed import CompressedEngine
    from colbertxm.engine.index import CompressedIndex, Document
    from colbertxm.engine.torch_engine import TorchEngine

Progress = Callable[[int], None]
PASSAGES = 2048  # encoded at a time for a compressed index
QUERIES = 512  # searched between two words about progress: several batches of the exact engine


class Retriever:
    """MaxSim (or dot product) over passages in memory or in an index folder, exhaustive or compressed."""

    def __init__(self, encoder: Encoder, trunk: Trunk | None = None, batch_tokens: int = 2048) -> None:
        self.encoder = encoder
        self.trunk = trunk
        self.batch_tokens = batch_tokens
        self.engine: ExactEngine | CompressedEngine | TorchEngine | ClusterEngine | None = None
        self.guesses: dict[str, Guess] = {}
        """By passage id: languages that were guessed and not named, and how sure that was."""
        self._known: dict[tuple[Kind, str, str], torch.Tensor] = {}

    def encode(self, texts: Sequence[Text], kind: Kind, progress: Progress | None = None) -> Vectors:
        """Vectors of `texts`; one that `prepare` has seen is not encoded again."""
        keys = self._keys(texts, kind)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._known}
        fresh = self.encoder.encode(list(missing.values()), kind, self.batch_tokens, self.trunk, progress)
        new = {key: fresh[i] for i, key in enumerate(missing)}
        values = [v if (v := self._known.get(key)) is not None else new[key] for key in keys]
        return Vectors.of(values, self.encoder.dim)

    def prepare(self, collections: Iterable[Collection], progress: Progress | None = None) -> int:
        """Encode every distinct text of `collections` once, in large batches of like length, and keep the vectors.
        Returns the number of texts."""
        total = 0
        for kind in ("query", "passage"):
            kind_: Kind = kind  # type: ignore[assignment]
            texts = {(t.lang, t.text): t for c in collections for t in (c.queries if kind == "query" else c.passages)}
            chosen = list(texts.values())
            vectors = self.encode(chosen, kind_, progress)
            self._known.update({key: vectors[i].clone() for i, key in enumerate(self._keys(chosen, kind_))})
            total += len(chosen)
        return total

    def add(self, passages: Sequence[Text], progress: Progress | None = None) -> None:
        """Make `passages` searchable, in the place of those before."""
        vectors = self.encode(passages, "passage", progress)
        self.guesses = {p.id: Guess(p.lang, p.lang_confidence) for p in passages if p.lang_confidence is not None}
        self.engine = ExactEngine(
            vectors.values.to(self.device),
            vectors.offsets,
            [p.id for p in passages],
            [language(p.lang).code for p in passages],
        )

    def write(
        self,
        folder: Path,
        passages: Sequence[Text],
        meta: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
        dtype: str = "float16",
        progress: Progress | None = None,
        bits: int | None = None,
        memory_mb: int = 1024,
        seed: int = 0,
    ) -> None:
        """Encode `passages` and write them as an index folder: with their texts, how sure guessed languages are, and
        which proxies read them. `meta` may be a function: what it says is asked for once the vectors are there.

        With `bits` (1, 2, 4, 8 a dimension) the index is compressed, `dtype` does not count, and a killed call
        continues where it was; it takes `memory_mb` besides passages and encoder, and draws its sample by `seed`.
        Raises UserError on a full disk.
        """
        if bits is not None:
            self._write_compressed(folder, passages, meta, bits, progress, memory_mb, seed)
            return
        vectors = self.encode(passages, "passage", progress)
        langs = [language(p.lang).code for p in passages]
        ids, texts = [p.id for p in passages], [p.text for p in passages]
        sure = [p.lang_confidence for p in passages]
        confidences = sure if any(value is not None for value in sure) else None
        notes = {**(meta() if callable(meta) else meta), "lang_proxy": self.encoder.lang_proxy}
        write_index(folder, vectors.values, vectors.offsets, ids, langs, notes, dtype, texts, confidences)

    def _write_compressed(
        self,
        folder: Path,
        passages: Sequence[Text],
        meta: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
        bits: int,
        progress: Progress | None,
        memory_mb: int,
        seed: int,
    ) -> None:
        from colbertxm.engine.build import build_index
        from colbertxm.engine.sample import LARGE, Sample

        def stream(first: int) -> Iterator[Document]:
            start = first - first % PASSAGES  # the same neighbours as in an undisturbed call, and so the same bits
            if progress is not None and start:
                progress(start)
            return islice(self._documents(passages, range(start, len(passages)), progress), first - start, None)

        def drawn(seed: int) -> Iterator[Document]:
            return self._documents(passages, np.random.default_rng(seed).permutation(len(passages)))

        def notes() -> dict[str, Any]:
            return {**(meta() if callable(meta) else meta), "lang_proxy": self.encoder.lang_proxy}

        sample = Sample(drawn, len(passages)) if self._count_vectors(passages) >= LARGE else None
        build_index(folder, stream, bits, seed, memory_mb, notes, sample, self._source(passages))

    def _documents(
        self, passages: Sequence[Text], chosen: Sequence[int] | npt.NDArray[np.int64], progress: Progress | None = None
    ) -> Iterator[Document]:
        """The passages at the places `chosen` with their vectors, encoded PASSAGES at a time."""
        from colbertxm.engine.index import Document

        for start in range(0, len(chosen), PASSAGES):
            some = [passages[int(n)] for n in chosen[start : start + PASSAGES]]
            vectors = self.encode(some, "passage", progress)
            for i, p in enumerate(some):
                yield Document(p.id, language(p.lang).code, vectors[i], p.text, p.lang_confidence)

    def _count_vectors(self, passages: Sequence[Text]) -> int:
        """About how many vectors `passages` will have, from the tokens of some of them."""
        some = passages[:: max(1, len(passages) // 1000)]
        if self.encoder.pooling == "single" or not some:
            return len(passages)
        kept = sum(sum(text.keep) for text in self.encoder.tokenise(some, "passage"))
        return round(len(passages) * kept / len(some))

    def _source(self, passages: Sequence[Text]) -> str:
        """A name for what vectors come from: passages, weights, the settings of tokens and proxies."""
        digest = hashlib.sha256(
            repr((self.encoder.tokens.settings, self.encoder.lang_proxy, self.batch_tokens)).encode()
        )
        for p in passages:
            digest.update(f"{len(p.id)} {len(p.text)} {p.id}{p.lang}{p.text}".encode("utf-8", "surrogatepass"))
        for name, tensor in self.encoder.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @property
    def device(self) -> torch.device:
        """Where passages are searched unless one says otherwise: on the encoder's GPU, else the CPU."""
        found = next(self.encoder.parameters()).device
        return found if found.type == "cuda" else torch.device("cpu")

    def open(
        self,
        folder: Path,
        device: torch.device | str | None = None,
        engine: Callable[[Index | CompressedIndex, Path], ClusterEngine] | None = None,
    ) -> Index | CompressedIndex:
        """Search the index in `folder`, on `device` where it is named (cpu, cuda, mps), else on `self.device`, or by
        what `engine` makes of it; returns it: its `texts_of` hits. The encoder takes over the proxies that read the
        passages. Raises UserError for a damaged index, one whose vectors have other dimensions than this model's,
        and one whose passages were read by other adapters than the encoder's own proxies name."""
        index = open_index(folder)
        if index.dim != self.encoder.dim:
            raise UserError(
                f"{folder} holds vectors of {index.dim} dimensions, this model makes {self.encoder.dim}: "
                "index again with this model"
            )
        self.encoder.lang_proxy = _same_proxies(index.meta, index.langs, self.encoder.lang_proxy, folder)
        self.guesses = {name: Guess(lang, sure) for name, (lang, sure) in index.guesses.items()}
        if engine is not None:
            self.engine = engine(index, folder)
        else:
            self.engine = engine_on(index, checked_device(device or self.device))
        return index

    def search(
        self, queries: Sequence[Text], k: int = 10, lang: str | None = None, progress: Progress | None = None
    ) -> list[list[Hit]]:
        """The best `k` passages of each query, of one language where `lang` names it. `progress` is told of queries
        as they are answered. Raises UserError where nothing is indexed (in that language)."""
        if self.engine is None:
            raise UserError("nothing is indexed: call add() or open() first")
        code = None
        if lang is not None:
            code = language(lang).code
            if code not in (known := distinct(self.engine.langs)):
                have = ", ".join(sorted(known))
                raise UserError(f"no passage in {lang!r} is indexed; the index has {have}")
        vectors = self.encode(queries, "query")
        found: list[tuple[list[str], np.ndarray]] = []
        step = max(1, len(queries)) if progress is None else QUERIES
        for start in range(0, len(queries), step):
            block = range(start, min(start + step, len(queries)))
            found += self.engine.search([vectors[i] for i in block], k, lang=code)
            if progress is not None:
                progress(len(block))
        return [rank_hits(q.id, ids, scores) for q, (ids, scores) in zip(queries, found, strict=True)]

    def run(self, collection: Collection, k: int = 100) -> list[Hit]:
        """The run of a whole collection, `k` hits a query."""
        self.add(collection.passages)
        return self.answers(collection, k)

    def answers(self, collection: Collection, k: int = 100) -> list[Hit]:
        """The run of a collection whose passages are indexed, with the time left where it takes long."""
        bar = bar_of(len(collection.queries), f"{collection.query_lang}-{collection.passage_lang}: queries")
        return [hit for hits in self.search(collection.queries, k, progress=bar) for hit in hits]

    def _keys(self, texts: Sequence[Text], kind: Kind) -> list[tuple[Kind, str, str]]:
        """What a text's vectors depend on: the adapter and not the language, for proxies change."""
        return [(kind, self.encoder.adapter(t.lang), t.text) for t in texts]


def _same_proxies(meta: Mapping[str, Any], langs: Sequence[str], asked: dict[str, str], folder: Path) -> dict[str, str]:
    """An index's proxies and those `asked` for, which must not differ where there are passages."""
    made: dict[str, str] = dict(meta.get("lang_proxy", {}))
    for code in sorted(asked.keys() & distinct(langs)):
        if asked[code] != (reader := made.get(code, code)):
            raise UserError(
                f"{folder}: passages in {code!r} were read by the adapter of {reader!r}, not of {asked[code]!r}: "
                f"search with lang_proxy={{{code}:{reader}}}, or index again"
            )
    return {**made, **asked}
