"""Tangent-space skin: height fields of pores, creases, wrinkles, stubble, scars and noise.

There is no free set of real 4K skin normal maps that may be passed on, so skin is synthesised and varied
widely: the network shall continue whatever texture it sees, not know one skin.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional

from .raster import F32, Bool, Bump

F64 = NDArray[np.float64]


def noise(rng: np.random.Generator, size: int, low: float, high: float, falloff: float = 0.0) -> F64:
    """Random field (size, size) of zero mean and unit deviation, periodic.

    Args:
        rng: decides.
        size: side.
        low: lowest frequency, waves per side.
        high: highest frequency.
        falloff: amplitude goes with frequency to the minus this.
    """
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]) * size
    gain = np.where((f >= low) & (f <= high), np.maximum(f, 1e-6) ** -falloff, 0)
    field = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(size, size))) * gain, s=(size, size))
    deviation = field.std()
    return np.asarray(field / deviation if deviation > 0 else field)


def _cells(
    rng: np.random.Generator, size: int, count: float, across: float, stretch: float, angle: float
) -> tuple[F64, F64, NDArray[np.intp]]:
    """Distances to the two nearest of jittered points (in cell widths), and the nearest point's number.

    There are `count` points along each of `across` patches.
    """
    count *= across
    side = int(np.ceil(count * 1.8)) + 2
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)
    points = grid + rng.uniform(0, 1, grid.shape)
    y, x = np.mgrid[:size, :size] / size * count - count / 2
    warp = noise(rng, size, across, 5 * across), noise(rng, size, across, 5 * across)
    x, y = x + 0.3 * warp[0], y + 0.3 * warp[1]
    u = (x * np.cos(angle) + y * np.sin(angle)) * np.sqrt(stretch)
    v = (-x * np.sin(angle) + y * np.cos(angle)) / np.sqrt(stretch)
    where = np.stack([u, v], axis=-1).reshape(-1, 2) + side / 2
    distance, index = cKDTree(points).query(where, k=2)
    return (
        distance[:, 0].reshape(size, size),
        distance[:, 1].reshape(size, size),
        index[:, 0].reshape(size, size),
    )


def pores(rng: np.random.Generator, size: int, across: float) -> F64:
    """Small pits, each of its own depth."""
    near, _, index = _cells(
        rng, size, rng.uniform(12, 60), across, rng.uniform(1, 1.6), rng.uniform(0, np.pi)
    )
    depth = rng.gamma(2.0, 0.5, index.max() + 1)[index]
    return np.asarray(-depth * np.exp(-((near / rng.uniform(0.18, 0.4)) ** 2)))


def creases(rng: np.random.Generator, size: int, across: float) -> F64:
    """The fine net of lines that divides skin into facets."""
    near, far, index = _cells(
        rng, size, rng.uniform(10, 50), across, rng.uniform(1, 2.5), rng.uniform(0, np.pi)
    )
    bump = rng.normal(0, 0.15, index.max() + 1)[index]
    return np.asarray(bump - np.exp(-(far - near) / rng.uniform(0.08, 0.25)))


def wrinkles(rng: np.random.Generator, size: int, across: float) -> F64:
    """Long folds that run side by side, deeper here than there."""
    angle = rng.uniform(0, np.pi)
    y, x = np.mgrid[:size, :size] / size * across
    place = x * np.cos(angle) + y * np.sin(angle)
    place = place + 0.06 * rng.uniform(0.3, 2) * noise(rng, size, across, 4 * across)
    place = place + 0.01 * rng.uniform(0, 2) * noise(rng, size, 4 * across, 16 * across)
    wave = np.abs(np.sin(np.pi * place * rng.uniform(2, 14) + rng.uniform(0, 6)))
    depth = np.clip(0.5 + noise(rng, size, across, 3 * across), 0, None)
    return np.asarray(-depth * np.exp(-wave / rng.uniform(0.1, 0.4)))


def stubble(rng: np.random.Generator, size: int, across: float) -> F64:
    """Short hairs or bumps that lean one way."""
    near, _, index = _cells(
        rng, size, rng.uniform(18, 60), across, rng.uniform(1.5, 5), rng.uniform(0, np.pi)
    )
    there = (rng.random(index.max() + 1) < rng.uniform(0.3, 0.9))[index]
    patch = np.clip(0.6 + 0.7 * noise(rng, size, across, 3 * across), 0, 1)
    return np.asarray(there * patch * np.exp(-((near / rng.uniform(0.2, 0.4)) ** 2)))


def scar(rng: np.random.Generator, size: int) -> F64:
    """A ridge or groove along a path."""
    y, x = np.mgrid[:size, :size] / size
    angle = rng.uniform(0, np.pi)
    along = (x - rng.uniform(0.2, 0.8)) * np.cos(angle) + (y - rng.uniform(0.2, 0.8)) * np.sin(angle)
    across = -(x - rng.uniform(0.2, 0.8)) * np.sin(angle) + (y - rng.uniform(0.2, 0.8)) * np.cos(angle)
    across = across + 0.03 * noise(rng, size, 1, 6)
    width = rng.uniform(0.006, 0.03)
    body = np.exp(-((across / width) ** 2)) * np.exp(-((along / rng.uniform(0.1, 0.4)) ** 4))
    return np.asarray(body * rng.choice([-1.0, 1.0]))


def height(rng: np.random.Generator, size: int, across: float = 1.0) -> F64:
    """Draw a skin height field (size, size); the unit is arbitrary, slopes are scaled later.

    Args:
        rng: decides.
        size: side.
        across: how many patches of skin the side spans; one has some dozens of pores along its side. With
            `size / 512` a large map has pores as many texels wide as one of 512 texels has.
    """
    total = np.zeros((size, size))

    def add(field: F64, weight: float) -> None:
        slope = np.hypot(*np.gradient(field)).std()
        if slope > 0:
            total[...] += weight * field / slope

    if rng.random() < 0.75:
        add(pores(rng, size, across), rng.uniform(0.2, 1))
    if rng.random() < 0.65:
        add(creases(rng, size, across), rng.uniform(0.2, 1))
    if rng.random() < 0.4:
        add(wrinkles(rng, size, across), rng.uniform(0.3, 1.4))
    if rng.random() < 0.2:
        add(stubble(rng, size, across), rng.uniform(0.2, 1))
    if rng.random() < 0.12:
        add(scar(rng, size), rng.uniform(0.5, 1.5))
    add(noise(rng, size, across, size / 4, rng.uniform(1.5, 2.5)), rng.uniform(0.2, 1.2))
    if rng.random() < 0.5:
        add(noise(rng, size, size / 16, size / 2, rng.uniform(0, 1)), rng.uniform(0.02, 0.25))
    return total


def slopes_to_normals(right: F64, up: F64) -> F32:
    """Unit normals (h, w, 3) of a surface z(x, y) from its slopes to the right and upwards."""
    n = np.stack([-right, -up, np.ones_like(right)], axis=-1)
    return np.asarray(n / np.linalg.norm(n, axis=-1, keepdims=True), dtype=np.float32)


def skin_slopes(rng: np.random.Generator, size: int, across: float = 1.0) -> tuple[F64, F64]:
    """Slopes to the right and upwards (size, size) of drawn skin, from faint to rough; see `height`."""
    field = height(rng, size, across)
    down, right = np.gradient(field)
    scale = np.exp(rng.uniform(np.log(0.02), np.log(0.3))) / max(float(np.hypot(right, down).std()), 1e-9)
    return right * scale, -down * scale


def _mirrored(place: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Texel and direction (1 or -1) at places of a line tiled with a map and its mirror image, in turn."""
    turn = place % 2
    back = turn >= 1
    inside = torch.where(back, 2 - turn, turn)
    return (inside * size).long().clamp_max(size - 1), 1 - 2 * back.float()


