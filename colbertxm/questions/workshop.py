"""What the jobs of one process share: data, the base with its cached layers, mined negatives, trained models.

A job asks for a model by its configuration. One that was trained before, for whatever question, is read from its
folder; a training that was killed goes on from its resume point.
"""

from __future__ import annotations

import copy
import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock
from omegaconf import DictConfig, OmegaConf

from colbertxm import stages
from colbertxm.data.training import TrainingData
from colbertxm.entry import plain
from colbertxm.errors import UserError
from colbertxm.evaluation.results import write_json
from colbertxm.languages import language
from colbertxm.model.checkpoints import provenance_of
from colbertxm.model.encoder import Encoder
from colbertxm.questions.adapter_settings import check, model_languages, pretraining_settings
from colbertxm.questions.jobs import training_hash
from colbertxm.questions.pretrained import folders_of, pretrained, read_by
from colbertxm.retriever import Retriever
from colbertxm.training.projection import Material

UNTRAINED = "untrained"
SEED = "seed:"
"""In `teacher`: the same run on hard labels with another seed."""
BASES = 2
"""So many are kept, with the layers that were computed: half a gigabyte each and more."""
LABELS = {"pairwise": 1.0, "in_batch": 0.0, "distillation": 0.0, "margin_mse": 0.0}


@dataclass(frozen=True)
class Cost:
    """What a stage took: seconds and kWh, None where nobody measured, and how it was measured."""

    seconds: float | None = None
    kwh: float | None = None
    method: str = "none"
    tdp_watts: float | None = None
    paper_kwh: float | None = None


@dataclass(frozen=True)
class Ready:
    """A model to measure. `fresh`: without anything that was computed for other jobs, for measuring costs."""

    retriever: Retriever
    fresh: Retriever
    cost: Cost
    folder: Path | None
    logger: Any = False


@dataclass
class Workshop:
    """Everything is made when it is first asked for, and kept by the settings that it depends on."""

    datas: dict[str, TrainingData] = field(default_factory=dict)
    bases: dict[str, stages.Base] = field(default_factory=dict)
    materials: dict[str, Material] = field(default_factory=dict)
    retrievers: dict[str, Retriever] = field(default_factory=dict)
    """The last one: its vectors serve the jobs that differ in what follows."""

    def data(self, cfg: DictConfig) -> TrainingData:
        """The training data."""
        key = _key(plain(cfg.data))
        if key not in self.datas:
            self.datas[key] = stages.open_data(cfg)
        return self.datas[key]

    def base(self, cfg: DictConfig) -> stages.Base:
        """The base before training, in the languages of the data and of the evaluation."""
        settings = self._complete(cfg)
        settings.model.update({"pooling": "multi", "dim": 0, "projection": "random"})
        key = _key(plain(settings.model), cfg.lang_proxy and dict(cfg.lang_proxy))
        if key not in self.bases:
            encoder = stages.make_encoder(settings, self.data(cfg))
            while len(self.bases) >= BASES:
                self.bases.pop(next(iter(self.bases)))
            self.bases[key] = stages.Base(encoder.xmod, encoder.eval())
        return self.bases[key]

    def model(self, cfg: DictConfig) -> Ready:
        """The model that a job measures: the base, a given checkpoint, or one trained as `cfg` says."""
        if cfg.adapters is not None:
            check(cfg)
        if cfg.checkpoint == UNTRAINED:
            base = self.base(cfg)
            untrained = base.retriever(cfg.model.pooling, base.encoder.tokens.settings.skip_prefix)
            return Ready(untrained, Retriever(untrained.encoder), Cost(), None)
        if cfg.checkpoint is not None:
            encoder = stages.open_model(stages.resolve_model(cfg.checkpoint), cfg.evaluation.lang_proxy)
            return Ready(Retriever(encoder), Retriever(encoder), Cost(), None)
        folder, logger = self.trained(cfg)
        encoder = read_by(stages.open_model(folder / "model", cfg.evaluation.lang_proxy), cfg)
        cost = Cost(**json.loads((folder / "trained.json").read_bytes()))
        return Ready(self._retriever(cfg, folder, encoder), Retriever(encoder), cost, folder, logger)

    def trained(self, cfg: DictConfig, watched: bool = True) -> tuple[Path, Any]:
        """The folder of the model that `cfg` describes, trained now if nobody has; and the run's logger."""
        folder = Path(cfg.output) / "models" / training_hash(cfg)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(str(folder / ".lock")):  # jobs side by side wait for the one that trains
            if (folder / "trained.json").exists():
                return folder, False
            run = self._complete(cfg)
            run.output = str(folder)
            run.teacher = self._teachers(cfg)
            if not watched:
                run.logger.mode = "disabled"
            shutil.rmtree(folder / "model", ignore_errors=True)
            started = time.perf_counter()
            base, material = self._prepared(cfg)
            _, result, logger = stages.train_run(run, self.data(cfg), base, material)
            stages.say(f"  trained in {time.perf_counter() - started:.0f} s")
            write_json(folder / "trained.json", _cost(result.model, result.seconds))
        return folder, logger

    def _complete(self, cfg: DictConfig) -> DictConfig:
        """A copy of `cfg` with the model's languages, and with adapters that were trained first."""
        run = with_languages(cfg, self.data(cfg))
        if (adapters := pretrained(cfg)) is not None:
            run.model.adapters = str(adapters)
        return run

    def _teachers(self, cfg: DictConfig) -> list[str] | None:
        """The model folders that teach."""
        found = []
        for named in taught_by(cfg):
            own = teacher_config(cfg, named)
            if own is not None:
                stages.say(f"  the teacher of seed {own.seed}")
            found.append(named if own is None else str(self.trained(own, watched=False)[0] / "model"))
        return found or None

    def _prepared(self, cfg: DictConfig) -> tuple[stages.Base | None, Material | None]:
        """The base with its cached layers, and mined negatives, for pairs in memory; a stream brings its own."""
        data = self.data(cfg)
        if data.examples is not None:
            return None, None
        base, depth = self.base(cfg), trunk_depth(cfg, self.base(cfg))
        key = _key(plain(cfg.data), plain(cfg.model.tokens), cfg.model.base, cfg.lang_proxy and dict(cfg.lang_proxy),
                   cfg.model.adapters, pretraining_settings(cfg))  # fmt: skip
        if key not in self.materials:
            stages.say("  mining hard negatives")
            self.materials[key] = stages.prepare(data, base, depth)
        return base, self.materials[key]

    def _retriever(self, cfg: DictConfig, folder: Path, encoder: Encoder) -> Retriever:
        """Over the base's cached layers where training left them as they are."""
        key = _key(str(folder), encoder.lang_proxy, cfg.adapters)
        if key not in self.retrievers:
            lower = cfg.freeze.policy == "top_k_layers" and not cfg.lora.rank and self.data(cfg).examples is None
            base = self.base(cfg) if lower and cfg.adapters in (None, "base", "own") else None
            depth = 0 if base is None else trunk_depth(cfg, base)
            self.retrievers = {key: Retriever(encoder, base.trunk(depth) if base is not None and depth else None)}
        return self.retrievers[key]


