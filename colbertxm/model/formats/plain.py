"""A plain transformers X-MOD such as facebook/xmod-base: an encoder without projection, token settings or pooling."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from colbertxm.errors import UserError
from colbertxm.model.encoder import Encoder
from colbertxm.model.formats.files import PROJECTION, assemble, write_body
from colbertxm.model.tokens import TokenSettings
from colbertxm.model.weights import locate, read_xmod


def read(folder: Path, adapters: Sequence[str] | None) -> Encoder:
    """The base at full width, one vector per token, with default token settings (lengths as its positions allow)."""
    if PROJECTION in locate(folder).files:
        raise UserError(
            f"{folder} has a projection ({PROJECTION}), but neither colbertxm.json nor artifact.metadata says how it "
            "is used: copy the model again"
        )
    xmod, _ = read_xmod(folder, adapters)
    room = xmod.config.max_position_embeddings - xmod.config.pad_token_id - 1
    settings = TokenSettings(query_maxlen=min(32, room), passage_maxlen=min(256, room))
    return assemble(xmod, folder, settings, "multi", None)


def write(part: Path, encoder: Encoder) -> None:
    """X-MOD alone, with one language, which is then its default: `AutoModel.from_pretrained` runs it without
    language ids. A projection is left behind. Raises UserError for several languages."""
    languages = encoder.xmod.config.languages
    if len(languages) != 1:
        raise UserError(f"to=transformers writes one language, this model has {len(languages)}: give lang=...")
    write_body(part, encoder, "XmodModel")
