"""What the other half of a head in camera space shows of a map, at the map's own resolution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates
from synthetic import FakeEngine, disc

from blender_normal_inpaint.core import fill, morphable
from blender_normal_inpaint.core.fill import LocalFiller
from blender_normal_inpaint.core.harmonic import grow
from blender_normal_inpaint.core.head import Head, View
from blender_normal_inpaint.core.normals import Encoding, angular_error, decode_vectors, encode, unit
from blender_normal_inpaint.core.otherhalf import HeadHalf, around
from blender_normal_inpaint.core.pipeline import Options, inpaint
from blender_normal_inpaint.core.regions import Box, Region
from blender_normal_inpaint.core.resample import cubic, enlarge
from blender_normal_inpaint.core.source import Source

Floats = np.ndarray[Any, np.dtype[np.float32]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]

SIZE, STEP = 1024, 2
CAMERA, WHOLE = Encoding("camera"), Box(0, SIZE, 0, SIZE)

#: A brow, in centimetres of a head: its middle on the head's left, how wide and high.
BROW, WIDE, HIGH = (2.6, 4.4), 1.4, 0.7


def surface(head: Head) -> tuple[np.ndarray[Any, np.dtype[np.intp]], Floats]:
    """The texels that show a head, and which points of it."""
    picture = head._picture
    corners = picture.vertices[head.family.triangles[picture.triangles]]
    return picture.texels, np.einsum("pk,pkx->px", picture.weights, corners)


@pytest.fixture(scope="module")
def seen() -> tuple[Floats, Bools, Head]:
    """A head that looks aside, with ridged brows on both sides, each the other's mirror image, and pores."""
    rng = np.random.default_rng(8)
    family = morphable.families(morphable.default_path())[0]
    turn = morphable._turn(1, 0.2) @ morphable._turn(0, 0.05)
    view = View(turn, SIZE / 27, SIZE / 2, 0.52 * SIZE, 0.012, rng.normal(0, 0.5, family.lids.size))
    head = Head(family, view, (SIZE, SIZE), 0.0)
    texels, points = surface(head)
    x, y = points[:, 0], points[:, 1]
    strength = 0.5 * np.exp(-(((np.abs(x) - BROW[0]) / WIDE) ** 2) - ((y - BROW[1]) / HIGH) ** 2)
    wave = np.cos(2 * np.pi * (y + 0.5 * np.abs(x)) / 0.35) * strength
    slopes = np.stack([0.5 * np.sign(x) * wave, wave, 0 * wave], axis=-1).astype(np.float32)
    truth = np.zeros((SIZE, SIZE, 3), np.float32)
    truth.reshape(-1, 3)[texels] = head._picture.normals - view.seen(slopes)
    valid: Bools = np.asarray(truth.any(axis=-1))
    pores = gaussian_filter(rng.normal(0, 0.06, (SIZE, SIZE, 2)), (1, 1, 0)).astype(np.float32)
    truth[..., :2] += pores * valid[..., None]
    return np.where(valid[..., None], unit(truth), np.float32(0)), valid, head


def at(head: Head, side: int) -> tuple[int, int]:
    """Row and column of a brow's middle, on the head's left (1) or right (-1)."""
    texels, points = surface(head)
    nearest = np.argmin(np.hypot(points[:, 0] - side * BROW[0], points[:, 1] - BROW[1]))
    row, column = divmod(int(texels[nearest]), SIZE)
    return row, column


def fine(field: Floats, where: Bools) -> Floats:
    smooth = np.stack([gaussian_filter(field[..., i], 8) for i in range(3)], axis=-1)
    return np.asarray((field - smooth)[where], np.float32)


def alike(first: Floats, second: Floats, where: Bools) -> float:
    """The correlation of the fine detail of two maps."""
    one, two = fine(first, where), fine(second, where)
    return float((one * two).sum() / np.sqrt((one**2).sum() * (two**2).sum()))


def half_of(truth: Floats, hole: Bools, valid: Bools) -> tuple[HeadHalf, Source]:
    source = Source(CAMERA, encode(truth, CAMERA, np.dtype("f4")), hole, valid)
    return HeadHalf(source, WHOLE, STEP, *source.averaged(WHOLE, STEP)), source


@pytest.mark.parametrize("side", [1, -1])
def test_a_hidden_brow_is_looked_up_where_the_other_one_is(
    seen: tuple[Floats, Bools, Head], side: int
) -> None:
    truth, valid, head = seen
    row, column = at(head, side)
    hole = disc(SIZE, SIZE, row, column, 75) & valid
    half, source = half_of(np.where(hole[..., None], np.float32(0.7), truth), hole, valid)
    assert half.head is not None and half.coarse(WHOLE, STEP) is not None
    box = Box(row - 120, row + 130, column - 110, column + 125)
    shown = half.of(box)
    assert shown is not None and shown.shape == (250, 235, 3) and shown.dtype == np.float32
    there = shown.any(axis=-1)
    assert np.abs(np.linalg.norm(shown[there], axis=-1) - 1).max() < 1e-5
    brow = disc(SIZE, SIZE, row, column, 30)[box.slices] & there
    assert brow.sum() > 0.95 * np.count_nonzero(disc(SIZE, SIZE, row, column, 30) & valid)
    assert alike(shown, truth[box.slices], brow) > 0.8
    # As sharp as it is there.
    assert 0.85 < fine(shown, brow).std() / fine(truth[box.slices], brow).std() < 1.15
    # A crop has it near its tile alone.
    tile = Box(row - 75, row + 76, column - 75, column + 76)
    region = Region(tile, WHOLE, WHOLE, STEP)
    crop = around(half, source, region)
    assert crop is not None and crop.shape == truth.shape and not crop[: row - 200].any()
    assert crop[hole].any(axis=-1).mean() > 0.9


