"""Fetching a collection's files, from a server on the loopback: checked, resumed, locked, refused."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from colbertxm.errors import UserError
from colbertxm.evaluation.collections import Request, find, load, remote
from colbertxm.evaluation.collections.registry import at_hand
from colbertxm.evaluation.collections.remote import LOCK, RemoteFile, bring, home

BODY = b"id\ttext\n" * 1000
SHA, MD5 = hashlib.sha256(BODY).hexdigest(), hashlib.md5(BODY, usedforsecurity=False).hexdigest()


@dataclass
class Web:
    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """(path, Range)."""
    break_at: int | None = None
    """Send so many bytes of the next answer, and hang up."""


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    found = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            found.asked.append((self.path, wanted))
            body = found.files.get(self.path)
            if body is None:
                self.send_error(404)
                return
            start = int(wanted.split("=")[1].rstrip("-")) if wanted else 0
            if start >= len(body) and wanted:
                self.send_error(416)
                return
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            stop, found.break_at = found.break_at, None
            self.wfile.write(body[start : None if stop is None else start + stop])

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("COLBERTXM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "WAIT_S", 0.001)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    found.url = f"http://127.0.0.1:{server.server_port}"
    found.files["/a.tsv"] = BODY
    yield found
    server.shutdown()
    server.server_close()


def file(web: Web, checksum: str | None, name: str = "a.tsv") -> RemoteFile:
    return RemoteFile("mmarco", "en", "corpus", f"inner/{name}", len(BODY), checksum, f"{web.url}/{name}")


@pytest.mark.parametrize("checksum", [f"sha256:{SHA}", f"md5:{MD5}", None])
def test_a_file_is_fetched_once_and_its_sum_noted(web: Web, checksum: str | None) -> None:
    folder = bring([file(web, checksum)])
    assert (folder / "inner/a.tsv").read_bytes() == BODY and folder == home("mmarco")
    bring([file(web, checksum)])
    assert len(web.asked) == 1
    assert json.loads((folder / LOCK).read_text())["inner/a.tsv"]["sha256"] == SHA
    assert not list(folder.rglob("*.part"))


def test_another_file_than_the_published_one_is_refused(web: Web) -> None:
    with pytest.raises(UserError, match="as downloaded has sha256 .* not 000000"):
        bring([file(web, f"sha256:{'0' * 64}")])
    assert not list(home("mmarco").rglob("a.tsv*"))


@pytest.mark.parametrize("checksum", [f"md5:{MD5}", None])
def test_a_file_that_changed_is_refused_published_sum_or_not(web: Web, checksum: str | None) -> None:
    place = bring([file(web, checksum)]) / "inner/a.tsv"
    place.write_bytes(BODY.replace(b"t", b"T", 1))
    with pytest.raises(UserError, match="not the file that was published|another file than the one that first came"):
        bring([file(web, checksum)])


def test_a_broken_download_goes_on_where_it_was(web: Web) -> None:
    web.break_at = 100
    folder = bring([file(web, f"sha256:{SHA}")])
    assert (folder / "inner/a.tsv").read_bytes() == BODY
    assert [wanted for _, wanted in web.asked] == [None, "bytes=100-"]


def test_a_file_that_is_not_there_says_where_to_place_it(web: Web) -> None:
    with pytest.raises(UserError, match="HTTP 404.*place it at .*inner/b.tsv, or give folder=FOLDER") as caught:
        bring([file(web, None, "b.tsv")])
    assert "\n" not in str(caught.value) and len(web.asked) == 1


def test_a_whole_collection_from_its_homes(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {
        "corpus": ("google/collections/english_collection.tsv", b"0\tlight\n"),
        "queries": ("google/queries/dev/english_queries.dev.tsv", b"1\twhere\n2\tnot judged\n"),
        "qrels:dev.small": ("qrels.dev.small.tsv", b"1\t0\t0\t1\n"),
    }
    listed = []
    for part, (path, body) in content.items():
        web.files[f"/{path}"] = body
        key = "*" if part.startswith("qrels") else "en"
        listed.append(RemoteFile("mmarco", key, part, path, None, None, f"{web.url}/{path}"))
    monkeypatch.setattr(remote, "sources", lambda: tuple(listed))
    assert at_hand(find("mmarco")) == "nothing yet"
    (found,) = load("mmarco", Request(["en"])).collections
    assert (len(found.queries), len(found.passages), len(found.judgements)) == (1, 1, 1) and len(web.asked) == 3
    assert at_hand(find("mmarco")) == "en"
