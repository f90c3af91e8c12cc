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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event

import numpy as np
from numpy.typing import NDArray

from .bending import AROUND, Bend, goals, origins
from .engine import BoolArray, FloatArray
from .harmonic import grow
from .head import Family, Head, Picture, View
from .normals import cross, dot, unit
from .pose import Pose, arrays_of, pose
from .raster import IntArray
from .resample import block_sum, box_around, rise

#: Texels along the longer side of the grids on which a head is placed, its shape found, and made exact; and,
#: at most, of that on which its picture is bent around holes. Made exact on 128, heads of the model's own
#: sources are 3 to 15 per cent farther off where they are hidden, on 192 up to 4; others are as far off.
PLACING, SHAPING, FINISHING, BENDING = 32, 64, 256, 512

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

#: Each family's first steps: how many places are left for them, and how many modes each may move. Place and
#: turn alone tell badly which is best, some modes tell well. Measured on 52 views with large holes of 23
#: heads, hidden texels: so 4.47 degrees; with two steps of place and turn, and two places left after them,
#: 4.93 in more time; with two such steps and all six places left to the end 4.52; nine places tried, 4.49.
FIRST = ((6, (0,)), (4, (20,)), (2, (40, 80)))

#: Most steps with all modes, and by which share the misfit must fall for another; steps on the finest grid.
MOST, GAIN, LAST = 10, 0.03, 4

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

#: A head in so much doubt is bent less and less to lie over what is known around holes, and from there on not
#: at all: it has other features, not the same ones beside their place. With all of it, what is shown of heads
#: fitted by those of another source alone (doubt 0.05 to 0.12) is 2 to 4 per cent worse, in strands 7; heads
#: changed by bumps (0.01 to 0.05) are 16 per cent worse in thin holes if none is.
STIFF = (0.04, 0.07)

#: Which axis a head has is told better than which way up it is: if the best one is in so much doubt, heads
#: that are the other way up are tried. Seen: 0.16 to 0.4 where it should have been, scans with hair 0.13.
OVER = 0.15

#: If its pose is in less doubt than the first, in radians, a map shows a head; from the second on it may be
#: anything. Seen: 0.02 to 0.035 for heads, two that the network for the pose has never seen among them, 0.06
#: to 0.14 for a hand, 0.18 to 0.37 for a torso and legs, to which a head fits as well as to a scan with hair.
POSED = (0.04, 0.06)

#: Degree of the polynomial that stands for a smooth field; squared distance of tips beyond which it does not
#: matter how far off it is.
SMOOTH, FAR = 3, 0.25

#: Texels are no independent witnesses: all of them count as so many, each off by as much as they are off in
#: the mean, squared, times `NOISE`, but no less than `EXACT`.
WITNESSES, NOISE, EXACT = 400.0, 0.7, 2e-4

#: Texels whose changes a step tells apart, about; how much of what the steps before it saw lasts; and by
#: which share each number of the head is held, for these texels do not tell all of them. With 700 texels and
#: a tenth of that hold, 152 views of 38 heads were up to 8 per cent farther off where they are hidden, and by
#: rounding alone one of five heads ended 0.8 degrees elsewhere. Where a step leads all known texels tell:
#: when every so-manieth did, they were 1 to 5 per cent farther off, and one texel could lead elsewhere.
ENOUGH, LASTING, HELD = 1000, 0.5, 0.01

#: Fewer known texels that show the head are no evidence.
FEWEST = 150

#: Nearness of an average camera, its reciprocal distance in centimetres; it varies by as much again.
NEARNESS, NEAREST = 0.01, 0.03

#: No mode is moved by more than so many standard deviations.
MOST_UNUSUAL = 3.5


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


@dataclass(frozen=True)
class _Seen:
    """A head of a family as a view shows it on a grid.

    Attributes:
        family: of the head.
        view: of it.
        grid: of the map.
        steps: that led to it on that grid.
        curvature: float64 (7 + k, 7 + k), of the misfit, as those with so many modes found it; see `_step`.
    """

    family: Family
    view: View
    grid: _Grid
    steps: int = 0
    curvature: NDArray[np.float64] | None = None

    @functools.cached_property
    def picture(self) -> Picture:
        """Drawn once, for all that look at it."""
        return Picture(self.family, self.view, self.grid.shape)


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
            step = float(data[f"unit{number}"])
            result.append(Family(mean, modes, step, triangles, data[f"lids{number}"]))
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


