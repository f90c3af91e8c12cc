"""A head from a statistical model of heads, fitted to what is known of a map in camera space.

What a network cannot know it blurs: an eye whose place is not told exactly comes back as a shadow of one. A
head of a morphable model (V. Blanz and T. Vetter, "A Morphable Model for the Synthesis of 3D Faces", 1999)
has eyes, lids, lips and ears wherever it is seen; and if its normals agree with the known ones, they mostly
do with those that are hidden. Its place, turn, nearness and shape are found by iteratively reweighted
Gauss-Newton steps on the normals alone. How well it fits tells whether to believe it.

The trainer makes the model (`python -m trainer morphable`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .bending import AROUND, Bend, goals, origins
from .engine import BoolArray, FloatArray
from .harmonic import extend, grow
from .normals import cross, unit
from .planes import enlarge, margin
from .pose import Pose, arrays_of, pose
from .raster import IntArray, rasterize
from .resample import block_sum, box_around, evened, framed, rise, sampled

#: Texels along the longer side of the grids on which a head is placed, its shape found, and made exact; and,
#: at most, of that on which its picture is bent around holes.
PLACING, SHAPING, FINISHING, BENDING = 32, 64, 128, 512

#: A block of which so much is known is known. Measured on 88 views with large holes: at 0.9 they are 5.38
#: degrees off, at 0.5 5.29, at 0.3 5.28; strands on eight heads 1.06, 1.01, 1.00, scatter 1.39, 1.39, 1.45.
MOSTLY = 0.5

#: Turns up and down that are tried, in radians, and what a texel costs for their squares: most heads are held
#: nearly upright. How much of a head the map is tried to show, in centimetres across.
PITCHES, UPRIGHT = (-0.6, -0.35, -0.12, 0.12, 0.35, 0.6), 0.064
WIDTHS = (8.0, 10.0, 12.5, 15.5, 19.0, 23.5, 29.0, 36.0, 45.0)

#: What a known texel costs where the head is not, beside the squared distance of tips where it is; and in
#: the mean over all texels, when whole fits are compared.
BARE, UNCOVERED = 0.5, 0.02

#: How many places are tried for each family; steps for place and turn alone; how many places are left then;
#: how many modes the next steps may move; most steps with all of them, and by which share the misfit must
#: fall for another; steps on the finest grid.
STARTS, RIGID, BEGUN, FIRST, MOST, GAIN, LAST = 6, 2, 2, (20, 40, 80), 10, 0.03, 4

#: A family whose head fits so well after the first steps needs no comparison: seen are 0.001 to 0.012 for the
#: right one, from 0.0027 on for another.
CLEAR = 0.0015

#: Texels farther off than `NARROW` (tips), or than so many times the root mean square, count less and less.
NARROW, WIDE = 0.25, 2.0

#: A head in less doubt than that is the one; in more, another that began elsewhere and fitted no worse than
#: by that factor is finished as well. Seen on 110 maps of seven heads: the one that began best is the best in
#: the end, or no worse by 0.005; the wrong family begins 1.2 to 6 times as badly.
DOUBTFUL, RIVAL = 0.03, 1.3

#: How far eyes are closed that are tried, as a share of the way from open ones to closed ones.
BLINKS = (0.0, 1.25)

#: The picture of a head in so much doubt is not bent: nothing of it is to be seen in a hole.
BENT = 0.25

#: Degree of the polynomial that stands for a smooth field; squared distance of tips beyond which it does not
#: matter how far off it is.
SMOOTH, FAR = 3, 0.25

#: What the other half shows counts less and less where it turns away from the camera, as the z of its normals
#: tells, and where the head's mirror image lies so many centimetres behind or before what is seen there. How
#: sure it is is evened over blocks, of which so many lie along the longer side.
FACING, BEHIND, EVEN = (0.15, 0.55), (0.4, 1.2), 64

#: Gaps in what is shown, half as wide as that share of the longer side at most, are filled from around them:
#: else less and less of an eye counts towards its pupil.
GAP = 0.008

#: In a gap counts less and less of what is around it that lies so many centimetres before the rest: around
#: nostrils one lies 0.5 to 1.3 before the other, behind ears 3. What lies farther behind is a throat.
HIDDEN, ABYSS = 0.4, 4.0

#: Places in a texel, along an axis, at which it is looked what it shows of a head; and how far apart, in
#: texels, their mirror images may lie for all to show one surface.
SAMPLES, SAME = 2, 1.5

#: Texels are no independent witnesses: all of them count as so many, each off by as much as they are off in
#: the mean, squared, times `NOISE`, but no less than `EXACT`.
WITNESSES, NOISE, EXACT = 400.0, 0.7, 2e-4

#: Texels that are looked at in one step, about. Fewer known ones that show the head are no evidence.
ENOUGH, FEWEST = 1500, 150

#: Nearness of an average camera, its reciprocal distance in centimetres; it varies by as much again.
NEARNESS, NEAREST = 0.01, 0.03

#: No mode is moved by more than so many standard deviations.
MOST_UNUSUAL = 3.5


@dataclass(frozen=True)
class Family:
    """Heads of one source: a mean and the modes in which they differ.

    Attributes:
        mean: float32 (n, 3), x to the head's left, y up, z out of the face, in centimetres.
        modes: float32 (n, 3, k), displacements for one standard deviation; their weights are independent.
        triangles: int32 (m, 3), vertex indices, counter-clockwise seen from outside.
        lids: float32 (k,), by how much the weights of heads with their eyes closed differ from those of heads
            with open eyes, on average; zero if that is not told.
    """

    mean: FloatArray
    modes: FloatArray
    triangles: IntArray
    lids: FloatArray

    @functools.cached_property
    def light(self) -> Family:
        """The same with about a quarter of the vertices.

        A small picture of a head does not tell it from the other, and is drawn in half the time.
        """
        return self.coarser().coarser()

    def coarser(self) -> Family:
        """The same with half as many vertices: each merged with a neighbour, the nearest ones first."""
        edges = np.sort(np.concatenate([self.triangles[:, [i, (i + 1) % 3]] for i in range(3)]), axis=1)
        edges = np.unique(edges, axis=0)
        length = np.linalg.norm(self.mean[edges[:, 0]] - self.mean[edges[:, 1]], axis=1)
        partner = np.arange(len(self.mean))
        free = np.ones(len(self.mean), np.bool_)
        for first, second in edges[np.argsort(length, kind="stable")].tolist():
            if free[first] and free[second]:
                free[first] = free[second] = False
                partner[first], partner[second] = second, first
        kept, number = np.unique(np.minimum(np.arange(len(partner)), partner), return_inverse=True)
        other = partner[kept]
        triangles = number[self.triangles].astype(np.int32)
        triangles = triangles[(triangles != np.roll(triangles, 1, axis=1)).all(axis=1)]
        mean, modes = ((part[kept] + part[other]) * np.float32(0.5) for part in (self.mean, self.modes))
        return Family(mean, modes, triangles, self.lids)

    @functools.cached_property
    def _corners(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The triangles' corners ordered by vertex, and where each vertex begins among them."""
        corners = self.triangles.reshape(-1)
        order = np.argsort(corners, kind="stable")
        return order, np.searchsorted(corners[order], np.arange(len(self.mean)))

    def shape(self, weights: NDArray[np.float64]) -> FloatArray:
        """The vertices (n, 3) for weights (j,) of the first modes."""
        moved = self.modes.reshape(self.mean.size, -1)[:, : weights.size] @ weights.astype(np.float32)
        result: FloatArray = self.mean + moved.reshape(self.mean.shape)
        return result

    @functools.cached_property
    def mean_normals(self) -> FloatArray:
        """Those of the mean, see `normals`."""
        return self.normals(self.mean)

    def normals(self, vertices: FloatArray) -> FloatArray:
        """Smooth unit normals of vertices: the mean of the triangles around them, by area."""
        order, starts = self._corners
        a, b, c = (vertices[self.triangles[:, i]] for i in range(3))
        faces = np.repeat(cross(b - a, c - a), 3, axis=0)
        return unit(np.add.reduceat(faces[order], starts, axis=0))


