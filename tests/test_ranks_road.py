"""Several ranks: who is who, how they are started and ended, and that two train what one does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import killable
import pytest
import torch
from killable import Job
from test_kill import base, log  # noqa: F401
from test_ms_marco import files  # noqa: F401

from colbertxm import launch, ranks
from colbertxm.errors import UserError
from colbertxm.model.checkpoints import load_model
from colbertxm.model.freeze import freeze
from colbertxm.ranks import World, world
from colbertxm.training.fit import TrainerSettings
from colbertxm.training.strategies import adapters_vary, digest, make_trainer, place

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
SLURM = {"SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1",
         "SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "train"}  # fmt: skip
OURS = {"COLBERTXM_RANK": "1", "COLBERTXM_SIZE": "2", "COLBERTXM_NODES": "1"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, World()),
        ({"RANK": "1", "WORLD_SIZE": "2"}, World()),
        (TORCHRUN, World("torchrun", 3, 4, 2)),
        ({**SLURM, "SLURM_STEP_ID": "0"}, World("slurm", 3, 4, 2)),
        (SLURM, World()),  # a batch script without srun is one process
        ({**SLURM, "SLURM_STEP_ID": "0", "SLURM_NTASKS": "1"}, World()),
        (OURS, World("colbertxm", 1, 2, 1)),
        ({**SLURM, "SLURM_STEP_ID": "0", **TORCHRUN}, World("torchrun", 3, 4, 2)),
    ],
)
def test_the_launcher_says_who_is_who(environment: dict[str, str], expected: World) -> None:
    assert world(environment) == expected
    assert expected.local * expected.nodes == expected.size


def test_half_an_environment_is_an_error() -> None:
    with pytest.raises(UserError, match="incomplete or no numbers.*LOCAL_WORLD_SIZE"):
        world({"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "2"})


def processes(*codes: str) -> list[tuple[list[str], dict[str, str]]]:
    return [([sys.executable, "-S", "-c", code], dict(os.environ)) for code in codes]


def test_all_ranks_well_is_well() -> None:
    assert launch.supervise(processes("pass", "import time; time.sleep(0.2)")) == 0


@pytest.mark.parametrize(("code", "status"), [("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_where_one_rank_fails_the_others_are_ended(code: str, status: int) -> None:
    started = time.monotonic()
    assert launch.supervise(processes("import time; time.sleep(60)", code)) == status
    assert time.monotonic() - started < 10


def test_a_signal_reaches_all_ranks_and_all_may_finish(tmp_path: Path) -> None:
    waits = "import signal, sys, time, pathlib\n" + (
        "def stop(*_):\n    time.sleep({0}); pathlib.Path({1!r}).touch(); sys.exit(143)\n"
        "signal.signal(15, stop); pathlib.Path({2!r}).touch(); time.sleep(60)"
    )
    codes = [waits.format(s, str(tmp_path / f"done{s}"), str(tmp_path / f"up{s}")) for s in (0.0, 0.6)]

    def ask() -> None:
        while len(list(tmp_path.glob("up*"))) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=ask).start()
    assert launch.supervise(processes(*codes)) == 143
    assert len(list(tmp_path.glob("done*"))) == 2 and signal.getsignal(signal.SIGTERM) == before


def test_ranks_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    child = "import os, time, colbertxm.launch as l; l.watch_parent(); print(os.getpid(), flush=True); time.sleep(60)"
    parent = (
        f"import os, subprocess, sys, time; e = {{**os.environ, {launch.PARENT!r}: str(os.getpid())}}\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}], env=e); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    number = int(process.stdout.readline())
    process.kill()
    process.wait()
    for _ in range(100):
        if not Path(f"/proc/{number}").exists() or "Z" in Path(f"/proc/{number}/stat").read_text().split(")")[1][:3]:
            return
        time.sleep(0.05)
    raise AssertionError("an orphan goes on")


@pytest.mark.parametrize("devices", [0, -2])
def test_no_devices_are_refused(devices: int) -> None:
    with pytest.raises(UserError, match="give at least one of each"):
        launch.wanted(devices, 1)


def test_several_nodes_need_a_meeting_point(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert launch.wanted(1, 1) == 0 and launch.wanted(2, 1) == 2 and launch.wanted(1, 2) == 1
    with pytest.raises(UserError, match=r"trainer\.nodes=2 needs MASTER_ADDR, MASTER_PORT, NODE_RANK .* torchrun"):
        launch._meeting_point(2)


def settings(**changes: Any) -> TrainerSettings:
    return replace(TrainerSettings(accelerator="cpu"), **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "dpd"}, r"trainer\.strategy='dpd' is unknown \(did you mean 'ddp'\?\)"),
        ({"strategy": "fsdp"}, "fsdp shards a model over CUDA GPUs"),
        ({"precision": "16-mixed"}, r"trainer\.precision=16-mixed needs a GPU"),
        ({"precision": "17-mixed"}, r"trainer: .*17-mixed"),
        ({"accelerator": "gpu"}, r"trainer: .*"),
    ],
)
def test_what_does_not_go_together_is_said(base: Path, changes: dict[str, Any], message: str) -> None:  # noqa: F811
    if changes.get("accelerator") == "gpu" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match=message):
        arguments, environment = place(settings(**changes), load_model(base))
        make_trainer(**arguments, plugins=environment, logger=False)


def test_slurm_without_tasks_per_node_is_said(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    for name, value in {**SLURM, "SLURM_STEP_ID": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="Slurm: .*--ntasks-per-node"):
        place(settings(), load_model(base))
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "2")
    arguments, (environment,) = place(settings(), load_model(base))
    assert (arguments["devices"], arguments["num_nodes"], environment.global_rank()) == (2, 2, 3)
    assert not environment.auto_requeue


def test_torchruns_numbers_count_and_others_are_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    encoder = load_model(base)
    arguments, (environment,) = place(settings(), encoder)
    assert (arguments["devices"], arguments["num_nodes"], environment.world_size()) == (2, 2, 4)
    with pytest.raises(UserError, match=r"trainer\.devices=8, but torchrun started 4 processes on 2 machines"):
        place(settings(devices=8), encoder)
    assert ranks.rank() == 3


@pytest.mark.parametrize(("policy", "vary"), [("paper", False), ("top_k_layers", False), ("adapters_only", True)])
def test_unused_parameters_are_looked_for_where_adapters_are_trained(base: Path, policy: Any, vary: bool) -> None:  # noqa: F811
    encoder = load_model(base)
    freeze(encoder, policy, 1)
    assert adapters_vary(encoder) == vary
    arguments, _ = place(settings(devices=2), encoder)
    assert arguments["strategy"]._ddp_kwargs["find_unused_parameters"] == vary


def test_the_digest_of_examples_is_that_of_their_ids() -> None:
    from conftest import numbered_triple

    from colbertxm.data.examples import InMemory

    one, other = [numbered_triple(i) for i in range(3)], [numbered_triple(i) for i in (0, 2, 1)]
    assert digest(InMemory(one, 0), 1) == digest(InMemory(list(one), 9), 1) != digest(InMemory(other, 0), 1)


@pytest.mark.parametrize("policy", ["top_k_layers", "adapters_only"])
def test_two_ranks_train_and_save_once(base: Path, tmp_path: Path, policy: str) -> None:  # noqa: F811
    """With adapters of two languages trained, some batches use one alone and DDP would wait for the other's."""
    job = Job(base, tmp_path / "out", policy, languages=2, settings={"batch_size": 4})
    assert killable.end(killable.start(job, 2)) == [0, 0], log(job)
    start, end = killable.weights(replace(job, output=base.parent)), killable.weights(job)
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    adapters = {name for name in moved if ".adapter_modules." in name}
    assert bool(adapters) == (policy == "adapters_only") and moved
    assert log(job).count("step 8/8") == 1, "rank 0 speaks alone"


