"""A collection's files from their homes, each checked: by its published sum, else by the one noted when it first came.

`sources.tsv` beside this file lists them. They lie in `$COLBERTXM_CACHE`/collections/NAME/ under the paths that the
registry looks for, and may be placed there by hand. lock.json beside them holds the sha256 of every file that came:
a file without a published sum is compared with it ever after.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm import tqdm

from colbertxm.errors import UserError
from colbertxm.files import put
from colbertxm.sources import cache_folder

LOCK = "lock.json"
HUB = "https://huggingface.co"
ATTEMPTS, WAIT_S, TIMEOUT_S, BLOCK = 4, 1.0, 60.0, 1 << 20
_FINAL = (400, 401, 403, 404, 410)  # asking again does not help


@dataclass(frozen=True)
class RemoteFile:
    """One line of sources.tsv."""

    collection: str
    key: str
    """A language's code or a data set's name; * where all share the file."""
    part: str
    """queries, qrels (of one split: `qrels:dev`), corpus, squad, archive."""
    path: str
    size: int | None
    checksum: str | None
    """`sha256:...` or `md5:...` as somebody published it; None: nobody did."""
    url: str


@cache
def sources() -> tuple[RemoteFile, ...]:
    """All lines of sources.tsv."""
    found = []
    for line in (Path(__file__).parent / "sources.tsv").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        collection, key, part, path, size, checksum, url = line.split("\t")
        known = None if checksum == "-" else checksum
        found.append(RemoteFile(collection, key, part, path, None if size == "-" else int(size), known, url))
    return tuple(found)


def files_of(collection: str, keys: Sequence[str], split: str | None = None) -> list[RemoteFile]:
    """The files that these languages (or data sets) need for a split."""
    wanted = {*keys, "*"}
    found = [file for file in sources() if file.collection == collection and file.key in wanted]
    return [file for file in found if file.part.partition(":")[2] in ("", split)]


def home(collection: str) -> Path:
    """The folder of a collection's files in the cache."""
    return cache_folder() / "collections" / collection


def bring(files: Sequence[RemoteFile]) -> Path:
    """The folder with `files`, each fetched where it is not there and verified. Raises UserError where one cannot be
    had, or is not what was published or came first."""
    folder = home(files[0].collection)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(str(folder / ".lock")):
            for file in files:
                target = folder / file.path
                if not target.exists():
                    _fetch(file, target)
                _check(file, target, folder)
    except OSError as error:
        raise UserError(
            f"cannot read or write {folder}: {error.strerror or error}; free space, or set COLBERTXM_CACHE"
        ) from error
    return folder


def digest(path: Path, kind: str) -> str:
    """A file's `sha256` or `md5`, in hexadecimal. md5 is what ir_datasets publishes; it guards against accidents."""
    made = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            made.update(block)
    return made.hexdigest()


def _check(file: RemoteFile, target: Path, folder: Path) -> None:
    notes: dict[str, Any] = json.loads((folder / LOCK).read_text()) if (folder / LOCK).exists() else {}
    sha = digest(target, "sha256")
    if file.checksum is not None:
        kind, _, wanted = file.checksum.partition(":")
        if (sha if kind == "sha256" else digest(target, kind)) != wanted:
            raise UserError(
                f"{target} is not the file that was published (its {kind} is not {wanted[:12]}...): delete it and run "
                f"again, or place the right one there ({file.url})"
            )
    first = notes.get(file.path, {}).get("sha256")
    if first is None:
        put(folder / LOCK, json.dumps({**notes, file.path: {"sha256": sha, "url": file.url}}, indent=1).encode())
    elif first != sha:
        raise UserError(
            f"{target} is another file than the one that first came (sha256 {sha[:12]}..., {folder / LOCK} has "
            f"{first[:12]}...): delete it and run again, or delete its line there if its authors renewed it"
        )


def _fetch(file: RemoteFile, target: Path) -> None:
    """Download to a .part, which a broken download leaves and the next goes on with; rename when it is right."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    for attempt in range(ATTEMPTS):
        try:
            _download(file, part)
            break
        except urllib.error.HTTPError as error:
            if error.code in _FINAL or attempt + 1 == ATTEMPTS:
                raise UserError(_refused(file, target, error)) from None
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            if attempt + 1 == ATTEMPTS:
                raise UserError(
                    f"cannot fetch {file.url} ({getattr(error, 'reason', error)}): where there is a network, fetch it "
                    f"and place it at {target}, or give folder=FOLDER with the files"
                ) from None
        time.sleep(WAIT_S * 2**attempt)
    if file.checksum is not None:
        kind, _, wanted = file.checksum.partition(":")
        if (got := digest(part, kind)) != wanted:
            part.unlink()
            raise UserError(
                f"{file.url} as downloaded has {kind} {got[:12]}..., not {wanted[:12]}...: its server has another file "
                f"now; place the right one at {target}"
            )
    os.replace(part, target)


def _download(file: RemoteFile, part: Path) -> None:
    url = file.url
    have = part.stat().st_size if part.exists() else 0
    if url.startswith(HUB):
        url = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/") + url.removeprefix(HUB)
    request = urllib.request.Request(url, headers={"User-Agent": "colbertxm"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    if file.url.startswith(HUB) and (token := _token()):
        # Unredirected: the hub sends large files from other hosts, which must not see it.
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the part is longer than the file, or whole: start anew, which tells
            part.unlink(missing_ok=True)
            error.code = 503
        raise
    with answer, tqdm(total=file.size, initial=have, unit="B", unit_scale=True, desc=part.name, disable=None) as bar:
        goes_on = answer.status == 206
        expected = answer.headers.get("Content-Length")
        got = 0
        with part.open("ab" if goes_on else "wb") as out:
            while block := answer.read(BLOCK):
                out.write(block)
                bar.update(len(block))
                got += len(block)
            out.flush()
            os.fsync(out.fileno())
    if expected is not None and got != int(expected):
        raise ConnectionError(f"the connection ended after {got:,} of {int(expected):,} bytes")


def _token() -> str | None:
    from huggingface_hub import get_token

    return get_token()


def _refused(file: RemoteFile, target: Path, error: urllib.error.HTTPError) -> str:
    why = f"cannot fetch {file.url} (HTTP {error.code})"
    if error.code in (401, 403):
        return f"{why}: accept its terms on the hub and set HF_TOKEN, or place the file at {target}"
    return f"{why}: its server has no such file now; place it at {target}, or give folder=FOLDER with the files"
