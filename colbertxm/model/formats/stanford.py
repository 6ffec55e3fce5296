"""Stanford ColBERT (colbert-ai): config.json with architecture HF_ColBERT, artifact.metadata, `roberta.*` and
`linear.weight` in one file. The layout of antoinelouis/colbert-xm.

artifact.metadata says nothing of the stray "." (model/tokens.py), which depends on when colbert-ai trained the model:
it ended in August 2024 (stanford-futuredata/ColBERT pull request 362). So the date that colbert-ai
writes into it decides, unless the caller does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

from colbertxm.errors import UserError
from colbertxm.model.encoder import Encoder
from colbertxm.model.formats.files import PROJECTION, assemble, read_object, refuse, write_body, write_json
from colbertxm.model.tokens import Markers, Tokens, TokenSettings
from colbertxm.model.weights import read_xmod

METADATA = "artifact.metadata"
PREFIX = "roberta."
FIXED = date(2024, 8, 1)
"""Before it, colbert-ai wrote ". " in front of each text."""


def read(folder: Path, adapters: Sequence[str] | None) -> Encoder:
    """Read a Stanford checkpoint. Raises UserError for settings that colbertxm does not compute."""
    metadata = read_object(folder / METADATA)
    settings = settings_of(metadata, folder)
    xmod, more = read_xmod(folder, adapters, also=[PROJECTION])
    return assemble(xmod, folder, settings, "multi", more[PROJECTION])


def settings_of(metadata: dict[str, Any], folder: Path) -> TokenSettings:
    """Token settings out of artifact.metadata; what it lacks has colbert-ai's default."""
    if metadata.get("similarity", "cosine") != "cosine":
        raise UserError(f"{folder / METADATA} has similarity {metadata['similarity']!r}; colbertxm scores by cosine")
    if not metadata.get("attend_to_mask_tokens", False):
        raise UserError(
            f"{folder / METADATA} has attend_to_mask_tokens false: its <mask> tokens are scored but not attended to, "
            "which colbertxm does not compute; set it to true if the model was trained so"
        )
    query_marker = str(metadata.get("query_token_id") or "[unused0]")
    passage_marker = str(metadata.get("doc_token_id") or "[unused1]")
    maxlen = int(metadata.get("query_maxlen") or 32)
    return TokenSettings(
        query_maxlen=maxlen,
        passage_maxlen=int(metadata.get("doc_maxlen") or 220),
        expand_queries_to=maxlen,
        skip="colbert_ai" if metadata.get("mask_punctuation", True) else "none",
        markers=_markers(metadata, folder, query_marker, passage_marker),
        query_marker=query_marker,
        passage_marker=passage_marker,
    )


def _markers(metadata: dict[str, Any], folder: Path, query_marker: str, passage_marker: str) -> Markers:
    noted = metadata.get("colbertxm")
    if isinstance(noted, dict) and "markers" in noted:
        return TokenSettings(markers=noted["markers"]).markers  # checked there
    written = saved(metadata)
    if written is not None and written < FIXED:
        return "colbert_xm_train"
    tokenizer = Tokens.read_tokenizer(folder)
    known = all(tokenizer.token_to_id(marker) is not None for marker in (query_marker, passage_marker))
    return "added" if known else "colbert_ai"


def saved(metadata: dict[str, Any]) -> date | None:
    """When colbert-ai wrote it: meta.current_datetime ("Jan 25, 2024 ; 2:08AM CET (+0100)"), or the date at the head of
    the run's name."""
    meta = metadata.get("meta")
    noted = str(meta.get("current_datetime", "")) if isinstance(meta, dict) else ""
    for text, pattern, form in (
        (noted, r"[A-Z][a-z]{2} +\d{1,2}, \d{4}", "%b %d, %Y"),
        (str(metadata.get("name", "")), r"\d{4}-\d{2}[-/]\d{2}", "%Y-%m-%d"),
    ):
        if found := re.match(pattern, text):
            try:
                return datetime.strptime(re.sub(" +", " ", found[0]).replace("/", "-"), form).date()
            except ValueError:
                continue
    return None


def write(part: Path, encoder: Encoder) -> None:
    """Write as colbert-ai reads it. Raises UserError for an encoder that it would compute otherwise."""
    s = encoder.tokens.settings
    name = "stanford"
    if encoder.pooling != "multi" or encoder.linear is None:
        raise refuse(name, "a model without projection or with one vector a text", "export to=sentence_transformers")
    if s.query_prefix or s.passage_prefix:
        raise refuse(name, "text prefixes", "export to=multi_vector")
    if s.markers == "none":
        raise refuse(name, "a model without markers, which colbert-ai always inserts", "export to=multi_vector")
    if s.expand_queries_to != s.query_maxlen:
        raise refuse(
            name,
            f"queries of up to {s.query_maxlen} tokens filled to {s.expand_queries_to}: colbert-ai always fills them",
            f"set tokens.expand_queries_to={s.query_maxlen}",
        )
    if s.skip not in ("colbert_ai", "none"):
        raise refuse(name, f"the skip list {s.skip!r}", "set tokens.skip=colbert_ai")
    write_body(part, encoder, "HF_ColBERT", PREFIX, {PROJECTION: encoder.linear.weight})
    write_json(
        part / METADATA,
        {
            "query_token_id": s.query_marker,
            "doc_token_id": s.passage_marker,
            "query_token": "[Q]",
            "doc_token": "[D]",
            "query_maxlen": s.query_maxlen,
            "doc_maxlen": s.passage_maxlen,
            "attend_to_mask_tokens": True,
            "mask_punctuation": s.skip == "colbert_ai",
            "dim": encoder.dim,
            "similarity": "cosine",
            "interaction": "colbert",
            # colbert-ai passes over keys that it does not know; it would compute `colbert_ai` whatever stands here.
            "colbertxm": {"markers": s.markers},
            "meta": {"version": "colbert-v0.4"},
        },
    )
