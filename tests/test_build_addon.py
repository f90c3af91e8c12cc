"""The extension's build: what goes in, what the manifest says, and the same bytes every time."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import build_addon
from blender_normal_inpaint.addon import png
from blender_normal_inpaint.addon.depth import FileFormat, sniff_bytes, sniff_file
from blender_normal_inpaint.core.files import read_map, write_map
from blender_normal_inpaint.core.modelcard import INPUT_CHANNELS, default_card_path
from blender_normal_inpaint.worker.engines import create_engine


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A card with two stand-ins for weight files: building never opens them."""
    folder = tmp_path / "models"
    folder.mkdir()
    files = {}
    for kind in ("onnx", "safetensors"):
        data = kind.encode() * 1000
        (folder / f"face_normal_inpaint.{kind}").write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        files[kind] = {"file": f"face_normal_inpaint.{kind}", "sha256": digest, "bytes": len(data)}
    card: dict[str, Any] = {
        "name": "stand-in",
        "version": "0",
        "created": "2026-01-01",
        "spaces": ["tangent", "object", "camera"],
        "input_channels": list(INPUT_CHANNELS),
        "working_size": 64,
        "size_multiple": 8,
        "generator": {},
        "files": files,
    }
    (folder / "face_normal_inpaint.json").write_text(json.dumps(card), encoding="utf-8")
    return folder


