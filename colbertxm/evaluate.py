"""Measure models and baselines: `python -m colbertxm.evaluate checkpoints=[latest] sample=300`.

`colbertxm evaluate --run FILE --qrels FILE` measures anyone's run.
"""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig

from colbertxm import entry
from colbertxm.evaluation import measure_run


def run(cfg: DictConfig) -> None:
    """Evaluate every baseline and model on every collection; write runs, qrels, results.json and the report."""
    from colbertxm import baselines, stages
    from colbertxm.errors import UserError
    from colbertxm.evaluation.baselines import System
    from colbertxm.evaluation.collections.command import load_asked, print_collections
    from colbertxm.languages import proxies, to_load
    from colbertxm.model.policies import needed, with_policy
    from colbertxm.model.tokens import TokenSettings
    from colbertxm.reporting import Evaluation
    from colbertxm.retriever import Retriever
    from colbertxm.training.logger import make_logger

    if cfg.collection == "list":
        return print_collections()
    clock = stages.Clock()
    with clock.phase("data"):
        loaded = load_asked(entry.plain(cfg))
        collections, langs = loaded.collections, loaded.langs
    # All systems stand before the first is run: a mistake shows at once, and not after minutes of encoding.
    systems: dict[str, System] = {}
    of_base = any(map(baselines.needs_base, cfg.baselines))
    base = (
        stages.load_base(TokenSettings("query: ", "passage: "), langs, lang_proxy=cfg.lang_proxy) if of_base else None
    )
    for name in cfg.baselines:
        if (row := baselines.baseline_row(name)) in systems:
            raise UserError(f"baselines={list(cfg.baselines)} names {row!r} twice: leave one out")
        systems[row] = baselines.baseline(name, base, langs, cfg.lang_proxy)
    for checkpoint in cfg.checkpoints:
        wanted = [*langs, *needed(cfg.adapter_policy, langs)]
        model = stages.resolve_model(checkpoint, to_load(wanted, proxies(cfg.lang_proxy)))
        encoder = stages.open_model(model, cfg.lang_proxy)
        name = baselines.checkpoint_row(checkpoint)
        encoder.check_languages(langs)
        encoder = with_policy(encoder, cfg.adapter_policy, langs, cfg.seed)
        if cfg.adapter_policy != "own":
            stages.say(f"adapter_policy={cfg.adapter_policy}: {encoder.lang_proxy or 'no adapter at all'}")
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


def main() -> None:
    """`--run FILE` measures a run; anything else goes by Hydra's configuration."""
    if any(argument.split("=")[0] == "--run" for argument in sys.argv[1:]):
        measure_run.command(sys.argv[1:])
    else:
        entry.main("evaluate", run)()


if __name__ == "__main__":
    main()
