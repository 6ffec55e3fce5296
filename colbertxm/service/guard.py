"""What stands before every handler: the key, the size and the time of a body, how many requests at a time, headers.

A browser is a way in, too: a page of another site may send requests to this machine, and may give itself a name that
resolves to it. So a body must be called JSON, an Origin must be our own, and without a key the Host must be an address
of this machine.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Mapping, MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from colbertxm.service.answers import failure
from colbertxm.service.limits import Limits, is_loopback
from colbertxm.service.metrics import Metrics

OPEN = ("/", "/health", "/openapi.json")
"""What needs no key: nothing of the index, the page's own files (/page/...) among them."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
RETRY = {"retry-after": "1"}


class Refused(Exception):
    """An answer instead of what was asked for."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers


class Guard:
    """`app` behind the limits; `key` None asks nobody for one. `hosts` are names that are ours besides addresses of
    the loopback (None: any Host is taken)."""

    def __init__(
        self, app: ASGIApp, limits: Limits, key: str | None, metrics: Metrics, hosts: tuple[str, ...] | None = ()
    ) -> None:
        self.app, self.limits, self.metrics, self.hosts = app, limits, metrics, hosts
        self._key = None if key is None else digest(key)
        self._count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status, begun = time.perf_counter(), 500, False

        async def sending(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                page = scope["path"].startswith("/page/")
                headers.setdefault("cache-control", "no-cache" if page else "no-store")
            await send(message)

        self._count += 1
        try:
            received = await self._admit(scope, receive)
            await self.app(scope, received, sending)
        except Refused as refused:
            if not begun:
                await failure(refused.status, str(refused), refused.headers)(scope, receive, sending)
        except Exception:
            if not begun:  # else it was answered and its traceback printed: the server would print it once more
                raise
        finally:
            self._count -= 1
            self.metrics.request(route(scope), known_method(scope["method"]), status, time.perf_counter() - started)

    async def _admit(self, scope: Scope, receive: Receive) -> Receive:
        """The request's body, ready to be read. Raises Refused."""
        headers, path = Headers(scope=scope), scope["path"]
        if path != "/health" and self._count > self.limits.requests:
            raise Refused(503, "too many requests at a time: come back in a moment", RETRY)
        self._check_host(headers)
        if path not in OPEN and not path.startswith("/page/"):
            self._check_key(headers)
        if scope["method"] != "POST":
            return receive
        if headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            raise Refused(415, "the body must be JSON: send `Content-Type: application/json`")
        if (length := headers.get("content-length", "0")).isdecimal() and int(length[:20]) > self.limits.body_bytes:
            raise Refused(413, self._too_large())
        try:
            body = await asyncio.wait_for(self._body(receive), self.limits.body_s)
        except asyncio.TimeoutError:
            raise Refused(408, f"the body did not arrive within {self.limits.body_s:g} s") from None
        return replay(body, receive)

    def _check_host(self, headers: Headers) -> None:
        host = headers.get("host", "")
        if self._key is None and self.hosts is not None:
            name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
            if not is_loopback(name.strip("[]").lower()) and name not in self.hosts:
                raise Refused(421, f"this service is not called {name[:80]!r}: ask for 127.0.0.1, or set an API key")
        if (origin := headers.get("origin")) is not None and origin.partition("://")[2] != host:
            raise Refused(403, "requests from pages of other sites are refused")

    def _check_key(self, headers: Headers) -> None:
        if self._key is None:
            return
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        # Of hashes: neither the key's length nor where a guess goes wrong shows in the time.
        if not hmac.compare_digest(digest(given), self._key):
            say = "send the API key as `Authorization: Bearer KEY` or `X-API-Key: KEY`"
            raise Refused(401, say, {"www-authenticate": "Bearer"})

    async def _body(self, receive: Receive) -> bytes:
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refused(400, "the client went away")
            part = message.get("body", b"")
            size += len(part)
            if size > self.limits.body_bytes:
                raise Refused(413, self._too_large())
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)

    def _too_large(self) -> str:
        return f"the body has more than {self.limits.body_bytes} bytes: send less at a time"


def digest(key: str) -> bytes:
    """Of a key, whatever characters a client puts into it."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives `body` first."""
    given = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def route(scope: Scope) -> str:
    """The pattern that a request's path fits, `other` where there is none."""
    found = scope.get("route")
    return getattr(found, "path_format", getattr(found, "path", None)) or "other"


def known_method(method: str) -> str:
    """The method, for a counter: one of a few."""
    return method if method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS") else "other"
