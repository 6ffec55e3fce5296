"""Train language adapters on unlabelled text: `python -m colbertxm.pretrain languages=[de,hu]`."""

from __future__ import annotations

from omegaconf import DictConfig

from colbertxm import entry


def run(cfg: DictConfig) -> None:
    """Pretrain as configured, and print what held-out text says of each language."""
    entry.check_filled(cfg, "pretrain")
    from colbertxm.pretraining import pretrain_run

    result = pretrain_run(cfg)
    for row in result.rows:
        print(
            f"{row['lang']:8} loss {row['loss_before']:.3f} -> {row['loss_after']:.3f}  guessed right "
            f"{row['accuracy_before']:.3f} -> {row['accuracy_after']:.3f}  ({row['hidden']} hidden pieces held out)"
        )
    print(f"model: {result.model}")
    print(f"next:  colbertxm train model=checkpoint model.base={result.model} model.projection=distilled")
    print(f"or:    colbertxm graft checkpoint=MODEL adapters={result.model.parent}")


main = entry.main("pretrain", run)

if __name__ == "__main__":
    main()
