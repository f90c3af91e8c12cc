"""Export: a network's weights as safetensors, its graph as ONNX, a parity check, and the model card."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from safetensors.torch import save
from torch import nn

from blender_normal_inpaint.core.modelcard import (
    INPUT_CHANNELS,
    SPACES,
    ModelCard,
    WeightFile,
    load_card,
    sha256_of,
)
from blender_normal_inpaint.nets import build_generator
from blender_normal_inpaint.worker.engines import safetensors_places

from . import checkpoint
from .config import start_path
from .start import starting_weights

OPSET = 17
PARITY = 1e-3
#: Values fewer than these are not worth a cast.
SMALL = 256
#: What an ONNX file's weight in half precision is called: its name in the network, and this.
HALF = ".half"
#: Batch, height and width at which PyTorch and ONNX Runtime must agree.
PARITY_SHAPES = ((2, 128, 128), (1, 256, 192))


class ExportFailed(RuntimeError):  # noqa: N818  # it is what happened, and reads so
    """The files written would not be the network that was trained."""


def export_onnx(generator: nn.Module, path: Path) -> None:
    """Write a generator as ONNX whose batch, height and width are free."""
    example = torch.zeros(2, len(INPUT_CHANNELS), 64, 96)
    axes = {0: "n", 2: "h", 3: "w"}
    with warnings.catch_warnings():
        # The tracing exporter announces its successor, which needs a further dependency.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            generator,
            (example,),
            str(path),
            input_names=["crops"],
            output_names=["normals"],
            dynamic_axes={"crops": axes, "normals": axes},
            opset_version=OPSET,
            dynamo=False,
        )


def halve(path: Path) -> None:
    """Store an ONNX file's large weights in half precision, each with a cast back: half the size.

    The casts are folded when the file is loaded, so the network runs as before. Weights that half precision
    holds exactly keep their values.
    """
    model = onnx.load(str(path))
    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < SMALL:
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), name + HALF))
        casts.append(onnx.helper.make_node("Cast", [name + HALF], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def share(path: Path, tensors: Path) -> bool:
    """Take the weights that a safetensors file holds out of a halved ONNX file, which refers to it instead.

    ONNX calls it external data: the name of a file in its own folder, and which of its bytes a tensor is. A
    weight that the other file does not hold under the same name, with the same shape and values, stays.

    Args:
        path: The ONNX file, which is rewritten.
        tensors: The safetensors file, beside it.

    Returns:
        Whether it refers to the safetensors file now, and so cannot be used without it.

    Raises:
        ValueError: The other file is no safetensors file.
    """
    model = onnx.load(str(path))
    data = tensors.read_bytes()
    places = safetensors_places(data)
    shared = False
    for tensor in model.graph.initializer:
        place = places.get(tensor.name.removesuffix(HALF))
        if not tensor.name.endswith(HALF) or place is None:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        same = values.dtype == place.dtype and values.shape == place.shape
        if same and values.tobytes() == data[place.begin : place.end]:
            onnx.external_data_helper.set_external_data(
                tensor, tensors.name, offset=place.begin, length=place.end - place.begin
            )
            tensor.ClearField("raw_data")
            shared = True
    onnx.save(model, str(path))
    onnx.checker.check_model(str(path))
    return shared


def parity(generator: nn.Module, onnx_path: Path, rng: np.random.Generator) -> float:
    """Largest difference between the network in PyTorch and its ONNX file, over `PARITY_SHAPES`."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(onnx_path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for n, h, w in PARITY_SHAPES:
        crops = rng.uniform(-1, 1, (n, len(INPUT_CHANNELS), h, w)).astype(np.float32)
        with torch.no_grad():
            expected = generator(torch.from_numpy(crops)).numpy()
        answer = np.asarray(session.run(None, {"crops": crops})[0])
        worst = max(worst, float(np.abs(answer - expected).max()))
    return worst


