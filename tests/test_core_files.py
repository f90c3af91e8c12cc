from __future__ import annotations

import os
import signal
import stat
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from synthetic import ROOT

from blender_normal_inpaint.core import files
from blender_normal_inpaint.core.errors import InpaintError

oiio = pytest.importorskip("OpenImageIO")

KINDS = [
    ("map.png", np.uint8, 3),
    ("map.png", np.uint8, 4),
    ("map.png", np.uint16, 3),
    ("map.png", np.uint16, 4),
    ("map.tif", np.uint8, 4),
    ("map.tif", np.uint16, 2),
    ("map.tif", np.uint16, 3),
    ("map.tiff", np.uint16, 4),
    ("map.tif", np.float32, 3),
    ("map.exr", np.float16, 3),
    ("map.exr", np.float16, 4),
    ("map.exr", np.float32, 2),
    ("map.exr", np.float32, 3),
    ("map.exr", np.float32, 4),
    ("map.tga", np.uint8, 3),
    ("map.tga", np.uint8, 4),
    ("map.bmp", np.uint8, 3),
    ("Gesicht ä 顔.png", np.uint16, 4),
]


def samples(dtype, channels, height=23, width=31, seed=0):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "u":
        values = rng.integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)
    else:
        values = (rng.random((height, width, channels)) * 2 - 0.5).astype(dtype)
    if channels == 4:
        values[:5, :, 3] = 0  # transparent texels keep their colour, too
    return values


def write_raw(path: Path, pixels, spec=None, **attributes):
    """Straight through OpenImageIO, so that the reader is not tested against our own writer."""
    names = {"uint8": "uint8", "uint16": "uint16", "float16": "half", "float32": "float", "uint32": "uint32"}
    spec = spec or oiio.ImageSpec(*pixels.shape[1::-1], pixels.shape[2], names[str(pixels.dtype)])
    for key, value in {"oiio:UnassociatedAlpha": 1, **attributes}.items():
        spec.attribute(key.replace("__", ":"), value)
    target = oiio.ImageOutput.create(str(path))
    assert target.open(str(path), spec), target.geterror()
    assert target.write_image(pixels), target.geterror()
    target.close()
    return path


def spec_of(path: Path):
    source = oiio.ImageInput.open(str(path))
    spec = source.spec()
    source.close()
    return spec


def code_of(call):
    with pytest.raises(InpaintError) as caught:
        call()
    assert caught.value.message.endswith(".") and caught.value.hint.endswith(".")
    return caught.value.code


@pytest.mark.parametrize(("name", "dtype", "channels"), KINDS)
def test_every_bit_survives_reading_and_writing(tmp_path, name, dtype, channels):
    if name.endswith("2") or (channels == 2 and name.endswith(".png")):
        pytest.fail("two channels in a PNG are grey and alpha")
    pixels = samples(dtype, channels)
    spec = None
    if channels == 2:
        spec = oiio.ImageSpec(31, 23, 2, "uint16" if dtype == np.uint16 else "float")
        spec.channelnames = ("R", "G")
    source = files.read_map(write_raw(tmp_path / name, pixels, spec))
    assert source.pixels.dtype == pixels.dtype and source.pixels.tobytes() == pixels.tobytes()
    changed = source.pixels.copy()
    changed[3:9, 4:8, :2] = samples(dtype, 2, 6, 4, seed=1)
    for like in (source, None):
        target = tmp_path / f"out {name}"
        files.write_map(target, changed, like)
        again = files.read_map(target)
        assert again.pixels.dtype == dtype and again.pixels.tobytes() == changed.tobytes()
        assert spec_of(target).nchannels == channels
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, f"out {name}"])