@dataclass(frozen=True)
class View:
    """How a head is seen.

    Attributes:
        rotation: float (3, 3), from the head's frame to the camera's.
        scale: texels for a centimetre.
        row: where the head's origin lies.
        column: likewise.
        nearness: reciprocal distance of the camera from the head's origin, in centimetres; 0 is far away.
        weights: float (k,), of the modes.
        bend: of the picture, in centimetres at the head's origin; None for none.
    """

    rotation: NDArray[np.float64]
    scale: float
    row: float
    column: float
    nearness: float
    weights: NDArray[np.float64]
    bend: Bend | None = None

    def seen(self, points: FloatArray) -> FloatArray:
        """Points (n, 3) of the head's frame in the camera's, in centimetres from the head's origin."""
        result: FloatArray = points @ self.rotation.T.astype(np.float32)
        return result

    def enlargement(self, seen: FloatArray) -> FloatArray:
        """(n,) by how much a point is larger than at the head's origin."""
        result: FloatArray = 1 / np.maximum(1 - np.float32(self.nearness) * seen[:, 2], np.float32(0.2))
        return result

    def places(self, seen: FloatArray) -> FloatArray:
        """Columns and rows (n, 2) of points that `seen` gives."""
        flat = seen[:, :2] * self.enlargement(seen)[:, None]
        if self.bend is not None:
            flat = self.bend.moved(flat)
        scale = np.float32(self.scale)
        columns = flat[:, 0] * scale + np.float32(self.column)
        return np.stack([columns, np.float32(self.row) - flat[:, 1] * scale], axis=1)

    def on_grid(self, share: float) -> View:
        """The same on a grid with so many texels for one, whose blocks begin at the same corner."""
        row, column = (self.row + 0.5) * share - 0.5, (self.column + 0.5) * share - 0.5
        return replace(self, scale=self.scale * share, row=row, column=column)


