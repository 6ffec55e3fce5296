"""The whole road on real text, in about ten minutes on two cores: `make demo`.

Train on English alone, once with one vector per text and once with one per token; find passages in sixteen other
languages, before and after training, against BM25. The same seed gives the same table.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from omegaconf import DictConfig

from colbertxm import entry
from colbertxm.errors import UserError

RUNS: dict[str, list[str]] = {"single_vector": ["+experiment=single_vector"], "trained": []}


def run(cfg: DictConfig) -> None:
    """Data, base, training, evaluation, report; every phase timed."""
    from colbertxm import stages
    from colbertxm.reporting import Evaluation
    from colbertxm.retriever import Retriever
    from colbertxm.training.logger import make_logger

    output, clock = Path(cfg.output), stages.Clock()
    configs = {name: train_config(cfg, name, extra) for name, extra in RUNS.items()}
    first = next(iter(configs.values()))
    if first.dry_run:
        raise UserError("the demo has no dry run: `colbertxm train dry_run=10` has")
    if first.trainer.devices != 1 or first.trainer.nodes != 1:
        raise UserError("the demo trains in one process: `colbertxm train trainer.devices=...` has several")
    with clock.phase("data"):
        home = stages.smart_home()
        langs = list(home.languages("test"))[: cfg.langs]
        collections = stages.parallel_collections(home, "test", langs, "english", cfg.sample, 0)
        data = stages.open_data(first)
    with clock.phase("base model"):
        adapters = list(dict.fromkeys([*home.languages("test"), *first.data.val_langs]))
        base = stages.load_base(stages.TokenSettings.of(entry.plain(first.model.tokens)), adapters)
        depth = base.xmod.config.num_hidden_layers - first.freeze.top_k
    with clock.phase("train: hard negatives"):
        material = stages.prepare(data, base, depth)
    retrievers = {}
    for name, settings in configs.items():
        settings.model.languages = adapters
        with clock.phase(f"train: {name}"):
            shutil.rmtree(output / name / "model", ignore_errors=True)
            encoder, _, run_logger = stages.train_run(settings, data, base, material)
            retrievers[name] = Retriever(encoder, base.trunk(depth))
            if run_logger:
                run_logger.experiment.finish()
    evaluation = Evaluation(output, collections, lambda _, query_id: home.pair_of(query_id), clock)
    for name in stages.IN_DEMO:
        evaluation.add(name, stages.baseline(name, base))
    for name, retriever in retrievers.items():
        evaluation.add(name, retriever)
    model = output / "trained" / "model"
    with clock.phase("index"):
        passages = {p.id: p for c in collections if c.query_lang == c.passage_lang for p in c.passages}
        found = {"model": str(model), "corpus": "smart_home"}
        retrievers["trained"].write(output / "trained" / "index", list(passages.values()), found)
    stages.remember(model)
    logger = make_logger(output, cfg.logger.project, "demo", cfg.logger.mode, entry.plain(cfg))
    evaluation.finish(entry.plain(cfg), cfg.seed, logger)
    if logger:
        logger.experiment.finish()
    print(f'model: {model}\nnext:  colbertxm search "how do I turn the lights off" lang=en')


def train_config(cfg: DictConfig, name: str, extra: list[str]) -> DictConfig:
    """The configuration of one of the two training runs."""
    own = [f"name={name}", f"output={Path(cfg.output) / name}", f"seed={cfg.seed}"]
    logger = [f"logger.project={cfg.logger.project}", f"logger.mode={cfg.logger.mode}"]
    return entry.compose("train", [*extra, *cfg.overrides, *own, *logger])


main = entry.main("demo", run)

if __name__ == "__main__":
    main()
