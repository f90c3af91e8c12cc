"""Both engines run the same network and agree; what is missing or damaged is said, not guessed."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blender_normal_inpaint.core.errors import InpaintError
from blender_normal_inpaint.core.fill import prepare_batch
from blender_normal_inpaint.core.guess import first_guess
from blender_normal_inpaint.core.modelcard import INPUT_CHANNELS, default_card_path, load_card
from blender_normal_inpaint.worker import engines
from blender_normal_inpaint.worker.engines import (
    AGREE,
    OnnxEngine,
    TorchEngine,
    choose_provider,
    create_engine,
    load_safetensors,
    read_safetensors,
)

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
save_file = pytest.importorskip("safetensors.numpy").save_file

CONFIG = {"kind": "face", "widths": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "heads": 2}


def write_card(folder: Path, **changes: Any) -> Path:
    """A card for whatever weight files lie in the folder."""
    files = {}
    for kind in ("onnx", "safetensors"):
        path = folder / f"tiny.{kind}"
        if path.exists():
            data = path.read_bytes()
            files[kind] = {"file": path.name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    card = {
        "name": "tiny",
        "version": "0",
        "created": "2026-01-01",
        "spaces": ["tangent", "object", "camera"],
        "input_channels": list(INPUT_CHANNELS),
        "working_size": 64,
        "size_multiple": 16,
        "generator": CONFIG,
        "files": files,
    }
    path = folder / "tiny.json"
    path.write_text(json.dumps(card | changes), encoding="utf-8")
    return path


@dataclass
class Model:
    card: Path

    @property
    def onnx(self) -> Path:
        return self.card.with_suffix(".onnx")

    @property
    def safetensors(self) -> Path:
        return self.card.with_suffix(".safetensors")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A small network of the real kind with random weights, exported both ways."""
    from blender_normal_inpaint.nets import build_generator

    folder = tmp_path_factory.mktemp("ein Mödell")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = build_generator(CONFIG).eval()
    save_file(
        {name: tensor.numpy() for name, tensor in net.state_dict().items()}, folder / "tiny.safetensors"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (torch.zeros(1, len(INPUT_CHANNELS), 32, 32),),
            str(folder / "tiny.onnx"),
            dynamo=False,
            input_names=["crop"],
            output_names=["normals"],
            dynamic_axes={"crop": {0: "n", 2: "h", 3: "w"}, "normals": {0: "n", 2: "h", 3: "w"}},
        )
    return Model(write_card(folder))


@pytest.fixture
def model(made: Model, tmp_path: Path) -> Model:
    """A copy that a test may damage."""
    for source in made.card.parent.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    return Model(tmp_path / made.card.name)


def make_batch(count: int = 1, height: int = 48, width: int = 64) -> np.ndarray:
    rng = np.random.default_rng(5)
    batch = []
    for index in range(count):
        normals = rng.normal(0, 0.2, (height, width, 3)).astype(np.float32)
        normals[..., 2] = 1
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
        hole = np.zeros((height, width), bool)
        hole[10:30, 20:40] = True
        valid, space = np.ones_like(hole), ("tangent", "camera")[index % 2]
        guess, _ = first_guess(normals, hole, valid, space)
        batch.append(prepare_batch(normals, hole, valid, space, guess))
    return np.stack(batch)


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(InpaintError) as caught:
        call()
    return caught.value.code


# The same network -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 64, 64), (2, 48, 80), (1, 16, 160)])
def test_both_engines_agree(made: Model, shape: tuple[int, int, int]) -> None:
    batch = make_batch(*shape) if shape[1] > 16 else make_batch(1, 160, 160)[:, :, :16]
    one, one_notices = create_engine("onnx", device="cpu", card_path=made.card)
    other, other_notices = create_engine("torch", device="cpu", card_path=made.card)
    assert (one.name, one.device, other.name, other.device) == ("onnx", "CPU", "torch", "CPU")
    assert one_notices == other_notices == []
    first, second = one.run(batch), other.run(batch)
    assert first.shape == (shape[0], 3, *batch.shape[2:])
    assert first.dtype == second.dtype == np.float32
    assert np.abs(first - second).max() < AGREE
    assert first.std() > 0.01  # the network says something
    assert np.abs(np.linalg.norm(first, axis=1) - 1).max() < 1e-2


