"""Document vectors in a quarter of the memory: int8 with one float32 scale a vector.

Shapes: T vectors, E dimensions, Q query vectors. Vector t is about `values[t] * scales[t]`; its largest component
becomes 127 or -127, so no component is off by more than half a scale.

Queries stay float32. A score q.d is then off by at most `sum(|q|) * scale / 2`, and since neither the largest of
several numbers nor a sum moves by more than its parts do, MaxSim by at most half the sum, over the query's vectors, of
`sum(|q|)` times the document's largest scale (`error_bound`), and by float32's own rounding.

The products are float32 as well, of rows cast as they are needed. Integer products (`torch._int_mm`, torch 2.13, AVX2
without VNNI, one thread, E = 128, the better of two layouts) took 16 to 28 times as long where a batch has 32 to 4096
query vectors, and would cost a second rounding, the queries'; the cast adds 1 to 26 % to the time of a bare product,
and doubles that for a single query vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from colbertxm.errors import UserError

LARGEST = 127  # -128 is left out: then a vector and its opposite are opposites still
BLOCK_BYTES = 2**26  # float32 bytes quantised at a time


@dataclass(frozen=True)
class Int8Vectors:
    """`values` [T, E] int8, `scales` [T] float32, on one device."""

    values: Tensor
    scales: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.values.shape

    @property
    def device(self) -> torch.device:
        return self.values.device

    def products(self, rows: Tensor, queries_QE: Tensor) -> Tensor:
        """Dot products of the vectors `rows` [t] with the queries, [t, Q] float32."""
        products_tQ = self.values[rows].float() @ queries_QE.T
        return products_tQ.mul_(self.scales[rows][:, None])

    def error_bound(self, query_QE: Tensor) -> float:
        """How far MaxSim of a query with any document can be from that of the vectors as they were given."""
        largest = float(self.scales.max()) if len(self.scales) else 0.0
        return float(query_QE.double().abs().sum()) * largest / 2


def quantise(vectors: Tensor) -> Int8Vectors:
    """Round vectors [T, E], a block at a time, so that a mapped file is never in memory whole. Raises UserError for
    components that are not finite."""
    count, dim = vectors.shape
    values = torch.empty(count, dim, dtype=torch.int8, device=vectors.device)
    scales = torch.empty(count, dtype=torch.float32, device=vectors.device)
    step = max(1, BLOCK_BYTES // (4 * max(dim, 1)))
    for start in range(0, count, step):
        block = vectors[start : start + step].float()
        largest = block.abs().amax(1) if dim else block.new_zeros(len(block))
        if not torch.isfinite(largest).all():
            row = start + int((~torch.isfinite(largest)).nonzero()[0])
            raise UserError(f"document vector {row} is not finite: encode the passages again with an undamaged model")
        scale = largest / LARGEST
        scale[scale == 0] = 1.0  # a vector of zeros stays one
        scales[start : start + len(block)] = scale
        rounded = (block / scale[:, None]).round_().clamp_(-LARGEST, LARGEST)
        values[start : start + len(block)] = rounded.to(torch.int8)
    return Int8Vectors(values, scales)
