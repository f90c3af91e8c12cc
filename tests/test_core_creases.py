"""Creases that go on across a hole: told from pores, continued, and put before what the other half shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from blender_normal_inpaint.core import creases, detail
from blender_normal_inpaint.core.bands import Scene, split
from blender_normal_inpaint.core.creases import Creases, lead, taken_out
from blender_normal_inpaint.core.normals import unit
from blender_normal_inpaint.core.twin import Twin

Floats = np.ndarray[Any, np.dtype[np.float32]]
SIZE = 384


def skin(fold: float, pores: float = 0.08, width: float = 3.0) -> Floats:
    """A map in tangent space: pores, and a fold from the lower left to the upper right, a little bent."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32) - SIZE / 2
    away = (y + 0.6 * x + x * x / 900) / np.hypot(1, 0.6)
    ridge = fold * away / width * np.exp(-((away / width) ** 2))
    noise = ndimage.gaussian_filter(np.random.default_rng(2).normal(0, 1, (2, SIZE, SIZE)), (0, 0.8, 0.8))
    noise *= pores / noise.std()
    slopes = ridge * 0.51 + noise[0], ridge * 0.86 + noise[1]
    return unit(np.stack([*slopes, np.ones_like(x)], -1).astype(np.float32))


def strand(width: int) -> Any:
    """A hole across the whole map, upright."""
    hole = np.zeros((SIZE, SIZE), np.bool_)
    hole[40:-40, SIZE // 2 - width // 2 : SIZE // 2 + width // 2] = True
    return hole


def flattened(truth: Floats, hole: Any) -> Floats:
    """The map with nothing but a flat surface in the hole."""
    result: Floats = np.where(hole[..., None], np.array([0, 0, 1], np.float32), truth)
    return result


def scene_of(truth: Floats, hole: Any, scale: float) -> Scene:
    result = split(flattened(truth, hole), truth, hole, ~hole, "tangent", scale, lambda _share: None)
    assert result is not None
    return result


def filled(truth: Floats, hole: Any, scale: float, twin: Floats | None = None) -> Floats:
    result: Floats = detail.add_detail(
        flattened(truth, hole), truth, hole, np.ones_like(hole), "tangent", scale,
        np.random.default_rng(0), twin=twin,
    )  # fmt: skip
    assert np.array_equal(result[~hole], truth[~hole])
    np.testing.assert_allclose(np.linalg.norm(result, axis=-1), 1, atol=1e-5)
    return result


def strength_of(result: Floats, fold: Floats, where: Any) -> float:
    """How much of a fold a map has: 1 for all of it, whatever lies over it."""
    first, second = result[where][:, :2], fold[where][:, :2]
    return float((first * second).sum() / (second**2).sum())


def found_in(scene: Scene) -> Creases:
    found = taken_out(scene)
    assert found is not None
    return found


def whole(field: Creases, scene: Scene) -> Any:
    rows, columns = scene.area.shape
    return field.tile((slice(0, rows), slice(0, columns)))


@pytest.mark.parametrize(("scale", "width", "wide"), [(2.0, 3.0, 16), (2.0, 3.0, 32), (4.0, 4.0, 24)])
def test_a_fold_goes_on_across_a_hole(
    scale: float, width: float, wide: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With coarser context, too, where the band's texels are two of the map's wide."""
    hole = strand(wide)
    truth, fold = skin(0.8, width=width), skin(0.8, 0.0, width)
    along = hole & (np.abs(fold[..., 0]) > 0.08)
    with_it = strength_of(filled(truth, hole, scale), fold, along)
    monkeypatch.setattr(detail, "taken_out", lambda _scene: None)
    without = strength_of(filled(truth, hole, scale), fold, along)
    assert with_it > 0.5 and without < 0.3, (with_it, without)


def test_a_fold_is_told_from_pores() -> None:
    hole = strand(24)
    with_fold, fold, pores = (scene_of(truth, hole, 1.0) for truth in (skin(0.8), skin(0.8, 0.0), skin(0.0)))
    before = with_fold.detail.copy()
    found = whole(found_in(with_fold), with_fold)
    # What is found and what is left make the detail, where it is known.
    known = with_fold.known
    np.testing.assert_allclose((with_fold.detail + found)[known], before[known], atol=1e-6)
    assert not found[~(with_fold.known | with_fold.area)].any()
    near = known & ndimage.binary_dilation(with_fold.area, iterations=16)
    truth = fold.detail[near]
    assert np.abs(found[near] - truth).std() < 0.35 * np.abs(truth).std() + 0.02
    # Of pores, a tenth of their energy at most.
    of_pores = pores.detail.copy()
    nothing = whole(found_in(pores), pores)
    assert np.square(np.abs(nothing[near])).mean() < 0.1 * np.square(np.abs(of_pores[near])).mean()
    # In the hole they end within a few texels.
    deep = ndimage.binary_erosion(pores.area, iterations=10)
    assert np.square(np.abs(nothing[deep])).mean() < 0.02 * np.square(np.abs(of_pores[near])).mean()


def test_a_fold_that_nothing_meets_ends_in_the_hole() -> None:
    """And far from the hole's edge nothing is looked for."""
    hole = np.zeros((SIZE, SIZE), np.bool_)
    hole[20:-20, SIZE // 2 : -20] = True
    scene = scene_of(skin(0.8, pores=0.02), hole, 1.0)
    strength = np.abs(whole(found_in(scene), scene))
    columns = np.flatnonzero(scene.area.any(axis=0))
    by_depth = [strength[:, columns[0] + at : columns[0] + at + 4].max() for at in (-8, 4, 24, 100)]
    assert by_depth[0] > by_depth[1] > by_depth[2] > 0 and by_depth[3] < 0.01, by_depth
    assert strength[:, columns[0] - 60 : columns[0] - 50].max() == 0


def test_the_system_is_its_energys_gradient() -> None:
    """On squares of texels whose tensor varies, with a corner missing."""
    generator = np.random.default_rng(1)
    rows, columns = 6, 7
    there = np.ones((rows, columns), np.bool_)
    there[0, 0] = there[3, 6] = False
    places = np.flatnonzero(there)
    number = np.full((rows + 2, columns + 2), places.size)
    number[1:-1, 1:-1][there] = np.arange(places.size)
    y, x = np.divmod(places, columns)
    near = [number[y + 1 + down, x + 1 + right] for down, right in creases._NEIGHBOURS]
    roots = generator.normal(size=(places.size, 2, 2))
    tensors = roots @ roots.transpose(0, 2, 1)
    tensor = np.stack([tensors[:, 0, 0], tensors[:, 0, 1], tensors[:, 1, 1]], 1).astype(np.float32)
    data = generator.uniform(0.1, 1, places.size).astype(np.float32)
    target = generator.normal(size=(places.size, 2)).astype(np.float32)
    system = creases._System(near, tensor, data, target)

    def energy(field: Any) -> float:
        total = float((data * np.square(field)).sum())
        grid = np.zeros((rows, columns))
        grid[there] = field
        for place, (xx, xy, yy) in zip(places, tensor, strict=True):
            r, c = divmod(int(place), columns)
            if r + 1 == rows or c + 1 == columns or not there[r : r + 2, c : c + 2].all():
                continue
            (a, b), (e, f) = grid[r : r + 2, c : c + 2]
            middle = [((b - a + f - e) / 2, (e - a + f - b) / 2)] * 4
            edges = [(across, down) for across in (b - a, f - e) for down in (e - a, f - b)]
            for share, pairs in (1 - creases.CHECKED, middle), (creases.CHECKED, edges):
                for across, down in pairs:
                    total += share / 4 * (xx * across**2 + 2 * xy * across * down + yy * down**2)
        return total

    field = generator.normal(size=places.size)
    image = system(np.stack([field, field], 1).astype(np.float32))[:, 0]
    gradient = [(energy(field + step) - energy(field - step)) / 4e-4 for step in np.eye(places.size) * 1e-4]
    np.testing.assert_allclose(image, gradient, rtol=1e-3, atol=1e-3)


def test_the_other_half_gives_way_where_creases_go_on() -> None:
    hole = strand(24)
    scene = scene_of(skin(0.8), hole, 1.0)
    found = found_in(scene)
    strength = np.abs(whole(found, scene))
    pores = 0.1 * np.ones(scene.area.shape, np.complex64)
    other = Twin(pores, scene.area.astype(np.float32))
    lead(found, scene, other)
    strong = scene.area & (ndimage.uniform_filter(strength**2, 8) > 0.015)
    weak = scene.area & (ndimage.maximum_filter(strength, 48) < 0.04)
    assert strong.any() and weak.any()
    assert other.share[strong].max() < 0.5 and other.share[weak].min() > 0.95
    assert not other.share[~scene.area].any()
    loud = Twin(pores * 20, scene.area.astype(np.float32))
    lead(found, scene, loud)
    assert loud.share[scene.area].min() > 0.95


def test_an_island_that_is_hidden_whole_has_no_creases_and_gets_its_detail() -> None:
    """Nothing known is near it, and what is far away gives its pores all the same."""
    truth = skin(0.8)
    valid, hole = (np.zeros((SIZE, SIZE), np.bool_) for _ in range(2))
    valid[:, :160] = True
    hole[150:210, 310:370] = True
    valid |= hole
    scene = split(flattened(truth, hole), truth, hole, valid & ~hole, "tangent", 2.0, lambda _share: None)
    assert scene is not None and taken_out(scene) is None
    result = detail.add_detail(
        flattened(truth, hole), truth, hole, valid, "tangent", 2.0, np.random.default_rng(0)
    )
    assert result[hole][:, :2].std() > 0.02