def test_a_run_depends_on_its_input_alone(made: Model) -> None:
    engine = OnnxEngine(load_card(made.card), device="cpu")
    batch = make_batch()
    before = engine.run(batch)
    engine.run(make_batch(2))
    np.testing.assert_array_equal(engine.run(batch), before)
    assert np.abs(engine.run(batch * np.float32(0.5)) - before).max() > 1e-3


def test_a_weight_file_stands_for_its_card(made: Model) -> None:
    assert create_engine("onnx", card_path=made.onnx, threads=1)[0].card.path == made.card
    assert create_engine("torch", device="cpu", card_path=made.safetensors)[0].card.path == made.card


@pytest.mark.parametrize(
    "batch",
    [np.zeros((1, 7, 32, 32)), np.zeros((11, 32, 32)), np.zeros((1, 11, 30, 32)), np.zeros((0, 11, 32, 32))],
)
def test_a_batch_of_another_shape_is_the_callers_mistake(made: Model, batch: np.ndarray) -> None:
    for kind in ("onnx", "torch"):
        engine, _ = create_engine(kind, device="cpu", card_path=made.card)
        with pytest.raises(ValueError, match=r"batch|multiples"):
            engine.run(batch)


def test_the_bundled_weights_agree_too() -> None:
    assert load_card(default_card_path()).files.keys() == {"onnx", "safetensors"}
    batch = make_batch(1, 256, 256)
    first = create_engine("onnx", device="cpu")[0].run(batch)
    second = create_engine("torch", device="cpu")[0].run(batch)
    assert np.abs(first - second).max() < AGREE
    assert np.abs(np.linalg.norm(first, axis=1) - 1).max() < 1e-2


def test_the_bundled_weights_are_stored_once() -> None:
    card = load_card(default_card_path())
    assert card.files["onnx"].needs == ("safetensors",)
    assert card.files["onnx"].bytes < card.files["safetensors"].bytes / 50
    total = sum(path.stat().st_size for path in default_card_path().parent.iterdir())
    assert total < 40_000_000


# Missing, damaged, foreign ----------------------------------------------------------------------------


