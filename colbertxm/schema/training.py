"""Of what trains: data, model, loss, optimizer, trainer; adapters; the paper's questions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

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
    """What is searched and measured: of `evaluate` and of an experiment's jobs."""

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
class Demo:
    output: str = MISSING
    langs: int = MISSING
    sample: int = MISSING
    seed: int = MISSING
    overrides: list[str] = MISSING
    logger: Logger = field(default_factory=Logger)
