"""Masks to train on: the damage that artists and capture have, drawn with a random state passed in.

Each style is a function `(rng, size, centre) -> bool (size, size)`; `centre` is a texel (row, column) on the
surface. `draw_mask` mixes them by weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

Bool = NDArray[np.bool_]
Centre = tuple[float, float]
Style = Callable[[np.random.Generator, int, Centre], Bool]


def _empty(size: int) -> NDArray[np.uint8]:
    return np.zeros((size, size), np.uint8)


def fill_polygon(canvas: NDArray[np.uint8], points: NDArray[np.float64]) -> None:
    """Set the inside of an outline (n, 2), x then y in texels, to 1."""
    cv2.fillPoly(canvas, [np.rint(points * 16).astype(np.int32).reshape(-1, 1, 2)], 1, shift=4)


def fill_path(canvas: NDArray[np.uint8], points: NDArray[np.float64], width: float) -> None:
    """Set a line of a width along points (n, 2), x then y in texels, to 1."""
    cv2.polylines(
        canvas,
        [np.rint(points * 16).astype(np.int32).reshape(-1, 1, 2)],
        False,
        1,
        thickness=max(1, round(width)),
        shift=4,
    )


def blob_outline(
    rng: np.random.Generator, centre: Centre, radius: float, wobble: float, stretch: float = 1.0
) -> NDArray[np.float64]:
    """Outline (n, 2), x then y, of a smooth closed curve about a centre."""
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    r = np.ones_like(angle)
    for k in range(2, 7):
        r += wobble / k * rng.normal() * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    r = np.maximum(r, 0.3) * radius
    turn = rng.uniform(0, np.pi)
    x, y = r * np.cos(angle) * np.sqrt(stretch), r * np.sin(angle) / np.sqrt(stretch)
    return np.stack(
        [
            centre[1] + x * np.cos(turn) - y * np.sin(turn),
            centre[0] + x * np.sin(turn) + y * np.cos(turn),
        ],
        axis=1,
    )


def _walk(
    rng: np.random.Generator, start: Centre, step: float, count: int, bend: float
) -> NDArray[np.float64]:
    """Random smooth path (count, 2), x then y."""
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, bend, count))
    return np.stack(
        [start[1] + np.cumsum(step * np.cos(heading)), start[0] + np.cumsum(step * np.sin(heading))], axis=1
    )


def lines(rng: np.random.Generator, size: int, centre: Centre) -> Bool:
    """Irregular lines of several widths over the whole map."""
    canvas = _empty(size)
    for _ in range(int(rng.integers(3, 12))):
        start = (rng.uniform(0, size), rng.uniform(0, size))
        path = _walk(rng, start, size * 0.04, int(rng.integers(6, 30)), 0.4)
        fill_path(canvas, path, size * rng.uniform(0.008, 0.05))
    return canvas > 0


def blob(rng: np.random.Generator, size: int, centre: Centre) -> Bool:
    """One large blob, a fifth to over a half of the map across."""
    canvas = _empty(size)
    fill_polygon(
        canvas,
        blob_outline(rng, centre, size * rng.uniform(0.1, 0.28), rng.uniform(0, 0.35), rng.uniform(1, 1.6)),
    )
    return canvas > 0


def scatter(rng: np.random.Generator, size: int, centre: Centre) -> Bool:
    """Many small blobs."""
    canvas = _empty(size)
    for _ in range(int(rng.integers(5, 30))):
        place = (rng.uniform(0, size), rng.uniform(0, size))
        fill_polygon(
            canvas, blob_outline(rng, place, size * rng.uniform(0.015, 0.07), 0.3, rng.uniform(1, 1.8))
        )
    return canvas > 0


def stripe(rng: np.random.Generator, size: int, centre: Centre) -> Bool:
    """A straight band at any angle through the centre."""
    angle, half = rng.uniform(0, np.pi), size * rng.uniform(0.03, 0.14)
    y, x = np.mgrid[:size, :size]
    away = (x - centre[1]) * np.cos(angle) + (y - centre[0]) * np.sin(angle)
    return np.asarray(np.abs(away) < half)


def crescent(rng: np.random.Generator, size: int, centre: Centre) -> Bool:
    """All that lies outside a disc that is pushed to one side: an edge lost."""
    angle = rng.uniform(0, 2 * np.pi)
    shift, radius = size * rng.uniform(0.1, 0.3), size * rng.uniform(0.42, 0.55)
    cx, cy = size / 2 + shift * np.cos(angle), size / 2 + shift * np.sin(angle)
    y, x = np.mgrid[:size, :size]
    outside = np.hypot(x - cx, y - cy) > radius
    side = (x - size / 2) * np.cos(angle) + (y - size / 2) * np.sin(angle) < 0
    return np.asarray(outside & side)


def strands(rng: np.random.Generator, size: int, centre: Centre) -> Bool:
    """Locks of thin, nearly parallel hairs."""
    canvas = _empty(size)
    for _ in range(int(rng.integers(1, 4))):
        start = (rng.uniform(0, size), rng.uniform(0, size))
        lock = _walk(rng, start, size * 0.06, int(rng.integers(8, 22)), 0.15)
        for _ in range(int(rng.integers(4, 18))):
            drift = np.linspace(0, 1, len(lock))[:, None] * rng.normal(0, size * 0.06, 2)
            hair = lock + rng.normal(0, size * 0.03, 2) + drift
            fill_path(canvas, hair, size * rng.uniform(0.003, 0.012))
    return canvas > 0


def brush(rng: np.random.Generator, size: int, centre: Centre) -> Bool:
    """A few thick strokes around one place, as a mask painted by hand."""
    canvas = _empty(size)
    width = size * rng.uniform(0.05, 0.14)
    for _ in range(int(rng.integers(1, 6))):
        start = (centre[0] + rng.normal(0, size * 0.06), centre[1] + rng.normal(0, size * 0.06))
        path = _walk(rng, start, size * 0.03, int(rng.integers(2, 12)), 0.5)
        fill_path(canvas, path, width * rng.uniform(0.7, 1.3))
    return canvas > 0


def prop(rng: np.random.Generator, size: int, centre: Centre) -> Bool:
    """Something held before the face: a hand (palm and fingers), a bar, or a box."""
    canvas = _empty(size)
    kind = rng.random()
    angle = rng.uniform(0, 2 * np.pi)
    ahead = np.array([np.cos(angle), np.sin(angle)])
    aside = np.array([-ahead[1], ahead[0]])
    middle = np.array([centre[1], centre[0]])
    if kind < 0.5:
        palm = size * rng.uniform(0.07, 0.14)
        fill_polygon(canvas, blob_outline(rng, centre, palm, 0.15, rng.uniform(1, 1.3)))
        for finger in range(int(rng.integers(3, 6))):
            across = (finger / 4 - 0.5) * 1.7 * palm
            root = middle + ahead * palm * 0.6 + aside * across
            lean = ahead + aside * ((finger / 4 - 0.5) * rng.uniform(0, 1.0))
            tip = root + lean * palm * rng.uniform(0.9, 1.7)
            fill_path(
                canvas, np.stack([root, (root + tip) / 2 + rng.normal(0, palm * 0.06, 2), tip]), palm * 0.38
            )
        arm = middle - ahead * size
        fill_path(canvas, np.stack([middle, arm]), palm * 1.3)
    elif kind < 0.75:
        reach = size * rng.uniform(0.3, 1.2)
        fill_path(
            canvas,
            np.stack([middle - ahead * size * 0.1, middle + ahead * reach]),
            size * rng.uniform(0.03, 0.16),
        )
    else:
        w, h = size * rng.uniform(0.06, 0.25, 2)
        corners = [
            middle + sx * w * ahead + sy * h * aside for sx, sy in ((1, 1), (1, -1), (-1, -1), (-1, 1))
        ]
        fill_polygon(canvas, np.stack(corners))
    return canvas > 0


def half(rng: np.random.Generator, size: int, centre: Centre) -> Bool:
    """One side of a wavy line through the surface's middle: an eye and a cheek, or more."""
    angle = rng.normal(0, 0.25) if rng.random() < 0.7 else rng.uniform(0, np.pi)
    angle += np.pi if rng.random() < 0.5 else 0.0
    y, x = np.mgrid[:size, :size]
    along = -(x - centre[1]) * np.sin(angle) + (y - centre[0]) * np.cos(angle)
    away = (x - centre[1]) * np.cos(angle) + (y - centre[0]) * np.sin(angle)
    wave = size * rng.uniform(0, 0.03) * np.sin(along / size * rng.uniform(4, 16) + rng.uniform(0, 6))
    reach = size * rng.uniform(0.25, 0.7)
    span = size * rng.uniform(0.2, 0.6)
    return np.asarray((away > wave) & (away < reach) & (np.abs(along) < span))


