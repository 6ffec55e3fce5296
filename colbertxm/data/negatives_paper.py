"""ColBERT-XM's training triples: rounds over the queries, one random positive and one random negative each.

The recipe (arXiv 2402.15059, section 4.1, and its authors' code): pool the lists of BM25 and twelve dense retrievers;
keep passages whose cross-encoder score is at most the worst positive's minus 3.0; then ceil(steps * batch / 502,939)
rounds, 51 for 200,000 steps of 128. A round goes through the queries in the file's order - nothing is shuffled, and
training reads the rows in this order too - with a generator of its own, Python's Mersenne twister seeded with 42 + the
round's number: one draw for the positive, then one for the negative; a query without a candidate keeps its draw
for the positive and gets no row.

The draws are the original's, bit for bit, for the same file. What could not be checked here: the file itself (the order
of its lines and systems), and that a Python set of ints, on whose order the original's draws depend, had the same order
in its interpreter. Scores are compared in float64.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

import numpy as np

from colbertxm.data.negatives_pools import Ints, Pools
from colbertxm.data.negatives_rows import Sample, rows_of
from colbertxm.errors import UserError

MARGIN = 3.0
SEED = 42
LABELLED_QUERIES = 502_939
"""Training queries of MS MARCO that have a positive."""
BLOCK = 65_536


def paper_rounds(steps: int, batch_size: int, queries: int = LABELLED_QUERIES) -> int:
    """Rounds that give at least one row for every example of a run; the paper's run was planned at 51."""
    return math.ceil(steps * batch_size / queries)


def paper_samples(pools: Pools, rounds: int, negatives: int = 1, seed: int = SEED) -> Iterator[Sample]:
    """The rows of all rounds, block by block. `pools` are those of `pool_systems(..., margin=MARGIN)`, in the
    order that it gives; another order draws other rows. Raises UserError where the settings leave no work."""
    if rounds < 1 or negatives < 1:
        raise UserError(f"rounds={rounds} and negatives={negatives} must both be at least 1")
    for number in range(rounds):
        generator = random.Random(seed + number)
        for start in range(0, len(pools), BLOCK):
            yield _block(pools, start, min(start + BLOCK, len(pools)), negatives, generator)


def _block(pools: Pools, start: int, stop: int, negatives: int, generator: random.Random) -> Sample:
    positive_counts = np.diff(pools.positive_offsets[start : stop + 1])
    counts = np.diff(pools.candidate_offsets[start : stop + 1])
    draw = _draw_one if negatives == 1 else _draw_many(negatives)
    positives, picks = draw(positive_counts.tolist(), counts.tolist(), generator)
    full = counts >= negatives
    queries = start + np.flatnonzero(full)
    return rows_of(pools, queries, np.asarray(positives, dtype=np.int64)[full], picks, stop - start - len(queries))


def _draw_one(positives: list[int], candidates: list[int], generator: random.Random) -> tuple[list[int], Ints]:
    """What `choice` of the positives and `sample` of one candidate draw, by their common definition: bits until the
    number is below n. Written out, because the calls would take ten times as long over 51 rounds."""
    bits = generator.getrandbits
    chosen, picks = [], []
    for p, n in zip(positives, candidates, strict=True):
        width = p.bit_length()
        drawn = bits(width)
        while drawn >= p:
            drawn = bits(width)
        chosen.append(drawn)
        if n:
            width = n.bit_length()
            drawn = bits(width)
            while drawn >= n:
                drawn = bits(width)
            picks.append(drawn)
    return chosen, np.asarray(picks, dtype=np.int64).reshape(-1, 1)


def _draw_many(negatives: int) -> Callable[[list[int], list[int], random.Random], tuple[list[int], Ints]]:
    def draw(positives: list[int], candidates: list[int], generator: random.Random) -> tuple[list[int], Ints]:
        chosen, picks = [], []
        for p, n in zip(positives, candidates, strict=True):
            chosen.append(generator.choice(range(p)))
            drawn = generator.sample(range(n), min(negatives, n))  # the original draws these too where they are too few
            if n >= negatives:
                picks.append(drawn)
        return chosen, np.asarray(picks, dtype=np.int64).reshape(-1, negatives)

    return draw
