"""A picture bent to lie over another: what is beside its place is found, and nothing else moves."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from synthetic import disc

from blender_normal_inpaint.core.bending import AROUND, Bend, goals, origins
from blender_normal_inpaint.core.normals import unit
from blender_normal_inpaint.core.planes import enlarge, margin
from blender_normal_inpaint.core.resample import framed, sampled

SIZE = 160


def forms(seed=0, wide=5.0):
    """Unit normals of bumps so many texels wide."""
    rng = np.random.default_rng(seed)
    slopes = [gaussian_filter(rng.normal(size=(SIZE, SIZE)), wide) for _ in range(2)]
    slopes = [0.5 * slope / slope.std() for slope in slopes]
    return unit(np.stack([*slopes, np.ones((SIZE, SIZE))], axis=-1).astype(np.float32))


def seen_from(normals, rows, columns):
    """What a picture shows at other places, (SIZE, SIZE) each."""
    places = (axis.astype(np.float32).reshape(-1) for axis in (rows, columns))
    return unit(sampled(framed(normals), *places).reshape(SIZE, SIZE, 3))


def at_texels(blocks):
    return enlarge(margin(blocks), 2)[:, :SIZE, :SIZE]


@pytest.mark.parametrize("far", [1.5, 4.0])
def test_what_lies_beside_its_place_is_found(far):
    picture, hole = forms(), disc(SIZE, SIZE, 80, 80, 6)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    normals = seen_from(picture, rows + far, columns - 0.6 * far)
    there = np.where(hole[..., None], np.float32(0), normals)
    found = at_texels(origins(picture, there, hole))
    near = disc(SIZE, SIZE, 80, 80, 8)
    apart = np.hypot(found[0] - far, found[1] + 0.6 * far)[near]
    assert np.median(apart) < 0.15 * far, np.median(apart)
    # So bent, the picture shows what is hidden.
    shown = seen_from(picture, rows + found[0], columns + found[1])
    before, after = (np.square(field - normals).sum(axis=-1)[hole].mean() for field in (picture, shown))
    assert after < 0.1 * before


def test_nothing_moves_that_tells_nothing():
    hole = disc(SIZE, SIZE, 80, 80, 12)
    flat = np.zeros((SIZE, SIZE, 3), np.float32)
    flat[..., 2] = 1
    tilted = unit(flat + np.array([0.1, 0, 0], np.float32))
    for picture in (flat, tilted, np.zeros_like(flat)):
        assert np.abs(origins(picture, flat, hole)).max() < 1e-3
    # Nor where nothing is known, nor far from holes; and what is far from them does not matter.
    picture, other = forms(), np.where(hole[..., None], 0, forms(1)).astype(np.float32)
    assert not origins(picture, np.zeros_like(picture), hole).any()
    moved = origins(picture, other, hole)
    away = np.abs(at_texels(moved))[:, ~disc(SIZE, SIZE, 80, 80, 12 + 3 * AROUND)]
    assert np.abs(moved).max() > 1 and away.max() < 0.01
    far = ~disc(SIZE, SIZE, 80, 80, 12 + 2 * AROUND)
    picture[far], other[far] = (1, 0, 0), (0, 1, 0)
    assert np.array_equal(origins(picture, other, hole), moved)


def test_the_way_there_is_the_way_back():
    rng = np.random.default_rng(3)
    come = np.stack([gaussian_filter(rng.normal(size=(SIZE // 2, SIZE // 2)), 8) for _ in range(2)])
    come = (3 * come / come.std()).astype(np.float32)
    go = goals(come)
    rows, columns = np.mgrid[: SIZE // 2, : SIZE // 2].astype(np.float32)
    there = sampled(
        framed(np.moveaxis(come, 0, -1)), (rows + go[0] / 2).ravel(), (columns + go[1] / 2).ravel()
    )
    left = np.abs(go.reshape(2, -1).T + there).reshape(SIZE // 2, SIZE // 2, 2)[12:-12, 12:-12]
    assert np.abs(come).max() > 6 and left.max() < 0.3 and left.mean() < 0.02


def test_a_bend_moves_what_lies_on_its_grid():
    moves = np.zeros((5, 7, 2), np.float32)
    moves[2, 3] = 0.5, -0.25
    bend = Bend(moves, np.array([-3.0, 2.0]), 1.0)
    points = np.array([[0, 0], [0.5, 0], [3, 2], [40, 0]], np.float32)
    by = np.array([[0.5, -0.25], [0.25, -0.125], [0, 0], [0, 0]])
    assert np.allclose(bend.moved(points), points + by)
