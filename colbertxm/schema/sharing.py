"""Of what leaves for others: hubs, layouts, databases."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from colbertxm.schema.training import TokenConfig


@dataclass
class Push:
    checkpoint: str = MISSING
    repo: str = MISSING
    private: bool = MISSING
    dry_run: bool = MISSING
    results: str | None = None
    row: str | None = None
    card: str | None = None
    license: str | None = None
    datasets: list[str] = MISSING
    message: str = MISSING


@dataclass
class Export:
    checkpoint: str = MISSING
    to: str = MISSING
    output: str = MISSING
    languages: list[str] | None = None
    lang: str | None = None
    tokens: TokenConfig = field(default_factory=TokenConfig)
    int8: bool = MISSING
    index: str | None = None
    corpus: str | None = None
    path: str | None = None
    url: str | None = None
    collection: str = MISSING
    batch: int = MISSING
    queries: str | None = None
    sample: int = MISSING
    k: int = MISSING
    candidates: int = MISSING
