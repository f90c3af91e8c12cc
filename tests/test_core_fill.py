from __future__ import annotations

import numpy as np
import pytest
from synthetic import FakeEngine, disc, head, sphere_normals, wavy_normals, with_twin

from blender_normal_inpaint.core import fill, resample
from blender_normal_inpaint.core.engine import Crop, Wide
from blender_normal_inpaint.core.errors import Cancelled, InpaintError
from blender_normal_inpaint.core.guess import first_guess
from blender_normal_inpaint.core.normals import angular_error, mirror, unit
from blender_normal_inpaint.core.relief import other_side


def crop_of(normals, hole, valid=None, **more):
    valid = np.ones(hole.shape, bool) if valid is None else valid
    return Crop(normals.copy(), hole, valid, **{"detail": False, **more})


def steps_across(field, first, second):
    """Angles between texels of two masks that lie side by side."""
    found = []
    for axis in (0, 1):
        a = np.moveaxis(field, axis, 0)
        f, s = np.moveaxis(first, axis, 0), np.moveaxis(second, axis, 0)
        for one, two in (((slice(None, -1)), slice(1, None)), ((slice(1, None)), slice(None, -1))):
            pairs = f[one] & s[two]
            found.append(angular_error(a[one][pairs], a[two][pairs]))
    return np.concatenate(found)


def test_prepare_batch_is_the_channel_layout():
    normals = wavy_normals(8, 9)
    hole = disc(8, 9, 4, 4, 2)
    valid = np.ones((8, 9), bool)
    valid[:, 0] = False
    guess, _ = first_guess(normals, hole & valid, valid, "object")
    batch = fill.prepare_batch(normals, hole, valid, "object", guess)
    assert batch.shape == (11, 8, 9) and batch.dtype == np.float32
    known = valid & ~hole
    assert np.array_equal(batch[:3][:, known], normals[known].T)
    assert not batch[:3][:, ~known].any()
    assert np.array_equal(batch[3], hole & valid) and np.array_equal(batch[4], valid)
    assert [float(layer.mean()) for layer in batch[5:8]] == [0, 1, 0]
    shown = batch[8:]
    assert np.array_equal(shown[:, known], normals[known].T) and not shown[:, ~valid].any()
    # Waves go on into the hole: near what is hidden, and of unit length.
    inside = shown[:, hole & valid].T
    assert np.abs(np.linalg.norm(inside, axis=-1) - 1).max() < 1e-5
    assert angular_error(inside, normals[hole & valid]).mean() < 10


def test_thin_holes_are_seen_finer(fake_engine):
    """The fake network works at 128 texels: thin holes get 192, or what the map has."""
    line = np.zeros((400, 300), bool)
    line[100:300, 90:130] = True
    thick = np.zeros((400, 300), bool)
    thick[100:160, 150:210] = True
    for hole, size, seen in (
        (line, (400, 300), (192, 144)),
        (thick, (400, 300), (128, 96)),
        (line | thick, (400, 300), (128, 96)),
        (line[90:250, 112:272], (160, 160), (160, 160)),
        (line[90:190, 122:222], (100, 100), (112, 112)),
    ):
        fake_engine.seen.clear()
        fill.fill_crop(crop_of(wavy_normals(*size), hole), fake_engine)
        assert fake_engine.seen[0].shape[-2:] == seen
    fake_engine.seen.clear()
    fill.fill_crop(crop_of(wavy_normals(400, 300), line, space="object"), fake_engine)
    assert fake_engine.seen[0].shape[-2:] == (128, 96)


def test_a_face_is_filled_with_its_other_half_too():
    """A bump that hidden whole comes from the other side, wherever the head looks; of waves nothing does."""
    waves = wavy_normals(160, 160), np.ones((160, 160), bool)
    for (face, valid), gain in ((head(160), 0.9), (head(160, 0.15), 0.9), (waves, 1)):
        hole = disc(160, 160, 69, 66, 14)  # of the straight head, the left eye
        errors = []
        for symmetry in (True, False):
            crop = crop_of(face, hole, valid, space="camera", symmetry=symmetry)
            got = fill.fill_crop(crop, FakeEngine())
            errors.append(float(angular_error(got, face)[hole].mean()))
        assert errors[0] < gain * errors[1] if gain < 1 else errors[0] == errors[1]


