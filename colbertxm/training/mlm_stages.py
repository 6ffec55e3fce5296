"""The stages of pretraining: the head once, then each language's adapter; each is recognised when it is finished."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from colbertxm.data.order import epoch_order
from colbertxm.data.unlabelled import Unlabelled
from colbertxm.energy.meter import EnergySettings
from colbertxm.errors import UserError
from colbertxm.languages import language
from colbertxm.model.checkpoints import find_model
from colbertxm.model.encoder import Encoder
from colbertxm.model.grafting import KIND, NOUN, TrunkPrint, graft, save_adapter
from colbertxm.model.masking import Pieces
from colbertxm.model.mlm import Guesser, MlmHead, has_head, head_of_checkpoint, read_head, start_head, write_head
from colbertxm.model.noted_tensors import digest, read_header
from colbertxm.training.mlm import (
    Figures,
    MlmSettings,
    adapter_parameters,
    choose,
    loss_of_states,
    loss_of_texts,
    measure,
    states_of,
)
from colbertxm.training.mlm_data import Masking, MlmData, Sentence, pieces_of, sentences
from colbertxm.training.mlm_fit import StageResult, fit_stage, forget

HEAD = "head.safetensors"
OF_HEAD = ("head_steps", "head_batch_size", "head_texts", "head_lr")
OF_ADAPTER = ("steps", "batch_size", "lr", "held_out_texts")
OF_BOTH = ("maxlen", "warmup", "weight_decay", "gradient_clip", "vocabulary", "precision")
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """What all stages of a run share. `encoder` is trained in place; `trunk` is its print."""

    encoder: Encoder
    output: Path
    settings: MlmSettings
    seed: int
    trunk: TrunkPrint
    logger: Any
    energy: EnergySettings
    say: Callable[[str], None]

    def key(self, settings: Sequence[str], **parts: Any) -> str:
        """sha256 of all that a stage's result depends on."""
        chosen = {name: getattr(self.settings, name) for name in (*settings, *OF_BOTH)}
        whole = {"trunk": asdict(self.trunk), "settings": chosen, "seed": self.seed, **parts}
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    def points(self, stage: str) -> Path:
        """Where a stage's resume points lie."""
        return self.output / "checkpoints" / stage

    def texts(self, corpora: Sequence[Unlabelled], side: str) -> list[Sentence]:
        """Token ids of one side, `train` or `held_out`, of several corpora."""
        maxlen = self.settings.maxlen
        return [one for c in corpora for one in sentences(self.encoder, c.lang, getattr(c, side), maxlen)]

    def masking(self, found: Sequence[Sentence], pieces: Pieces) -> Masking:
        """How these are hidden."""
        pad = self.encoder.xmod.config.pad_token_id
        return Masking(found, pieces, self.encoder.tokens.mask_id, pad, self.seed)

    def pieces(self, train: Sequence[Sentence], held_out: Sequence[Sentence]) -> Pieces:
        """What can be hidden in either; how often is counted in `train` alone."""
        return pieces_of(self.encoder, train, held_out, self.settings.vocabulary == "full")


def head_stage(run: Run, corpora: Sequence[Unlabelled], base: str, given: str | None) -> MlmHead:
    """The head: the one given, the base's own, or one trained here on all the languages' texts over the frozen encoder
    with its adapters as they start. Raises UserError for one of another model, and where another lies in the output."""
    config = run.encoder.xmod.config
    if given is not None:
        path = Path(given) / HEAD if Path(given).is_dir() else Path(given)
        head, notes = read_head(path, config)
        _check_head(run, TrunkPrint(**notes["trunk"]), path)
        return head
    if base != "small":
        own = [code for code in run.encoder.languages if language(code).xmod]
        if has_head(folder := find_model(base, own, verify=False)):
            run.say(f"[head] {folder} brings its own")
            return head_of_checkpoint(folder, config)
    path = run.output / HEAD
    start = {name: _digest(run, name) for name in {run.encoder.adapter(c.lang) for c in corpora}}
    key = run.key(OF_HEAD, texts=[corpus.digest for corpus in corpora], start=start)
    if path.exists():
        head, notes = read_head(path, config)
        if notes["key"] != key:
            raise UserError(
                f"{path} was trained on other text, languages or settings: head={run.output} takes it as it is, "
                "output=ANOTHER trains another"
            )
        return head
    return _train_head(run, corpora, path, key)


