"""A language added to a trained retriever by its adapter alone is what it would have been from the start."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_pretrain import TINY

from colbertxm import entry, stages
from colbertxm.errors import UserError
from colbertxm.model.checkpoints import load_model, provenance_of
from colbertxm.pretraining import graft_model, pretrain_run

TRAIN = [
    "model=checkpoint", "model.dim=8", "model.projection=pca", "trainer.steps=3", "trainer.batch_size=4",
    "trainer.val_every=0", "trainer.accelerator=cpu", "freeze.top_k=1", "data.val_langs=[en]", "data.val_sample=5",
    "data.negatives_depth=2", "logger.mode=disabled", "energy.mode=off",
]  # fmt: skip


def call(monkeypatch: pytest.MonkeyPatch, verb: str, *arguments: str) -> None:
    import importlib

    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", [f"colbertxm {verb}", *arguments])
    importlib.import_module(f"colbertxm.{verb}").main()


def train(output: str, languages: str, *more: str) -> Path:
    cfg = entry.compose("train", [*TRAIN, f"model.languages={languages}", f"output={output}", *more])
    return stages.train_run(cfg, stages.open_data(cfg))[1].model


def figures(output: str) -> list[float]:
    rows = json.loads(Path(output, "results.json").read_text())["rows"]
    return [row["RR@10"] for row in rows]


@pytest.fixture(scope="module")
def later(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Models of English training: with German from the start, without, and with German put in afterwards."""
    folder = tmp_path_factory.mktemp("later")
    with pytest.MonkeyPatch.context() as patch:
        for module in ("stages", "model.checkpoints", "data.training"):
            patch.setattr(f"colbertxm.{module}.fetch", lambda source, cache=None: wheels[source.name])
        patch.chdir(folder)
        pretrain_run(entry.compose("pretrain", [*TINY, "languages=[en,de]", "mlm.lr=0.1", "output=adapters"]))
        start = train("start", "[en,de]", "model.base=adapters/model")
        without = train("without", "[en]", "model.base=adapters/model")
        grafted = graft_model(without, "adapters", ["de"], "family", Path("later"))
    return folder / start, folder / without, folder / grafted


def test_later_is_as_good_as_from_the_start_and_policies_show_what_the_adapter_does(
    world: Path, later: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    start, without, grafted = later
    expected, found = load_file(start / "model.safetensors"), load_file(grafted / "model.safetensors")
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
    assert load_model(without).languages == ["en"] and provenance_of(grafted)["grafted"][0]["languages"] == ["de"]
    assert provenance_of(grafted)["config"]["output"] == "without", "what it was before is kept"
    common = ["baselines=[]", "langs=[en,de]", "sample=40", "cross=none", "logger.mode=disabled"]
    for policy in ("own", "english", "none"):
        overrides = [*common, f"adapter_policy={policy}", f"output={policy}"]
        call(monkeypatch, "evaluate", f"checkpoints=[{grafted}]", *overrides)
    (own, own_de), (english, english_de), (none, none_de) = map(figures, ("own", "english", "none"))
    assert own == english != none and len({own_de, english_de, none_de}) == 3, "English keeps its own"


def test_adapters_of_a_folder_stand_in_the_bases_place(world: Path) -> None:
    result = pretrain_run(entry.compose("pretrain", [*TINY, "languages=[de]", "output=adapters"]))
    model = train("direct", "[en,de]", "model=small", "model.adapters=adapters", "model.dim=8", "model.projection=pca")
    found, adapter = load_file(model / "model.safetensors"), load_file(result.adapters["de_DE"])
    assert all(torch.equal(found[name], tensor) for name, tensor in adapter.items())


def test_the_command_says_where_and_refuses(
    world: Path,
    later: tuple[Path, Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start, without, _ = later
    adapters = f"adapters={without.parent.parent / 'adapters'}"
    call(monkeypatch, "graft", f"checkpoint={without}", adapters, "languages=[de]", "output=again")
    printed = capsys.readouterr()
    assert "model: again/model" in printed.out and "the shared layers were trained on since" in printed.err
    assert load_model(Path("again/model")).languages == ["en", "de"]
    for arguments, message in (
        ([], "graft needs adapters=..."),
        ([adapters, "languages=[fr]"], "has no adapter fr_XX"),
        ([adapters, "trunk=same"], "trained on other layers"),
        ([adapters, f"output={without.parent}"], "is the model itself"),
    ):
        with pytest.raises(SystemExit):
            call(monkeypatch, "graft", f"checkpoint={without}", *arguments)
        assert message in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(UserError, match="no adapter fr_XX"):
        graft_model(start, start.parent.parent / "adapters", ["fr"], "family", Path("more"))
    assert not Path("more").exists()
