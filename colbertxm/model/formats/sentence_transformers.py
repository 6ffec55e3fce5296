"""sentence-transformers with one vector a text: Transformer, Pooling (mean), perhaps Dense and Normalize. The layout of
antoinelouis/dpr-xm.

Vectors come out normalised whether or not the layout says Normalize, because scores are cosines; what is written
says it.
"""

from __future__ import annotations

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
from colbertxm.model.formats.multi_vector import LENGTHS, room
from colbertxm.model.formats.pylate import SETTINGS
from colbertxm.model.tokens import TokenSettings
from colbertxm.model.weights import read_xmod

MODELS = "sentence_transformers.models"
"""Where sentence-transformers 2 to 6 find the modules."""


def read(folder: Path, adapters: Sequence[str] | None) -> Encoder:
    """Read a single-vector model. Raises UserError for a pooling other than the mean, and for other modules."""
    modules = read_modules(folder)
    kinds = [kind for kind, _ in modules]
    known = ["Transformer", "Pooling", *(["Dense"] if "Dense" in kinds else [])]
    if kinds not in (known, [*known, "Normalize"]):
        raise UserError(f"{folder} is a model of {', '.join(kinds)}; colbertxm reads {', '.join(known)}, Normalize")
    where = dict(modules)
    pooling = read_object(where["Pooling"] / "config.json")
    on = [name.removeprefix("pooling_mode_").removesuffix("_tokens") for name, is_on in pooling.items()
          if name.startswith("pooling_mode_") and is_on]  # fmt: skip
    mode = pooling.get("pooling_mode", on[0] if len(on) == 1 else on)
    if mode not in ("mean", ["mean"]) or not pooling.get("include_prompt", True):
        raise UserError(f"{where['Pooling']} pools by {mode}; colbertxm reads the plain mean of all tokens")
    body = where["Transformer"]
    values = read_object(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    lengths = read_object(body / LENGTHS) if (body / LENGTHS).is_file() else {}
    xmod, _ = read_xmod(body, adapters)
    projection = read_dense(where["Dense"]) if "Dense" in where else None
    return assemble(xmod, body, settings_of(values, lengths, body), "single", projection)


def settings_of(values: dict[str, Any], lengths: dict[str, Any], body: Path) -> TokenSettings:
    """Prompts and lengths; without markers, expansion and skip list."""
    if lengths.get("do_lower_case"):
        raise UserError(f"{body / LENGTHS} lowers the case of texts, which colbertxm does not")
    prompts = values.get("prompts") or {}
    default = int(lengths.get("max_seq_length") or room(body))
    return TokenSettings(
        query_prefix=str(prompts.get("query") or ""),
        passage_prefix=str(prompts.get("document") or prompts.get("passage") or ""),
        query_maxlen=int(lengths.get("query_length") or default),
        passage_maxlen=int(lengths.get("document_length") or default),
        skip="none",
    )


def write(part: Path, encoder: Encoder) -> None:
    """Write as SentenceTransformer reads it. Raises UserError for an encoder that it would compute otherwise."""
    s = encoder.tokens.settings
    name = "sentence_transformers"
    if encoder.pooling != "single":
        raise refuse(name, "one vector per token", "export to=multi_vector, pylate or stanford")
    if s.markers != "none":
        raise refuse(name, f"the markers {s.markers}", "set tokens.markers=none")
    if s.expand_queries_to:
        raise refuse(name, "query expansion", "set tokens.expand_queries_to=0")
    write_body(part, encoder, "XmodModel")
    hidden = encoder.xmod.config.hidden_size
    modules = [(f"{MODELS}.Transformer", ""), (f"{MODELS}.Pooling", "1_Pooling")]
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    pooling = {f"pooling_mode_{mode}": mode == "mean_tokens" for mode in modes}
    write_json(part / "1_Pooling" / "config.json", {"word_embedding_dimension": hidden, **pooling})
    if encoder.linear is not None:
        modules.append((f"{MODELS}.Dense", "2_Dense"))
        write_dense(part / "2_Dense", encoder)
    modules.append((f"{MODELS}.Normalize", f"{len(modules)}_Normalize"))
    write_json(part / modules[-1][1] / "config.json", {})
    write_modules(part, modules)
    lengths: dict[str, Any] = {"max_seq_length": s.passage_maxlen, "do_lower_case": False}
    if s.query_maxlen != s.passage_maxlen:  # only sentence-transformers 6 knows these two
        lengths |= {"query_length": s.query_maxlen, "document_length": s.passage_maxlen}
    write_json(part / LENGTHS, lengths)
    prompts = {"query": s.query_prefix, "document": s.passage_prefix}
    values = {"model_type": "SentenceTransformer", "prompts": prompts, "default_prompt_name": None}
    write_json(part / SETTINGS, {**values, "similarity_fn_name": "cosine"})