def bump_of(
    right: F64, up: F64, width: float, texel: float, skin: Bool | None = None, device: str = "cpu"
) -> Bump:
    """Skin worn by a surface: the map is projected along the three axes, and their gradients are mixed.

    Mikkelsen, "Surface Gradient-Based Bump Mapping Framework", 2020: a height's gradient is taken off the
    normal within the tangent plane, n - (g - (g . n) n).

    Args:
        right: (s, s) slopes of the skin to the right, top row first.
        up: (s, s) slopes upwards.
        width: what the map's side measures on the head, in its unit.
        texel: what a texel of the picture measures there; finer skin than that is averaged away.
        skin: (m,) which triangles wear it; None for all.
        device: where the surface is.
    """
    import cv2

    size = int(np.clip(round(width / texel), 8, right.shape[0]))
    slopes = [
        torch.from_numpy(cv2.resize(s, (size, size), interpolation=cv2.INTER_AREA)).float().to(device)
        for s in (right, up)
    ]
    wears = None if skin is None else torch.from_numpy(skin).to(device)

    def bump(places: Tensor, normals: Tensor, index: Tensor) -> Tensor:
        weight = normals**4
        weight = weight / weight.sum(dim=1, keepdim=True)
        gradient = torch.zeros_like(places)
        for out in range(3):
            across, along = [axis for axis in range(3) if axis != out]
            column, flip_x = _mirrored(places[:, across] / width + 0.37 * out, size)
            row, flip_y = _mirrored(-places[:, along] / width + 0.61 * out, size)
            gradient[:, across] += weight[:, out] * slopes[0][row, column] * flip_x
            gradient[:, along] += weight[:, out] * slopes[1][row, column] * flip_y
        if wears is not None:
            gradient = gradient * wears[index][:, None]
        lift = (gradient * normals).sum(dim=1, keepdim=True)
        return functional.normalize(normals - (gradient - lift * normals), dim=1)

    return bump


