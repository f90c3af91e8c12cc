"""The loop on a tiny problem: it learns, resumes bit for bit, exports what engines load, fails clearly."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the trainer needs PyTorch")
from torch import Tensor, nn  # noqa: E402

for _name in ("safetensors", "onnx", "onnxruntime", "cv2", "scipy"):
    pytest.importorskip(_name, reason="the trainer needs it")

from safetensors.numpy import load_file  # noqa: E402

from blender_normal_inpaint.core.modelcard import default_card_path, load_card, verify  # noqa: E402
from blender_normal_inpaint.nets import build_generator  # noqa: E402
from blender_normal_inpaint.worker.engines import create_engine  # noqa: E402
from trainer import checkpoint, losses  # noqa: E402
from trainer.__main__ import main  # noqa: E402
from trainer.config import Config  # noqa: E402
from trainer.discriminator import (  # noqa: E402
    DcganDiscriminator,
    PatchDiscriminator,
    build_discriminator,
    discriminator_loss,
    generator_adversarial,
    r1_penalty,
    share_right,
)
from trainer.evaluate import judge_accuracy  # noqa: E402
from trainer.export import export  # noqa: E402
from trainer.loop import Trainer, TrainingFailed, advice_for_cpu  # noqa: E402
from trainer.optimizer import KINDS as OPTIMIZERS  # noqa: E402
from trainer.optimizer import Optimizer  # noqa: E402
from trainer.shards import SPACES, Shard, encode  # noqa: E402
from trainer.task import ShardSet, batches, build_inputs, shrink  # noqa: E402

GENERATOR = {"kind": "face", "widths": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "heads": 2}
ROOT = Path(__file__).resolve().parent.parent


def _dome(rng: np.random.Generator, size: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A ball somewhere in the picture: easy to learn."""
    line = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(line, -line)
    cx, cy, r = rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2), rng.uniform(0.7, 0.9)
    u, v = (x - cx) / r, (y - cy) / r
    n = np.stack([u, v, np.sqrt(np.clip(1 - u**2 - v**2, 0, 1))], axis=-1).astype(np.float32)
    return n, np.asarray(np.hypot(u, v) < 0.97)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small are slower on several threads, and much slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 8)):
        maps = np.stack([encode(*_dome(rng, 48)) for _ in range(count)])
        Shard(maps, np.arange(count), "camera").save(folder / split / "domes.npz")
    return folder


def _config(data: Path, **changes: Any) -> Config:
    values: dict[str, Any] = {
        "data": str(data),
        "generator": GENERATOR,
        "stages": [{"size": 32, "batch": 8, "steps": 30, "lr": 2e-3, "lr_end": 1e-3}],
        "shares": {"camera": 1.0},
        "discriminator_width": 8,
        "log_every": 5,
        "save_every": 10,
        "validate_every": 1000,
        "tensorboard": False,
    }
    return Config.from_dict({**values, **changes})


def _weights(run: Path) -> dict[str, Any]:
    state = checkpoint.load(run / "last.pt")
    generator: dict[str, Any] = state["generator"]
    return generator


def test_it_learns_and_writes_all_that_is_needed(data: Path, tmp_path: Path) -> None:
    trainer = Trainer(
        _config(data, stages=[{"size": 32, "batch": 8, "steps": 80, "lr": 3e-3, "lr_end": 1e-3}]),
        tmp_path,
        lambda _: None,
    )
    before = trainer.validate(trainer.config.stages[0])
    trainer.run()
    after = trainer.validate(trainer.config.stages[0])
    assert after < 0.75 * before
    state = checkpoint.load(tmp_path / "last.pt")
    assert state["step"] == 80 and json.loads(state["config"])["seed"] == 0 and state["revision"]
    assert json.loads((tmp_path / "config.json").read_text())["generator"] == GENERATOR
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert any("degrees" in line for line in lines)
    assert all(0 <= line["waiting"] <= 1 for line in lines if "degrees" in line)
    assert list((tmp_path / "sheets").glob("*.png"))
    session = json.loads((tmp_path / "sessions.jsonl").read_text().splitlines()[0])
    assert session["torch"] == torch.__version__ and session["revision"] == state["revision"]
    if state["revision"].endswith("+"):  # what differs from the revision lies beside
        assert list(tmp_path.glob("changes-*.diff"))