@pytest.fixture
def wheels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache with small stand-ins under the real names, and their hashes in the table."""
    cache = tmp_path / "wheels"
    cache.mkdir()
    table = {}
    for key, entries in build_addon.WHEELS.items():
        fakes = []
        for entry in entries:
            data = entry.file.encode() * 100
            (cache / entry.file).write_bytes(data)
            fakes.append(build_addon.Wheel(entry.file, hashlib.sha256(data).hexdigest()))
        table[key] = tuple(fakes)
    monkeypatch.setattr(build_addon, "WHEELS", table)
    return cache


Build = Callable[..., Path]


@pytest.fixture
def build(models: Path, wheels: Path, tmp_path: Path) -> Build:
    def run(system: str = "linux-x64", pythons: str = "official", output: str = "dist") -> Path:
        return build_addon.build(system, pythons, tmp_path / output, wheels, models)

    return run


def manifest_of(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        return tomllib.loads(archive.read("blender_manifest.toml").decode())


def test_every_platform_and_python_has_its_zip(build: Build) -> None:
    for system in build_addon.PLATFORMS:
        for pythons, tags in build_addon.PYTHONS.items():
            path = build(system, pythons)
            assert system in path.name and ("3.14" in path.name) == (pythons == "3.14")
            manifest = manifest_of(path)
            assert manifest["id"] == "normal_inpaint" and manifest["name"] == "Normal Inpaint"
            assert manifest["platforms"] == [system]
            assert manifest["blender_version_min"] == "4.2.0" and "blender_version_max" not in manifest
            assert list(manifest["permissions"]) == ["files"]
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            bundled = sorted(f"./{name}" for name in names if name.startswith("wheels/"))
            assert bundled == sorted(manifest["wheels"]) and len(bundled) == 2 * len(tags)
            for tag in tags:
                kinds = {name.split("/")[1].split("-")[0] for name in names if f"-{tag}-" in name}
                assert kinds == {"onnxruntime", "openimageio"}


def test_the_zip_holds_the_package_and_nothing_else(build: Build) -> None:
    with zipfile.ZipFile(build()) as archive:
        names = set(archive.namelist())
    for name in ("__init__.py", "LICENSE", "addon/operators.py", "core/pipeline.py", "worker/boot.py"):
        assert name in names
    for name in ("onnx", "safetensors", "json"):
        assert f"models/face_normal_inpaint.{name}" in names
    for name in ("head_pose", "head_shapes"):
        assert {f"models/{name}.npz", f"models/{name}.json"} <= names
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".md"))]
    assert not [name for name in names if name.startswith(("tests/", "trainer/"))]
    assert not [name for name in names if "numpy" in name]


def test_what_is_staged_loads(tmp_path: Path) -> None:
    build_addon.stage(tmp_path / "staged")
    card = tmp_path / "staged" / "models" / default_card_path().name
    engine, _ = create_engine("onnx", device="cpu", card_path=card)
    assert engine.card.path == card


def test_two_builds_give_the_same_bytes(build: Build, models: Path, wheels: Path) -> None:
    first = build(output="first")
    for path in (*models.iterdir(), *wheels.iterdir()):
        # Another time and other permissions on the inputs must not show.
        os.utime(path, (1_000_000_000, 1_000_000_000))
        path.chmod(0o600)
    second = build(output="second")
    assert first.read_bytes() == second.read_bytes()


def test_a_wrong_wheel_is_refused_and_leaves_the_cache(build: Build, wheels: Path) -> None:
    name = build_addon.WHEELS["linux-x64", "cp311"][0].file
    (wheels / name).write_bytes(b"something else")
    with pytest.raises(build_addon.BuildError, match="removed from the cache"):
        build()
    assert not (wheels / name).exists()


def test_a_failed_download_is_said(build: Build, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = build_addon.WHEELS["windows-x64", "cp311"][0]
    (wheels / entry.file).unlink()
    seen: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        seen.append(command)
        return subprocess.CompletedProcess(command, 1, "", "no network")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(build_addon.BuildError, match="no network"):
        build("windows-x64")
    assert "onnxruntime==1.23.2" in seen[0] and "win_amd64" in seen[0] and "--no-deps" in seen[0]


def test_damaged_weights_are_refused(build: Build, models: Path) -> None:
    (models / "face_normal_inpaint.onnx").write_bytes(b"cut short")
    with pytest.raises(build_addon.BuildError, match="weights"):
        build()


def test_the_command_line_reports_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "none"
    empty.mkdir()
    cache = tmp_path / "cache"
    status = build_addon.main(["--models", str(empty), "--wheel-cache", str(cache), "--platform", "all"])
    assert status == 1 and "build_addon:" in capsys.readouterr().err


def test_pins_agree_with_the_versions_that_are_tested() -> None:
    versions = {
        (wheel.tags[0], wheel.tags[2]): wheel.tags[1]
        for group in build_addon.WHEELS.values()
        for wheel in group
    }
    assert {version for (name, _), version in versions.items() if name == "openimageio"} == {"3.2.2.0"}
    assert versions["onnxruntime", "cp311"] == versions["onnxruntime", "cp313"] == "1.23.2"
    for group in build_addon.WHEELS.values():
        assert all(len(wheel.sha256) == 64 for wheel in group)


def test_the_bundled_engine_needs_numpy_only() -> None:
    """ONNX Runtime declares dependencies that it does not import to run a network: they are not bundled."""
    importlib.metadata.version("onnxruntime")
    code = (
        "import sys\n"
        "for name in ('flatbuffers', 'packaging', 'google', 'google.protobuf', 'sympy', 'coloredlogs'):\n"
        "    sys.modules[name] = None\n"
        "import onnxruntime, OpenImageIO\n"
        "assert 'CPUExecutionProvider' in onnxruntime.get_available_providers()\n"
        "onnxruntime.SessionOptions()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_needs_no_blender() -> None:
    code = (
        "import sys; sys.modules['bpy'] = None\n"
        "import blender_normal_inpaint, blender_normal_inpaint.addon, blender_normal_inpaint.addon.depth\n"
        "assert callable(blender_normal_inpaint.register)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=build_addon.ROOT, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "dtype", "channels"),
    [
        ("a.png", "uint8", 3),
        ("b.png", "uint8", 4),
        ("c.png", "uint16", 3),
        ("d.png", "uint16", 4),
        ("e.tif", "uint8", 3),
        ("f.tif", "uint16", 4),
        ("g.tif", "float32", 3),
        ("h.exr", "float16", 3),
        ("i.exr", "float16", 4),
        ("j.exr", "float32", 3),
    ],
)
def test_a_file_tells_its_depth(tmp_path: Path, name: str, dtype: str, channels: int) -> None:
    kind = {"tif": "tiff"}.get(name[2:], name[2:])
    write_map(tmp_path / name, np.zeros((9, 12, channels), dtype))
    found = sniff_file(tmp_path / name)
    assert found == FileFormat(kind, dtype, channels)
    assert sniff_bytes((tmp_path / name).read_bytes()) == found
    assert FileFormat.from_json(found.to_json()) == found


def test_damaged_headers_tell_nothing(tmp_path: Path) -> None:
    write_map(tmp_path / "a.exr", np.zeros((9, 12, 3), np.float16))
    write_map(tmp_path / "a.tif", np.zeros((9, 12, 3), np.uint16))
    for name in ("a.exr", "a.tif"):
        data = (tmp_path / name).read_bytes()
        for length in range(0, 64):
            found = sniff_bytes(data[:length])
            assert found is None or found.kind == {"a.exr": "exr", "a.tif": "tiff"}[name]
    assert sniff_bytes(b"") is None and sniff_bytes(io.BytesIO(b"no image").read()) is None
    assert sniff_file(tmp_path / "missing.png") is None
    for text in ("", "[]", "{}", '{"kind": "png", "dtype": "object", "channels": 3}'):
        assert FileFormat.from_json(text) is None


@pytest.mark.parametrize("shape", [(1, 1, 3), (300, 7, 4), (256, 33, 3), (513, 20, 4)])
def test_a_packed_png_has_the_same_samples(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    if shape[2] == 4:
        pixels[0, 0, 3] = 7
    (tmp_path / "a.png").write_bytes(png.encode(pixels))
    if min(shape[:2]) > 1:
        assert np.array_equal(read_map(tmp_path / "a.png").pixels, pixels)
    assert sniff_file(tmp_path / "a.png") == FileFormat("png", "uint8", shape[2])
    if shape[2] == 4:
        pixels[..., 3] = 255
        (tmp_path / "a.png").write_bytes(png.encode(pixels))
        assert np.array_equal(read_map(tmp_path / "a.png").pixels, pixels[..., :3])
