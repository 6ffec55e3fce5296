"""Measure models and baselines: `python -m colbertxm.evaluate checkpoints=[latest] sample=300`.

`collection=` names one of the registry (`collection=list` prints it); smart_home needs nothing but a first download.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from colbertxm import entry

if TYPE_CHECKING:
    from colbertxm.evaluation.collections import Loaded, Request


def run(cfg: DictConfig) -> None:
    """Evaluate every baseline and model on every collection; write runs, qrels, results.json and the report."""
    from colbertxm import stages
    from colbertxm.errors import UserError
    from colbertxm.evaluation.baselines import System
    from colbertxm.evaluation.collections import load
    from colbertxm.languages import proxies, to_load
    from colbertxm.model.tokens import TokenSettings
    from colbertxm.reporting import Evaluation
    from colbertxm.retriever import Retriever
    from colbertxm.training.logger import make_logger

    if cfg.collection == "list":
        return print_collections()
    clock = stages.Clock()
    with clock.phase("data"):
        loaded = load(cfg.collection, request(cfg))
        collections, langs = loaded.collections, loaded.langs
        tell(cfg.collection, loaded)
    # All systems stand before the first is run: a mistake shows at once, and not after minutes of encoding.
    systems: dict[str, System] = {}
    needed = set(cfg.baselines) & set(stages.UNTRAINED)
    base = stages.load_base(TokenSettings("query: ", "passage: "), langs, lang_proxy=cfg.lang_proxy) if needed else None
    for name in cfg.baselines:
        systems[name] = stages.baseline(name, base)
    for checkpoint in cfg.checkpoints:
        model = stages.resolve_model(checkpoint, to_load(langs, proxies(cfg.lang_proxy)))
        encoder = stages.open_model(model, cfg.lang_proxy)
        name = model.absolute().parent.name if Path(checkpoint).exists() or checkpoint == "latest" else checkpoint
        encoder.check_languages(langs)
        if name in systems:
            raise UserError(f"two systems are named {name!r} (a row is named after the folder around its model): "
                            "evaluate them one by one, with an output of their own")  # fmt: skip
        systems[name] = Retriever(encoder)
    evaluation = Evaluation(Path(cfg.output), collections, loaded.pair_of, clock)
    for name, system in systems.items():
        evaluation.add(name, system)
    logger = make_logger(Path(cfg.output), cfg.logger.project, "evaluate", cfg.logger.mode, entry.plain(cfg))
    evaluation.finish(entry.plain(cfg), cfg.seed, logger)
    if logger:
        logger.experiment.finish()


def request(cfg: DictConfig) -> Request:
    """What the configuration asks of the collection."""
    from colbertxm.evaluation.collections import Request

    paths = {key: None if cfg[key] is None else Path(cfg[key]) for key in ("folder", "corpus", "queries", "qrels")}
    lists = {key: None if cfg[key] is None else list(cfg[key]) for key in ("langs", "subsets")}
    own = {key: cfg[key] for key in ("split", "cross", "sample", "seed", "context")}
    return Request(**paths, **lists, **own)


def tell(name: str, loaded: Loaded) -> None:
    """What was loaded, on stderr. Raises UserError where there is nothing to search in."""
    from colbertxm import stages
    from colbertxm.errors import UserError

    if name != "smart_home":
        for line in (*loaded.counts(), *loaded.notes):
            stages.say(f"  {line}")
    if empty := [c for c in loaded.collections if not len(c.passages)]:
        raise UserError(
            f"{empty[0].name} {empty[0].passage_lang}: topics and qrels are there but no corpus to search: give "
            "corpus=, add it to the folder, or leave folder out to fetch it"
        )


def print_collections() -> None:
    """The registry as a table."""
    from rich.console import Console
    from rich.table import Table

    from colbertxm.evaluation.collections import listing

    table = Table("collection", "what", "languages", "measures", "splits", "licence", "at hand")
    for line in listing():
        table.add_row(*line)
    Console(width=None if sys.stdout.isatty() else 200).print(table)


main = entry.main("evaluate", run)

if __name__ == "__main__":
    main()