def test_there_is_no_step_where_what_the_other_half_shows_ends():
    """In a hole over both sides of the axis."""
    truth, valid = head(160, 0.1)
    hole = disc(160, 160, 69, 75, 30)
    y, x = np.mgrid[:160, :160]
    off = np.clip((30 - np.hypot(y - 69, x - 75)) / 10, 0, 1)[..., None] * (0.1, 0, 0.2)  # its seam is closed
    predicted = np.where(hole[..., None], unit((truth + off).astype(np.float32)), truth)
    got = with_twin(predicted, truth, hole, valid)
    image, _, _ = other_side(predicted, truth, valid & ~hole, valid, hole)
    seen = np.asarray(image.any(axis=-1))
    assert (hole & seen).any() and (hole & ~seen).any()
    assert angular_error(got, truth)[hole & seen].mean() < 0.8 * angular_error(predicted, truth)[hole].mean()
    step = np.linalg.norm(np.diff(got - predicted, axis=1), axis=-1)
    inside = hole[:, 1:] & hole[:, :-1]
    assert np.abs(got - predicted)[hole].max() > 0.05
    assert step[inside].max() < 0.08
    assert step[inside & (seen[:, 1:] != seen[:, :-1])].max() < 0.005


def test_the_network_sees_the_surface_alone():
    """What lies around a surface costs no time; a map that is all surface is seen whole."""
    engine = FakeEngine()
    hole = disc(300, 400, 120, 180, 40)
    for rows, columns, shape in (
        (slice(0, 300), slice(0, 400), (96, 128)),
        (slice(60, 300), slice(100, 200), (80, 32)),
        (slice(100, 150), slice(0, 400), (16, 128)),
    ):
        valid = np.zeros((300, 400), bool)
        valid[rows, columns] = True
        got = fill.fill_crop(crop_of(wavy_normals(300, 400), hole & valid, valid), engine)
        assert engine.seen[-1].shape[-2:] == shape
        assert np.abs(np.linalg.norm(got, axis=-1) - 1).max() < 1e-5


@pytest.mark.parametrize("shape", [(64, 64), (97, 131), (300, 40), (33, 257), (512, 512), (16, 16)])
def test_any_size_is_filled_with_unit_normals_and_no_seam(shape: tuple[int, int], fake_engine):
    truth = wavy_normals(*shape, noise=0)
    hole = disc(*shape, shape[0] * 0.5, shape[1] * 0.4, min(shape) * 0.3)
    got = fill.fill_crop(crop_of(truth, hole), fake_engine)
    assert got.shape == truth.shape and got.dtype == np.float32
    assert np.abs(np.linalg.norm(got, axis=-1) - 1).max() < 1e-5
    assert np.array_equal(got[~hole], truth[~hole])
    side = fake_engine.seen[0].shape[-1]
    assert side % 16 == 0 and side <= 192
    # The fake network is degrees off everywhere: unclosed, its seam would measure that much.
    assert np.quantile(steps_across(got, hole, ~hole), 0.99) < 3


class KnowsTheBall(FakeEngine):
    """A network that has learnt balls perfectly, but is off everywhere: 11 degrees up and to the side."""

    def run(self, batch):
        self.seen.append(batch)
        ball, _ = sphere_normals(*batch.shape[2:])
        answer = np.moveaxis(unit(ball + np.array([0.2, -0.2, 0], np.float32)), -1, 0)
        return np.stack([answer] * len(batch))


def test_the_mirror_image_gets_the_mirrored_fill():
    truth = wavy_normals(128, 128, noise=0)
    hole = disc(128, 128, 60, 50, 25)
    got = fill.fill_crop(crop_of(truth, hole), FakeEngine())
    other = fill.fill_crop(crop_of(mirror(truth), hole[:, ::-1].copy()), FakeEngine())
    assert angular_error(mirror(other), got).max() < 0.5


@pytest.mark.parametrize("size", [512, 700])
def test_the_shape_is_the_networks_and_its_offset_is_closed(size):
    truth, valid = sphere_normals(size, size)
    hole = disc(size, size, 0.47 * size, 0.49 * size, 0.18 * size)
    got = fill.fill_crop(crop_of(truth, hole, valid, space="camera"), KnowsTheBall())
    assert angular_error(got[hole], truth[hole]).mean() < 1.5
    assert steps_across(got, hole, ~hole).max() < 1.5


def test_invalid_texels_do_not_bleed_in(fake_engine):
    truth, valid = sphere_normals(300, 300)
    hole = disc(300, 300, 150, 40, 60) & valid  # touches the ball's edge
    results = []
    for background in ((0, 0, 1), (-1, 0, 0)):
        soiled = truth.copy()
        soiled[~valid] = background
        soiled[hole] = background
        results.append(fill.fill_crop(crop_of(soiled, hole, valid, space="camera"), FakeEngine()))
    assert np.array_equal(results[0][hole], results[1][hole])


def test_holes_at_the_border_and_several_at_once(fake_engine):
    truth = wavy_normals(200, 260, noise=0)
    hole = disc(200, 260, 0, 30, 40) | disc(200, 260, 190, 250, 30) | disc(200, 260, 100, 130, 25)
    got = fill.fill_crop(crop_of(truth, hole), fake_engine)
    assert steps_across(got, hole, ~hole).max() < 3