def packed(head: Head) -> NDArray[np.float64]:
    """All numbers of a head but the shape of its map, float64 (n,), for sending it elsewhere."""
    view, bend = head.view, head.view.bend
    number = [family is head.family for family in families(default_path())].index(True)
    rest = view.scale, view.row, view.column, view.nearness
    numbers = [number, head.doubt, head.likely, *rest, view.weights.size]
    parts = [np.array(numbers, np.float64), view.rotation.reshape(-1), view.weights]
    if bend is not None:
        numbers = [*bend.moves.shape[:2], *bend.corner, bend.pitch]
        parts += [np.array(numbers, np.float64), bend.moves.reshape(-1).astype(np.float64)]
    return np.concatenate(parts)


def unpacked(numbers: NDArray[np.float64], shape: tuple[int, ...]) -> Head:
    """The head that `packed` gave, on a map of a shape."""
    number, doubt, likely, scale, row, column, nearness, count = (float(value) for value in numbers[:8])
    weights, rest = np.split(numbers[17:], [int(count)])
    bend = None
    if rest.size:
        moves = rest[5:].reshape(int(rest[0]), int(rest[1]), 2).astype(np.float32)
        bend = Bend(moves, rest[2:4], float(rest[4]))
    view = View(numbers[8:17].reshape(3, 3), scale, row, column, nearness, weights, bend)
    return Head(families(default_path())[int(number)], view, (shape[0], shape[1]), doubt, likely)


def fitted(normals: FloatArray, known: BoolArray, valid: BoolArray) -> Head | None:
    """Fit a head to what is known of a map.

    Args:
        normals: float32 (h, w, 3), unit at known texels, finite everywhere, in camera space.
        known: bool (h, w).
        valid: bool (h, w), where there is a surface.

    Returns:
        The head of the family that fits best, its picture bent around holes; None where nothing fits at all.

    Raises:
        InpaintError: `weights_missing` or `weights_damaged`.
    """
    looks = pose(normals, known, valid)
    grids = [_Grid(normals, known, valid, side) for side in (PLACING, SHAPING, FINISHING)]
    shape = valid.shape[0], valid.shape[1]
    best = _best(grids, looks, shape)
    if best is None or best.doubt >= OVER:
        best = min((best, _best(grids, replace(looks, across=-looks.across), shape)), key=_doubt_of)
    if best is None or not best.tells:
        return best
    best = replace(best, likely=1 - float(rise(np.full(1, looks.doubt, np.float32), *POSED)[0]))
    return _bent(best, _Grid(normals, known, valid, BENDING))


def _doubt_of(head: Head | None) -> float:
    return np.inf if head is None else head.doubt


def _best(grids: Sequence[_Grid], looks: Pose, shape: tuple[int, int]) -> Head | None:
    """The head of any family that fits best, if it looks about that way.

    Args:
        grids: of the map, on which it is placed, its shape found, and made exact.
        looks: the head, as far as is known.
        shape: of the map.
    """
    place, grid, last = grids
    begun: list[tuple[float, Family, _Seen]] = []
    enough = Event()
    with ThreadPoolExecutor() as beside:
        # Each on a core of its own: NumPy takes one.
        for one in [
            beside.submit(_begun, family, place, grid, looks, enough) for family in families(default_path())
        ]:
            begun += one.result()
            if begun and min(misfit for misfit, _, _ in begun) < CLEAR:
                enough.set()
                break
    begun.sort(key=lambda one: one[0])
    best: Head | None = None
    ended: list[tuple[Family, View]] = []
    for misfit, family, seen in begun:
        # A head that fits all but well may have ended in the wrong place.
        if best is not None and (best.doubt < DOUBTFUL or misfit > RIVAL * begun[0][0]):
            break
        if any(family is other and not _apart(seen.view, before, grid) for other, before in ended):
            continue
        ended.append((family, seen.view))
        head = _finished(family, seen, last, shape)
        if head is not None and (best is None or head.doubt < best.doubt):
            best = head
    return best


