"""Rasterise triangle meshes into maps of interpolated vertex attributes, on any device.

Smooth vertex normals are interpolated barycentrically: flat facets would teach the network a pattern that
no capture has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
Bool = NDArray[np.bool_]

#: Weights this far below zero still count as inside, so that no texel falls between two triangles.
EDGE = 1e-4
#: About how many texels of triangles' rectangles are looked at at once, for the memory that they take.
AT_ONCE = 1 << 20
#: Stands for a texel without a triangle.
NOTHING = torch.iinfo(torch.int64).max


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


class Mesh:
    """A head's surface on a device, to be looked at from several cameras.

    Args:
        vertices: (n, 3) positions.
        normals: (n, 3) smooth unit normals.
        triangles: (m, 3) vertex indices.
        device: where it is rendered.
    """

    def __init__(self, vertices: F32, normals: F32, triangles: I32, device: str = "cpu"):
        self.vertices, self.normals = (torch.from_numpy(v).float().to(device) for v in (vertices, normals))
        self.triangles = torch.from_numpy(triangles).long().to(device)


def rasterize(places: Tensor, depth: Tensor, triangles: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Find the nearest triangle at the middle of each texel of a square picture: a z-buffer.

    Each triangle is held against the texels of the rectangle around it, many at once, and at each texel the
    smallest pair of depth and number wins: the answer is the same each time. The weights of a triangle's
    corners and its inverse depth are planes over the picture (J. Pineda, "A Parallel Algorithm for Polygon
    Rasterization", 1988); on the surface, which perspective foreshortens, each weight counts with its
    corner's inverse depth.

    Args:
        places: (n, 2) column and row of each vertex; the middle of the first texel is at (0, 0).
        depth: (n,) how far away it is; triangles with a corner that is not before the eye are left out.
        triangles: (m, 3) vertex indices.
        size: side of the picture.

    Returns:
        (size * size,) the triangle's number, -1 for none, and (size * size, 3) the weights of its corners.
    """
    corners = places[triangles]
    low = corners.amin(dim=1).clamp(0, size).ceil()
    high = corners.amax(dim=1).clamp(-1, size - 1).floor()
    span = (high - low + 1).clamp_min(0)
    there = (span.prod(dim=1) * (depth[triangles] > 0).all(dim=1)).nonzero()[:, 0]
    low, span, near = low[there], span[there], 1 / depth[triangles[there]]
    # In texels from the rectangle's first one, where numbers are small and differences exact.
    x, y = (corners[there] - low[:, None]).unbind(dim=2)
    (x1, x2), (y1, y2) = ((axis.roll(-1, 1), axis.roll(-2, 1)) for axis in (x, y))
    planes = torch.stack([y1 - y2, x2 - x1, x1 * y2 - x2 * y1], dim=2)
    planes = planes / planes[:, :, 2].sum(dim=1)[:, None, None]
    planes = torch.cat([planes, (near[:, :, None] * planes).sum(dim=1, keepdim=True)], dim=1)

    count = span.prod(dim=1).long()
    ends = count.cumsum(0)
    first = torch.full((size * size,), NOTHING, device=places.device)
    limits = torch.arange(AT_ONCE, int(count.sum()) + AT_ONCE, AT_ONCE, device=ends.device)
    stops = sorted(set((torch.searchsorted(ends, limits) + 1).clamp_max(len(count)).tolist()))
    for start, stop in zip([0, *stops], stops, strict=False):
        some = count[start:stop]
        number = torch.repeat_interleave(some)
        before = ends[start:stop] - ends[start] + count[start] - some
        place = (torch.arange(len(number), device=number.device) - before[number]).float()
        number += start
        width = span[number, 0]
        row = torch.floor((place + 0.5) / width)
        column = place - row * width
        values = _at(planes[number], column, row)
        inside = (values[:, :3].amin(dim=1) > -EDGE).nonzero()[:, 0]
        number = number[inside]
        # Whole numbers: from 4096 x 4096 texels on, 32-bit floats leave every other one out.
        corner = low[number].long()
        texel = (corner[:, 1] + row[inside].long()) * size + corner[:, 0] + column[inside].long()
        # As whole numbers the bits of positive floats have the floats' order.
        rank = ((1 / values[inside, 3]).view(torch.int32).long() << 32) | number
        first.scatter_reduce_(0, texel, rank, "amin")
    struck = (first != NOTHING).nonzero()[:, 0]
    number = first[struck] & 0xFFFFFFFF
    corner = low[number].long()
    row, column = struck // size - corner[:, 1], struck % size - corner[:, 0]
    weights = _at(planes[number, :3], column.float(), row.float()).clamp_min(0) * near[number]
    index = torch.full_like(first, -1)
    index[struck] = there[number]
    found = weights.new_zeros(size * size, 3)
    found[struck] = weights / weights.sum(dim=1, keepdim=True)
    return index, found


