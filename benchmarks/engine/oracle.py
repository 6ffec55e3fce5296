"""What exact MaxSim finds: the truth that every engine is measured against."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks.engine.peers import common
from colbertxm.engine.exact import ExactEngine


def truth(folder: Path, count: int, k: int) -> np.ndarray:
    """[count, k] positions of the best documents of the first `count` queries; shard after shard, so that one shard
    is in memory at a time. Fewer than k columns where there are fewer documents."""
    queries = list(torch.from_numpy(common.queries(folder, count)))
    best = [(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in queries]
    before = 0
    for part in common.shards(folder):
        size = len(part.offsets) - 1
        names = [str(before + number) for number in range(size)]
        vectors = torch.from_numpy(np.array(part.vectors))
        engine = ExactEngine(vectors, torch.from_numpy(part.offsets.astype(np.int64)), names, ["en"] * size)
        for i, (ids, scores) in enumerate(engine.search(queries, k)):
            numbers = np.concatenate([best[i][0], np.array([int(name) for name in ids], np.int64)])
            all_scores = np.concatenate([best[i][1], scores])
            order = np.argsort(-all_scores, kind="stable")[:k]
            best[i] = numbers[order], all_scores[order]
        before += size
    return np.stack([numbers for numbers, _ in best])
