"""What a stage used, as a figure that never stands without its method.

Two accounts stand side by side. `kwh` is what counters or an estimate gave. The paper's (arXiv 2402.15059, Table 3) is
arithmetic: TDP x hours x 0.432 kgCO2eq/kWh, as if the accelerator drew its whole TDP; no CPU, no RAM, no PUE.
What is not known is None, and never 0; 0 is said only of a device that the stage does not use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

JOULES_PER_KWH = 3.6e6
PAPER_KG_PER_KWH = 0.432
PAPER_SOURCE = "the paper's (arXiv 2402.15059, Table 3)"
METHODS = ("nvml", "rapl", "estimate")
"""NVML covers the GPUs of this run; RAPL the machine's processor packages; the estimate is CodeCarbon's."""


@dataclass(frozen=True)
class Energy:
    """Energy of one stage, of a part of it, or of one process's share of it."""

    kwh: float | None
    """Sum of what `method` measures; None where that failed."""
    method: str
    """nvml, rapl, nvml+rapl, estimate or none. `nvml` alone is the GPUs without the rest of the machine."""
    seconds: float
    measured_seconds: float
    """The part of `seconds` that `kwh` covers."""
    gpu_kwh: float | None
    cpu_kwh: float | None
    ram_kwh: float | None
    tdp_watts: float | None
    """Of all devices together; of the last part where a run was resumed elsewhere."""
    tdp_source: str | None
    paper_kwh: float | None
    kg_per_kwh: float
    kg_source: str

    @property
    def kg_co2eq(self) -> float | None:
        """`kwh` times the grid's carbon intensity."""
        return None if self.kwh is None else self.kwh * self.kg_per_kwh

    @property
    def paper_kg(self) -> float | None:
        """By the paper's formula and the paper's intensity, whatever grid is configured."""
        return None if self.paper_kwh is None else self.paper_kwh * PAPER_KG_PER_KWH

    def notes(self) -> dict[str, Any]:
        """For provenance: what is known, six digits; kWh, method and kgCO2eq come first."""
        figures = {"kwh": self.kwh, "method": self.method, "kg_co2eq": self.kg_co2eq, **asdict(self)}
        known = {name: _rounded(value) for name, value in figures.items() if value is not None}
        return known if self.paper_kg is None else {**known, "paper_kg": _rounded(self.paper_kg)}

    def metrics(self) -> dict[str, float]:
        """For a logger: the figures that are known."""
        found = {"kwh": self.kwh, "kg_co2eq": self.kg_co2eq, "paper_kwh": self.paper_kwh, "paper_kg": self.paper_kg}
        return {f"energy/{name}": value for name, value in found.items() if value is not None}

    def line(self) -> str:
        """One line for people; empty where nothing is known."""
        parts = []
        if self.kwh is not None and self.kg_co2eq is not None:
            parts.append(
                f"{self.kwh:.3g} kWh ({self.method}{self._coverage()}), "
                f"{self.kg_co2eq:.3g} kgCO2eq at {self.kg_per_kwh:g} kg/kWh"
            )
        if self.paper_kwh is not None and self.paper_kg is not None:
            what = f"{self.tdp_watts:g} W x " if self.tdp_watts is not None else "TDP x "
            parts.append(
                f"by the paper's formula {self.paper_kwh:.3g} kWh, {self.paper_kg:.3g} kgCO2eq "
                f"({what}{self.seconds / 3600:.3g} h x {PAPER_KG_PER_KWH})"
            )
        return "energy: " + "; ".join(parts) if parts else ""

    def _coverage(self) -> str:
        if self.seconds - self.measured_seconds < max(1.0, 0.01 * self.seconds):
            return ""
        return f" of {self.measured_seconds:.0f} of {self.seconds:.0f} s"


def paper_formula(tdp_watts: float, seconds: float) -> tuple[float, float]:
    """(kWh, kgCO2eq) as the paper computes them. Its row for ColBERT-XM, 310 W for 7.5 h, reads 2.3 kWh and 1.01 kg;
    the formula gives 2.325 kWh and 1.004 kg."""
    kwh = tdp_watts * seconds / JOULES_PER_KWH
    return kwh, kwh * PAPER_KG_PER_KWH


def then(before: Energy, after: Energy) -> Energy:
    """A resumed run: what was used before the stop and what after. An unmeasured part leaves `measured_seconds` behind
    `seconds`; it does not make the measured part unknown."""
    total = _added(before, after, "kwh")
    return Energy(
        kwh=total,
        method=_methods([before.method, after.method]),
        seconds=before.seconds + after.seconds,
        measured_seconds=before.measured_seconds + after.measured_seconds,
        gpu_kwh=_added(before, after, "gpu_kwh"),
        cpu_kwh=_added(before, after, "cpu_kwh"),
        ram_kwh=_added(before, after, "ram_kwh"),
        tdp_watts=after.tdp_watts,
        tdp_source=after.tdp_source,
        paper_kwh=_sum([before.paper_kwh, after.paper_kwh]),
        kg_per_kwh=after.kg_per_kwh,
        kg_source=after.kg_source,
    )


def beside(shares: Sequence[Energy]) -> Energy:
    """The shares of processes that run at the same time, the first being the process that reports. One share that is
    unknown makes the sum unknown: a total that leaves a GPU out would look like a good figure."""
    first = shares[0]
    return Energy(
        kwh=_sum([s.kwh for s in shares]),
        method=_methods([s.method for s in shares]),
        seconds=max(s.seconds for s in shares),
        measured_seconds=min(s.measured_seconds for s in shares),
        gpu_kwh=_sum([s.gpu_kwh for s in shares]),
        cpu_kwh=_sum([s.cpu_kwh for s in shares]),
        ram_kwh=_sum([s.ram_kwh for s in shares]),
        tdp_watts=_sum([s.tdp_watts for s in shares]),
        tdp_source=first.tdp_source,
        paper_kwh=_sum([s.paper_kwh for s in shares]),
        kg_per_kwh=first.kg_per_kwh,
        kg_source=first.kg_source,
    )


_TEXTS = ("method", "tdp_source", "kg_source")
_NUMBERS = tuple(f.name for f in fields(Energy) if f.name not in _TEXTS)


def to_numbers(share: Energy) -> list[float]:
    """A share as plain numbers, so that processes can exchange tensors and nothing is pickled; None is NaN."""
    numbers = [float("nan") if (v := getattr(share, name)) is None else float(v) for name in _NUMBERS]
    return [*numbers, *(float(method in share.method.split("+")) for method in METHODS)]


def from_numbers(numbers: Sequence[float], like: Energy) -> Energy:
    """The reverse of `to_numbers`; what is text, the names of sources, is taken from `like`."""
    values: dict[str, Any] = {n: None if v != v else v for n, v in zip(_NUMBERS, numbers, strict=False)}
    found = [method for method, there in zip(METHODS, numbers[len(_NUMBERS) :], strict=True) if there]
    return Energy(method=_methods(found), tdp_source=like.tdp_source, kg_source=like.kg_source, **values)


def _methods(found: Sequence[str]) -> str:
    names = {name for method in found for name in method.split("+")}
    return "+".join(method for method in METHODS if method in names) or "none"


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _added(before: Energy, after: Energy, name: str) -> float | None:
    """None of a part in which nothing was measured is passed over; None beside a measured part stays None."""
    values = [getattr(part, name) for part in (before, after) if part.measured_seconds > 0]
    return _sum(values) if values else None


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value
