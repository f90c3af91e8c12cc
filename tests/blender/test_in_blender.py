"""The extension in real Blender, from installing the zip to uninstalling it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
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


def noisy_map(dtype: str, channels: int, seed: int) -> np.ndarray:
    """A tangent map with random low bits and, if there is one, a random alpha: any loss shows."""
    rng = np.random.default_rng(seed)
    height, width = 150, 203
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