@dataclass(frozen=True)
class Head:
    """A head that was fitted to a map.

    Attributes:
        family: that it is one of.
        view: on the map.
        shape: of the map.
        doubt: of what a smooth field cannot explain of the known normals, the share that it cannot, either.
    """

    family: Family
    view: View
    shape: tuple[int, int]
    doubt: float

    def packed(self) -> NDArray[np.float64]:
        """All numbers but the shape, float64 (n,), for sending the head elsewhere; see `unpacked`."""
        view, bend = self.view, self.view.bend
        number = [family is self.family for family in families(default_path())].index(True)
        rest = view.scale, view.row, view.column, view.nearness
        numbers = [number, self.doubt, *rest, view.weights.size]
        parts = [np.array(numbers, np.float64), view.rotation.reshape(-1), view.weights]
        if bend is not None:
            numbers = [*bend.moves.shape[:2], *bend.corner, bend.pitch]
            parts += [np.array(numbers, np.float64), bend.moves.reshape(-1).astype(np.float64)]
        return np.concatenate(parts)

    @functools.cached_property
    def _picture(self) -> _Picture:
        return _Picture(self.family, self.view, self.shape)

    def drawn(self, wanted: BoolArray, samples: int = SAMPLES) -> Drawn:
        """Draw the head where it is asked for.

        Args:
            wanted: bool (h, w), the texels of the map that are asked for.
            samples: places in each of them that are looked at, along an axis: one is quicker, its edges have
                steps.
        """
        if samples == 1 or not wanted.any():
            picture = self._picture
            chosen = np.flatnonzero(wanted.reshape(-1)[picture.texels])
            points = self._points(picture, chosen)
            return Drawn(self, wanted, 1, picture.texels[chosen], picture.normals[chosen], points)
        box = box_around(wanted, 0)
        places = wanted[box].repeat(samples, 0).repeat(samples, 1)
        corner = 0.5 / samples - 0.5
        picture = self._close_up(box[0].start + corner, box[1].start + corner, 1 / samples, places)
        row, column = np.divmod(picture.texels, places.shape[1])
        texels = (box[0].start + row // samples) * self.shape[1] + box[1].start + column // samples
        return Drawn(self, wanted, samples, texels, picture.normals, self._points(picture))

    def enlarged(
        self, rows: NDArray[np.float64], columns: NDArray[np.float64], wanted: BoolArray
    ) -> tuple[NDArray[np.intp], FloatArray]:
        """Draw the head on a finer grid than the map's.

        Args:
            rows: (H,) where the grid's rows lie on the map, in its texels; evenly spaced.
            columns: (W,) likewise, as far apart.
            wanted: bool (H, W), what is asked for.

        Returns:
            The grid's texels that are asked for and show the head, (p,), in reading order; and float32
            (p, 3), its unit normals in the camera's frame.
        """
        picture = self._close_up(float(rows[0]), float(columns[0]), float(rows[1] - rows[0]), wanted)
        return picture.texels, picture.normals

    def _close_up(self, row: float, column: float, pace: float, wanted: BoolArray) -> _Picture:
        """What a grid shows of it whose first texel lies at a place of the map, its texels so far apart."""
        view = replace(
            self.view,
            scale=self.view.scale / pace,
            row=(self.view.row - row) / pace,
            column=(self.view.column - column) / pace,
        )
        return _Picture(self.family, view, wanted.shape, wanted)

    def depth(self) -> tuple[NDArray[np.intp], FloatArray]:
        """The map's texels that show the head, (p,), and how near it is there, float32 (p,), centimetres."""
        return self._picture.texels, self.view.seen(self._points(self._picture))[:, 2]

    def _points(self, picture: _Picture, chosen: NDArray[np.intp] | slice = slice(None)) -> FloatArray:
        """Where the head lies that some texels of a picture show: float32 (p, 3), in its own frame."""
        corners = picture.vertices[self.family.triangles[picture.triangles[chosen]]]
        return np.asarray(np.einsum("pk,pkx->px", picture.weights[chosen], corners), np.float32)

    def bridged(
        self, other: OtherSide, normals: FloatArray, known: BoolArray, wanted: BoolArray
    ) -> OtherSide:
        """What the other half shows in small gaps, too: what is around them tells where the map has it.

        Args:
            other: where it shows something, trust is above zero.
            normals: float32 (h, w, 3), the map, unit at known texels, in camera space.
            known: bool (h, w).
            wanted: bool (h, w), what is asked for.
        """
        there = np.asarray(other.trust > 0)
        gaps = gaps_in(there, max(there.shape)) & wanted
        if not gaps.any():
            return other
        box = box_around(gaps, _gap(max(gaps.shape)) + 1)
        layers = np.concatenate([np.moveaxis(other.places[box], -1, 0), other.trust[box][None]])
        filled = extend(layers, there[box], gaps[box])[:, gaps[box]].T
        shown = framed(np.concatenate([normals * known[..., None], known[..., None]], -1, dtype=np.float32))
        sample = sampled(shown, filled[:, 0], filled[:, 1])
        good = (sample[:, 3] > 0.9) & (filled[:, 3] > 0)
        gaps[gaps] = good
        vectors, places, trust = other.normals.copy(), other.places.copy(), other.trust.copy()
        vectors[gaps] = self.mirrored(unit(sample[good, :3]))
        places[gaps], trust[gaps] = filled[good, :3], filled[good, 3]
        return OtherSide(vectors, trust, places)

    def mirrored(self, vectors: FloatArray) -> FloatArray:
        """Vectors (..., 3) of the camera's frame as the head's other half has them."""
        across = self.view.rotation[:, 0].astype(np.float32)
        result: FloatArray = vectors - (2 * (vectors @ across))[..., None] * across
        return result


@dataclass(frozen=True)
class Drawn:
    """A head where it is asked for.

    Attributes:
        head: that is drawn.
        wanted: bool (h, w), the texels of the map that are asked for.
        samples: places in each of them, along an axis.
        texels: (p,), the map's texel of each place that shows the head.
        normals: float32 (p, 3), unit, in the camera's frame.
        points: float32 (p, 3), where the head lies there, in its own frame.
    """

    head: Head
    wanted: BoolArray
    samples: int
    texels: NDArray[np.intp]
    normals: FloatArray
    points: FloatArray

    def means(self) -> FloatArray:
        """What texels show: float32 (h, w, 3), zero where no head is.

        Each has the mean of the unit vectors at its places, which is shorter at an edge: enlarged and made
        unit vectors only then, edges are straight; else they have steps. In a small gap of the head what is
        around it goes on, and of that what lies behind the rest, as in a nostril.
        """
        shape, size, share = self.wanted.shape, self.wanted.size, self._share
        depth = self.head.view.seen(self.points)[:, 2]
        sums = np.stack([np.bincount(self.texels, axis, size) for axis in (*self.normals.T, depth)], axis=-1)
        mean = sums.reshape(*shape, 4) / np.maximum(share * self.samples**2, 1)[..., None]
        layers = np.asarray(mean * (share >= 0.5)[..., None], np.float32)
        result: FloatArray = layers[..., :3].copy()
        around = grow(self.gaps) & self.wanted
        if around.any():
            filled, front = _hidden(layers, share == 1, around)
            part = (share[around] * (layers[around, 3] > front - ABYSS))[:, None]
            result[around] = part * result[around] + (1 - part) * filled
        return result

    @functools.cached_property
    def gaps(self) -> BoolArray:
        """Small gaps of the head, see `gaps_in`: bool (h, w)."""
        return gaps_in(self._share >= 0.5, max(self.wanted.shape)) & self.wanted

    @functools.cached_property
    def _share(self) -> FloatArray:
        """How many of a texel's places show the head, as a share: float32 (h, w)."""
        count = np.bincount(self.texels, minlength=self.wanted.size).reshape(self.wanted.shape)
        return np.asarray(count / self.samples**2, np.float32)

    def other_side(self, normals: FloatArray, known: BoolArray) -> OtherSide:
        """What the map's other half shows of these texels: of the map, not of the head.

        A texel shows a point of the head, whose mirror image lies on the head, too: where that is seen, the
        map's normal is looked up, and mirrored. The head need only be good enough to tell what lies where.

        Args:
            normals: float32 (h, w, 3), the map, unit at known texels, in camera space.
            known: bool (h, w).
        """
        head, shape = self.head, self.wanted.shape
        seen = np.zeros((*shape, 6), np.float32)
        texels, depth = head.depth()
        seen.reshape(-1, 6)[texels, 0] = depth
        seen.reshape(-1, 6)[texels, 1] = 1
        seen[..., 2:5], seen[..., 5] = normals, 1
        seen[..., 2:] *= known[..., None]
        trust = np.zeros(shape, np.float32)
        layers = np.zeros((*shape, 6), np.float32)
        there = head.view.seen(self.points * np.array([-1, 1, 1], np.float32))
        columns, rows = head.view.places(there).T
        sample = sampled(framed(seen), rows, columns)
        depth, surface, share = sample[:, 0], sample[:, 1], sample[:, 5]
        behind = np.abs(depth / np.maximum(surface, np.float32(1e-6)) - there[:, 2])
        vectors = unit(sample[:, 2:5])
        surely = rise(vectors[:, 2], *FACING) * (1 - rise(behind, *BEHIND))
        vectors = head.mirrored(vectors)
        good = (share > 0.9) & (surface > 0.9) & (surely > 0) & (vectors[:, 2] > -0.05)
        places = np.stack([rows, columns, there[:, 2] * np.float32(head.view.scale)], axis=1)
        rest = np.concatenate([vectors, places, surely[:, None]], axis=1)[good]
        # What the places in a texel show, texel after texel.
        order = np.argsort(self.texels[good], kind="stable")
        ordered, rest = self.texels[good][order], rest[order]
        starts = np.flatnonzero(np.diff(ordered, prepend=-1))
        if starts.size:
            count = np.diff(starts, append=ordered.size).astype(np.float32)
            texel, sums = ordered[starts], np.add.reduceat(rest, starts, axis=0)
            mean = sums / count[:, None]
            # On both sides of an edge: not somewhere between them.
            apart = np.abs(mean[:, 3:6] - rest[starts, 3:6]).max(axis=1) > SAME
            mean[apart, 3:6] = rest[starts[apart], 3:6]
            most = 2 * count >= np.bincount(self.texels, minlength=trust.size)[texel]
            trust.reshape(-1)[texel[most]] = sums[most, 6] / self.samples**2
            layers.reshape(-1, 6)[texel[most]] = mean[most, :6]
            even = evened(trust, self.wanted, max(1, round(max(shape) / EVEN)))
            trust = np.clip(even, 0, 1) * (trust > 0)
        result = OtherSide(layers[..., :3], trust, layers[..., 3:])
        result = result.bent(normals * known[..., None], self.wanted & ~known)
        return head.bridged(result, normals, known, self.wanted)


@dataclass(frozen=True)
class OtherSide:
    """What a map's other half shows.

    Attributes:
        normals: float32 (h, w, 3), unit vectors, shorter at edges, zero where there are none.
        trust: float32 (h, w), from 0 to 1: how sure they are, smooth where there are any.
        places: float32 (h, w, 3), row, column and depth of where the map shows them, in texels; anything
            where there are none.
    """

    normals: FloatArray
    trust: FloatArray
    places: FloatArray

    def bent(self, normals: FloatArray, hole: BoolArray) -> OtherSide:
        """The same, moved to lie over what is known around a hole: no face is quite its own mirror image.

        Args:
            normals: float32 (h, w, 3), the map, unit, zero where it is not known.
            hole: bool (h, w).
        """
        if not hole.any():
            return self
        box = box_around(hole, AROUND)
        there = self.trust[box] > 0
        layers = np.concatenate(
            [self.normals[box], self.places[box], self.trust[box][..., None], there[..., None]],
            -1,
            dtype=np.float32,
        )
        layers *= there[..., None]
        come = enlarge(margin(origins(unit(layers[..., :3]) * there[..., None], normals[box], hole[box])), 2)
        rows, columns = np.nonzero(there)
        down, across = come[:, rows, columns]
        found = sampled(framed(layers), rows + down, columns + across)
        good = found[:, 7] > 0.99
        layers[rows[good], columns[good]] = found[good]
        result = OtherSide(self.normals.copy(), self.trust.copy(), self.places.copy())
        result.normals[box], result.places[box], result.trust[box] = (
            layers[..., :3],
            layers[..., 3:6],
            layers[..., 6],
        )
        return result


def gaps_in(there: BoolArray, side: int) -> BoolArray:
    """Texels of small gaps in what is there, on a map with such a longer side: a pupil, a lid's shadow."""
    reach = _gap(side)
    return ~grow(~grow(there, reach), reach) & ~there


def _gap(side: int) -> int:
    """Half as wide are the small gaps, in texels, on a map with such a longer side."""
    return max(1, round(GAP * side))


def _hidden(layers: FloatArray, there: BoolArray, gaps: BoolArray) -> tuple[FloatArray, FloatArray]:
    """What goes on in small gaps.

    Args:
        layers: float32 (h, w, 4), normals, and how near what has them is, in centimetres.
        there: bool (h, w), where they are known.
        gaps: bool (h, w), see `gaps_in`.

    Returns:
        float32 (g, 3), unit, for their texels in reading order; and (g,), how near the nearest around is.
    """
    row, column = np.nonzero(gaps)
    reach = 2 * _gap(max(gaps.shape))
    offsets = np.arange(-reach, reach + 1)
    frame = [(reach, reach)] * 2
    rows, columns = row[:, None, None] + reach + offsets[:, None], column[:, None, None] + reach + offsets
    near = np.pad(layers, [*frame, (0, 0)])[rows, columns].reshape(row.size, -1, 4)
    known = np.pad(there, frame)[rows, columns].reshape(row.size, -1)
    front = np.where(known, near[..., 3], -np.inf).max(axis=1, keepdims=True)
    known &= near[..., 3] > front - ABYSS
    before = near[..., 3] - np.where(known, near[..., 3], np.inf).min(axis=1, keepdims=True)
    squares = (offsets[:, None] ** 2 + offsets**2).reshape(-1)
    weights = np.square(np.maximum(1 - squares / (reach + 1) ** 2, 0) / (squares + 4))
    weights = weights * np.exp(-np.where(known, before, np.inf) / HIDDEN)
    return unit(np.einsum("gn,gnk->gk", weights, near[..., :3]).astype(np.float32)), front[:, 0]


class _Picture:
    """What a view shows of a head.

    Attributes:
        texels: (p,) those that show the head, in reading order.
        triangles: (p,) which of them they show; `weights` (p, 3) of its corners.
        normals: float32 (p, 3), unit, in the camera's frame.
        vertices: float32 (n, 3), of the head, in its own frame.
        seen: float32 (n, 3), in the camera's.
    """

    def __init__(
        self, family: Family, view: View, shape: tuple[int, ...], wanted: BoolArray | None = None
    ) -> None:
        plain = not view.weights.size
        self.vertices = family.mean if plain else family.shape(view.weights)
        self.seen = view.seen(self.vertices)
        self.texels, self.triangles, self.weights = rasterize(
            view.places(self.seen), self.seen[:, 2], family.triangles, shape, wanted
        )
        normals = family.mean_normals if plain else family.normals(self.vertices)
        corners = normals[family.triangles[self.triangles]]
        self.normals = unit(view.seen(np.einsum("pk,pkx->px", self.weights, corners)))


class _Grid:
    """A map's means over blocks.

    Attributes:
        block: texels of the map for one of the grid, along an axis.
        normals: float32 (h, w, 3), unit where known, else zero.
        known: bool (h, w).
        hidden: bool (h, w), what of the surface is not.
    """

    def __init__(self, normals: FloatArray, known: BoolArray, valid: BoolArray, side: int) -> None:
        self.block = -(-max(valid.shape) // side)
        area = np.float32(self.block**2)
        self.known: BoolArray = block_sum(known, self.block) > MOSTLY * area
        self.hidden: BoolArray = (block_sum(valid, self.block) > 0.5 * area) & ~self.known
        self.normals = unit(block_sum(normals * known[..., None], self.block)) * self.known[..., None]
        self.shape: tuple[int, int] = self.known.shape


def default_path() -> Path:
    """The model that the package holds."""
    return Path(__file__).resolve().parent.parent / "models" / "head_shapes.npz"


@functools.lru_cache(maxsize=1)
def families(path: Path) -> tuple[Family, ...]:
    """The families of heads in a file.

    Raises:
        InpaintError: `weights_missing` or `weights_damaged`.
    """
    result = []
    with arrays_of(path) as data:
        for number in range(len(data["names"])):
            mean, triangles = data[f"mean{number}"], data[f"triangles{number}"].astype(np.int32)
            modes = _summed(data[f"steps{number}"], data[f"parents{number}"].astype(np.intp))
            if mean.shape != modes.shape[:2] or triangles.max() >= len(mean):
                raise ValueError(f"{mean.shape} and {modes.shape}")
            step = np.float32(data[f"unit{number}"])
            result.append(Family(mean, modes * step, triangles, data[f"lids{number}"]))
    return tuple(result)


def _summed(steps: NDArray[np.uint8], parents: NDArray[np.intp]) -> NDArray[np.int16]:
    """Modes (n, 3, k) of what each vertex moves by beyond its parent.

    Args:
        steps: uint8 (2, k, 3, n), lower and upper bytes of 16-bit numbers that stand for 0, -1, 1, -2 ...
        parents: (n,), earlier vertices, growing; before that the first vertices have themselves.
    """
    folded = steps[0] | steps[1].astype(np.uint16) << 8
    result = np.ascontiguousarray(((folded >> 1) ^ -(folded & 1)).view(np.int16).T)
    start = first = int(np.count_nonzero(parents == np.arange(len(parents))))
    while start < len(parents):
        # All whose parents are done.
        stop = first + int(np.searchsorted(parents[first:], start))
        if stop <= start:
            raise ValueError("a vertex comes before its parent")
        result[start:stop] += result[parents[start:stop]]
        start = stop
    return result


def unpacked(numbers: NDArray[np.float64], shape: tuple[int, ...]) -> Head:
    """The head that `Head.packed` gave, on a map of a shape."""
    number, doubt, scale, row, column, nearness, count = (float(value) for value in numbers[:7])
    weights, rest = np.split(numbers[16:], [int(count)])
    bend = None
    if rest.size:
        moves = rest[5:].reshape(int(rest[0]), int(rest[1]), 2).astype(np.float32)
        bend = Bend(moves, rest[2:4], float(rest[4]))
    view = View(numbers[7:16].reshape(3, 3), scale, row, column, nearness, weights, bend)
    return Head(families(default_path())[int(number)], view, (shape[0], shape[1]), doubt)


def fitted(normals: FloatArray, known: BoolArray, valid: BoolArray) -> Head | None:
    """Fit a head to what is known of a map.

    Args:
        normals: float32 (h, w, 3), unit at known texels, finite everywhere, in camera space.
        known: bool (h, w).
        valid: bool (h, w), where there is a surface.

    Returns:
        The head of the family that fits best, or None where nothing fits at all.

    Raises:
        InpaintError: `weights_missing` or `weights_damaged`.
    """
    looks = pose(normals, known, valid)
    place, grid, last = (_Grid(normals, known, valid, side) for side in (PLACING, SHAPING, FINISHING))
    shape = valid.shape[0], valid.shape[1]
    begun: list[tuple[float, Family, View]] = []
    for family in families(default_path()):
        light = family.light
        starts = [view.on_grid(place.block / grid.block) for view in _placed(family, place, looks)]
        tries = [_stepped(light, view, grid, (0,) * RIGID) for view in starts]
        found = [view for view in tries if view is not None]
        found.sort(key=lambda view: _misfit(light, view, grid, grid.known))
        for view in found[:BEGUN]:
            after = _stepped(light, view, grid, FIRST)
            if after is not None:
                begun.append((_misfit(light, after, grid, grid.known), family, after))
        if begun and min(misfit for misfit, _, _ in begun) < CLEAR:
            break
    begun.sort(key=lambda one: one[0])
    best: Head | None = None
    ended: list[tuple[Family, View]] = []
    for misfit, family, view in begun:
        # A head that fits all but well may have ended in the wrong place.
        if best is not None and (best.doubt < DOUBTFUL or misfit > RIVAL * begun[0][0]):
            break
        if any(family is other and not _apart(view, before, grid) for other, before in ended):
            continue
        ended.append((family, view))
        head = _finished(family, view, grid, last, shape)
        if head is not None and (best is None or head.doubt < best.doubt):
            best = head
    if best is None or best.doubt >= BENT:
        return best
    return _bent(best, _Grid(normals, known, valid, BENDING))


def _bent(head: Head, grid: _Grid) -> Head:
    """A head whose picture is bent to lie over what is known around holes: no head is quite like another."""
    if not grid.hidden.any():
        return head
    box = box_around(grid.hidden, AROUND)
    hidden = grid.hidden[box]
    view = head.view.on_grid(1 / grid.block)
    view = replace(view, row=view.row - box[0].start, column=view.column - box[1].start)
    picture = _Picture(head.family, view, hidden.shape, grow(hidden, AROUND))
    shown = np.zeros((*hidden.shape, 3), np.float32)
    shown.reshape(-1, 3)[picture.texels] = picture.normals
    down, across = goals(origins(shown, grid.normals[box], hidden)) / np.float32(view.scale)
    # The first block's middle lies between two texels.
    corner = np.array([0.5 - view.column, view.row - 0.5]) / view.scale
    return replace(
        head, view=replace(head.view, bend=Bend(np.stack([across, -down], axis=-1), corner, 2 / view.scale))
    )


def _apart(view: View, other: View, grid: _Grid) -> bool:
    """Whether steps from both may end in different places."""
    moved = max(abs(view.row - other.row), abs(view.column - other.column)) / max(grid.shape)
    turned = np.abs(view.rotation - other.rotation).max()
    return bool(abs(np.log(view.scale / other.scale)) > 0.1 or turned > 0.1 or moved > 0.04)


def _blinked(family: Family, view: View, grid: _Grid) -> View:
    """The view, with eyes open or closed as the map has them: steps do not lead from one to the other."""
    count = view.weights.size
    lids = family.lids[:count].astype(np.float64)
    along = float(lids @ lids)
    if along < 1e-6:
        return view
    now = float(view.weights @ lids) / along
    views = [view, *(replace(view, weights=view.weights + (to - now) * lids) for to in BLINKS)]
    return min(views, key=lambda one: _plainly_off(family, one, grid))


def _plainly_off(family: Family, view: View, grid: _Grid) -> float:
    """Mean squared distance of tips where known texels show a head, of each at most `FAR`."""
    picture = _Picture(family, view, grid.shape)
    known = grid.known.reshape(-1)[picture.texels]
    if not known.any():
        return np.inf
    apart = (grid.normals.reshape(-1, 3)[picture.texels] - picture.normals)[known]
    return float(np.minimum(np.einsum("px,px->p", apart, apart), FAR).mean())


def _finished(family: Family, view: View, grid: _Grid, last: _Grid, shape: tuple[int, int]) -> Head | None:
    """The head of a view after all steps, on a map of a shape; None if too little of it is seen."""
    count, before = family.lids.size, np.inf
    light = family.light
    view = _blinked(light, view, grid)
    for number in range(MOST):
        step = _step(light, view, grid, count)
        if step is None:
            return None
        view, misfit = step
        if number > 1 and misfit > before * (1 - GAIN):
            break
        before = misfit
    view = _blinked(family, view.on_grid(grid.block / last.block), last)
    finished = _stepped(family, view, last, (count,) * LAST)
    if finished is None:
        return None
    return Head(family, finished.on_grid(last.block), shape, _doubt(family, finished, last))


def _placed(family: Family, grid: _Grid, looks: Pose) -> list[View]:
    """Where the mean head may lie: turned as it looks, its normals most like the map's."""
    height, width = grid.shape
    side = max(height, width)
    padded = 2 * side
    layers = np.concatenate([grid.normals, grid.known[..., None]], axis=-1)
    spectra = np.fft.rfft2(np.moveaxis(layers, -1, 0), (padded, padded))
    across = looks.across
    roll = float(np.arctan2(across[1], across[0]))
    yaw = float(np.arctan2(across[2], np.hypot(across[0], across[1])))
    normals, total = family.mean_normals, float(np.count_nonzero(grid.known))
    middle = (side - 1) / 2
    trials: list[tuple[float, View]] = []
    for pitch in PITCHES:
        turn = _turn(2, roll) @ _turn(1, -yaw) @ _turn(0, pitch)
        turned = normals @ turn.T.astype(np.float32)
        front = turned[:, 2] > 0.1
        axes = np.ascontiguousarray(turned[front].T)
        view = View(turn, 1.0, middle, middle, NEARNESS, np.zeros(0))
        seen = view.seen(family.mean[front])
        for across_map in WIDTHS:
            view = replace(view, scale=side / across_map)
            column, row = np.rint(view.places(seen)).T
            inside = np.flatnonzero((column >= 0) & (column < side) & (row >= 0) & (row < side))
            cell = (row[inside] * side + column[inside]).astype(np.intp)
            sums = np.stack([np.bincount(cell, axis[inside], side * side) for axis in axes])
            length = np.sqrt(np.einsum("ij,ij->j", sums, sums))
            sums = np.concatenate([sums / np.maximum(length, 1e-9), (length > 0)[None]])
            pictures = sums.reshape(4, side, side).astype(np.float32)
            product = spectra * np.conj(np.fft.rfft2(pictures, (padded, padded)))
            # Squared distances of tips where both are, and what is known beside the head.
            total_of = (2 - BARE) * product[3] - 2 * product[:3].sum(axis=0)
            cost = BARE * total + np.fft.irfft2(total_of, (padded, padded))
            at = np.unravel_index(int(np.argmin(cost)), cost.shape)
            down, right = (int(move) - padded * (move >= side) for move in at)
            least = float(cost[at]) + UPRIGHT * total * pitch**2
            trials.append((least, replace(view, row=middle + down, column=middle + right)))
    trials.sort(key=lambda trial: trial[0])
    result: list[View] = []
    for _, view in trials:
        apart = (
            abs(np.log(view.scale / other.scale)) > 0.1 or np.abs(view.rotation - other.rotation).max() > 0.1
            for other in result
        )
        if len(result) < STARTS and all(apart):
            result.append(view)
    return result


def _turn(axis: int, angle: float) -> NDArray[np.float64]:
    """Rotation (3, 3) about an axis, counter-clockwise for who looks against it."""
    result = np.eye(3)
    j, k = (axis + 1) % 3, (axis + 2) % 3
    result[[j, k], [j, k]] = np.cos(angle)
    result[k, j] = np.sin(angle)
    result[j, k] = -np.sin(angle)
    return result


def _stepped(family: Family, view: View, grid: _Grid, counts: Sequence[int]) -> View | None:
    """A view after some steps with so many modes each; None if too little of the head is seen."""
    for count in counts:
        step = _step(family, view, grid, min(count, family.lids.size))
        if step is None:
            return None
        view = step[0]
    return view


def _doubt(family: Family, view: View, grid: _Grid) -> float:
    """See `Head.doubt`. Any smooth surface is like a forehead: that does not make it one."""
    y, x = np.nonzero(grid.known)
    down, right = (2 * (axis - axis.mean()) / max(1, np.ptp(axis)) for axis in (y, x))
    powers = [right**i * down**j for i in range(SMOOTH + 1) for j in range(SMOOTH + 1 - i)]
    terms = np.stack(powers, axis=1).astype(np.float32)
    normals = grid.normals[y, x]
    smooth = unit(terms @ np.linalg.lstsq(terms, normals, rcond=None)[0])
    left = float(np.minimum(np.square(smooth - normals).sum(axis=1), FAR).mean())
    # Around the hole, half as far away as it is large, the head should cover what is known.
    near = grid.known
    if grid.hidden.any():
        rows, columns = box_around(grid.hidden, 0)
        box = box_around(grid.hidden, max(rows.stop - rows.start, columns.stop - columns.start) // 2)
        near = np.zeros_like(near)
        near[box] = grid.known[box]
    return _misfit(family, view, grid, near) / max(left, 1e-6)


def _misfit(family: Family, view: View, grid: _Grid, expected: BoolArray) -> float:
    """How badly a view fits.

    Args:
        family: of the head.
        view: of it.
        grid: of the map.
        expected: bool (h, w), the texels that it should cover.

    Returns:
        Mean squared distance of its normals' tips from the known ones', of texels that are not too far off,
        neighbours averaged; and `UNCOVERED` times the share of expected texels that do not show it.
    """
    picture = _Picture(family, view, grid.shape)
    texels = picture.texels[grid.known.reshape(-1)[picture.texels]]
    if not texels.size:
        return np.inf
    apart = np.zeros((*grid.shape, 4), np.float32)
    flat = apart.reshape(-1, 4)
    flat[picture.texels, :3] = grid.normals.reshape(-1, 3)[picture.texels] - picture.normals
    flat[texels, 3] = 1
    apart *= apart[..., 3:]
    # Pores and noise are no misfit: the mean of neighbours has less of them.
    sums = block_sum(apart, 2)
    count = sums[..., 3]
    squares = np.square(sums[..., :3] / np.maximum(count, 1)[..., None]).sum(axis=-1)[count > 1]
    weights = _counts(squares, NARROW) * count[count > 1]
    misfit = float(np.dot(weights, squares) / max(float(weights.sum()), 1e-6))
    bare = int(np.count_nonzero(expected)) - int(np.count_nonzero(expected.reshape(-1)[texels]))
    return misfit + UNCOVERED * bare / max(1, int(np.count_nonzero(expected)))


def _counts(squares: FloatArray, width: float) -> FloatArray:
    """How much a texel counts whose tips are so far apart, squared (S. Geman and D. McClure, 1987)."""
    result: FloatArray = 1 / np.square(1 + squares / np.float32(width * width))
    return result


def _slopes(picture: _Picture, shape: tuple[int, int]) -> FloatArray:
    """How a picture's normals change for one column and one row: float32 (p, 2, 3), zero at its edges."""
    field = np.zeros((shape[0] * shape[1], 4), np.float32)
    field[picture.texels, :3] = picture.normals
    field[picture.texels, 3] = 1
    planes = field.reshape(*shape, 4)
    slopes = np.zeros((*shape, 2, 3), np.float32)
    right, left, down, up = planes[:, 2:], planes[:, :-2], planes[2:], planes[:-2]
    slopes[:, 1:-1, 0] = (right - left)[..., :3] * (0.5 * right[..., 3:] * left[..., 3:])
    slopes[1:-1, :, 1] = (down - up)[..., :3] * (0.5 * down[..., 3:] * up[..., 3:])
    # Where depth jumps there is no slope.
    slopes *= np.abs(slopes).sum(axis=(2, 3), keepdims=True) < 1.2
    result: FloatArray = slopes.reshape(-1, 2, 3)[picture.texels]
    return result


def _step(family: Family, view: View, grid: _Grid, count: int) -> tuple[View, float] | None:
    """One Gauss-Newton step of a view and its first modes, each of them standard normal beforehand.

    Returns:
        The view after it, and the misfit before it; None where too little of the head is seen.
    """
    picture = _Picture(family, view, grid.shape)
    known = grid.known.reshape(-1)[picture.texels]
    if np.count_nonzero(known) < FEWEST:
        return None
    apart = grid.normals.reshape(-1, 3)[picture.texels] - picture.normals
    squares = np.einsum("px,px->p", apart, apart)
    mean = float(np.minimum(squares[known], 1).mean())
    weights = known * _counts(squares, min(2.0, max(NARROW, WIDE * mean**0.5)))
    misfit = float(np.dot(weights, squares) / max(float(weights.sum()), 1e-6))
    used = np.flatnonzero(weights > 1e-3)
    used = used[:: max(1, -(-used.size // ENOUGH))]
    if used.size < FEWEST:
        return None
    change = _changes(family, view, picture, _slopes(picture, grid.shape)[used], used, count)
    change = change.reshape(3 * used.size, -1)
    # In units of the texels' own uncertainty.
    spread = NOISE * max(misfit, EXACT) * used.size / WITNESSES
    weight = np.repeat(weights[used], 3) / np.float32(spread)
    weighted = change * weight[:, None]
    curvature = _products(weighted, change).astype(np.float64)
    slope = (weighted.T @ apart[used].reshape(-1)).astype(np.float64)
    now, prior = np.zeros(7 + count), np.ones(7 + count)
    moved_so_far = min(count, view.weights.size)
    now[7 : 7 + moved_so_far] = view.weights[:moved_so_far]
    now[6] = view.nearness / NEARNESS - 1
    prior[:7] = 0.01, 0.01, 0.01, 1e-4, 1e-4, 1, 0.5
    damping = prior + 1e-3 * np.diag(curvature)
    try:
        step = np.linalg.solve(curvature + np.diag(damping), slope - prior * now)
    except np.linalg.LinAlgError:
        return None
    step[:6] *= min(1.0, 0.2 / max(float(np.abs(step[:3]).max()), 1e-9))
    angle = float(np.linalg.norm(step[:3]))
    axis = step[:3] / max(angle, 1e-9)
    skew = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    turn = np.eye(3) + np.sin(angle) * skew + (1 - np.cos(angle)) * (skew @ skew)
    moved = View(
        turn @ view.rotation,
        view.scale * float(np.exp(np.clip(step[5], -0.2, 0.2))),
        view.row + float(np.clip(step[4], -4, 4)),
        view.column + float(np.clip(step[3], -4, 4)),
        float(np.clip(view.nearness + NEARNESS * step[6], 0, NEAREST)),
        np.clip(now[7:] + step[7:], -MOST_UNUSUAL, MOST_UNUSUAL),
    )
    return moved, misfit


@functools.lru_cache(maxsize=1)
def _has_blas() -> bool:
    """Whether NumPy has a library for products of matrices; Blender's own has none."""
    try:
        built = np.show_config(mode="dicts")
        return bool(built["Build Dependencies"]["blas"].get("found"))
    except (TypeError, KeyError):  # a NumPy before 1.25, such as Blender 4.2 has
        return False


def _products(first: FloatArray, second: FloatArray) -> FloatArray:
    """first.T @ second, float32 (j, k) of (p, j) and (p, k): without a BLAS eight times as fast."""
    result: FloatArray = first.T @ second if _has_blas() else np.einsum("pj,pk->jk", first, second)
    return result


def _changes(
    family: Family, view: View, picture: _Picture, slopes: FloatArray, used: NDArray[np.intp], count: int
) -> FloatArray:
    """How the normals at texels change with a view and its modes: float32 (p, 3, 7 + count).

    A normal at a texel changes as its surface turns, and as what is seen there moves on. Turns about the
    camera's axes, column, row, logarithm of the scale, nearness (in units of `NEARNESS`), and modes.

    Args:
        family: of the head.
        view: of it.
        picture: of that.
        slopes: float32 (p, 2, 3), how normals change along columns and rows.
        used: (p,) which of the picture's texels.
        count: of the modes.
    """
    corners = family.triangles[picture.triangles[used]]
    weights, normals = picture.weights[used], picture.normals[used]
    here = np.einsum("pk,pkx->px", weights, picture.seen[corners])
    nearness, enlargement = np.float32(view.nearness), view.enlargement(here)
    flat = np.float32(view.scale) * enlargement
    deep = flat * enlargement
    result = np.empty((used.size, 3, 7 + count), np.float32)

    def carried(columns: FloatArray, rows: FloatArray) -> FloatArray:
        """What is seen moves by so many columns and rows: the normals' change."""
        return -(slopes[:, 0] * columns[:, None] + slopes[:, 1] * rows[:, None])

    def moved(by: FloatArray) -> FloatArray:
        """What is seen moves in space: the normals' change."""
        drawn = deep * nearness * by[:, 2]
        return carried(flat * by[:, 0] + drawn * here[:, 0], -(flat * by[:, 1] + drawn * here[:, 1]))

    for axis, about in enumerate(np.eye(3, dtype=np.float32)):
        result[..., axis] = cross(about, normals) + moved(cross(about, here))
    result[..., 3:5] = -np.moveaxis(slopes, 1, 2)
    result[..., 5] = moved(here * np.array([1, 1, 0], np.float32))
    nearer = deep * here[:, 2] * np.float32(NEARNESS)
    result[..., 6] = carried(nearer * here[:, 0], -nearer * here[:, 1])
    if count:
        # All that a mode does is linear in how it moves the three corners.
        turn, unity = view.rotation.astype(np.float32), np.eye(3, dtype=np.float32)
        away = np.stack([flat * unity[0, :, None], -flat * unity[1, :, None]]).transpose(2, 0, 1)
        away[..., 2] += (deep * nearness)[:, None] * here[:, :2] * np.array([1, -1], np.float32)
        carry = (np.einsum("pai,paj->pij", slopes, away) @ turn)[:, :, None]
        first, second, third = (picture.vertices[corners[:, i]] for i in range(3))
        along, across = second - first, third - first
        area = np.linalg.norm(cross(along, across), axis=-1)
        bend = (unity - normals[:, :, None] * normals[:, None]) @ turn / np.maximum(area, 1e-9)[:, None, None]
        bends = bend @ _crossing(-across), bend @ _crossing(along)
        by_corner = np.stack([-bends[0] - bends[1], *bends], axis=2) - weights[:, None, :, None] * carry
        moves = family.modes[..., :count].take(corners.reshape(-1), 0).reshape(used.size, 9, count)
        np.einsum("pij,pjk->pik", by_corner.reshape(used.size, 3, 9), moves, out=result[..., 7:])
    return result


def _crossing(vectors: FloatArray) -> FloatArray:
    """Matrices (p, 3, 3) whose products with vectors are cross products of (p, 3) with these."""
    result = np.zeros((len(vectors), 3, 3), np.float32)
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        result[:, k, j], result[:, j, k] = vectors[:, i], -vectors[:, i]
    return result
