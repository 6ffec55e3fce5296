"""The memory of a step: a batch of 2,048 with cached gradients beside a plain one of 128, each in a fresh process.

The model is `small` with all parameters trained, so weights, gradients and AdamW's moments are 1.9 GB in every process.
Both figures are told: the ratio of all that a process holds, and the ratio of what a step adds to a process that
has trained one batch of two. Texts are MS MARCO's divided by `shorter`, because a batch of 2,048 at full length takes
two cores twenty minutes; what both steps hold grows with the length, so their ratio hardly does.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from colbertxm.errors import UserError

PLAIN, LARGE, CHUNK, SHORTER = 128, 2048, 128, 8
BASELINE = 2


def step(batch: int, chunk: int, shorter: int, threads: int) -> dict[str, float]:
    """Two steps of AdamW, a batch of two first, then `batch` triples, with cached gradients where `chunk` is not 0.
    Peaks in bytes."""
    import torch

    from benchmarks.memory import peak_bytes
    from benchmarks.train.workloads import encoder_of
    from colbertxm.model.freeze import freeze
    from colbertxm.training.module import OptimizerSettings, RetrieverModule
    from colbertxm.training.objective import LossSettings

    torch.set_num_threads(threads)
    encoder = encoder_of("ms_marco").train()
    freeze(encoder, "none")
    module = RetrieverModule(encoder, LossSettings(), OptimizerSettings(), steps=2)
    optimizer = module.configure_optimizers()["optimizer"]
    peaks, seconds = [], 0.0
    for size, pieces in ((BASELINE, 0), (batch, chunk)):
        started = time.perf_counter()
        loss = one_step(encoder, size, pieces, shorter)
        optimizer.step()
        optimizer.zero_grad()
        seconds = time.perf_counter() - started
        peaks.append(peak_bytes())
    return {"before": peaks[0], "peak": peaks[1], "seconds": seconds, "loss": loss}


def one_step(encoder: Any, batch: int, chunk: int, shorter: int) -> float:
    """Forward and backward of `batch` generated triples; the loss is the paper's."""
    from colbertxm.model.encoder import Vectors, joined
    from colbertxm.model.packing import pack
    from colbertxm.model.scores import packed_maxsim
    from colbertxm.training.gradcache import cached_step
    from colbertxm.training.losses import paper_loss

    queries, passages = texts(encoder, batch, shorter)
    size = chunk or len(passages)
    chunks = [side[i : i + size] for side in (queries, passages) for i in range(0, len(side), size)]
    cut = -(-len(queries) // size)

    def encode(ids: Sequence[Sequence[int]]) -> Vectors:
        return encoder(pack(ids, ["en_XX"] * len(ids)))  # type: ignore[no-any-return]

    def loss_of(found: Sequence[Vectors]) -> Any:
        q, p = joined(found[:cut]), joined(found[cut:])
        return paper_loss(packed_maxsim(q.values, q.offsets, p.values, p.offsets))

    if chunk:
        return float(cached_step(encode, chunks, loss_of))
    loss = loss_of([encode(part) for part in chunks])
    loss.backward()
    return float(loss.detach())


def texts(encoder: Any, batch: int, shorter: int) -> tuple[list[list[int]], list[list[int]]]:
    """Random ids: queries of 32 tokens and two passages each of 77 on average, divided by `shorter`."""
    import numpy as np

    rng = np.random.default_rng(batch)
    vocabulary = encoder.xmod.config.vocab_size
    lengths = rng.lognormal(np.log(77 / shorter) - 0.5 * 0.44**2, 0.44, 2 * batch).round().astype(int).clip(4, 180)
    queries = rng.integers(4, vocabulary - 1, (batch, max(4, 32 // shorter))).tolist()
    return queries, [rng.integers(4, vocabulary - 1, n).tolist() for n in lengths]


def measured(batch: int, chunk: int, shorter: int, threads: int) -> dict[str, float]:
    """`step` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.train.cached", *map(str, (batch, chunk, shorter, threads))]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": str(threads)}, stdout=subprocess.PIPE)
    if done.returncode:
        # The system ends a process that wants more memory than there is, and says so nowhere else.
        raise UserError(f"the step of {batch} triples ended with {done.returncode}: it needs 10 GB of free memory")
    found: dict[str, float] = json.loads(done.stdout)
    name = f"{batch} with chunks of {chunk}" if chunk else f"{batch} plain"
    print(f"  {name}: peak {found['peak'] / 1e9:.2f} GB, before it {found['before'] / 1e9:.2f} GB, "
          f"{found['seconds']:.0f} s", file=sys.stderr, flush=True)  # fmt: skip
    return found


def compare(threads: int, shorter: int = SHORTER) -> dict[str, float]:
    """Both steps and their ratios."""
    plain, large = measured(PLAIN, 0, shorter, threads), measured(LARGE, CHUNK, shorter, threads)
    added = [found["peak"] - found["before"] for found in (large, plain)]
    return {
        "ratio": large["peak"] / plain["peak"],
        "ratio_above_baseline": added[0] / added[1],
        "plain_peak": plain["peak"], "large_peak": large["peak"], "baseline": plain["before"],
        "plain_seconds": plain["seconds"], "large_seconds": large["seconds"],
        "plain_batch": PLAIN, "large_batch": LARGE, "chunk": CHUNK, "shorter": shorter,
    }  # fmt: skip


def main() -> None:
    """One step, for `measured`."""
    parser = argparse.ArgumentParser(description="memory of one training step")
    for name in ("batch", "chunk", "shorter", "threads"):
        parser.add_argument(name, type=int)
    print(json.dumps(step(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
