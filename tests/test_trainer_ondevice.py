"""Batches made on the training device are those that loaders would have made."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the trainer needs PyTorch")

for _name in ("safetensors", "onnx", "onnxruntime", "cv2", "scipy"):
    pytest.importorskip(_name, reason="the trainer needs it")

from synthetic import head, wavy_normals  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from trainer import checkpoint, losses  # noqa: E402
from trainer.config import Config  # noqa: E402
from trainer.loop import Trainer  # noqa: E402
from trainer.ondevice import DeviceSet, continued, device_batches, first_guesses, roughness  # noqa: E402
from trainer.optimizer import Optimizer  # noqa: E402
from trainer.shards import Shard, encode  # noqa: E402
from trainer.task import Batch, ShardSet, build_inputs  # noqa: E402

CPU = torch.device("cpu")
MASKS = {"blob": 1.0, "lines": 1.0, "strands": 1.0}
SHARES = {"camera": 0.75, "tangent": 0.25}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "test"):
        for shard in range(2):
            maps = np.stack([encode(*head(128, yaw, yaw / 3)) for yaw in (-0.5, 0.1 + shard / 5, 0.6)])
            Shard(maps, np.arange(3), "camera").save(folder / split / f"heads_{shard}.npz")
        skin = np.stack([encode(wavy_normals(128, 128, k), np.ones((128, 128), np.bool_)) for k in range(3)])
        Shard(skin, np.arange(3), "tangent").save(folder / split / "skin.npz")
    return folder


def _draw(
    data: DeviceSet, first: int = 0, count: int = 8, loaders: int = 0, noise: float = 0.0, scans: float = 0.0
) -> Batch:
    stream = device_batches(
        data, first, (3, 0), count, MASKS, known_valid=0.5, zoom=(0.9, 1.7), noise=noise, scans=scans,
        loaders=loaders,
    )  # fmt: skip
    return next(stream)


def test_the_network_sees_a_captures_noise_and_the_truth_has_none(data: Path) -> None:
    shards = DeviceSet(data / "train", 64, SHARES, CPU)
    plain, noisy = _draw(shards), _draw(shards, noise=1.0)
    assert torch.equal(plain.truth, noisy.truth) and torch.equal(plain.hole, noisy.hole)
    known = plain.valid * (1 - plain.hole)
    assert torch.equal(plain.given, plain.truth * known)
    drawn = ShardSet(data / "train", 64, SHARES).batch(np.random.default_rng(1), 8, MASKS, noise=1.0)
    for batch in (noisy, drawn):
        known = batch.valid * (1 - batch.hole)
        camera = batch.inputs[:, 7].flatten(1).any(dim=1)
        assert camera.any() and not camera.all()
        off = [_apart(*(t[which] for t in (batch.given, batch.truth, known))) for which in (camera, ~camera)]
        assert 0.3 < off[0] < 3 and off[1] < 0.01
        # The guess goes on from what is seen.
        seen = batch.inputs[camera, 8:] * known[camera]
        assert torch.equal(seen, batch.given[camera] * known[camera])


def test_scans_are_in_the_truth_too_and_in_camera_space_alone(data: Path) -> None:
    shards = DeviceSet(data / "train", 64, SHARES, CPU)
    plain, scanned = _draw(shards), _draw(shards, scans=1.0)
    assert torch.equal(plain.hole, scanned.hole) and torch.equal(plain.valid, scanned.valid)
    own = ShardSet(data / "train", 64, SHARES)
    drawn = own.batch(np.random.default_rng(1), 8, MASKS, scans=1.0)
    for batch in (scanned, drawn):
        known = batch.valid * (1 - batch.hole)
        assert torch.equal(batch.given, batch.truth * known)
    camera = plain.inputs[:, 7].flatten(1).any(dim=1)
    off = [
        _apart(plain.truth[which], scanned.truth[which], plain.valid[which]) for which in (camera, ~camera)
    ]
    assert 0.1 < off[0] < 20 and off[1] < 0.01


@pytest.mark.parametrize("first", [0, 5])
def test_an_echo_repeats_maps_of_other_spaces_and_goes_on_as_it_was(data: Path, first: int) -> None:
    shards = DeviceSet(data / "train", 64, {"camera": 0.5, "tangent": 0.5}, CPU)

    def stream(start: int) -> Iterator[Batch]:
        return device_batches(shards, start, (3, 0), 8, MASKS, known_valid=0.5, zoom=(0.9, 1.7), echo=2)

    one, two, three = itertools.islice(stream(first), 3)
    assert len(one.truth) == 8 and one.inputs[4:, 5].all()
    # Two of its four are the next batch's older two, and gone in the one after that.
    assert torch.equal(one.inputs[6:], two.inputs[4:6]) and torch.equal(two.inputs[6:], three.inputs[4:6])
    assert not torch.equal(one.inputs[6:], two.inputs[6:]) and not torch.equal(one.truth[:4], two.truth[:4])
    for later, batch in ((1, two), (2, three)):
        assert torch.equal(next(stream(first + later)).inputs, batch.inputs)


def _apart(one: Tensor, two: Tensor, weight: Tensor) -> float:
    return float(losses.weighted_mean(losses.angle_degrees(one, two), weight))


def test_a_batch_is_what_loaders_make(data: Path) -> None:
    """All planes but the guess are theirs to the bit, and the guess is as near to the truth."""
    shards = DeviceSet(data / "train", 96, SHARES, CPU)
    assert shards.counts() == {"tangent": 3, "object": 0, "camera": 6} and len(shards) == 9
    batches = [_draw(shards, step) for step in range(3)]
    total: dict[str, float] = dict.fromkeys(("here", "there", "between", "naive"), 0.0)
    for batch in batches:
        spaces = ["camera"] * 6 + ["tangent"] * 2
        assert batch.inputs[:6, 7].all() and batch.inputs[6:, 5].all() and not batch.inputs[:, 6].any()
        shown = batch.inputs[:, 4:5]
        assert ((shown == batch.valid) | (batch.hole > 0)).all() and batch.hole.any()
        wanted = build_inputs(batch.truth, batch.hole, shown, spaces)
        assert torch.equal(wanted[:, :8], batch.inputs[:, :8])
        assert torch.equal(wanted[6:], batch.inputs[6:])
        inside = (batch.hole * batch.valid)[:6]
        truth, guess = batch.truth[:6], batch.inputs[:6, 8:]
        length = torch.linalg.vector_norm(guess, dim=1, keepdim=True)
        assert torch.allclose(length[inside > 0], torch.ones(()), atol=1e-4)
        total["here"] += _apart(guess, truth, inside)
        total["there"] += _apart(wanted[:6, 8:], truth, inside)
        total["between"] += _apart(guess, wanted[:6, 8:], inside)
        facing = torch.zeros_like(truth)
        facing[:, 2] = 1
        total["naive"] += _apart(facing, truth, inside)
    assert total["here"] < 1.05 * total["there"] < 0.6 * total["naive"]
    assert total["between"] < 0.3 * total["there"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs processes that share memory by forking")
def test_loaders_draw_the_very_batches(data: Path) -> None:
    shards = DeviceSet(data / "train", 64, SHARES, CPU)
    alone, helped, later = (_draw(shards, 4, loaders=n) for n in (0, 2, 0))
    assert torch.equal(alone.inputs, helped.inputs) and torch.equal(alone.inputs, later.inputs)
    assert not torch.equal(alone.inputs, _draw(shards, 5).inputs)


def test_a_set_without_heads_comes_from_loaders_alone(data: Path, tmp_path: Path) -> None:
    (tmp_path / "skin.npz").write_bytes((data / "train" / "skin.npz").read_bytes())
    batch = _draw(DeviceSet(tmp_path, 64, SHARES, CPU))
    assert len(batch.inputs) == 8 and batch.inputs[:, 5].all()


def test_shards_that_come_later_are_picked_up(data: Path, tmp_path: Path) -> None:
    first, second = (data / "train" / f"heads_{k}.npz" for k in range(2))
    (tmp_path / "a.npz").write_bytes(first.read_bytes())
    shards = DeviceSet(tmp_path, 64, SHARES, CPU)
    (tmp_path / "b.npz").write_bytes(second.read_bytes())
    assert shards.refresh() == 1 and shards.counts()["camera"] == 6 and shards.refresh() == 0
    maps = np.concatenate([Shard.load(path).normals for path in (first, second)])
    index = np.array([0, 2, 3, 3, 5])
    assert np.array_equal(shards.pick(index).numpy(), maps[index])
    assert shards.small.shape == (6, 64, 64, 3)
    # What is in memory serves every size that needs as much of the maps, and no other.
    assert shards.serve(80) and shards.size == 80 and _draw(shards).truth.shape[-1] == 80
    assert not shards.serve(32) and shards.size == 80
    odd = np.zeros((1, 80, 80, 3), np.uint8)
    Shard(odd, np.zeros(1, np.int64), "camera").save(tmp_path / "c.npz")
    with pytest.raises(ValueError, match="several sizes"):
        shards.refresh()


def test_slopes_lead_into_a_hole_and_rough_maps_are_told() -> None:
    line = torch.linspace(-1, 1, 64)
    plane = torch.stack([line.expand(64, 64), line[:, None].expand(64, 64), torch.full((64, 64), 0.5)])[None]
    unknown = torch.zeros(1, 1, 64, 64)
    unknown[..., 20:44, 24:40] = 1
    far = torch.full((1, 1, 1, 1), 1e3)
    answer = continued(plane, 1 - unknown, unknown, far, 40)
    assert float(((answer - plane) * unknown).abs().max()) < 0.02
    assert not (answer * (1 - unknown)).any()
    noise = plane + 0.2 * torch.randn(plane.shape, generator=torch.Generator().manual_seed(0))
    both = roughness(
        torch.cat([plane, noise]), 1 - unknown.expand(2, -1, -1, -1), unknown.expand(2, -1, -1, -1)
    )
    assert float(both[0]) < 0.1 and float(both[1]) > 1
    # Nothing is known: there is nothing to tell, and no number that is none.
    nothing = first_guesses(plane, torch.zeros_like(unknown), unknown)
    assert not nothing.any()


def test_a_run_on_the_device_goes_on_bit_for_bit(data: Path, tmp_path: Path) -> None:
    values = {
        "data": str(data),
        "generator": {"kind": "face", "widths": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "heads": 2},
        "stages": [{"size": 64, "batch": 8, "steps": 6}],
        "shares": SHARES,
        "on_device": True,
        "echo": 2,
        "save_every": 4,
        "refresh_every": 3,
        "validate_every": 6,
        "tensorboard": False,
    }
    config = Config.from_dict(values)

    class StoppedError(Exception):
        pass

    class Stopping(Trainer):
        def _train_step(self, *arguments: Any) -> dict[str, Tensor]:
            if self.step == 5:
                raise StoppedError
            return super()._train_step(*arguments)

    Trainer(config, tmp_path / "whole", lambda _: None).run()
    with pytest.raises(StoppedError):
        Stopping(config, tmp_path / "parts", lambda _: None).run()
    Trainer(config, tmp_path / "parts", lambda _: None).run()
    one, two = (checkpoint.load(tmp_path / name / "last.pt")["average"] for name in ("whole", "parts"))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_muon_is_that_of_pytorch() -> None:
    """Step for step, and a run that was begun with theirs goes on."""
    layers = [nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 3), nn.Conv2d(8, 4, 3)]
    matrices = [nn.Parameter(layer.weight.data.clone().flatten(1)) for layer in layers]
    network: Any = nn.Sequential(*layers)
    network.outer_layers = ()
    mine: Any = Optimizer(network, "muon", 1e-2)
    theirs = torch.optim.Muon(matrices, lr=1e-2, weight_decay=1e-2, adjust_lr_fn="match_rms_adamw")
    generator = torch.Generator().manual_seed(1)
    for step in range(4):
        if step == 2:
            mine._muon.load_state_dict(theirs.state_dict())
        for layer, matrix in zip(layers, matrices, strict=True):
            layer.weight.grad = torch.randn(layer.weight.shape, generator=generator)
            matrix.grad = layer.weight.grad.flatten(1).clone()
        starts = [matrix.detach().clone() for matrix in matrices]
        mine.step(1e-2)
        theirs.step()
        for layer, matrix, before in zip(layers, matrices, starts, strict=True):
            # The iteration is in bfloat16, whose products may be summed in another order.
            apart, moved = (layer.weight.flatten(1) - matrix).detach(), (matrix - before).detach()
            assert float(apart.norm()) < 0.02 * float(moved.norm())
