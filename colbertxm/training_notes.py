"""What a model's training took, from the notes that it carries: examples seen and energy used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from colbertxm.evaluation.report_write import Cost
from colbertxm.model.checkpoints import SETTINGS, provenance_of


def cost_of(model: Path) -> Cost:
    """Of a model folder of ours; nothing known of one of another layout."""
    if not (model / SETTINGS).is_file():
        return Cost()
    notes = provenance_of(model)
    trainer = _mapping(_mapping(notes.get("config")).get("trainer"))
    examples = None
    if isinstance(trainer.get("steps"), int) and isinstance(trainer.get("batch_size"), int):
        # The batch is that of all processes together; the loss gets `accumulate` of them a step.
        examples = trainer["steps"] * trainer["batch_size"] * int(trainer.get("accumulate") or 1)
    energy = _mapping(notes.get("energy"))
    if isinstance(energy.get("kwh"), int | float):
        return Cost(examples, float(energy["kwh"]), str(energy.get("method", "")))
    if isinstance(energy.get("paper_kwh"), int | float):
        return Cost(examples, float(energy["paper_kwh"]), "TDP")
    return Cost(examples)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def find_model(results: Path, name: str, evaluated: Any) -> Path | None:
    """The folder of the model whose row is `name`: among the checkpoints that an evaluation named (rows are named after
    the folder around the model), or beside the results, where the demo leaves it. None where it is gone."""
    checkpoints = evaluated if isinstance(evaluated, list) else []
    places = [Path(str(place)) for place in checkpoints if str(place) == name or Path(str(place)).parent.name == name]
    return next((place for place in [*places, results.parent / name / "model"] if place.is_dir()), None)
