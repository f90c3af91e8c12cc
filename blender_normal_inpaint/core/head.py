"""A head of the morphable model as a camera sees it: drawn, and what the other half of a map shows by it.

How a head is found that fits a map tells `core.morphable`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bending import AROUND, Bend, origins
from .engine import BoolArray, FloatArray
from .harmonic import extend, grow
from .normals import unit
from .planes import convolve, enlarge, gaussian, margin
from .raster import IntArray, rasterize
from .regions import label
from .resample import box_around, evened, framed, rise, sampled

#: So many numbers of a head's shape are worked out at once: more than a processor's cache holds take longer.
PART = 512

#: A head in so much doubt tells nothing.
USELESS = 0.25

#: What the other half shows counts less and less where it turns away from the camera, as the z of its normals
#: tells, and where the head's mirror image lies so many centimetres behind or before what is seen there. How
#: sure it is is evened over blocks, of which so many lie along the longer side.
FACING, BEHIND, EVEN = (0.15, 0.55), (0.4, 1.2), 64

#: Gaps in what is shown, half as wide as that share of the longer side at most, are filled from around them:
#: else less and less of an eye counts towards its pupil.
GAP = 0.008

#: Wider ones that the head has all around are looked for on a grid of so many texels along the longer side.
OPENING = 128

#: In a gap counts less and less of what is around it that lies so many centimetres before the rest: around
#: nostrils one lies 0.5 to 1.3 before the other, behind ears 3. What lies farther behind is a throat.
HIDDEN, ABYSS = 0.4, 4.0

#: Places in a texel, along an axis, at which it is looked what it shows of a head; and how far apart, in
#: texels, their mirror images may lie for all to show one surface.
SAMPLES, SAME = 2, 1.5

#: So many texels from where it ends in a hole what the other half shows is led to where a head has it, whose
#: own goes on there: else lids meet with a step. How doubtful such a head may be: with 0.03 errors are the
#: same within 1.5 per cent, and an eye of two halves has a step. All of it led there, scans are 2 to 5 per
#: cent worse; so far from its end no set of heads by more than one.
LED, SURE = 16, 0.06

#: Tips so far apart, squared, are unlike there, evened over that share of the longer side (standard
#: deviation), and so many texels around them go with them. Seen: of what both show one to twelve per cent are
#: so unlike, along lids and lips.
UNLIKE, FORMS, JOINED = 0.04, 1 / 256, 2


@dataclass(frozen=True)
class Family:
    """Heads of one source: a mean and the modes in which they differ.

    Attributes:
        mean: float32 (n, 3), x to the head's left, y up, z out of the face, in centimetres.
        modes: (n, 3, k), displacements for one standard deviation; their weights are independent. float32, in
            centimetres; or as they are stored, int16, half the memory, in units of `step`.
        step: in centimetres.
        triangles: int32 (m, 3), vertex indices, counter-clockwise seen from outside.
        lids: float32 (k,), by how much the weights of heads with their eyes closed differ from those of heads
            with open eyes, on average; zero if that is not told.
    """

    mean: FloatArray
    modes: NDArray[np.int16] | FloatArray
    step: float
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
        mean = (self.mean[kept] + self.mean[other]) * np.float32(0.5)
        modes = (self.moves(kept) + self.moves(other)) * np.float32(0.5)
        return Family(mean, modes, 1.0, triangles, self.lids)

    @functools.cached_property
    def _corners(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The triangles around each vertex, one vertex after the other, and where each begins among them."""
        corners = self.triangles.reshape(-1)
        order = np.argsort(corners, kind="stable")
        return order // 3, np.searchsorted(corners[order], np.arange(len(self.mean)))

    @functools.cached_property
    def _ends(self) -> list[NDArray[np.intp]]:
        """The triangles' first, second and third corners, as `take` wants them."""
        return [np.ascontiguousarray(self.triangles[:, i], np.intp) for i in range(3)]

    def shape(self, weights: NDArray[np.float64]) -> FloatArray:
        """The vertices (n, 3) for weights (j,) of the first modes."""
        by = weights.astype(np.float32)
        modes = self.modes.reshape(self.mean.size, -1)[:, : by.size]
        if modes.dtype == np.float32:
            moved = modes @ by
        else:
            by, moved = by * np.float32(self.step), np.empty(len(modes), np.float32)
            for start in range(0, len(modes), PART):
                part = modes[start : start + PART]
                moved[start : start + PART] = part.astype(np.float32) @ by
        result: FloatArray = self.mean + moved.reshape(self.mean.shape)
        return result

    def along(self, vectors: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        """By how much the first modes move all vertices along vectors (n, 3), added up: float64 (count,)."""
        if self.modes.dtype == np.float32:
            by = vectors.reshape(-1).astype(np.float32)
            return (by @ self.modes.reshape(by.size, -1)[:, :count]).astype(np.float64)
        some, result = np.flatnonzero(vectors.any(axis=1)), np.zeros(count)
        for start in range(0, some.size, PART // 3):
            part = some[start : start + PART // 3]
            by = vectors.take(part, axis=0).reshape(-1).astype(np.float32)
            result += by @ self.modes[:, :, :count].take(part, 0).reshape(by.size, count).astype(np.float32)
        return result * self.step

    def moves(self, vertices: NDArray[np.integer[Any]], count: int | None = None) -> FloatArray:
        """By how much modes move vertices, (p, 3, k), in centimetres; the first ones alone if counted."""
        return self._in_centimetres(self.modes[..., :count].take(vertices, 0))

    def _in_centimetres(self, modes: NDArray[np.int16] | FloatArray) -> FloatArray:
        return np.asarray(modes if modes.dtype == np.float32 else modes * np.float32(self.step), np.float32)

    @functools.cached_property
    def mean_normals(self) -> FloatArray:
        """Those of the mean, see `normals`."""
        return self.normals(self.mean)

    def normals(self, vertices: FloatArray) -> FloatArray:
        """Smooth unit normals of vertices: the mean of the triangles around them, by area."""
        around, starts = self._corners
        # Axes of three values are slow to gather and to add up: x, y and z have arrays of their own.
        axes = np.ascontiguousarray(vertices.T)
        first, second, third = (axes.take(end, axis=1) for end in self._ends)
        along, across = second - first, third - first
        sums = np.empty(vertices.shape, np.float32)
        for i in range(3):
            j, k = (i + 1) % 3, (i + 2) % 3
            faces = along[j] * across[k] - along[k] * across[j]
            sums[:, i] = np.add.reduceat(faces.take(around), starts)
        return unit(sums)


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
        likely: that the map shows a head at all, from 0 to 1, by who knows which way it looks.
    """

    family: Family
    view: View
    shape: tuple[int, int]
    doubt: float
    likely: float = 0.0

    @functools.cached_property
    def _picture(self) -> Picture:
        return Picture(self.family, self.view, self.shape)

    @property
    def tells(self) -> bool:
        """Whether it fits well enough to tell anything of the map."""
        return self.doubt < USELESS

    @property
    def quarters(self) -> int:
        """By how many quarters of a turn, counter-clockwise, the head is turned in the picture: 0 to 3."""
        turn = self.view.rotation
        angle = np.arctan2(turn[1, 0] - turn[0, 1], turn[0, 0] + turn[1, 1])
        return round(float(angle) / (np.pi / 2)) % 4

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

    def _close_up(self, row: float, column: float, pace: float, wanted: BoolArray) -> Picture:
        """What a grid shows of it whose first texel lies at a place of the map, its texels so far apart."""
        view = replace(
            self.view,
            scale=self.view.scale / pace,
            row=(self.view.row - row) / pace,
            column=(self.view.column - column) / pace,
        )
        return Picture(self.family, view, wanted.shape, wanted)

    @functools.cached_property
    def openings(self) -> FloatArray:
        """Gaps in the picture that it has all around, an open mouth, with a texel or two beside them.

        float32 (h, w): how near, in centimetres, what belongs to their rims is at least, for what lies behind
        that is seen through them; -inf elsewhere.
        """
        block = -(-max(self.shape) // OPENING)
        shape = -(-self.shape[0] // block), -(-self.shape[1] // block)
        texels, near = replace(self, view=self.view.on_grid(1 / block), shape=shape).depth()
        depth = np.full(shape, -np.inf, np.float32)
        depth.reshape(-1)[texels] = near
        result, bare = np.full(shape, -np.inf, np.float32), np.isinf(depth)
        parts, count = label(bare)
        rim = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
        for number in np.setdiff1d(np.arange(1, count + 1), rim):
            inside = parts == number
            while True:
                around = grow(inside) & ~inside
                farthest = depth[around].max() - ABYSS
                more = around & (depth < farthest)
                if not more.any():
                    break
                inside |= more
            result[grow(inside)] = farthest
        wide: FloatArray = result.repeat(block, 0).repeat(block, 1)[: self.shape[0], : self.shape[1]]
        return wide

    def depth(self) -> tuple[NDArray[np.intp], FloatArray]:
        """The map's texels that show the head, (p,), and how near it is there, float32 (p,), centimetres."""
        return self._picture.texels, self.view.seen(self._points(self._picture))[:, 2]

    def _points(self, picture: Picture, chosen: NDArray[np.intp] | slice = slice(None)) -> FloatArray:
        """Where the head lies that some texels of a picture show: float32 (p, 3), in its own frame."""
        corners = self.family.triangles.take(picture.triangles[chosen], axis=0)
        return _between(picture.vertices, corners, picture.weights[chosen])

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

    @functools.cached_property
    def means(self) -> FloatArray:
        """What texels show: float32 (h, w, 3), zero where no head is.

        Each has the mean of the unit vectors at its places, which is shorter at an edge: enlarged and made
        unit vectors only then, edges are straight; else they have steps. In a small gap of the head what is
        around it goes on, and of that what lies behind the rest, as in a nostril; a wide one has a level
        floor that looks as its rim does on average.
        """
        share, layers = self._share, self._layers
        result: FloatArray = layers[..., :3] * (share >= 0.5)[..., None]
        around = grow(self.gaps) & self.wanted
        wide = around & grow(self.opened)
        around &= ~wide
        if around.any():
            filled, front = _hidden(layers, share == 1, around)
            part = (share[around] * (layers[around, 3] > front - ABYSS))[:, None]
            result[around] = part * layers[around, :3] + (1 - part) * filled
        parts, count = label(wide)
        for number in range(1, count + 1):
            inside = parts == number
            part = (share * self._near)[inside][:, None]
            floor = unit(layers[grow(inside) & self._near & (share == 1), :3].sum(axis=0))
            result[inside] = part * layers[inside, :3] + (1 - part) * floor
        return result

    @functools.cached_property
    def gaps(self) -> BoolArray:
        """Gaps of the head, small ones (see `gaps_in`) and `opened` ones: bool (h, w)."""
        return self._small | self.opened

    @functools.cached_property
    def opened(self) -> BoolArray:
        """Wider gaps that the head has all around, see `Head.openings`: bool (h, w)."""
        bare = ((self._share < 0.5) | ~self._near) & (self.head.openings > -np.inf) & self.wanted
        if not bare.any():
            return bare
        parts, _ = label(bare)
        return np.isin(parts, np.setdiff1d(parts[~self._small], 0))

    @functools.cached_property
    def _small(self) -> BoolArray:
        return gaps_in(self._share >= 0.5, max(self.wanted.shape)) & self.wanted

    @functools.cached_property
    def _near(self) -> BoolArray:
        """Whether a texel shows what belongs to wide gaps' rims, not what is seen through: bool (h, w)."""
        return self._layers[..., 3] >= self.head.openings

    @functools.cached_property
    def _layers(self) -> FloatArray:
        """The mean of what a texel shows of the head: normals, and depth: float32 (h, w, 4)."""
        shape, size, share = self.wanted.shape, self.wanted.size, self._share
        depth = self.head.view.seen(self.points)[:, 2]
        sums = np.stack([np.bincount(self.texels, axis, size) for axis in (*self.normals.T, depth)], axis=-1)
        return (sums.reshape(*shape, 4) / np.maximum(share * self.samples**2, 1)[..., None]).astype(
            np.float32
        )

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
        hole, aim, sure = self.wanted & ~known, normals * known[..., None], head.doubt < SURE
        if sure:
            aim += self._led(hole, result.trust > 0)
        result = head.bridged(result.bent(aim, hole), normals, known, self.wanted)
        return self._kept(result, hole) if sure else result

    def _kept(self, other: OtherSide, hole: BoolArray) -> OtherSide:
        """What the other half shows, less what the head has otherwise where that ends in a hole.

        Part of a mouth that the head has elsewhere would be there twice, and half of an eye meet half of
        another. What is connected with the end and unlike goes as a whole; elsewhere, where it ends, both are
        alike.

        Args:
            other: what it shows.
            hole: bool (h, w).
        """
        there = np.asarray(other.trust > 0)
        beyond = _beyond(hole, there)
        # In its own gaps a head has nothing, only what goes on there.
        shared = hole & there & self.means.any(axis=-1) & ~self.gaps
        if not beyond.any() or not shared.any():
            return other
        box = box_around(shared, 0)
        layers = np.zeros((4, *shared[box].shape), np.float32)
        layers[:3, shared[box]] = (unit(other.normals[shared]) - unit(self.means[shared])).T
        layers[3] = shared[box]
        # Pores and hairs that the head has not are no difference.
        *apart, share = convolve(layers, gaussian(FORMS * max(hole.shape)))
        unlike = np.zeros(hole.shape, np.bool_)
        unlike[box] = shared[box] & (np.square(apart).sum(axis=0) > UNLIKE * np.square(share))
        parts, _ = label(grow(unlike, JOINED) & shared)
        kept = ~np.isin(parts, np.setdiff1d(parts[grow(beyond)], 0))
        return OtherSide(other.normals * kept[..., None], other.trust * kept, other.places)

    def _led(self, hole: BoolArray, there: BoolArray) -> FloatArray:
        """Where the head has what the other half shows near its end: float32 (h, w, 3), unit, zero elsewhere.

        Args:
            hole: bool (h, w).
            there: bool (h, w), where the other half shows anything.
        """
        result = np.zeros((*hole.shape, 3), np.float32)
        beyond = _beyond(hole, there)
        if not beyond.any():
            return result
        near = grow(beyond & self.means.any(axis=-1), LED) & hole & there
        result[near] = unit(self.means[near])
        return result


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
        result.normals[box], result.places[box] = layers[..., :3], layers[..., 3:6]
        result.trust[box] = layers[..., 6]
        return result


def _beyond(hole: BoolArray, there: BoolArray) -> BoolArray:
    """Texels of a hole where the other half, which is there elsewhere, shows nothing, small gaps left out."""
    return hole & ~there & ~gaps_in(there, max(hole.shape))


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


def _between(vectors: FloatArray, corners: IntArray, weights: FloatArray) -> FloatArray:
    """Means (p, x) of three vectors each of some (n, x), by corners (p, 3) and their weights (p, 3)."""
    result = np.empty((len(corners), vectors.shape[1]), np.float32)
    ends, shares = np.ascontiguousarray(corners.T, np.intp), np.ascontiguousarray(weights.T)
    for axis, values in enumerate(np.ascontiguousarray(vectors.T)):
        parts = [values.take(end) * share for end, share in zip(ends, shares, strict=True)]
        result[:, axis] = parts[0] + parts[1] + parts[2]
    return result


class Picture:
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
        shown = view.seen(_between(normals, family.triangles.take(self.triangles, axis=0), self.weights))
        self.normals = unit(shown)
