"""A retriever as MTEB's SearchProtocol (mteb 2), so that `mteb.evaluate` measures it and writes its results files.

    >>> import mteb
    >>> from colbertxm.mteb_search import MTEBSearch
    >>> model = MTEBSearch(Retriever(load_model(folder)), "me/my-retriever")
    >>> mteb.evaluate(model, mteb.get_tasks(["XQuADRetrieval"], languages=["deu"]))

Each text is read in its language, which MTEB gives by subset. In a subset of two languages it does not say which is the
queries' (Belebele names the passages' first, others last), so the user does, with `langs`. Instructions are left out:
the model was not trained to follow any.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colbertxm.errors import MissingExtra, UserError
from colbertxm.languages import Language, language
from colbertxm.records import Hit, Text
from colbertxm.retriever import Retriever

if TYPE_CHECKING:
    from mteb.models.model_meta import ModelMeta

Pair = tuple[str, str]
"""(query language, passage language)."""


class MTEBSearch:
    """`name` is `owner/model`, under which MTEB files the results, with `revision`.

    `langs` names the (query, passage) languages of subsets that have two: {"deu_Latn-eng_Latn": ("en", "de")}.
    With `bits` passages are searched in a compressed index of so many bits a dimension, for large corpora. `meta` fills
    fields of MTEB's ModelMeta that a checkpoint does not know, such as license and training_datasets.
    """

    def __init__(
        self,
        retriever: Retriever,
        name: str,
        revision: str = "local",
        langs: Mapping[str, Pair] | None = None,
        bits: int | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        owner, slash, model = name.partition("/")
        if not (owner and slash and model) or "/" in model:
            raise UserError(f"name={name!r}: MTEB files results under OWNER/MODEL, such as me/my-retriever")
        self.retriever, self.name, self.revision, self.bits = retriever, name, revision, bits
        self.langs = {subset: (language(q).code, language(p).code) for subset, (q, p) in (langs or {}).items()}
        self.meta = dict(meta or {})
        self._ids: set[str] = set()
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """What MTEB's results say of the model: what is not known is None, and nothing is made up."""
        try:
            from mteb.models.model_meta import ModelMeta, ScoringFunction
        except ImportError:
            raise MissingExtra("mteb", "mteb") from None
        encoder = self.retriever.encoder
        tokens = encoder.tokens.settings
        several = encoder.pooling == "multi"
        parameters = list(encoder.parameters())
        known: dict[str, Any] = {
            "loader": None,
            "name": self.name,
            "revision": self.revision,
            "release_date": None,
            "languages": sorted({tag(language(code)) for code in encoder.languages if language(code).xmod}),
            "n_parameters": sum(p.numel() for p in parameters),
            "memory_usage_mb": round(sum(p.numel() * p.element_size() for p in parameters) / 2**20),
            "max_tokens": tokens.passage_maxlen,
            "embed_dim": encoder.dim,
            "license": None,
            "open_weights": None,
            "public_training_code": None,
            "public_training_data": None,
            "framework": ["PyTorch"],
            "similarity_fn_name": ScoringFunction.MAX_SIM if several else ScoringFunction.COSINE,
            "use_instructions": bool(tokens.query_prefix or tokens.passage_prefix),
            "training_datasets": None,
            "model_type": ["late-interaction" if several else "dense"],
            "experiment_kwargs": self.settings(),
        }
        if unknown := sorted(self.meta.keys() - ModelMeta.model_fields.keys()):
            raise UserError(f"meta has {unknown[0]!r}, which is no field of MTEB's ModelMeta")
        return ModelMeta(**{**known, **self.meta})

    def settings(self) -> dict[str, Any] | None:
        """What changes figures and is not in the checkpoint: MTEB keeps the results of each apart."""
        found = {"bits": self.bits, "lang_proxy": dict(self.retriever.encoder.lang_proxy) or None}
        return {key: value for key, value in found.items() if value} or None

    def index(self, corpus: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, **more: Any) -> None:
        """Make the corpus searchable, in the place of the one before."""
        lang = self.pair(task_metadata, hf_subset)[1]
        passages = [Text(str(row["id"]), passage_text(row), lang) for row in corpus]
        if not passages:
            raise UserError(f"{task_metadata.name}, subset {hf_subset}: the corpus of split {hf_split} is empty")
        self._ids = {passage.id for passage in passages}
        self._close()
        if self.bits is None:
            self.retriever.add(passages)
            return
        self._folder = tempfile.TemporaryDirectory(prefix="colbertxm-mteb-")
        folder = Path(self._folder.name) / "index"
        self.retriever.write(folder, passages, {}, bits=self.bits)
        self.retriever.open(folder)

    def search(
        self,
        queries: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **more: Any,
    ) -> dict[str, dict[str, float]]:
        """{query id: {passage id: score}}, the best `top_k`, among `top_ranked` alone where a task reranks."""
        lang = self.pair(task_metadata, hf_subset)[0]
        texts = [Text(str(row["id"]), query_text(row, task_metadata.name), lang) for row in queries]
        if top_ranked is None:
            found = self.retriever.search(texts, min(top_k, len(self._ids)))
        else:
            found = [self._rerank(text, top_ranked, top_k) for text in texts]
        return {text.id: {hit.passage_id: hit.score for hit in hits} for text, hits in zip(texts, found, strict=True)}

    def _rerank(self, query: Text, top_ranked: Mapping[str, Sequence[str]], k: int) -> list[Hit]:
        wanted = list(top_ranked.get(query.id, ()))
        engine = self.retriever.engine
        if not wanted or engine is None:
            return []
        vectors = self.retriever.encode([query], "query")
        ((ids, scores),) = engine.search([vectors[0]], min(k, len(wanted)), ids=wanted)
        return [
            Hit(query.id, name, n, float(score)) for n, (name, score) in enumerate(zip(ids, scores, strict=True), 1)
        ]

    def pair(self, task_metadata: Any, subset: str) -> Pair:
        """The (query, passage) languages of a subset. Raises UserError for one with two that `langs` does not name, for
        an unknown language, and for one that no adapter of the model reads."""
        found = self.langs[subset] if subset in self.langs else self._only(task_metadata, subset)
        try:
            self.retriever.encoder.check_languages(list(dict.fromkeys(found)))
        except UserError as error:
            proxy = "" if "lang_proxy" in str(error) else f"; or name another adapter, lang_proxy={{{found[0]}:sw}}"
            raise UserError(f"{task_metadata.name}, subset {subset}: {error}{proxy}") from None
        return found

    def _only(self, task_metadata: Any, subset: str) -> Pair:
        spelt = list(task_metadata.hf_subsets_to_langscripts[subset])
        where = f"{task_metadata.name}, subset {subset}"
        try:
            codes = list(dict.fromkeys(language(lang).code for lang in spelt))
        except UserError as error:
            raise UserError(
                f"{where}: {error}; name a language that X-MOD has by langs={{{subset}: (query, passage)}}, or one "
                "without an adapter by lang_proxy"
            ) from None
        if len(codes) != 1:
            raise UserError(
                f"{where} is in {', '.join(codes) or 'no language'}, and MTEB does not say which is the queries': "
                f"give langs={{{subset!r}: (query, passage)}}"
            )
        return codes[0], codes[0]

    def _close(self) -> None:
        """Drop the index of the corpus before."""
        self.retriever.engine = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def passage_text(row: Mapping[str, Any]) -> str:
    """Title and text in one, as MTEB joins them for every model."""
    title = row.get("title")
    return (f"{title} {row['text']}" if title else str(row["text"])).strip()


def query_text(row: Mapping[str, Any], task: str) -> str:
    """The query without its instruction. Raises UserError for conversations, which this model does not read."""
    if not isinstance(row["text"], str):
        raise UserError(f"{task}: query {row['id']} is a conversation, and this model reads single texts")
    return str(row["text"])


def tag(found: Language) -> str:
    """A language as MTEB writes it: deu-Latn. Arabic, a macrolanguage here, goes by its standard member there."""
    script = {"Kore": "Hang"}.get(found.script, found.script)
    return f"{ {'ar': 'arb', 'fa': 'fas'}.get(found.code, found.iso3) }-{script}".replace(" ", "")
