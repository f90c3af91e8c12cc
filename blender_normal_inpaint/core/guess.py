"""The first guess that the network sees in a hole, and improves on: what is known, continued."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import harmonic, relief, tension
from .closing import MARGIN, continued, mixed, planes_around, roughness
from .engine import BoolArray, FloatArray
from .head import USELESS, Drawn, Head
from .normals import unit
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
#: count in full, and from where it does not count. Measured with large holes in 96 held-out views of heads
#: from anywhere: they gain 0.89 degrees on average with half hidden and 0.51 with a blob, and the largest
#: loss is one that every such bound lets in; at (0.15, 0.22) they gain 0.80 and 0.48.
TWINS = (0.25, 0.4)

#: A head as doubtful as `FITS`, and a map whose halves are so unlike, tell equally well which texels are each
#: other's mirror image. Seen with half hidden: a scan without mouth and chin, doubt 0.11 and unlikeness 0.08,
#: 1 degree worse by the head; one with hair, 0.14 and 0.47, 0.7 better; one cut off below the nose, 0.07 and
#: 0.19, 1.9 better; whole heads, 0.02 and 0.1, 0.5 to 1 better.
ALIKE = 0.1

#: How doubtful a head may be to tell that in full, and from where it cannot; and how far off, squared, the
#: other half is at known texels nearby where it counts half, for a face may be its own mirror image and its
#: hair not.
PLACED, TWIN_NEARBY = (0.08, USELESS), 0.15

#: How far off, squared, known texels may be to close its seam, or that of a head. A line of the lips or an
#: edge that it shows a texel beside its place is no difference to be carried on into the hole. Measured on
#: 130 holes of ICT's and MakeHuman's heads, as they are, changed and with skin, and of two scans: errors fall
#: by 0.7 per cent on average, of MakeHuman's by 2, and of none do they rise; at 0.05 to 0.5 likewise.
ASIDE = 0.1

#: How much the other half counts deep inside of what it shows; and how deep, as a share of the map's longer
#: side, it counts half of that. The network is better along the border.
SHARE, FADE = 0.9, 0.008

#: Over which share of the map's longer side it comes to count from where it ends inside a hole, of halves as
#: unlike as can count in full; the more alike, the less. Seen on a head turned by 17 degrees: without it a
#: soft edge runs down the cheek; twice as wide, the eye is soft.
END = 0.064

#: Which part of that it is by the head.
HEAD_END = 0.25

#: What the other half has finer than blocks of that share of the longer side counts more where all of it
#: counts in part: lids and a brow a little beside their place are an eye, half of them and half of the
#: network's blur are a shadow. By how much more at most; and how deep in what it shows, as shares of the
#: longer side, that begins and is in full. Measured on scans and on changed heads, no error changes by more
#: than 1.5 per cent; in thin holes as well, a scan's are 5 per cent worse, and likewise what the head shows.
COARSE, FINER, DEEP = 3 / 64, 1.5, (1 / 64, 3 / 64)

#: From where on a head of the morphable model is too doubtful (see `core.head.Head.doubt`) to count. Before
#: that its odds against the network are `TOLD` times the root of how deep a texel lies, as a share of the
#: map's longer side, at most `DEEPEST`, over its doubt and what it leaves unexplained. The latter is measured
#: of what is finer than blocks of `FINE` of that side, as far around the hole as `FINE_AROUND`: a scan may be
#: met well, and have none of the model's creases, or others. Fitted to 180 views with large and thin holes of
#: heads of its own sources, such heads changed and in skin, and a mean of scans: the odds that err least
#: go by the powers 0.48, -0.87 and -1.0 of these.
FITS, TOLD, DEEPEST, FINE, FINE_AROUND = 0.08, 0.09, 1 / 32, 1 / 64, 1 / 32

#: Deep inside, what it has finer than `COARSE` counts so many times as much, but no more than that for it: an
#: ear that counts for a fifth, where the network knows of none, is the ghost of one. Measured with large
#: holes: errors rise by less than 0.5 per cent, of heads changed by 0.1 cm by 2; all of it that fine in full,
#: the mean of scans is 8 per cent worse.
FAINT, PLAIN = 3.0, 0.6

#: How far off, squared, its normals' tips may be at known texels nearby for it to count in full, and from
#: where it does not count; and over blocks of which share of the longer side of what lies around the hole
#: that is looked at. Measured on the same: nearly as good without it, which is no surprise for faces; it is
#: for what is none. No texel counts as farther off than the last, squared: for a line of the lips that it has
#: a texel lower, a head would be left out all around the mouth. Measured: 0.25 to 9 make no difference in
#: large holes; at 0.1 a scan's thin holes are 2 % worse.
NEARBY, NEARBY_SIDE, FARTHEST = (0.06, 0.3), 1 / 64, 0.35


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
        length = np.linalg.norm(guess, axis=-1, keepdims=True)
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
    """What something else shows of a hole, its seam closed, and how far an answer moves towards it.

    Attributes:
        there: bool (h, w), the texels, n of them.
        vectors: float32 (n, 3), unit but for edges, where they are shorter, in reading order.
        weights: float32 (n,), from 0 to 1.
        fine: float32 (n,), likewise, for what is finer than `COARSE`; None for the same ones.
    """

    there: BoolArray
    vectors: FloatArray
    weights: FloatArray
    fine: FloatArray | None = None

    def moved(self, field: FloatArray) -> FloatArray:
        """A field (h, w, 3) of unit vectors moved, shorter ones at edges: as it is elsewhere."""
        result = field.copy()
        own = field[self.there]
        apart = self.vectors - own
        moved = own + apart * self.weights[:, None]
        if self.fine is not None:
            box = box_around(self.there, 0)
            there = self.there[box]
            block = max(1, round(COARSE * max(field.shape[:2])))
            planes = np.zeros((3, *there.shape), np.float32)
            planes[:, there] = apart.T
            coarse = np.stack([evened(plane, there, block)[there] for plane in planes], axis=-1)
            moved += (apart - coarse) * (self.fine - self.weights)[:, None]
            moved /= np.maximum(np.linalg.norm(moved, axis=-1, keepdims=True), 1)
        result[self.there] = moved
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


def places_twins(drawn: Drawn | None) -> bool:
    """Whether a head fits so well that it tells by itself which texels show each other's mirror image."""
    return drawn is not None and drawn.head.doubt <= FITS


