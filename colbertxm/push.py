"""Publish a model folder with its card: `python -m colbertxm.push checkpoint=FOLDER repo=owner/name private=true`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from colbertxm import entry


def run(cfg: DictConfig) -> None:
    """Make the card, say what is sent, and send it."""
    from colbertxm.errors import UserError
    from colbertxm.model.card import model_card, read_facts
    from colbertxm.model.hub import looks_like_hub_name
    from colbertxm.model.publish import CARD, publish, sendable, write_card
    from colbertxm.stages import resolve_model

    entry.check_filled(cfg, "push")
    if "@" in cfg.repo or (not looks_like_hub_name(cfg.repo) and not Path(cfg.repo).exists()):
        raise UserError(f"repo={cfg.repo!r} is no name on the hub: it is owner/name")
    model = resolve_model(cfg.checkpoint)
    files = sendable(model)
    if cfg.card is None:
        rows = result_rows(Path(cfg.results), cfg.row or model.absolute().parent.name) if cfg.results else []
        write_card(model, model_card(read_facts(model), cfg.repo, rows, cfg.license, list(cfg.datasets)))
    elif Path(cfg.card).absolute() != (model / CARD).absolute() or not (model / CARD).is_file():
        raise UserError(f"card={cfg.card} must be {model / CARD}: place your card there, the folder is sent as it lies")
    files = [CARD, *files]
    for name in files:
        print(f"  {(model / name).stat().st_size:>13,}  {name}")
    total = sum((model / name).stat().st_size for name in files)
    print(f"{len(files)} files, {total / 1e6:.1f} MB, {'private' if cfg.private else 'public'}: {cfg.repo}")
    if cfg.dry_run:
        print(f"dry run, nothing was sent; the card: {model / CARD}")
        return
    print(f"published: {publish(model, cfg.repo, files, cfg.private, cfg.message)}")


def result_rows(results: Path, name: str) -> list[dict[str, Any]]:
    """The rows of one model in a results file."""
    from colbertxm.errors import UserError, nearest
    from colbertxm.evaluation.results import read_rows

    rows = read_rows(results)
    if found := [row for row in rows if row["model"] == name]:
        return found
    models = sorted({row["model"] for row in rows})
    raise UserError(
        f"{results} has no rows of {name!r}{nearest(name, models)}: give row=..., one of {', '.join(models)}"
    )


main = entry.main("push", run)

if __name__ == "__main__":
    main()
