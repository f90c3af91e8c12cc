"""The two ways to run the network: ONNX Runtime, and PyTorch where a GPU makes it worth it.

Neither library is imported before an engine is made. Both run the same weights and agree within
`AGREE`; an accelerator or a shorter number format is used only where a probe at load time has shown
that it keeps to that.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import re
import struct
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..core.engine import Engine, FloatArray
from ..core.errors import InpaintError
from ..core.fill import prepare_batch
from ..core.guess import first_guess
from ..core.modelcard import INPUT_CHANNELS, ModelCard, default_card_path, load_card, verify

if TYPE_CHECKING:
    import torch
    from torch import nn

#: The largest difference, in any component of a unit normal, between two engines or devices. It is what
#: makes a repair the same wherever it runs; 1e-3 is a twentieth of a degree, a quarter of an 8-bit step.
AGREE = 1e-3

_CHANNELS = len(INPUT_CHANNELS)


class LoadedEngine(Engine, Protocol):
    """An engine that may have something to tell the user after a run."""

    def take_notices(self) -> list[str]:
        """Sentences since the last call, such as that the GPU ran out of memory."""


def weights_kind(engine: Engine) -> str:
    """Which of the card's weight files an engine opens."""
    return "safetensors" if engine.name == "torch" else "onnx"


def create_engine(
    kind: str = "auto",
    *,
    device: str | None = None,
    card_path: Path | None = None,
    threads: int | None = None,
) -> tuple[LoadedEngine, list[str]]:
    """Load the network.

    Args:
        kind: "onnx", "torch", or "auto": PyTorch where it is installed and has an accelerator, else ONNX
            Runtime, else PyTorch on the CPU.
        device: None or "auto" for the best, "cpu", "gpu", "cuda" or "cuda:1" (NVIDIA and, under PyTorch,
            AMD), "mps", "xpu", "directml", "coreml".
        card_path: The model card, or a weight file with its card of the same name beside it; None for
            the bundled network.
        threads: CPU threads; None lets the library choose.

    Returns:
        The engine, and sentences for the user about what could not be had.

    Raises:
        InpaintError: `engine_unavailable`, `weights_missing`, `weights_damaged`, `out_of_memory`.
    """
    path = card_path or default_card_path()
    if path.suffix.lower() in (".onnx", ".safetensors"):
        path = path.with_suffix(".json")
    card = load_card(path)
    device = (device or "auto").strip().lower()
    if kind == "onnx":
        return _with_notices(OnnxEngine(card, device=device, threads=threads))
    if kind == "torch":
        return _with_notices(TorchEngine(card, device=device, threads=threads))
    if kind != "auto":
        raise InpaintError(
            "engine_unavailable", f'There is no engine "{kind}".', 'Choose "auto", "onnx" or "torch".'
        )
    return _create_best(card, device, threads)


def _with_notices(engine: LoadedEngine) -> tuple[LoadedEngine, list[str]]:
    return engine, engine.take_notices()


def _create_best(card: ModelCard, device: str, threads: int | None) -> tuple[LoadedEngine, list[str]]:
    notices: list[str] = []
    for_onnx_only = device in ("cpu", "directml", "dml", "coreml")
    if not for_onnx_only and _torch_may_accelerate():
        try:
            accelerator = device if device != "auto" else "gpu"
            engine, more = _with_notices(TorchEngine(card, device=accelerator, threads=threads))
            return engine, notices + more
        except InpaintError as error:
            if error.code != "engine_unavailable":
                notices.append(f"PyTorch is not used: {error.message}")
    try:
        engine, more = _with_notices(OnnxEngine(card, device=device, threads=threads))
        return engine, notices + more
    except InpaintError as error:
        if importlib.util.find_spec("torch") is None:
            raise
        try:
            engine, more = _with_notices(TorchEngine(card, device=device, threads=threads))
        except InpaintError as second:
            error.detail = f"{error.detail}\n\nPyTorch: {second.message}\n{second.detail}".strip()
            raise error from second
        return engine, [*notices, f"ONNX Runtime is not used: {error.message}", *more]


def _torch_may_accelerate() -> bool:
    """Whether PyTorch is installed and built for an accelerator, without the seconds of importing it."""
    if "torch" in sys.modules:
        return True
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return False
    if sys.platform == "darwin":
        return True  # every build for Apple silicon has Metal
    try:
        text = (Path(next(iter(spec.submodule_search_locations))) / "version.py").read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return True  # look closer
    # Lines such as `cuda: Optional[str] = '12.8'` and `hip: Optional[str] = None`.
    built_for = re.findall(r"^(?:cuda|hip|xpu)\b[^=\n]*=\s*(\S+)", text, re.MULTILINE)
    return not built_for or any(value != "None" for value in built_for)


