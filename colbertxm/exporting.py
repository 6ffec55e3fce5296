"""What `colbertxm export` does besides other libraries' model folders: from a configuration to a database or ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from omegaconf import DictConfig, OmegaConf

from colbertxm.databases.passages import Source
from colbertxm.entry import plain
from colbertxm.errors import UserError
from colbertxm.records import Text
from colbertxm.retriever import Retriever

if TYPE_CHECKING:
    from colbertxm.model.encoder import Encoder
    from colbertxm.model.onnx_encoder import OnnxEncoder

DATABASES = ("qdrant", "lancedb")
ONNX = "onnx"


def to_database(cfg: DictConfig) -> None:
    """Write an index or a corpus, and say what its answers miss. Raises UserError for settings that do not go
    together."""
    from colbertxm.data.corpus import read_corpus
    from colbertxm.databases.export import export
    from colbertxm.databases.lance import Lance
    from colbertxm.databases.passages import from_corpus, from_index
    from colbertxm.databases.qdrant import Qdrant
    from colbertxm.progress import progress
    from colbertxm.stages import index_folder, open_model, resolve_model, say

    if cfg.index and cfg.corpus:
        raise UserError(
            "export takes index=... or corpus=..., not both: the one has its vectors, the other gets new ones"
        )
    if min(cfg.batch, cfg.candidates, cfg.k) < 1 or cfg.sample < 0:
        raise UserError("batch, candidates and k must be at least 1, and sample at least 0")
    kind = Qdrant if cfg.to == "qdrant" else Lance
    model = resolve_model(cfg.checkpoint)
    retriever = Retriever(open_model(model))
    if cfg.corpus:
        texts = read_corpus(Path(cfg.corpus), [cfg.lang] if cfg.lang else [])
        retriever.encoder.check_languages(sorted({text.lang for text in texts}))
        source = from_corpus(texts, retriever)
    else:
        source = from_index(retriever.open(index_folder(cfg.checkpoint, model, cfg.index)))
    database = kind(cfg.collection, source.dim, cfg.path, cfg.url)
    queries = queries_of(cfg, source)
    vectors = retriever.encode(queries, "query")
    say(f"writing {len(source.ids)} passages to {cfg.to}")
    report = export(
        source, database, [vectors[i] for i in range(len(queries))], cfg.batch, cfg.k, cfg.candidates,
        progress(len(source.ids), "passages"),
    )  # fmt: skip
    database.close()
    print(f"{cfg.to}: {report.written} passages in {cfg.collection!r} at {cfg.url or cfg.path}")
    if report.held > report.written:
        print(
            f"it also holds {report.held - report.written} passages that were there before and are not in this export"
        )
    if report.recall is not None:
        kind_ = "queries" if cfg.queries else "passages as queries"
        print(
            f"recall@{cfg.k} of exact MaxSim over the same vectors: {report.recall:.3f} ({len(queries)} {kind_}, "
            f"{cfg.candidates} candidates reranked), {report.ms:.1f} ms a query"
        )


def queries_of(cfg: DictConfig, source: Source) -> list[Text]:
    """The user's queries, at most `sample`, or as many passages drawn by seed. Raises UserError for an index without
    texts."""
    from colbertxm.data.corpus import read_corpus

    if not cfg.sample:
        return []
    if cfg.queries:
        texts: Sequence[Text] = read_corpus(Path(cfg.queries), [cfg.lang] if cfg.lang else [])
        return list(texts)[:: -(-len(texts) // cfg.sample)]
    drawn = torch.randperm(len(source.ids), generator=torch.Generator().manual_seed(0))[: cfg.sample].tolist()
    if empty := [source.ids[n] for n in drawn if not source.texts[n]]:
        raise UserError(f"the index holds no text of {empty[0]!r} to ask with: give queries=FILE, or sample=0")
    return [Text(f"query-{n}", source.texts[n], source.langs[n]) for n in drawn]


def to_onnx(cfg: DictConfig) -> None:
    """Write one language for ONNX Runtime, and say how far it is from torch: on random tokens, and where there are
    texts in `corpus`, by the hits of both. Raises UserError without `lang` and for an output that is the checkpoint."""
    from colbertxm.languages import language, to_load
    from colbertxm.model.checkpoints import load_model
    from colbertxm.model.onnx_encoder import OnnxEncoder, difference, write_onnx
    from colbertxm.stages import resolve_model

    if not cfg.lang or cfg.languages:
        raise UserError("to=onnx writes one language: give lang=de (and not languages)")
    lang, beside = language(cfg.lang).code, OmegaConf.is_missing(cfg, "output")
    if beside and cfg.checkpoint != "latest" and not Path(cfg.checkpoint).is_dir():
        raise UserError("export needs output=... for a model from the hub")
    source = resolve_model(cfg.checkpoint, to_load([lang], {}))
    output = source.parent / f"{ONNX}-{lang}" if beside else Path(cfg.output)
    if output.resolve() == source.resolve():
        raise UserError(f"output={output} is the checkpoint itself: choose another folder")
    encoder = load_model(source, languages=[lang], tokens=plain(cfg.tokens))
    found = OnnxEncoder(write_onnx(output, encoder, lang, cfg.int8))
    size = sum(path.stat().st_size for path in output.iterdir()) / 1e6
    print(
        f"model: {output} (onnx{', int8' if cfg.int8 else ''}; {lang}, adapter {encoder.adapter(lang)}; {size:.0f} MB)"
    )
    most, cosine = difference(encoder, found)
    print(f"beside torch, on random tokens: largest difference {most:.2e}, mean cosine {cosine:.6f}")
    if cfg.corpus:
        print(_same_hits(cfg, encoder, found, lang))


def _same_hits(cfg: DictConfig, encoder: Encoder, other: OnnxEncoder, lang: str) -> str:
    """Of `sample` queries in a corpus: what share of torch's best `k` passages ONNX finds, in one line. Passages are
    torch's in both searches, as an index's are when only queries are encoded by ONNX."""
    from colbertxm.data.corpus import read_corpus
    from colbertxm.engine_recall import recall

    texts = read_corpus(Path(cfg.corpus), [lang])
    retriever = Retriever(encoder)
    retriever.add(texts)
    asked = read_corpus(Path(cfg.queries), [lang]) if cfg.queries else texts
    asked = asked[:: -(-len(asked) // max(1, cfg.sample))]
    places = {text.id: n for n, text in enumerate(texts)}
    found = []
    for encode in (encoder.encode, other.encode):
        vectors = encode(asked, "query")
        assert retriever.engine is not None
        hits = retriever.engine.search([vectors[i] for i in range(len(asked))], cfg.k)
        found.append([[places[name] for name in ids] for ids, _ in hits])
    same = recall(found[1], found[0], cfg.k)
    return f"recall@{cfg.k} of torch's own hits, {len(asked)} queries by ONNX over torch's passages: {same:.3f}"
