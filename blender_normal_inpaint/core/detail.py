"""The high-frequency band of a repair: pores and creases continued from the map's own known texels.

The shape in the hole comes from elsewhere, at a resolution too low for pores. Here the known texels are split
into that shape and the detail on top of it, the detail is synthesised in the hole by quilting patches of
known detail, and the two are put together again by rotating the shape's normal, never by averaging vectors.

* Detail lives in a frame of its own: with the shortest-arc rotation R(b) that takes z to the shape's normal
  b, the detail of a normal n is ``R(b)^T n``, a unit vector near z, and the way back is ``n = R(b) d``. This
  is reoriented normal mapping (Barré-Brisebois and Hill, "Blending in Detail", 2012); it needs no tangent
  frame, so the same code serves tangent, object and camera space. Its x and y are kept as one complex number:
  turning a patch by a quarter is a product with i, mirroring it is a conjugate.
* The split follows what the shape lacks. Octave by octave, its energy deep in the hole is compared with what
  the surroundings let expect there, and the low-pass that separates the bands is mixed accordingly.
* Quilting follows Efros and Freeman ("Image Quilting for Texture Synthesis and Transfer", 2001): patches on a
  grid, chosen for their agreement with what lies under their overlap (known border texels included) and with
  the place they go to, joined along minimal-error cuts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import Cancelled
from .resample import area_table

Floats = npt.NDArray[np.float32]
Complexes = npt.NDArray[np.complex64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

# Low-pass of the split, as a share of a working texel: an area average followed by an upsampling keeps half
# the amplitude at a wavelength of about 3.5 working texels, a Gaussian of standard deviation s at 5.3 s.
_CUT = 0.65
# Octaves below the working resolution's own that a blurred shape may get back, and their widest Gaussian.
_OCTAVES = 3
_WIDEST = 26.0
# Detail that is not the true one adds its own error to the one of leaving it out: at full strength sqrt(2)
# times it. A tenth less is not seen, and keeps the mean angular error on procedural skin below 1.35 times the
# smooth fill's. By the hole's mean width in texels.
_STRENGTHS = ((16.0, 48.0), (0.865, 0.93))
# Holes without an interior to measure: share of each band that is left to the detail, by the hole's mean
# width in texels; the low-pass's standard deviation as a share of the width, and its least, in texels. Set so
# that each octave of procedural skin keeps about four fifths of its strength, under the same bound.
_THIN = ((4.0, 8.0, 16.0), ((1.0, 1.0, 1.0), (0.4, 0.65, 0.95), (0.15, 0.35, 0.75), (0.0, 0.1, 0.6)))
_THIN_CUT = 0.28
_THINNEST_CUT = 1.4
_PATCHES = (128, 96, 64, 32, 16, 8)
_POOL = 2048  # source windows kept to choose from
_FEWEST = 48  # source windows below which a smaller patch is tried
_CANDIDATES = 64  # windows scored for each patch
_SAMPLES = 256  # texels of the overlap compared for each of them
# What is louder than this many times the usual is no texture but a feature: a lid, a lip, a scar, a fold.
_LOUD = 3.0
# What is quieter than the usual by more than this is no even texture: a gap of the layout, a smooth lid.
_BARE = 8.0
# From one octave to the next lower one, texture hardly grows; a smooth shape, seen through the band's lower
# flank, grows more than twofold (measured on faces without pores: 2.3 to 2.7; on skin: 0.3 to 1.8).
_RISE = 2.0
_FLAT = 2e-5  # root mean square of detail (as a sine) under which there is nothing to continue


def add_detail(
    base: Floats,
    normals: Floats,
    hole: Bools,
    valid: Bools,
    space: str,
    scale: float,
    rng: np.random.Generator,
    *,
    progress: Callable[[float, str], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Floats:
    """Give the repaired hole the pores and creases of its surroundings.

    Args:
        base: (h, w, 3) unit normals, internal frame: the shape, smooth inside the hole, matching the known
            texels at its border.
        normals: (h, w, 3) unit normals, internal frame; what lies in the hole or in invalid texels isn't
            read.
        hole: (h, w), True where the repair goes.
        valid: (h, w), True on the surface; no other texel is a source or is changed.
        space: "tangent", "object" or "camera".
        scale: Native texels per texel of the resolution at which the shape was made, 1 or more.
        rng: Source of the choice among patches: another state gives other pores on the same shape.
        progress: Called with a fraction and a short text.
        cancel: Polled; True stops the work.

    Returns:
        (h, w, 3) float32 unit normals: `base`, with detail in ``hole & valid``. A plain copy of `base`
        where the known texels are too few or have no detail.

    Raises:
        ValueError: Shapes that don't go together, an unknown space or a scale that isn't finite.
        Cancelled: `cancel` returned True.
    """
    base = np.asarray(base, np.float32)
    normals = np.asarray(normals, np.float32)
    hole = np.asarray(hole, bool)
    valid = np.asarray(valid, bool)
    if base.ndim != 3 or base.shape[2] != 3 or normals.shape != base.shape:
        raise ValueError(f"base and normals must both be (h, w, 3), got {base.shape} and {normals.shape}")
    if hole.shape != base.shape[:2] or valid.shape != base.shape[:2]:
        raise ValueError(f"masks must be {base.shape[:2]}, got {hole.shape} and {valid.shape}")
    if space not in ("tangent", "object", "camera"):
        raise ValueError(f"unknown space {space!r}")
    if not np.isfinite(scale):
        raise ValueError("scale must be finite")
    watch = _Watch(progress, cancel)
    out = base.copy()
    area = hole & valid
    if not area.any():
        return out
    watch.tell(0.0)
    scene = _split(base, normals, area, valid & ~hole, space, max(float(scale), 1.0), watch)
    if scene is None:
        return out
    watch.tell(0.4)
    if not _quilt(scene, rng, watch):
        return out
    _combine(scene, out)
    watch.tell(1.0)
    return out


@dataclass(frozen=True)
class _Watch:
    """The caller's progress and cancel callbacks."""

    progress: Callable[[float, str], None] | None
    cancel: Callable[[], bool] | None

    def tell(self, fraction: float) -> None:
        """Report a fraction; raises Cancelled if the caller wants out."""
        if self.cancel is not None and self.cancel():
            raise Cancelled()
        if self.progress is not None:
            self.progress(fraction, "Adding skin detail")