def test_the_bundled_graph_needs_the_weights_beside_it(tmp_path: Path) -> None:
    for source in default_card_path().parent.glob("face_normal_inpaint.*"):
        shutil.copyfile(source, tmp_path / source.name)
    model = Model(tmp_path / default_card_path().name)
    for path in (model.card, model.onnx, model.safetensors):
        assert create_engine("onnx", device="cpu", card_path=path)[0].card.path == model.card
    data = bytearray(model.safetensors.read_bytes())
    data[len(data) // 2] ^= 1
    model.safetensors.write_bytes(data)
    assert code_of(lambda: create_engine("onnx", card_path=model.onnx)) == "weights_damaged"
    model.safetensors.unlink()
    for kind in ("onnx", "torch", "auto"):
        with pytest.raises(InpaintError, match=r"face_normal_inpaint\.safetensors is missing") as caught:
            create_engine(kind, device="cpu", card_path=model.onnx)
        assert caught.value.code == "weights_missing"


@pytest.mark.parametrize("kind", ["onnx", "torch", "auto"])
def test_weights_that_are_missing_or_damaged(model: Model, kind: str) -> None:
    for path in (model.onnx, model.safetensors):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    assert code_of(lambda: create_engine(kind, device="cpu", card_path=model.card)) == "weights_damaged"
    for path in (model.onnx, model.safetensors):
        path.unlink()
    assert code_of(lambda: create_engine(kind, device="cpu", card_path=model.card)) == "weights_missing"
    model.card.unlink()
    assert code_of(lambda: create_engine(kind, device="cpu", card_path=model.card)) == "weights_missing"


def test_what_the_card_calls_whole_but_is_no_network(model: Model) -> None:
    model.onnx.write_bytes(b"not a network")
    model.safetensors.write_bytes(b"not a network, nor long enough")
    write_card(model.card.parent)
    assert code_of(lambda: create_engine("onnx", card_path=model.card)) == "engine_unavailable"
    assert code_of(lambda: create_engine("torch", card_path=model.card)) == "weights_damaged"


def test_weights_of_another_network_do_not_load(model: Model) -> None:
    write_card(model.card.parent, generator=CONFIG | {"heads": 2, "widths": [8, 8, 16, 32]})
    assert code_of(lambda: create_engine("torch", device="cpu", card_path=model.card)) == "weights_damaged"
    write_card(model.card.parent, generator={"kind": "unheard of"})
    assert code_of(lambda: create_engine("torch", device="cpu", card_path=model.card)) == "weights_damaged"


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the import of a library fail."""

    def make_broken(name: str) -> None:
        monkeypatch.setitem(sys.modules, name, None)

    return make_broken


def test_a_library_that_cannot_be_imported(made: Model, broken: Callable[[str], None]) -> None:
    broken("onnxruntime")
    assert code_of(lambda: create_engine("onnx", card_path=made.card)) == "engine_unavailable"
    engine, notices = create_engine("auto", device="cpu", card_path=made.card)
    assert engine.name == "torch"
    assert "ONNX Runtime is not used" in notices[0]
    broken("torch")
    assert code_of(lambda: create_engine("torch", card_path=made.card)) == "engine_unavailable"


def test_auto_prefers_onnx_without_an_accelerator(made: Model) -> None:
    engine, notices = create_engine("auto", card_path=made.card)
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        assert engine.name == "onnx"
    assert notices == []


def test_auto_says_why_torch_is_not_used(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_torch_may_accelerate", lambda: True)
    model.safetensors.unlink()
    engine, notices = create_engine("auto", card_path=model.card)
    assert engine.name == "onnx"
    assert "PyTorch is not used" in notices[0]


@pytest.mark.parametrize(
    ("text", "may"),
    [
        ("cuda: Optional[str] = '12.8'\nhip: Optional[str] = None\nxpu: Optional[str] = None\n", True),
        ("cuda: Optional[str] = None\nhip: Optional[str] = '6.4'\nxpu: Optional[str] = None\n", True),
        ("cuda: Optional[str] = None\nhip: Optional[str] = None\nxpu: Optional[str] = None\n", False),
        ("nothing that we know\n", True),
    ],
)
def test_a_torch_for_the_cpu_is_told_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, may: bool
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise AssertionError('imported')")
    (tmp_path / "torch" / "version.py").write_text(text)
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    assert engines._torch_may_accelerate() is may


@pytest.mark.parametrize(("kind", "device"), [("onnx", "toaster"), ("torch", "toaster"), ("torch", "cuda:x")])
def test_a_device_that_does_not_exist(made: Model, kind: str, device: str) -> None:
    assert code_of(lambda: create_engine(kind, device=device, card_path=made.card)) == "engine_unavailable"


def test_an_engine_that_does_not_exist(made: Model) -> None:
    assert code_of(lambda: create_engine("steam", card_path=made.card)) == "engine_unavailable"


def test_torch_without_the_asked_accelerator_says_so(made: Model) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    assert code_of(lambda: create_engine("torch", device="cuda", card_path=made.card)) == "engine_unavailable"


# Accelerators, by stand-ins ---------------------------------------------------------------------------

DML, COREML, CUDA, CPU = (
    "DmlExecutionProvider",
    "CoreMLExecutionProvider",
    "CUDAExecutionProvider",
    "CPUExecutionProvider",
)


@pytest.mark.parametrize(
    ("device", "offered", "system", "chosen"),
    [
        ("auto", [DML, CPU], "win32", "directml"),
        ("auto", [COREML, CPU], "darwin", "coreml"),
        ("auto", [CUDA, CPU], "linux", None),
        ("auto", [CPU], "win32", None),
        ("cpu", [DML, CPU], "win32", None),
        ("dml", [DML, CPU], "win32", "directml"),
        ("coreml", [CPU], "linux", None),
        ("cuda:1", [CUDA, CPU], "linux", "cuda"),
        ("gpu", [CUDA, CPU], "win32", "cuda"),
        ("gpu", [DML, CUDA, CPU], "win32", "directml"),
    ],
)
def test_the_provider_follows_device_wheel_and_system(
    device: str, offered: list[str], system: str, chosen: str | None
) -> None:
    assert choose_provider(device, offered, system) == chosen


class Provider:
    """Stands in for a session on an accelerator: the CPU's answer, bent or failing."""

    def __init__(self, session: Any, bend: float, name: str, fails_at: int) -> None:
        self.session, self.bend, self.name, self.left = session, bend, name, fails_at

    def get_providers(self) -> list[str]:
        return [self.name, CPU]

    def run(self, _: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("the driver was reset\nmore")
        return [self.session.run(None, feed)[0] + np.float32(self.bend)]


@pytest.fixture
def accelerate(made: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., OnnxEngine]]:
    real = OnnxEngine._open

    def make_engine(*, bend: float = 0.0, name: str = DML, fails_at: int = 100) -> OnnxEngine:
        def open_(self: OnnxEngine, chosen: str | None) -> Any:
            session = real(self, None)
            return session if chosen is None else Provider(session, bend, name, fails_at)

        monkeypatch.setattr(OnnxEngine, "_open", open_)
        monkeypatch.setattr(engines, "choose_provider", lambda *_: "directml")
        return OnnxEngine(load_card(made.card))

    yield make_engine


def test_an_accelerator_that_agrees_is_used(accelerate: Callable[..., OnnxEngine]) -> None:
    engine = accelerate(bend=AGREE / 2)
    assert engine.device == "DirectML"
    assert engine.take_notices() == []


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"bend": 2 * AGREE}, "away from the CPU's"),
        ({"bend": float("nan")}, "away from the CPU's"),
        ({"name": CPU}, "did not start"),
        ({"fails_at": 0}, "the driver was reset."),
    ],
)
def test_an_accelerator_that_does_not_agree_is_not(
    accelerate: Callable[..., OnnxEngine], how: dict[str, Any], why: str
) -> None:
    engine = accelerate(**how)
    assert engine.device == "CPU"
    (notice,) = engine.take_notices()
    assert why in notice
    assert np.isfinite(engine.run(make_batch())).all()


