"""Taking the surroundings of a hole apart into a shape and the detail on top of it.

* Detail lives in a frame of its own: with the shortest-arc rotation R(b) that takes z to the shape's normal
  b, the detail of a normal n is ``R(b)^T n``, a unit vector near z, and the way back is ``n = R(b) d``. This
  is reoriented normal mapping (Barré-Brisebois and Hill, "Blending in Detail", 2012); it needs no tangent
  frame, so the same code serves tangent, object and camera space. Its x and y are kept as one complex number:
  turning a patch by a quarter is a product with i, mirroring it is a conjugate.
* The split follows what the shape lacks. Octave by octave, its energy deep in the hole is compared with what
  the surroundings let expect there, and the low-pass that separates the bands is mixed accordingly.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .engine import BoolArray, FloatArray
from .planes import convolve, enlarge, gaussian, margin, pull_push, shrink, unit
from .resample import box_around, rise

ComplexArray = npt.NDArray[np.complex64]
#: What `roughness` tells.
Rough = tuple[FloatArray, BoolArray, BoolArray]
#: Takes the share of the work that is done; raises `errors.Cancelled` if the caller wants out.
Tell = Callable[[float], None]

#: Source windows below which there is too little to choose from.
FEWEST = 48
#: Root mean square of detail (as a sine) under which there is nothing to continue.
FLAT = 2e-5
#: What is louder than this many times the usual is no texture but a feature: a lid, a lip, a scar, a fold.
LOUD = 3.0
# Where the base in the hole is so many times as loud, from the first of these factors on a little and from
# the second altogether, in cells of so many texels a side and their neighbours, it has a lid or a lip. That
# is kept as it is, for no patch from elsewhere goes on with it: else a lid that crosses a thin hole has a
# gap, and so has the line of the lips. Measured on heads in skin: errors fall by 2 (half) to 10 % (lines).
# From 2 and 4 on they fall by 1 % more, and the skin beside lids has no pores.
_PART, _FEATURE = 4, (4.0, 8.0)
#: Side of the largest patches that detail is put together of, where the low-pass is wide and elsewhere.
LARGEST = (128, 96)

# On a scanned head most of what is around a hole may be hair, cloth or a scan's rags: there the usual is what
# the calm of it are. With the median a scanned man's hair came to lie on his cheek, in some views at 0.15 as
# well.
_CALM = 0.08

# Low-pass of the split, as a share of a working texel: an area average followed by an upsampling keeps half
# the amplitude at a wavelength of about 3.5 working texels, a Gaussian of standard deviation s at 5.3 s.
_CUT = 0.65
# Octaves below the working resolution's own that a blurred shape may get back, one more in holes of this mean
# width in texels, and their widest Gaussian.
_OCTAVES, _WIDE = 3, 20.0
_WIDEST = 26.0
# Holes without an interior to measure: share of each band that is left to the detail, by the hole's mean
# width in texels; the low-pass's standard deviation as a share of the width, and its least, in texels. Set by
# what procedural skin loses least by; how strong the octaves then are is for `core.octaves`.
_THIN = ((4.0, 8.0, 16.0), ((1.0, 1.0, 1.0), (0.4, 0.95, 1.0), (0.15, 0.85, 1.0), (0.0, 0.7, 1.0)))
_THIN_CUT = 0.28
_THINNEST_CUT = 1.4
# From one octave to the next lower one, texture hardly grows; a smooth shape, seen through the band's lower
# flank, grows more than twofold (measured on faces without pores: 2.1 to 3; on skin: 0.3 to 1.8).
_RISE = 2.0
# Texture fainter than that, as a sine, is not seen: a twelfth of a degree. Measured: the facets of heads
# without pores 0.0005 to 0.0013, faint skin on them 0.003.
_FAINT = 0.0015


@dataclass
class Scene:
    """The part of the crop that is worked on, padded so that any patch fits.

    Attributes:
        composite: (3, H, W) known normals with the base in the hole, turned so that their mean is not near
            -z.
        turn: (3, 3) the rotation applied to `composite`, None for none.
        area: (H, W) texels to fill.
        known: (H, W) texels that may be sources.
        origin: Row and column of the padded array's corner in the crop.
        coarse: (4, H/f, W/f) low-pass normals (not unit) and share of known texels, the low-pass of the
            split.
        step: f, texels per coarse texel.
        cut: Standard deviation in texels of the narrowest low-pass.
        mixture: Shares of it and of ever wider ones, each by an octave, in the low-pass of the split.
        detail: (H, W) complex detail, known texels filled in.
        strength: Factor of the finest octave (1 unless the base has some of it).
        widest: Standard deviation in texels of the widest low-pass that takes part.
        isotropic: True if turning patches does no harm.
        common: How rough the usual texel is, as a quantile of those around the hole.
        least: Root mean square of detail under which a texel says nothing of the usual.
        folded: True if what is louder than the usual is the skin's own: a fold or a scar, no lid or lip.
        features: (H/c + 2, W/c + 2) how much of a feature the base has in the hole, a lid or a lip, from 0 to
            1, by cells of c texels, with a margin; see `mark_features`.
    """

    composite: FloatArray
    turn: FloatArray | None
    area: BoolArray
    known: BoolArray
    origin: tuple[int, int]
    coarse: FloatArray
    step: int
    cut: float
    mixture: tuple[float, ...]
    detail: ComplexArray
    strength: float
    widest: float
    isotropic: bool
    common: float
    least: float
    folded: bool
    features: FloatArray


def split(
    base: FloatArray,
    normals: FloatArray,
    area: BoolArray,
    known: BoolArray,
    space: str,
    scale: float,
    tell: Tell,
) -> Scene | None:
    """Take the known texels around the hole apart; None if there are too few or they have no detail."""
    # The base meets the known texels, so in a thin hole it has their waves down to about the hole's own
    # width.
    width_of_hole = thickness(area)
    cut = min(_CUT * scale, max(_THINNEST_CUT, _THIN_CUT * width_of_hole))
    step = 1
    while step * 2.5 * _CUT <= cut and step < 16:
        step *= 2
    octaves = int(np.clip(np.floor(np.log2(_WIDEST / cut)), 1, _OCTAVES + (width_of_hole > _WIDE)))
    largest = LARGEST[0] if cut * 2**octaves > 13 else LARGEST[1]
    # Enough to choose from: a hole's own area in a frame around it, without walking through a whole 8K map.
    box = box_around(area, 0)
    reach = int(max(2.25 * largest, 0.2 * max(part.stop - part.start for part in box)))
    crop = box_around(area, reach)
    if np.count_nonzero(known[crop]) < FEWEST * 16:
        return None

    grain = max(16, step * 8)
    # Patches reach as far beyond the hole as they are large, past the map's edge as well.
    first, length = [], []
    for hole, part in zip(box, crop, strict=True):
        before, after = (max(0, largest - gap) for gap in (hole.start - part.start, part.stop - hole.stop))
        first.append(-(-before // grain) * grain)
        length.append(-(-(first[-1] + part.stop - part.start + after) // grain) * grain)
    height, width = length
    inner = tuple(
        slice(start, start + part.stop - part.start) for start, part in zip(first, crop, strict=True)
    )
    big_area = np.zeros((height, width), bool)
    big_known = np.zeros((height, width), bool)
    big_area[inner] = area[crop]
    big_known[inner] = known[crop]
    composite = np.zeros((3, height, width), np.float32)
    for c in range(3):
        target = composite[c][inner]
        target[...] = normals[crop][..., c]
        np.copyto(target, base[crop][..., c], where=area[crop])
    weight = (big_area | big_known).astype(np.float32)
    for c in range(3):
        composite[c] *= weight  # invalid texels may hold anything
    tell(0.1)

    coarse_weight = shrink(weight, step)
    coarse_known = shrink(big_known.astype(np.float32), step)
    coarse = np.stack([shrink(composite[c], step) for c in range(3)])
    turn = None if space == "tangent" else _turn_to_front(coarse, coarse_weight)
    if turn is not None:
        composite = np.einsum("ij,jhw->ihw", turn, composite, optimize=True).astype(np.float32)
        coarse = np.einsum("ij,jhw->ihw", turn, coarse, optimize=True).astype(np.float32)
    shape, mixture, strength, widest = _shaped_low_pass(
        coarse, coarse_weight, coarse_known, cut / step, octaves, step > 1, width_of_hole
    )
    if strength == 0:
        return None
    scene = Scene(
        composite=composite,
        turn=turn,
        area=big_area,
        known=big_known,
        origin=(crop[0].start - first[0], crop[1].start - first[1]),
        coarse=margin(shape),
        step=step,
        cut=cut,
        mixture=mixture,
        detail=np.zeros((height, width), np.complex64),
        strength=strength,
        widest=widest * step,
        isotropic=False,
        common=_CALM if space == "camera" else 0.5,
        least=_FAINT if space == "camera" else FLAT,
        folded=space == "tangent",
        features=np.zeros((height // _PART + 2, width // _PART + 2), np.float32),
    )
    tell(0.2)

    # Second moments of the known detail: how strong it is and whether it has a direction.
    power, moment, count = 0.0, 0j, 0
    for tile in tiles(scene, big_known):
        mask = big_known[tile]
        low, _ = low_unit(scene, tile)
        d = to_detail(low, composite[(slice(None), *tile)])
        d *= mask
        scene.detail[tile] = d
        power += float(np.vdot(d, d).real)
        moment += complex(np.vdot(d.conj(), d))
        count += int(np.count_nonzero(mask))
    if count == 0 or power / count < FLAT**2:
        return None
    scene.isotropic = space != "object" and abs(moment) < 0.2 * power
    return scene


def _turn_to_front(coarse: FloatArray, weight: FloatArray) -> FloatArray | None:
    """Rotation that brings the mean normal to z, where normals come near the singular direction -z."""
    usable = weight > 0
    if not (coarse[2][usable] < -0.3 * weight[usable]).any():
        return None
    mean = coarse.reshape(3, -1).sum(1).astype(np.float64)
    length = float(np.linalg.norm(mean))
    if length < 0.05 * float(weight.sum()):
        return None
    x, y, z = mean / length
    if z < -0.9999:
        return np.diag([1.0, -1.0, -1.0]).astype(np.float32)
    k = 1 / (1 + z)
    return np.array([[1 - x * x * k, -x * y * k, -x], [-x * y * k, 1 - y * y * k, -y], [x, y, z]], np.float32)


def _shaped_low_pass(
    coarse: FloatArray,
    weight: FloatArray,
    known: FloatArray,
    cut: float,
    octaves: int,
    coarser: bool,
    width: float,
) -> tuple[FloatArray, tuple[float, ...], float, float]:
    """The shape under the detail: a low-pass whose response leaves to the detail what the base lacks.

    Args:
        coarse: (3, h, w) weighted means of the composite normals.
        weight: (h, w) share of usable texels.
        known: (h, w) share of known texels.
        cut: Standard deviation of the first low-pass, in coarse texels.
        octaves: Number of octaves below it that may be left to the detail.
        coarser: True if `coarse` is not native: then the base has nothing of the finest band.
        width: Mean width of the hole in native texels.

    Returns:
        (4, h, w) low-pass and share of known texels; the shares of the ever wider low-passes in it; strength
        of the finest band, 0 on a smooth surface; the widest standard deviation used.
    """
    stack = np.concatenate([coarse, known[None], weight[None]])
    passes = _low_passes(stack, cut, octaves, coarser)
    fine = next(passes)
    lows, shapes = [fine], [fine[:3] / np.maximum(fine[4], 1e-6)]
    outside = ((known > 0.99) & (fine[3] > 0.99 * fine[4])).astype(np.float32)
    amplitudes, usual, rising = [], [], []
    band: npt.NDArray[Any] = coarse / np.maximum(weight, np.float32(1e-6)) - shapes[0]
    for k, low in enumerate(passes, 1):
        lows.append(low)
        shapes.append(low[:3] / np.maximum(low[4], 1e-6))
        rising.append(_usual(np.sqrt(np.square(band).sum(0)), outside))
        # A low-pass is off by a shape's curvature times the square of its width, so that of a band less its
        # share of the next one a smooth shape drops out, and texture is left.
        lower = shapes[-2] - shapes[-1]
        band -= lower * np.float32(1 / 4 if k > 1 else (_first(cut, coarser) / cut) ** 2 / 3)
        amplitudes.append(np.sqrt(np.square(band).sum(0)))
        usual.append(_usual(amplitudes[-1], outside))
        if not coarser and usual[0] < _FAINT:
            return np.concatenate([shapes[0], outside[None]]), (), 0.0, cut
        band = lower
    amplitudes.append(np.sqrt(np.square(band).sum(0)))
    usual.append(_usual(amplitudes[-1], outside))
    rising.append(usual[-1])
    inside = (lows[-1][3] < 0.02 * lows[-1][4]) & (weight > 0.99)
    if np.count_nonzero(inside) < 64:  # too thin to have an interior: one octave below the cut, by experience
        inside[...] = False
    gains = []
    texture = len(shapes)
    for k in range(1, texture):
        if rising[k] > _RISE * rising[k - 1]:
            texture = k if k > 1 else 0
            break
    for k in range(len(shapes)):
        if k >= texture:
            gains.append(0.0)
        elif k == 0 and coarser:
            gains.append(1.0)
        elif not inside.any():
            gains.append(float(np.interp(width, _THIN[0], _THIN[1][min(k, 3)])))
        else:
            expected = pull_push(amplitudes[k] * outside, outside)[inside]
            # Lids and lips beside the hole tell nothing of the skin's texture in it.
            expected = np.minimum(expected, LOUD * usual[k])
            # Amplitudes are Rayleigh-like: mean squares from their mean, and from their median, which lids
            # and lips in the hole hardly move.
            want_energy = float(np.square(expected).mean()) * 1.27
            have_energy = float(np.median(amplitudes[k][inside])) ** 2 * 1.44
            gains.append(float(np.sqrt(max(0.0, 1 - have_energy / max(want_energy, 1e-12)))))
    for k in range(1, len(gains)):  # the finer band is never the better known one
        gains[k] = min(gains[k], gains[k - 1])
    strength = gains[0]
    shares = [g / max(strength, 1e-6) for g in gains] + [0.0]
    mixture = tuple(shares[k] - shares[k + 1] for k in range(len(shapes)))
    mixed = _mixed(mixture, shapes)
    reach = max((cut * 2**k for k in range(len(shapes)) if gains[k] > 0.3), default=cut)
    ratio = lows[0 if reach <= cut else 1]
    share = ratio[3] / np.maximum(ratio[4], 1e-6)
    return np.concatenate([mixed, share[None]]).astype(np.float32), mixture, strength, reach


def _first(cut: float, coarser: bool) -> float:
    """Standard deviation of the first Gaussian, for a first low-pass of so much."""
    # Area averages and the bilinear way back count for a quarter of a squared coarse texel together.
    return float(np.sqrt(max(cut * cut - (0.25 if coarser else 0.0), 0.04)))


def _low_passes(stack: FloatArray, cut: float, octaves: int, coarser: bool) -> Iterator[FloatArray]:
    """Planes under a low-pass of standard deviation `cut`, in texels, then under ones wider by octaves."""
    level = convolve(stack, gaussian(_first(cut, coarser)))
    yield level
    have, shrunk = cut, 1
    pads = []
    # Each next octave: half the size, where the remaining width is a short kernel.
    for k in range(1, octaves + 1):
        h, w = level.shape[-2:]
        pads.append((h, w))
        level = np.pad(level, ((0, 0), (0, h % 2), (0, w % 2)), mode="edge")
        level = shrink(level, 2)
        shrunk *= 2
        want = cut * 2**k
        rest = np.sqrt(max(want * want - have * have, 0.0)) / shrunk
        level = convolve(level, gaussian(float(np.sqrt(max(rest * rest - 0.3, 0.1)))))
        have = want
        back = level
        for h, w in reversed(pads):
            back = enlarge(margin(back), 2)[:, :h, :w]
        yield back


def _mixed(mixture: tuple[float, ...], shapes: Iterable[FloatArray]) -> FloatArray:
    """The sum of shapes, each with its share."""
    parts = (np.float32(share) * shape for share, shape in zip(mixture, shapes, strict=True))
    return np.asarray(functools.reduce(np.add, parts), np.float32)


def _usual(amplitude: FloatArray, wanted: FloatArray) -> float:
    """The median where it is wanted and there is any."""
    there = amplitude[(wanted > 0) & (amplitude > FLAT)]
    return float(np.median(there)) if there.size else 0.0


def roughness(scene: Scene, cell: int) -> Rough:
    """How rough the known texels are, by cells of so many texels a side.

    Returns:
        Mean square of the known detail; which cells have some; and which of them are calm, no feature. A lip
        or a lid beside the hole does not make its skin rough.
    """
    h, w = (n // cell * cell for n in scene.area.shape)
    d = scene.detail[:h, :w]
    known = scene.known[:h, :w]
    share = shrink(known.astype(np.float32), cell)
    energy = shrink((d.real * d.real + d.imag * d.imag) * known, cell)
    energy = (energy / np.maximum(share, 1e-6)).astype(np.float32)
    there = share > 0.3
    skin = energy[there & (energy > scene.least**2)]
    calm = there & (energy < LOUD**2 * np.quantile(skin, scene.common)) if skin.size else there
    return energy, there, calm


def usual_energy(scene: Scene, rough: Rough) -> float | None:
    """Mean square of the detail in the usual cell of those that were looked at; None if none has any."""
    energy, there, _ = rough
    texture = energy[there & (energy > scene.least**2)]
    return float(np.quantile(texture, scene.common)) if texture.size else None


def with_neighbours(loud: npt.NDArray[Any]) -> FloatArray:
    """The loudest of each cell (h, w) and the eight around it, for a feature's neighbours belong to it."""
    wide = np.pad(loud, 1)
    rows, columns = loud.shape
    parts = [wide[r : r + rows, c : c + columns] for r in range(3) for c in range(3)]
    return np.asarray(np.max(parts, axis=0), np.float32)


