"""A face's other half: the map as its own mirror image lies on it.

The UV layout of a face is nearly symmetric, and so is the face: what one side hides the other often shows.
The known texels are compared with their mirror image under every shift and a range of turns, and the mirror
image is laid where both agree best. A camera rarely sees a face so: for its views see `relief`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .engine import BoolArray, FloatArray
from .resample import block_sum

#: Sides, in texels, of the finest and the coarsest grid on which mirror images are compared.
GRID = (64, 40)

#: Turns of the mirror image that are tried, in radians: twice the lean of a face's axis.
TURNS = np.linspace(-0.48, 0.48, 7)

#: How often the steps of turn and shift are halved when an axis is refined: down to a sixteenth of a texel.
ROUNDS = 4

#: Share of the known surface that must meet known surface of the mirror image.
OVERLAP = 0.25

#: A mirror image counts if it differs from the known texels by less than this share of their own
#: variance.
LIKE = 0.12

#: Largest turn of vectors between both halves, in radians, that is believed.
LARGEST_TURN = 1.2


def mirror_image(
    normals: FloatArray, hole: BoolArray, valid: BoolArray, space: str
) -> tuple[FloatArray, BoolArray, float]:
    """The map as its own mirror image lies on it.

    Args:
        normals: float32 (h, w, 3), unit at known texels; others are not read.
        hole: bool (h, w), what is hidden.
        valid: bool (h, w), where there is a surface.
        space: "tangent" or "object".

    Returns:
        float32 (h, w, 3): unit vectors that the other half suggests, also at known texels, zero elsewhere;
        bool (h, w), where there are any: nowhere, if no part of the map resembles its mirror image; and how
        unlike both are, 0 for twins and 1 for a mirror image that tells nothing.
    """
    known = valid & ~hole
    nowhere = np.zeros(normals.shape, np.float32), np.zeros(hole.shape, np.bool_), 1.0
    if not known.any():
        return nowhere
    height, width = hole.shape
    finest, coarsest = (max(1, max(height, width) // side) for side in GRID)
    block = min(range(finest, coarsest + 1), key=lambda b: (-height % b + -width % b, -b))
    # Whole blocks: what is added at the end is neither known nor empty, and should be little.
    more = (0, -height % block), (0, -width % block)
    vectors = np.pad(normals * known[..., None], (*more, (0, 0)))
    known, empty = np.pad(known, more), np.pad(~valid, more)
    here = _grid(vectors, known, empty, block)
    there = here[:, ::-1] * np.array([-1, 1, 1, 1, 1], np.float32)
    found = _axis(here, there, space)
    if found is None:
        return nowhere
    rotation = np.eye(3, dtype=np.float32)
    if space == "object":
        # The space's own axes need not be the face's.
        rotation = _residual_turn(_moved(there, *found, space), here)
        there[..., :3] = there[..., :3] @ rotation.T
    turn, down, across = _refined(here, there, space, found)
    unlikeness = _unlikeness(_moved(there, turn, down, across, space), here)
    if unlikeness > LIKE:
        return nowhere
    # The mirror image at full size.
    layers = np.concatenate([vectors, known[..., None]], axis=-1, dtype=np.float32)
    layers = layers[:, ::-1] * np.array([-1, 1, 1, 1], np.float32)
    moved = _moved(layers, turn, down * block, across * block, space)[:height, :width]
    vectors = moved[..., :3] @ rotation.T
    length = np.sqrt(np.einsum("ijk,ijk->ij", vectors, vectors))
    seen: BoolArray = (moved[..., 3] >= 0.5) & (length > 0.1)
    guide = vectors / np.maximum(length, 1e-6)[..., None] * seen[..., None]
    return np.ascontiguousarray(guide, dtype=np.float32), seen, unlikeness


def _grid(vectors: FloatArray, known: BoolArray, empty: BoolArray, block: int) -> FloatArray:
    """A map by blocks: float32 (h, w, 5), unit vectors (zero where not known), known, and empty.

    Only what is known, or empty, throughout counts: the mean of a part is not that of the whole, and with
    one half hidden nearly all blocks beside the axis are cut.
    """
    area = block * block
    known_blocks = block_sum(known, block) == area
    empty_blocks = block_sum(empty, block) == area
    sums = block_sum(vectors, block)
    directions = sums / np.maximum(np.linalg.norm(sums, axis=-1), 1e-6)[..., None] * known_blocks[..., None]
    flags = (known_blocks[..., None], empty_blocks[..., None])
    return np.concatenate([directions, *flags], axis=-1, dtype=np.float32)


def _unlikeness(moved: FloatArray, here: FloatArray) -> float:
    """Mean squared difference of two grids, see `_grid`, over the variance of what is known in both."""
    weight = np.minimum(moved[..., 3], here[..., 3])
    weight[weight < 0.5] = 0
    total = max(float(weight.sum()), 1e-6)
    first = here[..., :3] / np.maximum(here[..., 3:4], 1e-6)
    second = moved[..., :3] / np.maximum(moved[..., 3:4], 1e-6)
    mean = (weight[..., None] * first).sum(axis=(0, 1)) / total
    apart = float((weight * ((first - second) ** 2).sum(axis=-1)).sum())
    return apart / max(float((weight * ((first - mean) ** 2).sum(axis=-1)).sum()), 1e-6)


def _moved(field: FloatArray, turn: float, down: float, across: float, space: str) -> FloatArray:
    """A picture (h, w, 3 or more) turned and shifted, its vectors, the first three planes, with it."""
    result = _turned(field, turn, down, across)
    result[..., :3] = _turn_vectors(result[..., :3], turn, space)
    return result


def _turn_vectors(vectors: FloatArray, turn: float, space: str) -> FloatArray:
    """Vectors (..., 3) turned with their picture; in object space a turned layout leaves them alone."""
    if space == "object":
        return vectors
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    x, y = vectors[..., 0], vectors[..., 1]
    return np.stack([cos * x - sin * y, sin * x + cos * y, vectors[..., 2]], axis=-1)


def _turned(field: FloatArray, turn: float, down: float, across: float) -> FloatArray:
    """A picture (h, w, c) turned about its middle, counter-clockwise on screen, and shifted.

    Bilinear; what comes from outside is zero.
    """
    height, width, planes = field.shape
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    y = (np.arange(height, dtype=np.float32) - np.float32(down) - np.float32((height - 1) / 2))[:, None]
    x = (np.arange(width, dtype=np.float32) - np.float32(across) - np.float32((width - 1) / 2))[None]
    # Rows count downwards: counter-clockwise on screen is clockwise in (column, row).
    source_x = np.clip(cos * x - sin * y + np.float32((width - 1) / 2), -1, width)
    source_y = np.clip(sin * x + cos * y + np.float32((height - 1) / 2), -1, height)
    low_x, low_y = np.floor(source_x), np.floor(source_y)
    part_x, part_y = (source_x - low_x)[..., None], (source_y - low_y)[..., None]
    # A frame of zeros, to which all that lies outside is sent.
    framed = np.zeros((height + 2, width + 2, planes), np.float32)
    framed[1:-1, 1:-1] = field
    flat = framed.reshape(-1, planes)
    column, row = low_x.astype(np.intp) + 1, low_y.astype(np.intp) + 1
    right, below = np.minimum(column + 1, width + 1), np.minimum(row + 1, height + 1)
    stride = width + 2
    top = flat[row * stride + column] * (1 - part_x) + flat[row * stride + right] * part_x
    bottom = flat[below * stride + column] * (1 - part_x) + flat[below * stride + right] * part_x
    result: FloatArray = top * (1 - part_y) + bottom * part_y
    return result


def _axis(here: FloatArray, there: FloatArray, space: str) -> tuple[float, float, float] | None:
    """Find the turn and shift under which a map and its mirror image agree best.

    The cost of a pair of texels is the squared distance of their vectors' tips; one of which only one is
    surface costs 1, and holes cost nothing. The mean cost over all pairs that have surface is computed for
    every shift at once by FFT: D. Padfield, "Masked Object Registration in the Fourier Domain", IEEE
    Transactions on Image Processing 21(5), 2012.

    Args:
        here: float32 (h, w, 5), the grid of the map, see `_grid`.
        there: float32 (h, w, 5), that of its mirror image.
        space: of the vectors.

    Returns:
        The turn of the mirror image in radians, counter-clockwise, and its shift down and across in texels
        of the grid; None if nothing overlaps enough.
    """
    sides = (2 * here.shape[0], 2 * here.shape[1])

    def transform(field: FloatArray) -> NDArray[np.complexfloating[Any, Any]]:
        return np.fft.rfft2(np.moveaxis(field, -1, 0), sides)

    fixed = transform(here)
    least = OVERLAP * float(here[..., 3].sum())
    costs = np.empty((len(TURNS), *sides), np.float32)
    for i, turn in enumerate(TURNS):
        other = np.conj(transform(_moved(there, float(turn), 0, 0, space)))
        both = fixed[3] * other[3]
        one = fixed[4] * other[3] + fixed[3] * other[4]
        tips = 2 * both - 2 * (fixed[:3] * other[:3]).sum(axis=0)
        cost, count, overlap = np.fft.irfft2(np.stack([tips + one, both + one, both]), sides)
        costs[i] = np.where(overlap >= least, cost / np.maximum(count, 1e-3), np.inf)
    best = np.unravel_index(int(np.argmin(costs)), costs.shape)
    if not np.isfinite(costs[best]):
        return None
    # Shifts beyond half of a side are negative ones.
    down, across = ((int(k) + n // 2) % n - n // 2 for k, n in zip(best[1:], sides, strict=True))
    return float(TURNS[best[0]]), float(down), float(across)


def _refined(
    here: FloatArray, there: FloatArray, space: str, place: tuple[float, float, float]
) -> tuple[float, float, float]:
    """A better turn and shift near those found, by pattern search (R. Hooke and T. A. Jeeves, 1961).

    The vertex of a parabola through the neighbours' costs will not do: a shift by a whole texel changes what
    overlaps, and with one half hidden that puts the vertex half a texel beside the axis.
    """

    def cost(at: tuple[float, float, float]) -> float:
        moved = _moved(there, *at, space)
        length = np.sqrt(np.einsum("ijk,ijk->ij", moved[..., :3], moved[..., :3]))
        # Interpolated vectors are short, which must not make them unlike.
        moved[..., :3] *= (moved[..., 3] / np.maximum(length, 1e-6))[..., None]
        both = here[..., 3] * moved[..., 3]
        one = here[..., 4] * moved[..., 3] + here[..., 3] * moved[..., 4]
        tips = 2 * float(both.sum()) - 2 * float(np.vdot(here[..., :3], moved[..., :3]))
        return (tips + float(one.sum())) / max(float(both.sum() + one.sum()), 1e-3)

    least = cost(place)
    step = np.array([float(TURNS[1] - TURNS[0]), 1.0, 1.0])
    for _ in range(ROUNDS):
        step /= 2
        for axis in (2, 0, 1):
            for sign in (1, -1):
                trial = np.array(place)
                trial[axis] += sign * step[axis]
                value = cost((trial[0], trial[1], trial[2]))
                if value < least:
                    least, place = value, (float(trial[0]), float(trial[1]), float(trial[2]))
                    break
    return place


def _residual_turn(mirrored: FloatArray, here: FloatArray) -> FloatArray:
    """The rotation (3, 3) that takes the vectors of one grid (h, w, 5) to those of another.

    Least squares over all rotations: W. Kabsch, Acta Crystallographica A32, 1976. The identity if it is too
    large to be believed.
    """
    weight = np.sqrt(mirrored[..., 3] * here[..., 3])[..., None]
    first, second = (
        (weight * field[..., :3]).reshape(-1, 3).astype(np.float64) for field in (here, mirrored)
    )
    # A little trust in no rotation settles what flat maps leave open.
    together = first.T @ second + (0.02 * float((weight**2).sum()) + 1e-9) * np.eye(3)
    left, _, right = np.linalg.svd(together)
    rotation = (left * np.array([1, 1, np.linalg.det(left @ right)])) @ right
    angle = np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))
    return (np.eye(3) if angle > LARGEST_TURN else rotation).astype(np.float32)
