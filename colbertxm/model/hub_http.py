"""The hub over HTTP: what a repository holds, whole files with resume, byte ranges of files.

huggingface_hub answers for what it does well: the repository's listing, the token ($HF_TOKEN or a saved login),
proxies, errors with a type. Its downloads are not used, because they check no checksum, cannot read a part of a file,
and lay files out behind symbolic links. `HF_ENDPOINT` names another hub.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from colbertxm.errors import UserError
from colbertxm.sources import sha256

T = TypeVar("T")
Advance = Callable[[int], Any]
"""Called with the number of bytes that have arrived."""

ATTEMPTS = 5
FIRST_WAIT_S = 0.5
TIMEOUT_S = 30.0
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # the same request may succeed a moment later


class NoRanges(Exception):
    """The server sent the whole file where a part was asked for."""


class Broken(Exception):
    """The connection ended before the bytes that it had promised."""


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository at one commit. Large files have a sha256, the others git's own sha1."""

    path: str
    url: str
    size: int
    sha256: str | None
    blob: str | None

    def matches(self, path: Path) -> bool:
        """Whether a local file is this one, by the strongest checksum that the hub gives."""
        if path.stat().st_size != self.size:
            return False
        if self.sha256 is not None:
            return sha256(path) == self.sha256
        return self.blob is None or _git_blob(path) == self.blob


@dataclass(frozen=True)
class Repository:
    """A repository at one commit."""

    name: str
    commit: str
    files: dict[str, RemoteFile]


def endpoint() -> str:
    """$HF_ENDPOINT, or the public hub. Read at each call: huggingface_hub reads it once, when it is imported."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def look_up(name: str, revision: str) -> Repository:
    """The repository's files at `revision` (branch, tag, refs/pr/N or commit), which is resolved to its commit."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint(), library_name="colbertxm")
    with explained(name, revision):
        info = retrying(lambda: api.model_info(name, revision=revision, files_metadata=True, timeout=TIMEOUT_S))
    commit = str(info.sha)
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise UserError(f"{endpoint()} names no commit for {name}@{revision} ({commit!r}): is HF_ENDPOINT a hub?")
    files = {}
    for found in info.siblings or []:
        path = found.rfilename
        url = f"{endpoint()}/{name}/resolve/{commit}/{quote(path)}"
        digest = found.lfs.sha256 if found.lfs else None
        files[path] = RemoteFile(path, url, int(found.size or 0), digest, None if digest else found.blob_id)
    return Repository(name, commit, files)


