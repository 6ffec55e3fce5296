"""Data sets that are folders: mMARCO's languages and translations, BEIR's three files with GPL's beside them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from colbertxm.data.formats.candidates import HardNegatives, read_hard_negatives
from colbertxm.data.formats.jsonl import read_texts_jsonl
from colbertxm.data.formats.lines import Rows
from colbertxm.data.formats.qrels import read_qrels
from colbertxm.data.formats.tsv import IdTriple, Margin, read_id_triples, read_margins, read_queries, read_texts
from colbertxm.errors import UserError, nearest
from colbertxm.languages import language
from colbertxm.records import Judgement, Text

COMPRESSED = ("", ".gz", ".zst")
MMARCO = {
    "en": "english", "zh": "chinese", "fr": "french", "de": "german", "id": "indonesian", "it": "italian",
    "pt": "portuguese", "ru": "russian", "es": "spanish", "ar": "arabic", "nl": "dutch", "hi": "hindi",
    "ja": "japanese", "vi": "vietnamese",
}  # fmt: skip
"""Code -> how mMARCO's files spell it."""
VARIANTS = ("google", "helsinki")


def one_of(folder: Path, names: Iterable[str]) -> Path:
    """The file that stands under one of `names`, plain or compressed. Raises UserError for none and for two: which
    of them is meant is the user's to say."""
    found = [
        folder / f"{name}{suffix}" for name in names for suffix in COMPRESSED if (folder / f"{name}{suffix}").is_file()
    ]
    if len(found) > 1:
        raise UserError(f"{folder} has both {found[0].name} and {found[1].name}: move one of them away")
    if not found:
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) if folder.is_dir() else "no such folder"
        raise UserError(f"{folder} has no {' or '.join(names)} (.gz and .zst will do): it has {there or 'nothing'}")
    return found[0]


@dataclass(frozen=True)
class MMarco:
    """One language of mMARCO: `root` is the data set's folder `data`, in which google/ and helsinki/ are two
    translations, or one of these two; qrels and triples of ids are the same in all languages and stand in `root`."""

    root: Path
    lang: str
    variant: str = "google"

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise UserError(
                f"unknown translation {self.variant!r}{nearest(self.variant, VARIANTS)}: google or helsinki"
            )
        code = language(self.lang).code
        if code not in MMARCO:
            raise UserError(f"mMARCO has no {code!r}; it has {', '.join(MMARCO)}")
        object.__setattr__(self, "lang", code)

    @property
    def folder(self) -> Path:
        inner = self.root / self.variant
        if inner.is_dir():
            return inner
        other = next((name for name in VARIANTS if (self.root / name).is_dir()), None)
        if other or (self.root.name in VARIANTS and self.root.name != self.variant):
            raise UserError(f"{self.root} holds the {other or self.root.name} translation, not {self.variant}'s")
        return self.root

    @property
    def shared(self) -> Path:
        return self.root.parent if self.root.name in VARIANTS else self.root

    def passages(self, on_error: str = "raise") -> Rows[Text]:
        return read_texts(
            one_of(self.folder / "collections", [f"{MMARCO[self.lang]}_collection.tsv"]), self.lang, on_error
        )

    def queries(self, split: str, on_error: str = "raise") -> Rows[Text]:
        """`split`: train, dev, dev.small. Newer copies have train/ and dev/ below queries/, older ones don't."""
        folder = self.folder / "queries"
        inner = folder / split.partition(".")[0]
        name = f"{MMARCO[self.lang]}_queries.{split}.tsv"
        return read_queries(one_of(inner if inner.is_dir() else folder, [name]), self.lang, on_error)

    def qrels(self, split: str, on_error: str = "raise") -> Rows[Judgement]:
        """`split`: dev, dev.small."""
        return read_qrels(one_of(self.shared, [f"qrels.{split}.tsv"]), on_error)

    def triples(self, on_error: str = "raise") -> Rows[IdTriple]:
        return read_id_triples(one_of(self.shared, ["triples.train.ids.small.tsv"]), on_error)


@dataclass(frozen=True)
class Beir:
    """A BEIR folder. With `prefix="qgen"`, the queries and qrels that GPL generated there."""

    folder: Path
    lang: str
    passage_lang: str | None = None
    prefix: str = ""

    def passages(self, titles: bool = True, on_error: str = "raise") -> Rows[Text]:
        path = one_of(self.folder, ["corpus.jsonl"])
        return read_texts_jsonl(path, self.passage_lang or self.lang, "beir", titles, on_error)

    def queries(self, on_error: str = "raise") -> Rows[Text]:
        """Of all splits: the qrels say which are whose."""
        path = one_of(self.folder, [f"{self._before}queries.jsonl"])
        return read_texts_jsonl(path, self.lang, "beir", titles=False, on_error=on_error, empty=False)

    def qrels(self, split: str, on_error: str = "raise") -> Rows[Judgement]:
        return read_qrels(one_of(self.folder / f"{self._before}qrels", [f"{split}.tsv"]), on_error)

    def hard_negatives(self, on_error: str = "raise") -> Rows[HardNegatives]:
        return read_hard_negatives(one_of(self.folder, ["hard-negatives.jsonl"]), on_error)

    def margins(self, on_error: str = "raise") -> Rows[Margin]:
        return read_margins(one_of(self.folder, ["gpl-training-data.tsv"]), on_error)

    @property
    def _before(self) -> str:
        return f"{self.prefix}-" if self.prefix else ""
