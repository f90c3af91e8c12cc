"""Detail that the other half of a UV layout shows: where it lies, where it counts, what seeds change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from synthetic import FakeEngine, disc

from blender_normal_inpaint.core import symmetry
from blender_normal_inpaint.core.bands import split
from blender_normal_inpaint.core.detail import add_detail
from blender_normal_inpaint.core.engine import Crop, Wide
from blender_normal_inpaint.core.fill import LocalFiller
from blender_normal_inpaint.core.normals import Encoding, encode, unit
from blender_normal_inpaint.core.otherhalf import around, of_layout
from blender_normal_inpaint.core.pipeline import Options, inpaint
from blender_normal_inpaint.core.regions import Box, Region
from blender_normal_inpaint.core.resample import block_sum
from blender_normal_inpaint.core.source import Source
from blender_normal_inpaint.core.twin import twin_of

Floats = np.ndarray[Any, np.dtype[np.float32]]

#: Where the brow of `face` lies on the map's left, in shares of the side, and how long and high it is.
BROW, LONG, HIGH = (0.4, 0.3), 0.09, 0.04


def face(size: int, pores: float = 0.05, across: int = 0) -> Floats:
    """A layout in tangent space: broad forms and ridged brows on both sides, pores of each side's own.

    Args:
        size: side.
        pores: how strong they are.
        across: texels by which the axis is moved to the right.
    """
    y, x = (np.mgrid[:size, :size] + 0.5) / size - 0.5
    x = x - across / size
    slopes_x, slopes_y = 0.3 * np.sin(9 * x) * np.cos(5 * y), 0.2 * np.cos(7 * x) * np.sin(6 * y)
    # Halves whose forms are as unlike as those of a scan, or the other half would be more than detail.
    rng = np.random.default_rng(1)
    own = ndimage.zoom(rng.normal(0, 0.07, (2, 16, 16)), (1, size / 16, size / 16), order=3)
    slopes_x, slopes_y = slopes_x + own[0], slopes_y + own[1]
    down, right = y + 0.5 - BROW[0], np.abs(x) + BROW[1] - 0.5
    ridges = 0.5 * np.exp(-((right / LONG) ** 2) - (down / HIGH) ** 2)
    # And creases beside the mouth, which tell where exactly the axis lies.
    ridges = ridges + 0.3 * np.exp(-(((np.abs(x) - 0.15) / 0.05) ** 2) - ((y - 0.35) / 0.03) ** 2)
    wave = np.sin(2 * np.pi * size * (down + 0.6 * right) / 7)
    slopes_x = slopes_x - 0.5 * np.sign(x) * ridges * wave
    slopes_y = slopes_y + 0.8 * ridges * wave
    noise = rng.normal(0, pores, (2, size, size))
    return unit(np.stack([slopes_x + noise[0], slopes_y + noise[1], np.ones_like(x)], -1).astype(np.float32))


def fine(field: Floats, where: Any) -> Floats:
    """The fine detail of a map at some texels: what their x and y differ from their neighbours'."""
    around = sum(np.roll(field, by, axis) for axis in (0, 1) for by in (-2, 2))
    detail: Floats = (field - around / 4)[where][:, :2]
    return detail


def alike(result: Floats, truth: Floats, where: Any) -> float:
    """The correlation of the fine detail of two maps."""
    first, second = fine(result, where), fine(truth, where)
    return float((first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum()))


def repaired(truth: Floats, hole: Any, space: str = "tangent", **options: Any) -> Floats:
    pixels = encode(truth, Encoding(space), np.dtype(np.float32))
    result = inpaint(
        pixels,
        hole,
        LocalFiller(FakeEngine()),
        encoding=Encoding(space),
        valid=np.ones_like(hole),
        options=Options(**options),
    )
    assert np.array_equal(result.pixels[~hole], pixels[~hole])
    return np.asarray(result.pixels[..., :3] * 2 - 1, np.float32)


@pytest.mark.parametrize(("size", "across"), [(512, 0), (512, 24), (1536, 0)])
def test_a_hidden_brow_comes_from_the_other_half(size: int, across: int) -> None:
    """The largest map is seen by blocks first, as are all of which a large part is hidden."""
    truth = face(size, across=across)
    middle = BROW[0] * size, BROW[1] * size + across
    hole = disc(size, size, *middle, 0.15 * size)
    brow = disc(size, size, *middle, 0.04 * size)
    with_it, without = repaired(truth, hole), repaired(truth, hole, symmetry=False)
    assert alike(with_it, truth, brow) > 0.85
    assert abs(alike(without, truth, brow)) < 0.3
    # As strong as it is there: what is seen by blocks first does not count twice.
    assert abs(fine(with_it, brow).std() / fine(truth, brow).std() - 1) < 0.1
    assert np.abs(np.linalg.norm(with_it[hole], axis=-1) - 1).max() < 1e-3


