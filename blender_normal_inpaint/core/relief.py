"""A head's other half in camera space: its relief, and the plane that it is symmetric about.

Seen from aside the halves of a face are not each other's mirror image in the picture, but they still are in
space. A repaired map tells the relief, by integration. Which way the head looks (`pose`), and about which
plane relief and normals are most alike when mirrored, tell the plane of symmetry; and mirrored about that
plane, what one side shows lies on what the other hides. The answer of the network in the hole need only be
good enough to tell where things lie.

The camera is taken to be far away: its rays are parallel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .engine import BoolArray, FloatArray
from .normals import dot, unit
from .pose import Pose, pose
from .resample import block_sum, evened, framed, rise, sampled, spread
from .solver import solve

#: Texels along the longer side of the grids on which the plane is looked for, and found.
COARSE, FINE = 32, 64

#: Steepest slopes count as if the normals' z were this: where the surface turns away there is no telling.
STEEP = 0.2

#: Weight of a texel of the hole beside a known one when two halves are compared. Measured on 22 held-out
#: heads, half hidden: 0.3 and 0.5 find worse planes, so does 1.
TRUST = 0.8

#: What a texel costs without a partner, as a pair of vectors whose tips are that far apart, squared. At 0.25
#: and more, planes are found that spare the far side rather than fit.
LONELY = 0.15

#: A pair of vectors whose tips are so far apart, squared, counts half: they may be no pair. At 0.3 and less
#: worse planes are found.
ODD = 3.0

#: Weight of how far a texel lies behind or before its partner; and how far that is at most worth looking at,
#: as a share of the map's longer side.
BEHIND, NEAR = 0.05, 0.06

#: What the other half shows counts less and less from here to `NEAR`, and where it turns away from the
#: camera, as the z of its normals tells. Where depth jumps, as from a cheek to an ear, things would come to
#: lie beside their place: seen on held-out heads as a pale second ear. Half and blob lose a hundredth by it,
#: lines gain as much.
CLOSE, FACING = 0.02, (0.15, 0.55)

#: What a plane costs that is turned against the head's estimated pose by as much as that may be off, times
#: the square of the share that is hidden: the more is known, the better the halves themselves tell; how far
#: it may be off at any rate, in radians, for rays are not quite parallel; and at how many times that the cost
#: is half of the most that it comes to, for the pose of what is no human face may be off by anything.
#: Measured with half hidden on 22 held-out heads from the front, and what 96 views from anywhere gain:
#: without pose 6.99 and 0.79 degrees, at 0.025 6.83 and 0.80, at 0.03 6.59 and 0.80, at 0.05 6.56 and 0.76.
PRIOR, LEAST_DOUBT, LEVEL = 0.03, float(np.radians(1)), 6.0

#: The relief is flatter than the head, for slopes are bounded and rays not parallel: its halves are most
#: alike about a plane that is turned further than the head. Of 82 whole heads the median is 1.1 times as far.
FLATTER = 1.1

#: A plane that is turned against the pose by so many times as much as that may be off makes the halves count
#: as twice as unlike as they are; one that is turned against it altogether, thrice. Seen on 236 held-out
#: maps: of planes with a high unlikeness those near the pose lead to gains, the others to the largest losses.
AGAINST = 3.0

#: Planes that are tried: their turn to the side, in radians, and others around the estimated one, in doubts;
#: and their place across, as a share of the longer side.
YAWS = np.radians(np.arange(-24, 25, 6))
TURNS = np.arange(-2, 3)
PLACES = np.linspace(-0.2, 0.2, 11)

#: How many of them are looked at closer, how often the steps of turn, lean and place are halved then, and how
#: often each length of step is tried all around.
STARTS, ROUNDS, PASSES = 2, 4, 2


@dataclass(frozen=True)
class Plane:
    """A plane of symmetry.

    Attributes:
        yaw: how far it is turned about the picture's vertical axis, in radians.
        lean: how far about the line of sight.
        place: its distance from the picture's middle, in texels of the grid, along its own normal.
    """

    yaw: float
    lean: float
    place: float

    @property
    def normal(self) -> FloatArray:
        """float32 (3,), x to the right, y up, z towards the camera."""
        across, ahead = np.cos(self.yaw), np.sin(self.yaw)
        return np.array([across * np.cos(self.lean), across * np.sin(self.lean), ahead], np.float32)


def other_side(
    field: FloatArray, normals: FloatArray, known: BoolArray, valid: BoolArray, wanted: BoolArray
) -> tuple[FloatArray, FloatArray, float]:
    """What the other half of a head shows of wanted texels.

    Args:
        field: float32 (h, w, 3), the repaired map, unit on the surface, in camera space.
        normals: float32 (h, w, 3), unit at known texels.
        known: bool (h, w).
        valid: bool (h, w), where there is a surface.
        wanted: bool (h, w), the texels that are asked for.

    Returns:
        float32 (h, w, 3): unit vectors, zero where there are none; float32 (h, w), from 0 to 1: how sure they
        are, smooth where there are any; and how unlike the halves are, 0 for twins: about the mean squared
        distance of their vectors' tips over the variance of all vectors, with what `LONELY` and `BEHIND` add,
        and up to thrice that for a plane against the head's pose.
    """
    image, trust = np.zeros(normals.shape, np.float32), np.zeros(known.shape, np.float32)
    found = _find(field, known, valid)
    if found is None:
        return image, trust, np.inf
    halves, plane, unlikeness = found
    y, x = np.nonzero(wanted)
    height, width = known.shape
    block, normal = halves.block, plane.normal
    # Places on the grid: the middle of its first texel is 0, and so is that of the map's first block.
    rows = ((y + 0.5) / block - 0.5).astype(np.float32)
    columns = ((x + 0.5) / block - 0.5).astype(np.float32)
    here = halves.points(rows, columns, sampled(halves.depth, rows, columns)[:, 0])
    there = here - (2 * (here @ normal - np.float32(plane.place)))[:, None] * normal
    rows, columns = halves.places(there)
    depth, surface = sampled(halves.layers, rows, columns)[:, 3:5].T
    behind = np.abs(depth / np.maximum(surface, 1e-6) - there[:, 2]) / np.float32(halves.side)
    rows, columns = (rows + 0.5) * block - 0.5, (columns + 0.5) * block - 0.5
    layers = np.concatenate([normals, np.ones((height, width, 1), np.float32)], axis=-1) * known[..., None]
    sample = sampled(framed(layers), rows, columns)
    vectors = unit(sample[:, :3])
    surely = rise(vectors[:, 2], *FACING) * (1 - rise(behind, CLOSE, NEAR))
    vectors -= (2 * (vectors @ normal))[:, None] * normal
    # Known all around, no other surface before or behind it, and not turned away from the camera.
    good = (sample[:, 3] > 0.9) & (surface > 0.9) & (surely > 0) & (vectors[:, 2] > -0.05)
    image[y[good], x[good]] = vectors[good]
    trust[y[good], x[good]] = surely[good]
    smooth = np.clip(evened(trust, wanted, block), 0, 1)
    return image, smooth * (trust > 0), unlikeness


class _Halves:
    """A map on a coarse grid, to be compared with its mirror image in space.

    Attributes:
        block: texels of the map for one of the grid, along an axis.
        side: the grid's longer side.
        depth: towards the camera, in texels of the grid, continued off the surface; framed, one layer.
        layers: unit normals, depth, surface and weight, each times surface; framed, two are empty.
        hidden: share of the surface that is not known.
    """

    def __init__(self, field: FloatArray, known: BoolArray, valid: BoolArray, side: int) -> None:
        self.block = block = -(-max(valid.shape) // side)
        vectors = block_sum(field * valid[..., None], block)
        area = np.float32(block * block)
        self.surface: BoolArray = block_sum(valid, block) > 0.5 * area
        self.side = max(self.surface.shape)
        vectors = unit(vectors)
        heights = relief(vectors, self.surface)
        weight = np.where(block_sum(known, block) > 0.9 * area, np.float32(1), np.float32(TRUST))
        layers = (vectors, heights[..., None], np.ones((*heights.shape, 1)), weight[..., None])
        self.layers = np.zeros((heights.shape[0] + 2, heights.shape[1] + 2, 8), np.float32)
        self.layers[1:-1, 1:-1, :6] = np.concatenate(layers, axis=-1) * self.surface[..., None]
        self.depth = framed(spread(heights[..., None], self.surface))
        y, x = np.nonzero(self.surface)
        self.hidden = float((weight[y, x] < 1).mean()) if y.size else 0.0
        self._vectors, self._weight = vectors[y, x], weight[y, x]
        apart = self._vectors - self._vectors.mean(axis=0) if y.size else self._vectors
        self._variance = max(float(np.vdot(apart, apart)) / max(y.size, 1), 1e-6)
        self._points = self.points(y, x, heights[y, x])
        self.middle: FloatArray = np.zeros(3, np.float32)
        if y.size:
            self.middle[:2] = (self._points.min(axis=0) + self._points.max(axis=0))[:2] / 2

    def points(self, rows: NDArray[Any], columns: NDArray[Any], depth: FloatArray) -> FloatArray:
        """Places on the grid as points in space, float32 (n, 3), seen from the grid's middle."""
        height, width = self.surface.shape
        stacked = [columns - (width - 1) / 2, (height - 1) / 2 - rows, depth]
        return np.stack(stacked, axis=-1).astype(np.float32)

    def places(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Rows and columns of points in space."""
        height, width = self.surface.shape
        return np.float32((height - 1) / 2) - points[:, 1], points[:, 0] + np.float32((width - 1) / 2)

    def unlikeness(self, plane: Plane) -> float:
        """How unlike the map is its mirror image, see `other_side`."""
        normal = plane.normal
        there = self._points - (2 * (self._points @ normal - np.float32(plane.place)))[:, None] * normal
        sample = sampled(self.layers, *self.places(there))
        surface = np.maximum(sample[:, 4], 1e-6)
        met = sample[:, 4] > 0.6
        vectors = sample[:, :3] - (2 * (sample[:, :3] @ normal))[:, None] * normal
        length = np.sqrt(dot(vectors, vectors))
        tips = 2 - 2 * dot(vectors, self._vectors) / np.maximum(length, 1e-6)
        behind = (sample[:, 3] / surface - there[:, 2]) / np.float32(NEAR * self.side)
        costs = tips / (1 + tips / ODD) + BEHIND * np.minimum(behind * behind, 1)
        weight = self._weight * (sample[:, 5] / surface) * met
        alone = float(self._weight[~met].sum())
        mean = (float(np.dot(weight, costs)) + LONELY * alone) / max(float(weight.sum()) + alone, 1e-6)
        return mean / self._variance

    def cost(self, plane: Plane, looks: Pose) -> float:
        """How unlike the map is its mirror image, and how far the plane is from where the head looks."""
        apart = _apart(plane, looks)
        return self.unlikeness(plane) + PRIOR * self.hidden**2 * apart / (1 + apart / LEVEL**2)

    def refined(self, plane: Plane, looks: Pose, steps: tuple[float, float, float]) -> tuple[float, Plane]:
        """A better plane near one, and its cost: pattern search (R. Hooke and T. A. Jeeves, 1961)."""
        least = self.cost(plane, looks)
        for halving in range(ROUNDS):
            for _ in range(PASSES):
                before = least
                for axis in range(3):
                    for sign in (1, -1):
                        at = [plane.yaw, plane.lean, plane.place]
                        at[axis] += sign * steps[axis] / 2**halving
                        trial = Plane(*at)
                        value = self.cost(trial, looks)
                        if value < least:
                            least, plane = value, trial
                            break
                if least == before:
                    break
        return least, plane


def _apart(plane: Plane, looks: Pose) -> float:
    """How far a plane is turned against a pose, in times as much as that may be off, squared."""
    return (1 - float(plane.normal @ looks.across) ** 2) / (looks.doubt**2 + LEAST_DOUBT**2)


def _find(field: FloatArray, known: BoolArray, valid: BoolArray) -> tuple[_Halves, Plane, float] | None:
    """A map's plane of symmetry, and how unlike the map still is its mirror image, see `other_side`."""
    coarse = _Halves(field, known, valid, COARSE)
    if np.count_nonzero(coarse.surface) < 16:
        return None
    looks = pose(field, known, valid)
    across, up, ahead = (float(value) for value in looks.across)
    lean, yaw = float(np.arctan2(up, across)), FLATTER * float(np.arctan2(ahead, np.hypot(across, up)))
    looks = replace(looks, across=Plane(yaw, lean, 0.0).normal)
    straight = [Plane(float(turn), 0.0, 0.0) for turn in YAWS]
    straight += [Plane(yaw + float(turn) * max(looks.doubt, LEAST_DOUBT), lean, 0.0) for turn in TURNS]
    trials = []
    for plane in straight:
        middle = float(plane.normal @ coarse.middle)
        for place in PLACES:
            moved = replace(plane, place=middle + float(place * coarse.side * np.cos(plane.yaw)))
            trials.append((coarse.cost(moved, looks), moved))
    trials.sort(key=lambda trial: trial[0])
    starts: list[Plane] = []
    turn, shift = float(YAWS[1] - YAWS[0]), 0.02
    for _, plane in trials:
        gaps = ((abs(plane.yaw - o.yaw), abs(plane.place - o.place) / coarse.side) for o in starts)
        if all(a > 1.2 * turn or b > 0.05 for a, b in gaps):
            starts.append(plane)
            if len(starts) == STARTS:
                break
    steps = (turn, turn, shift * coarse.side)
    _, best = min((coarse.refined(plane, looks, steps) for plane in starts), key=lambda found: found[0])
    fine = _Halves(field, known, valid, FINE)
    best = replace(best, place=best.place * coarse.block / fine.block)
    _, best = fine.refined(best, looks, (turn / 4, turn / 4, shift / 2 * fine.side))
    apart = _apart(best, looks)
    return fine, best, fine.unlikeness(best) * (1 + 2 * apart / (apart + AGAINST**2))


def relief(normals: FloatArray, surface: BoolArray, steps: int = 400, tolerance: float = 1e-3) -> FloatArray:
    """Integrate normals: weighted least squares over the slopes between neighbours.

    Slopes where the surface turns away say little and weigh little: Y. Quéau, J.-D. Durou and J.-F. Aujol,
    "Normal Integration: A Survey", Journal of Mathematical Imaging and Vision 60, 2018, section 3.

    Args:
        normals: float32 (h, w, 3), unit on the surface, x to the right, y up, z towards the camera.
        surface: bool (h, w).
        steps: of the solver, at most.
        tolerance: relative residual at which it ends.

    Returns:
        float32 (h, w): heights towards the camera in texels, of mean zero; zero off the surface.
    """
    system = _Slopes(normals, surface)
    result = solve(system, np.zeros_like(system.target), steps, tolerance)
    if surface.any():
        result -= result[surface].mean()
    return result * surface


class _Slopes:
    """What heights (h, w) have to be so that the slopes between neighbours are a map's: a `System`."""

    def __init__(self, normals: FloatArray, surface: BoolArray) -> None:
        """Args: normals (h, w, 3) and surface (h, w), see `relief`."""
        toward = np.maximum(normals[..., 2], np.float32(STEEP))
        right, up = np.moveaxis(-normals[..., :2] / toward[..., None], -1, 0)
        trust: FloatArray = np.square(np.clip(normals[..., 2], 0.05, 1), dtype=np.float32) * surface
        self._across: FloatArray = np.minimum(trust[:, 1:], trust[:, :-1])
        self._down: FloatArray = np.minimum(trust[1:], trust[:-1])
        half = np.float32(0.5)
        self.target: FloatArray = self._gathered(
            half * (right[:, 1:] + right[:, :-1]), -half * (up[1:] + up[:-1])
        )
        diagonal = np.zeros(surface.shape, np.float32)
        diagonal[:, 1:] += self._across
        diagonal[:, :-1] += self._across
        diagonal[1:] += self._down
        diagonal[:-1] += self._down
        self.inverse: FloatArray = np.divide(1, diagonal, out=np.zeros_like(diagonal), where=diagonal > 0)

    def _gathered(self, across: FloatArray, down: FloatArray) -> FloatArray:
        """What slopes from neighbour to neighbour, weighted, bring to each texel."""
        across, down = self._across * across, self._down * down
        total = np.zeros((len(across), down.shape[1]), np.float32)
        total[:, 1:] += across
        total[:, :-1] -= across
        total[1:] += down
        total[:-1] -= down
        return total

    def __call__(self, heights: FloatArray) -> FloatArray:
        """The slopes of heights, gathered likewise."""
        return self._gathered(heights[:, 1:] - heights[:, :-1], heights[1:] - heights[:-1])
