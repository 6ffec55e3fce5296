"""What adapters are worth: quality language by language, and what masked-language modelling made of each adapter."""

from __future__ import annotations

import json
from pathlib import Path

from omegaconf import DictConfig

from colbertxm.errors import UserError
from colbertxm.evaluation.experiment_languages import MLM
from colbertxm.questions import quality
from colbertxm.questions.measured import Measured
from colbertxm.questions.pretrained import FIGURES, folder_of
from colbertxm.questions.workshop import Cost, Ready


def measure(cfg: DictConfig, ready: Ready, folder: Path) -> list[Measured]:
    """As task=quality, and held-out text's figures of the adapters that the job's condition is about."""
    if cfg.adapters is None:
        raise UserError("task=adapters needs a condition: adapters=own, or task=quality")
    return [*quality.measure(cfg, ready, folder), *pretraining(cfg)]


def pretraining(cfg: DictConfig) -> list[Measured]:
    """Loss and share of hidden pieces guessed right, before and after, in each language: of all under `own`, of the
    later ones under `added`. The costs are the pretraining's."""
    place = folder_of(cfg, added=cfg.adapters == "added") if cfg.adapters in ("own", "added") else None
    if place is None:
        return []
    found = []
    for row in json.loads((place / FIGURES).read_bytes())["rows"]:
        cost = Cost(row["seconds"], row.get("kwh"), row.get("method", "none"))
        pair = f"{row['lang']}-{row['lang']}"
        found += [Measured(pair, f"mlm_{name}", row[name], cost=cost) for name in MLM]
    return found
