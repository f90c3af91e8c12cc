"""Measures the demonstration's result and draws its one picture.

Runs in the environment that has Pillow and OpenImageIO, on the files that `scene.py` left.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from blender_normal_inpaint.core import files, normals

Bool = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]

INK, FAINT, PAPER = (238, 238, 240), (150, 152, 158), (24, 25, 28)
GAP = 18
#: The difference panel's brightest colour stands for this many degrees.
DEGREES = 45.0


def measure(output: Path) -> dict[str, float | int | str]:
    """Compares the repaired map with the undamaged bake and with the damaged map, file by file.

    Returns:
        Angular errors inside the mask in degrees, and how many texels outside it changed.
    """
    source, damaged, result = (
        files.read_map(output / name).pixels
        for name in ("source.png", "head_normal.png", "head_normal_inpainted.png")
    )
    mask = files.read_mask(output / "mask.png")
    before, after = error(damaged, source), error(result, source)
    return {
        "depth": str(result.dtype),
        "size": f"{result.shape[1]} x {result.shape[0]}",
        "masked_texels": int(mask.sum()),
        "masked_percent": round(100.0 * float(mask.mean()), 2),
        "mean_degrees_damaged": round(float(before[mask].mean()), 2),
        "mean_degrees_repaired": round(float(after[mask].mean()), 2),
        "median_degrees_repaired": round(float(np.median(after[mask])), 2),
        "changed_outside_mask": int((result != damaged).any(axis=2)[~mask].sum()),
    }


def error(first: npt.NDArray[np.generic], second: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """The angle between two encoded maps, (H, W) degrees."""
    encoding = normals.Encoding()
    return np.asarray(
        normals.angular_error(normals.decode(first, encoding), normals.decode(second, encoding)), np.float32
    )


# ---------------------------------------------------------------- drawing


def to_bytes(pixels: npt.NDArray[np.generic]) -> Bytes:
    """A map as it looks: (H, W, 3) uint8."""
    seen: Bytes = np.rint(normals.to_float(pixels[..., :3]) * 255.0).astype(np.uint8)
    return seen


def glow(values: npt.NDArray[np.float32]) -> Bytes:
    """Degrees as colour: black, violet, orange, pale yellow at `DEGREES` and above."""
    stops = np.array([[0, 0, 0], [74, 20, 110], [190, 50, 80], [250, 150, 40], [252, 255, 200]], np.float32)
    at = np.clip(values / DEGREES, 0.0, 1.0) * (len(stops) - 1)
    index = np.minimum(at.astype(int), len(stops) - 2)
    part = (at - index)[..., None]
    mixed: Bytes = np.rint(stops[index] * (1.0 - part) + stops[index + 1] * part).astype(np.uint8)
    return mixed


def around(mask: Bool) -> tuple[int, int, int, int]:
    """A square about the mask's largest patch: left, top, right, bottom."""
    size = min(mask.shape)
    cell = max(1, size // 16)
    rows, columns = (length // cell for length in mask.shape)
    filled = mask[: rows * cell, : columns * cell].reshape(rows, cell, columns, cell).mean(axis=(1, 3)) > 0.5
    if not filled.any():
        return 0, 0, size, size
    row, column = (int(np.median(index)) * cell + cell // 2 for index in np.nonzero(filled))
    half = round(size * 0.17)
    left = int(np.clip(column - half, 0, mask.shape[1] - 2 * half))
    top = int(np.clip(row - half, 0, mask.shape[0] - 2 * half))
    return left, top, left + 2 * half, top + 2 * half


def draw(output: Path, figures: dict[str, float | int | str]) -> Image.Image:
    """Composes the picture from the files in the output folder and the figures of `measure`."""
    source, damaged, result = (
        files.read_map(output / name).pixels
        for name in ("source.png", "head_normal.png", "head_normal_inpainted.png")
    )
    mask = files.read_mask(output / "mask.png")
    panels = [
        ("Source", "baked by Blender", to_bytes(source)),
        (
            "Mask",
            f"{figures['masked_percent']} % of the map",
            np.repeat(mask[..., None], 3, 2) * np.uint8(255),
        ),
        ("Damaged", f"{figures['mean_degrees_damaged']}° mean error", to_bytes(damaged)),
        ("Result", f"{figures['mean_degrees_repaired']}° mean error", to_bytes(result)),
        ("Difference", f"black 0°, white {DEGREES:.0f}°", glow(error(result, source))),
    ]
    before, after = (Image.open(output / name).convert("RGB") for name in ("before.png", "after.png"))

    side, title = 280, 48
    width = 5 * side + 6 * GAP
    half = (width - 3 * GAP) // 2
    tall = round(before.height * half / before.width)
    cut = round(tall * 0.80)  # the neck and the empty space above the head
    height = 2 * GAP + title + cut + 2 * GAP + title + side + GAP + side + GAP
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)

    def caption(left: int, top: int, head: str, tail: str) -> None:
        large, small = ImageFont.load_default(24), ImageFont.load_default(17)
        pen.text((left, top + 30), head, fill=INK, font=large, anchor="ls")
        pen.text(
            (left + pen.textlength(head, large) + 12, top + 30), tail, fill=FAINT, font=small, anchor="ls"
        )

    top = GAP
    for index, (head, tail, image) in enumerate(
        [
            ("Before", "the damaged map on the head, raking light", before),
            ("After", "one click: the repaired map, same light", after),
        ]
    ):
        left = GAP + index * (half + GAP)
        caption(left, top, head, tail)
        scaled = image.resize((half, tall), Image.Resampling.LANCZOS)
        start = round(tall * 0.07)
        sheet.paste(scaled.crop((0, start, half, start + cut)), (left, top + title))
    top += title + cut + 2 * GAP

    box = around(mask)
    for index, (head, tail, values) in enumerate(panels):
        left = GAP + index * (side + GAP)
        caption(left, top, head, tail)
        whole = Image.fromarray(np.ascontiguousarray(values))
        sheet.paste(whole.resize((side, side), Image.Resampling.BOX), (left, top + title))
        scale = side / whole.width
        frame = [left + box[0] * scale, top + title + box[1] * scale]
        frame += [left + box[2] * scale, top + title + box[3] * scale]
        pen.rectangle(frame, outline=INK)
        close = whole.crop(box)
        smooth = Image.Resampling.BOX if close.width >= side else Image.Resampling.NEAREST
        sheet.paste(close.resize((side, side), smooth), (left, top + title + side + GAP))
        pen.rectangle(
            (left, top + title + side + GAP, left + side - 1, top + title + 2 * side + GAP - 1), outline=FAINT
        )
    return sheet


def main(arguments: list[str]) -> int:
    """Writes `demo.png` and adds the figures to `report.json`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("output", type=Path, help="the folder that scene.py filled")
    output: Path = parser.parse_args(arguments).output
    figures = measure(output)
    draw(output, figures).save(output / "demo.png", optimize=True)
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    report["figures"] = figures
    (output / "report.json").write_text(json.dumps(report, indent=2), encoding="utf-8")
    for name, value in figures.items():
        print(f"  {name.replace('_', ' ')}: {value}")
    if figures["changed_outside_mask"]:
        print("Texels outside the mask were changed; that must never happen.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
