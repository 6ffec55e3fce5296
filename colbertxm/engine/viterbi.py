"""The hot loop of encoding, compiled by Numba: the Viterbi algorithm for WIDE vectors side by side, whose transitions
differ while the vectors' do not. Plain references: tests/test_compressed.py; `python -m benchmarks.engine.loops`.

Shapes: T document vectors, E dimensions, B bytes a code.
"""

from __future__ import annotations

import numba
import numpy as np

from colbertxm.engine.kernels import FAST, Array

WIDE = 128  # vectors that `encode` takes side by side
MEMORY = 4  # bits of the past that a trellis code's value depends on
PLAIN = 6  # from so many bits a coordinate on, the past is left out: little is to be gained, and much time lost


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def _plain_step(values: Array, k: int, base: int, table: Array, cost: Array, new: Array, back: Array) -> None:
    """A coordinate without memory: whatever way is cheapest so far, then the nearest value that ends in each state."""
    states = 1 << MEMORY
    least = np.empty(WIDE, np.float32)
    origin = np.zeros(WIDE, np.int32)
    least[:] = cost[0]
    for s in range(1, states):
        for lane in range(WIDE):
            better = cost[s, lane] < least[lane]
            least[lane] = cost[s, lane] if better else least[lane]
            origin[lane] = np.int32(s) if better else origin[lane]
    for x in range(1 << k):
        value, t, number = table[base + x], x & (states - 1), np.int32(x)
        for lane in range(WIDE):
            error = values[lane] - value
            way = least[lane] + error * error
            better = way < new[t, lane]
            new[t, lane] = way if better else new[t, lane]
            back[t, lane] = number if better else back[t, lane]
    for t in range(states):
        for lane in range(WIDE):
            back[t, lane] += origin[lane] << k


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def _viterbi(values: Array, widths: Array, tables: Array, table: Array, windows: Array, back: Array) -> None:
    """The cheapest way through the trellis for WIDE vectors: `values` [E, WIDE] to `windows` [E, WIDE] int32."""
    states = 1 << MEMORY
    cost = np.full((states, WIDE), np.float32(1e30), np.float32)
    new, step = np.empty((states, WIDE), np.float32), np.empty((states, WIDE), np.int32)
    cost[0] = 0
    for e in range(len(widths)):
        k, base = widths[e], tables[e]
        new[:] = np.float32(3e30)
        if k >= PLAIN:
            _plain_step(values[e], k, base, table, cost, new, back[e])
            cost[:] = new
            continue
        for w in range(1 << (k + MEMORY)):
            value, s, t = table[base + w], np.uint64(w >> k), np.uint64(w & (states - 1))
            number = np.int32(w)
            for lane in range(WIDE):
                error = values[e, lane] - value
                way = cost[s, lane] + error * error
                old, origin = new[t, lane], step[t, lane]
                new[t, lane] = way if way < old else old
                step[t, lane] = number if way < old else origin
        back[e] = step
        cost[:] = new
    for lane in range(WIDE):
        state = 0
        for i in range(states):
            if cost[i, lane] < cost[state, lane]:
                state = i
        for e in range(len(widths) - 1, -1, -1):
            window = back[e, state, lane]
            windows[e, lane] = window
            state = window >> widths[e]  # of a plain coordinate too: `_plain_step` puts the state before the bits


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def encode(values: Array, widths: Array, tables: Array, table: Array, codes: Array) -> None:  # pragma: no cover
    """Trellis codes of `values` [T, E] float32 (of unit variance): bits of `widths` [E] each, end to end, into
    `codes` [T, B] uint8."""
    total, dim = values.shape
    for block in range((total + WIDE - 1) // WIDE):
        lanes = np.zeros((dim, WIDE), np.float32)
        windows = np.zeros((dim, WIDE), np.int32)
        back = np.zeros((dim, 1 << MEMORY, WIDE), np.int32)
        first = block * WIDE
        count = min(WIDE, total - first)
        for lane in range(count):
            for e in range(dim):
                lanes[e, lane] = values[first + lane, e]
        _viterbi(lanes, widths, tables, table, windows, back)
        for lane in range(count):
            at, held, bits = 0, np.uint32(0), 0
            for e in range(dim):
                k = widths[e]
                held = np.uint32((held << np.uint32(k)) | np.uint32(windows[e, lane] & ((1 << k) - 1)))
                bits += k
                while bits >= 8:
                    bits -= 8
                    codes[first + lane, at] = np.uint8((held >> np.uint32(bits)) & np.uint32(255))
                    at += 1
            if bits:
                codes[first + lane, at] = np.uint8((held << np.uint32(8 - bits)) & np.uint32(255))
