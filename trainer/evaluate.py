"""Evaluation: held-out maps, masks fixed by seed, ours beside what people use today, in one table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from blender_normal_inpaint.core.basemesh import BaseMesh, Grid
from blender_normal_inpaint.core.fill import LocalFiller, prepare_batch
from blender_normal_inpaint.core.guess import first_guess
from blender_normal_inpaint.core.normals import Encoding, angular_error, quarter_turned, unit
from blender_normal_inpaint.core.pipeline import Options, inpaint
from blender_normal_inpaint.core.resample import mean_directions, shrink
from blender_normal_inpaint.core.seams import Seams
from blender_normal_inpaint.nets import build_generator
from blender_normal_inpaint.worker.engines import create_engine

from . import checkpoint, sheets
from .baselines import Fill
from .config import Config
from .discriminator import accuracy, build_discriminator
from .layouts import LAYOUTS, hidden
from .masks import blob_outline, fill_polygon, lines, scatter, strands
from .metrics import mean_of, measure
from .morphable import changed
from .prepare import SPLITS, person_rng
from .shards import Shard, decode
from .sources.ict import Head
from .sources.meshes import find_meshes, read_head
from .sources.raster import I32, Camera, Mesh, UvTable, render_camera, vertex_normals
from .sources.skin import bump_of, residual_map, skin_map, skin_slopes, slopes_to_normals
from .task import ShardSet

F32 = NDArray[np.float32]
Bool = NDArray[np.bool_]
#: A table of means: by method, by family of masks, by measure.
Table = dict[str, dict[str, dict[str, float]]]

FAMILIES = ("lines", "scatter", "blob", "strands", "half")
#: Training draws people from the split called train alone, and shards of the split called test from its
#: first numbers.
FIRST_PERSON = 10_000

#: Texels along the side of the skin that heads wear, and what they measure on a head, in centimetres.
SKIN, SKIN_WIDTH = 512, 8.0

#: How often the meshes that object-space maps lie on are smoothed: creases go, eyes and lips stay.
SMOOTHED = 2

#: Likewise where all but the coarsest forms are to be the map's, and the slopes of the skin on it.
FORMLESS, LAYOUT_SKIN = 20, 0.05


@dataclass(frozen=True)
class Case:
    """One held-out map and its mask.

    Attributes:
        name: of the head.
        family: of the mask.
        space: of the map.
        truth: (s, s, 3) unit normals, zero off the surface.
        valid: (s, s) surface.
        hole: (s, s) what is hidden.
        mesh: that the map lies on, if it is known.
    """

    name: str
    family: str
    space: str
    truth: F32
    valid: Bool
    hole: Bool
    mesh: BaseMesh | None = None


#: Repairs the map of a case: the truth's texels outside the hole, (s, s, 3).
Method = Callable[[Case], F32]


def front_view(
    head: Head, rng: np.random.Generator, size: int, skin: float = 0.0
) -> tuple[F32, Bool, tuple[float, float], float]:
    """Render a head nearly from the front, as an artist or a light stage would frame it.

    Args:
        head: the surface.
        rng: decides the camera and the skin.
        size: side of the map.
        skin: standard deviation of the slopes of procedural skin that it wears; 0 for none.

    Returns:
        The map, its surface, the face's middle (row, column) and the face's height (chin to hairline), in
        texels.
    """
    cm = head.unit
    front = head.vertices[head.normals[:, 2] > 0.5]
    nose = front[np.argmax(front[:, 2])]
    middle = np.array([nose[0], nose[1] + 1.0 * cm, nose[2] - 5 * cm])
    # Children's heads are smaller: the frame follows the head's width.
    width = float(np.ptp(head.vertices[head.vertices[:, 1] > nose[1]][:, 0]))
    frame = 1.4 * width
    camera = Camera(
        target=(float(middle[0]), float(middle[1]), float(middle[2])),
        width=frame,
        yaw=float(rng.normal(0, 0.12)),
        pitch=float(rng.normal(0, 0.06)),
        fov=float(rng.uniform(0.2, 0.45)),
    )
    bump = None
    if skin > 0:
        right, up = skin_slopes(rng, SKIN)
        scale = skin / float(np.hypot(right, up).std())
        bump = bump_of(scale * right, scale * up, SKIN_WIDTH * cm, frame / size, head.skin)
    mesh = Mesh(head.vertices, head.normals, head.triangles)
    normals, valid = render_camera(mesh, camera, size, 2, bump)
    return normals, valid, (size / 2, size / 2), size / 1.4 * 0.85


def family_mask(
    family: str, rng: np.random.Generator, size: int, middle: tuple[float, float], face: float
) -> Bool:
    """Draw an evaluation mask.

    Args:
        family: one of `FAMILIES`; blob has half the face's height for its diameter, half covers one side
            of the face, an eye and a cheek.
        rng: decides.
        size: side of the map.
        middle: the face's middle, row and column.
        face: the face's height in texels.
    """
    if family == "lines":
        return lines(rng, size, middle)
    if family == "scatter":
        return scatter(rng, size, middle)
    if family == "strands":
        return strands(rng, size, middle)
    if family == "blob":
        canvas = np.zeros((size, size), np.uint8)
        centre = (middle[0] + rng.normal(0, 0.12) * face, middle[1] + rng.normal(0, 0.12) * face)
        fill_polygon(canvas, blob_outline(rng, centre, face / 4, 0.12))
        return canvas > 0
    if family == "half":
        y, x = np.mgrid[:size, :size]
        side = 1 if rng.random() < 0.5 else -1
        away = side * (x - middle[1]) + 0.02 * face * np.sin(y / face * rng.uniform(6, 14))
        return np.asarray((away > 0) & (np.abs(y - middle[0]) < 0.45 * face))
    raise ValueError(f"unknown family of masks {family!r}; known: {', '.join(FAMILIES)}")


def turned(case: Case, quarters: int) -> Case:
    """A case turned counter-clockwise, as a camera that lies on its side sees it, or a layout is packed.

    Args:
        case: its mesh, if any, is left out.
        quarters: of a turn.
    """
    if not quarters % 4:
        return case
    truth = quarter_turned(case.truth, quarters, case.space)
    valid, hole = (quarter_turned(field, quarters) for field in (case.valid, case.hole))
    return replace(case, truth=truth, valid=valid, hole=hole, mesh=None)


def masked(
    name: str,
    space: str,
    truth: F32,
    valid: Bool,
    seed: tuple[int, ...],
    middle: tuple[float, float] | None = None,
    face: float | None = None,
    mesh: BaseMesh | None = None,
) -> list[Case]:
    """One map with one mask of every family.

    Args:
        name: of the map.
        space: of the map.
        truth: (s, s, 3) unit normals, zero off the surface.
        valid: (s, s) surface.
        seed: of the masks.
        middle: the face's middle, row and column; the map's by default.
        face: the face's height in texels; 0.8 of the map by default.
        mesh: that the map lies on.
    """
    size = truth.shape[0]
    cases = []
    for number, family in enumerate(FAMILIES):
        rng = np.random.default_rng([*seed, number])
        hole = family_mask(family, rng, size, middle or (size / 2, size / 2), face or 0.8 * size) & valid
        if hole.any():
            cases.append(Case(name, family, space, truth, valid, hole, mesh))
    return cases


def head_cases(
    draw: Callable[[np.random.Generator], Head],
    source: str,
    count: int,
    size: int,
    seed: int,
    skin: float = 0.0,
    free: float = 0.0,
) -> list[Case]:
    """Held-out heads of a source, from the front, in camera space.

    Args:
        draw: draws a head.
        source: its name.
        count: how many heads.
        size: side of each map.
        seed: of the set.
        skin: slopes of the skin that they wear, see `front_view`.
        free: how strongly they are changed by bumps of no anatomy, see `morphable.changed`.
    """
    cases = []
    for person in range(count):
        rng = person_rng(source, "test", FIRST_PERSON + person, seed)
        cases += _from_the_front(f"{source} {person}", draw(rng), rng, (seed, 77, person), size, skin, free)
    return cases


def mesh_cases(
    folder: Path, up_axis: str, views: int, size: int, seed: int, skin: float = 0.0, free: float = 0.0
) -> list[Case]:
    """Scanned heads, each seen several times from about the front, in camera space.

    Args:
        folder: of the meshes.
        up_axis: of them, see `meshes.read_head`.
        views: of each.
        size: side of each map.
        seed: of the set.
        skin: slopes of the skin that they wear on top, see `front_view`.
        free: as for `head_cases`.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: it holds no meshes, or one that is no head.
    """
    cases = []
    for number, entry in enumerate(find_meshes(folder)):
        head = read_head(entry.path, up_axis)
        for view in range(views):
            rng = np.random.default_rng([seed, 82, number, view])
            name = f"{entry.path.stem} {view}"
            cases += _from_the_front(name, head, rng, (seed, 81, number, view), size, skin, free)
    return cases


def _from_the_front(
    name: str,
    head: Head,
    rng: np.random.Generator,
    seed: tuple[int, ...],
    size: int,
    skin: float,
    free: float,
) -> list[Case]:
    """A head's front view with one mask of every family."""
    truth, valid, middle, face = front_view(_freed(head, rng, free), rng, size, skin)
    return masked(name, "camera", truth, valid, seed, middle, face)


