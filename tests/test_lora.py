"""LoRA: the base at first, thin matrices trained where the policy trains, a plain model in the end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import killed_at
from test_config import call
from test_fit import LOSS, OPTIMIZER, SETTINGS, triples
from torch import Tensor

from colbertxm import entry
from colbertxm.data.examples import InMemory
from colbertxm.data.training import TrainingData, smart_home
from colbertxm.errors import MissingExtra, UserError
from colbertxm.model.checkpoints import build_encoder, load_model
from colbertxm.model.encoder import Encoder
from colbertxm.model.freeze import freeze, parameter_table
from colbertxm.model.lora import LoraSettings, add_lora, has_lora, merge
from colbertxm.model.tokens import TokenSettings
from colbertxm.model.trunk import Trunk
from colbertxm.records import Text
from colbertxm.retriever import Retriever
from colbertxm.training import fit as fit_module
from colbertxm.training.batches import Collate
from colbertxm.training.checkpointing import read_checkpoint, resume_points
from colbertxm.training.fit import fit
from colbertxm.training.module import RetrieverModule

TEXTS = [Text("a", "turn the light off", "en"), Text("b", "open valve for water", "de"), Text("c", "lock", "en")]
FOUR = LoraSettings(rank=4)


@pytest.fixture
def peft() -> Any:
    return pytest.importorskip("peft", reason="LoRA needs the extra `lora`")


@pytest.fixture
def data(world: Path) -> TrainingData:
    return smart_home(clean_only=True, negatives_depth=3, val_langs=["en", "de"], val_sample=8)


def plain(policy: str = "top_k_layers", top_k: int = 2) -> tuple[Encoder, int]:
    encoder = build_encoder("small", ["en", "de"], TokenSettings("query: ", "passage: "), "multi", 8, 0)
    return encoder, freeze(encoder, policy, top_k)  # type: ignore[arg-type]


def trained(encoder: Encoder) -> set[str]:
    return {name for name, p in encoder.named_parameters() if p.requires_grad}


def stir(encoder: Encoder) -> Encoder:
    """Give every B numbers, as training does."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in encoder.named_parameters():
        if ".lora_B." in name:
            parameter.data.normal_(std=0.3, generator=generator)
    return encoder


@pytest.mark.parametrize(
    ("policy", "targets", "depth", "expected"),
    [
        ("top_k_layers", ["query", "value"], 1, {(i, t) for i in (1, 2) for t in ("query", "value")}),
        ("paper", ["key"], 0, {(i, "key") for i in range(3)}),
        ("none", ["attention.output.dense"], 0, {(i, "dense") for i in range(3)}),
        ("adapters_only", ["dense1", "query"], 0, {(i, "dense1") for i in range(3)}),
    ],
)
def test_the_policy_says_where_and_lora_how(
    peft: Any, world: Path, policy: str, targets: list[str], depth: int, expected: set[tuple[int, str]]
) -> None:
    encoder, before = plain(policy)
    base = encoder.encode(TEXTS, "passage").values
    assert add_lora(encoder, LoraSettings(4, targets=targets), before, 0) == depth
    names = trained(encoder) - {"linear.weight"}
    assert all(".lora_A." in name or ".lora_B." in name for name in names)
    assert {(int(n.split(".")[3]), n.split(".lora_")[0].rpartition(".")[2]) for n in names} == expected
    assert torch.equal(encoder.encode(TEXTS, "passage").values, base)  # B is zero
    rows = {part: (on, off) for part, on, off in parameter_table(encoder)}
    assert rows["LoRA"] == (sum(p.numel() for n, p in encoder.named_parameters() if n in names), 0)
    assert rows["shared layers"][0] == rows["adapters"][0] == rows["embeddings"][0] == 0 < rows["head"][0]


