"""Run a row: its commands in order, each once, then measured beside published.

`done.json` in the work folder keeps what has been run, by the command's very words: a second run goes on behind it, a
changed command runs again, and a training that two rows share happens once.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from colbertxm.errors import UserError
from colbertxm.evaluation.reproduction import Row
from colbertxm.evaluation.results import replacing, write_json

DONE = "done.json"
Execute = Callable[[Sequence[str]], None]
"""Runs a verb with its arguments; raises UserError where it fails."""


@dataclass(frozen=True)
class Step:
    """One command, ready to run."""

    name: str
    words: tuple[str, ...]

    @property
    def output(self) -> Path:
        """Where its result lies: the last `output=`, as Hydra reads it."""
        return Path([word.removeprefix("output=") for word in self.words if word.startswith("output=")][-1])

    @property
    def key(self) -> str:
        """What the command is known by once it is done."""
        return hashlib.sha256("\0".join(self.words).encode()).hexdigest()


def steps(
    row: Row, data: str, work: str, way: str = "trained", extra: Mapping[str, Sequence[str]] | None = None
) -> list[Step]:
    """The commands of a row with its placeholders filled; `extra` appends words to a verb's commands. Raises UserError
    where the row has no published weights and they are asked for."""
    if way == "published" and row.published_model is None:
        raise UserError(f"{row.name} has no published weights: run it without --published")
    values = {"data": data, "work": work, "languages": ",".join(row.languages)}
    trained = fill(row.trained_model or "", values)
    values["model"] = str(row.published_model) if way == "published" else trained
    found = []
    for name, command in row.commands.items():
        words = [fill(word, values) for word in shlex.split(command)]
        if not (way == "published" and words[0] == "train"):
            found.append(Step(name, (*words, *(extra or {}).get(words[0], ()))))
    return found


def fill(text: str, values: Mapping[str, str]) -> str:
    """`text` with {name} replaced. Hydra's own braces have no single word in them, and stay."""
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def run(row_steps: Sequence[Step], work: Path, execute: Execute, say: Callable[[str], None]) -> None:
    """Execute what has not been done yet. What `execute` raises goes on, and the next run starts there."""
    done = _done(work)
    for step in row_steps:
        line = shlex.join(["colbertxm", *step.words])
        if step.key in done and step.output.exists():
            say(f"[{step.name}] done before: {step.output}")
            continue
        say(f"[{step.name}] {line}")
        started = time.perf_counter()
        execute(step.words)
        done[step.key] = {"command": line, "seconds": round(time.perf_counter() - started, 1)}
        write_json(work / DONE, done)


def _done(work: Path) -> dict[str, Any]:
    try:
        found = json.loads((work / DONE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{work / DONE} cannot be read ({error}): delete it, and every command runs again") from None
    if not isinstance(found, dict):
        raise UserError(f"{work / DONE} is no list of commands: delete it, and every command runs again")
    return found


def as_process(words: Sequence[str]) -> None:
    """Run a verb as a process of its own, so that memory and settings of one command are gone before the next."""
    code = subprocess.run([sys.executable, "-m", f"colbertxm.{words[0]}", *words[1:]], check=False).returncode
    if code:
        raise UserError(f"{words[0]} ended with status {code}, see above: mend it and give the same command again")


def proposal(row: Row, found: Mapping[str, Mapping[str, float]], way: str, results: Path) -> str:
    """What was measured as an entry for the YAML's `status`, for a person to look at and put there. Raises UserError
    where the results do not say which clean revision made them."""
    made = json.loads(results.read_text(encoding="utf-8")).get("provenance") or {}
    revision = str(made.get("revision"))
    entry = {
        "way": way,
        "date": datetime.date.today().isoformat(),
        "revision": revision,
        "machine": f"{made.get('platform')}, {made.get('cpus')} CPUs",
        "figures": {measure: dict(values) for measure, values in found.items() if values},
    }
    note = f"# For `status` in {row.name}.yaml, which nothing but a person edits.\n"
    if not revision.isalnum() or len(revision) != 40:
        note += "# The revision is no clean commit: such an entry is refused there; commit, and evaluate again.\n"
    return note + yaml.safe_dump([entry], sort_keys=False, default_flow_style=None, width=118)


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
