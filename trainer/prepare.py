"""Make shards of normal maps from a source. Resumable: a shard that is there is not made again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

from blender_normal_inpaint.core.normals import Encoding

from .shards import Shard, encode, read_note, write_note
from .sources.folder import Entry, check_subjects, crops, find_maps, read_entry, split_subjects
from .sources.ict import Head, IctModel
from .sources.makehuman import MakeHumanModel
from .sources.meshes import find_meshes, read_head
from .sources.raster import F32, Bool
from .sources.skin import residual_map, skin_map
from .sources.views import render_views

SPLITS = ("train", "test")
#: Draws a head's object-space map (size, size, 3) in its UV layout, and the (size, size) surface.
Layout = Callable[[np.random.Generator], tuple[F32, Bool]]
# Part of every seed, so that two sources never share their draws.
SOURCE_IDS = {"ict": 1, "ict_uv": 2, "anny": 3, "anny_uv": 4, "skin": 5}


def person_rng(source: str, split: str, person: int, seed: int) -> np.random.Generator:
    """Random state of one person: splits never share a person."""
    return np.random.default_rng([seed, SOURCE_IDS[source], SPLITS.index(split), person])


class HeadModel(Protocol):
    """What draws heads."""

    def head(self, rng: np.random.Generator, *, lids: float = 0.0) -> Head:
        """Draw a head, its eyes closed so far at least: 1 is altogether."""

    def layout(self, size: int) -> Layout:
        """What draws a head's object-space map in the UV layout."""


def camera_views(
    model: HeadModel,
    shard: int,
    *,
    source: str,
    split: str,
    people: int,
    views: int,
    size: int,
    seed: int,
    skin_share: float = 0.0,
    device: str = "cpu",
) -> Shard:
    """Render a shard of camera-space views of random heads, a share of them with skin on."""
    maps, identity, across = [], [], []
    for person in range(shard * people, (shard + 1) * people):
        rng = person_rng(source, split, person, seed)
        head = model.head(rng)
        for normals, valid, direction in render_views(
            head, rng, views, size, skin_share=skin_share, device=device
        ):
            maps.append(encode(normals, valid))
            identity.append(person)
            across.append(direction)
    return Shard(np.stack(maps), np.array(identity, np.int64), "camera", np.stack(across))


def object_maps(layout: Layout, shard: int, *, source: str, split: str, people: int, seed: int) -> Shard:
    """Gather a shard of object-space maps of random heads in their UV layout."""
    maps, identity = [], []
    for person in range(shard * people, (shard + 1) * people):
        maps.append(encode(*layout(person_rng(f"{source}_uv", split, person, seed))))
        identity.append(person)
    return Shard(np.stack(maps), np.array(identity, np.int64), "object")


