"""The hot loops of search, compiled by Numba: no compiler is needed at install. Plain references stand in
tests/test_compressed.py and tests/test_lists.py.

Shapes: Q query vectors (padded to LANES), K centroids, N documents, T document vectors, E dimensions, B bytes a code.

Why they look as they do (AVX2, 2026). `python -m benchmarks.engine.loops` prints what each takes; what other forms took
was measured while they were written, on one machine:
- All loops whose trip count is the constant LANES become vector instructions without a remainder.
- `interact` keeps the query's scores of the centroids as bytes, 32 a row: one row is one AVX2 register, and a running
  maximum is one instruction a document vector. The table of 8,192 centroids is 256 kB and stays in the second cache.
- `rerank` decodes two vectors at a time into 1 kB of the first cache and multiplies them there. What centroids promise
  it reads from the bytes: a quarter of the memory that the scores take.
- A running maximum of floats goes from one array to another and back. In place LLVM makes it a masked store, which
  takes AMD's processors some 20 cycles: bounds by maxima in place took 82 ns a vector, so 43, and from bytes 33.
- `walk_lists` keeps a block of 65,536 documents' sums and marks in the second cache, and a list entry in two bytes.
- Threads are Python's (the loops hold no lock) and take whole documents or blocks of vectors; every sum has one order,
  so their number changes no bit. Numba's own threads would cost seconds of compiling.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

LANES = 32
SLIVER = np.float32(1e-5)
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
def lean(query: Array, means: Array, scales: Array, documents: Array, out: Array) -> None:  # pragma: no cover
    """`out` [n] float32: dot product of `query` [E] float32 with the documents' means [N, E] int8 times scales [N]."""
    for i in range(len(documents)):
        d = documents[i]
        total = np.float32(0)
        for e in range(len(query)):
            total += query[e] * np.float32(means[d, e])
        out[i] = total * scales[d]


@numba.njit(nogil=True, cache=True, inline="always")
def _unpack(
    code: Array, places: Array, shifts: Array, masks: Array, tables: Array, table: Array, row: Array, words: Array,
    out: Array,
) -> None:  # fmt: skip
    """The first values of one code [B], as many as `out` has: table[tables + window of bits]; a window stands in the
    three bytes from `places` on, `shifts` from their end. `words` [b + 1] and `row` [b + 3] are room to work in for
    the first b bytes, zeros at first. Unsigned numbers of 32 bits throughout spare the checks for negative places (two
    thirds of the time with numpy's usual int64)."""
    for b in range(len(words) - 1):
        row[b + 1] = code[b]  # a zero byte stays before, two behind
    for b in range(len(words)):
        words[b] = (
            (np.uint32(row[b]) << np.uint32(16)) | (np.uint32(row[b + 1]) << np.uint32(8)) | np.uint32(row[b + 2])
        )
    for e in range(len(out)):
        out[e] = table[np.uint32(tables[e] + ((words[places[e]] >> shifts[e]) & masks[e]))]


