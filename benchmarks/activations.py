"""Memory and time of a training step with and without trainer.checkpoint_activations, each in a process of its own.

    python benchmarks/activations.py                  # the shape of model=small, batch 8: a minute
    python benchmarks/activations.py --hidden=768     # of xmod-base

Weights are random: they cost what trained ones cost. Lengths are MS MARCO's: 32 tokens a query, 77 a passage.

glibc keeps much of what is freed and never gives it back, so half of the saving is not seen in a process that it serves
as it pleases; MALLOC_MMAP_THRESHOLD_=262144, which gives each large tensor pages of its own, shows it, for a run too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from itertools import product
from statistics import median

from memory import peak_bytes

STEPS = 2
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "262144"}


def measure(hidden: int, layers: int, batch: int, checkpointed: bool) -> dict[str, float]:
    """Peak bytes of the process before and after `STEPS` steps, and the median seconds of one."""
    import torch

    from colbertxm.model.encoder import Encoder
    from colbertxm.model.freeze import freeze
    from colbertxm.model.packing import pack
    from colbertxm.model.scores import packed_maxsim
    from colbertxm.model.xmod import Xmod, XmodConfig

    torch.manual_seed(0)
    config = XmodConfig(10_000, hidden, layers, hidden // 64, 4 * hidden)
    encoder = Encoder(Xmod(config), None, "multi", 128).train()  # type: ignore[arg-type]
    freeze(encoder, "paper")
    encoder.xmod.checkpoint_activations = checkpointed
    optimizer = torch.optim.AdamW([p for p in encoder.parameters() if p.requires_grad], lr=1e-6)
    sides = [
        pack(torch.randint(4, 10_000, (count, length)).tolist(), ["en_XX"] * count)
        for count, length in ((batch, 32), (2 * batch, 77))
    ]
    before, seconds = peak_bytes(), []
    for _ in range(STEPS):
        started = time.perf_counter()
        queries, passages = (encoder(side) for side in sides)
        scores = packed_maxsim(queries.values, queries.offsets, passages.values, passages.offsets, mean=True)
        torch.nn.functional.cross_entropy(scores / 0.02, torch.arange(batch)).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - started)
    return {"before": before, "peak": peak_bytes(), "seconds": median(seconds)}


def main() -> None:
    """Print one row each."""
    parser = argparse.ArgumentParser()
    for name, default in (("hidden", 384), ("layers", 12), ("batch", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", choices=["true", "false"], help="one setting, in this process; prints JSON")
    args = parser.parse_args()
    shape = args.hidden, args.layers, args.batch
    if args.only:
        print(json.dumps(measure(*shape, args.only == "true")))
        return
    print(f"{args.layers} layers of {args.hidden}, batch {args.batch} with one hard negative, float32, CPU")
    print("checkpoint_activations  malloc    peak MB  above the model's MB  s/step")
    for setting, malloc in product(("false", "true"), ("default", "returned")):
        command = [sys.executable, __file__, *sys.argv[1:], f"--only={setting}"]
        env = {**os.environ, **(RETURNED if malloc == "returned" else {})}
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout)
        above = (found["peak"] - found["before"]) / 1e6
        print(f"{setting:22}  {malloc:8}  {found['peak'] / 1e6:7,.0f}  {above:20,.0f}  {found['seconds']:6.2f}")


if __name__ == "__main__":
    main()