@dataclass
class _Scene:
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
        detail: (H, W) complex detail, known texels filled in.
        strength: Factor of the finest octave (1 unless the base has some of it).
        widest: Standard deviation in texels of the widest low-pass that takes part.
        isotropic: True if turning patches does no harm.
    """

    composite: Floats
    turn: Floats | None
    area: Bools
    known: Bools
    origin: tuple[int, int]
    coarse: Floats
    step: int
    detail: Complexes
    strength: float
    widest: float
    isotropic: bool


# --- Resampling -----------------------------------------------------------------------------------


def _shrink(field: Floats, step: int) -> Floats:
    """Mean over blocks of step x step in the last two axes, whose lengths are multiples of step."""
    if step == 1:
        return field
    h, w = field.shape[-2:]
    rows = field.reshape(*field.shape[:-2], h // step, step, w)
    total = rows[..., 0, :].copy()
    for k in range(1, step):
        total += rows[..., k, :]
    mean = total[..., ::step].copy()
    for k in range(1, step):
        mean += total[..., k::step]
    mean /= np.float32(step * step)
    return mean


def _lerp(field: npt.NDArray[Any], step: int) -> npt.NDArray[Any]:
    """Linear interpolation of the last axis, n values to (n - 1) * step, from half a texel past the first."""
    n = field.shape[-1] - 1
    rise = field[..., 1:] - field[..., :-1]
    out = np.empty((*field.shape[:-1], n * step), field.dtype)
    for k in range(step):
        part = out[..., k::step]
        np.multiply(rise, np.float32((k + 0.5) / step), out=part)
        part += field[..., :-1]
    return out


def _enlarge(field: npt.NDArray[Any], step: int) -> npt.NDArray[Any]:
    """Bilinear upsampling of the last two axes by an even step; the field has a margin of one texel."""
    if step == 1:
        return field[..., 1:-1, 1:-1]
    rows = np.swapaxes(_lerp(np.swapaxes(field, -1, -2), step), -1, -2)
    half = step // 2
    return _lerp(rows[..., half:-half, :], step)[..., half:-half]


def _margin(field: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """One texel of repeated edge around the last two axes."""
    return np.pad(field, [(0, 0)] * (field.ndim - 2) + [(1, 1), (1, 1)], mode="edge")


def _convolve(field: npt.NDArray[Any], kernel: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """Separable convolution of the last two axes with a symmetric odd kernel, edges repeated."""
    r = len(kernel) // 2
    for axis in (field.ndim - 2, field.ndim - 1):
        n = field.shape[axis]
        pad = [(0, 0)] * field.ndim
        pad[axis] = (r, r)
        wide = np.pad(field, pad, mode="edge")

        def part(k: int, axis: int = axis, n: int = n, wide: npt.NDArray[Any] = wide) -> npt.NDArray[Any]:
            return wide[(slice(None),) * axis + (slice(k, k + n),)]

        total = part(r) * kernel[r]
        for k in range(r):
            total += (part(k) + part(2 * r - k)) * kernel[k]
        field = total
    return field


def _gaussian(sigma: float) -> npt.NDArray[np.float32]:
    """Sampled Gaussian of the given standard deviation in texels, sum 1."""
    r = max(1, int(np.ceil(2.7 * sigma)))
    x = np.arange(-r, r + 1)
    kernel = np.exp(-0.5 * (x / max(sigma, 1e-3)) ** 2)
    return np.asarray(kernel / kernel.sum(), np.float32)


_BINOMIAL = np.array([1, 4, 6, 4, 1], np.float32) / np.float32(16)


def _pull_push(value: Floats, weight: Floats) -> Floats:
    """Fill in where weight is 0 from ever coarser weighted means.

    Args:
        value: (H, W), read where weight > 0.
        weight: (H, W), 0 or more.

    Returns:
        (H, W): the value where weight >= 1, blended towards coarser means below.
    """
    h, w = value.shape
    trust = np.minimum(weight, 1)
    if h <= 2 and w <= 2:
        total = trust.sum()
        mean = (value * trust).sum() / total if total > 0 else 0.0
        return np.asarray(value * trust + np.float32(mean) * (1 - trust), np.float32)
    pad = ((0, h % 2), (0, w % 2))
    v, t = np.pad(value * trust, pad), np.pad(trust, pad)
    low_weight = 4 * _shrink(t, 2)
    low = _pull_push((4 * _shrink(v, 2) / np.maximum(low_weight, 1e-12)).astype(np.float32), low_weight)
    up = _enlarge(_margin(low), 2)[:h, :w]
    return np.asarray(value * trust + up * (1 - trust), np.float32)


# --- Splitting into shape and detail --------------------------------------------------------------


def _thickness(area: Bools) -> float:
    """Mean width in texels of a mask: twice its area over its border's length."""
    count = float(np.count_nonzero(area))
    edge = np.count_nonzero(area[1:] != area[:-1]) + np.count_nonzero(area[:, 1:] != area[:, :-1])
    return 2 * count / max(0.8 * edge, 1.0)


