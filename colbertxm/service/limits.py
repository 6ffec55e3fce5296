"""What one request may ask for, how many may wait, and where the service listens."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, fields

from colbertxm.errors import UserError

KEY = "COLBERTXM_API_KEY"
"""The environment variable with the API key: an argument would stand in every list of processes."""
SHORTEST_KEY = 16  # characters: a shorter one is guessed over a network in days


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, characters and counts, times in seconds. Raises UserError for one that is not positive."""

    body_bytes: int = 2**20
    query_chars: int = 2_000
    text_chars: int = 20_000
    id_chars: int = 256
    k: int = 100
    documents: int = 256
    """Of one request."""
    indexed: int = 10_000_000
    """Of the index; those that are replaced do not count twice."""
    filter_ids: int = 1_000
    requests: int = 256
    """In progress at a time, of all kinds."""
    searches: int = 64
    """Waiting or being searched; a match view waits in a line of the same length."""
    updates: int = 8
    body_s: float = 10.0
    """To receive a body in."""
    search_s: float = 10.0
    update_s: float = 120.0
    shutdown_s: float = 30.0
    batch: int = 32
    """Queries that are encoded together."""
    batch_ms: float = 2.0
    """How long the first of them waits for others."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0 and not (field.name == "batch_ms" and value == 0):
                raise UserError(f"limits.{field.name}={value} must be more than 0")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_address(host: str, port: int, key: str | None, without_key: bool) -> None:
    """Raises UserError for a port that is none, a key that is easily guessed, and for listening to other machines
    without a key."""
    if not 0 <= port <= 65_535:
        raise UserError(f"port={port} is no port: give 1 to 65535, or 0 for any that is free")
    if key is not None and (len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key):
        raise UserError(
            f"{KEY} must have at least {SHORTEST_KEY} ASCII characters without spaces: "
            'make one with `python -c "import secrets; print(secrets.token_urlsafe(32))"`'
        )
    if key is None and not is_loopback(host) and not without_key:
        raise UserError(
            f"host={host} lets other machines search and change the index: set {KEY} in the environment, "
            "or say without_key=true"
        )
