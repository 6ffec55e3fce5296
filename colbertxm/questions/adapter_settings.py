"""What a job says of adapters that are trained before its retriever: whose, who reads a language, what numbers hang on.

    adapters=base      not pretrained: the languages' adapters as the base has them (of `small`, identities)
    adapters=own       pretrained, and each language is read by its own; all else is compared with this
    adapters=english, related, random, none     pretrained, and read by another's or by none (`model.policies`)
    adapters=added     languages that pretraining and training went without (`pretraining.later`) get theirs afterwards

With `later`, another's adapter or none reads the later languages alone, and they were not pretrained; under `own` they
were there from the start.
"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from colbertxm.entry import plain
from colbertxm.errors import UserError, nearest
from colbertxm.languages import language

READ = ("english", "related", "random", "none")
"""Conditions that take the right adapter away."""
CONDITIONS = ("base", "own", *READ, "added")
OF_MODEL = ("base", "tokens", "add_languages", "adapters")
"""What of group `model` the adapters depend on; pooling and projection come later."""


def later_languages(cfg: DictConfig) -> list[str]:
    """Codes of the languages that come after training."""
    return _codes(cfg.pretraining.later)


def model_languages(cfg: DictConfig) -> list[str]:
    """Codes of the languages whose adapters the retriever is trained with. Raises UserError where settings contradict
    each other, before any of the work."""
    check(cfg)
    missing = [] if cfg.adapters in ("base", "own") else later_languages(cfg)
    return [code for code in _codes(cfg.pretraining.languages) if code not in missing]


def pretraining_settings(cfg: DictConfig, added: bool = False) -> dict[str, Any] | None:
    """All that the adapters depend on, those of training or (`added`) those that come later; None without any."""
    if cfg.adapters in (None, "base"):
        return None
    config = plain(cfg)
    own = {key: config["pretraining"][key] for key in ("corpus", "init", "seed")}
    model = {key: config["model"].get(key) for key in OF_MODEL}
    found = {**own, "languages": model_languages(cfg), "mlm": config["mlm"], "model": model}
    return {**found, "later": later_languages(cfg)} if added else found


def neighbours_of(cfg: DictConfig) -> dict[str, str]:
    """Code of a language -> that of the one whose adapter stands for its relative's."""
    given = plain(cfg)["neighbours"]
    if not isinstance(given, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in given):
        raise UserError(f"neighbours={given}: give pairs, [[ja,ko]] for Japanese by Korean's")
    return {language(str(code)).code: language(str(by)).code for code, by in given}


def check(cfg: DictConfig) -> None:
    """Raise UserError for an unknown condition, and where languages are missing or in no place."""
    if cfg.adapters not in CONDITIONS:
        raise UserError(
            f"adapters={cfg.adapters}{nearest(str(cfg.adapters), CONDITIONS)}: choose from {', '.join(CONDITIONS)}"
        )
    if not cfg.pretraining.languages:
        raise UserError(f"adapters={cfg.adapters} needs languages: pretraining.languages=[en,de]")
    known, later = _codes(cfg.pretraining.languages), later_languages(cfg)
    if not cfg.evaluation.langs:
        raise UserError("adapters are compared in named languages: evaluation.langs=[en,de]")
    if unknown := [code for code in [*later, *_codes(cfg.evaluation.langs)] if code not in known]:
        raise UserError(f"pretraining.languages lacks {', '.join(unknown)}: add what is evaluated or comes later")
    neighbours_of(cfg)
    if cfg.checkpoint is not None:
        raise UserError(f"adapters={cfg.adapters} trains a model of its own: leave checkpoint out")
    if "en" in later or (cfg.adapters == "added" and not later):
        raise UserError(f"pretraining.later={list(later)}: name languages that come after training, not English")


def _codes(spellings: Any) -> list[str]:
    return list(dict.fromkeys(language(str(spelling)).code for spelling in spellings or []))