def test_scalars_and_sheets_reach_tensorboard(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="an optional dependency")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    stage = {"size": 32, "batch": 4, "steps": 10, "adversarial": 0.05}
    config = _config(data, stages=[stage], tensorboard=True, validate_every=10)
    Trainer(config, tmp_path, lambda _: None).run()
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    assert {"degrees", "test_degrees", "judge_right", "test_judge_right"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("degrees")] == [5, 10]
    assert events.Tags()["images"] == ["sheet"]


def test_a_run_does_without_tensorboard(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.loop.importlib.util.find_spec", lambda name: None)
    said: list[str] = []
    stages = [{"size": 32, "batch": 4, "steps": 1}]
    Trainer(_config(data, stages=stages, tensorboard=True), tmp_path, said.append).run()
    assert "pip install tensorboard" in said[0] and said[-1] == "done"


def test_every_map_of_a_mixed_batch_is_told_its_own_space(tmp_path: Path) -> None:
    """Their depth, which no augmentation changes, tells the maps of each space apart."""
    depth = {"tangent": 1.0, "object": 0.0, "camera": 0.6}
    for space, z in depth.items():
        normals = np.zeros((2, 64, 64, 3), np.float32)
        normals[..., 1], normals[..., 2] = np.sqrt(1 - z * z), z
        Shard(encode(normals, np.ones((2, 64, 64), np.bool_)), np.arange(2), space).save(
            tmp_path / f"{space}.npz"
        )
    shards = ShardSet(tmp_path, 32, {"tangent": 0.2, "object": 0.3, "camera": 0.5})
    batch = shards.batch(np.random.default_rng(2), 24, {"blob": 1.0})
    seen = set()
    for inputs, truth, valid in zip(batch.inputs, batch.truth, batch.valid, strict=True):
        told = [space for number, space in enumerate(SPACES) if inputs[5 + number].all()]
        z = float(truth[2][valid[0] > 0].median())
        assert [space for space in depth if abs(depth[space] - z) < 0.02] == told
        seen.update(told)
    assert seen == set(depth)


@pytest.mark.skipif(sys.platform == "win32", reason="needs processes that share memory by forking")
def test_loaders_draw_the_very_batches(data: Path, tmp_path: Path) -> None:
    shards = ShardSet(data / "train", 32, {"camera": 1.0})
    drawn = [
        list(
            itertools.islice(
                batches(
                    shards, 7, (3, 1), 4, {"blob": 1.0}, known_valid=0.5, zoom=(0.9, 1.7), loaders=loaders
                ),
                3,
            )
        )
        for loaders in (0, 2)
    ]
    for one, two in zip(*drawn, strict=True):
        assert torch.equal(one.inputs, two.inputs) and torch.equal(one.hole, two.hole)
    assert not torch.equal(drawn[0][0].inputs, drawn[0][1].inputs)
    # A run that goes on at step 8 sees what step 8 would have seen.
    later = next(batches(shards, 8, (3, 1), 4, {"blob": 1.0}, known_valid=0.5, zoom=(0.9, 1.7)))
    assert torch.equal(later.inputs, drawn[0][1].inputs)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_resuming_is_bit_for_bit(optimizer: str, data: Path, tmp_path: Path) -> None:
    adversarial = {"adversarial": 0.05, "features": 0.1, "relight": 0.2, "curl": 0.05, "registered": 0.5}
    stages = [
        {"size": 32, "batch": 4, "steps": 8},
        {"size": 32, "batch": 4, "steps": 8, **adversarial},
    ]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    config = _config(data, stages=stages, save_every=3, r1_every=2, optimizer=optimizer)
    Trainer(config, whole, lambda _: None).run()

    class StoppedError(Exception):
        pass

    class Stopping(Trainer):
        """Dies in the middle of the second stage, two steps after the last save."""

        def _train_step(self, *arguments: Any) -> dict[str, Tensor]:
            if self.step == 14:
                raise StoppedError
            return super()._train_step(*arguments)

    with pytest.raises(StoppedError):
        Stopping(config, parts, lambda _: None).run()
    Trainer(config, parts, lambda _: None).run()
    first, second = checkpoint.load(whole / "last.pt"), checkpoint.load(parts / "last.pt")
    for part in ("generator", "average", "discriminator"):
        for key, value in first[part].items():
            assert torch.equal(value, second[part][key]), (part, key)
    assert first["rng"] == second["rng"]


def test_two_processes_train_one_network(data: Path, tmp_path: Path) -> None:
    """torchrun with two CPU processes: both end with the same weights, and not those of one alone."""
    script = tmp_path / "go.py"
    script.write_text(
        "import sys, os, torch\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\n"
        "from trainer.config import Config\n"
        "from trainer.loop import Trainer\n"
        "import json\n"
        "torch.set_num_threads(1)\n"
        "config = Config.from_dict(json.loads(Path(sys.argv[1]).read_text()))\n"
        "t = Trainer(config, Path(sys.argv[2]), lambda _: None)\n"
        "t.run()\n"
        "torch.save(t.generator.state_dict(), Path(sys.argv[2]) / f'rank{t.rank}.pt')\n"
    )
    config = _config(data, stages=[{"size": 32, "batch": 4, "steps": 6, "adversarial": 0.05}])
    (tmp_path / "config.in").write_text(json.dumps(config.to_dict()))
    run = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(script), str(tmp_path / "config.in"), str(run)],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one = torch.load(run / "rank0.pt", weights_only=True)
    two = torch.load(run / "rank1.pt", weights_only=True)
    assert all(torch.equal(one[key], two[key]) for key in one)
    Trainer(config, tmp_path / "alone", lambda _: None).run()
    alone = _weights(tmp_path / "alone")
    assert any(not torch.equal(one[key], alone[key]) for key in one)


