"""Closing a seam: a difference known along a hole's border, continued smoothly into the hole.

The continuation solves Laplace's equation, so it is the smoothest field with the given border values and
never exceeds them (Perez et al., "Poisson Image Editing", 2003, section 2). Away from the border that
field is so smooth that a coarse grid holds it exactly enough; only a band along the border needs native
texels. So the grids are solved from coarse to fine, each finer one in such a band alone, and the cost
follows the length of the border, not the area of the hole.
"""

from __future__ import annotations

import numpy as np

from .engine import BoolArray, FloatArray
from .resample import block_any
from .solver import in_rows, solve

#: Width in texels of the band that is solved anew on each finer grid.
BAND = 8

#: A grid with at most this many unknowns is solved everywhere, not only in its band.
SMALL = 12_000

#: Relative residual at which a solve ends.
TOLERANCE = 1e-3


def border_of(unknown: BoolArray, known: BoolArray) -> BoolArray:
    """The known texels with an unknown one above, below, left or right of them."""
    return known & grow(unknown)


def grow(flags: BoolArray, steps: int = 1) -> BoolArray:
    """The flags spread by so many texels up, down, left and right."""
    for _ in range(steps):
        grown = flags.copy()
        grown[1:] |= flags[:-1]
        grown[:-1] |= flags[1:]
        grown[:, 1:] |= flags[:, :-1]
        grown[:, :-1] |= flags[:, 1:]
        flags = grown
    return flags


def steps_from(known: BoolArray, inside: BoolArray, most: int) -> FloatArray:
    """How many steps up, down, left or right it is from known texels to others, through these.

    Args:
        known: bool (h, w).
        inside: bool (h, w), the others; what is neither is a wall.
        most: what texels get that are farther away, or that no way leads to.

    Returns:
        float32 (h, w), 1 beside known texels, 0 where `inside` is not.
    """
    steps: FloatArray = np.zeros(inside.shape, np.float32)
    reached, left = known, inside & ~known
    for _ in range(most):
        if not left.any():
            break
        steps += left
        reached = grow(reached) & (inside | known)
        left = left & ~reached
    return steps


