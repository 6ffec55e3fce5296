"""The benchmark of training, at a tiny shape and without the peers' environments."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.train import cached, figures, gpu, run, turns, workloads
from benchmarks.train.turns import OURS, PYLATE, Runner, Turn
from colbertxm.errors import UserError

ROOT = Path(__file__).parent.parent
TINY = gpu.Shape(vocabulary=60, hidden=16, layers=2, heads=2, inner=32, batch=3, query_tokens=6, passage_tokens=9,
                 product=64)  # fmt: skip


@pytest.fixture
def tiny(wheels: dict[str, Path], world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(workloads, "fetch", lambda source: wheels[source.name])
    monkeypatch.setattr(workloads, "DIM", 8)
    return world


def process(job: Path, log: Path) -> Runner:
    return Runner(OURS, [sys.executable, "-m", "benchmarks.train.ours", str(job)], 1, log)


def test_our_side_trains_in_turns_and_tells_each_loss(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    job = workloads.prepare("smart_home", tiny, steps=3, batch_size=4, threads=1)
    runner = process(job, tiny / "log")
    try:
        runner.wait_until_ready()
        first, second = runner.take(1), runner.take(2)
    finally:
        runner.close()
    assert runner.facts["parameters"] > 1000
    assert [len(first.losses), len(second.losses)] == [1, 2]
    assert 0 < first.inside < first.seconds and 0 < second.inside < second.seconds
    # The first loss is that of the exported weights on the file's first triples, computed here on its own.
    assert first.losses[0] == pytest.approx(first_loss(job), abs=1e-5)


def first_loss(path: Path) -> float:
    from colbertxm.model.checkpoints import load_model
    from colbertxm.model.scores import packed_maxsim
    from colbertxm.records import Text

    job = workloads.read_job(path)
    encoder = load_model(Path(job.folder) / "pylate")
    columns = list(zip(*job.triples[: job.batch_size], strict=True))
    queries, positives, negatives = ([Text(str(i), text, "en") for i, text in enumerate(c)] for c in columns)
    q, p = encoder.encode(queries, "query"), encoder.encode([*positives, *negatives], "passage")
    scores = packed_maxsim(q.values, q.offsets, p.values, p.offsets)
    return float(torch.nn.functional.cross_entropy(scores / job.temperature, torch.arange(job.batch_size)))


def test_what_stopped_a_side_is_told(tiny: Path) -> None:
    log = tiny / "log"
    command = [sys.executable, "-c", "import sys; print('no such model', file=sys.stderr); sys.exit(1)"]
    runner = Runner("PyLate 1.6.0", command, 1, log)
    with pytest.raises(UserError, match="PyLate 1.6.0 stopped training: no such model"):
        runner.wait_until_ready()
    runner.close()


def test_the_exported_models_have_no_dropout_and_texts_their_lengths(tiny: Path) -> None:
    job = workloads.read_job(workloads.prepare("ms_marco", tiny, steps=2, batch_size=5, threads=1))
    for layout in workloads.LAYOUTS:
        config = json.loads((tiny / layout / "config.json").read_text())
        assert config["hidden_dropout_prob"] == config["attention_probs_dropout_prob"] == 0.0
    assert len(job.triples) == 10
    for query, positive, _ in job.triples:
        assert len(query.split()) == workloads.QUERY_WORDS
        assert set(query.split()) <= set(positive.split())


def test_smart_home_negatives_are_not_their_positives(tiny: Path) -> None:
    found = workloads.smart_home(30)
    assert len(found) == 30
    assert all(triple.negatives[0].text != triple.positive.text for triple in found)
    with pytest.raises(UserError, match="smart_home has"):
        workloads.smart_home(10**6)


def test_unknown_workload() -> None:
    with pytest.raises(UserError, match="unknown workload 'marco'"):
        workloads.encoder_of("marco")


def test_figures_leave_the_first_turn_out() -> None:
    ours = [Turn(2, 90.0, 1.0, (3.0, 2.0)), Turn(2, 4.0, 3.0, (1.0, 0.5)), Turn(2, 8.0, 6.0, (0.4, 0.3))]
    theirs = [Turn(2, 1.0, 1.0, (3.0, 2.5)), Turn(2, 12.0, 3.0, (1.0, 0.5)), Turn(2, 12.0, 9.0, (0.4, 0.2))]
    rows = figures.speeds({OURS: ours, PYLATE: theirs}, 32)
    assert [row["seconds_per_step"] for row in rows] == [3.0, 6.0]
    assert rows[1]["ours_is_faster"] == 2.0
    assert [row["outside"] for row in rows] == [0.25, 0.5]
    assert rows[0]["triples_per_s"] == pytest.approx(32 / 3)
    apart = figures.apart({OURS: ours, PYLATE: theirs})
    assert apart[PYLATE]["first"] == 0.0 and apart[PYLATE]["largest"] == 0.5
    assert "| 6 | 0.3000 | 0.2000 |" in figures.curve_table({OURS: ours, PYLATE: theirs}, 3)
    assert "2.00x as fast" in figures.table(rows)
    with pytest.raises(UserError, match="at least two"):
        figures.speeds({OURS: ours[:1]}, 32)


def test_the_picture_is_written_whole(tmp_path: Path) -> None:
    found = {OURS: [Turn(1, 1.0, 1.0, (3.0,))] * 3, PYLATE: [Turn(1, 1.0, 1.0, (2.9,))] * 3}
    figures.draw(found, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_a_cached_step_has_the_gradient_of_a_plain_one(tiny: Path) -> None:
    encoder = workloads.encoder_of("ms_marco").train()
    losses, gradients = [], []
    for chunk in (0, 3):
        encoder.zero_grad()
        losses.append(cached.one_step(encoder, 4, chunk, 8))
        gradients.append([p.grad.clone() for p in encoder.parameters() if p.grad is not None])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert len(gradients[0]) == len(gradients[1]) > 10
    for plain, other in zip(*gradients, strict=True):
        assert torch.allclose(plain, other, atol=1e-5)


def test_memory_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = {cached.PLAIN: 8.0, cached.LARGE: 10.0}
    monkeypatch.setattr(
        cached, "measured", lambda batch, *_: {"before": 4.0, "peak": peaks[batch], "seconds": 1.0, "loss": 0.0}
    )
    found = cached.compare(1)
    assert found["ratio"] == 1.25 and found["ratio_above_baseline"] == 1.5


def test_the_gpu_part_on_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    found = gpu.measure(TINY, "cpu", 2)
    assert found["seconds"] > 0 and found["ceiling"] > 0
    assert 0 < found["share"] < 1
    rows = gpu.report(found, TINY, "a CPU")
    assert [row["name"] for row in rows] == ["gpu_seconds_per_step", "gpu_share_of_ceiling"]
    assert "matrix products" in capsys.readouterr().out


def test_operations_are_those_of_the_formula() -> None:
    """Two per weight and token forward, two for the gradient of what goes in, two for that of what is trained."""
    step = gpu.stepper(TINY, "cpu")
    with gpu.FlopCounterMode(display=False) as counter:
        step()
    queries, passages = gpu.batch_of(TINY, 0)
    query_tokens, passage_tokens = (sum(map(len, side)) for side in (queries, passages))
    h, inner, dim = TINY.hidden, TINY.inner, 128
    trained = TINY.layers * (4 * h * h + 2 * h * inner) + dim * h
    adapters = TINY.layers * 2 * h * (h // 2)
    below = 3 * h * h  # what goes into the first layer are frozen embeddings, which want no gradient
    weights = 2 * (query_tokens + passage_tokens) * (3 * trained + 2 * adapters - below)
    similarities = 2 * query_tokens * passage_tokens * dim  # forward alone: backward is a gather
    counted = counter.get_flop_counts()["Global"]
    products = sum(count for op, count in counted.items() if str(op) in ("aten.mm", "aten.addmm"))
    assert products == weights + similarities


def test_kinds_of_kernels() -> None:
    assert gpu.kind_of("sm90_xmma_gemm_bf16bf16_bf16f32") == "matrix products"
    assert gpu.kind_of("pytorch_flash::flash_fwd_kernel") == "attention"
    assert gpu.kind_of("void at::native::vectorized_elementwise_kernel<add>") == "other elementwise"


def test_no_gpu_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.rows() == []
    assert "not run: no GPU" in capsys.readouterr().out


def test_commands_name_each_sides_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns.environments, "ready", lambda peer: (Path("python"), None))
    job = Path("job.json")
    scripts = {side: turns.command(side, job) for side in turns.SIDES}
    assert scripts[OURS][1:3] == ["-m", "benchmarks.train.ours"]
    assert scripts[PYLATE][0] == "python" and scripts[PYLATE][-1] == "job.json"
    assert all(Path(scripts[side][1]).is_file() for side in turns.SIDES if side != OURS)


def test_a_look_at_one_part_writes_no_results(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["run", "--only", "memory", "--shorter", "16"])
    asked = []

    def measured(*given: int) -> dict[str, float]:
        asked.append(given)
        return {"before": 0.5, "peak": float(len(asked)), "seconds": 1.0, "loss": 0.0}

    monkeypatch.setattr(cached, "measured", measured)
    monkeypatch.setattr(run, "write", lambda *_: pytest.fail("results of a look"))
    run.main()
    assert asked == [(cached.PLAIN, 0, 16, 2), (cached.LARGE, cached.CHUNK, 16, 2)]
    assert "2.00 times" in capsys.readouterr().out


def test_a_part_that_fails_leaves_the_others_their_figures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def part(name: str, given: object) -> list[dict[str, object]]:
        if name == "speed":
            raise UserError("no network")
        print(f"figures of {name}")
        return []

    monkeypatch.setattr(sys, "argv", ["run"])
    monkeypatch.setattr(run, "part", part)
    monkeypatch.setattr(run, "write", lambda *_: pytest.fail("written"))
    with pytest.raises(SystemExit, match="no results are written: speed failed"):
        run.main()
    said = capsys.readouterr()
    assert "figures of memory" in said.out and "speed: no network" in said.err
