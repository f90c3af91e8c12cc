"""The first guess that the network sees in a hole, and improves on: what is known, continued."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from . import harmonic, relief, tension
from .closing import MARGIN, continued, mixed, planes_around, roughness
from .engine import BoolArray, FloatArray
from .head import USELESS, Drawn, Head
from .normals import dot, unit
from .regions import label
from .resample import between_blocks, block_means, box_around, evened, rise
from .symmetry import mirror_image

#: How far slopes lead, in texels of the network's grid. Measured on held-out heads at 160 texels: 4 is better
#: than 1.4 in thin holes (lines 3.81 and 4.03 degrees) and in large ones; more gains nothing.
REACH = 4.0

#: Where blocks of so many texels are this rough (`closing.roughness`), slopes lead in full, and where they
#: are that rough, one texel far. Seen: held-out heads 0.3 to 0.8, with skin or noise on them up to 1.6; skin
#: alone 2.6 to 3.3, a face's forms beneath it 1.8 to 3. Single texels do not tell: those of a head with skin
#: are as rough as skin alone; continued by its level, as if it were, lines were 6.4 degrees off, not 5.3.
BLOCK = 4
SHAPE, SKIN = 1.2, 2.0

#: Single texels this rough are noise in part and at that altogether: then means of four are continued.
CLEAN, NOISE = 1.6, 2.4

#: A mirror image that is less unlike the map than this is believed. Measured on eight held-out heads'
#: layouts (0.002 to 0.023): what it brings is 2.8 to 7.2 degrees off where one side is hidden, what the
#: network makes of it 7.5 to 11.9.
SURE = 0.03

#: In camera space, how unlike both halves of a head (see `relief.other_side`) may be for the other half to
#: count in full, and from where it does not count; and how doubtful a head may be that places it, likewise.
#: Measured with large holes in 96 held-out views of heads from anywhere: what a bound of (0.25, 0.4) lets in
#: gains 0.89 degrees on average with half hidden and 0.51 with a blob, at (0.15, 0.22) 0.80 and 0.48.
TWINS, PLACED = (0.25, 0.4), (0.15, USELESS)

#: From where on a head of the morphable model is too doubtful (see `core.head.Head.doubt`) to count itself.
FITS = 0.08

#: The odds of what shows a hole, the head or the other half, against the network's answer there. They grow
#: with the root of how deep a texel lies in what is shown, as a share of the map's longer side, at most
#: `DEEPEST`: none along the border, where the answer's seam is closed. They fall with how far off it is
#: nearby (`_nearby`, from `NEAR` on), and with what it leaves unexplained of what is fine around the hole
#: (`_unexplained`, from `LEFT` on): a scan may be met well, and have none of the model's creases, or others;
#: the hair beside a face is not its own mirror image. `BY_HEAD` for the other half that a head places,
#: `BY_RELIEF` for one by the map's relief, `TOLD` for the head itself, over the power 1.5 of its doubt and
#: `LEAST`. Fitted to 320 views with large and thin holes of ICT's and MakeHuman's heads, fitted by heads of
#: their own source or of the other one alone, changed and in skin, a mean of scans and one with hair: the
#: odds that err least go by the powers 0.54, -0.73, -1.2 and -1.7 of these, and with powers of their own for
#: each are no better by more than 0.5 per cent.
BY_HEAD, BY_RELIEF, TOLD, LEAST = 0.08, 0.18, 1.8e-4, 0.002
DEEPEST, NEAR, LEFT = 1 / 16, 0.002, 0.01

#: So deep texels of the border count as if they lay where what a head shows, or the other half by it, is no
#: farther off nearby than the first, and less and less up to the second: there its seam is closed as well.
#: Without it thin holes are up to a tenth worse; everywhere and by the relief, steps are seen along borders.
RIM, MET = 1 / 1024, (0.002, 0.008)

#: What is so far off nearby counts less and less, and from the second on not at all.
OFF = (0.06, 0.3)

#: What is fine: finer than blocks of that share of the longer side; and how far around the hole it is looked
#: at.
FINE, FINE_AROUND = 1 / 64, 1 / 32

#: How far off, squared, known texels may be to close its seam. A line of the lips or an edge that it shows a
#: texel beside its place is no difference to be carried on into the hole. Measured on 130 holes of ICT's and
#: MakeHuman's heads, as they are, changed and with skin, and of two scans: errors fall by 0.7 per cent on
#: average, of MakeHuman's by 2, and of none do they rise; at 0.05 to 0.5 likewise.
ASIDE = 0.1

#: Over which share of the map's longer side the other half comes to count from where it ends inside a hole,
#: of halves as unlike as can count in full; the more alike, the less. Seen on a head turned by 17 degrees:
#: without it a soft edge runs down the cheek; twice as wide, the eye is soft.
END = 0.064

#: Which part of that it is at least, and by the head.
HEAD_END = 0.3

#: What is finer than blocks of that share of the longer side counts more where all that is shown counts in
#: part, and goes by the squares of the odds: lids and a brow a little beside their place are an eye, half of
#: them and half of the network's blur are a shadow. By how much more at most; and how deep in what is shown,
#: as shares of the longer side, that begins and is in full. The other half is shown twice, by a head and by
#: the relief, a few texels apart: its coarse forms err least as a mean of both, but two lids beside each
#: other are none. So one of both alone counts for what is fine: that by a head which counts itself, for it is
#: led to where the head has things; or else the one with the larger odds.
COARSE, FINER, DEEP = 3 / 64, 0.75, (1 / 64, 3 / 64)

#: A head in more doubt has features beside the map's: an eye, a nose, a mouth somewhere else, and it counts
#: for little or nothing. But where neither half shows a hole the network's answer to a face of a kind that it
#: has not learned from is soft, a nose without nostrils; so what is fine of such a head has this share at
#: least, in full from the second doubt on, if the map shows a head at all (`Head.likely`): from so deep in
#: what is shown on, and less and less where the other half counts, by odds up to `ALONE`. Measured on the
#: only two heads of that kind at hand, with hair, in doubts of 0.12 to 0.17: blobs are 8.3 degrees off, not
#: 8.8, and 10.1, not 10.7, halves as before. Heads fitted by those of the other source alone, which the
#: network has learned from, in doubts of 0.06 to 0.12: 5.9 instead of 6.0, and 4.5 instead of 4.3.
FEATURES, DOUBTED, DEEPER, ALONE = 0.5, (0.06, 0.1), (1 / 32, 1 / 16), 0.03

#: Over blocks of which share of the longer side it is looked how far off something is nearby. No texel
#: counts as farther off than the last, squared: for a line of the lips that it has a texel lower, a head
#: would be left out all around the mouth.
NEARBY_SIDE, FARTHEST = 1 / 64, 0.35


def first_guess(
    normals: FloatArray,
    hole: BoolArray,
    valid: BoolArray,
    space: str,
    scale: float = 1.0,
    steps: int = tension.STEPS,
    symmetry: bool = True,
) -> tuple[FloatArray, BoolArray]:
    """Continue the known texels into the hole, level and slope, and the other half of a UV layout with them.

    Args:
        normals: float32 (h, w, 3), unit at known texels, finite everywhere.
        hole: bool (h, w), within valid.
        valid: bool (h, w), where there is a surface.
        space: "tangent", "object" or "camera". In camera space the other half is left
            alone, see `shown_by_twin`.
        scale: texels of the network's grid for one of these.
        steps: of the solver, at most.
        symmetry: whether the other half is looked for.

    Returns:
        float32 (h, w, 3): the known normals, the guess in the hole (unit, or zero where nothing known can
        reach), zero off the surface; and bool (h, w), texels of the hole where the other half tells so well
        that it is more than a guess.
    """
    known = valid & ~hole
    result: FloatArray = normals * known[..., None]
    unknown = hole & valid
    sure = np.zeros(hole.shape, np.bool_)
    if not unknown.any() or not known.any():
        return result, sure
    if symmetry and space != "camera":
        twin, there, unlikeness = _other_half(normals, unknown, known, space, scale, steps)
        if there.any():
            result[there] = twin
            known, unknown = known | there, unknown & ~there
            if unlikeness < SURE:
                sure = there
    if unknown.any():
        guess = _continued(result, unknown, known, REACH / scale, steps)
        length = np.sqrt(dot(guess, guess))[:, None]
        result[unknown] = guess / np.maximum(length, 1e-6) * (length > 1e-3)
    return result, sure


def slopes_lead(rough: float, reach: float) -> float:
    """How far slopes lead, in texels, in a map whose blocks are so rough."""
    share = min(1.0, max(0.0, (rough - SHAPE) / (SKIN - SHAPE)))
    return float(reach ** (1 - share) * min(1.0, reach) ** share)


def _continued(
    values: FloatArray, unknown: BoolArray, known: BoolArray, reach: float, steps: int
) -> FloatArray:
    """A map's known texels, continued into a hole, with slopes that lead as far as the map itself tells.

    Args:
        values: float32 (h, w, 3), unit at known texels.
        unknown: bool (h, w), the hole.
        known: bool (h, w).
        reach: in texels, how far slopes lead in a map that is all shape.
        steps: of the solver, at most.

    Returns:
        float32 (n, 3): the texels of the hole in reading order; zero where nothing known can reach.
    """
    planes, hole, around = planes_around(values, unknown, known, 9 * BLOCK)
    length = slopes_lead(roughness(planes, around, hole, BLOCK), reach)
    planes, hole, around = planes_around(values, unknown, known, MARGIN)
    result = mixed(
        roughness(planes, around, hole),
        (CLEAN, NOISE),
        lambda: tension.extend(planes, around, hole, length, steps),
        lambda: tension.extend_coarsely(planes, around, hole, length, steps),
    )
    return np.ascontiguousarray(result[:, hole].T)


@dataclass(frozen=True)
class Shown:
    """What something else than the network shows of a hole, its seam closed, and how much that counts.

    Attributes:
        there: bool (h, w), the texels, n of them.
        vectors: float32 (n, 3), unit but for edges, where they are shorter, in reading order.
        odds: float32 (n,), how many times as much it counts as the network's answer does.
        deep: float32 (n,), how deep they lie in what is shown, see `_deep`.
        coarse: whether, deep in a hole, only what is coarse of it counts, see `FINER`.
        features: the share that what is fine of it has at least, deep in a hole that nothing else shows.
    """

    there: BoolArray
    vectors: FloatArray
    odds: FloatArray
    deep: FloatArray
    coarse: bool = False
    features: float = 0.0

    @property
    def counts(self) -> bool:
        """Whether it counts by its odds at all."""
        return bool(self.odds.any())

    @property
    def weights(self) -> FloatArray:
        """The share (n,) that it has if nothing else shows anything, from 0 to 1."""
        return self.odds / (1 + self.odds)


def counted_together(
    by_relief: Shown | None, by_twin: Shown | None, own: Shown | None, gaps: BoolArray | None
) -> list[Shown]:
    """What a head and both views of the other half show, each counting beside the others.

    Of both views one alone counts for what is fine, see `FINER`. In a head's gaps, a mouth's opening, they
    count against what it shows itself as against the answer: there the other half knows more.

    Args:
        by_relief: the other half, placed by the map's relief.
        by_twin: the same, placed by a head.
        own: what that head shows itself, if it counts.
        gaps: bool (h, w), that head's gaps.
    """
    if by_relief is not None and by_twin is not None:
        if (own is not None and own.counts) or by_twin.odds.mean() >= by_relief.odds.mean():
            by_relief = replace(by_relief, coarse=True)
        else:
            by_twin = replace(by_twin, coarse=True)
    halves = [half for half in (by_relief, by_twin) if half is not None]
    if own is None or gaps is None:
        return halves
    times = np.ones(gaps.shape, np.float32)
    times[own.there] += own.odds * gaps[own.there]
    return [*(replace(half, odds=half.odds * times[half.there]) for half in halves), own]


def mixed_with(field: FloatArray, shown: Sequence[Shown]) -> FloatArray:
    """An answer and all that shows a hole besides, each counting by its odds.

    Args:
        field: float32 (h, w, 3), the answer, unit, shorter at edges.
        shown: what counts besides.

    Returns:
        float32 (h, w, 3), a mean of unit vectors; the answer itself where nothing is shown.
    """
    total, squares = np.ones(field.shape[:2], np.float32), np.zeros(field.shape[:2], np.float32)
    there = np.zeros(field.shape[:2], np.bool_)
    for one in shown:
        total[one.there] += one.odds
        squares[one.there] += 0 if one.coarse else one.odds**2
        there |= one.there
    result = field.copy()
    if not there.any():
        return result
    box = box_around(there, 0)
    change, fine = np.zeros((2, 3, *there[box].shape), np.float32)
    for one in shown:
        apart = (one.vectors - field[one.there]).T
        every = 1 - 1 / total[one.there]
        share = one.odds / total[one.there]
        fully = np.minimum(every * (1 + FINER * (1 - every)), 1)
        part = 0 if one.coarse else one.odds**2 / np.maximum(squares[one.there], np.float32(1e-20))
        more = np.where(squares[one.there] > 0, fully * part - share, 0) * rise(one.deep, *DEEP)
        if one.features:
            alone = 1 - rise(total[one.there] - 1 - one.odds, 0, ALONE)
            more = np.maximum(more, (one.features * alone - share) * rise(one.deep, *DEEPER))
        inside = one.there[box]
        change[:, inside] += apart * share
        fine[:, inside] += apart * more
    block = max(1, round(COARSE * max(there.shape)))
    coarse = np.stack([evened(plane, there[box], block)[there[box]] for plane in fine])
    change += fine
    moved = field[there] + (change[:, there[box]] - coarse * rise(_deep(there), *DEEP)).T
    result[there] = moved / np.maximum(np.sqrt(dot(moved, moved)), 1)[:, None]
    return result


def drawn_around(hole: BoolArray, valid: BoolArray, head: Head | None) -> Drawn | None:
    """A head in and around a hole, as the two below need it; None if it fits too badly to tell them anything.

    Args:
        hole: bool (h, w), within valid.
        valid: bool (h, w), where there is a surface.
        head: that was fitted to the known texels, if any.
    """
    if head is None or not head.tells:
        return None
    return head.drawn(_around(hole, valid))


def _around(hole: BoolArray, valid: BoolArray) -> BoolArray:
    """A hole and what of the surface around it tells what closes its seam: bool (h, w)."""
    area: BoolArray = harmonic.grow(hole, MARGIN) & valid
    return area


def shown_by_relief(
    predicted: FloatArray, normals: FloatArray, hole: BoolArray, valid: BoolArray, scale: float = 1.0
) -> Shown | None:
    """What the other half of a head shows of a hole in camera space, placed by the map's relief.

    Its errors are others than the network's, so that a mean errs less than either. Of a map whose halves are
    not alike nothing counts.

    Args:
        predicted: float32 (h, w, 3), the network's answer, unit in the hole, its seam closed.
        normals: float32 (h, w, 3), unit at known texels, finite everywhere.
        hole: bool (h, w), within valid.
        valid: bool (h, w), where there is a surface.
        scale: texels of the network's grid for one of these.

    Returns:
        None where it shows nothing.
    """
    known = valid & ~hole
    image, trust, unlikeness = relief.other_side(predicted, normals, known, valid, _around(hole, valid))
    most = BY_RELIEF * min(1.0, max(0.0, (TWINS[1] - unlikeness) / (TWINS[1] - TWINS[0])))
    wide = END * (HEAD_END + (1 - HEAD_END) * min(1.0, unlikeness / TWINS[0]) ** 2)
    trust = trust * np.float32(most)
    return _by_twin(image, trust, normals, hole, known, wide, scale, 0) if most else None


def shown_by_twin(
    normals: FloatArray, hole: BoolArray, valid: BoolArray, drawn: Drawn, scale: float = 1.0
) -> Shown | None:
    """The same, placed by a head, on which a texel's mirror image lies: no answer of the network is needed.

    Args:
        normals: float32 (h, w, 3), unit at known texels, finite everywhere.
        hole: bool (h, w), within valid.
        valid: bool (h, w), where there is a surface.
        drawn: a head that was fitted to the known texels, where `drawn_around` the hole.
        scale: texels of the network's grid for one of these.

    Returns:
        None where it shows nothing.
    """
    known = valid & ~hole
    most = BY_HEAD * (1 - float(rise(np.full(1, drawn.head.doubt, np.float32), *PLACED)[0]))
    if not most:
        return None
    other = drawn.other_side(normals, known)
    trust = other.trust * np.float32(most)
    return _by_twin(other.normals, trust, normals, hole, known, END * HEAD_END, scale)


def _by_twin(
    image: FloatArray,
    trust: FloatArray,
    normals: FloatArray,
    hole: BoolArray,
    known: BoolArray,
    wide: float,
    scale: float,
    rim: float = RIM,
) -> Shown | None:
    """What the other half shows of a hole, less and less towards where it ends inside.

    Args:
        image: float32 (h, w, 3), what it shows in and around the hole, zero where it does not.
        trust: float32 (h, w), how much it counts there before its surroundings are looked at.
        normals: float32 (h, w, 3), unit at known texels.
        hole: bool (h, w).
        known: bool (h, w).
        wide: over that share of the map's longer side.
        scale: texels of the network's grid for one of these.
        rim: see `_counted`.
    """
    seen = image.any(axis=-1)
    there = hole & seen
    if not there.any():
        return None
    shown = _counted(image, trust[there], normals, there, known & seen, scale, rim)
    wide *= max(hole.shape)
    if wide > 1:
        share = shown.weights * rise(_depth(~(hole & ~seen), int(np.ceil(wide)))[there], 0, wide)
        shown = replace(shown, odds=share / np.maximum(1 - share, np.float32(1e-6)))
    return shown


def shown_by_head(
    normals: FloatArray, hole: BoolArray, valid: BoolArray, drawn: Drawn, scale: float = 1.0
) -> Shown | None:
    """What a head of the morphable model shows of a hole in camera space; None where it does not fit.

    Where an eye, a nose, a mouth or an ear is hidden whole, the answer of the network is a soft mean of those
    that may be there; the model's is one of them.

    Args:
        normals: float32 (h, w, 3), unit at known texels, finite everywhere.
        hole: bool (h, w), within valid.
        valid: bool (h, w), where there is a surface.
        drawn: a head that was fitted to the known texels, where `drawn_around` the hole.
        scale: texels of the network's grid for one of these.
    """
    doubt, likely = drawn.head.doubt, drawn.head.likely
    features = FEATURES * likely * float(rise(np.full(1, doubt, np.float32), *DOUBTED)[0])
    if doubt >= FITS and not features:
        return None
    known, image = valid & ~hole, drawn.means
    box = box_around(hole, MARGIN)
    seen = image.any(axis=-1) & valid
    apart = normals[box] - unit(image[box])
    seen[box] &= ~_shown_otherwise(drawn.opened[box], apart, known[box])
    there = hole & seen
    if not there.any():
        return None
    told = np.float32(TOLD * max(0.0, 1 - (doubt / FITS) ** 3) / (doubt + LEAST) ** 1.5)
    shown = _counted(image, told, normals, there, known & seen, scale)
    return replace(shown, features=features)


def _counted(
    image: FloatArray,
    told: FloatArray | np.float32,
    normals: FloatArray,
    there: BoolArray,
    beside: BoolArray,
    scale: float,
    rim: float = RIM,
) -> Shown:
    """What shows a hole, its seam closed, and how much it counts by what is known around the hole.

    Args:
        image: float32 (h, w, 3), what it shows in and around the hole.
        told: float32 (n,) or one for all, how much it counts before that.
        normals: float32 (h, w, 3), unit at known texels.
        there: bool (h, w), the n texels of the hole that it shows.
        beside: bool (h, w), known texels that it shows.
        scale: texels of the network's grid for one of these.
        rim: how deep texels of the border count as if they lay, see `RIM`.
    """
    box, side = box_around(there, MARGIN), max(there.shape)
    inside, beside = there[box], beside[box]
    apart = normals[box] - unit(image[box])
    near = _nearby(apart, beside, inside, side)
    left = np.float32(_unexplained(apart, normals[box], inside, beside, side) + LEFT)
    deep = _deep(there)
    lies = deep + np.float32(rim) * (1 - rise(near, *MET))
    odds = told * np.sqrt(lies) / ((near + np.float32(NEAR)) * left) * (1 - rise(near, *OFF))
    return Shown(there, image[there] + _closing(apart, inside, beside, REACH / scale), odds, deep)


def _unexplained(
    apart: FloatArray, normals: FloatArray, there: BoolArray, beside: BoolArray, side: int
) -> float:
    """Which share of what is fine of a map around a hole a head leaves unexplained: near 0 where it has all.

    Args:
        apart: float32 (h, w, 3), how far off it is at known texels.
        normals: float32 (h, w, 3), of a part of the map.
        there: bool (h, w), the hole.
        beside: bool (h, w), known texels where it shows anything.
        side: the map's longer side.
    """
    around = harmonic.grow(there, max(4, round(FINE_AROUND * side))) & beside
    if not around.any():
        return 1.0
    block = max(2, round(FINE * side))

    def energy(field: FloatArray) -> float:
        planes = np.ascontiguousarray(np.moveaxis(field, -1, 0))
        return float(
            sum(np.square((plane - evened(plane, beside, block))[around]).mean() for plane in planes)
        )

    return (energy(apart) + 1e-6) / (energy(normals) + 1e-5)


def _shown_otherwise(opened: BoolArray, apart: FloatArray, known: BoolArray) -> BoolArray:
    """Wide gaps of a head in which the map shows something else: there its mouth is not open, or otherwise.

    Args:
        opened: bool (h, w), see `Drawn.opened`.
        apart: float32 (h, w, 3), how far off the head is at known texels.
        known: bool (h, w).
    """
    if not opened.any():
        return opened
    parts, count = label(opened)
    inside, vectors = parts[known], apart[known]
    texels = np.bincount(inside, minlength=count + 1)
    off = np.bincount(inside, dot(vectors, vectors), count + 1) > ASIDE * texels
    off[0] = False
    return np.asarray(off[parts])


def _deep(there: BoolArray) -> FloatArray:
    """How deep texels lie in what is shown of a map, bool (h, w): float32 (n,), in reading order.

    In shares of the map's longer side, at most `DEEPEST`.
    """
    side = max(there.shape)
    deep: FloatArray = _depth(there, int(np.ceil(DEEPEST * side)))[there] / np.float32(side)
    return np.minimum(deep, np.float32(DEEPEST))


def _closing(apart: FloatArray, there: BoolArray, beside: BoolArray, reach: float) -> FloatArray:
    """What closes the seam of what is shown: float32 (n, 3), for the texels of an area in reading order.

    Args:
        apart: float32 (h, w, 3), how far off it is at known texels.
        there: bool (h, w), the area.
        beside: bool (h, w), known texels.
        reach: see `closing.continued`.
    """
    near = beside & (dot(apart, apart) < ASIDE)
    if not near.any():
        return np.zeros((np.count_nonzero(there), apart.shape[-1]), np.float32)
    return continued(apart, there, near, reach)


def _nearby(apart: FloatArray, known: BoolArray, there: BoolArray, side: int) -> FloatArray:
    """How far off a head is beside texels of the hole: mean square at known texels, continued harmonically.

    Args:
        apart: float32 (h, w, 3), how far off it is at known texels.
        known: bool (h, w).
        there: bool (h, w), the texels asked for.
        side: the map's longer side.

    Returns:
        float32 (n,), in reading order.
    """
    block = max(1, round(NEARBY_SIDE * side))
    squares = np.minimum(dot(apart, apart), FARTHEST)
    means, some = block_means(squares, known, block)
    if not some.any():  # nothing speaks for it
        return np.full(np.count_nonzero(there), FARTHEST, np.float32)
    means = harmonic.extend(means[None], some, ~some)[0]
    result: FloatArray = np.maximum(between_blocks(means, block, known.shape), 0)[there]
    return result


def _depth(inside: BoolArray, most: int) -> FloatArray:
    """How deep texels lie in an area, 0 at its edge, at most so many: float32 (h, w), 0 outside."""
    result = inside * np.float32(most)
    if inside.any() and not inside.all():
        # Its edge lies beside it, and what is farther from the edge lies deep enough.
        boxes = zip(box_around(inside, 1), box_around(~inside, most + 1), strict=True)
        box = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in boxes)
        result[box] = np.maximum(harmonic.steps_from(~inside[box], inside[box], most + 1) - 1, 0)
    return result


def _other_half(
    normals: FloatArray,
    unknown: BoolArray,
    known: BoolArray,
    space: str,
    scale: float,
    steps: int,
) -> tuple[FloatArray, BoolArray, float]:
    """What the other half shows of a hole, its seam closed.

    Returns:
        float32 (n, 3), unit: texels in reading order; bool (h, w), where they lie: nowhere, if the map is
        more unlike its mirror image than `symmetry.LIKE`; and how unlike both are.
    """
    image, seen, unlikeness = mirror_image(normals, unknown, known | unknown, space)
    there = unknown & seen
    if not there.any():
        return np.zeros((0, 3), np.float32), there, unlikeness
    change = continued(normals - image, there, known & seen, REACH / scale, steps)
    return unit(image[there] + change), there, unlikeness
