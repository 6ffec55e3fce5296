"""What a row's index should be like, by formula: how many vectors, centroids and bytes.

K = 2^floor(log2(16 sqrt(vectors))) (PLAID, arXiv 2205.09707). Being a power of two it is the same for a wide range of
passage lengths, so it can be told before anybody has counted tokens; vectors and bytes cannot, and are estimates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from colbertxm.engine.codec import CODE_BYTES
from colbertxm.engine.kmeans import number_of_centroids
from colbertxm.evaluation.reproduction import Index

PLAID_CODE_BYTES = 4
"""Of a vector's centroid, beside `bits` of residual a dimension."""


@dataclass(frozen=True)
class Expected:
    """The index of one language."""

    passages: int
    vectors: int
    centroids: int
    tokens_from: float
    """The average passage length from which `centroids` holds, up to below `tokens_to`."""
    tokens_to: float
    plaid_bytes: int
    our_code_bytes: int
    """Of the codes alone; with all that surrounds them see colbertxm/engine/codec.py."""


def expected(index: Index, lang: str, dim: int = 128) -> Expected | None:
    """The index of `lang`; None where no length is assumed or the vectors are kept as they are."""
    if index.tokens is None or index.bits is None:
        return None
    passages = index.passages[lang]
    vectors = round(passages * index.tokens)
    centroids = number_of_centroids(vectors)
    # K holds while 16 sqrt(vectors) lies in [K, 2K).
    least = (centroids / 16) ** 2
    return Expected(
        passages,
        vectors,
        centroids,
        math.ceil(10 * least / passages) / 10,
        math.floor(40 * least / passages) / 10,
        vectors * (index.bits * dim // 8 + PLAID_CODE_BYTES),
        round(vectors * CODE_BYTES[index.bits] * dim),
    )
