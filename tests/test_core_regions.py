from __future__ import annotations

import numpy as np
import pytest
from synthetic import disc

from blender_normal_inpaint.core import regions


def everywhere(hole):
    return np.ones(hole.shape, bool)


def check(plan, hole):
    """Every hole texel in exactly one tile; boxes inside the map and inside each other; bounded sizes."""
    height, width = hole.shape
    left = hole.copy()
    for region in plan:
        assert left[region.tile.slices].any()
        left[region.tile.slices] = False
        assert region.crop.contains(region.tile)
        for box in (region.crop, region.context):
            assert 0 <= box.top < box.bottom <= height and 0 <= box.left < box.right <= width
        assert max(region.crop.height, region.crop.width) <= regions.CROP
        assert -(-max(region.context.height, region.context.width) // region.step) <= regions.CONTEXT
    assert not left.any()


@pytest.mark.parametrize("space", ["tangent", "camera"])
@pytest.mark.parametrize(
    ("height", "width"), [(64, 64), (16, 900), (511, 513), (2000, 1200), (4096, 4096), (1024, 6000)]
)
def test_one_hole(space, height, width):
    hole = disc(height, width, height * 0.4, width * 0.7, min(height, width) * 0.1 + 2)
    plan = regions.plan(hole, everywhere(hole), space)
    check(plan, hole)
    assert len(plan) == 1


def test_context_is_about_a_hole_on_each_side():
    hole = disc(4096, 4096, 2000, 2000, 200)
    (region,) = regions.plan(hole, everywhere(hole))
    assert 2000 - 200 - region.context.top >= 390
    assert region.context.bottom - 2000 - 200 >= 390
    assert region.context.height == region.context.width


def test_camera_space_sees_the_whole_head_and_not_the_background():
    hole = disc(4096, 4096, 2000, 2000, 50)
    valid = disc(4096, 4096, 2048, 2048, 1000)
    (region,) = regions.plan(hole, valid, "camera")
    assert region.context.contains(regions.bounds(valid))
    assert region.context.height < 2200


def test_near_holes_share_a_region_and_far_ones_do_not():
    near = disc(4096, 4096, 1000, 1000, 40) | disc(4096, 4096, 1000, 1120, 40)
    assert len(regions.plan(near, everywhere(near))) == 1
    far = disc(4096, 4096, 400, 400, 40) | disc(4096, 4096, 3700, 3700, 40)
    plan = regions.plan(far, everywhere(far))
    check(plan, far)
    assert len(plan) == 2
    assert sum(region.crop.height * region.crop.width for region in plan) <= 2 * regions.CONTEXT**2


def test_strands_over_the_whole_map_are_cut_into_tiles():
    hole = np.zeros((5000, 5000), bool)
    hole[::97] = hole[:, ::131] = True
    plan = regions.plan(hole, everywhere(hole))
    check(plan, hole)
    assert 9 <= len(plan) <= 16


def test_a_huge_hole_is_cut_into_tiles_that_share_their_context():
    hole = disc(8192, 8192, 4000, 4000, 2000)
    plan = regions.plan(hole, everywhere(hole))
    check(plan, hole)
    assert len({(region.context, region.step) for region in plan}) == 1


def test_specks_everywhere():
    hole = np.zeros((3000, 3000), bool)
    rng = np.random.default_rng(0)
    hole[rng.integers(0, 3000, 2000), rng.integers(0, 3000, 2000)] = True
    plan = regions.plan(hole, everywhere(hole))
    check(plan, hole)
    assert len(plan) <= 12


def test_no_hole_no_regions():
    assert regions.plan(np.zeros((50, 50), bool), np.ones((50, 50), bool)) == []


def test_label_joins_diagonals_and_winding_paths():
    flags = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 1], [1, 1, 0, 1]], bool)
    names, count = regions.label(flags)
    assert count == 4
    assert names.tolist() == [[1, 0, 0, 2], [0, 1, 0, 0], [0, 0, 0, 3], [4, 4, 0, 3]]
    spiral = np.zeros((41, 41), bool)
    for ring in range(0, 20, 2):
        spiral[ring, ring : 41 - ring] = spiral[ring : 41 - ring, 40 - ring] = True
        spiral[40 - ring, ring : 41 - ring] = spiral[ring + 2 : 41 - ring, ring] = True
        spiral[ring + 2, ring : ring + 2] = True
    assert regions.label(spiral)[1] == 1
    assert regions.label(np.zeros((5, 5), bool))[1] == 0


def test_label_matches_a_plain_flood_fill():
    flags = np.random.default_rng(1).random((60, 70)) < 0.4
    names, count = regions.label(flags)
    seen = np.zeros(flags.shape, bool)
    groups = 0
    for y, x in np.argwhere(flags):
        if seen[y, x]:
            continue
        groups += 1
        stack = [(y, x)]
        seen[y, x] = True
        while stack:
            a, b = stack.pop()
            assert names[a, b] == groups
            for c in range(max(0, a - 1), min(60, a + 2)):
                for d in range(max(0, b - 1), min(70, b + 2)):
                    if flags[c, d] and not seen[c, d]:
                        seen[c, d] = True
                        stack.append((c, d))
    assert groups == count
