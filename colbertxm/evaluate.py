"""Measure models and baselines: `python -m colbertxm.evaluate checkpoints=[latest] sample=300`."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from colbertxm import entry


def run(cfg: DictConfig) -> None:
    """Evaluate every baseline and model on every collection; write runs, qrels, results.json and the report."""
    from colbertxm import stages
    from colbertxm.model.checkpoints import load_model
    from colbertxm.model.tokens import TokenSettings
    from colbertxm.reporting import Evaluation
    from colbertxm.retriever import Retriever
    from colbertxm.training.logger import make_logger

    clock = stages.Clock()
    with clock.phase("data"):
        home = stages.smart_home()
        langs = home.check_languages(cfg.split, list(cfg.langs or home.languages(cfg.split)))
        collections = stages.parallel_collections(home, cfg.split, langs, cfg.cross, cfg.sample, cfg.seed)
    evaluation = Evaluation(Path(cfg.output), collections, home.pair_of, clock)
    if any(name != "bm25" for name in cfg.baselines):
        base = stages.load_base(TokenSettings("query: ", "passage: "), langs)
    for name in cfg.baselines:
        evaluation.add(name, stages.baseline(name, base if name != "bm25" else None))
    for model in map(stages.resolve_model, cfg.checkpoints):
        evaluation.add(model.parent.name, Retriever(load_model(model)))
    logger = make_logger(Path(cfg.output), cfg.logger.project, "evaluate", cfg.logger.mode, entry.plain(cfg))
    evaluation.finish(entry.plain(cfg), cfg.seed, logger)
    if logger:
        logger.experiment.finish()


main = entry.main("evaluate", run)

if __name__ == "__main__":
    main()