def test_the_same_seed_draws_the_same_matrices_and_nobody_elses_numbers(peft: Any, world: Path) -> None:
    def drawn(seed: int, spoil: int) -> dict[str, Tensor]:
        encoder, depth = plain()
        torch.manual_seed(spoil)
        add_lora(encoder, FOUR, depth, seed)
        expected = torch.Generator().manual_seed(spoil)
        assert torch.equal(torch.rand(3), torch.rand(3, generator=expected))
        return {n: p.detach() for n, p in encoder.named_parameters() if ".lora_A." in n}

    one, again, other = drawn(5, 1), drawn(5, 2), drawn(6, 1)
    assert one and all(torch.equal(one[n], again[n]) and not torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("targets", [["query", "value"], ["query", "key", "value", "dense", "dense1", "dense2"]])
def test_merged_is_unmerged_and_an_ordinary_model(
    peft: Any, world: Path, monkeypatch: pytest.MonkeyPatch, targets: list[str]
) -> None:
    encoder, depth = plain("none")
    keys, base = set(encoder.state_dict()), encoder.encode(TEXTS, "passage").values
    add_lora(encoder.train(), LoraSettings(4, alpha=2, dropout=0.2, targets=targets), depth, 0)
    with_lora = stir(encoder).eval().encode(TEXTS, "passage").values
    assert (with_lora - base).abs().max() > 0.02
    merged = merge(encoder)
    assert merged is encoder and not has_lora(merged) and set(merged.state_dict()) == keys
    assert not hasattr(merged.xmod, "peft_config")
    torch.testing.assert_close(merged.encode(TEXTS, "passage").values, with_lora, atol=1e-6, rtol=0)
    from colbertxm.model.checkpoints import save_model

    folder = save_model(world / "model", merged, {})
    monkeypatch.setitem(sys.modules, "peft", None)  # as where it is not installed
    assert torch.equal(load_model(folder).encode(TEXTS, "passage").values, merged.encode(TEXTS, "passage").values)
    assert merge(merged) is merged


def test_lora_is_the_formula(peft: Any, world: Path) -> None:
    """W + alpha / rank * B A, against a model whose weight is changed by hand."""
    encoder, depth = plain(top_k=1)
    add_lora(encoder.eval(), LoraSettings(2, alpha=6, dropout=0.5, targets=["key"]), depth, 0)
    module = stir(encoder).xmod.encoder.layer[2].attention.self.key
    found = encoder.encode(TEXTS, "query").values
    other, _ = plain(top_k=1)
    with torch.no_grad():
        other.xmod.encoder.layer[2].attention.self.key.weight += (
            3 * module.lora_B["default"].weight @ module.lora_A["default"].weight
        )
    torch.testing.assert_close(found, other.encode(TEXTS, "query").values, atol=1e-6, rtol=0)


def test_a_trunk_changes_no_gradient_of_lora(peft: Any, world: Path, data: TrainingData) -> None:
    encoder, depth = plain(top_k=2)
    depth = add_lora(encoder, FOUR, depth, 0)
    assert depth == 1
    stir(encoder.train())
    batch = Collate(encoder, True)(InMemory(triples(data), 0).read([(1, i) for i in range(6)], 2))
    gradients = []
    for cached in (None, Trunk(encoder.xmod, depth)):
        encoder.zero_grad()
        RetrieverModule(encoder, LOSS, OPTIMIZER, 1, cached).scores(batch).logsumexp(1).sum().backward()
        gradients.append({n: p.grad.clone() for n, p in encoder.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() == trained(encoder)
    for name, gradient in gradients[0].items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-4, rtol=1e-4, msg=name)


def run(output: Path, data: TrainingData, dropout: float = 0.0) -> tuple[Encoder, Any, dict[str, Tensor]]:
    """A short run with LoRA and a trunk; also what the base's parameters were."""
    torch.manual_seed(0)
    encoder, depth = plain()
    before = {name: p.detach().clone() for name, p in encoder.named_parameters()}
    depth = add_lora(encoder, LoraSettings(4, dropout=dropout), depth, 0)
    trunk = Trunk(encoder.xmod, depth)
    for kind in ("query", "passage"):
        Retriever(encoder.eval(), trunk).encode([text for pair in data.pairs for text in pair], kind)  # type: ignore[arg-type]
    material = InMemory(triples(data), 5)
    return encoder, fit(encoder, material, data.pools, output, LOSS, OPTIMIZER, SETTINGS, 5, False, trunk), before


def test_a_killed_run_goes_on_from_lora_alone_and_saves_a_merged_model(
    peft: Any, world: Path, data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, result, before = run(world / "whole", data)
    moved = {name for name, p in whole.named_parameters() if not torch.equal(p, before[name])}
    attention = {f"xmod.encoder.layer.{i}.attention.self.{t}.weight" for i in (1, 2) for t in ("query", "value")}
    assert moved == {"linear.weight", *attention}
    saved = load_model(result.model)
    assert all(torch.equal(p, saved.get_parameter(name)) for name, p in whole.named_parameters())

    with killed_at(4):
        run(world / "cut", data)
    monkeypatch.setattr(fit_module.shutil, "rmtree", lambda *_, **__: None)
    again, _, _ = run(world / "cut", data)
    stored = set(read_checkpoint(resume_points(world / "cut/checkpoints")[0][1])["state_dict"])
    assert len(stored) == 2 * 4 + 1 and all(".lora_" in key or key == "encoder.linear.weight" for key in stored)
    assert all(torch.equal(p, whole.get_parameter(name)) for name, p in again.named_parameters())


def test_train_with_lora_from_the_command_line(
    peft: Any, world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["trainer.steps=2", "trainer.batch_size=4", "trainer.val_every=0", "freeze.top_k=1", "data.val_sample=6",
             "data.val_langs=[en]", "data.negatives_depth=4", "model.dim=8", "logger.mode=disabled"]  # fmt: skip
    call(monkeypatch, "train", *quick, "lora=query_value", "lora.rank=2", "trainer.checkpoint_activations=true")
    assert "LoRA" in capsys.readouterr().err
    assert not has_lora(load_model(Path("outputs/train/multi_vector/model")))


@pytest.mark.parametrize("name", ["none", "query_value", "all_linear"])
def test_the_group_composes(name: str) -> None:
    cfg = entry.compose("train", [f"lora={name}"])
    entry.check_filled(cfg, "train")
    assert (LoraSettings(**entry.plain(cfg.lora)).rank == 0) == (name == "none")


@pytest.mark.parametrize(
    ("changes", "policy", "message"),
    [
        ({"rank": -1}, "paper", "lora.rank=-1 must be"),
        ({"rank": 33}, "paper", "lora.rank=33 is above the 32 of the smallest"),
        ({"rank": 2, "alpha": 0}, "paper", "lora.alpha=0 must be above 0"),
        ({"rank": 2, "dropout": 1.0}, "paper", "lora.dropout=1.0 must lie between"),
        ({"rank": 2, "targets": ["qery"]}, "paper", "no linear module 'qery' \\(did you mean 'query'\\?\\); there are"),
        ({"rank": 2, "targets": ["dense1"]}, "paper", "all frozen by freeze.policy"),
        ({"rank": 2}, "head_only", "all frozen by freeze.policy"),
        ({"rank": 2, "targets": []}, "paper", "all frozen by freeze.policy"),
    ],
)
def test_mistakes_are_named(world: Path, changes: dict[str, Any], policy: str, message: str) -> None:
    encoder, depth = plain(policy)
    with pytest.raises(UserError, match=message):
        add_lora(encoder, LoraSettings(**changes), depth, 0)


def test_without_peft_the_extra_is_named_and_rank_0_needs_none(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    encoder, depth = plain()
    before = trained(encoder)
    assert add_lora(encoder, LoraSettings(), depth, 0) == depth and trained(encoder) == before
    with pytest.raises(MissingExtra, match=r"peft is not installed: run `pip install 'colbertxm\[lora\]'`"):
        add_lora(encoder, FOUR, depth, 0)


def test_numbers_that_are_not_finite_are_not_merged(peft: Any, world: Path) -> None:
    encoder, depth = plain()
    add_lora(encoder, FOUR, depth, 0)
    stir(encoder).xmod.encoder.layer[2].attention.self.query.lora_B["default"].weight.data[0, 0] = torch.nan
    with pytest.raises(UserError, match="layer.2.attention.self.query is not finite"):
        merge(encoder)
