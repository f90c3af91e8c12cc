"""Meshes in, from the files that they come in. Reading is Trimesh's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .basemesh import MOST, Triangles
from .errors import InpaintError


def read_mesh(path: Path) -> Triangles:
    """Read the mesh that a map lies on: everything in an OBJ, PLY or GLB file that has texture coordinates.

    Raises:
        InpaintError: `bad_mesh` if it cannot be read or has no texture coordinates; `engine_unavailable` if
            Trimesh is not installed.
    """
    try:
        import trimesh
    except ImportError as error:
        raise InpaintError(
            "engine_unavailable",
            "Trimesh, which reads meshes, is not installed for this Python.",
            "Install it with: pip install trimesh",
            str(error),
        ) from error
    try:
        scene: Any = trimesh.load(path, force="scene", process=False)
        parts = [part for part in scene.dump() if isinstance(part, trimesh.Trimesh)]
    except Exception as error:  # its readers raise whatever went wrong in them
        raise InpaintError(
            "bad_mesh", f"The mesh {path.name} could not be read.", detail=str(error)
        ) from error
    layouts = [getattr(part.visual, "uv", None) for part in parts]
    worn = [(part, uv) for part, uv in zip(parts, layouts, strict=True) if uv is not None and len(part.faces)]
    if not worn:
        raise InpaintError("bad_mesh", f"The mesh {path.name} has no surface with texture coordinates.")
    vertices = np.concatenate([np.asarray(part.vertices, np.float32) for part, _ in worn])
    first = np.cumsum([0, *(len(part.vertices) for part, _ in worn)])
    faces = np.concatenate([part.faces + start for (part, _), start in zip(worn, first[:-1], strict=True)])
    uv = np.concatenate([np.asarray(uv, np.float32) for _, uv in worn])
    if len(faces) > MOST:
        raise InpaintError(
            "bad_mesh",
            f"The mesh {path.name} has {len(faces)} triangles, and {MOST} at most can be used.",
            "Use the mesh that the map was baked for, not the one that it was baked from.",
        )
    if not np.isfinite(vertices).all() or not np.isfinite(uv).all():
        raise InpaintError("bad_mesh", f"The mesh {path.name} holds places that are no numbers.")
    # Where texture coordinates have a seam a file has its vertices twice; the surface goes on there.
    vertices, number = np.unique(vertices, axis=0, return_inverse=True)
    return Triangles(vertices, number.reshape(-1)[faces].astype(np.int32), uv[faces])