def _begun(
    family: Family, place: _Grid, grid: _Grid, looks: Pose, enough: Event
) -> list[tuple[float, Family, _Seen]]:
    """The first steps of a family's heads from where they may lie: how badly each fits, and its light one.

    Args:
        family: of the heads.
        place: of the map, on which they are placed.
        grid: on which steps are taken.
        looks: the head, as far as is known.
        enough: set when no more are needed.
    """
    starts = _placed(family, place, looks, FIRST[0][0])
    share = place.block / grid.block
    tries = [(0.0, _Seen(family.light, start.on_grid(share), grid)) for start in starts]
    for left, counts in FIRST:
        after = []
        for _, start in tries[:left]:
            if enough.is_set():
                return []
            seen = _stepped(start, counts)
            if seen is not None:
                after.append((_misfit(seen, grid.known), seen))
        tries = sorted(after, key=lambda one: one[0])
    return [(misfit, family, seen) for misfit, seen in tries]


def _bent(head: Head, grid: _Grid) -> Head:
    """A head whose picture is bent to lie over what is known around holes: no head is quite like another."""
    share = 1 - rise(np.full(1, head.doubt, np.float32), *STIFF)[0]
    if not grid.hidden.any() or share == 0:
        return head
    box = box_around(grid.hidden, AROUND)
    hidden = grid.hidden[box]
    view = head.view.on_grid(1 / grid.block)
    view = replace(view, row=view.row - box[0].start, column=view.column - box[1].start)
    picture = Picture(head.family, view, hidden.shape, grow(hidden, AROUND))
    shown = np.zeros((*hidden.shape, 3), np.float32)
    shown.reshape(-1, 3)[picture.texels] = picture.normals
    down, across = goals(origins(shown, grid.normals[box], hidden)) * (share / np.float32(view.scale))
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


def _blinked(seen: _Seen) -> _Seen:
    """The view, with eyes open or closed as the map has them: steps do not lead from one to the other."""
    view = seen.view
    lids = seen.family.lids[: view.weights.size].astype(np.float64)
    along = float(lids @ lids)
    if along < 1e-6:
        return seen
    now = float(view.weights @ lids) / along
    others = (replace(view, weights=view.weights + (to - now) * lids) for to in BLINKS)
    return min((seen, *(replace(seen, view=other) for other in others)), key=_plainly_off)


def _plainly_off(seen: _Seen) -> float:
    """Mean squared distance of tips where known texels show a head, of each at most `FAR`."""
    picture, grid = seen.picture, seen.grid
    known = grid.known.reshape(-1)[picture.texels]
    if not known.any():
        return np.inf
    apart = (grid.normals.reshape(-1, 3)[picture.texels] - picture.normals)[known]
    return float(np.minimum(dot(apart, apart), FAR).mean())


def _finished(family: Family, seen: _Seen, last: _Grid, shape: tuple[int, int]) -> Head | None:
    """The head after all steps, on a map of a shape; None if too little of it is seen.

    Args:
        family: of the head.
        seen: a light one of that family after its first steps.
        last: the grid on which it is made exact.
        shape: of the map.
    """
    count, before = family.lids.size, np.inf
    seen = _blinked(seen)
    for number in range(MOST):
        step = _step(seen, count)
        if step is None:
            return None
        seen, misfit = step
        if number > 1 and misfit > before * (1 - GAIN):
            break
        before = misfit
    view = _blinked(seen).view.on_grid(seen.grid.block / last.block)
    finished = _stepped(_Seen(family, view, last), (count,) * LAST)
    if finished is None:
        return None
    return Head(family, finished.view.on_grid(last.block), shape, _doubt(finished))


def _placed(family: Family, grid: _Grid, looks: Pose, most: int) -> list[View]:
    """Where the mean head may lie, at most so many: turned as it looks, its normals most like the map's."""
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
        # At a scale of one, from the head's origin: those of any scale follow.
        flat = np.ascontiguousarray((view.places(view.seen(family.mean[front])) - np.float32(middle)).T)
        for across_map in WIDTHS:
            view = replace(view, scale=side / across_map)
            column, row = np.rint(flat * np.float32(view.scale) + np.float32(middle))
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
        if len(result) < most and all(apart):
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


def _stepped(seen: _Seen, counts: Sequence[int]) -> _Seen | None:
    """A head after some steps with so many modes each; None if too little of it is seen."""
    for count in counts:
        step = _step(seen, min(count, seen.family.lids.size))
        if step is None:
            return None
        seen = step[0]
    return seen


def _doubt(seen: _Seen) -> float:
    """See `Head.doubt`. Any smooth surface is like a forehead: that does not make it one."""
    grid = seen.grid
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
    return _misfit(seen, near) / max(left, 1e-6)


