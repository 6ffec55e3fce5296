"""The reproduction matrix: one YAML for each published row, read and checked.

A row says what was published, how this repository makes the same figures, how far off they may be, and what is known to
differ. `status` is `not run`, or what somebody measured, with date, revision and machine: never a figure without them.
Figures are in points (x 100), as the paper prints them; measures have our names, so MRR@10 is RR@10.
"""

from __future__ import annotations

import datetime
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import yaml

from colbertxm.errors import UserError, nearest
from colbertxm.evaluation.reproduction_fields import Fields

NOT_RUN, NOT_MEASURED = "not run", "not measured"
WAYS = ("published", "trained")
VECTORS = ("multi", "single", "none")
PLACEHOLDERS = ("data", "languages", "model", "work")
ROUNDING = 0.1
"""Points between a published average and the mean of its published figures, all of which are rounded to 0.1."""


@dataclass(frozen=True)
class Figures:
    """What was published for one measure, in points. Some tables give no more than the average."""

    measure: str
    source: str
    average: float | None
    by_language: dict[str, float]


@dataclass(frozen=True)
class Tolerance:
    """Points by which a figure may differ: with the published weights, and with weights trained anew."""

    published: float | None
    trained: float
    reason: str


@dataclass(frozen=True)
class Index:
    """What the index of each language should be like. `tokens` is assumed; `measured` says whether anybody looked."""

    bits: int | None
    passages: dict[str, int]
    tokens: float | None
    source: str
    measured: str


@dataclass(frozen=True)
class Difference:
    """Something that keeps a figure from being the published one, and the settings that choose a side."""

    what: str
    settings: str


@dataclass(frozen=True)
class Measured:
    """What somebody measured: by which way, when, with which revision, where."""

    way: str
    date: str
    revision: str
    machine: str
    figures: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Row:
    """One published row."""

    name: str
    title: str
    source: str
    vectors: str
    collection: str
    split: str
    languages: tuple[str, ...]
    figures: tuple[Figures, ...]
    tolerance: Tolerance
    files: dict[str, str]
    commands: dict[str, str]
    trained_model: str | None
    published_model: str | None
    results: str
    index: Index | None
    cost: dict[str, str]
    differences: tuple[Difference, ...]
    status: tuple[Measured, ...]
    """Empty where nobody has run it."""


def load_rows(folder: Path) -> dict[str, Row]:
    """Every row of `folder` by its file's name. Raises UserError for a folder without any, or a wrong one."""
    found = {path.stem: load_row(path) for path in sorted(folder.glob("*.yaml"))}
    if not found:
        raise UserError(f"{folder} holds no rows (*.yaml): run it in a checkout, or give --rows FOLDER")
    return found