def _checked_batch(batch: FloatArray, card: ModelCard) -> FloatArray:
    batch = np.ascontiguousarray(batch, dtype=np.float32)
    if batch.ndim != 4 or batch.shape[1] != _CHANNELS or not batch.size:
        raise ValueError(f"a batch is (N, {_CHANNELS}, H, W), not {batch.shape}")
    if batch.shape[2] % card.size_multiple or batch.shape[3] % card.size_multiple:
        raise ValueError(f"{batch.shape[2:]} are not multiples of {card.size_multiple}")
    return batch


def _checked_normals(result: NDArray[Any], batch: FloatArray) -> FloatArray:
    wanted = (batch.shape[0], 3, *batch.shape[2:])
    if result.shape != wanted or result.dtype != np.float32:
        raise InpaintError(
            "bad_result", detail=f"the network returned {result.shape} of {result.dtype}, not {wanted}"
        )
    if not np.isfinite(result).all():
        raise InpaintError("bad_result", detail="the network returned numbers that are not finite")
    return result


def _probe_batch(card: ModelCard) -> FloatArray:
    """A small, smooth, deterministic input, (1, 11, S, S), to compare devices with."""
    side = -(-128 // card.size_multiple) * card.size_multiple
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j].astype(np.float32)
    normals = np.stack([0.6 * x + 0.1 * np.sin(9 * y), -0.6 * y + 0.1 * np.cos(7 * x), np.ones_like(x)], -1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    hole = (np.abs(x) < 0.4) & (np.abs(y) < 0.5)
    valid, space = np.ones_like(hole), card.spaces[0]
    guess, _ = first_guess(normals, hole, valid, space)
    batch = prepare_batch(normals, hole, valid, space, guess)
    return np.ascontiguousarray(batch[None], dtype=np.float32)


def _apart(one: FloatArray, other: FloatArray) -> float:
    """The largest difference of a component; infinite where either is not finite."""
    difference = float(np.abs(one - other).max())
    return difference if np.isfinite(difference) else float("inf")


def _reason(error: BaseException) -> str:
    """The first line of an exception, short enough for a notice."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


# ONNX Runtime -----------------------------------------------------------------------------------------

#: device -> (label, execution provider, its options). Which of them exist depends on the wheel.
_PROVIDERS: dict[str, tuple[str, str, dict[str, str]]] = {
    "directml": ("DirectML", "DmlExecutionProvider", {}),
    "coreml": ("CoreML", "CoreMLExecutionProvider", {"ModelFormat": "MLProgram"}),
    "cuda": ("CUDA", "CUDAExecutionProvider", {}),
}


def choose_provider(device: str, offered: list[str], system: str) -> str | None:
    """The key of `_PROVIDERS` to try before the CPU, or None for the CPU alone.

    Args:
        device: What was asked for, in lower case; "auto" tries what is native to the system.
        offered: The execution providers of the installed wheel.
        system: `sys.platform`.

    Raises:
        InpaintError: `engine_unavailable` if `device` names nothing that ONNX Runtime could run on.
    """
    native = {"win32": ["directml"], "darwin": ["coreml"]}.get(system, [])
    if device == "cpu":
        return None
    if device == "auto":
        wanted = native
    elif device == "gpu":
        wanted = [*native, "cuda"]
    else:
        name = {"dml": "directml"}.get(device, device.split(":")[0])
        if name not in _PROVIDERS:
            raise InpaintError(
                "engine_unavailable",
                f'ONNX Runtime does not know the device "{device}".',
                'Choose "auto", "cpu", "directml", "coreml" or "cuda"; "mps" and "xpu" need PyTorch.',
            )
        wanted = [name]
    return next((name for name in wanted if _PROVIDERS[name][1] in offered), None)


class OnnxEngine:
    """The network on ONNX Runtime: the default, on the CPU or on the system's own accelerator."""

    name = "onnx"

    def __init__(self, card: ModelCard, *, device: str = "auto", threads: int | None = None) -> None:
        self.card = card
        self.device = "CPU"
        self._threads = threads
        self._notices: list[str] = []
        weights = verify(card, "onnx")
        try:
            self._ort: Any = importlib.import_module("onnxruntime")
        except Exception as error:  # a wheel for another system fails in many ways
            raise InpaintError(
                "engine_unavailable",
                f"ONNX Runtime cannot be imported: {_reason(error)}.",
                "Reinstall the extension, or choose a Python with PyTorch in the preferences.",
                traceback.format_exc(),
            ) from error
        with contextlib.suppress(Exception):
            self._ort.disable_telemetry_events()
        self._weights = str(weights)
        chosen = choose_provider(device, list(self._ort.get_available_providers()), sys.platform)
        self._session: Any = self._open(None)
        self._input = self._session.get_inputs()[0].name
        if chosen is not None:
            self._accelerate(chosen)
        elif device not in ("auto", "cpu"):
            self._notices.append(
                f'ONNX Runtime here has no support for the device "{device}"; the CPU is used.'
            )

    def _open(self, chosen: str | None) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self._threads or 0
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads that spin between operators would take the cores from Blender's own.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers: list[Any] = ["CPUExecutionProvider"]
        if chosen is not None:
            _, provider, settings = _PROVIDERS[chosen]
            providers.insert(0, (provider, settings))
            options.enable_mem_pattern = False  # DirectML asks for it
        try:
            session = self._ort.InferenceSession(self._weights, options, providers=providers)
        except Exception as error:
            if _is_out_of_memory(error):
                raise InpaintError("out_of_memory", detail=traceback.format_exc()) from error
            raise InpaintError(
                "engine_unavailable",
                f"ONNX Runtime {self._ort.__version__} cannot load the network: {_reason(error)}.",
                detail=traceback.format_exc(),
            ) from error
        return session

    def _accelerate(self, chosen: str) -> None:
        """Move to an accelerator if it starts and computes what the CPU computes."""
        label, provider, _ = _PROVIDERS[chosen]
        batch = _probe_batch(self.card)
        try:
            session = self._open(chosen)
            if session.get_providers()[0] != provider:
                raise RuntimeError("it did not start")
            apart = _apart(session.run(None, {self._input: batch})[0], self._run_session(batch))
            if apart > AGREE:
                raise RuntimeError(f"its result is {apart:.1g} away from the CPU's")
        except Exception as error:
            self._notices.append(f"{label} is not used but the CPU: {_reason(error)}.")
            return
        self._session = session
        self.device = label

    def _run_session(self, batch: FloatArray) -> NDArray[Any]:
        options = []
        if self.device == "CPU":
            # What layers needed in between is given back: 100 MB that a worker would keep while it waits.
            options = [self._ort.RunOptions()]
            options[0].add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        result: NDArray[Any] = self._session.run(None, {self._input: batch}, *options)[0]
        return result

    def run(self, batch: FloatArray) -> FloatArray:
        """Predict normals: float32 (N, 11, H, W) to float32 (N, 3, H, W), unit along axis 1.

        Raises:
            InpaintError: `out_of_memory`, `bad_result`.
        """
        batch = _checked_batch(batch, self.card)
        try:
            result = self._run_session(batch)
        except Exception as error:
            if self.device == "CPU":
                if _is_out_of_memory(error):
                    raise InpaintError("out_of_memory", detail=traceback.format_exc()) from error
                raise
            self._notices.append(f"{self.device} failed, so the CPU was used: {_reason(error)}.")
            self._session, self.device = self._open(None), "CPU"
            return self.run(batch)
        return _checked_normals(result, batch)

    def take_notices(self) -> list[str]:
        """Sentences since the last call."""
        taken, self._notices = self._notices, []
        return taken


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether a library's exception means that memory ran out; they have no type for it in common."""
    if isinstance(error, MemoryError):
        return True
    text = f"{type(error).__name__} {error}".lower()
    signs = ("outofmemory", "out of memory", "bad_alloc", "bad allocation", "failed to allocate memory")
    return any(sign in text for sign in signs)


# PyTorch ----------------------------------------------------------------------------------------------


class TorchEngine:
    """The network on PyTorch: CUDA and ROCm, Metal, XPU, or the CPU."""

    name = "torch"

    def __init__(self, card: ModelCard, *, device: str = "auto", threads: int | None = None) -> None:
        self.card = card
        self.half = False
        self._notices: list[str] = []
        weights = verify(card, "safetensors")
        try:
            self._torch: Any = importlib.import_module("torch")
        except Exception as error:
            raise InpaintError(
                "engine_unavailable",
                f"PyTorch cannot be imported: {_reason(error)}.",
                "Choose a Python with PyTorch in the preferences, or ONNX Runtime as the engine.",
                traceback.format_exc(),
            ) from error
        if threads:
            self._torch.set_num_threads(threads)
        self._place = self._torch.device("cpu")
        self.device = "CPU"
        place, label = self._choose(device)
        self._model = self._load(weights)
        if place.type != "cpu":
            self._accelerate(place, label)

    def _choose(self, device: str) -> tuple[torch.device, str]:
        torch = self._torch
        kind = {"rocm": "cuda", "hip": "cuda"}.get(device.split(":")[0], device.split(":")[0])
        if kind not in ("auto", "gpu", "cpu", "cuda", "xpu", "mps"):
            raise InpaintError(
                "engine_unavailable",
                f'PyTorch does not know the device "{device}".',
                'Choose "auto", "cpu", "cuda", "mps" or "xpu"; "directml" and "coreml" need ONNX Runtime.',
            )
        index = device.partition(":")[2] or "0"
        if not index.isdigit():
            raise InpaintError("engine_unavailable", f'"{device}" names no device.', 'Write "cuda:1".')
        if kind in ("auto", "gpu", "cuda") and torch.cuda.is_available():
            if int(index) >= torch.cuda.device_count():
                raise InpaintError(
                    "engine_unavailable",
                    f'There is no device "{device}": PyTorch sees {torch.cuda.device_count()}.',
                    'Choose "auto" or a lower number.',
                )
            maker = "ROCm" if torch.version.hip else "CUDA"
            name = torch.cuda.get_device_name(int(index))
            return torch.device("cuda", int(index)), f"{maker}: {name}"
        if kind in ("auto", "gpu", "xpu") and hasattr(torch, "xpu") and torch.xpu.is_available():
            return torch.device("xpu"), f"XPU: {torch.xpu.get_device_name(0)}"
        if kind in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
            return torch.device("mps"), "Metal"
        if kind in ("auto", "cpu"):
            return torch.device("cpu"), "CPU"
        raise InpaintError(
            "engine_unavailable",
            f'PyTorch {torch.__version__} has no device "{device}" here.',
            'Choose "auto" or "cpu", or a Python whose PyTorch supports that device.',
        )

    def _load(self, weights: Path) -> nn.Module:
        torch = self._torch
        from ..nets import build_generator  # imports torch

        tensors = load_safetensors(weights)
        try:
            model = build_generator(dict(self.card.generator))
            model.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})
        except (RuntimeError, ValueError, TypeError, KeyError) as error:
            raise InpaintError(
                "weights_damaged",
                "The network's weights do not fit the network that its card describes.",
                detail=traceback.format_exc(),
            ) from error
        model.eval().requires_grad_(False)
        # Channels last is what the CPU's and the GPUs' convolutions are fastest in.
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model

    def _accelerate(self, place: torch.device, label: str) -> None:
        """Move to an accelerator, in half precision if a probe shows that it is as good."""
        batch = _probe_batch(self.card)
        expected = self._infer(batch)
        try:
            self._move(place)
            for half in (True, False) if place.type == "cuda" else (False,):
                self.half = half
                apart = _apart(self._infer(batch), expected)
                if apart <= AGREE:
                    self.device = label
                    return
            raise RuntimeError(f"its result is {apart:.1g} away from the CPU's")
        except Exception as error:
            self._to_cpu(f"{label} is not used but the CPU: {_reason(error)}.")

    def _move(self, place: torch.device) -> None:
        self._model.to(place)
        self._place = place

    def _to_cpu(self, notice: str) -> None:
        old, self.half = self._place, False
        self._move(self._torch.device("cpu"))
        self.device = "CPU"
        self._notices.append(notice)
        with contextlib.suppress(Exception):
            getattr(self._torch, old.type).empty_cache()

    @contextlib.contextmanager
    def _precision(self) -> Iterator[None]:
        """Half precision where it was found safe; else true float32, without TensorFloat's 10 bits."""
        torch = self._torch
        with torch.inference_mode(), contextlib.ExitStack() as stack:
            if self.half:
                stack.enter_context(torch.autocast(self._place.type, dtype=torch.float16))
            elif self._place.type == "cuda":
                stack.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
            yield

    def _infer(self, batch: FloatArray) -> FloatArray:
        torch = self._torch
        with self._precision():
            tensor = torch.from_numpy(batch).to(self._place).to(memory_format=torch.channels_last)
            result = self._model(tensor).float()
            if self.half:
                result = torch.nn.functional.normalize(result, dim=1)
            array: FloatArray = result.cpu().contiguous().numpy()
        return array

    def run(self, batch: FloatArray) -> FloatArray:
        """Predict normals: float32 (N, 11, H, W) to float32 (N, 3, H, W), unit along axis 1.

        Raises:
            InpaintError: `out_of_memory`, `bad_result`.
        """
        batch = _checked_batch(batch, self.card)
        try:
            result = self._infer(batch)
            if self.half and not np.isfinite(result).all():
                self.half = False  # some activation left the range of half precision
                result = self._infer(batch)
        except Exception as error:
            full = _is_out_of_memory(error)
            if self._place.type == "cpu":
                if full:
                    raise InpaintError("out_of_memory", detail=traceback.format_exc()) from error
                raise
            why = "ran out of memory" if full else f"failed ({_reason(error)})"
            label = self.device
            error.__traceback__ = None  # its frames hold the tensors that filled the device
            self._to_cpu(f"{label} {why}, so the CPU was used.")
            return self.run(batch)
        return _checked_normals(result, batch)

    def take_notices(self) -> list[str]:
        """Sentences since the last call."""
        taken, self._notices = self._notices, []
        return taken