def _misfit(seen: _Seen, expected: BoolArray) -> float:
    """How badly a head fits.

    Args:
        seen: the head.
        expected: bool (h, w), the texels that it should cover.

    Returns:
        Mean squared distance of its normals' tips from the known ones', of texels that are not too far off,
        neighbours averaged; and `UNCOVERED` times the share of expected texels that do not show it.
    """
    picture, grid = seen.picture, seen.grid
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


def _slopes(picture: Picture, shape: tuple[int, int]) -> FloatArray:
    """How a picture's normals change for one column and one row: float32 (p, 2, 3), zero at its edges."""
    field = np.zeros((shape[0] * shape[1], 4), np.float32)
    field[picture.texels, :3] = picture.normals
    field[picture.texels, 3] = 1
    planes = field.reshape(*shape, 4)
    slopes = np.zeros((*shape, 2, 3), np.float32)
    right, left, down, up = planes[:, 2:], planes[:, :-2], planes[2:], planes[:-2]
    slopes[:, 1:-1, 0] = (right - left)[..., :3] * (0.5 * right[..., 3:] * left[..., 3:])
    slopes[1:-1, :, 1] = (down - up)[..., :3] * (0.5 * down[..., 3:] * up[..., 3:])
    result: FloatArray = slopes.reshape(-1, 2, 3).take(picture.texels, axis=0)
    # Where depth jumps there is no slope.
    result *= (np.abs(result).reshape(-1, 6).sum(axis=1) < 1.2)[:, None, None]
    return result


def _step(seen: _Seen, count: int) -> tuple[_Seen, float] | None:
    """One Gauss-Newton step of a view and its first modes, each of them standard normal beforehand.

    Returns:
        The head after it, and the misfit before it; None where too little of the head is seen.
    """
    family, view, grid, picture = seen.family, seen.view, seen.grid, seen.picture
    known = grid.known.reshape(-1)[picture.texels]
    if np.count_nonzero(known) < FEWEST:
        return None
    apart = grid.normals.reshape(-1, 3)[picture.texels] - picture.normals
    squares = dot(apart, apart)
    mean = float(np.minimum(squares[known], 1).mean())
    weights = known * _counts(squares, min(2.0, max(NARROW, WIDE * mean**0.5)))
    misfit = float(np.dot(weights, squares) / max(float(weights.sum()), 1e-6))
    used = np.flatnonzero(weights > 1e-3)
    if used.size < FEWEST:
        return None
    # Where it leads all texels tell; how far, for all of its numbers together, some of them do.
    slopes = _slopes(picture, grid.shape)
    amounts = apart[used] * (weights[used] / np.float32(used.size))[:, None]
    slope = _growth(seen, slopes, used, amounts, count)
    some = used[_evenly(picture.texels[used], grid.shape, ENOUGH, seen.steps)]
    change = _changes(seen, slopes, some, count).reshape(3 * some.size, -1)
    weighted = change * np.repeat(weights[some] / np.float32(some.size), 3)[:, None]
    curvature = _products(weighted, change).astype(np.float64)
    if seen.curvature is not None and seen.curvature.shape == curvature.shape:
        curvature += (seen.curvature - curvature) * LASTING
    # In units of the texels' own uncertainty.
    certain = WITNESSES / (NOISE * max(misfit, EXACT))
    now, prior = np.zeros(7 + count), np.ones(7 + count)
    moved_so_far = min(count, view.weights.size)
    now[7 : 7 + moved_so_far] = view.weights[:moved_so_far]
    now[6] = view.nearness / NEARNESS - 1
    prior[:7] = 0.01, 0.01, 0.01, 1e-4, 1e-4, 1, 0.5
    damping = prior + HELD * certain * np.diag(curvature)
    try:
        step = np.linalg.solve(certain * curvature + np.diag(damping), certain * slope - prior * now)
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
    return _Seen(family, moved, grid, seen.steps + 1, curvature), misfit


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


def _evenly(texels: NDArray[np.intp], shape: tuple[int, int], most: int, turn: int) -> NDArray[np.intp]:
    """Which of some texels of a grid to look at: about so many, evenly spread, others at each turn.

    Where one lies tells, so that one more or less leaves the others as they are: M. Roberts's R2 sequence
    ("The Unreasonable Effectiveness of Quasirandom Sequences", 2018).
    """
    row, column = np.divmod(texels, shape[1])
    place = row * 0.7548776662466927 + column * 0.5698402909980532 + turn * 0.618033988749895
    return np.flatnonzero(place % 1 * texels.size < most)