def feature(rng: np.random.Generator, size: int, centre: Centre) -> Bool:
    """An oval the size of an eye, a nose or a mouth."""
    canvas = _empty(size)
    fill_polygon(canvas, blob_outline(rng, centre, size * rng.uniform(0.05, 0.13), 0.12, rng.uniform(1, 2.4)))
    return canvas > 0


STYLES: Mapping[str, Style] = {
    "lines": lines,
    "blob": blob,
    "scatter": scatter,
    "stripe": stripe,
    "crescent": crescent,
    "strands": strands,
    "brush": brush,
    "prop": prop,
    "half": half,
    "feature": feature,
}

DEFAULT_WEIGHTS: Mapping[str, float] = {
    "lines": 1.0,
    "blob": 2.2,
    "scatter": 1.0,
    "stripe": 0.6,
    "crescent": 0.4,
    "strands": 0.7,
    "brush": 1.5,
    "prop": 1.0,
    "half": 1.6,
    "feature": 1.0,
}


def relief(normals: NDArray[np.float32], valid: Bool) -> NDArray[np.float64]:
    """Where the features of a face are: how much the normals turn around each texel.

    Args:
        normals: (size, size, 3) unit vectors.
        valid: (size, size) surface.

    Returns:
        (size, size), zero off the surface and at its outline, which turns most of all.
    """
    size = valid.shape[0]
    reach = max(3, size // 12) | 1
    inner = cv2.erode(valid.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(np.float64)
    turn = np.zeros((size, size))
    turn[:, 1:] += np.linalg.norm(np.diff(normals, axis=1), axis=-1)
    turn[1:] += np.linalg.norm(np.diff(normals, axis=0), axis=-1)
    around = cv2.blur(turn * inner, (reach, reach)) / np.maximum(cv2.blur(inner, (reach, reach)), 1e-6)
    return np.asarray(around**2 * inner)


def draw_mask(
    rng: np.random.Generator,
    valid: Bool,
    weights: Mapping[str, float] = DEFAULT_WEIGHTS,
    normals: NDArray[np.float32] | None = None,
) -> Bool:
    """Draw a mask that hides some surface and leaves some known.

    Args:
        rng: decides the style and the shape.
        valid: bool (size, size), the surface.
        weights: how often each style is drawn, not normalised.
        normals: (size, size, 3) the map; with it the style `feature` hides an eye, the nose or the mouth, and
            not just any place of their size.

    Returns:
        bool (size, size), True where the map is to be repaired; at least a few texels of the surface.

    Raises:
        ValueError: a style is not known, all weights are zero, or the map is empty.
    """
    unknown = set(weights) - set(STYLES)
    if unknown:
        raise ValueError(f"unknown mask styles: {', '.join(sorted(unknown))}; known: {', '.join(STYLES)}")
    share = np.array([weights[name] for name in weights], np.float64)
    if not share.sum() > 0:
        raise ValueError("the weights of the mask styles add up to nothing")
    size = valid.shape[0]
    places = np.flatnonzero(valid)
    if len(places) == 0:
        raise ValueError("a map without surface cannot be masked")
    names = list(weights)
    mask = np.zeros_like(valid)
    for _ in range(8):
        name = names[int(rng.choice(len(names), p=share / share.sum()))]
        row, column = divmod(int(places[rng.integers(len(places))]), size)
        if name == "feature" and normals is not None and (where := relief(normals, valid)).any():
            chance = where.ravel() / where.sum()
            row, column = divmod(int(rng.choice(size * size, p=chance)), size)
        elif rng.random() < 0.6:  # Towards the middle of the surface, where the face is.
            middle = np.array(np.unravel_index(places, valid.shape)).mean(axis=1)
            pull = rng.uniform(0.3, 0.9)
            row, column = (1 - pull) * row + pull * middle[0], (1 - pull) * column + pull * middle[1]
        mask = STYLES[name](rng, size, (float(row), float(column)))
        hidden = np.count_nonzero(mask & valid)
        if 0.004 * len(places) < hidden < 0.8 * len(places):
            return mask
    if not (mask & valid).any():
        mask = mask.copy()
        mask.flat[places[rng.integers(len(places))]] = True
    return mask
