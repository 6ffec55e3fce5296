"""A meter around any stage.

>>> with Meter(EnergySettings(), cuda_devices(encoder)) as meter:
...     retriever.add(passages)
>>> meter.energy.kwh, meter.energy.method

Which source measures (mode auto):

| the stage runs on | counters | else |
|---|---|---|
| GPUs | NVML for its GPUs, and RAPL for the processors where it is readable | CodeCarbon's estimate |
| the CPU | RAPL | CodeCarbon's estimate |

and where CodeCarbon is not installed nothing is measured, which is said once. Of several processes on a machine each
measures its own GPUs, and one of them (`main`) what they share.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from colbertxm.energy.account import JOULES_PER_KWH, PAPER_KG_PER_KWH, PAPER_SOURCE, Energy, paper_formula
from colbertxm.energy.estimate import Estimate, country_intensity
from colbertxm.energy.sources import POWERCAP, Joules, Nvml, Rapl, Source, Unavailable, cuda_uuids
from colbertxm.errors import UserError, nearest

MODES = ("auto", "nvml", "rapl", "estimate", "off")


@dataclass(frozen=True)
class EnergySettings:
    """How to measure, and by which grid to convert."""

    mode: str = "auto"
    """auto, nvml, rapl, estimate or off; a source that is named and is not there is an error."""
    country: str | None = None
    """Three-letter ISO code; its carbon intensity takes the place of `kg_per_kwh`."""
    tdp_watts: float | None = None
    """Of each device that is used, for the paper's formula; None = NVML's power limit, and unknown for processors."""
    kg_per_kwh: float = PAPER_KG_PER_KWH

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(
                f"energy.mode={self.mode!r} is unknown{nearest(self.mode, MODES)}; choose from {', '.join(MODES)}"
            )
        if self.tdp_watts is not None and self.tdp_watts <= 0:
            raise UserError(f"energy.tdp_watts={self.tdp_watts} must be above 0")
        if self.kg_per_kwh < 0:
            raise UserError(f"energy.kg_per_kwh={self.kg_per_kwh} must be 0 or more")
        if self.country is not None and self.kg_per_kwh != PAPER_KG_PER_KWH:
            raise UserError("energy.country and energy.kg_per_kwh are two answers to one question: give one of them")

    def intensity(self) -> tuple[float, str]:
        """(kgCO2eq/kWh, where it is from)."""
        if self.country is not None:
            return country_intensity(self.country)
        return self.kg_per_kwh, PAPER_SOURCE if self.kg_per_kwh == PAPER_KG_PER_KWH else "given"


@dataclass(frozen=True)
class Machine:
    """Where the counters are; tests put others in their place."""

    nvml: Any = None
    powercap: Path = POWERCAP
    tracker: Any = None
    uuids: Callable[[Sequence[int]], list[str]] = cuda_uuids


class Meter:
    """Measures from `start` to `stop`, and at any time between by `read`. `devices` are the CUDA devices of this
    process; `main` is False in all but one process of a machine. `quiet` keeps back the hint that nothing measures."""

    def __init__(
        self,
        settings: EnergySettings,
        devices: Sequence[int] = (),
        main: bool = True,
        machine: Machine | None = None,
        quiet: bool = False,
    ) -> None:
        self.settings, self.devices, self.main, self.quiet = settings, list(devices), main, quiet
        self.machine = machine or Machine()
        self.intensity = settings.intensity()
        self.sources: list[Source] = []
        self.tdp: tuple[float, str] | None = None
        self.lost: str | None = None
        """Why there is no figure, where there is none."""
        self.energy: Energy | None = None
        """What `stop` found."""
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._started = 0.0

    def start(self) -> Meter:
        """Open the sources. Raises UserError where the one that `mode` names is not there."""
        try:
            self.sources = self._open()
        except Unavailable as reason:
            if self.settings.mode != "auto":
                raise UserError(f"energy.mode={self.settings.mode} cannot measure here: {reason}") from None
            self._lose(str(reason))
        self.tdp = self._tdp()
        self._started = time.perf_counter()
        if self.sources:
            threading.Thread(target=self._watch, name="energy", daemon=True).start()
        return self

    def read(self) -> Energy:
        """What has been used since `start`, and until `stop` where that has been called."""
        with self._lock:
            if self.energy is not None:
                return self.energy
            self._each(lambda source: source.sample())
            return self._account(time.perf_counter() - self._started)

    def stop(self) -> Energy:
        """The same, for the last time; a second call gives what the first gave."""
        if self.energy is None:
            self._done.set()
            with self._lock:
                seconds = time.perf_counter() - self._started
                self._each(lambda source: source.stop())
                self.energy = self._account(seconds)
        return self.energy

    def notes(self) -> dict[str, Any]:
        """For an artefact that is written before the stage ends: {"energy": ...} up to now, and nothing where nothing
        is known."""
        energy = self.read()
        return {"energy": energy.notes()} if energy.kwh is not None or energy.paper_kwh is not None else {}

    def __enter__(self) -> Meter:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _open(self) -> list[Source]:
        mode, found = self.settings.mode, list[Source]()
        if mode == "off":
            return found
        if self.devices and mode in ("auto", "nvml"):
            try:
                found.append(Nvml(self.machine.uuids(self.devices), self.machine.nvml))
            except Unavailable as reason:
                # Processors alone are no figure for a stage on GPUs; what knows both is the estimate.
                if mode == "nvml":
                    raise
                return [self._estimate(str(reason))] if self.main else found
        if not self.devices and mode == "nvml":
            raise Unavailable("this stage runs on the CPU")
        if self.main and mode in ("auto", "rapl"):
            try:
                found.append(Rapl(self.machine.powercap))
            except Unavailable as reason:
                if mode == "rapl":
                    raise
                found = found or [self._estimate(str(reason))]
        return [self._estimate()] if self.main and mode == "estimate" else found

    def _estimate(self, because: str = "") -> Source:
        try:
            return Estimate(bool(self.devices), self.machine.tracker)
        except Unavailable as reason:
            raise Unavailable("; ".join(filter(None, (because, str(reason))))) from None

    def _tdp(self) -> tuple[float, str] | None:
        """(watts, source) of what this process accounts for; a GPU's is known wherever NVML answers."""
        count = len(self.devices) or int(self.main)
        if self.settings.mode == "off":
            return None
        if self.settings.tdp_watts is not None or not count:
            return (self.settings.tdp_watts or 0.0) * count, "given"
        return next((source.tdp() for source in self.sources if isinstance(source, Nvml)), None)

    def _watch(self) -> None:
        interval = min(source.interval for source in self.sources)
        while not self._done.wait(interval):
            with self._lock:
                if not self._done.is_set():
                    self._each(lambda source: source.sample())

    def _each(self, call: Callable[[Source], None]) -> None:
        try:
            for source in self.sources:
                call(source)
        except Unavailable as reason:
            # A stage does not end because its meter broke, but a sum that misses a source is no figure either.
            self._lose(str(reason))
            self.sources = []

    def _lose(self, reason: str) -> None:
        self.lost = reason
        if not self.quiet:
            tell_once(f"energy: not measured: {reason} (energy.mode=off asks for nothing)")

    def _account(self, seconds: float) -> Energy:
        readings = [source.joules() for source in self.sources]
        found = [reading for reading in readings if reading is not None]
        measuring = bool(found) and len(found) == len(readings)
        # A process that opened no source has used nothing that the machine's main process does not report.
        idle = not self.main and not self.sources and self.lost is None
        parts = {name: self._part(found, name, idle) for name in ("gpu", "cpu", "ram")}
        known = measuring and not (self.devices and parts["gpu"] is None and self.settings.mode != "rapl")
        covered = min([seconds, *(r.seconds for r in found if r.seconds is not None)]) if known or idle else 0.0
        total = sum(value for value in parts.values() if value is not None)
        return Energy(
            kwh=total if known or idle else None,
            method="+".join(source.name for source in self.sources) if known else "none",
            seconds=seconds,
            measured_seconds=covered,
            gpu_kwh=parts["gpu"],
            cpu_kwh=parts["cpu"],
            ram_kwh=parts["ram"],
            tdp_watts=None if self.tdp is None else self.tdp[0],
            tdp_source=None if self.tdp is None else self.tdp[1],
            paper_kwh=None if self.tdp is None else paper_formula(self.tdp[0], seconds)[0],
            kg_per_kwh=self.intensity[0],
            kg_source=self.intensity[1],
        )

    def _part(self, found: Sequence[Joules], name: str, idle: bool) -> float | None:
        """kWh of one kind of device: measured, 0 where it is not this process's to measure, else None."""
        values = [value for reading in found if (value := getattr(reading, name)) is not None]
        if values:
            return sum(values) / JOULES_PER_KWH
        others = idle or (name == "gpu" and not self.devices) or (name != "gpu" and not self.main)
        return 0.0 if others else None


def cuda_devices(tensors: Iterable[Any]) -> list[int]:
    """The CUDA devices on which tensors (a model's parameters) lie."""
    return sorted({t.device.index or 0 for t in tensors if t.device.type == "cuda"})


_TOLD: set[str] = set()


def tell_once(message: str) -> None:
    """A line on stderr, once in a process however many stages it runs."""
    if message not in _TOLD:
        _TOLD.add(message)
        print(message, file=sys.stderr, flush=True)
