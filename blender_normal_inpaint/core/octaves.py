"""How strong each octave of continued detail is: matched to what surrounds the hole.

Patches are chosen for their fit and joined along cuts, and both cost strength, in some octaves more than in
others; and a shape that has some texture of its own needs less. Here the octaves of the whole, shape and
detail together, are measured in the hole and around it on a Laplacian pyramid (Burt and Adelson, "The
Laplacian Pyramid as a Compact Image Code", 1983), and each octave of the detail gets the factor that brings
the whole's to its aim: on average, or in the usual place, whichever asks for more. For where the shape has
lids and lips it is louder than any skin, and they would leave none to the cheek.
"""

from __future__ import annotations

import numpy as np

from .bands import ComplexArray, Rough, Scene, from_detail, kept, low_unit, thickness, tiles
from .creases import Creases
from .engine import BoolArray, FloatArray
from .planes import enlarge, margin, pull_push, shrink, unit

# Strength of each octave in the hole as a share of its strength around it, the finest first: wavelengths of 2
# to 4 texels, 4 to 8, 8 to 16, and 16 and more. Detail that is not the true one adds its own error to the one
# of leaving it out, at full strength sqrt(2) times it, and the coarser octaves have most of that. A tenth
# less is not seen, and keeps the mean angular error on procedural skin below 1.35 times the smooth fill's.
_AIMS = (0.94, 0.9, 0.87, 0.86)
# In thin holes a little less, by their mean width in texels.
_THIN = ((3.0, 12.0, 48.0), (0.89, 0.94, 1.0))
# So many of them are as strong as what is around the hole with its features, folds and scars, which are no
# sources and so never in the hole. Measured on twelve pieces of a scan of skin: the finest two at 0.76 and
# 0.79 of the truth's without it, at 0.85 and 0.87 with it, for 1 to 2 % more error; all four, 3 to 4 %.
_FINE = 2
_RANGE = 0.3, 1.5
# What is measured: so many windows of this side, those with most of the hole and of what is around it.
_WINDOWS, _WINDOW = 12, 128
CELL = 16  # side of the cells whose roughness is compared
# Side of the blocks of which there is a usual one, which share of all is calmer than that, and how much of
# its energy is asked for in the hole: in tangent space less, for blocks in thin holes hold few texels and
# differ more, and skin alone costs error. On heads in skin a repair is seen by its smoother skin: with 0.7
# it is 0.68 to 0.76 of the true one's strength in octave 0, in full 0.74 to 0.85, for 1 % (blobs) to 5 %
# (lines) more error; the calmer half of the blocks instead of a quarter leaves 0.59, for most have lids in
# them.
_BLOCK, _CALM, _USUAL = 32, 0.25, 0.7
_FEWEST = 64  # texels of an octave, in the hole and around it


def factors(scene: Scene, rough: Rough, creases: Creases | None) -> FloatArray:
    """How many times stronger each octave of the detail in the hole should be, (4,) float32.

    Args:
        scene: its detail filled in.
        rough: how rough cells of `CELL` texels are, creases and all, see `bands.roughness`.
        creases: what there is besides, in the hole and around it, and stays as it is.
    """
    energy, there, calm = rough
    texture = pull_push(energy, calm.astype(np.float32))
    count = len(_AIMS)
    # In the hole, by octave, of each block: how many texels, and means of products of shape and detail.
    # Around it: the same of the whole alone. How rough both are expected to be: sums over cells, and how
    # many.
    hole: list[list[FloatArray]] = [[] for _ in range(count)]
    around: list[list[FloatArray]] = [[] for _ in range(count)]
    rough_hole, rough_around = np.zeros(2), np.zeros(2)
    for r, c in sorted(_windows(scene.area) | _windows(scene.known)):
        tile = slice(r, r + _WINDOW), slice(c, c + _WINDOW)
        cells = slice(r // CELL, (r + _WINDOW) // CELL), slice(c // CELL, (c + _WINDOW) // CELL)
        area = scene.area[tile]
        known = scene.known[tile] & calm[cells].repeat(CELL, 0).repeat(CELL, 1)
        for sums, mask in (rough_hole, area), (rough_around, known):
            share = shrink(mask.astype(np.float32), CELL)
            sums += float((texture[cells] * share).sum()), float(share.sum())
        shape = shape_of(scene, tile, area)
        strength = np.where(area, np.float32(scene.strength) * (1 - kept(scene, tile)), np.float32(1))
        plain, filled = shape, scene.detail[tile] * strength
        if creases is not None:
            lines = creases.tile(tile) * strength
            shape, filled = from_detail(plain, lines), filled + lines
        detail = from_detail(plain, filled) - shape
        side = _BLOCK
        level = np.concatenate([shape, detail, area[None], known[None]]).astype(np.float32)
        for k in range(count):
            coarser = shrink(level, 2)
            band = level[:6] - enlarge(margin(coarser[:6]), 2)
            inside, outside = level[6] > 0.99, level[7] > 0.99
            s, d, whole = band[:3], band[3:], band[:3] + band[3:]
            hole[k].append(_by_blocks([s * s, s * d, d * d], inside, side))
            around[k].append(_by_blocks([whole * whole], outside, side))
            side //= 2
            level = coarser
    result = np.ones(count, np.float32)
    rougher = rough_hole[0] / rough_hole[1] * rough_around[1] / max(rough_around[0], 1e-20)
    features = _with_features(energy, there, calm) if scene.folded else 1.0
    aim = float(np.interp(thickness(scene.area), *_THIN))
    usual = _USUAL if scene.folded else 1.0
    for k in range(count):
        count_hole, own, both, more = np.concatenate(hole[k], axis=1)
        count_around, outer = np.concatenate(around[k], axis=1)
        if min(count_hole.sum(), count_around.sum()) < _FEWEST:  # too thin for this octave and all above it
            result[k:] = result[k - 1] if k else 1
            break
        share = (aim * _AIMS[k]) ** 2 * rougher * (features if k < _FINE else 1)
        want = np.average(outer, weights=count_around) * share
        want_usual = _calm(outer, count_around) * share * usual
        low, high = _RANGE
        for _ in range(10):  # the whole gets louder with the factor
            middle = (low + high) / 2
            inner = own + 2 * middle * both + middle**2 * more
            average = np.average(inner, weights=count_hole)
            if average < want or _calm(inner, count_hole) < want_usual:
                low = middle
            else:
                high = middle
        result[k] = (low + high) / 2
    return result


def _with_features(energy: FloatArray, there: BoolArray, calm: BoolArray) -> float:
    """How much rougher a map is with its features, each as loud as calm cells can be, than without them."""
    if not calm.any():
        return 1.0
    return float(np.minimum(energy[there], energy[calm].max()).mean() / max(energy[calm].mean(), 1e-20))


def _by_blocks(products: list[FloatArray], wanted: BoolArray, side: int) -> FloatArray:
    """How many texels of each block are wanted, and their mean of each product: (1 + n, blocks) float32.

    Args:
        products: n times (3, h, w), summed over the first axis.
        wanted: bool (h, w).
        side: of a block, in texels; divides h and w.
    """
    count = shrink(wanted.astype(np.float32), side)
    some = count > 0
    means = [shrink(p.sum(0) * wanted, side)[some] / count[some] for p in products]
    return np.stack([count[some] * side**2, *means])


def _calm(values: FloatArray, weights: FloatArray) -> float:
    """The weighted value that `_CALM` of all are below."""
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(total, total[-1] * _CALM)]])


