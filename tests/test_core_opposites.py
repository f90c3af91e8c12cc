"""Which places of a mesh are each other's mirror image, and the other half of a map by it."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from synthetic import FakeEngine
from test_core_basemesh import grid, surface

from blender_normal_inpaint.core import normals as coding
from blender_normal_inpaint.core import opposites as module
from blender_normal_inpaint.core import pipeline
from blender_normal_inpaint.core.basemesh import BaseMesh, Grid, lying_in
from blender_normal_inpaint.core.fill import LocalFiller
from blender_normal_inpaint.core.normals import Encoding, angular_error, unit
from blender_normal_inpaint.core.opposites import _Nearest, opposites
from blender_normal_inpaint.core.pipeline import Options


def uneven(u, v):
    """A layout (..., 2) that is not its own mirror image."""
    across = u + 0.12 * np.sin(np.pi * u) ** 2 * np.cos(np.pi * v)
    return np.stack([0.05 + 0.9 * across, 0.05 + 0.9 * (v + 0.08 * u * np.sin(np.pi * v))], -1)


def even(u, v):
    """A layout (..., 2) that is its own mirror image."""
    return np.stack([0.05 + 0.9 * u, 0.05 + 0.9 * v], -1)


def two_islands(u, v):
    """A layout (..., 2) with the right half turned by a quarter, and mirrored, beside the left one."""
    left = np.stack([0.05 + 0.8 * u, 0.05 + 0.9 * v], -1)
    right = np.stack([0.5 + 0.45 * v, 0.05 + 0.8 * (u - 0.5)], -1)
    return np.where((u > 0.5)[..., None], right, left)


def dome(layout, cells=48, bend=0.0, at=surface):
    """The dome of `test_core_basemesh` in a layout; `bend` moves the columns of its grid to one side."""
    u, v, corners = grid(cells)
    u = u + bend * np.sin(2 * np.pi * u) * np.sin(np.pi * u)
    points = at(u, v) @ turned()
    middle = u[corners].mean(axis=1, keepdims=True)
    # A corner on the seam belongs to its triangle's island.
    beside = np.where(np.abs(u[corners] - 0.5) < 1e-6, u[corners] + 1e-6 * np.sign(middle - 0.5), u[corners])
    uv = layout(beside, v[corners]).astype(np.float32)
    return BaseMesh.of((7 * points + [3, -2, 5]).astype(np.float32), corners, uv), u, v


def turned():
    turn, _ = np.linalg.qr(np.random.default_rng(8).normal(size=(3, 3)))
    near = np.eye(3) + 0.15 * turn  # leaning a little, as scans do
    return np.linalg.svd(near)[0] @ np.linalg.svd(near)[2]


def test_the_nearest_points_are_found() -> None:
    rng = np.random.default_rng(2)
    points = rng.normal(size=(700, 3)) * [1, 0.1, 3]
    points[::7] = points[::7] * 0.01 + [0.5, 0, 0]  # far closer to each other than the rest
    places = np.concatenate([rng.normal(size=(300, 3)) * [1.2, 0.3, 3], points[:5], [[50, 0, 0]]])
    apart = np.linalg.norm(places[:, None] - points, axis=2)
    for reach in (0.05, 0.4, 9.0):
        number, distance = _Nearest(points, reach).to(places)
        there = apart.min(axis=1) <= reach
        assert np.array_equal(number >= 0, there)
        assert np.array_equal(number[there], apart.argmin(axis=1)[there])
        np.testing.assert_allclose(distance[there], apart.min(axis=1)[there])
        assert np.isinf(distance[~there]).all()


def test_a_grid_on_a_dense_mesh_stands_for_it() -> None:
    mesh, _, _ = dome(two_islands, 96)
    coarse = mesh.gridded(64)
    assert len(coarse.triangles) < 0.5 * len(mesh.triangles)
    size = 256
    whole = Grid.blocks((size, size))
    fine, rough = mesh.frames(whole), coarse.frames(whole)
    assert not (rough.there & ~fine.there).any() and rough.there.sum() > 0.85 * fine.there.sum()
    for name in ("normals", "tangents", "bitangents"):
        cosine = (getattr(fine, name) * getattr(rough, name)).sum(axis=-1)[rough.there]
        assert np.degrees(np.arccos(np.clip(np.quantile(cosine, 0.01), -1, 1))) < 3
    assert len(mesh.gridded(1).triangles) <= 2


@pytest.mark.parametrize(("bend", "dense"), [(0.0, False), (0.04, False), (0.04, True)])
def test_a_point_s_mirror_image_is_where_the_surface_has_it(bend: float, dense: bool, monkeypatch) -> None:
    mesh, _, _ = dome(uneven, bend=bend)
    if dense:
        monkeypatch.setattr(module, "_DENSE", 1000)
        monkeypatch.setattr(module, "_CELLS", 60)
    found = opposites(mesh)
    assert found is not None
    if dense:
        mesh = mesh.gridded(60)
    assert len(found.mesh.triangles) > 0.9 * len(mesh.triangles)
    used = np.unique(found.mesh.triangles)
    # Where a layout like this has the mirror image of each point:
    u, v, corners = grid(48)
    u = u + bend * np.sin(2 * np.pi * u) * np.sin(np.pi * u)
    own = uneven(u, v)[corners].reshape(-1, 2)
    image = uneven(1 - u, v)[corners].reshape(-1, 2)
    number = np.array([np.argmin(np.abs(own - place).sum(axis=1)) for place in mesh.places[used]])
    apart = np.linalg.norm(found.places[used] - image[number], axis=1)
    if dense:  # between corners of the mesh, of which the nearest one is up to half an edge away
        apart -= np.linalg.norm(mesh.places[used] - own[number], axis=1) * 1.3
    assert np.median(apart) < (1e-4 if bend == 0 else 2e-3) and np.quantile(apart, 0.95) < 0.01
    # The mirrored tangent goes against u, more or less, for the layout bends.
    assert np.allclose(np.linalg.norm(found.turns, axis=1)[used], 1, atol=1e-4)
    assert np.median(found.turns[used, 0]) < -0.9 and (found.hands[used] == 1).all()


def test_islands_may_be_turned_and_mirrored() -> None:
    mesh, _, _ = dome(two_islands)
    assert set(np.unique(mesh.hands)) == {-1, 1}
    found = opposites(mesh)
    assert found is not None
    used = np.unique(found.mesh.triangles)
    left = used[(mesh.places[used, 0] < 0.42) & (mesh.places[used, 1] > 0.1)]
    u, v = (mesh.places[left, 0] - 0.05) / 0.8, (mesh.places[left, 1] - 0.05) / 0.9
    apart = np.linalg.norm(found.places[left] - two_islands(1 - u, v), axis=1)
    assert np.quantile(apart, 0.95) < 1e-3
    assert (found.hands[left] == -1).all()


def test_what_is_not_symmetric_has_no_opposites() -> None:
    def crooked(u, v):
        return surface(u, v) * (1 + 0.8 * u + 0.5 * np.sin(4 * v + 2 * u))[..., None]

    assert opposites(dome(uneven, at=crooked)[0]) is None
    rng = np.random.default_rng(0)
    points = rng.normal(size=(40, 3)).astype(np.float32)
    corners = rng.permutation(39).reshape(-1, 3).astype(np.int32)
    assert opposites(BaseMesh.of(points, corners, rng.random((13, 3, 2)).astype(np.float32))) is None
    flat = np.zeros((3, 3), np.float32)
    one = np.array([[0, 1, 2]], np.int32)
    assert opposites(BaseMesh.of(flat, one, rng.random((1, 3, 2)).astype(np.float32))) is None


def test_a_dense_mesh_that_no_grid_meets_has_no_opposites(monkeypatch) -> None:
    monkeypatch.setattr(module, "_DENSE", 10)
    mesh, _, _ = dome(even, 8)
    for side in (1e-6, 1.5 / module._CELLS):  # between the corners of the grid, or on one or two of them
        shrunk = replace(mesh, places=(0.5004 + side * mesh.places).astype(np.float32))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert opposites(shrunk) is None
    assert opposites(mesh) is not None


def bumpy(u, v):
    """The dome with skin of a kind, the same on both sides; of a grid's corners alone."""
    side = round(np.sqrt(u.size))
    field = np.random.default_rng(5).normal(size=(side, side))
    for _ in range(3):
        for axis in (0, 1):
            field = field + np.roll(field, 1, axis) + np.roll(field, -1, axis)
    field = field + field[:, ::-1]
    field *= 0.2 / np.diff(field, axis=1).std() / side
    return surface(u, v) * (1 + field.reshape(u.shape)[..., None])


