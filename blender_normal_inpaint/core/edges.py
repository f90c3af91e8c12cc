"""Edges that stay sharp where a context is enlarged: a nostril's rim, a lip's line, the side of a nose.

Interpolated, an edge of a context is as wide as its texels, and half way between a face that looks up and one
that looks down something looks at the camera that is neither. Where a head of the morphable model was fitted
to the context, it is drawn again as large as the map, and tells each texel's side of the edge: what the
context has beside the head on that side is added to it. That is joint bilateral upsampling (J. Kopf, M. F.
Cohen, D. Lischinski and M. Uyttendaele, "Joint Bilateral Upsampling", 2007), of what differs from the guide.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .engine import BoolArray, FloatArray
from .harmonic import grow
from .head import Head
from .normals import dot, unit
from .planes import convolve, gaussian
from .resample import enlarge

#: A context's vectors shorter than this are of both sides of an edge. So many texels around are sharpened.
SHORT, WIDE = 0.95, 2

#: How far around a place the context is looked at, in its texels; how soon texels count less, and how soon
#: those count less at which the head looks elsewhere, as a distance of tips.
REACH, NEAR, ALIKE = 3, 1.2, 0.25

#: How much those count that look quite elsewhere: where nothing around looks alike, they tell all the same.
LEAST = 1e-3

#: How far off, squared, a head may be beside an edge, and how many texels around one that is farther off are
#: left as they are: there the context has the edge in another place.
OFF, APART = 0.1, 3

#: Places that are looked at at a time.
_AT_A_TIME = 1 << 15


def sharpen(
    planes: FloatArray,
    field: FloatArray,
    head: Head,
    rows: NDArray[np.float64],
    columns: NDArray[np.float64],
    wanted: BoolArray,
) -> None:
    """Make the edges of an enlarged field sharp, in place.

    Args:
        planes: float32 (3, H, W), the field enlarged, planes first, of any length above zero.
        field: float32 (h, w, 3), unit vectors, shorter at edges.
        head: that was fitted to it.
        rows: (H,) where the rows lie on the field, in its texels: 0 is the centre of the first one.
        columns: (W,) likewise. Both are evenly spaced, as far apart.
        wanted: bool (H, W), what is to be sharpened.
    """
    if len(rows) < 2 or rows[1] - rows[0] > 0.75:
        return
    length = np.sqrt(dot(field, field))
    edges = (length < SHORT) & (length > 0.05)
    around = grow(edges, WIDE)
    if not around.any():
        return
    guide = np.zeros(field.shape, np.float32)
    small = head.drawn(grow(around, REACH + 1), samples=1)
    guide.reshape(-1, 3)[small.texels] = small.normals
    apart = field - guide
    counts = (length >= SHORT) & guide.any(axis=-1)
    elsewhere = counts & around & (dot(apart, apart) > OFF)
    share = _softly(around & ~grow(elsewhere, APART), rows, columns)
    there = wanted & (share > 0)
    if not there.any():
        return
    sides = counts.astype(np.float32) - (small.gaps & (length > 0.05))
    layers = np.concatenate([guide, apart, sides[..., None]], -1, dtype=np.float32)
    layers = np.pad(layers, ((REACH, REACH), (REACH, REACH), (0, 0)))
    texels, normals = _guide(head, small.gaps, rows, columns, there)
    flat = planes.reshape(3, -1)
    for start in range(0, texels.size, _AT_A_TIME):
        part = slice(start, start + _AT_A_TIME)
        row, column = np.divmod(texels[part], len(columns))
        found, enough = _beside(layers, normals[part], rows[row], columns[column])
        weight = enough * share[row, column]
        own = unit(np.ascontiguousarray(flat[:, texels[part]].T))
        flat[:, texels[part]] = (own + (unit(normals[part] + found) - own) * weight[:, None]).T


def _guide(
    head: Head,
    gaps: BoolArray,
    rows: NDArray[np.float64],
    columns: NDArray[np.float64],
    wanted: BoolArray,
) -> tuple[NDArray[np.intp], FloatArray]:
    """The head where it is wanted: texels (p,) of a finer grid and their unit normals, float32 (p, 3).

    In small gaps in it, such as a nostril is, they are zero: that is a side of an edge like others.
    """
    texels, normals = head.enlarged(rows, columns, wanted)
    row, column = (
        np.clip(np.rint(axis), 0, length - 1).astype(np.intp)
        for axis, length in zip((rows, columns), gaps.shape, strict=True)
    )
    missing = wanted & grow(gaps, WIDE)[row[:, None], column]
    missing.reshape(-1)[texels] = False
    left = np.flatnonzero(missing)
    return np.append(texels, left), np.concatenate([normals, np.zeros((left.size, 3), np.float32)])


def _softly(flags: BoolArray, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> FloatArray:
    """1 at texels of a context, enlarged, and less and less around them: float32 (H, W)."""
    soft = convolve(flags.astype(np.float32), gaussian(1.0))
    result: FloatArray = np.clip(1.5 * enlarge(soft[..., None], rows, columns)[0] - 0.25, 0, 1)
    return result


def _beside(
    layers: FloatArray, normals: FloatArray, rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> tuple[FloatArray, FloatArray]:
    """What a context has beside its guide around places, on their side of an edge.

    Args:
        layers: float32 (h, w, 7): guide, what the context has beside it, and 1 where that counts on the head,
            -1 where it does in a gap, else 0; framed by `REACH` texels.
        normals: float32 (n, 3), the guide at the places, zero in gaps.
        rows: (n,) of the places.
        columns: likewise.

    Returns:
        float32 (n, 3), the mean; and (n,), from 0 to 1, whether there is enough of it.
    """
    offsets = range(-REACH, REACH + 1)
    places: list[list[NDArray[np.intp]]] = []
    shares: list[list[FloatArray]] = []
    for at, length in (rows, len(layers)), (columns, layers.shape[1]):
        near = np.rint(at).astype(np.intp)
        places.append([np.clip(near + offset + REACH, 0, length - 1) for offset in offsets])
        apart = ((near - at) / NEAR).astype(np.float32)
        shares.append([np.exp(-0.5 * np.square(apart + np.float32(offset / NEAR))) for offset in offsets])
    side = np.where(normals.any(axis=1), np.float32(1), np.float32(-1))
    flat = layers.reshape(-1, layers.shape[2])
    sums: FloatArray = np.zeros((rows.size, 3), np.float32)
    total: FloatArray = np.zeros(rows.size, np.float32)
    for row, down in zip(places[0], shares[0], strict=True):
        for column, right in zip(places[1], shares[1], strict=True):
            beside = flat.take(row * layers.shape[1] + column, axis=0)
            turned = beside[:, :3] - normals
            weight = np.exp(dot(turned, turned) * np.float32(-0.5 / ALIKE**2)) + np.float32(LEAST)
            weight *= down * right * np.maximum(beside[:, 6] * side, 0)
            for i in range(3):
                sums[:, i] += weight * beside[:, 3 + i]
            total += weight
    sums /= np.maximum(total, np.float32(1e-6))[:, None]
    return sums, np.minimum(total / np.float32(LEAST), 1)