def test_a_hole_without_known_border_keeps_the_prediction():
    truth = wavy_normals(96, 96, noise=0)
    valid = np.ones((96, 96), bool)
    valid[:, 60:64] = False
    hole = np.zeros((96, 96), bool)
    hole[:, 64:] = True  # a whole island
    island = hole & valid
    for space, times in ("tangent", 1), ("object", 2):
        engine = FakeEngine(tilt=0.3)
        got = fill.fill_crop(crop_of(truth, hole, valid, space=space, symmetry=False), engine)
        answers = np.moveaxis(engine.run(engine.seen[0]), 1, -1)
        assert len(answers) == times
        answer = unit(answers[0] + (mirror(answers[1]) if times > 1 else 0))
        assert angular_error(got[island], answer[island]).max() < 0.5


def test_without_any_known_texel_there_is_no_context(fake_engine):
    everywhere = np.ones((32, 32), bool)
    with pytest.raises(InpaintError) as caught:
        fill.fill_crop(crop_of(wavy_normals(32, 32), everywhere), fake_engine)
    assert caught.value.code == "no_context"


def test_a_mask_full_of_specks_still_leaves_context(fake_engine):
    truth = wavy_normals(512, 512, noise=0)
    hole = np.random.default_rng(0).random((512, 512)) < 0.9
    got = fill.fill_crop(crop_of(truth, hole), fake_engine)
    assert angular_error(got[hole], truth[hole]).mean() < 5


def test_the_wide_context_is_what_the_network_sees():
    truth = wavy_normals(1024, 1024, noise=0)
    hole = disc(1024, 1024, 512, 512, 150)
    small, small_hole, small_valid = resample.shrink(truth, hole, np.ones(hole.shape, bool), 256, 256)
    box = slice(312, 712), slice(312, 712)
    wide = Wide(small, small_hole, small_valid, 4, -312, -312)
    tight = fill.fill_crop(
        Crop(truth[box].copy(), hole[box].copy(), np.ones((400, 400), bool), detail=False, wide=wide),
        FakeEngine(),
    )
    whole = fill.fill_crop(crop_of(truth, hole), FakeEngine())
    inside = hole[box]
    error = angular_error(tight[inside], whole[box][inside])
    assert error.mean() < 0.3 and error.max() < 4  # averaged twice instead of once


def test_crop_survives_being_taken_apart():
    hole = disc(20, 20, 10, 10, 4)
    valid = np.ones((20, 20), bool)
    normals = wavy_normals(20, 20)
    for wide in (None, Wide(normals, hole, valid, 3, -5, -6)):
        crop = Crop(normals, hole, valid, "camera", 7, False, False, wide)
        again = Crop.from_parts(crop.arrays(), crop.fields())
        assert again.fields() == crop.fields()
        assert all(np.array_equal(again.arrays()[name], array) for name, array in crop.arrays().items())


def test_the_network_is_asked_once_about_the_same_context(fake_engine):
    crop = crop_of(wavy_normals(64, 64), disc(64, 64, 30, 30, 9))
    first = fill.fill_crop(crop, fake_engine)
    assert np.array_equal(fill.fill_crop(crop, fake_engine), first)
    assert len(fake_engine.seen) == 1


class BadEngine(FakeEngine):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def run(self, batch):
        return self.answer(super().run(batch))


@pytest.mark.parametrize(
    "answer",
    [
        lambda good: good[:, :2],
        lambda good: good * np.nan,
        lambda good: good * 1.5,
        lambda good: good[..., :-1],
        lambda good: np.zeros_like(good),
    ],
)
def test_a_network_that_misbehaves_is_caught(answer):
    with pytest.raises(InpaintError) as caught:
        fill.fill_crop(crop_of(wavy_normals(64, 64), disc(64, 64, 30, 30, 9)), BadEngine(answer))
    assert caught.value.code == "bad_result"


def test_cancel_stops_at_every_step(fake_engine):
    crop = crop_of(wavy_normals(64, 64), disc(64, 64, 30, 30, 9))
    polls = []

    def poll():
        polls.append(0)
        return False

    fill.fill_crop(crop, FakeEngine(), cancel=poll)
    assert len(polls) >= 3
    for allowed in range(len(polls)):
        left = [allowed]

        def cancel(left=left):
            left[0] -= 1
            return left[0] < 0

        with pytest.raises(Cancelled):
            fill.fill_crop(crop, FakeEngine(), cancel=cancel)


def test_a_crop_of_the_wrong_type_is_refused(fake_engine):
    normals, hole = wavy_normals(32, 32), disc(32, 32, 16, 16, 5)
    for bad in (
        Crop(normals.astype(np.float64), hole, ~hole | hole),
        Crop(normals, hole.astype(np.uint8), ~hole | hole),
        Crop(normals, hole, np.ones((3, 3), bool)),
        Crop(normals, hole, ~hole | hole, "world"),
    ):
        with pytest.raises(InpaintError) as caught:
            fill.fill_crop(bad, fake_engine)
        assert caught.value.code == "internal"