def test_the_adversarial_stage_trains_both(data: Path, tmp_path: Path) -> None:
    stage = {
        "size": 32,
        "batch": 4,
        "steps": 6,
        "adversarial": 0.1,
        "features": 0.5,
        "relight": 0.5,
        "curl": 0.1,
    }
    trainer = Trainer(_config(data, stages=[stage], r1_every=2, log_every=1), tmp_path, lambda _: None)
    before = {k: v.clone() for k, v in trainer.discriminator.state_dict().items()}
    trainer.run()
    assert any(not torch.equal(before[k], v) for k, v in trainer.discriminator.state_dict().items())
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    for key in ("judge", "judge_right", "adversarial", "features", "relight", "curl"):
        assert np.isfinite([line[key] for line in lines]).all()
    assert all(0 <= line["judge_right"] <= 1 for line in lines)
    shares = judge_accuracy(tmp_path, maps=16)
    assert set(shares) == {"train", "test"} and all(0 <= share <= 1 for share in shares.values())


def test_the_papers_discriminator_is_retrained_at_intervals(data: Path, tmp_path: Path) -> None:
    stage = {"size": 32, "batch": 4, "steps": 7, "adversarial": 1.0}
    config = _config(
        data,
        stages=[stage],
        generator={"kind": "bowtie", "width": 8},
        discriminator="dcgan",
        discriminator_every=3,
        r1=0.0,
        cosine=10.0,
    )
    steps: list[bool] = []

    class Watched(Trainer):
        def _train_step(self, *arguments: Any) -> dict[str, Tensor]:
            before = {k: v.clone() for k, v in self.discriminator.named_parameters()}
            parts = super()._train_step(*arguments)
            now = dict(self.discriminator.named_parameters())
            steps.append(any(not torch.equal(before[k], now[k]) for k in now))
            return parts

    Watched(config, tmp_path, lambda _: None).run()
    assert steps == [True, False, False, True, False, False, True]


def test_a_loss_that_is_no_number_stops_the_run(data: Path, tmp_path: Path) -> None:
    trainer = Trainer(_config(data), tmp_path, lambda _: None)
    with torch.no_grad():
        next(trainer.generator.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingFailed, match="lower learning rate"):
        trainer.run()


def test_a_gradient_that_is_no_number_does_not_reach_the_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(_config(data), tmp_path, lambda _: None)
    trainer.save()
    before = {k: v.clone() for k, v in trainer.generator.state_dict().items()}
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(float("inf")))
    with pytest.raises(TrainingFailed, match="gradient became inf"):
        trainer.run()
    assert all(torch.equal(before[k], v) for k, v in trainer.generator.state_dict().items())


def test_lack_of_memory_is_named(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(_config(data), tmp_path, lambda _: None)

    def greedy(*_: Any) -> None:
        torch.empty(1 << 62, dtype=torch.uint8)  # the allocator's own refusal

    monkeypatch.setattr(trainer, "_train_step", greedy)
    with pytest.raises(TrainingFailed, match="batches of 8; use a smaller batch"):
        trainer.run()
    # Another error of the same class is not taken for it.
    monkeypatch.setattr(trainer, "_train_step", lambda *_: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        trainer.run()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_leaves_the_last_checkpoint(data: Path, tmp_path: Path) -> None:
    import resource

    trainer = Trainer(_config(data), tmp_path, lambda _: None)
    trainer.save()
    kept = (tmp_path / "last.pt").read_bytes()
    trainer.step = 5
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"last\.pt could not be written \(\d+ MiB are free"):
            trainer.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "last.pt").read_bytes() == kept and not list(tmp_path.glob("*.part"))