def shown_by_twin(
    normals: FloatArray,
    hole: BoolArray,
    valid: BoolArray,
    drawn: Drawn | None = None,
    scale: float = 1.0,
    predicted: FloatArray | None = None,
) -> Shown | None:
    """What the other half of a head shows of a hole in camera space; None where it shows nothing.

    Its errors are others than the network's, so that a mean errs less than either. Of a map whose halves are
    not alike nothing counts. Which texels are each other's mirror image tells a head that was fitted, or else
    the map's relief.

    Args:
        normals: float32 (h, w, 3), unit at known texels, finite everywhere.
        hole: bool (h, w), within valid.
        valid: bool (h, w), where there is a surface.
        drawn: a head that was fitted to the known texels, where `drawn_around` the hole; if any.
        scale: texels of the network's grid for one of these.
        predicted: float32 (h, w, 3), the network's answer, unit in the hole, its seam closed: its relief is
            needed unless `places_twins`.
    """
    known = valid & ~hole
    by_head = places_twins(drawn)
    if not by_head and predicted is not None:
        image, trust, unlikeness = relief.other_side(predicted, normals, known, valid, _around(hole, valid))
        most = min(1.0, max(0.0, (TWINS[1] - unlikeness) / (TWINS[1] - TWINS[0])))
        wide = END * min(1.0, unlikeness / TWINS[0]) ** 2
        by_head = drawn is not None and drawn.head.doubt / FITS < unlikeness / ALIKE
    if drawn is not None and by_head:
        other = drawn.other_side(normals, known)
        image, trust = other.normals, other.trust
        doubt = np.full(1, drawn.head.doubt, np.float32)
        most = 1 - float(rise(doubt, *PLACED)[0])
        wide = END * HEAD_END
    seen = image.any(axis=-1)
    there = hole & seen
    if most <= 0 or not there.any():
        return None
    weights = np.float32(SHARE * most) * trust[there]
    apart, beside = normals - unit(image), known & seen
    if by_head:
        weights = weights / (1 + _nearby(apart, beside, there) / np.float32(TWIN_NEARBY))
    weights = _faded(weights, there, FADE * max(hole.shape))
    wide *= max(hole.shape)
    if wide > 1:
        weights *= rise(_depth(~(hole & ~seen), int(np.ceil(wide)))[there], 0, wide)
    fine = np.minimum(weights * (1 + FINER * rise(_deep(there), *DEEP) * (1 - weights)), 1)
    return Shown(there, image[there] + _closing(apart, there, beside, REACH / scale), weights, fine)


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
    known = valid & ~hole
    if drawn.head.doubt >= FITS:
        return None
    box = box_around(hole, MARGIN)
    image = drawn.means[box]
    apart = normals[box] - unit(image)
    seen = image.any(axis=-1) & valid[box] & ~_shown_otherwise(drawn.opened[box], apart, known[box])
    there = hole[box] & seen
    if not there.any():
        return None
    whole = np.zeros(hole.shape, np.bool_)
    whole[box] = there
    beside, side, deep = known[box] & seen, max(hole.shape), _deep(whole)
    told = np.float32(TOLD) * np.sqrt(np.minimum(deep, np.float32(DEEPEST)), dtype=np.float32)
    against = max(drawn.head.doubt * _unexplained(apart, normals[box], there, beside, side), 1e-6)
    sure = np.float32(1 - (drawn.head.doubt / FITS) ** 3)
    weights = sure * told / (told + np.float32(against)) * (1 - rise(_nearby(apart, beside, there), *NEARBY))
    vectors = image[there] + _closing(apart, there, beside, REACH / scale)
    fine = np.maximum(weights, rise(deep, *DEEP) * np.minimum(FAINT * weights, PLAIN))
    return Shown(whole, vectors, weights, fine if (fine > weights).any() else None)


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
    off = np.bincount(inside, np.einsum("pk,pk->p", vectors, vectors), count + 1) > ASIDE * texels
    off[0] = False
    return np.asarray(off[parts])


