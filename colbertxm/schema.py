"""The typed shape of every verb's configuration.

Hydra checks each key and type against these classes while it composes, so a misspelt key or `trainer.steps=many`
fails before anything is loaded. Values live in conf/; here stand types alone, so that no default has two homes.
`lang_proxy` is a mapping of languages, which `languages.proxies` checks: Hydra refuses new keys in a typed one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass
class Data:
    """The settings of every data source; what a source does not have stays null and is not given to it."""

    _target_: str = MISSING
    clean_only: bool | None = None
    negatives_depth: int | None = None
    val_langs: list[str] | None = None
    val_sample: int | None = None
    folder: str | None = None
    file: str | None = None
    sample: int | None = None
    per_source: int | None = None
    lang: str | None = None
    collection: str | None = None
    queries: str | None = None
    triples: str | None = None
    hard_negatives: str | None = None
    scores: str | None = None
    examples: int | None = None
    translations: Any = None
    mix: Any = None
    val_queries: str | None = None
    val_qrels: str | None = None
    val_passages: int | None = None
    translated_share: float | None = None
    translated_langs: list[str] | None = None


@dataclass
class TokenConfig:
    """null = as the base model or checkpoint stores it."""

    query_prefix: str | None = None
    passage_prefix: str | None = None
    query_maxlen: int | None = None
    passage_maxlen: int | None = None
    expand_queries_to: int | None = None
    skip: str | None = None
    skip_words: list[str] | None = None
    skip_prefix: bool | None = None
    markers: str | None = None
    query_marker: str | None = None
    passage_marker: str | None = None


@dataclass
class Model:
    _target_: str = MISSING
    base: str = MISSING
    languages: list[str] | None = None
    add_languages: Any = None
    adapters: str | None = None
    pooling: str = MISSING
    dim: int = MISSING
    projection: str = MISSING
    tokens: TokenConfig = field(default_factory=TokenConfig)


@dataclass
class Freeze:
    policy: str = MISSING
    top_k: int = MISSING
    cache: bool = MISSING


@dataclass
class Lora:
    rank: int = MISSING
    alpha: float = MISSING
    dropout: float = MISSING
    targets: list[str] = MISSING


@dataclass
class Loss:
    pairwise: float = MISSING
    in_batch: float = MISSING
    distillation: float = MISSING
    margin_mse: float = MISSING
    temperature: float = MISSING
    teacher_temperature: float = MISSING
    mean_over_query: bool = MISSING
    own_hard_negative: str = MISSING
    mask_false_negatives: bool = MISSING


@dataclass
class Optimizer:
    lr: float = MISSING
    head_lr: float | None = None
    warmup: float = MISSING
    weight_decay: float = MISSING
    eps: float = MISSING


@dataclass
class Trainer:
    steps: int = MISSING
    batch_size: int = MISSING
    negatives: int = MISSING
    workers: int = MISSING
    subset: Any = None
    val_every: int = MISSING
    checkpoint_every: int = MISSING
    log_every: int = MISSING
    gradient_clip: float = MISSING
    precision: str = MISSING
    accelerator: str = MISSING
    devices: int = MISSING
    nodes: int = MISSING
    strategy: str = MISSING
    gather: bool = MISSING
    accumulate: int = MISSING
    chunk: int | None = None
    checkpoint_activations: bool = MISSING
    compile: bool = MISSING
    monitor: str | None = None
    patience: int | None = None


@dataclass
class Logger:
    project: str = MISSING
    mode: str = MISSING


@dataclass
class Energy:
    mode: str = MISSING
    country: str | None = None
    tdp_watts: float | None = None
    kg_per_kwh: float = MISSING


@dataclass
class Train:
    name: str = MISSING
    output: str = MISSING
    seed: int = MISSING
    lang_proxy: Any = None
    dry_run: int = MISSING
    teacher: list[str] | None = None
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    freeze: Freeze = field(default_factory=Freeze)
    lora: Lora = field(default_factory=Lora)
    loss: Loss = field(default_factory=Loss)
    optimizer: Optimizer = field(default_factory=Optimizer)
    trainer: Trainer = field(default_factory=Trainer)
    logger: Logger = field(default_factory=Logger)
    energy: Energy = field(default_factory=Energy)


@dataclass
class Mlm:
    steps: int = MISSING
    batch_size: int = MISSING
    lr: float = MISSING
    head_steps: int = MISSING
    head_batch_size: int = MISSING
    head_texts: int = MISSING
    head_lr: float = MISSING
    maxlen: int = MISSING
    warmup: float = MISSING
    weight_decay: float = MISSING
    gradient_clip: float = MISSING
    vocabulary: str = MISSING
    held_out: float = MISSING
    held_out_texts: int = MISSING
    checkpoint_every: int = MISSING
    log_every: int = MISSING
    accelerator: str = MISSING
    precision: str = MISSING


@dataclass
class Pretrain:
    languages: Any = MISSING
    corpus: Any = MISSING
    init: Any = None
    head: str | None = None
    output: str = MISSING
    seed: int = MISSING
    model: Model = field(default_factory=Model)
    mlm: Mlm = field(default_factory=Mlm)
    logger: Logger = field(default_factory=Logger)
    energy: Energy = field(default_factory=Energy)


@dataclass
class Graft:
    checkpoint: str = MISSING
    adapters: str = MISSING
    languages: list[str] | None = None
    trunk: str = MISSING
    output: str = MISSING


@dataclass
class Evaluation:
    """Of an experiment's jobs: what `evaluate` is asked, without systems and output."""

    collection: str = MISSING
    split: str | None = None
    langs: list[str] | None = None
    lang_proxy: Any = None
    cross: str | None = None
    subsets: list[str] | None = None
    folder: str | None = None
    corpus: str | None = None
    queries: str | None = None
    qrels: str | None = None
    context: bool = MISSING
    sample: int | None = None
    seed: int = MISSING


