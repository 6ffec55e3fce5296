"""Scores that fall strictly, so that no tool's tie rule reorders the hits. Needs no torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LOWEST = -0x7F800000  # minus infinity among the floats as `strictly_falling` counts them


def strictly_falling(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Sorted scores [N], ties lowered step by step: y[i] = min(x[i], nextafter(y[i - 1], -inf)).

    Done without a loop: a float's bits, read as an integer with the sign applied, count the floats in order, so one
    step of nextafter is minus one, and y[i] + i is a running minimum.
    """
    values = np.asarray(scores, np.float32)
    if (values[1:] < values[:-1]).all():
        return values
    bits = values.view(np.int32).astype(np.int64)
    order = np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    steps = np.arange(len(values))
    order = np.maximum(np.minimum.accumulate(order + steps) - steps, LOWEST)
    magnitude = np.abs(order).astype(np.int32).view(np.float32)
    return np.where(order < 0, -magnitude, magnitude).astype(np.float32)
