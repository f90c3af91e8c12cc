"""The worker as it ships: its boot file, server and engines in a real subprocess, with a small real graph."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic import disc, map_of, wavy_normals

import blender_normal_inpaint
from blender_normal_inpaint.core import morphable
from blender_normal_inpaint.core.engine import Crop, Wide
from blender_normal_inpaint.core.errors import InpaintError
from blender_normal_inpaint.core.files import read_map, read_mask
from blender_normal_inpaint.core.fill import LocalFiller
from blender_normal_inpaint.core.head import Head, View
from blender_normal_inpaint.core.modelcard import INPUT_CHANNELS
from blender_normal_inpaint.worker import boot
from blender_normal_inpaint.worker.client import WorkerClient, WorkerOptions, clean_environment
from blender_normal_inpaint.worker.engines import create_engine
from blender_normal_inpaint.worker.protocol import CROP_TYPES

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

PACKAGE = Path(blender_normal_inpaint.__file__).parent
posix_only = pytest.mark.skipif(os.name != "posix", reason="uses a shell script as a Python")


def write_graph(path: Path) -> None:
    """A network by hand: the blurred known normals, leaning towards the viewer, at unit length."""
    helper, kinds = onnx.helper, onnx.TensorProto
    kernel = np.zeros((3, len(INPUT_CHANNELS), 9, 9), np.float32)
    kernel[range(3), range(3)] = 1 / 81
    constants = {
        "kernel": kernel,
        "bias": np.array([0, 0, 0.1], np.float32),
        "axes": np.array([1]),
    }
    nodes = [
        helper.make_node("Conv", ["crop", "kernel", "bias"], ["soft"], pads=[4, 4, 4, 4]),
        helper.make_node("ReduceL2", ["soft", "axes"], ["length"], keepdims=1),
        helper.make_node("Div", ["soft", "length"], ["normals"]),
    ]
    graph = helper.make_graph(
        nodes,
        "by_hand",
        [helper.make_tensor_value_info("crop", kinds.FLOAT, ["n", len(INPUT_CHANNELS), "h", "w"])],
        [helper.make_tensor_value_info("normals", kinds.FLOAT, ["n", 3, "h", "w"])],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    # Nothing newer than what the oldest supported runtime reads.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


@pytest.fixture
def card(tmp_path: Path) -> Path:
    folder = tmp_path / "Gewichte für alle"
    folder.mkdir()
    write_graph(folder / "hand.onnx")
    data = (folder / "hand.onnx").read_bytes()
    fields = {
        "name": "hand",
        "version": "7",
        "spaces": ["tangent", "object", "camera"],
        "input_channels": list(INPUT_CHANNELS),
        "working_size": 64,
        "size_multiple": 16,
        "generator": {"kind": "by hand"},
        "files": {
            "onnx": {"file": "hand.onnx", "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        },
    }
    path = folder / "hand.json"
    path.write_text(json.dumps(fields), encoding="utf-8")
    return path


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package under another name, whose `__init__` must not run."""
    target = tmp_path / "Blender 4.2" / "extensions" / "normal_inpaint"
    for part in ("core", "worker", "nets"):
        shutil.copytree(PACKAGE / part, target / part, ignore=shutil.ignore_patterns("__pycache__"))
    (target / "models").mkdir()
    for heads in (PACKAGE / "models").glob("head_*"):
        shutil.copy(heads, target / "models")
    (target / "__init__.py").write_text("raise AssertionError('the worker ran the package')\n")
    return target


@pytest.fixture
def options(tmp_path: Path, package: Path, card: Path) -> WorkerOptions:
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    return WorkerOptions(
        python=Path(sys.executable),
        package_dir=package,
        engine="onnx",
        weights=card,
        temp_dir=jobs,
        threads=1,
    )


@pytest.fixture
def client(options: WorkerOptions) -> Iterator[WorkerClient]:
    with WorkerClient(options) as client:
        yield client
    assert options.temp_dir is not None
    assert list(options.temp_dir.iterdir()) == []


def make_crop(seed: int = 3) -> Crop:
    hole = disc(90, 120, 40, 60, 20)
    return Crop(wavy_normals(90, 120), hole, np.ones_like(hole), "tangent", seed)


