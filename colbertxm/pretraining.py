"""What `pretrain` and `graft` do, from a composed configuration: head, then one adapter after the other, then a model.

    OUTPUT/head.safetensors            where the base brought none
    OUTPUT/adapters/de_DE.safetensors  one per language, for any model of the same trunk
    OUTPUT/model                       the base with all adapters in OUTPUT/adapters
    OUTPUT/pretrain.json               held-out figures before and after

A part that is finished is on the disk under a key of all that it depends on, so a run that was killed goes on with what
is missing. An adapter depends on base, head, its own text and the settings, and not on which others are trained beside
it: languages can be trained one by one, on several machines, or years later.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from colbertxm.data.smart_home import SmartHome
from colbertxm.data.unlabelled import SMART_HOME, Source, Unlabelled, languages_of, read_unlabelled
from colbertxm.energy.meter import EnergySettings
from colbertxm.entry import plain
from colbertxm.errors import UserError
from colbertxm.evaluation.results import provenance, write_json
from colbertxm.languages import language
from colbertxm.model.adapters import IDENTITY, RANDOM, name_of, restart_adapter
from colbertxm.model.checkpoints import build_encoder, provenance_of, save_model
from colbertxm.model.encoder import Encoder
from colbertxm.model.formats import OWN, detect
from colbertxm.model.grafting import Trunk, graft, trunk_print
from colbertxm.model.weights import read_config
from colbertxm.sources import HOMEASSISTANT
from colbertxm.stages import base_checksums, open_model, say, smart_home
from colbertxm.training.checkpointing import claimed
from colbertxm.training.fit import seed_everything
from colbertxm.training.logger import make_logger
from colbertxm.training.mlm import MlmSettings
from colbertxm.training.mlm_fit import one_process
from colbertxm.training.mlm_stages import Run, adapter_stage, head_stage


@dataclass(frozen=True)
class Pretrained:
    """The model with all adapters, the file of each adapter of this run by its name, and a row per language."""

    model: Path
    adapters: dict[str, Path]
    rows: list[dict[str, Any]]
    """lang, adapter, texts, pieces, hidden, loss_before, loss_after, accuracy_before, accuracy_after, steps, seconds,
    and kwh with its method where it is known."""


def pretrain_run(cfg: DictConfig) -> Pretrained:
    """Train the adapters that `cfg` asks for, or what is left of them. Raises UserError for what a user can mend,
    before any of the work where that can be known."""
    one_process()
    settings = MlmSettings(**plain(cfg.mlm))
    config = plain(cfg)
    sources = _sources(config["corpus"])
    home = smart_home() if SMART_HOME in sources else None
    corpora = _corpora(config["languages"], sources, home, settings)
    seed_everything(cfg.seed)
    encoder = _encoder(config, [corpus.lang for corpus in corpora], home)
    output = Path(cfg.output)
    checksums = {**base_checksums(cfg.model.base, encoder), **{f"text/{c.lang}": c.digest for c in corpora}}
    if home is not None:
        checksums[HOMEASSISTANT.filename] = HOMEASSISTANT.sha256
    notes = provenance(config, cfg.seed, checksums)
    logger = make_logger(output, cfg.logger.project, "pretrain", cfg.logger.mode, notes)
    energy = EnergySettings(**config["energy"])
    run = Run(encoder, output, settings, cfg.seed, trunk_print(encoder.xmod), logger, energy, say)
    with claimed(output):
        found = _train(run, corpora, cfg.model.base, cfg.head)
        for name in sorted((output / "adapters").glob("*.safetensors")):
            graft(encoder, name, trunk="same")
        model = save_model(output / "model", encoder, notes)
        rows = [row for _, those in found.values() for row in those]
        write_json(output / "pretrain.json", {"rows": rows, "provenance": notes})
    if logger:
        logger.experiment.finish()
    return Pretrained(model, {name: path for name, (path, _) in found.items()}, rows)


def graft_model(
    checkpoint: Path, adapters: str | Path, languages: Sequence[str] | None, trunk: Trunk, output: Path
) -> Path:
    """A copy of the model in `checkpoint` with adapters from a file or a folder, saved to `output`/model: a language
    that is added to a trained retriever by its adapter alone."""
    model = output / "model"
    if model.resolve() == checkpoint.resolve():
        raise UserError(f"output={output} is the model itself: choose another folder")
    encoder = open_model(checkpoint)
    before = provenance_of(checkpoint) if detect(checkpoint) == OWN else {}
    for note in graft(encoder, adapters, languages, trunk):
        say(note)
    added = {"adapters": str(adapters), "languages": None if languages is None else list(languages), "trunk": trunk}
    return save_model(model, encoder, {**before, "grafted": [*before.get("grafted", []), added]})


def _train(
    run: Run, corpora: Sequence[Unlabelled], base: str, head: str | None
) -> dict[str, tuple[Path, list[dict[str, Any]]]]:
    """Head and adapters: adapter name -> its file and its rows. Two scripts of one language share an adapter, and it is
    trained on the texts of both."""
    groups: dict[str, list[Unlabelled]] = {}
    for corpus in corpora:
        groups.setdefault(run.encoder.adapter(corpus.lang), []).append(corpus)
    for name, those in groups.items():
        if (count := sum(len(corpus.train) for corpus in those)) < run.settings.batch_size:
            raise UserError(
                f"{count} texts for {name} are fewer than mlm.batch_size={run.settings.batch_size}: lower it"
            )
    found_head = head_stage(run, corpora, base, head)
    found, started = {}, time.perf_counter()
    for number, (name, those) in enumerate(groups.items(), 1):
        say(f"[adapter {number}/{len(groups)}] {name}: {sum(len(corpus.train) for corpus in those)} texts")
        found[name] = adapter_stage(run, found_head, name, those)
        if left := len(groups) - number:
            say(f"  about {(time.perf_counter() - started) / number * left / 60:.0f} min left for {left} more")
    return found


def _sources(given: Any) -> list[Source]:
    """`corpus`: one source, or a list of them."""
    listed = given if isinstance(given, list) else [given]
    if not listed or not all(isinstance(source, str | Mapping) for source in listed):
        raise UserError(f"corpus={given}: give smart_home, a folder, {{de: FILE}}, or a list of these")
    return listed


def _corpora(asked: Any, sources: Sequence[Source], home: SmartHome | None, settings: MlmSettings) -> list[Unlabelled]:
    """The texts of each language that is asked for."""
    if asked == "all":
        asked = languages_of(sources, home)
    if isinstance(asked, str):
        asked = [asked]
    if not isinstance(asked, list) or not asked:
        raise UserError(f"languages={asked}: give a list, such as languages=[de,hu], or languages=all")
    codes = list(dict.fromkeys(language(str(spelling)).code for spelling in asked))
    return [read_unlabelled(sources, code, home, settings.held_out) for code in codes]


def _encoder(config: Mapping[str, Any], trained: Sequence[str], home: SmartHome | None) -> Encoder:
    """The base at full width, with adapters to train and, where smart_home is at hand, those of all its languages, for
    the retriever that is trained on it next."""
    model, init = config["model"], config["init"] or {}
    if not isinstance(init, Mapping):
        raise UserError(f"init={init}: give a mapping, such as {{de: identity, gl: es, hu: random}}")
    starts = {name_of(code): like if like in (IDENTITY, RANDOM) else name_of(like) for code, like in init.items()}
    if idle := [code for code in init if language(code).code not in trained]:
        raise UserError(f"init names {', '.join(idle)}, of which no adapter is trained: add it to languages")
    has = _adapters_of_base(model["base"])
    likes = [like for like in init.values() if like not in (IDENTITY, RANDOM)]
    beside = model["languages"] or ["en", *(home.languages("test") if home is not None else ())]
    keep = [code for code in [*beside, *trained, *likes] if has is None or name_of(code) in has]
    new = [code for code in trained if has is not None and name_of(code) not in {*has, *starts}]
    if new:
        raise UserError(
            f"{model['base']} has no adapter for {', '.join(new)}: say how it starts, init={{{new[0]}: identity}}"
        )
    add = {code: IDENTITY for code in init if (has is not None and name_of(code) not in has) or not language(code).xmod}
    encoder = build_encoder(
        model["base"], [code for code in dict.fromkeys(keep) if code not in add], model["tokens"], "multi", 0,
        config["seed"], {**(model["add_languages"] or {}), **add}, model["adapters"],
    )  # fmt: skip
    for name, like in starts.items():
        restart_adapter(encoder.xmod, name, like, config["seed"])
    return encoder.eval()


def _adapters_of_base(base: str) -> frozenset[str] | None:
    """Names of the adapters that a model folder has; None where it can have any of X-MOD's."""
    return frozenset(read_config(Path(base)).languages) if base != "small" and Path(base).is_dir() else None