def test_export_is_what_the_engines_load(data: Path, tmp_path: Path) -> None:
    Trainer(
        _config(data, stages=[{"size": 32, "batch": 4, "steps": 3}]), tmp_path / "run", lambda _: None
    ).run()
    card = export(tmp_path / "run", tmp_path / "out", name="tiny", working_size=64, spaces=("camera",))
    assert card.figures["onnx_parity"] < 1e-3
    read = load_card(tmp_path / "out" / "tiny.json")
    assert read.generator["kind"] == "face" and read.spaces == ("camera",)
    for kind in ("onnx", "safetensors"):
        assert verify(read, kind).stat().st_size == read.files[kind].bytes
    # Half precision on disk: about two bytes a parameter in one file, the graph in the other.
    count = sum(
        p.numel() for p in Trainer(_config(data), tmp_path / "new", lambda _: None).generator.parameters()
    )
    assert read.files["safetensors"].bytes < 2 * count + 20_000
    assert read.files["onnx"].bytes < 0.2 * count + 60_000
    crops = np.random.default_rng(0).normal(size=(1, 11, 64, 64)).astype(np.float32)
    answers = [
        create_engine(kind, device="cpu", card_path=read.path)[0].run(crops) for kind in ("onnx", "torch")
    ]
    assert np.abs(answers[0] - answers[1]).max() < 1e-3


def test_a_run_starts_from_a_card_even_with_more_blocks(data: Path, tmp_path: Path) -> None:
    small = [{"size": 32, "batch": 4, "steps": 3}]
    first = Trainer(_config(data, stages=small), tmp_path / "first", lambda _: None)
    first.run()
    export(tmp_path / "first", tmp_path / "out", name="tiny", working_size=64)
    card, start = str(tmp_path / "out" / "tiny.json"), tmp_path / "out" / "tiny.safetensors"
    deeper = {**GENERATOR, "depths": [1, 2, 1, 2]}
    second = Trainer(_config(data, start=card, generator=deeper), tmp_path / "second", lambda _: None)
    crops = torch.randn(1, 11, 32, 32)
    with torch.no_grad():
        # The card holds the first run's averaged weights, in half precision or full.
        assert torch.allclose(second.generator(crops), first.average(crops), atol=2e-2)
        assert torch.equal(second.average(crops), second.generator(crops))
    second._train_step(second_batch(data), 1e-3, second.config.stages[0])
    middle: Any = second.generator.middle
    shut = middle[2].second.weight
    assert float(shut.detach().abs().max()) > 0  # a shut block opens as it learns
    # An exported share of what it started from: those weights are between, a new block's are its own.
    second.average.load_state_dict(second.generator.state_dict())
    second.save()
    kept = {}
    for share in (0.0, 0.25, 1.0):
        export(tmp_path / "second", tmp_path / f"kept {share}", name="tiny", working_size=64, keep=share)
        kept[share] = load_file(tmp_path / f"kept {share}" / "tiny.safetensors")
    assert all(np.array_equal(kept[1.0][name], value) for name, value in load_file(start).items())
    name = "middle.0.first.weight"
    between = 0.75 * kept[0.0][name].astype(np.float32) + 0.25 * kept[1.0][name].astype(np.float32)
    assert not np.array_equal(kept[0.0][name], kept[1.0][name])
    assert np.allclose(kept[0.25][name].astype(np.float32), between, atol=1e-3)
    assert np.array_equal(kept[0.0]["middle.2.second.weight"], kept[1.0]["middle.2.second.weight"])
    with pytest.raises(ValueError, match="did not start"):
        export(tmp_path / "first", tmp_path / "none", keep=0.5)
    # Without a generator of its own a run takes the card's.
    values = {"data": str(data), "start": card, "stages": small}
    assert Config.from_dict(values).generator["widths"] == GENERATOR["widths"]
    with pytest.raises(ValueError, match="another network"):
        Trainer(
            _config(data, start=card, generator={**GENERATOR, "widths": [8, 16, 16, 64]}),
            tmp_path / "third",
            lambda _: None,
        )


