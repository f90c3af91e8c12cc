"""The first guess: known texels as they are, level and slope continued, the other half of a layout."""

from __future__ import annotations

import numpy as np
from synthetic import disc, head, sphere_normals, wavy_normals, with_twin
from test_core_symmetry import layout

from blender_normal_inpaint.core import harmonic, relief, tension
from blender_normal_inpaint.core.closing import MARGIN, planes_around, roughness
from blender_normal_inpaint.core.guess import (
    ALONE,
    BLOCK,
    FINER,
    REACH,
    SHAPE,
    SKIN,
    SURE,
    TWINS,
    Shown,
    _depth,
    counted_together,
    first_guess,
    mixed_with,
    shown_by_relief,
    slopes_lead,
)
from blender_normal_inpaint.core.harmonic import grow
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


def depths(hole: np.ndarray) -> np.ndarray:
    """How deep texels of a disc lie, in shares of the map's side."""
    edge = np.argwhere(grow(~hole) & hole)
    far = np.linalg.norm(np.argwhere(hole)[:, None] - edge, axis=-1).min(axis=1)
    return (far / max(hole.shape)).astype(np.float32)


def shares(*odds: float, coarse: int | None = None) -> tuple[list[float], list[float], float]:
    """Of what is shown in an empty hole, each by odds of its own, a slope and a lid: which shares remain.

    Returns:
        Deep in the hole of each slope and of each lid; and of the first lid along the border.
    """
    size, hole = 256, disc(256, 256, 128, 128, 70)
    deep, rim = disc(size, size, 128, 128, 50), hole & ~disc(size, size, 128, 128, 67)
    flat = np.zeros((size, size, 3), np.float32)
    flat[..., 2] = 1
    y, x = np.mgrid[:size, :size].astype(np.float32)
    slope = 0.03 * (x - 128) / 70
    slopes: list[float] = []
    lids: list[float] = []
    for number in range(len(odds)):
        lid = 0.03 * np.sin(2 * np.pi * y / 8)
        for form in (slope, lid):
            shown = []
            for which, one in enumerate(odds):
                lean = form if which == number else 0 * x
                image = unit(np.stack([lean, 0 * x, np.ones_like(x)], axis=-1))
                told = np.full(np.count_nonzero(hole), one, np.float32)
                shown.append(Shown(hole, image[hole], told, depths(hole), which == coarse))
            got = mixed_with(flat, shown)
            assert np.array_equal(got[~hole], flat[~hole])
            assert np.linalg.norm(got, axis=-1).max() < 1 + 1e-6
            share = [(got[..., 0] * form)[part].sum() / np.square(form)[part].sum() for part in (deep, rim)]
            (slopes if form is slope else lids).append(float(share[0]))
            if number == 0:
                first = float(share[1])
    return slopes, lids, first


def test_each_counts_by_its_odds_and_deep_in_a_hole_what_is_fine_by_their_squares() -> None:
    """Halves of two lids beside each other are a shadow, one lid is an eye."""
    slopes, lids, rim = shares(0.6)
    assert abs(slopes[0] - 0.375) < 0.02 and abs(rim - 0.375) < 0.02
    assert abs(lids[0] - 0.375 * (1 + FINER * 0.625)) < 0.04
    slopes, lids, rim = shares(3.0, 1.0)
    assert np.abs(np.array(slopes) - (0.6, 0.2)).max() < 0.02 and abs(rim - 0.6) < 0.03
    every = 0.8 * (1 + FINER * 0.2)
    assert np.abs(np.array(lids) - (0.9 * every, 0.1 * every)).max() < 0.06
    # Of what is shown a second time, a few texels beside it, only what is coarse counts.
    slopes, lids, rim = shares(3.0, 1.0, coarse=0)
    assert np.abs(np.array(slopes) - (0.6, 0.2)).max() < 0.02 and abs(rim - 0.6) < 0.03
    assert np.abs(np.array(lids) - (0, every)).max() < 0.06
    nothing = np.zeros((8, 8, 3), np.float32)
    assert np.array_equal(mixed_with(nothing, []), nothing)


