"""Both sides of a UV layout's seams, made to meet in what was repaired.

On the head skin goes on across a seam; in the map its two sides lie apart, and each is repaired by what is
around it there, so that they do not quite meet. Here what is left between them along a seam is shared by
both, as errors of estimates are that grow with the distance from what is known, and continued harmonically
into what was repaired. What differs along known seams as well, pores and what texels are too large for, is
no error.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .basemesh import BaseMesh, Frames, Grid, Triangles
from .engine import BoolArray, FloatArray
from .harmonic import extend, grow, steps_from
from .raster import IntArray
from .regions import Box
from .resample import block_any, enlarge, framed, sampled, spread
from .source import Source

#: Blocks along a map's longer side in which its seams are looked at.
_GRID = 1024

#: How far beside a seam its sides are seen, in blocks, for a block on it lies beside the island in part; and
#: which share of what is looked at has to be known there.
_ASIDE, _SEEN = 0.7, 0.2

#: Places along a seam for each block; over how many of them differences are evened; and over how many it is
#: told how large they are where all is known, as if so many places besides were as usual.
_DENSE, _EVEN, _AROUND, _USUAL = 1.5, 6, 40, 3.0

#: Known places say something if they are tilted by so much of what places in the hole are, squared: those in
#: the flat of a map that is laid out otherwise do not.
_TILTED = 0.02

#: Known places along seams, at least. Of a normal distribution's squares in the plane the mean is 1.4 times
#: the median, which seams at eyes and lips that are none move less.
_FEWEST, _MEAN = 64, 1.4

#: How many times as large as those of known seams differences must be to be errors, squared. Measured on
#: MakeHuman's heads in skin that does not go on across seams: at 1 blobs get 5 per cent worse and lines 2, at
#: 1.5 and 2 none do.
_SURE = 2.0

#: How many blocks away from what is known errors grow no more.
_DEEPEST = 64


@dataclass(frozen=True)
class Change:
    """What is added to a repaired map in tangent space so that both sides of its seams meet.

    Attributes:
        field: float32 (h, w, 3), of blocks.
        steps: texels of the map for one block, down and across.
    """

    field: FloatArray
    steps: tuple[float, float]

    def at(self, box: Box) -> FloatArray:
        """That of a box of the map: float32 (h, w, 3)."""
        down, across = self.steps
        rows = np.arange(box.top + 0.5, box.bottom) / down - 0.5
        columns = np.arange(box.left + 0.5, box.right) / across - 0.5
        return np.moveaxis(enlarge(self.field, rows, columns), 0, -1)


class Side:
    """Places along seams as they lie on one side.

    Attributes:
        rows: float32 (n,), where in the layout, in blocks, a little inside of the island.
        columns: likewise.
        widths: float32 (n,), how wide a block is there in space.
    """

    def __init__(
        self, mesh: BaseMesh, corners: IntArray, part: FloatArray, scale: NDArray[np.float64]
    ) -> None:
        """Work out where they lie, and how.

        Args:
            mesh: that they lie on.
            corners: (n, 3), of the triangle of each: the edge's first end, its last, and what is beside it.
            part: float32 (n, 1), how far it is from the first end to the last.
            scale: blocks across and down.
        """
        first, last, beside = corners.T
        start, end, inner = (mesh.places[number] * scale for number in (first, last, beside))
        length = np.linalg.norm(end - start, axis=1)
        self.widths = np.asarray(
            np.linalg.norm(mesh.points[last] - mesh.points[first], axis=1) / np.maximum(length, 1e-9),
            np.float32,
        )
        along, inwards = _unit(end - start), inner - start
        inwards = _unit(inwards - np.einsum("nc,nc->n", inwards, along)[:, None] * along)
        across, up = (start + part * (end - start) + _ASIDE * inwards).T
        self.rows = (scale[1] - up - 0.5).astype(np.float32)
        self.columns = (across - 0.5).astype(np.float32)
        normals, tangents = (
            field[first] + part * (field[last] - field[first]) for field in (mesh.normals, mesh.tangents)
        )
        self._frames = Frames.of(normals, tangents, mesh.hands[first, None], np.ones(len(first), np.bool_))

    def blocks(self, size: tuple[int, int]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Rows and columns of the blocks that they lie in."""
        rows, columns = (np.rint(axis).astype(np.intp) for axis in (self.rows, self.columns))
        return np.clip(rows, 0, size[0] - 1), np.clip(columns, 0, size[1] - 1)

    def turned(self, vectors: FloatArray) -> FloatArray:
        """Vectors (n, 3) of the map in the axes of the mesh."""
        axes = self._frames.tangents, self._frames.bitangents, self._frames.normals
        x, y, z = (vectors[:, i, None] * axis for i, axis in enumerate(axes))
        total: FloatArray = x + y + z
        return total

    def turned_back(self, vectors: FloatArray) -> FloatArray:
        """Vectors (n, 3) in the axes of the mesh as the map has them."""
        return self._frames.local(vectors)

    def tilts(self, vectors: FloatArray) -> FloatArray:
        """How far vectors (n, 3) in the axes of the mesh are tilted from its normals: squared sines, (n,)."""
        x, y, _ = self.turned_back(vectors).T
        tilts: FloatArray = x * x + y * y
        return tilts