def test_seeds_change_pores_and_leave_features() -> None:
    size = 512
    truth = face(size)
    hole = disc(size, size, BROW[0] * size, BROW[1] * size, 110)
    brow = disc(size, size, BROW[0] * size, BROW[1] * size, 14)
    calm = hole & disc(size, size, BROW[0] * size + 75, BROW[1] * size, 25)
    first, again, other, third = (repaired(truth, hole, seed=seed) for seed in (0, 0, 1, 2))
    assert np.array_equal(first, again)
    assert alike(first, first[:, ::-1] * np.array([-1, 1, 1], np.float32), calm) > 0.8
    for one, two in ((first, other), (other, third)):
        assert abs(alike(one, two, calm)) < 0.3
    for result in (other, third):
        assert alike(result, truth, brow) > 0.8


def test_detail_and_symmetry_can_be_turned_off_and_camera_space_has_no_layout() -> None:
    size = 256
    truth = face(size)
    hole = disc(size, size, BROW[0] * size, BROW[1] * size, 40)
    seen: list[Crop] = []

    class Spy(LocalFiller):
        def fill(self, crop: Crop, **more: Any) -> Floats:
            seen.append(crop)
            return super().fill(crop, **more)

    for space, more, there in (
        ("tangent", {}, True),
        ("tangent", {"seed": 3}, True),
        ("tangent", {"detail": False}, False),
        ("tangent", {"symmetry": False}, False),
        ("camera", {}, False),
    ):
        encoding = Encoding(space)
        assert not seen
        pixels = encode(truth, encoding, np.dtype(np.uint16))
        filler = Spy(FakeEngine())
        inpaint(pixels, hole, filler, encoding=encoding, valid=np.ones_like(hole), options=Options(**more))
        crop = seen.pop()
        assert (crop.twin is not None) == there
        assert crop.pores == (more.get("seed", 0) == 0)
        if crop.twin is not None:
            shown = crop.twin[hole]
            assert shown.any(axis=-1).all()
            assert np.abs(np.linalg.norm(shown, axis=-1) - 1).max() < 1e-5


