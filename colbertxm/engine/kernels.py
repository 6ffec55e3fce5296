"""The hot loops, compiled by Numba: no compiler is needed at install. Plain references stand in tests/test_kernels.py.

Shapes: Q query vectors (padded to LANES), K centroids, N documents, T document vectors, E dimensions, B bytes a code.

Why they look as they do (milliseconds and ratios: `python benchmarks/engine/tricks.py`):
- All loops whose trip count is the constant LANES become vector instructions without a remainder.
- `interact` keeps the query's scores of the centroids as bytes, 32 a row: one row is one AVX2 register, and a running
  maximum is one instruction a document vector. The table of 8,192 centroids is 256 kB and stays in the second cache.
- `rerank` decodes one vector at a time into 512 bytes of the first cache and multiplies it there, eight dimensions a
  step, so that a partial sum is loaded and stored once for eight multiplications.
- `encode` runs the Viterbi algorithm for WIDE vectors side by side: its transitions differ, the vectors' do not.
- Threads take whole documents or whole blocks; every sum has one order, so their number changes no bit.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

LANES = 32
WIDE = 128  # vectors that `encode` takes side by side
MEMORY = 4  # bits of the past that a trellis code's value depends on
PLAIN = 6  # from so many bits a coordinate on, the past is left out: little is to be gained, and much time lost
FAST = {"contract", "nsz", "reassoc", "arcp"}  # infinities keep their meaning


@numba.njit(nogil=True, cache=True)
def interact(
    table: Array, centroids: Array, starts: Array, ends: Array, documents: Array, sums: Array
) -> None:  # pragma: no cover - compiled
    """Sum over query vectors of a document's best centroid: `sums` [n] int32 grows by it, for `documents` [n].

    `table` [K, LANES] uint8; `centroids` [T] the document vectors' centroids; vectors starts[d]:ends[d] are d's.
    """
    best = np.empty(LANES, np.uint8)
    flat = table.reshape(-1)
    for i in range(len(documents)):
        first, last = starts[documents[i]], ends[documents[i]]
        for lane in range(LANES):
            best[lane] = 0
        t = first
        while t + 4 <= last:
            a, b = np.int64(centroids[t]) * LANES, np.int64(centroids[t + 1]) * LANES
            c, d = np.int64(centroids[t + 2]) * LANES, np.int64(centroids[t + 3]) * LANES
            for lane in range(LANES):
                x, y = flat[a + lane], flat[b + lane]
                z, w = flat[c + lane], flat[d + lane]
                x = x if x > y else y
                z = z if z > w else w
                x = x if x > z else z
                old = best[lane]
                best[lane] = x if x > old else old
            t += 4
        while t < last:
            a = np.int64(centroids[t]) * LANES
            for lane in range(LANES):
                x, old = flat[a + lane], best[lane]
                best[lane] = x if x > old else old
            t += 1
        total = np.int32(0)
        for lane in range(LANES):
            total += np.int32(best[lane])
        sums[i] += total


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def shifts(query: Array, means: Array, scales: Array, documents: Array, out: Array) -> None:  # pragma: no cover
    """`out` [n] float32: dot product of `query` [E] float32 with the documents' means [N, E] int8 times scales [N]."""
    for i in range(len(documents)):
        d = documents[i]
        total = np.float32(0)
        for e in range(len(query)):
            total += query[e] * np.float32(means[d, e])
        out[i] = total * scales[d]


