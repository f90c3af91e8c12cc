"""Ray-cast triangle meshes into maps of interpolated vertex attributes, with Embree.

Smooth vertex normals are interpolated barycentrically: flat facets would teach the network a pattern that
no capture has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
Bool = NDArray[np.bool_]


def triangulate(faces: I32) -> I32:
    """Split quads into triangles.

    Args:
        faces: (n, 4) vertex indices; a triangle has -1 in its last place. An (n, 3) array passes through.

    Returns:
        (m, 3) vertex indices, the first triangle of every face first.
    """
    if faces.shape[1] == 3:
        return np.ascontiguousarray(faces, dtype=np.int32)
    quads = faces[faces[:, 3] >= 0]
    return np.concatenate([faces[:, :3], quads[:, [0, 2, 3]]]).astype(np.int32)


def vertex_normals(vertices: F32, triangles: I32) -> F32:
    """Area-weighted smooth normals.

    Args:
        vertices: (n, 3) positions.
        triangles: (m, 3) indices, counter-clockwise seen from outside.

    Returns:
        (n, 3) unit vectors; a vertex without a face gets +z.
    """
    a, b, c = (vertices[triangles[:, i]] for i in range(3))
    face = np.cross(b - a, c - a)
    total = np.zeros((len(vertices), 3))
    for axis in range(3):
        for corner in range(3):
            total[:, axis] += np.bincount(triangles[:, corner], face[:, axis], len(vertices))
    length = np.linalg.norm(total, axis=1, keepdims=True)
    total = np.where(length > 1e-20, total / np.maximum(length, 1e-20), np.array([0.0, 0.0, 1.0]))
    return total.astype(np.float32)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks at a point of the head.

    Attributes:
        target: the point in the middle of the picture, in the head's frame and unit.
        width: how wide the frame is at the target's distance.
        yaw: turn of the head about its vertical axis, radians; positive looks to image right.
        pitch: nod of the head, radians; positive looks up.
        roll: turn of the picture, radians, counter-clockwise.
        fov: full horizontal angle of view, radians; small is a long lens.
    """

    target: tuple[float, float, float]
    width: float
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    fov: float = 0.35

    def rotation(self) -> F32:
        """(3, 3) matrix from the head's frame (x right, y up, z out) to the camera's (the same axes)."""
        cy, sy = np.cos(self.yaw), np.sin(self.yaw)
        cp, sp = np.cos(-self.pitch), np.sin(-self.pitch)
        cr, sr = np.cos(self.roll), np.sin(self.roll)
        yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        return np.asarray(roll @ pitch @ yaw, dtype=np.float32)


class Caster:
    """A mesh in an Embree scene, to be looked at from several cameras."""

    def __init__(self, vertices: F32, triangles: I32):
        from embreex import rtcore_scene
        from embreex.mesh_construction import TriangleMesh

        self.vertices = np.ascontiguousarray(vertices, dtype=np.float32)
        self._triangles = np.ascontiguousarray(triangles, dtype=np.int32)
        self._scene = rtcore_scene.EmbreeScene()
        self._mesh = TriangleMesh(self._scene, self.vertices, self._triangles)

    def cast(self, origins: F32, directions: F32) -> tuple[I32, F32]:
        """Find the first triangle along each ray.

        Args:
            origins: (n, 3) ray origins.
            directions: (n, 3) ray directions.

        Returns:
            (n,) triangle index, -1 for none, and (n, 3) barycentric weights of its corners.
        """
        hit = self._scene.run(
            np.ascontiguousarray(origins, dtype=np.float32),
            np.ascontiguousarray(directions, dtype=np.float32),
            output=True,
        )
        u, v = hit["u"], hit["v"]
        weights = np.stack([1 - u - v, u, v], axis=1).astype(np.float32)
        return hit["primID"].astype(np.int32), weights


def interpolate(values: F32, triangles: I32, index: I32, weights: F32) -> F32:
    """Interpolate vertex values at ray hits, and make them unit vectors.

    Args:
        values: (n, 3) vectors at vertices.
        triangles: (m, 3) vertex indices.
        index: (k,) triangle of each hit; negative ones give anything finite.
        weights: (k, 3) barycentric weights.

    Returns:
        (k, 3) unit vectors.
    """
    corners = triangles[np.maximum(index, 0)]
    out = np.einsum("kc,kcd->kd", weights, values[corners])
    return np.asarray(out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-8), dtype=np.float32)