@dataclass(frozen=True)
class Seams:
    """Places along a layout's seams, one seam after the other.

    Attributes:
        sides: both sides of them.
        chain: (n,), which seam each is on.
    """

    sides: tuple[Side, Side]
    chain: NDArray[np.intp]

    @classmethod
    def of(cls, mesh: BaseMesh, across: float, down: float) -> Seams | None:
        """Those of a mesh in a map of so many blocks; None if its layout has no seams."""
        seams = _seams(mesh)
        if not seams:
            return None
        scale = np.array([across, down])
        one, two = (np.concatenate(part) for part in zip(*seams, strict=True))
        lengths = [
            np.linalg.norm((mesh.places[corners[:, 1]] - mesh.places[corners[:, 0]]) * scale, axis=1)
            for corners in (one, two)
        ]
        count = np.maximum(np.ceil(_DENSE * np.maximum(*lengths)), 1).astype(np.intp)
        edge = np.repeat(np.arange(len(one)), count)
        number = np.arange(edge.size) - np.repeat(np.cumsum(count) - count, count)
        part = ((number + 0.5) / count[edge]).astype(np.float32)[:, None]
        chain = np.repeat(np.arange(len(seams)), [len(corners) for corners, _ in seams])[edge]
        return cls((Side(mesh, one[edge], part, scale), Side(mesh, two[edge], part, scale)), chain)

    def seen(self, normals: FloatArray, shown: BoolArray) -> tuple[FloatArray, FloatArray, BoolArray]:
        """What a map shows on both sides.

        Args:
            normals: float32 (h, w, 3), in tangent space, unit.
            shown: bool (h, w), which blocks count.

        Returns:
            float32 (n, 3) of the first side and of the second, in the axes of the mesh; and bool (n,), where
            enough of both is shown.
        """
        layers = framed(
            np.concatenate([normals, np.ones((*shown.shape, 1), np.float32)], -1) * shown[..., None]
        )
        vectors, good = [], np.ones(len(self.chain), np.bool_)
        for side in self.sides:
            found = sampled(layers, side.rows, side.columns)
            good &= found[:, 3] > _SEEN
            mean = found[:, :3] / np.maximum(found[:, 3:], _SEEN)
            vectors.append(side.turned(np.asarray(mean, np.float32)))
        return vectors[0], vectors[1], good


@dataclass(frozen=True)
class Blocks:
    """What a repaired map shows, block by block.

    Attributes:
        normals: float32 (h, w, 3), unit, in tangent space.
        shown: bool (h, w), where there is a surface.
    """

    normals: FloatArray
    shown: BoolArray

    @classmethod
    def of(cls, source: Source, step: int) -> Blocks:
        """Of a map in blocks of so many texels a side."""
        height, width = source.hole.shape
        normals, _, valid = source.averaged(Box(0, height, 0, width), step)
        return cls(normals, valid)


def meeting(source: Source, hole: BoolArray, mesh: BaseMesh) -> Change | None:
    """Find out what makes the sides of a map's seams meet.

    Args:
        source: the map, repaired, in tangent space.
        hole: bool (H, W), what was repaired of it.
        mesh: that wears it.

    Returns:
        The change; None where none of the map's seams lies in what was repaired, or nothing is left there.
    """
    step = _step(hole, _GRID)
    hidden = block_any(hole, step)
    field = _meeting(mesh, Grid.blocks(hole.shape, step), hidden, lambda: Blocks.of(source, step))
    return Change(field, (step, step)) if field is not None else None