# safetensors ------------------------------------------------------------------------------------------

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "|u1", "BOOL": "|b1"}
_MAX_HEADER = 100_000_000  # the limit of the format's own library


def load_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a safetensors file, by the format's own package or, without it, by `read_safetensors`.

    Raises:
        InpaintError: `weights_damaged` if the file is not one.
    """
    read: Callable[[Path], dict[str, NDArray[Any]]]
    try:
        read = importlib.import_module("safetensors.numpy").load_file
    except Exception:  # the Python is the user's: it may lack the package or hold a broken one
        read = read_safetensors
    try:
        return read(path)
    except Exception as error:
        raise InpaintError(
            "weights_damaged",
            f"The weights file {path.name} cannot be read: {_reason(error)}.",
            detail=traceback.format_exc(),
        ) from error


def read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """Read a safetensors file with nothing but numpy.

    Args:
        path: The file.

    Returns:
        The tensors by their names.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not such a file.
    """
    data = path.read_bytes()
    whole = memoryview(data)
    return {
        # A copy, so that the array is writable and does not keep the whole file alive.
        name: np.frombuffer(whole[place.begin : place.end], place.dtype).reshape(place.shape).copy()
        for name, place in safetensors_places(data).items()
    }


@dataclass(frozen=True)
class TensorPlace:
    """What a safetensors file says of a tensor: its dtype, its shape, and which bytes of the file it is."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


