"""Creases that go on across a hole: the part of the detail that runs along lines.

Patches of skin meet the known texels, but know nothing of a crease that enters a hole on one side and leaves
it on the other. Here a field C is fitted to the known detail d that may change along the direction which the
detail has there, and hardly across it; in the hole nothing else binds it:

    minimise  sum over known texels of |C - d|^2  +  sum over all of grad C . D grad C
              +  sum over the hole of (length / fading)^2 |C|^2.

D is a diffusion tensor as in coherence-enhancing diffusion (J. Weickert, "Coherence-Enhancing Diffusion
Filtering", 1999): `LENGTH`^2 along, hardly anything across, and `LENGTH`^2 both ways where there is no
direction. Directions are those of a structure tensor (W. Foerstner and E. Guelch, "A Fast Operator for
Detection and Precise Location of Distinct Points, Corners and Centres of Circular Features", 1987) of what is
known, continued into the hole. Pores have no direction that lasts and even out to nothing; a fold or a lid's
line stays. What is left of the detail without it is texture, for patches.

In tangent space alone: elsewhere the shape has lids and lips already, and they would count twice (heads with
skin on in camera space, holes in lines: 2.78 degrees off instead of 2.60).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .bands import ComplexArray, Scene, native, tiles
from .engine import FloatArray
from .harmonic import grow
from .planes import convolve, enlarge, gaussian, margin, pull_push, shrink
from .resample import framed, rise, sampled
from .solver import solve
from .twin import Twin

#: Texels over which a crease is evened along itself, and over which it ends in a hole where nothing meets it.
LENGTH, FADING = 6.0, 60.0

#: How much of that, squared, it is evened across: in a first round that finds the creases, and in a second
#: one by their directions alone, without the pores'. And the relative residual at which that round ends, in
#: how many steps at most.
ROUNDS, STEPS = ((1e-2, 1e-1), (3e-4, 2e-2)), 60

#: How coherent directions are, from 0 to 1, where they begin to count, and where they do in full.
COHERENT = (0.3, 0.7)

#: Directions are those of squares of so many texels, evened over a Gaussian of so many squares.
CELL, EVEN = 4, 1.25

#: Blocks of so many texels, and how many of them around a hole's edge and into the hole are looked at.
BLOCK, AROUND, DEEP = 8, 4, 8

#: The share of the energy that keeps a chequerboard down.
CHECKED = 0.02

#: The other half's detail counts less where creases have so much of its energy, and from the second on not at
#: all: hardly a face's lie where those of its other half do.
LEADING = (0.5, 1.5)

#: The neighbours of a texel, rows and columns on; the last four are the first four's opposites.
_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1), (0, -1), (-1, 0), (-1, -1), (-1, 1))


@dataclass(frozen=True)
class Creases:
    """The creases of a scene.

    Attributes:
        field: float32 (2, H/f + 2, W/f + 2), real and imaginary part, with a margin.
        step: f, texels of the scene for one.
    """

    field: FloatArray
    step: int

    def tile(self, tile: tuple[slice, slice]) -> ComplexArray:
        """Those of a tile of the scene: in the hole and at known texels near it, zero elsewhere."""
        parts = native(self.field, self.step, tile)
        return np.asarray(parts[0] + 1j * parts[1], np.complex64)


def taken_out(scene: Scene) -> Creases | None:
    """Find a scene's creases around the hole, continued into it, and take them out of the known detail.

    Args:
        scene: whose known detail is changed in place.

    Returns:
        The creases; None where nothing known is near the hole.
    """
    step = min(scene.step, 2)
    band = _Band(scene, step)
    if not band.places.size:
        return None
    values, directions = np.zeros_like(band.values), band.values
    for across, tolerance in ROUNDS:
        values = directions = band.fitted(band.tensor(directions, across), values, tolerance)
    shape = tuple(n // step for n in scene.area.shape)
    field = np.zeros((2, shape[0] * shape[1]), np.float32)
    field[:, band.places] = values.T * band.share
    result = Creases(margin(field.reshape(2, *shape)), step)
    for tile in tiles(scene, scene.known):
        scene.detail[tile] -= result.tile(tile) * scene.known[tile]
    return result


def lead(creases: Creases, scene: Scene, other: Twin) -> None:
    """Let the other half count less where creases of this one go on: its share is changed in place."""
    own, others = (np.zeros(tuple(n // BLOCK for n in scene.area.shape), np.float32) for _ in range(2))
    wanted = other.share > 0
    for tile in tiles(scene, wanted):
        there = tile[0].start // BLOCK, tile[1].start // BLOCK
        for sums, detail in (own, creases.tile(tile)), (others, other.detail[tile]):
            energy = shrink((detail.real**2 + detail.imag**2) * wanted[tile], BLOCK)
            sums[there[0] : there[0] + energy.shape[0], there[1] : there[1] + energy.shape[1]] = energy
    own, others = convolve(np.stack([own, others]), gaussian(1.0))
    less = margin(1 - rise(own / np.maximum(others, 1e-12), *LEADING))[None]
    for tile in tiles(scene, wanted):
        other.share[tile] *= native(less, BLOCK, tile)[0]


class _Band:
    """The texels along a hole's edge, and some more into it, one row of numbers each.

    Attributes:
        places: (n,) where they lie, in reading order.
        values: float32 (n, 2), the known detail, real and imaginary part, zero where none is.
        share: float32 (n,), 1 in the hole, and less and less where the band ends among known texels.
    """

    def __init__(self, scene: Scene, step: int) -> None:
        """Args: the scene, and how many of its texels make one of the band's, along an axis."""
        self._shape = scene.area.shape[0] // step, scene.area.shape[1] // step
        width = self._shape[1]
        area, known = (mask.astype(np.float32) for mask in (scene.area, scene.known))
        holes, sources = (shrink(mask, BLOCK * step) > 0 for mask in (area, known))
        near = grow(holes, AROUND) & grow(sources, DEEP)
        area, known = shrink(area, step), shrink(known, step)
        inside = near.repeat(BLOCK, 0).repeat(BLOCK, 1) & (known + area > 0.5)
        self.places = np.flatnonzero(inside)
        self._rows, self._columns = np.divmod(self.places, width)
        self._known = known.reshape(-1)[self.places]
        parts = [shrink(part * scene.known, step) for part in (scene.detail.real, scene.detail.imag)]
        values = np.stack([part.reshape(-1)[self.places] for part in parts], axis=1)
        values /= np.maximum(self._known, np.float32(1e-6))[:, None]
        self.values: FloatArray = values
        soft = convolve(near[None].astype(np.float32), gaussian(1.0))[0]
        soft = enlarge(margin(np.clip(2 * soft - 1, 0, 1)), BLOCK).reshape(-1)[self.places]
        self.share: FloatArray = np.where(self._known > 0, soft, np.float32(1))
        # The neighbours' numbers; the last number is all that are none.
        self._near: list[npt.NDArray[np.intp]] = []
        if not self.places.size:
            return
        for down, right in _NEIGHBOURS:
            wanted = self.places + (down * width + right)
            number = np.minimum(np.searchsorted(self.places, wanted), self.places.size - 1)
            there = (self.places[number] == wanted) & (np.abs(self._columns[number] - self._columns) < 2)
            self._near.append(np.where(there, number, self.places.size))

    def _beside(self, values: FloatArray, direction: int) -> FloatArray:
        """What neighbours in a direction have, (n, ...): zero where there is none."""
        padded = np.concatenate([values, np.zeros_like(values[:1])])
        return padded.take(self._near[direction], axis=0, mode="clip")

    def tensor(self, values: FloatArray, across: float) -> FloatArray:
        """The diffusion tensor: float32 (n, 3), its xx, xy and yy, x along columns.

        Args:
            values: float32 (n, 2), the field whose directions count, at known texels.
            across: which share of the diffusion is left across a crease.
        """
        weight = self._known[:, None]
        fields = np.concatenate([values * weight, weight, 0 * weight], axis=1)  # rows of 16 bytes
        for _ in range(2):  # a binomial of three by three texels each
            sides = sum(self._beside(fields, k) for k in (0, 1, 4, 5))
            corners = sum(self._beside(fields, k) for k in (2, 3, 6, 7))
            fields = (fields * 4 + sides * np.float32(2) + corners) * np.float32(1 / 16)
        smooth, fully = fields[:, :2], (fields[:, 2] > 0.99).astype(np.float32)
        right, down, left, up = (self._beside(smooth, k) for k in (0, 1, 4, 5))
        whole = np.minimum.reduce([self._beside(fully, k) for k in (0, 1, 4, 5)])
        x, y = right - left, down - up
        moments = np.stack([(part * whole[:, None]).sum(axis=1) for part in (x * x, x * y, y * y)])
        xx, xy, yy = self._evened(np.concatenate([moments, whole[None]]))
        middle, half = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
        strength = rise(half / np.maximum(middle, np.float32(1e-20)), *COHERENT) * np.float32(1 - across)
        least, per = middle - half, strength / np.maximum(2 * half, np.float32(1e-20))
        tensor = np.stack([1 - per * (xx - least), -per * xy, 1 - per * (yy - least)], axis=1)
        return np.asarray(tensor * LENGTH**2, np.float32)

    def _evened(self, moments: FloatArray) -> FloatArray:
        """Sums (c + 1, n) over squares of texels, evened, divided by the last of them, continued: (c, n)."""
        height, width = (n // CELL for n in self._shape)
        cell = self._rows // CELL * width + self._columns // CELL
        sums = np.stack([np.bincount(cell, part, height * width) for part in moments]).astype(np.float32)
        even = convolve(sums.reshape(-1, height, width), gaussian(EVEN))
        there = (even[-1] > 0.05).astype(np.float32)
        mean = even[:-1] / np.maximum(even[-1], np.float32(1e-6))
        filled = np.stack([pull_push(part, there) for part in mean], axis=-1)
        rows, columns = (
            ((axis + 0.5) / CELL - 0.5).astype(np.float32) for axis in (self._rows, self._columns)
        )
        return np.ascontiguousarray(sampled(framed(filled), rows, columns).T)

    def fitted(self, tensor: FloatArray, start: FloatArray, tolerance: float) -> FloatArray:
        """The field (n, 2) that is near the known values and smooth by a tensor, from a first guess at it."""
        data = np.where(self._known > 0, self._known, np.float32((LENGTH / FADING) ** 2))
        system = _System(self._near, tensor, data, self.values * self._known[:, None])
        return solve(system, start, STEPS, tolerance)


class _System:
    """Closeness to data, and smoothness by a tensor: the Laplacian of a graph with eight neighbours.

    In a square of four texels the gradient is that of its middle, mean differences along two edges, which is
    exact to the second order whatever its direction: else smoothing along a slanting crease would be so
    across it, too. It does not see a chequerboard; a small share of the energy, which takes pairs of edges by
    themselves, does. The squares of both are sums over edges and diagonals.
    """

    def __init__(
        self, near: list[npt.NDArray[np.intp]], tensor: FloatArray, data: FloatArray, target: FloatArray
    ) -> None:
        """Args: neighbours (n,) by direction, the tensor (n, 3), weights (n,) of the data, what they give."""
        count = len(tensor)
        # A square, told by its first texel, counts where it has all four.
        whole = (near[0] < count) & (near[1] < count) & (near[2] < count)
        padded = np.concatenate([tensor * whole[:, None], np.zeros((1, 3), np.float32)])
        xx, xy, yy = padded.T
        half, both, cross = (xx - yy) / 4, (xx + yy) / 4, xy / 2
        rows, columns = both * CHECKED + half, both * CHECKED - half
        falling, rising = both * (1 - CHECKED) + cross, both * (1 - CHECKED) - cross
        left, up, corner = near[4], near[5], near[6]
        weights = [
            rows[:-1] + rows[up],
            columns[:-1] + columns[left],
            falling[:-1],
            rising[left],
            rows[left] + rows[corner],
            columns[up] + columns[corner],
            falling[corner],
            rising[up],
        ]
        self._near = near
        self._weights = [np.repeat(weight[:, None], 2, axis=1) for weight in weights]
        diagonal = sum(self._weights) + data[:, None]
        self._diagonal: FloatArray = np.asarray(diagonal, np.float32)
        self.inverse: FloatArray = np.reciprocal(np.maximum(self._diagonal, np.float32(1e-6)))
        self.target = target
        self._padded = np.zeros((count + 1, 2), np.float32)
        self._gathered = np.empty((count, 2), np.float32)

    def __call__(self, values: FloatArray) -> FloatArray:
        """The matrix times values (n, 2)."""
        self._padded[:-1] = values
        result: FloatArray = self._diagonal * values
        for near, weight in zip(self._near, self._weights, strict=True):
            self._padded.take(near, axis=0, out=self._gathered, mode="clip")
            self._gathered *= weight
            result -= self._gathered
        return result
