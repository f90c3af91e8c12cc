"""The morphable model of heads (`core.morphable`): made from random heads of the sources."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from blender_normal_inpaint.core.modelcard import sha256_of

from . import checkpoint
from .files import replacing
from .prepare import HeadModel, person_rng
from .sources.ict import Head
from .sources.raster import F32, I32, Bool, Camera, rasterize, vertex_normals

#: Positions in centimetres count so much beside normals when modes are found.
POSITIONS = 0.05

#: Views from which a triangle must be seen to be kept, of how many; the limits of their turn and nod, and how
#: wide they are, in centimetres, and fine.
SEEN, VIEWS, TURN, NOD, FRAME, TEXELS = 2, 40, 1.2, 0.6, 40.0, 1920

#: Openings of the surface that reach less far from their middle, in centimetres, are closed: triangles
#: smaller than a texel are seldom seen, at a pupil, in an eye's corner, between lips, and what lies behind
#: them showed. Those that were left out come back, and what is open then gets new ones; a pupil made of new
#: ones alone is a star.
OPENING = 0.5

#: Widths of the bumps that change a head freely, in centimetres, and how many there are of the narrowest.
BUMPS, COUNT = (1.0, 2.0, 4.0), 60

#: Displacements are stored in steps of so many centimetres, the same for all modes: the rounding of 280 modes
#: together moves a vertex by 0.04 mm.
STEP = 8e-4

#: Share of them that its other side has, too.
BOTH = 0.75


@dataclass(frozen=True)
class Settings:
    """How the model is made.

    Attributes:
        people: random heads of each source.
        modes: of each family.
        free: how strongly each head is changed by bumps of no anatomy, in centimetres: what the sources'
            heads have in common is not all that heads can have.
        closed: the share of heads whose eyes are closed, as they mostly are in scans.
        seed: of everything drawn.
    """

    people: int = 2400
    modes: int = 280
    free: float = 0.05
    closed: float = 0.3
    seed: int = 1


@dataclass(frozen=True)
class Family:
    """What `core.head.Family` is made of.

    Attributes:
        mean: (n, 3), in centimetres.
        modes: int16 (k, n, 3), in units of `STEP`.
        triangles: (m, 3) vertex indices.
        parents: (n,), of each vertex a neighbour that comes before it, of the first of each piece itself; by
            these vertices are sorted.
        lids: (k,), by how much the modes' weights differ with the eyes closed from what they are with them
            open, on average; zero for all if no eyes were closed.
    """

    mean: F32
    modes: NDArray[np.int16]
    triangles: I32
    parents: I32
    lids: F32


def changed(head: Head, rng: np.random.Generator, strength: float) -> F32:
    """A head's vertices (n, 3) in centimetres, moved by smooth bumps, most of them on both sides.

    That is a sample of a Gaussian process with a kernel of several scales (M. Lüthi, T. Gerig, C. Jud and
    T. Vetter, "Gaussian Process Morphable Models", 2018).

    Args:
        head: the surface.
        rng: decides.
        strength: of a single bump 2 cm wide, in centimetres; 0 changes nothing.
    """
    vertices = (head.vertices / head.unit).astype(np.float32)
    if strength <= 0:
        return vertices
    moved = np.zeros_like(vertices)
    front = np.flatnonzero(head.normals[:, 2] > -0.2)
    middle = (vertices[:, 0].min() + vertices[:, 0].max()) / 2
    mirror = np.array([-1, 1, 1], np.float32)
    for width in BUMPS:
        count = int(COUNT / width**1.5) + 1
        centres = vertices[rng.choice(front, count)]
        moves = rng.normal(0, strength * (width / 2) ** 0.5, (count, 3)).astype(np.float32)
        both = rng.random(count) < BOTH
        twins = (centres[both] - [middle, 0, 0]) * mirror + [middle, 0, 0]
        centres = np.concatenate([centres, twins]).astype(np.float32)
        moves = np.concatenate([moves, moves[both] * mirror])
        square = np.square(vertices).sum(axis=1)[:, None] + np.square(centres).sum(axis=1)
        square -= 2 * vertices @ centres.T
        moved += np.exp(-square / (2 * width * width)) @ moves
    return vertices + moved


def drawn(model: HeadModel, source: str, settings: Settings) -> Iterator[tuple[Head, F32, bool]]:
    """Random heads that no test has seen, their vertices in centimetres, changed freely; eyes closed?"""
    for person in range(settings.people):
        rng = person_rng(source, "train", person, settings.seed)
        lids = rng.uniform(0.6, 1) if rng.random() < settings.closed else 0.0
        head = model.head(rng, lids=lids)
        yield head, changed(head, rng, settings.free), lids > 0


def aligned(shapes: F32, weights: F32) -> F32:
    """Move, turn and scale shapes to their mean: J. C. Gower, "Generalized Procrustes Analysis", 1975.

    Args:
        shapes: (p, n, 3), in centimetres.
        weights: (n,), how much each vertex counts.

    Returns:
        (p, n, 3), their weighted mean at the origin; the mean shape has the size that it had.
    """
    weights = (weights / weights.sum())[:, None]
    shapes = shapes - (weights * shapes).sum(axis=1, keepdims=True)
    mean = shapes.mean(axis=0)
    size = float((weights * mean**2).sum())
    for _ in range(3):
        for number, shape in enumerate(shapes):
            left, values, right = np.linalg.svd((shape * weights).T @ mean)
            signs = np.array([1, 1, np.sign(np.linalg.det(left @ right))], np.float32)
            scale = float((values * signs).sum()) / float((weights * shape**2).sum())
            shapes[number] = scale * shape @ (left * signs @ right)
        mean = shapes.mean(axis=0)
        shapes *= np.float32((size / float((weights * mean**2).sum())) ** 0.5)
        mean = shapes.mean(axis=0)
    return shapes


def importance(mean: F32, triangles: I32) -> F32:
    """How much each vertex (n,) of a mean head counts: the face does, neck and back of the head do not."""
    low, high = mean[:, 1].min(), mean[:, 1].max()
    weights = np.maximum(vertex_normals(mean, triangles)[:, 2] + 0.3, 0)
    result: F32 = (weights * (mean[:, 1] > low + 0.25 * (high - low))).astype(np.float32)
    return result


def visible(shapes: F32, triangles: I32, rng: np.random.Generator) -> Bool:
    """Which triangles (m,) are seen from the front and the sides, of some shapes (p, n, 3) in centimetres."""
    counts = np.zeros(len(triangles), np.int64)
    index = torch.from_numpy(triangles).long()
    for number in range(VIEWS):
        shape = shapes[number % len(shapes)]
        camera = Camera((0, 0, 0), FRAME, rng.uniform(-TURN, TURN), rng.uniform(-NOD, NOD))
        turned = shape @ camera.rotation().T
        places = turned[:, :2] * [TEXELS / FRAME, -TEXELS / FRAME] + TEXELS / 2
        depth = torch.from_numpy((1000 - turned[:, 2]).astype(np.float32))
        struck, _ = rasterize(torch.from_numpy(places.astype(np.float32)), depth, index, TEXELS)
        there = np.unique(struck[struck >= 0].numpy())
        normals = vertex_normals(turned.astype(np.float32), triangles)
        counts[there[normals[triangles[there]].sum(axis=1)[:, 2] > 0]] += 1
    return counts >= SEEN


def missed(mean: F32, triangles: I32, seen: Bool) -> Bool:
    """Which triangles (m,) lie in small openings of what is seen: pieces of the surface beside it.

    Args:
        mean: (n, 3) vertices, in centimetres.
        triangles: (m, 3) vertex indices.
        seen: (m,), which of them are.
    """
    corners = [np.sort(triangles[:, [i, (i + 1) % 3]], axis=1) for i in range(3)]
    _, edge = np.unique(np.concatenate(corners), axis=0, return_inverse=True)
    owner = np.tile(np.arange(len(triangles)), 3)
    joined = sparse.coo_matrix((np.ones(len(owner)), (owner, edge.reshape(-1)))).tocsr()
    unseen = np.flatnonzero(~seen)
    result = np.zeros_like(seen)
    count, piece = csgraph.connected_components(joined[unseen] @ joined[unseen].T)
    beside = np.asarray((joined[unseen] @ (joined[np.flatnonzero(seen)].sum(axis=0).T)) > 0).reshape(-1)
    order = np.argsort(piece, kind="stable")
    for part in np.split(order, np.searchsorted(piece[order], np.arange(1, count))):
        points = mean[np.unique(triangles[unseen[part]])]
        if beside[part].any() and np.linalg.norm(points - points.mean(axis=0), axis=1).max() < OPENING:
            result[unseen[part]] = True
    return result


def openings(mean: F32, triangles: I32) -> list[list[int]]:
    """Small openings of a surface: the vertices around each, so that what closes it faces outwards.

    Args:
        mean: (n, 3) vertices, in centimetres.
        triangles: (m, 3) vertex indices, counter-clockwise seen from outside.
    """
    edges = {(a, b) for corner in range(3) for a, b in triangles[:, [corner, (corner + 1) % 3]].tolist()}
    # Along a rim the surface lies on the other side: what closes it runs the other way.
    after: dict[int, list[int]] = {}
    for a, b in sorted(edges):
        if (b, a) not in edges:
            after.setdefault(b, []).append(a)
    there = {tuple(sorted(triangle)) for triangle in triangles.tolist()}
    found: list[list[int]] = []
    while after:
        path = [next(iter(after))]
        while path[-1] in after:
            ways = after[path[-1]]
            path.append(ways.pop())
            if not ways:
                del after[path[-2]]
            # Where a path meets itself a rim is done, and what led to it waits.
            first = path.index(path[-1])
            if first < len(path) - 1:
                rim, path = path[first:-1], path[: first + 1]
                reach = np.linalg.norm(mean[rim] - mean[rim].mean(axis=0), axis=1).max()
                # A triangle by itself is no opening.
                if reach < OPENING and tuple(sorted(rim)) not in there:
                    found.append(rim)
    return found


def filled(triangles: I32, rims: list[list[int]], first: int) -> I32:
    """Triangles (m, 3) and more of them: from each rim to a vertex of its own, from number `first` on."""
    fans = [
        (a, b, first + number)
        for number, rim in enumerate(rims)
        for a, b in zip(rim, rim[1:] + rim[:1], strict=True)
    ]
    return np.concatenate([triangles, np.array(fans, triangles.dtype).reshape(-1, 3)])


def family(model: HeadModel, source: str, settings: Settings) -> Family:
    """Find the mean and the modes of a source's heads: principal components of their normals and positions.

    Raises:
        ValueError: there are fewer people than modes.
    """
    if settings.people <= settings.modes:
        raise ValueError(f"{settings.modes} modes need more than {settings.people} people")
    heads = list(drawn(model, source, settings))
    triangles = heads[0][0].triangles
    shapes = np.stack([vertices for _, vertices, _ in heads])
    closed = np.array([shut for *_, shut in heads])
    weights = importance(shapes.mean(axis=0), triangles)
    shapes = aligned(shapes, weights)
    seen = visible(shapes, triangles, np.random.default_rng(settings.seed))
    triangles = triangles[seen | missed(shapes.mean(axis=0), triangles, seen)]
    used, corners = np.unique(triangles, return_inverse=True)
    triangles = corners.reshape(triangles.shape).astype(np.int32)
    shapes, weights = np.ascontiguousarray(shapes[:, used]), weights[used]
    rims = openings(shapes.mean(axis=0), triangles)
    triangles = filled(triangles, rims, shapes.shape[1])
    middles = [shapes[:, rim].mean(axis=1, keepdims=True) for rim in rims]
    shapes = np.concatenate([shapes, *middles], axis=1)
    weights = np.concatenate([weights, [weights[rim].mean() for rim in rims]]).astype(np.float32)
    mean = shapes.mean(axis=0)
    apart = (shapes - mean).reshape(len(shapes), -1)
    normals = np.stack([vertex_normals(shape, triangles) for shape in shapes])
    normals -= normals.mean(axis=0)
    normals *= np.sqrt(weights / weights.sum())[:, None].astype(np.float32)
    weighted = apart * np.repeat(np.sqrt(weights / weights.sum()), 3).astype(np.float32) * POSITIONS
    features = np.concatenate([normals.reshape(len(shapes), -1), weighted], axis=1)
    _, vectors = np.linalg.eigh((features @ features.T).astype(np.float64))
    best = vectors[:, ::-1][:, : settings.modes].T.astype(np.float32)
    modes = (best @ apart).reshape(settings.modes, -1, 3) / np.float32(len(shapes) ** 0.5)
    order, parents = in_levels(mean, triangles)
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order))
    stored = np.rint(modes[:, order] / np.float32(STEP)).astype(np.int16)
    weights = best * np.float32(len(shapes) ** 0.5)  # of the heads: (k, p)
    lids = np.zeros(len(best), np.float32)
    if 0 < np.count_nonzero(closed) < len(closed):
        lids = weights[:, closed].mean(axis=1) - weights[:, ~closed].mean(axis=1)
    return Family(mean[order].astype(np.float32), stored, place[triangles], parents, lids)


def in_levels(points: F32, triangles: I32) -> tuple[I32, I32]:
    """Vertices in an order in which each comes after a neighbour: breadth first, from one of each piece on.

    Args:
        points: (n, 3).
        triangles: (m, 3).

    Returns:
        Their numbers in that order, (n,), and for each place there the place of that neighbour, the nearest
        one of the level before, (n,): the first level's own, and then ever growing ones.
    """
    count = len(points)
    ends = np.concatenate([triangles[:, [i, (i + j) % 3]] for i in range(3) for j in (1, 2)])
    length = np.linalg.norm(points[ends[:, 0]] - points[ends[:, 1]], axis=1)
    ends = ends[np.argsort(length, kind="stable")]
    graph = sparse.coo_matrix((np.ones(len(ends)), tuple(ends.T)), shape=(count, count))
    _, piece = csgraph.connected_components(graph)
    level = np.unique(piece, return_index=True)[1]
    place = np.full(count, -1)
    place[level] = np.arange(len(level))
    order, parents = [level], [np.arange(len(level))]
    while level.size:
        out = ends[(place[ends[:, 0]] >= 0) & (place[ends[:, 1]] < 0)]
        level, nearest = np.unique(out[:, 1], return_index=True)
        parent = place[out[nearest, 0]]
        sorting = np.argsort(parent, kind="stable")
        level, parent = level[sorting], parent[sorting]
        place[level] = sum(map(len, order)) + np.arange(len(level))
        order.append(level)
        parents.append(parent)
    return np.concatenate(order).astype(np.int32), np.concatenate(parents).astype(np.int32)


def write(
    families: dict[str, Family],
    folder: Path,
    settings: Settings,
    sources: Sequence[dict[str, Any]],
    version: str,
    licence: str,
) -> Path:
    """Write the model as `head_shapes.npz`, and its card beside it.

    Args:
        families: by their sources' names.
        folder: where they go.
        settings: they were made with.
        sources: what the model was made from, for the card; with a `notice`, if one must go with it.
        version: of the model.
        licence: of it.

    Returns:
        The path of the model.
    """
    arrays: dict[str, Any] = {"names": np.array(list(families))}
    for number, one in enumerate(families.values()):
        # Neighbours move alike: what is left of a vertex's moves without its parent's are small numbers.
        first = one.parents == np.arange(len(one.parents))
        steps = one.modes - np.where(first[:, None], 0, one.modes[:, one.parents])
        steps = np.moveaxis(steps, 1, 2)
        # The sign goes to the lowest bit: the upper bytes are nearly all zero, whatever it is.
        folded = ((steps << 1) ^ (steps >> 15)).view(np.uint16)
        parts = {
            "mean": one.mean,
            "steps": np.stack([folded & 255, folded >> 8]).astype(np.uint8),
            "parents": one.parents.astype(np.uint16),
            "unit": np.float32(STEP),
            "triangles": one.triangles.astype(np.uint16),
            "lids": one.lids,
        }
        arrays |= {f"{name}{number}": value for name, value in parts.items()}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "head_shapes.npz"
    with replacing(path, "The model before is kept") as file:
        np.savez_compressed(file, **arrays)
    card = {
        "name": "head_shapes",
        "version": version,
        "created": datetime.now(UTC).date().isoformat(),
        "file": {"file": path.name, "sha256": sha256_of(path), "bytes": path.stat().st_size},
        "training_data": [{k: v for k, v in source.items() if k != "notice"} for source in sources],
        "licence": licence,
        "notices": [source["notice"] for source in sources if "notice" in source],
        "figures": {
            name: {"vertices": len(one.mean), "modes": len(one.modes)} for name, one in families.items()
        },
        "recipe": json.dumps({"revision": checkpoint.git_revision(), **asdict(settings)}),
    }
    text = json.dumps(card, indent=1) + "\n"
    (folder / "head_shapes.json").write_text(text, encoding="utf-8")
    return path
