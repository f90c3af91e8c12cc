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
from .harmonic import double
from .resample import block_sum

#: Relative residual at which a solve ends, and the most steps taken for it. Started from a coarser grid's
#: solution, what is left is short waves, which few steps remove.
TOLERANCE = 1e-3
STEPS = 80

#: Grids of at most this side are solved without a coarser one.
COARSEST = 24


class _Operator:
    """L^T L + t L on the texels of a hole, as lists of flat places in a grid framed by one empty texel.

    Attributes:
        inside: places of the unknown texels.
        rows: places of the unknown texels and, after them, of their known neighbours.
        inverse: of about the operator's diagonal, for preconditioning.
        plane: flat framed grid, zero between calls.
    """

    def __init__(self, unknown: BoolArray, valid: BoolArray, tension: float) -> None:
        framed = np.pad(valid, 1)
        stride = framed.shape[1]
        flat_valid, flat_unknown = framed.ravel(), np.pad(unknown, 1).ravel()
        self.tension = np.float32(tension)
        self.inside = np.flatnonzero(flat_unknown)
        steps = (-stride, stride, -1, 1)
        near = np.concatenate([self.inside + step for step in steps])
        near = near[flat_valid[near] & ~flat_unknown[near]]
        self.rows = np.concatenate([self.inside, np.unique(near)])
        self._around = [self.rows + step for step in steps]
        self._degree = np.zeros(self.rows.size, np.float32)
        for places in self._around:
            self._degree += flat_valid[places]
        inner = self._degree[: self.inside.size]
        # A texel that is a hole by itself has no neighbours: nothing pulls at it.
        stiff = inner * inner + inner * (1 + self.tension)
        self.inverse: FloatArray = np.divide(1, np.maximum(stiff, 1), dtype=np.float32)
        self.plane: FloatArray = np.zeros(flat_valid.size, np.float32)
        self._gathered: FloatArray = np.empty(self.rows.size, np.float32)

    def _laplacian(self, places: int) -> FloatArray:
        """L of `plane` at the first so many of `rows`."""
        result: FloatArray = self._degree[:places] * self.plane[self.rows[:places]]
        gathered = self._gathered[:places]
        for near in self._around:
            np.take(self.plane, near[:places], out=gathered, mode="clip")
            result -= gathered
        return result

    def apply(self) -> FloatArray:
        """The operator on `plane`, at the unknown texels; clears the plane."""
        count = self.inside.size
        first = self._laplacian(self.rows.size)
        self.plane[:] = 0
        self.plane[self.rows] = first
        result = self._laplacian(count)
        self.plane[self.rows] = 0
        result += self.tension * first[:count]
        return result

    def apply_to(self, values: FloatArray) -> FloatArray:
        """The operator on unknowns, with zero at known texels."""
        self.plane[self.inside] = values
        return self.apply()


def _solve(operator: _Operator, known: FloatArray, start: FloatArray) -> FloatArray:
    """Conjugate gradients on one plane.

    Args:
        operator: of the hole.
        known: float32, flat framed plane, the values at known texels and zero elsewhere.
        start: float32 (n,), a first guess at the unknown texels.

    Returns:
        float32 (n,), the unknown texels.
    """
    np.copyto(operator.plane, known)
    target = -operator.apply()
    solution = start.copy()
    residual = target - operator.apply_to(solution)
    scaled: FloatArray = residual * operator.inverse
    direction = scaled.copy()
    energy = float(np.dot(residual, scaled))
    goal = TOLERANCE**2 * max(float(np.dot(target, target * operator.inverse)), 1e-12)
    for _ in range(STEPS):
        if energy <= goal:
            break
        image = operator.apply_to(direction)
        curvature = float(np.dot(direction, image))
        if curvature <= 0:
            break
        pace = np.float32(energy / curvature)
        solution += pace * direction
        residual -= pace * image
        np.multiply(residual, operator.inverse, out=scaled)
        fresh = float(np.dot(residual, scaled))
        direction *= np.float32(fresh / energy)
        direction += scaled
        energy = fresh
    return solution


def extend(values: FloatArray, known: BoolArray, unknown: BoolArray, length: float) -> FloatArray:
    """Continue values with their slopes from known into unknown texels.

    Args:
        values: float32 (c, h, w), planes first; those at known texels up to two from the unknown matter.
        known: bool (h, w), where they are given.
        unknown: bool (h, w), where to continue them; whatever is neither is a wall. Texels that no known
            value can reach get zero.
        length: in texels, how far the slope leads.

    Returns:
        float32 (c, h, w): the continuation at unknown texels, zero elsewhere.
    """
    result: FloatArray = np.zeros(values.shape, np.float32)
    if not unknown.any() or not known.any():
        return result
    given: FloatArray = values * known
    start = result
    if max(unknown.shape) > COARSEST:
        start = _from_coarser(given, known, unknown, length)
    operator = _Operator(unknown, known | unknown, 1 / length**2)
    for channel in range(values.shape[0]):
        plane = np.pad(given[channel], 1).ravel()
        result[channel][unknown] = _solve(operator, plane, start[channel][unknown])
    return result


def _from_coarser(given: FloatArray, known: BoolArray, unknown: BoolArray, length: float) -> FloatArray:
    """The continuation as a grid of half the resolution sees it, at full size."""
    height, width = unknown.shape
    counts = block_sum(known, 2)
    means = np.stack([block_sum(plane, 2) for plane in given]) / np.maximum(counts, 1)
    coarse_unknown: NDArray[np.bool_] = block_sum(unknown, 2) > counts
    coarse_known: NDArray[np.bool_] = (counts > 0) & ~coarse_unknown
    coarse = extend(means.astype(np.float32), coarse_known, coarse_unknown, length / 2)
    return double(coarse + means.astype(np.float32) * coarse_known, height, width)
