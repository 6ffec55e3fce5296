"""Energy: counters that wrap, hide and vanish; sums over parts and processes; the paper's own row."""

from __future__ import annotations

import importlib.util
import math
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from colbertxm.energy import meter as meter_module
from colbertxm.energy.account import METHODS, Energy, beside, from_numbers, paper_formula, then, to_numbers
from colbertxm.energy.estimate import country_intensity
from colbertxm.energy.meter import EnergySettings, Machine, Meter, cuda_devices
from colbertxm.energy.sources import Counter, Nvml, PowerIntegral, Rapl, Unavailable
from colbertxm.errors import MissingExtra, UserError

KWH = 3.6e6  # joules
needs_codecarbon = pytest.mark.skipif(
    importlib.util.find_spec("codecarbon") is None, reason="the extra `energy` is not installed"
)


class NVMLError(Exception):
    """Stands for pynvml's."""


class FakeNvml:
    """Two GPUs; `counters` in mJ, None = not supported."""

    NVMLError = NVMLError

    def __init__(self, counters: dict[str, int | None], watts: float = 300.0, driver: bool = True) -> None:
        self.counters, self.watts, self.driver = counters, watts, driver

    def nvmlInit(self) -> None:
        if not self.driver:
            raise NVMLError("Driver Not Loaded")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid not in self.counters:
            raise NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        if (value := self.counters[handle]) is None:
            raise NVMLError("Not Supported")
        return value

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return int(self.watts * 1000)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: str) -> int:
        return 310_000

    def nvmlDeviceGetName(self, handle: str) -> bytes:
        return b"H100"


def domain(folder: Path, name: str, label: str, microjoules: int, largest: int = 65_000_000_000) -> Path:
    """A powercap domain as the kernel shows it."""
    path = folder / name
    path.mkdir(parents=True, exist_ok=True)
    (path / "name").write_text(label + "\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    (path / "max_energy_range_uj").write_text(f"{largest}\n")
    return path


def machine(tmp_path: Path, **changes: Any) -> Machine:
    """A machine without counters, but for `changes`."""
    return replace(Machine(None, tmp_path / "nothing", None, lambda found: [f"GPU-{i}" for i in found]), **changes)


def tracker(cpu: float = 0.002, gpu_count: int = 0, waits: float = 0.0) -> Any:
    """Makes trackers that act like CodeCarbon's and count `cpu` kWh in all."""

    class Tracker:
        def __init__(self, taker: Any) -> None:
            self.taker = taker

        def start(self) -> None:
            time.sleep(waits)
            self.give(0.0)

        def stop(self) -> None:
            self.give(1.0)

        def give(self, share: float) -> None:
            energies = {"cpu_energy": cpu * share, "ram_energy": 0.001 * share, "gpu_energy": 0.5 * share}
            self.taker.take(SimpleNamespace(**energies, gpu_count=gpu_count, duration=0.0))

    return Tracker


@pytest.fixture(autouse=True)
def untold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter_module, "_TOLD", set())


def account(**changes: Any) -> Energy:
    plain = Energy(0.3, "nvml+rapl", 100.0, 100.0, 0.2, 0.1, None, 300.0, "given", 0.5, 0.432, "the paper's")
    return replace(plain, **changes)


# --- the formula


def test_the_papers_own_rows() -> None:
    """Table 3, to its own rounding: ColBERT-XM, mColBERT, mMiniLM and 32 GPUs of mE5."""
    for watts, hours, kwh, kg in [(310, 7.5, 2.3, 1.01), (300, 36, 10.8, 4.67), (400, 50, 20.0, 8.64)]:
        found = paper_formula(watts, hours * 3600)
        assert found == (pytest.approx(kwh, abs=0.05), pytest.approx(kg, abs=0.01))
    assert paper_formula(32 * 300, 24 * 3600) == (pytest.approx(230.4), pytest.approx(99.52, abs=0.02))


def test_a_tdp_is_given_or_nvmls_or_unknown(tmp_path: Path) -> None:
    nvml = FakeNvml({"GPU-0": 0, "GPU-1": 0})
    two = Meter(EnergySettings(), [0, 1], machine=machine(tmp_path, nvml=nvml)).start().stop()
    assert two.tdp_watts == 620 and two.tdp_source == "NVML's enforced power limit (H100)"
    given = Meter(EnergySettings(tdp_watts=350), [0, 1], machine=machine(tmp_path, nvml=nvml)).start().stop()
    assert given.tdp_watts == 700 and given.tdp_source == "given"
    assert given.paper_kwh == pytest.approx(700 * given.seconds / KWH)
    cpu = Meter(EnergySettings(), machine=machine(tmp_path)).start().stop()
    assert cpu.tdp_watts is cpu.paper_kwh is cpu.paper_kg is None


