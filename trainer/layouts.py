"""Maps in UV layouts that are not symmetric, and what of a face is hidden in them: for `trainer.evaluate`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .sources.ict import Head
from .sources.raster import F32, Bool

#: Makes a layout's texture coordinates (m, 3, 2) uneven.
Change = Callable[[F32], F32]


def bent(uv: F32) -> F32:
    """One half wider than the other, and the middle no straight line."""
    u, v = uv[..., 0], uv[..., 1]
    across = u + 0.1 * np.sin(np.pi * u) ** 2 * np.cos(np.pi * v) + 0.1 * np.sin(2 * np.pi * v) * u * (1 - u)
    up = v + 0.06 * np.sin(np.pi * u) * np.sin(np.pi * v) * (u - 0.3)
    return np.stack([across, up], axis=-1).astype(np.float32)


def islands(uv: F32) -> F32:
    """Both halves apart, smaller, and turned by 7 and by 29 degrees."""
    result = uv.copy()
    right = uv[..., 0].mean(axis=1) > 0.5
    for half, angle, start, end in ((~right, 0.12, 0.25, 0.27), (right, -0.5, 0.75, 0.74)):
        x, y = np.moveaxis(0.62 * (uv[half] - np.array([start, 0.5], np.float32)), -1, 0)
        cos, sin = np.cos(angle), np.sin(angle)
        result[half] = np.stack([x * cos - y * sin + end, x * sin + y * cos + 0.5], axis=-1)
    return result


LAYOUTS: dict[str, Change] = {"bent": bent, "islands": islands}


def hidden(head: Head, places: F32) -> dict[str, Bool]:
    """What may be hidden of a head in its layout: an eye with its brow, one side of the face, and the nose.

    Args:
        head: the surface.
        places: (s, s, 3) where on it the layout's texels lie, zero off it.
    """
    nose = head.vertices[np.argmax(head.vertices[:, 2] * (head.normals[:, 2] > 0.5))]
    x, y, z = np.moveaxis((places - nose) / head.unit, -1, 0)
    return {
        "eye": (np.hypot(x - 3.2, y - 3.2) < 2.6) & (z > -9),
        "side": (x > 0.2) & (y > -5) & (y < 6) & (z > -14),
        "nose": (np.hypot(x, y - 1) < 2.2) & (z > -9),
    }
