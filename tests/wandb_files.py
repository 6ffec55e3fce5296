"""What an offline W&B run logged, read back from its file: protobuf records in LevelDB's log format (a 7-byte file
header, blocks of 32 KiB, each chunk with crc32, length and type: 1 whole, 2 first, 3 middle, 4 last)."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK = 32768


def records(raw: bytes) -> Iterator[bytes]:
    at, parts = 7, b""
    while at + 7 <= len(raw):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", raw, at)
        parts += raw[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


def read(path: Path) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """(logged values by key in order, config) of a run-*.wandb file."""
    history: dict[str, list[Any]] = {}
    config: dict[str, Any] = {}
    for data in records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        for item in record.history.item:
            history.setdefault(item.key or ".".join(item.nested_key), []).append(json.loads(item.value_json))
        for item in (*record.config.update, *record.run.config.update):
            config[item.key] = json.loads(item.value_json)
    return history, config
