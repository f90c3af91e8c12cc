"""The extension in real Blender, from installing the zip to uninstalling it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import OpenImageIO
import pytest

import build_addon
from blender_normal_inpaint.core.files import read_map, write_map

#: Functions of `scenarios`, each a process of its own.
SCENARIOS = [
    "registration",
    "wiring",
    "spaces",
    "base_mesh",
    "painted_masks",
    "bad_input",
    "undo",
    "worker_dies",
    "other_files",
    "saving_fails",
    "scripting",
    "new_mask",
    "engine_settings",
    "disable_and_uninstall",
]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(run_inside: Callable[..., str], scenario: str) -> None:
    run_inside(scenario)


def test_blender_accepts_the_manifest(bpy_python: str, archive: Path) -> None:
    code = "import build_addon, sys; print(build_addon.validator() or sys.exit(3))"
    checker = subprocess.run(
        [bpy_python, "-c", code], capture_output=True, text=True, cwd=build_addon.ROOT, timeout=60
    )
    assert checker.returncode == 0, checker.stderr
    done = subprocess.run(
        [bpy_python, checker.stdout.strip(), "validate", str(archive)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


#: Name, sample type and channels of the files that go through Blender and back.
FILES = [
    ("eight bits.png", "uint8", 3),
    ("eight bits alpha.png", "uint8", 4),
    ("sixteen bits.png", "uint16", 3),
    ("sixteen bits alpha.png", "uint16", 4),
    ("sechzehn für größe.tif", "uint16", 3),
    ("sixteen alpha.tif", "uint16", 4),
    ("half.exr", "float16", 3),
    ("half alpha.exr", "float16", 4),
    ("float.exr", "float32", 3),
    ("targa.tga", "uint8", 3),
]


def noisy_map(dtype: str, channels: int, seed: int, size: tuple[int, int] = (150, 203)) -> np.ndarray:
    """A tangent map with random low bits and, if there is one, a random alpha: any loss shows."""
    rng = np.random.default_rng(seed)
    height, width = size
    slopes = rng.normal(0.0, 0.15, (height, width, 2))
    normals = np.concatenate([slopes, np.ones((height, width, 1))], axis=-1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    values = np.concatenate([normals * 0.5 + 0.5, rng.uniform(0.05, 1.0, (height, width, 1))], axis=-1)
    top = {"uint8": 255, "uint16": 65535}.get(dtype)
    values = values[..., :channels]
    return (np.rint(values * top) if top else values).astype(dtype)


def test_texels_outside_the_mask_keep_their_bits(run_inside: Callable[..., str], tmp_path: Path) -> None:
    work = tmp_path / "Ordner mit Ümläut 数据"
    work.mkdir()
    mask = np.zeros((150, 203, 3), np.uint8)
    mask[40:80, 60:120] = 255
    mask[100:110, 0:30] = 255
    write_map(work / "the mask.png", mask)
    hole = mask[..., 0] > 127
    sources = {}
    for index, (name, dtype, channels) in enumerate(FILES):
        sources[name] = noisy_map(dtype, channels, index)
        write_map(work / name, sources[name])
    (work / "files.json").write_text(json.dumps([name for name, _, _ in FILES]), encoding="utf-8")
    run_inside("files", work)
    for name, dtype, channels in FILES:
        for folder in ("saved", "reopened"):
            result = read_map(work / folder / name)
            assert result.pixels.dtype == dtype and result.pixels.shape[2] == channels, (folder, name)
            source = sources[name]
            assert np.array_equal(result.pixels[~hole], source[~hole]), (folder, name)
            assert not np.array_equal(result.pixels[hole][..., :3], source[hole][..., :3]), (folder, name)
            if channels == 4:
                assert np.array_equal(result.pixels[..., 3], source[..., 3]), (folder, name)
            values = result.pixels[hole][..., :3].astype(np.float64)
            top = {"uint8": 255, "uint16": 65535}.get(dtype, 1)
            length = np.linalg.norm(values / top * 2 - 1, axis=-1)
            assert np.abs(length - 1).max() < (0.01 if dtype in ("uint8", "float16") else 1e-4), (
                folder,
                name,
            )


#: Tiled maps: their path, sample type and channels.
TILED = [
    ("deep skin.<UDIM>.png", "uint16", 3),
    ("flat.<UDIM>.tga", "uint8", 4),
    ("half.<UDIM>.exr", "float16", 3),
    ("größe.<UDIM>.tif", "uint16", 4),
]
SIZES = {1001: (150, 203), 1002: (96, 96), 1011: (64, 128)}


def test_tiles_outside_the_mask_are_the_same_files(run_inside: Callable[..., str], tmp_path: Path) -> None:
    work = tmp_path / "Kacheln 瓦"
    work.mkdir()
    holes = {}
    for name, tiles in {"hole": (1001, 1011), "second": (1002,), "black": (), "full": (1002,)}.items():
        for number, (height, width) in SIZES.items():
            mask = np.zeros((height, width, 3), np.uint8)
            if number in tiles and name != "full":
                mask[height // 3 : height // 2, width // 3 : width // 2] = 255
            if number in tiles and name == "full":
                mask[:] = 255
            write_map(work / f"{name}.{number}.png", mask)
            if name == "hole":
                holes[number] = mask[..., 0] > 127
    white = np.full((64, 64, 3), 255, np.uint8)
    write_map(work / "hole.1012.png", white)
    sources = {}
    for index, (name, dtype, channels) in enumerate(TILED):
        for number, size in SIZES.items():
            path = work / name.replace("<UDIM>", str(number))
            sources[path.name] = noisy_map(dtype, channels, index + number, size)
            write_map(path, sources[path.name])
    for number, (height, width) in SIZES.items():
        photo = OpenImageIO.ImageBuf(OpenImageIO.ImageSpec(width, height, 3, "uint8"))
        photo.set_pixels(OpenImageIO.ROI.All, noisy_map("uint8", 3, number, (height, width)))
        assert photo.write(str(work / f"photo.{number}.jpg")), photo.geterror()
    (work / "tiled.json").write_text(json.dumps([name for name, _, _ in TILED]), encoding="utf-8")
    run_inside("tiled", work)
    for name, dtype, channels in TILED:
        for folder in ("saved", "reopened", "by files"):
            for number, hole in holes.items():
                path = work / folder / name.replace("<UDIM>", str(number))
                if folder == "by files" and name != TILED[0][0]:
                    assert not path.exists()
                    continue
                source, result = sources[path.name], read_map(path).pixels
                assert result.dtype == dtype and result.shape == source.shape, path
                assert np.array_equal(result[~hole], source[~hole]), path
                if channels == 4:
                    assert np.array_equal(result[..., 3], source[..., 3]), path
                if hole.any():
                    assert not np.array_equal(result[hole][..., :3], source[hole][..., :3]), path
                else:
                    assert path.read_bytes() == (work / path.name).read_bytes(), path
            assert not list((work / folder).glob(".*")), "a temporary file was left"
    # A tile of the new mask that nobody painted shows the map, as before the mask was packed again.
    relief = np.asarray(
        OpenImageIO.ImageBuf(str(work / "mask.1002.png")).get_pixels(OpenImageIO.UINT8), np.float64
    )
    light = sources["deep skin.1002.png"][..., :2].mean(axis=-1) / 65535 * 0.25 * 255
    assert np.abs(relief[..., 0] - light).max() < 1
    # Saved as another kind of file.
    for number in SIZES:
        png = read_map(work / "saved" / f"deep skin.{number}.png").pixels
        assert np.array_equal(read_map(work / "saved" / f"deep.{number}.tif").pixels, png)
