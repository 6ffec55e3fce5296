"""Listen and serve until a signal comes: `serve(Settings(...))`."""

from __future__ import annotations

import os
import signal
import socket
import sys
from dataclasses import dataclass, field

import uvicorn

from colbertxm.errors import UserError
from colbertxm.service.app import create_app
from colbertxm.service.limits import KEY, Limits, check_address, is_loopback
from colbertxm.service.served import Served


@dataclass(frozen=True)
class Address:
    """Where to listen. Raises UserError as `check_address` does."""

    host: str = "127.0.0.1"
    port: int = 8080
    without_key: bool = False
    key: str | None = field(default_factory=lambda: os.environ.get(KEY) or None, repr=False)

    def __post_init__(self) -> None:
        check_address(self.host, self.port, self.key, self.without_key)

    def bind(self) -> socket.socket:
        """The socket, before anything slow is loaded: it does not listen yet. Raises UserError where the system
        refuses."""
        try:
            (family, kind, proto, _, where), *_ = socket.getaddrinfo(
                self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            bound = socket.socket(family, kind, proto)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(where)
        except OSError as error:
            raise UserError(
                f"cannot listen on {self.host}:{self.port}: {error.strerror}; give another host= or port="
            ) from error
        return bound


def serve(bound: socket.socket, address: Address, main: Served, compare: Served | None, limits: Limits) -> None:
    """Answer until SIGTERM or SIGINT, then finish what was begun."""
    for served in (main, compare):
        if served is not None:
            served.warm()
    # Names that clients on this machine may use for it; where others are invited without a key, any name is taken.
    hosts = None if not is_loopback(address.host) else ("localhost",)
    app = create_app(main, compare, limits, address.key, hosts)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, lifespan="on", ws="none",
        timeout_graceful_shutdown=int(limits.shutdown_s), timeout_keep_alive=30, proxy_headers=False,
    )  # fmt: skip
    host, port = bound.getsockname()[:2]
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    key = "an API key is asked for" if address.key else f"no API key (set {KEY} to ask for one)"
    print(f"serving http://{place}  {main.snapshot.living} passages, {key}", file=sys.stderr, flush=True)
    # uvicorn gives a signal back when it has finished; by then it has done its work.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config).run([bound])
