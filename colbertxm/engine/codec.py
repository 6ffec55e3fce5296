"""How a document vector becomes bytes, and bytes a vector.

    x  ~  fit * (centroid + mean of its document's residuals + scale * from_codes(values of a trellis code))

PLAID (arXiv 2205.09707) keeps a centroid's number and each coordinate of the residual in b bits, by the coordinate's
quantiles. What is done here beyond that, each at no or few bytes (`python benchmarks/engine/tricks.py` measures):
- **The document's mean residual** goes first: contextual vectors of one document lean to one side. [E] bytes a
  document, about 1.5 a vector. The first stage of search reads it too.
- **Coordinates that queries ask for**: with S, the second moment of document vectors, S^(1/2) r would weigh an error by
  what it does to the score of a query as spread as the documents are, and r by what it does to the vector. Between them
  lies S^(1/4) r, which did best; its principal axes get the bits that lower the squared error most (reverse
  water-filling).
- **A scale a vector**, one byte, so that one table of values for normal numbers serves everywhere.
- **Trellis codes** (colbertxm.engine.trellis): the error of a fifth of a bit more.
- **A fit a vector**, one byte: the decoded vector gets its true length.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from colbertxm.engine.int8 import quantise
from colbertxm.engine.kernels import Array
from colbertxm.engine.kmeans import ROUNDS, Centroids, kmeans
from colbertxm.engine.trellis import ERRORS, Layout, values

CODE_BYTES = {1: 0.125, 2: 31 / 128, 4: 66 / 128, 8: 1.0}
"""Bytes of code a dimension, by the bits that one asks for: with everything else, 128 dimensions take at most 40 bytes
a vector at 2 bits and 75 at 4."""
ONE, OCTAVE = 192, 16  # the byte of scale 1, and bytes for twice as much
SCALES = np.exp2((np.arange(256) - ONE) / OCTAVE).astype(np.float32)  # 2^-12 to 2^4, steps of 4.4 %
LEAST_FIT, FIT_STEPS = 0.75, 512
FITS = (LEAST_FIT + np.arange(256) / FIT_STEPS).astype(np.float32)  # .75 to 1.25
SHRINK = 0.01  # of the mean eigenvalue: no axis is thought to be asked for less


@dataclass(frozen=True)
class Codes:
    """Encoded documents: `centroids` [T], `scales` and `fits` [T] uint8, `codes` [T, B] uint8, and of each document the
    mean residual, `means` [N, E] int8 times `mean_scales` [N] float32."""

    centroids: Array
    scales: Array
    fits: Array
    codes: Array
    means: Array
    mean_scales: Array

    @classmethod
    def joined(cls, pieces: Sequence[Codes]) -> Codes:
        """The documents of all `pieces`, in order."""
        return cls(*(np.concatenate([getattr(piece, field.name) for piece in pieces]) for field in fields(cls)))


@dataclass(frozen=True)
class Windows:
    """A layout's `places`, `shifts`, `masks`, and each coordinate's place in the `table` of values: [E] int32 each."""

    places: Tensor
    shifts: Tensor
    masks: Tensor
    tables: Tensor
    table: Tensor

    def values(self, codes: Tensor) -> Tensor:
        """Values [T, E] float32 of `codes` [T, B]: three bytes make a word, in which a coordinate's window of bits
        stands."""
        bytes_ = torch.nn.functional.pad(codes, (1, 2)).int()
        words = (bytes_[:, :-2] << 16) | (bytes_[:, 1:-1] << 8) | bytes_[:, 2:]
        windows = (words.index_select(1, self.places) >> self.shifts).bitwise_and_(self.masks).add_(self.tables)
        return self.table.index_select(0, windows.flatten()).view(windows.shape)


class Codec:
    """A fitted codec. `rows` [K, E] int8 times `row_scales` [K, 1] float32 are the centroids; `axes` [E, E] float32
    takes a residual to the codes' space (y = r @ axes), `back` [E, E] from it; `deviations` [E] is the size of each
    coordinate there and `widths` [E] its bits. Axes are in falling order of bits."""

    def __init__(
        self, rows: Array, row_scales: Array, axes: Array, back: Array, deviations: Array, widths: Array
    ) -> None:
        self.rows, self.row_scales, self.axes, self.back = rows, row_scales, axes, back
        self.deviations, self.widths = deviations, widths
        self.layout = Layout(widths)
        used = sorted(set(widths.tolist()))
        sizes = {width: len(values(width)) for width in used}
        starts = dict(zip(used, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
        self.table = np.concatenate([values(width) for width in used])
        self.tables = np.array([starts[width] for width in widths.tolist()], np.uint32)

    @cached_property
    def centroids(self) -> Tensor:
        """[K, E] float32."""
        return torch.from_numpy(self.rows.astype(np.float32) * self.row_scales)

    @cached_property
    def _nearest(self) -> Centroids:
        return Centroids(self.centroids)

    @cached_property
    def decoder(self) -> Array:
        """[E, E] float32: values of a code to its residual, but for the vector's scale."""
        return np.ascontiguousarray(self.deviations[:, None] * self.back)

    @property
    def number(self) -> str:
        """The type of a centroid's number."""
        return "<u2" if len(self.rows) <= 2**16 else "<u4"

    @property
    def dim(self) -> int:
        return len(self.axes)

    def arrays(self) -> dict[str, Array]:
        """What a file must keep."""
        names = ("rows", "row_scales", "axes", "back", "deviations", "widths")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> Codec:
        """The codec of `arrays()`."""
        return cls(**{name: np.array(array) for name, array in arrays.items()})

    def encode(self, vectors: Tensor, offsets: Tensor) -> Codes:
        """Encode documents: `vectors` [T, E] float32, document n is rows offsets[n]:offsets[n + 1]."""
        chosen = self._nearest.nearest(vectors)
        base = self.centroids[chosen]
        means, mean_scales = _means(vectors - base, offsets)
        base = base + _of_documents(means, mean_scales, offsets)
        turned = ((vectors - base) @ torch.from_numpy(self.axes)) / torch.from_numpy(self.deviations)
        scales = _scale_numbers(turned.square().mean(1).sqrt())
        scale = torch.from_numpy(SCALES)[scales]
        codes = self.layout.encode((turned / scale[:, None]).numpy(), self.tables, self.table)
        decoded = base + scale[:, None] * (self.values(torch.from_numpy(codes)) @ torch.from_numpy(self.decoder))
        fit = vectors.norm(dim=1) / decoded.norm(dim=1).clamp_min(1e-12)
        fits = ((fit - LEAST_FIT) * FIT_STEPS).round().clamp(0, 255)
        return Codes(
            chosen.numpy().astype(self.number),
            scales.numpy().astype(np.uint8),
            fits.numpy().astype(np.uint8),
            codes,
            means.numpy(),
            mean_scales.numpy(),
        )

    def error(self, codes: Codes, vectors: Tensor, offsets: Tensor) -> float:
        """The mean squared error of `codes` as `vectors` [T, E]."""
        return float((self.decode(codes, offsets) - vectors.float()).square().sum(1).mean())

    def windows(self, device: torch.device | str) -> Windows:
        """Where a code's values are found, on `device`."""
        layout = self.layout
        places, shifts, masks, tables = (
            torch.from_numpy(array.astype(np.int32)).to(device)
            for array in (layout.places, layout.shifts, layout.masks, self.tables)
        )
        return Windows(places, shifts, masks, tables, torch.from_numpy(self.table).to(device))

    def values(self, codes: Tensor) -> Tensor:
        """Values [T, E] float32 of `codes` [T, B], in torch alone: what the kernels do, readable, and on any device."""
        return self.windows(codes.device).values(codes)

    def decode(self, codes: Codes, offsets: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """The vectors [T, E] float32 that `codes` stand for."""

        def on(array: Array) -> Tensor:
            return torch.from_numpy(np.array(array)).to(device)

        chosen = on(codes.centroids.astype(np.int64))
        means = _of_documents(on(codes.means), on(codes.mean_scales), offsets.to(device))
        base = self.centroids.to(device)[chosen] + means
        residuals = self.values(on(codes.codes)) @ on(self.decoder)
        scale, fit = on(SCALES)[on(codes.scales).long()], on(FITS)[on(codes.fits).long()]
        return fit[:, None] * (base + scale[:, None] * residuals)


def fit_codec(
    vectors: Tensor,
    offsets: Tensor,
    bits: int,
    k: int,
    seed: int = 0,
    rounds: int = ROUNDS,
    progress: Callable[[int], None] | None = None,
) -> Codec:
    """A codec of about `bits` bits a dimension (1, 2, 4, 8) and `k` centroids, from a sample of whole documents:
    `vectors` [T, E] float32, `offsets` [N + 1]. Needs no queries."""
    trained = kmeans(vectors, min(k, len(vectors)), seed, rounds, progress)
    rounded = quantise(trained)
    row_scales = rounded.scales[:, None]
    centroids = rounded.values.float() * row_scales
    residuals = vectors - centroids[Centroids(centroids).nearest(vectors)]
    means, mean_scales = _means(residuals, offsets)
    residuals -= _of_documents(means, mean_scales, offsets)
    axes, back = _axes(vectors, residuals)
    turned = residuals @ axes
    deviations = turned.square().mean(0).sqrt().clamp_min(1e-6)
    for _ in range(2):  # sizes of the coordinates when each vector has its own scale taken out
        scale = (turned / deviations).square().mean(1).sqrt().clamp_min(1e-6)
        deviations = (turned / scale[:, None]).square().mean(0).sqrt().clamp_min(1e-6)
    dim = vectors.shape[1]
    widths = allocate((deviations.double() ** 2).numpy(), int(CODE_BYTES[bits] * dim * 8))
    rows = rounded.values.numpy()
    return Codec(rows, row_scales.numpy(), axes.numpy(), back.numpy(), deviations.numpy(), widths)


def allocate(variances: Array, bits: int) -> Array:
    """Bits for each coordinate, [E], `bits` in all: one at a time to where it lowers the error most."""
    widths = np.zeros(len(variances), np.int64)
    gains = [(-v * (ERRORS[0] - ERRORS[1]), i) for i, v in enumerate(variances.tolist())]
    heapq.heapify(gains)
    for _ in range(min(bits, (len(ERRORS) - 1) * len(variances))):
        _, i = heapq.heappop(gains)
        widths[i] += 1
        if widths[i] < len(ERRORS) - 1:
            heapq.heappush(gains, (-variances[i] * (ERRORS[widths[i]] - ERRORS[widths[i] + 1]), i))
    return widths


def _axes(vectors: Tensor, residuals: Tensor) -> tuple[Tensor, Tensor]:
    """To the codes' space and back, [E, E] each: principal axes of the residuals as queries see them."""
    moment = (vectors.T @ vectors).double() / len(vectors)
    sizes, directions = torch.linalg.eigh(moment)
    sizes = sizes.clamp_min(float(sizes.mean()) * SHRINK)
    asked = directions * sizes.pow(0.25) @ directions.T
    seen = asked @ ((residuals.T @ residuals).double() / len(residuals)) @ asked
    axes = torch.linalg.eigh(seen).eigenvectors.flip(1)
    signs = torch.where(axes.abs().cummax(0).values[-1] == axes.max(0).values, 1.0, -1.0)
    axes = axes * signs  # the largest entry of an axis is positive, whatever the solver's mood
    return (asked @ axes).float(), (axes.T @ torch.linalg.inv(asked)).float()


def _means(residuals: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean residual of each document: [N, E] int8 and [N] float32."""
    lengths = offsets.diff()
    owner = torch.repeat_interleave(lengths)
    sums = torch.zeros(len(lengths), residuals.shape[1]).index_add_(0, owner, residuals)
    rounded = quantise(sums / lengths.clamp_min(1)[:, None])
    return rounded.values, rounded.scales


def _of_documents(means: Tensor, scales: Tensor, offsets: Tensor) -> Tensor:
    """Each vector's document's mean residual, [T, E] float32."""
    return (means.float() * scales[:, None])[torch.repeat_interleave(offsets.diff())]


def _scale_numbers(scale: Tensor) -> Tensor:
    return (scale.clamp_min(1e-12).log2() * OCTAVE + ONE).round().clamp(0, 255).long()
