"""The layouts of other libraries, read and written, one file each; here is the door that tells them apart.

A folder is known by its files, never by its name: nothing is tried until one works.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from colbertxm.errors import UserError, nearest
from colbertxm.model.encoder import Encoder
from colbertxm.model.formats import multi_vector, plain, pylate, sentence_transformers, stanford
from colbertxm.model.formats.files import publishing, read_modules, read_object

Reader = Callable[[Path, Sequence[str] | None], Encoder]
OWN = "colbertxm"
READERS: dict[str, Reader] = {
    "stanford": stanford.read,
    "pylate": pylate.read,
    "multi_vector": multi_vector.read,
    "sentence_transformers": sentence_transformers.read,
    "transformers": plain.read,
}
WRITERS: dict[str, Callable[[Path, Encoder], None]] = {
    "stanford": stanford.write,
    "pylate": pylate.write,
    "multi_vector": multi_vector.write,
    "sentence_transformers": sentence_transformers.write,
    "transformers": plain.write,
}


def detect(folder: Path) -> str:
    """The layout of a model folder: `colbertxm` for our own, or a key of READERS. Raises UserError, saying what was
    found and what was expected, where it is none."""
    if (folder / "colbertxm.json").is_file():
        return OWN
    if (folder / "modules.json").is_file():
        return _of_modules(folder)
    if (folder / "config.json").is_file():
        config = read_object(folder / "config.json")
        if "HF_ColBERT" in (config.get("architectures") or []):
            return "stanford"
        if config.get("model_type") == "xmod":
            return "transformers"
        found = f"a config.json of model_type {config.get('model_type')!r}"
    else:
        names = sorted(path.name for path in folder.iterdir())
        found = f"{', '.join(names[:4])}{', ...' if len(names) > 4 else ''}" if names else "nothing"
    raise UserError(
        f"{folder} holds {found}, no X-MOD model: expected colbertxm.json (colbertxm), artifact.metadata with "
        "config.json (Stanford ColBERT), modules.json (PyLate, sentence-transformers), or a config.json of model_type "
        "'xmod' (transformers)"
    )


def _of_modules(folder: Path) -> str:
    kinds = [kind for kind, _ in read_modules(folder)]
    settings = folder / pylate.SETTINGS
    kind = read_object(settings).get("model_type") if settings.is_file() else None
    if "MultiVectorMask" in kinds or kind == "MultiVectorEncoder":
        return "multi_vector"
    if "Pooling" in kinds:
        return "sentence_transformers"
    # PyLate before 1.2 wrote no model_type.
    if kind == "ColBERT" or kinds == ["Transformer", "Dense"]:
        return "pylate"
    raise UserError(
        f"{folder}/modules.json lists {', '.join(kinds)}; expected those of PyLate or sentence-transformers"
    )


def write_as(layout: str, folder: Path, encoder: Encoder) -> Path:
    """Write `encoder` in the layout of another library: all of it or nothing. Raises UserError for an unknown layout,
    and for an encoder whose vectors that library would not reproduce."""
    if layout not in WRITERS:
        raise UserError(f"to={layout!r} is unknown{nearest(layout, WRITERS)}: choose of {', '.join(WRITERS)}")
    with publishing(folder) as part:
        WRITERS[layout](part, encoder)
    return folder
