"""The hub against a real server on the loopback: only what is needed, resumed, checked, offline the second time."""

from __future__ import annotations

import json
import math
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import hub_server
import pytest
import torch
from hub_server import Hub, Repo
from safetensors.torch import load_file, save_file

from colbertxm.errors import UserError
from colbertxm.model import hub, hub_http, slices
from colbertxm.model.hub import looks_like_hub_name, pull

NAME = "owner/small-xm"
LANGUAGES = ["en_XX", "id_ID", "sw_KE", "de_DE"]


def tensors(languages: list[str] = LANGUAGES) -> dict[str, torch.Tensor]:
    """Named as X-MOD's are, with shapes that make neighbours, gaps and pieces."""
    generator = torch.Generator().manual_seed(1)
    found = {"linear.weight": (8, 16), "roberta.embeddings.word_embeddings.weight": (100, 16)}
    for layer in range(2):
        stem = f"roberta.encoder.layer.{layer}.output"
        found |= {f"{stem}.dense.weight": (16, 16), f"{stem}.LayerNorm.bias": (16,)}
        for lang in languages:
            for part, shape in (("dense1", (8, 16)), ("dense2", (16, 8))):
                found[f"{stem}.adapter_modules.{lang}.{part}.weight"] = shape
                found[f"{stem}.adapter_modules.{lang}.{part}.bias"] = shape[:1]
    return {name: torch.randn(shape, generator=generator) for name, shape in found.items()}


def files(tmp: Path, **more: bytes) -> dict[str, bytes]:
    save_file(tensors(), str(tmp / "made.safetensors"), metadata={"format": "pt"})
    config = {
        "model_type": "xmod",
        "languages": LANGUAGES,
        "default_language": "de_DE",
        "architectures": ["HF_ColBERT"],
    }
    found = {
        "config.json": json.dumps(config, indent=2).replace("\n", "\r\n").encode(),
        "artifact.metadata": b'{"dim": 8}',
        "tokenizer.json": b'{"version": "1.0"}',
        "model.safetensors": (tmp / "made.safetensors").read_bytes(),
        "pytorch_model.bin": b"pickle",
        "custom.py": b"raise SystemExit",
        "README.md": b"# a model",
        "onnx/model.safetensors": b"no",
        "1_Dense/config.json": b"{}",
        "../escape.json": b"{}",
    }
    return {**found, **more}


@pytest.fixture
def served(loopback_hub: Hub, tmp_path: Path) -> Hub:
    """A hub with one small model, and an empty cache."""
    loopback_hub.repos[NAME] = Repo()
    loopback_hub.repos[NAME].commit(files(tmp_path))
    return loopback_hub


def test_a_language_that_was_added_later_is_found_by_its_code() -> None:
    assert hub.adapters_of(["en", "yoruba"], ["en_XX", "de_DE", "yo_XX"], NAME) == ["en_XX", "yo_XX"]
    assert hub.adapters_of(["xx_YY"], ["en_XX", "xx_YY"], NAME) == ["xx_YY"]


def test_names() -> None:
    for good in ("owner/name", "facebook/xmod-base@main", "a/b@refs/pr/1", "a/b.c_d-e@960de71"):
        assert looks_like_hub_name(good), good
    for bad in ("small", "/etc/passwd", "./a/b", "a/b/c", "~/model", "a/../b", "a/b@", "owner/name@../x", "tests/", ""):
        assert not looks_like_hub_name(bad), bad


def test_a_folder_that_is_here_is_no_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert looks_like_hub_name("outputs/model")
    (tmp_path / "outputs/model").mkdir(parents=True)
    assert not looks_like_hub_name("outputs/model")


def test_only_what_is_needed_and_the_second_time_nothing(served: Hub, tmp_path: Path) -> None:
    folder = pull(NAME)
    commit = served.repos[NAME].refs["main"]
    assert folder == tmp_path / "cache" / "hub" / "owner--small-xm" / commit
    wanted = {"config.json", "artifact.metadata", "tokenizer.json", "model.safetensors", "1_Dense/config.json"}
    here = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert here == wanted | {"pulled.json"}
    for path in wanted:
        assert (folder / path).read_bytes() == served.repos[NAME].commits[commit][path]
    record = json.loads((folder / "pulled.json").read_text())
    assert record["commit"] == commit and record["files"]["model.safetensors"]["checked"] == "sha256"
    assert record["files"]["config.json"]["checked"] == "git's sha1"
    asked = len(served.log)
    assert pull(NAME) == pull(NAME, ["en"]) == pull(f"{NAME}@{commit}") == folder
    assert len(served.log) == asked


def test_a_moved_branch_is_followed_only_when_asked(served: Hub, tmp_path: Path) -> None:
    old = pull(NAME)
    new = served.repos[NAME].commit(files(tmp_path, **{"artifact.metadata": b'{"dim": 9}'}))
    assert pull(NAME) == old
    assert pull(NAME, refresh=True).name == new == pull(NAME).name
    assert pull(NAME, revision=old.name) == old


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


