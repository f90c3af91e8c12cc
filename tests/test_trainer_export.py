"""What export writes: the weights once, a graph that refers to them, and nothing unless they agree."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the trainer needs PyTorch")
from torch import nn  # noqa: E402

onnx = pytest.importorskip("onnx", reason="the trainer needs it")
onnxruntime = pytest.importorskip("onnxruntime", reason="the trainer needs it")
pytest.importorskip("safetensors", reason="the trainer needs it")

from safetensors.numpy import load_file, save_file  # noqa: E402

from blender_normal_inpaint.core.modelcard import load_card, verify  # noqa: E402
from blender_normal_inpaint.nets import build_generator  # noqa: E402
from trainer import checkpoint  # noqa: E402
from trainer.export import HALF, SMALL, ExportFailed, export, export_onnx, halve, share  # noqa: E402

GENERATOR = {"kind": "face", "widths": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "heads": 2}
INLINE, EXTERNAL = onnx.TensorProto.DEFAULT, onnx.TensorProto.EXTERNAL


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with random weights, as far as export reads it."""
    folder = tmp_path_factory.mktemp("run")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        average = build_generator(GENERATOR).state_dict()
    state = {"format": 1, "average": average, "step": 1, "revision": "none"}
    checkpoint.save(folder / "last.pt", state | {"config": json.dumps({"generator": GENERATOR})})
    return folder


def _answer(path: Path, side: int = 64) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    crops = np.random.default_rng(1).uniform(-1, 1, (1, 11, side, side)).astype(np.float32)
    return session.run(None, {"crops": crops})[0]


def test_the_graph_refers_to_the_weights_beside_it(run_folder: Path, tmp_path: Path) -> None:
    export(run_folder, tmp_path, name="tiny", working_size=64)
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.json", "tiny.onnx", "tiny.safetensors"}
    card = load_card(tmp_path / "tiny.json")
    assert card.files["onnx"].needs == ("safetensors",) and card.files["safetensors"].needs == ()
    path, data = verify(card, "onnx"), verify(card, "safetensors").read_bytes()
    weights = load_file(tmp_path / "tiny.safetensors")
    large = 0
    for tensor in onnx.load(str(path), load_external_data=False).graph.initializer:
        values = weights.get(tensor.name.removesuffix(HALF))
        if np.prod(tensor.dims) < SMALL or values is None:
            assert tensor.data_location == INLINE, tensor.name
            continue
        large += values.size
        assert tensor.data_location == EXTERNAL and not tensor.raw_data, tensor.name
        where = {entry.key: entry.value for entry in tensor.external_data}
        begin, length = int(where["offset"]), int(where["length"])
        assert where["location"] == "tiny.safetensors"
        assert data[begin : begin + length] == values.tobytes()
    assert large > 0.9 * sum(values.size for values in weights.values())
    # The same network as one that holds its weights itself.
    whole = tmp_path / "alone" / "whole.onnx"
    whole.parent.mkdir()
    onnx.save(onnx.load(str(path)), str(whole))
    assert whole.stat().st_size > path.stat().st_size + 1.9 * large
    np.testing.assert_array_equal(_answer(path), _answer(whole))


def test_only_what_both_files_hold_alike_is_shared(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        names = ("same", "other", "shaped", "single", "absent")
        net = nn.Sequential()
        for name in names:
            net.add_module(name, nn.Conv2d(11, 11, 3, padding=1))
    net.eval().half().float()
    path = tmp_path / "net.onnx"
    export_onnx(net, path)
    halve(path)
    before = _answer(path)
    tensors = {name: value.half().numpy() for name, value in net.state_dict().items()}
    tensors["other.weight"] = tensors["other.weight"].copy()
    tensors["other.weight"][0, 0, 0, 0] += 1
    tensors["shaped.weight"] = tensors["shaped.weight"].reshape(11, -1)
    tensors["single.weight"] = tensors["single.weight"].astype(np.float32)
    del tensors["absent.weight"]
    save_file(tensors, tmp_path / "net.safetensors")
    assert share(path, tmp_path / "net.safetensors")
    model = onnx.load(str(path), load_external_data=False)
    shared = {tensor.name for tensor in model.graph.initializer if tensor.data_location == EXTERNAL}
    assert shared == {f"same.weight{HALF}"}
    np.testing.assert_array_equal(_answer(path), before)


def test_a_graph_that_shares_nothing_stands_alone(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    export_onnx(nn.Conv2d(11, 11, 3).eval(), path)
    halve(path)
    save_file({"elsewhere": np.zeros(9, np.float16)}, tmp_path / "net.safetensors")
    assert not share(path, tmp_path / "net.safetensors")
    (tmp_path / "net.safetensors").unlink()
    assert _answer(path).shape == (1, 11, 62, 62)


def test_what_disagrees_leaves_nothing_behind(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportFailed, match="nothing was exported"):
        export(run_folder, tmp_path / "new", agree=0.0)
    assert list((tmp_path / "new").iterdir()) == []
    # Nor does it touch what was there.
    export(run_folder, tmp_path / "old", name="tiny", working_size=64)
    before = {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()}
    with pytest.raises(ExportFailed):
        export(run_folder, tmp_path / "old", name="tiny", version="2", working_size=64, agree=0.0)
    assert {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()} == before