@pytest.mark.parametrize("shape", [(256, 256), (301, 259), (256, 1100)])
@pytest.mark.parametrize("step", [1, 4])
def test_boxes_of_the_other_half_lie_where_they_should(shape: tuple[int, int], step: int) -> None:
    height, width = shape
    truth = face(max(shape), pores=0.02)[:height, (max(shape) - width) // 2 :][:, :width]
    truth = np.concatenate(
        [truth[:, : width - width // 2], truth[:, : width // 2][:, ::-1] * np.array([-1, 1, 1], np.float32)],
        1,
    )
    hole = np.zeros(shape, bool)
    hole[60:90, 40:80] = True
    source = Source(Encoding(), encode(truth, Encoding(), np.dtype("f4")), hole, np.ones(shape, bool))
    half = of_layout(source, ())
    # What lies in the box is hidden, but its mirror image is not; at the map's edge it is cut off.
    for top, left, tall, broad in ((50, 30, 52, 60), (0, 0, 40, 44), (height - 33, width - 47, 33, 47)):
        box = Box(top, top + tall, left, left + broad)
        shown = half.coarse(box, step)
        assert shown is not None and shown.dtype == np.float32
        expected = block_sum(truth[box.slices], step)
        there = shown.any(axis=-1)
        assert there.mean() > 0.9
        # Odd sizes and steps do not lie on each other: their blocks are half a texel off, at most.
        whole = step == 1 or width % step == 0
        apart = np.abs(shown - expected / np.linalg.norm(expected, axis=-1, keepdims=True))[there]
        assert np.quantile(apart, 0.99) < (2e-3 if whole else 0.06)
    # The mirror image of what is hidden tells nothing.
    mirrored = Box(60, 90, width - 80, width - 40)
    nothing = half.coarse(mirrored, step)
    assert nothing is not None and not nothing[3 // step + 1 : -4, 3 // step + 1 : -4].any()
    region = Region(Box(60, 90, 40, 80), Box(0, 240, 0, 250), Box(0, 240, 0, 250), 1)
    crop = around(half, source, region)
    assert crop is not None and crop.shape == (240, 250, 3)
    assert crop[60:90, 40:80].any(axis=-1).all() and not crop[-40:].any()


def test_it_counts_deep_inside_alone() -> None:
    size = 400
    truth = face(size)
    image = np.ascontiguousarray(truth[:, ::-1]) * np.array([-1, 1, 1], np.float32)
    image[196:212] = 0
    hole = disc(size, size, 160, 120, 80)
    hole[300:304, 50:350] = True
    base = np.where(hole[..., None], np.array([0, 0, 1], np.float32), truth)
    scene = split(base, truth, hole, ~hole, "tangent", 1.0, lambda share: None)
    assert scene is not None
    twin = twin_of(scene, image, True)
    assert twin is not None and twin.share.min() >= 0 and twin.share.max() <= 1
    top, left = scene.origin
    share = twin.share[-top : size - top, -left : size - left]
    assert not share[~hole].any() and not share[196:212].any()
    assert share[110, 120] > 0.95 and share[300:304].max() < 0.2
    assert share[214, 120] < 0.4 and share[81, 120] < 0.45
    assert twin_of(scene, np.zeros_like(image), True) is None
    features = twin_of(scene, image, False)
    assert features is not None
    share = features.share[-top : size - top, -left : size - left]
    assert share[150:170, 110:130].min() > 0.9
    assert share[100:115, 110:130].max() < 0.2


def test_crops_travel_with_their_other_half() -> None:
    normals = np.zeros((4, 5, 3), np.float32)
    hole = np.zeros((4, 5), bool)
    wide = Wide(normals, hole, ~hole, 2, 0, 0, twin=normals + 1, head=np.arange(20.0))
    for crop in (
        Crop(normals, hole, ~hole, twin=normals + 2, wide=wide, pores=False),
        Crop(normals, hole, ~hole),
    ):
        again = Crop.from_parts(crop.arrays(), crop.fields())
        assert again.pores == crop.pores
        assert crop.arrays().keys() == again.arrays().keys()
        for name, array in crop.arrays().items():
            assert np.array_equal(again.arrays()[name], array)


def test_a_map_that_is_no_layout_has_no_other_half() -> None:
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 0.3, (256, 256, 2))
    skin = unit(np.concatenate([noise, np.ones((256, 256, 1))], -1).astype(np.float32))
    hole = disc(256, 256, 128, 100, 40)
    source = Source(Encoding(), encode(skin, Encoding(), np.dtype("f4")), hole, ~hole | hole)
    assert of_layout(source, ()).of(Box(0, 64, 0, 64)) is None


def test_an_upright_axis_lies_between_whole_texels() -> None:
    """Else all that comes over is blurred; and pores do not lead it beside the map's middle."""
    rng = np.random.default_rng(0)
    for size in (256, 320, 500):
        truth = face(size, pores=0.2)
        hole = disc(size, size, BROW[0] * size, BROW[1] * size, 0.15 * size)
        mirror = symmetry.find(truth, hole, np.ones_like(hole), "tangent")
        assert mirror is not None and mirror.turn == 0 and mirror.down == 0
        _, columns = mirror.sources(
            rng.uniform(0, size, 9).astype(np.float32), np.arange(9, dtype=np.float32)
        )
        assert np.abs(columns - (size - 1 - np.arange(9))).max() < 1e-3
    truth = np.roll(face(320, pores=0.1), (5, 37), (0, 1))
    mirror = symmetry.find(truth, np.zeros((320, 320), bool), np.ones((320, 320), bool), "tangent")
    assert mirror is not None and abs(mirror.across - 74) < 3 and mirror.across == round(mirror.across)


def test_what_the_base_has_of_it_does_not_count_twice() -> None:
    size = 400
    truth = face(size)
    image = np.ascontiguousarray(truth[:, ::-1]) * np.array([-1, 1, 1], np.float32)
    hole = disc(size, size, BROW[0] * size, BROW[1] * size, 90)
    brow = disc(size, size, BROW[0] * size, BROW[1] * size, 20)
    soft = np.stack([ndimage.gaussian_filter(image[..., i], 8) for i in range(3)], -1)
    base = np.where(hole[..., None], unit((image + soft).astype(np.float32)), truth)
    rng = np.random.default_rng(0)
    for space in ("tangent", "camera"):
        result = add_detail(base, truth, hole, ~hole | hole, space, 2.0, rng, twin=image)
        assert alike(result, image, brow) > 0.97
        assert abs(fine(result, brow).std() / fine(image, brow).std() - 1) < 0.1