def safetensors_places(data: bytes) -> dict[str, TensorPlace]:
    """Where each tensor lies in the bytes of a safetensors file.

    The format: eight bytes, little-endian, with the length of a JSON header; the header, which gives each
    tensor's dtype, shape and place; and the tensors' bytes without gaps or overlaps
    (https://github.com/huggingface/safetensors#format).

    Args:
        data: The whole file.

    Returns:
        The tensors by their names.

    Raises:
        ValueError: It is not such a file.
    """
    if len(data) < 8:
        raise ValueError("it is too short")
    (length,) = struct.unpack_from("<Q", data)
    if length > min(_MAX_HEADER, len(data) - 8):
        raise ValueError("its header is longer than the file")
    header = json.loads(data[8 : 8 + length].decode("utf-8"))
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    header.pop("__metadata__", None)
    body = 8 + length
    places: dict[str, TensorPlace] = {}
    for name, entry in header.items():
        try:
            dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
            begin, end = entry["data_offsets"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the entry of {name} is not understood") from error
        if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
            raise ValueError(f"the entry of {name} holds no whole numbers")
        count = 1
        for side in shape:
            count *= side
        if end - begin != count * dtype.itemsize or body + end > len(data):
            raise ValueError(f"the bytes of {name} do not fit its shape")
        places[name] = TensorPlace(dtype, shape, body + begin, body + end)
    at = body
    for begin, end in sorted((place.begin, place.end) for place in places.values()):
        if begin != at:
            raise ValueError("its tensors overlap or leave gaps")
        at = end
    if at != len(data):
        raise ValueError("it holds bytes that belong to no tensor")
    return places