def test_what_a_file_says_about_itself_stays(tmp_path):
    spec = oiio.ImageSpec(31, 23, 3, "half")
    spec.channelnames = ("N.X", "N.Y", "N.Z")
    exr = files.read_map(
        write_raw(tmp_path / "a.exr", samples(np.float16, 3), spec, compression="piz", studio="x")
    )
    files.write_map(tmp_path / "b.exr", exr.pixels, exr)
    kept = spec_of(tmp_path / "b.exr")
    assert kept.channelnames == ("N.X", "N.Y", "N.Z")
    assert kept["compression"] == "piz" and kept["studio"] == "x" and str(kept.format) == "half"
    tiff = files.read_map(write_raw(tmp_path / "a.tif", samples(np.uint16, 3), compression="lzw"))
    files.write_map(tmp_path / "b.tif", tiff.pixels, tiff)
    assert spec_of(tmp_path / "b.tif")["compression"] == "lzw"
    gamma = write_raw(tmp_path / "a.png", samples(np.uint8, 3), **{"oiio__ColorSpace": "Gamma2.2"})
    png = files.read_map(gamma)
    files.write_map(tmp_path / "b.png", png.pixels, png)
    before, after = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    for chunk in (b"gAMA", b"sRGB", b"cICP", b"iCCP"):
        assert (chunk in before) == (chunk in after), chunk


def test_a_window_away_from_the_origin_and_tiles_survive(tmp_path):
    spec = oiio.ImageSpec(32, 32, 3, "float")
    spec.x, spec.y, spec.full_width, spec.full_height = 5, 7, 64, 64
    spec.tile_width = spec.tile_height = 16
    pixels = samples(np.float32, 3, 32, 32)
    path = tmp_path / "tiled.exr"
    target = oiio.ImageOutput.create(str(path))
    assert target.open(str(path), spec) and target.write_image(pixels)
    target.close()
    source = files.read_map(path)
    assert np.array_equal(source.pixels, pixels)
    files.write_map(tmp_path / "out.exr", source.pixels, source)
    kept = spec_of(tmp_path / "out.exr")
    assert (kept.x, kept.y, kept.full_width, kept.full_height) == (5, 7, 64, 64)


def test_a_format_by_name_for_callers_without_a_source(tmp_path):
    pixels = samples(np.uint16, 4)
    for kind, name in (("png", "a.png"), ("tiff", "a.tif")):
        files.write_map(tmp_path / name, pixels, kind)
        assert np.array_equal(files.read_map(tmp_path / name).pixels, pixels)
    files.write_map(tmp_path / "a.exr", samples(np.float16, 4), "exr")
    assert files.read_map(tmp_path / "a.exr").pixels.dtype == np.float16


def test_files_that_cannot_hold_a_normal_map(tmp_path):
    grey = write_raw(tmp_path / "grey.png", samples(np.uint8, 1))
    spec = oiio.ImageSpec(31, 23, 2, "uint8")
    spec.channelnames, spec.alpha_channel = ("Y", "A"), 1
    grey_alpha = write_raw(tmp_path / "grey_alpha.png", samples(np.uint8, 2), spec)
    five = write_raw(tmp_path / "five.exr", samples(np.float32, 5))
    # A TIFF of 32-bit integers by hand, for OpenImageIO does not write them.
    entries = [(256, 8), (257, 8), (258, 32), (259, 1), (262, 1), (273, 200), (277, 1), (278, 8), (279, 256)]
    directory = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    directory += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries) + bytes(4)
    wide = tmp_path / "wide.tif"
    wide.write_bytes(directory.ljust(200, b"\0") + bytes(256))
    assert str(spec_of(wide).format) == "uint"
    for path in (grey, grey_alpha, five, wide):
        assert code_of(lambda path=path: files.read_map(path)) == "unsupported_format"


def test_several_images_in_one_file(tmp_path):
    path = tmp_path / "two.tif"
    spec = oiio.ImageSpec(8, 8, 3, "uint8")
    target = oiio.ImageOutput.create(str(path))
    assert target.open(str(path), (spec, spec)) or target.open(str(path), spec)
    target.write_image(np.zeros((8, 8, 3), np.uint8))
    assert target.open(str(path), spec, "AppendSubimage")
    target.write_image(np.zeros((8, 8, 3), np.uint8))
    target.close()
    assert code_of(lambda: files.read_map(path)) == "unsupported_format"