def meeting_of_tiles(
    mesh: Triangles,
    holes: Mapping[int, BoolArray],
    others: Collection[int],
    source: Callable[[int], Source | None],
) -> dict[int, Change]:
    """Find out what makes the sides of seams meet in the tiles of a map and between them.

    Args:
        mesh: that wears them.
        holes: bool (H, W), of each tile that was repaired what was repaired of it, by their numbers.
        others: the numbers of the map's other tiles.
        source: gives a tile, repaired, in tangent space, or None if it cannot be read so; asked for those
            that lie at seams in what was repaired.

    Returns:
        The changes of those tiles that need one.
    """
    side = min(_GRID, max(max(hole.shape) for hole in holes.values()))
    hidden = {number: _squared(block_any(hole, _step(hole, side)), side) for number, hole in holes.items()}
    strip = _Strip.of(mesh, [number for number in mesh.tiles() if number in holes or number in others], side)
    seams = strip.seams() if strip is not None else None
    if strip is None or seams is None:
        return {}
    covered = strip.laid(hidden)
    places = [place.blocks((side, covered.shape[1])) for place in seams.sides]
    met = covered[places[0]] | covered[places[1]]
    wanted = sorted({number for _, columns in places for number in strip.tiles_at(columns[met])})
    seen: dict[int, Blocks] = {}
    shapes: dict[int, tuple[int, ...]] = {}
    for number in wanted:
        found, base = source(number), mesh.base(number)
        if found is not None and base is not None:
            step = _step(found.hole, side)
            blocks = Blocks.of(found, step)
            # Where a tile has fewer blocks, those beside its islands must not show there.
            shown = blocks.shown & base.covers(Grid.blocks(found.hole.shape, step))
            seen[number] = Blocks(_squared(blocks.normals, side), _squared(shown, side))
            shapes[number] = found.hole.shape
    strip = _Strip.of(mesh, list(seen), side)
    if strip is None:
        return {}
    whole = Blocks(
        strip.laid({number: blocks.normals for number, blocks in seen.items()}),
        strip.laid({number: blocks.shown for number, blocks in seen.items()}),
    )
    field = _meeting(strip.base, Grid.blocks(whole.shown.shape), strip.laid(hidden), lambda: whole)
    if field is None:
        return {}
    return {
        number: Change(part, (shapes[number][0] / side, shapes[number][1] / side))
        for number, part in strip.parts(field).items()
        if number in hidden
    }