@dataclass
class ExperimentIndex:
    bits: int | None = None
    budgets: list[int] = MISSING
    passages: int | None = None


@dataclass
class Pretraining:
    languages: list[str] | None = None
    later: list[str] = MISSING
    corpus: Any = MISSING
    init: Any = None
    seed: int = MISSING


@dataclass
class Experiment(Train):
    question: str = MISSING
    size: str = MISSING
    condition: str = MISSING
    against: str | None = None
    task: str = MISSING
    checkpoint: str | None = None
    adapters: str | None = None
    neighbours: Any = None
    pretraining: Pretraining = field(default_factory=Pretraining)
    mlm: Mlm = field(default_factory=Mlm)
    evaluation: Evaluation = field(default_factory=Evaluation)
    index: ExperimentIndex = field(default_factory=ExperimentIndex)


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
class Evaluate:
    collection: str = MISSING
    checkpoints: list[str] = MISSING
    baselines: list[str] = MISSING
    split: str | None = None
    langs: list[str] | None = None
    lang_proxy: Any = None
    adapter_policy: str = MISSING
    cross: str | None = None
    subsets: list[str] | None = None
    folder: str | None = None
    corpus: str | None = None
    queries: str | None = None
    qrels: str | None = None
    context: bool = MISSING
    sample: int | None = None
    output: str = MISSING
    seed: int = MISSING
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
    lang_proxy: Any = None
    host: str = MISSING
    port: int = MISSING
    without_key: bool = MISSING
    compare: Compare = field(default_factory=Compare)
    limits: ServeLimits = field(default_factory=ServeLimits)


@dataclass
class Demo:
    output: str = MISSING
    langs: int = MISSING
    sample: int = MISSING
    seed: int = MISSING
    overrides: list[str] = MISSING
    logger: Logger = field(default_factory=Logger)


SCHEMAS: dict[str, Any] = {
    "train": Train,
    "pretrain": Pretrain,
    "graft": Graft,
    "experiment": Experiment,
    "index": Index,
    "search": Search,
    "evaluate": Evaluate,
    "report": Report,
    "diagnose_runs": DiagnoseRuns,
    "diagnose_distributions": DiagnoseDistributions,
    "diagnose_recall": DiagnoseRecall,
    "diagnose_match": DiagnoseMatch,
    "push": Push,
    "export": Export,
    "serve": Serve,
    "demo": Demo,
}


@cache
def register() -> None:
    """Make the schemas known to Hydra as `<verb>_schema`; calling it twice does no harm."""
    for verb, schema in SCHEMAS.items():
        ConfigStore.instance().store(name=f"{verb}_schema", node=schema)
