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
STATES = 1 << MEMORY
PLAIN = 6  # from so many bits a coordinate on, the past is left out: little is to be gained, and much time lost
ALL = 31  # taking away so many bits leaves none


@numba.njit(nogil=True, cache=True, fastmath=FAST, inline="always")
def _cheaper(
    values: Array, cost: Array, shift: int, table: Array, base: int, window: int, old: Array, old_window: Array,
    new: Array, new_window: Array,
) -> None:  # fmt: skip
    """Of four windows that end in one state, `window` and each STATES further, and of the way so far, `old` [WIDE] by
    `old_window`, the cheapest: `new` by `new_window`, the first of equals. A window stands on the `cost` of the state
    that it is when its last `shift` bits are taken away. From one array to another: a minimum in place becomes a masked
    store, which made encoding 2 to 6 times as slow on AMD's processors."""
    x, y, z = window + STATES, window + 2 * STATES, window + 3 * STATES
    a, b, c, d = np.uint64(window >> shift), np.uint64(x >> shift), np.uint64(y >> shift), np.uint64(z >> shift)
    value_a, value_b, value_c, value_d = table[base + window], table[base + x], table[base + y], table[base + z]
    number_a, number_b, number_c, number_d = np.int32(window), np.int32(x), np.int32(y), np.int32(z)
    for lane in range(WIDE):
        value = values[lane]
        error_a, error_b, error_c, error_d = value - value_a, value - value_b, value - value_c, value - value_d
        way_a, way_b = cost[a, lane] + error_a * error_a, cost[b, lane] + error_b * error_b
        way_c, way_d = cost[c, lane] + error_c * error_c, cost[d, lane] + error_d * error_d
        better = way_b < way_a
        way, number = (way_b if better else way_a), (number_b if better else number_a)
        better = way_d < way_c
        other, other_number = (way_d if better else way_c), (number_d if better else number_c)
        better = other < way
        way, number = (other if better else way), (other_number if better else number)
        before, before_number = old[lane], old_window[lane]
        better = way < before
        new[lane] = way if better else before
        new_window[lane] = number if better else before_number


@numba.njit(nogil=True, cache=True, fastmath=FAST, inline="always")
def _cheapest(
    values: Array, cost: Array, shift: int, table: Array, base: int, state: int, count: int, way: Array, window: Array,
    other: Array, other_window: Array,
) -> None:  # fmt: skip
    """Of `count` windows, four or more, that end in `state` the cheapest: `way` [WIDE] by `window`."""
    for lane in range(WIDE):
        way[lane], window[lane] = np.float32(3e30), np.int32(0)
    for number in range(0, count, 8):
        first = state + STATES * number
        _cheaper(values, cost, shift, table, base, first, way, window, other, other_window)
        if number + 4 < count:
            first += 4 * STATES
            _cheaper(values, cost, shift, table, base, first, other, other_window, way, window)
        else:
            way[:] = other
            window[:] = other_window


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def _viterbi(values: Array, widths: Array, tables: Array, table: Array, windows: Array, back: Array) -> None:
    """The cheapest way through the trellis for WIDE vectors: `values` [E, WIDE] to `windows` [E, WIDE] int32."""
    cost, new = np.full((STATES, WIDE), np.float32(1e30), np.float32), np.empty((STATES, WIDE), np.float32)
    way, other, origin = np.empty(WIDE, np.float32), np.empty(WIDE, np.float32), np.empty(WIDE, np.int32)
    window, other_window = np.empty(WIDE, np.int32), np.empty(WIDE, np.int32)
    least = np.empty((1, WIDE), np.float32)
    cost[0] = 0
    for e in range(len(widths)):
        k, base = widths[e], tables[e]
        if k < 2:  # one window or two for each state
            for t in range(STATES):
                u = t + STATES * k
                a, b, number_a, number_b = np.uint64(t >> k), np.uint64(u >> k), np.int32(t), np.int32(u)
                value_a, value_b = table[base + t], table[base + u]
                for lane in range(WIDE):
                    error_a, error_b = values[e, lane] - value_a, values[e, lane] - value_b
                    way_a, way_b = cost[a, lane] + error_a * error_a, cost[b, lane] + error_b * error_b
                    better = way_b < way_a
                    new[t, lane] = way_b if better else way_a
                    back[e, t, lane] = number_b if better else number_a
        elif k < PLAIN:
            for t in range(STATES):
                _cheapest(values[e], cost, k, table, base, t, 1 << k, way, window, other, other_window)
                new[t] = way
                back[e, t] = window
        else:  # without memory: whatever way is cheapest so far, then the nearest value that ends in each state
            way[:] = cost[0]
            origin[:] = 0
            for s in range(1, STATES):
                for lane in range(WIDE):
                    better = cost[s, lane] < way[lane]
                    other[lane] = cost[s, lane] if better else way[lane]
                    other_window[lane] = np.int32(s) if better else origin[lane]
                way[:] = other
                origin[:] = other_window
            least[0] = way
            for t in range(STATES):
                _cheapest(values[e], least, ALL, table, base, t, 1 << (k - MEMORY), way, window, other, other_window)
                new[t] = way
                for lane in range(WIDE):
                    back[e, t, lane] = window[lane] + (origin[lane] << k)
        cost[:] = new
    for lane in range(WIDE):
        state = 0
        for i in range(STATES):
            if cost[i, lane] < cost[state, lane]:
                state = i
        for e in range(len(widths) - 1, -1, -1):
            chosen = back[e, state, lane]
            windows[e, lane] = chosen
            state = chosen >> widths[e]  # of a plain coordinate too: its state stands before the bits


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def encode(values: Array, widths: Array, tables: Array, table: Array, codes: Array) -> None:  # pragma: no cover
    """Trellis codes of `values` [T, E] float32 (of unit variance): bits of `widths` [E] each, end to end, into
    `codes` [T, B] uint8."""
    total, dim = values.shape
    for block in range((total + WIDE - 1) // WIDE):
        lanes = np.zeros((dim, WIDE), np.float32)
        windows = np.zeros((dim, WIDE), np.int32)
        back = np.zeros((dim, STATES, WIDE), np.int32)
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
