"""The mesh that wears a map: it tells where the map shows skin, and has an object-space map's forms.

Seen from its mesh an object-space map is one in tangent space, and is repaired as one: the mesh shows what a
hole hides of the head, and pores and creases are continued as they lie on it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from . import udim
from .engine import BoolArray, FloatArray
from .harmonic import grow
from .normals import cross, dot, unit
from .raster import IntArray, rasterize
from .regions import Box
from .resample import block_any, enlarge, spread

#: Triangles that a mesh may have: more than that take long, and have forms which are the map's to tell.
MOST = 2_000_000

#: Texels along the longer side of a map at which it is compared with a mesh; fewer than that are no evidence.
COMPARED, _FEWEST = 256, 64

#: How far apart, in degrees, a mesh's normals and an object-space map's may be in the median for both to
#: belong together. Heads in skin are 2 to 4 degrees from their own mesh; another person's, some 6 degrees
#: away, helps some holes and harms others.
ALIKE = 6.0

#: Blocks along the longer side of a map of which it is told whether a mesh lies there; near holes, in squares
#: of so many texels a side, it is told of each texel.
_BLOCKS, _SQUARE = 1024, 128

#: Places in the width of a triangle at which frames are worked out, at least; and how many texels they may be
#: apart.
_PLACES, _APART = 8, 8

#: How many times over the rectangles around triangles may cover a map: of most layouts they do so twice. And
#: texels that are looked at together, for the memory that they take.
_MANY, _AT_A_TIME = 6.0, 1 << 19

#: How often the best turn is looked for, each time among the share of texels that the last one left closest.
_ROUNDS, _CLOSEST = 3, 0.8

#: Sides of a grid's triangles that are so many times as long as the usual one lie between islands.
_TORN = 6.0

#: Points of a layout that are closer than that, as a share of its side, are one.
_SAME = 1 << 16


@dataclass(frozen=True)
class Grid:
    """Places in a map at which something is asked for, in rows and columns.

    Attributes:
        shape: rows and columns of the map.
        first: row and column of the first place; whole numbers are the middles of the map's texels.
        pace: from one place to the next, along both axes, in the map's texels.
        size: rows h and columns w of places.
    """

    shape: tuple[int, int]
    first: tuple[float, float]
    pace: int
    size: tuple[int, int]

    @classmethod
    def blocks(cls, shape: tuple[int, ...], step: int = 1, box: Box | None = None) -> Grid:
        """The middles of the blocks of `step` texels a side that a map, or a box of it, is made of."""
        height, width = shape
        box = box or Box(0, height, 0, width)
        middle = (step - 1) / 2
        size = -(-box.height // step), -(-box.width // step)
        return cls((height, width), (box.top + middle, box.left + middle), step, size)


@dataclass(frozen=True)
class Frames:
    """Tangent frames at texels (...): orthonormal, each float32 (..., 3).

    Attributes:
        tangents: along u in the surface.
        bitangents: along v, but square to the others.
        normals: out of it.
        there: bool (...), where the mesh lies. Around it frames are continued.
    """

    tangents: FloatArray
    bitangents: FloatArray
    normals: FloatArray
    there: BoolArray

    @classmethod
    def of(cls, normals: FloatArray, tangents: FloatArray, hands: FloatArray, there: BoolArray) -> Frames:
        """Frames of normals and tangents (..., 3) of any length, and hands (..., 1), above zero or below."""
        normals = unit(normals)
        tangents = _square_to(normals, tangents)
        hands = np.where(hands < 0, np.float32(-1), np.float32(1))
        return cls(tangents, hands * cross(normals, tangents), normals, there)

    def local(self, vectors: FloatArray) -> FloatArray:
        """Vectors (..., 3) in their frames."""
        axes = self.tangents, self.bitangents, self.normals
        return np.stack([dot(axis, vectors) for axis in axes], axis=-1)

    def of_local(self, vectors: FloatArray, chosen: tuple[NDArray[np.intp], ...]) -> FloatArray:
        """Vectors (k, 3) in the frames of chosen texels, in the map's axes."""
        axes = self.tangents, self.bitangents, self.normals
        parts = [axis[chosen] * vectors[:, i : i + 1] for i, axis in enumerate(axes)]
        return unit(parts[0] + parts[1] + parts[2])


