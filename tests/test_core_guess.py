"""The first guess: known texels as they are, level and slope continued, the other half of a layout."""

from __future__ import annotations

import numpy as np
from synthetic import disc, sphere_normals
from test_core_symmetry import layout

from blender_normal_inpaint.core.guess import SURE, first_guess
from blender_normal_inpaint.core.normals import angular_error, unit
from blender_normal_inpaint.core.symmetry import LIKE, mirror_image


def test_a_ball_goes_on_with_its_slope() -> None:
    truth, valid = sphere_normals(128, 128)
    hole = disc(128, 128, 60, 70, 14) & valid
    spoiled = np.where(hole[..., None], np.float32(5), truth)
    first = first_guess(spoiled, hole, valid, "camera")
    guess = first.field
    assert not first.sure.any()
    assert guess.dtype == np.float32
    assert np.array_equal(guess[valid & ~hole], truth[valid & ~hole]) and not guess[~valid].any()
    assert np.abs(np.linalg.norm(guess[hole], axis=-1) - 1).max() < 1e-5
    # A continuation of the level alone is 3 degrees off.
    assert angular_error(guess, truth)[hole].mean() < 1


def test_the_other_half_of_a_layout_is_used_where_it_is_better() -> None:
    truth = layout(160)
    hole = disc(160, 160, 62, 112, 24)  # a whole bump
    valid = np.ones_like(hole)
    alone = first_guess(truth, hole, valid, "camera").field
    helped = first_guess(truth, hole, valid, "object")
    assert np.array_equal(helped.sure, hole)
    assert angular_error(helped.field, truth)[hole].mean() < 0.2 * angular_error(alone, truth)[hole].mean()


def test_in_camera_space_the_other_half_is_shown_and_not_believed() -> None:
    truth = layout(160, across=0.06)
    hole = disc(160, 160, 62, 122, 24)  # a whole bump
    valid = np.ones_like(hole)
    valid[:, -4:] = False
    spoiled = np.where(hole[..., None], np.float32(5), truth)
    first = first_guess(spoiled, hole, valid, "camera")
    assert not first.sure.any() and not first.mirror[~valid].any()
    shown = np.linalg.norm(first.mirror, axis=-1)
    assert (np.abs(shown - 1) < 1e-5)[hole].all() and 0.9 < first.trust <= 1
    # The hidden bump is among what is shown, and not among what is guessed.
    assert angular_error(first.mirror, truth)[hole].mean() < 2
    assert angular_error(first.field, truth)[hole].mean() > 8


def test_a_map_that_is_unlike_its_mirror_image_is_shown_none() -> None:
    rng = np.random.default_rng(0)
    noise = unit(rng.normal(size=(96, 96, 3)).astype(np.float32))
    hole = disc(96, 96, 40, 40, 12)
    first = first_guess(noise, hole, np.ones_like(hole), "camera")
    assert not first.mirror.any() and first.trust == 0


def test_what_nothing_known_reaches_has_no_guess() -> None:
    truth, valid = sphere_normals(64, 64)
    valid = np.zeros_like(valid)
    valid[10:30, 10:30] = valid[40:60, 40:60] = True
    hole = valid.copy()
    hole[10:30, 10:20] = False
    guess = first_guess(truth, hole, valid, "camera").field
    assert not guess[40:60, 40:60].any() and guess[10:30, 20:30].any()
    assert not first_guess(truth, valid, valid, "object").field.any()
    whole = first_guess(truth, np.zeros_like(valid), valid, "object").field
    assert np.array_equal(whole, truth * valid[..., None])


def test_a_mirror_image_that_differs_is_a_guess_and_no_more() -> None:
    """Bumps of one side alone: the mirror image still counts, but the network is asked."""
    truth = layout(160)
    y, x = np.mgrid[:160, :160] / 160 - 0.5
    dent = 2.0 * np.exp(-((x + 0.25) ** 2 + (y - 0.1) ** 2) / 0.01)
    truth[..., 0] += dent * (x + 0.25) / 0.1
    truth[..., 1] -= dent * (y - 0.1) / 0.1
    truth /= np.linalg.norm(truth, axis=-1, keepdims=True)
    hole = disc(160, 160, 40, 112, 20)
    _, seen, unlikeness = mirror_image(truth, hole, np.ones_like(hole), "object")
    assert seen[hole].all() and SURE < unlikeness < LIKE
    assert not first_guess(truth, hole, np.ones_like(hole), "object").sure.any()
