"""The energy of training runs: logged, noted in the model folder, added up over resumptions and processes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import wandb_files
from test_config import call
from torch.utils.data import DataLoader

from colbertxm.energy import meter as meter_module
from colbertxm.energy.account import Energy
from colbertxm.energy.meter import EnergySettings, Machine, Meter
from colbertxm.engine.store import read_index
from colbertxm.model.card import Facts, _energy
from colbertxm.model.checkpoints import provenance_of
from colbertxm.training.energy import EnergyCallback, measure_energy

STEP_J = 100.0


class Line(L.LightningModule):
    """The least that Lightning trains. Every step draws 100 J from the package at `powercap`."""

    def __init__(self, powercap: Path, die_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.counter, self.die_at = powercap / "intel-rapl:0/energy_uj", die_at

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        if self.global_step == self.die_at:
            raise RuntimeError("killed")
        if self.trainer.is_global_zero:
            drawn = int(self.counter.read_text()) + int(STEP_J * 1e6)
            self.counter.with_name("part").write_text(str(drawn))
            self.counter.with_name("part").rename(self.counter)
        return (self.weight * batch).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.weight], 0.1)


@pytest.fixture
def powercap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with one package counter, which is all that meters find."""
    folder = tmp_path / "powercap" / "intel-rapl:0"
    folder.mkdir(parents=True)
    for name, text in (("name", "package-0"), ("energy_uj", "0"), ("max_energy_range_uj", "65000000000")):
        (folder / name).write_text(text)
    monkeypatch.setattr(meter_module, "Machine", lambda: Machine(powercap=folder.parent))
    return folder.parent


def train(
    powercap: Path, folder: Path, die_at: int | None = None, mode: str = "auto", steps: int = 6, **more: Any
) -> EnergyCallback:
    """Six steps; checkpoints every second one. Goes on from a checkpoint that is there."""
    last = folder / "last.ckpt"
    saver = L.pytorch.callbacks.ModelCheckpoint(folder, every_n_train_steps=2, save_last=True)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "log_every_n_steps": 1}
    trainer = L.Trainer(max_steps=steps, accelerator="cpu", callbacks=[saver], **{**quiet, **more})
    callback = measure_energy(trainer, EnergySettings(mode, tdp_watts=50), every=1, checkpoint_every=2)
    batches: Sequence[Any] = [torch.ones(1)] * 16
    trainer.fit(
        Line(powercap, die_at), DataLoader(batches, batch_size=1), ckpt_path=last if last.exists() else None,
        weights_only=True,
    )  # fmt: skip
    return callback


def test_a_resumed_run_reports_all_its_parts(tmp_path: Path, powercap: Path) -> None:
    whole = train(powercap, tmp_path / "whole").result
    assert whole is not None and whole.kwh == pytest.approx(6 * STEP_J / 3.6e6) and whole.method == "rapl"
    with pytest.raises(RuntimeError, match="killed"):
        train(powercap, tmp_path / "cut", die_at=5)
    state = torch.load(tmp_path / "cut/last.ckpt", weights_only=True)["callbacks"]["EnergyCallback"]
    assert state["kwh"] == pytest.approx(4 * STEP_J / 3.6e6)
    resumed = train(powercap, tmp_path / "cut")
    # Step 5 was drawn twice, but its first time is lost with it: the checkpoint is of step 4.
    assert resumed.result is not None and resumed.result.kwh == pytest.approx(6 * STEP_J / 3.6e6)
    assert resumed.before == Energy(**state) and resumed.result.seconds > resumed.before.seconds
    assert resumed.result.paper_kwh == pytest.approx(50 * resumed.result.seconds / 3.6e6)


@pytest.mark.parametrize(("tdp", "shown"), [(50.0, "- paper_kwh: "), (None, "- seconds: ")])
def test_a_card_says_that_nothing_was_measured(tmp_path: Path, tdp: float | None, shown: str) -> None:
    """And gives the paper's figures where a TDP is known."""
    nothing = Machine(powercap=tmp_path, tracker=lambda taker: 1 / 0)
    energy = Meter(EnergySettings("auto", tdp_watts=tdp), machine=nothing, quiet=True).start().stop()
    card = _energy(Facts(tmp_path, (), {}, {"energy": energy.notes()}))
    assert card.startswith("Not measured.\n\n- seconds: ") and shown in card and "kg_per_kwh" not in card


