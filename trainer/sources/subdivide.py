"""Loop subdivision as a sparse matrix: a topology is refined once, then every head is one product."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from .raster import F32, I32


def _edges(triangles: I32) -> tuple[I32, I32, I32]:
    """Unique edges (e, 2), the edge of each triangle's sides ab, bc, ca (m, 3), and faces per edge (e,)."""
    sides = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    edges, inverse, count = np.unique(np.sort(sides, axis=1), axis=0, return_inverse=True, return_counts=True)
    of_face = np.asarray(inverse).reshape(3, len(triangles)).T
    return edges.astype(np.int32), of_face.astype(np.int32), count.astype(np.int32)


def _children(triangles: I32, of_face: I32, first_edge: int) -> I32:
    a, b, c = triangles.T
    ab, bc, ca = (of_face + first_edge).T
    quarters = [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
    return np.concatenate([np.stack(t, axis=1) for t in quarters]).astype(np.int32)


def loop_matrix(triangles: I32, count: int) -> tuple[Any, I32]:
    """Build one level of Loop subdivision.

    C. Loop, "Smooth Subdivision Surfaces Based on Triangles", 1987, with Warren's vertex weights
    (3/16 for valence three, else 3/(8n)) and the usual cubic-spline rule on open borders.

    Args:
        triangles: (m, 3) vertex indices.
        count: number of vertices.

    Returns:
        A sparse (count + edges, count) matrix from old to new positions, and the (4m, 3) new triangles.
    """
    edges, of_face, faces_per_edge = _edges(triangles)
    inner = faces_per_edge == 2
    # The corner across from each side: c from ab, a from bc, b from ca.
    across = np.stack([triangles[:, 2], triangles[:, 0], triangles[:, 1]], axis=1)
    rows, columns, values = [], [], []

    def add(r: Any, c: Any, v: Any) -> None:
        rows.append(np.asarray(r).ravel())
        columns.append(np.asarray(c).ravel())
        values.append(np.broadcast_to(v, np.asarray(r).shape).ravel())

    edge = np.arange(len(edges)) + count
    near = np.where(inner, 3 / 8, 1 / 2)
    for end in range(2):
        add(edge, edges[:, end], near)
    far = inner[of_face]
    add((of_face + count)[far], across[far], 1 / 8)

    border = np.zeros(count, bool)
    border[edges[~inner].ravel()] = True
    valence = np.bincount(edges.ravel(), minlength=count)
    beta = np.where(valence == 3, 3 / 16, 3 / (8 * np.maximum(valence, 1)))
    everyone = np.arange(count)
    open_sides = np.bincount(edges[~inner].ravel(), minlength=count)
    # A vertex where several borders meet, or one without a face, stays where it is.
    crease = border & (open_sides == 2)
    fixed = (border & ~crease) | (valence == 0)
    centre = np.where(fixed, 1.0, np.where(crease, 3 / 4, 1 - valence * beta))
    add(everyone, everyone, centre)
    for end in range(2):
        here, there = edges[:, end], edges[:, 1 - end]
        soft = ~border[here]
        add(here[soft], there[soft], beta[here[soft]])
        rim = crease[here] & ~inner
        add(here[rim], there[rim], 1 / 8)
    shape = (count + len(edges), count)
    matrix = sparse.csr_matrix(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=shape
    )
    return matrix, _children(triangles, of_face, count)


def split_uv(uv: F32, triangles: I32) -> tuple[F32, I32]:
    """Refine a UV layout linearly, its triangles in the order of `loop_matrix`."""
    edges, of_face, _ = _edges(triangles)
    middle = uv[edges].mean(axis=1)
    return np.concatenate([uv, middle]).astype(np.float32), _children(triangles, of_face, len(uv))
