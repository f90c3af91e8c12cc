"""What people use today: fills that know nothing of faces.

Each takes a map (h, w, 3) of unit vectors, the hole and the surface, and returns the repaired map.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse import linalg

F32 = NDArray[np.float32]
Bool = NDArray[np.bool_]
Fill = Callable[[F32, Bool, Bool], F32]


def _unit(vectors: NDArray[np.floating]) -> F32:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    out = np.where(length > 1e-6, vectors / np.maximum(length, 1e-6), np.array([0.0, 0.0, 1.0]))
    return out.astype(np.float32)


def _opencv(normals: F32, hole: Bool, valid: Bool, method: int) -> F32:
    inside = hole & valid
    # The background is given the nearest surface's colour: these methods would drag its black in.
    known = valid & ~hole
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    dressed = np.where((known | inside)[..., None], normals, normals[tuple(nearest)])
    picture = np.rint((dressed * 0.5 + 0.5) * 255).clip(0, 255).astype(np.uint8)
    filled = cv2.inpaint(picture, inside.astype(np.uint8), 5, method).astype(np.float32) / 255 * 2 - 1
    return np.where(inside[..., None], _unit(filled), normals).astype(np.float32)


def telea(normals: F32, hole: Bool, valid: Bool) -> F32:
    """OpenCV's fast marching fill (A. Telea, 2004)."""
    return _opencv(normals, hole, valid, cv2.INPAINT_TELEA)


def navier_stokes(normals: F32, hole: Bool, valid: Bool) -> F32:
    """OpenCV's fluid-flow fill (Bertalmio, Bertozzi and Sapiro, 2001)."""
    return _opencv(normals, hole, valid, cv2.INPAINT_NS)


def _laplace_matrix(valid: Bool) -> tuple[Any, NDArray[np.intp]]:
    """Graph Laplacian of the surface's texels with their up to four neighbours, and each texel's number."""
    number = np.full(valid.shape, -1, np.intp)
    number[valid] = np.arange(np.count_nonzero(valid))
    pairs = []
    for axis in (0, 1):
        a = np.take(number, np.arange(number.shape[axis] - 1), axis=axis).ravel()
        b = np.take(number, np.arange(1, number.shape[axis]), axis=axis).ravel()
        both = (a >= 0) & (b >= 0)
        pairs.append(np.stack([a[both], b[both]]))
    i, j = np.concatenate(pairs, axis=1)
    count = int(number.max()) + 1
    adjacent = sparse.coo_matrix((np.ones(len(i)), (i, j)), shape=(count, count)).tocsr()
    adjacent = adjacent + adjacent.T
    degree = np.asarray(adjacent.sum(axis=1)).ravel()
    return sparse.diags(degree) - adjacent, number


def _solve(normals: F32, hole: Bool, valid: Bool, biharmonic: bool) -> F32:
    inside = hole & valid
    # Only texels near the hole take part: two rings carry all that a fourth-order equation asks.
    near = ndimage.binary_dilation(inside, iterations=3) & valid
    matrix, number = _laplace_matrix(near)
    if biharmonic:
        matrix = (matrix.T @ matrix).tocsr()
    unknown = number[inside]
    fixed = number[near & ~inside]
    known = normals[near & ~inside].astype(np.float64)
    left = matrix[unknown][:, unknown].tocsc()
    right = -(matrix[unknown][:, fixed] @ known)
    # A hole without any known neighbour would make the system singular.
    left = left + 1e-9 * sparse.identity(len(unknown), format="csc")
    solver = linalg.splu(left)
    out = normals.copy()
    out[inside] = _unit(np.stack([solver.solve(right[:, i]) for i in range(3)], axis=-1))
    return out


def harmonic(normals: F32, hole: Bool, valid: Bool) -> F32:
    """The smoothest fill: Laplace's equation on each component, then unit length."""
    return _solve(normals, hole, valid, biharmonic=False)


def biharmonic(normals: F32, hole: Bool, valid: Bool) -> F32:
    """The fill that also goes on with the border's slope: the biharmonic equation, then unit length."""
    return _solve(normals, hole, valid, biharmonic=True)


def patchmatch(normals: F32, hole: Bool, valid: Bool) -> F32:
    """Fill with patches found elsewhere on the surface (Barnes et al., "PatchMatch", 2009).

    Raises:
        ModuleNotFoundError: `pypatchmatch`, which does the work, is not installed or does not load.
    """
    try:
        import patchmatch as library
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(WITHOUT_PATCHMATCH) from error
    if not library.patchmatch_available:
        raise ModuleNotFoundError(WITHOUT_PATCHMATCH)
    inside = hole & valid
    library.set_random_seed(0)
    picture = np.rint((normals * 0.5 + 0.5) * 255).clip(0, 255).astype(np.uint8)
    # Patches of 7 x 7, as in the library's examples; the background is no source.
    filled = library.inpaint(picture, inside, global_mask=~valid, patch_size=3)
    vectors = filled.astype(np.float32) / 255 * 2 - 1
    return np.where(inside[..., None], _unit(vectors), normals).astype(np.float32)


WITHOUT_PATCHMATCH = (
    "the PatchMatch fill needs `pypatchmatch`: python -m pip install pypatchmatch "
    "(the other fills are measured without it)"
)

BASELINES: Mapping[str, Fill] = {
    "Telea": telea,
    "Navier-Stokes": navier_stokes,
    "harmonic": harmonic,
    "biharmonic": biharmonic,
    "PatchMatch": patchmatch,
}


def available(say: Callable[[str], None]) -> dict[str, Fill]:
    """The fills that can run here; says what is missing for the others."""
    fills = dict(BASELINES)
    small, hole = np.zeros((32, 32, 3), np.float32), np.zeros((32, 32), np.bool_)
    small[..., 2] = 1
    hole[12:16, 12:16] = True
    try:
        patchmatch(small, hole, np.ones_like(hole))
    except ModuleNotFoundError as error:
        say(str(error))
        del fills["PatchMatch"]
    return fills