def test_a_run_that_is_not_measured_says_nothing(tmp_path: Path, powercap: Path) -> None:
    callback = train(powercap, tmp_path / "off", mode="off")
    assert callback.result is None and callback.noted({"seed": 1}) == {"seed": 1}


def test_ranks_share_a_sum(powercap: Path) -> None:
    """Two ranks, of which this is the first: what strategy.all_gather gives is added, NaN as unknown."""

    class Strategy:
        root_device = torch.device("cpu")

        def all_gather(self, numbers: torch.Tensor) -> torch.Tensor:
            return torch.stack([numbers, numbers * 2])

    class Trainer:
        strategy, world_size, local_rank, global_step = Strategy(), 2, 0, 4

    class Module:
        logged: dict[str, float] = {}

        def log_dict(self, found: dict[str, float]) -> None:
            self.logged = found

    callback, module = EnergyCallback(EnergySettings(), 4, 2), Module()
    callback.on_fit_start(Trainer(), module)  # type: ignore[arg-type]
    (powercap / "intel-rapl:0/energy_uj").write_text("3600000000")
    callback.on_train_batch_end(Trainer(), module, None, None, 3)  # type: ignore[arg-type]
    assert module.logged["energy/kwh"] == pytest.approx(3e-3)
    (powercap / "intel-rapl:0/energy_uj").write_text("7200000000")
    assert callback.state_dict()["kwh"] == pytest.approx(3e-3)  # no collective: a rank may write alone


def test_two_processes_measure_a_machine_once(tmp_path: Path, powercap: Path) -> None:
    """For real: rank 0 reports the package that both share, and both take part in the sum."""
    train(powercap, tmp_path / "two", strategy="ddp_fork", devices=2)
    state = torch.load(tmp_path / "two/last.ckpt", weights_only=True)["callbacks"]["EnergyCallback"]
    assert state["kwh"] == pytest.approx(6 * STEP_J / 3.6e6) and state["method"] == "rapl"
    assert state["tdp_watts"] == 50 and state["gpu_kwh"] == 0


def test_every_stage_reports_on_the_command_line(
    world: Path, powercap: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fast = ["trainer.steps=3", "trainer.batch_size=4", "trainer.val_every=0", "model.dim=8", "freeze.top_k=1"]
    fast += ["trainer.log_every=1", "data.val_langs=[de]", "energy.tdp_watts=100"]
    call(monkeypatch, "train", *fast)
    model = Path("outputs/train/multi_vector/model")
    energy = provenance_of(model)["energy"]
    assert energy["method"] == "rapl" and energy["kwh"] == 0 and energy["tdp_watts"] == 100
    assert energy["paper_kg"] == pytest.approx(energy["paper_kwh"] * 0.432, rel=1e-4)
    history, config = wandb_files.read(wandb_files.run_of(Path("outputs/train/multi_vector")))
    assert len(history["energy/kwh"]) == 4 and len(history["energy/paper_kg"]) == 4  # every step, and the end
    assert config["energy"] == energy
    assert "energy: 0 kWh (rapl), 0 kgCO2eq at 0.432 kg/kWh; by the paper's formula" in capsys.readouterr().err
    call(monkeypatch, "index", "langs=[en]", "checkpoint=latest")
    assert read_index(model.parent / "index").meta["energy"]["method"] == "rapl"
    call(monkeypatch, "search", "light", "lang=en")
    assert capsys.readouterr().err.count("energy: 0 kWh (rapl)") == 2
    call(monkeypatch, "index", "langs=[en]", "energy.mode=off", "output=silent")
    assert "energy" not in read_index(Path("silent")).meta and "energy" not in capsys.readouterr().err
    assert json.loads((model / "colbertxm.json").read_text())["provenance"]["energy"] == energy
