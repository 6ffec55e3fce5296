"""Any single-vector model of sentence-transformers as a system: `st:intfloat/multilingual-e5-small?e5`.

What stands before a text is named and never guessed: `own` takes the query's and the passage's prompts from the model's
config_sentence_transformers.json (none where it has none), `e5` those of E5, which its config does not have, and `none`
nothing. Scores are the model's own similarity. Weights are safetensors only, and code of a model is never run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import Tensor

from colbertxm.errors import MissingExtra, UserError, nearest
from colbertxm.evaluation.baselines_dense import Dense, Kind
from colbertxm.records import Text

EXTRA = "st"
PROMPTS: dict[str, tuple[str, str] | None] = {"own": None, "e5": ("query: ", "passage: "), "none": ("", "")}
"""By name: what stands before a query and before a passage. None: as the model's config says."""
PASSAGE = ("document", "passage", "corpus")
"""Names of a passage's prompt. The first that says something counts: sentence-transformers' encode_document alone takes
an empty `document` of its own making before the `passage` of a config."""
SINGLE = "SentenceTransformer"
SETTINGS = "config_sentence_transformers.json"


def sentence_transformer(
    source: str, prompts: str | tuple[str, str] = "own", batch_size: int = 32, device: str | None = None
) -> Dense:
    """The model `source`: a local folder, or a name on the hub with perhaps a revision, `owner/name@revision`.

    `prompts` is a name of PROMPTS, or what stands before a query and before a passage. Raises MissingExtra without
    sentence-transformers, UserError for a model that is not there or does not give one vector a text.
    """
    given = named_prompts(prompts)
    model = load(source, device)
    query, passage = given or own_prompts(model.prompts or {})
    before: dict[Kind, str] = {"query": query, "passage": passage}
    own = str(model.similarity_fn_name)

    def encode(texts: Sequence[Text], kind: Kind) -> Tensor:
        # Two functions, because a model may have a tower for each. They sort by length themselves.
        side = model.encode_query if kind == "query" else model.encode_document
        found: Tensor = side(
            [text.text for text in texts],
            prompt=before[kind],
            batch_size=batch_size,
            convert_to_tensor=True,
            show_progress_bar=False,
        )
        return found

    version = metadata.version("sentence-transformers")
    description = (
        f"sentence-transformers {version}, {own}, prompts {json.dumps(query)} and {json.dumps(passage)}, "
        f"at most {model.max_seq_length} tokens"
    )
    return Dense(encode, description, None if own == "cosine" else model.similarity)


def named_prompts(prompts: str | tuple[str, str]) -> tuple[str, str] | None:
    """Before a query and before a passage; None for the model's own. Raises UserError for an unknown name."""
    if not isinstance(prompts, str):
        return prompts
    if prompts not in PROMPTS:
        raise UserError(f"prompts={prompts!r} is unknown{nearest(prompts, PROMPTS)}; there are {', '.join(PROMPTS)}")
    return PROMPTS[prompts]


def own_prompts(prompts: dict[str, str | None]) -> tuple[str, str]:
    """A model's own prompts before a query and before a passage; empty where it has none."""
    passage = next((prompts[name] for name in PASSAGE if prompts.get(name)), None)
    return prompts.get("query") or "", passage or ""


def load(source: str, device: str | None = None) -> Any:
    """The model, after a look at what it is: sentence-transformers would put mean pooling behind anything else and only
    log it."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise MissingExtra("sentence-transformers", EXTRA) from None
    if not hasattr(SentenceTransformer, "encode_query"):
        raise UserError(f"sentence-transformers is older than 5: run `pip install 'colbertxm[{EXTRA}]'`")
    name, _, revision = (source, "", "") if Path(source).is_dir() else source.partition("@")
    check(source, name, revision or None)
    try:
        return SentenceTransformer(
            name,
            revision=revision or None,
            device=device,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise UserError(f"st:{source} cannot be read: {_line(error)}") from error


def check(source: str, name: str, revision: str | None) -> None:
    """Raises UserError where `name` is nowhere, has no modules.json, or gives several vectors a text or none."""
    if _file(source, name, "modules.json", revision) is None:
        raise UserError(
            f"st:{source} has no modules.json, so it is no sentence-transformers model: its pooling is not known"
        )
    settings = _file(source, name, SETTINGS, revision)
    try:
        kind = json.loads(settings.read_text(encoding="utf-8")).get("model_type", SINGLE) if settings else SINGLE
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{settings} is damaged ({_line(error)}): fetch the model again") from None
    if kind != SINGLE:
        raise UserError(
            f"st:{source} is a {kind}, and this baseline takes one vector a text; late interaction is read as "
            f"checkpoints=[{source}]"
        )


def _file(source: str, name: str, file: str, revision: str | None) -> Path | None:
    """A model's file, None where the model has none of that name. Raises UserError where there is no such model."""
    if Path(name).is_dir():
        return found if (found := Path(name) / file).is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, file, revision=revision))
    except LocalEntryNotFoundError as error:  # offline, and an EntryNotFoundError too
        raise UserError(f"st:{source} is no folder here, and the hub is out of reach: {_line(error)}") from None
    except EntryNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"st:{source} is no folder here and cannot be had from the hub: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