class Matched:
    """The detail of a scene, its octaves in the hole multiplied by factors; made where it is asked for."""

    def __init__(self, scene: Scene, by: FloatArray) -> None:
        """Args: the scene, its detail filled in; the factors of its octaves, the finest first."""
        self._detail = scene.detail
        self._finest = np.float32(by[0])
        # What is asked for, and as much around it as the coarsest octave reaches.
        reach = 2 * 2 ** len(by)
        wanted = tiles(scene, scene.area)
        top, bottom, left, right = (
            min(t[0].start for t in wanted),
            max(t[0].stop for t in wanted),
            min(t[1].start for t in wanted),
            max(t[1].stop for t in wanted),
        )
        self._top, self._left = max(0, top - reach), max(0, left - reach)
        box = slice(self._top, bottom + reach), slice(self._left, right + reach)
        # All that the octaves do differently from the finest is no finer than half the size, and made there.
        d, area = scene.detail[box], scene.area[box].astype(np.float32)
        level = np.stack([shrink(d.real, 2), shrink(d.imag, 2), shrink(area, 2)])
        bands = []
        for factor in by[1:]:
            coarser = shrink(level, 2)
            bands.append((level[:2] - enlarge(margin(coarser[:2]), 2)) * self._more(factor, level[2]))
            level = coarser
        change = level[:2] * self._more(by[-1], level[2])
        for band in reversed(bands):
            change = enlarge(margin(change), 2) + band
        self._change = margin(change)

    def _more(self, factor: float, share: FloatArray) -> FloatArray:
        """A factor beside the finest one; at the hole's edge an octave, which reaches over it, stays."""
        return np.asarray(1 - self._finest + (factor - 1) * np.clip(2 * share - 1, 0, 1), np.float32)

    def tile(self, tile: tuple[slice, slice]) -> ComplexArray:
        """The detail of a tile; outside the hole it means nothing."""
        rows, columns = (
            slice((s.start - first) // 2, (s.stop - first) // 2 + 2)
            for s, first in zip(tile, (self._top, self._left), strict=True)
        )
        change = enlarge(self._change[:, rows, columns], 2)
        return np.asarray(self._detail[tile] * self._finest + (change[0] + 1j * change[1]), np.complex64)


def shape_of(
    scene: Scene, tile: tuple[slice, slice], area: BoolArray, bare: FloatArray | None = None
) -> FloatArray:
    """The shape under a tile's detail, (3, h, w) unit: in the hole the base, elsewhere the low-pass.

    At the border the low-pass of both sides carries the detail, so that known and filled texels are alike;
    deep inside, and where it has features, the base itself does, with what texture it has of its own; without
    it as far as `bare` says, float32 (h, w) from 0 to 1.
    """
    low, share = low_unit(scene, tile)
    inside = np.maximum(np.clip(1 - 2 * share, 0, 1), kept(scene, tile)) * area
    if bare is not None:
        inside = inside * (1 - bare)
    return unit(low + (scene.composite[(slice(None), *tile)] - low) * inside)


def _windows(wanted: BoolArray) -> set[tuple[int, int]]:
    """Corners of the windows that show most of a mask."""
    h, w = wanted.shape
    rows = [min(r, h - _WINDOW) for r in range(0, h, _WINDOW)]
    columns = [min(c, w - _WINDOW) for c in range(0, w, _WINDOW)]
    shown = [
        (np.count_nonzero(wanted[r : r + _WINDOW, c : c + _WINDOW]), r, c) for r in rows for c in columns
    ]
    return {(r, c) for n, r, c in sorted(shown, reverse=True)[:_WINDOWS] if n}
