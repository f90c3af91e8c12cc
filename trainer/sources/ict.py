"""Heads drawn from the ICT Face Model Light (USC Institute for Creative Technologies, MIT licence).

Its 100 identity modes were measured on light-stage scans. Read here from the packed file; see
`docs/training.md` for what the file holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .raycast import F32, I32, triangulate, vertex_normals


@dataclass(frozen=True)
class Head:
    """One head: a surface with a UV layout.

    Attributes:
        vertices: (n, 3) positions, x right, y up, z out of the face.
        normals: (n, 3) smooth unit normals.
        triangles: (m, 3) vertex indices.
        unit: how many of the positions' units make one centimetre.
    """

    vertices: F32
    normals: F32
    triangles: I32
    unit: float = 1.0


class IctModel:
    """The packed ICT Face Model Light.

    Args:
        path: the packed npz file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file lacks one of the model's arrays.
    """

    def __init__(self, path: Path):
        with np.load(path, allow_pickle=False) as data:
            missing = {"vertices", "faces", "uv", "face_uv", "identity", "expression"} - set(data.files)
            if missing:
                raise ValueError(
                    f"{path} is not a packed ICT face model: {', '.join(sorted(missing))} missing"
                )
            self.mean: F32 = data["vertices"].astype(np.float32)
            faces = data["faces"]
            self.identity: F32 = data["identity"] * data["identity_scale"][:, None, None]
            self.expression: F32 = data["expression"] * data["expression_scale"][:, None, None]
            self.expression_names = [str(name) for name in data["expression_names"]]
            names = [str(name) for name in data["materials"]]
            face_material = data["face_material"]
            uv = data["uv"].astype(np.float32)
            face_uv = data["face_uv"]
        self.triangles = triangulate(faces)
        skin = face_material == names.index("M_Face")
        self.face_triangles = triangulate(faces[skin])
        self.face_uv_triangles = triangulate(face_uv[skin])
        self.uv = uv
        self.face_vertices = np.unique(self.face_triangles)

    def head(self, rng: np.random.Generator, expression_rng: np.random.Generator | None = None) -> Head:
        """Draw a person, and an expression.

        Args:
            rng: decides the person: the same state gives the same identity.
            expression_rng: decides the expression; `rng` by default.

        Returns:
            The head, in centimetres.
        """
        spread = rng.uniform(0.7, 1.25)
        weights = rng.normal(size=len(self.identity)) * spread
        shape = self.mean + np.tensordot(weights.astype(np.float32), self.identity, axes=1)
        face = expression_rng or rng
        mood = np.zeros(len(self.expression), np.float32)
        kind = face.random()
        if kind > 0.25:  # A quarter stays neutral: most maps that artists repair are.
            count = int(face.integers(1, 9))
            chosen = face.choice(len(mood), size=min(count, len(mood)), replace=False)
            mood[chosen] = face.uniform(0.1, 1.0, len(chosen)) ** 1.3
            for i, name in enumerate(self.expression_names):  # Most expressions are nearly symmetric.
                if name.endswith("_L") and face.random() < 0.75:
                    twin = name[:-2] + "_R"
                    if twin in self.expression_names:
                        j = self.expression_names.index(twin)
                        top = max(mood[i], mood[j])
                        mood[i] = mood[j] = top
        self._keep_lips_apart(mood)
        shape = shape + np.tensordot(mood, self.expression, axes=1)
        shape = shape.astype(np.float32)
        return Head(shape, vertex_normals(shape, self.triangles), self.triangles)

    def _keep_lips_apart(self, mood: F32) -> None:
        """Bound the shapes that only make sense together: the lips close over a jaw that is open."""
        names = self.expression_names
        if "mouthClose" in names and "jawOpen" in names:
            close, jaw = names.index("mouthClose"), names.index("jawOpen")
            mood[close] = min(mood[close], mood[jaw])
