"""Values of trellis codes: a residual's coordinate is read from its own bits and the four before them.

A scalar quantiser of k bits has 2^k values. Here each coordinate has 2^(k + 4), of which the four preceding bits leave
2^k: the encoder looks for the best way through all 128 coordinates (Viterbi), the decoder reads a window of k + 4 bits
(a bit-shift trellis: Tseng et al., QTIP, arXiv 2406.11235). On normal values, squared error at 4 bits: uniform .0116,
this .0070, Shannon's bound .0039 (`python benchmarks/engine/tricks.py`).
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from statistics import NormalDist

import numpy as np
import torch

from colbertxm.engine.kernels import Array, unpack
from colbertxm.engine.viterbi import MEMORY, PLAIN, encode

ERRORS = (1.0, 0.3131, 0.0888, 0.0250, 0.0070, 0.0020, 0.00065, 0.000165, 0.000041)
"""Mean squared error on normal numbers, by bits a coordinate (tests measure them again)."""
SAMPLES = 1_600  # vectors of 128 normal values that the values are fitted to
ROUNDS = 10
PIECE = 1024  # vectors that a thread takes at a time


@cache
def values(width: int) -> Array:
    """The values of so many bits a coordinate, for normal numbers: by window of width + MEMORY bits, fitted by Lloyd's
    rounds over Viterbi's choices; from PLAIN bits on by the bits alone, Panter and Dite's optimum for many levels
    (1951: quantiles of the density's cube root). The same on every call: the seed is fixed."""
    if width == 0:
        return np.zeros(1 << MEMORY, np.float32)
    if width >= PLAIN:
        wider = NormalDist(0, math.sqrt(3))
        return np.array([wider.inv_cdf((i + 0.5) / 2**width) for i in range(2**width)], np.float32)
    windows = 1 << (width + MEMORY)
    rng = np.random.default_rng(0)
    quantiles = [NormalDist().inv_cdf((i + 0.5) / windows) for i in range(windows)]
    table = np.array(quantiles, np.float32)[rng.permutation(windows)]
    sample = rng.standard_normal((SAMPLES, 128)).astype(np.float32)
    for _ in range(ROUNDS):
        chosen = _windows(sample, np.full(128, width), table)
        counts = np.bincount(chosen.ravel(), minlength=windows)
        sums = np.bincount(chosen.ravel(), sample.ravel(), minlength=windows)
        table = np.where(counts > 0, sums / np.maximum(counts, 1), table).astype(np.float32)
    return table


def _windows(sample: Array, widths: Array, table: Array) -> Array:
    """The windows [n, E] that the encoder chose."""
    layout = Layout(widths)
    starts = np.zeros(len(widths), np.uint32)
    codes = layout.encode(sample, starts, table)
    out = np.empty(sample.shape, np.float32)
    # Reading the codes through a table of the windows' own numbers gives the windows (exact in float32).
    numbers = np.arange(len(table), dtype=np.float32)
    unpack(codes, layout.places, layout.shifts, layout.masks, starts, numbers, out)
    return out.astype(np.int64)


class Layout:
    """Where each coordinate's window of bits stands in a code, for `widths` [E] bits."""

    def __init__(self, widths: Array) -> None:
        if len(widths) % 8:
            raise ValueError(f"{len(widths)} coordinates: the kernels take eight at a time")
        self.widths = np.asarray(widths, np.int64)
        ends = np.cumsum(self.widths)
        self.bytes = (int(ends[-1]) + 7) // 8
        memory = np.where(self.widths < PLAIN, MEMORY, 0)
        first = ends - self.widths - memory + 8  # a zero byte goes before the code
        at = first // 8
        shift = 24 - (ends + 8 - at * 8)
        self.places, self.shifts = at.astype(np.uint32), shift.astype(np.uint32)
        self.masks = ((1 << (self.widths + memory)) - 1).astype(np.uint32)

    def room(self, axes: int) -> int:
        """Bytes that the windows of the first `axes` coordinates reach into; with the bytes behind, if there are any,
        that a reader of three at a time touches."""
        return min(self.bytes, (int(self.widths[:axes].sum()) + 7) // 8 + 2)

    def encode(self, sample: Array, tables: Array, table: Array) -> Array:
        """Codes [T, bytes] uint8 of `sample` [T, E] float32."""
        sample = np.ascontiguousarray(sample, np.float32)
        codes = np.zeros((len(sample), self.bytes), np.uint8)

        def piece(first: int) -> None:
            rows = slice(first, first + PIECE)
            encode(sample[rows], self.widths, tables, table, codes[rows])

        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(piece, range(0, len(sample), PIECE)))
        return codes
