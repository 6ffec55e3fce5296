"""What an offline W&B run logged, read back from its file: protobuf records in LevelDB's log format (a 7-byte file
header, blocks of 32 KiB, each chunk with crc32, length and type: 1 whole, 2 first, 3 middle, 4 last)."""

from __future__ import annotations

import json
import struct
import time
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


def parsed(raw: bytes) -> Iterator[Any]:
    for data in records(raw):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        yield record


def run_of(folder: Path) -> Path:
    """The file of the one run under `folder`, which W&B's own process makes."""
    until = time.monotonic() + 60
    while not (found := list(folder.glob("wandb/offline-run-*/run-*.wandb"))) and time.monotonic() < until:
        time.sleep(0.1)
    (path,) = found
    return path


def read(path: Path) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """(logged values by key in order, config) of a run-*.wandb file. W&B's own process writes it, and may still do so
    when `finish()` has returned: this waits for the record that a run has ended, which is the last."""
    until = time.monotonic() + 60
    while not any(record.HasField("exit") for record in parsed(path.read_bytes())):
        if time.monotonic() > until:
            raise AssertionError(f"{path} has no record of the run's end")
        time.sleep(0.1)
    history: dict[str, list[Any]] = {}
    config: dict[str, Any] = {}
    for record in parsed(path.read_bytes()):
        for item in record.history.item:
            history.setdefault(item.key or ".".join(item.nested_key), []).append(json.loads(item.value_json))
        for item in (*record.config.update, *record.run.config.update):
            config[item.key] = json.loads(item.value_json)
    return history, config
