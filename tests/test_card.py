"""The card: front matter that the hub's own parser takes, and no figure that the model folder does not hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from colbertxm.errors import UserError
from colbertxm.model.card import MARK, model_card, read_facts

PROVENANCE = {
    "config": {"model": {"base": "facebook/xmod-base@main", "dim": 128}, "data": {"_target_": "colbertxm.data.x"}},
    "seed": 42,
    "checksums": {"triples.tsv": "ab" * 32},
    "version": "0.1.0",
    "revision": "0123456",
}
FIGURES = {"queries": 300, "collection": "smart_home"}
ROWS = [
    {"R@100": v + 0.2, "RR@10": v, "high": v + 0.05, "low": v - 0.05, "model": "m", "nDCG@10": v + 0.1, **FIGURES}
    | {"query_lang": query, "passage_lang": passage}
    for query, passage, v in (("en", "en", 0.7123), ("en", "zh-hant", 0.5))
]


def folder(tmp_path: Path, **changes: Any) -> Path:
    """A model folder's two descriptions, without its weights."""
    config = {"model_type": "xmod", "languages": ["en_XX", "zh_CN", "zh_TW", "sr_RS", "yo_XX", "xx_YY"]}
    tokens = {"query_maxlen": 32, "passage_maxlen": 256}
    settings = {"format": 1, "pooling": "multi", "dim": 128, "tokens": tokens, "provenance": PROVENANCE, **changes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "colbertxm.json").write_text(json.dumps(settings))
    return tmp_path


def test_the_front_matter_is_what_the_hub_reads(tmp_path: Path) -> None:
    card = ModelCard(model_card(read_facts(folder(tmp_path)), "owner/name", ROWS, None, ["ms_marco"]))
    data = card.data
    assert data.language == ["en", "zh", "sr", "yo"]  # zh once, a script's suffix and an unknown adapter left out
    assert (data.license, data.base_model, data.library_name) == ("mit", "facebook/xmod-base", "colbertxm")
    assert data.pipeline_tag == "sentence-similarity" and data.datasets == ["ms_marco"]
    assert {"xmod", "late-interaction"} <= set(data.tags)
    assert data.model_name == "owner/name"
    found = {(r.dataset_config, r.metric_type): r.metric_value for r in data.eval_results}
    assert found["en-en", "mrr_at_10"] == 0.7123 and found["en-zh-hant", "recall_at_100"] == 0.7
    assert len(found) == 6 and {r.dataset_type for r in data.eval_results} == {"smart_home"}


def test_the_text_holds_what_the_folder_records(tmp_path: Path) -> None:
    text = model_card(read_facts(folder(tmp_path)), "owner/name", ROWS)
    assert MARK in text
    for expected in (
        "| Chinese | zh | `zh_CN` |",
        "| not recorded |  | `xx_YY` |",
        f"| triples.tsv | `{'ab' * 32}` |",
        "- seed: 42",
        "- torch: not recorded",
        "  base: facebook/xmod-base@main",
        "| smart_home | en | en | 0.712 | 0.812 | 0.912 | [0.662, 0.762] | 300 |",
        "## Energy\n\nNot measured.",
        'pull("owner/name", languages=["en"])',
        "passages after 256",
        "Measured for passages in en, zh-hant alone.",
    ):
        assert expected in text, expected


def test_energy_is_shown_where_it_was_measured(tmp_path: Path) -> None:
    energy = {"kwh": 0.012, "method": "estimate"}
    text = model_card(read_facts(folder(tmp_path, provenance={**PROVENANCE, "energy": energy})), "owner/name")
    assert "- kwh: 0.012\n- method: estimate" in text and "Not measured" not in text


def test_nothing_is_invented(tmp_path: Path) -> None:
    """A folder of another library: only its languages are known."""
    (tmp_path / "config.json").write_text('{"model_type": "xmod", "languages": ["de_DE"]}')
    text = model_card(read_facts(tmp_path), "owner/name")
    data = ModelCard(text).data
    assert data.language == ["de"] and data.license is None and data.base_model is None and data.eval_results is None
    assert "The base is not recorded." in text and "No results were given" in text and "Configuration: not rec" in text
    prose = text.split("---\n", 2)[2].replace("RR@10", "").replace('Text("1"', "").replace('Text("2"', "")
    digits = [c for c in prose.split("## Use")[0] if c.isdigit()]
    assert digits == []


@pytest.mark.parametrize(
    ("base", "base_model", "license"),
    [
        ("small", "intfloat/multilingual-e5-small", "mit"),
        ("antoinelouis/dpr-xm", "antoinelouis/dpr-xm", None),
        ("someone/model@v2", "someone/model", None),
        ("outputs/model", None, None),  # a folder on the author's machine
        ("/data/xmod", None, None),
    ],
)
def test_the_base_and_its_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str, base_model: str | None, license: str | None
) -> None:
    monkeypatch.setenv("COLBERTXM_CACHE", str(tmp_path / "cache"))
    made = {**PROVENANCE, "config": {"model": {"base": base}}}
    facts = read_facts(folder(tmp_path, provenance=made))
    data = ModelCard(model_card(facts, "owner/name")).data
    assert (data.base_model, data.license) == (base_model, license)
    assert ModelCard(model_card(facts, "owner/name", license="apache-2.0")).data.license == "apache-2.0"


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="config.json.*is .* a model folder"):
        read_facts(tmp_path)
    folder(tmp_path)
    (tmp_path / "colbertxm.json").write_text("[1]")
    with pytest.raises(UserError, match="colbertxm.json is no JSON object"):
        read_facts(tmp_path)
