"""Other libraries' layouts: round trips are exact, what they compute is reproduced, what they would change is refused.

tests/fixtures/parity holds what colbert-ai 0.2.19 and 0.2.22, PyLate 1.6.0 and sentence-transformers 6.2.0 computed
from the miniature of benchmarks/parity (`make parity ARGS=--record`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.parity import miniature
from benchmarks.parity.cases import ADDED, AGREE, AI, PROMPTS, SINGLE, TRAIN, Case
from benchmarks.parity.run import RECORD, TOLERANCE, compare, ours, thin
from colbertxm.errors import UserError
from colbertxm.languages import language
from colbertxm.model.checkpoints import build_encoder, load_model, save_model
from colbertxm.model.encoder import Encoder
from colbertxm.model.formats import WRITERS, detect, stanford, write_as
from colbertxm.model.formats.files import state_of
from colbertxm.model.tokens import TokenSettings
from colbertxm.records import Text

QUERIES, PASSAGES = miniature.texts()


def mini(folder: Path, settings: TokenSettings, pooling: Any = "multi") -> Encoder:
    return miniature.encoder(folder / "tokenizer", settings, pooling)


def edit(path: Path, **values: Any) -> None:
    """Change keys of a JSON file; None removes one."""
    found = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({k: v for k, v in found.items() if v is not None}))


@pytest.mark.parametrize("case", AGREE, ids=lambda case: case.name)
def test_what_the_originals_computed_is_reproduced(tmp_path: Path, case: Case) -> None:
    folder = write_as(case.layout, tmp_path / "model", mini(tmp_path, case.settings, case.pooling))
    with np.load(RECORD / f"{case.name}.npz", allow_pickle=False) as file:
        recorded = {name: file[name] for name in file.files}
    found = compare(thin(ours(load_model(folder))), recorded)
    assert found["ids"] and found["vectors"] < TOLERANCE and found["scores"] < TOLERANCE, found


def test_the_record_is_small_and_of_ten_scripts() -> None:
    assert sum(path.stat().st_size for path in RECORD.iterdir()) < 200_000
    assert {path.stem for path in RECORD.iterdir()} == {case.name for case in AGREE}
    assert len({language(text.lang).script for text in QUERIES}) == 10


@pytest.mark.parametrize("case", AGREE, ids=lambda case: case.name)
def test_round_trips_are_exact(tmp_path: Path, case: Case) -> None:
    made = mini(tmp_path, case.settings, case.pooling)
    first = load_model(write_as(case.layout, tmp_path / "first", made))
    second = load_model(write_as(case.layout, tmp_path / "second", first))
    for encoder in (first, second):
        assert encoder.pooling == case.pooling
        assert state_of(encoder).keys() == state_of(made).keys()
        assert all(torch.equal(tensor, state_of(made)[name]) for name, tensor in state_of(encoder).items())
    assert first.tokens.settings == second.tokens.settings
    for texts, kind in ((QUERIES, "query"), (PASSAGES, "passage")):
        assert first.tokenise(texts, kind) == made.tokenise(texts, kind)  # type: ignore[arg-type]
    own = load_model(save_model(tmp_path / "own", first, {}))
    assert own.tokens.settings == first.tokens.settings
    names = sorted(p.name for p in (tmp_path / "first").rglob("*"))
    assert names == sorted(p.name for p in (tmp_path / "second").rglob("*"))


def test_a_layout_is_told_by_its_files(tmp_path: Path) -> None:
    made = {"stanford": AI, "pylate": ADDED, "multi_vector": AI, "sentence_transformers": SINGLE}
    for layout, settings in made.items():
        pooling = "single" if settings is SINGLE else "multi"
        assert detect(write_as(layout, tmp_path / layout, mini(tmp_path, settings, pooling))) == layout
    assert detect(save_model(tmp_path / "own", mini(tmp_path, AI), {})) == "colbertxm"
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds nothing, no X-MOD model: expected colbertxm.json"):
        load_model(tmp_path / "empty")
    edit(tmp_path / "own" / "config.json", model_type="bert")
    (tmp_path / "own" / "colbertxm.json").unlink()
    with pytest.raises(UserError, match="a config.json of model_type 'bert', no X-MOD model"):
        load_model(tmp_path / "own")


def test_only_the_chosen_languages_are_written_and_named(tmp_path: Path) -> None:
    folder = write_as("stanford", tmp_path / "all", mini(tmp_path, AI))
    two = load_model(folder, languages=["ko", "el"])
    assert two.xmod.config.languages == ("el_GR", "ko_KR")
    written = write_as("pylate", tmp_path / "two", replaced(two, ADDED_UNK))
    config = json.loads((written / "config.json").read_text())
    assert config["languages"] == ["el_GR", "ko_KR"] and config["default_language"] is None
    one = load_model(folder, languages=["ko"])
    text = [Text("t", "램프를 꺼", "ko")]
    assert torch.equal(one.encode(text, "query").values, two.encode(text, "query").values)
    config = json.loads((write_as("stanford", tmp_path / "one", one) / "config.json").read_text())
    assert config["languages"] == ["ko_KR"] and config["default_language"] == "ko_KR"
    with pytest.raises(UserError, match="no adapter de_DE"):
        load_model(folder, languages=["de"])


ADDED_UNK = replace(AI, skip="pylate")


def replaced(encoder: Encoder, settings: TokenSettings) -> Encoder:
    """The same encoder with other token settings."""
    from colbertxm.model.tokens import Tokens

    encoder.tokens = Tokens(encoder.tokens.tokenizer, settings)
    return encoder


def test_a_plain_export_runs_in_transformers_without_language_ids(tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = write_as("stanford", tmp_path / "all", mini(tmp_path, AI))
    encoder = load_model(folder, languages=["th"])
    written = write_as("transformers", tmp_path / "thai", encoder)
    model = AutoModel.from_pretrained(written).eval()
    batch = AutoTokenizer.from_pretrained(written)("ปิด ไฟ หน่อย.", return_tensors="pt")
    with torch.no_grad():
        states = model(**batch).last_hidden_state[0]
    plain = replaced(load_model_without_projection(written), TokenSettings(skip="none"))
    found = plain.encode([Text("t", "ปิด ไฟ หน่อย.", "th")], "passage").values
    torch.testing.assert_close(found, torch.nn.functional.normalize(states, dim=-1), atol=1e-5, rtol=0)
    with pytest.raises(UserError, match="writes one language, this model has 10"):
        write_as("transformers", tmp_path / "many", load_model(folder))


def load_model_without_projection(folder: Path) -> Encoder:
    encoder = load_model(folder)
    assert encoder.linear is None and detect(folder) == "transformers"
    return encoder


@pytest.mark.parametrize(
    ("layout", "settings", "pooling", "message"),
    [
        ("stanford", PROMPTS, "multi", "cannot hold text prefixes"),
        ("stanford", replace(AI, markers="none"), "multi", "without markers"),
        ("stanford", replace(AI, expand_queries_to=0), "multi", "filled to 0: colbert-ai always fills them"),
        ("stanford", replace(AI, skip="punctuation"), "multi", "tokens.skip=colbert_ai"),
        ("stanford", SINGLE, "single", "one vector a text: export to=sentence_transformers"),
        ("pylate", TRAIN, "multi", "a stray '.'.*tokens.markers=colbert_ai"),
        ("pylate", replace(ADDED, expand_queries_to=8), "multi", "filled to 8"),
        ("multi_vector", TRAIN, "multi", "the stray '.'"),
        ("multi_vector", SINGLE, "single", "cannot hold a model with one vector a text"),
        ("sentence_transformers", AI, "multi", "cannot hold one vector per token"),
        ("sentence_transformers", replace(SINGLE, markers="colbert_ai"), "single", "the markers colbert_ai"),
        ("pilate", AI, "multi", "did you mean 'pylate'"),
    ],
)
def test_what_a_library_would_compute_otherwise_is_not_written(
    tmp_path: Path, layout: str, settings: TokenSettings, pooling: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        write_as(layout, tmp_path / "model", mini(tmp_path, settings, pooling))
    assert not list(tmp_path.glob("model*"))


META = {"current_datetime": "Jan 25, 2024 ;  2:08AM CET (+0100)"}


@pytest.mark.parametrize(
    ("changes", "markers"),
    [
        ({"meta": META}, "colbert_xm_train"),
        ({"name": "2024-01-24_18.33-facebook-xmod-base-mmarco-en"}, "colbert_xm_train"),
        ({"meta": {"current_datetime": "Sep 03, 2025 ; 11:08PM CET (+0100)"}}, "colbert_ai"),
        ({"meta": {}}, "colbert_ai"),
        ({"colbertxm": {"markers": "colbert_ai"}, "meta": META}, "colbert_ai"),
    ],
)
def test_when_a_stanford_checkpoint_was_saved_decides_its_markers(
    tmp_path: Path, changes: dict[str, Any], markers: str
) -> None:
    folder = write_as("stanford", tmp_path / "model", mini(tmp_path, AI))
    edit(folder / "artifact.metadata", **{"colbertxm": None, **changes})
    assert load_model(folder).tokens.settings.markers == markers
    assert load_model(folder, tokens={"markers": "none", "skip": None}).tokens.settings.markers == "none"


def test_a_stanford_checkpoint_whose_vocabulary_has_the_markers_uses_them(tmp_path: Path) -> None:
    folder = write_as("stanford", tmp_path / "model", mini(tmp_path, replace(AI, markers="added")))
    edit(folder / "artifact.metadata", colbertxm=None)
    assert load_model(folder).tokens.settings.markers == "added"
    assert stanford.saved({"name": "2024-99-99"}) is None


def forget(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def change(name: str, **values: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / name, **values)


@pytest.mark.parametrize(
    ("layout", "damage", "message"),
    [
        ("stanford", pickle_only, "convert it once with transformers' save_pretrained"),
        ("stanford", forget("artifact.metadata"), "cannot read .*artifact.metadata"),
        ("stanford", forget("tokenizer.json"), "cannot read .*tokenizer.json"),
        ("stanford", change("artifact.metadata", attend_to_mask_tokens=False), "scored but not attended to"),
        ("stanford", change("artifact.metadata", similarity="l2"), "similarity 'l2'"),
        ("stanford", change("config.json", hidden_size=48), "has shape .*, its config.json says"),
        ("pylate", change("config_sentence_transformers.json", attend_to_expansion_tokens=False), "not attended"),
        ("pylate", change("config_sentence_transformers.json", query_prefix=""), "one kind of text only"),
        ("pylate", change("1_Dense/config.json", use_residual=True), "use_residual; .*plain matrix"),
        ("pylate", forget("1_Dense/model.safetensors"), "1_Dense holds neither"),
        ("multi_vector", change("2_MultiVectorMask/config.json", skiplist_tasks=["query"]), "of documents only"),
        ("multi_vector", change("config_sentence_transformers.json", similarity_fn_name="meanmaxsim"), "meanmaxsim"),
        ("sentence_transformers", change("1_Pooling/config.json", pooling_mode_cls_token=True), "pools by"),
    ],
)
def test_what_is_not_computed_here_is_refused_by_name(
    tmp_path: Path, layout: str, damage: Callable[[Path], None], message: str
) -> None:
    settings, pooling = (SINGLE, "single") if layout == "sentence_transformers" else (ADDED, "multi")
    if layout == "stanford":
        settings = AI
    folder = write_as(layout, tmp_path / "model", mini(tmp_path, settings, pooling))
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


def test_modules_may_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    folder = write_as("pylate", tmp_path / "model", mini(tmp_path, ADDED))
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["path"] = "../elsewhere"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UserError, match=r"names '../elsewhere', which is no folder of its own"):
        load_model(folder)


def test_training_goes_on_from_any_layout_with_its_token_settings(tmp_path: Path) -> None:
    folder = write_as("stanford", tmp_path / "model", mini(tmp_path, TRAIN))
    names = TokenSettings.__dataclass_fields__
    encoder = build_encoder(str(folder), ["ko", "th"], dict.fromkeys(names), "multi", 8, 0)
    assert encoder.tokens.settings == load_model(folder).tokens.settings
    assert encoder.xmod.config.languages == ("ko_KR", "th_TH") or encoder.xmod.config.languages == ("th_TH", "ko_KR")
    longer = build_encoder(str(folder), ["ko"], dict.fromkeys(names) | {"query_maxlen": 20}, "multi", 8, 0)
    assert longer.tokens.settings == replace(encoder.tokens.settings, query_maxlen=20)


def test_added_markers_get_rows_of_their_own(tmp_path: Path) -> None:
    folder = write_as("stanford", tmp_path / "model", mini(tmp_path, AI))
    before = load_model(folder)
    encoder = build_encoder(str(folder), ["ko"], replace(AI, markers="added"), "multi", 8, 0)
    table, old = encoder.xmod.embeddings.word_embeddings.weight, before.xmod.embeddings.word_embeddings.weight
    assert torch.equal(table[: len(old)], old) and len(table) == len(old) + 2 == encoder.xmod.config.vocab_size
    assert not torch.equal(table[-1], table[-2]) and table.requires_grad
    again = load_model(save_model(tmp_path / "own", encoder, {}))
    text = [Text("t", "램프를 꺼", "ko")]
    assert torch.equal(again.encode(text, "query").values, encoder.eval().encode(text, "query").values)
    assert again.tokenise(text, "query")[0].ids[1] == len(old)


@pytest.mark.parametrize("to", [*WRITERS, "colbertxm"])
def test_the_export_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, to: str) -> None:
    from colbertxm import entry, export

    single = to == "sentence_transformers"
    source = save_model(
        tmp_path / "source", mini(tmp_path, SINGLE if single else TRAIN, "single" if single else "multi"), {}
    )
    overrides = ["tokens.markers=colbert_ai"] if to in ("pylate", "multi_vector") else []
    arguments = [f"checkpoint={source}", f"to={to}", f"output={tmp_path / 'out'}", "lang=ru", *overrides]
    export.run(entry.compose("export", arguments))
    assert f"({to}; adapters ru_RU)" in capsys.readouterr().out
    found = load_model(tmp_path / "out")
    assert found.xmod.config.languages == ("ru_RU",) and detect(tmp_path / "out") == to
    if to not in ("transformers", "pylate", "multi_vector"):
        text = [Text("t", "выключи лампу", "ru")]
        assert torch.equal(found.encode(text, "query").values, load_model(source).encode(text, "query").values)