def test_what_is_hidden_on_both_sides_is_not_shown(seen: tuple[Floats, Bools, Head]) -> None:
    truth, valid, head = seen
    both = [disc(SIZE, SIZE, *at(head, side), 75) & valid for side in (1, -1)]
    half, _ = half_of(truth, both[0] | both[1], valid)
    row, column = at(head, 1)
    shown = half.of(Box(row - 30, row + 30, column - 30, column + 30))
    assert shown is None or not shown.any()


def test_what_no_head_fits_has_no_other_half() -> None:
    rng = np.random.default_rng(0)
    heights = gaussian_filter(rng.normal(size=(SIZE, SIZE)), 60, mode="wrap")
    down, right = np.gradient(40 * heights / heights.std())
    truth = unit(np.stack([-right, down, np.ones_like(right)], axis=-1).astype(np.float32))
    hole = disc(SIZE, SIZE, 400, 400, 80)
    half, _ = half_of(truth, hole, np.ones_like(hole))
    assert half.coarse(WHOLE, STEP) is None and half.of(Box(300, 500, 300, 500)) is None


def test_the_repair_has_the_other_brow_and_the_head_is_fitted_once(
    seen: tuple[Floats, Bools, Head], monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, valid, head = seen
    row, column = at(head, 1)
    hole = disc(SIZE, SIZE, row, column, 75) & valid
    brow = disc(SIZE, SIZE, row, column, 30)
    pixels = encode(truth, CAMERA, np.dtype(np.uint16))

    def repaired(**options: Any) -> Floats:
        filler = LocalFiller(FakeEngine())
        result = inpaint(
            pixels, hole, filler, encoding=CAMERA, valid=valid, options=Options(**options)
        ).pixels
        assert np.array_equal(result[~hole], pixels[~hole])
        return np.asarray(result[..., :3] / np.float32(32767.5) - 1, np.float32)

    without = repaired(symmetry=False)
    assert abs(alike(without, truth, brow)) < 0.3
    monkeypatch.setattr(fill, "fitted", lambda *_: pytest.fail("the pipeline has fitted it"))
    first, again, other = (repaired(seed=seed) for seed in (0, 0, 3))
    assert np.array_equal(first, again)
    for result in (first, other):
        assert alike(result, truth, brow) > 0.7
        assert 0.75 < fine(result, brow).std() / fine(truth, brow).std() < 1.25
    calm = hole & ~disc(SIZE, SIZE, row, column, 60)
    assert 0.003 < np.abs(first - other)[calm].mean() < 0.1


def test_a_noses_edge_is_sharp_at_the_maps_own_size(
    seen: tuple[Floats, Bools, Head], monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, valid, head = seen
    soft = head.drawn(valid).means
    edge = (np.linalg.norm(soft, axis=-1) < 0.85) & valid & ~grow(~valid, 40)
    texels, points = surface(head)
    tip = np.divmod(texels[np.argmax(points[:, 2])], SIZE)
    places = np.argwhere(edge)
    row, column = places[np.argmin(np.linalg.norm(places - np.array(tip), axis=1))].tolist()
    hole = disc(SIZE, SIZE, row, column, 60) & valid
    near = grow(edge, 2) & hole
    assert np.count_nonzero(near) > 100
    pixels = encode(truth, CAMERA, np.dtype(np.uint16))

    def error() -> float:
        options = Options(symmetry=False, detail=False)
        filler = LocalFiller(FakeEngine())
        result = inpaint(pixels, hole, filler, encoding=CAMERA, valid=valid, options=options).pixels
        return float(angular_error(decode_vectors(result, CAMERA), truth)[near].mean())

    sharp = error()
    monkeypatch.setattr(fill, "sharpen", lambda *_: None)
    blurred = error()
    assert sharp < 0.9 * blurred, (sharp, blurred)


def test_sampling_by_cubics_is_that_of_a_grid() -> None:
    rng = np.random.default_rng(0)
    field = rng.normal(size=(20, 31, 3)).astype(np.float32)
    rows, columns = np.linspace(-1, 20.5, 40), np.linspace(-0.7, 31, 50)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    found = cubic(field, y.reshape(-1).astype(np.float32), x.reshape(-1).astype(np.float32))
    expected = enlarge(field, rows, columns)
    assert np.allclose(found.reshape(40, 50, 3), np.moveaxis(expected, 0, -1), atol=1e-4)
    # And sharper than linear interpolation between texels.
    wave = np.cos(np.arange(64) * 2 * np.pi / 5).astype(np.float32)[None, :, None].repeat(8, 0)
    places = np.arange(10, 50, dtype=np.float32) + np.float32(0.5)
    middle = np.full_like(places, 4)
    true = np.cos(places * 2 * np.pi / 5)
    linear = map_coordinates(wave[..., 0], [middle, places], order=1)
    assert np.abs(cubic(wave, middle, places)[:, 0] - true).max() < 0.6 * np.abs(linear - true).max()
