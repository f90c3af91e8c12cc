"""Export: safetensors and ONNX of the same network, a parity check, and the model card."""

from __future__ import annotations

import json
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

from . import checkpoint
from .config import start_path
from .start import starting_weights

OPSET = 17
PARITY = 1e-3
#: Values fewer than these are not worth a cast.
SMALL = 256
#: Batch, height and width at which both files must agree.
PARITY_SHAPES = ((2, 128, 128), (1, 256, 192))


class ExportFailed(RuntimeError):  # noqa: N818  # it is what happened, and reads so
    """The files written would not be the network that was trained."""


def export_onnx(generator: nn.Module, path: Path) -> None:
    """Write a generator as ONNX whose batch, height and width are free."""
    example = torch.zeros(2, len(INPUT_CHANNELS), 64, 96)
    part = path.with_suffix(".part")
    axes = {0: "n", 2: "h", 3: "w"}
    with warnings.catch_warnings():
        # The tracing exporter announces its successor, which needs a further dependency.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            generator,
            (example,),
            str(part),
            input_names=["crops"],
            output_names=["normals"],
            dynamic_axes={"crops": axes, "normals": axes},
            opset_version=OPSET,
            dynamo=False,
        )
    part.replace(path)


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
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


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
    """Export a run's averaged weights, rounded to half precision, which is how both files store them.

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
        ExportFailed: PyTorch and ONNX Runtime disagree; nothing is left in the folder.
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
    onnx_path, tensors_path = folder / f"{name}.onnx", folder / f"{name}.safetensors"
    fresh = onnx_path.with_name(f".{name}.new.onnx")
    try:
        export_onnx(generator, fresh)
        halve(fresh)
        worst = parity(generator, fresh, np.random.default_rng(0))
        if not worst < agree:
            raise ExportFailed(
                f"PyTorch and ONNX Runtime differ by {worst:.2g}, more than {agree:g}; nothing was exported"
            )
        fresh.replace(onnx_path)
    finally:
        fresh.unlink(missing_ok=True)
    part = tensors_path.with_suffix(".part")
    # Written here, not by the library, which makes files that only their owner can read.
    tensors = generator.state_dict().items()
    part.write_bytes(save({k: v.half().contiguous() if v.is_floating_point() else v for k, v in tensors}))
    part.replace(tensors_path)
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
            kind: WeightFile(path.name, sha256_of(path), path.stat().st_size)
            for kind, path in (("onnx", onnx_path), ("safetensors", tensors_path))
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
    card_path = folder / f"{name}.json"
    card_part = card_path.with_suffix(".part")
    card_part.write_text(json.dumps(card.to_dict(), indent=1) + "\n", encoding="utf-8")
    card_part.replace(card_path)
    return card