@numba.njit(nogil=True, cache=True, fastmath=FAST, inline="always")
def _multiply(x: Array, y: Array, query: Array, sums_x: Array, sums_y: Array) -> None:
    """Products of two vectors [E] with LANES query vectors, `query` [E * LANES]: two vectors and four dimensions a step
    is the one form of seven that LLVM keeps in registers (as fast as torch; the others take ten times as long)."""
    for lane in range(LANES):
        sums_x[lane] = 0
        sums_y[lane] = 0
    for step in range(len(x) // 4):  # not range(0, len(x), 4): then LLVM fears negative places: ten times as long
        e, at = 4 * step, 4 * LANES * step
        x0, x1, x2, x3 = x[e], x[e + 1], x[e + 2], x[e + 3]
        y0, y1, y2, y3 = y[e], y[e + 1], y[e + 2], y[e + 3]
        for lane in range(LANES):
            a, b = query[at + lane], query[at + LANES + lane]
            c, d = query[at + 2 * LANES + lane], query[at + 3 * LANES + lane]
            sums_x[lane] += (x0 * a + x1 * b) + (x2 * c + x3 * d)
            sums_y[lane] += (y0 * a + y1 * b) + (y2 * c + y3 * d)


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def products(
    rows: Array, scales: Array, query: Array, first: int, last: int, out: Array
) -> None:  # pragma: no cover - compiled
    """Products of centroids first to last, `rows` [K, E] int8 times `scales` [K, 1] float32, with LANES query vectors,
    `query` [E * LANES], into `out` [K * LANES]. Torch and numpy are as fast, but want the centroids in float32, and
    their threads wait for more by turning in circles on the processors that the other loops need."""
    dim = rows.shape[1]
    x, y = np.empty(dim, np.float32), np.empty(dim, np.float32)
    sums_x, sums_y = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    for pair in range((last - first + 1) // 2):
        c = first + 2 * pair
        d = min(c + 1, last - 1)  # the last of an odd number stands beside itself
        for e in range(dim):
            x[e] = np.float32(rows[c, e])
            y[e] = np.float32(rows[d, e])
        _multiply(x, y, query, sums_x, sums_y)
        for lane in range(LANES):
            out[c * LANES + lane] = sums_x[lane] * scales[c, 0]
            out[d * LANES + lane] = sums_y[lane] * scales[d, 0]


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def rerank(
    documents: Array, starts: Array, ends: Array, query: Array, rotated: Array, centroid_scores: Array, promises: Array,
    unit: np.float32, low: np.float32, used: int, centroids: Array, scales: Array, fits: Array, codes: Array,
    means: Array, mean_scales: Array, places: Array, shifts: Array, masks: Array, tables: Array, table: Array,
    scale_of: Array, fit_of: Array, margin: np.float32, rest_margin: np.float32, first: int, size: int, axes: int,
    out: Array,
) -> None:  # pragma: no cover - compiled  # fmt: skip
    """MaxSim of `documents` [n] from their codes' first `axes` coordinates, added to `out` [n] float32, for one block
    of LANES query vectors of which the first `used` count: `query` and `rotated` [E * LANES] float32, the block as it
    is and in the codes' space, `centroid_scores` [K * LANES], and the same as bytes, `promises` [K, LANES] times `unit`
    and `low`. A document's vectors are passed over by what their centroids promise (`margin`), those that are left
    are decoded in their first `first` coordinates, in the first `size` bytes, and where that is not all, the rest of
    those that may still be some query vector's best by `rest_margin`."""
    dim = len(places)
    row, words = np.zeros(size + 3, np.uint8), np.zeros(size + 1, np.uint32)
    whole_row, whole_words = np.zeros(codes.shape[1] + 3, np.uint8), np.zeros(codes.shape[1] + 1, np.uint32)
    x, y, mean = np.empty(first, np.float32), np.empty(first, np.float32), np.empty(dim, np.float32)
    rest_x, rest_y, rest = (
        np.empty(axes - first, np.float32),
        np.empty(axes - first, np.float32),
        rotated[first * LANES :],
    )
    last_places, last_shifts, last_masks, last_tables = places[first:], shifts[first:], masks[first:], tables[first:]
    # Made here, one by one: of arrays that it saw made, LLVM knows that they do not overlap (6 times as fast).
    sums_x, sums_y = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    shift, base = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    best, other = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    longest = 0
    for i in range(len(documents)):
        longest = max(longest, ends[documents[i]] - starts[documents[i]])
    kept, rows = np.empty(longest, np.int64), np.empty(longest, np.int64)
    found = np.empty((longest + 1) * LANES, np.float32)
    flat = promises.reshape(-1)
    for i in range(len(documents)):
        d = documents[i]
        for e in range(dim):
            mean[e] = np.float32(means[d, e]) * mean_scales[d]
        _multiply(mean, mean, query, shift, sums_y)
        # What centroids promise, less what codes may take away: only vectors that may come above it are decoded.
        for lane in range(LANES):
            base[lane] = shift[lane] + low
            best[lane] = -np.inf
        for pair in range((ends[d] - starts[d] + 1) // 2):
            t = starts[d] + 2 * pair
            u = min(t + 1, ends[d] - 1)  # the last of an odd number stands beside itself
            fit_x, slack_x, at_x = fit_of[fits[t]], margin * scale_of[scales[t]], np.int64(centroids[t]) * LANES
            fit_y, slack_y, at_y = fit_of[fits[u]], margin * scale_of[scales[u]], np.int64(centroids[u]) * LANES
            for lane in range(LANES):
                a, old = fit_x * (unit * np.float32(flat[at_x + lane]) + base[lane]) - slack_x, best[lane]
                other[lane] = a if a > old else old
            for lane in range(LANES):
                a, old = fit_y * (unit * np.float32(flat[at_y + lane]) + base[lane]) - slack_y, other[lane]
                best[lane] = a if a > old else old
        for lane in range(LANES):  # a query vector that is not there keeps nothing, and rounding loses none
            best[lane] = best[lane] - SLIVER if lane < used else np.float32(np.inf)
        count = 0
        for t in range(starts[d], ends[d]):
            fit, slack, at = fit_of[fits[t]], margin * scale_of[scales[t]], np.int64(centroids[t]) * LANES
            above = np.int32(0)
            for lane in range(LANES):
                above += np.int32(fit * (unit * np.float32(flat[at + lane]) + base[lane]) + slack >= best[lane])
            if above > 0:
                kept[count] = t
                count += 1
        for lane in range(LANES):
            best[lane] = -np.inf
        for i_kept in range(0, count, 2):
            t = kept[i_kept]
            u = kept[min(i_kept + 1, count - 1)]
            _unpack(codes[t], places, shifts, masks, tables, table, row, words, x)
            _unpack(codes[u], places, shifts, masks, tables, table, row, words, y)
            _multiply(x, y, rotated, sums_x, sums_y)
            scale_x, scale_y, fit_x, fit_y = scale_of[scales[t]], scale_of[scales[u]], fit_of[fits[t]], fit_of[fits[u]]
            at_x, at_y = np.int64(centroids[t]) * LANES, np.int64(centroids[u]) * LANES
            slack_x, slack_y, to = rest_margin * scale_x, rest_margin * scale_y, i_kept * LANES
            for lane in range(LANES):
                a = fit_x * (centroid_scores[at_x + lane] + shift[lane] + scale_x * sums_x[lane])
                found[to + lane] = a
                a, old = a - slack_x, best[lane]
                other[lane] = a if a > old else old
            for lane in range(LANES):
                a = fit_y * (centroid_scores[at_y + lane] + shift[lane] + scale_y * sums_y[lane])
                found[to + LANES + lane] = a
                a, old = a - slack_y, other[lane]
                best[lane] = a if a > old else old
        if axes > first:
            for lane in range(used, LANES):
                best[lane] = np.inf
            left = 0
            for i_kept in range(count):
                slack, to = rest_margin * scale_of[scales[kept[i_kept]]], i_kept * LANES
                above = np.int32(0)
                for lane in range(LANES):
                    above += np.int32(found[to + lane] + slack >= best[lane])
                if above > 0:
                    kept[left], rows[left] = kept[i_kept], to
                    left += 1
            for lane in range(LANES):
                best[lane] = -np.inf
            for i_kept in range(0, left, 2):
                j_kept = min(i_kept + 1, left - 1)
                t, u, at_x, at_y = kept[i_kept], kept[j_kept], rows[i_kept], rows[j_kept]
                _unpack(
                    codes[t], last_places, last_shifts, last_masks, last_tables, table, whole_row, whole_words, rest_x
                )
                _unpack(
                    codes[u], last_places, last_shifts, last_masks, last_tables, table, whole_row, whole_words, rest_y
                )
                _multiply(rest_x, rest_y, rest, sums_x, sums_y)
                scale_x, scale_y = fit_of[fits[t]] * scale_of[scales[t]], fit_of[fits[u]] * scale_of[scales[u]]
                for lane in range(LANES):
                    a, old = found[at_x + lane] + scale_x * sums_x[lane], best[lane]
                    other[lane] = a if a > old else old
                for lane in range(LANES):
                    a, old = found[at_y + lane] + scale_y * sums_y[lane], other[lane]
                    best[lane] = a if a > old else old
        total = np.float32(0)
        for lane in range(used):
            total += best[lane]
        out[i] += total


@numba.njit(nogil=True, cache=True)
def fill_lists(
    centroids: Array, starts: Array, ends: Array, begin: int, end: int, number: int, seen: Array, places: Array,
    out: Array,
) -> None:  # pragma: no cover - compiled  # fmt: skip
    """Lists of documents by centroid: a part's documents from `begin` to `end`, of which the first has the number
    `number` there, each once in the list of every centroid that it names. `places` [K] int64 move on; an empty `out`
    uint16 is not written, so that places count. `seen` [K] int64: the last document in each list (-1)."""
    for d in range(begin, end):
        name = number + d - begin
        for t in range(starts[d], ends[d]):
            c = np.int64(centroids[t])
            if seen[c] != name:
                seen[c] = name
                if len(out):
                    out[places[c]] = np.uint16(name)
                places[c] += 1


@numba.njit(nogil=True, cache=True)
def reach(table: Array, used: int, sizes: Array, wanted: int, floors: Array) -> None:  # pragma: no cover - compiled
    """For each query vector the byte `floors` [LANES] from which on its centroids' lists, of `sizes` [K], hold at least
    `wanted` entries together."""
    counts = np.zeros(LANES * 256, np.int64)
    flat = table.reshape(-1)
    for c in range(len(sizes)):
        size = np.int64(sizes[c])
        for lane in range(LANES):
            counts[lane * 256 + flat[c * LANES + lane]] += size
    for lane in range(used):
        total, byte = 0, 255
        for step in range(255):
            byte = 255 - step
            total += counts[lane * 256 + byte]
            if total >= wanted:
                break
        floors[lane] = byte


@numba.njit(nogil=True, cache=True)
def pick(table: Array, used: int, floors: Array, picked: Array, counts: Array) -> None:  # pragma: no cover - compiled
    """The centroids of each query vector that reach its floor, best first: `picked` [LANES, K] int32, the first
    `counts` [LANES] of each row."""
    flat, levels = table.reshape(-1), np.zeros(257 * LANES, np.int64)
    for turn in range(2):  # count, then place: a counting sort by byte
        for c in range(len(table)):
            above = np.int32(0)
            for lane in range(LANES):
                above += np.int32(flat[c * LANES + lane] >= floors[lane])
            if above > 0:
                for lane in range(used):
                    byte = np.int64(flat[c * LANES + lane])
                    if byte >= floors[lane]:
                        if turn:
                            picked[lane, levels[lane * 257 + byte + 1]] = c
                            levels[lane * 257 + byte + 1] += 1
                        else:
                            levels[lane * 257 + byte] += 1
        if turn == 0:
            for lane in range(used):
                total = 0
                for step in range(256):  # where each byte's centroids begin, kept one place higher
                    level = 255 - step
                    held = levels[lane * 257 + level]
                    levels[lane * 257 + level + 1] = total
                    total += held
                counts[lane] = total


@numba.njit(nogil=True, cache=True)
def walk_lists(
    table: Array, used: int, floors: Array, picked: Array, counts: Array, documents: Array, begins: Array, ends: Array,
    sums: Array,
) -> None:  # pragma: no cover - compiled  # fmt: skip
    """`sums` [block] uint16 grows by what documents gain over the floors: for each query vector the best centroid whose
    list names them (the lists are walked best first, so that is the first). A query vector that finds none of a
    document's centroids adds nothing, as if its best stood just below the floor. The list of centroid c is
    documents[begins[c]:ends[c]]."""
    seen = np.zeros(len(sums), np.uint8)
    for lane in range(used):
        mark = np.uint8(lane + 1)
        for i in range(counts[lane]):
            c = picked[lane, i]
            gain = np.uint16(table[c, lane] - floors[lane] + 1)
            for at in range(max(begins[c], 0), min(ends[c], len(documents))):
                d = documents[at]
                if seen[d] != mark:
                    seen[d] = mark
                    sums[d] += gain


@numba.njit(nogil=True, cache=True)
def unpack(
    codes: Array, places: Array, shifts: Array, masks: Array, tables: Array, table: Array, out: Array
) -> None:  # pragma: no cover - compiled
    """Values [T, E] float32 of `codes` [T, B]."""
    row, words = np.zeros(codes.shape[1] + 3, np.uint8), np.zeros(codes.shape[1] + 1, np.uint32)
    for t in range(len(codes)):
        _unpack(codes[t], places, shifts, masks, tables, table, row, words, out[t])


@numba.njit(nogil=True, cache=True)
def quantise(scores: Array, used: int, low: np.float32, unit: np.float32, table: Array) -> None:  # pragma: no cover
    """Scores [K, LANES] float32 as bytes: (score - low) / unit, rounded. The first `used` columns count, the others
    are 0."""
    flat, out, per = scores.reshape(-1), table.reshape(-1), np.float32(1) / unit
    for c in range(len(scores)):
        at = c * LANES
        for lane in range(LANES):
            value = (flat[at + lane] - low) * per + np.float32(0.5)
            value = value if value > np.float32(0) else np.float32(0)
            out[at + lane] = np.uint8(value if value < np.float32(255) else np.float32(255))
        for lane in range(used, LANES):
            out[at + lane] = 0
