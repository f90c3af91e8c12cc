"""A face's other half: the map as its own mirror image lies on it.

The UV layout of a face is nearly symmetric, and so is the face: what one side hides the other often shows.
The known texels are compared with their mirror image under every shift and a range of turns, and the mirror
image is laid where both agree best. A camera rarely sees a face so: for its views see `relief`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .engine import BoolArray, FloatArray
from .normals import dot
from .resample import block_sum, framed, sampled

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

#: Up to there its detail is of use. Seen on maps of a scan's skin with a part hidden: 0.31 to 0.85 where the
#: right axis is found, 0.9 to 2.5 for pieces without one.
#: Turned further than that, in radians, it is chance: skin alone at 0.6 to 0.85.
ALIKE, UPRIGHT = 0.9, 0.2

#: Largest turn of vectors between both halves, in radians, that is believed.
LARGEST_TURN = 1.2

#: Blocks of so many texels or more hide where exactly an axis lies.
FINE = 4

#: Most layouts are symmetric about the map's own middle, exactly. By which share that may be the worse axis
#: than one whole blocks away, or one between blocks, and be it none the less: what is interpolated has less
#: noise, and is more alike wherever it lies, by a tenth to a fifth on a scan's skin.
STRAIGHT = 0.05, 0.3

#: Otherwise, the place within a block where fine detail agrees best is the axis if it agrees so many times as
#: much there as where whole blocks put it, beyond the mean of all such places.
BETTER = 2.0

#: How sure it must be how far a layout is turned, 2 at most. Seen: 1.4 for a face's, 0.3 to 1.1 for one of
#: many islands.
LAID_OUT = 1.2

#: Rows of a mirror image that are made at a time, which bounds the memory.
_ROWS = 256


@dataclass(frozen=True)
class Mirror:
    """How a map's mirror image lies on it.

    Attributes:
        shape: rows and columns, of the map or a little more, about whose middle it is turned.
        space: of the vectors, "tangent" or "object".
        turn: of the mirror image, in radians, counter-clockwise on screen.
        down: its shift, in texels.
        across: likewise.
        rotation: float32 (3, 3), what its vectors are turned by besides.
        unlikeness: how unlike both are, 0 for twins and 1 for a mirror image that tells nothing.
    """

    shape: tuple[int, int]
    space: str
    turn: float
    down: float
    across: float
    rotation: FloatArray
    unlikeness: float

    def enlarged(self, by: int) -> Mirror:
        """The same for a map with so many texels for one."""
        shape = self.shape[0] * by, self.shape[1] * by
        return replace(self, shape=shape, down=self.down * by, across=self.across * by)

    def sources(self, rows: NDArray[Any], columns: NDArray[Any]) -> tuple[FloatArray, FloatArray]:
        """Rows and columns of what lies at some places of the mirror image; may be outside of the map."""
        row, column = _before_turn(self.shape, rows, columns, self.turn, self.down, self.across)
        return row, np.float32(self.shape[1] - 1) - column

    def vectors(self, vectors: FloatArray) -> FloatArray:
        """Vectors (..., 3) of the map as the mirror image has them."""
        mirrored = vectors * np.array([-1, 1, 1], np.float32)
        turned: FloatArray = _turn_vectors(mirrored @ self.rotation.T, self.turn, self.space)
        return turned


def quarters(normals: FloatArray, known: BoolArray) -> int:
    """By how many quarters of a turn a face's layout is turned, counter-clockwise; 0 where that is not clear.

    In object space vectors tell: on an upright face they point the further right the further right they lie,
    and upwards likewise.

    Args:
        normals: float32 (h, w, 3), unit at known texels, in object space.
        known: bool (h, w).
    """
    step = max(1, max(known.shape) // GRID[0])
    some = known[::step, ::step]
    rows, columns = np.nonzero(some)
    if rows.size < 3:
        return 0

    def standard(fields: NDArray[Any]) -> NDArray[Any]:
        apart = fields - fields.mean(axis=0)
        return np.asarray(apart / np.maximum(apart.std(axis=0), 1e-6))

    places, vectors = np.stack([columns, -rows], axis=1), normals[::step, ::step][some][:, :2]
    (right, up), (left, above) = standard(vectors).T @ standard(places) / rows.size
    if np.hypot(up - left, right + above) < LAID_OUT:
        return 0
    return round(float(np.arctan2(up - left, right + above)) / (np.pi / 2)) % 4


def find(normals: FloatArray, hole: BoolArray, valid: BoolArray, space: str) -> Mirror | None:
    """How a map's mirror image lies on it; None where too little is known to tell.

    Args: see `mirror_image`.
    """
    known = valid & ~hole
    if not known.any():
        return None
    height, width = hole.shape
    finest, coarsest = (max(1, max(height, width) // side) for side in GRID)
    block = min(range(finest, coarsest + 1), key=lambda b: (-height % b + -width % b, -b))
    # Whole blocks: what is added at the end is neither known nor empty, and should be little.
    more = (0, -height % block), (0, -width % block)
    vectors = np.pad(normals * known[..., None], (*more, (0, 0)))
    here = _grid(vectors, np.pad(known, more), np.pad(~valid, more), block)
    there = here[:, ::-1] * np.array([-1, 1, 1, 1, 1], np.float32)
    found = _axis(here, there, space)
    if found is None:
        return None
    rotation = np.eye(3, dtype=np.float32)
    if space == "object":
        # The space's own axes need not be the face's.
        rotation = _residual_turn(_moved(there, *found, space), here)
        there[..., :3] = there[..., :3] @ rotation.T
    turn, down, across = refined = _refined(here, there, space, found)
    unlikeness = _unlikeness(_moved(there, *refined, space), here)
    down, across = down * block, across * block
    if block >= FINE:
        straight = 0.0, 0.0, (width - vectors.shape[1]) / block
        near = found[0] == 0 and np.abs(np.subtract(refined, straight)).max() <= 1
        cost = _cost(here, there, space, straight) if near else np.inf
        if cost <= min(
            (1 + STRAIGHT[0]) * _cost(here, there, space, found),
            (1 + STRAIGHT[1]) * _cost(here, there, space, refined),
        ):
            turn, down, across = 0.0, 0.0, straight[2] * block
        elif turn == 0:
            down, across = _exact(vectors, block, round(down), round(across))
    return Mirror((vectors.shape[0], vectors.shape[1]), space, turn, down, across, rotation, unlikeness)


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
    mirror = find(normals, hole, valid, space)
    if mirror is None or mirror.unlikeness > LIKE:
        return np.zeros(normals.shape, np.float32), np.zeros(hole.shape, np.bool_), 1.0
    image = mirrored(mirror, normals, valid & ~hole, (0, 0), (0, 0), hole.shape)
    return image, np.asarray(image.any(axis=-1)), mirror.unlikeness


def mirrored(
    mirror: Mirror,
    normals: FloatArray,
    known: BoolArray,
    origin: tuple[int, int],
    corner: tuple[int, int],
    shape: tuple[int, ...],
    step: int = 1,
) -> FloatArray:
    """A box of the mirror image.

    Args:
        mirror: how it lies.
        normals: float32 (h, w, 3), unit at known texels: a piece of the map with what the box shows.
        known: bool (h, w).
        origin: row and column of the piece's first texel in the map.
        corner: likewise of the box's, in the mirror image.
        shape: rows and columns of the box.
        step: texels of the map for one of both, along an axis.

    Returns:
        float32 (rows, columns, 3): unit vectors, zero where nothing is known.
    """
    height, width = shape[:2]
    layers = framed(np.concatenate([normals, np.ones((*known.shape, 1), np.float32)], -1) * known[..., None])
    result = np.zeros((height, width, 3), np.float32)
    for top in range(0, height, _ROWS):
        y, x = np.mgrid[top : min(height, top + _ROWS), :width].astype(np.float32)
        half = (step - 1) / 2
        down, across = (np.float32(first + half) for first in corner)
        places = mirror.sources(y * np.float32(step) + down, x * np.float32(step) + across)
        rows, columns = (
            (at - np.float32(first + half)) / np.float32(step)
            for at, first in zip(places, origin, strict=True)
        )
        sample = sampled(layers, rows.reshape(-1), columns.reshape(-1)).reshape(*y.shape, 4)
        length = np.sqrt(dot(sample[..., :3], sample[..., :3]))
        seen = (sample[..., 3] >= 0.5) & (length > 0.1)
        vectors = mirror.vectors(sample[..., :3]) / np.maximum(length, 1e-6)[..., None]
        result[top : top + _ROWS] = vectors * seen[..., None]
    return result


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


def _before_turn(
    shape: tuple[int, ...], rows: NDArray[Any], columns: NDArray[Any], turn: float, down: float, across: float
) -> tuple[FloatArray, FloatArray]:
    """Rows and columns at which places of a turned and shifted picture were before."""
    height, width = shape[:2]
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    y = rows - np.float32(down) - np.float32((height - 1) / 2)
    x = columns - np.float32(across) - np.float32((width - 1) / 2)
    # Rows count downwards: counter-clockwise on screen is clockwise in (column, row).
    return sin * x + cos * y + np.float32((height - 1) / 2), cos * x - sin * y + np.float32((width - 1) / 2)


def _turned(field: FloatArray, turn: float, down: float, across: float) -> FloatArray:
    """A picture (h, w, c) turned about its middle, counter-clockwise on screen, and shifted.

    Bilinear; what comes from outside is zero.
    """
    y, x = np.mgrid[: field.shape[0], : field.shape[1]].astype(np.float32)
    rows, columns = _before_turn(field.shape, y.reshape(-1), x.reshape(-1), turn, down, across)
    result: FloatArray = sampled(framed(field), rows, columns).reshape(field.shape)
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
    least = _cost(here, there, space, place)
    step = np.array([float(TURNS[1] - TURNS[0]), 1.0, 1.0])
    for _ in range(ROUNDS):
        step /= 2
        for axis in (2, 0, 1):
            for sign in (1, -1):
                trial = np.array(place)
                trial[axis] += sign * step[axis]
                at = float(trial[0]), float(trial[1]), float(trial[2])
                value = _cost(here, there, space, at)
                if value < least:
                    least, place = value, at
                    break
    return place


def _cost(here: FloatArray, there: FloatArray, space: str, at: tuple[float, float, float]) -> float:
    """How badly grids agree under a turn and a shift, see `_axis`."""
    moved = _moved(there, *at, space)
    length = np.sqrt(dot(moved[..., :3], moved[..., :3]))
    # Interpolated vectors are short, which must not make them unlike.
    moved[..., :3] *= (moved[..., 3] / np.maximum(length, 1e-6))[..., None]
    both = here[..., 3] * moved[..., 3]
    one = here[..., 4] * moved[..., 3] + here[..., 3] * moved[..., 4]
    tips = 2 * float(both.sum()) - 2 * float(np.vdot(here[..., :3], moved[..., :3]))
    return (tips + float(one.sum())) / max(float(both.sum() + one.sum()), 1e-3)


def _exact(vectors: FloatArray, block: int, down: int, across: int) -> tuple[float, float]:
    """An upright mirror image's shift in whole texels, for what lies between them is blurred: see `BETTER`.

    Args:
        vectors: float32 (h, w, 3), whole blocks of the map; zero where not known.
        block: side of a block; so far around the shift the best one is looked for.
        down: the shift that whole blocks tell.
        across: likewise.
    """
    known = np.asarray(vectors.any(axis=-1, keepdims=True))
    means = block_sum(vectors, block) / np.maximum(block_sum(known, block), 1)
    fine = np.moveaxis((vectors - np.repeat(np.repeat(means, block, 0), block, 1)) * known, -1, 0)
    spectra = np.fft.rfft2(fine)
    other = np.fft.rfft2(fine[:, :, ::-1] * np.array([-1, 1, 1], np.float32)[:, None, None])
    agreement = np.fft.irfft2((spectra * np.conj(other)).sum(axis=0), fine.shape[1:])
    reach = np.arange(-block, block + 1)
    near = agreement[np.ix_((down + reach) % fine.shape[1], (across + reach) % fine.shape[2])]
    best = np.unravel_index(int(np.argmax(near)), near.shape)
    # A best one at the very end is none, but leads on.
    inside = all(0 < at < 2 * block for at in best)
    if not inside or near[best] - near.mean() < BETTER * (near[block, block] - near.mean()):
        return float(down), float(across)
    return float(down + reach[best[0]]), float(across + reach[best[1]])


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
