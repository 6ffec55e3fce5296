"""Selective reading: the tensors asked for, equal to transformers', and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import XmodConfig as HFConfig
from transformers import XmodForMaskedLM, XmodModel

from colbertxm.errors import UserError
from colbertxm.model.packing import pack
from colbertxm.model.weights import locate, read_xmod

LANGUAGES = ["en_XX", "de_DE", "sw_KE", "ja_XX"]
SHAPE = dict(
    vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
    max_position_embeddings=40, languages=LANGUAGES, ln_before_adapter=True, adapter_reuse_layer_norm=True,
    adapter_layer_norm=False, adapter_reduction_factor=2,
)  # fmt: skip


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, XmodForMaskedLM]:
    torch.manual_seed(0)
    model = XmodForMaskedLM(HFConfig(**SHAPE, default_language="en_XX")).eval()
    model.save_pretrained(tmp_path / "mlm")
    return tmp_path / "mlm", model


def test_chosen_adapters_only(saved: tuple[Path, XmodForMaskedLM]) -> None:
    folder, model = saved
    xmod, also = read_xmod(folder, ["ja_XX", "de_DE"], ["lm_head.dense.weight"])
    assert xmod.config.languages == ("de_DE", "ja_XX")
    assert torch.equal(also["lm_head.dense.weight"], model.lm_head.dense.weight)
    ids = [0, 7, 9, 11, 2]
    for lang in ("de_DE", "ja_XX"):
        with torch.no_grad():
            expected = model.roberta(
                torch.tensor([ids]), lang_ids=torch.tensor([LANGUAGES.index(lang)])
            ).last_hidden_state[0]
            torch.testing.assert_close(xmod(pack([ids], [lang])), expected, atol=1e-5, rtol=0)


def test_all_adapters_and_no_prefix(saved: tuple[Path, XmodForMaskedLM], tmp_path: Path) -> None:
    _, model = saved
    XmodModel.from_pretrained(saved[0], add_pooling_layer=True).save_pretrained(tmp_path / "bare")
    xmod, _ = read_xmod(tmp_path / "bare")
    assert list(xmod.config.languages) == LANGUAGES
    theirs = model.roberta.state_dict()
    for name, tensor in xmod.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name


def test_half_precision_files_become_float32(saved: tuple[Path, XmodForMaskedLM]) -> None:
    folder, _ = saved
    state = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(state, folder / "model.safetensors")
    xmod, _ = read_xmod(folder, ["en_XX"])
    assert {p.dtype for p in xmod.parameters()} == {torch.float32}


def test_sharded_reads_only_the_shards_it_needs(saved: tuple[Path, XmodForMaskedLM], tmp_path: Path) -> None:
    folder, _ = saved
    state = load_file(folder / "model.safetensors")
    whole, _ = read_xmod(folder, ["de_DE"])
    shards: dict[str, dict[str, torch.Tensor]] = {"a.safetensors": {}, "b.safetensors": {}}
    for name, tensor in state.items():
        shards["b.safetensors" if "sw_KE" in name or "ja_XX" in name else "a.safetensors"][name] = tensor
    for shard, tensors in shards.items():
        save_file(tensors, folder / shard)
    weight_map = {name: shard for shard, tensors in shards.items() for name in tensors}
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "b.safetensors").unlink()  # the other languages: must not be touched
    xmod, _ = read_xmod(folder, ["de_DE"])
    for name, tensor in xmod.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name])
    with pytest.raises(UserError, match="b.safetensors"):
        read_xmod(folder, ["ja_XX"])


def test_what_is_wrong_is_said(saved: tuple[Path, XmodForMaskedLM], tmp_path: Path) -> None:
    folder, _ = saved
    with pytest.raises(UserError, match="no adapter fr_XX; it has en_XX, de_DE"):
        read_xmod(folder, ["fr_XX"])
    with pytest.raises(UserError, match=r"lacks the tensor linear\.weight"):
        read_xmod(folder, ["en_XX"], ["linear.weight"])
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 51}))
    with pytest.raises(UserError, match=r"word_embeddings.weight has shape \(50, 16\).*\(51, 16\)"):
        read_xmod(folder, ["en_XX"])
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    with pytest.raises(UserError, match="'bert'"):
        read_xmod(folder, ["en_XX"])


@pytest.mark.parametrize("damage", ["truncate", "no safetensors", "pickle", "escape", "no json", "list"])
def test_damaged_checkpoints(saved: tuple[Path, XmodForMaskedLM], damage: str) -> None:
    folder, _ = saved
    weights, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    expected = {"truncate": "it is damaged", "no safetensors": "no checkpoint", "pickle": "never opens"}
    if damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:-100])
    else:
        weights.unlink()
    if damage == "pickle":
        (folder / "pytorch_model.bin").write_bytes(b"x")
    if damage == "escape":
        index.write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    if damage == "no json":
        index.write_text("{")
    if damage == "list":
        index.write_text("[]")
    expected |= {"escape": "no file of its own folder", "no json": "cannot read", "list": "cannot read"}
    with pytest.raises(UserError, match=expected[damage]):
        locate(folder)
