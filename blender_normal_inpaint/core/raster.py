"""Seeing a mesh: which triangle lies nearest at each texel of a picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .engine import BoolArray, FloatArray
from .normals import dot
from .resample import area_table

IntArray = NDArray[np.int32]

#: How far outside of a triangle, in its weights, a texel's middle still counts as inside: none is missed
#: between two triangles.
_EDGE = 1e-4


def rasterize(
    places: FloatArray,
    depth: FloatArray,
    triangles: IntArray,
    shape: tuple[int, ...],
    wanted: BoolArray | None = None,
) -> tuple[NDArray[np.intp], NDArray[np.intp], FloatArray]:
    """Find the nearest triangle that faces the camera at the middle of each texel: a z-buffer.

    The weights of a triangle's corners are planes over the picture (J. Pineda, "A Parallel Algorithm for
    Polygon Rasterization", 1988). How perspective foreshortens within a triangle is left out.

    Args:
        places: float32 (n, 2), column and row of each vertex; the middle of the first texel is at (0, 0).
        depth: float32 (n,), towards the camera.
        triangles: int32 (m, 3), vertex indices, counter-clockwise for who looks at their front.
        shape: rows and columns of the picture.
        wanted: bool (rows, columns), the texels that are asked for; all without it.

    Returns:
        Of these texels that show anything, in reading order: their numbers (k,), the triangles they show
        (k,), and float32 (k, 3), the weights of its corners.
    """
    rows, columns = shape
    # Axes of a few values are slow to reduce: each corner has arrays of its own.
    ends = [np.ascontiguousarray(triangles[:, i], np.intp) for i in range(3)]
    x, y = ([axis.take(end) for end in ends] for axis in np.ascontiguousarray(places.T))
    # Rows run downwards, so that what faces the camera runs clockwise.
    area = (x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])
    there = np.flatnonzero(area < -1e-9)
    x, y, area = [axis.take(there) for axis in x], [axis.take(there) for axis in y], area.take(there)
    left, width = _extent(x, columns)
    top, height = _extent(y, rows)
    count = width * height
    if wanted is not None:
        table = area_table(wanted)
        right, bottom = left + width, top + height
        count *= (table[bottom, right] - table[top, right]) > (table[bottom, left] - table[top, left])
    struck = np.flatnonzero(count)
    there, area, count = there.take(struck), area.take(struck), count.take(struck)
    left, top, width = left.take(struck), top.take(struck), width.take(struck)
    # From the first texel of the rectangle around each triangle, where numbers are small.
    x, y = [axis.take(struck) - left for axis in x], [axis.take(struck) - top for axis in y]
    number = np.repeat(np.arange(there.size), count)
    place = np.arange(number.size, dtype=np.int32) - np.repeat(
        np.cumsum(count, dtype=np.int32) - count, count
    )
    wide = width.take(number)
    row = place // wide
    column = place - row * wide
    texel = row * np.int32(columns) + (top * np.int32(columns) + left).take(number) + column
    if wanted is not None:
        asked = np.flatnonzero(wanted.reshape(-1).take(texel))
        number, row, column, texel = (part.take(asked) for part in (number, row, column, texel))
    shares, within = [], np.ones(number.size, np.bool_)
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        planes = y[j] - y[k], x[k] - x[j], x[j] * y[k] - x[k] * y[j]
        # In double precision: the planes of a sliver are steep.
        a, b, c = ((plane / area).take(number) for plane in planes)
        a *= column
        b *= row
        a += b
        a += c
        shares.append(a.astype(np.float32))
        within &= shares[i] > -_EDGE
    inside = np.flatnonzero(within)
    number, texel = number.take(inside), texel.take(inside)
    weights = np.stack([share.take(inside) for share in shares], axis=1)
    nearest = np.full(rows * columns, -1, np.intp)
    nearest[texel] = np.arange(texel.size)
    # Where there are several, what is assigned last stays: the nearest.
    several = np.flatnonzero((np.bincount(texel, minlength=nearest.size) > 1).take(texel))
    corners = depth.take(triangles.take(there.take(number.take(several)), axis=0))
    far = dot(weights.take(several, axis=0), corners)
    several = several.take(np.argsort(far, kind="stable"))
    nearest[texel.take(several)] = several
    seen = np.flatnonzero(nearest >= 0)
    nearest = nearest.take(seen)
    return seen, there.take(number.take(nearest)), weights.take(nearest, axis=0)


def _extent(axis: list[FloatArray], length: int) -> tuple[IntArray, IntArray]:
    """The first texel between a triangle's corners along an axis, and how many there are."""
    least = np.minimum(np.minimum(axis[0], axis[1]), axis[2])
    most = np.maximum(np.maximum(axis[0], axis[1]), axis[2])
    first = np.clip(np.ceil(least), 0, length).astype(np.int32)
    last = np.clip(np.floor(most), -1, length - 1).astype(np.int32)
    return first, np.maximum(last - first + 1, 0)
