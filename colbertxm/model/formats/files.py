"""What all layouts share: checked JSON, the encoder's body under transformers' names, folders that appear whole.

The body of every layout is a transformers X-MOD: config.json, model.safetensors, tokenizer.json with its
tokenizer_config.json. Layouts differ in where the projection and the token settings lie.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn

from colbertxm.errors import UserError
from colbertxm.model.encoder import Encoder, Pooling
from colbertxm.model.json_files import read_json, read_object
from colbertxm.model.tokens import BOS, EOS, Tokens, TokenSettings
from colbertxm.model.weights import locate
from colbertxm.model.xmod import Xmod

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
PROJECTION = "linear.weight"
SPECIAL = {
    "bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>",
    "unk_token": "<unk>", "mask_token": "<mask>",
}  # fmt: skip


def write_json(path: Path, values: Any) -> None:
    """Write JSON for people to read, making the file's folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def assemble(xmod: Xmod, folder: Path, settings: TokenSettings, pooling: Pooling, projection: Tensor | None) -> Encoder:
    """An encoder of parts that were read; `projection` is [E, H]. Raises UserError where that does not fit."""
    hidden = xmod.config.hidden_size
    if projection is not None and (projection.ndim != 2 or projection.shape[1] != hidden):
        raise UserError(f"{folder}: the projection has shape {tuple(projection.shape)}, expected [dim, {hidden}]")
    encoder = Encoder(xmod, Tokens(Tokens.read_tokenizer(folder), settings), pooling, 0)
    if projection is not None:
        encoder.linear = nn.Linear(hidden, len(projection), bias=False, device="meta")
        encoder.linear.weight = nn.Parameter(projection.float())
    return encoder.eval()


def write_body(
    part: Path, encoder: Encoder, architecture: str, prefix: str = "", also: Mapping[str, Tensor] | None = None
) -> None:
    """The X-MOD with its config and tokenizer, readable by transformers. With one language, that is the default
    one, so that other libraries need no language ids; with several there is none, since transformers would take it
    in silence."""
    config = encoder.xmod.config
    languages = list(config.languages)
    default = languages[0] if len(languages) == 1 else None
    values = {**config.to_dict(), "architectures": [architecture], "default_language": default, "dtype": "float32"}
    write_json(part / CONFIG, values)
    state = {prefix + name: tensor for name, tensor in encoder.xmod.state_dict().items()}
    write_weights(part / WEIGHTS, {**state, **(also or {})})
    write_tokenizer(part, encoder.tokens.tokenizer, config.max_position_embeddings - config.pad_token_id - 1)


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write safetensors, making the file's folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, str(path), metadata={"format": "pt"})


def write_tokenizer(part: Path, tokenizer: Tokenizer, longest: int) -> None:
    """tokenizer.json and what transformers wants beside it. The class is the plain one that takes tokenizer.json
    as it is: XLM-R's own class of transformers 5 would rebuild its normaliser."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    if copy.encode("").ids != [BOS, EOS]:
        ends = [("<s>", BOS), ("</s>", EOS)]
        pair = "<s> $A </s> </s> $B </s>"
        copy.post_processor = TemplateProcessing(single="<s> $A </s>", pair=pair, special_tokens=ends)  # type: ignore[assignment]
    copy.save(str(part / TOKENIZER), pretty=False)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": longest, **SPECIAL}
    # Without this list the class hands the model token types, of which X-MOD has one.
    settings |= {"model_input_names": ["input_ids", "attention_mask"], "clean_up_tokenization_spaces": False}
    write_json(part / "tokenizer_config.json", settings)
    write_json(part / "special_tokens_map.json", SPECIAL)


def read_dense(folder: Path) -> Tensor:
    """The projection [E, H] of a sentence-transformers Dense module. Raises UserError where it is more than that."""
    config = read_object(folder / "config.json")
    extra = [name for name in ("bias", "use_residual") if config.get(name)]
    activation = str(config.get("activation_function") or "Identity").rsplit(".", 1)[-1]
    if extra or activation != "Identity":
        raise UserError(
            f"{folder} is a layer with {', '.join(extra) or activation}; colbertxm's projection is a plain matrix"
        )
    return locate(folder).read([PROJECTION])[PROJECTION]


def write_dense(folder: Path, encoder: Encoder, **more: Any) -> None:
    """The projection as a sentence-transformers Dense module."""
    assert encoder.linear is not None
    size = {"in_features": encoder.linear.in_features, "out_features": encoder.linear.out_features}
    activation = "torch.nn.modules.linear.Identity"
    write_json(folder / "config.json", {**size, "bias": False, "activation_function": activation, **more})
    write_weights(folder / WEIGHTS, {PROJECTION: encoder.linear.weight})


def read_modules(folder: Path) -> list[tuple[str, Path]]:
    """modules.json: (class name without its package, folder) of each module. Raises UserError for paths that lead out
    of the folder."""
    found = read_json(folder / "modules.json")
    try:
        listed = [(str(entry["type"]).rsplit(".", 1)[-1], str(entry["path"])) for entry in found]
    except (TypeError, KeyError):
        raise UserError(f"{folder / 'modules.json'} is no list of modules; fetch or copy it again") from None
    if outside := [path for _, path in listed if path and Path(path).name != path]:
        raise UserError(f"{folder / 'modules.json'} names {outside[0]!r}, which is no folder of its own: it is damaged")
    return [(kind, folder / path) for kind, path in listed]


def write_modules(part: Path, modules: Sequence[tuple[str, str]]) -> None:
    """modules.json from (class, folder) pairs."""
    entries = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (kind, path) in enumerate(modules)]
    write_json(part / "modules.json", entries)


def refuse(layout: str, what: str, instead: str) -> UserError:
    """The error for an encoder that `layout` cannot hold without changing its vectors."""
    return UserError(f"the {layout} layout cannot hold {what}: {instead}")


@contextmanager
def publishing(folder: Path) -> Iterator[Path]:
    """Yields a folder to fill, which takes the place of `folder` once everything in it is on the disk: all of it or
    none. Raises UserError where the system refuses."""
    part = folder.with_name(folder.name + ".part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        for path in part.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)
    except UserError:
        raise
    except Exception as error:  # safetensors wraps OSErrors in its own type, tokenizers in a bare Exception
        raise UserError(f"cannot write the model to {folder}: {error}; free space or choose another place") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def state_of(encoder: Encoder) -> dict[str, Tensor]:
    """Every tensor of an encoder under the names of our own layout: X-MOD's bare, `linear.weight` beside them."""
    return {name.removeprefix("xmod."): tensor for name, tensor in encoder.state_dict().items()}