def export(
    run: Path,
    folder: Path,
    *,
    name: str = "face_normal_inpaint",
    version: str = "1",
    working_size: int = 256,
    training_data: Sequence[Mapping[str, Any]] = (),
    figures: Mapping[str, Any] | None = None,
    licence: str = "GPL-3.0-or-later",
    spaces: Sequence[str] = SPACES,
    agree: float = PARITY,
    keep: float = 0.0,
) -> ModelCard:
    """Export a run's averaged weights, rounded to half precision, which is how they are stored.

    The safetensors file holds them; the ONNX file holds the graph and refers to it (`share`).

    Args:
        run: a run's folder, or one of its checkpoints.
        folder: where the card and both weight files go.
        name: of all three files.
        version: of these weights.
        working_size: side at which the network sees a crop.
        training_data: name, licence and making of each source.
        figures: what evaluation measured.
        licence: of the weights.
        spaces: the spaces it was trained on.
        agree: how far PyTorch and ONNX Runtime may be apart.
        keep: the share, from 0 to 1, of the weights that the run started from; the rest is its own. Between
            the two lies what is better than either, as long as they are near (M. Wortsman et al., "Robust
            fine-tuning of zero-shot models", 2022). Blocks that the start did not have are the run's own.

    Returns:
        The card that was written.

    Raises:
        ExportFailed: PyTorch and ONNX Runtime disagree; the folder is as it was.
        ValueError: the checkpoint is none, or the run started from nothing of which a share could be kept.
    """
    state = checkpoint.load(run / "last.pt" if run.is_dir() else run)
    config = json.loads(state["config"])
    generator = build_generator(config["generator"]).eval()
    average = state["average"]
    if keep:
        if not config.get("start"):
            raise ValueError("the run did not start from other weights, of which a share could be kept")
        start = starting_weights(load_card(start_path(config["start"])), average)
        average = average | {name: average[name].lerp(value, keep) for name, value in start.items()}
    generator.load_state_dict(average)
    generator.half().float()  # what the files hold, so that both are the same network
    folder.mkdir(parents=True, exist_ok=True)
    # Made under their final names, by which they refer to each other, where nobody sees them half done.
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}.") as making:
        tensors_path, onnx_path, card_path = paths = [
            Path(making) / f"{name}.{kind}" for kind in ("safetensors", "onnx", "json")
        ]
        # Written here, not by the library, which makes files that only their owner can read.
        tensors = generator.state_dict().items()
        tensors_path.write_bytes(
            save({k: v.half().contiguous() if v.is_floating_point() else v for k, v in tensors})
        )
        export_onnx(generator, onnx_path)
        halve(onnx_path)
        needs = ("safetensors",) if share(onnx_path, tensors_path) else ()
        worst = parity(generator, onnx_path, np.random.default_rng(0))
        if not worst < agree:
            raise ExportFailed(
                f"PyTorch and ONNX Runtime differ by {worst:.2g}, more than {agree:g}; nothing was exported"
            )
        card = ModelCard(
            name=name,
            version=version,
            created=datetime.now(UTC).date().isoformat(),
            spaces=tuple(spaces),
            input_channels=INPUT_CHANNELS,
            working_size=working_size,
            size_multiple=int(getattr(generator, "size_multiple", 16)),
            generator=config["generator"],
            files={
                "onnx": _weight_file(onnx_path, needs),
                "safetensors": _weight_file(tensors_path),
            },
            training_data=tuple(training_data),
            licence=licence,
            figures={**(figures or {}), "onnx_parity": worst, "steps": state["step"]},
            recipe=json.dumps(
                {
                    "revision": state["revision"],
                    "kept": keep,
                    **{k: v for k, v in config.items() if k not in ("data", "device")},
                }
            ),
        )
        card_path.write_text(json.dumps(card.to_dict(), indent=1) + "\n", encoding="utf-8")
        for path in paths:  # the card last: until then the one that was there calls new weights damaged
            path.replace(folder / path.name)
    return card


def _weight_file(path: Path, needs: tuple[str, ...] = ()) -> WeightFile:
    return WeightFile(path.name, sha256_of(path), path.stat().st_size, needs)
