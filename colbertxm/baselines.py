"""Baselines by name: what `baselines=[...]` of `colbertxm evaluate`, and the demo, compare a trained model with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from colbertxm.errors import UserError, nearest
from colbertxm.evaluation.baselines import BM25System, System
from colbertxm.evaluation.baselines_dense import Dense
from colbertxm.evaluation.baselines_st import sentence_transformer
from colbertxm.languages import proxies, to_load
from colbertxm.model.encoder import Pooling
from colbertxm.model.tokens import Kind
from colbertxm.records import Text
from colbertxm.retriever import Retriever
from colbertxm.stages import Base, open_model, resolve_model

UNTRAINED: dict[str, tuple[Pooling, bool]] = {
    "untrained_single": ("single", False),
    "untrained": ("multi", False),
    "untrained_no_prefix": ("multi", True),
}
"""Rows of the base as it is: its pooling, and whether MaxSim leaves out the prefix's vectors."""
BASELINES = ("bm25", "bm25:full", "bm25:plain", *UNTRAINED)
FAMILIES = ("mean:CHECKPOINT", "mean:untrained", "st:MODEL", "st:MODEL?e5")
IN_DEMO = ("bm25", "untrained_single", "untrained")
"""What there is time for in ten minutes."""


def baseline(
    name: str, base: Base | None, languages: Sequence[str] = (), lang_proxy: Mapping[str, str] | None = None
) -> System:
    """A system that is not trained here, by its name in `baselines`:

        bm25, bm25:full, bm25:plain      tokens as `colbertxm.data.bm25_tokens` says
        untrained and its like           need the base model
        mean:CHECKPOINT, mean:untrained  a multi-vector model with the mean of its vectors in the place of MaxSim
        st:MODEL, st:MODEL?e5    sentence-transformers, as `colbertxm.evaluation.baselines_st` says

    A checkpoint is read with the adapters of `languages` and with `lang_proxy`."""
    family, _, rest = name.partition(":")
    if name in ("bm25", "bm25:full", "bm25:plain"):
        return BM25System(rest or "best")
    if family == "st" and rest:
        source, _, prompts = rest.partition("?")
        return sentence_transformer(source, prompts or "own")
    if family == "mean" and rest in UNTRAINED and base is not None:
        return mean_pooling(base.retriever(*UNTRAINED[rest]))
    if family == "mean" and rest and rest not in UNTRAINED:
        encoder = open_model(resolve_model(rest, to_load(languages, proxies(lang_proxy))), lang_proxy)
        encoder.check_languages(languages)
        return mean_pooling(Retriever(encoder))
    if base is not None and name in UNTRAINED:
        return base.retriever(*UNTRAINED[name])
    known = (*BASELINES, *FAMILIES)
    raise UserError(f"unknown baseline {name!r}{nearest(name, known)}; there are {', '.join(known)}")


def needs_base(name: str) -> bool:
    """Whether a baseline is made of the base model."""
    return name.removeprefix("mean:") in UNTRAINED


def baseline_row(name: str) -> str:
    """The name of a baseline's row: `trained/mean` for mean:outputs/demo/trained/model, else the baseline's own name.
    A local model of sentence-transformers is named after its folder, st:FOLDER."""
    family, _, rest = name.partition(":")
    if family == "mean" and rest:
        return f"{rest if rest in UNTRAINED else checkpoint_row(rest)}/mean"
    source, question, prompts = rest.partition("?")
    if family == "st" and Path(source).is_dir():
        return f"st:{Path(source).absolute().name}{question}{prompts}"
    return name


def checkpoint_row(checkpoint: str) -> str:
    """The name of a model's row: that of the folder around it, or its own on the hub."""
    here = Path(checkpoint).exists() or checkpoint == "latest"
    return resolve_model(checkpoint, []).absolute().parent.name if here else checkpoint


def mean_pooling(retriever: Retriever) -> Dense:
    """The very vectors that MaxSim compares, averaged to one a text: what late interaction adds to its own encoder.
    With a single-vector model there is nothing to average. Its own mean of states (`untrained_single`) differs from
    `mean:untrained` in one point: there, token vectors are not brought to length one before the mean."""
    if retriever.encoder.pooling == "single":
        raise UserError(
            "mean pooling is for models with one vector a token; this one has one vector a text: leave it out"
        )

    def encode(texts: Sequence[Text], kind: Kind) -> Tensor:
        vectors = retriever.encode(texts, kind)
        return torch.segment_reduce(vectors.values, "mean", lengths=vectors.offsets.diff(), axis=0)

    return Dense(encode, "the mean of the vectors that MaxSim compares, cosine")
