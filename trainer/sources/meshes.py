"""A folder of heads as mesh files: a studio's own scans, split by subject."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .folder import Entry, find_entries
from .ict import Head
from .raster import F32, vertex_normals

SUFFIXES = (".obj", ".ply", ".stl", ".glb")

#: Vertices below which a mesh is no head with a face on it.
FEWEST = 500

#: In so many directions it is looked which way the outermost vertex faces.
DIRECTIONS = 256


def find_meshes(root: Path) -> list[Entry]:
    """List a folder's meshes, one entry for each.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: it holds no meshes.
    """
    return find_entries(root, SUFFIXES, "meshes of heads")


def read_head(path: Path, up_axis: str = "y") -> Head:
    """Read a head: a scan, as it is, hair and clothes included.

    The unit is guessed from its size, as the power of ten that makes its longest side 10 to 100 centimetres.

    Args:
        path: an OBJ, PLY, STL or GLB file.
        up_axis: "y", and it looks along z; or "z" for Blender's axes, where it looks along -y.

    Raises:
        ValueError: the file cannot be read, or holds no such mesh.
    """
    import trimesh

    try:
        mesh = trimesh.load(path, force="mesh", process=False)
    except Exception as error:  # its readers raise whatever went wrong in them
        raise ValueError(f"{path} cannot be read as a mesh: {error}") from error
    if not isinstance(mesh, trimesh.Trimesh) or len(mesh.vertices) < FEWEST:
        raise ValueError(f"{path} holds no mesh of a head: it has fewer than {FEWEST} vertices")
    # Where texture coordinates have a seam a file has its vertices twice; the surface goes on there.
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    mesh.update_faces(mesh.nondegenerate_faces())
    mesh.remove_unreferenced_vertices()
    vertices = np.asarray(mesh.vertices, np.float64)
    if not np.isfinite(vertices).all() or not np.ptp(vertices, axis=0).min() > 0:
        raise ValueError(
            f"{path} holds no surface of a head: it is flat, or has vertices that are no numbers"
        )
    if up_axis == "z":
        vertices = np.stack([vertices[:, 0], vertices[:, 2], -vertices[:, 1]], axis=1)
    vertices = (vertices - (vertices.min(axis=0) + vertices.max(axis=0)) / 2).astype(np.float32)
    triangles = np.ascontiguousarray(mesh.faces, np.int32)
    normals = vertex_normals(vertices, triangles)
    if not _outwards(vertices, normals):  # wound the other way round
        triangles, normals = triangles[:, ::-1].copy(), -normals
    if not (normals[:, 2] > 0.5).any():
        raise ValueError(f"{path} shows no face along +z (or -y, with z up): which way is up in it?")
    unit = 10.0 ** (np.floor(np.log10(np.ptp(vertices, axis=0).max())) - 1)
    return Head(vertices, normals, triangles, float(unit))


def _outwards(vertices: F32, normals: F32) -> bool:
    """Whether the normals (n, 3) of a surface point out of it, as its outermost vertices tell.

    Others may not: a head to be printed is a shell with an inner side, and a scan may have a throat.
    """
    directions = np.random.default_rng(0).normal(size=(DIRECTIONS, 3))
    outermost = np.argmax(vertices @ directions.T, axis=0)
    return bool((normals[outermost] * directions).sum() >= 0)
