from __future__ import annotations

import numpy as np
import pytest
from synthetic import sphere_normals, wavy_normals

from blender_normal_inpaint.core import normals
from blender_normal_inpaint.core.errors import InpaintError
from blender_normal_inpaint.core.normals import Encoding, quarter_turned

DTYPES = [np.uint8, np.uint16, np.float16, np.float32]


def one(*values, dtype=np.uint8):
    return np.array(values, dtype).reshape(1, 1, -1)


def test_known_answers_of_decode():
    flat = normals.decode(one(128, 128, 255), Encoding())
    assert np.allclose(flat, (0.0039, 0.0039, 1), atol=1e-3)
    right = normals.decode(one(255, 128, 128), Encoding())
    assert np.allclose(right, (1, 0, 0), atol=0.01)
    up = normals.decode(one(32768, 65535, 32768, dtype=np.uint16), Encoding())
    assert np.allclose(up, (0, 1, 0), atol=1e-4)


def test_known_answers_of_encode():
    field = np.array([[[0, 0, 1], [1, 0, 0], [0, -1, 0]]], np.float32)
    stored = normals.encode(field, Encoding(), np.uint8)
    assert stored.tolist() == [[[128, 128, 255], [255, 128, 128], [128, 0, 128]]]
    assert normals.encode(field, Encoding(y_axis="down"), np.uint8)[0, 2].tolist() == [128, 255, 128]
    assert normals.encode(field, Encoding(), np.uint16)[0, 0].tolist() == [32768, 32768, 65535]
    assert normals.encode(field, Encoding(), np.float32)[0, 0].tolist() == [0.5, 0.5, 1.0]


def test_directx_is_opengl_with_green_turned_over():
    opengl = normals.encode(wavy_normals(20, 30), Encoding(), np.uint16)
    directx = opengl.copy()
    directx[..., 1] = 65535 - opengl[..., 1]
    a = normals.decode(opengl, Encoding())
    b = normals.decode(directx, Encoding(y_axis="down"))
    assert np.allclose(a, b, atol=1e-6)


def test_blender_object_space_has_z_up_and_y_into_the_scene():
    # A face looks at the viewer along Blender's -y; its top points to +z.
    towards_viewer = normals.decode(one(128, 0, 128), Encoding("object", up_axis="z"))
    assert np.allclose(towards_viewer, (0, 0, 1), atol=0.01)
    top = normals.decode(one(128, 128, 255), Encoding("object", up_axis="z"))
    assert np.allclose(top, (0, 1, 0), atol=0.01)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "encoding",
    [
        Encoding(),
        Encoding(y_axis="down"),
        Encoding("object"),
        Encoding("object", up_axis="z"),
        Encoding("object", "down", "z"),
        Encoding("camera"),
    ],
)
def test_decode_undoes_encode(dtype, encoding):
    field, _ = sphere_normals(32, 48)
    back = normals.decode(normals.encode(field, encoding, dtype), encoding)
    limit = {np.uint8: 0.6, np.uint16: 0.01, np.float16: 0.1, np.float32: 1e-3}[dtype]
    assert normals.angular_error(field, back).max() < limit


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_encode_gives_back_the_bits_of_what_it_encoded(dtype):
    first = normals.encode(wavy_normals(64, 64), Encoding(), dtype)
    again = normals.encode(normals.decode(first, Encoding()), Encoding(), dtype)
    # Stored vectors are not quite of unit length; normalising moves a value by one step at most.
    assert np.abs(first.astype(int) - again.astype(int)).max() <= 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_native_samples_survive_float(dtype):
    if np.dtype(dtype).kind == "u":
        values = np.arange(np.iinfo(dtype).max + 1, dtype=np.uint32).astype(dtype)
    else:
        values = np.linspace(-3, 3, 1001).astype(dtype)
    assert np.array_equal(normals.from_float(normals.to_float(values), dtype), values)


