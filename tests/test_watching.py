"""Watching a run: what is logged, the best weights through kill and resume, early stopping, progress for people."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import wandb_files
from conftest import Killed

from colbertxm.data.examples import InMemory
from colbertxm.data.training import TrainingData, smart_home
from colbertxm.errors import UserError
from colbertxm.model.checkpoints import build_encoder, load_model, provenance_of
from colbertxm.model.encoder import Encoder
from colbertxm.model.freeze import freeze
from colbertxm.model.packing import pack
from colbertxm.model.tokens import TokenSettings
from colbertxm.records import Triple
from colbertxm.training.batches import Side
from colbertxm.training.callbacks import GradientNorm, duration, headline, places, process_memory
from colbertxm.training.checkpointing import AtomicCheckpointIO, resume_point
from colbertxm.training.fit import FitResult, TrainerSettings, fit
from colbertxm.training.logger import make_logger
from colbertxm.training.module import LossSettings, OptimizerSettings, RetrieverModule
from colbertxm.training.validation import Validated
from colbertxm.training.watching import BestWeights

LOSS, OPTIMIZER = LossSettings(temperature=0.05, mean_over_query=True), OptimizerSettings(lr=1e-3)
SETTINGS = TrainerSettings(
    steps=8, batch_size=4, val_every=2, checkpoint_every=2, log_every=2, accelerator="cpu", monitor="val/mrr@10"
)
RISING_THEN_FALLING = {2: 0.3, 4: 0.9, 6: 0.5, 8: 0.5}
"""By step: what the validation is made to find."""


@pytest.fixture
def data(world: Path) -> TrainingData:
    return smart_home(clean_only=True, negatives_depth=3, val_langs=["en", "de"], val_sample=8)


def fresh() -> Encoder:
    L.seed_everything(0, verbose=False)
    encoder = build_encoder("small", ["en", "de"], TokenSettings("query: ", "passage: "), "multi", 8, 0)
    freeze(encoder, "top_k_layers", 1)
    return encoder


def run(output: Path, data: TrainingData, encoder: Encoder, logger: Any = False, **changes: Any) -> FitResult:
    pairs = data.pairs
    examples = [Triple(q, p, (pairs[(i + 1) % len(pairs)][1],)) for i, (q, p) in enumerate(pairs)]
    settings = dataclasses.replace(SETTINGS, **changes)
    return fit(encoder, InMemory(examples, 5), data.pools, output, LOSS, OPTIMIZER, settings, 5, logger)


def weights(encoder: Encoder) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in encoder.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[int, float]], list[int]]:
    """Make validations find given figures; returns the steps at which they were asked."""

    def give(found: dict[int, float]) -> list[int]:
        asked: list[int] = []

        def step(self: RetrieverModule, pool: Any, batch_idx: int) -> None:
            if batch_idx == 0:
                asked.append(self.global_step)
            self.log("val/mrr@10", found[self.global_step], batch_size=1)

        monkeypatch.setattr(RetrieverModule, "validation_step", step)
        return asked

    return give


def test_the_best_weights_are_saved_not_the_last(world: Path, data: TrainingData, figures: Any) -> None:
    figures(RISING_THEN_FALLING)
    encoder = fresh()
    result = run(world / "best", data, encoder)
    assert (result.best, result.steps) == (4, 8) and result.validation == {"val/mrr@10": pytest.approx(0.9)}
    short = fresh()
    assert run(world / "short", data, short, steps=8, monitor=None).best is None
    assert not same(weights(encoder), weights(short)), "the last weights were saved"
    stored = load_model(result.model)
    assert same(weights(encoder), weights(stored))
    assert provenance_of(result.model)["best"]["step"] == 4
    assert not (world / "best/checkpoints").exists()


def test_the_best_weights_are_those_of_their_step(
    world: Path, data: TrainingData, figures: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures(RISING_THEN_FALLING)
    then: dict[int, dict[str, torch.Tensor]] = {}
    original = BestWeights.on_validation_end

    def watched(self: BestWeights, trainer: L.Trainer, module: Any) -> None:
        then[trainer.global_step] = weights(module.encoder)
        original(self, trainer, module)

    monkeypatch.setattr(BestWeights, "on_validation_end", watched)
    encoder = fresh()
    run(world / "out", data, encoder)
    assert same(weights(encoder), then[4]) and not same(weights(encoder), then[6])


@pytest.mark.parametrize(
    ("where", "at"),
    [("step", 6), ("validation", 4), ("validation", 8), ("after the best", 4)],
)
def test_a_killed_and_resumed_run_keeps_the_same_best(
    world: Path, data: TrainingData, figures: Any, monkeypatch: pytest.MonkeyPatch, where: str, at: int
) -> None:
    found = {2: 0.3, 4: 0.9, 6: 0.5, 8: 0.95} if at == 8 else RISING_THEN_FALLING
    figures(found)
    whole = fresh()
    expected = run(world / "whole", data, whole)

    with monkeypatch.context() as dying:
        target = {
            "step": (RetrieverModule, "training_step"),
            "validation": (RetrieverModule, "validation_step"),
            "after the best": (AtomicCheckpointIO, "save_checkpoint"),
        }[where]
        original = getattr(*target)

        def kill(self: Any, *args: Any, **kwargs: Any) -> Any:
            if where == "after the best":  # the best is on disk, no checkpoint knows
                result = original(self, *args, **kwargs)
                if Path(args[1]).name == "best.ckpt" and args[0]["best"]["step"] == at:
                    raise Killed
                return result
            if self.global_step == at:
                raise Killed
            return original(self, *args, **kwargs)

        dying.setattr(*target, kill)
        with pytest.raises(Killed):
            run(world / "cut", data, fresh())
    assert resume_point(world / "cut/checkpoints") is not None
    asked = figures(found)
    resumed = fresh()
    result = run(world / "cut", data, resumed)
    assert (result.best, result.steps, result.validation) == (expected.best, 8, expected.validation)
    assert same(weights(resumed), weights(whole))
    assert len(asked) == len(set(asked)) and asked[-1] in (8, at)


def test_training_stops_when_patience_ends(
    world: Path, data: TrainingData, figures: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = figures({2: 0.5, 4: 0.3, 6: 0.9, 8: 0.9, 10: 0.8, 12: 0.99})
    result = run(world / "out", data, fresh(), steps=14, patience=2)
    assert (result.steps, result.best) == (10, 6) and asked == [2, 4, 6, 8, 10]
    assert "stopped at step 10: 2 validations without more than val/mrr@10 0.900 of step 6" in capsys.readouterr().err


def test_patience_goes_on_counting_after_a_kill(
    world: Path, data: TrainingData, figures: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {2: 0.9, 4: 0.5, 6: 0.5, 8: 0.99}
    figures(found)
    original = RetrieverModule.validation_step
    with monkeypatch.context() as dying:

        def kill(self: RetrieverModule, *args: Any) -> Any:
            if self.global_step == 6:
                raise Killed
            return original(self, *args)

        dying.setattr(RetrieverModule, "validation_step", kill)
        with pytest.raises(Killed):
            run(world / "out", data, fresh(), patience=2)
    asked = figures(found)
    result = run(world / "out", data, fresh(), patience=2)
    assert (result.steps, result.best, asked) == (6, 2, [6])


def test_a_best_checkpoint_that_is_gone_is_an_error(
    world: Path, data: TrainingData, figures: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures(RISING_THEN_FALLING)
    original = RetrieverModule.training_step
    with monkeypatch.context() as dying:

        def kill(self: RetrieverModule, *args: Any) -> Any:
            if self.global_step == 5:
                raise Killed
            return original(self, *args)

        dying.setattr(RetrieverModule, "training_step", kill)
        with pytest.raises(Killed):
            run(world / "out", data, fresh())
    (world / "out/checkpoints/best.ckpt").unlink()
    with pytest.raises(UserError, match=r"best\.ckpt is gone.*delete .*checkpoints"):
        run(world / "out", data, fresh())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"monitor": "val/mrr@1"}, r"'val/mrr@1' is never logged \(did you mean 'val/mrr@10'\?\): .*val/mrr@10/de-de"),
        ({"monitor": "train/loss"}, "never logged"),
        ({"val_every": 0}, "needs validations"),
        ({"val_every": 9}, "trainer.val_every between 1 and trainer.steps"),
        ({"monitor": None, "patience": 3}, "trainer.patience=3 needs a figure"),
        ({"patience": 0}, "1 or more"),
    ],
)
def test_what_cannot_be_monitored_is_refused_at_once(
    world: Path, data: TrainingData, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(L.Trainer, "fit", lambda *_, **__: pytest.fail("training began"))
    with pytest.raises(UserError, match=message):
        run(world / "out", data, fresh(), **changes)


def test_all_that_is_watched_is_logged(world: Path, data: TrainingData) -> None:
    logger = make_logger(world / "logs", "test", "run", "offline", {})
    run(world / "out", data, fresh(), logger, steps=4)
    logger.experiment.finish()
    file = wandb_files.run_of(world / "logs")
    history, _ = wandb_files.read(file)
    names = "throughput/queries_per_s throughput/tokens_per_s throughput/padding throughput/step_s train/gradient_norm"
    for name in [*names.split(), "memory/rss_mb", "memory/peak_mb", "lr-AdamW/pg1", "train/loss"]:
        assert len(history[name]) == 2, name  # steps 2 and 4 of 4
        assert all(isinstance(value, float) and value >= 0 for value in history[name]), name
    assert all(0 < share < 1 for share in history["throughput/padding"])
    for name in ("val/mrr@10", "val/rerank_mrr@10", "val/rerank_ndcg@10"):
        means = [(en + de) / 2 for en, de in zip(history[f"{name}/en-en"], history[f"{name}/de-de"], strict=True)]
        assert history[name] == pytest.approx(means) and len(means) == 2
    tables = [json.loads(t.read_text()) for t in sorted((file.parent / "files/media/table").rglob("*.json"))]
    assert {row[0] for table in tables for row in table["data"]} == {2, 4}
    assert tables[0]["columns"] == ["step", "pool", "query", "expected", "rank", "score", "got", "got_score"]
    assert all(row[4] > 1 and row[5] <= row[7] and row[3] != row[6] for table in tables for row in table["data"])


def test_a_run_that_was_left_open_does_not_get_the_next_ones_figures(world: Path) -> None:
    left = make_logger(world / "left", "test", "left", "offline", {})  # as a training that raised leaves it
    logger = make_logger(world / "next", "test", "next", "offline", {"seed": 3})
    logger.log_metrics({"train/loss": 0.5}, step=1)
    logger.experiment.finish()
    left.experiment.finish()
    history, config = wandb_files.read(wandb_files.run_of(world / "next"))
    assert history["train/loss"] == [0.5] and config["seed"] == 3
    assert "train/loss" not in wandb_files.read(wandb_files.run_of(world / "left"))[0]


def test_the_gradient_norm_is_that_before_clipping(
    world: Path, data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[tuple[int, float]] = []
    by_hand: list[float] = []
    monkeypatch.setattr(
        RetrieverModule, "configure_gradient_clipping", lambda self, *_, **__: by_hand.append(norm_of(self))
    )

    def norm_of(module: torch.nn.Module) -> float:
        return sum(float((p.grad.double() ** 2).sum()) for p in module.parameters() if p.grad is not None) ** 0.5

    original = RetrieverModule.log

    def log(self: RetrieverModule, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        if name == "train/gradient_norm":
            logged.append((self.global_step + 1, float(value)))
        original(self, name, value, *args, **kwargs)

    monkeypatch.setattr(RetrieverModule, "log", log)
    logger = make_logger(world / "logs", "test", "run", "offline", {})
    run(world / "out", data, fresh(), logger, steps=5, monitor=None, gradient_clip=1e-6)
    logger.experiment.finish()
    assert [step for step, _ in logged] == [2, 4] and len(by_hand) == 5
    assert [norm for _, norm in logged] == pytest.approx([by_hand[1], by_hand[3]], rel=1e-5)


def test_shards_of_gradients_are_summed_over_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """FSDP itself needs GPUs; here a strategy that says it is one and has a second rank with an equal shard."""

    class Sharded:
        def reduce(self, value: torch.Tensor, reduce_op: str) -> torch.Tensor:
            assert reduce_op == "sum"
            return 2 * value

    class Module:
        def __init__(self) -> None:
            self.logged: dict[str, float] = {}
            self.weight = torch.nn.Parameter(torch.zeros(2))
            self.weight.grad = torch.tensor([3.0, 4.0])

        def parameters(self) -> list[torch.nn.Parameter]:
            return [self.weight]

        def log(self, name: str, value: torch.Tensor) -> None:
            self.logged[name] = float(value)

    class Trainer:
        global_step, strategy = 1, Sharded()

    monkeypatch.setattr("colbertxm.training.callbacks.FSDPStrategy", Sharded)
    module: Any = Module()
    GradientNorm(2).on_before_optimizer_step(Trainer(), module, None)  # type: ignore[arg-type]
    assert module.logged == {"train/gradient_norm": pytest.approx(50**0.5)}


def test_padding_counts_the_places_of_attention_grids() -> None:
    # Lengths 3 and 16 share a grid of 2 x 16, 20 has its own of 1 x 20; with one length there is no padding.
    assert places(Side((pack([[5] * 3, [5] * 16, [5] * 20], ["en", "en", "en"]),))) == 2 * 16 + 20
    assert places(Side((pack([[5] * 7, [5] * 7], ["en", "de"]),))) == 14


def test_lines_of_a_log_file(world: Path, data: TrainingData, capsys: pytest.CaptureFixture[str]) -> None:
    run(world / "out", data, fresh(), steps=4)
    printed = capsys.readouterr().err.splitlines()
    steps = [line for line in printed if line.startswith("  step")]
    pattern = r"  step \d/4  loss \d+\.\d{3}  \d+\.\d\d s/step  \d+ s left"
    assert len(steps) == 4 and all(re.fullmatch(pattern, line) for line in steps)
    dev = [line for line in printed if line.startswith("  dev")]
    assert len(dev) == 2
    assert re.fullmatch(r"  dev mrr@10 0\.\d{3}  (en-en|de-de) [01]\.\d{3}  (en-en|de-de) [01]\.\d{3}", dev[0])


def test_a_terminal_gets_a_bar(
    world: Path, data: TrainingData, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    run(world / "out", data, fresh(), steps=4)
    shown, out = capsys.readouterr().err, capsys.readouterr().out
    last = shown.replace("\n", "\r").rstrip("\r").split("\r")[-1]
    assert re.search(r"train: 100%\|.*\| 4/4 \[\d\d:\d\d<00:00, .*, loss \d\.\d{3}, mrr@10 [01]\.\d{3}\]", last)
    assert "  step 4/4" not in shown and not out


def test_words_for_people() -> None:
    assert [duration(s) for s in (0, 89, 95, 3540, 3700, 11_100)] == \
        ["0 s", "89 s", "2 min", "59 min", "1 h 02 min", "3 h 05 min"]  # fmt: skip
    figures = {"val/mrr@10/de-de": 0.5, "val/mrr@10": 0.75, "val/rerank_mrr@10": 0.1, "train/loss": 3.0}
    assert headline(figures) == "mrr@10 0.750  de-de 0.500"
    assert headline({"train/loss": 1.0}) == ""


def test_memory_is_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    before = process_memory()
    block = torch.ones(20_000_000)  # 80 MB
    after = process_memory()
    assert block.sum() == 20_000_000
    assert after["peak_mb"] >= after["rss_mb"] > before["rss_mb"] + 60 and after["rss_mb"] < 100_000


def test_a_validation_returns_rows_only_where_there_is_a_logger(
    world: Path, data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def validate(retriever: Any, pool: Any, wrong: int) -> Validated:
        asked.append(wrong)
        return Validated({"mrr@10": 0.5}, [])

    monkeypatch.setattr("colbertxm.training.module.validate", validate)
    run(world / "out", data, fresh(), steps=2)
    assert asked == [0, 0]
