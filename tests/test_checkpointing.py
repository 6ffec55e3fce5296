"""Resume points: whole or absent, two kept, damage noticed whatever it is; when they are written."""

from __future__ import annotations

import random
import signal
import threading
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from colbertxm.errors import UserError
from colbertxm.training.checkpointing import (
    AtomicCheckpointIO,
    claimed,
    damage,
    prune,
    read_checkpoint,
    resume_name,
    resume_point,
    resume_points,
)
from colbertxm.training.signals import AGAIN_S, Agreement, ResumePoints, Stopped, StopRequest

IO = AtomicCheckpointIO()


def write(folder: Path, *steps: int) -> list[Path]:
    paths = [folder / resume_name(step) for step in steps]
    for step, path in zip(steps, paths, strict=True):
        IO.save_checkpoint({"state_dict": {"a": torch.full((50,), float(step))}}, path)
    return paths


def test_what_is_written_is_read_by_us_and_by_torch(tmp_path: Path) -> None:
    (path,) = write(tmp_path, 3)
    for content in (read_checkpoint(path), torch.load(path, weights_only=True), IO.load_checkpoint(str(path))):
        assert torch.equal(content["state_dict"]["a"], torch.full((50,), 3.0))
    assert [p.name for p in tmp_path.iterdir()] == ["resume-3.ckpt"]


def test_the_last_step_is_the_largest_number_and_other_files_are_none(tmp_path: Path) -> None:
    assert resume_point(tmp_path / "absent") is None and resume_point(tmp_path) is None
    write(tmp_path, 9, 10, 100)
    for name in ("resume-200.ckpt.part", "best.ckpt", "resume-x.ckpt", "last.ckpt"):
        (tmp_path / name).write_bytes(b"")
    assert resume_point(tmp_path) == tmp_path / "resume-100.ckpt"
    assert [step for step, _ in resume_points(tmp_path)] == [100, 10, 9]


def test_two_are_kept_and_what_lies_after_goes(tmp_path: Path) -> None:
    write(tmp_path, 2, 4, 6, 8)
    (tmp_path / "resume-5.ckpt.part").write_bytes(b"left by a killed run")
    (tmp_path / "best.ckpt").write_bytes(b"")
    prune(tmp_path, 6)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.ckpt", "resume-4.ckpt", "resume-6.ckpt"]


@pytest.mark.parametrize("seed", range(3))
def test_every_flipped_bit_is_noticed(tmp_path: Path, seed: int) -> None:
    (path,) = write(tmp_path, 1)
    whole = path.read_bytes()
    draw = random.Random(seed)
    places = [0, len(whole) - 1, len(whole) - 33, len(whole) - 49, *(draw.randrange(len(whole)) for _ in range(60))]
    for place in places:
        content = bytearray(whole)
        content[place] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        assert damage(path), place
        with pytest.raises(UserError, match=r"cannot resume from .*resume-1\.ckpt"):
            read_checkpoint(path)
    path.write_bytes(whole)
    assert not damage(path)