def load_row(path: Path) -> Row:
    """One row. Raises UserError that names file and key."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; `colbertxm reproduce list` names the rows") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    return _Reader(path).row(content)


class _Reader(Fields):
    """The parts of a row."""

    def row(self, content: object) -> Row:
        given = self.keys("the row", content, [f.name for f in fields(Row) if f.name != "name"])
        languages = self.codes("languages", given["languages"])
        row = Row(
            name=self.path.stem,
            title=self.text("title", given["title"]),
            source=self.text("source", given["source"]),
            vectors=self.one_of("vectors", given["vectors"], VECTORS),
            collection=self.text("collection", given["collection"]),
            split=self.text("split", given["split"]),
            languages=languages,
            figures=self.figures(given["figures"], languages),
            tolerance=self.tolerance(given["tolerance"]),
            files=self.mapping("files", given["files"], self.text),
            commands=self.commands(given["commands"]),
            trained_model=self.maybe("trained_model", given["trained_model"]),
            published_model=self.maybe("published_model", given["published_model"]),
            results=self.template("results", given["results"]),
            index=None if given["index"] is None else self.index(given["index"], languages),
            cost=self.mapping("cost", given["cost"], self.text),
            differences=self.differences(given["differences"]),
            status=self.status(given["status"], languages),
        )
        if "train" in row.commands and row.trained_model is None:
            raise self.wrong("trained_model", "is null, though a command trains: name the model's folder")
        if row.trained_model:
            self.template("trained_model", row.trained_model)
        return row

    def figures(self, value: object, languages: Sequence[str]) -> tuple[Figures, ...]:
        found = []
        for measure, entry in self.mapping("figures", value, lambda _, v: v).items():
            key = f"figures.{measure}"
            self.measure(key, measure)
            given = self.keys(key, entry, ["source", "average", "by_language"])
            values = self.points(f"{key}.by_language", given["by_language"] or {}, languages, least=1.0)
            average = None if given["average"] is None else self.number(f"{key}.average", given["average"])
            if values and set(values) != set(languages):
                raise self.wrong(f"{key}.by_language", f"lacks {', '.join(sorted(set(languages) - set(values)))}")
            if values and average is not None and abs(sum(values.values()) / len(values) - average) > ROUNDING:
                mean = sum(values.values()) / len(values)
                raise self.wrong(
                    key, f"the mean of the languages is {mean:.2f}, and not {average}: a figure is mistyped"
                )
            if not values and average is None:
                raise self.wrong(key, "has neither figures by language nor an average")
            found.append(Figures(measure, self.text(f"{key}.source", given["source"]), average, values))
        return tuple(found)

    def tolerance(self, value: object) -> Tolerance:
        given = self.keys("tolerance", value, [*WAYS, "reason"])
        for way in WAYS:
            if given[way] is not None and self.number(f"tolerance.{way}", given[way]) <= 0:
                raise self.wrong(f"tolerance.{way}", "must be above 0 points")
        if given["trained"] is None:
            raise self.wrong("tolerance.trained", "is null: say how many points a run of one's own may differ")
        published = None if given["published"] is None else float(given["published"])
        return Tolerance(published, float(given["trained"]), self.text("tolerance.reason", given["reason"]))

    def commands(self, value: object) -> dict[str, str]:
        from_verb = self.mapping("commands", value, self.template)
        for name, command in from_verb.items():
            words = shlex.split(command)
            if name.split("_")[0] != words[0]:
                raise self.wrong(f"commands.{name}", f"runs {words[0]!r}: name it {words[0]} or {words[0]}_SOMETHING")
            if not any(word.startswith("output=") for word in words):
                raise self.wrong(f"commands.{name}", "has no output=: a command is done when its output is there")
        return from_verb

    def template(self, key: str, value: object) -> str:
        text = self.text(key, value)
        for name in re.findall(r"\{(\w+)\}", text):
            if name not in PLACEHOLDERS:
                raise self.wrong(key, f"{{{name}}} is no placeholder{nearest(name, PLACEHOLDERS)}; there are "
                                      + ", ".join(f"{{{known}}}" for known in PLACEHOLDERS))  # fmt: skip
        return text

    def index(self, value: object, languages: Sequence[str]) -> Index:
        given = self.keys("index", value, [f.name for f in fields(Index)])
        counts = given["passages"]
        if isinstance(counts, int):
            counts = dict.fromkeys(languages, counts)
        passages = self.mapping("index.passages", counts, lambda key, v: int(self.number(key, v)))
        if set(passages) != set(languages):
            raise self.wrong("index.passages", "names other languages than the row")
        bits = given["bits"]
        if bits not in (None, 1, 2, 4, 8):
            raise self.wrong("index.bits", f"is {bits!r}: give 1, 2, 4, 8 or null (vectors as they are)")
        tokens = None if given["tokens"] is None else self.number("index.tokens", given["tokens"])
        texts = (self.text(f"index.{name}", given[name]) for name in ("source", "measured"))
        return Index(bits, passages, tokens, *texts)

    def differences(self, value: object) -> tuple[Difference, ...]:
        if not isinstance(value, list):
            raise self.wrong("differences", "is no list")
        found = []
        for number, entry in enumerate(value, start=1):
            given = self.keys(f"differences {number}", entry, ["what", "settings"])
            found.append(Difference(*(self.text(f"differences {number}.{k}", given[k]) for k in ("what", "settings"))))
        return tuple(found)

    def status(self, value: object, languages: Sequence[str]) -> tuple[Measured, ...]:
        if value == NOT_RUN:
            return ()
        if not isinstance(value, list) or not value:
            raise self.wrong("status", f"is neither {NOT_RUN!r} nor a list of measured runs")
        return tuple(self.measured(f"status {i}", entry, languages) for i, entry in enumerate(value, start=1))

    def measured(self, key: str, value: object, languages: Sequence[str]) -> Measured:
        given = self.keys(key, value, [f.name for f in fields(Measured)])
        date = str(given["date"])
        try:
            datetime.date.fromisoformat(date)
        except ValueError:
            raise self.wrong(f"{key}.date", f"{date!r} is no date (2026-11-23)") from None
        revision = self.text(f"{key}.revision", given["revision"])
        if not re.fullmatch(r"[0-9a-f]{40}", revision):
            raise self.wrong(f"{key}.revision", f"{revision!r} is no commit: 40 hexadecimal digits of a clean checkout")
        found = {}
        for measure, values in self.mapping(f"{key}.figures", given["figures"], lambda _, v: v).items():
            self.measure(f"{key}.figures", measure)
            found[measure] = self.points(f"{key}.figures.{measure}", values, languages)
        if not any(found.values()):
            raise self.wrong(f"{key}.figures", f"holds none: then the status is {NOT_RUN!r}")
        way = self.one_of(f"{key}.way", given["way"], WAYS)
        return Measured(way, date, revision, self.text(f"{key}.machine", given["machine"]), found)
