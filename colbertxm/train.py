"""Train a retriever: `python -m colbertxm.train +experiment=single_vector trainer.steps=200`."""

from __future__ import annotations

from omegaconf import DictConfig

from colbertxm import entry, launch
from colbertxm.ranks import rank


def run(cfg: DictConfig) -> None:
    """Train as configured, and say where the model lies and what to type next."""
    entry.check_filled(cfg, "train")
    if not cfg.dry_run and (processes := launch.wanted(cfg.trainer.devices, cfg.trainer.nodes)):
        launch.launch("train", processes, cfg.trainer.nodes)
        return
    from colbertxm.stages import dry_run, open_data, say, train_run
    from colbertxm.training.callbacks import headline

    data = open_data(cfg)
    if cfg.dry_run:
        return dry_run(cfg, data)
    _, result, logger = train_run(cfg, data)
    if logger:
        logger.experiment.finish()
    if rank():
        return
    best = "" if result.best is None else f", kept step {result.best}"
    say(f"trained {result.steps} steps in {result.seconds:.0f} s{best}  {headline(result.validation)}")
    print(f"model: {result.model}")
    print(f"next:  colbertxm evaluate checkpoints=[{result.model}] sample=300")
    print(f"or:    colbertxm index checkpoint={result.model}")
    print(f'       colbertxm search "turn the lights off" lang=en checkpoint={result.model}')


main = entry.main("train", run)

if __name__ == "__main__":
    main()
