"""A picture bent to lie over another: how far beside its place each part of it is, told where both are known.

Windows around each place are moved to where they agree best (B. D. Lucas and T. Kanade, "An Iterative Image
Registration Technique with an Application to Stereo Vision", 1981), on ever finer grids. Where a window shows
nothing that tells, as in the middle of a cheek, nothing moves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .engine import BoolArray, FloatArray
from .harmonic import grow
from .normals import dot, unit
from .planes import convolve, enlarge, gaussian, margin, shrink
from .resample import block_any, block_sum, framed, sampled

#: So many texels are one of the grids, along an axis, and so many steps are taken on each. There a window's
#: standard deviation is two texels, and nothing farther than `REACH` from a hole is looked at.
BLOCKS, STEPS, REACH = (4, 2, 1), 2, 6

#: How far from a hole anything much matters, in texels.
AROUND = BLOCKS[0] * (REACH + 1)

#: How much the normals in a window change over all of it, squared, for it to move half as far as it seems to;
#: tips farther apart than that count less.
TELLING, NARROW = 0.07, 0.35

#: Steps in which it is found where to things go of which is told where they come from.
BACK = 3


@dataclass(frozen=True)
class Bend:
    """By how much the places of a picture are moved.

    Attributes:
        moves: float32 (h, w, 2), x and y, of places on a grid.
        corner: (2,), the first of them.
        pitch: how far apart they are; x grows along columns, y falls along rows.
    """

    moves: FloatArray
    corner: NDArray[np.float64]
    pitch: float

    def moved(self, points: FloatArray) -> FloatArray:
        """Places (n, 2), moved; those beyond the grid are left where they are."""
        rows = (np.float32(self.corner[1]) - points[:, 1]) / np.float32(self.pitch)
        columns = (points[:, 0] - np.float32(self.corner[0])) / np.float32(self.pitch)
        result: FloatArray = points + sampled(framed(self.moves), rows, columns)
        return result


def origins(shown: FloatArray, normals: FloatArray, hole: BoolArray) -> FloatArray:
    """How far from its place a picture shows what belongs there, in and around a hole in another.

    Args:
        shown: float32 (h, w, 3), the picture's unit normals, zero where it has none.
        normals: float32 (h, w, 3), what it is to lie over, unit, zero where that is not known.
        hole: bool (h, w); what is farther away than `AROUND` texels hardly matters.

    Returns:
        float32 (2, h', w'), rows and columns, in texels: for blocks of two by two texels, their sides rounded
        up to the next multiple of eight.
    """
    frame = tuple((0, -length % 8) for length in hole.shape)
    hole = np.pad(hole, frame)
    shown, normals = (np.pad(field, (*frame, (0, 0))) for field in (shown, normals))
    result = np.zeros((2, hole.shape[0] // 8, hole.shape[1] // 8), np.float32)
    for block in BLOCKS:
        if block != BLOCKS[0]:
            result = 2 * enlarge(margin(result), 2)
        near = grow(block_any(hole, block), REACH)
        rows, columns = (axis.astype(np.float32) for axis in np.nonzero(near))
        picture, aim = _means(shown, block), _means(normals, block)[near]
        known = dot(aim, aim) > 0.5
        layers = np.zeros((near.shape[0] + 2, near.shape[1] + 2, 10), np.float32)
        layers[1:-1, 1:-1, :3] = picture
        np.subtract(picture[2:], picture[:-2], out=layers[2:-2, 1:-1, 3:6])
        np.subtract(picture[:, 2:], picture[:, :-2], out=layers[1:-1, 2:-2, 6:9])
        layers[..., 3:9] *= 0.5
        layers[1:-1, 1:-1, 9] = dot(picture, picture) > 0.5
        products = np.zeros((5, *near.shape), np.float32)
        for _ in range(STEPS):
            moves = enlarge(margin(result), 2)[:, near]
            found = sampled(layers, rows + moves[0], columns + moves[1])
            vectors, down, across = unit(found[:, :3]), found[:, 3:6], found[:, 6:9]
            apart = aim - vectors
            weights = (known & (found[:, 9] > 0.99)) / np.square(1 + dot(apart, apart) / NARROW**2)
            pairs = (down, down), (down, across), (across, across), (down, apart), (across, apart)
            for plane, pair in zip(products, pairs, strict=True):
                plane[near] = dot(*pair) * weights
            dd, da, aa, dr, ar = convolve(shrink(products, 2), gaussian(1.0))
            dd, aa = dd + np.float32(TELLING**2 / 4), aa + np.float32(TELLING**2 / 4)
            step = np.stack([aa * dr - da * ar, dd * ar - da * dr]) / (dd * aa - da * da)
            result = result + np.clip(step, -1, 1)
        result = np.asarray(convolve(result, gaussian(0.5)), np.float32)
    return result


def _means(vectors: FloatArray, block: int) -> FloatArray:
    """Directions of the unit vectors (h, w, 3) in blocks, zero where most are zero: (h', w', 3)."""
    if block == 1:
        return vectors
    most = block_sum(dot(vectors, vectors), block) > 0.5 * block**2
    return np.asarray(unit(block_sum(vectors, block)) * most[..., None], np.float32)


def goals(come: FloatArray) -> FloatArray:
    """How far from its place what a picture shows belongs: of the same blocks, float32 (2, h', w').

    It is the way that leads back: found by going there and looking how far it is, again and again.

    Args:
        come: where from, as `origins` tells.
    """
    height, width = come.shape[1:]
    rows, columns = np.mgrid[:height, :width].astype(np.float32).reshape(2, -1)
    layers = framed(np.moveaxis(come, 0, -1))
    moves = -come.reshape(2, -1).T
    half = np.float32(0.5)
    for _ in range(BACK):
        moves = -sampled(layers, rows + half * moves[:, 0], columns + half * moves[:, 1])
    return np.asarray(moves.T.reshape(come.shape), np.float32)