@pytest.mark.parametrize("read", [files.read_map, files.read_mask])
def test_unreadable_files(tmp_path, read):
    good = write_raw(tmp_path / "good.png", samples(np.uint8, 3, 200, 200)).read_bytes()
    for name, content in {
        "empty": b"",
        "text": b"hello",
        "cut": good[: len(good) // 2],
        "head": good[:60],
    }.items():
        path = tmp_path / f"{name}.png"
        path.write_bytes(content)
        assert code_of(lambda path=path: read(path)) == "unreadable"
    assert code_of(lambda: read(tmp_path / "none.png")) == "unreadable"
    assert code_of(lambda: read(tmp_path)) == "unreadable"


def test_types_that_a_format_cannot_hold(tmp_path):
    for name, dtype in (
        ("a.png", np.float32),
        ("a.exr", np.uint16),
        ("a.tga", np.uint16),
        ("a.jpg", np.uint8),
    ):
        target = tmp_path / name
        assert code_of(lambda target=target, dtype=dtype: files.write_map(target, samples(dtype, 3))) == (
            "unsupported_format"
        )
    assert code_of(lambda: files.write_map(tmp_path / "none", samples(np.uint8, 3))) == "unsupported_format"
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written(tmp_path):
    pixels = samples(np.uint8, 3)
    assert code_of(lambda: files.write_map(tmp_path / "no" / "a.png", pixels)) == "not_writable"
    (tmp_path / "folder.png").mkdir()
    assert code_of(lambda: files.write_map(tmp_path / "folder.png", pixels)) == "not_writable"
    (tmp_path / "file").write_text("x")
    assert code_of(lambda: files.write_map(tmp_path / "file" / "a.png", pixels)) == "not_writable"
    source = files.read_map(write_raw(tmp_path / "a.png", pixels))
    assert code_of(lambda: files.check_target(tmp_path / "no" / "a.png", source)) == "not_writable"
    assert code_of(lambda: files.check_target(tmp_path / "a.jpg", source)) == "unsupported_format"
    files.check_target(tmp_path / "b.png", source)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert code_of(lambda: files.write_map(folder / "a.png", samples(np.uint8, 3))) == "not_writable"
    folder.chmod(stat.S_IRWXU)


_CUT_SHORT = """
import resource, signal, sys
sys.path.insert(0, {root!r})
import numpy as np
from pathlib import Path
from blender_normal_inpaint.core import files
from blender_normal_inpaint.core.errors import InpaintError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
pixels = np.random.default_rng(0).random((300, 300, 3)).astype(np.float32)
if {dtype!r} != "float32":
    pixels = (pixels * 255).astype({dtype!r})
try:
    files.write_map(Path({target!r}), pixels)
except InpaintError as error:
    print(error.code)
"""


@pytest.mark.skipif(
    not hasattr(signal, "SIGXFSZ"), reason="needs a limit on file sizes to stand in for a full disk"
)
@pytest.mark.parametrize(
    ("name", "dtype"), [("a.png", "uint8"), ("a.tif", "uint16"), ("a.exr", "float32"), ("a.tga", "uint8")]
)
def test_a_disk_that_fills_up_midway_leaves_the_old_file(tmp_path, name, dtype):
    target = tmp_path / name
    target.write_bytes(b"the old result")
    code = _CUT_SHORT.format(root=str(ROOT), target=str(target), dtype=dtype)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == "disk_full", done.stdout + done.stderr
    assert target.read_bytes() == b"the old result"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_error_number_of_the_system_tells_a_full_disk(tmp_path, monkeypatch):
    target = tmp_path / "a.png"
    target.write_bytes(b"the old result")

    def full(descriptor):
        with open("/dev/full", "wb", buffering=0) as device:  # noqa: PTH123 - raises ENOSPC for real
            device.write(b"x")

    monkeypatch.setattr(os, "fsync", full)
    assert code_of(lambda: files.write_map(target, samples(np.uint8, 3))) == "disk_full"
    assert target.read_bytes() == b"the old result" and len(list(tmp_path.iterdir())) == 1


def test_without_openimageio_there_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "OpenImageIO", None)
    assert code_of(lambda: files.read_map(tmp_path / "a.png")) == "engine_unavailable"


