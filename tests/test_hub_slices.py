"""Bytes on the way: parts of files by range, resumed where they stopped, checked where they arrive."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch
from hub_files import LANGUAGES, NAME, files, tensors
from hub_server import Hub, Repo
from safetensors.torch import load_file, save_file

from colbertxm.errors import UserError
from colbertxm.model import hub, hub_http, slices
from colbertxm.model.hub import pull


def test_two_languages_are_a_part_of_the_file(served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "PIECE", 1000)
    folder = pull(NAME, ["en", "swahili"])
    expected = {n: t for n, t in tensors().items() if "adapter_modules" not in n or "en_XX" in n or "sw_KE" in n}
    found = load_file(folder / "model.safetensors")
    assert found.keys() == expected.keys() and all(torch.equal(found[n], expected[n]) for n in expected)
    config = json.loads((folder / "config.json").read_text())
    assert config["languages"] == ["en_XX", "sw_KE"] and config["default_language"] is None
    record = json.loads((folder / "pulled.json").read_text())
    whole = len(served.repos[NAME].commits[folder.name]["model.safetensors"])
    data = sum(t.numel() * 4 for t in expected.values())
    header = whole - sum(t.numel() * 4 for t in tensors().values())
    assert record["fetched"] == data + header and record["weights_bytes"] == whole
    assert set(record["tensors"]) == set(expected) and record["adapters"] == ["en_XX", "sw_KE"]
    assert "lengths" in record["files"]["model.safetensors"]["checked"]
    small = sum(noted["bytes"] for p, noted in record["files"].items() if p not in ("model.safetensors", "config.json"))
    original = len(served.repos[NAME].commits[folder.name]["config.json"])
    assert served.sent == data + header + small + original  # not one byte more went over the wire
    asked = len(served.log)
    assert pull(NAME, ["sw"]) == folder and len(served.log) == asked


def test_a_language_added_later_fetches_only_its_adapters(served: Hub) -> None:
    folder = pull(NAME, ["sw"])
    before = served.sent
    assert pull(NAME, ["de"]) == folder
    adapter = sum(t.numel() * 4 for n, t in tensors().items() if ".de_DE." in n)
    whole = served.repos[NAME].commits[folder.name]["model.safetensors"]
    header = 8 + int.from_bytes(whole[:8], "little")
    assert served.sent - before == adapter + header
    expected = {n: t for n, t in tensors().items() if "adapter_modules" not in n or "de_DE" in n or "sw_KE" in n}
    found = load_file(folder / "model.safetensors")
    assert found.keys() == expected.keys() and all(torch.equal(found[n], expected[n]) for n in expected)
    config = json.loads((folder / "config.json").read_text())
    assert config["languages"] == ["sw_KE", "de_DE"] and config["default_language"] == "de_DE"
    pull(NAME)  # and then all of it
    assert (folder / "model.safetensors").read_bytes() == whole
    assert (folder / "config.json").read_bytes() == served.repos[NAME].commits[folder.name]["config.json"]


def test_shards_are_read_by_range_too(served: Hub, tmp_path: Path) -> None:
    commit = {k: v for k, v in files(tmp_path).items() if k != "model.safetensors"}
    names = sorted(tensors())
    weight_map = {}
    for number, part in enumerate((names[:9], names[9:]), 1):
        shard = f"model-0000{number}-of-00002.safetensors"
        save_file({n: tensors()[n] for n in part}, str(tmp_path / shard))
        commit[shard] = (tmp_path / shard).read_bytes()
        weight_map |= dict.fromkeys(part, shard)
    commit["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    served.repos["owner/shards"] = Repo()
    served.repos["owner/shards"].commit(commit)
    folder = pull("owner/shards", ["en"])
    found = load_file(folder / "model.safetensors")
    expected = {n: t for n, t in tensors().items() if "adapter_modules" not in n or "en_XX" in n}
    assert found.keys() == expected.keys() and all(torch.equal(found[n], expected[n]) for n in expected)
    assert not (folder / "model.safetensors.index.json").exists()
    pull("owner/shards")
    assert not (folder / "model.safetensors").exists()
    assert load_file(folder / "model-00002-of-00002.safetensors").keys() == set(names[9:])
    assert json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"] == weight_map


def test_a_server_without_ranges_sends_the_whole_file(served: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    served.ranges = False
    folder = pull(NAME, ["en"])
    said = capsys.readouterr().err
    assert said.count("gives no parts of files: fetching all of owner/small-xm") == 1
    assert load_file(folder / "model.safetensors").keys() == tensors().keys()
    assert json.loads((folder / "config.json").read_text())["languages"] == LANGUAGES


@pytest.mark.parametrize("languages", [None, ["en", "sw"]])
def test_broken_connections_and_a_busy_server_are_tried_again(served: Hub, languages: list[str] | None) -> None:
    served.fail, served.cut = [503, 500], [900, 300]
    folder = pull(NAME, languages)
    found = load_file(folder / "model.safetensors")
    assert all(torch.equal(found[name], tensors()[name]) for name in found)
    assert not served.cut and not served.fail
    assert not list(folder.glob("*.part*"))


def test_a_broken_download_goes_on_where_it_stopped(served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_http, "ATTEMPTS", 1)
    served.cut = [5000]
    with pytest.raises(UserError, match="ended after 5000 of|peer closed connection"):
        pull(NAME)
    before = served.sent
    folder = pull(NAME)
    whole = served.repos[NAME].commits[folder.name]["model.safetensors"]
    assert served.sent - before == len(whole) - 5000
    assert (folder / "model.safetensors").read_bytes() == whole


def test_a_killed_range_download_goes_on_where_it_stopped(served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "PIECE", 2000)
    monkeypatch.setattr(slices, "THREADS", 1)
    real, calls = hub_http.read_range, []

    def dies(file: hub_http.RemoteFile, begin: int, end: int) -> bytes:
        calls.append((begin, end))
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(file, begin, end)

    monkeypatch.setattr(hub_http, "read_range", dies)
    with pytest.raises(KeyboardInterrupt):
        pull(NAME, ["en"])
    done = calls[2:5]
    calls[:] = [(0, 0)] * 10
    folder = pull(NAME, ["en"])
    assert len(done) == 3 and not set(done) & set(calls)
    found = load_file(folder / "model.safetensors")
    assert all(torch.equal(found[name], tensors()[name]) for name in found) and len(found) == 14


def test_a_changed_byte_on_the_way_is_refused(served: Hub) -> None:
    served.flip = True
    with pytest.raises(UserError, match="is not the file that .* promises \\(its checksum differs\\)"):
        pull(NAME)
    assert not list((Path(os.environ["COLBERTXM_CACHE"])).rglob("pulled.json"))


def test_a_damaged_header_is_refused(served: Hub, tmp_path: Path) -> None:
    good = files(tmp_path)["model.safetensors"]
    length = int.from_bytes(good[:8], "little")
    for damaged in (
        good[:-4],
        good[:8] + b"[" + good[9:],
        b"\xff" * 8 + good[8:],
        good.replace(b"F32", b"F16", 1),
        b"x",
    ):
        served.repos[NAME].commit(files(tmp_path, **{"model.safetensors": damaged}))
        with pytest.raises(UserError, match=r"model.safetensors (is no|has) "):
            pull(NAME, ["en"], refresh=True)
    assert length > 0


def test_other_bytes_than_those_asked_for_are_refused(served: Hub) -> None:
    served.shift = 4
    with pytest.raises(UserError, match="the server sent 'bytes 4-11/"):
        pull(NAME, ["en"])


def test_the_size_of_two_languages_of_colbert_xm() -> None:
    """The real file's tensors, from its config (no weights): what pull would ask for, header included."""
    from colbertxm.languages import ADAPTERS
    from colbertxm.model.xmod import Xmod, XmodConfig

    with torch.device("meta"):
        model = Xmod(XmodConfig(vocab_size=250002, languages=ADAPTERS))
    shapes = {f"roberta.{name}": tuple(p.shape) for name, p in model.named_parameters()}
    shapes |= {"linear.weight": (128, 768)}
    shapes |= {"roberta.pooler.dense.weight": (768, 768), "roberta.pooler.dense.bias": (768,)}
    slots, at = [], 0
    for name, shape in sorted(shapes.items()):
        slots.append(slices.Slot(name, "model.safetensors", "F32", shape, at, at := at + 4 * math.prod(shape)))
    assert at == 852_570_624 * 4
    wanted = [s for s in slots if (a := hub._ADAPTER.search(s.name)) is None or a[1] in ("en_XX", "sw_KE")]
    fetched = list(slices.pieces(wanted, 0, lambda slot: True))
    asked = sum(piece.end - piece.begin for piece in fetched)
    assert asked == 1_169_301_504 and asked + len(slices.new_header(slots)) < 1.2e9
    assert len(fetched) < 150 and max(piece.end - piece.begin for piece in fetched) <= slices.PIECE