def test_a_processor_without_bfloat16_is_told_what_to_set(
    monkeypatch: pytest.MonkeyPatch, data: Path
) -> None:
    config = _config(data, precision="bfloat16", optimizer="muon")
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert 'precision = "float32" and optimizer = "adamw"' in advice_for_cpu(config)
    assert advice_for_cpu(_config(data, precision="float32", optimizer="adamw")) == ""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert advice_for_cpu(config) == ""


def test_the_configurations_that_are_shipped_are_read_and_start(data: Path, tmp_path: Path) -> None:
    for path in sorted((ROOT / "trainer" / "configs").glob("*.toml")):
        config = Config.load(path)
        kind = "paper_unet" if path.stem == "papers" else "face"
        assert config.stages and config.generator["kind"] == kind, path
    config = Config.load(ROOT / "trainer" / "configs" / "finetune.toml")
    config.data, config.device, config.loaders, config.tensorboard = str(data), "cpu", 0, False
    said: list[str] = []
    Trainer(config, tmp_path, said.append)
    assert said == [
        "starting from face_normal_inpaint " + load_card(default_card_path()).version,
        *([advice] if (advice := advice_for_cpu(config)) else []),
    ]


def test_a_compiled_run_is_the_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = [{"size": 32, "batch": 4, "steps": 3}]
    Trainer(_config(data, stages=stages), tmp_path / "plain", lambda _: None).run()
    # Traced as always; only the minutes of compiling for this machine are left out.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    Trainer(_config(data, stages=stages, compile=True), tmp_path / "compiled", lambda _: None).run()
    one, two = _weights(tmp_path / "plain"), _weights(tmp_path / "compiled")
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[key], two[key], atol=1e-5) for key in one)


def second_batch(data: Path) -> Any:
    return ShardSet(data / "train", 32, {"camera": 1.0}).batch(
        np.random.default_rng(3), 4, {"blob": 1.0}, known_valid=0.5
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_mixed_precision_learns(optimizer: str, data: Path, tmp_path: Path) -> None:
    stages = [{"size": 32, "batch": 8, "steps": 60, "lr": 3e-3, "lr_end": 1e-3}]
    config = _config(data, stages=stages, precision="bfloat16", closing=0.7, balance=0.5, optimizer=optimizer)
    trainer = Trainer(config, tmp_path, lambda _: None)
    before = trainer.validate(config.stages[0])
    trainer.run()
    assert trainer.validate(config.stages[0]) < 0.8 * before
    assert all(p.dtype == torch.float32 for p in trainer.generator.parameters())


def test_a_damaged_or_foreign_checkpoint_is_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        Trainer(_config(data), tmp_path, lambda _: None)
    torch.save({"weights": torch.zeros(3)}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="not a checkpoint of this trainer"):
        Trainer(_config(data), tmp_path, lambda _: None)
    (tmp_path / "last.pt").unlink()
    Trainer(_config(data), tmp_path, lambda _: None).save()
    with pytest.raises(ValueError, match="was trained with generator"):
        Trainer(_config(data, generator={"kind": "bowtie", "width": 8}), tmp_path, lambda _: None)
    with pytest.raises(ValueError, match="was trained with discriminator = patch"):
        Trainer(_config(data, discriminator="dcgan"), tmp_path, lambda _: None)
    with pytest.raises(ValueError, match="was trained with optimizer = adamw"):
        Trainer(_config(data, optimizer="muon"), tmp_path, lambda _: None)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_muon_moves_inner_convolutions_alike_in_all_directions(memory: Any) -> None:
    torch.manual_seed(0)
    network = build_generator(GENERATOR).to(memory_format=memory)  # type: ignore[call-overload]
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    network(torch.randn(2, 11, 32, 32))[:, 0].sum().backward()
    optimizer = Optimizer(network, "muon", weight_decay=0.0)
    optimizer.step(1e-3)
    moved = {name: value.detach() - before[name] for name, value in network.named_parameters()}
    inner = moved["down_b.0.first.weight"].flatten(1)
    # Orthogonal but for the five steps of its iteration, and of the size of a step of AdamW.
    singular = torch.linalg.svdvals(inner) / (1e-3 * 0.2 * max(inner.shape) ** 0.5)
    assert singular.min() > 0.3 and singular.max() < 1.4
    gradient = network.get_parameter("down_b.0.first.weight").grad
    assert gradient is not None and (inner * gradient.flatten(1)).sum() < 0
    # AdamW's first step: the rate, whatever the gradient. Biases and outer layers take it.
    for name in ("stem.weight", "head.weight", "gate.weight", "down_b.0.first.bias"):
        assert torch.isclose(moved[name].abs().median(), torch.tensor(1e-3), rtol=1e-2), name


def test_the_papers_networks_learn_with_muon() -> None:
    network = build_generator({"kind": "paper_unet", "width": 8})
    optimizer = Optimizer(network, "muon", weight_decay=0.0)
    inputs = torch.randn(2, 11, 128, 128)
    losses_seen = []
    for _ in range(8):
        loss = (1 - network(inputs)[:, 2]).mean()
        network.zero_grad()
        loss.backward()
        optimizer.step(3e-3)
        losses_seen.append(float(loss.detach()))
    assert losses_seen[-1] < 0.5 * losses_seen[0]


def test_configurations_are_checked(tmp_path: Path) -> None:
    stage = {"size": 32, "batch": 1, "steps": 1}
    for bad, word in (
        ({"stages": [stage]}, "data"),
        ({"data": "x", "stages": [stage], "colour": 1}, "colour"),
        ({"data": "x", "stages": [{**stage, "speed": 1}]}, "speed"),
        ({"data": "x", "stages": [{**stage, "size": 33}]}, "multiple of 16"),
        ({"data": "x", "stages": [{"size": 32, "batch": 1}]}, "minutes"),
        ({"data": "x", "stages": [stage], "masks": {"spots": 1.0}}, "spots"),
        ({"data": "x", "stages": [stage], "optimizer": "sgd"}, "adamw, muon"),
    ):
        with pytest.raises(ValueError, match=word):
            Config.from_dict(bad)
    (tmp_path / "c.toml").write_text("data = [")
    with pytest.raises(ValueError, match=r"c\.toml"):
        Config.load(tmp_path / "c.toml")


def test_the_command_line_reports_and_returns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.toml").write_text(
        f"data = {json.dumps(str(tmp_path))}\n[[stages]]\nsize = 32\nbatch = 1\nsteps = 1\n"
    )
    assert main(["train", str(tmp_path)]) == 1
    assert "prepare" in capsys.readouterr().err


