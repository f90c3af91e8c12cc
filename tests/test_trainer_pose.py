"""The network that tells which way a head looks: trained, continued, exported; and without PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from blender_normal_inpaint.core import pose as core  # noqa: E402
from trainer import pose  # noqa: E402
from trainer.__main__ import main  # noqa: E402
from trainer.shards import Shard, encode  # noqa: E402
from trainer.sources.raster import Camera  # noqa: E402


def shield(yaw: float, pitch: float, size: int = 48) -> tuple[Any, Any, Any]:
    """A bent shield in camera space, its surface, and its direction across: it faces where it looks."""
    rotation = Camera((0, 0, 0), 1.0, yaw, pitch).rotation()
    y, x = np.mgrid[:size, :size]
    x, y = (x + 0.5) / size * 2 - 1, 1 - (y + 0.5) / size * 2
    normals = np.stack([0.5 * x, 0.3 * y, np.ones_like(x)], axis=-1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    valid = x**2 + y**2 < 0.8
    return ((normals @ rotation.T) * valid[..., None]).astype(np.float32), valid, rotation[:, 0]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    rng = np.random.default_rng(0)
    for split, count in (("train", 120), ("test", 40)):
        drawn = [shield(rng.normal(0, 0.4), rng.normal(0, 0.1)) for _ in range(count)]
        maps = np.stack([encode(normals, valid) for normals, valid, _ in drawn])
        across = np.stack([direction for _, _, direction in drawn])
        Shard(maps, np.arange(count), "camera", across).save(folder / split / "shields.npz")
    return folder


def test_a_shard_keeps_which_way_its_heads_look(data: Path) -> None:
    shard = Shard.load(data / "test" / "shields.npz")
    assert shard.across is not None and shard.across.shape == (40, 3)
    assert np.allclose(np.linalg.norm(shard.across, axis=1), 1, atol=1e-5)


def test_directions_move_with_their_maps(tmp_path: Path) -> None:
    """Turned and mirrored alike, the angle between a map's vectors and its direction stays."""
    vector, direction = np.array([0.48, 0.36, 0.8], np.float32), np.array([0.8, -0.6, 0.0], np.float32)
    maps = np.broadcast_to(vector, (4, 48, 48, 3)).copy()
    packed = encode(maps, np.ones(maps.shape[:3], np.bool_))
    Shard(packed, np.arange(4), "camera", np.tile(direction, (4, 1))).save(tmp_path / "flat.npz")
    inputs, across = pose.HeadMaps(tmp_path, (5,), 64)[0]
    dots, ways = [], set()
    for seen, moved in zip(inputs.numpy(), across.numpy(), strict=True):
        known = seen[3] > 0
        if known.any():
            dots.append(float(seen[:3][:, known].mean(axis=1) @ moved))
            ways.add(tuple(np.round(moved, 2)))
    assert len(dots) > 50 and len(ways) > 40
    assert np.allclose(dots, vector @ direction, atol=0.02)


def test_it_learns_goes_on_and_is_exported(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    network, inputs = pose.PoseNetwork(), pose.HeadMaps(data / "test", (12345,), 32)
    before = pose.measure(network, inputs, 2)["turn_mean"]
    command = ["pose", str(run), "--data", str(data), "--loaders", "0", "--batch", "8", "--lr", "3e-3"]
    assert main([*command, "--steps", "120"]) == 0
    card = json.loads((run / "head_pose.json").read_text(encoding="utf-8"))
    assert main([*command, "--steps", "160", "--version", "7"]) == 0
    state = torch.load(run / "last.pt", weights_only=True)
    assert state["step"] == 160
    later = json.loads((run / "head_pose.json").read_text(encoding="utf-8"))
    assert later["version"] == "7" and later["file"]["sha256"] != card["file"]["sha256"]
    assert later["figures"]["turn_mean"] < 0.6 * before
    # The extension computes the same without PyTorch.
    monkeypatch.setattr(core, "default_path", lambda: run / "head_pose.npz")
    network.load_state_dict(state["average"])
    batch, _ = inputs[0]
    with torch.no_grad():
        expected = network.half().float()(batch).numpy()
    weights = core._weights(run / "head_pose.npz")
    assert np.allclose(core._run(weights, batch.numpy())[:, :3], expected[:, :3], atol=1e-4)
    normals, valid, direction = shield(0.3, 0.0, 64)
    assert abs(float(core.pose(normals, valid, valid).across @ direction)) > 0.9


def test_a_process_that_draws_ahead_changes_nothing(data: Path, tmp_path: Path) -> None:
    states = []
    for loaders in (0, 1):
        settings = pose.Settings(str(data), steps=4, batch=4, loaders=loaders)
        states.append(pose.train(tmp_path / str(loaders), settings, lambda text: None).state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_maps_without_heads_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "test"):
        maps = np.full((2, 16, 16, 3), 128, np.uint8)
        Shard(maps, np.arange(2), "camera").save(tmp_path / split / "plain.npz")
    assert main(["pose", str(tmp_path / "run"), "--data", str(tmp_path)]) == 1
    assert "trainer prepare" in capsys.readouterr().err