def test_two_channels_rebuild_z():
    field = wavy_normals(16, 16, noise=0)
    stored = normals.encode(field, Encoding(two_channel=True), np.uint16)
    assert (
        normals.angular_error(normals.decode(stored[..., :2], Encoding(two_channel=True)), field).max() < 0.02
    )
    stored[..., 2] = 0
    assert normals.angular_error(normals.decode(stored, Encoding(two_channel=True)), field).max() < 0.02


def test_two_channels_too_long_are_scaled_back():
    got = normals.decode_vectors(one(255, 255), Encoding(two_channel=True))
    assert np.allclose(got, (np.sqrt(0.5), np.sqrt(0.5), 0), atol=1e-6)


def test_unit_replaces_what_has_no_direction():
    field = np.array([[0, 0, 0], [np.nan, 0, 1], [3, 0, 4]], np.float32)
    assert np.allclose(normals.unit(field), np.array([[0, 0, 1], [0, 0, 1], [0.6, 0, 0.8]]))


@pytest.mark.parametrize("shape", [(3,), (5, 3), (4, 5, 2)])
def test_products_of_vectors_are_numpys(shape):
    first, second = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    before = first.copy(), second.copy()
    assert np.allclose(normals.dot(first, second), (first * second).sum(axis=-1))
    assert np.array_equal(first, before[0]) and np.array_equal(second, before[1])
    if shape[-1] == 3:
        assert np.allclose(normals.cross(first, second), np.cross(first, second), atol=1e-6)


def test_vectors_are_put_in_some_places_alone():
    field = np.full((4, 5, 3), np.nan, np.float32)
    there = np.zeros((4, 5), bool)
    there[1:3, 2:] = True
    normals.put(field, there, (0.0, 0.5, 1.0))
    assert (
        np.array_equal(field[there], np.tile(np.array([0, 0.5, 1], np.float32), (6, 1)))
        and np.isnan(field[~there]).all()
    )


def test_mirror_turns_the_vectors_too():
    field, _ = sphere_normals(33, 47)
    assert normals.angular_error(normals.mirror(field), field).max() < 0.1  # a ball is symmetric
    assert np.array_equal(normals.mirror(normals.mirror(field)), field)


def test_angular_error_is_exact_for_small_and_large_angles():
    angles = np.radians(np.array([0, 1e-3, 0.5, 90, 179.999, 180]))
    rotated = np.stack([np.sin(angles), 0 * angles, np.cos(angles)], axis=-1)
    got = normals.angular_error(np.array([0.0, 0, 1], np.float32), rotated)
    assert np.allclose(got, np.degrees(angles), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 5), (4, 4, 0)])
def test_odd_arrays_are_refused(shape):
    with pytest.raises(InpaintError) as caught:
        normals.decode(np.zeros(shape, np.uint8), Encoding())
    assert caught.value.code == "unsupported_format"


def test_too_few_channels_and_odd_types_are_refused():
    for pixels in (np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4, 3), np.int32), np.zeros((4, 4, 3))):
        with pytest.raises(InpaintError) as caught:
            normals.decode(pixels, Encoding())
        assert caught.value.code == "unsupported_format"


@pytest.mark.parametrize("fields", [{"space": "world"}, {"y_axis": "left"}, {"up_axis": "x"}])
def test_unknown_choices_are_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        Encoding(**fields)


def test_a_quarter_turn_turns_the_picture_and_its_vectors():
    field = np.zeros((2, 3, 3), np.float32)
    field[0, 2] = (1, 0, 0.5)  # at the upper right, pointing right
    turned = quarter_turned(field, 1)
    assert turned.shape == (3, 2, 3) and np.array_equal(turned[0, 0], (0, 1, 0.5))
    noise = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
    for quarters in range(-4, 5):
        there = quarter_turned(noise, quarters)
        assert np.array_equal(quarter_turned(there, -quarters), noise)
        assert np.array_equal(quarter_turned(noise[..., 2] > 0, quarters), there[..., 2] > 0)