def test_the_worker_computes_what_the_same_process_would(
    client: WorkerClient, card: Path, package: Path
) -> None:
    seen: list[float] = []
    crop = make_crop()
    result = client.fill(crop, progress=lambda fraction, _: seen.append(fraction))
    local = LocalFiller(create_engine("onnx", device="cpu", card_path=card)[0]).fill(crop)
    np.testing.assert_allclose(result, local, atol=1e-6)
    assert seen == sorted(seen)
    hello = client.hello
    assert hello is not None
    assert (hello.engine, hello.device, hello.model) == ("onnx", "CPU", "hand 7")
    assert hello.weights_sha256 == hashlib.sha256(card.with_suffix(".onnx").read_bytes()).hexdigest()
    assert hello.notices == ()
    assert hello.handles_files
    assert not list(package.rglob("__pycache__"))  # nothing is written in the add-on's folder


def test_all_that_a_crop_can_hold_reaches_the_worker(client: WorkerClient, card: Path) -> None:
    rng = np.random.default_rng(2)
    family = morphable.families(morphable.default_path())[1]
    view = View(np.eye(3), 4.5, 60, 60, 0.01, rng.normal(0, 0.5, 140))
    head = Head(family, view, (120, 120), 0.01)
    normals = map_of(head)
    valid = np.asarray(normals.any(axis=-1))
    hole = disc(120, 120, 50, 75, 14) & valid
    twin = normals * disc(120, 120, 50, 75, 20)[..., None].astype(np.float32)
    crop = Crop(
        np.repeat(np.repeat(normals, 4, 0), 4, 1)[120:300, 200:400],
        np.repeat(np.repeat(hole, 4, 0), 4, 1)[120:300, 200:400],
        np.repeat(np.repeat(valid, 4, 0), 4, 1)[120:300, 200:400],
        "camera",
        twin=np.repeat(np.repeat(twin, 4, 0), 4, 1)[120:300, 200:400],
        wide=Wide(normals, hole, valid, 4, -120, -200, 5, twin, morphable.packed(head)),
    )
    assert crop.arrays().keys() == CROP_TYPES.keys()
    local = LocalFiller(create_engine("onnx", device="cpu", card_path=card)[0])
    np.testing.assert_allclose(client.fill(crop), local.fill(crop), atol=1e-5)
    # It is that head which is believed there.
    turned = replace(view, rotation=np.diag([-1.0, 1.0, -1.0]))
    assert crop.wide is not None
    other = replace(crop, wide=replace(crop.wide, head=morphable.packed(replace(head, view=turned))))
    assert np.abs(client.fill(other) - client.fill(crop))[crop.hole].max() > 0.01


def test_a_worker_answers_request_after_request(client: WorkerClient) -> None:
    first = client.fill(make_crop(1))
    other = client.fill(make_crop(2))
    np.testing.assert_array_equal(client.fill(make_crop(1)), first)
    assert np.abs(first - other).max() > 0  # the seed drives the detail


def test_errors_of_the_core_arrive_whole(client: WorkerClient) -> None:
    crop = make_crop()
    with pytest.raises(InpaintError) as caught:
        client.fill(replace(crop, hole=np.ones_like(crop.hole)))
    assert caught.value.code == "no_context"
    assert "fill_crop" in caught.value.detail  # the traceback from over there
    assert client.alive
    client.fill(crop)


@pytest.mark.parametrize(("damage", "code"), [("flip", "weights_damaged"), ("remove", "weights_missing")])
def test_bad_weights(client: WorkerClient, card: Path, damage: str, code: str) -> None:
    weights = card.with_suffix(".onnx")
    data = bytearray(weights.read_bytes())
    data[100] ^= 255
    weights.unlink()
    if damage == "flip":
        weights.write_bytes(data)
    with pytest.raises(InpaintError) as caught:
        client.fill(make_crop())
    assert caught.value.code == code
    assert "hand.onnx" in caught.value.message


def test_an_engine_whose_import_fails(options: WorkerOptions, tmp_path: Path) -> None:
    broken = tmp_path / "broken wheels"
    (broken / "onnxruntime").mkdir(parents=True)
    (broken / "onnxruntime" / "__init__.py").write_text(
        "print('loading')\nraise ImportError('DLL load failed while importing the runtime')\n"
    )
    with WorkerClient(replace(options, search_paths=(broken,))) as client:
        with pytest.raises(InpaintError) as caught:
            client.fill(make_crop())
        assert caught.value.code == "engine_unavailable"
        assert "DLL load failed" in caught.value.message
        assert "Traceback" in caught.value.detail
        # Saving a file needs no engine.
        assert options.temp_dir is not None
        client.write_map(tmp_path / "still.png", np.zeros((16, 16, 3), np.uint8))
        assert (tmp_path / "still.png").exists()


