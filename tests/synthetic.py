"""What the tests work on: an engine without a network, maps made from formulas. Nothing heavy is imported."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blender_normal_inpaint.core import harmonic
from blender_normal_inpaint.core.guess import drawn_around, mixed_with, shown_by_relief, shown_by_twin
from blender_normal_inpaint.core.modelcard import INPUT_CHANNELS, SPACES, ModelCard
from blender_normal_inpaint.core.normals import unit
from blender_normal_inpaint.core.resample import spread

ROOT = Path(__file__).resolve().parent.parent

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


def fake_card(working_size: int = 128, size_multiple: int = 16) -> ModelCard:
    """A card for an engine that needs no weights."""
    return ModelCard(
        name="fake",
        version="1",
        created="2026-01-01",
        spaces=SPACES,
        input_channels=INPUT_CHANNELS,
        working_size=working_size,
        size_multiple=size_multiple,
        generator={"kind": "fake"},
        files={},
    )


class FakeEngine:
    """Stands in for a network: continues the known normals into the hole, then tilts everything.

    The tilt makes its answer differ from the known texels, as a real network's does, so that a seam
    shows unless it is closed. Every input is kept in `seen`.
    """

    name = "fake"
    device = "CPU"

    def __init__(self, tilt: float = 0.2, working_size: int = 128, size_multiple: int = 16) -> None:
        self.card = fake_card(working_size, size_multiple)
        self.tilt = tilt
        self.seen: list[Floats] = []

    def run(self, batch: Floats) -> Floats:
        self.seen.append(batch.copy())
        assert batch.dtype == np.float32 and batch.ndim == 4 and batch.shape[1] == len(INPUT_CHANNELS)
        assert batch.shape[2] % self.card.size_multiple == 0 and batch.shape[3] % self.card.size_multiple == 0
        answers = []
        for sample in batch:
            hole = sample[3] > 0.5
            known = (sample[4] > 0.5) & ~hole
            field = harmonic.extend(sample[:3], harmonic.border_of(hole, known), hole)
            field[:, known] = sample[:3, known]
            field[2][~(known | hole)] = 1
            tilted = unit(
                np.moveaxis(field, 0, -1) + np.array([self.tilt, -0.5 * self.tilt, 0.0], np.float32)
            )
            answers.append(np.moveaxis(tilted, -1, 0))
        return np.ascontiguousarray(np.stack(answers), dtype=np.float32)


def sphere_normals(height: int, width: int, radius: float = 0.9) -> tuple[Floats, Bools]:
    """A ball seen from the front: float32 (h, w, 3) unit camera-space normals, and where the ball is."""
    side = min(height, width)
    x = ((np.arange(width) + 0.5) - width / 2) / (radius * side / 2)
    y = (height / 2 - (np.arange(height) + 0.5)) / (radius * side / 2)
    grid_y, grid_x = np.meshgrid(y, x, indexing="ij")
    squared = grid_x**2 + grid_y**2
    inside = squared < 0.96
    normals = np.stack([grid_x, grid_y, np.sqrt(np.maximum(1 - squared, 0.04))], axis=-1)
    normals[~inside] = (0, 0, 1)
    return unit(normals.astype(np.float32)), inside


def wavy_normals(height: int, width: int, seed: int = 0, noise: float = 0.05) -> Floats:
    """A tangent-space map: soft waves with fine noise on top, float32 (h, w, 3), unit."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(np.arange(height) / 64, np.arange(width) / 64, indexing="ij")
    slopes = np.stack([0.3 * np.sin(1.7 * x + 0.5 * y), 0.25 * np.cos(1.3 * y - 0.4 * x)], axis=-1)
    slopes += rng.normal(0, noise, slopes.shape)
    return unit(np.concatenate([slopes, np.ones((height, width, 1))], axis=-1).astype(np.float32))


def disc(height: int, width: int, y: float, x: float, radius: float) -> Bools:
    """A round mask; everything in texels."""
    rows = np.arange(height)[:, None] - y
    columns = np.arange(width)[None, :] - x
    inside: Bools = rows**2 + columns**2 <= radius**2
    return inside


