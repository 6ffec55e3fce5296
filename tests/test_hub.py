"""Names and folders: only what is needed, offline the second time, and what is refused in one line."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import time
from pathlib import Path

import hub_server
import pytest
from hub_files import NAME, files
from hub_server import Hub, Repo

from colbertxm.errors import UserError
from colbertxm.model import hub
from colbertxm.model.hub import looks_like_hub_name, pull


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


def test_the_server_speaks_the_protocol_of_the_real_client(served: Hub, tmp_path: Path) -> None:
    """The stand-in is held against huggingface_hub's own download."""
    from huggingface_hub import hf_hub_download

    for path in ("config.json", "model.safetensors"):
        got = hf_hub_download(NAME, path, endpoint=served.url, local_dir=tmp_path / "theirs")
        assert Path(got).read_bytes() == served.repos[NAME].commits[served.repos[NAME].refs["main"]][path]