@pytest.mark.parametrize("layout", [uneven, two_islands, even])
def test_the_other_half_s_detail_comes_over_in_any_layout(layout) -> None:
    size = 320
    mesh, _, _ = dome(layout)
    fine, _, _ = dome(layout, 288, at=bumpy)
    frames = mesh.frames(Grid.blocks((size, size)))
    shown = fine.frames(Grid.blocks((size, size)))
    valid = frames.there & shown.there
    truth = unit(frames.local(shown.normals))
    own = np.array([[0.3, 0.35], [0.3, 0.35]])
    u, v, _ = grid(400)
    there = layout(u, v)
    inside = np.hypot(u - own[0, 0], v - own[0, 1]) < 0.11
    hole = np.zeros((size, size), bool)
    rows, columns = ((1 - there[inside, 1]) * size).astype(int), (there[inside, 0] * size).astype(int)
    hole[rows, columns] = True
    hole &= valid
    assert 400 < hole.sum() < 8000
    pixels = coding.encode(truth, Encoding(), np.uint16)
    errors = []
    asked: list[tuple[list[BaseMesh], bool]] = [([], True), ([mesh], True), ([mesh], False)]
    for meshes, symmetry in asked:
        result = pipeline.inpaint(
            pixels,
            hole,
            LocalFiller(FakeEngine(tilt=0.02)),
            valid=valid,
            options=Options(symmetry=symmetry),
            meshes=meshes,
        )
        assert result.pixels[~hole].tobytes() == pixels[~hole].tobytes()
        errors.append(float(angular_error(coding.decode(result.pixels, Encoding()), truth)[hole].mean()))
    if layout is even:  # the layout itself tells more
        assert errors[1] == errors[0] < 0.6 * errors[2], errors
    else:
        assert errors[0] > 3 and errors[1] < 0.6 * errors[0] and errors[2] == errors[0], errors


