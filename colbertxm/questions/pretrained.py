"""Adapters that are trained before a job's retriever, shared by jobs as trained models are; and who reads a language.

outputs/experiments/models/HASH/head.safetensors, adapters/, pretrain.json    as `colbertxm pretrain` writes them

HASH is of the settings that the adapters depend on. A pretraining that was killed goes on with what is missing.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock
from omegaconf import DictConfig

from colbertxm import stages
from colbertxm.entry import compose, plain
from colbertxm.languages import language
from colbertxm.model.adapters import add_adapter, name_of
from colbertxm.model.encoder import Encoder
from colbertxm.model.grafting import graft
from colbertxm.model.policies import with_policy
from colbertxm.questions.adapter_settings import (
    READ,
    later_languages,
    model_languages,
    neighbours_of,
    pretraining_settings,
)
from colbertxm.questions.jobs import config_hash

HEAD, FIGURES = "head.safetensors", "pretrain.json"


def folder_of(cfg: DictConfig, added: bool = False) -> Path | None:
    """Where the adapters of training lie, or (`added`) those that come later; None for a job without any."""
    settings = pretraining_settings(cfg, added)
    return None if settings is None else Path(cfg.output) / "models" / config_hash(settings)


def folders_of(cfg: DictConfig) -> list[Path]:
    """All that a job needs."""
    found = [folder_of(cfg), folder_of(cfg, added=True) if cfg.adapters == "added" else None]
    return [folder for folder in found if folder is not None]


def pretrained(cfg: DictConfig) -> Path | None:
    """The folder of the adapters that the retriever is trained with, trained now if nobody has."""
    folder = folder_of(cfg)
    if folder is not None:
        _pretrain(cfg, model_languages(cfg), folder, None)
    return folder


def added(cfg: DictConfig) -> Path:
    """The folder of the adapters of the later languages, trained now if nobody has: by the head that the others had,
    each beside the frozen base alone."""
    first, folder = pretrained(cfg), folder_of(cfg, added=True)
    assert first is not None and folder is not None
    _pretrain(cfg, later_languages(cfg), folder, first if (first / HEAD).exists() else None)
    return folder


def read_by(encoder: Encoder, cfg: DictConfig) -> Encoder:
    """`encoder` with its languages read as the job says: all that are evaluated, or the later ones where there are any.
    Raises UserError where no adapter fits."""
    later = later_languages(cfg)
    if cfg.adapters == "added":
        for note in graft(encoder, added(cfg), later):
            stages.say(f"  {note}")
    elif cfg.adapters == "none" and later:
        for code in later:
            add_adapter(encoder.xmod, name_of(code))
    elif cfg.adapters in READ:
        return _by_others(encoder, cfg, later or [language(code).code for code in cfg.evaluation.langs])
    return encoder


def _by_others(encoder: Encoder, cfg: DictConfig, langs: Sequence[str]) -> Encoder:
    """By a policy, and where a relative is asked for and none exists, by the neighbour that the job names."""
    named = neighbours_of(cfg) if cfg.adapters == "related" else {}
    neighbours = {code: by for code, by in named.items() if code in langs}
    found = with_policy(encoder, cfg.adapters, [code for code in langs if code not in neighbours], cfg.seed)
    if found.lang_proxy or neighbours:
        found.lang_proxy = {**found.lang_proxy, **neighbours}
        stages.say("  read by: " + ", ".join(f"{code} by {by}" for code, by in found.lang_proxy.items()))
    return found


def _pretrain(cfg: DictConfig, languages: Sequence[str], folder: Path, head: Path | None) -> None:
    """Train what is missing in `folder`; one process at a time."""
    from colbertxm.pretraining import pretrain_run

    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(str(folder / ".lock")):  # jobs side by side wait for the one that trains
        if (folder / FIGURES).exists():
            return
        stages.say(f"  adapters of {', '.join(languages)}: {folder}")
        run = compose("pretrain", [])
        own = {key: copy.deepcopy(cfg[key]) for key in ("model", "mlm", "energy", "logger")}
        run.update(
            {**own, "languages": list(languages), "corpus": cfg.pretraining.corpus, "init": _init(cfg, languages)}
        )
        run.update({"seed": cfg.pretraining.seed, "head": None if head is None else str(head), "output": str(folder)})
        run.model.languages = list(languages)
        run.logger.mode = "disabled"  # the job's own run is the one that is watched
        model = pretrain_run(run).model
        shutil.rmtree(model, ignore_errors=True)  # the adapters go into others; this one holds all of the base


def _init(cfg: DictConfig, languages: Sequence[str]) -> dict[str, str] | None:
    """Where these languages' adapters start, of those that the job names."""
    given = plain(cfg)["pretraining"]["init"] or {}
    return {code: like for code, like in given.items() if language(code).code in languages} or None
