"""Which places of a mesh are each other's mirror image: the other half of a face in a layout of any kind."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .basemesh import BaseMesh
from .engine import BoolArray, FloatArray
from .normals import cross
from .raster import IntArray
from .resample import rise

#: Points that are mirrored to find the plane of symmetry, and those that tell along which axis it lies.
_TRIED, _SOME = 600, 20_000

#: A mesh with more triangles is looked at by a grid of so many cells over its layout: what is told of its
#: points is smooth, and would take as long as there are points.
_DENSE, _CELLS = 40_000, 224

#: Steps in which it settles.
_SETTLING = 5

#: How far from the mesh, as a share of its size, mirror images of points may lie: on average, or it is not
#: symmetric, and of each, or it has no opposite. No face is quite symmetric.
_EVEN, _NEAR = 0.01, 0.03

#: The cosine of the angle by which the surface there may differ.
_ALIKE = 0.5

#: An edge's mirror image in the layout is so many times as long at most, or the layout has a seam there.
_TORN = 4.0

#: How often what is told of points is spread to their neighbours; and how far apart, as a share of the mesh's
#: size, a surface and its mirror image are that call for it a little, and altogether.
_SPREAD, _UNEVEN = 24, (0.0002, 0.001)

#: Triangles around a point at which its mirror image is looked for.
_FANS = 8


@dataclass(frozen=True)
class Opposites:
    """Of the points of a mesh their mirror images in its layout.

    Attributes:
        mesh: what of it has a mirror image.
        places: float32 (n, 2), where in the layout each point's mirror image lies, see `BaseMesh.places`.
        turns: float32 (n, 2), the tangent there, mirrored, in the frame of the point: along tangent and
            bitangent.
        hands: float32 (n,), 1 if the mirror image's hand is the point's, else -1.
    """

    mesh: BaseMesh
    places: FloatArray
    turns: FloatArray
    hands: FloatArray


def opposites(mesh: BaseMesh) -> Opposites | None:
    """Find the mirror images of a mesh's points, or of a grid on it; None if it is not symmetric."""
    points = mesh.points.astype(np.float64)
    size = float(np.linalg.norm(np.ptp(points, axis=0)))
    if len(points) <= 3 or not size > 0:
        return None
    nearest = _Nearest(points, _NEAR * size)
    tried = points[:: -(-len(points) // _TRIED)]
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    # Which axis it is a part of the points tells; where the plane lies all do.
    some = _Nearest(points[:: -(-len(points) // _SOME)], _NEAR * size)
    starts = [_settled(some, tried, axis, float(axis @ middle), 1) for axis in np.eye(3)]
    normal, along, _ = min(starts, key=lambda plane: plane[2])
    normal, along, off = _settled(nearest, tried, normal, along, _SETTLING)
    if off > _EVEN * size:
        return None
    if len(mesh.triangles) > _DENSE:
        mesh = mesh.gridded(_CELLS)
        if not len(mesh.triangles) or not np.ptp(mesh.points, axis=0).any():
            return None
        points = mesh.points.astype(np.float64)
        nearest = _Nearest(points, _NEAR * size)
    images = points - 2 * (points @ normal - along)[:, None] * normal
    partner, _ = nearest.to(images)
    found = partner >= 0
    partner[~found] = 0
    corners, weights = _on_surface(mesh, points, images, partner)
    axes = normal.astype(np.float32)

    def mirrored(vectors: FloatArray) -> FloatArray:
        return vectors - 2 * (vectors @ axes)[:, None] * axes

    def there(values: FloatArray) -> FloatArray:
        mixed: FloatArray = np.einsum("nk,nkc->nc", weights, values[corners])
        return mixed

    apart = np.linalg.norm(there(mesh.points) - images, axis=1)
    same = np.einsum("nc,nc->n", mirrored(there(mesh.normals)), mesh.normals)
    found &= (apart <= _NEAR * size) & (same >= _ALIKE)
    tangents = mirrored(there(mesh.tangents))
    bitangents = mesh.hands[:, None] * cross(mesh.normals, mesh.tangents)
    turns = np.stack([np.einsum("nc,nc->n", tangents, axis) for axis in (mesh.tangents, bitangents)], axis=-1)
    places = there(mesh.places)
    kept = found[mesh.triangles].all(axis=1) & ~_torn(mesh, places)
    if not kept.any():
        return None
    mesh = replace(mesh, triangles=mesh.triangles[kept])
    places, turns = _evened(mesh, places, turns, apart / size)
    return Opposites(mesh, places, turns, mesh.hands * mesh.hands[partner])


def _settled(
    nearest: _Nearest, tried: NDArray[np.float64], normal: NDArray[np.float64], along: float, steps: int
) -> tuple[NDArray[np.float64], float, float]:
    """A plane of symmetry moved to where it fits best: its normal, its place along it, how far off it was.

    It stands half way between points that are each other's image, and square to what parts them.
    """
    off = np.inf
    for _ in range(steps):
        images = tried - 2 * (tried @ normal - along)[:, None] * normal
        partner, distance = nearest.to(images)
        off = float(np.mean(np.minimum(distance, nearest.reach)))
        there = partner >= 0
        if not there.any():
            break
        ends = nearest.points[partner[there]]
        parted = tried[there] - ends
        normal = np.linalg.eigh(parted.T @ parted)[1][:, -1]
        along = float(np.median((tried[there] + ends) @ normal / 2))
    return normal, along, off


class _Nearest:
    """The nearest of some points, looked for in cells of a grid.

    Args:
        points: float64 (n, 3).
        reach: points farther away than that are not found.
    """

    def __init__(self, points: NDArray[np.float64], reach: float) -> None:
        self.points, self.reach = points, reach
        self._sorted: dict[float, tuple[NDArray[np.intp], NDArray[np.int64]]] = {}

    def to(self, places: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """For places (m, 3) the nearest points' numbers, -1 for none, and their distances, infinite then."""
        number = np.full(len(places), -1, np.intp)
        distance = np.full(len(places), np.inf)
        # Points lie on a surface: about so far from each other.
        cell = 1.5 * float(np.linalg.norm(np.ptp(self.points, axis=0))) / np.sqrt(len(self.points))
        left = np.arange(len(places))
        while left.size:
            cell = min(cell, self.reach)
            found, apart = self._within(places[left], cell)
            near = apart <= cell
            number[left[near]], distance[left[near]] = found[near], apart[near]
            if cell >= self.reach:
                break
            left, cell = left[~near], 2 * cell
        return number, distance

    def _within(
        self, places: NDArray[np.float64], cell: float
    ) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """The nearest points in the cells around places: all that are no farther away than a cell's side."""
        low = self.points.min(axis=0) - 2 * cell
        across = np.ceil((self.points.max(axis=0) + 2 * cell - low) / cell).astype(np.int64) + 1
        strides = np.array([across[1] * across[2], across[2], 1])

        def cells(at: NDArray[np.float64]) -> NDArray[np.int64]:
            number: NDArray[np.int64] = np.clip(((at - low) / cell).astype(np.int64), 1, across - 2)
            return number

        if cell not in self._sorted:
            keys = cells(self.points) @ strides
            order = np.argsort(keys, kind="stable")
            self._sorted[cell] = order, keys[order]
        order, keys = self._sorted[cell]
        own = cells(places) @ strides
        number = np.full(len(places), -1, np.intp)
        least = np.full(len(places), np.inf)
        for row in (-1, 0, 1):
            for column in (-1, 0, 1):
                # Three cells in a row have numbers in a row.
                first = own + row * strides[0] + column * strides[1]
                start, end = np.searchsorted(keys, first - 1), np.searchsorted(keys, first + 1, "right")
                some = np.flatnonzero(start < end)
                if not some.size:
                    continue
                count = (end - start)[some]
                ahead = np.cumsum(count) - count
                point = order[np.arange(count.sum()) - np.repeat(ahead - start[some], count)]
                square = np.square(self.points[point] - np.repeat(places[some], count, axis=0)).sum(axis=1)
                lowest = np.minimum.reduceat(square, ahead)
                # The first of each place's that is as near as its nearest.
                hits = np.flatnonzero(square == np.repeat(lowest, count))
                nearest = point[hits[np.searchsorted(hits, ahead)]]
                better = lowest < least[some]
                least[some[better]], number[some[better]] = lowest[better], nearest[better]
        return number, np.sqrt(least)


def _on_surface(
    mesh: BaseMesh, points: NDArray[np.float64], images: NDArray[np.float64], partner: NDArray[np.intp]
) -> tuple[IntArray, FloatArray]:
    """The triangle beside each image's nearest point that the image lies on, or nearest to.

    Returns:
        int32 (n, 3), its corners, and float32 (n, 3), their weights.
    """
    order = np.argsort(mesh.triangles.reshape(-1), kind="stable")
    number = (order // 3).astype(np.int64)
    at = mesh.triangles.reshape(-1)[order]
    first, end = np.searchsorted(at, partner), np.searchsorted(at, partner, "right")
    corners = np.repeat(partner[:, None], 3, 1).astype(np.int32)
    weights = np.tile(np.array([1, 0, 0], np.float32), (len(partner), 1))
    least = np.full(len(partner), np.inf)
    for fan in range(_FANS):
        some = np.flatnonzero(first + fan < end)
        if not some.size:
            break
        triangle = mesh.triangles[number[first[some] + fan]]
        a, b, c = (points[triangle[:, i]] for i in range(3))
        ab, ac, place = b - a, c - a, images[some] - a
        aa, bb, cc = (np.einsum("nc,nc->n", u, v) for u, v in ((ab, ab), (ab, ac), (ac, ac)))
        pb, pc = (np.einsum("nc,nc->n", u, place) for u in (ab, ac))
        area = np.maximum(aa * cc - bb * bb, 1e-30)
        second, third = (cc * pb - bb * pc) / area, (aa * pc - bb * pb) / area
        share = np.maximum(np.stack([1 - second - third, second, third], axis=1), 0)
        share /= share.sum(axis=1, keepdims=True)
        on = np.einsum("nk,nkc->nc", share, np.stack([a, b, c], axis=1))
        square = np.square(on - images[some]).sum(axis=1)
        better = square < least[some]
        least[some[better]] = square[better]
        corners[some[better]], weights[some[better]] = triangle[better], share[better].astype(np.float32)
    return corners, weights


def _evened(
    mesh: BaseMesh, places: FloatArray, turns: FloatArray, apart: NDArray[np.float64]
) -> tuple[FloatArray, FloatArray]:
    """Places and turns (n, 2) evened over neighbours in triangles, the more so the farther apart (n,).

    A face is not quite symmetric, and where it bends the nearest place on the surface jumps to and fro: skin
    looked up there came out in stripes. Each point gets what the affine map of the layout says that fits what
    is around (moving least squares: D. Levin, "The approximation power of moving least-squares", 1998); the
    moments of points are spread from neighbour to neighbour.
    """
    corners = mesh.triangles
    ends = np.concatenate([corners[:, [i, j]] for i in range(3) for j in range(3) if i != j])
    ends = ends[np.argsort(ends[:, 0], kind="stable")]
    used, first = np.unique(ends[:, 0], return_index=True)
    count = np.diff(np.append(first, len(ends)))[:, None]
    terms = np.column_stack([np.ones(len(places)), mesh.places.astype(np.float64)])
    products = terms[:, :, None] * np.column_stack([terms, places])[:, None, :]
    moments = np.column_stack([products.reshape(len(places), -1), turns, apart])
    for _ in range(_SPREAD):
        around = np.add.reduceat(moments[ends[:, 1]], first) / count
        moments[used] = (moments[used] + around) / 2
    matrix = moments[:, :15].reshape(-1, 3, 5)
    # Where points lie in a line, or alone, they stay.
    fits = np.linalg.det(matrix[:, :, :3]) > 1e-14
    affine = np.linalg.solve(matrix[fits, :, :3], matrix[fits, :, 3:])
    share = rise(moments[fits, 17:].astype(np.float32), *_UNEVEN)
    evened = places.copy()
    evened[fits] += share * (np.einsum("nk,nkc->nc", terms[fits], affine) - evened[fits]).astype(np.float32)
    turned = moments[:, 15:17].astype(np.float32)
    return evened, turned / np.maximum(np.linalg.norm(turned, axis=1, keepdims=True), 1e-6)


def _torn(mesh: BaseMesh, places: FloatArray) -> BoolArray:
    """Triangles (m,) whose mirror image the layout tears apart."""
    torn = np.zeros(len(mesh.triangles), np.bool_)
    for i in range(3):
        ends = mesh.triangles[:, i], mesh.triangles[:, (i + 1) % 3]
        own, there = (
            np.linalg.norm(field[ends[0]] - field[ends[1]], axis=1) for field in (mesh.places, places)
        )
        torn |= there > _TORN * own
    return torn
