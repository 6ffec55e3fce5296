"""One query by torch and by ONNX Runtime, as floats and with weights as bytes: `make bench-onnx`.

    make bench-onnx                                           # model `small`; the wheels of `make demo` the first time
    make bench-onnx ARGS='--model outputs/train/multi_vector/model --lang en'

Queries of smart_home's test half, one at a time, the encoders taking turns query by query; then the share of torch's
ten best passages that each finds, the passages being torch's. Written: benchmarks/results/onnx.json.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import row, write
from colbertxm.engine_recall import recall
from colbertxm.errors import UserError
from colbertxm.model.checkpoints import build_encoder, load_model, save_model
from colbertxm.model.encoder import Encoder
from colbertxm.model.onnx_encoder import GRAPH, OnnxEncoder, write_onnx
from colbertxm.model.tokens import TokenSettings
from colbertxm.records import Text
from colbertxm.retriever import Retriever
from colbertxm.stages import smart_home

K = 10
WARM = 10  # queries that are not counted


def latencies(encoders: dict[str, Any], queries: Sequence[Text]) -> dict[str, np.ndarray]:
    """Milliseconds of each query by each encoder, in turns."""
    found: dict[str, list[float]] = {name: [] for name in encoders}
    for query in queries:
        for name, encoder in encoders.items():
            started = time.perf_counter()
            encoder.encode([query], "query")
            found[name].append((time.perf_counter() - started) * 1000)
    return {name: np.array(ms[WARM:]) for name, ms in found.items()}


def agreement(encoders: dict[str, Any], torchs: Encoder, queries: Sequence[Text], passages: Any) -> dict[str, float]:
    """The share of torch's best K passages among those that each encoder's queries find."""
    retriever = Retriever(torchs)
    retriever.add(passages)
    assert retriever.engine is not None
    places = {passage.id: n for n, passage in enumerate(passages)}
    hits: dict[str, list[list[int]]] = {}
    for name, encoder in encoders.items():
        vectors = encoder.encode(queries, "query")
        found = retriever.engine.search([vectors[n] for n in range(len(queries))], K)
        hits[name] = [[places[i] for i in ids] for ids, _ in found]
    return {name: recall(own, hits["torch"], K) for name, own in hits.items()}


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="a model folder (`small`, untrained)")
    parser.add_argument("--lang", default="de")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--threads", default="1,2")
    given = parser.parse_args(arguments)
    pool = smart_home().collection("test", given.lang, given.lang)
    queries = pool.queries[: given.queries + WARM]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        model = given.model or Path(work) / "small" / "model"
        if given.model is None:
            tokens = TokenSettings("query: ", "passage: ", skip_prefix=True)
            save_model(model, build_encoder("small", [given.lang], tokens, "multi", 128, 42).eval(), {})
        encoder = load_model(model, languages=[given.lang]).eval()
        folders = {"onnx": Path(work) / "float", "onnx int8": Path(work) / "int8"}
        for name, folder in folders.items():
            write_onnx(folder, encoder, given.lang, int8=name.endswith("int8"))
        sizes = {name: sum(f.stat().st_size for f in p.glob(f"{GRAPH}*")) / 1e6 for name, p in folders.items()}
        for threads in map(int, given.threads.split(",")):
            torch.set_num_threads(threads)
            encoders = {"torch": encoder, **{name: OnnxEncoder(p, threads) for name, p in folders.items()}}
            ms = latencies(encoders, queries)
            same = agreement(encoders, encoder, queries, pool.passages)
            print(f"{len(queries) - WARM} queries in {given.lang}, {len(pool.passages)} passages, {threads} thread(s)")
            for name, own in ms.items():
                p50, p95 = (float(np.percentile(own, p)) for p in (50, 95))
                about = {
                    "encoder": name,
                    "threads": threads,
                    "lang": given.lang,
                    "model": given.model is None and "small",
                }
                rows += [row("p50_ms", round(p50, 3), "ms", **about), row("p95_ms", round(p95, 3), "ms", **about)]
                rows += [row("same_hits_at_10", round(same[name], 4), "", **about)]
                ratio = float(np.median(ms["torch"] / own))
                size = f", {sizes[name]:.0f} MB" if name in sizes else ""
                print(f"  {name:10} p50 {p50:6.2f} ms  p95 {p95:6.2f} ms  {ratio:5.2f}x torch's speed  "
                      f"{same[name]:.3f} of torch's first {K}{size}")  # fmt: skip
    write("onnx", rows)
    return rows


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