def _freed(head: Head, rng: np.random.Generator, free: float) -> Head:
    """A head changed by bumps of no anatomy, see `morphable.changed`."""
    if free <= 0:
        return head
    moved = np.float32(head.unit) * changed(head, rng, free)
    return replace(head, vertices=moved, normals=vertex_normals(moved, head.triangles))


def tangent_cases(
    layout: Callable[[np.random.Generator], tuple[F32, Bool]], count: int, size: int, seed: int
) -> list[Case]:
    """Held-out maps in tangent space: procedural skin, and what a smooth base leaves of a face, in turn.

    Args:
        layout: draws an object-space map (size, size, 3) of a head, and its surface.
        count: how many maps.
        size: side of each map.
        seed: of the set.
    """
    cases = []
    across = max(1.0, size / 512)
    for number in range(count):
        rng = person_rng("skin", "test", FIRST_PERSON + number, seed)
        if number % 2 == 0:
            truth, valid = skin_map(rng, size, across), np.ones((size, size), np.bool_)
        else:
            normals, valid = layout(rng)
            truth = residual_map(rng, normals, valid, across)
        kind = "face" if number % 2 else "skin"
        cases += masked(f"{kind} {number}", "tangent", truth, valid, (seed, 78, number))
    return cases


class WornModel(Protocol):
    """What draws heads in a UV layout."""

    def head(self, rng: np.random.Generator) -> Head:
        """Draw a head."""

    def worn(self) -> tuple[I32, F32]:
        """What of it the layout shows: vertex indices (m, 3) and texture coordinates (m, 3, 2)."""


