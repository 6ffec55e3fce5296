"""How a build divides the memory that it is given: `memory_mb` above what the process holds when the build begins.

Shapes: E dimensions, K centroids, S vectors of the sample. Of `memory_mb`

- BLOCKS_MB are for what never grows: compiled loops, blocks of vectors on their way to the nearest centroid and into
  codes;
- SAMPLE_COPIES times the sample's float32 bytes are the peak of fitting (the vectors, their residuals, the same turned,
  and two of the steps between); centroids come on top, for at most S / LEAST of them are fitted;
- CHUNK_COPIES times a chunk's float16 bytes are the peak of encoding (one chunk is filled while another is encoded,
  with its texts and codes), when the sample has gone;
- a SEEN-th of what is free holds hashes of ids, 8 bytes a document, through all of it.

The stream's own memory, an encoder's batches above all, is not the build's.
"""

from __future__ import annotations

from dataclasses import dataclass

from colbertxm.errors import UserError

FLOOR_MB = 400
BLOCKS_MB = 250
CHUNK = 2**18  # vectors a chunk, 64 MB of 128 dimensions
PER_CENTROID = 20  # vectors a centroid that k-means sees; more lowers the error by less than 1 %
LEAST = 4  # so few vectors a centroid where the memory holds no more: from then on there are fewer centroids
SAMPLE_COPIES, CHUNK_COPIES, SEEN = 7, 6, 8


@dataclass(frozen=True)
class Room:
    """What fits into `memory_mb`. Raises UserError below FLOOR_MB."""

    memory_mb: int

    def __post_init__(self) -> None:
        if self.memory_mb < FLOOR_MB:
            raise UserError(f"memory_mb = {self.memory_mb}: a build needs at least {FLOOR_MB} MB")

    @property
    def free(self) -> int:
        """Bytes that may go with the collection."""
        return (self.memory_mb - BLOCKS_MB) * 2**20

    def sample(self, dim: int) -> int:
        """Vectors of the largest sample."""
        return self.free * (SEEN - 1) // SEEN // (SAMPLE_COPIES * dim * 4)

    def chunk(self, dim: int) -> int:
        """Vectors of a chunk: a power of two, at most CHUNK."""
        fit = self.free // (CHUNK_COPIES * dim * 2)
        return max(1, min(CHUNK, 2 ** (fit.bit_length() - 1)))

    @property
    def hashes(self) -> int:
        """Hashes of ids that are held."""
        return self.free // SEEN // 8
