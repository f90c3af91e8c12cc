"""Contact sheets: input, result, truth, error, and the map under a raking light, one row per map."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from .metrics import angles

F32 = NDArray[np.float32]
Bool = NDArray[np.bool_]

RAKING = np.array([0.75, 0.35, 0.56], np.float32) / np.linalg.norm([0.75, 0.35, 0.56])


def relight(normals: F32, valid: Bool, light: NDArray[np.floating] = RAKING) -> F32:
    """Lambert shading (h, w, 3) in 0..1 of normals (h, w, 3) under one light."""
    shade = np.clip(normals @ light.astype(np.float32), 0, 1) * 0.9 + 0.05
    return np.asarray(np.repeat((shade * valid)[..., None], 3, axis=-1), dtype=np.float32)


def heat(degrees: F32, valid: Bool, top: float = 30.0) -> F32:
    """Colour angular errors (h, w): black at 0 to bright yellow at `top` degrees."""
    scaled = np.clip(degrees / top * 255, 0, 255).astype(np.uint8)
    colour = cv2.applyColorMap(scaled, cv2.COLORMAP_INFERNO)[..., ::-1] / np.float32(255)
    return np.asarray(np.where(valid[..., None], colour, 0), dtype=np.float32)


def row(truth: F32, hole: Bool, valid: Bool, filled: F32) -> F32:
    """One row (h, 6w, 3): input, result, truth, error, relit result, relit truth."""

    def show(n: F32) -> F32:
        return np.where(valid[..., None], n * 0.5 + 0.5, 0).astype(np.float32)

    result = np.where((hole & valid)[..., None], filled, truth)
    damaged = np.where((hole & valid)[..., None], np.float32(1), show(truth))
    return np.concatenate(
        [
            damaged,
            show(result),
            show(truth),
            heat(angles(result, truth), valid),
            relight(result, valid),
            relight(truth, valid),
        ],
        axis=1,
    )


def write(path: Path, rows: list[F32]) -> None:
    """Stack rows and write a PNG."""
    picture = np.concatenate(rows, axis=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    ok, data = cv2.imencode(".png", np.rint(np.clip(picture[..., ::-1], 0, 1) * 255).astype(np.uint8))
    if not ok:
        raise OSError(f"could not encode {path}")
    part = path.with_suffix(".part")
    part.write_bytes(data.tobytes())
    part.replace(path)
