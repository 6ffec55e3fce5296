"""Of what indexes, searches and serves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from colbertxm.schema.training import Energy


@dataclass
class Ray:
    address: str | None = None
    actors: int | None = None
    cpus: int | None = None
    gpus: float = MISSING
    retries: int = MISSING


@dataclass
class SearchRay(Ray):
    partial: bool = MISSING


@dataclass
class Index:
    checkpoint: str = MISSING
    corpus: str = MISSING
    langs: list[str] | None = None
    lang: str | None = None
    lang_proxy: Any = None
    output: str | None = None
    dtype: str = MISSING
    bits: Any = None
    memory_mb: int = MISSING
    seed: int = MISSING
    cluster: str | None = None
    ray: Ray = field(default_factory=Ray)
    energy: Energy = field(default_factory=Energy)


@dataclass
class Search:
    query: str = MISSING
    lang: str = MISSING
    passage_lang: str = MISSING
    k: int = MISSING
    lang_proxy: Any = None
    checkpoint: str = MISSING
    index: str | None = None
    cluster: str | None = None
    ray: SearchRay = field(default_factory=SearchRay)
    energy: Energy = field(default_factory=Energy)


@dataclass
class Compare:
    checkpoint: str | None = None
    index: str | None = None
    name: str | None = None


@dataclass
class ServeLimits:
    body_bytes: int = MISSING
    query_chars: int = MISSING
    text_chars: int = MISSING
    id_chars: int = MISSING
    k: int = MISSING
    documents: int = MISSING
    indexed: int = MISSING
    filter_ids: int = MISSING
    requests: int = MISSING
    searches: int = MISSING
    updates: int = MISSING
    body_s: float = MISSING
    search_s: float = MISSING
    update_s: float = MISSING
    shutdown_s: float = MISSING
    batch: int = MISSING
    batch_ms: float = MISSING


@dataclass
class Serve:
    checkpoint: str = MISSING
    index: str | None = None
    name: str | None = None
    device: str | None = None
    onnx: Any = None
    lang_proxy: Any = None
    host: str = MISSING
    port: int = MISSING
    without_key: bool = MISSING
    compare: Compare = field(default_factory=Compare)
    limits: ServeLimits = field(default_factory=ServeLimits)
