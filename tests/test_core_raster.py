"""Seeing a mesh: against a look at every triangle from every texel."""

from __future__ import annotations

import numpy as np

from blender_normal_inpaint.core.raster import rasterize


def slow(places, depth, triangles, shape):
    """The nearest facing triangle and its weights at each texel, one by one."""
    found: dict[int, tuple] = {}
    for row in range(shape[0]):
        for column in range(shape[1]):
            for number, (i, j, k) in enumerate(triangles):
                matrix = np.stack([np.append(places[v], 1) for v in (i, j, k)], axis=1).astype(np.float64)
                if np.linalg.det(matrix) >= -1e-9:  # rows run downwards
                    continue
                weights = np.linalg.solve(matrix, [column, row, 1])
                z = weights @ depth[[i, j, k]]
                texel = row * shape[1] + column
                if weights.min() > -1e-4 and (texel not in found or z > found[texel][2] + 1e-6):
                    found[texel] = (number, weights, z)
    return found


def test_it_sees_what_a_look_at_every_triangle_sees():
    rng = np.random.default_rng(3)
    places = rng.uniform(-4, 22, (40, 2)).astype(np.float32)
    depth = rng.uniform(-5, 5, 40).astype(np.float32)
    triangles = np.stack([rng.choice(40, 3, replace=False) for _ in range(30)]).astype(np.int32)
    shape = (14, 17)
    texels, numbers, weights = rasterize(places, depth, triangles, shape)
    expected = slow(places, depth, triangles, shape)
    assert (np.diff(texels) > 0).all() and set(texels.tolist()) == set(expected)
    assert 100 < len(expected) < 14 * 17
    for texel, number, found in zip(texels, numbers, weights, strict=True):
        assert number == expected[texel][0]
        assert np.allclose(found, expected[texel][1], atol=2e-3)


def test_where_it_is_asked_for_it_sees_the_same():
    rng = np.random.default_rng(5)
    places = rng.uniform(-4, 44, (90, 2)).astype(np.float32)
    depth = rng.uniform(-5, 5, 90).astype(np.float32)
    triangles = np.stack([rng.choice(90, 3, replace=False) for _ in range(60)]).astype(np.int32)
    wanted = np.zeros((31, 40), np.bool_)
    wanted[3:9, 10:30], wanted[20, 5], wanted[30, 39] = True, True, True
    everywhere = rasterize(places, depth, triangles, wanted.shape)
    there = wanted.reshape(-1)[everywhere[0]]
    asked = rasterize(places, depth, triangles, wanted.shape, wanted)
    assert 100 < asked[0].size < np.count_nonzero(wanted) + 1
    assert all(np.array_equal(asked[k], everywhere[k][there]) for k in range(3))
    assert rasterize(places, depth, triangles, wanted.shape, np.zeros_like(wanted))[0].size == 0


def test_a_triangle_that_looks_away_is_not_seen():
    places = np.array([[0, 9], [9, 9], [0, 0]], np.float32)  # to the right and up, on screen
    depth = np.zeros(3, np.float32)
    facing, away = np.array([[0, 1, 2]], np.int32), np.array([[0, 2, 1]], np.int32)
    assert rasterize(places, depth, facing, (10, 10))[0].size > 40
    assert rasterize(places, depth, away, (10, 10))[0].size == 0


def test_outside_of_the_picture_nothing_is_seen():
    places = np.array([[-50, -10], [-10, -10], [-50, -50]], np.float32)
    texels, numbers, weights = rasterize(
        places, np.zeros(3, np.float32), np.array([[0, 1, 2]], np.int32), (8, 8)
    )
    assert texels.size == numbers.size == 0 and weights.shape == (0, 3)