def test_an_adapter_that_no_rank_uses_does_not_move(base: Path, tmp_path: Path) -> None:  # noqa: F811
    job = Job(base, tmp_path / "out", "adapters_only", languages=1)
    assert killable.end(killable.start(job, 2)) == [0, 0], log(job)
    start, end = killable.weights(replace(job, output=base.parent)), killable.weights(job)
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert any("en_XX" in name for name in moved) and not any("de_DE" in name for name in moved)


def test_bfloat16_on_the_cpu(base: Path, tmp_path: Path) -> None:  # noqa: F811
    job = Job(base, tmp_path / "out", settings={"precision": "bf16-mixed"})
    assert killable.end(killable.start(job)) == [0], log(job)
    plain = Job(base, tmp_path / "plain")
    assert killable.end(killable.start(plain)) == [0], log(plain)
    half, full = killable.weights(job), killable.weights(plain)
    differ = [name for name in half if not torch.equal(half[name], full[name])]
    assert differ and all(half[name].dtype == torch.float32 for name in half)
    for name in differ:
        torch.testing.assert_close(half[name], full[name], atol=0.02, rtol=0.1)


def command(model: Path, *more: str) -> list[str]:
    return ["-m", "colbertxm.train", "data=msmarco", "data.folder=store", "data.collection=collection.en.tsv",
            "data.queries=queries.en.tsv", "data.triples=triples.tsv", "model=checkpoint", f"model.base={model}",
            "model.dim=8", "model.languages=[en]", "freeze.top_k=1", "logger.mode=offline", "trainer.steps=6",
            "trainer.batch_size=4", "trainer.checkpoint_every=2", "trainer.val_every=0", "trainer.accelerator=cpu",
            *more]  # fmt: skip