def test_the_valid_channel_is_unknown_in_holes_half_of_the_time(data: Path) -> None:
    shards = ShardSet(data / "train", 32, {"camera": 1.0})
    for share, expected in ((1.0, True), (0.0, False)):
        batch = shards.batch(
            np.random.default_rng(0), 6, {"crescent": 1.0}, known_valid=share, zoom=(0.8, 0.9)
        )
        shown, off = batch.inputs[:, 4:5], batch.hole * (1 - batch.valid)
        assert float(off.sum()) > 0
        assert bool((shown[off > 0] == 0).all()) is expected
    assert torch.equal(batch.inputs[:, :3], batch.truth * batch.valid * (1 - batch.hole))
    assert torch.equal(batch.inputs[:, 7], torch.ones_like(batch.inputs[:, 7]))


def test_inputs_are_laid_out_as_the_core_does() -> None:
    from blender_normal_inpaint.core.fill import prepare_batch
    from blender_normal_inpaint.core.guess import first_guess
    from blender_normal_inpaint.core.normals import angular_error

    rng = np.random.default_rng(0)
    n, valid = _dome(rng, 32)
    hole = valid & (rng.random((32, 32)) < 0.3)
    for space in ("tangent", "object", "camera"):
        ours = build_inputs(
            torch.from_numpy(n).permute(2, 0, 1)[None],
            torch.from_numpy(hole).float()[None, None],
            torch.from_numpy(valid).float()[None, None],
            [space],
        )
        guess, _ = first_guess(n, hole, valid, space)
        assert np.allclose(ours[0, :8].numpy(), prepare_batch(n, hole, valid, space, guess)[:8], atol=1e-6)
        # Made with fewer steps, so near.
        assert angular_error(ours[0, 8:, hole].T.numpy(), guess[hole]).mean() < 1


def test_shrinking_averages_surface_only() -> None:
    rng = np.random.default_rng(0)
    n, valid = _dome(rng, 48)
    small = shrink(encode(n, valid)[None], 2)
    assert small.shape == (1, 24, 24, 3)
    assert small.any(axis=-1).mean() == pytest.approx(valid.mean(), abs=0.05)
    middle = small[0, 10:14, 10:14].astype(float)
    assert np.abs(middle - encode(n, valid)[20:28, 20:28].reshape(4, 2, 4, 2, 3).mean(axis=(1, 3))).max() <= 1