@dataclass(frozen=True)
class Triangles:
    """A mesh as it comes: positions (p, 3), vertex indices (m, 3), and texture coordinates (m, 3, 2)."""

    vertices: FloatArray
    corners: IntArray
    uv: FloatArray

    def base(self, tile: int | None) -> BaseMesh | None:
        """The mesh, as a texture that repeats has it, or what lies in one tile, None if nothing does."""
        if tile is None:
            return BaseMesh.of(self.vertices, self.corners, self.uv)
        return self.side_by_side([tile])

    def side_by_side(self, tiles: Sequence[int], gap: float = 0.0) -> BaseMesh | None:
        """What lies in some tiles, as if these lay side by side in one map; None if nothing does.

        Args:
            tiles: their numbers, from left to right.
            gap: how much of the width that each has there is left free, half of it on either side.
        """
        corners = self._tiles()
        slot = np.full(len(corners), -1, np.float32)
        for number, tile in enumerate(tiles):
            slot[(corners == udim.corner(tile)).all(axis=-1)] = number
        uv = self.uv - corners[:, None]
        across = uv[..., 0] * np.float32(1 - gap) + np.float32(gap / 2)
        uv[..., 0] = (across + slot[:, None]) / np.float32(len(tiles))
        wanted = slot >= 0
        return BaseMesh.of(self.vertices, self.corners, uv, wanted) if wanted.any() else None

    def tiles(self) -> list[int]:
        """The numbers of the tiles that it lies in."""
        corners = np.unique(self._tiles(), axis=0).astype(int).tolist()
        numbers = (udim.number_at(u, v) for u, v in corners)
        return sorted(number for number in numbers if number is not None)

    def _tiles(self) -> FloatArray:
        """The tile that each triangle lies in, (m, 2)."""
        return np.asarray(np.floor(self.uv.mean(axis=1)), np.float32)


