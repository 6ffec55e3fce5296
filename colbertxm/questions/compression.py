"""Bits and budget against quality and size: one index of all passages, each language's queries over its own.

A job has one number of bits and several budgets. `overlap@10` is the share of the exhaustive search's first ten hits
that are found; sizes are of the index folder, texts and ids included in `index_mb` and not in `bytes_per_vector`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from torch import Tensor

from colbertxm import stages
from colbertxm.data.collection import Collection
from colbertxm.engine.compressed import CompressedEngine
from colbertxm.engine.exact import ExactEngine
from colbertxm.engine.opening import open_index
from colbertxm.entry import plain
from colbertxm.errors import UserError
from colbertxm.evaluation.collections.command import load_asked
from colbertxm.evaluation.collections.entry import Loaded
from colbertxm.evaluation.experiment_rows import ALL
from colbertxm.evaluation.experiment_tests import Queries, write_queries
from colbertxm.evaluation.metrics import evaluate
from colbertxm.evaluation.runs import rank_hits
from colbertxm.evaluation.significance import bootstrap_interval
from colbertxm.questions.measured import Measured
from colbertxm.questions.quality import main_measure, means
from colbertxm.questions.workshop import Cost, Ready
from colbertxm.records import Text

K = 100
Search = Callable[[list[Tensor], str], list[tuple[list[str], Any]]]


def measure(cfg: DictConfig, ready: Ready, folder: Path) -> list[Measured]:
    """Index with `index.bits`, search with each of `index.budgets`."""
    if ready.retriever.encoder.pooling != "multi":
        raise UserError("task=compression packs the vectors of tokens: model.pooling=multi")
    loaded = load_asked(plain(cfg.evaluation))
    if any(c.query_lang != c.passage_lang for c in loaded.collections):
        raise UserError("task=compression searches each language's own passages: evaluation.cross=none")
    retriever = ready.retriever
    retriever.prepare(loaded.collections)
    passages = list({p.id: p for c in loaded.collections for p in c.passages}.values())
    cost = build(cfg, ready, passages, folder / "index")
    retriever.add(passages)
    assert isinstance(retriever.engine, ExactEngine)
    exact = retriever.engine
    if cfg.index.bits is None:
        engine = open_index(folder / "index").engine
        assert isinstance(engine, ExactEngine)
        searches: dict[str, Search] = {"budget=all": lambda q, lang: engine.search(q, K, lang=lang)}
    else:
        searches = {f"budget={b}": _budgeted(folder / "index", b) for b in cfg.index.budgets}
    vectors = len(retriever.encode(passages, "passage").values)
    found: list[Measured] = []
    for condition, search in searches.items():
        found += sizes(folder / "index", vectors, cost, condition)
        found += searched(ready, loaded, search, exact, cost, condition, folder)
    return found


def build(cfg: DictConfig, ready: Ready, passages: Sequence[Text], folder: Path) -> Cost:
    """Write the index; what writing took, its vectors having been made before."""
    with stages.meter(cfg, ready.retriever.encoder) as meter:
        notes = {"corpus": str(cfg.evaluation.collection)}
        ready.retriever.write(folder, passages, notes, "float16", bits=cfg.index.bits, seed=0)
    energy = meter.stop()
    return Cost(energy.seconds, energy.kwh, energy.method)


def sizes(folder: Path, vectors: int, cost: Cost, condition: str) -> list[Measured]:
    """Of the folder, and of what it holds for each vector."""
    files = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    own = sum(size for name, size in files.items() if not name.startswith(("texts", "ids", "manifest")))
    return [
        Measured(ALL, "index_mb", sum(files.values()) / 1e6, cost=cost, condition=condition),
        Measured(ALL, "bytes_per_vector", own / vectors, cost=cost, condition=condition),
    ]


def searched(
    ready: Ready, loaded: Loaded, search: Search, exact: ExactEngine, cost: Cost, condition: str, folder: Path
) -> list[Measured]:
    """Quality, overlap with the exhaustive search, and milliseconds a query with one thread."""
    found: list[Measured] = []
    values: dict[str, Queries] = {}
    seconds, asked, main = 0.0, 0, main_measure(loaded)
    for collection in loaded.collections:
        lang, pair = collection.query_lang, f"{collection.query_lang}-{collection.passage_lang}"
        vectors = ready.retriever.encode(collection.queries, "query")
        queries = [vectors[i] for i in range(len(collection.queries))]
        search(queries[:1], lang)  # compiles, and maps what it needs
        started = time.perf_counter()
        hits = search(queries, lang)
        seconds, asked = seconds + time.perf_counter() - started, asked + len(queries)
        scores = _scores(collection, hits, main)
        values[pair] = Queries(tuple(loaded.pair_of(lang, i) for i in scores[0]), scores[1])
        low, high = bootstrap_interval(scores[1])
        found.append(Measured(pair, main, float(scores[1].mean()), low, high, cost, condition))
        truth = [ids[:10] for ids, _ in exact.search(queries, 10, lang=lang)]
        shares = [len({*ids[:10]} & {*best}) / len(best) for (ids, _), best in zip(hits, truth, strict=True)]
        found.append(Measured(pair, "overlap@10", float(np.mean(shares)), cost=cost, condition=condition))
    found.append(Measured(ALL, "ms_per_query", 1000 * seconds / asked, cost=cost, condition=condition))
    write_queries(folder / f"queries {condition}.npz", values)
    return found + means(values, main, cost, condition)


def _budgeted(folder: Path, budget: int) -> Search:
    engine = open_index(folder).engine
    assert isinstance(engine, CompressedEngine)
    if budget < 10:
        raise UserError(f"index.budgets has {budget}: ten hits are measured, so give 10 or more")
    k = min(K, budget)
    return lambda queries, lang: engine.search(queries, k, lang=lang, budget=budget, threads=1)


def _scores(collection: Collection, hits: list[tuple[list[str], Any]], main: str) -> tuple[tuple[str, ...], Any]:
    ranked = [
        h for q, (ids, scores) in zip(collection.queries, hits, strict=True) for h in rank_hits(q.id, ids, scores)
    ]
    measured = evaluate(ranked, collection.judgements, (main,))
    return measured.query_ids, measured.values[main]