@pytest.mark.slow
def test_the_command_with_two_processes_torchrun_and_slurm(base: Path, files: Path) -> None:  # noqa: F811
    """The three launchers end with the same weights; W&B has one run, Hydra one record, and an error one line."""
    ours = subprocess.run(
        [sys.executable, *command(base, "output=a", "trainer.devices=2")], capture_output=True, text=True, timeout=250
    )
    assert ours.returncode == 0, ours.stderr
    assert ours.stdout.count("model: a/model") == 1 and ours.stderr.count("step 6/6") == 1
    assert len(list(Path("a/wandb").glob("offline-run-*"))) == 1
    assert len(list(Path("outputs/hydra").glob("*/*/.hydra"))) == 1
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    subprocess.run([*torchrun, *command(base, "output=b")], check=True, timeout=250)
    tasks = []
    port = killable.free_port()
    for number in ("0", "1"):
        slurm = {**SLURM, "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_NNODES": "1", "SLURM_PROCID": number}
        slurm |= {
            "SLURM_NTASKS_PER_NODE": "2",
            "SLURM_LOCALID": number,
            "SLURM_NODEID": "0",
            "SLURM_NODELIST": "127.0.0.1",
            "MASTER_PORT": port,
        }
        arguments = [sys.executable, *command(base, "output=c")]
        tasks.append(subprocess.Popen(arguments, env={**os.environ, **slurm}))
    assert [task.wait(250) for task in tasks] == [0, 0]
    names = [f"{name}/model/model.safetensors" for name in "abc"]
    assert len({Path(name).read_bytes() for name in names}) == 1
    shutil.rmtree("store")
    wrong = [sys.executable, *command(base, "output=d", "trainer.devices=2", "data.queries=absent.tsv")]
    failed = subprocess.run(wrong, capture_output=True, text=True, timeout=250)
    assert failed.returncode == 1 and failed.stderr.count("error: ") == 1 and "Traceback" not in failed.stderr


@pytest.mark.parametrize("more", [{}, {"chunk": 3}, {"gather": False}], ids=["gathered", "cached", "apart"])
def test_two_ranks_are_one_rank_with_their_passages(base: Path, tmp_path: Path, more: dict[str, Any]) -> None:  # noqa: F811
    """Whole runs: sharing passages, two ranks end with the weights of one; scoring their own alone, with others."""
    found = {}
    for count in (1, 2):
        job = Job(base, tmp_path / f"ranks{count}", settings={"batch_size": 8, **more}, adam_eps=1e-2)
        assert killable.end(killable.start(job, count)) == [0] * count, log(job)
        found[count] = killable.weights(job)
    start = killable.weights(replace(job, output=base.parent))
    moved = [name for name in start if not torch.equal(start[name], found[1][name])]
    far = max(float((found[1][name] - start[name]).abs().max()) for name in moved)
    apart = max(float((found[1][name] - found[2][name]).abs().max()) for name in moved)
    assert far > 1e-4
    assert (apart < 1e-3 * far) == more.get("gather", True), (apart, far)
