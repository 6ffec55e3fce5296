"""What a collection costs: machine hours, GB on disk, milliseconds a query, from rates that were measured.

    python -m benchmarks.ray.capacity                                  # 8.8M passages x 14 languages, no GPU
    python -m benchmarks.ray.capacity --passages-per-s-gpu 1500 --days 2

rates.json beside this file holds each measured rate with the command that measured it. A GPU's rate is nobody's
measurement here: whoever has measured one passes it, and the result names it as given. Only multiplication: texts of
another length, other machines and a budget of another size change every line.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RATES = Path(__file__).with_name("rates.json")


def capacity(
    passages: float, vectors: float, days: float, rates: Mapping[str, float], gpu: float | None, cores: int
) -> dict[str, Any]:
    """`passages` in all with `vectors` each, to be done in `days`; `gpu` passages a second of one, `cores` those of the
    coordinator, which alone makes codes."""
    rate = gpu or rates["encode_cpu"]
    hours = passages / rate / 3600
    coded = passages * vectors / (rates["code"] * cores) / 3600
    gb = passages * vectors * rates["bytes"] / 1e9
    return {
        "encoders": "GPUs (rate given, not measured here)" if gpu else "machines of two cores (measured)",
        "passages": passages,
        "encoder_hours": hours,
        "encoders_needed": math.ceil(hours / (24 * days)),
        "coordinator_hours_for_codes": coded,
        "coordinator_in_time": coded <= 24 * days,
        "index_gb": gb,
        "query_encode_ms": rates["query_encode"],
    }


def load(path: Path = RATES) -> dict[str, float]:
    """The measured rates by name."""
    return {name: float(found["value"]) for name, found in json.loads(path.read_text(encoding="utf-8")).items()}


def lines(found: Mapping[str, Any]) -> Sequence[str]:
    """As they are printed."""
    return [
        f"| {found['passages'] / 1e6:,.1f} M passages on {found['encoders']} | |",
        "|---|---:|",
        f"| hours of one encoder | {found['encoder_hours']:,.0f} |",
        f"| encoders for the deadline | {found['encoders_needed']:,} |",
        f"| hours of the coordinator for codes | {found['coordinator_hours_for_codes']:,.1f} |",
        f"| index without texts, GB | {found['index_gb']:,.0f} |",
        f"| encoding one query on a CPU, ms | {found['query_encode_ms']:.0f} |",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=float, default=8_841_823)
    parser.add_argument("--languages", type=int, default=14)
    parser.add_argument("--vectors", type=float, default=70, help="of a passage, that are kept")
    parser.add_argument("--days", type=float, default=7)
    parser.add_argument("--cores", type=int, default=16, help="of the coordinator")
    parser.add_argument("--passages-per-s-gpu", type=float, help="an assumption of yours; nobody measured one here")
    a = parser.parse_args()
    found = capacity(a.passages * a.languages, a.vectors, a.days, load(), a.passages_per_s_gpu, a.cores)
    print("\n".join(lines(found)))
    if not found["coordinator_in_time"]:
        print(f"codes alone take longer than {a.days:g} days on {a.cores} cores: build an index for each language")


if __name__ == "__main__":
    main()