@dataclass(frozen=True)
class _Strip:
    """Tiles of a map side by side, each in as many blocks, with a wall of one block on either side.

    Attributes:
        base: what of a mesh lies in them.
        numbers: of the tiles, from left to right.
        side: blocks along a tile.
    """

    base: BaseMesh
    numbers: list[int]
    side: int

    @classmethod
    def of(cls, mesh: Triangles, numbers: list[int], side: int) -> _Strip | None:
        """None if nothing of the mesh lies there."""
        base = mesh.side_by_side(numbers, 2 / (side + 2)) if numbers else None
        return cls(base, numbers, side) if base is not None else None

    def seams(self) -> Seams | None:
        """Those of the tiles and between them, see `Seams.of`."""
        return Seams.of(self.base, len(self.numbers) * (self.side + 2), self.side)

    def tiles_at(self, columns: NDArray[np.intp]) -> set[int]:
        """The numbers of the tiles that columns lie in."""
        return {self.numbers[slot] for slot in np.unique(columns // (self.side + 2)).tolist()}

    def laid(self, parts: Mapping[int, NDArray[Any]]) -> NDArray[Any]:
        """Blocks of tiles (side, side, ...) side by side: zero in walls, and where a tile has none."""
        one = next(iter(parts.values()))
        result = np.zeros((self.side, len(self.numbers), self.side + 2, *one.shape[2:]), one.dtype)
        for slot, number in enumerate(self.numbers):
            if number in parts:
                result[:, slot, 1:-1] = parts[number]
        return result.reshape(self.side, -1, *one.shape[2:])

    def parts(self, field: FloatArray) -> dict[int, FloatArray]:
        """The tiles' parts of a field."""
        slots = np.split(field, len(self.numbers), axis=1)
        return {number: part[:, 1:-1] for number, part in zip(self.numbers, slots, strict=True)}


def _step(hole: BoolArray, side: int) -> int:
    """Texels for a block, along an axis, of a map with at most so many blocks a side."""
    return -(-int(max(hole.shape)) // side)


def _squared(blocks: NDArray[Any], side: int) -> NDArray[Any]:
    """Blocks (h, w, ...) as a square of so many a side, the nearest for each."""
    rows, columns = (((np.arange(side) + 0.5) * count / side).astype(np.intp) for count in blocks.shape[:2])
    return np.asarray(blocks[rows[:, None], columns])


def _meeting(
    mesh: BaseMesh, grid: Grid, hidden: BoolArray, blocks: Callable[[], Blocks]
) -> FloatArray | None:
    """What is added to a map's blocks, float32 (h, w, 3), or None: see `meeting`.

    Args:
        mesh: that wears the map.
        grid: of the blocks.
        hidden: bool (h, w), in which of them something was repaired.
        blocks: gives what they show.
    """
    size = grid.size
    seams = Seams.of(mesh, grid.shape[1] / grid.pace, grid.shape[0] / grid.pace)
    if seams is None:
        return None
    places = [side.blocks(size) for side in seams.sides]
    if not any(hidden[place].any() for place in places):
        return None
    lies = mesh.covers(grid)
    seen = blocks()
    shown = lies & seen.shown
    away = steps_from(shown & ~hidden, hidden & lies, _DEEPEST)
    one, two, good = seams.seen(seen.normals, shown)
    far = [away[place] * side.widths for side, place in zip(seams.sides, places, strict=True)]
    tilts = np.maximum(seams.sides[0].tilts(one), seams.sides[1].tilts(two))
    shares = _shares(two - one, tilts, far[0] + far[1], good, seams.chain)
    if shares is None:
        return None
    apart, share = shares
    moves = [
        side.turned_back(np.float32(sign) * apart * (own * share)[:, None])
        for side, sign, own in zip(seams.sides, (1, -1), far, strict=True)
    ]
    used = [good & (own > 0) for own in far]
    means, told = _means(np.concatenate(moves), places, np.concatenate(used), size)
    rim = shown & ~hidden & grow(hidden)
    field = extend(means, told | rim, hidden & lies)
    return spread(np.ascontiguousarray(np.moveaxis(field, 0, -1)), lies)


def _means(
    values: FloatArray,
    places: Sequence[tuple[NDArray[np.intp], NDArray[np.intp]]],
    used: BoolArray,
    size: tuple[int, int],
) -> tuple[FloatArray, BoolArray]:
    """Means of values (n, c) that are used in their blocks: planes (c, h, w), and bool (h, w), where any are.

    Args:
        values: of both sides, one after the other.
        places: rows and columns of their blocks, of each side.
        used: bool (n,), which count.
        size: h and w.
    """
    block = np.concatenate([np.ravel_multi_index(place, size) for place in places])[used]
    count = np.bincount(block, minlength=size[0] * size[1])
    sums = [np.bincount(block, axis, count.size) for axis in values[used].T]
    means = np.stack(sums) / np.maximum(count, 1)
    return means.reshape(-1, *size).astype(np.float32), (count > 0).reshape(size)


def _shares(
    apart: FloatArray, tilts: FloatArray, far: FloatArray, good: BoolArray, chain: NDArray[np.intp]
) -> tuple[FloatArray, FloatArray] | None:
    """How far apart both sides are, and how much of it the distance from what is known answers for.

    A side's error is taken for a random one whose square grows with that distance, and so much of the
    difference as is likely to be errors is shared as these are.

    Args:
        apart: float32 (n, 3), along seams one after the other.
        tilts: float32 (n,), of the more tilted side, see `Side.tilts`.
        far: float32 (n,), distances of both sides together; 0 where both are known.
        good: bool (n,), where both are seen.
        chain: (n,), which seam it is.

    Returns:
        float32 (n, 3), evened, and float32 (n,), for a unit of distance; None where too little is known, or
        nothing is left.
    """
    open_ = good & (far > 0)
    if not open_.any():
        return None
    known = good & (far == 0) & (tilts > _TILTED * tilts[open_].mean())
    if np.count_nonzero(known) < _FEWEST:
        return None
    squares = np.square(_evened(apart, known, chain, _EVEN)).sum(axis=1, keepdims=True)
    usual = _MEAN * float(np.median(squares[known]))
    noise = _evened(squares, known, chain, _AROUND, _USUAL, usual)[:, 0]
    evened = _evened(apart, good, chain, _EVEN)
    errors = np.square(evened[open_]).sum() - _SURE * noise[open_].sum()
    growth = float(errors) / float(far[open_].sum(dtype=np.float64))
    if growth <= 0:
        return None
    # A square of errors that grows with each unit of distance, and of what else there is.
    total = growth * far.astype(np.float64) + noise
    return evened, np.asarray(growth / np.maximum(total, 1e-12), np.float32)


def _evened(
    values: FloatArray,
    there: BoolArray,
    chain: NDArray[np.intp],
    width: float,
    more: float = 1e-6,
    usual: float = 0.0,
) -> FloatArray:
    """Values (n, c) evened along their seams by a Gaussian, of those that are there.

    Args:
        values: along seams one after the other.
        there: bool (n,).
        chain: (n,), which seam it is.
        width: standard deviation.
        more: as if so many of the next value were there besides.
        usual: that.
    """
    reach = round(3 * width)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    result = np.empty_like(values)
    weights = there.astype(np.float64)
    rows = np.concatenate([values.T * weights, weights[None]])
    ends = np.flatnonzero(np.diff(chain)) + 1
    for first, last in zip([0, *ends], [*ends, len(values)], strict=True):
        sums = [np.convolve(row[first:last], kernel)[reach : reach + last - first] for row in rows]
        for axis, total in enumerate(sums[:-1]):
            result[first:last, axis] = (total + more * usual) / (sums[-1] + more)
    return result


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    """Directions of vectors (n, c), zero where they have none."""
    length = np.sqrt(np.einsum("nc,nc->n", vectors, vectors))
    return np.asarray(vectors / np.maximum(length, 1e-12)[:, None])


def _seams(mesh: BaseMesh) -> list[tuple[IntArray, IntArray]]:
    """Where a layout is cut: for each seam both sides, edge by edge.

    A side is int32 (k, 3): of each edge the first end, the last, which the next one begins with, and the
    corner beside it. Both sides run from the same ends to the same ends.
    """
    count = len(mesh.places)
    # All around an inner point each neighbour is once the next one and once the one before: chance numbers
    # of theirs cancel out. So few edges are left to look at.
    number = np.random.default_rng(0).integers(1, 1 << 30, count).astype(np.float64)
    turns = [mesh.triangles[:, [i, (i + 1) % 3, (i + 2) % 3]] for i in range(3)]
    parts = [np.bincount(x, number[y] - number[z], count) for x, y, z in (turn.T for turn in turns)]
    outer = parts[0] + parts[1] + parts[2] != 0
    edges = np.concatenate([turn[outer[turn[:, 0]] & outer[turn[:, 1]]] for turn in turns])
    many = np.int64(count)
    rim = edges[~np.isin(edges[:, 0] * many + edges[:, 1], edges[:, 1] * many + edges[:, 0])]
    if not len(rim):
        return []
    # Points that are the same in space, but not in the layout.
    _, spot = np.unique(mesh.points[rim[:, :2].reshape(-1)], axis=0, return_inverse=True)
    spots = np.sort(spot.reshape(-1, 2).astype(np.int64), axis=1)
    _, group, sharing = np.unique(spots[:, 0] * many + spots[:, 1], return_inverse=True, return_counts=True)
    # Of edges that lie in the same place those that are two belong together.
    paired = np.flatnonzero(sharing[group] == 2)
    pairs = paired[np.argsort(group[paired], kind="stable")].reshape(-1, 2)
    if not len(pairs):
        return []
    one, two = rim[pairs[:, 0]], rim[pairs[:, 1]]
    first = spot.reshape(-1, 2)[:, 0]
    turned = first[pairs[:, 0]] != first[pairs[:, 1]]
    two = np.where(turned[:, None], two[:, [1, 0, 2]], two)
    return _chained(one.astype(np.int32), two.astype(np.int32))


def _chained(one: IntArray, two: IntArray) -> list[tuple[IntArray, IntArray]]:
    """Edges of seams (n, 3), on both sides, in an order and a direction in which they follow each other."""
    back = [1, 0, 2]
    # Each edge as it is, from its end, and both from the other side.
    there, back_again = np.stack([one, two], axis=1), np.stack([one[:, back], two[:, back]], axis=1)
    ways = there, there[:, ::-1], back_again, back_again[:, ::-1]
    numbered = [(edge, way) for edge in range(len(one)) for way in range(4)]
    begins: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for edge, way in numbered:
        begins.setdefault(tuple(ways[way][edge, :, 0].tolist()), []).append((edge, way))
    left = np.ones(len(one), np.bool_)
    result = []
    # First from where one ends; what then is left are rings.
    alone = [number for begin in begins.values() if len(begin) == 1 for number in begin]
    for edge, way in alone + numbered:
        run = []
        while left[edge]:
            left[edge] = False
            run.append(ways[way][edge])
            following = begins[tuple(run[-1][:, 1].tolist())]
            if len(following) == 2:
                edge, way = next((each for each in following if left[each[0]]), (edge, way))
        if run:
            sides = np.stack(run, axis=1)
            result.append((sides[0], sides[1]))
    return result
