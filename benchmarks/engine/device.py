"""The compressed engine's kernels on the CPU beside its torch engine on a device, over the same vectors.

    python -m benchmarks.engine.vectors FOLDER --documents 2000
    python -m benchmarks.engine.device FOLDER --device cuda      # cpu to see that it runs: no GPU, no figure of one
    python -m benchmarks.engine.device --card 80                 # how many passages a card of 80 GB holds

Prints milliseconds a query, alone and in batches, and how many of the ten best both engines find.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.engine.compressed import build
from benchmarks.engine.peers import common
from colbertxm.engine.codec import CODE_BYTES
from colbertxm.engine.index import CompressedIndex
from colbertxm.engine.opening import checked_device
from colbertxm.engine.torch_engine import MEMORY_MB, TorchEngine

DIM, PER_PASSAGE, CENTROIDS = 128, 68, 2**18  # MS MARCO: 600 million vectors of 8.8 million passages, as PLAID has it


def passages(card_gb: float, bits: int) -> int:
    """How many passages of PER_PASSAGE vectors a card holds beside the centroids and a search's working memory."""
    vector = 4 + 2 + int(CODE_BYTES[bits] * DIM)
    room = card_gb * 1e9 - MEMORY_MB * 2**20 - 4 * CENTROIDS * DIM
    return int(room / (PER_PASSAGE * vector + DIM + 4 + 8))


def milliseconds(search: Callable[[], object], queries: int, device: torch.device, rounds: int) -> float:
    """The best of `rounds`, a query. The device is waited for: hits come to the CPU."""
    times = []
    for _ in range(rounds + 1):  # the first warms up
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        search()
        times.append(time.perf_counter() - start)
    return min(times[1:]) * 1000 / queries


def compare(folder: Path, device: torch.device, bits: int, count: int, rounds: int) -> None:
    """Build an index of the vectors in `folder`, and search it with both engines."""
    queries = [torch.from_numpy(query) for query in common.queries(folder, count)]
    with tempfile.TemporaryDirectory() as name:
        build(common.load(folder), Path(name), {"bits": bits})
        index = CompressedIndex(Path(name))
        near = index.engine
        parts = [index._coded(number, arrays) for number, arrays in enumerate(index.parts)]
        far = TorchEngine(index.codec, parts, index.ids, index.langs, index.alive, device)
        print(f"{len(index.ids)} passages, {bits} bits: {far.bytes / 1e6:.1f} MB on {device}")
        for title, engine in (("kernels, cpu", near), (f"torch, {device}", far)):
            one = milliseconds(lambda e=engine: [e.search([q], 10) for q in queries], count, device, rounds)  # type: ignore[misc]
            many = milliseconds(lambda e=engine: e.search(queries, 10), count, device, rounds)  # type: ignore[misc]
            print(f"{title:16} {one:9.2f} ms a query alone {many:9.2f} ms in a batch of {count}")
        pairs = zip(near.search(queries, 10), far.search(queries, 10), strict=True)
        print(f"in both: {np.mean([len(set(a) & set(b)) / 10 for (a, _), (b, _) in pairs]):.1%} of the ten best")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="vectors that benchmarks.engine.vectors made")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--bits", type=int, default=4, choices=sorted(CODE_BYTES))
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--card", type=float, metavar="GB")
    given = parser.parse_args()
    if given.card:
        for bits in (2, 4):
            print(f"{bits} bits: {passages(given.card, bits) / 1e6:.1f} million passages of {PER_PASSAGE} vectors")
    if given.folder:
        compare(given.folder, checked_device(given.device), given.bits, given.queries, given.rounds)


if __name__ == "__main__":
    main()
