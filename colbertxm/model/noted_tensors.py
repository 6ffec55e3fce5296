"""Single safetensors files that say in their own header what they are: adapters and heads, to be copied about.

A checksum of the tensors stands in the header too, because safetensors notices a file that was cut off but no flipped
bit; and one file cannot lose a manifest beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from colbertxm.errors import UserError
from colbertxm.files import put, refusals

KEY, NOTES, DIGEST = "kind", "notes", "sha256"


def write_noted(path: Path, tensors: Mapping[str, Tensor], kind: str, notes: Mapping[str, Any]) -> None:
    """Write `tensors` in float32 with `notes` (plain JSON values), all of the file or none. Raises UserError where the
    system refuses."""
    plain = {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}
    # One value: safetensors writes several in an order that changes from process to process, and the bytes with it.
    header = {KEY: kind, NOTES: dict(notes), DIGEST: digest(plain)}
    with refusals(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        put(path, save(plain, {"colbertxm": json.dumps(header, ensure_ascii=False, sort_keys=True)}))


def read_noted(path: Path, kind: str, noun: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and notes of a file of that kind. Raises UserError that names the file where it is missing, damaged
    or something else."""
    header = read_header(path, kind, noun)
    try:
        with safe_open(str(path), "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise UserError(f"cannot read {path}: {error}; copy or train it again") from None
    if digest(tensors) != header[DIGEST]:
        raise UserError(f"{path} is damaged (its tensors do not have their sha256): copy or train it again")
    return tensors, dict(header[NOTES])


def read_header(path: Path, kind: str, noun: str) -> dict[str, Any]:
    """kind, notes and sha256, without reading the tensors. Raises UserError as `read_noted` does."""
    try:
        with safe_open(str(path), "pt") as file:
            header = json.loads((file.metadata() or {}).get("colbertxm", "{}"))
    except FileNotFoundError:
        raise UserError(f"there is no file {path}: give {noun}, as `colbertxm pretrain` writes it") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; give {noun}, as `colbertxm pretrain` writes it") from None
    if not isinstance(header, dict) or header.get(KEY) != kind or not {NOTES, DIGEST} <= header.keys():
        raise UserError(f"{path} is not {noun}: give one that `colbertxm pretrain` wrote")
    return header


def digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes and float32 values, whatever order or dtype they are stored in."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name].detach().float().cpu().contiguous()
        found.update(f"{name}{tuple(values.shape)}".encode())
        found.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