def _pulls(
    seen: _Seen, slopes: FloatArray, texels: NDArray[np.intp], along: FloatArray
) -> tuple[FloatArray, FloatArray, IntArray]:
    """By how much normals at texels move along some vectors, as the head does.

    A normal at a texel changes as its surface turns, and as what is seen there moves on.

    Args:
        seen: the head.
        slopes: float32 (m, 2, 3), how all normals of its picture change along columns and rows.
        texels: (p,) which of the picture's texels.
        along: float32 (p, 3).

    Returns:
        float32 (p, 7), for turns about the camera's axes, column, row, logarithm of the scale and nearness
        (in units of `NEARNESS`); float32 (p, 3, 3), for moves of the corners of the triangle there: all that
        a mode does is linear in these; and those corners, (p, 3).
    """
    view, picture = seen.view, seen.picture
    corners = seen.family.triangles.take(picture.triangles[texels], axis=0)
    weights, normals = picture.weights.take(texels, axis=0), picture.normals.take(texels, axis=0)
    first, second, third = (picture.seen.take(corners[:, i], axis=0) for i in range(3))
    here = weights[:, :1] * first + weights[:, 1:2] * second + weights[:, 2:] * third
    enlargement = view.enlargement(here)
    flat = np.float32(view.scale) * enlargement
    deep = flat * enlargement
    # What is seen moves by a column, or by a row, and in space.
    column, row = (-dot(slopes[:, axis].take(texels, axis=0), along) for axis in range(2))
    nearer = deep * (column * here[:, 0] - row * here[:, 1])
    moved = np.stack([flat * column, -flat * row, np.float32(view.nearness) * nearer], axis=1)
    placed = np.empty((texels.size, 7), np.float32)
    placed[:, :3] = cross(normals, along) + cross(here, moved)
    placed[:, 3], placed[:, 4] = column, row
    placed[:, 5] = dot(here[:, :2], moved[:, :2])
    placed[:, 6] = nearer * here[:, 2] * np.float32(NEARNESS)
    # The triangle turns as its edges do.
    edges = second - first, third - first
    area = cross(*edges)
    size = np.maximum(np.sqrt(dot(area, area)), np.float32(1e-9))
    turned = np.asarray((along - dot(along, normals)[:, None] * normals) / size[:, None], np.float32)
    turns = cross(edges[1], turned), cross(turned, edges[0])
    by_corner = weights[..., None] * moved[:, None]
    by_corner[:, 0] -= turns[0] + turns[1]
    by_corner[:, 1] += turns[0]
    by_corner[:, 2] += turns[1]
    return placed, by_corner, corners


def _growth(
    seen: _Seen, slopes: FloatArray, texels: NDArray[np.intp], along: FloatArray, count: int
) -> NDArray[np.float64]:
    """The sums over texels of what `_pulls` tells, for a view and its first modes: float64 (7 + count,)."""
    placed, by_corner, corners = _pulls(seen, slopes, texels, along)
    at, pulls, size = corners.reshape(-1), by_corner.reshape(-1, 3), len(seen.family.mean)
    by_vertex = np.stack([np.bincount(at, pulls[:, axis], size) for axis in range(3)], axis=1)
    by_mode = seen.family.along(by_vertex @ seen.view.rotation, count)
    return np.concatenate([placed.sum(axis=0, dtype=np.float64), by_mode])


def _changes(seen: _Seen, slopes: FloatArray, texels: NDArray[np.intp], count: int) -> FloatArray:
    """How the normals at texels change with a view and its first modes: float32 (p, 3, 7 + count)."""
    axes = np.tile(np.eye(3, dtype=np.float32), (texels.size, 1))
    placed, by_corner, corners = _pulls(seen, slopes, texels.repeat(3), axes)
    result = np.empty((texels.size, 3, 7 + count), np.float32)
    result[..., :7] = placed.reshape(-1, 3, 7)
    moves = seen.family.moves(corners[::3].reshape(-1), count).reshape(texels.size, 9, count)
    by_corner = by_corner.reshape(-1, 3) @ seen.view.rotation.astype(np.float32)
    np.einsum("pij,pjk->pik", by_corner.reshape(-1, 3, 9), moves, out=result[..., 7:])
    return result
