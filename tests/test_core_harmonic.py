from __future__ import annotations

import numpy as np
import pytest
from synthetic import disc

from blender_normal_inpaint.core import harmonic


def exact(values, border, unknown):
    """Laplace's equation by a direct sparse solve: what `extend` approximates."""
    sparse = pytest.importorskip("scipy.sparse")
    from scipy.sparse.linalg import splu

    channels, height, width = values.shape
    flat = np.flatnonzero(unknown)
    number = np.full(unknown.size, -1)
    number[flat] = np.arange(flat.size)
    number = number.reshape(unknown.shape)
    y, x = np.unravel_index(flat, unknown.shape)
    rows, columns, entries = [], [], []
    diagonal = np.zeros(flat.size)
    right = np.zeros((flat.size, channels))
    for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        ny, nx = np.clip(y + dy, 0, height - 1), np.clip(x + dx, 0, width - 1)
        inside = (y + dy == ny) & (x + dx == nx)
        open_, held = inside & unknown[ny, nx], inside & border[ny, nx]
        diagonal += open_
        diagonal += held
        rows.append(np.flatnonzero(open_))
        columns.append(number[ny, nx][open_])
        entries.append(-np.ones(open_.sum()))
        right[held] += values[:, ny[held], nx[held]].T
    everyone = np.arange(flat.size)
    matrix = sparse.csc_matrix(
        (
            np.concatenate([*entries, diagonal]),
            (np.concatenate([*rows, everyone]), np.concatenate([*columns, everyone])),
        ),
        shape=(flat.size, flat.size),
    )
    solved = splu(matrix)
    result = np.zeros_like(values)
    result[:, border] = values[:, border]
    result[:, unknown] = np.stack([solved.solve(right[:, c]) for c in range(channels)])
    return result


def smooth(height, width, seed=0, noise=0.0):
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    field = np.stack([np.sin(5 * x + 3 * y), np.cos(4 * y), x * y]) * 0.3
    return (field + rng.normal(0, noise, field.shape)).astype(np.float32)


def solve(values, unknown, known=None):
    border = harmonic.border_of(unknown, ~unknown if known is None else known)
    return harmonic.extend(values, border, unknown), border


@pytest.mark.parametrize(("height", "width"), [(61, 83), (300, 301), (520, 400)])
def test_agrees_with_a_direct_solve(height, width):
    values = smooth(height, width, noise=0.05)
    unknown = disc(height, width, height * 0.5, width * 0.45, min(height, width) * 0.42)
    got, border = solve(values, unknown)
    error = np.abs(got - exact(values, border, unknown))[:, unknown]
    # The field spans 0.6; what is left is a slow drift of a few hundredths that no eye can find.
    assert error.max() < 0.035
    assert error.mean() < 0.005


def test_agrees_on_strands_to_within_an_8_bit_step():
    rng = np.random.default_rng(3)
    y, x = np.meshgrid(np.linspace(0, 1, 400), np.linspace(0, 1, 400), indexing="ij")
    unknown = np.zeros((400, 400), bool)
    for _ in range(25):
        a, b, c = rng.uniform(0, 1, 3)
        unknown |= np.abs(y - (a + 0.4 * c * np.sin(6 * (x + b)))) < 0.005
    values = smooth(400, 400, noise=0.05)
    got, border = solve(values, unknown)
    assert np.abs(got - exact(values, border, unknown))[:, unknown].max() < 1 / 255 * 2


def test_no_step_at_the_border():
    values = smooth(700, 700)
    unknown = disc(700, 700, 350, 340, 300)
    got, border = solve(values, unknown)
    for axis in (1, 2):
        near = np.swapaxes(got, axis, 2)
        flags = np.swapaxes(border, 0, 1) if axis == 1 else border
        open_ = np.swapaxes(unknown, 0, 1) if axis == 1 else unknown
        meets = flags[:, :-1] & open_[:, 1:]
        step = np.abs(near[:, :, 1:] - near[:, :, :-1])[:, meets]
        assert step.max() < 0.01


def test_border_values_are_kept_and_never_exceeded():
    values = smooth(257, 129, noise=0.1)
    unknown = disc(257, 129, 120, 60, 55)
    got, border = solve(values, unknown)
    assert np.array_equal(got[:, border], values[:, border])
    for channel in range(3):
        assert got[channel][unknown].max() <= values[channel][border].max() + 5e-3
        assert got[channel][unknown].min() >= values[channel][border].min() - 5e-3


def test_a_constant_stays_constant_even_at_the_map_border_and_at_walls():
    values = np.full((3, 150, 170), 0.25, np.float32)
    unknown = disc(150, 170, 0, 20, 90)
    known = ~unknown
    known[:, 100:] = False  # a gap without surface
    unknown[:, 100:] = False
    got, _ = solve(values, unknown, known)
    assert np.allclose(got[:, unknown], 0.25, atol=1e-3)


def test_unreachable_texels_get_zero():
    unknown = np.zeros((40, 40), bool)
    unknown[:, :10] = True
    known = np.zeros((40, 40), bool)
    known[:, 30:] = True
    got, border = solve(np.ones((2, 40, 40), np.float32), unknown, known)
    assert not border.any() and not got.any()


def test_nothing_flows_through_walls():
    # Two islands, one bright and one dark at their rims, three texels apart.
    unknown = np.zeros((64, 130), bool)
    known = np.zeros((64, 130), bool)
    known[4:60, 4:62] = known[4:60, 65:126] = True
    unknown[10:54, 10:62] = unknown[10:54, 65:120] = True
    known &= ~unknown
    values = np.zeros((1, 64, 130), np.float32)
    values[:, :, 65:] = 1
    got, _ = solve(values, unknown, known)
    assert got[0, 10:54, 10:62].max() < 0.1
    assert got[0, 10:54, 65:120].min() > 0.9
    near = got[0, 12:52, 61], got[0, 12:52, 65]
    assert near[1].min() - near[0].max() > 0.8


def test_deterministic():
    values = smooth(333, 222, noise=0.1)
    unknown = disc(333, 222, 160, 111, 100)
    assert np.array_equal(solve(values, unknown)[0], solve(values, unknown)[0])


@pytest.mark.parametrize("seed", range(8))
def test_islands_that_no_border_touches_stay_within_what_is_known(seed):
    """A coarser grid, on which the gap around them closes, gives them a start; nothing may drive them off."""
    rng = np.random.default_rng(seed)
    unknown = np.zeros((32, 32), bool)
    for _ in range(3):
        y, x = rng.integers(2, 26, 2)
        for _ in range(6):
            unknown[y, x] = True
            down = rng.random() < 0.5
            y, x = y + down, x + (not down)
    border = ~harmonic.grow(unknown) & (rng.random((32, 32)) < 0.7)
    values = rng.normal(size=(3, 32, 32)).astype(np.float32)
    result = harmonic.extend(values, border, unknown)
    assert np.isfinite(result).all()
    assert np.abs(result).max() <= np.abs(values * border).max()


def test_steps_go_around_walls_and_end_at_the_most():
    known, inside = np.zeros((5, 6), bool), np.ones((5, 6), bool)
    known[0, 0] = True
    inside[:4, 2] = inside[0, 0] = False
    steps = harmonic.steps_from(known, inside, 9)
    assert steps[0].tolist() == [0, 1, 0, 9, 9, 9] and steps[4].tolist() == [4, 5, 6, 7, 8, 9]
    assert steps[3].tolist() == [3, 4, 0, 8, 9, 9] and not steps[~inside].any()
    inside[4, 2] = False
    assert (harmonic.steps_from(known, inside, 7)[:, 3:] == 7).all()
