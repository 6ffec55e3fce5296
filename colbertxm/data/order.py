"""The order of training samples: a pure function of (seed, epoch), split over ranks and workers, resumed anywhere.

Sample number s of a run is the triple at position s % size of epoch s // size, and each epoch is a keyed permutation
(`colbertxm.data.keyed`): nothing is shuffled, nothing kept, 10^8 triples start as fast as ten. A step takes the next
`batch_size` numbers, whoever computes it; a rank takes its share of each step. So the state of a run is one number,
the samples done by all ranks together, and a run goes on with the same batches on any number of ranks and workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np

from colbertxm.data.keyed import Integers, Permutation
from colbertxm.errors import UserError

ORDER = 1  # first part of every key in this file, so that other uses of the same seed draw other numbers


@lru_cache(maxsize=8)
def epoch_order(size: int, seed: int, epoch: int) -> Permutation:
    """The order of one epoch: position -> index."""
    return Permutation(size, ORDER, seed, epoch)


class Order:
    """Batches of (epoch, index) for `steps` steps, from sample `done` on; a batch sampler for a DataLoader.

    `size` triples; `batch_size` samples a step over all ranks, of which rank r of `world` takes the r-th share (shares
    differ by at most one sample where `world` does not divide). `subset` maps indices below `size` to those of a larger
    set (`colbertxm.data.sampling.Subset`). Where a resumed run has another batch size, the last batch is shorter, or,
    if it had fewer samples than there are ranks, joined to the one before. Its length stays that of the whole run.
    Raises UserError where a step has fewer samples than there are ranks.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        steps: int,
        seed: int,
        done: int = 0,
        rank: int = 0,
        world: int = 1,
        subset: Callable[[Integers], Integers] | None = None,
    ) -> None:
        if size < 1 or steps < 1:
            raise UserError(f"{size} training samples for {steps} steps: give at least one of each")
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} of {world}")
        if batch_size < world:
            raise UserError(f"batch_size={batch_size} on {world} ranks leaves some without a sample: raise it")
        self.total = steps * batch_size
        if not 0 <= done <= self.total or 0 < self.total - done < world:
            raise UserError(
                f"{done} of {self.total} samples are done: no step is left for {world} ranks; raise the number of steps"
            )
        self.size, self.batch_size, self.steps, self.seed, self.done = size, batch_size, steps, seed, done
        self.rank, self.world, self.subset = rank, world, subset

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self.batches()

    def batches(self, worker: int = 0, workers: int = 1) -> Iterator[list[tuple[int, int]]]:
        """This rank's batches; of these the ones that worker `worker` of `workers` makes, for an IterableDataset: a
        DataLoader asks its workers in turn, so the order stays. (A batch sampler needs no such split.)"""
        for number, span in enumerate(self.spans()):
            if number % workers == worker:
                epochs, indices = self.samples(np.array(self.share(span)))
                yield list(zip(epochs.tolist(), indices.tolist(), strict=True))

    def spans(self) -> Iterator[range]:
        """The sample numbers of each step that is left, those of all ranks."""
        start = self.done
        while start < self.total:
            stop = min(start + self.batch_size, self.total)
            stop = self.total if self.total - stop < self.world else stop
            yield range(start, stop)
            start = stop

    def share(self, span: range) -> range:
        """This rank's part of a step."""
        return span[len(span) * self.rank // self.world : len(span) * (self.rank + 1) // self.world]

    def samples(self, numbers: Integers) -> tuple[Integers, Integers]:
        """(epochs, indices) of the run's samples `numbers` [n]."""
        epochs, positions = np.divmod(np.asarray(numbers, np.int64), self.size)
        indices = np.empty_like(positions)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            indices[here] = epoch_order(self.size, self.seed, epoch)(positions[here])
        return epochs, indices if self.subset is None else self.subset(indices)

    def sample(self, number: int) -> tuple[int, int]:
        """(epoch, index) of one sample."""
        epochs, indices = self.samples(np.array([number]))
        return int(epochs[0]), int(indices[0])
