"""Closing seams: the spline in tension against a direct solve, and what it does to shape and to pores."""

from __future__ import annotations

import numpy as np
import pytest

from blender_normal_inpaint.core import tension
from blender_normal_inpaint.core.closing import close_seam, close_smoothly
from blender_normal_inpaint.core.normals import unit


def _disc(size: int, radius: float) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return np.hypot(y - size / 2, x - size / 2) < radius


def _dense(values: np.ndarray, known: np.ndarray, unknown: np.ndarray, length: float) -> np.ndarray:
    """The same minimum by a direct solve of the full system, written down from its definition."""
    valid = known | unknown
    places = np.argwhere(valid)
    number = {tuple(p): k for k, p in enumerate(places)}
    laplacian = np.zeros((len(places), len(places)))
    for (y, x), k in number.items():
        for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if near in number:
                laplacian[k, k] += 1
                laplacian[k, number[near]] -= 1
    inside = unknown[valid]
    border = np.array([not inside[k] and (laplacian[k, inside] != 0).any() for k in range(len(places))], bool)
    rows = laplacian[inside | border]
    matrix = rows.T @ rows + laplacian / length**2
    out = np.zeros(values.shape)
    for c, plane in enumerate(values):
        given = np.where(known, plane, 0)[valid]
        out[c][unknown] = np.linalg.solve(
            matrix[np.ix_(inside, inside)], -matrix[np.ix_(inside, ~inside)] @ given[~inside]
        )
    return out


@pytest.mark.parametrize("walls", [False, True])
def test_the_continuation_is_the_minimum(walls: bool) -> None:
    rng = np.random.default_rng(0)
    unknown = _disc(24, 6.5)
    known = ~unknown
    if walls:
        known[:, 18:] = False
        unknown[:, 17:] = False
    smooth = np.add.outer(np.sin(np.arange(24) / 5), np.cos(np.arange(24) / 4))
    values = np.stack([smooth, smooth**2 + rng.normal(0, 0.01, smooth.shape)]).astype(np.float32)
    ours = tension.extend(values, known, unknown, 4.0)
    exact = _dense(values.astype(np.float64), known, unknown, 4.0)
    assert np.abs(exact).max() > 0.5
    assert np.abs(ours - exact).max() < 0.02 * np.abs(exact).max()
    assert not ours[:, ~unknown].any()


def test_islands_that_nothing_known_reaches_stay_bounded() -> None:
    """Specks of a hole beyond a gap: no equation holds them, and rounding once grew there without end."""
    known, unknown = np.zeros((2, 64, 64), bool)
    known[:, :36] = True
    for place in [(61, 40), (62, 39), (63, 38), (63, 39), (63, 40), (63, 42)]:
        unknown[place] = True
    values = np.random.default_rng(0).normal(size=(3, 64, 64)).astype(np.float32)
    for steps in (20, 80, tension.STEPS):
        assert np.abs(tension.extend(values, known, unknown, 2.0, steps)).max() < np.abs(values).max()
    for seed in range(40):
        unknown[40:, 37:46] = np.random.default_rng(seed).random((24, 9)) < 0.3
        ours = tension.extend(np.ones((1, 64, 64), np.float32), known, unknown, 2.0)
        assert np.isfinite(ours).all() and np.abs(ours).max() < 1.1


def test_deep_holes_are_solved_from_coarser_grids() -> None:
    unknown = _disc(200, 80)
    y, x = np.mgrid[:200, :200] / 50
    values = np.stack([np.sin(x) + y, np.cos(y * 1.3) * x]).astype(np.float32)
    ours = tension.extend(values, ~unknown, unknown, 6.0)
    # The deepest texels are a coarser grid's alone: second differences would show a step where they join.
    bends = [np.abs(np.diff(ours, n=2, axis=axis))[:, 50:-50, 50:-50].max() for axis in (1, 2)]
    assert max(bends) < 0.03 and np.abs(ours[:, 50:-50, 50:-50]).max() > 1