#: Gives surfaces texture: from (k, 3) positions and unit normals in the head's frame and the (k,) triangles
#: they lie on, the (k, 3) unit normals with texture.
Bump = Callable[[F32, F32, I32], F32]


def render_camera(
    caster: Caster,
    normals: F32,
    triangles: I32,
    camera: Camera,
    size: int,
    oversample: int = 1,
    bump: Bump | None = None,
) -> tuple[F32, Bool]:
    """Render a camera-space normal map.

    Args:
        caster: the mesh.
        normals: (n, 3) smooth vertex normals in the head's frame.
        triangles: (m, 3) vertex indices, the same as the caster's.
        camera: where to look from.
        size: side of the square picture.
        oversample: rays per texel and axis; their mean is made a unit vector.
        bump: gives the surface texture; None leaves it smooth.

    Returns:
        (size, size, 3) unit normals in the camera's frame (zero where there is no surface), and the (size,
        size) map of surface: a texel counts when at least half of its rays hit.
    """
    n = size * oversample
    rotation = camera.rotation()
    distance = camera.width / 2 / np.tan(camera.fov / 2)
    eye = np.asarray(camera.target, dtype=np.float32) + rotation.T @ np.array([0, 0, distance], np.float32)
    line = (np.arange(n, dtype=np.float32) + 0.5) / n - 0.5
    x, y = np.meshgrid(line * camera.width, -line * camera.width)
    rays = np.stack([x, y, np.full_like(x, -distance)], axis=-1).reshape(-1, 3) @ rotation
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    index, weights = caster.cast(np.broadcast_to(eye, rays.shape), rays.astype(np.float32))
    value = interpolate(normals, triangles, index, weights)
    if bump is not None:
        struck = index >= 0
        corners = caster.vertices[triangles[index[struck]]]
        places = np.einsum("kc,kcd->kd", weights[struck], corners)
        value[struck] = bump(places, value[struck], index[struck])
    value = value @ rotation.T
    hit = index >= 0
    # A hit on the inside of the shell (through the open neck) is not skin.
    hit &= np.einsum("kd,kd->k", value, rays @ rotation.T) < 0.2
    value[~hit] = 0
    value = value.reshape(size, oversample, size, oversample, 3).mean(axis=(1, 3))
    share = hit.reshape(size, oversample, size, oversample).mean(axis=(1, 3))
    length = np.linalg.norm(value, axis=-1, keepdims=True)
    valid = (share >= 0.5) & (length[..., 0] > 1e-4)
    value = np.where(valid[..., None], value / np.maximum(length, 1e-8), 0)
    return value.astype(np.float32), valid


@dataclass(frozen=True)
class UvTable:
    """For every texel of a UV layout: its triangle and the barycentric weights in it.

    The layout of one topology never changes, so this is computed once and every head is then a gather.
    """

    index: I32
    weights: F32

    @classmethod
    def build(cls, uv: F32, triangles: I32, size: int) -> UvTable:
        """Rasterise a layout.

        Args:
            uv: (n, 2) texture coordinates in 0..1, v up.
            triangles: (m, 3) indices into `uv`.
            size: side of the square map.

        Returns:
            The table, top row first.
        """
        flat = np.concatenate([uv, np.zeros((len(uv), 1), np.float32)], axis=1).astype(np.float32)
        line = (np.arange(size, dtype=np.float32) + 0.5) / size
        x, y = np.meshgrid(line, 1 - line)
        origins = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3)
        index, weights = Caster(flat, triangles).cast(
            origins.astype(np.float32), np.broadcast_to(np.array([0, 0, -1], np.float32), origins.shape)
        )
        return cls(index.reshape(size, size), weights.reshape(size, size, 3))

    def gather(self, values: F32, triangles: I32) -> tuple[F32, Bool]:
        """Map vertex vectors into the layout.

        Args:
            values: (n, 3) vectors at the vertices of the shape.
            triangles: (m, 3) vertex indices in the order of the layout's triangles.

        Returns:
            (size, size, 3) unit vectors, zero in the gaps, and the (size, size) map of surface.
        """
        valid = self.index >= 0
        out = interpolate(values, triangles, self.index.ravel(), self.weights.reshape(-1, 3))
        out = out.reshape(*self.index.shape, 3)
        out[~valid] = 0
        return out, valid