def mark_features(scene: Scene, rough: Rough) -> None:
    """Find lids and lips that the base has in the hole: what is much louder than the usual skin around it.

    Args:
        scene: whose `features` are written.
        rough: how rough cells of its known detail are, see `roughness`.
    """
    usual = usual_energy(scene, rough)
    if usual is None:
        return
    loud = np.zeros((scene.features.shape[0] - 2, scene.features.shape[1] - 2), np.float32)
    for tile in tiles(scene, scene.area):
        mask = scene.area[tile].astype(np.float32)
        low, _ = low_unit(scene, tile)
        squares = np.square(scene.composite[(slice(None), *tile)] - low).sum(0) * mask
        cells = tuple(slice(s.start // _PART, s.stop // _PART) for s in tile)
        loud[cells] = shrink(squares, _PART) / np.maximum(shrink(mask, _PART), 0.25)
    scene.features[...] = margin(rise(np.sqrt(with_neighbours(loud) / np.float32(usual)), *_FEATURE))


def kept(scene: Scene, tile: tuple[slice, slice]) -> FloatArray:
    """How much of a tile's base in the hole is kept as it is, a feature: float32 (h, w), from 0 to 1."""
    rows, columns = (slice(s.start // _PART, s.stop // _PART + 2) for s in tile)
    return np.asarray(enlarge(scene.features[rows, columns], _PART), np.float32)


def thickness(area: BoolArray) -> float:
    """Mean width in texels of a mask: twice its area over its border's length."""
    count = float(np.count_nonzero(area))
    edge = np.count_nonzero(area[1:] != area[:-1]) + np.count_nonzero(area[:, 1:] != area[:, :-1])
    return 2 * count / max(0.8 * edge, 1.0)


def tiles(scene: Scene, wanted: BoolArray) -> list[tuple[slice, slice]]:
    """Blocks with wanted texels: small enough for the processor's cache, aligned to the coarse grid."""
    h, w = wanted.shape
    tall, wide = 64, 512
    return [
        (slice(r, min(r + tall, h)), slice(c, min(c + wide, w)))
        for r in range(0, h, tall)
        for c in range(0, w, wide)
        if wanted[r : r + tall, c : c + wide].any()
    ]


def low_unit(scene: Scene, tile: tuple[slice, slice]) -> tuple[FloatArray, FloatArray]:
    """The low-pass of a tile at native resolution: (3, h, w) unit normals, (h, w) share of known texels."""
    field = native(scene.coarse, scene.step, tile)
    return unit(field[:3]), field[3]


def low_pass(scene: Scene, planes: FloatArray, weight: FloatArray) -> FloatArray:
    """Other normals under the low-pass of a scene's split, as coarse as `Scene.coarse`, with its margin.

    Args:
        scene: that was split.
        planes: (3, H, W) normals, zero where there are none.
        weight: (H, W), 1 where there are any.

    Returns:
        (3, H/f + 2, W/f + 2), not unit.
    """
    f = scene.step
    stack = np.concatenate([shrink(planes, f), shrink(weight, f)[None]])
    passes = _low_passes(stack, scene.cut / f, len(scene.mixture) - 1, f > 1)
    return margin(_mixed(scene.mixture, (low[:3] / np.maximum(low[3], 1e-6) for low in passes)))


def native(coarse: FloatArray, step: int, tile: tuple[slice, slice]) -> FloatArray:
    """A tile of a coarse field with a margin, at native resolution."""
    rows, cols = (slice(s.start // step, s.stop // step + 2) for s in tile)
    return np.asarray(enlarge(coarse[:, rows, cols], step), np.float32)


def to_detail(low: FloatArray, full: FloatArray) -> ComplexArray:
    """``R(low)^T full`` of (3, ...) unit normals as x + iy; a detail that points inwards is laid flat."""
    tz = np.maximum(low[2] + 1, np.float32(0.02))
    q = (low[0] * full[0] + low[1] * full[1]) / tz + full[2]
    out = np.empty(q.shape, np.complex64)
    out.real = full[0] - low[0] * q
    out.imag = full[1] - low[1] * q
    z = tz * q - full[2]
    back = z < 0.05
    if back.any():
        out[back] *= 0.99 / np.maximum(np.abs(out[back]), 0.3)
    return out


def from_detail(low: FloatArray, detail: ComplexArray) -> FloatArray:
    """``R(low) d`` for (3, ...) unit normals and complex detail: (3, ...) unit normals."""
    x, y = detail.real, detail.imag
    square = x * x + y * y
    shorten = np.where(square > 0.98, np.sqrt(0.98 / np.maximum(square, 0.98)), np.float32(1))
    x, y = x * shorten, y * shorten
    z = np.sqrt(1 - x * x - y * y)
    tz = np.maximum(low[2] + 1, np.float32(0.02))
    q = z - (low[0] * x + low[1] * y) / tz
    return unit(np.stack([low[0] * q + x, low[1] * q + y, tz * q - z]))