def test_an_accelerator_that_fails_later_is_replaced(accelerate: Callable[..., OnnxEngine]) -> None:
    engine = accelerate(fails_at=1)
    assert engine.device == "DirectML"
    assert engine.run(make_batch()).shape == (1, 3, 48, 64)
    assert engine.device == "CPU"
    (notice,) = engine.take_notices()
    assert "DirectML failed" in notice and "the driver was reset" in notice


def test_the_memory_between_layers_is_given_back(made: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = OnnxEngine(load_card(made.card), device="cpu")
    session, asked = engine._session, []

    class Watched:
        def run(self, outputs: None, feed: dict[str, np.ndarray], options: Any) -> list[np.ndarray]:
            asked.append(options.get_run_config_entry("memory.enable_memory_arena_shrinkage"))
            return session.run(outputs, feed, options)

    before = engine.run(make_batch())
    monkeypatch.setattr(engine, "_session", Watched())
    assert np.array_equal(engine.run(make_batch()), before)
    assert asked == ["cpu:0"]


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"), "ran out of memory"),
        (RuntimeError("cuDNN error"), "failed (cuDNN error)"),
    ],
)
def test_a_gpu_that_gives_up_is_replaced_by_the_cpu(
    made: Model, monkeypatch: pytest.MonkeyPatch, error: Exception, why: str
) -> None:
    engine = TorchEngine(load_card(made.card), device="cpu")
    expected = engine.run(make_batch())
    real = engine._infer

    def infer(batch: np.ndarray) -> np.ndarray:
        if engine._place.type != "cpu":
            raise error
        return real(batch)

    monkeypatch.setattr(engine, "_infer", infer)
    engine._place, engine.device, engine.half = torch.device("cuda"), "CUDA: stand-in", True
    np.testing.assert_allclose(engine.run(make_batch()), expected, atol=1e-6)
    assert engine.device == "CPU"
    assert not engine.half
    assert engine.take_notices() == [f"CUDA: stand-in {why}, so the CPU was used."]


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_no_memory_on_the_cpu_is_said(made: Model, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    engine, _ = create_engine(kind, device="cpu", card_path=made.card)

    def run(*_: object) -> None:
        raise RuntimeError("Failed to allocate memory for requested buffer of size 123")

    monkeypatch.setattr(engine, "_run_session" if kind == "onnx" else "_infer", run)
    assert code_of(lambda: engine.run(make_batch())) == "out_of_memory"


@pytest.mark.parametrize(
    ("good", "half", "device"),
    [((True, True), True, "G"), ((False, True), False, "G"), ((False, False), False, "CPU")],
)
def test_half_precision_is_used_only_where_a_probe_agrees(
    made: Model, monkeypatch: pytest.MonkeyPatch, good: tuple[bool, bool], half: bool, device: str
) -> None:
    engine = TorchEngine(load_card(made.card), device="cpu")
    real = engine._infer

    def infer(batch: np.ndarray) -> np.ndarray:
        on_gpu, in_half, precise = engine._place.type == "cuda", engine.half, engine._place
        engine._place, engine.half = torch.device("cpu"), False
        result = real(batch)
        engine._place, engine.half = precise, in_half
        agrees = not on_gpu or good[0 if in_half else 1]
        return result if agrees else result + np.float32(0.01)

    monkeypatch.setattr(engine, "_infer", infer)
    monkeypatch.setattr(engine, "_move", lambda place: setattr(engine, "_place", place))
    engine._accelerate(torch.device("cuda"), "G")
    assert (engine.half, engine.device) == (half, device)
    assert len(engine.take_notices()) == (device == "CPU")


def test_half_precision_really_runs_and_stays_unit(made: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TorchEngine(load_card(made.card), device="cpu")
    exact = engine.run(make_batch())
    engine.half = True  # autocast knows the CPU too
    rough = engine.run(make_batch())
    assert 0 < np.abs(rough - exact).max() < 0.05
    assert np.abs(np.linalg.norm(rough, axis=1) - 1).max() < 1e-5


# safetensors ------------------------------------------------------------------------------------------


def test_our_reader_reads_what_the_package_reads(made: Model, tmp_path: Path) -> None:
    theirs, ours = load_safetensors(made.safetensors), read_safetensors(made.safetensors)
    assert theirs.keys() == ours.keys()
    for name, array in theirs.items():
        assert array.dtype == ours[name].dtype
        np.testing.assert_array_equal(array, ours[name])
        assert ours[name].flags.writeable
    rng = np.random.default_rng(0)
    odd: dict[str, np.ndarray] = {
        "scalar": np.array(3.5, np.float32),
        "empty": np.zeros((0, 4), np.float16),
        "half": rng.normal(size=(3, 1, 2)).astype(np.float16),
        "whole": np.arange(5),
        "flags": np.array([True, False]),
        "double": np.array([1e300]),
    }
    save_file(odd, tmp_path / "odd.safetensors", metadata={"made": "here"})
    back = read_safetensors(tmp_path / "odd.safetensors")
    assert back.keys() == odd.keys()
    for name, array in odd.items():
        assert back[name].dtype == array.dtype
        assert back[name].shape == array.shape
        np.testing.assert_array_equal(back[name], array)


def test_torch_runs_without_the_safetensors_package(made: Model, broken: Callable[[str], None]) -> None:
    expected = TorchEngine(load_card(made.card), device="cpu").run(make_batch())
    broken("safetensors.numpy")
    np.testing.assert_array_equal(TorchEngine(load_card(made.card), device="cpu").run(make_batch()), expected)


def safetensors_bytes(header: Any, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1234567",
        struct.pack("<Q", 1 << 60) + b"{}",
        safetensors_bytes(b"not json", b""),
        safetensors_bytes([1], b""),
        safetensors_bytes({"a": 5}, b""),
        safetensors_bytes({"a": ENTRY | {"dtype": "F99"}}, b"12345678"),
        safetensors_bytes({"a": ENTRY | {"shape": [3]}}, b"12345678"),
        safetensors_bytes({"a": ENTRY | {"shape": [-2]}}, b"12345678"),
        safetensors_bytes({"a": ENTRY | {"shape": ["2"]}}, b"12345678"),
        safetensors_bytes({"a": ENTRY | {"data_offsets": [4, 12]}}, b"123456789012"),
        safetensors_bytes({"a": ENTRY | {"data_offsets": [8, 0]}}, b"12345678"),
        safetensors_bytes({"a": ENTRY}, b"1234"),
        safetensors_bytes({"a": ENTRY}, b"12345678more"),
        safetensors_bytes({"a": ENTRY, "b": ENTRY}, b"12345678"),
    ],
)
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"."):
        read_safetensors(path)
    assert code_of(lambda: load_safetensors(path)) == "weights_damaged"