def _deep(there: BoolArray) -> FloatArray:
    """How deep in what is shown texels lie: float32 (n,), in reading order.

    Args:
        there: bool (h, w), where anything is shown of a map.

    Returns:
        Shares of the map's longer side, told no deeper than the last of `DEEP`.
    """
    side = max(there.shape)
    deep: FloatArray = _depth(there, int(np.ceil(DEEP[1] * side)))[there] / np.float32(side)
    return deep


def _closing(apart: FloatArray, there: BoolArray, beside: BoolArray, reach: float) -> FloatArray:
    """What closes the seam of what is shown: float32 (n, 3), for the texels of an area in reading order.

    Args:
        apart: float32 (h, w, 3), how far off it is at known texels.
        there: bool (h, w), the area.
        beside: bool (h, w), known texels.
        reach: see `closing.continued`.
    """
    near = beside & (np.einsum("ijk,ijk->ij", apart, apart) < ASIDE)
    if not near.any():
        return np.zeros((np.count_nonzero(there), apart.shape[-1]), np.float32)
    return continued(apart, there, near, reach)


def _faded(weights: FloatArray, there: BoolArray, half: float) -> FloatArray:
    """Weights (n,) of texels of an area, less and less towards its edge, so that no step is left there.

    Args:
        weights: float32 (n,), in reading order.
        there: bool (h, w), the area.
        half: how deep they count half, in texels, at least one.
    """
    half = max(1.0, half)
    deep = _depth(there, round(6 * half))[there]
    return weights * deep / (deep + np.float32(half))


def _nearby(apart: FloatArray, known: BoolArray, there: BoolArray) -> FloatArray:
    """How far off a head is beside texels of the hole: mean square at known texels, continued harmonically.

    Args:
        apart: float32 (h, w, 3), how far off it is at known texels.
        known: bool (h, w).
        there: bool (h, w), the texels asked for.

    Returns:
        float32 (n,), in reading order.
    """
    block = max(1, round(NEARBY_SIDE * max(known.shape)))
    squares = np.minimum(np.einsum("ijk,ijk->ij", apart, apart), FARTHEST)
    means, some = block_means(squares, known, block)
    means = harmonic.extend(means[None], some, ~some)[0]
    result: FloatArray = np.maximum(between_blocks(means, block, known.shape), 0)[there]
    return result


def _depth(inside: BoolArray, most: int) -> FloatArray:
    """How deep texels lie in an area, 0 at its edge, at most so many: float32 (h, w), 0 outside."""
    return np.maximum(harmonic.steps_from(~inside, inside, most + 1) - 1, 0)


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
