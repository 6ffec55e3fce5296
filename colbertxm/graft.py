"""Add a language to a trained model by its adapter alone: `python -m colbertxm.graft adapters=outputs/pretrain`."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from colbertxm import entry


def run(cfg: DictConfig) -> None:
    """Put the adapters into a copy of the model, and say where that lies."""
    entry.check_filled(cfg, "graft")
    from colbertxm.pretraining import graft_model
    from colbertxm.stages import resolve_model

    languages = None if cfg.languages is None else list(cfg.languages)
    model = graft_model(resolve_model(cfg.checkpoint), cfg.adapters, languages, cfg.trunk, Path(cfg.output))
    print(f"model: {model}")
    print(f"next:  colbertxm evaluate checkpoints=[{cfg.checkpoint},{model}]")


main = entry.main("graft", run)

if __name__ == "__main__":
    main()