def object_cases(
    model: WornModel, source: str, count: int, size: int, seed: int, skin: float = 0.0, free: float = 0.0
) -> list[Case]:
    """Held-out heads of a source as object-space maps of their UV layout, with a mesh that each lies on.

    The mesh is the head without its finer forms, as what a map is baked for is, and without changes and skin.

    Args:
        model: draws the heads.
        source: its name.
        count: how many heads.
        size: side of each map.
        seed: of the set.
        skin: slopes of the skin that they wear, see `front_view`.
        free: as for `head_cases`.
    """
    corners, uv = model.worn()
    table = _table(uv, size)
    cases = []
    for person in range(count):
        rng = person_rng(f"{source}_uv", "test", FIRST_PERSON + person, seed)
        head = model.head(rng)
        mesh = BaseMesh.of(smoothed(head.vertices, head.triangles, SMOOTHED), corners, uv)
        truth, valid = table.gather(_freed(head, rng, free).normals, corners)
        if skin > 0:
            frames = mesh.frames(Grid.blocks((size, size)))
            worn = _in_skin(frames.local(truth), rng, skin)
            truth[valid] = frames.of_local(worn[valid], np.nonzero(valid))
        cases += masked(f"{source} {person}", "object", truth, valid, (seed, 79, person), mesh=mesh)
    return cases