# --- counters


def test_a_counter_wraps_around_and_refuses_to_go_back() -> None:
    values = iter([90.0, 95.0, 5.0, 6.0])
    counter = Counter(lambda: next(values), wrap=100.0)
    for total in (5.0, 15.0, 16.0):
        counter.sample()
        assert counter.total == total
    back = iter([90.0, 5.0])
    counter = Counter(lambda: next(back))
    with pytest.raises(Unavailable, match="set back"):
        counter.sample()


def test_power_is_integrated_by_trapezoids() -> None:
    watts, clock = iter([100.0, 300.0, 300.0]), iter([0.0, 2.0, 3.0])
    integral = PowerIntegral(lambda: next(watts), lambda: next(clock))
    integral.sample()
    integral.sample()
    assert integral.total == 2 * 200 + 300


def test_rapl_adds_packages_and_nothing_within_or_around_them(tmp_path: Path) -> None:
    first = domain(tmp_path, "intel-rapl:0", "package-0", 64_999_000_000)
    domain(tmp_path, "intel-rapl:0:0", "core", 1)
    second = domain(tmp_path, "intel-rapl:1", "package-1-die-0", 7_000_000)
    psys = domain(tmp_path, "intel-rapl:2", "psys", 5)
    mmio = domain(tmp_path, "intel-rapl-mmio:0", "package-0", 5)
    rapl = Rapl(tmp_path)
    (first / "energy_uj").write_text("2000000\n")  # wrapped: 1 J up to the end, 2 J after it
    (second / "energy_uj").write_text("11000000\n")
    for other in (psys, mmio, tmp_path / "intel-rapl:0:0"):
        (other / "energy_uj").write_text("9000000000\n")
    rapl.sample()
    assert rapl.joules().cpu == pytest.approx(1 + 2 + 4) and rapl.joules().gpu is None


def test_one_package_shown_once_per_die_counts_once(tmp_path: Path) -> None:
    for die in range(4):
        domain(tmp_path, f"intel-rapl:{die}", f"package-0-die-{die}", 1_000_000_000 + die * 1000)
    assert len(Rapl(tmp_path).counters) == 1


def test_rapl_that_cannot_be_read_says_how_to_open_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    domain(tmp_path, "intel-rapl:0", "package-0", 5)
    closed = domain(tmp_path, "intel-rapl:1", "package-1", 5) / "energy_uj"
    read = Path.read_text

    def guarded(path: Path, *arguments: Any, **named: Any) -> str:  # tests may run as root, whom no mode stops
        if path == closed:
            raise PermissionError(13, "Permission denied")
        return read(path, *arguments, **named)

    monkeypatch.setattr(Path, "read_text", guarded)
    with pytest.raises(Unavailable, match=r"intel-rapl:1/energy_uj is for root alone: `sudo chmod a\+r"):
        Rapl(tmp_path)
    with pytest.raises(UserError, match="energy.mode=rapl cannot measure here: .*for root alone"):
        Meter(EnergySettings("rapl"), machine=machine(tmp_path, powercap=tmp_path)).start()


def test_nvml_counts_the_gpus_that_are_used(tmp_path: Path) -> None:
    nvml = FakeNvml({"GPU-0": 1_000, "GPU-1": 50_000, "GPU-7": 9})
    meter = Meter(EnergySettings(), [0, 1], machine=machine(tmp_path, nvml=nvml)).start()
    nvml.counters.update({"GPU-0": 1_000 + 3_600_000, "GPU-1": 50_000 + 7_200_000, "GPU-7": 10**12})
    energy = meter.stop()
    assert energy.kwh == energy.gpu_kwh == pytest.approx(3e-3) and energy.method == "nvml"
    assert energy.cpu_kwh is None and energy.kg_co2eq == pytest.approx(3e-3 * 0.432)
    assert meter.stop() is energy


def test_a_gpu_without_counter_has_its_power_integrated() -> None:
    nvml = Nvml(["GPU-0"], FakeNvml({"GPU-0": None}, watts=300.0))
    assert nvml.interval < 1
    before = time.perf_counter()
    time.sleep(0.02)
    nvml.stop()
    joules = nvml.joules().gpu
    assert joules is not None and 300 * 0.02 <= joules <= 300 * (time.perf_counter() - before + 0.02)


