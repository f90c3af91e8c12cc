"""Heads drawn from the ICT Face Model Light (USC Institute for Creative Technologies, MIT licence).

Its 100 identity modes were measured on light-stage scans. Read here from the folder `FaceXModel/` of OBJ
files as it is downloaded, or from a packed file; see `docs/training.md` for what that holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .raster import F32, I32, Bool, UvTable, triangulate, vertex_normals

FACE = "M_Face"
#: What of the model is rendered. Teeth, gums, lashes and the eyes' wet layers are left out: a capture has
#: them rarely, and the shells around the eyes would hide the eyes.
KEPT = (FACE, "M_BackHead", "M_ScleraLeft", "M_ScleraRight", "M_IrisLeft", "M_IrisRight")
NEUTRAL = "generic_neutral_mesh.obj"

#: What must go with shapes that are made of the model's, word for word.
NOTICE = """\
MIT License

Copyright (c) 2020 USC Institute for Creative Technologies

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""


@dataclass(frozen=True)
class Head:
    """One head: a surface with a UV layout.

    Attributes:
        vertices: (n, 3) positions, x right, y up, z out of the face.
        normals: (n, 3) smooth unit normals.
        triangles: (m, 3) vertex indices.
        unit: how many of the positions' units make one centimetre.
        skin: (m,) which triangles are skin, and no eye; None for all.
    """

    vertices: F32
    normals: F32
    triangles: I32
    unit: float = 1.0
    skin: Bool | None = None


@dataclass(frozen=True)
class ObjMesh:
    """What an OBJ file holds.

    Attributes:
        vertices: (n, 3) positions.
        uv: (m, 2) texture coordinates.
        faces: (f, 4) vertex indices; a triangle has -1 last.
        face_uv: (f, 4) indices into `uv`, likewise.
        face_material: (f,) indices into `materials`.
        materials: names.
    """

    vertices: F32
    uv: F32
    faces: I32
    face_uv: I32
    face_material: I32
    materials: list[str]