def test_what_is_fine_of_a_head_that_counts_for_nothing_is_shown_where_nothing_else_is() -> None:
    """A nose without nostrils is none; but its level is not, nor is it beside the other half or at a rim."""
    size, hole = 256, disc(256, 256, 128, 128, 70)
    deep, rim = disc(size, size, 128, 128, 45), hole & ~disc(size, size, 128, 128, 63)
    flat = np.zeros((size, size, 3), np.float32)
    flat[..., 2] = 1
    y, x = np.mgrid[:size, :size].astype(np.float32)
    slope, lid = 0.03 * (x - 128) / 70, 0.03 * np.sin(2 * np.pi * y / 8)
    image = unit(np.stack([slope + lid, 0 * x, np.ones_like(x)], axis=-1))
    none = np.zeros(np.count_nonzero(hole), np.float32)
    head = Shown(hole, image[hole], none, depths(hole), features=0.5)
    assert not head.counts

    def share(form: np.ndarray, part: np.ndarray, beside: float) -> float:
        half = Shown(hole, flat[hole], none + np.float32(beside), depths(hole))
        got = mixed_with(flat, [half, head])
        assert np.array_equal(got[~hole], flat[~hole])
        return float((got[..., 0] * form)[part].sum() / np.square(form)[part].sum())

    assert abs(share(lid, deep, 0) - 0.5) < 0.02 and abs(share(slope, deep, 0)) < 0.05
    assert abs(share(lid, rim, 0)) < 0.01 and abs(share(slope, rim, 0)) < 0.01
    assert share(lid, deep, 0.2) == 0 and 0.1 < share(lid, deep, ALONE / 2) < 0.4


def test_what_shows_nothing_that_is_known_counts_for_nothing(monkeypatch) -> None:
    valid, hole = np.ones((96, 96), np.bool_), disc(96, 96, 48, 48, 20)
    flat = np.zeros((96, 96, 3), np.float32)
    flat[..., 2] = 1
    for seen, counts in ((hole, False), (valid, True)):
        answer = flat * seen[..., None], seen.astype(np.float32), 0.1
        monkeypatch.setattr(relief, "other_side", lambda *_, answer=answer: answer)
        shown = shown_by_relief(flat, flat, hole, valid)
        assert shown is not None and bool(shown.odds.any()) == counts


def shown_in(hole: np.ndarray, odds: float) -> Shown:
    count = int(np.count_nonzero(hole))
    told = np.full(count, odds, np.float32)
    return Shown(hole, np.tile(np.array([0, 0, 1], np.float32), (count, 1)), told, np.zeros_like(told))


def test_in_the_gaps_of_a_head_the_other_half_counts_as_if_it_had_nothing() -> None:
    hole = np.ones((4, 6), np.bool_)
    gaps = np.zeros_like(hole)
    gaps[:, :3] = True
    half, own = counted_together(None, shown_in(hole, 2), shown_in(hole, 5), gaps)
    odds = half.odds.reshape(4, 6)
    assert (odds[:, 3:] == 2).all() and (own.odds == 5).all()
    # Two of three parts, whatever the head itself shows.
    assert np.allclose(odds[:, :3] / (1 + odds[:, :3] + 5), 2 / 3)


def test_of_the_other_half_shown_twice_one_has_what_is_fine() -> None:
    """The one that is led to where a head that counts has things, or else the one with the larger odds."""
    hole = np.ones((2, 2), bool)
    small, large, none = shown_in(hole, 1), shown_in(hole, 2), shown_in(hole, 0)
    for by_relief, by_twin, own, coarse in (
        (large, small, none, [False, True, False]),
        (large, small, small, [True, False, False]),
        (large, small, None, [False, True]),
        (small, large, None, [True, False]),
        (None, small, None, [False]),
        (large, None, small, [False, False]),
        (None, None, small, [False]),
        (None, None, None, []),
    ):
        shown = counted_together(by_relief, by_twin, own, np.zeros_like(hole))
        assert [one.coarse for one in shown] == coarse


def test_how_deep_texels_lie_is_told_by_steps_to_the_edge() -> None:
    for inside in (disc(40, 60, 8, 50, 14), ~disc(40, 60, 8, 50, 3), np.ones((40, 60), bool)):
        for most in (2, 5, 30):
            expected, left = np.zeros(inside.shape), inside
            for _ in range(most):
                left = ~grow(~left) & left
                expected += left
            assert np.array_equal(_depth(inside, most), expected)
    assert not _depth(np.zeros((4, 5), bool), 3).any()


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