def _at(planes: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """Planes (k, p, 3), each a slope along columns, one along rows, and a value, at a place: (k, p)."""
    a, b, c = planes.unbind(dim=2)
    return torch.addcmul(torch.addcmul(c, a, column[:, None]), b, row[:, None])


def interpolate(values: Tensor, triangles: Tensor, weights: Tensor) -> Tensor:
    """Interpolate vertex values (n, 3) in triangles (k, 3) at weights (k, 3), giving (k, 3)."""
    return (weights[:, :, None] * values[triangles]).sum(dim=1)


#: Gives surfaces texture: from (k, 3) positions and unit normals in the head's frame and the (k,) triangles
#: they lie on, the (k, 3) unit normals with texture.
Bump = Callable[[Tensor, Tensor, Tensor], Tensor]


def render_camera(
    mesh: Mesh, camera: Camera, size: int, oversample: int = 1, bump: Bump | None = None
) -> tuple[F32, Bool]:
    """Render a camera-space normal map, on the mesh's device.

    Args:
        mesh: the surface.
        camera: where to look from.
        size: side of the square picture.
        oversample: texels that are looked at per texel and axis; their mean is made a unit vector.
        bump: gives the surface texture; None leaves it smooth.

    Returns:
        (size, size, 3) unit normals in the camera's frame (zero where there is no surface), and the (size,
        size) map of surface: a texel counts when there is surface on at least half of it.
    """
    n = size * oversample
    device = mesh.vertices.device
    rotation = torch.from_numpy(camera.rotation()).to(device)
    target = torch.tensor(camera.target, dtype=torch.float32, device=device)
    distance = camera.width / 2 / np.tan(camera.fov / 2)
    seen = (mesh.vertices - target) @ rotation.T
    depth = distance - seen[:, 2]
    scale = n * distance / camera.width / depth[:, None]
    places = seen[:, :2] * scale * torch.tensor([1.0, -1.0], device=device) + (n - 1) / 2
    index, weights = rasterize(places, depth, mesh.triangles, n)
    struck = (index >= 0).nonzero()[:, 0]
    index, weights = index[struck], weights[struck]
    corners = mesh.triangles[index]
    normals = functional.normalize(interpolate(mesh.normals, corners, weights), dim=1)
    where = interpolate(mesh.vertices, corners, weights)
    if bump is not None:
        normals = bump(where, normals, index)
    normals = normals @ rotation.T
    ray = (where - target) @ rotation.T - torch.tensor([0.0, 0.0, distance], device=device)
    # A hit on the inside of the shell (through the open neck) is not skin.
    outside = (normals * functional.normalize(ray, dim=1)).sum(dim=1) < 0.2
    picture = normals.new_zeros(n * n, 4)
    picture[struck[outside], :3] = normals[outside]
    picture[struck[outside], 3] = 1
    value = picture.reshape(size, oversample, size, oversample, 4).mean(dim=(1, 3))
    length = torch.linalg.vector_norm(value[..., :3], dim=-1)
    valid = (value[..., 3] >= 0.5) & (length > 1e-4)
    unit = value[..., :3] / length.clamp_min(1e-8)[..., None] * valid[..., None]
    return unit.cpu().numpy(), valid.cpu().numpy()


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
        places = torch.from_numpy(np.stack([uv[:, 0], 1 - uv[:, 1]], axis=1) * size - 0.5).float()
        index, weights = rasterize(places, torch.ones(len(uv)), torch.from_numpy(triangles).long(), size)
        return cls(index.numpy().astype(np.int32).reshape(size, size), weights.numpy().reshape(size, size, 3))

    def gather(self, values: F32, triangles: I32) -> tuple[F32, Bool]:
        """Map vertex vectors into the layout.

        Args:
            values: (n, 3) vectors at the vertices of the shape.
            triangles: (m, 3) vertex indices in the order of the layout's triangles.

        Returns:
            (size, size, 3) unit vectors, zero in the gaps, and the (size, size) map of surface.
        """
        valid = self.index >= 0
        out = np.zeros((*self.index.shape, 3), np.float32)
        corners = values[triangles[self.index[valid]]]
        found = np.einsum("kc,kcd->kd", self.weights[valid], corners)
        out[valid] = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-8)
        return out, valid
