"""Exports for ONNX Runtime that a service encodes queries with, each one language of the model that it serves."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from colbertxm.errors import UserError
from colbertxm.model.encoder import Encoder
from colbertxm.model.onnx_encoder import SETTINGS, OnnxEncoder

AUTO = "auto"


def exports(asked: str | Sequence[str] | None, model: Path, encoder: Encoder) -> dict[str, OnnxEncoder]:
    """By language. `asked`: folders, or `auto` = those beside `model` that were exported from it, none where the
    library is absent or a GPU encodes. Raises UserError for a named folder that is no export of this model, and for two
    of one language."""
    if asked is None:
        return {}
    if isinstance(asked, str) and asked != AUTO:
        raise UserError(f"onnx={asked!r}: give auto, null, or a list of folders, such as onnx=[{asked}]")
    named = None if isinstance(asked, str) else [Path(folder) for folder in asked]
    found: dict[str, OnnxEncoder] = {}
    for folder in beside(model, encoder) if named is None else named:
        try:
            export = OnnxEncoder(folder)
            export.check_source(encoder)
        except UserError as error:
            if named is not None:
                raise
            say(f"{error}; its queries are encoded by torch")
            continue
        if export.lang in found:
            raise UserError(f"{found[export.lang].folder} and {folder} both read {export.lang!r}: name one, onnx=[...]")
        found[export.lang] = export
    for lang, export in found.items():
        say(f"queries in {lang} are encoded by ONNX Runtime{', int8' if export.int8 else ''} ({export.folder})")
    return found


def beside(model: Path, encoder: Encoder) -> list[Path]:
    """The exports beside a model folder, where the library is there and the encoder on the CPU."""
    folders = sorted(path.parent for path in model.parent.glob(f"*/{SETTINGS}"))
    if not folders or next(encoder.parameters()).device.type != "cpu":
        return []
    if find_spec("onnxruntime") is None:
        say(f"{folders[0]} is not used: pip install 'colbertxm[onnx]'")
        return []
    return folders


def say(line: str) -> None:
    """Tell whoever started the service."""
    print(line, file=sys.stderr, flush=True)
