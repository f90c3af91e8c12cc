"""The demonstration, whole, at a small size: it is a document that must stay true."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


def head() -> dict[str, np.ndarray]:
    with np.load(ROOT / "demo" / "head.npz") as file:
        return dict(file)


def test_the_head_is_one_sound_mesh() -> None:
    mesh = head()
    used = mesh["faces"][mesh["faces"] >= 0]
    assert used.min() == 0 and used.max() == len(mesh["vertices"]) - 1
    assert np.array_equal(mesh["faces"] < 0, mesh["face_uv"] < 0)
    assert mesh["uv"].min() >= 0 and mesh["uv"].max() <= 1
    assert np.isfinite(mesh["vertices"]).all()


def test_the_layout_is_neither_flipped_nor_mirrored() -> None:
    mesh = head()
    quads = mesh["face_uv"][mesh["face_uv"][:, 3] >= 0]
    for picks in ((0, 1, 2), (0, 2, 3), (1, 2, 3), (0, 1, 3)):
        one, two, three = (mesh["uv"][quads[:, k]].astype(np.float64) for k in picks)
        first, second = two - one, three - one
        assert (first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0] > 0).all()


@pytest.mark.blender
@pytest.mark.timeout(2400)
def test_the_demonstration_repairs_the_head(tmp_path: Path) -> None:
    output = tmp_path / "gezeigt – demo"
    done = subprocess.run(
        [sys.executable, "-m", "demo", "--size", "256", "--output", str(output)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    assert done.returncode == 0, done.stdout[-6000:]
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    figures = report["figures"]
    assert figures["depth"] == "uint16" and figures["size"] == "256 x 256"
    assert figures["changed_outside_mask"] == 0
    assert figures["masked_texels"] > 1000
    assert figures["mean_degrees_repaired"] < 0.75 * figures["mean_degrees_damaged"]
    assert set(report["seconds"]) >= {"bake", "repair, first click", "render before", "render after"}
    for name in ("demo.png", "head.blend", "head_normal.png", "head_normal_inpainted.png"):
        assert (output / name).stat().st_size > 1000

    from PIL import Image

    with Image.open(output / "demo.png") as picture:
        shown = np.asarray(picture.convert("L"), dtype=np.float32)
    assert shown.shape[0] > 1000 and shown.std() > 20
    before, after = (
        np.asarray(Image.open(output / f"{name}.png").convert("L"), np.float32)
        for name in ("before", "after")
    )
    assert (np.abs(before - after) > 12).mean() > 0.005, "the repair does not show in the render"