def _train_head(run: Run, corpora: Sequence[Unlabelled], path: Path, key: str) -> MlmHead:
    train, settings = run.texts(corpora, "train"), run.settings
    pieces = run.pieces(train, run.texts(corpora, "held_out"))
    count = min(settings.head_texts, len(train))
    drawn = [train[int(i)] for i in epoch_order(len(train), run.seed, 0)(range(count))]
    run.say(f"[head] {count} of {len(train)} texts, {len(pieces)} pieces")
    head = start_head(run.encoder.xmod.config, pieces, run.seed)
    guesser = Guesser(run.encoder.xmod, head, pieces).eval()
    states = states_of(guesser, run.masking(drawn, pieces))
    what = "hidden places are fewer than mlm.head_batch_size"
    places = len(states.rows_M)
    data = MlmData(states, places, settings.head_batch_size, settings.head_steps, run.seed, what)
    choose(guesser, head.parameters())
    folder = run.points("head")
    result = fit_stage(
        guesser, data, loss_of_states, settings, settings.head_lr, folder, "head", key, run.logger, run.energy
    )
    notes = {"key": key, "trunk": asdict(run.trunk), "languages": [corpus.lang for corpus in corpora]}
    write_head(path, head, {**notes, "texts": count, "places": places, "pieces": len(pieces), **_cost(result)})
    forget(folder)
    return head


def adapter_stage(run: Run, head: MlmHead, name: str, corpora: Sequence[Unlabelled]) -> tuple[Path, Rows]:
    """One adapter, trained on its languages' texts and on nothing else; its file, and a row per language. One that is
    finished is read. Raises UserError where one of another run lies in its place."""
    path = run.output / "adapters" / f"{name}.safetensors"
    texts = [corpus.digest for corpus in corpora]
    key = run.key(OF_ADAPTER, texts=texts, start=_digest(run, name), head=digest(head.state_dict()))
    if path.exists():
        notes = read_header(path, KIND, NOUN)["notes"]
        if notes.get("key") != key:
            raise UserError(f"{path} was trained with other text, settings or head: give output=ANOTHER, or delete it")
        graft(run.encoder, path, trunk="same")
        run.say(f"  {path} is finished")
        return path, notes["rows"]
    train, settings = run.texts(corpora, "train"), run.settings
    pieces = run.pieces(train, run.texts(corpora, "held_out"))
    guesser = Guesser(run.encoder.xmod, head, pieces).eval()
    measured = [(corpus, run.masking(_sample(run, corpus), pieces)) for corpus in corpora]
    before = [measure(guesser, masking) for _, masking in measured]
    what = "texts are fewer than mlm.batch_size"
    data = MlmData(run.masking(train, pieces), len(train), settings.batch_size, settings.steps, run.seed, what)
    choose(guesser, adapter_parameters(guesser, name))
    folder = run.points(name)
    result = fit_stage(guesser, data, loss_of_texts, settings, settings.lr, folder, name, key, run.logger, run.energy)
    rows = [
        _row(corpus, name, len(pieces), was, measure(guesser, masking), settings.steps, _cost(result))
        for (corpus, masking), was in zip(measured, before, strict=True)
    ]
    run.encoder.requires_grad_(False)
    save_adapter(path, run.encoder.xmod, name, run.trunk, {"key": key, "rows": rows})
    forget(folder)
    if run.logger:
        run.logger.log_metrics({f"{name}/held_out_{k}": v for row in rows for k, v in row.items() if "_" in k})
    return path, rows


def _sample(run: Run, corpus: Unlabelled) -> list[Sentence]:
    """The held-out texts that are measured: the first by a hash of each."""
    drawn = sorted(corpus.held_out, key=lambda text: hashlib.sha256(text.encode()).digest())
    count = run.settings.held_out_texts
    return sentences(run.encoder, corpus.lang, drawn[:count], run.settings.maxlen)


def _row(
    corpus: Unlabelled, name: str, pieces: int, before: Figures, after: Figures, steps: int, cost: Mapping[str, Any]
) -> dict[str, Any]:
    found = {"lang": corpus.lang, "adapter": name, "texts": len(corpus.train), "pieces": pieces, "hidden": after.pieces}
    found |= {"loss_before": before.loss, "loss_after": after.loss}
    found |= {"accuracy_before": before.accuracy, "accuracy_after": after.accuracy}
    return {**found, "steps": steps, **cost}


def _cost(result: StageResult) -> dict[str, Any]:
    """Seconds of the last part, and the energy of all parts with its method."""
    known = result.energy is not None and result.energy.kwh is not None
    energy = result.energy.notes() if known and result.energy is not None else {}
    return {"seconds": round(result.seconds, 3), **{name: energy[name] for name in ("kwh", "method") if energy}}


def _digest(run: Run, name: str) -> str:
    """What an adapter is at the moment."""
    state = run.encoder.xmod.state_dict()
    return digest({key: tensor for key, tensor in state.items() if f".adapter_modules.{name}." in key})


def _check_head(run: Run, trained: TrunkPrint, path: Path) -> None:
    if trained.embeddings != run.trunk.embeddings:
        raise UserError(f"{path} was trained on another model (other embeddings): leave head out to train one")
    if trained.layers != run.trunk.layers:
        run.say(f"{path} was trained on other layers than this model's: the model was trained on since")