# --- which source measures


def test_gpus_and_processors_are_added(tmp_path: Path) -> None:
    package = domain(tmp_path, "intel-rapl:0", "package-0", 0)
    nvml = FakeNvml({"GPU-0": 0})
    meter = Meter(EnergySettings(), [0], machine=machine(tmp_path, nvml=nvml, powercap=tmp_path)).start()
    nvml.counters["GPU-0"] = 3_600_000
    (package / "energy_uj").write_text("7200000000")
    energy = meter.read()
    assert energy.method == "nvml+rapl" and energy.kwh == pytest.approx(3e-3)
    assert (energy.gpu_kwh, energy.cpu_kwh) == (pytest.approx(1e-3), pytest.approx(2e-3))
    on_cpu = Meter(EnergySettings(), machine=machine(tmp_path, nvml=nvml, powercap=tmp_path)).start().stop()
    assert on_cpu.method == "rapl" and on_cpu.gpu_kwh == 0.0  # known: it uses none


def test_the_estimate_is_last_and_named(tmp_path: Path) -> None:
    meter = Meter(EnergySettings(), machine=machine(tmp_path, tracker=tracker())).start()
    meter.sources[0].starting.join()  # type: ignore[attr-defined]
    energy = meter.stop()
    assert energy.method == "estimate" and energy.kwh == pytest.approx(0.003)
    assert (energy.cpu_kwh, energy.ram_kwh, energy.gpu_kwh) == (pytest.approx(0.002), pytest.approx(0.001), 0.0)


def test_an_estimate_that_sees_no_gpu_is_none_for_a_stage_on_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = FakeNvml({}, driver=False)
    for count, kwh in ((0, None), (1, 0.503)):
        meter = Meter(EnergySettings(), [0], machine=machine(tmp_path, nvml=broken, tracker=tracker(gpu_count=count)))
        meter.start().sources[0].starting.join()  # type: ignore[attr-defined]
        energy = meter.stop()
        assert energy.kwh == (kwh and pytest.approx(kwh)) and energy.method == ("estimate" if count else "none")
    assert "sees no GPU" in capsys.readouterr().err


def test_a_stage_shorter_than_the_estimates_start_does_not_wait(tmp_path: Path) -> None:
    began = time.perf_counter()
    energy = Meter(EnergySettings(), machine=machine(tmp_path, tracker=tracker(waits=1.0))).start().stop()
    assert time.perf_counter() - began < 0.5
    assert energy.kwh is None and energy.method == "none" and energy.measured_seconds == 0


def test_nothing_to_measure_with_is_said_once_and_is_no_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for quiet in (True, False, False):
        energy = Meter(EnergySettings(), machine=machine(tmp_path), quiet=quiet).start().stop()
        assert energy.kwh is energy.kg_co2eq is energy.cpu_kwh is None
        assert energy.method == "none" and energy.line() == "" and energy.metrics() == {}
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "shows no processor package; `pip install 'colbertxm[energy]'` adds" in told
    with pytest.raises(UserError, match="energy.mode=estimate cannot measure here: `pip install"):
        Meter(EnergySettings("estimate"), machine=machine(tmp_path)).start()
    with pytest.raises(MissingExtra, match=r"colbertxm\[energy\]"):
        EnergySettings(country="BEL").intensity()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "nvlm"}, "energy.mode='nvlm' is unknown \\(did you mean 'nvml'"),
        ({"tdp_watts": 0}, "tdp_watts=0 must be above 0"),
        ({"kg_per_kwh": -1}, "must be 0 or more"),
        ({"kg_per_kwh": 0.1, "country": "BEL"}, "two answers to one question"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        EnergySettings(**settings)


def test_a_named_source_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="energy.mode=nvml cannot measure here: this stage runs on the CPU"):
        Meter(EnergySettings("nvml"), machine=machine(tmp_path)).start()
    with pytest.raises(UserError, match="NVML: Driver Not Loaded"):
        Meter(EnergySettings("nvml"), [0], machine=machine(tmp_path, nvml=FakeNvml({}, driver=False))).start()


def test_a_counter_that_is_lost_ends_no_stage_and_gives_no_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nvml = FakeNvml({"GPU-0": 5_000})
    meter = Meter(EnergySettings(), [0], machine=machine(tmp_path, nvml=nvml)).start()
    nvml.counters["GPU-0"] = None
    assert meter.read().kwh is None and meter.stop().method == "none"
    assert "not measured: NVML: Not Supported" in capsys.readouterr().err


