"""The other half of a face: where the mirror image comes to lie, and when there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from synthetic import disc, sphere_normals, wavy_normals

from blender_normal_inpaint.core import symmetry
from blender_normal_inpaint.core.normals import angular_error, unit
from blender_normal_inpaint.core.symmetry import mirror_image

Floats = np.ndarray[Any, np.dtype[np.float32]]


def layout(size: int, down: float = 0.0, across: float = 0.0, lean: float = 0.0) -> Floats:
    """A symmetric face-like map, object space: bumps left and right of an axis, float32 (size, size, 3).

    Args:
        size: side.
        down: shift, in shares of the side.
        across: likewise; the axis is the middle otherwise.
        lean: turn of the axis in radians, counter-clockwise on screen.
    """
    y, x = np.mgrid[:size, :size] / size - 0.5
    y, x = y - down, x - across
    x, y = x * np.cos(lean) - y * np.sin(lean), x * np.sin(lean) + y * np.cos(lean)
    slopes_x, slopes_y = 2.0 * x, -1.2 * y
    for at_x, at_y, height, width in [
        (0.2, -0.12, 0.1, 0.08),
        (0, 0.05, 0.2, 0.06),
        (0.12, 0.22, -0.1, 0.07),
    ]:
        for side in {at_x, -at_x}:
            bump = height * np.exp(-(((x - side) ** 2 + (y - at_y) ** 2) / (2 * width**2))) / width**2
            slopes_x, slopes_y = slopes_x + bump * (x - side), slopes_y - bump * (y - at_y)
    return unit(np.stack([slopes_x, slopes_y, np.ones_like(x)], axis=-1).astype(np.float32))


@pytest.mark.parametrize(
    ("down", "across", "lean"), [(0, 0, 0), (0.05, -0.08, 0), (-0.02, 0.03, 0.12), (0, 0.05, -0.2)]
)
@pytest.mark.parametrize("size", [160, 128, 96])
def test_a_hidden_half_comes_from_the_other(size: int, down: float, across: float, lean: float) -> None:
    # In object space a turned layout leaves the vectors alone.
    truth = layout(size, down, across, lean)
    valid = np.ones((size, size), bool)
    hole = valid.copy()
    hole[:, : round(size * (0.45 + across))] = False
    hole[: size // 6] = hole[-size // 6 :] = False
    image, seen, _ = mirror_image(np.where(hole[..., None], np.float32(7), truth), hole, valid, "object")
    assert image.dtype == np.float32 and seen.dtype == np.bool_
    assert np.count_nonzero(seen & hole) > 0.5 * np.count_nonzero(hole)
    assert np.abs(np.linalg.norm(image[seen], axis=-1) - 1).max() < 1e-5 and not image[~seen].any()
    error = angular_error(image, truth)[hole & seen]
    assert np.median(error) < 3 and np.quantile(error, 0.9) < 12


@pytest.mark.parametrize("shape", [(509, 401), (160, 131), (37, 53)])
def test_any_size_has_its_axis(shape: tuple[int, int]) -> None:
    height, width = shape
    truth = layout(max(shape))[-height:, -width:]  # the axis is not the middle
    hole = disc(height, width, height * 0.4, width * 0.6, 0.12 * min(shape))
    image, seen, unlikeness = mirror_image(truth, hole, np.ones_like(hole), "object")
    assert image.shape == truth.shape and seen.shape == shape and unlikeness < 0.03
    assert seen[hole].mean() > 0.9 and np.median(angular_error(image, truth)[hole & seen]) < 3


def test_the_vectors_own_axes_may_be_turned() -> None:
    turn = 0.1
    cos, sin = np.cos(turn), np.sin(turn)
    rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], np.float32)
    truth = layout(160) @ rotation.T
    hole = disc(160, 160, 60, 112, 25)
    image, seen, _ = mirror_image(truth, hole, np.ones_like(hole), "object")
    assert seen[hole].all() and np.median(angular_error(image, truth)[hole]) < 3


def test_in_tangent_space_vectors_turn_with_the_picture() -> None:
    lean = 0.15
    truth = layout(160, lean=lean)
    x, y = truth[..., 0].copy(), truth[..., 1].copy()
    truth[..., 0] = np.cos(lean) * x - np.sin(lean) * y
    truth[..., 1] = np.sin(lean) * x + np.cos(lean) * y
    hole = disc(160, 160, 60, 112, 20)
    image, seen, _ = mirror_image(truth, hole, np.ones_like(hole), "tangent")
    assert seen[hole].mean() > 0.95 and np.median(angular_error(image, truth)[hole & seen]) < 3


def test_what_is_not_symmetric_has_no_mirror_image() -> None:
    rng = np.random.default_rng(0)
    skin = unit(
        np.concatenate([rng.normal(0, 0.3, (128, 128, 2)), np.ones((128, 128, 1))], -1).astype(np.float32)
    )
    hole = disc(128, 128, 64, 64, 20)
    image, seen, _ = mirror_image(skin, hole, np.ones_like(hole), "tangent")
    assert not seen.any() and not image.any()
    nothing_known = np.ones((64, 64), bool)
    _, seen, _ = mirror_image(wavy_normals(64, 64), nothing_known, nothing_known, "object")
    assert not seen.any()


def test_background_is_not_brought_over() -> None:
    truth, valid = sphere_normals(128, 128)
    hole = disc(128, 128, 60, 90, 15)
    image, seen, _ = mirror_image(truth, hole, valid, "object")
    assert seen[hole].all() and angular_error(image, truth)[hole].mean() < 4
    assert not seen[0, 0] and np.array_equal(seen, (image != 0).any(axis=-1))


@pytest.mark.parametrize("quarters", range(4))
def test_in_object_space_a_layout_tells_which_way_up_it_is(quarters: int) -> None:
    y, x = np.mgrid[-1:1:48j, -1:1:40j].astype(np.float32)
    normals = unit(np.stack([1.3 * x, -0.6 * y + 0.2 * np.sin(9 * x), np.ones_like(x)], axis=-1))
    known = np.hypot(x - 0.5, y) > 0.4
    turned = np.rot90(normals, quarters), np.rot90(known, quarters)
    assert symmetry.quarters(*turned) == quarters
    shuffled = np.random.default_rng(0).permutation(normals.reshape(-1, 3)).reshape(normals.shape)
    assert symmetry.quarters(np.rot90(shuffled, quarters), turned[1]) == 0
    assert symmetry.quarters(normals, np.zeros_like(known)) == 0
