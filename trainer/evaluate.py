"""Evaluation: held-out heads, masks fixed by seed, ours beside what people use today, in one table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blender_normal_inpaint.core.fill import LocalFiller
from blender_normal_inpaint.core.normals import Encoding
from blender_normal_inpaint.core.pipeline import Options, inpaint
from blender_normal_inpaint.worker.engines import create_engine

from . import sheets
from .baselines import BASELINES, Fill
from .masks import blob_outline, fill_polygon, lines, scatter, strands
from .metrics import measure
from .prepare import person_rng
from .sources.ict import Head
from .sources.raycast import Camera, Caster, render_camera

F32 = NDArray[np.float32]
Bool = NDArray[np.bool_]

FAMILIES = ("lines", "scatter", "blob", "strands", "half")


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
    """

    name: str
    family: str
    space: str
    truth: F32
    valid: Bool
    hole: Bool


def front_view(
    head: Head, rng: np.random.Generator, size: int
) -> tuple[F32, Bool, tuple[float, float], float]:
    """Render a head nearly from the front, as an artist or a light stage would frame it.

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
    caster = Caster(head.vertices, head.triangles)
    normals, valid = render_camera(caster, head.normals, head.triangles, camera, size, 2)
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


def head_cases(
    draw: Callable[[np.random.Generator], Head], source: str, count: int, size: int, seed: int
) -> list[Case]:
    """Held-out heads of a source, each with one mask of every family."""
    cases = []
    for person in range(count):
        # Training never draws people from the split called test.
        rng = person_rng(source, "test", 10_000 + person, seed)
        truth, valid, middle, face = front_view(draw(rng), rng, size)
        for family in FAMILIES:
            hole = family_mask(
                family, np.random.default_rng([seed, 77, person, FAMILIES.index(family)]), size, middle, face
            )
            cases.append(Case(f"{source} {person}", family, "camera", truth, valid, hole & valid))
    return cases


def ours(card: Path | None = None, *, detail: bool = True, engine: str = "onnx") -> Fill:
    """The shipped path from end to end: `core.pipeline.inpaint` with a card's weights."""
    loaded, _ = create_engine(engine, card_path=card)
    filler = LocalFiller(loaded)

    def fill(normals: F32, hole: Bool, valid: Bool, space: str = "camera") -> F32:
        encoding = Encoding(space=space)
        pixels = (normals * np.float32(0.5) + np.float32(0.5)).astype(np.float32)
        result = inpaint(pixels, hole, filler, encoding=encoding, valid=valid, options=Options(detail=detail))
        out = result.pixels.astype(np.float32) * 2 - 1
        out /= np.maximum(np.linalg.norm(out, axis=-1, keepdims=True), 1e-6)
        return np.where((hole & valid)[..., None], out, normals).astype(np.float32)

    return fill


def evaluate(
    cases: Sequence[Case],
    methods: Mapping[str, Fill],
    sheet_folder: Path | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, dict[str, dict[str, float]]]:
    """Measure every method on every case.

    Args:
        cases: held-out maps with masks.
        methods: by name.
        sheet_folder: where one contact sheet per method and family goes; None for none.
        say: takes lines of progress.

    Returns:
        Mean measures by method and family.
    """
    table: dict[str, dict[str, dict[str, float]]] = {}
    for name, method in methods.items():
        table[name] = {}
        for family in dict.fromkeys(case.family for case in cases):
            rows: list[F32] = []
            measures: list[dict[str, float]] = []
            for case in (case for case in cases if case.family == family):
                filled = method(case.truth, case.hole, case.valid)
                measures.append(measure(filled, case.truth, case.hole, case.valid))
                if len(rows) < 6:
                    rows.append(sheets.row(case.truth, case.hole, case.valid, filled))
            table[name][family] = {
                key: float(np.nanmean([m[key] for m in measures]))
                if not np.all(np.isnan([m[key] for m in measures]))
                else float("nan")
                for key in measures[0]
            }
            if sheet_folder is not None:
                sheets.write(sheet_folder / f"{name}_{family}.png".replace(" ", "_"), rows)
            say(f"{name}, {family}: {table[name][family]['mean']:.2f} degrees")
    return table


def markdown(table: Mapping[str, Mapping[str, Mapping[str, float]]], key: str, digits: int = 2) -> str:
    """One measure of a table as Markdown: methods down, families across."""
    families = list(next(iter(table.values())))
    head = f"| {key} | " + " | ".join(families) + " |\n| --- |" + " --- |" * len(families)
    rows = [
        f"| {method} | " + " | ".join(f"{values[family][key]:.{digits}f}" for family in families) + " |"
        for method, values in table.items()
    ]
    return "\n".join([head, *rows]) + "\n"


def write_report(table: Mapping[str, Mapping[str, Mapping[str, float]]], folder: Path, title: str) -> Path:
    """Write `table.json` and `table.md` into a folder; returns the latter's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    keys = list(next(iter(next(iter(table.values())).values())))
    text = f"# {title}\n\n" + "\n".join(markdown(table, key) for key in keys)
    path = folder / "table.md"
    path.write_text(text, encoding="utf-8")
    return path


__all__ = ["BASELINES", "FAMILIES", "Case", "evaluate", "head_cases", "ours", "write_report"]
