"""The part of the benchmark that runs inside Blender: one engine, the operator as a user calls it.

`python -m benchmarks` starts this file with the interpreter that has the bpy wheel; the last line it prints
is one JSON object.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

import bpy

PACKAGE = "bl_ext.user_default.normal_inpaint"


def load(path: Path) -> bpy.types.Image:
    """Opens an image as Non-Color and reads its pixels, so that no run is charged for the file."""
    image = bpy.data.images.load(str(path))
    image.colorspace_settings.name = "Non-Color"
    assert len(image.pixels) > 0
    return image


def main(arguments: list[str]) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--extension", type=Path, required=True)
    parser.add_argument("--maps", type=Path, required=True, help="the folder that benchmarks.maps filled")
    parser.add_argument("--engine", choices=("onnx", "torch"), required=True)
    parser.add_argument("--python", default="", help="the Python that has PyTorch")
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("sides", type=int, nargs="+")
    options = parser.parse_args(arguments)

    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.extensions.package_install_files(
        filepath=str(options.extension), repo="user_default", enable_on_install=True
    )
    chosen: Any = bpy.context.preferences.addons[PACKAGE].preferences
    chosen.engine, chosen.python = options.engine, options.python
    operators: Any = bpy.ops.normal_inpaint
    settings: Any = bpy.context.scene.normal_inpaint
    jobs: Any = importlib.import_module(f"{PACKAGE}.addon.jobs")
    preferences: Any = importlib.import_module(f"{PACKAGE}.addon.preferences")
    memory = load_memory()

    starts: list[float] = []
    for _ in range(options.runs):
        jobs.client_for(preferences.worker_options()).close()
        started = time.perf_counter()
        assert operators.test_engine() == {"FINISHED"}
        starts.append(time.perf_counter() - started)

    seconds: dict[str, list[float]] = {}
    for side in options.sides:
        source, mask = load(options.maps / f"{side}.png"), load(options.maps / f"{side}_mask.png")
        settings.mask = mask
        seconds[str(side)] = []
        for _ in range(options.runs):
            settings.image = source
            before = set(bpy.data.images)
            started = time.perf_counter()
            assert operators.inpaint() == {"FINISHED"}
            seconds[str(side)].append(time.perf_counter() - started)
            settings.image = None
            for image in set(bpy.data.images) - before:
                bpy.data.images.remove(image)
        settings.mask = None
        for image in (source, mask):
            bpy.data.images.remove(image)
    client = jobs.client_for(preferences.worker_options())
    found = {
        "blender": bpy.app.version_string,
        "engine": f"{client.hello.engine}, {client.hello.device}",
        "start": starts,
        "seconds": seconds,
        "peak_mb": memory.peak_mb(),
        "worker_peak_mb": memory.peak_mb(client.hello.pid),
    }
    bpy.ops.preferences.addon_disable(module=PACKAGE)
    print(json.dumps(found), flush=True)
    return 0


def load_memory() -> Any:
    """The module beside this file, which is run by path."""
    spec = importlib.util.spec_from_file_location("memory", Path(__file__).with_name("memory.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
