"""The high-frequency band of a repair: pores and creases continued from the map's own known texels.

The shape in the hole comes from elsewhere, at a resolution too low for pores. Here the known texels are split
into that shape and the detail on top of it (`core.bands`). Creases are taken out of the detail and go on
across the hole by themselves (`core.creases`); what is left is synthesised in it from patches of known detail
(`core.quilting`), its octaves get the strength of those around it (`core.octaves`), what the face's other
half shows is laid over both (`core.twin`), and shape and detail are put together again by rotating the
shape's normal, never by averaging vectors.
"""

from __future__ import annotations

import numpy as np

from .bands import Scene, from_detail, kept, mark_features, roughness, split, tiles
from .creases import Creases, lead, taken_out
from .engine import BoolArray, Cancel, FloatArray, Progress, never_cancel, no_progress
from .errors import Cancelled
from .modelcard import SPACES
from .octaves import CELL, Matched, factors, shape_of
from .quilting import quilt
from .twin import Twin, twin_of


def add_detail(
    base: FloatArray,
    normals: FloatArray,
    hole: BoolArray,
    valid: BoolArray,
    space: str,
    scale: float,
    rng: np.random.Generator,
    *,
    twin: FloatArray | None = None,
    pores: bool = True,
    twin_base: FloatArray | None = None,
    progress: Progress = no_progress,
    cancel: Cancel = never_cancel,
) -> FloatArray:
    """Give the repaired hole the pores and creases of its surroundings.

    Args:
        base: (h, w, 3) unit normals, internal frame: the shape, smooth inside the hole, matching the known
            texels at its border.
        normals: (h, w, 3) unit normals, internal frame; what lies in the hole or in invalid texels isn't
            read.
        hole: (h, w), True where the repair goes.
        valid: (h, w), True on the surface; no other texel is a source or is changed.
        space: "tangent", "object" or "camera".
        scale: Native texels per texel of the resolution at which the shape was made, 1 or more.
        rng: Source of the choice among patches: another state gives other pores on the same shape.
        twin: (h, w, 3) unit normals that the face's other half suggests, at known texels, too; zero where it
            shows nothing. What detail they have in the hole is taken over.
        pores: Whether all of it is, or brows, lids, folds and other features alone.
        twin_base: (h, w, 3) what `base` has of the twin already, in the hole and near it; zero elsewhere.
        progress: Called with a fraction and a short text.
        cancel: Polled; True stops the work.

    Returns:
        (h, w, 3) float32 unit normals: `base`, with detail in ``hole & valid``. A plain copy of `base`
        where the known texels are too few or have no detail.

    Raises:
        ValueError: Shapes that don't go together, an unknown space or a scale that isn't finite.
        Cancelled: `cancel` returned True.
    """
    base = np.asarray(base, np.float32)
    normals = np.asarray(normals, np.float32)
    hole = np.asarray(hole, bool)
    valid = np.asarray(valid, bool)
    if base.ndim != 3 or base.shape[2] != 3 or normals.shape != base.shape:
        raise ValueError(f"base and normals must both be (h, w, 3), got {base.shape} and {normals.shape}")
    if hole.shape != base.shape[:2] or valid.shape != base.shape[:2]:
        raise ValueError(f"masks must be {base.shape[:2]}, got {hole.shape} and {valid.shape}")
    if space not in SPACES:
        raise ValueError(f"unknown space {space!r}")
    if not np.isfinite(scale):
        raise ValueError("scale must be finite")

    def tell(fraction: float) -> None:
        if cancel():
            raise Cancelled()
        progress(fraction, "Adding skin detail")

    area = hole & valid
    if not area.any():
        return base.copy()
    tell(0.0)
    scene = split(base, normals, area, valid & ~hole, space, max(float(scale), 1.0), tell)
    if scene is None:
        return base.copy()
    tell(0.4)
    other = None if twin is None else twin_of(scene, np.asarray(twin, np.float32), pores, twin_base)
    del twin, twin_base  # of a large map as much memory as the result takes
    rough = roughness(scene, CELL)
    mark_features(scene, rough)
    creases = taken_out(scene) if scene.folded else None
    if creases is not None and other is not None:
        lead(creases, scene, other)
    quilted = quilt(scene, rng, tell)
    out = base.copy()
    if not quilted and other is None:
        return out
    _combine(scene, Matched(scene, factors(scene, rough, creases)), creases, other, out)
    tell(1.0)
    return out


def _combine(
    scene: Scene, detail: Matched, creases: Creases | None, other: Twin | None, out: FloatArray
) -> None:
    """Write the filled detail on the base into `out`, texels of the hole only.

    Octaves are matched of what was put together of patches alone: creases and the other half's detail are
    what they are. Where that is all there is, the base's own texture goes, or it would count twice.
    """
    r0, c0 = scene.origin
    for tile in tiles(scene, scene.area):
        mask = scene.area[tile]
        filled, bare = detail.tile(tile), None
        if creases is not None:
            filled += creases.tile(tile)
        filled *= np.float32(scene.strength) * (1 - kept(scene, tile))
        if other is not None:
            share, strength = other.share[tile], 1.0 if other.whole else scene.strength
            filled += (other.detail[tile] * np.float32(strength) - filled) * share
            bare = share if other.whole else None
        full = from_detail(shape_of(scene, tile, mask, bare), filled)
        if scene.turn is not None:
            full = np.einsum("ji,jhw->ihw", scene.turn, full).astype(np.float32)
        rows, cols = np.nonzero(mask)
        out[rows + (tile[0].start + r0), cols + (tile[1].start + c0)] = full[:, rows, cols].T
