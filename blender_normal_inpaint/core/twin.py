"""Detail that a face's other half shows: what hides here is often seen there.

No patch from around a hole knows of a brow, a nostril's wing or an ear in it, nor which skin goes where. If
it is known where a map shows their mirror image (`core.otherhalf`), that has them all, each in its place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .bands import (
    ComplexArray,
    Scene,
    low_pass,
    native,
    roughness,
    tiles,
    to_detail,
    usual_energy,
    with_neighbours,
)
from .engine import BoolArray, FloatArray
from .planes import convolve, enlarge, gaussian, margin, shrink, unit
from .resample import box_around, rise

#: Standard deviation, in texels, over which it comes to count from the hole's edge and its own; there patches
#: that meet the known texels do. Measured on a scan's skin of 1024 texels, as times a smooth fill's error and
#: as detail ratio: lines 1.25 and 0.90 at 3, 1.23 and 0.80 at 6, 1.25 and 0.70 at 12;
#: 1.32 and 0.77 without it.
_RAMP = 4.0

#: Its level meets that of the known texels around the hole: the difference, smooth over a Gaussian of so many
#: cells of so many texels, is continued past the edge.
_CELL, _WIDE = 8, 2.0

#: A feature's cells, of so many texels a side, are so many times as rough as the usual around the hole, from
#: the first of these factors on a little and from the second altogether.
_PLACE, _FEATURE = 16, (1.5, 2.5)

#: So many texels around the hole are looked at.
REACH = 80


@dataclass(frozen=True)
class Twin:
    """What the other half shows of a scene's hole.

    Attributes:
        detail: complex (H, W).
        share: float32 (H, W), from 0 to 1: how much it counts, beside what is put together of patches.
        whole: whether it is all that is finer than the low-pass, so that it takes the place of the base's own
            texture; or only what is finer than the base.
    """

    detail: ComplexArray
    share: FloatArray
    whole: bool = True


def twin_of(scene: Scene, image: FloatArray, pores: bool, base: FloatArray | None = None) -> Twin | None:
    """The other half's detail, None where it shows nothing of the hole.

    Args:
        scene: that is worked on.
        image: (h, w, 3) unit normals of the whole crop, zero where the other half shows nothing.
        pores: whether it counts everywhere, or for features alone: brows, lids, folds, an ear.
        base: (h, w, 3) what the scene's base has of it already, zero where it has nothing: its detail is what
            differs from that. Without it, what differs from its low-pass, as for any skin.
    """
    whole = scene.area.shape
    result = Twin(np.zeros(whole, np.complex64), np.zeros(whole, np.float32), base is None)
    # The hole and what its low-pass reaches; scenes are made of such blocks, and have a margin of that.
    rows, columns = box_around(scene.area, REACH)
    box = (
        slice(rows.start // _PLACE * _PLACE, -(-rows.stop // _PLACE) * _PLACE),
        slice(columns.start // _PLACE * _PLACE, -(-columns.stop // _PLACE) * _PLACE),
    )
    planes = _planes(scene, image, box)
    area, seen = scene.area[box], planes.any(0)
    inside = seen & area
    if not inside.any():
        return None
    low = np.zeros((3, 0, 0), np.float32)
    if base is None:
        low = low_pass(scene, planes, np.asarray(seen, np.float32))
    del planes
    cells = convolve(shrink(inside.astype(np.float32), _CELL)[None], gaussian(_RAMP / _CELL))[0]
    share = np.clip(2 * enlarge(margin(cells), _CELL) - 1, 0, 1) * inside
    # As far around the hole as what is there tells of its level.
    cells = (shrink(area.astype(np.float32), _CELL) > 0).astype(np.float32)
    around = convolve(cells[None], gaussian(_WIDE))[0] > 1e-3
    near = seen & np.repeat(np.repeat(around, _CELL, 0), _CELL, 1)
    detail = result.detail[box]
    # By tiles, for all of it at once is most of the memory that a large map takes. The gap's sums, and count:
    gap = np.zeros((3, *cells.shape), np.float32)
    for tile in tiles(scene, near):
        rows, columns = (
            slice(of.start + part.start, of.start + part.stop) for of, part in zip(box, tile, strict=True)
        )
        below = native(low, scene.step, tile) if base is None else _planes(scene, base, (rows, columns))
        there = near[tile] & below.any(0)
        found = to_detail(unit(below), _planes(scene, image, (rows, columns))) * there
        detail[tile] = found
        known = there & scene.known[rows, columns]
        apart = (scene.detail[rows, columns] - found) * known
        sums = shrink(np.stack([apart.real, apart.imag, known]).astype(np.float32), _CELL)
        down, across = (slice(part.start // _CELL, part.stop // _CELL) for part in tile)
        gap[:, down, across] = sums
    if not pores:
        share = share * _features(scene, detail, inside)
    if not share.any():
        return None
    result.share[box] = share
    # The wide part of the gap alone, continued past known texels and less and less.
    gap = convolve(gap, gaussian(_WIDE))
    gap = margin(gap[:2] * (np.minimum(1, 2 * gap[2]) / np.maximum(gap[2], 1e-6)))
    for tile in tiles(scene, inside):
        more = native(gap, _CELL, tile)
        detail[tile] += more[0] + 1j * more[1]
    return result


def _planes(scene: Scene, image: FloatArray, box: tuple[slice, slice]) -> FloatArray:
    """A box of a scene out of a crop's normals (h, w, 3), as the scene has them: (3, H, W)."""
    planes = np.zeros((3, box[0].stop - box[0].start, box[1].stop - box[1].start), np.float32)
    there, here = [], []
    for origin, length, part in zip(scene.origin, image.shape, box, strict=False):
        first, last = max(0, origin + part.start), min(length, origin + part.stop)
        there.append(slice(first, last))
        here.append(slice(first - origin - part.start, last - origin - part.start))
    planes[:, here[0], here[1]] = np.moveaxis(image[there[0], there[1]], -1, 0)
    if scene.turn is None:
        return planes
    return np.asarray(np.einsum("ij,jhw->ihw", scene.turn, planes, optimize=True), np.float32)


def _features(scene: Scene, detail: ComplexArray, inside: BoolArray) -> FloatArray:
    """From 0 to 1, how much of a feature there is at texels: float32 (H, W)."""
    usual = usual_energy(scene, roughness(scene, _PLACE))
    if usual is None:
        return np.zeros(inside.shape, np.float32)
    share = shrink(inside.astype(np.float32), _PLACE)
    loud = shrink((detail.real**2 + detail.imag**2) * inside, _PLACE) / np.maximum(share, 0.25)
    strength = np.sqrt(with_neighbours(loud) / usual, dtype=np.float32)
    return np.asarray(enlarge(margin(rise(strength, *_FEATURE)), _PLACE), np.float32)
