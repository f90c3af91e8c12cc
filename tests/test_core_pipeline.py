from __future__ import annotations

import numpy as np
import pytest
from synthetic import FakeEngine, disc, sphere_normals, wavy_normals

from blender_normal_inpaint.core import normals, pipeline
from blender_normal_inpaint.core.errors import Cancelled, InpaintError
from blender_normal_inpaint.core.fill import LocalFiller
from blender_normal_inpaint.core.normals import Encoding, angular_error
from blender_normal_inpaint.core.pipeline import Options

DTYPES = [np.uint8, np.uint16, np.float16, np.float32]
SHAPE_ONLY = Options(detail=False)


def repair(pixels, mask, engine=None, **more):
    more.setdefault("options", SHAPE_ONLY)
    return pipeline.inpaint(pixels, mask, LocalFiller(engine or FakeEngine()), **more)


def code_of(pixels, mask, **more):
    before = pixels.copy()
    with pytest.raises(InpaintError) as caught:
        repair(pixels, mask, **more)
    assert caught.value.message.endswith(".") and caught.value.hint.endswith(".")
    assert np.array_equal(before, pixels, equal_nan=pixels.dtype.kind == "f")
    return caught.value.code


def noise_like(rng, shape, dtype):
    if np.dtype(dtype).kind == "u":
        return rng.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)
    return rng.random(shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize(
    "encoding", [Encoding(), Encoding("camera", "down"), Encoding("object", up_axis="z")]
)
def test_texels_outside_the_mask_keep_their_bits(dtype, channels, encoding):
    rng = np.random.default_rng(5)
    truth = wavy_normals(101, 143)
    pixels = np.concatenate(
        [normals.encode(truth, encoding, dtype), noise_like(rng, (101, 143, 1), dtype)], axis=-1
    )[..., :channels].copy()
    if channels == 4:
        pixels[..., 3][pixels[..., 3] == 0] = 1
    mask = disc(101, 143, 50, 60, 20) | disc(101, 143, 100, 142, 12)
    damaged = pixels.copy()
    damaged[mask, :3] = noise_like(rng, (int(mask.sum()), 3), dtype)
    before = damaged.copy()
    result = repair(damaged, mask, encoding=encoding)
    assert np.array_equal(damaged, before)
    assert result.pixels.dtype == pixels.dtype and result.pixels.shape == pixels.shape
    assert result.pixels[~mask].tobytes() == pixels[~mask].tobytes()
    if channels == 4:
        assert result.pixels[..., 3].tobytes() == pixels[..., 3].tobytes()
    assert np.array_equal(result.repaired, mask) and result.hole_texels == mask.sum()
    vectors = normals.decode_vectors(result.pixels, encoding)[mask]
    limit = 0.02 if dtype == np.uint8 else 0.003
    assert np.abs(np.linalg.norm(vectors, axis=-1) - 1).max() < limit
    assert angular_error(normals.decode(result.pixels, encoding)[mask], truth[mask]).mean() < 12


def test_damage_does_not_matter():
    truth = normals.encode(wavy_normals(90, 90), Encoding(), np.float32)
    mask = disc(90, 90, 40, 40, 18)
    results = []
    for value in (0.0, 0.5, 1.0, np.nan, np.inf):
        damaged = truth.copy()
        damaged[mask] = value
        results.append(repair(damaged, mask).pixels)
    assert all(np.array_equal(results[0], other) for other in results[1:])


def test_directx_gives_the_same_vectors():
    truth = wavy_normals(80, 80)
    mask = disc(80, 80, 40, 40, 15)
    up = repair(normals.encode(truth, Encoding(), np.float32), mask, encoding=Encoding())
    down_encoding = Encoding(y_axis="down")
    down = repair(normals.encode(truth, down_encoding, np.float32), mask, encoding=down_encoding)
    error = angular_error(normals.decode(up.pixels, Encoding()), normals.decode(down.pixels, down_encoding))
    assert error.max() < 0.01


def test_same_seed_same_texels_and_another_seed_other_pores():
    pixels = normals.encode(wavy_normals(300, 300, noise=0.12), Encoding(), np.uint8)
    mask = disc(300, 300, 150, 150, 60)
    first, again, other = (repair(pixels, mask, options=Options(seed=seed)).pixels for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert (first != other)[mask].any() and np.array_equal(first[~mask], other[~mask])


def bumps(side: int, wave: float, rng) -> np.ndarray:
    """A tangent-space map of bumps about so many texels long, float32 (side, side, 3)."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]) * wave
    spectrum = np.fft.rfft2(rng.normal(size=(side, side))) * ((frequency > 0.7) & (frequency < 1.4))
    up, right = np.gradient(np.fft.irfft2(spectrum, (side, side)))
    slopes = np.stack([-right, up], axis=-1) * (0.15 / right.std())
    return normals.unit(np.concatenate([slopes, np.ones((side, side, 1))], axis=-1).astype(np.float32))


@pytest.mark.parametrize("wave", [12, 32, 64])
def test_bumps_of_every_size_go_on_in_a_large_map(wave: int):
    """Neither the network, which sees a map of 128 texels, nor patches of native texels have them all."""
    side = 1536
    truth = bumps(side, wave, np.random.default_rng(wave))
    mask = disc(side, side, 700, 800, 330)
    pixels = truth * np.float32(0.5) + np.float32(0.5)
    result = repair(pixels, mask, options=Options(seed=2))
    filled = normals.unit(result.pixels * np.float32(2) - np.float32(1))
    deep = disc(side, side, 700, 800, 200)
    assert 0.7 < filled[deep][:, :2].std() / truth[deep][:, :2].std() < 1.2
    assert np.array_equal(result.pixels[~mask], pixels[~mask])


@pytest.mark.parametrize("shape", [(16, 16), (17, 400), (333, 64), (64, 64)])
def test_small_and_odd_sizes(shape: tuple[int, int]):
    pixels = normals.encode(wavy_normals(*shape), Encoding(), np.uint8)
    mask = disc(*shape, 0, shape[1] // 2, 6)
    result = repair(pixels, mask)
    assert np.array_equal(result.pixels[~mask], pixels[~mask])


def test_a_map_of_many_tiles(monkeypatch):
    monkeypatch.setattr("blender_normal_inpaint.core.regions.TILE", 120)
    monkeypatch.setattr("blender_normal_inpaint.core.regions.CROP", 200)
    monkeypatch.setattr("blender_normal_inpaint.core.regions.MARGIN", 24)
    truth, ball = sphere_normals(700, 640)
    encoding = Encoding("camera")
    pixels = normals.encode(truth, encoding, np.uint16)
    mask = disc(700, 640, 330, 310, 200)
    engine = FakeEngine()
    result = repair(pixels, mask, engine, encoding=encoding, valid=ball)
    assert result.regions >= 9
    assert len(engine.seen) == 1  # all tiles share their context
    assert np.array_equal(result.pixels[~mask], pixels[~mask])
    field = normals.decode(result.pixels, encoding)
    rows = angular_error(field[1:], field[:-1])
    columns = angular_error(field[:, 1:], field[:, :-1])
    inside = np.zeros(mask.shape, bool)
    inside[1:-1, 1:-1] = (mask & ball)[1:-1, 1:-1]
    # Across the edges of the tiles, too, no step that an eye could find.
    assert max(rows[inside[1:]].max(), columns[inside[:, 1:]].max()) < 3


def test_masks_of_another_size_are_resampled():
    pixels = normals.encode(wavy_normals(128, 256), Encoding(), np.uint8)
    small = disc(64, 128, 30, 60, 9)
    big = np.kron(small, np.ones((2, 2), bool))
    assert np.array_equal(repair(pixels, small).pixels, repair(pixels, big).pixels)
    assert np.array_equal(
        repair(pixels, np.kron(big, np.ones((3, 3), bool))).pixels, repair(pixels, big).pixels
    )


def test_dilate_grows_the_mask_by_so_many_texels():
    mask = np.zeros((40, 50), bool)
    mask[20, 10] = True
    for radius in (0, 1, 2, 3, 5, 9):
        grown = pipeline.dilate(mask, radius)
        expected = np.zeros_like(mask)
        expected[20 - radius : 21 + radius, 10 - radius : 11 + radius] = True
        assert np.array_equal(grown, expected)
    pixels = normals.encode(wavy_normals(40, 50), Encoding(), np.uint8)
    assert repair(pixels, mask, options=Options(dilate=3, detail=False)).hole_texels == 49


def test_black_grey_and_transparent_texels_are_no_surface():
    truth, ball = sphere_normals(160, 160)
    encoding = Encoding("camera")
    mask = disc(160, 160, 80, 80, 25)
    explicit = repair(normals.encode(truth, encoding, np.uint8), mask, encoding=encoding, valid=ball)
    assert explicit.notices == []
    for background in (0, 127, 128):
        pixels = normals.encode(truth, encoding, np.uint8)
        pixels[~ball] = background
        result = repair(pixels, mask, encoding=encoding)
        assert np.array_equal(result.pixels[mask], explicit.pixels[mask])
        assert len(result.notices) == 1 and str(int((~ball).sum())) in result.notices[0]
    clear = np.dstack([normals.encode(truth, encoding, np.uint8), np.where(ball, 255, 0).astype(np.uint8)])
    assert np.array_equal(repair(clear, mask, encoding=encoding).pixels[mask, :3], explicit.pixels[mask])


def test_the_valid_mask_limits_what_is_repaired():
    truth, ball = sphere_normals(160, 160)
    pixels = normals.encode(truth, Encoding("camera"), np.uint8)
    mask = disc(160, 160, 20, 80, 40)
    result = repair(pixels, mask, encoding=Encoding("camera"), valid=ball)
    assert np.array_equal(result.repaired, mask & ball)
    assert np.array_equal(result.pixels[~(mask & ball)], pixels[~(mask & ball)])


# Two-channel maps ----------------------------------------------------------------------------------------


def test_two_channel_maps_are_rebuilt():
    truth = wavy_normals(96, 96, noise=0)
    encoding = Encoding(two_channel=True)
    full = normals.encode(truth, encoding, np.uint16)
    mask = disc(96, 96, 48, 48, 18)
    rebuilt = repair(full, mask, encoding=encoding).pixels
    bare = repair(np.ascontiguousarray(full[..., :2]), mask)
    assert bare.pixels.shape[2] == 2 and "two channels" in bare.notices[0]
    assert np.array_equal(bare.pixels, rebuilt[..., :2])
    for blue in (0, 65535, 32768):
        flat = full.copy()
        flat[..., 2] = blue
        flat[mask] = 777
        got = repair(flat, mask, encoding=encoding).pixels
        assert np.array_equal(got[..., :2], rebuilt[..., :2])
        assert (got[..., 2] == blue).all()
    z = normals.to_float(rebuilt[mask])[:, 2] * 2 - 1
    xy = normals.to_float(rebuilt[mask])[:, :2] * 2 - 1
    assert np.allclose(z, np.sqrt(1 - (xy**2).sum(axis=-1)), atol=1e-3)


# Bad input -----------------------------------------------------------------------------------------------


def good(dtype=np.uint8, shape=(64, 64)):
    return normals.encode(wavy_normals(*shape), Encoding(), dtype)


MASK = disc(64, 64, 30, 30, 8)


def test_masks_that_make_no_sense():
    assert code_of(good(), np.zeros((64, 64), bool)) == "mask_empty"
    assert code_of(good(), np.ones((64, 64), bool)) == "mask_full"
    assert code_of(good(), MASK, valid=MASK) == "mask_full"
    assert code_of(good(), MASK, valid=~MASK) == "mask_empty"
    assert code_of(good(), np.ones((64, 65), bool)) == "mask_full"  # within a percent or two: a rounding
    assert code_of(good(), np.ones((64, 80), bool)) == "size_mismatch"
    assert code_of(good(), MASK, valid=np.ones((10, 64), bool)) == "size_mismatch"
    assert code_of(good(), MASK.astype(np.uint8)) == "internal"


def test_maps_that_make_no_sense():
    assert code_of(good(shape=(15, 200)), np.ones((15, 200), bool)) == "bad_size"
    huge = np.broadcast_to(np.uint8(0), (16, 20000, 3))
    assert code_of(huge, np.ones((16, 20000), bool)) == "bad_size"
    assert code_of(good()[..., :1], MASK) == "unsupported_format"
    assert code_of(good().astype(np.float64), MASK) == "unsupported_format"
    assert code_of(good()[..., 0], MASK) == "unsupported_format"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_outside_the_mask(value):
    pixels = good(np.float32)
    pixels[5, 60, 1] = value
    assert code_of(pixels, MASK) == "not_finite"
    valid = np.ones((64, 64), bool)
    assert code_of(pixels, MASK, valid=valid) == "not_finite"
    valid[5, 60] = False
    assert np.isfinite(repair(pixels, MASK, valid=valid).pixels[MASK]).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_length_inside_the_valid_area(dtype):
    pixels = good(dtype)
    pixels[5, 60] = normals.from_float(np.full(3, 0.5), dtype)
    assert code_of(pixels, MASK, valid=np.ones((64, 64), bool)) == "zero_length"
    assert len(repair(pixels, MASK).notices) == 1


def test_nothing_but_background_and_mask_is_no_context():
    pixels = good()
    pixels[~MASK] = 0
    assert code_of(pixels, MASK) == "no_context"


def test_a_hole_far_from_all_surface_still_finds_its_context():
    truth = wavy_normals(1500, 1500, noise=0)
    pixels = normals.encode(truth, Encoding(), np.uint8)
    valid = np.zeros((1500, 1500), bool)
    valid[:40] = True
    hole = disc(1500, 1500, 1400, 1400, 30)
    result = repair(pixels, hole, valid=valid | hole)
    assert result.hole_texels == hole.sum()


# The filler ----------------------------------------------------------------------------------------------


class Answers:
    def __init__(self, make):
        self.make = make

    def fill(self, crop, *, progress, cancel):
        return self.make(crop)


@pytest.mark.parametrize(
    "make",
    [
        lambda crop: crop.normals[:-1],
        lambda crop: crop.normals * 2,
        lambda crop: np.full_like(crop.normals, np.nan),
        lambda crop: None,
        lambda crop: np.zeros_like(crop.normals),
    ],
)
def test_a_bad_answer_of_the_filler_is_caught(make):
    with pytest.raises(InpaintError) as caught:
        pipeline.inpaint(good(), MASK, Answers(make))
    assert caught.value.code == "bad_result"


def test_known_texels_reach_the_filler_decoded_and_the_rest_finite():
    crops = []

    def keep(crop):
        crops.append(crop)
        return crop.normals

    pixels = good(np.float32)
    pixels[MASK] = np.nan
    pipeline.inpaint(pixels, MASK, Answers(keep), encoding=Encoding())
    (crop,) = crops
    assert np.isfinite(crop.normals).all() and crop.normals.dtype == np.float32
    known = crop.valid & ~crop.hole
    expected = normals.decode(np.nan_to_num(pixels, nan=0.5), Encoding())
    assert np.array_equal(crop.normals[known], expected[known])


def test_progress_rises_from_zero_to_one():
    seen = []
    far = disc(1400, 1400, 200, 200, 30) | disc(1400, 1400, 1200, 1200, 30)
    repair(good(shape=(1400, 1400)), far, progress=lambda fraction, text: seen.append((fraction, text)))
    fractions = [fraction for fraction, _ in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0 and fractions[0] < 0.2
    assert all(text for _, text in seen)


def test_cancel_leaves_the_input_alone():
    pixels = good()
    before = pixels.copy()
    with pytest.raises(Cancelled):
        repair(pixels, MASK, cancel=lambda: True)
    assert np.array_equal(pixels, before)


def test_overwriting_gives_the_same_result():
    shape = (3000, 3000)
    pixels = normals.encode(wavy_normals(*shape), Encoding(), np.uint16)
    far = disc(*shape, 1500, 1500, 1100) | disc(*shape, 80, 60, 30)  # several tiles, one context
    pixels[far] = noise_like(np.random.default_rng(2), (int(far.sum()), 3), np.uint16)
    apart = repair(pixels, far)
    assert apart.regions > 2 and not np.shares_memory(apart.pixels, pixels)
    written = pixels.copy()
    result = repair(written, far, overwrite=True)
    assert result.pixels is written and written.tobytes() == apart.pixels.tobytes()
    # What may not be written is copied.
    pixels.flags.writeable = False
    assert repair(pixels, far, overwrite=True).pixels.tobytes() == apart.pixels.tobytes()
