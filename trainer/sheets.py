"""Contact sheets: a picture that a person can judge, one row per map, with the columns named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from .metrics import angles

F32 = NDArray[np.float32]
Bool = NDArray[np.bool_]

RAKING = np.array([0.75, 0.35, 0.56], np.float32) / np.linalg.norm([0.75, 0.35, 0.56])
#: What `row` shows, from left to right.
COLUMNS = ("damaged", "mask", "result", "truth", "error 0-30 deg", "relit result", "relit truth")
#: Smaller tiles are enlarged, texel by texel, to at least this.
LEAST_TILE = 128
#: Side of the two tiles, the whole and a part, in which a large map is shown.
CLOSE_UP = 512


def relight(normals: F32, valid: Bool, light: NDArray[np.floating] = RAKING) -> F32:
    """Lambert shading (h, w, 3) in 0..1 of normals (h, w, 3) under one light."""
    shade = np.clip(normals @ light.astype(np.float32), 0, 1) * 0.9 + 0.05
    return np.asarray(np.repeat((shade * valid)[..., None], 3, axis=-1), dtype=np.float32)


def heat(degrees: F32, valid: Bool, top: float = 30.0) -> F32:
    """Colour angular errors (h, w): black at 0 to bright yellow at `top` degrees."""
    scaled = np.clip(degrees / top * 255, 0, 255).astype(np.uint8)
    colour = cv2.applyColorMap(scaled, cv2.COLORMAP_INFERNO)[..., ::-1] / np.float32(255)
    return np.asarray(np.where(valid[..., None], colour, 0), dtype=np.float32)


def show(normals: F32, valid: Bool) -> F32:
    """Normals (h, w, 3) as colours in 0..1, black off the surface."""
    return np.where(valid[..., None], normals * 0.5 + 0.5, 0).astype(np.float32)


def damaged(truth: F32, hole: Bool, valid: Bool) -> F32:
    """The map (h, w, 3) as colours, white where it is hidden."""
    return np.where((hole & valid)[..., None], np.float32(1), show(truth, valid))


def row(truth: F32, hole: Bool, valid: Bool, filled: F32) -> F32:
    """One row (h, 7w, 3) of `COLUMNS`."""
    result = np.where((hole & valid)[..., None], filled, truth)
    return np.concatenate(
        [
            damaged(truth, hole, valid),
            np.repeat(hole[..., None], 3, axis=-1).astype(np.float32),
            show(result, valid),
            show(truth, valid),
            heat(angles(result, truth), valid),
            relight(result, valid),
            relight(truth, valid),
        ],
        axis=1,
    )


def rows_of(truth: F32, hole: Bool, valid: Bool, filled: F32) -> list[F32]:
    """A map's rows: one, or of a map larger than 1024 texels the whole made smaller and a part as it is."""
    size = truth.shape[0]
    if size <= 1024:
        return [row(truth, hole, valid, filled)]
    side = CLOSE_UP
    result = np.where((hole & valid)[..., None], filled, truth)

    def shrunk(field: NDArray[np.floating]) -> F32:
        return np.asarray(cv2.resize(field, (side, side), interpolation=cv2.INTER_AREA), np.float32)

    small = [shrunk(n * valid[..., None]) for n in (truth, result)]
    small = [n / np.maximum(np.linalg.norm(n, axis=-1, keepdims=True), 1e-6) for n in small]
    flags = [shrunk(f.astype(np.float32)) >= 0.5 for f in (hole, valid)]
    # Where the hole's border runs through the middle.
    share = cv2.boxFilter((hole & valid).astype(np.float32), -1, (side, side), borderType=cv2.BORDER_CONSTANT)
    inner = share[side // 2 : size - side // 2 + 1, side // 2 : size - side // 2 + 1]
    top, left = np.unravel_index(int(np.argmin(np.abs(inner - 0.5))), inner.shape)
    part = slice(int(top), int(top) + side), slice(int(left), int(left) + side)
    return [
        row(small[0], flags[0], flags[1], small[1]),
        row(truth[part], hole[part], valid[part], filled[part]),
    ]


def _captions(columns: Sequence[str], width: int) -> F32:
    """A strip (24, width * columns, 3) with a name over each column."""
    strip = np.full((24, width * len(columns), 3), 30, np.uint8)
    for i, name in enumerate(columns):
        (length, _), _ = cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 1)
        scale = min(0.5, (width - 8) / max(length, 1))
        at = (i * width + 4, 17)
        cv2.putText(strip, name, at, cv2.FONT_HERSHEY_SIMPLEX, scale, (240, 240, 240), 1, cv2.LINE_AA)
    return strip.astype(np.float32) / np.float32(255)


def sheet(rows: Sequence[F32], columns: Sequence[str] = COLUMNS) -> F32:
    """Stack rows (h, w * columns, 3) under the columns' names."""
    picture = np.concatenate(rows, axis=0)
    tile = picture.shape[1] // len(columns)
    times = -(-LEAST_TILE // tile)
    picture = picture.repeat(times, axis=0).repeat(times, axis=1)
    return np.concatenate([_captions(columns, tile * times), picture], axis=0)


def write(path: Path, rows: Sequence[F32], columns: Sequence[str] = COLUMNS) -> None:
    """Write `sheet` as a PNG.

    Raises:
        OSError: it could not be written.
    """
    picture = sheet(rows, columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    ok, data = cv2.imencode(
        ".png",
        np.rint(np.clip(picture[..., ::-1], 0, 1) * 255).astype(np.uint8),
        [cv2.IMWRITE_PNG_COMPRESSION, 9],
    )
    if not ok:
        raise OSError(f"could not encode {path}")
    part = path.with_suffix(".part")
    part.write_bytes(data.tobytes())
    part.replace(path)