class _Laplacian:
    """Laplace's equation on texels in reading order, a row of numbers (n, k) for each: a `System`."""

    def __init__(self, values: FloatArray, active: BoolArray, fixed: BoolArray) -> None:
        """Number the texels.

        Args:
            values: float32 (c, h, w); those at fixed texels count.
            active: bool (h, w), texels to solve.
            fixed: bool (h, w), texels that hold still. All others are walls, which nothing flows through.
        """
        height, width = active.shape
        flat = np.flatnonzero(active)
        # Texel numbers in a frame one texel wider, so that no neighbour is out of bounds.
        stride = width + 2
        framed = (flat // width + 1) * stride + flat % width + 1
        number = np.full((height + 2) * stride, flat.size, np.intp)  # the last, empty row is all others
        number[framed] = np.arange(flat.size)
        held = np.zeros((height + 2, stride), np.bool_)
        held[1:-1, 1:-1] = fixed
        held_flat, plain = held.ravel(), values.reshape(len(values), -1)
        degree = np.zeros(flat.size, np.float32)
        target = np.zeros((len(values), flat.size), np.float32)
        self._near = []
        for step, away in ((-stride, -width), (stride, width), (-1, -1), (1, 1)):
            near = number[framed + step]
            self._near.append(near)
            border = held_flat[framed + step]
            degree += near < flat.size
            degree += border
            where = np.flatnonzero(border)
            target[:, where] += plain[:, flat[where] + away]
        self.target = in_rows(target)
        inverse = np.divide(1, np.maximum(degree, 1), dtype=np.float32)
        # Rows of a single number are slow to spread over rows of several.
        self.inverse: FloatArray = np.repeat(inverse[:, None], self.target.shape[1], axis=1)
        self._degree = np.repeat(degree[:, None], self.target.shape[1], axis=1)
        self._padded = np.zeros((flat.size + 1, self.target.shape[1]), np.float32)
        self._gathered = np.empty_like(self.target)

    def __call__(self, values: FloatArray) -> FloatArray:
        """The graph Laplacian of unknowns (n, k), with zero at fixed texels."""
        self._padded[:-1] = values
        result: FloatArray = self._degree * values
        for near in self._near:
            # Clipping is the one mode in which take writes straight into its output.
            self._padded.take(near, axis=0, out=self._gathered, mode="clip")
            result -= self._gathered
        return result


def _fill_walls(field: FloatArray, trusted: BoolArray) -> None:
    """Give texels beside trusted ones (diagonals too) the average of those, in place; others get zero."""
    channels, height, width = field.shape
    total = np.zeros((channels + 1, height + 2, width + 2), np.float32)
    total[:channels, 1:-1, 1:-1] = field * trusted
    total[channels, 1:-1, 1:-1] = trusted
    total = total[:, :-2] + total[:, 1:-1] + total[:, 2:]
    total = total[:, :, :-2] + total[:, :, 1:-1] + total[:, :, 2:]
    mean = total[:channels] / np.maximum(total[channels], 1)
    np.copyto(field, mean, where=~trusted)


def double(field: FloatArray, height: int, width: int) -> FloatArray:
    """A field (c, h, w) at twice the resolution, cut to a size: bilinear between texel centres."""
    near = field * np.float32(0.75)
    far = field * np.float32(0.25)
    tall = np.empty((field.shape[0], 2 * field.shape[1], field.shape[2]), np.float32)
    np.add(near[:, 1:], far[:, :-1], out=tall[:, 2::2])
    np.add(near[:, :-1], far[:, 1:], out=tall[:, 1:-1:2])
    tall[:, 0] = field[:, 0]
    tall[:, -1] = field[:, -1]
    near = tall * np.float32(0.75)
    far = tall * np.float32(0.25)
    full = np.empty((field.shape[0], tall.shape[1], 2 * field.shape[2]), np.float32)
    np.add(near[..., 1:], far[..., :-1], out=full[..., 2::2])
    np.add(near[..., :-1], far[..., 1:], out=full[..., 1:-1:2])
    full[..., 0] = tall[..., 0]
    full[..., -1] = tall[..., -1]
    return full[:, :height, :width]


def extend(values: FloatArray, border: BoolArray, unknown: BoolArray) -> FloatArray:
    """Continue border values harmonically into the unknown texels.

    Args:
        values: float32 (c, h, w), planes first; only those at border texels matter.
        border: bool (h, w), where they are known.
        unknown: bool (h, w), where to continue them. Whatever is neither is a wall. Texels that no
            border value can reach get what a coarser grid, on which gaps close, has there, or zero.

    Returns:
        float32 (c, h, w): the border values, their continuation, and zero elsewhere.
    """
    field: FloatArray = np.zeros(values.shape, np.float32)
    place = np.nonzero(border)
    field[:, place[0], place[1]] = values[:, place[0], place[1]]
    open_ = unknown & ~border
    count = int(np.count_nonzero(open_))
    if count == 0 or place[0].size == 0:
        return field
    if max(border.shape) > 8:
        _start_from_coarser(field, border, open_)
    band, steps = (open_, 200) if count <= SMALL else (open_ & grow(border, BAND), 3 * BAND)
    system = _Laplacian(field, band, border | (open_ & ~band))
    field[:, band] = solve(system, in_rows(field[:, band]), steps, TOLERANCE)[:, : len(field)].T
    return field


def _start_from_coarser(field: FloatArray, border: BoolArray, open_: BoolArray) -> None:
    """Fill the open texels of the field with the solution on a grid of half the resolution."""
    channels, height, width = field.shape
    rows, columns = (height + 1) // 2, (width + 1) // 2
    # Border texels are few, so summing them by number is far cheaper than summing blocks.
    y, x = np.nonzero(border)
    cell = (y // 2) * columns + x // 2
    counts = np.bincount(cell, minlength=rows * columns)
    coarse_border = (counts > 0).reshape(rows, columns)
    coarse = np.zeros((channels, rows, columns), np.float32)
    for channel in range(channels):
        sums = np.bincount(cell, weights=field[channel, y, x], minlength=rows * columns)
        coarse[channel] = (sums / np.maximum(counts, 1)).reshape(rows, columns)
    coarse_open = block_any(open_, 2) & ~coarse_border
    coarse = extend(coarse, coarse_border, coarse_open)
    _fill_walls(coarse, coarse_border | coarse_open)
    np.copyto(field, double(coarse, height, width), where=open_)