def test_the_environment_cannot_lead_the_worker_astray(
    client: WorkerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = tmp_path / "evil"
    evil.mkdir()
    for name in ("json.py", "sitecustomize.py", "numpy.py"):
        (evil / name).write_text("raise SystemExit('astray')\n")
    monkeypatch.setenv("PYTHONPATH", str(evil))
    monkeypatch.setenv("PYTHONHOME", str(evil))
    monkeypatch.setenv("PYTHONSTARTUP", str(evil / "json.py"))
    monkeypatch.chdir(evil)
    client.fill(make_crop())


def test_the_clean_environment_keeps_what_the_system_needs() -> None:
    kept = {
        "PATH": "/bin",
        "SystemRoot": "C:\\Windows",
        "CUDA_VISIBLE_DEVICES": "1",
        "HOME": "/root",
        "LANG": "C",
    }
    dropped = {"PYTHONPATH": "x", "PythonHome": "x", "PYTHONSTARTUP": "x", "__PYVENV_LAUNCHER__": "x"}
    assert clean_environment(kept | dropped) == kept


# Boot -------------------------------------------------------------------------------------------------


def test_search_paths_come_before_site_packages_and_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = tmp_path / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    foreign = tmp_path / "lib" / "python3.1" / "site-packages"
    known = tmp_path / "known"
    for folder in (ours, foreign, known):
        folder.mkdir(parents=True)
    here = str(Path(boot.__file__).parent)
    monkeypatch.setattr(sys, "path", [here, "/usr/lib/python", "/usr/lib/site-packages", str(known)])
    notices = boot.extend_path([str(ours), str(foreign), str(tmp_path / "gone"), "relative", str(known)])
    assert sys.path == ["/usr/lib/python", str(ours), "/usr/lib/site-packages", str(known)]
    assert len(notices) == 3
    assert "another Python" in notices[0]
    assert "does not exist" in notices[1]


def start_by_hand(*arguments: str, before: str = "") -> tuple[dict[str, object], int]:
    """Run the boot file with its stdin closed at once; its first message, and its exit status."""
    program = f"{before}\nimport runpy; runpy.run_path({boot.__file__!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], input=b"", capture_output=True, timeout=60
    )
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 1, done
    return json.loads(lines[0]), done.returncode


def test_a_python_that_is_too_old_is_told_so() -> None:
    old = "import sys; sys.version_info = (3, 9, 1, 'final', 0)"
    message, status = start_by_hand("--package-dir", str(PACKAGE), "--job-dir", "x", before=old)
    assert status == 1
    error = message["error"]
    assert isinstance(error, dict)
    assert "too old" in error["message"]
    assert "3.11" in error["hint"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("--package-dir", "/nowhere", "--job-dir", "x"), "incomplete"), (("--nonsense",), "could not start")],
)
def test_a_boot_that_fails_says_why(arguments: tuple[str, ...], words: str) -> None:
    message, status = start_by_hand(*arguments)
    assert (message["type"], status) == ("start_failed", 1)
    error = message["error"]
    assert isinstance(error, dict)
    assert words in error["message"]


@posix_only
def test_a_python_without_numpy(options: WorkerOptions, tmp_path: Path) -> None:
    bare = tmp_path / "bare python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    bare.chmod(0o755)
    with WorkerClient(replace(options, python=bare)) as client, pytest.raises(InpaintError) as caught:
        client.ensure_started()
    assert caught.value.code == "worker_start"
    assert "numpy cannot be imported" in caught.value.message


@posix_only
def test_a_named_python_gets_none_of_blenders_folders(options: WorkerOptions, tmp_path: Path) -> None:
    """Without torch weights its engine cannot start: Blender's own Python takes over, with its folders."""
    named = tmp_path / "named python"
    named.write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/arguments"\nexec "{sys.executable}" "$@"\n')
    named.chmod(0o755)
    numpy_home = Path(np.__file__).parent.parent
    chosen = replace(
        options,
        python=named,
        engine="torch",
        fallback_python=options.python,
        search_paths=(numpy_home,),
    )
    with WorkerClient(chosen) as client:
        client.fill(make_crop())
        assert client.hello is not None
        assert client.hello.engine == "onnx"
        assert "no safetensors weights" in client.hello.notices[0]
    arguments = (tmp_path / "arguments").read_text()
    assert "--path" not in arguments
    assert not arguments.startswith("-s ")  # a torch in the user's own site-packages counts