@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_a_file_damaged_later_is_refused_by_name(served: Hub, damage: str) -> None:
    folder = pull(NAME, ["en"])
    path = folder / "model.safetensors"
    raw = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        raw[-3] ^= 1
        path.write_bytes(raw[:-1] if damage == "cut" else raw)
    with pytest.raises(UserError, match="model.safetensors is damaged or missing: delete "):
        pull(NAME, ["en"])


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


def test_a_config_that_is_no_json_is_refused(served: Hub, tmp_path: Path) -> None:
    for damaged in (b"{", b"[1]"):
        served.repos[NAME].commit(files(tmp_path, **{"config.json": damaged}))
        with pytest.raises(UserError, match="of owner/small-xm is no JSON object"):
            pull(NAME, ["en"], refresh=True)


def test_languages_that_are_not_there(served: Hub) -> None:
    with pytest.raises(UserError, match="no adapter fr_XX; it has de_DE, en_XX"):
        pull(NAME, ["fr"])
    with pytest.raises(UserError, match="no adapter yo_XX"):
        pull(NAME, ["yo"])
    with pytest.raises(UserError, match="unknown language 'klingon'"):
        pull(NAME, ["klingon"])
    pull(NAME)
    with pytest.raises(UserError, match="no adapter fr_XX; it has de_DE, en_XX"):
        pull(NAME, ["fr"])


def test_a_pickle_is_refused_and_a_repository_without_a_model(served: Hub) -> None:
    served.repos["owner/old"] = Repo()
    served.repos["owner/old"].commit({"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    with pytest.raises(UserError, match="only in pytorch_model.bin, a format that can run code.*refs/pr/1") as caught:
        pull("owner/old")
    assert "\n" not in str(caught.value) and not any("pytorch_model" in path for path in served.files_asked())
    served.repos["owner/data"] = Repo()
    served.repos["owner/data"].commit({"train.csv": b"a"})
    with pytest.raises(UserError, match="owner/data@.* holds no model.safetensors"):
        pull("owner/data")


def test_what_may_not_be_read_says_what_to_do(served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="has no model owner/nothing, or it is private .*HF_TOKEN"):
        pull("owner/nothing")
    with pytest.raises(UserError, match="owner/small-xm has no revision 'v9'"):
        pull(f"{NAME}@v9")
    served.repos[NAME].gated = True
    with pytest.raises(UserError, match="is gated .*accept its conditions"):
        pull(NAME)
    served.repos[NAME].gated, served.repos[NAME].private = False, True
    with pytest.raises(UserError, match="or it is private"):
        pull(NAME)
    monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
    assert pull(NAME).is_dir()
    tokens = {(r.host.split(":")[0], r.token) for r in served.log[-8:] if "/resolve/" in r.path or "/cdn/" in r.path}
    assert tokens == {("127.0.0.1", hub_server.TOKEN), ("localhost", None)}  # the CDN never sees the token
    served.fail = [403]
    with pytest.raises(UserError, match="HTTP 403"):
        pull(f"{NAME}@main", ["en"], refresh=True)


def test_no_network_says_how_to_go_without(served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(UserError, match="cannot reach http://127.0.0.1:1 .*in a folder by hand") as caught:
        pull(NAME)
    assert "\n" not in str(caught.value)


def test_contradicting_revisions_and_no_name(served: Hub) -> None:
    with pytest.raises(UserError, match="contradict"):
        pull(f"{NAME}@a", revision="b")
    with pytest.raises(UserError, match="'small' is no name"):
        pull("small")


def test_known_models_have_a_revision(served: Hub) -> None:
    assert hub.REVISIONS.keys() == {"facebook/xmod-base", "antoinelouis/colbert-xm", "antoinelouis/dpr-xm"}
    with pytest.raises(UserError):
        pull("antoinelouis/colbert-xm")
    assert served.log[-1].path.endswith("/antoinelouis/colbert-xm/revision/960de711799d210957d18df59c14c59a439b608a")


def test_a_disk_that_refuses_is_one_line(served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COLBERTXM_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot read or write .*COLBERTXM_CACHE"):
        pull(NAME)


def test_a_complete_cache_may_be_read_only(served: Hub, tmp_path: Path) -> None:
    folder = pull(NAME, ["en"])
    for path in (folder, folder.parent):
        path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert pull(NAME, ["en"]) == folder
    finally:
        for path in (folder, folder.parent):
            path.chmod(stat.S_IRWXU)


def test_two_processes_fetch_once(served: Hub, tmp_path: Path) -> None:
    code = f"from colbertxm.model.hub import pull; print(pull({NAME!r}, ['en']))"
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=60)[0].strip() for process in started]
    assert said[0] == said[1] and Path(said[0]).is_dir()
    time.sleep(0.05)
    assert served.files_asked().count(f"/{NAME}/resolve/{Path(said[0]).name}/config.json") == 1


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


def test_the_server_speaks_the_protocol_of_the_real_client(served: Hub, tmp_path: Path) -> None:
    """The stand-in is held against huggingface_hub's own download."""
    from huggingface_hub import hf_hub_download

    for path in ("config.json", "model.safetensors"):
        got = hf_hub_download(NAME, path, endpoint=served.url, local_dir=tmp_path / "theirs")
        assert Path(got).read_bytes() == served.repos[NAME].commits[served.repos[NAME].refs["main"]][path]
