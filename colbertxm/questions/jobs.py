"""A job: one composed configuration, recognised by the hash of the settings that change numbers.

outputs/experiments/QUESTION/HASH/rows.json     all of a finished job, written last and at once
outputs/experiments/models/HASH/model           a trained model; jobs that differ in what follows share it
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from colbertxm.entry import compose, config_folder, explain, plain
from colbertxm.errors import UserError, nearest
from colbertxm.files import refusals
from colbertxm.questions.adapter_settings import model_languages, pretraining_settings

NO_NUMBERS = (
    "question", "size", "condition", "against", "name", "output", "logger", "dry_run", "trainer.workers",
    "trainer.log_every", "trainer.checkpoint_every", "mlm.log_every", "mlm.checkpoint_every",
)  # fmt: skip
"""Settings that change no number: names, places, and how a run is watched."""
TRAINING = ("data", "model", "freeze", "lora", "loss", "optimizer", "trainer", "seed", "lang_proxy", "teacher")
"""What a trained model depends on."""
ADAPTERS = ("adapters", "neighbours", "pretraining", "mlm")
"""What says nothing where no adapters are trained first."""
DIGITS = 16
Job = list[str]
"""The overrides of one job."""


def config_hash(settings: Mapping[str, Any]) -> str:
    """The first 16 hex digits of the sha256 of the settings that change numbers, in one order of their keys."""
    kept = json.loads(json.dumps(settings))
    for path in NO_NUMBERS:
        *groups, key = path.split(".")
        node = kept
        for group in groups:
            node = node.get(group, {})
        node.pop(key, None)
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:DIGITS]


def job_hash(cfg: DictConfig) -> str:
    """Of all settings of a job."""
    settings = plain(cfg)
    if settings["adapters"] is None:
        for key in ADAPTERS:
            settings.pop(key)
    return config_hash(settings)


def training_hash(cfg: DictConfig) -> str:
    """Of the settings that a trained model depends on: a teacher that the loss does not ask, or languages into which
    nothing is translated, are none of them; adapters that are trained first count by their own settings."""
    settings = {key: value for key, value in plain(cfg).items() if key in TRAINING}
    if not (settings["loss"]["distillation"] or settings["loss"]["margin_mse"]):
        settings.pop("teacher")
    if not settings["data"].get("translated_share"):
        settings["data"].pop("translated_langs", None)
    if cfg.adapters is not None:
        settings["model"]["languages"] = model_languages(cfg)
        first = pretraining_settings(cfg)
        settings["pretraining"] = None if first is None else config_hash(first)
    return config_hash(settings)


def job_folder(cfg: DictConfig) -> Path:
    """Where a job leaves its rows."""
    return Path(cfg.output) / str(cfg.question) / job_hash(cfg)


def finished(cfg: DictConfig) -> dict[str, Any] | None:
    """What a finished job left; None where it is not finished. Raises UserError for a file that is not a job's."""
    path = job_folder(cfg) / "rows.json"
    if not path.exists():
        return None
    with refusals(path.parent):
        raw = path.read_bytes()
    try:
        found = json.loads(raw)
        if not isinstance(found, dict) or not isinstance(found["rows"], list):
            raise ValueError("no rows")
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} is no finished job ({error}): delete its folder, and it runs again") from None
    return found


def sweeps(size: str = "full") -> dict[str, str]:
    """Question -> the name of its sweep. Raises UserError for an unknown size."""
    if size not in ("full", "small"):
        raise UserError(f"size={size}{nearest(size, ('full', 'small'))}: choose full or small")
    folder = config_folder() / "sweep"
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    if size == "small":
        names = [name for name in names if (folder / "small" / f"{name}.yaml").exists()]
    return {name: name if size == "full" else f"small/{name}" for name in names}


def sweep_of(question: str, size: str = "full") -> str:
    """The sweep of a question. Raises UserError for an unknown one, with the nearest."""
    known = sweeps(size)
    if question not in known:
        raise UserError(f"there is no question {question!r}{nearest(question, known)}; there are {', '.join(known)}")
    return known[question]


def grid(sweep: str, overrides: Sequence[str] = ()) -> dict[str, list[str]]:
    """Swept key -> its values, as they are typed: the sweep's own grid, then `overrides` with several values."""
    return {key: values for key, values in _parsed(sweep, overrides).items() if len(values) > 1 or key in _own(sweep)}


def expand(sweep: str, overrides: Sequence[str] = ()) -> list[Job]:
    """The overrides of every job that `colbertxm experiment -m sweep=SWEEP OVERRIDES` runs, in its order."""
    lists = [[f"{key}={value}" for value in values] for key, values in _parsed(sweep, overrides).items()]
    return [[f"sweep={sweep}", *job] for job in itertools.product(*lists)]


def compose_job(job: Job) -> DictConfig:
    """The configuration of one job. To compose one takes a third of a second, so jobs that differ in their seeds alone
    are copies of one."""
    seeds = [word.removeprefix("seed=") for word in job if word.startswith("seed=")]
    if not all(seed.isdecimal() for seed in seeds):
        return compose("experiment", job)
    cfg = copy.deepcopy(_composed(tuple(word for word in job if not word.startswith("seed="))))
    for seed in seeds:
        cfg.seed = int(seed)
    return cfg


@lru_cache(maxsize=64)
def _composed(job: tuple[str, ...]) -> DictConfig:
    return compose("experiment", job)


@cache
def _own(sweep: str) -> dict[str, str]:
    cfg = compose("experiment", [f"sweep={sweep}"], hydra_too=True)
    params: dict[str, str] = {str(key): str(value) for key, value in (cfg.hydra.sweeper.params or {}).items()}
    return params


def _parsed(sweep: str, overrides: Sequence[str]) -> dict[str, list[str]]:
    """Values by key, by Hydra's own grammar and in the order of its sweeper."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    given = [f"{key}={value}" for key, value in _own(sweep).items()] + list(overrides)
    found: dict[str, list[str]] = {}
    try:
        for override in OverridesParser.create().parse_overrides(given):
            key = override.get_key_element()
            if override.is_sweep_override():
                found[key] = [str(value) for value in override.sweep_string_iterator()]
            else:
                found[key] = [override.get_value_element_as_str()]
    except HydraException as error:
        raise UserError(explain(error, "experiment")) from None
    return found