@functools.cache
def head(
    size: int, yaw: float = 0.0, lean: float = 0.0, across: float = 0.0, wry: float = 0.0
) -> tuple[Floats, Bools]:
    """A head in camera space, of parallel rays: an egg with nose, brows, sockets, cheeks and chin.

    Args:
        size: side of the map.
        yaw: how far it is turned to its left, in radians: the camera sees more of its right.
        lean: how far it leans, counter-clockwise on screen.
        across: shift to the right, in shares of the side.
        wry: how strong bumps are of which the other side has none.

    Returns:
        float32 (size, size, 3), unit on the surface and (0, 0, 1) elsewhere; bool (size, size), the surface.
        They are made once and not to be written to.
    """
    bumps = [(0.0, -0.02, 0.36, 0.3, 0.05), (0.0, -0.3, 0.27, 0.25, 0.07), (0.0, -0.17, 0.31, 0.1, 0.03)]
    for side in (1, -1):
        bumps += [(0.11 * side, 0.07, 0.3, -0.25, 0.045), (0.11 * side, 0.15, 0.29, 0.16, 0.04)]
        bumps += [(0.17 * side, -0.08, 0.25, 0.15, 0.06), (0.11 * side, 0.07, 0.3, 0.12, 0.02)]
    bumps += [(0.19, -0.16, 0.2, wry, 0.05), (-0.16, 0.2, 0.22, wry, 0.06)]
    radii = np.array([0.31, 0.42, 0.36])
    turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    roll = np.array([[np.cos(lean), -np.sin(lean), 0], [np.sin(lean), np.cos(lean), 0], [0, 0, 1]])
    pose = roll @ turn  # of the head's own axes, seen by the camera

    def inside(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """How far inside points (n, 3) of the camera's axes lie, and the gradient outwards."""
        own = (points - np.array([across, 0, 0])) @ pose
        value = 1 - ((own / radii) ** 2).sum(axis=-1)
        gradient = 2 * own / radii**2
        for x, y, z, height, width in bumps:
            away = own - np.array([x, y, z])
            bump = height * np.exp(-(away**2).sum(axis=-1) / (2 * width**2))
            value = value + bump
            gradient += bump[:, None] * away / width**2
        return value, gradient @ pose.T

    y, x = np.mgrid[:size, :size]
    places = np.stack([(x.ravel() + 0.5) / size - 0.5, 0.5 - (y.ravel() + 0.5) / size], axis=-1)
    front, behind = np.full(size * size, np.nan), np.full(size * size, 0.6)
    for z in np.linspace(0.6, -0.5, 60):
        value, _ = inside(np.concatenate([places, np.full((size * size, 1), z)], axis=-1))
        hit = np.isnan(front) & (value > 0)
        front[hit], behind[hit] = z, z + 1.1 / 59
    met = ~np.isnan(front)
    places, low, high = places[met], front[met], behind[met]
    for _ in range(16):
        middle = (low + high) / 2
        value, _ = inside(np.concatenate([places, middle[:, None]], axis=-1))
        low, high = np.where(value > 0, middle, low), np.where(value > 0, high, middle)
    _, gradient = inside(np.concatenate([places, low[:, None]], axis=-1))
    normals = np.zeros((size * size, 3), np.float32)
    normals[:, 2] = 1
    normals[met] = unit(gradient.astype(np.float32))
    normals.flags.writeable = met.flags.writeable = False
    return normals.reshape(size, size, 3), met.reshape(size, size)


def with_twin(predicted, normals, hole, valid, head=None):
    """An answer in camera space, moved towards what the other half shows, placed by a head or the relief."""
    if head is None:
        return moved(predicted, shown_by_relief(predicted, normals, hole, valid))
    drawn = drawn_around(hole, valid, head)
    return moved(predicted, None if drawn is None else shown_by_twin(normals, hole, valid, drawn))


def moved(predicted, shown):
    """An answer moved towards what something else shows, if it does, and made unit vectors there."""
    if shown is None:
        return predicted
    result = mixed_with(predicted, [shown])
    result[shown.there] = unit(result[shown.there])
    return result


def map_of(head):
    """The map in camera space that shows nothing but a head of the morphable model, zero where it is not.

    In its small gaps it is what is around them, and nothing in wide ones.
    """
    drawn = head.drawn(np.ones(head.shape, np.bool_))
    shown = drawn.means.copy()
    shown[drawn.gaps] = spread(shown, ~drawn.gaps)[drawn.gaps]
    shown[drawn.opened] = 0
    return unit(shown) * shown.any(axis=-1, keepdims=True)
