"""Both sides of a layout's seams, and that they meet in what was repaired."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import FakeEngine
from test_core_basemesh import frames_of
from test_core_opposites import dome, even, two_islands

from blender_normal_inpaint.core import normals as coding
from blender_normal_inpaint.core import pipeline, seams
from blender_normal_inpaint.core.basemesh import BaseMesh, Grid
from blender_normal_inpaint.core.fill import LocalFiller
from blender_normal_inpaint.core.normals import Encoding, angular_error, unit
from blender_normal_inpaint.core.pipeline import Options
from blender_normal_inpaint.core.source import Source

SIZE = 256
RADIUS = 3.0


def worn(base, strength=0.25, size=SIZE):
    """Waves in space on a mesh, in tangent space (h, w, 3); where it lies, and how far from its front."""
    points, lies = base.interpolated(base.points, Grid.blocks((size, size)))
    frames = frames_of(base, size)
    waves = strength * np.stack([np.sin(points[..., i] * 0.9 + i) for i in range(3)], axis=-1)
    local = frames.local(unit((frames.normals + waves).astype(np.float32)))
    local[~lies] = (0, 0, 1)
    front = base.points[np.argmax(base.points @ base.normals.mean(axis=0))]
    return local, lies, np.linalg.norm(points - front, axis=-1)


def tilted(local, lies, away, base):
    """A map that is off in a hole across the seam, on one side of it only; and the hole."""
    hole = lies & (away < RADIUS)
    side = base.interpolated(base.hands[:, None], Grid.blocks(lies.shape))[0][..., 0] < 0
    assert (hole & side).any() and (hole & ~side).any()
    off = 0.3 * np.clip(1 - away / RADIUS, 0, 1) * side
    return unit(local + off[..., None] * np.array([1, 1, 0], np.float32)), hole


def source_of(local, lies, dtype=np.float32):
    pixels = coding.encode(local.reshape(-1, 3), Encoding(), dtype).reshape(local.shape)
    return Source(Encoding(), pixels, np.zeros(lies.shape, np.bool_), lies)


def seams_of(base):
    found = seams.Seams.of(base, SIZE, SIZE)
    assert found is not None
    return found


def along(base, local, lies, hole):
    """Degrees between both sides, along what of the seam lies in a hole."""
    found = seams_of(base)
    one, two, good = found.seen(local, lies)
    here = np.logical_and(*(hole[side.blocks(lies.shape)] for side in found.sides))
    return angular_error(unit(one), unit(two))[good & here]


@pytest.fixture(scope="module")
def base():
    return dome(two_islands)[0]


def test_a_seam_runs_alike_on_both_of_its_sides(base):
    found = seams._seams(base)
    assert len(found) == 1
    one, two = found[0]
    assert len(one) == 48 and (one[:, :2] != two[:, :2]).all()
    for side in (one, two):
        assert np.array_equal(side[1:, 0], side[:-1, 1])
    for end in (0, 1):
        assert np.array_equal(base.points[one[:, end]], base.points[two[:, end]])
    assert np.array_equal(np.abs(np.diff(base.hands[np.stack([one[:, 0], two[:, 0]])], axis=0)), [[2.0] * 48])


def test_a_mesh_in_one_piece_has_no_seam():
    whole = dome(even)[0]
    assert seams.Seams.of(whole, SIZE, SIZE) is None
    local, lies, away = worn(whole)
    assert seams.meeting(source_of(local, lies), lies & (away < RADIUS), whole) is None


def test_a_ring_is_one_seam():
    # A tube: round it is closed in space, but not in the layout, and so is the cut around its middle.
    turn, up = np.meshgrid(np.linspace(0, 1, 25), np.linspace(0, 1, 9))
    angle = 2 * np.pi * turn % (2 * np.pi)
    points = np.stack([np.cos(angle), np.sin(angle), 3 * up], -1).reshape(-1, 3).astype(np.float32)
    first = (np.arange(8)[:, None] * 25 + np.arange(24)).ravel()
    corners = np.concatenate(
        [np.stack([first, first + 1, first + 26], 1), np.stack([first, first + 26, first + 25], 1)]
    ).astype(np.int32)
    uv = np.stack([turn, 0.45 * up], -1).reshape(-1, 2)[corners]
    uv[up.reshape(-1)[corners].mean(axis=1) > 0.5] += [0, 0.5]
    points[points[:, 0] > 1 - 1e-6] = [[1, 0, z] for z in points[points[:, 0] > 1 - 1e-6][:, 2]]
    found = seams._seams(BaseMesh.of(points, corners, uv.astype(np.float32)))
    assert sorted(len(one) for one, _ in found) == [4, 4, 24]
    for one, _ in found:
        assert np.array_equal(one[1:, 0], one[:-1, 1])


def test_both_sides_meet_and_the_better_known_one_moves_less(base):
    local, lies, away = worn(base)
    repaired, hole = tilted(local, lies, away, base)
    change = seams.meeting(source_of(repaired, lies), hole, base)
    assert change is not None and change.steps == (1, 1)
    moved = change.at(seams.Box(0, SIZE, 0, SIZE))
    assert np.abs(moved[lies & (away > RADIUS + 0.5)]).max() < 1e-6
    after = np.where(hole[..., None], unit(repaired + moved), repaired)
    before, now = along(base, repaired, lies, hole), along(base, after, lies, hole)
    assert np.median(before) > 6 and np.median(now) < 0.35 * np.median(before)
    # What was off on one side alone is shared by both.
    places = [side.blocks(lies.shape) for side in seams_of(base).sides]
    here = hole[places[0]] & hole[places[1]]
    first, second = (np.linalg.norm(moved[place], axis=-1)[here] for place in places)
    assert np.median(first / second) == pytest.approx(1, abs=0.25)


def test_a_coarser_look_at_a_large_map_says_the_same(base, monkeypatch):
    local, lies, away = worn(base)
    repaired, hole = tilted(local, lies, away, base)
    whole = seams.Box(0, SIZE, 0, SIZE)
    change = seams.meeting(source_of(repaired, lies), hole, base)
    assert change is not None
    fine = change.at(whole)
    monkeypatch.setattr(seams, "_GRID", SIZE // 2)
    coarse = seams.meeting(source_of(repaired, lies), hole, base)
    assert coarse is not None and coarse.steps == (2, 2) and coarse.field.shape == (SIZE // 2, SIZE // 2, 3)
    deep = hole & (away < 0.7 * RADIUS)
    apart = np.linalg.norm(coarse.at(whole)[deep] - fine[deep], axis=-1)
    assert apart.mean() < 0.35 * np.linalg.norm(fine[deep], axis=-1).mean()


def test_nothing_changes_where_a_repair_agrees(base):
    local, lies, away = worn(base, 0.02)
    change = seams.meeting(source_of(local, lies), lies & (away < RADIUS), base)
    assert change is None or np.abs(change.field).max() < 0.003


def test_what_differs_along_all_of_a_seam_is_no_error(base):
    # Skin that does not go on across it.
    local, lies, away = worn(base)
    hole = lies & (away < RADIUS)
    for seed in range(5):
        skin = np.random.default_rng(seed).normal(size=(SIZE, SIZE, 2)) * 0.2
        bumpy = unit(local + np.concatenate([skin, np.zeros((SIZE, SIZE, 1))], -1).astype(np.float32))
        assert seams.meeting(source_of(bumpy, lies), hole, base) is None


def test_flat_known_places_tell_nothing(base):
    # By another layout than the map's the seams may lie in what is flat between its islands.
    local, lies, away = worn(base)
    hole = lies & (away < RADIUS)
    assert seams.meeting(source_of(tilted(local, lies, away, base)[0], lies), hole, base) is not None
    local[~hole] = (0, 0, 1)
    assert seams.meeting(source_of(tilted(local, lies, away, base)[0], lies), hole, base) is None


def test_a_hole_away_from_all_seams_costs_no_look_at_the_map(base, monkeypatch):
    local, lies, _ = worn(base)
    monkeypatch.setattr(Source, "averaged", lambda *_: pytest.fail("the map was read"))
    hole = np.zeros(lies.shape, np.bool_)
    hole[100:120, 40:60] = True
    assert lies[hole].all()
    assert seams.meeting(source_of(local, lies), hole, base) is None


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_repair_across_a_seam_meets_and_leaves_all_else_alone(base, dtype, monkeypatch):
    local, lies, away = worn(base)
    hole = lies & (away < RADIUS)
    pixels = coding.encode(local.reshape(-1, 3), Encoding(), dtype).reshape(local.shape)

    def repaired():
        result = pipeline.inpaint(
            pixels,
            hole,
            LocalFiller(FakeEngine()),
            valid=lies,
            meshes=(base,),
            options=Options(detail=False, symmetry=False),
        )
        assert result.pixels[~hole].tobytes() == pixels[~hole].tobytes() and not result.notices
        return coding.decode(result.pixels, Encoding())

    after = repaired()
    monkeypatch.setattr(pipeline, "meeting", lambda *_: None)
    before = repaired()
    apart = [along(base, field, lies, hole).mean() for field in (before, after)]
    assert apart[0] > 2 and apart[1] < 0.5 * apart[0]


def test_an_object_space_map_meets_on_its_mesh(base, monkeypatch):
    local, lies, away = worn(base, 0.1)
    every = tuple(axis.ravel() for axis in np.indices((SIZE, SIZE)))
    world = frames_of(base, SIZE).of_local(local.reshape(-1, 3), every).reshape(local.shape)
    hole = lies & (away < RADIUS)
    encoding = Encoding(space="object")
    pixels = coding.encode(world.reshape(-1, 3), encoding, np.uint16).reshape(world.shape)
    apart = []
    for meet in (seams.meeting, lambda *_: None):
        monkeypatch.setattr(pipeline, "meeting", meet)
        result = pipeline.inpaint(
            pixels,
            hole,
            LocalFiller(FakeEngine()),
            encoding=encoding,
            valid=lies,
            meshes=(base,),
            options=Options(detail=False, symmetry=False),
        )
        assert not result.notices and result.pixels[~hole].tobytes() == pixels[~hole].tobytes()
        after = frames_of(base, SIZE).local(coding.decode(result.pixels, encoding))
        apart.append(along(base, after, lies, hole).mean())
    assert apart[0] < 0.6 * apart[1]
