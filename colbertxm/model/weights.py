"""An X-MOD out of safetensors, reading only what is asked for.

The released checkpoints hold 81 adapters per layer, two thirds of their 3.4 GB; a language needs one in 81. So the
header says where each tensor lies, and only the shared part and the chosen adapters are read: two languages of
colbert-xm are 1.17 GB. Knows the names of transformers' XmodModel, bare or behind a prefix (`roberta.` in the models
with a head), in one file or sharded. A pooler or a head is left where it is unless it is named in `also`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from colbertxm.errors import UserError
from colbertxm.model.json_files import read_object
from colbertxm.model.slices import Slot, local_slots
from colbertxm.model.xmod import Xmod, XmodConfig

SINGLE, SHARDED = "model.safetensors", "model.safetensors.index.json"
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
ANCHOR = "embeddings.word_embeddings.weight"
"""A tensor that every X-MOD has: what stands before it is the checkpoint's prefix."""


@dataclass(frozen=True)
class Located:
    """Where the tensors of a checkpoint lie: name -> file."""

    folder: Path
    files: dict[str, Path]

    @property
    def prefix(self) -> str:
        """What stands before X-MOD's own names. Raises UserError for a checkpoint that is no encoder."""
        found = sorted(name[: -len(ANCHOR)] for name in self.files if name.endswith(ANCHOR))
        if not found:
            raise UserError(f"{self.folder} has no tensor named ...{ANCHOR}: it is no X-MOD checkpoint")
        return found[0]

    def read(self, names: Sequence[str]) -> dict[str, Tensor]:
        """These tensors. Raises UserError naming the file that cannot be read or lacks one."""
        wanted: dict[Path, dict[str, str]] = {}
        for name in names:
            stored = name if name in self.files else _old_name(name)
            if stored not in self.files:
                raise UserError(f"{self.folder} lacks the tensor {name}: the checkpoint is incomplete, fetch it again")
            wanted.setdefault(self.files[stored], {})[stored] = name
        found: dict[str, Tensor] = {}
        for path, inside in wanted.items():
            slots = [slot for slot in _slots(path) if slot.name in inside]
            if missing := inside.keys() - {slot.name for slot in slots}:
                raise UserError(f"{path} lacks the tensor {min(missing)}: the checkpoint is incomplete, fetch it again")
            found |= {inside[slot.name]: tensor for slot, tensor in zip(slots, _read(path, slots), strict=True)}
        return found


def _slots(path: Path) -> list[Slot]:
    try:
        return local_slots(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; fetch or copy it again") from None


def _read(path: Path, slots: Sequence[Slot]) -> Iterator[Tensor]:
    """The tensors' own bytes and no others. A memory map would be shorter, but the kernel reads ahead of every page
    that is touched: on a disk with 8 MB of read-ahead two languages of colbert-xm became 1.71 GB instead of 1.17."""
    with path.open("rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for slot in slots:
            if slot.dtype not in DTYPES:
                raise UserError(f"{path}: {slot.name} is {slot.dtype}; expected one of {', '.join(DTYPES)}")
            tensor = torch.empty(slot.shape, dtype=DTYPES[slot.dtype])
            into = memoryview(tensor.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
            file.seek(slot.begin)
            at = 0
            while at < len(into):
                if not (got := file.readinto(into[at:])):
                    raise UserError(f"{path} ends within {slot.name}: fetch or copy it again")
                at += got
            yield tensor


def _old_name(name: str) -> str:
    """TensorFlow's names of a LayerNorm: transformers 5.0 to 5.3, and so PyLate 1.6, save under them what they
    loaded under today's."""
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def locate(folder: Path) -> Located:
    """Where each tensor of the checkpoint in `folder` lies. Raises UserError where there is none in safetensors."""
    if (folder / SINGLE).is_file():
        return Located(folder, {slot.name: folder / SINGLE for slot in _slots(folder / SINGLE)})
    if (folder / SHARDED).is_file():
        return Located(folder, _sharded(folder))
    if any(folder.glob("*.bin")):
        raise UserError(
            f"{folder} holds its weights as a pickle (.bin), which colbertxm never opens: convert it once with "
            "transformers' save_pretrained, which writes model.safetensors"
        )
    raise UserError(f"{folder} holds neither {SINGLE} nor {SHARDED}: it is no checkpoint")


def _sharded(folder: Path) -> dict[str, Path]:
    try:
        names = json.loads((folder / SHARDED).read_text(encoding="utf-8"))["weight_map"]
        # A file name of a foreign index must not lead out of its folder.
        outside = [shard for shard in names.values() if Path(shard).name != shard]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"cannot read {folder / SHARDED}: {error!r}; fetch or copy it again") from None
    if outside:
        raise UserError(f"{folder / SHARDED} names {outside[0]!r}, which is no file of its own folder: it is damaged")
    return {name: folder / shard for name, shard in names.items()}


def read_config(folder: Path) -> XmodConfig:
    """config.json of a checkpoint. Raises UserError for another architecture or a damaged file."""
    return XmodConfig.from_dict(read_object(folder / "config.json"))


def read_xmod(
    folder: Path, adapters: Sequence[str] | None = None, also: Sequence[str] = ()
) -> tuple[Xmod, dict[str, Tensor]]:
    """The X-MOD in `folder` with the adapters named (None: all that it has), in float32, and the tensors of `also`
    under the names that they have in the file. Nothing else is read. Raises UserError for an adapter that the
    checkpoint lacks, a tensor that is missing or of another shape, or a damaged file."""
    config = read_config(folder)
    located = locate(folder)
    names = list(config.languages) if adapters is None else sorted(set(adapters), key=_order(config, folder))
    with torch.device("meta"):
        xmod = Xmod(replace(config, languages=tuple(names)))
    shapes = {name: tensor.shape for name, tensor in xmod.state_dict().items()}
    prefix = located.prefix
    read = located.read([*(prefix + name for name in shapes), *also])
    for name, shape in shapes.items():
        if read[prefix + name].shape != shape:
            got = tuple(read[prefix + name].shape)
            raise UserError(f"{folder}: {prefix + name} has shape {got}, its config.json says {tuple(shape)}")
    xmod.load_state_dict({name: read[prefix + name].float() for name in shapes}, assign=True)
    return xmod.eval(), {name: read[name] for name in also}


def _order(config: XmodConfig, folder: Path) -> Any:
    """The place of an adapter's name among the checkpoint's own. Raises UserError for one that it lacks."""

    def place(name: str) -> int:
        if name not in config.languages:
            have = ", ".join(config.languages)
            raise UserError(f"{folder} has no adapter {name}; it has {have}")
        return config.languages.index(name)

    return place