def test_a_slope_leads_at_the_border_and_nothing_swings_further_in() -> None:
    unknown = _disc(128, 50)
    y, x = np.mgrid[:128, :128].astype(np.float32) - 64
    cone = np.hypot(y, x)[None] * np.float32(0.1) - 5  # level 0 at the border, rising outwards
    ours = tension.extend(cone, ~unknown, unknown, 6.0)[0]
    row = ours[64, 14:65]
    assert row[3] < -0.15  # a harmonic fill of level zero would stay at zero
    assert row.min() > -1.0  # a biharmonic one goes on to -2.5 in the middle
    assert np.abs(np.diff(ours[64, 44:65])).max() < 0.01


def test_a_constant_goes_through_the_widest_hole() -> None:
    unknown = _disc(256, 110)
    ours = tension.extend(np.ones((1, 256, 256), np.float32), ~unknown, unknown, 5.0)[0]
    assert np.abs(ours[unknown] - 1).max() < 0.02


def test_holes_and_maps_without_the_other_kind_are_left() -> None:
    flags = np.zeros((8, 8), bool)
    values = np.ones((3, 8, 8), np.float32)
    assert not tension.extend(values, ~flags, flags, 3.0).any()
    assert not tension.extend(values, flags, ~flags, 3.0).any()


def _ball(size: int) -> np.ndarray:
    line = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(line * 0.8, -line * 0.8)
    n = np.stack([x, y, np.sqrt(1 - np.minimum(x * x + y * y, 0.99))], axis=-1)
    return n.astype(np.float32)


def _degrees(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.degrees(2 * np.arcsin(np.clip(np.linalg.norm(a - b, axis=-1) / 2, 0, 1)))


def test_a_prediction_off_by_level_and_slope_is_mended_across_a_strip() -> None:
    truth = _ball(96)
    x = np.linspace(-1, 1, 96, dtype=np.float32)
    off = truth + np.stack(np.broadcast_arrays(0.2 + 0.3 * x[None], 0.2 * x[:, None], 0 * x[None]), axis=-1)
    predicted = unit(off.astype(np.float32))
    hole = np.zeros((96, 96), bool)
    hole[:, 43:53] = True
    closed = close_smoothly(predicted, truth, hole, ~hole, 11.0)
    before = _degrees(predicted[hole], truth[hole]).mean()
    assert before > 5
    assert _degrees(closed, truth[hole]).mean() < 0.1 * before
    assert np.abs(np.linalg.norm(closed, axis=-1) - 1).max() < 1e-5


def test_pores_at_the_border_are_not_taken_for_slopes() -> None:
    """Of a rough error the slope is noise: followed, it would throw the hole's edge about."""
    rng = np.random.default_rng(1)
    base = _ball(128)
    rough = unit((base + rng.normal(0, 0.15, base.shape)).astype(np.float32))
    hole = _disc(128, 30)
    closed = close_smoothly(base, rough, hole, ~hole, 11.0)
    followed = tension.extend(np.ascontiguousarray(np.moveaxis(rough - base, -1, 0)), ~hole, hole, 11.0)
    naive = unit(np.ascontiguousarray(base[hole] + followed[:, hole].T))
    error = _degrees(closed, base[hole]).mean()
    assert error < 3.0
    assert error < 0.7 * _degrees(naive, base[hole]).mean()


def test_a_hole_no_known_texel_touches_keeps_the_prediction() -> None:
    base = _ball(32)
    hole = np.zeros((32, 32), bool)
    hole[4:10, 4:10] = True
    known = np.zeros((32, 32), bool)
    known[20:] = True
    tilted = unit(base + np.array([0.3, 0, 0], np.float32))
    assert np.allclose(close_smoothly(tilted, base, hole, known, 8.0), tilted[hole], atol=1e-6)
    planes = np.ascontiguousarray(np.moveaxis(tilted, -1, 0))
    assert np.allclose(close_seam(planes, base, hole, known), tilted[hole], atol=1e-6)