def with_languages(cfg: DictConfig, data: TrainingData) -> DictConfig:
    """A copy of `cfg` whose model has the adapters of the data's languages and of those that are evaluated, or those
    that the job names."""
    settings = copy.deepcopy(cfg)
    if cfg.adapters is not None:
        settings.model.languages = model_languages(cfg)
    if settings.model.languages is None:
        asked = [language(spelling).code for spelling in cfg.evaluation.langs or []]
        pools = [pool.query_lang for pool in data.pools]
        settings.model.languages = list(dict.fromkeys([*data.languages, *pools, *asked]))
    return settings


def taught_by(cfg: DictConfig) -> list[str]:
    """The teachers, where the loss asks any."""
    return list(cfg.teacher or []) if cfg.loss.distillation or cfg.loss.margin_mse else []


def teacher_config(cfg: DictConfig, named: str) -> DictConfig | None:
    """The run that `seed:N` stands for: the same on hard labels; None of a folder. Raises UserError for no number."""
    if not named.startswith(SEED):
        return None
    if not named.removeprefix(SEED).isdigit():
        raise UserError(f"teacher={named!r}: give a model folder, or seed:N")
    own = copy.deepcopy(cfg)
    own.loss.update(LABELS)
    own.update({"teacher": None, "seed": int(named.removeprefix(SEED))})
    return own


def models_of(cfg: DictConfig) -> set[Path]:
    """The folders of the models that a job needs, its teachers' and its pretrained adapters among them."""
    if cfg.checkpoint is not None:
        return set()
    runs = [cfg, *filter(None, (teacher_config(cfg, named) for named in taught_by(cfg)))]
    return {*folders_of(cfg), *(Path(run.output) / "models" / training_hash(run) for run in runs)}


def trunk_depth(cfg: DictConfig, base: stages.Base) -> int:
    """Below which layer nothing is trained, so that it may be computed once; 0 where that is not asked for."""
    if not cfg.freeze.cache or cfg.lora.rank:
        return 0
    layers: int = base.xmod.config.num_hidden_layers
    return {"top_k_layers": layers - int(cfg.freeze.top_k), "head_only": layers}.get(cfg.freeze.policy, 0)


def _cost(model: Path, seconds: float) -> dict[str, Any]:
    """From the notes that the model carries: they add up over resumptions."""
    energy = provenance_of(model).get("energy") or {}
    return {
        "seconds": round(energy.get("seconds", seconds), 2),
        "kwh": energy.get("kwh"),
        "method": energy.get("method", "none"),
        "tdp_watts": energy.get("tdp_watts"),
        "paper_kwh": energy.get("paper_kwh"),
    }


def _key(*settings: Any) -> str:
    plain_ones = [OmegaConf.to_container(s) if OmegaConf.is_config(s) else s for s in settings]
    return json.dumps(plain_ones, sort_keys=True)


_HERE: list[Workshop] = []


def here() -> Workshop:
    """This process's: Hydra's basic launcher runs all jobs of a sweep in one."""
    if not _HERE:
        _HERE.append(Workshop())
    return _HERE[0]