@numba.njit(nogil=True, cache=True)
def _unpack(code: Array, places: Array, masks: Array, tables: Array, table: Array, out: Array) -> None:
    """One code [B + 3] (a zero byte before, two behind) to its values [E]: table[window of bits]. `places` [E] hold the
    window's first byte times 32 plus the shift that brings it to the right of three bytes."""
    for e in range(len(places)):
        place = places[e]
        at = place >> 5
        three = (np.uint32(code[at]) << 16) | (np.uint32(code[at + 1]) << 8) | np.uint32(code[at + 2])
        out[e] = table[tables[e] + np.int64((three >> np.uint32(place & 31)) & masks[e])]


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def _rerank_one(
    first: int,
    last: int,
    query: Array,
    centroid_scores: Array,
    shift: Array,
    centroids: Array,
    scales: Array,
    fits: Array,
    codes: Array,
    places: Array,
    masks: Array,
    tables: Array,
    table: Array,
    scale_of: Array,
    fit_of: Array,
    used: int,
    row: Array,
    values: Array,
    sums: Array,
    best: Array,
) -> np.float32:
    size, width = codes.shape[1], query.shape[1]
    for q in range(width):
        best[q] = -np.inf
    for t in range(first, last):
        for b in range(size):
            row[b + 1] = codes[t, b]
        _unpack(row, places, masks, tables, table, values)
        for q in range(width):
            sums[q] = 0
        for e in range(0, len(values), 8):
            a0, a1, a2, a3 = values[e], values[e + 1], values[e + 2], values[e + 3]
            a4, a5, a6, a7 = values[e + 4], values[e + 5], values[e + 6], values[e + 7]
            for block in range(0, width, LANES):
                for lane in range(LANES):
                    q = block + lane
                    sums[q] += (
                        (a0 * query[e, q] + a1 * query[e + 1, q])
                        + (a2 * query[e + 2, q] + a3 * query[e + 3, q])
                        + (a4 * query[e + 4, q] + a5 * query[e + 5, q])
                        + (a6 * query[e + 6, q] + a7 * query[e + 7, q])
                    )
        scale, fit, c = scale_of[scales[t]], fit_of[fits[t]], centroids[t]
        for q in range(width):
            score = fit * (centroid_scores[c, q] + shift[q] + scale * sums[q])
            best[q] = score if score > best[q] else best[q]
    total = np.float32(0)
    for q in range(used):
        total += best[q]
    return total


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def rerank(
    documents: Array,
    starts: Array,
    ends: Array,
    rotated: Array,
    centroid_scores: Array,
    query: Array,
    means: Array,
    mean_scales: Array,
    centroids: Array,
    scales: Array,
    fits: Array,
    codes: Array,
    places: Array,
    masks: Array,
    tables: Array,
    table: Array,
    scale_of: Array,
    fit_of: Array,
    used: int,
    out: Array,
) -> None:  # pragma: no cover - compiled
    """MaxSim of `documents` [n] from their codes, `out` [n] float32; the first `used` query vectors count.

    `query` and `rotated` [E, Q] float32: the query as it is and in the codes' space; `centroid_scores` [K, Q].
    """
    dim, width = query.shape
    row = np.zeros(codes.shape[1] + 3, np.uint8)
    values = np.zeros(len(places), np.float32)
    sums = np.empty(width, np.float32)
    best = np.empty(width, np.float32)
    shift = np.empty(width, np.float32)
    for i in range(len(documents)):
        d = documents[i]
        shift[:] = 0
        for e in range(dim):
            a = np.float32(means[d, e]) * mean_scales[d]
            for q in range(width):
                shift[q] += a * query[e, q]
        out[i] = _rerank_one(
            starts[d], ends[d], rotated, centroid_scores, shift, centroids, scales, fits, codes, places, masks,
            tables, table, scale_of, fit_of, used, row, values, sums, best,
        )  # fmt: skip


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
    new = np.empty((states, WIDE), np.float32)
    cost[0] = 0
    for e in range(len(widths)):
        k, base = widths[e], tables[e]
        new[:] = np.float32(3e30)
        if k >= PLAIN:
            _plain_step(values[e], k, base, table, cost, new, back[e])
            cost[:] = new
            continue
        for w in range(1 << (k + MEMORY)):
            value, s, t = table[base + w], w >> k, w & (states - 1)
            number = np.int32(w)
            for lane in range(WIDE):
                error = values[e, lane] - value
                way = cost[s, lane] + error * error
                better = way < new[t, lane]
                new[t, lane] = way if better else new[t, lane]
                back[e, t, lane] = number if better else back[e, t, lane]
        cost[:] = new
    for lane in range(WIDE):
        state = 0
        for s in range(states):
            if cost[s, lane] < cost[state, lane]:
                state = s
        for e in range(len(widths) - 1, -1, -1):
            w = back[e, state, lane]
            windows[e, lane] = w
            state = w >> widths[e]  # of a plain coordinate too: `_plain_step` puts the state before the bits


@numba.njit(nogil=True, cache=True, parallel=True, fastmath=FAST)
def encode(values: Array, widths: Array, tables: Array, table: Array, codes: Array) -> None:  # pragma: no cover
    """Trellis codes of `values` [T, E] float32 (of unit variance): bits of `widths` [E] each, end to end, into
    `codes` [T, B] uint8."""
    total, dim = values.shape
    for block in numba.prange((total + WIDE - 1) // WIDE):
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


@numba.njit(nogil=True, cache=True, parallel=True)
def unpack(
    codes: Array, places: Array, masks: Array, tables: Array, table: Array, out: Array
) -> None:  # pragma: no cover - compiled
    """Values [T, E] float32 of `codes` [T, B]."""
    for t in numba.prange(len(codes)):
        row = np.zeros(codes.shape[1] + 3, np.uint8)
        row[1:-2] = codes[t]
        _unpack(row, places, masks, tables, table, out[t])