def test_the_thread_samples_often_enough_to_see_a_wrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = domain(tmp_path, "intel-rapl:0", "package-0", 0, largest=10_000_000)
    monkeypatch.setattr(Rapl, "interval", 0.005)
    meter = Meter(EnergySettings(), machine=machine(tmp_path, powercap=tmp_path)).start()
    for microjoules in (6_000_000, 2_000_000, 8_000_000, 4_000_000):  # 24 J in all, 2.4 ranges
        part = package / "part"
        part.write_text(str(microjoules))
        part.rename(package / "energy_uj")
        time.sleep(0.1)
    assert meter.stop().kwh == pytest.approx(24 / KWH)


# --- sums


def test_a_resumed_run_adds_its_parts() -> None:
    total = then(account(), account(kwh=0.6, gpu_kwh=0.5, tdp_watts=310.0, paper_kwh=1.0))
    assert total.kwh == pytest.approx(0.9) and total.seconds == 200 and total.gpu_kwh == pytest.approx(0.7)
    assert total.paper_kwh == 1.5 and total.ram_kwh is None and total.tdp_watts == 310
    lost = account(kwh=None, method="none", measured_seconds=0.0, gpu_kwh=None, cpu_kwh=None)
    half = then(account(), lost)
    assert half.kwh == 0.3 and (half.measured_seconds, half.seconds) == (100, 200)
    assert "0.3 kWh (nvml+rapl of 100 of 200 s)" in half.line()
    assert then(account(), account(cpu_kwh=None, method="nvml")).cpu_kwh is None


def test_processes_side_by_side_add_energy_and_not_time() -> None:
    other = account(kwh=0.2, method="nvml", cpu_kwh=0.0, seconds=101.0)
    total = beside([account(), other])
    assert total.kwh == 0.5 and total.seconds == 101 and total.method == "nvml+rapl" and total.tdp_watts == 600
    assert beside([account(), account(kwh=None)]).kwh is None


def test_a_process_that_is_not_main_measures_its_gpu_alone(tmp_path: Path) -> None:
    domain(tmp_path, "intel-rapl:0", "package-0", 0)
    there = machine(tmp_path, nvml=FakeNvml({"GPU-1": 0}), powercap=tmp_path)
    share = Meter(EnergySettings(), [1], main=False, machine=there).start().stop()
    assert share.method == "nvml" and share.cpu_kwh == 0.0
    on_cpu = Meter(EnergySettings(tdp_watts=100), main=False, machine=there).start().stop()
    assert on_cpu.kwh == on_cpu.paper_kwh == 0.0 and on_cpu.method == "none"


@pytest.mark.parametrize("method", [*METHODS, "nvml+rapl", "none"])
def test_a_share_survives_as_numbers(method: str) -> None:
    share = account(method=method, ram_kwh=None)
    numbers = to_numbers(share)
    assert any(math.isnan(n) for n in numbers) and from_numbers(numbers, share) == share


def test_notes_leave_out_what_is_unknown() -> None:
    notes = account(kwh=0.123456789).notes()
    assert list(notes)[:3] == ["kwh", "method", "kg_co2eq"] and notes["kwh"] == 0.123457
    assert "ram_kwh" not in notes and notes["paper_kg"] == pytest.approx(0.216)


def test_only_cuda_devices_count() -> None:
    tensors = [SimpleNamespace(device=SimpleNamespace(type=t, index=i)) for t, i in (("cpu", None), ("cuda", 1))]
    assert cuda_devices(tensors) == [1]


# --- CodeCarbon itself


@needs_codecarbon
def test_codecarbon_measures_silently_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("socket.socket.connect", lambda _, address: asked.append(address))
    monkeypatch.chdir(tmp_path)
    meter = Meter(EnergySettings("estimate"), machine=machine(tmp_path)).start()
    meter.sources[0].starting.join()  # type: ignore[attr-defined]
    time.sleep(0.5)
    energy = meter.stop()
    assert energy.method == "estimate" and energy.kwh is not None and 0 < energy.kwh < 0.01
    assert 0 < energy.measured_seconds < energy.seconds
    assert asked == [] and list(tmp_path.iterdir()) == [] and capfd.readouterr() == ("", "")


@needs_codecarbon
def test_a_countrys_grid_is_found_by_its_code() -> None:
    france, poland = country_intensity("FRA"), country_intensity("pol")
    assert 0.01 < france[0] < 0.2 < poland[0] < 1 and "France" in france[1]
    with pytest.raises(UserError, match="energy.country='FRENCH' is unknown"):
        country_intensity("FRENCH")