def test_losses_know_their_answers() -> None:
    up = torch.tensor([0.0, 0.0, 1.0]).reshape(1, 3, 1, 1).expand(1, 3, 8, 8)
    tilt = (
        torch.tensor([np.sin(0.5), 0.0, np.cos(0.5)], dtype=torch.float32)
        .reshape(1, 3, 1, 1)
        .expand(1, 3, 8, 8)
    )
    one = torch.ones(1, 1, 8, 8)
    assert float(losses.cosine(up, tilt, one)) == pytest.approx(1 - np.cos(0.5), abs=1e-5)
    assert float(losses.chord(up, tilt, one)) == pytest.approx(2 * np.sin(0.25), abs=1e-3)
    assert float(losses.angle_degrees(up, tilt).mean()) == pytest.approx(np.degrees(0.5), abs=1e-3)
    assert float(losses.gradient(up, tilt, one, one)) == pytest.approx(0, abs=1e-6)
    lights = torch.tensor([[[0.0, 0.0, 1.0]]])
    assert float(losses.relight(up, tilt, one, lights)) == pytest.approx(1 - np.cos(0.5), abs=1e-5)
    # Slopes (y, 0) turn: their curl is minus one texel's step everywhere; slopes (x, 0) have none.
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    twisted = torch.stack([0.1 * y, 0 * y, torch.ones(8, 8)])[None]
    smooth = torch.stack([0.1 * x, 0 * x, torch.ones(8, 8)])[None]
    assert float(losses.curl_difference(smooth, up, one)) == pytest.approx(0, abs=1e-6)
    assert float(losses.curl_difference(twisted, up, one)) == pytest.approx(0.1, abs=1e-5)


def test_balance_lifts_small_holes_and_keeps_the_sum() -> None:
    weight = torch.zeros(2, 1, 8, 8)
    weight[0, :, :4] = 1
    weight[1, :, :1, :4] = 1
    assert torch.equal(losses.balanced(weight, 0.0), weight)
    even = losses.balanced(weight, 1.0)
    assert float(even.sum()) == pytest.approx(float(weight.sum()), rel=1e-5)
    assert float(even[0].sum()) == pytest.approx(float(even[1].sum()), rel=1e-5)
    some = losses.balanced(weight, 0.5)
    ratio = float(some[0].sum() / some[1].sum())
    assert ratio == pytest.approx((32 / 4) ** 0.5, rel=1e-5)


def _ridge(places: list[int], size: int = 96) -> Any:
    """Maps with a horizontal crease at given rows: flat but for two rows that lean up and down."""
    maps = torch.zeros(len(places), 3, size, size)
    maps[:, 2] = 1
    for i, row in enumerate(places):
        for offset, lean in ((0, 0.8), (1, -0.8)):
            maps[i, :, row + offset] = torch.tensor([0.0, lean, 0.6])[:, None]
    return maps


def test_a_crease_beside_its_place_costs_less_than_none_where_the_place_is_unknown() -> None:
    places = [46, 47, 48, 49, 50]
    truth = _ridge(places)
    valid = torch.ones(len(places), 1, 96, 96)
    hole = torch.zeros_like(valid)
    hole[:, :, 20:76, 20:76] = 1
    sharp = _ridge([48]).expand_as(truth)
    blurred = nn.functional.normalize(truth.mean(dim=0, keepdim=True), dim=1).expand_as(truth)

    def cost(answer: Any, moving: bool) -> float:
        wanted = losses.registered(answer, truth, hole, valid) if moving else truth
        return float(losses.chord(answer, wanted, hole))

    assert cost(sharp, False) > cost(blurred, False)
    assert cost(sharp, True) < 0.5 * cost(blurred, True)
    assert cost(sharp, True) < 0.5 * cost(sharp, False)


def test_what_is_known_or_right_already_is_not_moved() -> None:
    truth = _ridge([47])
    valid = torch.ones(1, 1, 96, 96)
    valid[..., :10] = 0
    truth = truth * valid
    hole = torch.zeros_like(valid)
    hole[:, :, 20:76, 20:76] = 1
    assert torch.equal(losses.registered(truth, truth, hole, valid), truth)
    moved = losses.registered(_ridge([49]), truth, hole, valid)
    assert torch.equal(moved[..., 48, 40:56], truth[..., 46, 40:56])  # in the middle it follows
    changed = (moved != truth).any(dim=1, keepdim=True)
    assert changed.any() and not (changed & (hole == 0)).any()
    assert torch.equal(moved[..., 20], truth[..., 20])  # at the border it stays


