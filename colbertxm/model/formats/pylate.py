"""PyLate: a transformers X-MOD, 1_Dense, and config_sentence_transformers.json with the prefixes, lengths,
expansion and skip list. The prefixes are tokens, inserted by id behind `<s>`.

<unk> is a token, so `colbert_ai` markers are the prefix "<unk>" there. The stray "." of `colbert_xm_train` would
be a second inserted token, for which PyLate has no place.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from colbertxm.errors import UserError
from colbertxm.model.encoder import Encoder
from colbertxm.model.formats.files import (
    assemble,
    read_dense,
    read_modules,
    read_object,
    refuse,
    write_body,
    write_dense,
    write_json,
    write_modules,
)
from colbertxm.model.tokens import Tokens, TokenSettings
from colbertxm.model.weights import read_xmod

SETTINGS = "config_sentence_transformers.json"
UNKNOWN = "<unk>"


def read(folder: Path, adapters: Sequence[str] | None) -> Encoder:
    """Read a PyLate model. Raises UserError for modules and settings that colbertxm does not compute."""
    modules = read_modules(folder)
    if [kind for kind, _ in modules] != ["Transformer", "Dense"]:
        kinds = ", ".join(kind for kind, _ in modules)
        raise UserError(f"{folder} is a PyLate model of {kinds}; colbertxm reads Transformer, Dense")
    body, dense = modules[0][1], modules[1][1]
    values = read_object(folder / SETTINGS)
    xmod, _ = read_xmod(body, adapters)
    return assemble(xmod, body, settings_of(values, folder), "multi", read_dense(dense))


def settings_of(values: dict[str, Any], folder: Path) -> TokenSettings:
    """Token settings out of PyLate's keys, with its defaults for those that are absent."""

    def get(name: str, default: Any) -> Any:
        return default if values.get(name) is None else values[name]

    query_marker, passage_marker = str(get("query_prefix", "[Q] ")), str(get("document_prefix", "[D] "))
    if bool(query_marker) != bool(passage_marker):
        raise UserError(f"{folder / SETTINGS} has a prefix for one kind of text only; colbertxm marks both or none")
    expand = bool(get("do_query_expansion", True))
    if expand and not get("attend_to_expansion_tokens", False):
        raise UserError(
            f"{folder / SETTINGS} has attend_to_expansion_tokens false: its <mask> tokens are scored but not attended "
            "to, which colbertxm does not compute; set do_query_expansion to false, or that to true"
        )
    maxlen = int(get("query_length", 32))
    words = tuple(get("skiplist_words", list(string.punctuation)))
    prompts = get("prompts", {})
    markers: dict[str, Any] = {"markers": "none"}
    if query_marker:
        markers = {"markers": "added", "query_marker": query_marker, "passage_marker": passage_marker}
        if query_marker == passage_marker == UNKNOWN:
            markers = {"markers": "colbert_ai"}
    return TokenSettings(
        query_prefix=str(prompts.get("query") or ""),
        passage_prefix=str(prompts.get("document") or ""),
        query_maxlen=maxlen,
        passage_maxlen=int(get("document_length", 180)),
        expand_queries_to=maxlen if expand else 0,
        skip="pylate" if words else "none",
        skip_words=() if words == tuple(string.punctuation) else words,
        **markers,
    )


def write(part: Path, encoder: Encoder) -> None:
    """Write as PyLate reads it. Raises UserError for an encoder that it would compute otherwise."""
    s = encoder.tokens.settings
    if encoder.pooling != "multi" or encoder.linear is None:
        raise refuse("pylate", "a model without projection or with one vector a text", "to=sentence_transformers")
    if s.markers == "colbert_xm_train":
        raise refuse("pylate", "the markers colbert_xm_train (a stray '.' follows them)", "tokens.markers=colbert_ai")
    if s.expand_queries_to not in (0, s.query_maxlen):
        raise refuse(
            "pylate",
            f"queries of up to {s.query_maxlen} tokens filled to {s.expand_queries_to}",
            f"set tokens.expand_queries_to={s.query_maxlen} or 0",
        )
    markers = {"none": ("", ""), "colbert_ai": (UNKNOWN, UNKNOWN), "added": (s.query_marker, s.passage_marker)}
    query_marker, passage_marker = markers[s.markers]
    write_body(part, encoder, "XmodModel")
    write_dense(part / "1_Dense", encoder, use_residual=False)
    write_modules(part, [("sentence_transformers.models.Transformer", ""), ("pylate.models.Dense.Dense", "1_Dense")])
    write_json(part / "sentence_bert_config.json", {"max_seq_length": s.passage_maxlen, "do_lower_case": False})
    write_json(
        part / SETTINGS,
        {
            "model_type": "ColBERT",
            "prompts": {"query": s.query_prefix, "document": s.passage_prefix},
            "default_prompt_name": None,
            "similarity_fn_name": "MaxSim",
            "query_prefix": query_marker,
            "document_prefix": passage_marker,
            "query_length": s.query_maxlen,
            "document_length": s.passage_maxlen,
            "attend_to_expansion_tokens": s.expand_queries_to > 0,
            "do_query_expansion": s.expand_queries_to > 0,
            "skiplist_words": skip_words(encoder.tokens),
        },
    )


def skip_words(tokens: Tokens) -> list[str]:
    """A skip list as words, for layouts that turn words into ids: the pieces themselves."""
    s = tokens.settings
    if s.skip in ("pylate", "sentence_transformers"):
        return list(s.skip_words or string.punctuation)
    return [str(tokens.tokenizer.id_to_token(i)) for i in sorted(tokens.skipped)]
