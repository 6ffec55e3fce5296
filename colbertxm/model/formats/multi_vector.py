"""sentence-transformers 6 MultiVectorEncoder: Transformer, Dense, MultiVectorMask, Normalize. Lengths and expansion
stand in sentence_bert_config.json, the skip list in the mask's config, and what precedes a text in `prompts`, as text.

A marker becomes a prompt: the token's name and a space, which XLM-R's tokenizer reads as that one token. So reading
gives mode `none` with a prefix that begins with the marker: the same ids, another name.
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
from colbertxm.model.formats.pylate import SETTINGS, UNKNOWN, skip_words
from colbertxm.model.tokens import TokenSettings
from colbertxm.model.weights import read_xmod

LENGTHS = "sentence_bert_config.json"
PACKAGE = "sentence_transformers.base.modules"
MASK = "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask"
EXPECTED = (["Transformer", "Dense", "MultiVectorMask", "Normalize"], ["Transformer", "MultiVectorMask", "Normalize"])


def read(folder: Path, adapters: Sequence[str] | None) -> Encoder:
    """Read a MultiVectorEncoder. Raises UserError for modules and settings that colbertxm does not compute."""
    modules = read_modules(folder)
    kinds = [kind for kind, _ in modules]
    if kinds not in EXPECTED:
        raise UserError(f"{folder} is a MultiVectorEncoder of {', '.join(kinds)}; colbertxm reads {EXPECTED[0]}")
    where = dict(modules)
    body = where["Transformer"]
    mask = read_object(where["MultiVectorMask"] / "config.json")
    if mask.get("skiplist_tasks", ["document"]) != ["document"] or mask.get("keep_only_token_ids"):
        raise UserError(f"{where['MultiVectorMask']}: colbertxm skips tokens of documents only, by a list of words")
    settings = settings_of(read_object(folder / SETTINGS), read_object(body / LENGTHS), mask, folder)
    xmod, _ = read_xmod(body, adapters)
    projection = read_dense(where["Dense"]) if "Dense" in where else None
    return assemble(xmod, body, settings, "multi", projection)


def settings_of(values: dict[str, Any], lengths: dict[str, Any], mask: dict[str, Any], folder: Path) -> TokenSettings:
    """Token settings out of the three files."""
    if values.get("similarity_fn_name") not in (None, "maxsim"):
        raise UserError(f"{folder / SETTINGS} scores by {values['similarity_fn_name']}; colbertxm reads maxsim models")
    default = int(lengths.get("max_seq_length") or room(folder))
    query_maxlen = int(lengths.get("query_length") or default)
    expand_to = 0
    if expansion := lengths.get("query_expansion"):
        if not expansion.get("attend"):
            raise UserError(
                f"{folder / LENGTHS} has query_expansion without attend: its <mask> tokens are scored but not attended "
                "to, which colbertxm does not compute; set attend to true if the model was trained so"
            )
        if expansion.get("token") not in (None, "<mask>"):
            raise UserError(f"{folder / LENGTHS} expands queries with {expansion['token']}; colbertxm does with <mask>")
        expand_to = int(expansion["length"])
        query_maxlen = expand_to if expansion["strategy"] == "fixed" else max(expand_to, query_maxlen)
    words = tuple(mask.get("skiplist_words") or ())
    prompts = values.get("prompts") or {}
    return TokenSettings(
        query_prefix=str(prompts.get("query") or ""),
        passage_prefix=str(prompts.get("document") or ""),
        query_maxlen=query_maxlen,
        passage_maxlen=int(lengths.get("document_length") or default),
        expand_queries_to=expand_to,
        skip="sentence_transformers" if words else "none",
        skip_words=() if words == tuple(string.punctuation) else words,
    )


def room(folder: Path) -> int:
    """The longest text where no length is given: what the positions hold."""
    config = read_object(folder / "config.json")
    return int(config["max_position_embeddings"]) - int(config.get("pad_token_id", 1)) - 1


def prompt(marker: str, prefix: str) -> str:
    """What stands before a text, as text: the space keeps a marker apart from the text's first piece."""
    return f"{marker} {prefix}" if marker else prefix


def write(part: Path, encoder: Encoder) -> None:
    """Write as MultiVectorEncoder reads it. Raises UserError for an encoder that it would compute otherwise."""
    s = encoder.tokens.settings
    if encoder.pooling != "multi":
        raise refuse("multi_vector", "a model with one vector a text", "export to=sentence_transformers")
    if s.markers == "colbert_xm_train":
        what = "the markers colbert_xm_train (the stray '.' would be read as two pieces)"
        raise refuse("multi_vector", what, "set tokens.markers=colbert_ai")
    if s.expand_queries_to > s.query_maxlen:
        what = f"queries of up to {s.query_maxlen} tokens filled to {s.expand_queries_to}"
        raise refuse("multi_vector", what, f"set tokens.query_maxlen={s.expand_queries_to}")
    markers = {"none": ("", ""), "colbert_ai": (UNKNOWN, UNKNOWN), "added": (s.query_marker, s.passage_marker)}
    query_marker, passage_marker = markers[s.markers]
    write_body(part, encoder, "XmodModel")
    modules = [(f"{PACKAGE}.transformer.Transformer", "")]
    tokenwise = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
    if encoder.linear is not None:
        modules.append((f"{PACKAGE}.dense.Dense", "1_Dense"))
        write_dense(part / "1_Dense", encoder, **tokenwise)
    modules.append((MASK, f"{len(modules)}_MultiVectorMask"))
    words = skip_words(encoder.tokens)
    mask = {"skiplist_words": words, "skiplist_tasks": ["document"], "keep_only_token_ids": None}
    write_json(part / modules[-1][1] / "config.json", mask)
    modules.append((f"{PACKAGE}.normalize.Normalize", f"{len(modules)}_Normalize"))
    write_json(part / modules[-1][1] / "config.json", tokenwise)
    write_modules(part, modules)
    write_json(part / LENGTHS, _lengths(s))
    prompts = {"query": prompt(query_marker, s.query_prefix), "document": prompt(passage_marker, s.passage_prefix)}
    write_json(
        part / SETTINGS,
        {"model_type": "MultiVectorEncoder", "prompts": prompts, "default_prompt_name": None,
         "similarity_fn_name": "maxsim"},
    )  # fmt: skip


def _lengths(s: TokenSettings) -> dict[str, Any]:
    text = {"method": "forward", "method_output_name": "last_hidden_state"}
    found: dict[str, Any] = {
        "transformer_task": "feature-extraction",
        "modality_config": {"text": text},
        "module_output_name": "token_embeddings",
        "query_length": s.query_maxlen,
        "document_length": s.passage_maxlen,
    }
    if s.expand_queries_to:
        strategy = "fixed" if s.expand_queries_to == s.query_maxlen else "min"
        found["query_expansion"] = {
            "strategy": strategy, "attend": True, "token": None, "length": s.expand_queries_to,
        }  # fmt: skip
    return found
