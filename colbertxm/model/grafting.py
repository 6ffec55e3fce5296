"""A language's adapters as one small file, and putting it into a model of the same trunk.

An adapter means something over the weights that it was trained on. So its file says which those were, by their sha256,
in two parts: the embeddings, which the paper's and our default way of fine-tuning freeze, and the shared layers, which
fine-tuning changes. X-MOD's recipe trains adapters on the base and puts them into the model that was fine-tuned from
it, in another language; such a model has the same embeddings and other layers, and is taken with a note. A model with
other embeddings is another model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from colbertxm.errors import UserError, nearest
from colbertxm.languages import ADAPTERS, language
from colbertxm.model.adapters import add_adapter, name_of
from colbertxm.model.encoder import Encoder
from colbertxm.model.noted_tensors import read_header, read_noted, write_noted
from colbertxm.model.xmod import Xmod

KIND, NOUN = "colbertxm-adapter", "an adapter"
Trunk = Literal["same", "family", "any"]
"""How near a model must be to the one that an adapter was trained on: all shared weights equal; the embeddings equal,
the layers perhaps fine-tuned since; or nothing compared but shapes."""
SHAPE = (
    "hidden_size", "num_hidden_layers", "adapter_reduction_factor", "adapter_layer_norm", "adapter_reuse_layer_norm",
    "ln_before_adapter",
)  # fmt: skip


@dataclass(frozen=True)
class TrunkPrint:
    """sha256 of what all languages share. `rows` of the word embeddings were read: markers may be added behind them."""

    embeddings: str
    layers: str
    rows: int


def trunk_print(xmod: Xmod, rows: int | None = None) -> TrunkPrint:
    """The print of a model, of its first `rows` word embeddings (None: all). A second for 500 MB."""
    rows = xmod.config.vocab_size if rows is None else rows
    found = {"embeddings": hashlib.sha256(), "layers": hashlib.sha256()}
    for name, tensor in sorted(xmod.state_dict().items()):
        if ".adapter_modules." in name:
            continue
        values = tensor[:rows] if name == "embeddings.word_embeddings.weight" else tensor
        part = found["embeddings" if name.startswith("embeddings.") else "layers"]
        part.update(f"{name}{tuple(values.shape)}".encode())
        part.update(values.detach().float().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return TrunkPrint(found["embeddings"].hexdigest(), found["layers"].hexdigest(), rows)


def save_adapter(path: Path, xmod: Xmod, name: str, trunk: TrunkPrint, notes: Mapping[str, Any]) -> Path:
    """Write the adapters `name` of all layers to one file, under transformers' names, with what they were trained on
    and `notes`. All of the file or none."""
    state = {key: tensor for key, tensor in xmod.state_dict().items() if f".adapter_modules.{name}." in key}
    header = {"adapter": name, "language": language_of(name), "shape": _shape(xmod), "trunk": asdict(trunk)}
    write_noted(path, state, KIND, {**header, **notes})
    return path


def language_of(name: str) -> str:
    """The code of an adapter's language."""
    return language(name if name in ADAPTERS else name.removesuffix("_XX")).code


def adapter_files(source: str | Path) -> dict[str, Path]:
    """Adapter name -> file, of one file, of a folder of them, or of what `colbertxm pretrain` wrote. Raises UserError
    where there is none, and for two of one language."""
    place = Path(source)
    folder = place / "adapters" if (place / "adapters").is_dir() else place
    paths = sorted(folder.glob("*.safetensors")) if folder.is_dir() else [place]
    if not paths:
        raise UserError(f"{folder} holds no adapter (*.safetensors): give what `colbertxm pretrain` wrote")
    found: dict[str, Path] = {}
    for path in paths:
        name = str(read_header(path, KIND, NOUN)["notes"]["adapter"])
        if name in found:
            raise UserError(f"{found[name]} and {path} are both adapters {name}: name one of them")
        found[name] = path
    return found


def graft(
    encoder: Encoder, source: str | Path, languages: Sequence[str] | None = None, trunk: Trunk = "family"
) -> list[str]:
    """Give `encoder`, in place, the adapters in `source` (of `languages` alone where given), each taking the place of
    the one that is there. Nothing else is touched. Returns what there is to say, a line each. Raises UserError, before
    anything is changed, where shape, trunk or language do not fit."""
    if trunk not in get_args(Trunk):
        raise UserError(f"trunk={trunk!r} is unknown{nearest(trunk, get_args(Trunk))}: same, family or any")
    files = adapter_files(source)
    if languages is not None:
        wanted = [name_of(code) for code in languages]
        if missing := [name for name in wanted if name not in files]:
            raise UserError(f"{source} has no adapter {', '.join(missing)}; it has {', '.join(files)}")
        files = {name: files[name] for name in wanted}
    read = {name: read_noted(path, KIND, NOUN) for name, path in files.items()}
    prints: dict[int, TrunkPrint] = {}
    said: list[str] = []
    for name, (tensors, notes) in read.items():
        _check_shape(encoder.xmod, tensors, notes, files[name])
        if trunk != "any":
            said += _check_trunk(encoder.xmod, TrunkPrint(**notes["trunk"]), prints, trunk, files[name])
    for name, (tensors, _) in read.items():
        if name not in encoder.xmod.config.languages:
            add_adapter(encoder.xmod, name)
        with torch.no_grad():
            for key, parameter in encoder.xmod.named_parameters():
                if key in tensors:
                    parameter.copy_(tensors[key])
    return list(dict.fromkeys(said))


def _shape(xmod: Xmod) -> dict[str, Any]:
    return {name: getattr(xmod.config, name) for name in SHAPE}


def _check_shape(xmod: Xmod, tensors: Mapping[str, Any], notes: Mapping[str, Any], path: Path) -> None:
    """Raise UserError where the model computes an adapter otherwise, or the file lacks a layer."""
    for name, value in _shape(xmod).items():
        if notes["shape"].get(name) != value:
            raise UserError(f"{path} has {name}={notes['shape'].get(name)}, this model {value}: it is another model's")
    layers = range(xmod.config.num_hidden_layers)
    parts = [f"{dense}.{part}" for dense in ("dense1", "dense2") for part in ("weight", "bias")]
    start = "encoder.layer.{}.output.adapter_modules." + notes["adapter"] + "."
    if tensors.keys() != {start.format(layer) + part for layer in layers for part in parts}:
        raise UserError(f"{path} does not hold the adapters of {len(layers)} layers: train or copy it again")


def _check_trunk(xmod: Xmod, trained: TrunkPrint, prints: dict[int, TrunkPrint], trunk: Trunk, path: Path) -> list[str]:
    if xmod.config.vocab_size >= trained.rows and trained.rows not in prints:
        prints[trained.rows] = trunk_print(xmod, trained.rows)
    here = prints.get(trained.rows)
    if here == trained:
        return []
    if here is None or here.embeddings != trained.embeddings:
        raise UserError(f"{path} was trained on another model (other embeddings): train it on this one's base")
    if trunk == "same":
        raise UserError(f"{path} was trained on other layers than this model's, and trunk=same: allow trunk=family")
    return [
        f"the shared layers were trained on since {path.parent}'s adapters were: X-MOD's recipe, not the same trunk"
    ]
