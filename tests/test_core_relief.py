"""The other half of a head that looks aside: relief, plane of symmetry, and what it shows."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import disc, head, sphere_normals, wavy_normals, with_twin

from blender_normal_inpaint.core import relief
from blender_normal_inpaint.core.guess import TWINS
from blender_normal_inpaint.core.harmonic import grow
from blender_normal_inpaint.core.normals import angular_error, unit
from blender_normal_inpaint.core.pose import Pose


def half_hidden(valid, side):
    hole = valid.copy()
    middle = valid.shape[1] // 2
    hole[:, slice(None, middle) if side == "right" else slice(middle, None)] = False
    hole[: valid.shape[0] // 6] = hole[-valid.shape[0] // 6 :] = False
    return hole


def softened(truth, hole, valid):
    """What a network makes of a hole, about: the truth, smoothed until only the shape is left."""
    field = truth * valid[..., None]
    for _ in range(20):
        for axis in (0, 1):
            field = (np.roll(field, 1, axis) + field + np.roll(field, -1, axis)) / 3
    return np.where(hole[..., None], unit(field), truth)


@pytest.mark.parametrize("steep", [0.5, 1.0])
def test_normals_become_the_relief_they_are_of(steep):
    y, x = np.mgrid[:70, :90].astype(np.float32)
    y, x = (34.5 - y) / 20, (x - 44.5) / 20  # y up
    heights = steep * 20 * (np.sin(x) * np.cos(0.7 * y) + 0.3 * y)
    slopes = np.cos(x) * np.cos(0.7 * y), -0.7 * np.sin(x) * np.sin(0.7 * y) + 0.3
    normals = unit(np.stack([-steep * slopes[0], -steep * slopes[1], np.ones_like(x)], axis=-1))
    surface = np.hypot(x, y) < 1.6
    got = relief.relief(normals, surface)
    assert not got[~surface].any() and abs(got[surface].mean()) < 1e-3
    assert np.abs(got - (heights - heights[surface].mean()))[surface].max() < 0.02 * np.ptp(heights[surface])


def test_islands_and_emptiness_have_a_relief_too():
    normals, surface = sphere_normals(40, 90)
    surface[:, 44:47] = False
    surface[3, 3] = True  # a texel by itself
    got = relief.relief(normals, surface)
    assert np.isfinite(got).all() and got[20, 35] > got[14, 32]
    assert not relief.relief(normals, np.zeros_like(surface)).any()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("yaw", "lean", "across"), [(0, 0, 0), (0.12, 0.06, -0.04), (-0.2, -0.03, 0.03)])
def test_a_hidden_half_comes_from_the_other_wherever_the_head_looks(yaw, lean, across, side):
    truth, valid = head(128, yaw, lean, across)
    hole = half_hidden(valid, side)
    known = valid & ~hole
    soiled = np.where(known[..., None], truth, np.float32(7))
    image, trust, unlikeness = relief.other_side(softened(truth, hole, valid), soiled, known, valid, hole)
    assert image.dtype == np.float32 and trust.dtype == np.float32
    assert unlikeness < TWINS[0]
    seen = image.any(axis=-1)
    assert not (seen & ~hole).any() and not trust[~seen].any() and trust.min() >= 0 and trust.max() <= 1
    assert np.abs(np.linalg.norm(image[seen], axis=-1) - 1).max() < 1e-5
    assert np.count_nonzero(seen) > 0.7 * np.count_nonzero(hole)
    error = angular_error(image, truth)[seen]
    assert np.median(error) < 4 and np.quantile(error, 0.9) < 12


def test_what_turns_away_from_the_camera_is_doubted():
    truth, valid = head(256, -0.1)
    hole = half_hidden(valid, "right")
    image, trust, _ = relief.other_side(softened(truth, hole, valid), truth, valid & ~hole, valid, hole)
    # The left side, which shows it, is turned away further.
    seen = np.asarray(image.any(axis=-1))
    ahead, aside = seen & (truth[..., 2] > 0.8), seen & (truth[..., 2] < 0.4)
    assert trust[ahead].mean() > 0.9 and trust[aside].mean() < 0.3
    both = seen[:, 1:] & seen[:, :-1]
    assert np.abs(np.diff(trust, axis=1))[both].max() < 0.3


def test_the_plane_is_found_as_the_head_is_turned():
    for yaw, lean, across in ((0.1, 0.05, 0.03), (-0.25, 0, 0)):
        truth, valid = head(128, yaw, lean, across)
        found = relief._find(truth, valid, valid)
        assert found is not None
        _, plane, unlikeness = found
        # Mirrored about itself the plane's normal points the other way: turned to the left, it leads back.
        assert abs(plane.yaw + yaw) < 0.06 and abs(plane.lean - lean) < 0.04
        assert unlikeness < TWINS[0]


def test_the_plane_is_drawn_to_the_pose_but_not_to_any(monkeypatch):
    """Of planes that nearly tie the one near the pose is taken; a pose that is far off is not believed."""
    truth, valid = head(128, 0.1)
    hole = half_hidden(valid, "right")
    field = softened(truth, hole, valid)

    def turn_of(yaw, doubt=0.01):
        across = np.array([np.cos(yaw), 0, np.sin(yaw)], np.float32)
        monkeypatch.setattr(relief, "pose", lambda *_: Pose(across, doubt))
        found = relief._find(field, valid & ~hole, valid)
        assert found is not None
        return found[1].yaw

    near, nearer = turn_of(-0.06), turn_of(-0.14)
    assert nearer < near
    assert abs(turn_of(-0.06, doubt=0.5) - turn_of(-0.14, doubt=0.5)) < 0.7 * (near - nearer)
    assert abs(turn_of(0.8) + 0.1) < 0.06 and abs(turn_of(-0.8) + 0.1) < 0.06


def test_heads_that_lean_far_are_mirrored_too():
    """The pose tells of a lean beyond what the search would find by itself."""
    truth, valid = head(128, 0.1, 0.6)
    hole = half_hidden(valid, "right")
    field = softened(truth, hole, valid)
    found = relief._find(field, valid & ~hole, valid)
    assert found is not None
    _, plane, unlikeness = found
    assert abs(plane.lean - 0.6) < 0.1 and abs(plane.yaw + 0.1) < 0.1 and unlikeness < TWINS[0]


def test_what_is_not_symmetric_tells_nothing():
    """Waves are more unlike than what counts, and a wry face than a straight one."""
    waves = wavy_normals(128, 128)
    whole = np.ones((128, 128), bool)
    hole = disc(128, 128, 60, 40, 25)
    _, _, unlikeness = relief.other_side(waves, waves, whole & ~hole, whole, hole)
    assert unlikeness > TWINS[1]
    assert np.array_equal(with_twin(waves, waves, hole, whole), waves)
    straight, valid = head(128, 0.1)
    wry, _ = head(128, 0.1, wry=1.5)
    hole = half_hidden(valid, "left")
    _, _, alike = relief.other_side(straight, straight, valid & ~hole, valid, hole)
    _, _, unlike = relief.other_side(wry, wry, valid & ~hole, valid, hole)
    assert alike < 0.02 and unlike > 0.12


@pytest.mark.parametrize("shape", [(1, 1), (3, 50), (20, 20)])
def test_small_maps_and_maps_without_surface(shape):
    normals, valid = sphere_normals(*shape)
    hole = valid & (np.arange(shape[1]) > shape[1] / 2)
    for surface in (valid, np.zeros_like(valid)):
        image, trust, _ = relief.other_side(normals, normals, surface & ~hole, surface, hole & surface)
        assert np.isfinite(image).all() and not image[~(hole & surface)].any()
        assert np.isfinite(trust).all() and not trust[~(hole & surface)].any()


@pytest.mark.parametrize(("yaw", "side"), [(0.0, "right"), (0.12, "right"), (0.2, "left")])
def test_an_answer_is_moved_towards_the_other_half_and_stays_closed(yaw, side):
    truth, valid = head(128, yaw)
    hole = half_hidden(valid, side)
    predicted = softened(truth, hole, valid)
    got = with_twin(predicted, truth, hole, valid)
    assert np.array_equal(got[~hole], predicted[~hole])
    assert np.abs(np.linalg.norm(got[hole], axis=-1) - 1).max() < 1e-5
    before, after = (angular_error(field, truth)[hole].mean() for field in (predicted, got))
    assert after < 0.85 * before
    # Along the border the answer, whose seam is closed, is kept.
    rim = hole & grow(valid & ~hole)
    assert np.abs(got - predicted)[rim].max() < 1e-6