def _read_vertices(path: Path) -> F32:
    """The positions (n, 3) of an OBJ file.

    Raises:
        ValueError: there are none, or they are no numbers.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        rows = [line.split()[1:4] for line in file if line.startswith("v ")]
    try:
        vertices = np.array(rows, dtype=np.float32)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if vertices.ndim != 2 or vertices.shape[1:] != (3,):
        raise ValueError(f"{path} holds no vertices: it is no OBJ file, or its download broke off")
    return vertices


def read_obj(path: Path) -> ObjMesh:
    """Read the positions, texture coordinates, materials, and the faces of three or four corners of an OBJ.

    Raises:
        ValueError: the file is damaged, or has a face of another kind.
        FileNotFoundError: there is no such file.
    """
    vertices = _read_vertices(path)
    uv: list[list[str]] = []
    faces: list[list[int]] = []
    face_uv: list[list[int]] = []
    face_material: list[int] = []
    materials: list[str] = []
    material = -1
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            key, *values = line.split() or [""]
            try:
                if key == "vt":
                    uv.append(values[:2])
                elif key == "usemtl":
                    if values[0] not in materials:
                        materials.append(values[0])
                    material = materials.index(values[0])
                elif key == "f":
                    corners = [value.split("/") for value in values]
                    if len(corners) not in (3, 4):
                        raise ValueError("only faces of three and four corners are known")
                    faces.append([int(c[0]) - 1 for c in corners] + [-1] * (4 - len(corners)))
                    face_uv.append([int(c[1]) - 1 for c in corners] + [-1] * (4 - len(corners)))
                    face_material.append(material)
            except (ValueError, IndexError) as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
    if not faces or max(map(max, faces)) >= len(vertices) or max(map(max, face_uv)) >= len(uv):
        raise ValueError(f"{path} holds no faces, or faces of vertices it lacks: its download broke off")
    return ObjMesh(
        vertices,
        np.array(uv, np.float32),
        np.array(faces, np.int32),
        np.array(face_uv, np.int32),
        np.array(face_material, np.int32),
        materials,
    )


@dataclass(frozen=True)
class _Parts(ObjMesh):
    """The model as both forms hold it; displacements (k, n, 3) are in centimetres."""

    identity: F32
    expression: F32
    expression_names: list[str]


def _read_packed(path: Path) -> _Parts:
    with np.load(path, allow_pickle=False) as data:
        missing = {"vertices", "faces", "uv", "face_uv", "identity", "expression"} - set(data.files)
        if missing:
            raise ValueError(f"{path} is not a packed ICT face model: {', '.join(sorted(missing))} missing")
        return _Parts(
            data["vertices"].astype(np.float32),
            data["uv"].astype(np.float32),
            data["faces"],
            data["face_uv"],
            data["face_material"],
            [str(name) for name in data["materials"]],
            data["identity"] * data["identity_scale"][:, None, None],
            data["expression"] * data["expression_scale"][:, None, None],
            [str(name) for name in data["expression_names"]],
        )


def _read_folder(folder: Path) -> _Parts:
    if not (folder / NEUTRAL).exists() and (folder / "FaceXModel" / NEUTRAL).exists():
        folder = folder / "FaceXModel"
    if not (folder / NEUTRAL).exists():
        raise ValueError(f"{folder} is not the FaceXModel folder of the ICT face model: it has no {NEUTRAL}")
    mesh = read_obj(folder / NEUTRAL)
    kept = [mesh.materials.index(name) for name in KEPT if name in mesh.materials]
    there = np.isin(mesh.face_material, kept)
    # Only the vertices of the parts that are kept, renumbered; -1, a triangle's missing corner, stays.
    used = np.unique(mesh.faces[there])
    used = used[used >= 0]
    number = np.full(len(mesh.vertices) + 1, -1, np.int32)
    number[used] = np.arange(len(used))
    others = sorted(p for p in folder.glob("*.obj") if p.name != NEUTRAL)
    identity, expression, names = [], [], []
    for path in others:
        vertices = _read_vertices(path)
        if len(vertices) != len(mesh.vertices):
            raise ValueError(
                f"{path} has {len(vertices)} vertices, {NEUTRAL} has {len(mesh.vertices)}: "
                "its download broke off, or it is of another model"
            )
        moved = (vertices - mesh.vertices)[used]
        if path.stem.startswith("identity"):
            identity.append(moved)
        else:
            expression.append(moved)
            names.append(path.stem)
    if not identity:
        raise ValueError(f"{folder} has no identity000.obj and so on: every person would be the same")
    return _Parts(
        mesh.vertices[used],
        mesh.uv,
        number[mesh.faces[there]],
        mesh.face_uv[there],
        mesh.face_material[there],
        mesh.materials,
        np.stack(identity),
        np.stack(expression) if expression else np.zeros((0, len(used), 3), np.float32),
        names,
    )


class IctModel:
    """The ICT Face Model Light.

    Args:
        path: its `FaceXModel` folder of OBJ files, or the packed npz file.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: a part of the model is missing or damaged.
    """

    def __init__(self, path: Path):
        parts = _read_folder(path) if path.is_dir() else _read_packed(path)
        self.mean: F32 = parts.vertices
        self.identity: F32 = parts.identity
        self.expression: F32 = parts.expression
        self.expression_names = parts.expression_names
        if FACE not in parts.materials:
            raise ValueError(f"{path} has no material {FACE}, which marks the face")
        skin = parts.face_material == parts.materials.index(FACE)
        self.triangles = triangulate(parts.faces)
        covered = [i for i, name in enumerate(parts.materials) if name in (FACE, "M_BackHead")]
        # The second triangles of the quads follow all first ones.
        on = np.isin(parts.face_material, covered)
        quads = parts.faces[:, 3] >= 0 if parts.faces.shape[1] == 4 else np.zeros(len(on), np.bool_)
        self.skin: Bool = np.concatenate([on, on[quads]])
        self.face_triangles = triangulate(parts.faces[skin])
        self.face_uv_triangles = triangulate(parts.face_uv[skin])
        self.uv = parts.uv

    def worn(self) -> tuple[I32, F32]:
        """What of a head the UV layout shows: vertex indices (m, 3) and texture coordinates (m, 3, 2)."""
        return self.face_triangles, self.uv[self.face_uv_triangles]

    def layout(self, size: int) -> Callable[[np.random.Generator], tuple[F32, Bool]]:
        """What draws a random head's object-space map (size, size, 3) in the UV layout, and its surface."""
        table = UvTable.build(self.uv, self.face_uv_triangles, size)
        return lambda rng: table.gather(self.head(rng).normals, self.face_triangles)

    def head(
        self, rng: np.random.Generator, expression_rng: np.random.Generator | None = None, lids: float = 0.0
    ) -> Head:
        """Draw a person, and an expression.

        Args:
            rng: decides the person: the same state gives the same identity.
            expression_rng: decides the expression; `rng` by default.
            lids: how far the eyes are closed, at least, 1 for altogether.

        Returns:
            The head, in centimetres.
        """
        spread = rng.uniform(0.7, 1.25)
        weights = rng.normal(size=len(self.identity)) * spread
        shape = self.mean + np.tensordot(weights.astype(np.float32), self.identity, axes=1)
        face = expression_rng or rng
        mood = np.zeros(len(self.expression), np.float32)
        kind = face.random()
        if kind > 0.25 and len(mood):  # A quarter stays neutral: most maps that artists repair are.
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
        for i, name in enumerate(self.expression_names):
            if name.startswith("eyeBlink"):
                mood[i] = max(mood[i], lids)
            elif name.startswith("eyeWide"):
                mood[i] *= 1 - lids
        shape = shape + np.tensordot(mood, self.expression, axes=1)
        shape = shape.astype(np.float32)
        return Head(shape, vertex_normals(shape, self.triangles), self.triangles, skin=self.skin)

    def _keep_lips_apart(self, mood: F32) -> None:
        """Bound the shapes that only make sense together: the lips close over a jaw that is open."""
        names = self.expression_names
        if "mouthClose" in names and "jawOpen" in names:
            close, jaw = names.index("mouthClose"), names.index("jawOpen")
            mood[close] = min(mood[close], mood[jaw])