def test_halves_that_are_not_alike_tell_nothing_of_each_other() -> None:
    size = 192
    mesh, _, _ = dome(uneven)
    frames = mesh.frames(Grid.blocks((size, size)))
    rng = np.random.default_rng(3)
    slopes = rng.normal(0, 0.2, (size, size, 2))
    truth = unit(np.concatenate([slopes, np.ones((size, size, 1))], -1).astype(np.float32))
    hole = np.zeros((size, size), bool)
    hole[80:110, 40:70] = True
    pixels = coding.encode(truth, Encoding(), np.uint8)
    filler = LocalFiller(FakeEngine())
    with_it, without = (
        pipeline.inpaint(pixels, hole, filler, valid=frames.there, meshes=meshes).pixels
        for meshes in ([mesh], [])
    )
    assert with_it.tobytes() == without.tobytes()


def test_of_several_meshes_the_one_in_the_hole_counts() -> None:
    mesh, _, _ = dome(uneven)
    right = mesh.places[mesh.triangles][:, :, 0].mean(axis=1) > 0.5
    halves = [replace(mesh, triangles=mesh.triangles[part]) for part in (right, ~right)]
    mask = np.zeros((700, 700), bool)
    mask[300:400, 100:200] = True
    assert lying_in(halves, mask) is halves[1] and lying_in(halves[::-1], mask) is halves[1]
    assert lying_in(halves, mask[:, ::-1]) is halves[0] and lying_in(halves[1:], mask[:, ::-1]) is halves[1]
