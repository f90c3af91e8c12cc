"""Closing the seam between a prediction and the known texels around it.

Where both are seen at the prediction's own resolution, level and slope are carried over (`close_smoothly`).
What native texels add to that is carried over by level alone, at a cost that follows the border
(`close_seam`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import harmonic, tension
from .engine import BoolArray, FloatArray
from .normals import unit
from .resample import block_sum, box_around

#: How far a difference's slope leads, in texels of the network's own grid. On held-out heads longer is
#: better in thin holes (lines 4.19, 4.12, 4.08 degrees at 0.7, 1, 1.4), a little worse in large ones.
REACH = 1.4

#: Roughness (see `roughness`) of a difference that is all shape, and of one that is all pores.
SMOOTH, ROUGH = 0.5, 1.0

#: How far around a hole its surroundings are looked at, in texels.
MARGIN = 12


def close_smoothly(
    predicted: FloatArray, normals: FloatArray, unknown: BoolArray, known: BoolArray, reach: float
) -> FloatArray:
    """The prediction in the hole, changed so that it meets the known texels in level and slope.

    The prediction's error at known texels is continued into the hole (see `continued`) and added.

    Args:
        predicted: float32 (h, w, 3), unit, at known texels too.
        normals: float32 (h, w, 3), unit at known texels.
        unknown: bool (h, w), the hole.
        known: bool (h, w), known texels; neither is a wall.
        reach: in texels, how far the slope leads.

    Returns:
        float32 (n, 3), unit: the texels of the hole in reading order.
    """
    return unit(predicted[unknown] + continued(normals - predicted, unknown, known, reach))


def continued(
    values: FloatArray, unknown: BoolArray, known: BoolArray, reach: float, steps: int = tension.STEPS
) -> FloatArray:
    """Values at known texels, continued into a hole with level and slope (`tension.extend`).

    Slopes among pores say nothing about the shape: the rougher the values, the more by their level alone
    (`harmonic.extend`).

    Args:
        values: float32 (h, w, c); those at known texels near the hole matter.
        unknown: bool (h, w), the hole.
        known: bool (h, w), known texels; neither is a wall.
        reach: in texels, how far the slope leads.
        steps: of the solver on each grid, at most.

    Returns:
        float32 (n, c): the texels of the hole in reading order; zero where nothing known can reach.
    """
    planes, unknown, known = planes_around(values, unknown, known, MARGIN)
    result = mixed(
        roughness(planes, known, unknown),
        (SMOOTH, ROUGH),
        lambda: tension.extend(planes, known, unknown, reach, steps),
        lambda: harmonic.extend(planes, harmonic.border_of(unknown, known), unknown),
    )
    return np.ascontiguousarray(result[:, unknown].T)


def mixed(
    rough: float,
    bounds: tuple[float, float],
    smooth_way: Callable[[], FloatArray],
    rough_way: Callable[[], FloatArray],
) -> FloatArray:
    """One continuation up to the first bound of roughness, another from the second on, between them both.

    What would not count is not made.
    """
    share = np.float32(np.clip((rough - bounds[0]) / (bounds[1] - bounds[0]), 0, 1))
    if share <= 0:
        return smooth_way()
    if share >= 1:
        return rough_way()
    return (1 - share) * smooth_way() + share * rough_way()


def planes_around(
    values: FloatArray, unknown: BoolArray, known: BoolArray, margin: int
) -> tuple[FloatArray, BoolArray, BoolArray]:
    """What lies in the box around a hole and so many texels more.

    Args:
        values: float32 (h, w, c).
        unknown: bool (h, w), the hole.
        known: bool (h, w).
        margin: in texels.

    Returns:
        The values as planes (c, h', w'), zero at unknown texels; the hole and the known texels, (h', w').
    """
    box = box_around(unknown, margin)
    planes = np.ascontiguousarray(np.moveaxis(values[box] * known[box][..., None], -1, 0))
    return planes, unknown[box], known[box]


def roughness(planes: FloatArray, known: BoolArray, unknown: BoolArray, block: int = 1) -> float:
    """Median Laplacian over median gradient of planes at known texels near the hole.

    Noise of one texel gives two or three, pores about one, a smooth field of waves w texels long about 6 / w.

    Args:
        planes: float32 (c, h, w), zero at unknown texels.
        known: bool (h, w).
        unknown: bool (h, w), the hole; what lies within 8 texels, or blocks, is looked at.
        block: side of the blocks of texels whose means are looked at instead.

    Returns:
        The ratio; 0 if hardly anything is known there.
    """
    if block > 1:
        known, unknown = block_sum(known, block) == block * block, block_sum(unknown, block) > 0
        means = np.stack([block_sum(plane, block) for plane in planes]) / np.float32(block * block)
        planes = np.asarray(means * known, dtype=np.float32)
    near = harmonic.grow(unknown, 8)
    whole = known & near
    whole[0] = whole[-1] = whole[:, 0] = whole[:, -1] = False
    # All four neighbours must be known, too.
    whole[1:-1, 1:-1] &= known[:-2, 1:-1] & known[2:, 1:-1] & known[1:-1, :-2] & known[1:-1, 2:]
    y, x = np.nonzero(whole)
    if y.size < 16:
        return 0.0
    here, up, down = planes[:, y, x], planes[:, y - 1, x], planes[:, y + 1, x]
    left, right = planes[:, y, x - 1], planes[:, y, x + 1]
    laplacian = np.sqrt(((up + down + left + right - 4 * here) ** 2).sum(axis=0))
    gradient = 0.5 * np.sqrt(((down - up) ** 2).sum(axis=0) + ((right - left) ** 2).sum(axis=0))
    return float(np.median(laplacian) / max(float(np.median(gradient)), 1e-7))


def close_seam(
    predicted: FloatArray, normals: FloatArray, unknown: BoolArray, known: BoolArray
) -> FloatArray:
    """The prediction in the hole, changed as little as possible so that it meets the known texels around.

    The difference on the hole's border is continued harmonically into the hole and added, and the sum is
    normalised. Parts of the hole that touch no known texel keep the prediction.

    Args:
        predicted: float32 (3, h, w), planes first, of any length above zero.
        normals: float32 (h, w, 3), unit at known texels.
        unknown: bool (h, w), the hole.
        known: bool (h, w), known texels; neither is a wall.

    Returns:
        float32 (n, 3), unit: the texels of the hole in reading order.
    """
    border = harmonic.border_of(unknown, known)
    difference = np.zeros(predicted.shape, np.float32)
    y, x = np.nonzero(border)
    difference[:, y, x] = (normals[y, x] - unit(np.ascontiguousarray(predicted[:, y, x].T))).T
    difference = harmonic.extend(difference, border, unknown)
    # Only the hole's own texels from here on: of thin strands they are a small part of the box.
    places = np.flatnonzero(unknown)
    inside = unit(np.ascontiguousarray(predicted.reshape(3, -1)[:, places].T))
    inside += difference.reshape(3, -1)[:, places].T
    return unit(inside)
