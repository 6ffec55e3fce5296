"""What a retriever finds: every pair of languages, their means, and per-query values for paired tests."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from colbertxm import stages
from colbertxm.entry import plain
from colbertxm.evaluation.collections.command import load_asked
from colbertxm.evaluation.collections.entry import Loaded
from colbertxm.evaluation.experiment_rows import ACROSS, OTHERS, pairs_of
from colbertxm.evaluation.experiment_tests import Queries, write_queries
from colbertxm.evaluation.significance import macro_interval
from colbertxm.questions.measured import Measured
from colbertxm.questions.workshop import Cost, Ready
from colbertxm.reporting import Evaluation


def measure(cfg: DictConfig, ready: Ready, folder: Path) -> list[Measured]:
    """Evaluate as `colbertxm evaluate` does; runs, qrels and per-query values stay in `folder`."""
    loaded = load_asked(plain(cfg.evaluation))
    ready.retriever.encoder.check_languages(loaded.langs)
    evaluation = Evaluation(folder, loaded.collections, loaded.pair_of, stages.Clock())
    evaluation.add("model", ready.retriever)
    found: list[Measured] = []
    several = len({row["collection"] for row in evaluation.rows}) > 1
    for row in evaluation.rows:
        pair = f"{row['query_lang']}-{row['passage_lang']}"
        pair = f"{row['collection']}:{pair}" if several else pair
        for metric, (low, high) in row["intervals"].items():
            found.append(Measured(pair, metric, row[metric], low, high, ready.cost))
    main = main_measure(loaded)
    values = {
        f"{name}:{q}-{p}" if several else f"{q}-{p}": Queries(
            tuple(loaded.pair_of(q, i) for i in scores.query_ids), scores.values[main]
        )
        for name, places in evaluation.measured["model"].items()
        for (q, p), scores in places.items()
    }
    write_queries(folder / "queries.npz", values)
    return [*found, *means(values, main, ready.cost)]


def main_measure(loaded: Loaded) -> str:
    """The collection's own, or RR@10."""
    first = loaded.collections[0]
    return first.measures[0] if first.measures else "RR@10"


def means(values: dict[str, Queries], metric: str, cost: Cost, condition: str = "") -> list[Measured]:
    """The macro-averages over languages, translations of a query drawn together."""
    found = []
    for name in (OTHERS, ACROSS):
        if own := pairs_of(name, values):
            mean, low, high = macro_interval({p: values[p].values for p in own}, {p: values[p].keys for p in own})
            found.append(Measured(name, metric, mean, low, high, cost, condition))
    return found