def test_nothing_is_moved_off_the_surface() -> None:
    upright = _ridge([50]).transpose(2, 3)
    valid = torch.ones(1, 1, 96, 96)
    valid[..., 53:] = 0
    truth = upright * valid
    hole = torch.zeros_like(valid)
    hole[:, :, 20:76, 20:76] = 1
    moved = losses.registered(_ridge([48]).transpose(2, 3), truth, hole, valid)
    assert not torch.equal(moved, truth)
    assert torch.equal(moved.any(dim=1, keepdim=True), valid > 0)


def test_closing_a_seam_takes_a_constant_error_off_a_thin_hole() -> None:
    truth = torch.tensor([0.0, 0.0, 1.0]).reshape(1, 3, 1, 1).expand(1, 3, 32, 32)
    tilt = torch.tensor([np.sin(0.2), 0.0, np.cos(0.2)], dtype=torch.float32)
    predicted = tilt.reshape(1, 3, 1, 1).expand(1, 3, 32, 32)
    known = torch.ones(1, 1, 32, 32)
    known[..., 15:17] = 0
    error = losses.angle_degrees(losses.close_seam(predicted, truth, known), truth)
    assert float(error[..., 15:17].max()) < 0.1 * np.degrees(0.2)
    known[..., 4:28] = 0
    far = losses.angle_degrees(losses.close_seam(predicted, truth, known), truth)[..., 15:17]
    assert float(far.min()) > 0.9 * np.degrees(0.2)  # the middle of a wide hole is the network's alone


def test_discriminators_judge_and_are_bounded() -> None:
    torch.manual_seed(0)
    judge = PatchDiscriminator(8)
    maps, one = torch.randn(2, 3, 64, 64), torch.ones(2, 1, 64, 64)
    verdict, features = judge(maps, one, one)
    assert verdict.shape == (2, 1, 4, 4) and len(features) == 4
    penalty = r1_penalty(judge, maps, one, one)
    penalty.backward()
    assert float(penalty.detach()) >= 0

    class Tilted(nn.Module):
        """Each verdict is the sum of its own sixteen texels."""

        def forward(self, normals: Tensor, hole: Tensor, valid: Tensor) -> tuple[Tensor, list[Tensor]]:
            return nn.functional.avg_pool2d(normals[:, :1], 4) * 16, []

    # The squared slope of each, however many there are.
    assert float(r1_penalty(Tilted(), maps, one, one).detach()) == pytest.approx(16)
    half = maps[..., :32]
    assert float(r1_penalty(Tilted(), half, one, one).detach()) == pytest.approx(16)
    verdict, features = DcganDiscriminator(8)(maps, one, one)
    assert verdict.shape == (2, 1, 1, 1) and len(features) == 5
    # Binary cross entropy of a coin: log 2 for each side; the hinge of the same verdicts is one for each.
    zero, weight = torch.zeros(2, 1, 1, 1), torch.ones(2, 1, 1, 1)
    assert float(discriminator_loss(zero, zero, weight, "dcgan")) == pytest.approx(2 * np.log(2))
    assert float(discriminator_loss(zero, zero, weight, "patch")) == pytest.approx(2)
    assert float(generator_adversarial(zero, weight, "dcgan")) == pytest.approx(np.log(2))
    assert share_right(zero + 1, zero - 1, weight) == 1 and share_right(zero - 1, zero - 1, weight) == 0.5
    with pytest.raises(ValueError, match="oracle"):
        build_discriminator("oracle", 8)


def test_the_codes_changes_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        settings = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *settings, *arguments], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "trainer").mkdir()
    old = tmp_path / "trainer" / "old.py"
    old.write_text("a = 1\n")
    monkeypatch.setattr(checkpoint, "__file__", str(tmp_path / "trainer" / "checkpoint.py"))
    assert checkpoint.git_revision() == "unknown" and checkpoint.git_changes() == ""
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    clean = checkpoint.git_revision()
    assert len(clean) == 40 and checkpoint.git_changes() == ""
    old.write_text("a = 2\n")
    (tmp_path / "trainer" / "new.py").write_text("b = 3\n")
    (tmp_path / "notes.txt").write_text("not the code that runs\n")
    assert checkpoint.git_revision() == clean + "+"
    patch = checkpoint.git_changes()
    assert "+a = 2" in patch and "+b = 3" in patch and "notes" not in patch
    old.write_text("a = 1\n")
    (tmp_path / "trainer" / "new.py").unlink()
    (tmp_path / "changes.diff").write_text(patch)
    git("apply", "changes.diff")
    assert old.read_text() == "a = 2\n" and (tmp_path / "trainer" / "new.py").read_text() == "b = 3\n"
