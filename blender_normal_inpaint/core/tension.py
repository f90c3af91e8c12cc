"""Continuing a difference into a hole with its slope: a membrane with a stiff rim.

A prediction and the known texels around a hole differ in level and in slope. The continuation u minimises
|L u|^2 + t u.L u, where L is the graph Laplacian, u is given at known texels, and the first sum runs over the
hole and its border: a spline in tension (W. H. F. Smith and P. Wessel, "Gridding with continuous curvature
splines in tension", Geophysics 55, 1990). Within 1 / sqrt(t) texels of the border it behaves as a biharmonic
fill, which goes on with level and slope; further in as a harmonic one, which never swings.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .engine import BoolArray, FloatArray
from .harmonic import double, grow
from .resample import block_sum
from .solver import in_rows, solve

#: Relative residual at which a solve ends, and the most steps taken for it. Started from a coarser grid's
#: solution, what is left is short waves, which few steps remove. On held-out heads in camera space (512
#: texels) 1e-3 is 1 to 2 per cent worse, and the exact solution no better than 3e-4. In object space 3e-4 and
#: a band of 10 are 3 per cent worse than 1e-4 and one of 16, and these here half a per cent.
TOLERANCE = 1.5e-4
STEPS = 160

#: How far from known texels a grid's own solution reaches, in its texels; see above.
BAND = 12

#: Grids of at most this side are solved without a coarser one.
COARSEST = 24


class _Operator:
    """L^T L + t L on the texels of a hole in reading order, a row of numbers (n, c) for each: a `System`."""

    def __init__(self, given: FloatArray, unknown: BoolArray, valid: BoolArray, tension: float) -> None:
        """Number the texels of a hole.

        Args:
            given: float32 (h, w, c), the values at known texels, zero at unknown ones.
            unknown: bool (h, w).
            valid: bool (h, w), known or unknown.
            tension: t.
        """
        self._tension = np.float32(tension)
        framed = np.pad(valid, 1)
        stride = framed.shape[1]
        valid_flat, unknown_flat = framed.ravel(), np.pad(unknown, 1).ravel()
        steps = (-stride, stride, -1, 1)
        inside = np.flatnonzero(unknown_flat)
        beside = np.zeros_like(unknown_flat)
        for step in steps:
            beside[inside + step] = True
        # Unknown texels come first, then their known neighbours; the last, empty row is all beyond those.
        places = np.concatenate([inside, np.flatnonzero(beside & valid_flat & ~unknown_flat)])
        number = np.full(valid_flat.size, places.size, np.intp)
        number[places] = np.arange(places.size)
        near = [places + step for step in steps]
        self._around = [number[beyond] for beyond in near]
        degree = np.zeros(places.size, np.float32)
        for beyond in near:
            degree += valid_flat[beyond]
        self._count, width = inside.size, given.shape[-1]
        self._degree = np.repeat(degree[:, None], width, axis=1)
        self._field: FloatArray = np.zeros((places.size + 1, width), np.float32)
        self._first: FloatArray = np.zeros((places.size + 1, width), np.float32)
        self._gathered: FloatArray = np.empty((places.size, width), np.float32)
        inner = degree[: inside.size]
        # A texel that is a hole by itself has no neighbours: nothing pulls at it.
        stiff = inner * inner + inner * (1 + self._tension)
        inverse = np.divide(1, np.maximum(stiff, 1), dtype=np.float32)
        self.inverse: FloatArray = np.repeat(inverse[:, None], width, axis=1)
        # The known values are seen from up to two texels away, beyond what has a number.
        known = np.pad(given, ((1, 1), (1, 1), (0, 0))).reshape(valid_flat.size, width)
        first = degree[:, None] * known[places]
        for beyond in near:
            first -= known[beyond]
        self._first[:-1] = first
        self.target: FloatArray = -self._second()

    def _second(self) -> FloatArray:
        """The operator at the unknown texels, of the `_first` Laplacian."""
        count = self._count
        result = (self._degree[:count] + self._tension) * self._first[:count]
        gathered = self._gathered[:count]
        for near in self._around:
            self._first.take(near[:count], axis=0, out=gathered, mode="clip")
            result -= gathered
        return result

    def __call__(self, values: FloatArray) -> FloatArray:
        """The operator on unknowns, float32 (n, c), with zero at known texels."""
        self._field[: self._count] = values
        first = self._first[:-1]
        np.multiply(self._degree, self._field[:-1], out=first)
        for near in self._around:
            self._field.take(near, axis=0, out=self._gathered, mode="clip")
            first -= self._gathered
        return self._second()


def extend(
    values: FloatArray, known: BoolArray, unknown: BoolArray, length: float, steps: int = STEPS
) -> FloatArray:
    """Continue values with their slopes from known into unknown texels.

    Args:
        values: float32 (c, h, w), planes first; those at known texels up to two from the unknown matter.
        known: bool (h, w), where they are given.
        unknown: bool (h, w), where to continue them; whatever is neither is a wall. Texels that no known
            value can reach get what a coarser grid, on which gaps close, has there, or zero.
        length: in texels, how far the slope leads.
        steps: of the solver on each grid, at most.

    Returns:
        float32 (c, h, w): the continuation at unknown texels, zero elsewhere.
    """
    result: FloatArray = np.zeros(values.shape, np.float32)
    if not unknown.any() or not known.any():
        return result
    given: FloatArray = values * known
    start, near = result, unknown
    if max(unknown.shape) > COARSEST:
        start = extend_coarsely(given, known, unknown, length, steps)
        # Deeper in, all waves are so long that the coarser grid has them: the work follows the border.
        near = grow(known, BAND)
        near &= unknown
    planes = len(values)
    result[:, unknown] = start[:, unknown]
    fixed = given + result * ~near
    rows = in_rows(fixed.reshape(planes, -1)).reshape(*unknown.shape, -1)
    operator = _Operator(rows, near, known | unknown, 1 / length**2)
    solution = solve(operator, in_rows(start[:, near]), steps, TOLERANCE)
    result[:, near] = solution[:, :planes].T
    return result


def extend_coarsely(
    values: FloatArray, known: BoolArray, unknown: BoolArray, length: float, steps: int = STEPS
) -> FloatArray:
    """`extend` as a grid of half the resolution sees it, at full size: it goes on from means of four texels.

    Args:
        values: float32 (c, h, w), zero at unknown texels.
        known: as for `extend`.
        unknown: likewise.
        length: likewise, in texels of these values.
        steps: likewise.

    Returns:
        float32 (c, h, w), for every texel.
    """
    height, width = unknown.shape
    counts = block_sum(known, 2)
    means = np.stack([block_sum(plane, 2) for plane in values]) / np.maximum(counts, 1)
    coarse_unknown: NDArray[np.bool_] = block_sum(unknown, 2) > counts
    coarse_known: NDArray[np.bool_] = (counts > 0) & ~coarse_unknown
    coarse = extend(means.astype(np.float32), coarse_known, coarse_unknown, length / 2, steps)
    return double(coarse + means.astype(np.float32) * coarse_known, height, width)
