"""Result rows and where they came from: the JSON that a report, a table or a picture is made of.

One row is one model on one pair of languages. Rows hold no time stamp, so that the same evaluation gives the
same bytes; what made them (config, revision, checksums, versions) stands beside them, see `provenance`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from colbertxm.errors import UserError, nearest
from colbertxm.evaluation.measures import is_measure
from colbertxm.evaluation.metrics import Scores
from colbertxm.evaluation.significance import bootstrap_intervals

INTERVAL_MEASURE = "RR@10"  # the measure that a row's `low` and `high` belong to
_TEXTS = ("model", "query_lang", "passage_lang")
_LIBRARIES = ("torch", "numpy", "transformers", "lightning")


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields `path` + `.part` to write to, and renames it at the end: all of the file or none of it.

    Whatever goes wrong, the `.part` is removed and the file that stood at `path` stays as it was.
    Raises UserError where the system refuses (full disk, no permission, a folder that is a file).
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot write {path}: {reason}; make room or choose another folder") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def row(model: str, query_lang: str, passage_lang: str, scores: Scores, **extra: Any) -> dict[str, Any]:
    """One line of the results: every measure's mean over the queries, and their 95% bootstrap intervals in `intervals`;
    that of RR@10 is `low` and `high` too.

    Floats are rounded to six digits: beyond that a sum's last bits depend on the machine.
    `extra` (such as `collection="smart_home"`) follows as it is.
    Raises UserError where RR@10 was not measured.
    """
    if INTERVAL_MEASURE not in scores.values:
        raise UserError(f"a result row needs {INTERVAL_MEASURE}: add it to the measures (have {list(scores.values)})")
    intervals = bootstrap_intervals(scores.values)
    low, high = intervals[INTERVAL_MEASURE]
    means = {measure: scores.mean(measure) for measure in scores.values}
    line: dict[str, Any] = {"model": model, "query_lang": query_lang, "passage_lang": passage_lang}
    line |= {**means, "low": low, "high": high}
    line["queries"] = len(scores.query_ids)
    line["intervals"] = {name: [round(bound, 6) for bound in bounds] for name, bounds in intervals.items()}
    if clash := sorted(line.keys() & extra.keys()):
        raise ValueError(f"{clash} are columns of every row")
    line |= extra
    return {name: round(float(value), 6) if isinstance(value, float) else value for name, value in line.items()}


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: object) -> None:
    """Writes `content` with sorted keys, two spaces of indent and a final newline; atomically.

    numpy numbers and arrays and paths are written as what they hold. ValueError for NaN and infinities,
    which JSON does not have.
    """
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False, default=_plain)
    with replacing(path) as part:
        part.write_text(text + "\n", encoding="utf-8", newline="\n")


def _plain(value: object) -> object:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a results file: a JSON list of rows, or an object that holds one as `rows`.

    Raises UserError where the file is absent, damaged, or holds something else.
    """
    path = Path(path)
    content = _read_json(path)
    rows = content.get("rows") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise UserError(f"{path} holds no list of rows: give a results.json that `evaluate` wrote")
    for number, line in enumerate(rows, start=1):
        if fault := _fault(line):
            raise UserError(f"{path}, row {number}: {fault}; evaluate again")
    return rows


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"), parse_constant=_no_constant)
    except FileNotFoundError:
        raise UserError(f"no results at {path}: run `colbertxm evaluate` first, or give the right path") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text: it is damaged or no results file; evaluate again") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg}); evaluate again") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); evaluate again") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _fault(line: object) -> str | None:
    """What is wrong with a row, or None: names are texts, `queries` a count, each measure a finite number."""
    if not isinstance(line, dict):
        return f"is a {type(line).__name__}, not a row"
    for name in _TEXTS:
        if not isinstance(line.get(name), str):
            return f"has no {name!r}{nearest(name, line)}"
    queries = line.get("queries")
    if not isinstance(queries, int) or isinstance(queries, bool) or queries < 0:
        return "has no count of 'queries'"
    for name, value in line.items():
        if (name in ("low", "high") or "@" in name or is_measure(name)) and not _is_number(value):
            return f"{name} is {value!r}, not a number"
    intervals = line.get("intervals", {})
    if not isinstance(intervals, dict):
        return "has 'intervals' that are none"
    for name, bounds in intervals.items():
        if not isinstance(bounds, list) or len(bounds) != 2 or not all(map(_is_number, bounds)):
            return f"the interval of {name} is {bounds!r}, not two numbers"
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def provenance(
    config: Mapping[str, Any] | None = None,
    seed: int | None = None,
    checksums: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What made a number: config, seed, checksums of the data, versions, git revision, machine.

    `checksums` maps a file's or a data set's name to its sha256. Never fails: what cannot be found is None.
    """
    return {
        "config": None if config is None else dict(config),
        "seed": seed,
        "checksums": dict(checksums or {}),
        "version": _version("colbertxm"),
        "revision": _revision(),
        "python": platform.python_version(),
        **{library: _version(library) for library in _LIBRARIES},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
    }


def _version(package: str) -> str | None:
    """Read from the installed metadata: importing torch for a version would cost seconds."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _revision() -> str | None:
    """The commit of the working directory's repository, `-dirty` where a tracked file differs from it."""
    commit = _git("rev-parse", "--verify", "HEAD")
    if not commit:
        return None
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return commit if changes == "" else f"{commit}-dirty"


def _git(*arguments: str) -> str | None:
    # Optional locks off: asking for the state of a repository must not write to it.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            ("git", *arguments), capture_output=True, text=True, timeout=20, check=True, env=environment
        )
    except (OSError, subprocess.SubprocessError, UnicodeError):
        return None
    return done.stdout.strip()
