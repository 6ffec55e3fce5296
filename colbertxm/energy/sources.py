"""Counters of energy: NVML for the GPUs that a process uses, RAPL for the machine's processor packages.

A source is asked for a sample at least every `interval` seconds, because counters wrap around and power must be
integrated. Joules throughout. `Unavailable` says why there is no such source; whether that matters is the meter's call.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

POWERCAP = Path("/sys/class/powercap")
RAPL_INTERVAL_S = 10.0
"""The smallest ranges in use are 65 kJ: wrapped in ten seconds only above 6 kW a package."""
POWER_INTERVAL_S = 0.5
"""nvmlDeviceGetPowerUsage averages over up to a second, from Ampere on; half of that misses nothing."""
MIRROR_J = 1.0
"""Multi-die processors may show one package counter once per die. Files are read one after the other, so that copies
differ by what was drawn meanwhile, while independent counters differ by far more (CodeCarbon's issue 1274)."""


class Unavailable(Exception):
    """A source cannot measure here, or not any more; the message says why, in a few words."""


@dataclass(frozen=True)
class Joules:
    """What a source has measured since it began, by device; None where it does not measure such devices."""

    gpu: float | None = None
    cpu: float | None = None
    ram: float | None = None
    seconds: float | None = None
    """How much time that covers, where it is not all of it."""


class Source(Protocol):
    """What measures. Made running; `stop` ends it."""

    name: str
    interval: float

    def sample(self) -> None:
        """Read the hardware. Raises Unavailable where it no longer answers."""

    def joules(self) -> Joules | None:
        """As of the last sample; None while there is nothing to tell yet."""

    def stop(self) -> None:
        """Take the last sample and let go. Raises Unavailable as `sample` does."""


class Counter:
    """A counter that only grows, and begins again at 0 above `wrap` where it is given; same unit in and out."""

    def __init__(self, read: Callable[[], float], wrap: float | None = None) -> None:
        self.read, self.wrap = read, wrap
        self.last, self.total = read(), 0.0

    def sample(self) -> None:
        """Add what was counted since the last sample: less than one `wrap`, or it goes unseen."""
        now = self.read()
        grown = now - self.last
        if grown < 0:
            if self.wrap is None:
                raise Unavailable("its counter was set back")
            grown += self.wrap
        self.total, self.last = self.total + grown, now


class PowerIntegral:
    """Energy of a device that tells only its power: trapezoids between samples. Watts in, joules out."""

    def __init__(self, read: Callable[[], float], clock: Callable[[], float] = time.perf_counter) -> None:
        self.read, self.clock = read, clock
        self.at, self.last, self.total = clock(), read(), 0.0

    def sample(self) -> None:
        """Add the area since the last sample."""
        now, watts = self.clock(), self.read()
        self.total += (now - self.at) * (watts + self.last) / 2
        self.at, self.last = now, watts


class Nvml:
    """The GPUs named by `uuids` (GPU-...), through `nvml`, which is the module pynvml. Whole boards: other processes on
    them are counted, too. Raises Unavailable where one of them cannot be measured."""

    name = "nvml"

    def __init__(self, uuids: Sequence[str], nvml: Any = None) -> None:
        self.nvml = nvml if nvml is not None else _pynvml()
        self._ask(self.nvml.nvmlInit)
        self.handles = [self._ask(self.nvml.nvmlDeviceGetHandleByUUID, uuid) for uuid in uuids]
        self.meters = [(self._meter(handle)) for handle in self.handles]
        counters = all(isinstance(meter, Counter) for meter, _ in self.meters)
        self.interval = 60.0 if counters else POWER_INTERVAL_S

    def _meter(self, handle: Any) -> tuple[Counter | PowerIntegral, float]:
        """A GPU's meter and its joules per unit. Boards before Volta have no energy counter."""
        try:
            return Counter(lambda: float(self.nvml.nvmlDeviceGetTotalEnergyConsumption(handle))), 1e-3
        except self.nvml.NVMLError:
            power = self.nvml.nvmlDeviceGetPowerUsage
            return PowerIntegral(lambda: float(self._ask(power, handle)) / 1000), 1.0

    def sample(self) -> None:
        """Read every GPU."""
        try:
            for meter, _ in self.meters:
                meter.sample()
        except self.nvml.NVMLError as error:
            raise Unavailable(f"NVML: {error}") from None

    def joules(self) -> Joules:
        """GPUs alone."""
        return Joules(gpu=sum(meter.total * unit for meter, unit in self.meters))

    def stop(self) -> None:
        """Take the last sample. NVML stays initialised: others in this process may use it."""
        self.sample()

    def tdp(self) -> tuple[float, str] | None:
        """(watts, source): the power limit that the driver enforces, summed over the GPUs; None where it tells none."""
        try:
            limits = [self.nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000 for handle in self.handles]
            names = {str(_text(self.nvml.nvmlDeviceGetName(handle))) for handle in self.handles}
        except self.nvml.NVMLError:
            return None
        return sum(limits), f"NVML's enforced power limit ({', '.join(sorted(names))})"

    def _ask(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except self.nvml.NVMLError as error:
            raise Unavailable(f"NVML: {error}") from None


class Rapl:
    """All processor packages of the machine, whoever uses them. A package's sub-domains (core, uncore) lie within it,
    psys lies around it, and intel-rapl-mmio shows it a second time: none of them is added. DRAM is left out as well.
    Raises Unavailable where a package is missing or unreadable: some packages are no figure."""

    name = "rapl"
    interval = RAPL_INTERVAL_S

    def __init__(self, folder: Path = POWERCAP) -> None:
        domains = [path for path in folder.glob("intel-rapl:*") if re.fullmatch(r"intel-rapl:\d+", path.name)]
        packages = [path for path in sorted(domains) if _read(path / "name").strip().startswith("package-")]
        if not packages:
            raise Unavailable(f"{folder} shows no processor package")
        counters = [
            Counter(_joules_of(path / "energy_uj"), _joules_of(path / "max_energy_range_uj")()) for path in packages
        ]
        self.counters: list[Counter] = []
        for counter in counters:
            if not any(counter.last > 0 and abs(counter.last - kept.last) < MIRROR_J for kept in self.counters):
                self.counters.append(counter)

    def sample(self) -> None:
        """Read every package."""
        for counter in self.counters:
            counter.sample()

    def joules(self) -> Joules:
        """Processors alone."""
        return Joules(cpu=sum(counter.total for counter in self.counters))

    def stop(self) -> None:
        """Take the last sample."""
        self.sample()


def cuda_uuids(indices: Sequence[int]) -> list[str]:
    """NVML's names of CUDA devices: its own numbering knows no CUDA_VISIBLE_DEVICES."""
    import torch

    return [f"GPU-{torch.cuda.get_device_properties(i).uuid}" for i in indices]


def _pynvml() -> Any:
    try:
        import pynvml
    except ImportError:
        raise Unavailable("the GPUs' counters need `pip install 'colbertxm[energy]'`") from None
    return pynvml


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except PermissionError:
        raise Unavailable(f"{path} is for root alone: `sudo chmod a+r {path}` opens it until the next boot") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Unavailable(f"cannot read {path}: {error}") from None


def _joules_of(path: Path) -> Callable[[], float]:
    def read() -> float:
        try:
            return int(_read(path)) / 1e6
        except ValueError:
            raise Unavailable(f"{path} holds no number") from None

    return read


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
