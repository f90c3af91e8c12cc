"""Writes the benchmark's maps, and times OpenCV on them.

    python -m benchmarks.maps write FOLDER SIDE...
    python -m benchmarks.maps opencv FOLDER RUNS SIDE...

Runs in the environment of the tests, which has OpenCV; prints one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import memory
from blender_normal_inpaint.core import files

#: How much of each map is to be repaired.
HOLE = 0.05


def skin(side: int, rng: np.random.Generator) -> npt.NDArray[np.uint16]:
    """A tangent-space map of a rough surface: octaves of smooth noise as heights.

    Returns:
        (side, side, 3) uint16.
    """
    height = np.zeros((side, side), np.float32)
    cells = 4
    while cells <= side // 4:
        coarse = rng.normal(size=(cells + 2, cells + 2)).astype(np.float32)
        at = np.arange(side, dtype=np.float32) * (cells / side)
        index = at.astype(int)
        part = at - index
        part = part * part * (3 - 2 * part)
        rows = coarse[index] * (1 - part)[:, None] + coarse[index + 1] * part[:, None]
        height += (rows[:, index] * (1 - part) + rows[:, index + 1] * part) / cells**0.9
        cells *= 2
    slope_y, slope_x = np.gradient(height * side / 24)
    normals = np.stack([-slope_x, slope_y, np.ones_like(height)], axis=2)
    normals /= np.linalg.norm(normals, axis=2, keepdims=True)
    return np.asarray(np.rint((normals * 0.5 + 0.5) * 65535), dtype=np.uint16)


def hole(side: int) -> npt.NDArray[np.bool_]:
    """A disc of `HOLE` of the map's area, off its middle: (side, side) bool."""
    rows, columns = np.mgrid[0:side, 0:side].astype(np.float32) / side
    return np.asarray((rows - 0.56) ** 2 + (columns - 0.42) ** 2 < HOLE / np.pi)


def write(folder: Path, sides: list[int]) -> dict[str, Any]:
    """Writes `<side>.png`, 16 bits with random texels in the hole, and `<side>_mask.png` for every side."""
    rng = np.random.default_rng(5)
    for side in sides:
        pixels, mask = skin(side, rng), hole(side)
        pixels[mask] = rng.integers(0, 65535, size=(int(mask.sum()), 3))
        files.write_map(folder / f"{side}.png", pixels)
        files.write_map(
            folder / f"{side}_mask.png",
            np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * np.uint8(255),
        )
    return {"hole": HOLE}


def opencv(folder: Path, runs: int, sides: list[int]) -> dict[str, Any]:
    """Times cv2.inpaint (Telea, radius 3) on the same maps, which it takes with 8 bits only."""
    import cv2

    seconds: dict[str, list[float]] = {}
    for side in sides:
        pixels = (files.read_map(folder / f"{side}.png").pixels >> 8).astype(np.uint8)
        mask = files.read_mask(folder / f"{side}_mask.png").astype(np.uint8) * np.uint8(255)
        seconds[str(side)] = []
        for _ in range(runs):
            started = time.perf_counter()
            cv2.inpaint(pixels, mask, 3, cv2.INPAINT_TELEA)
            seconds[str(side)].append(time.perf_counter() - started)
    return {"version": cv2.__version__, "seconds": seconds, "peak_mb": memory.peak_mb()}


def main(arguments: list[str]) -> int:
    """See the module."""
    what, folder, *numbers = arguments
    values = [int(number) for number in numbers]
    found = write(Path(folder), values) if what == "write" else opencv(Path(folder), values[0], values[1:])
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