@pytest.mark.parametrize("fault", ["empty", "short", "truncated", "garbage", "longer", "folder", "torch alone"])
def test_a_damaged_last_one_is_named_and_the_one_before_is_taken(
    tmp_path: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before, last = write(tmp_path, 4, 6)
    content = last.read_bytes()
    if fault == "folder":
        last.unlink()
        last.mkdir()
    elif fault == "torch alone":
        torch.save({"state_dict": {}}, last)
    else:
        changed = {"empty": b"", "short": content[:20], "truncated": content[: len(content) // 2],
                   "garbage": b"\0" * len(content), "longer": content + b"\0"}  # fmt: skip
        last.write_bytes(changed[fault])
    assert resume_point(tmp_path) == before
    said = capsys.readouterr().err
    assert said.startswith(f"damaged: {last} (") and said.count("\n") == 1


def test_where_all_are_damaged_each_is_named(tmp_path: Path) -> None:
    for path in write(tmp_path, 4, 6):
        path.write_bytes(b"no")
    with pytest.raises(UserError, match=r"no resume point is whole: .*resume-6\.ckpt .*resume-4\.ckpt .*; delete"):
        resume_point(tmp_path)


def test_a_file_that_is_whole_but_foreign_is_refused(tmp_path: Path) -> None:
    IO.save_checkpoint({"weights": 1}, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match="no training checkpoint of colbertxm"):
        read_checkpoint(tmp_path / "a.ckpt")


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Boom:
        def __reduce__(self) -> Any:
            return (tmp_path.joinpath("ran").touch, ())

    IO.save_checkpoint({"state_dict": {}, "x": Boom()}, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match="cannot resume"):
        read_checkpoint(tmp_path / "a.ckpt")
    assert not (tmp_path / "ran").exists()


def test_the_file_is_synced_before_its_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    module = "colbertxm.training.checkpointing.os"
    import os

    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        f"{module}.fsync",
        lambda h: (done.append("folder" if Path(f"/proc/self/fd/{h}").is_dir() else "file"), fsync(h)),
    )
    monkeypatch.setattr(f"{module}.replace", lambda a, b: (done.append("rename"), replace(a, b)))
    write(tmp_path, 1)
    assert done == ["file", "rename", "folder"]


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    with claimed(tmp_path), pytest.raises(UserError, match="another run trains in"), claimed(tmp_path, wait_s=0.1):
        pass
    with claimed(tmp_path):
        pass


class Toy(L.LightningModule):
    """One parameter; asks to stop in batch `stop_at`, as a signal would."""

    def __init__(self, request: StopRequest, stop_at: int = -1) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.request, self.stop_at = request, stop_at
        self.dropped: list[float] = []

    def training_step(self, batch: Any, i: int) -> Any:
        if i == self.stop_at:
            self.request._note(signal.SIGTERM, None)
        self.dropped.append(float(torch.rand(1)))
        return self.layer(batch[0]).sum() * self.dropped[-1]

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def toy_run(folder: Path, stop_at: int = -1, accumulate: int = 3, every: int = 1) -> tuple[Toy, ResumePoints]:
    torch.manual_seed(0)
    request = StopRequest()
    module, points = Toy(request, stop_at), ResumePoints(folder, every, request, 7)
    rows = torch.utils.data.TensorDataset(torch.arange(30.0)[:, None])
    resumed = resume_point(folder)
    start = 0 if resumed is None else read_checkpoint(resumed)["global_step"] * accumulate
    loader = torch.utils.data.DataLoader(torch.utils.data.Subset(rows, range(start, 30)))
    trainer = L.Trainer(
        max_steps=5, accumulate_grad_batches=accumulate, callbacks=[points], plugins=[IO], logger=False,
        enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    try:
        trainer.fit(module, loader, ckpt_path=resumed, weights_only=True)
    finally:
        request.restore()
    return module, points


@pytest.mark.parametrize("stop_at", [3, 4, 5])
def test_no_resume_point_lies_within_an_accumulated_step(tmp_path: Path, stop_at: int) -> None:
    calm, _ = toy_run(tmp_path / "calm")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="SIGTERM after step 2: the same command goes on from .*resume-2.ckpt") as stopped:
        toy_run(tmp_path, stop_at)
    assert stopped.value.code == 143 and signal.getsignal(signal.SIGTERM) == before
    content = read_checkpoint(tmp_path / "resume-2.ckpt")
    assert content["global_step"] == 2
    assert content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"] == 6
    again, _ = toy_run(tmp_path)
    assert again.dropped == calm.dropped[6:], "randomness goes on where it was"
    assert torch.equal(again.layer.weight, calm.layer.weight)


def test_a_signal_in_the_last_step_lets_the_run_end(tmp_path: Path) -> None:
    _, points = toy_run(tmp_path, stop_at=14, every=0)
    assert points.step == 5 and not resume_points(tmp_path)


def test_ctrl_c_twice_leaves_at_once_and_the_launchers_echo_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("colbertxm.training.signals.time.monotonic", lambda: now[0])
    request = StopRequest()
    request._note(signal.SIGINT, None)
    now[0] += 0.9 * AGAIN_S
    request._note(signal.SIGINT, None)
    assert request.signum == signal.SIGINT
    now[0] += AGAIN_S
    with pytest.raises(Stopped, match="interrupted twice") as stopped:
        request._note(signal.SIGINT, None)
    assert stopped.value.code == 130


def test_outside_the_main_thread_signals_stay_as_they_are() -> None:
    before = signal.getsignal(signal.SIGTERM)
    request = StopRequest()
    thread = threading.Thread(target=request.install)
    thread.start()
    thread.join()
    request.restore()
    assert signal.getsignal(signal.SIGTERM) == before


def test_one_rank_agrees_with_itself_at_once() -> None:
    assert Agreement()(15, torch.device("cpu")) == 15