def skin_tangent(
    layouts: Layout,
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


class _Maker:
    """What a process of `fill_folder` makes; adopted when it is forked, since models are large."""

    make: Callable[[int], Shard]

    @classmethod
    def adopt(cls, make: Callable[[int], Shard]) -> None:
        """Take what is to be made; the shards are spread over processes, so each stays on one thread."""
        import torch

        torch.set_num_threads(1)
        cls.make = make

    @classmethod
    def write(cls, job: tuple[int, Path]) -> tuple[Path, int]:
        """Make and save a shard; returns its path and how many maps it has."""
        number, path = job
        shard = cls.make(number)
        shard.save(path)
        return path, len(shard.normals)


def fill_folder(
    folder: Path,
    name: str,
    count: int,
    make: Callable[[int], Shard],
    say: Callable[[str], None] = print,
    processes: int = 1,
) -> int:
    """Make the shards of a folder that are not there yet, or are damaged.

    Args:
        folder: where they go.
        name: start of each file's name.
        count: how many shards the folder shall hold.
        make: makes the shard of a number.
        say: takes a line of progress.
        processes: how many make shards at the same time, where the system can fork.

    Returns:
        How many were made now.
    """
    jobs = []
    for number in range(count):
        path = folder / f"{name}_{number:04d}.npz"
        if path.exists():
            try:
                Shard.load(path)
                continue
            except ValueError as error:
                say(f"made again: {error}")
        jobs.append((number, path))
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(
            tqdm(
                total=count,
                initial=count - len(jobs),
                desc=f"{folder.name} {name}",
                unit="shard",
                disable=None,
            )
        )
        written: Iterable[tuple[Path, int]]
        if processes > 1 and jobs and "fork" in multiprocessing.get_all_start_methods():
            context = multiprocessing.get_context("fork")
            pool = stack.enter_context(
                context.Pool(min(processes, len(jobs)), initializer=_Maker.adopt, initargs=(make,))
            )
            written = pool.imap_unordered(_Maker.write, jobs)
        else:
            _Maker.make = make
            written = map(_Maker.write, jobs)
        start, maps, there = time.perf_counter(), 0, count - len(jobs)
        for path, some in written:
            maps, there = maps + some, there + 1
            bar.update()
            rate = maps / max(time.perf_counter() - start, 1e-9)
            say(f"{folder.name}/{path.name} written, {there} of {count}: {some} maps, {rate:.1f} maps/s")
    return len(jobs)


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()


def _own_shards(
    out: Path,
    root: Path,
    entries: Sequence[Entry],
    name: str,
    space: str,
    maps_of: Callable[[Entry, np.random.Generator], Iterable[tuple[F32, Bool]]],
    seed: int,
    say: Callable[[str], None],
) -> None:
    """Make shards of a studio's own files, one per subject, split by subject.

    A shard's name tells, by hashes, its subject and the files it was made from, and the space of its maps:
    new files of a subject replace its shard, and a subject stays in the split it once was put in, whatever
    the space.

    Args:
        out: folder of the set.
        root: of the files.
        entries: the files.
        name: start of each shard's name.
        space: of the maps.
        maps_of: makes the maps of a file.
        seed: of what it draws.
        say: takes lines of progress.
    """
    subjects = sorted({entry.subject for entry in entries})
    before = {
        path.stem.split("_")[1]: split for split in SPLITS for path in (out / split).glob(f"{name}_*_*.npz")
    }
    known = {subject: before.get(_digest(subject)[:12]) for subject in subjects}
    held_out = split_subjects(subjects, {subject: split for subject, split in known.items() if split})
    bar = tqdm(total=len(subjects), desc=name, unit="subject", disable=None)
    for subject in subjects:
        own = [entry for entry in entries if entry.subject == subject]
        number = _digest(subject)[:12]
        content = _digest(*((e.path.relative_to(root), e.path.stat().st_size, e.valid) for e in own))[:12]
        split = "test" if subject in held_out else "train"
        path = out / split / f"{name}_{number}_{content}_{space}.npz"
        older = [old for old in path.parent.glob(f"{name}_{number}_*_{space}.npz") if old != path]
        bar.update()
        if path.exists():
            continue
        start = time.perf_counter()
        packed = []
        for k, entry in enumerate(own):
            rng = np.random.default_rng([seed, 6, int(number, 16), k])
            packed += [encode(normals, valid) for normals, valid in maps_of(entry, rng)]
        if packed:
            identity = np.full(len(packed), int(number, 16), np.int64)
            Shard(np.stack(packed), identity, space).save(path)
            for old in older:
                old.unlink()
            rate = len(packed) / max(time.perf_counter() - start, 1e-9)
            say(f"{subject}: {len(packed)} maps for {split}, {rate:.1f} maps/s")
    bar.close()


def prepare(
    out: Path,
    *,
    sources: Sequence[str],
    ict: Path | None = None,
    maps: Path | None = None,
    meshes: Path | None = None,
    space: str = "camera",
    y_axis: str = "up",
    up_axis: str = "y",
    two_channel: bool = False,
    size: int = 256,
    shards: int = 24,
    people: int = 32,
    views: int = 5,
    skin_share: float = 0.35,
    head_spaces: Sequence[str] = ("camera", "object"),
    seed: int = 1,
    processes: int = 1,
    device: str = "cpu",
    say: Callable[[str], None] = print,
) -> None:
    """Make the shards of a data set: `train` and `test`, which never share a person.

    Args:
        out: folder of the set.
        sources: of ict, makehuman, skin, folder, meshes.
        ict: the ICT face model's folder or packed file; needed for the source ict.
        maps: folder of normal maps; needed for the source folder.
        meshes: folder of heads as meshes; needed for the source meshes.
        space: of the folder's maps.
        y_axis: of the folder's maps: more green is "up" (OpenGL) or "down" (DirectX).
        up_axis: of the folder's maps in object space, and of meshes: "y", or "z" for Blender's axes.
        two_channel: the folder's maps hold x and y alone.
        size: side of the shards' maps.
        shards: shards per source for training; test gets one.
        people: people per shard.
        views: views per person or mesh, crops per map for a folder.
        skin_share: share of rendered heads whose surface wears procedural skin.
        head_spaces: of the maps that are made of heads: camera, object, or both.
        seed: of everything drawn.
        processes: how many make shards at the same time; the shards are the same ones.
        device: where views of heads are rendered, "cpu" or "cuda".
        say: takes lines of progress.

    Raises:
        ValueError: a source lacks what it needs, its input is bad, or the folder holds a set that was made
            with other settings.
        OSError: an input is not there, or the disk is full; what was written stays.
    """
    if "ict" in sources and ict is None:
        raise ValueError("the source ict needs --ict: the FaceXModel folder, or the packed face model")
    if "folder" in sources and maps is None:
        raise ValueError("the source folder needs --maps, a folder of normal maps")
    if "meshes" in sources and meshes is None:
        raise ValueError("the source meshes needs --meshes, a folder of heads as meshes")
    if min(size, shards, people, views) < 1:
        raise ValueError("size, shards, people and views must be at least 1")
    settings: dict[str, object] = {"size": size, "people": people, "views": views, "seed": seed}
    if {"ict", "makehuman"} & set(sources):
        settings["skin_share"] = skin_share
    if "folder" in sources:
        assert maps is not None
        find_maps(maps)  # a folder that will not do is told before anything is made
        how = {"maps": str(maps.resolve()), "y_axis": y_axis, "up_axis": up_axis, "two_channel": two_channel}
        settings |= {f"{space} {key}": value for key, value in how.items()}
    if "meshes" in sources and meshes is not None:
        settings |= {"meshes": str(meshes.resolve()), "meshes' up_axis": up_axis}
    note = read_note(out)
    other = [
        f"{key} {note[key]}, not {value}" for key, value in settings.items() if note.get(key, value) != value
    ]
    if other:
        raise ValueError(f"{out} holds a set made with {'; '.join(other)}: use another folder")
    scans = []
    if "meshes" in sources and meshes is not None:
        scans = find_meshes(meshes)
        check_subjects(meshes, scans)
    encoding = Encoding(space=space, y_axis=y_axis, up_axis=up_axis, two_channel=two_channel)
    models: dict[str, HeadModel] = {}
    if "ict" in sources and ict is not None:
        models["ict"] = IctModel(ict)
    if "makehuman" in sources or ("skin" in sources and not models):
        models["anny"] = MakeHumanModel()
    everything = [*note.get("sources", []), *(s for s in sources if s not in note.get("sources", []))]
    write_note(out, {**note, **settings, "sources": everything, "shards": shards})
    counts = {"train": shards, "test": 1}
    for name, model in models.items():
        if name == "anny" and "makehuman" not in sources:
            continue
        view = partial(
            camera_views, model, source=name, people=people, views=views, size=size, seed=seed,
            skin_share=skin_share, device=device,
        )  # fmt: skip
        flat = partial(object_maps, model.layout(size), source=name, people=people, seed=seed)
        makers = {"camera": view, "object": flat}
        for split, count in counts.items():
            for head_space in head_spaces:
                make = partial(makers[head_space], split=split)
                fill_folder(out / split, f"{name}_{head_space}", count, make, say, processes)
    if "skin" in sources:
        layout = next(iter(models.values())).layout(size)
        for split, count in counts.items():
            some = partial(skin_tangent, layout, split=split, people=people, size=size, seed=seed)
            fill_folder(out / split, "skin", count, some, say, processes)
    if "folder" in sources and maps is not None:

        def crops_of(entry: Entry, rng: np.random.Generator) -> Iterable[tuple[F32, Bool]]:
            return crops(*read_entry(entry, encoding), size, rng, views)

        _own_shards(out, maps, find_maps(maps), "folder", space, crops_of, seed, say)
    if "meshes" in sources and meshes is not None:

        def views_of(entry: Entry, rng: np.random.Generator) -> Iterable[tuple[F32, Bool]]:
            head = read_head(entry.path, up_axis)
            try:
                seen = render_views(head, rng, views, size, device=device)
            except ValueError as error:
                raise ValueError(f"{entry.path}: {error}") from error
            return ((normals, valid) for normals, valid, _ in seen)

        _own_shards(out, meshes, scans, "meshes", "camera", views_of, seed, say)
