"""Collection smart_home: Home Assistant's titles and descriptions, parallel in more than twenty languages.

In `homeassistant/components/COMPONENT/translations/LANG.json` every object that holds a `name` (or a
`title`) and a `description` is a pair: a short title, and one to three sentences that explain it. Its key,
component and path, is the same in every language. As a task the title is the query and the description the
passage. Components are split by a hash of their name, so that no component is in two parts.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
import zlib
from collections import Counter
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from colbertxm.data.collection import Collection
from colbertxm.data.keyed import share_of
from colbertxm.errors import UserError, nearest
from colbertxm.languages import LANGUAGES, language
from colbertxm.records import Judgement, Text

Split = Literal["train", "dev", "test"]
Pairs = dict[str, dict[str, tuple[str, str]]]
"""Language code -> key -> (title, description)."""

TEST_SHARE, DEV_SHARE = 0.31, 0.07
CLEAN_WORDS, LEAST_WORDS = 5, 3
"""The fewest words of a clean pair's English description, and of any pair that is trained on."""
MEMBER = re.compile(r"homeassistant/components/([^/]+)/translations/([^/]+)\.json")
SPLITS = ("train", "dev", "test")


def read_pairs(wheel: Path) -> Pairs:
    """Every pair of every language with an adapter. Regional variants (en-GB, pt-BR, es-419) are left out:
    they would count a language twice. Raises UserError where the wheel is damaged."""
    codes = {found.code: found.code for found in LANGUAGES} | {"zh-hans": "zh", "nb": "no"}
    pairs: Pairs = {}
    name = ""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in sorted(archive.namelist()):
                member = MEMBER.fullmatch(name)
                if member is None or (code := codes.get(member[2].lower())) is None:
                    continue
                # A third of the files hold no pair, and to look is quicker than to parse.
                if b'"description"' in (raw := archive.read(name)):
                    _collect(json.loads(raw), member[1], pairs.setdefault(code, {}))
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError) as error:
        place = f"{wheel}, {name}" if name else str(wheel)
        raise UserError(f"cannot read {place}: {error}; delete the file and run again") from None
    if not pairs.get("en"):
        raise UserError(f"{wheel} holds no English translations: is it the homeassistant wheel?")
    return {code: found for code, found in pairs.items() if found}


def _collect(node: Any, path: str, found: dict[str, tuple[str, str]]) -> None:
    """Put the pairs at and below `node` into `found`, white space folded; an empty text makes no pair."""
    if not isinstance(node, dict):
        return
    title = node["name"] if isinstance(node.get("name"), str) else node.get("title")
    description = node.get("description")
    if isinstance(title, str) and isinstance(description, str):
        pair = " ".join(title.split()), " ".join(description.split())
        if all(pair):
            found[path] = pair
    for key, child in node.items():
        if isinstance(child, dict):
            _collect(child, f"{path}.{key}", found)


def split_of(component: str) -> Split:
    """The part that a component belongs to: a pure function of its name."""
    share = share_of(component)
    if share < TEST_SHARE:
        return "test"
    return "dev" if share < TEST_SHARE + DEV_SHARE else "train"


def _component(key: str) -> str:
    return key.split(".", 1)[0]


@lru_cache(maxsize=1)
def open_smart_home(wheel: Path) -> SmartHome:
    """The collection of `wheel`, read once per process (about four seconds)."""
    return SmartHome(wheel)