def layout_cases(model: WornModel, source: str, count: int, size: int, seed: int) -> list[Case]:
    """What smooth meshes lack of held-out heads in skin, in tangent space and layouts that are not symmetric.

    Args:
        model: draws the heads.
        source: its name.
        count: how many heads, each in every layout of `LAYOUTS`.
        size: side of each map.
        seed: of the set.
    """
    corners, uv = model.worn()
    cases = []
    for layout, change in LAYOUTS.items():
        moved = change(uv)
        table = _table(moved, size)
        for person in range(count):
            rng = person_rng(f"{source}_uv", "test", FIRST_PERSON + person, seed)
            head = model.head(rng)
            mesh = BaseMesh.of(smoothed(head.vertices, head.triangles, FORMLESS), corners, moved)
            normals, valid = table.gather(head.normals, corners)
            whole = Grid.blocks((size, size))
            truth = _in_skin(mesh.frames(whole).local(normals), rng, LAYOUT_SKIN)
            truth[~valid] = 0
            places, _ = mesh.interpolated(mesh.points, whole)
            for name, hole in hidden(head, places).items():
                family = f"{layout}, {name}"
                cases.append(Case(f"{source} {person}", family, "tangent", truth, valid, hole & valid, mesh))
    return [case for case in cases if case.hole.any()]


