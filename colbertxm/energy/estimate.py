"""CodeCarbon's estimate, for machines whose counters cannot be read: the processor's TDP times its load, a constant for
the memory, and what counters it finds itself.

CodeCarbon takes seconds to look at a machine. A thread does that beside the stage; the figure covers the time from
then on and says so. Nothing is written and nothing is asked of the network: no output method, and the carbon intensity
is given, so that it looks none up.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import threading
from pathlib import Path
from typing import Any

from colbertxm.energy.account import JOULES_PER_KWH
from colbertxm.energy.sources import Joules, Unavailable
from colbertxm.errors import MissingExtra, UserError, nearest

MEASURE_S = 5.0


class Estimate:
    """CodeCarbon as a source. `gpus` says whether this stage uses any: where it does not, theirs is not counted."""

    name = "estimate"
    interval = 60.0

    def __init__(self, gpus: bool, tracker: Any = None) -> None:
        if tracker is None and importlib.util.find_spec("codecarbon") is None:
            raise Unavailable("`pip install 'colbertxm[energy]'` adds an estimate")
        self.gpus = gpus
        self.latest: Any = None
        self.stopped = threading.Event()
        self.tracker: Any = None
        self.failure = "CodeCarbon had no figure yet when the stage ended"
        # A daemon: a stage that ends before CodeCarbon is ready does not wait for it.
        self.starting = threading.Thread(target=self._start, args=(tracker or _tracker,), name="energy", daemon=True)
        self.starting.start()

    def _start(self, make: Any) -> None:
        try:
            tracker = make(self)
            if self.stopped.is_set():
                return
            tracker.start()
        except Exception as error:  # a library's trouble must not end a training run; it is told when the stage ends
            self.failure = f"CodeCarbon does not start: {error}"
            return
        self.tracker = tracker
        if self.stopped.is_set():
            tracker.stop()

    def take(self, data: Any) -> None:
        """CodeCarbon's own figures up to now (its EmissionsData)."""
        self.latest = data

    def sample(self) -> None:
        """CodeCarbon's own thread does it."""

    def joules(self) -> Joules | None:
        """By device, with the time that is covered."""
        data = self.latest
        if data is None:
            return None
        gpu = None if self.gpus and not data.gpu_count else data.gpu_energy if self.gpus else 0.0
        return Joules(
            gpu=None if gpu is None else gpu * JOULES_PER_KWH,
            cpu=data.cpu_energy * JOULES_PER_KWH,
            ram=data.ram_energy * JOULES_PER_KWH,
            seconds=data.duration,
        )

    def stop(self) -> None:
        """Let CodeCarbon take its last sample. Raises Unavailable where it has none."""
        self.stopped.set()
        if self.tracker is not None:
            self.tracker.stop()
        if self.latest is None:
            raise Unavailable(self.failure)
        if self.gpus and not self.latest.gpu_count:
            raise Unavailable("CodeCarbon sees no GPU here, and this stage uses one")


def _tracker(taker: Estimate) -> Any:
    """A silent tracker of the whole machine, like RAPL, which hands its figures to `taker`."""
    from codecarbon import OfflineEmissionsTracker
    from codecarbon.output_methods.base_output import BaseOutput

    # After the import, which sets a level of its own; before the tracker, which speaks before it reads `log_level`.
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)

    class Hand(BaseOutput):  # type: ignore[misc]
        def out(self, total: Any, delta: Any) -> None:
            taker.take(total)

        def live_out(self, total: Any, delta: Any) -> None:
            taker.take(total)

    return OfflineEmissionsTracker(
        # The country is a formality: we take kWh, and compute emissions from the intensity that the user names.
        country_iso_code="USA", force_carbon_intensity_g_co2e_kwh=0.0, output_methods=[], output_handlers=[Hand()],
        emissions_endpoint=None, electricitymaps_api_token=None, api_call_interval=1, measure_power_secs=MEASURE_S,
        tracking_mode="machine", log_level="critical", allow_multiple_runs=True, pue=1.0,
    )  # fmt: skip


def country_intensity(code: str) -> tuple[float, str]:
    """(kgCO2eq/kWh, source) of a country's grid by its three-letter ISO code, from CodeCarbon's table. Raises UserError
    for a country that is not in it."""
    # Found without importing it, which takes a moment.
    spec = importlib.util.find_spec("codecarbon")
    if spec is None or spec.origin is None:
        raise MissingExtra("codecarbon, which has the countries' carbon intensities,", "energy")
    table = Path(spec.origin).parent / "data" / "private_infra" / "global_energy_mix.json"
    try:
        mixes: dict[str, Any] = json.loads(table.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {table}: {error}; give energy.kg_per_kwh instead of energy.country") from None
    mix = mixes.get(code.upper(), {})
    if "carbon_intensity" not in mix:
        raise UserError(
            f"energy.country={code!r} is unknown{nearest(code.upper(), mixes)}: give a three-letter ISO code, such as "
            "BEL, or energy.kg_per_kwh"
        )
    return mix["carbon_intensity"] / 1000, f"CodeCarbon's energy mix of {mix['country_name']}, {mix['year']}"
