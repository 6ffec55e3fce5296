"""W&B: online where a key is configured, offline otherwise; never a question in the middle of a run."""

from __future__ import annotations

import netrc
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from colbertxm.errors import UserError, nearest

MODES = ("auto", "online", "offline", "disabled")


def wandb_mode(asked: str) -> str:
    """`auto` is online where WANDB_API_KEY or ~/.netrc holds a key, else offline; WANDB_MODE, where set, wins."""
    if asked not in MODES:
        raise UserError(f"logger.mode={asked!r} is unknown{nearest(asked, MODES)}; choose from {', '.join(MODES)}")
    if asked != "auto":
        return asked
    if mode := os.environ.get("WANDB_MODE"):
        return mode
    return "online" if os.environ.get("WANDB_API_KEY") or _key_in_netrc() else "offline"


def make_logger(folder: Path, project: str, name: str, mode: str, config: Mapping[str, Any]) -> Any:
    """A Lightning WandbLogger that writes under `folder`, or False for `disabled`. `config` is logged at once, so
    that a run that dies early still says what it was."""
    mode = wandb_mode(mode)
    if mode == "disabled":
        return False
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    try:
        folder.mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            project=project,
            name=name,
            dir=str(folder.resolve()),  # W&B writes in a process of its own, whose working folder may be another
            mode=cast(Any, mode),
            config=dict(config),
            reinit="create_new",  # a run that an exception left open in this process must not get our figures
            settings=wandb.Settings(silent=True),
        )
    except wandb.Error as error:
        raise UserError(f"W&B does not start in mode {mode!r}: {error}; logger.mode=offline needs no network") from None
    return WandbLogger(experiment=run)


def log_table(logger: Any, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Log rows of equal keys as a W&B table; nothing where logging is disabled."""
    if logger and rows:
        columns = list(rows[0])
        logger.log_table(key=key, columns=columns, data=[[row.get(c) for c in columns] for row in rows])


def _key_in_netrc() -> bool:
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