def download(file: RemoteFile, target: Path, advance: Advance) -> None:
    """Fetch a whole file to `target`: into a .part that a broken or killed download leaves and the next one goes on
    with, checked against the hub's checksum, then renamed. A file that is there already is kept."""
    if target.exists() and file.matches(target):
        advance(file.size)
        return
    part = target.with_name(target.name + ".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    if part.exists():
        advance(part.stat().st_size)
    retrying(lambda: _continue(file, part, advance))
    if not file.matches(part):
        part.unlink()
        raise UserError(
            f"{file.path} as downloaded is not the file that {file.url} promises (its checksum differs): try again; if "
            "that does not help, a proxy or mirror changes it"
        )
    os.replace(part, target)


def read_range(file: RemoteFile, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of a file. Raises NoRanges where the server ignores the Range header, and HTTP errors."""
    return retrying(lambda: _read_range(file, start, stop))


def retrying(action: Callable[[], T]) -> T:
    """`action`, again after growing waits while it fails for a reason that may pass."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(FIRST_WAIT_S * 2 ** (attempt - 1))
        try:
            return action()
        except HfHubHTTPError as error:
            last: Exception = error
            if _status(error) not in _PASSING:
                raise
        except (HTTPError, Broken) as error:
            last = error
    raise last


@contextlib.contextmanager
def explained(name: str, revision: str) -> Iterator[None]:
    """Turns what the hub and the network may answer into one line that says what to do."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(
            f"{name} is gated (HTTP {_status(error)}): accept its conditions at {endpoint()}/{name} and set "
            "HF_TOKEN to a token of that account"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{name} has no revision {revision!r}: {endpoint()}/{name}/commits/main lists them") from None
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{endpoint()} has no model {name}, or it is private (HTTP {_status(error)}): check the spelling (a local "
            "folder must exist under the name given), or set HF_TOKEN to a token that may read it"
        ) from None
    except errors.HFValidationError as error:
        raise UserError(f"{name}@{revision} is no name that the hub takes: {error}") from None
    except errors.HfHubHTTPError as error:
        raise UserError(_refused(name, error)) from None
    except (errors.HTTPError, errors.OfflineModeIsEnabled, Broken) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"cannot reach {endpoint()} for {name} ({reason}): run again where there is a network (what has arrived is "
            f"kept), or place config.json, tokenizer.json, model.safetensors and the other .json files of "
            f"{endpoint()}/{name}/tree/{revision} in a folder by hand and give that folder instead of the name"
        ) from None


def _refused(name: str, error: Any) -> str:
    """An HTTP status that is neither a missing repository nor a missing revision."""
    status = _status(error)
    if status == 401:
        return f"{endpoint()} refuses the token (HTTP 401) for {name}: set HF_TOKEN to a valid one, or unset it"
    if status == 403:
        return f"{endpoint()} does not let this token do that with {name} (HTTP 403): use a token with the right to"
    if status == 429:
        return f"{endpoint()} asks for fewer requests (HTTP 429): wait some minutes, or set HF_TOKEN"
    return f"{endpoint()} answered HTTP {status} for {name}: try again later; what has arrived is kept"


def _status(error: Any) -> int:
    response = getattr(error, "response", None)
    return int(response.status_code) if response is not None else 0


@contextlib.contextmanager
def _get(url: str, byte_range: str | None) -> Iterator[Any]:
    """A streamed GET, redirects followed; the client drops the token when it is sent on to another host."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    # identity: a compressed answer would have other lengths than those that the hub lists.
    headers = {**build_hf_headers(library_name="colbertxm"), "Accept-Encoding": "identity"}
    if byte_range:
        headers["Range"] = byte_range
    with get_session().stream("GET", url, headers=headers, follow_redirects=True, timeout=TIMEOUT_S) as response:
        if response.status_code not in (200, 206, 416):
            response.read()
            hf_raise_for_status(response)
        yield response


def _continue(file: RemoteFile, part: Path, advance: Advance) -> None:
    """Append what `part` lacks. A server that sends everything again makes it start anew."""
    have = part.stat().st_size if part.exists() else 0
    if have > file.size:
        part.unlink()
        advance(-have)
        have = 0
    if have == file.size and have:
        return
    with _get(file.url, f"bytes={have}-" if have else None) as response:
        if have and (response.status_code != 206 or not _starts_at(response, have)):
            advance(-have)
            have = 0
            if response.status_code != 200:
                part.unlink()
                raise Broken(f"HTTP {response.status_code} to a resumed download")
        with part.open("ab" if have else "wb") as out:
            for block in response.iter_bytes():  # as it comes: what a broken connection has brought is not lost
                out.write(block)
                advance(len(block))
            out.flush()
            os.fsync(out.fileno())
    if part.stat().st_size < file.size:
        raise Broken(f"{file.path} ended after {part.stat().st_size} of {file.size} bytes")


def _starts_at(response: Any, start: int) -> bool:
    return str(response.headers.get("Content-Range", "")).startswith(f"bytes {start}-")


def _read_range(file: RemoteFile, start: int, stop: int) -> bytes:
    with _get(file.url, f"bytes={start}-{stop - 1}") as response:
        if response.status_code == 200:
            raise NoRanges(file.path)
        said = str(response.headers.get("Content-Range", ""))
        if response.status_code != 206 or said != f"bytes {start}-{stop - 1}/{file.size}":
            raise Broken(f"{file.path}: asked for bytes {start}-{stop - 1}/{file.size}, the server sent {said!r}")
        data = b"".join(response.iter_bytes())
    if len(data) != stop - start:
        raise Broken(f"{file.path}: {len(data)} of {stop - start} bytes arrived")
    return data


def _git_blob(path: Path) -> str:
    """git's name of a file's content: sha1 over `blob SIZE\\0` and the bytes. A checksum against accidents alone."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