def _table(uv: F32, size: int) -> UvTable:
    """The table of a layout whose triangles have the texture coordinates (m, 3, 2)."""
    return UvTable.build(uv.reshape(-1, 2), np.arange(uv.size // 2, dtype=np.int32).reshape(-1, 3), size)


def _in_skin(local: F32, rng: np.random.Generator, skin: float) -> F32:
    """Tangent-space normals (s, s, 3) with procedural skin of such slopes on them."""
    size = local.shape[0]
    right, up = skin_slopes(rng, size, max(1.0, size / 512))
    scale = skin / float(np.hypot(right, up).std())
    z = np.maximum(local[..., 2], 0.1)
    return slopes_to_normals(scale * right - local[..., 0] / z, scale * up - local[..., 1] / z)


def smoothed(vertices: F32, triangles: I32, times: int) -> F32:
    """A mesh's vertices (n, 3), moved half way to the mean of their neighbours so many times."""
    ends = np.concatenate([triangles[:, [i, j]] for i in range(3) for j in range(3) if i != j])
    count = np.bincount(ends[:, 0], minlength=len(vertices))
    for _ in range(times):
        sums = np.stack([np.bincount(ends[:, 0], axis[ends[:, 1]], len(vertices)) for axis in vertices.T], -1)
        moved = (vertices + sums / np.maximum(count, 1)[:, None]) / 2
        vertices = np.where(count[:, None] > 0, moved, vertices).astype(np.float32)
    return vertices


def shard_cases(folder: Path, count: int, seed: int) -> list[Case]:
    """Maps of the shards of a split, each with one mask of every family.

    Args:
        folder: the shards.
        count: maps of each shard, spread over its people.
        seed: of the masks.

    Raises:
        FileNotFoundError: the folder holds no shards.
    """
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise FileNotFoundError(f"no shards in {folder}; run `python -m trainer prepare` first")
    cases = []
    for number, path in enumerate(paths):
        shard = Shard.load(path)
        for i in np.unique(np.linspace(0, len(shard.normals) - 1, count).astype(int)):
            truth, valid = decode(shard.normals[i])
            cases += masked(f"{path.stem} {i}", shard.space, truth, valid, (seed, 80, number, int(i)))
    return cases


def classic(fill: Fill) -> Method:
    """A fill that does not ask for the space of a map, as a method to measure."""
    return lambda case: fill(case.truth, case.hole, case.valid)


def ours(
    card: Path | None = None, *, detail: bool = True, mesh: bool = False, engine: str = "onnx"
) -> Method:
    """The shipped path from end to end: `core.pipeline.inpaint` with a card's weights, and a case's mesh."""
    loaded, _ = create_engine(engine, card_path=card)
    filler = LocalFiller(loaded)

    def fill(case: Case) -> F32:
        normals, hole, valid = case.truth, case.hole, case.valid
        encoding = Encoding(space=case.space)
        pixels = (normals * np.float32(0.5) + np.float32(0.5)).astype(np.float32)
        meshes = [case.mesh] if mesh and case.mesh is not None else []
        how = Options(detail=detail)
        result = inpaint(pixels, hole, filler, encoding=encoding, valid=valid, options=how, meshes=meshes)
        out = result.pixels.astype(np.float32) * 2 - 1
        out /= np.maximum(np.linalg.norm(out, axis=-1, keepdims=True), 1e-6)
        return np.where((hole & valid)[..., None], out, normals).astype(np.float32)

    return fill


def alone(card: Path | None = None, engine: str = "onnx") -> Method:
    """A network by itself, as the papers use theirs: it sees the map at its working size.

    Its answer is enlarged. One that improves on a first guess has it; all else of our path is left out.
    """
    loaded, _ = create_engine(engine, card_path=card)

    def fill(case: Case) -> F32:
        hole, size, side = case.hole & case.valid, case.hole.shape[0], loaded.card.working_size
        height = width = min(size, side)
        guess, _ = first_guess(case.truth, hole, case.valid, case.space, height / size, symmetry=False)
        small = shrink(case.truth, hole, case.valid, height, width)
        batch = prepare_batch(*small, case.space, mean_directions(guess, height, width))
        answer = np.moveaxis(np.asarray(loaded.run(batch[None]))[0], 0, -1)
        answer = cv2.resize(np.ascontiguousarray(answer), (size, size), interpolation=cv2.INTER_CUBIC)
        large = unit(np.asarray(answer, np.float32))
        return np.where(hole[..., None], large, case.truth).astype(np.float32)

    return fill


def evaluate(
    cases: Sequence[Case],
    methods: Mapping[str, Method],
    sheet_folder: Path | None = None,
    say: Callable[[str], None] = print,
) -> Table:
    """Measure every method on every case.

    Args:
        cases: held-out maps with masks.
        methods: by name.
        sheet_folder: where one contact sheet per method and family goes; None for none.
        say: takes lines of progress.

    Returns:
        Mean measures by method and family.
    """
    table: Table = {}
    for name, method in methods.items():
        table[name] = {}
        for family in dict.fromkeys(case.family for case in cases):
            rows: list[F32] = []
            measures: list[dict[str, float]] = []
            for case in (case for case in cases if case.family == family):
                filled = method(case)
                measures.append(measure(filled, case.truth, case.hole, case.valid) | at_seams(case, filled))
                if len(rows) < 6:
                    rows += sheets.rows_of(case.truth, case.hole, case.valid, filled)
            table[name][family] = mean_of(measures)
            if sheet_folder is not None:
                sheets.write(sheet_folder / f"{name}_{family}.png".replace(" ", "_"), rows)
            say(f"{name}, {family}: {table[name][family]['mean']:.2f} degrees")
    return table


def at_seams(case: Case, filled: F32) -> dict[str, float]:
    """How far apart, in degrees, both sides of a layout's seams are in the hole, repaired and in truth.

    Args:
        case: the damaged map.
        filled: the repaired map (h, w, 3).

    Returns:
        Means; NaN where there is no mesh, or no seam of it in the hole.
    """
    result = {"seams": float("nan"), "seams_true": float("nan")}
    mesh, size = case.mesh, (case.hole.shape[0], case.hole.shape[1])
    seams = Seams.of(mesh, size[1], size[0]) if mesh is not None else None
    if mesh is None or seams is None:
        return result
    shown = case.valid & mesh.covers(Grid.blocks(size))
    hidden = np.logical_or(*(case.hole[side.blocks(size)] for side in seams.sides))
    frames = mesh.frames(Grid.blocks(size)) if case.space == "object" else None
    for key, field in zip(result, (filled, case.truth), strict=True):
        one, two, good = seams.seen(field if frames is None else frames.local(field), shown)
        chosen = good & hidden
        if chosen.any():
            result[key] = float(angular_error(unit(one[chosen]), unit(two[chosen])).mean())
    return result


def markdown(table: Mapping[str, Mapping[str, Mapping[str, float]]], key: str, digits: int = 2) -> str:
    """One measure of a table as Markdown: methods down, families across."""
    families = list(next(iter(table.values())))
    head = f"| {key} | " + " | ".join(families) + " |\n| --- |" + " --- |" * len(families)
    rows = [
        f"| {method} | " + " | ".join(f"{values[family][key]:.{digits}f}" for family in families) + " |"
        for method, values in table.items()
    ]
    return "\n".join([head, *rows]) + "\n"


def write_report(tables: Mapping[str, Table], folder: Path, title: str) -> Path:
    """Write `table.json` and `table.md` into a folder; returns the latter's path.

    Args:
        tables: by heading.
        folder: where they go.
        title: of the whole report.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.json").write_text(json.dumps(tables, indent=1) + "\n", encoding="utf-8")
    text = f"# {title}\n"
    for heading, table in tables.items():
        keys = list(next(iter(next(iter(table.values())).values())))
        text += f"\n## {heading}\n\n" + "\n".join(markdown(table, key) for key in keys)
    path = folder / "table.md"
    path.write_text(text, encoding="utf-8")
    return path


def judge_accuracy(run: Path, maps: int = 96) -> dict[str, float]:
    """How often a run's discriminator is right on maps it was trained on and on held-out ones.

    An accuracy near 1 on the first and near 0.5 on the second is a discriminator that has memorised its maps,
    as the papers' did.

    Args:
        run: a run's folder.
        maps: how many of each split.

    Returns:
        Shares by split.

    Raises:
        ValueError: the run has no checkpoint, or no stage with a discriminator.
        FileNotFoundError: its data are gone.
    """
    state = checkpoint.load(run / "last.pt")
    config = Config.from_dict(json.loads(state["config"]))
    if not any(stage.adversarial > 0 for stage in config.stages):
        raise ValueError(f"{run} has no stage with a discriminator to measure")
    generator = build_generator(config.generator)
    generator.load_state_dict(state["average"])
    generator.eval()
    judge = build_discriminator(config.discriminator, config.discriminator_width)
    judge.load_state_dict(state["discriminator"])
    result = {}
    for split in SPLITS:
        shards = ShardSet(Path(config.data) / split, config.stages[-1].size, config.shares)
        rng = np.random.default_rng([config.seed, 990])
        shares = []
        for _ in range(max(1, maps // 16)):
            batch = shards.batch(rng, 16, config.masks, known_valid=config.known_valid)
            with torch.no_grad():
                composite = batch.composite(generator(batch.inputs))
            shares.append(accuracy(judge, batch.truth, composite, batch.hole, batch.valid))
        result[split] = float(np.mean(shares))
    return result
