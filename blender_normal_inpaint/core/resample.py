"""Changing the resolution of fields that are only partly known."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .engine import BoolArray, FloatArray
from .normals import unit

#: A coarse texel counts as a hole once this share of its surface is hole. Not "any at all": thin hair
#: strands lie close together on a large map, and would leave the network nothing to look at.
HOLE_SHARE = 0.35


def block_sum(values: NDArray[Any], step: int, dtype: type[np.generic] = np.float32) -> NDArray[Any]:
    """Sums over blocks of step x step, the last row and column of blocks may be smaller.

    Args:
        values: (h, w) or (h, w, c).
        step: Side of a block.
        dtype: Type of the sums.

    Returns:
        (ceil(h / step), ceil(w / step)[, c]).
    """
    if step == 1:
        return values.astype(dtype)
    height, width = values.shape[:2]
    rows = -(-height // step)
    columns = -(-width // step)
    # Adding whole strided rows, then strided columns, is several times faster than reduceat.
    partial = np.zeros((rows, *values.shape[1:]), dtype)
    for offset in range(min(step, height)):
        strip = values[offset::step]
        partial[: strip.shape[0]] += strip
    total = np.zeros((rows, columns, *values.shape[2:]), dtype)
    for offset in range(min(step, width)):
        strip = partial[:, offset::step]
        total[:, : strip.shape[1]] += strip
    return total


def block_any(flags: BoolArray, step: int) -> BoolArray:
    """Whether any flag in each block of step x step is set; sizes as in `block_sum`."""
    if step == 1:
        return flags.copy()
    height, width = flags.shape
    rows = -(-height // step)
    columns = -(-width // step)
    partial = np.zeros((rows, width), np.bool_)
    for offset in range(min(step, height)):
        strip = flags[offset::step]
        partial[: strip.shape[0]] |= strip
    total = np.zeros((rows, columns), np.bool_)
    for offset in range(min(step, width)):
        strip = partial[:, offset::step]
        total[:, : strip.shape[1]] |= strip
    return total


def classify(
    vectors: FloatArray, known: FloatArray, hole: FloatArray, area: FloatArray
) -> tuple[FloatArray, BoolArray, BoolArray]:
    """Coarse normals, hole and valid from summed fine ones.

    Args:
        vectors: float32 (h, w, 3), sums of the known normals in each coarse texel.
        known: float32 (h, w), how much of each coarse texel is known.
        hole: float32 (h, w), how much of it is hole (and valid).
        area: float32 (h, w), how much of it lies on the map.

    Returns:
        Unit normals (zero vectors are replaced), hole and valid. Each valid texel that is no hole has
        at least one known fine texel in it.
    """
    surface = known + hole
    valid = (surface >= 0.5 * area) & (surface > 0)
    is_hole = valid & (hole > HOLE_SHARE * surface)
    if not (valid & ~is_hole).any():
        # Everything is riddled with holes or a sliver: take what little there is.
        valid = surface > 0
        is_hole = valid & (known <= 0)
    return unit(vectors), is_hole, valid


#: What new texels along an axis are mixed of: which old ones (n, k), and how much of each, float32 (n, k).
_Mixture = tuple[NDArray[np.intp], FloatArray]

#: About how many values are mixed at a time, so that they stay in a core's cache.
_AT_A_TIME = 1 << 15


def _covered(source: int, target: int) -> _Mixture:
    """The old texels, `source` in all, that each of `target` new ones covers, and how much of them."""
    edges = np.arange(target + 1, dtype=np.float64) * (source / target)
    places = np.floor(edges[:-1, None]).astype(np.intp) + np.arange(-(-source // target) + 1)
    low, high = np.maximum(edges[:-1, None], places), np.minimum(edges[1:, None], places + 1)
    return np.minimum(places, source - 1), np.maximum(high - low, 0).astype(np.float32)


def _mixed_rows(planes: FloatArray, mixture: _Mixture) -> FloatArray:
    """Planes (c, h, w) with other rows: float32 (c, n, w).

    Few old texels make a new one. As a product of matrices, most of them zeros, it takes several times as
    long, and fifty times where NumPy has no BLAS, as in Blender's own Python.
    """
    places, shares = mixture
    result = np.empty((planes.shape[0], len(places), planes.shape[2]), np.float32)
    count = max(1, _AT_A_TIME // planes.shape[2])
    for plane, mixed in zip(planes, result, strict=True):
        for start in range(0, len(places), count):
            rows = slice(start, start + count)
            total = mixed[rows]
            np.multiply(plane.take(places[rows, 0], axis=0), shares[rows, :1], out=total)
            for tap in range(1, places.shape[1]):
                part = plane.take(places[rows, tap], axis=0)
                part *= shares[rows, tap, None]
                total += part
    return result


def _mixed_columns(planes: FloatArray, mixture: _Mixture) -> FloatArray:
    """Planes (c, h, w) with other columns: float32 (c, h, n)."""
    places, shares = mixture
    result: FloatArray = planes.take(places[:, 0], axis=2)
    result *= shares[:, 0]
    for tap in range(1, places.shape[1]):
        part = planes.take(places[:, tap], axis=2)
        part *= shares[:, tap]
        result += part
    return result


def area_table(mask: BoolArray) -> NDArray[np.int32]:
    """Summed-area table (h + 1, w + 1) of a mask: entry (r, c) counts mask[:r, :c]."""
    out = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int32)
    np.cumsum(mask, axis=0, dtype=np.int32, out=out[1:, 1:])
    np.cumsum(out[1:, 1:], axis=1, out=out[1:, 1:])
    return out


def _area_sums(planes: FloatArray, height: int, width: int) -> tuple[FloatArray, FloatArray]:
    """Planes (c, h, w) summed over the texels of a smaller size, and the area (height, width) of each."""
    rows, columns = _covered(planes.shape[1], height), _covered(planes.shape[2], width)
    area = np.outer(rows[1].sum(axis=1), columns[1].sum(axis=1)).astype(np.float32)
    return _mixed_columns(_mixed_rows(planes, rows), columns), area


def shrink(
    normals: FloatArray, hole: BoolArray, valid: BoolArray, height: int, width: int
) -> tuple[FloatArray, BoolArray, BoolArray]:
    """The crop at a smaller size: area averages of its known texels, see `classify`.

    Args:
        normals: float32 (h, w, 3), finite everywhere.
        hole: bool (h, w).
        valid: bool (h, w).
        height: New height, at most h.
        width: New width, at most w.
    """
    old_height, old_width = hole.shape
    if (height, width) == (old_height, old_width):
        return normals, hole & valid, valid
    known = (valid & ~hole).astype(np.float32)
    layers = np.empty((5, old_height, old_width), np.float32)
    for axis in range(3):
        np.multiply(normals[..., axis], known, out=layers[axis])
    layers[3] = known
    layers[4] = hole & valid
    small, area = _area_sums(layers, height, width)
    small[np.abs(small) < 1e-5] = 0  # rounding must not make a known texel out of nothing
    return classify(np.ascontiguousarray(np.moveaxis(small[:3], 0, -1)), small[3], small[4], area)


def mean_directions(field: FloatArray, height: int, width: int) -> FloatArray:
    """Vectors (h, w, 3) at a smaller size: the directions of their area means, zero where those vanish."""
    if field.shape[:2] == (height, width):
        return field
    means, area = _area_sums(np.moveaxis(field, -1, 0), height, width)
    length = np.sqrt((means * means).sum(axis=0))
    means /= np.maximum(length, 1e-6)
    means *= length > 1e-3 * area
    return np.ascontiguousarray(np.moveaxis(means, 0, -1))


def _taps(t: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Catmull-Rom weights of the texels at -1, 0, 1 and 2 for places between 0 and 1."""
    return (
        ((-0.5 * t + 1.0) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1.0,
        ((-1.5 * t + 2.0) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    )


def _catmull_rom(positions: NDArray[np.float64], length: int) -> _Mixture:
    """Catmull-Rom interpolation at places along an axis, its border texel repeated outside.

    Keys, "Cubic Convolution Interpolation for Digital Image Processing", 1981, with a = -1/2.
    """
    base = np.floor(positions)
    places = np.clip(base[:, None].astype(np.intp) + np.arange(-1, 3), 0, length - 1)
    return places, np.stack(_taps(positions - base), axis=1).astype(np.float32)


def enlarge(field: FloatArray, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> FloatArray:
    """A smooth field sampled at other places, by Catmull-Rom interpolation.

    Args:
        field: float32 (h, w, c).
        rows: Positions down the field, in texels: 0 is the centre of the first row.
        columns: Positions across, likewise.

    Returns:
        float32 (c, len(rows), len(columns)), planes first.
    """
    low = int(np.clip(np.floor(rows.min()) - 1, 0, len(field) - 1))
    high = int(np.clip(np.floor(rows.max()) + 3, low + 1, len(field)))
    planes = np.ascontiguousarray(np.moveaxis(field[low:high], -1, 0))
    across = _mixed_columns(planes, _catmull_rom(columns, planes.shape[2]))
    return _mixed_rows(across, _catmull_rom(rows - low, planes.shape[1]))


def box_around(flags: BoolArray, margin: int) -> tuple[slice, slice]:
    """Rows and columns of the set flags (h, w), and so many more on each side, within; there must be some."""
    y = np.flatnonzero(flags.any(axis=1))
    x = np.flatnonzero(flags[y[0] : y[-1] + 1].any(axis=0))
    rows, columns = (
        slice(max(0, int(axis[0]) - margin), min(length, int(axis[-1]) + margin + 1))
        for axis, length in zip((y, x), flags.shape, strict=True)
    )
    return rows, columns


def spread(field: FloatArray, trusted: BoolArray) -> FloatArray:
    """The field with untrusted texels replaced by averages of the nearest trusted ones.

    A pull-push pyramid (Gortler et al., "The Lumigraph", 1996): averages go up, gaps are filled on the
    way down. Where nothing is trusted the field is returned as it is.

    Args:
        field: float32 (h, w, c).
        trusted: bool (h, w).
    """
    if trusted.all() or not trusted.any():
        return field
    weights = trusted.astype(np.float32)
    sums = field * weights[..., None]
    levels = []
    while not (weights > 0).all() and min(weights.shape) > 1:
        levels.append((sums, weights))
        # Weights saturate at one, so that one far trusted texel counts as much as a cluster.
        total = block_sum(weights, 2)
        scale = np.divide(1.0, total, out=np.zeros_like(total), where=total > 0)
        weights = np.minimum(total, 1.0).astype(np.float32)
        sums = (block_sum(sums, 2) * (scale * weights)[..., None]).astype(np.float32)
    safe = np.where(weights > 0, weights, 1)
    full = sums / safe[..., None]
    if (weights <= 0).any():
        full[weights <= 0] = full[weights > 0].mean(axis=0)
    for sums, weights in reversed(levels):
        coarse = np.repeat(np.repeat(full, 2, axis=0), 2, axis=1)[: weights.shape[0], : weights.shape[1]]
        full = sums + coarse * (1 - weights)[..., None]
    full[trusted] = field[trusted]
    result: FloatArray = full.astype(np.float32)
    return result


def evened(values: FloatArray, there: BoolArray, block: int) -> FloatArray:
    """Means of values over the texels of an area in each block, and smooth between them.

    Args:
        values: float32 (h, w).
        there: bool (h, w), the area; some of it.
        block: side of a block.

    Returns:
        float32 (h, w): beyond the area as in the nearest of its blocks.
    """
    means, some = block_means(values, there, block)
    return between_blocks(spread(means[..., None], some)[..., 0], block, there.shape)


def block_means(values: FloatArray, there: BoolArray, block: int) -> tuple[FloatArray, BoolArray]:
    """Means of values (h, w) over the texels of an area in each block, and whether it has any: (h', w')."""
    count = block_sum(there, block)
    means = block_sum(values * there, block) / np.maximum(count, 1)
    return means.astype(np.float32), count > 0


def between_blocks(means: FloatArray, block: int, shape: tuple[int, ...]) -> FloatArray:
    """A map of a shape, float32 (h, w), that is smooth between its blocks' means (h', w')."""
    places = ((np.arange(length) + 0.5) / block - 0.5 for length in shape)
    result: FloatArray = enlarge(means[..., None], *places)[0]
    return result


def framed(layers: FloatArray) -> FloatArray:
    """Layers (h, w, c) with a frame of zeros, as `sampled` wants them: float32 (h + 2, w + 2, c)."""
    result = np.zeros((layers.shape[0] + 2, layers.shape[1] + 2, layers.shape[2]), np.float32)
    result[1:-1, 1:-1] = layers
    return result


def sampled(layers: FloatArray, rows: FloatArray, columns: FloatArray) -> FloatArray:
    """Framed layers (h + 2, w + 2, c) at places (n,), float32 (n, c): bilinear, zero outside."""
    height, stride, planes = layers.shape
    flat = layers.reshape(-1, planes)
    # Places in the frame. The last row and column of it are never a place's upper left corner.
    rows = np.minimum(np.maximum(rows + 1, 0), np.float32(height - 1.001))
    columns = np.minimum(np.maximum(columns + 1, 0), np.float32(stride - 1.001))
    row, column = rows.astype(np.intp), columns.astype(np.intp)
    part_y, part_x = (rows - row)[:, None], (columns - column)[:, None]
    corner = row * stride + column
    top: FloatArray = flat.take(corner, axis=0)
    top += part_x * (flat.take(corner + 1, axis=0) - top)
    corner += stride
    bottom = flat.take(corner, axis=0)
    bottom += part_x * (flat.take(corner + 1, axis=0) - bottom)
    bottom -= top
    bottom *= part_y
    top += bottom
    return top


def cubic(layers: FloatArray, rows: FloatArray, columns: FloatArray) -> FloatArray:
    """Layers (h, w, c) at places (n,), float32 (n, c), by Catmull-Rom interpolation: sharper than `sampled`.

    The border texel is repeated outside.
    """
    height, width, planes = layers.shape
    flat = layers.reshape(-1, planes)
    row, column = np.floor(rows).astype(np.intp), np.floor(columns).astype(np.intp)
    down, across = _taps(rows - row.astype(np.float32)), _taps(columns - column.astype(np.float32))
    beside = [np.clip(column + offset, 0, width - 1) for offset in (-1, 0, 1, 2)]
    result = np.zeros((rows.size, planes), np.float32)
    for offset, weight in zip((-1, 0, 1, 2), down, strict=True):
        start = np.clip(row + offset, 0, height - 1) * width
        line = np.zeros((rows.size, planes), np.float32)
        for at, share in zip(beside, across, strict=True):
            line += flat.take(start + at, axis=0) * share[:, None]
        result += line * weight[:, None]
    return result


def rise(values: FloatArray, first: float, last: float) -> FloatArray:
    """From 0 up to the first value to 1 from the last one on, smoothly."""
    part = np.clip((values - np.float32(first)) / np.float32(last - first), 0, 1)
    result: FloatArray = part * part * (3 - 2 * part)
    return result
