"""Fields stored planes first, of any number of planes: their resolution and their low-pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .engine import FloatArray


def shrink(field: FloatArray, step: int) -> FloatArray:
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


def _lerp(field: npt.NDArray[Any], step: int, axis: int) -> npt.NDArray[Any]:
    """An axis, -2 or -1, interpolated: n values to (n - 1) * step, from half a texel past the first on."""
    rest = (slice(None),) if axis == -2 else ()
    former, latter = (..., slice(None, -1), *rest), (..., slice(1, None), *rest)
    rise = field[latter] - field[former]
    shape = list(field.shape)
    shape[axis] = (shape[axis] - 1) * step
    out = np.empty(shape, field.dtype)
    for k in range(step):
        part = out[(..., slice(k, None, step), *rest)]
        np.multiply(rise, np.float32((k + 0.5) / step), out=part)
        part += field[former]
    return out


def enlarge(field: npt.NDArray[Any], step: int) -> npt.NDArray[Any]:
    """Bilinear upsampling of the last two axes by an even step; the field has a margin of one texel."""
    if step == 1:
        return field[..., 1:-1, 1:-1]
    half = step // 2
    rows = _lerp(field, step, -2)[..., half:-half, :]
    return _lerp(rows, step, -1)[..., half:-half]


def _edged(field: npt.NDArray[Any], count: int, axis: int) -> npt.NDArray[Any]:
    """So many texels of repeated edge at both ends of an axis: as `numpy.pad`, in a third of the time."""
    before = (slice(None),) * axis
    first, last = field[(*before, slice(0, 1))], field[(*before, slice(-1, None))]
    return np.concatenate([first] * count + [field] + [last] * count, axis)


def margin(field: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """One texel of repeated edge around the last two axes."""
    return _edged(_edged(field, 1, field.ndim - 2), 1, field.ndim - 1)


def convolve(field: npt.NDArray[Any], kernel: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """Separable convolution of the last two axes with a symmetric odd kernel, edges repeated."""
    r = len(kernel) // 2
    for axis in (field.ndim - 2, field.ndim - 1):
        n = field.shape[axis]
        wide = _edged(field, r, axis)

        def part(k: int, axis: int = axis, n: int = n, wide: npt.NDArray[Any] = wide) -> npt.NDArray[Any]:
            return wide[(slice(None),) * axis + (slice(k, k + n),)]

        total = part(r) * kernel[r]
        pair = np.empty_like(total)
        for k in range(r):
            np.add(part(k), part(2 * r - k), out=pair)
            pair *= kernel[k]
            total += pair
        field = total
    return field


def gaussian(sigma: float) -> npt.NDArray[np.float32]:
    """Sampled Gaussian of the given standard deviation in texels, sum 1."""
    r = max(1, int(np.ceil(2.7 * sigma)))
    x = np.arange(-r, r + 1)
    kernel = np.exp(-0.5 * (x / max(sigma, 1e-3)) ** 2)
    return np.asarray(kernel / kernel.sum(), np.float32)


def pull_push(value: FloatArray, weight: FloatArray) -> FloatArray:
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
    low_weight = 4 * shrink(t, 2)
    low = pull_push((4 * shrink(v, 2) / np.maximum(low_weight, 1e-12)).astype(np.float32), low_weight)
    up = enlarge(margin(low), 2)[:h, :w]
    return np.asarray(value * trust + up * (1 - trust), np.float32)


def unit(v: FloatArray) -> FloatArray:
    """(3, ...) vectors to unit length; a zero vector becomes +z."""
    length = np.sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2])
    zero = length < 1e-6
    out = v / np.where(zero, np.float32(1), length)
    if zero.any():
        out[2][zero] = 1
    return np.asarray(out, np.float32)