def skin_map(rng: np.random.Generator, size: int, across: float = 1.0) -> F32:
    """A tangent-space map (size, size, 3) of skin alone; see `height`."""
    return slopes_to_normals(*skin_slopes(rng, size, across))


def residual_map(rng: np.random.Generator, normals: F32, valid: Bool, across: float = 1.0) -> F32:
    """A tangent-space map from an object-space map: what a smoother base mesh leaves to its normal map.

    The base's normals are the blurred map; the shortest turn that brings each to +z is applied to the map.
    Skin is added on top, as slopes are added.

    Args:
        rng: decides the smoothness of the base and the skin.
        normals: (s, s, 3) object-space unit normals, zero off the surface.
        valid: (s, s) surface.
        across: how many patches of skin the side spans, see `height`.

    Returns:
        (s, s, 3) unit normals, zero off the surface.
    """
    size = normals.shape[0]
    sigma = size * np.exp(rng.uniform(np.log(0.006), np.log(0.05)))
    base = np.stack([ndimage.gaussian_filter(normals[..., i], sigma) for i in range(3)], axis=-1)
    base /= np.maximum(np.linalg.norm(base, axis=-1, keepdims=True), 1e-6)
    # Rodrigues' rotation from base to z, written out: axis (by, -bx, 0), cosine bz.
    bx, by, bz = base[..., 0], base[..., 1], np.maximum(base[..., 2], -0.98)
    axis = np.stack([by, -bx, np.zeros_like(bx)], axis=-1)
    dot = (axis * normals).sum(axis=-1, keepdims=True)
    turned = normals * bz[..., None] + np.cross(axis, normals) + axis * dot / (1 + bz[..., None])
    z = np.maximum(turned[..., 2], 0.15)
    right, up = skin_slopes(rng, size, across)
    strength = rng.uniform(0.0, 1.0)
    out = slopes_to_normals(
        np.clip(-turned[..., 0] / z, -3, 3) + strength * right,
        np.clip(-turned[..., 1] / z, -3, 3) + strength * up,
    )
    out[~valid] = 0
    return out