# Masks ---------------------------------------------------------------------------------------------------


def painted(dtype, channels, paint, ground):
    pixels = np.empty((20, 30, channels), dtype)
    pixels[...] = ground
    pixels[5:10, 5:20] = paint
    return pixels


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("grey.png", painted(np.uint8, 1, 255, 0)),
        ("rgb.png", painted(np.uint8, 3, 255, 0)),
        ("half.png", painted(np.uint8, 3, 128, 127)),
        ("deep.png", painted(np.uint16, 3, 40000, 25000)),
        ("float.exr", painted(np.float32, 3, 2.0, -1.0)),
        ("opaque.png", painted(np.uint8, 4, (255, 255, 255, 255), (0, 0, 0, 255))),
        ("white_on_clear.png", painted(np.uint8, 4, (255, 255, 255, 255), (255, 255, 255, 0))),
        ("black_on_clear.png", painted(np.uint8, 4, (0, 0, 0, 255), (0, 0, 0, 0))),
        ("white_on_clear_black.png", painted(np.uint8, 4, (255, 255, 255, 255), (0, 0, 0, 0))),
    ],
)
def test_masks_of_every_kind(tmp_path, name, pixels):
    mask = files.read_mask(write_raw(tmp_path / name, pixels))
    expected = np.zeros((20, 30), bool)
    expected[5:10, 5:20] = True
    assert mask.dtype == np.bool_ and np.array_equal(mask, expected)


def test_plain_masks(tmp_path):
    for value in (0, 255):
        for channels in (1, 3, 4):
            pixels = np.full((16, 16, channels), value, np.uint8)
            if channels == 4:
                pixels[..., 3] = 255
            mask = files.read_mask(write_raw(tmp_path / "plain.png", pixels))
            assert mask.all() if value else not mask.any()


def test_jpeg_masks(tmp_path):
    path = tmp_path / "mask.jpg"
    target = oiio.ImageOutput.create(str(path))
    target.open(str(path), oiio.ImageSpec(30, 20, 3, "uint8"))
    target.write_image(painted(np.uint8, 3, 255, 0))
    target.close()
    mask = files.read_mask(path)
    assert mask[6:9, 7:18].all() and not mask[12:].any()


def test_a_file_is_put_whole_or_not_at_all(tmp_path):
    target = tmp_path / "größe.1001.png"
    files.put(target, b"one")
    files.put(target, b"another")
    assert target.read_bytes() == b"another" and list(tmp_path.iterdir()) == [target]
    assert code_of(lambda: files.put(tmp_path / "no" / "a.png", b"")) == "not_writable"
    (tmp_path / "folder.png").mkdir()
    assert code_of(lambda: files.put(tmp_path / "folder.png", b"")) == "not_writable"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.png", target.name]


@pytest.mark.parametrize(
    ("kind", "dtype", "wanted"),
    [
        ("png", "uint16", "png"),
        ("tga", "uint8", "tga"),
        ("tga", "uint16", "png"),
        ("jpeg", "uint8", "png"),
        ("tiff", "float16", "exr"),
        ("tiff", "float32", "tiff"),
        ("", "float16", "exr"),
    ],
)
def test_kinds_of_files_that_hold_samples_exactly(kind, dtype, wanted):
    assert files.lossless(kind, dtype) == wanted
