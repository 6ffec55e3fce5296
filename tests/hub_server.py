"""A hub on the loopback: the part of the Hugging Face hub's HTTP protocol that reading and publishing a model takes.

Model info with sizes and checksums, HEAD and GET with ETag, commit and Range, redirects of large files to another host
name (as the real hub sends them to its CDN), create, preupload, LFS batch, PUT and verify, commit. Every request is
kept in `log`. Faults to order: `ranges = False` (sends everything), `cut = [n, ...]` (each breaks one body after n
bytes), `fail = [503, ...]` (each answers one request for a file), `flip` (one bit of a body), `shift` (other bytes than
those asked for), `read_only` tokens.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_loopback"


@dataclass
class Repo:
    """Files of each commit, and what branches point to."""

    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def commit(self, files: dict[str, bytes], ref: str = "main") -> str:
        content = b"".join(name.encode() + hashlib.sha256(files[name]).digest() for name in sorted(files))
        sha = hashlib.sha1(content).hexdigest()
        self.commits[sha], self.refs[ref] = dict(files), sha
        return sha


@dataclass
class Request:
    method: str
    path: str
    range: str | None
    token: str | None
    host: str


def is_lfs(path: str) -> bool:
    return path.endswith((".safetensors", ".bin", "tokenizer.json"))


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.log: list[Request] = []
        self.sent = 0  # bytes of files
        self.ranges, self.flip, self.shift, self.read_only = True, False, 0, False
        self.cut: list[int] = []
        self.fail: list[int] = []
        self.lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""

    def files_asked(self) -> list[str]:
        return [r.path for r in self.log if "/resolve/" in r.path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.route()

    do_HEAD = do_POST = do_PUT = do_GET

    def route(self) -> None:
        hub, path = self.server, unquote(urlsplit(self.path).path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        with hub.lock:
            hub.log.append(Request(self.command, path, self.headers.get("Range"), token, self.headers["Host"]))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self.chunks()
        for pattern, action in ROUTES:
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                action(self, token, body, *found.groups())
                return
        self.error(404, "EntryNotFound")

    def chunks(self) -> bytes:
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def answer(self, content: Any, status: int = 200, **headers: str) -> None:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(raw)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def error(self, status: int, code: str) -> None:
        self.answer({"error": code}, status, X_Error_Code=code)

    def readable(self, name: str, token: str | None) -> Repo | None:
        repo = self.server.repos.get(name)
        if repo is None or (repo.private and token != TOKEN):
            self.error(404 if token == TOKEN else 401, "RepoNotFound")
            return None
        if repo.gated and token != TOKEN:
            self.error(401, "GatedRepo")
            return None
        return repo

    def info(self, token: str | None, body: bytes, name: str, revision: str | None) -> None:
        if repo := self.readable(name, token):
            sha = repo.refs.get(revision or "main", revision or "")
            if sha not in repo.commits:
                return self.error(404, "RevisionNotFound")
            siblings = []
            for path, data in repo.commits[sha].items():
                blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
                entry = {"rfilename": path, "size": len(data), "blobId": blob}
                if is_lfs(path):
                    digest = hashlib.sha256(data).hexdigest()
                    entry["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 134}
                siblings.append(entry)
            info = {"id": name, "sha": sha, "siblings": siblings, "private": repo.private, "tags": [], "downloads": 0}
            self.answer(info, Content_Type="application/json")

    def resolve(self, token: str | None, body: bytes, name: str, revision: str, path: str) -> None:
        if self.server.fail:
            return self.error(self.server.fail.pop(0), "Ordered")
        if repo := self.readable(name, token):
            sha = repo.refs.get(revision, revision)
            if sha not in repo.commits:
                return self.error(404, "RevisionNotFound")
            if path not in repo.commits[sha]:
                return self.error(404, "EntryNotFound")
            data = repo.commits[sha][path]
            etag = hashlib.sha256(data).hexdigest() if is_lfs(path) else hashlib.sha1(data).hexdigest()
            headers = {"ETag": f'"{etag}"', "X_Repo_Commit": sha}
            if not is_lfs(path):
                return self.send_file(data, headers)
            self.server.objects[etag] = data
            headers |= {"X_Linked_Size": str(len(data)), "X_Linked_Etag": f'"{etag}"'}
            self.answer(b"", 302, Location=f"http://localhost:{self.server.server_port}/cdn/{etag}", **headers)

    def cdn(self, token: str | None, body: bytes, digest: str) -> None:
        self.send_file(self.server.objects[digest], {"ETag": f'"{digest}"'})

    def send_file(self, data: bytes, headers: dict[str, str]) -> None:
        hub, status, size = self.server, 200, len(data)
        if hub.ranges and (found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")):
            begin, end = int(found[1]) + hub.shift, min(int(found[2] or size - 1), size - 1) + hub.shift
            if begin >= size:
                return self.error(416, "Range")
            data, status = data[begin : end + 1], 206
            headers["Content_Range"] = f"bytes {begin}-{end}/{size}"
        if self.command == "HEAD":
            self.answer(data, 200, **headers)
            return
        if hub.flip and data:
            data = bytes([data[0] ^ 1]) + data[1:]
        keep = hub.cut.pop(0) if hub.cut and hub.cut[0] < len(data) else len(data)
        with hub.lock:
            hub.sent += keep
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data[:keep])
        if keep < len(data):
            self.close_connection = True

    def create(self, token: str | None, body: bytes) -> None:
        asked = json.loads(body)
        if self.may_write(token):
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.server.repos:
                return self.answer({"url": f"{self.server.url}/{name}"}, 409)
            private = bool(asked.get("private")) or asked.get("visibility") == "private"
            self.server.repos[name] = Repo(private=private)
            self.server.repos[name].commit({".gitattributes": b""})
            self.answer({"url": f"{self.server.url}/{name}"})

    def may_write(self, token: str | None) -> bool:
        if token != TOKEN:
            self.error(401, "Unauthorized")
        elif self.server.read_only:
            self.error(403, "Forbidden")
        return token == TOKEN and not self.server.read_only

    def preupload(self, token: str | None, body: bytes, name: str, revision: str) -> None:
        if self.may_write(token):
            files = [
                {"path": f["path"], "uploadMode": "lfs" if is_lfs(f["path"]) else "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            self.answer({"files": files})

    def batch(self, token: str | None, body: bytes, name: str) -> None:
        if self.may_write(token):
            found = []
            for wanted in json.loads(body)["objects"]:
                actions = {
                    "upload": {"href": f"{self.server.url}/put/{wanted['oid']}", "header": {}},
                    "verify": {"href": f"{self.server.url}/verify", "header": {}},
                }
                found.append({**wanted, "actions": actions})
            self.answer({"transfer": "basic", "objects": found})

    def put(self, token: str | None, body: bytes, digest: str) -> None:
        assert hashlib.sha256(body).hexdigest() == digest
        self.server.objects[digest] = body
        self.answer(b"")

    def verify(self, token: str | None, body: bytes) -> None:
        asked = json.loads(body)
        kept = self.server.objects.get(asked["oid"])
        self.answer(b"", 200 if kept is not None and len(kept) == asked["size"] else 404)

    def commit(self, token: str | None, body: bytes, name: str, revision: str) -> None:
        if self.may_write(token):
            repo = self.server.repos[name]
            files = dict(repo.commits[repo.refs["main"]])
            for line in body.splitlines():
                said = json.loads(line)
                value = said["value"]
                if said["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif said["key"] == "lfsFile":
                    files[value["path"]] = self.server.objects[value["oid"]]
            sha = repo.commit(files, revision)
            self.answer({"commitUrl": f"{self.server.url}/{name}/commit/{sha}", "commitOid": sha})

    def validate(self, token: str | None, body: bytes) -> None:
        self.answer({"errors": [], "warnings": []})


_REPO = r"([^/]+/[^/]+?)"
ROUTES: list[tuple[str, Any]] = [
    (rf"GET /api/models/{_REPO}(?:/revision/(.+))?", Handler.info),
    (rf"(?:GET|HEAD) /{_REPO}/resolve/(refs/pr/\d+|[^/]+)/(.+)", Handler.resolve),
    (r"(?:GET|HEAD) /cdn/(\w+)", Handler.cdn),
    (r"POST /api/repos/create", Handler.create),
    (rf"POST /api/models/{_REPO}/preupload/(.+)", Handler.preupload),
    (rf"POST /{_REPO}\.git/info/lfs/objects/batch", Handler.batch),
    (r"PUT /put/(\w+)", Handler.put),
    (r"POST /verify", Handler.verify),
    (rf"POST /api/models/{_REPO}/commit/(.+)", Handler.commit),
    (r"POST /api/validate-yaml", Handler.validate),
]


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that runs until the block ends."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