def _split(
    base: Floats, normals: Floats, area: Bools, known: Bools, space: str, scale: float, watch: _Watch
) -> _Scene | None:
    """Take the known texels around the hole apart; None if there are too few or they have no detail."""
    # The base meets the known texels, so in a thin hole it has their waves down to about the hole's own
    # width.
    width_of_hole = _thickness(area)
    cut = min(_CUT * scale, max(_THINNEST_CUT, _THIN_CUT * width_of_hole))
    step = 1
    while step * 2.5 * _CUT <= cut and step < 16:
        step *= 2
    octaves = int(np.clip(np.floor(np.log2(_WIDEST / cut)), 1, _OCTAVES))
    largest = 128 if cut * 2**octaves > 13 else 96
    rows, cols = np.flatnonzero(area.any(1)), np.flatnonzero(area.any(0))
    r0, r1, c0, c1 = int(rows[0]), int(rows[-1]) + 1, int(cols[0]), int(cols[-1]) + 1
    # Enough to choose from: a hole's own area in a frame around it, without walking through a whole 8K map.
    reach = int(max(2.25 * largest, 0.2 * max(r1 - r0, c1 - c0)))
    r0, r1 = max(0, r0 - reach), min(area.shape[0], r1 + reach)
    c0, c1 = max(0, c0 - reach), min(area.shape[1], c1 + reach)
    crop = (slice(r0, r1), slice(c0, c1))
    if np.count_nonzero(known[crop]) < _FEWEST * 16:
        return None

    unit = max(16, step * 8)
    pad = -(-largest // unit) * unit
    height, width = (-(-(n) // unit) * unit + 2 * pad for n in (r1 - r0, c1 - c0))
    inner = (slice(pad, pad + r1 - r0), slice(pad, pad + c1 - c0))
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
    watch.tell(0.1)

    coarse_weight = _shrink(weight, step)
    coarse_known = _shrink(big_known.astype(np.float32), step)
    coarse = np.stack([_shrink(composite[c], step) for c in range(3)])
    turn = None if space == "tangent" else _turn_to_front(coarse, coarse_weight)
    if turn is not None:
        composite = np.einsum("ij,jhw->ihw", turn, composite, optimize=True).astype(np.float32)
        coarse = np.einsum("ij,jhw->ihw", turn, coarse, optimize=True).astype(np.float32)
    low, strength, widest = _shaped_low_pass(
        coarse, coarse_weight, coarse_known, cut / step, octaves, step > 1, width_of_hole
    )
    if strength == 0:
        return None
    scene = _Scene(
        composite=composite,
        turn=turn,
        area=big_area,
        known=big_known,
        origin=(r0 - pad, c0 - pad),
        coarse=_margin(low),
        step=step,
        detail=np.zeros((height, width), np.complex64),
        strength=strength,
        widest=widest * step,
        isotropic=False,
    )
    watch.tell(0.2)

    # Second moments of the known detail: how strong it is and whether it has a direction.
    power, moment, count = 0.0, 0j, 0
    for tile in _tiles(scene, big_known):
        mask = big_known[tile]
        low_unit, _ = _low_unit(scene, tile)
        d = _to_detail(low_unit, composite[(slice(None), *tile)])
        d *= mask
        scene.detail[tile] = d
        power += float(np.vdot(d, d).real)
        moment += complex(np.vdot(d.conj(), d))
        count += int(np.count_nonzero(mask))
    if count == 0 or power / count < _FLAT**2:
        return None
    scene.isotropic = space != "object" and abs(moment) < 0.2 * power
    return scene


def _turn_to_front(coarse: Floats, weight: Floats) -> Floats | None:
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
    coarse: Floats, weight: Floats, known: Floats, cut: float, octaves: int, coarser: bool, width: float
) -> tuple[Floats, float, float]:
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
        (4, h, w) low-pass and share of known texels; strength of the finest band, 0 on a smooth surface;
        the widest standard deviation used.
    """
    stack = np.concatenate([coarse, known[None], weight[None]])
    # Area averages and the bilinear way back count for a quarter of a squared coarse texel together.
    first = np.sqrt(max(cut * cut - (0.25 if coarser else 0.0), 0.04))
    fine = _convolve(stack, _gaussian(first))
    lows = [fine]
    # Each next octave: half the size, where the remaining width is a short kernel.
    level, have, shrunk = fine, cut, 1
    pads = []
    for k in range(1, octaves + 1):
        h, w = level.shape[-2:]
        pads.append((h, w))
        level = np.pad(level, ((0, 0), (0, h % 2), (0, w % 2)), mode="edge")
        level = _shrink(level, 2)
        shrunk *= 2
        want = cut * 2**k
        rest = np.sqrt(max(want * want - have * have, 0.0)) / shrunk
        level = _convolve(level, _gaussian(float(np.sqrt(max(rest * rest - 0.3, 0.1)))))
        have = want
        back = level
        for h, w in reversed(pads):
            back = _enlarge(_margin(back), 2)[:, :h, :w]
        lows.append(back)
    shapes = [low[:3] / np.maximum(low[4], 1e-6) for low in lows]
    inside = (lows[-1][3] < 0.02 * lows[-1][4]) & (weight > 0.99)
    outside = ((known > 0.99) & (fine[3] > 0.99 * fine[4])).astype(np.float32)
    if np.count_nonzero(inside) < 64:  # too thin to have an interior: one octave below the cut, by experience
        inside[...] = False
    gains = []
    upper: npt.NDArray[Any] = coarse / np.maximum(weight, np.float32(1e-6))
    amplitudes, usual = [], []
    for shape in shapes:
        amplitude = np.sqrt(np.square(upper - shape).sum(0))
        loud = amplitude[(outside > 0) & (amplitude > _FLAT)]
        amplitudes.append(amplitude)
        usual.append(float(np.median(loud)) if loud.size else 0.0)
        upper = shape
    texture = len(shapes)
    for k in range(1, len(shapes)):
        if usual[k] > _RISE * usual[k - 1]:
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
            expected = _pull_push(amplitudes[k] * outside, outside)[inside]
            # Lids and lips beside the hole tell nothing of the skin's texture in it.
            expected = np.minimum(expected, _LOUD * usual[k])
            want_energy = (
                float(np.square(expected).mean()) * 1.3
            )  # mean square of a Rayleigh-like field, see sqrt
            have_energy = float(np.square(amplitudes[k][inside]).mean())
            gains.append(float(np.sqrt(max(0.0, 1 - have_energy / max(want_energy, 1e-12)))))
    for k in range(1, len(gains)):  # the finer band is never the better known one
        gains[k] = min(gains[k], gains[k - 1])
    strength = gains[0]
    shares = [g / max(strength, 1e-6) for g in gains] + [0.0]
    mixed = sum(
        ((shares[k] - shares[k + 1]) * shapes[k] for k in range(len(shapes))), np.zeros_like(shapes[0])
    )
    reach = max((cut * 2**k for k in range(len(shapes)) if gains[k] > 0.3), default=cut)
    ratio = lows[0 if reach <= cut else 1]
    share = ratio[3] / np.maximum(ratio[4], 1e-6)
    return np.concatenate([mixed, share[None]]).astype(np.float32), strength, reach


def _tiles(scene: _Scene, wanted: Bools) -> list[tuple[slice, slice]]:
    """Blocks with wanted texels: small enough for the processor's cache, aligned to the coarse grid."""
    h, w = wanted.shape
    tall, wide = 64, 512
    return [
        (slice(r, min(r + tall, h)), slice(c, min(c + wide, w)))
        for r in range(0, h, tall)
        for c in range(0, w, wide)
        if wanted[r : r + tall, c : c + wide].any()
    ]


def _low_unit(scene: _Scene, tile: tuple[slice, slice]) -> tuple[Floats, Floats]:
    """The low-pass of a tile at native resolution: (3, h, w) unit normals, (h, w) share of known texels."""
    f = scene.step
    rows, cols = (slice(s.start // f, s.stop // f + 2) for s in tile)
    field = np.asarray(_enlarge(scene.coarse[:, rows, cols], f), np.float32)
    return _unit(field[:3]), field[3]


def _unit(v: Floats) -> Floats:
    """(3, ...) vectors to unit length; a zero vector becomes +z."""
    length = np.sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2])
    zero = length < 1e-6
    out = v / np.where(zero, np.float32(1), length)
    if zero.any():
        out[2][zero] = 1
    return np.asarray(out, np.float32)


def _to_detail(low: Floats, full: Floats) -> Complexes:
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


def _from_detail(low: Floats, detail: Complexes) -> Floats:
    """``R(low) d`` for (3, ...) unit normals and complex detail: (3, ...) unit normals."""
    x, y = detail.real, detail.imag
    square = x * x + y * y
    shorten = np.where(square > 0.98, np.sqrt(0.98 / np.maximum(square, 0.98)), np.float32(1))
    x, y = x * shorten, y * shorten
    z = np.sqrt(1 - x * x - y * y)
    tz = np.maximum(low[2] + 1, np.float32(0.02))
    q = z - (low[0] * x + low[1] * y) / tz
    return _unit(np.stack([low[0] * q + x, low[1] * q + y, tz * q - z]))


# --- Quilting -------------------------------------------------------------------------------------


def _count(table: npt.NDArray[np.int32], r: Ints, c: Ints, h: int, w: int) -> Ints:
    """Number of set texels in windows h x w with their corner at (r, c)."""
    found = table[r + h, c + w] - table[r, c + w] - table[r + h, c] + table[r, c]
    return np.asarray(found, np.int64)


@dataclass(frozen=True)
class _Places:
    """What is known of windows of the patch's size, by the cell of their corner.

    Attributes:
        cell: Texels per cell.
        energy: (h, w) natural logarithm of the mean square detail, without features, continued into the hole.
        normal: (3, h, w) mean low-pass normal.
        bend: (h, w) natural logarithm of how much the low-pass normal changes within the window.
        peak: (h, w) natural logarithm of the mean square detail in the window's loudest cell.
        lull: (h, w) the same in the quietest cell in it or beside it.
    """

    cell: int
    energy: Floats
    normal: Floats
    bend: Floats
    peak: Floats
    lull: Floats

    def at(self, r: Ints, c: Ints) -> Floats:
        """(7, ...) features of windows with their corners at (r, c): energy, normal, bend, peak, lull."""
        i, j = (r + self.cell // 2) // self.cell, (c + self.cell // 2) // self.cell
        i, j = np.minimum(i, self.energy.shape[0] - 1), np.minimum(j, self.energy.shape[1] - 1)
        rest = self.bend[i, j][None], self.peak[i, j][None], self.lull[i, j][None]
        return np.concatenate([self.energy[i, j][None], self.normal[:, i, j], *rest])


def _places(scene: _Scene, size: int) -> _Places:
    """Features of all windows of a size, at a quarter of it."""
    cell = max(4, size // 4)
    h, w = scene.area.shape
    h, w = h // cell * cell, w // cell * cell
    d = scene.detail[:h, :w]
    energy = _shrink(d.real * d.real + d.imag * d.imag, cell)
    share = _shrink(scene.known[:h, :w].astype(np.float32), cell)
    energy = (energy / np.maximum(share, 1e-6)).astype(np.float32)
    there = share > 0.3
    mean = _pull_push(energy, there.astype(np.float32))
    # A lip or a lid beside the hole does not make its skin rough: what is continued is the calm cells alone.
    skin = energy[there & (energy > _FLAT**2)]
    calm = there & (energy < _LOUD**2 * np.median(skin)) if skin.size else there
    texture = _pull_push(energy, calm.astype(np.float32))
    # The low-pass, sampled at cell centres from its own coarse grid.
    f = scene.step
    at_r = (np.arange(h // cell) * cell + cell // 2) // f + 1
    at_c = (np.arange(w // cell) * cell + cell // 2) // f + 1
    low = _unit(scene.coarse[:3][:, at_r][:, :, at_c])

    def cells(field: Floats, more: int = 0) -> list[Floats]:
        """The 4 x 4 cells of the window whose corner is each cell, and so many more on each side."""
        n = size // cell + 2 * more
        wide = np.pad(field, (more, n - 1 - more), mode="edge")
        return [wide[a : a + field.shape[0], b : b + field.shape[1]] for a in range(n) for b in range(n)]

    def window(field: Floats) -> Floats:
        """Mean over the window whose corner is each cell."""
        return np.asarray(np.mean(cells(field), axis=0), np.float32)

    normal = np.stack([window(low[c]) for c in range(3)])
    spread = np.maximum(1 - np.square(normal).sum(0), 0)
    peak = np.log(np.max(cells(mean), axis=0) + 1e-9)
    # A window may begin half a cell beside its own, and must not have a bare edge there.
    lull = np.log(np.min(cells(mean, 1), axis=0) + 1e-9)
    return _Places(cell, np.log(window(texture) + 1e-9), normal, np.log(spread + 1e-4), peak, lull)


def _sources(scene: _Scene, size: int, rng: np.random.Generator) -> tuple[int, Ints, Ints]:
    """Patch size and corners of windows that are known throughout; size 0 if there are too few."""
    # On even texels only: a quarter of the table.
    pairs = scene.known[::2] & scene.known[1::2]
    bad = area_table(~(pairs[:, ::2] & pairs[:, 1::2]))
    rows, cols = np.flatnonzero(scene.known.any(1)), np.flatnonzero(scene.known.any(0))
    for p in [p for p in _PATCHES if p <= size]:
        high = max(int(rows[-1]) + 2 - p, int(rows[0]) + 1), max(int(cols[-1]) + 2 - p, int(cols[0]) + 1)
        r = rng.integers(int(rows[0]), high[0], 32 * _POOL) // 2
        c = rng.integers(int(cols[0]), high[1], 32 * _POOL) // 2
        clean = np.flatnonzero(_count(bad, r, c, p // 2, p // 2) == 0)
        r, c = 2 * r, 2 * c
        # Windows on top of one another count once.
        places = np.unique((r[clean] // max(p // 2, 4)) * 100_003 + c[clean] // max(p // 2, 4))
        if len(places) >= (_FEWEST if p > _PATCHES[-1] else 8):
            clean = clean[:_POOL]
            return p, r[clean], c[clean]
    return 0, rows[:0], cols[:0]


def _patch_size(scene: _Scene) -> int:
    """As large as the widest band asks for, no larger than a thin hole needs."""
    wanted = max(32.0, 4.5 * scene.widest)
    if _thickness(scene.area) < 24:
        wanted = min(wanted, 32.0)
    return min((p for p in _PATCHES if p >= 0.85 * wanted), default=_PATCHES[0])


def _quilt(scene: _Scene, rng: np.random.Generator, watch: _Watch) -> bool:
    """Fill scene.detail in scene.area from its known texels; False if there are too few sources."""
    strength = np.float32(np.interp(_thickness(scene.area), *_STRENGTHS))
    size, src_r, src_c = _sources(scene, _patch_size(scene), rng)
    if size == 0:
        return False
    overlap = size // 4
    pitch = size - overlap
    width = scene.area.shape[1]
    places = _places(scene, size)
    features = places.at(src_r, src_c)
    # Features of the face, and folds and scars, must not be strewn over it: windows with a part far louder
    # than the usual window are no sources. What is quite flat (gaps of the layout) says nothing of the usual.
    skin = features[0][features[0] > 2 * np.log(_FLAT)]
    if skin.size == 0:
        return False
    calm = features[5] < np.median(skin) + 2 * np.log(_LOUD)
    if np.count_nonzero(calm) < 8:
        return False
    src_r, src_c, features = src_r[calm], src_c[calm], features[:, calm]
    # A fold also stands out of its own window; where nothing around tells of one, none is put.
    usual = float(np.quantile(features[5] - features[0], 0.7))
    # And a window with a bare part (the edge of an island, a smooth lid) would leave a bald spot in pores.
    whole = features[6] > np.median(skin) - 2 * np.log(_BARE)
    usual_lull = float(np.quantile((features[0] - features[6])[whole], 0.7)) if whole.any() else np.inf
    # Half a turn keeps the direction of creases; more only where there is little to choose from and no
    # direction.
    turns = 8 if scene.isotropic and len(src_r) < _POOL // 4 else 2

    # Offsets of a patch's texels in each of its eight positions, and what its vectors are turned by.
    # Position k < 4 is turned k quarters, the others are also mirrored left to right.
    grid = np.arange(size)[:, None] * width + np.arange(size)[None, :]
    offsets = np.stack([np.rot90(grid if k < 4 else grid[:, ::-1], k % 4) for k in range(8)]).reshape(8, -1)
    factors = np.array([1, 1j, -1, -1j, -1, -1j, 1, 1j], np.complex64)
    order = np.arange(8) if turns == 8 else np.array([0, 2])

    # The grid starts at a random place, a little before the hole. A cell is needed if it has texels to fill
    # outside its overlap with the cells above and to the left; those fill the overlap.
    rows, cols = np.flatnonzero(scene.area.any(1)), np.flatnonzero(scene.area.any(0))
    top = int(rows[0]) - overlap - int(rng.integers(0, pitch // 2 + 1))
    left = int(cols[0]) - overlap - int(rng.integers(0, pitch // 2 + 1))
    top, left = max(top, 0), max(left, 0)
    gi = np.arange((int(rows[-1]) - top - overlap) // pitch + 1)
    gj = np.arange((int(cols[-1]) - left - overlap) // pitch + 1)
    cell_i, cell_j = (a.ravel() for a in np.meshgrid(gi, gj, indexing="ij"))
    cell_r, cell_c = top + cell_i * pitch, left + cell_j * pitch
    first_r, first_c = top + overlap, left + overlap
    own = scene.area[first_r : first_r + len(gi) * pitch, first_c : first_c + len(gj) * pitch]
    own = np.pad(own, ((0, len(gi) * pitch - own.shape[0]), (0, len(gj) * pitch - own.shape[1])))
    needed = own.reshape(len(gi), pitch, len(gj), pitch).any((1, 3)).ravel()
    cell_i, cell_j, cell_r, cell_c = (a[needed] for a in (cell_i, cell_j, cell_r, cell_c))

    # Cells with equal 2 i + j depend on earlier ones only: they're done together.
    front = 2 * cell_i + cell_j
    by_front = np.argsort(front, kind="stable")
    starts = np.flatnonzero(np.diff(front[by_front], prepend=-1))
    half = size // 2
    used = np.zeros((scene.area.shape[0] // half + 2, width // half + 2), np.float32)  # one cell of margin
    extent = float(max(scene.area.shape))
    windows = np.lib.stride_tricks.sliding_window_view
    all_detail = windows(scene.detail, (size, size))
    all_area = windows(scene.area, (size, size))
    all_known = windows(scene.known, (size, size))
    early = np.zeros((size, size), bool)
    early[:overlap] = early[:, :overlap] = True
    flat = scene.detail.reshape(-1)

    for n, group in enumerate(np.split(by_front, starts[1:])):
        if n % 4 == 0:
            watch.tell(0.4 + 0.5 * n / len(starts))
        for part in np.array_split(group, -(-len(group) // 48)):
            r, c = cell_r[part], cell_c[part]
            old, area, known = all_detail[r, c], all_area[r, c], all_known[r, c]
            near = np.zeros_like(known)
            edge = known.any((1, 2))
            near[edge] = known[edge] & _grow(area[edge], max(3, size // 10))
            place = places.at(r, c)
            # Candidates: near ones first, with chance.
            far = np.hypot(src_r[None] - r[:, None], src_c[None] - c[:, None]) / extent
            unlike = 0.35 * np.abs(features[0][None] - place[0][:, None])
            unlike += 1.0 * np.square(features[1:4][:, None] - place[1:4][:, :, None]).sum(0)
            unlike += 0.12 * np.abs(features[4][None] - place[4][:, None])
            unlike += 0.25 * far
            unlike += 1.0 * np.maximum(features[5][None] - place[0][:, None] - usual, 0)
            unlike += 1.0 * np.maximum(place[0][:, None] - features[6][None] - usual_lull, 0)
            m = min(_CANDIDATES, len(src_r))
            lottery = unlike + rng.exponential(0.25, unlike.shape)
            pick = (
                np.argpartition(lottery, m - 1, axis=1)[:, :m] if m < len(src_r) else np.argsort(lottery, 1)
            )
            way = order[rng.integers(0, len(order), pick.shape)]
            corner = src_r[pick] * width + src_c[pick]
            cost = np.take_along_axis(unlike, pick, 1)
            cost += 0.05 * (way != 0)
            cost += 0.2 * used[(src_r[pick] + size // 4) // half, (src_c[pick] + size // 4) // half]
            cost += _mismatch(flat, old, (area & early) | near, corner, offsets, factors, way, place[0], rng)
            best = np.argmin(cost, axis=1)
            index = np.arange(len(part))
            way_b, pick_b = way[index, best], pick[index, best]
            new = flat[corner[index, best][:, None] + offsets[way_b]]
            new = np.where((way_b < 4)[:, None], new, new.conj()) * factors[way_b][:, None]
            louder = np.exp(0.5 * np.clip(place[0] - features[0][pick_b], -0.45, 0.45)).astype(np.float32)
            new = (new * (strength * louder)[:, None]).reshape(-1, size, size).astype(np.complex64)
            at_r, at_c = (src_r[pick_b] + size // 4) // half, (src_c[pick_b] + size // 4) // half
            for dr in (-1, 0, 1):  # -1 of 0 is the margin
                for dc in (-1, 0, 1):
                    np.add.at(used, (at_r + dr, at_c + dc), 1.0 / (1 + abs(dr) + abs(dc)))
            if near.any():
                touched = near.any((1, 2))
                new[touched] += _join(old[touched] - new[touched], known[touched])
            keep = _cuts(np.where(area, np.square(np.abs(old - new)), 0).astype(np.float32), overlap)
            blend = old + (new - old) * keep
            for k in range(len(part)):
                spot = scene.detail[r[k] : r[k] + size, c[k] : c[k] + size]
                np.copyto(spot, blend[k], where=area[k])
    return True


def _grow(mask: Bools, by: int) -> Bools:
    """(n, h, w) masks widened by a number of texels in the maximum norm."""
    for axis in (1, 2):
        total = np.cumsum(
            np.pad(mask, [(0, 0)] + [(by + 1, by) if a == axis else (0, 0) for a in (1, 2)]), axis=axis
        )
        n = mask.shape[axis]
        late = [slice(None)] * 3
        soon = [slice(None)] * 3
        late[axis], soon[axis] = slice(2 * by + 1, 2 * by + 1 + n), slice(0, n)
        mask = total[tuple(late)] > total[tuple(soon)]
    return mask


def _mismatch(
    flat: Complexes,
    old: Complexes,
    overlap: Bools,
    corner: Ints,
    offsets: Ints,
    factors: Complexes,
    way: Ints,
    energy: Floats,
    rng: np.random.Generator,
) -> npt.NDArray[np.float64]:
    """How little (n, m) candidates agree with what is under them: about 1 for strangers, 0 for twins."""
    n = len(old)
    where = np.flatnonzero(overlap.reshape(n, -1).ravel())
    area = overlap[0].size
    counts = overlap.reshape(n, -1).sum(1)
    begin = np.cumsum(counts) - counts
    some = counts > 0
    out = np.zeros(way.shape)
    if not some.any():
        return out
    k = min(_SAMPLES, int(counts.max()))
    pick = begin[some][:, None] + (rng.random((int(some.sum()), k)) * counts[some][:, None]).astype(np.int64)
    texel = where[pick] - np.flatnonzero(some)[:, None] * area  # (n', k)
    aim = np.take_along_axis(old.reshape(n, -1)[some], texel, 1)
    there = offsets[way[some][..., None], texel[:, None, :]] + corner[some][..., None]
    found = flat[there]
    found = np.where((way[some] < 4)[..., None], found, found.conj()) * factors[way[some]][..., None]
    gap = found - aim[:, None, :]
    square = np.einsum("nmk,nmk->nm", gap.real, gap.real) + np.einsum("nmk,nmk->nm", gap.imag, gap.imag)
    out[some] = square / k / (2 * np.exp(energy[some])[:, None] + 1e-9)
    return out


def _join(gap: Complexes, known: Bools) -> Complexes:
    """What to add to (n, s, s) patches so that they meet the known texels under them.

    The gap between the two at known texels is continued past them, its wide part far and its narrow part
    only a few
    texels, so the patch's own detail stays.
    """
    size = known.shape[1]
    mask = known.astype(np.float32)
    gap = gap * mask
    out = np.zeros_like(gap)
    step = size // 16
    if step >= 2:
        even = step // 2 * 2
        packed = np.stack([gap.real, gap.imag, mask])
        low = _convolve(_shrink(packed, even), _BINOMIAL)
        reach = np.minimum(1, 2 * low[2]) / np.maximum(low[2], 1e-6)
        wide = _enlarge(_margin(low[:2] * reach), even)
        out = (wide[0] + 1j * wide[1]).astype(np.complex64)
        gap = (gap - out) * mask
    packed = _convolve(np.stack([gap.real, gap.imag, mask]), _BINOMIAL)
    reach = np.minimum(1, 3.2 * packed[2]) / np.maximum(packed[2], 1e-6)
    out += ((packed[0] + 1j * packed[1]) * reach).astype(np.complex64)
    return out


def _cuts(error: Floats, overlap: int) -> Floats:
    """Share of the new patch, (n, s, s): 0 before and 1 after the cheapest cuts, left and top."""
    n, size, _ = error.shape
    strips = np.concatenate([error[:, :, :overlap], error[:, :overlap, :].transpose(0, 2, 1)])
    # Ties go to the middle of the strip.
    middle = np.abs(np.arange(overlap) - (overlap - 1) / 2).astype(np.float32)
    strips = strips + (1e-3 * float(error.mean()) + 1e-12) * middle
    cost = np.full((2 * n, size, overlap + 2), np.inf, np.float32)
    cost[:, 0, 1:-1] = strips[:, 0]
    for k in range(1, size):
        above = cost[:, k - 1]
        best = np.minimum(np.minimum(above[:, :-2], above[:, 2:]), above[:, 1:-1])
        np.add(best, strips[:, k], out=cost[:, k, 1:-1])
    path = np.empty((2 * n, size), np.int64)
    at = np.argmin(cost[:, -1], axis=1)
    path[:, -1] = at
    index, steps = np.arange(2 * n), np.arange(-1, 2)
    for k in range(size - 2, -1, -1):
        at = at - 1 + np.argmin(cost[index[:, None], k, at[:, None] + steps], axis=1)
        path[:, k] = at
    # A ramp of three texels across the cut.
    side = np.arange(size)[None, None, :] - (path - 1)[:, :, None]
    ramp = np.clip((side + 1.5) / 3, 0, 1).astype(np.float32)
    return np.asarray(ramp[:n] * ramp[n:].transpose(0, 2, 1), np.float32)


# --- Putting together -----------------------------------------------------------------------------


def _combine(scene: _Scene, out: Floats) -> None:
    """Write the filled detail on the base into `out`, texels of the hole only."""
    r0, c0 = scene.origin
    for tile in _tiles(scene, scene.area):
        mask = scene.area[tile]
        low, share = _low_unit(scene, tile)
        # At the border the low-pass of both sides carries the detail, so that known and filled texels are
        # alike; deep
        # inside the base itself does.
        inside = np.clip(1 - 2 * share, 0, 1)
        shape = _unit(low + (scene.composite[(slice(None), *tile)] - low) * inside)
        full = _from_detail(shape, scene.detail[tile] * np.float32(scene.strength))
        if scene.turn is not None:
            full = np.einsum("ji,jhw->ihw", scene.turn, full).astype(np.float32)
        rows, cols = np.nonzero(mask)
        out[rows + (tile[0].start + r0), cols + (tile[1].start + c0)] = full[:, rows, cols].T
