"""The first guess: known texels as they are, level and slope continued, the other half of a layout."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from synthetic import disc, head, sphere_normals, wavy_normals, with_twin
from test_core_symmetry import layout

from blender_normal_inpaint.core import harmonic, relief, tension
from blender_normal_inpaint.core.closing import MARGIN, planes_around, roughness
from blender_normal_inpaint.core.guess import (
    BLOCK,
    REACH,
    SHAPE,
    SKIN,
    SURE,
    TWINS,
    first_guess,
    shown_by_twin,
    slopes_lead,
)
from blender_normal_inpaint.core.normals import angular_error, unit
from blender_normal_inpaint.core.symmetry import LIKE, mirror_image


def test_a_ball_goes_on_with_its_slope() -> None:
    truth, valid = sphere_normals(128, 128)
    hole = disc(128, 128, 60, 70, 14) & valid
    spoiled = np.where(hole[..., None], np.float32(5), truth)
    guess, sure = first_guess(spoiled, hole, valid, "camera")
    assert not sure.any()
    assert guess.dtype == np.float32
    assert np.array_equal(guess[valid & ~hole], truth[valid & ~hole]) and not guess[~valid].any()
    assert np.abs(np.linalg.norm(guess[hole], axis=-1) - 1).max() < 1e-5
    # A continuation of the level alone is 3 degrees off.
    assert angular_error(guess, truth)[hole].mean() < 1


def test_slopes_of_a_head_are_followed_under_pores_and_noise() -> None:
    truth, valid = head(192, 0.2, 0.1)
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:192, :192]
    hole = valid & ((np.abs(y - 96 - 30 * np.sin(x / 20)) < 6) | (np.hypot(y - 80, x - 70) < 12))
    bumpy = truth.copy()
    bumpy[..., :2] += np.repeat(np.repeat(rng.normal(0, 0.02, (64, 64, 2)), 3, axis=0), 3, axis=1)
    noisy = truth + rng.normal(0, 0.05, truth.shape)
    off: dict[str, list[float]] = {}
    for name, rough in (("bumpy", bumpy), ("noisy", noisy)):
        given = np.where(valid[..., None], unit(np.asarray(rough, np.float32)), 0)
        guess, _ = first_guess(given, hole, valid, "camera")
        planes, unknown, known = planes_around(given, hole, valid & ~hole, MARGIN)
        level = harmonic.extend(planes, harmonic.border_of(unknown, known), unknown)
        exact = tension.extend(planes, known, unknown, REACH)
        others = (unit(np.ascontiguousarray(p[:, unknown].T)) for p in (level, exact))
        errors = [angular_error(answer, truth[hole]).mean() for answer in (guess[hole], *others)]
        off[name] = [float(error) for error in errors]
    # What was made of a map whose single texels are rough before: its level alone.
    assert off["bumpy"][0] < 0.75 * off["bumpy"][1] and off["noisy"][0] < off["noisy"][1]
    # Noise is averaged away, not followed.
    assert off["noisy"][0] < 0.92 * off["noisy"][2]


def test_slopes_lead_far_on_shapes_and_hardly_among_pores() -> None:
    assert slopes_lead(SHAPE, 6.0) == 6.0 == slopes_lead(0.0, 6.0)
    assert slopes_lead(SKIN, 6.0) == 1.0 == slopes_lead(9.0, 6.0)
    assert 1.0 < slopes_lead((SHAPE + SKIN) / 2, 6.0) < 6.0
    assert slopes_lead(9.0, 0.5) == 0.5
    skin = wavy_normals(160, 160, 1, noise=0.3)
    known = ~disc(160, 160, 80, 80, 16)
    ball, valid = sphere_normals(160, 160)
    for normals, there, rough in ((skin, known, True), (ball, known & valid, False)):
        planes, unknown, inside = planes_around(normals, ~known, there, 9 * BLOCK)
        measured = roughness(planes, inside, unknown, BLOCK)
        assert measured > SKIN if rough else measured < SHAPE


def test_the_other_half_of_a_layout_is_used_where_it_is_better() -> None:
    truth = layout(160)
    hole = disc(160, 160, 62, 112, 24)  # a whole bump
    valid = np.ones_like(hole)
    alone, _ = first_guess(truth, hole, valid, "camera")
    helped, sure = first_guess(truth, hole, valid, "object")
    assert np.array_equal(sure, hole)
    assert angular_error(helped, truth)[hole].mean() < 0.2 * angular_error(alone, truth)[hole].mean()
    unasked, sure = first_guess(truth, hole, valid, "object", symmetry=False)
    assert np.array_equal(unasked, alone) and not sure.any()


def test_what_nothing_known_reaches_has_no_guess() -> None:
    truth, valid = sphere_normals(64, 64)
    valid = np.zeros_like(valid)
    valid[10:30, 10:30] = valid[40:60, 40:60] = True
    hole = valid.copy()
    hole[10:30, 10:20] = False
    guess, _ = first_guess(truth, hole, valid, "camera")
    assert not guess[40:60, 40:60].any() and guess[10:30, 20:30].any()
    assert not first_guess(truth, valid, valid, "object")[0].any()
    whole, _ = first_guess(truth, np.zeros_like(valid), valid, "object")
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
    _, sure = first_guess(truth, hole, np.ones_like(hole), "object")
    assert not sure.any()


def test_what_is_fine_counts_more_deep_in_a_hole(monkeypatch):
    """A lid of the other half, in a slope of it: the slope counts as ever, most of the lid comes over."""
    size = 256
    valid = np.ones((size, size), np.bool_)
    hole = disc(size, size, 128, 128, 70)
    flat = np.zeros((size, size, 3), np.float32)
    flat[..., 2] = 1
    y, x = np.mgrid[:size, :size].astype(np.float32)
    slope, lid = 0.3 * (x - 128) / 70, 0.3 * np.sin(2 * np.pi * y / 8)
    shown, unlikeness = [], 0.5 * (TWINS[0] + TWINS[1])
    for wave in (0 * lid, lid):
        image = unit(np.stack([slope, wave, np.ones_like(x)], axis=-1)) * hole[..., None]
        answer = image, hole.astype(np.float32), unlikeness
        monkeypatch.setattr(relief, "other_side", lambda *_, answer=answer: answer)
        found = shown_by_twin(flat, hole, valid, predicted=flat)
        assert found is not None and found.fine is not None
        shown.append(found.moved(flat))
        assert np.array_equal(shown[-1][~found.there], flat[~found.there])
        assert np.linalg.norm(shown[-1], axis=-1).max() < 1 + 1e-6
    assert found is not None
    weights = np.zeros(hole.shape)
    weights[found.there] = found.weights
    deep, rim = disc(size, size, 128, 128, 50), hole & ~disc(size, size, 128, 128, 67)
    level, waves = shown[0][..., 0], shown[1][..., 1]
    share = float((waves * lid)[deep].sum() / np.square(lid)[deep].sum())
    usual = float(weights[deep].mean())
    assert 0.3 < usual < 0.6 and share > 1.4 * usual, (usual, share)
    assert np.abs(level - weights * slope)[deep].max() < 0.03
    assert np.abs(waves - weights * lid)[rim].max() < 0.05
    assert np.array_equal(
        replace(found, fine=None).moved(flat)[hole], replace(found, fine=found.weights).moved(flat)[hole]
    )


def test_the_less_alike_the_halves_the_softer_the_other_one_ends(monkeypatch):
    """What it shows leans away from the answer the more, the nearer to where it ends, amid the hole."""
    valid = np.ones((128, 128), np.bool_)
    hole = np.zeros_like(valid)
    hole[20:108, 20:108] = True
    flat = np.zeros((128, 128, 3), np.float32)
    flat[..., 2] = 1
    y, x = np.mgrid[:128, :128].astype(np.float32)
    lean = 0.4 * np.clip((x - 20) / 44, 0, 1) * np.sin(np.pi * np.clip((y - 20) / 88, 0, 1))
    image = unit(np.stack([lean, 0 * lean, np.ones_like(lean)], axis=-1)) * (x < 64)[..., None]
    steps, deep = [], []
    for unlikeness in (0.0, 0.6 * TWINS[0], TWINS[0], 0.42 * TWINS[0]):
        answer = image, image.any(axis=-1).astype(np.float32), unlikeness
        monkeypatch.setattr(relief, "other_side", lambda *_, answer=answer: answer)
        got = with_twin(flat, flat, hole, valid)
        assert np.array_equal(got[~hole], flat[~hole])
        steps.append(float(np.abs(np.diff(got[64, 40:90, 0])).max()))
        deep.append(float(got[64, 50, 0]))
    assert steps[0] > 1.2 * steps[1] and steps[1] > 1.2 * steps[2]
    assert min(deep) > 0.9 * max(deep) > 0.15