@dataclass(frozen=True)
class BaseMesh:
    """A mesh in a UV layout. Its points are the corners of its triangles there.

    Attributes:
        places: float32 (n, 2), u to the right and v up, 0 to 1 over the map.
        points: float32 (n, 3), where they lie in space.
        normals: float32 (n, 3), unit.
        tangents: float32 (n, 3), unit, along u in the surface.
        hands: float32 (n,), 1 where u, v and the normal are right-handed, -1 where the layout is mirrored.
        triangles: int32 (m, 3), numbers of points, counter-clockwise in the layout.
    """

    places: FloatArray
    points: FloatArray
    normals: FloatArray
    tangents: FloatArray
    hands: FloatArray
    triangles: IntArray

    @classmethod
    def of(
        cls, vertices: FloatArray, corners: IntArray, uv: FloatArray, wanted: BoolArray | None = None
    ) -> BaseMesh:
        """Work out a mesh's smooth normals and its tangents.

        Args:
            vertices: float32 (p, 3), positions.
            corners: int32 (m, 3), vertex indices, counter-clockwise seen from outside.
            uv: float32 (m, 3, 2), the corners' texture coordinates, v up. Each triangle is taken to the tile
                of 0 to 1, as a texture that repeats has it.
            wanted: bool (m,), which triangles it is to have, one at least; None for all. The others still
                count for the normals.
        """
        uv = uv - np.floor(uv.mean(axis=1, keepdims=True))
        first, second = (vertices[corners[:, i]] - vertices[corners[:, 0]] for i in (1, 2))
        normals = unit(_mean_directions(cross(first, second), corners, len(vertices)))
        if wanted is not None:
            corners, uv, first, second = corners[wanted], uv[wanted], first[wanted], second[wanted]
        along, across = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
        mirrored = along[:, 0] * across[:, 1] < along[:, 1] * across[:, 0]
        hand = np.where(mirrored, np.float32(-1), np.float32(1))[:, None]
        # The derivative along u, times the triangle's area in the layout: larger ones count for more.
        tangent = (first * across[:, 1:] - second * along[:, 1:]) * hand
        # Where the layout has a seam, a vertex is several points.
        flat = corners.reshape(-1)
        key = flat.astype(np.int64)
        for axis in np.rint(uv.reshape(-1, 2).T * np.float32(_SAME)).astype(np.int64):
            key = key * (4 * _SAME) + (axis & (4 * _SAME - 1))
        _, chosen, number = np.unique(key, return_index=True, return_inverse=True)
        triangles = number.reshape(-1, 3).astype(np.int32)
        normals = normals[flat[chosen]]
        tangents = _square_to(normals, _mean_directions(tangent, triangles, chosen.size))
        hands = _mean_directions(hand, triangles, chosen.size)[:, 0]
        triangles[mirrored] = triangles[mirrored, ::-1]
        places = np.ascontiguousarray(uv.reshape(-1, 2)[chosen], np.float32)
        points = np.ascontiguousarray(vertices[flat[chosen]], np.float32)
        hands = np.where(hands < 0, -1, 1).astype(np.float32)
        return cls(places, points, normals, tangents, hands, triangles)

    def frames(self, grid: Grid) -> Frames:
        """Tangent frames (h, w) at places of a map."""
        # Frames are smooth: some places in each triangle are enough, the same for every part of a map.
        apart = grid.pace * max(1, min(int(self._width(grid.shape) / grid.pace / _PLACES), _APART))
        if apart == grid.pace:
            field, lies = self._told(grid)
        else:
            rows, columns = (
                (start + grid.pace * np.arange(length)) / apart
                for start, length in zip(grid.first, grid.size, strict=True)
            )
            top, left = (int(axis[0]) - 2 for axis in (rows, columns))
            coarse = int(rows[-1]) + 4 - top, int(columns[-1]) + 4 - left
            field, lies = self._told(Grid(grid.shape, (top * apart, left * apart), apart, coarse))
            rows, columns = rows - top, columns - left
            field = np.moveaxis(enlarge(field, rows, columns), 0, -1)
            lies = lies[np.ix_(np.rint(rows).astype(np.intp), np.rint(columns).astype(np.intp))]
        return Frames.of(field[..., :3], field[..., 3:6], field[..., 6:], lies)

    def _told(self, grid: Grid) -> tuple[FloatArray, BoolArray]:
        """Normals, tangents and hands at places, of any length: float32 (h, w, 7), continued around the mesh.

        And bool (h, w), where the mesh lies.
        """
        layers = np.column_stack([self.normals, self.tangents, self.hands])
        told, there = self.interpolated(layers, grid)
        return spread(told, there), there

    def interpolated(
        self, layers: FloatArray, grid: Grid, wanted: BoolArray | None = None
    ) -> tuple[FloatArray, BoolArray]:
        """Values of the points (n, k) at places, or at those wanted: float32 (h, w, k), zero off the mesh.

        And bool (h, w), where there are any.
        """
        told = np.zeros((grid.size[0] * grid.size[1], layers.shape[1]), np.float32)
        there = np.zeros(grid.size, np.bool_)
        for texel, triangle, weights in self._seen(grid, wanted):
            corners = self.triangles[triangle]
            one, two, three = (weights[:, i : i + 1] * layers.take(corners[:, i], axis=0) for i in range(3))
            told[texel] = one + two + three
            there.reshape(-1)[texel] = True
        return told.reshape(*grid.size, -1), there

    def gridded(self, cells: int) -> BaseMesh:
        """A coarser mesh, of the corners of a grid of so many cells a side over the layout.

        It ends up to a cell before the edges of islands.
        """
        side = cells + 1
        layers = np.column_stack([self.points, self.normals, self.tangents, self.hands])
        told, there = self.interpolated(layers, Grid((cells, cells), (-0.5, -0.5), 1, (side, side)))
        row, column = np.nonzero(there)
        number = np.full((side, side), -1, np.int32)
        number[row, column] = np.arange(row.size)
        upper_left, upper_right = number[:-1, :-1].reshape(-1), number[:-1, 1:].reshape(-1)
        lower_left, lower_right = number[1:, :-1].reshape(-1), number[1:, 1:].reshape(-1)
        triangles = np.concatenate(
            [
                np.stack([lower_left, lower_right, upper_left], axis=1),
                np.stack([lower_right, upper_right, upper_left], axis=1),
            ]
        )
        triangles = triangles[(triangles >= 0).all(axis=1)]
        values = told[row, column]
        points = np.ascontiguousarray(values[:, :3])
        # Where islands are close to each other a triangle may lie between two of them.
        ends = points[triangles]
        longest = np.linalg.norm(ends - np.roll(ends, 1, axis=1), axis=2).max(axis=1)
        if longest.size:
            triangles = triangles[longest <= _TORN * np.median(longest)]
        normals = unit(values[:, 3:6])
        places = (np.stack([column, cells - row], axis=1) / cells).astype(np.float32)
        hands = np.where(values[:, 9] < 0, np.float32(-1), np.float32(1))
        return BaseMesh(places, points, normals, _square_to(normals, values[:, 6:9]), hands, triangles)

    def covers(self, grid: Grid, wanted: BoolArray | None = None) -> BoolArray:
        """Where the mesh lies at places of a map, or at those wanted: bool (h, w)."""
        return self.interpolated(np.zeros((len(self.places), 0), np.float32), grid, wanted)[1]

    def _seen(
        self, grid: Grid, wanted: BoolArray | None
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], FloatArray]]:
        """See `interpolated`, and for the answer `rasterize`: some rows at a time, to bound its memory."""
        across, down = self.places.astype(np.float64).T
        across, down = across * grid.shape[1] - 0.5, (1 - down) * grid.shape[0] - 0.5
        middles = np.stack([across - grid.first[1], down - grid.first[0]], axis=1)
        places = (middles / grid.pace).astype(np.float32)
        flat = np.zeros(len(places), np.float32)
        height, width = grid.size
        depth = max(1, _AT_A_TIME // width)
        for top in range(0, height, depth):
            rows = slice(top, min(height, top + depth))
            asked = wanted[rows] if wanted is not None else None
            texel, triangle, weights = rasterize(
                places, flat, self.triangles, (rows.stop - top, width), asked
            )
            yield texel + top * width, triangle, weights
            places[:, 1] -= depth

    @functools.cached_property
    def laid_out(self) -> bool:
        """Whether it has a layout: new faces of a mesh often have the whole map each."""
        corners = self.places[self.triangles]
        extent = corners.max(axis=1) - corners.min(axis=1)
        return float((extent[:, 0] * extent[:, 1]).sum(dtype=np.float64)) <= _MANY

    def _width(self, shape: tuple[int, int]) -> float:
        """How wide triangles are in a map, in its texels, on average."""
        (ax, ay), (bx, by), (cx, cy) = (self.places[self.triangles[:, i]].T for i in range(3))
        area = np.abs((bx - ax) * (cy - ay) - (by - ay) * (cx - ax)).mean(dtype=np.float64)
        return float(np.sqrt(area * shape[0] * shape[1]))

    def turned_to(
        self, normals: FloatArray, known: BoolArray, frames: Frames
    ) -> tuple[BaseMesh, float] | None:
        """The mesh in the axes of a map, whatever these are: what has to be turned or mirrored for that.

        The turn is the best one in the sense of least squares (P. Schönemann, "A generalized solution of the
        orthogonal Procrustes problem", 1966), of the texels that are closest to it.

        Args:
            normals: float32 (h, w, 3), unit, the map, made smaller.
            known: bool (h, w), which of them count.
            frames: of these texels.

        Returns:
            The mesh, and how far off the map's normals are in the median, in degrees. None if they have too
            few texels in common.
        """
        told = known & frames.there
        if np.count_nonzero(told) < _FEWEST:
            return None
        wanted, own = normals[told], frames.normals[told]
        cosine = np.ones(len(own))
        for _ in range(_ROUNDS):
            near = cosine >= np.quantile(cosine, 1 - _CLOSEST)
            left, _, right = np.linalg.svd(wanted[near].T @ own[near])
            turn = (left @ right).astype(np.float32)
            cosine = np.einsum("ki,ki->k", own @ turn.T, wanted)
        off = float(np.degrees(np.arccos(np.clip(np.median(cosine), -1, 1))))
        hands = self.hands * np.float32(np.sign(np.linalg.det(turn)))
        turned = replace(
            self,
            points=self.points @ turn.T,
            normals=self.normals @ turn.T,
            tangents=self.tangents @ turn.T,
            hands=hands,
        )
        return turned, off


def islands(meshes: Sequence[BaseMesh], mask: BoolArray) -> BoolArray | None:
    """Where a map shows skin: where meshes lie in it.

    Args:
        meshes: that wear the map.
        mask: bool (H, W), what is to be repaired: it counts as skin wherever it is.

    Returns:
        bool (H, W). None if less than half of the mask lies there, or nothing else does: then it is not by
        these meshes that the map is laid out.
    """
    height, width = shape = mask.shape[0], mask.shape[1]
    step = -(-max(shape) // _BLOCKS)
    grid = Grid.blocks(shape, step)
    blocks = np.zeros(grid.size, np.bool_)
    for mesh in meshes:
        blocks |= mesh.covers(grid)
    there: BoolArray = blocks.repeat(step, 0).repeat(step, 1)[:height, :width]
    if step > 1:
        near = grow(block_any(mask, _SQUARE), 2)
        for row in np.flatnonzero(near.any(axis=1)):
            columns = np.flatnonzero(near[row])
            top, left = int(row) * _SQUARE, int(columns[0]) * _SQUARE
            band = there[top : top + _SQUARE, left : (int(columns[-1]) + 1) * _SQUARE]
            asked = near[row, columns[0] : columns[-1] + 1].repeat(_SQUARE)[None, : band.shape[1]]
            wanted: BoolArray = asked.repeat(band.shape[0], 0)
            band &= ~wanted
            place = Grid(shape, (top, left), 1, (band.shape[0], band.shape[1]))
            for mesh in meshes:
                band |= mesh.covers(place, wanted)
    hidden, shown = np.count_nonzero(mask), np.count_nonzero(there)
    there |= mask
    both = hidden + shown - np.count_nonzero(there)
    return there if 2 * both >= hidden and shown > both else None


def lying_in(meshes: Sequence[BaseMesh], mask: BoolArray) -> BaseMesh:
    """Of meshes the one, or the first, that covers most of a mask, bool (H, W)."""
    if len(meshes) == 1:
        return meshes[0]
    return meshes[int(np.argmax([covered(mesh, mask) for mesh in meshes]))]


def covered(mesh: BaseMesh, mask: BoolArray) -> int:
    """How many blocks of a mask, bool (H, W), a mesh covers."""
    step = -(-max(mask.shape) // COMPARED)
    return int(np.count_nonzero(mesh.covers(Grid.blocks(mask.shape, step), block_any(mask, step))))


def most_alike(
    meshes: Sequence[BaseMesh],
    shape: tuple[int, int],
    step: int,
    normals: FloatArray,
    hole: BoolArray,
    known: BoolArray,
) -> tuple[BaseMesh, float] | None:
    """Of the meshes that lie in a hole the one that looks most like the map around, see `BaseMesh.turned_to`.

    Args:
        meshes: to choose from.
        shape: rows and columns of the map.
        step: texels of it a side for one of the following.
        normals: float32 (h, w, 3), the map.
        hole: bool (h, w).
        known: bool (h, w).
    """
    grid = Grid.blocks(shape, step)
    seen = [mesh.frames(grid) for mesh in meshes]
    shown = [np.count_nonzero(frames.there & hole) for frames in seen]
    turned = [
        mesh.turned_to(normals, known, frames)
        for mesh, frames, count in zip(meshes, seen, shown, strict=True)
        if 2 * count >= max(shown)
    ]
    return min((each for each in turned if each is not None), key=lambda each: each[1], default=None)


def _mean_directions(values: FloatArray, corners: IntArray, count: int) -> FloatArray:
    """Of so many points the direction of the sum of the values (m, k) of the triangles around each.

    Returns:
        float32 (count, k), unit, or zero where there is no direction.
    """
    total = np.zeros((count, values.shape[1]))
    for axis in range(values.shape[1]):
        for corner in range(3):
            total[:, axis] += np.bincount(corners[:, corner], values[:, axis], count)
    length = np.sqrt(np.einsum("ki,ki->k", total, total))
    return (total / np.where(length > 0, length, 1)[:, None]).astype(np.float32)


def _square_to(normals: FloatArray, vectors: FloatArray) -> FloatArray:
    """Unit vectors square to unit normals (..., 3): nearest to some vectors, or any where these tell none."""
    flat = vectors - dot(vectors, normals)[..., None] * normals
    length, whole = (dot(field, field) for field in (flat, vectors))
    lost = ~(length > 1e-6 * whole)
    if lost.any():
        axes = np.eye(3, dtype=np.float32)[np.argmin(np.abs(normals[lost]), axis=-1)]
        flat[lost] = axes - np.einsum("ki,ki->k", axes, normals[lost])[:, None] * normals[lost]
        length = dot(flat, flat)
    return np.asarray(flat / np.sqrt(length)[..., None], np.float32)
