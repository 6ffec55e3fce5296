"""What is trained on: the same weights, the same triples in the same order, for us and for the peers.

Two workloads. `smart_home` is real text, in which the loss falls, for the curves: titles and descriptions in English,
BM25's best wrong description as the hard negative. `ms_marco` has the lengths that training at scale has, for the
speed: words of the tokenizer's own vocabulary, 77 tokens a passage on average, a query being six words of its positive.

All four sides read texts alike (the settings of parity's cases unk_in_pylate and unk_in_mve): `<unk>` as the marker,
queries filled with attended `<mask>` tokens, the skip list of colbert-ai.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from colbertxm.data.bm25 import BM25
from colbertxm.data.negatives import mine_with
from colbertxm.data.smart_home import open_smart_home
from colbertxm.errors import UserError
from colbertxm.evaluation.results import replacing
from colbertxm.model.checkpoints import build_encoder
from colbertxm.model.encoder import Encoder
from colbertxm.model.formats import write_as
from colbertxm.model.tokens import TokenSettings
from colbertxm.records import Text, Triple
from colbertxm.sources import HOMEASSISTANT, fetch
from colbertxm.training.fit import TrainerSettings

SEED, DIM = 42, 128
LAYOUTS = ("pylate", "multi_vector")
QUERY_WORDS, PASSAGE_WORDS, SIGMA = 6, 71, 0.44
"""Log-normal with a 95th percentile of 150 tokens, markers and ends included."""


@dataclass(frozen=True)
class Job:
    """One training run, as its json file tells it to every side."""

    workload: str
    folder: str
    """Where the model lies, in a folder for each layout."""
    triples: list[tuple[str, str, str]]
    """Query, positive, negative, in the order in which they are trained on."""
    steps: int
    batch_size: int
    warmup_steps: int
    lr: float = 2e-5
    weight_decay: float = 0.0
    clip: float = 1.0
    temperature: float = 1.0
    threads: int = 2
    seed: int = SEED


def settings(query_maxlen: int, passage_maxlen: int) -> TokenSettings:
    """Texts as all three libraries read them alike."""
    return TokenSettings(
        query_maxlen=query_maxlen, passage_maxlen=passage_maxlen, expand_queries_to=query_maxlen,
        skip="colbert_ai", markers="colbert_ai",
    )  # fmt: skip


def encoder_of(workload: str) -> Encoder:
    """Model `small` with a projection to 128 dimensions. The lengths: 180 is PyLate's default; smart_home's texts are
    short, and longer limits would only make PyLate, which pads to them, slower."""
    if workload not in ("smart_home", "ms_marco"):
        raise UserError(f"unknown workload {workload!r}: choose smart_home or ms_marco")
    tokens = settings(16, 48) if workload == "smart_home" else settings(32, 180)
    return build_encoder("small", ["en"], tokens, "multi", DIM, SEED)


def triples_of(workload: str, encoder: Encoder, count: int) -> list[Triple]:
    """The first `count` of a workload's triples."""
    return smart_home(count) if workload == "smart_home" else ms_marco(encoder, count)


def smart_home(count: int) -> list[Triple]:
    """English titles with their descriptions, drawn at random. Raises UserError where there are fewer."""
    pairs = open_smart_home(fetch(HOMEASSISTANT)).training_pairs()
    if len(pairs) < count:
        raise UserError(f"smart_home has {len(pairs)} English pairs, {count} are asked for: take fewer steps")
    drawn = [pairs[i] for i in np.random.default_rng(SEED).permutation(len(pairs)).tolist()]
    passages = {passage.id: passage for _, passage in pairs}
    triples: list[Triple] = []
    search = BM25(list(passages.values())).search
    # A few titles share no word with any description but their own: they have no hard negative, the next come in.
    while drawn and len(triples) < count:
        some, drawn = drawn[: count - len(triples)], drawn[count - len(triples) :]
        for (query, positive), wrong in zip(some, mine_with(search, some, passages, 1), strict=True):
            if wrong:
                triples.append(Triple(query, positive, (passages[wrong[0]],)))
    return triples


def ms_marco(encoder: Encoder, count: int) -> list[Triple]:
    """Generated words at MS MARCO's lengths."""
    pieces = encoder.tokens.tokenizer.get_vocab(with_added_tokens=False)
    words = np.array(sorted(w[1:] for w in pieces if w[0] == "▁" and w[1:].isascii() and w[1:].isalpha()))
    rng = np.random.default_rng(SEED)

    def passage(name: str) -> Text:
        n = max(QUERY_WORDS, round(rng.lognormal(np.log(PASSAGE_WORDS) - 0.5 * SIGMA**2, SIGMA)))
        return Text(name, " ".join(rng.choice(words, n).tolist()), "en")

    found = []
    for i in range(count):
        positive, negative = passage(f"p{i}"), passage(f"n{i}")
        asked = rng.choice(positive.text.split(), QUERY_WORDS).tolist()
        found.append(Triple(Text(f"q{i}", " ".join(asked), "en"), positive, (negative,)))
    return found


def trainer_settings(job: Job) -> TrainerSettings:
    """Ours: no validation, no checkpoint on the way."""
    return TrainerSettings(
        steps=job.steps, batch_size=job.batch_size, negatives=1, workers=0, val_every=0,
        checkpoint_every=job.steps + 1, log_every=1, gradient_clip=job.clip, accelerator="cpu",
    )  # fmt: skip


def prepare(workload: str, folder: Path, steps: int, batch_size: int, threads: int) -> Path:
    """Write the model in the peers' layouts and the job's file; returns that."""
    encoder = encoder_of(workload)
    triples = triples_of(workload, encoder, steps * batch_size)
    for layout in LAYOUTS:
        write_as(layout, folder / layout, encoder)
        without_dropout(folder / layout / "config.json")
    texts = [(triple.query.text, triple.positive.text, triple.negatives[0].text) for triple in triples]
    warmup = max(1, round(0.1 * steps))
    path = folder / "job.json"
    with replacing(path) as part:
        job = Job(workload, str(folder), texts, steps, batch_size, warmup, threads=threads)
        part.write_text(json.dumps(asdict(job)), encoding="utf-8")
    return path


def without_dropout(config: Path) -> None:
    """Ours has no dropout; with theirs (0.1 unless the file says otherwise) no two loss curves would be comparable."""
    values = json.loads(config.read_text(encoding="utf-8"))
    values |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config.write_text(json.dumps(values, indent=2), encoding="utf-8")


def read_job(path: Path) -> Job:
    """A job's file."""
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return Job(**values)
