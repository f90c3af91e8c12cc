"""Which way a head looks, told by what is known of its normal map: a small network of its own.

A few convolutions on a map of 64 texels, computed here: 0.9 million weights, a few milliseconds. The trainer
makes them (`python -m trainer pose`).
"""

from __future__ import annotations

import contextlib
import functools
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .engine import BoolArray, FloatArray
from .errors import InpaintError
from .normals import unit
from .resample import block_sum

#: Texels along each side of what the network sees, and its channels: normals where known, known, hole.
SIZE, CHANNELS = 64, 5

#: Steps of its convolutions, 3 x 3 each.
STRIDES = (2, 2, 2, 1, 2)

#: How much of a negative value an activation lets through.
LEAK = 0.1

#: Logarithms of the least and the most it may say it is off, in radians.
DOUBT = (-6.0, 2.0)


@dataclass(frozen=True)
class Pose:
    """Which way a head looks.

    Attributes:
        across: float32 (3,), unit, the direction from the head's one side to its other in camera space, x to
            the right: normal to its plane of symmetry.
        doubt: about how far its turn to the side is off, in radians.
    """

    across: FloatArray
    doubt: float


def default_path() -> Path:
    """The weights that the package holds."""
    return Path(__file__).resolve().parent.parent / "models" / "head_pose.npz"


def pose(normals: FloatArray, known: BoolArray, valid: BoolArray) -> Pose:
    """Estimate which way a head looks.

    It is asked about the map and about its mirror image, and the mean is taken.

    Args:
        normals: float32 (h, w, 3), unit at known texels, in camera space.
        known: bool (h, w).
        valid: bool (h, w), where there is a surface.

    Raises:
        InpaintError: `weights_missing` or `weights_damaged`.
    """
    seen = picture(normals, known, valid)
    mirrored = seen[:, :, ::-1] * np.array([-1, 1, 1, 1, 1], np.float32)[:, None, None]
    answers = _run(_weights(default_path()), np.stack([seen, mirrored]))
    one, other = unit(answers[:, :3])
    other = other * np.array([-1, 1, 1], np.float32)
    across = one + other * np.sign(np.dot(one, other))
    across /= max(float(np.linalg.norm(across)), 1e-6)
    return Pose(across * np.float32(1 if across[0] >= 0 else -1), float(np.exp(answers[:, 3]).mean()))


def picture(normals: FloatArray, known: BoolArray, valid: BoolArray) -> FloatArray:
    """What the network sees of a map: its means over blocks, in the middle, float32 (5, 64, 64)."""
    block = -(-max(valid.shape) // SIZE)
    area = np.float32(block * block)
    plain = block_sum(known, block) > 0.5 * area
    hidden = (block_sum(valid, block) > 0.5 * area) & ~plain
    vectors = unit(block_sum(normals * known[..., None], block)) * plain[..., None]
    height, width = plain.shape
    top, left = (SIZE - height) // 2, (SIZE - width) // 2
    result = np.zeros((CHANNELS, SIZE, SIZE), np.float32)
    box = slice(top, top + height), slice(left, left + width)
    result[:3, *box] = np.moveaxis(vectors, -1, 0)
    result[3, *box], result[4, *box] = plain, hidden
    return result


@functools.lru_cache(maxsize=1)
def _weights(path: Path) -> tuple[tuple[FloatArray, FloatArray], ...]:
    """Weight and bias of each layer."""
    with arrays_of(path) as data:
        layers = [(data[f"weight{i}"], data[f"bias{i}"]) for i in range(len(STRIDES) + 2)]
    return tuple((weight.astype(np.float32), bias.astype(np.float32)) for weight, bias in layers)


@contextlib.contextmanager
def arrays_of(path: Path) -> Iterator[Mapping[str, NDArray[Any]]]:
    """The arrays of a bundled file, while it is open.

    Raises:
        InpaintError: `weights_missing`, or `weights_damaged` if the file or what is read of it is not as it
            should be.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            yield data
    except FileNotFoundError as error:
        raise InpaintError(
            "weights_missing", f"The weights file {path.name} is missing.", detail=str(path)
        ) from error
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InpaintError(
            "weights_damaged", f"The weights file {path.name} cannot be read.", detail=f"{path}: {error}"
        ) from error


def _run(weights: tuple[tuple[FloatArray, FloatArray], ...], batch: FloatArray) -> FloatArray:
    """The network's answer: float32 (n, 5, 64, 64) to (n, 4), a direction and the logarithm of its doubt."""
    values = batch
    for (weight, bias), stride in zip(weights, STRIDES, strict=False):
        values = _leaky(_convolved(values, weight, stride) + bias[:, None, None])
    flat = values.reshape(len(values), -1)
    (weight, bias), (last, offset) = weights[len(STRIDES) :]
    answers: FloatArray = _leaky(flat @ weight.T + bias) @ last.T + offset
    answers[:, 3] = np.clip(answers[:, 3], *DOUBT)
    return answers


def _leaky(values: FloatArray) -> FloatArray:
    result: FloatArray = np.maximum(values, np.float32(LEAK) * values)
    return result


def _convolved(values: FloatArray, weight: FloatArray, stride: int) -> FloatArray:
    """A convolution with a border of zeros: (n, c, h, w) and (d, c, 3, 3) to (n, d, h/stride, w/stride)."""
    padded = np.pad(values, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::stride, ::stride]
    result: FloatArray = np.tensordot(windows, weight, axes=((1, 4, 5), (1, 2, 3)))
    return np.ascontiguousarray(np.moveaxis(result, -1, 1))