def test_detail_changes_with_the_seed_and_the_shape_stays():
    truth = wavy_normals(512, 512, noise=0.12)
    hole = disc(512, 512, 256, 256, 90)
    one, two, again = (
        fill.fill_crop(crop_of(truth, hole, detail=True, seed=seed), FakeEngine()) for seed in (1, 2, 1)
    )
    assert np.array_equal(one, again)
    assert angular_error(one[hole], two[hole]).mean() > 1
    assert np.array_equal(one[~hole], truth[~hole])
    assert angular_error(unit(one[hole].mean(axis=0)), unit(two[hole].mean(axis=0))) < 2


# Resampling ----------------------------------------------------------------------------------------------


def test_block_sums_match_a_plain_loop():
    values = np.random.default_rng(0).random((13, 17, 2)).astype(np.float32)
    for step in (1, 2, 5, 20):
        got = resample.block_sum(values, step)
        for row in range(got.shape[0]):
            for column in range(got.shape[1]):
                block = values[row * step : (row + 1) * step, column * step : (column + 1) * step]
                assert np.allclose(got[row, column], block.sum(axis=(0, 1)), atol=1e-4)
        flags = values[..., 0] > 0.9
        assert np.array_equal(resample.block_any(flags, step), resample.block_sum(flags, step) > 0)


def test_shrink_averages_known_texels_only():
    normals = np.zeros((4, 4, 3), np.float32)
    normals[...] = (0, 0, 1)
    normals[0, 0] = (1, 0, 0)
    hole = np.zeros((4, 4), bool)
    hole[0, 0] = True
    valid = np.ones((4, 4), bool)
    valid[2:, 2:] = False
    small, small_hole, small_valid = resample.shrink(normals, hole, valid, 2, 2)
    assert np.allclose(small[0, 0], (0, 0, 1))
    assert small_valid.tolist() == [[True, True], [True, False]]
    assert not small_hole.any()  # a quarter of a texel is not a hole


def test_enlarge_is_exact_on_its_own_grid_and_on_slopes():
    field = np.stack(np.meshgrid(np.arange(12.0), np.arange(9.0)), axis=-1).astype(np.float32)
    same = resample.enlarge(field, np.arange(9.0), np.arange(12.0))
    assert np.allclose(np.moveaxis(same, 0, -1), field, atol=1e-5)
    rows, columns = np.linspace(1, 7, 50), np.linspace(1, 10, 70)
    fine = resample.enlarge(field, rows, columns)
    assert np.allclose(fine[1], rows[:, None], atol=1e-4) and np.allclose(fine[0], columns[None], atol=1e-4)


def test_enlarge_looks_up_what_cubic_looks_up():
    rng = np.random.default_rng(3)
    for _ in range(30):
        height, width = rng.integers(1, 40, 2)
        field = rng.normal(size=(height, width, 3)).astype(np.float32)
        rows, columns = rng.uniform(-4, height + 4, 9), rng.uniform(-4, width + 4, 13)
        down, across = (
            axis.reshape(-1).astype(np.float32) for axis in np.meshgrid(rows, columns, indexing="ij")
        )
        expected = resample.cubic(field, down, across).reshape(9, 13, 3)
        assert np.allclose(np.moveaxis(resample.enlarge(field, rows, columns), 0, -1), expected, atol=3e-4)


def test_area_means_share_texels_out():
    """Each target texel has the mean of exactly what it covers, whatever the sizes."""
    rng = np.random.default_rng(4)
    for _ in range(30):
        height, width = rng.integers(1, 24, 2)
        tall, broad = rng.integers(1, height + 1), rng.integers(1, width + 1)
        field = rng.uniform(0.2, 1, (height, width, 3)).astype(np.float32)
        # Every texel cut into so many that both sizes divide them.
        fine = np.repeat(np.repeat(field, tall, axis=0), broad, axis=1).astype(np.float64)
        means = fine.reshape(tall, height, broad, width, 3).mean(axis=(1, 3))
        if (tall, broad) != (height, width):
            means /= np.linalg.norm(means, axis=-1, keepdims=True)
        assert np.allclose(resample.mean_directions(field, tall, broad), means, atol=1e-5)


def test_spread_fills_from_the_trusted_and_keeps_them():
    field = np.full((40, 50, 3), 9.0, np.float32)
    trusted = disc(40, 50, 20, 20, 6)
    field[trusted] = (1, 2, 3)
    got = resample.spread(field, trusted)
    assert np.allclose(got, (1, 2, 3), atol=1e-5)
    nothing = np.zeros((40, 50), bool)
    assert np.array_equal(resample.spread(field, nothing), field)