# Files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dtype", "channels"),
    [("a.png", "uint16", 4), ("b.png", "uint8", 3), ("c.exr", "float16", 4), ("d.tif", "float32", 3)],
)
def test_the_worker_handles_files_bit_by_bit(
    client: WorkerClient, tmp_path: Path, name: str, dtype: str, channels: int
) -> None:
    rng = np.random.default_rng(1)
    if dtype.startswith("uint"):
        pixels = rng.integers(0, np.iinfo(dtype).max, (24, 20, channels), endpoint=True).astype(dtype)
    else:
        pixels = rng.random((24, 20, channels)).astype(dtype)
    target = tmp_path / "Ergebnisse für Käthe"
    target.mkdir()
    client.ensure_started()
    client.write_map(target / name, pixels)
    assert client.alive
    back = read_map(target / name).pixels
    assert back.dtype == pixels.dtype
    np.testing.assert_array_equal(back, pixels)
    assert [path.name for path in target.iterdir()] == [name]
    read = client.read_map(target / name)
    assert read.dtype == pixels.dtype
    np.testing.assert_array_equal(read, pixels)
    mask = client.read_mask(target / name)
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, read_mask(target / name))
    assert mask.any() and not mask.all()


def test_files_are_handled_by_a_worker_without_a_network_where_none_runs(
    client: WorkerClient, tmp_path: Path
) -> None:
    pixels = np.arange(16 * 16 * 3, dtype=np.uint16).reshape(16, 16, 3) * 80
    with client.for_files() as files:
        assert files is not client
        files.write_map(tmp_path / "a.png", pixels)
        assert files.hello is not None and files.hello.engine == "none"
        pid = files.hello.pid
        np.testing.assert_array_equal(files.read_map(tmp_path / "a.png"), pixels)
        assert files.hello.pid == pid
    assert not files.alive and not client.alive
    client.ensure_started()
    with client.for_files() as files:
        assert files is client


def test_a_file_that_cannot_be_read_is_told(client: WorkerClient, tmp_path: Path) -> None:
    client.ensure_started()
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    for name in ("torn.png", "none.png"):
        for read in (client.read_map, client.read_mask):
            with pytest.raises(InpaintError) as caught:
                read(tmp_path / name)
            assert caught.value.code == "unreadable"
    with pytest.raises(InpaintError) as caught:
        client.read_map(tmp_path / "none.png", cancel=lambda: True)
    assert caught.value.code == "cancelled"
    client.fill(make_crop())


def test_a_file_that_cannot_be_written_is_the_only_thing_lost(client: WorkerClient, tmp_path: Path) -> None:
    client.ensure_started()
    pixels = np.zeros((16, 16, 3), np.uint16)
    for path, form, code in (
        (tmp_path / "no folder" / "a.png", None, "not_writable"),
        (tmp_path / "a.jpg", None, "unsupported_format"),
        (tmp_path / "a.bmp", "bmp", "unsupported_format"),
    ):
        with pytest.raises(InpaintError) as caught:
            client.write_map(path, pixels, form)
        assert caught.value.code == code
    assert client.alive
    client.fill(make_crop())


def test_writing_can_be_cancelled(client: WorkerClient, tmp_path: Path) -> None:
    with pytest.raises(InpaintError) as caught:
        client.write_map(tmp_path / "a.png", np.zeros((16, 16, 3), np.uint8), cancel=lambda: True)
    assert caught.value.code == "cancelled"
    assert not (tmp_path / "a.png").exists()


def test_the_client_alone_needs_no_engine() -> None:
    """Blender imports the client: neither engine nor image library may come along."""
    program = (
        "import sys; import blender_normal_inpaint.worker.client;"
        "print([name for name in ('onnxruntime', 'torch', 'OpenImageIO', 'bpy') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=PACKAGE.parent, check=True
    )
    assert done.stdout.strip() == "[]"
    assert importlib.util.find_spec("onnxruntime") is not None
