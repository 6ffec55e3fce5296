"""The service under load: a real server, 16 clients for 60 seconds on the loopback: `make bench-service`.

    make bench-service                                        # model `small`, smart_home's passages in five languages
    make bench-service ARGS='--model outputs/train/multi_vector/model --bits none --clients 1'

Each client asks, waits for the answer, and asks again at once, over one connection: queries of smart_home's test half
in their languages, a quarter of them with `auto`, passages of all languages, ten hits. Clients and server share the
machine, so a client's work is in the figures. Written: benchmarks/results/service.json.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import row, write
from colbertxm.errors import UserError
from colbertxm.records import Text

LANGS = "en,de,es,fr,ja"
WARM_S = 5.0
START_S = 300.0


def prepare(folder: Path, model: Path | None, langs: Sequence[str], bits: int | None) -> tuple[Path, Path, int]:
    """Model folder, index folder, number of passages."""
    from colbertxm.model.checkpoints import build_encoder, load_model, save_model
    from colbertxm.model.tokens import TokenSettings
    from colbertxm.retriever import Retriever
    from colbertxm.stages import smart_home

    if model is None:
        tokens = TokenSettings("query: ", "passage: ", skip_prefix=True)
        encoder = build_encoder("small", langs, tokens, "multi", 128, 42)
        model = folder / "small" / "model"
        save_model(model, encoder.eval(), {})
    encoder = load_model(model).eval()
    home = smart_home()
    passages = [passage for lang in langs for passage in home.collection("test", lang, lang).passages]
    print(f"indexing {len(passages)} passages", file=sys.stderr, flush=True)
    Retriever(encoder).write(folder / "index", passages, {}, bits=bits)
    return model, folder / "index", len(passages)


def queries(langs: Sequence[str]) -> list[Text]:
    """Of smart_home's test half."""
    from colbertxm.stages import smart_home

    home = smart_home()
    return [query for lang in langs for query in home.collection("test", lang, lang).queries]


@contextlib.contextmanager
def server(model: Path, index: Path, log: Path) -> Iterator[int]:
    """The port of a running service."""
    environment = {name: value for name, value in os.environ.items() if name != "COLBERTXM_API_KEY"}
    command = [sys.executable, "-m", "colbertxm.serve", f"checkpoint={model.resolve()}", f"index={index}", "port=0"]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, cwd=log.parent)
    try:
        until = time.monotonic() + START_S
        while not (found := re.search(r"serving http://127\.0\.0\.1:(\d+)", log.read_text())):
            if process.poll() is not None or time.monotonic() > until:
                raise UserError(f"the service did not start: {' '.join(log.read_text().split())[-300:]}")
            time.sleep(0.1)
        yield int(found[1])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


class Client(threading.Thread):
    """Asks until `until`; milliseconds of each answer after `since`, and what went wrong."""

    def __init__(self, port: int, asked: Sequence[Text], seed: int, since: float, until: float) -> None:
        super().__init__()
        self.port, self.asked, self.draw, self.since, self.until = port, asked, random.Random(seed), since, until
        self.ms: list[float] = []
        self.errors: list[str] = []

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while (started := time.perf_counter()) < self.until:
            query = self.draw.choice(self.asked)
            lang = "auto" if self.draw.random() < 0.25 else query.lang
            try:
                body = json.dumps({"query": query.text, "lang": lang, "k": 10})
                connection.request("POST", "/search", body, {"content-type": "application/json"})
                answer = connection.getresponse()
                found = json.loads(answer.read())
                good = answer.status == 200 and len(found["hits"]) == 10
            except (OSError, http.client.HTTPException, ValueError) as error:
                good, found = False, repr(error)
                connection.close()
            if started >= self.since:
                self.ms.append((time.perf_counter() - started) * 1000)
                if not good:
                    self.errors.append(str(found))
        connection.close()


def load(port: int, asked: Sequence[Text], clients: int, seconds: float) -> list[Client]:
    """All clients when they have ended."""
    since = time.perf_counter() + WARM_S
    some = [Client(port, asked, number, since, since + seconds) for number in range(clients)]
    for client in some:
        client.start()
    for client in some:
        client.join()
    return some


def gauges(port: int) -> dict[str, float]:
    """The service's own gauges."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    return {name: float(value) for name, value in re.findall(r'^(colbertxm_\w+\{of="[^"]+"\}) (\S+)$', text, re.M)}


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="a model folder (`small`, untrained)")
    parser.add_argument("--langs", default=LANGS, help=f"of passages and queries ({LANGS})")
    parser.add_argument("--bits", default="4", help="of the index; `none` = plain vectors (4)")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args(arguments)
    langs, bits = given.langs.split(","), None if given.bits == "none" else int(given.bits)
    with tempfile.TemporaryDirectory() as work:
        model, index, passages = prepare(Path(work), given.model, langs, bits)
        with server(model, index, Path(work) / "log") as port:
            clients = load(port, queries(langs), given.clients, given.seconds)
            batch = gauges(port).get('colbertxm_batch_queries{of="search main"}', 0.0)
    ms = np.concatenate([client.ms for client in clients])
    wrong = [error for client in clients for error in client.errors]
    settings = {
        "clients": given.clients, "seconds": given.seconds, "passages": passages, "langs": langs, "bits": bits, "k": 10,
        "model": "small" if given.model is None else given.model.parent.name, "queries_per_batch": round(batch, 2),
    }  # fmt: skip
    rows = [
        row("requests", len(ms), "requests", **settings), row("errors", len(wrong), "requests", **settings),
        row("requests_per_s", round(len(ms) / given.seconds, 2), "1/s", **settings),
        *(row(f"p{p}_ms", round(float(np.percentile(ms, p)), 2), "ms", **settings) for p in (50, 95, 99)),
    ]  # fmt: skip
    print(f"{passages:,} passages in {len(langs)} languages, {given.clients} clients, {given.seconds:g} s")
    for line in rows:
        print(f"  {line['name']:16}{line['value']:10,.1f} {line['unit']}")
    print(f"  mean batch of {batch:.1f} queries")
    for error in wrong[:3]:
        print(f"  error: {error}", file=sys.stderr)
    write("service", rows)
    return rows


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
