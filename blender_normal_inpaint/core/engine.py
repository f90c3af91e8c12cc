"""What the core asks of a network and of whatever runs it: types only, no network library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .modelcard import ModelCard

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Pixels = NDArray[Any]

#: Called with a fraction in 0..1 and a short text.
Progress = Callable[[float, str], None]

#: Polled often; True stops the job with `Cancelled`.
Cancel = Callable[[], bool]


def no_progress(fraction: float, text: str) -> None:
    """A `Progress` that shows nothing."""


def never_cancel() -> bool:
    """A `Cancel` that never does."""
    return False


@dataclass(frozen=True)
class Crop:
    """One piece of a map with its hole and the context around it.

    `normals` is float32 (h, w, 3), unit vectors in the internal frame (x right, y up, z out, top row
    first) at known texels and finite anywhere else. `hole` and `valid` are bool (h, w): `hole` is what
    to fill, `valid` is False where there is no surface. Known texels are `valid & ~hole`.
    """

    normals: FloatArray
    hole: BoolArray
    valid: BoolArray
    space: str = "tangent"
    seed: int = 0
    detail: bool = True


class Engine(Protocol):
    """A loaded network, and nothing else."""

    @property
    def name(self) -> str:
        """Which library runs it: "onnx" or "torch"."""

    @property
    def device(self) -> str:
        """Where it runs, for people: "CPU", "CUDA: NVIDIA H100"."""

    @property
    def card(self) -> ModelCard:
        """The card of the loaded weights."""

    def run(self, batch: FloatArray) -> FloatArray:
        """Predict normals: float32 (N, 8, H, W) to float32 (N, 3, H, W), unit along axis 1.

        H and W are multiples of `card.size_multiple`.
        """


class Filler(Protocol):
    """Fills the hole of one crop, in this process or in another."""

    def fill(self, crop: Crop, *, progress: Progress, cancel: Cancel) -> FloatArray:
        """The crop's normals, float32 (h, w, 3), unit; only the texels in the hole matter.

        Raises:
            InpaintError: Whatever went wrong, `Cancelled` among it.
        """
