"""Text without labels, per language: what language adapters are trained on.

    smart_home         descriptions of the training components in any of its languages; its development components'
                       are held out. What also stands among the test or development texts is left out of training.
    FOLDER             a file per language: `de.txt`, `de.tsv`, `de.jsonl`, or NTREX's `newstest2019-ref.deu.txt`
    {de: FILE, ...}    a file per language by name

A .txt has a text a line, a .tsv `id<TAB>text`, a .jsonl {"id", "text"}; .gz and .zst will do. Of files a share is held
out by a hash of each text, so that the same text is on the same side wherever it stands, and parallel files need not
agree.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from colbertxm.data.corpus import read_corpus
from colbertxm.data.formats.lines import NAMED, Refused, decode, raw_lines
from colbertxm.data.keyed import share_of
from colbertxm.data.smart_home import SmartHome, split_of
from colbertxm.errors import UserError, nearest
from colbertxm.languages import language

SMART_HOME = "smart_home"
SUFFIXES = (".txt", ".tsv", ".jsonl")
HELD_OUT = 0.1
NTREX = re.compile(r"newstest2019-(?:ref|src)\.([A-Za-z-]+)")
Source = str | Mapping[str, str]


@dataclass(frozen=True)
class Unlabelled:
    """The texts of one language, each once: those to train on, and those that show whether it helped."""

    lang: str
    train: tuple[str, ...]
    held_out: tuple[str, ...]
    sources: tuple[str, ...] = field(default=(), compare=False)

    @cached_property
    def digest(self) -> str:
        """sha256 of all texts on their sides."""
        found = hashlib.sha256()
        for side in (self.train, self.held_out):
            for text in side:
                found.update(text.encode() + b"\n")
            found.update(b"\0")
        return found.hexdigest()


def languages_of(sources: Sequence[Source], home: SmartHome | None) -> list[str]:
    """Codes of all languages that the sources have, English first. Raises UserError for what is no source."""
    found: dict[str, None] = {}
    for source in sources:
        if source == SMART_HOME:
            assert home is not None
            found |= dict.fromkeys(home.languages("train", at_least=1))
        else:
            found |= dict.fromkeys(_files(source))
    return sorted(found, key=lambda code: (code != "en", code))


def read_unlabelled(
    sources: Sequence[Source], lang: str, home: SmartHome | None = None, held_out: float = HELD_OUT
) -> Unlabelled:
    """All that the sources have in one language. `home` is needed where smart_home is among them. Raises UserError for
    a language that none of them has, and for one with too little text to hold any out."""
    code = language(lang).code
    sides: tuple[dict[str, None], dict[str, None]] = {}, {}
    used = []
    for source in sources:
        if source == SMART_HOME:
            assert home is not None
            found = _of_home(home, code)
        elif code in (files := _files(source)):
            found = _divided(_texts(files[code], code), held_out)
        else:
            continue
        if any(found):
            used.append(source if isinstance(source, str) else source_name(source, code))
        for side, texts in zip(sides, found, strict=True):
            side |= dict.fromkeys(texts)
    kept = [text for text in sides[0] if text not in sides[1]]
    if not kept or not sides[1]:
        have = languages_of(sources, home)
        if code not in have:
            raise UserError(f"no corpus has text in {code!r}{nearest(code, have)}; there is {', '.join(have)}")
        raise UserError(f"{len(kept)} texts in {code!r} to train on and {len(sides[1])} held out are too few: add some")
    return Unlabelled(code, tuple(kept), tuple(sides[1]), tuple(used))


def source_name(source: Mapping[str, str], code: str) -> str:
    """The file that a mapping names for a language."""
    return next(str(path) for spelling, path in source.items() if language(spelling).code == code)


def _of_home(home: SmartHome, code: str) -> tuple[list[str], list[str]]:
    """Descriptions of the training and of the development components, all pairs and not the clean ones alone. A text of
    the test half, as title or as description, is nowhere among them."""
    pairs = home.pairs.get(code, {})
    sides: dict[str, dict[str, None]] = {"train": {}, "dev": {}}
    unseen: set[str] = set()
    for key, (title, description) in sorted(pairs.items()):
        split = split_of(key.split(".", 1)[0])
        if split == "test":
            unseen |= {title, description}
        else:
            sides[split][description] = None
    clean = [[text for text in sides[split] if text not in unseen] for split in ("train", "dev")]
    developed = set(clean[1])
    return [text for text in clean[0] if text not in developed], clean[1]


def _divided(texts: Iterable[str], share: float) -> tuple[list[str], list[str]]:
    """Texts by a hash of each: those to train on, and about `share` held out."""
    sides: tuple[list[str], list[str]] = [], []
    for text in texts:
        sides[share_of(text) < share].append(text)
    return sides


def _files(source: Source) -> dict[str, Path]:
    """Language code -> file of a folder or of a mapping."""
    if isinstance(source, Mapping):
        named = [(spelling, Path(str(path))) for spelling, path in source.items()]
    else:
        named = _in_folder(Path(source))
    found: dict[str, Path] = {}
    for spelling, path in named:
        code = language(spelling).code
        if not path.is_file():
            raise UserError(f"corpus: there is no file {path}: give a .txt, .tsv or .jsonl of {code!r}")
        if code in found:
            raise UserError(f"corpus: {found[code]} and {path} are both in {code!r}: name one, {{{code}: FILE}}")
        if _kind(path) not in SUFFIXES:
            raise UserError(f"corpus: {path} is none of {', '.join(SUFFIXES)} (.gz and .zst will do): convert it")
        found[code] = path
    return found


def _in_folder(folder: Path) -> list[tuple[str, Path]]:
    """(language, file) of the files whose names say a language. Files that are named otherwise are none of ours: a
    licence, a list of documents."""
    if not folder.is_dir():
        raise UserError(
            f"corpus={str(folder)!r} is no folder: give smart_home, a folder of a file per language, or {{de: FILE}}"
        )
    named = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and _kind(path) in SUFFIXES:
            stem = path.name[: -len("".join(_suffixes(path)))]
            match = NTREX.fullmatch(stem)
            if match or _is_language(stem):
                named.append((match[1] if match else stem, path))
    if not named:
        raise UserError(f"corpus={str(folder)!r} has no file of a language, such as de.txt or de.jsonl: name them so")
    return named


def _is_language(spelling: str) -> bool:
    try:
        return bool(language(spelling))
    except UserError:
        return False


def _suffixes(path: Path) -> list[str]:
    return [path.with_suffix("").suffix, path.suffix] if path.suffix in NAMED else [path.suffix]


def _kind(path: Path) -> str:
    return _suffixes(path)[0]


def _texts(path: Path, code: str) -> list[str]:
    """Each text of a file once, white space folded."""
    if _kind(path) == ".txt":
        texts: Iterable[str] = _lines(path)
    else:
        passages = read_corpus(path, [code])
        if other := next((text for text in passages if text.lang != code), None):
            raise UserError(
                f"{path}: text {other.id!r} is in {other.lang!r}, the file was given as {code!r}: cut it up"
            )
        texts = (text.text for text in passages)
    return list(dict.fromkeys(folded for text in texts if (folded := " ".join(text.split()))))


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file; empty ones stand between paragraphs and are passed over by the caller."""
    for number, raw in raw_lines(path):
        try:
            yield decode(raw, number)
        except Refused as refused:
            raise UserError(f"{path}:{number}: {refused}") from None
