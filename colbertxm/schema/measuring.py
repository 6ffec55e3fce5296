"""Of what evaluates, reports and looks closer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from colbertxm.schema.training import Evaluation, Logger


@dataclass
class Evaluate(Evaluation):
    checkpoints: list[str] = MISSING
    baselines: list[str] = MISSING
    adapter_policy: str = MISSING
    output: str = MISSING
    logger: Logger = field(default_factory=Logger)


@dataclass
class Report:
    results: Any = MISSING
    output: str | None = None
    measure: str | None = None
    examples: Any = None
    logger: Logger = field(default_factory=Logger)


@dataclass
class DiagnoseRuns:
    runs: list[str] = MISSING
    qrels: str = MISSING
    names: list[str] | None = None
    measure: str = MISSING
    queries: str | None = None
    corpus: str | None = None
    lang: str | None = None
    passage_lang: str | None = None
    top: int = MISSING
    show: int = MISSING
    output: str = MISSING


@dataclass
class DiagnoseDistributions:
    run: str | None = None
    qrels: str | None = None
    checkpoint: str = MISSING
    queries: str | None = None
    corpus: str | None = None
    lang: str | None = None
    passage_lang: str | None = None
    output: str = MISSING


@dataclass
class DiagnoseRecall:
    checkpoint: str = MISSING
    index: str | None = None
    queries: str = MISSING
    lang: str | None = None
    lang_proxy: Any = None
    sample: int | None = None
    depths: list[int] = MISSING
    budgets: list[int] = MISSING
    float32: bool = MISSING
    threads: int = MISSING
    output: str | None = None


@dataclass
class DiagnoseMatch:
    checkpoint: str = MISSING
    query: str = MISSING
    passage: str = MISSING
    lang: str = MISSING
    passage_lang: str | None = None
    lang_proxy: Any = None
    output: str = MISSING