class SmartHome:
    """The collection of one homeassistant wheel."""

    def __init__(self, wheel: Path) -> None:
        self.pairs = read_pairs(wheel)

    @cached_property
    def clean(self) -> frozenset[str]:
        """Keys whose English title and description are each unique and whose description has enough words:
        among the others a title does not say which description it wants."""
        english = self.pairs["en"]
        titles = Counter(title for title, _ in english.values())
        descriptions = Counter(description for _, description in english.values())
        return frozenset(
            key
            for key, (title, description) in english.items()
            if titles[title] == 1 and descriptions[description] == 1 and len(description.split()) >= CLEAN_WORDS
        )

    def keys(self, split: str, *langs: str) -> list[str]:
        """Clean keys of a split that exist in every one of `langs`, sorted."""
        if split not in SPLITS:
            raise UserError(f"unknown split {split!r}{nearest(split, SPLITS)}; there are {', '.join(SPLITS)}")
        for lang in langs:
            if lang not in self.pairs:
                known = ", ".join(sorted(self.pairs))
                raise UserError(f"smart_home has no texts in {lang!r}; it has {known}")
        shared = self.clean.intersection(*(self.pairs[lang] for lang in langs))
        return sorted(key for key in shared if split_of(_component(key)) == split)

    def languages(self, split: str = "test", at_least: int = 400) -> tuple[str, ...]:
        """Languages with that many pairs in a split: English first, then by falling number of pairs."""
        counts = {lang: len(self.keys(split, lang)) for lang in self.pairs}
        enough = [lang for lang, count in counts.items() if count >= at_least and lang != "en"]
        return ("en", *sorted(enough, key=lambda lang: (-counts[lang], lang)))

    def check_languages(self, split: str, spellings: list[str]) -> list[str]:
        """The codes of `spellings`. Raises UserError for a language without pairs in the split."""
        codes = [language(spelling).code for spelling in spellings]
        for code in codes:
            if not self.keys(split, code):
                known = ", ".join(self.languages(split, 1))
                raise UserError(f"smart_home has no {split} pairs in {code!r}; it has {known}")
        return codes

    def training_pairs(self, split: str = "train", lang: str = "en", clean: bool = True) -> list[tuple[Text, Text]]:
        """(query, positive) of each clean pair of a split. Without `clean`, also of pairs whose description is
        shorter, or whose title or description occurs more than once; each (title, description) once."""
        keys = self.keys(split, lang)
        pairs, english = self.pairs[lang], self.pairs["en"]
        if not clean:
            shared = [key for key in sorted(english.keys() & pairs.keys()) if split_of(_component(key)) == split]
            keys = [key for key in shared if len(english[key][1].split()) >= LEAST_WORDS]
        first = {pairs[key]: key for key in reversed(keys)}
        return [
            (Text(f"{lang}:q:{key}", pairs[key][0], lang), Text(f"{lang}:p:{key}", pairs[key][1], lang))
            for key in keys
            if first[pairs[key]] == key
        ]

    def collection(
        self, split: str, query_lang: str, passage_lang: str, sample: int | None = None, seed: int = 0
    ) -> Collection:
        """Titles in one language over descriptions in one language. Pairs are those with both; a `sample` is
        the first so many in the order of a hash, so that samples of different languages share as many pairs
        as they can. Titles of equal text are one query with several answers, descriptions of equal text are
        one passage: there can be fewer queries, and fewer passages, than pairs."""
        keys = self.keys(split, query_lang, passage_lang)
        if sample is not None:
            if sample < 1:
                raise UserError(f"sample={sample} must be at least 1, or null for all pairs")
            drawn = sorted(keys, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest())
            keys = sorted(drawn[:sample])
        queries: dict[str, Text] = {}
        passages: dict[str, Text] = {}
        judged: dict[tuple[str, str], None] = {}
        for key in keys:
            title, description = self.pairs[query_lang][key][0], self.pairs[passage_lang][key][1]
            query = queries.setdefault(title, Text(f"{query_lang}:q:{key}", title, query_lang))
            passage = passages.setdefault(description, Text(f"{passage_lang}:p:{key}", description, passage_lang))
            judged[query.id, passage.id] = None
        return Collection(
            name=f"smart_home/{split}",
            query_lang=query_lang,
            passage_lang=passage_lang,
            queries=tuple(queries.values()),
            passages=tuple(passages.values()),
            judgements=tuple(Judgement(query_id, passage_id, 1) for query_id, passage_id in judged),
        )

    @staticmethod
    def pair_of(text_id: str) -> str:
        """The pair that a query or passage belongs to: the same in every language."""
        return text_id.split(":", 2)[2]
