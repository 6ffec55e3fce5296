"""What every benchmark writes: benchmarks/results/NAME.json, a list of {name, value, unit, settings, machine}."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from colbertxm.evaluation.results import replacing

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), cpu)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def write(name: str, rows: list[dict[str, Any]]) -> Path:
    """Write the rows with the machine added; prints where."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    with replacing(path) as part:
        part.write_text(json.dumps([{**row, "machine": machine()} for row in rows], indent=1), encoding="utf-8")
    print(f"written: {path}")
    return path


def read(name: str) -> list[dict[str, Any]]:
    """The rows that were written last; none where there is no file."""
    path = RESULTS / f"{name}.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return rows


def row(name: str, value: float, unit: str, **settings: Any) -> dict[str, Any]:
    """One figure."""
    return {"name": name, "value": value, "unit": unit, "settings": settings}


def side_by_side(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each run. They take turns, so that a slow minute of the machine falls on all alike; the
    first turn warms up and is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken) for name, taken in seconds.items()}
