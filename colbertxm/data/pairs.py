"""Training pairs out of one JSONL file: `{"query": ..., "positive": ...}` a line, hard negatives mined from the rest.

    colbertxm train data=pairs data.file=pairs.jsonl.gz data.sample=2048

What most question-answer sets can be written as in five lines. A line may name its `source`, which `data.per_source`
bounds (templated sources drown the others), and its `group`, which keeps what belongs together on one side of the
split between training and development.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from colbertxm.data.collection import Collection
from colbertxm.data.formats.fields import record, short, worded
from colbertxm.data.formats.lines import Refused, Rows
from colbertxm.data.keyed import share_of, word_of
from colbertxm.data.training import TrainingData
from colbertxm.errors import UserError
from colbertxm.languages import language
from colbertxm.records import Judgement, Text
from colbertxm.sources import sha256

DEV_SHARE = 0.05
"""Of the groups of pairs, kept out of training."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One line. `group` is what stays on one side of the split: as named, or the positive itself."""

    query: str
    positive: str
    source: str
    group: str


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a file, plain or compressed, in order. Raises UserError with file and line for a wrong one."""

    def parse(_: int, line: str) -> Pair:
        found = record(line)
        query, positive = _text(found, "query"), _text(found, "positive")
        source, group = (found.get(key) or "" for key in ("source", "group"))
        if not isinstance(source, str) or not isinstance(group, str | int):
            raise Refused("has a wrong source or group", "source and group must be texts where they stand")
        return Pair(query, positive, source, f"{source}\t{group}" if group else positive)

    return list(Rows(path, lambda _: parse, "raise"))


def _text(found: dict[str, object], key: str) -> str:
    value = found.get(key)
    if not isinstance(value, str):
        raise Refused(f"has no {key}", f'expected {{"query": ..., "positive": ...}}, found {short(found)}')
    return " ".join(worded(value, key).split())


def draw(pairs: Iterable[Pair], per_source: int | None, seed: int) -> list[Pair]:
    """Each (query, positive) once, in the order of a hash, at most `per_source` of a source: the first so many of them
    lie within the first of a larger number."""
    taken: Counter[str] = Counter()
    drawn = []
    for pair in sorted(dict.fromkeys(pairs), key=lambda pair: word_of(f"{seed}:{pair.query}\t{pair.positive}")):
        taken[pair.source] += 1
        if per_source is None or taken[pair.source] <= per_source:
            drawn.append(pair)
    return drawn


def pairs(
    file: str | None,
    negatives_depth: int,
    lang: str = "en",
    sample: int | None = None,
    per_source: int | None = None,
    val_sample: int = 100,
    seed: int = 42,
) -> TrainingData:
    """Training data out of `file`, all in `lang`. A twentieth of the groups is kept out of training; `val_sample` pairs
    of it are the development pool. Raises UserError for a file that is missing or wrong, by name and line."""
    if file is None:
        raise UserError(
            'data.file is missing: name a .jsonl (or .jsonl.gz) with {"query": ..., "positive": ...} a line'
        )
    for name, value in (("sample", sample), ("per_source", per_source), ("val_sample", val_sample)):
        if value is not None and value < 1:
            raise UserError(f"data.{name}={value} must be at least 1, or null for all")
    path, code = Path(file), language(lang).code
    drawn = draw(read_pairs(path), per_source, seed)
    train = [pair for pair in drawn if not held_out(pair.group)][:sample]
    dev = [pair for pair in drawn if held_out(pair.group)][:val_sample]
    if not train:
        raise UserError(f"{path} holds no pair to train on")
    return TrainingData(
        name="pairs",
        pairs=tuple(_texts(train, code)),
        pools=(pool(dev, code),) if dev else (),
        languages=(code,),
        negatives_depth=negatives_depth,
        checksums={path.name: sha256(path)},
    )


def held_out(group: str) -> bool:
    """Whether a group belongs to the development part: a pure function of its name."""
    return share_of(group) < DEV_SHARE


def pool(dev: Sequence[Pair], lang: str) -> Collection:
    """The questions of `dev` over its passages."""
    texts = _texts(dev, lang)
    queries = {query.id: query for query, _ in texts}
    passages = {passage.id: passage for _, passage in texts}
    judged = dict.fromkeys((query.id, passage.id) for query, passage in texts)
    return Collection(
        name="pairs/dev",
        query_lang=lang,
        passage_lang=lang,
        queries=tuple(queries.values()),
        passages=tuple(passages.values()),
        judgements=tuple(Judgement(query_id, passage_id, 1) for query_id, passage_id in judged),
    )


def _texts(found: Sequence[Pair], lang: str) -> list[tuple[Text, Text]]:
    """Records whose ids are hashes of their texts: equal texts are one query, one passage."""
    return [
        (Text(f"q:{word_of(p.query):016x}", p.query, lang), Text(f"p:{word_of(p.positive):016x}", p.positive, lang))
        for p in found
    ]
